"""Still pictures of the comparison, as PNG."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .files import replacing

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")
"""Okabe and Ito's palette, told apart by colour-blind eyes; a cell has one in every picture."""


WRITE_UP = "the write-up's one run"


def colours(cells):
    """Return the colour of each cell."""
    return {cell: COLOURS[place % len(COLOURS)] for place, cell in enumerate(cells)}


def accuracy(cells, rows, path):
    """Draw each cell's replicates, their mean with its interval, and the write-up's value.

    Parameters
    ----------
    cells : list of str
        From top to bottom.
    rows : pandas.DataFrame
        From `compare.accuracies`.
    path : path-like
        The PNG to write.
    """
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.55 * len(cells)), layout="constrained")
    for place, cell in enumerate(cells):
        colour = colours(cells)[cell]
        of_cell = rows[rows["cell"] == cell].groupby("what")
        for what, group in of_cell:
            if what == "replicate":
                axes.scatter(group["accuracy"], _spread_out(place, group), 14, colour, alpha=0.6)
            elif what == "mean":
                mean, low, high = group.iloc[0][["accuracy", "low", "high"]]
                axes.plot([low, high], [place, place], color=colour, linewidth=2.5)
                axes.scatter(mean, place, 70, colour, marker="D", edgecolors="white", zorder=3)
            else:
                axes.scatter(
                    group["accuracy"], [place], 150, "black", marker="|", linewidths=2, zorder=4
                )
    for what, label, style in (
        ("replicate", "replicate", {"marker": "o", "color": "grey", "markersize": 4}),
        ("mean", "mean, 95 % interval", {"marker": "D", "color": "grey", "linestyle": "-"}),
        ("write-up", WRITE_UP, {"marker": "|", "color": "black", "markersize": 12}),
    ):
        if what in set(rows["what"]):
            axes.plot([], [], **({"linestyle": ""} | style), label=label)
    axes.set_yticks(range(len(cells)), cells)
    axes.set_ylim(len(cells) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("accuracy on the validation images, best epoch")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    _save(figure, path)


def _spread_out(place, group):
    count = len(group)
    return [place + 0.22 + 0.12 * (number / max(1, count - 1) - 0.5) for number in range(count)]


def curves(cells, rows, published, path):
    """Draw loss and accuracy by epoch: each replicate thin, their mean thick.

    Parameters
    ----------
    cells : list of str
        From left to right.
    rows : pandas.DataFrame
        ``cell``, ``seed``, ``epoch``, ``split``, ``loss``, ``accuracy``.
    published : pandas.DataFrame
        The write-up's curves, the same without ``seed``.
    path : path-like
        The PNG to write.
    """
    figure, axes = plt.subplots(
        2, len(cells), figsize=(2.6 * len(cells) + 0.8, 5.6), sharex=True, sharey="row",
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for column, cell in enumerate(cells):
        of_cell, theirs = rows[rows["cell"] == cell], published[published["cell"] == cell]
        axes[0, column].set_title(cell, fontsize=10)
        for line, figure_name in enumerate(("accuracy", "loss")):
            for split, colour in (("train", "#999999"), ("val", colours(cells)[cell])):
                part = of_cell[of_cell["split"] == split]
                by_seed = part.pivot(index="epoch", columns="seed", values=figure_name)
                axes[line, column].plot(by_seed, color=colour, linewidth=0.7, alpha=0.5)
                axes[line, column].plot(by_seed.mean(axis=1), color=colour, linewidth=2.2)
            line_of_theirs = theirs[theirs["split"] == "val"]
            axes[line, column].plot(
                line_of_theirs["epoch"], line_of_theirs[figure_name], "k:", linewidth=1.2
            )
            axes[line, column].grid(alpha=0.3)
            axes[line, column].xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[1, column].set_xlabel("epoch")
    axes[0, 0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0, 0].set_ylabel("accuracy")
    axes[1, 0].set_ylabel("cross entropy")
    of_ours = colours(cells)[cells[0]]
    axes[0, 0].plot([], [], color="#999999", linewidth=2.2, label="training images (augmented)")
    axes[0, 0].plot([], [], color=of_ours, linewidth=2.2, label="validation images (in colour)")
    if set(cells) & set(published["cell"]):
        axes[0, 0].plot([], [], "k:", label=f"{WRITE_UP}, validation images")
    figure.legend(loc="outside lower center", ncols=min(3, 1 + len(cells)), frameon=False)
    _save(figure, path)


def confusion(cells, rows, path):
    """Draw each cell's confusion matrix: mean number of images over replicates.

    Parameters
    ----------
    cells : list of str
        From left to right.
    rows : pandas.DataFrame
        From `compare.confusions`.
    path : path-like
        The PNG to write.
    """
    figure, axes = plt.subplots(
        1, len(cells), figsize=(2.4 * len(cells) + 0.6, 3), sharey=True, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for axis, cell in zip(axes[0], cells, strict=True):
        of_cell = rows[rows["cell"] == cell]
        shares = of_cell.pivot(index="label", columns="predicted", values="share")
        counts = of_cell.pivot(index="label", columns="predicted", values="images")
        if len(shares):
            axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (y, x), share in _entries(shares):
            tone = "white" if share > 0.5 else "black"
            axis.text(x, y, f"{counts.iloc[y, x]:.1f}", ha="center", va="center", color=tone)
        axis.set_xticks(range(len(shares)), shares.columns)
        axis.set_yticks(range(len(shares)), shares.index)
        axis.set_title(cell, fontsize=10)
    axes[0, 0].set_ylabel("true class")
    figure.supxlabel("predicted class (images, mean over replicates, best epoch)", fontsize=10)
    _save(figure, path)


def _entries(table, most=12):
    """Yield places and values of a table that is small enough to be written out."""
    if len(table) <= most:
        for y in range(len(table)):
            for x in range(len(table)):
                yield (y, x), table.iloc[y, x]


def _save(figure, path):
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    plt.close(figure)
