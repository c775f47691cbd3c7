"""Still pictures of the comparison, as PNG."""

import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.ticker import (
    EngFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
)
from PIL import Image, ImageOps

from headswap.errors import UserError
from headswap.io import atomic_write
from headswap.paths import IMAGES

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")
"""Okabe and Ito's palette, told apart by colour-blind eyes; a cell has one in every picture."""
MARKERS = "DosP^vX*"
"""Where colour alone tells cells apart, the ninth begins them anew with another of these."""
SHADES = ("#00224E", "#2A3F6D", "#575D6D", "#7D7C78", "#A59C74", "#D2C060", "#FEE838")
"""From dark to light, told apart by colour-blind eyes, and no cell's."""
ACROSS = 6
"""The most panels beside each other."""
MOST_DRAWN = 60
WRITE_UP = "the write-up's one run"
TRAINING = "#999999"


def colours(cells):
    """Return the colour of each cell."""
    return {cell: COLOURS[place % len(COLOURS)] for place, cell in enumerate(cells)}


def markers(cells):
    """Return the marker of each cell, another one for each round of the colours."""
    return {cell: MARKERS[place // len(COLOURS) % len(MARKERS)] for place, cell in enumerate(cells)}


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
    axes.set_yticks(range(len(cells)), map(_short, cells))
    axes.set_ylim(len(cells) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("accuracy on the validation images, best epoch")
    axes.grid(axis="x", alpha=0.3)
    _legend(figure)
    _save(figure, path)


def _spread_out(place, group):
    count = len(group)
    return [place + 0.22 + 0.12 * (number / max(1, count - 1) - 0.5) for number in range(count)]


def curves(cells, rows, path):
    """Draw loss and accuracy by epoch: the replicates' mean, and a band from least to most.

    Parameters
    ----------
    cells : list of str
        From left to right.
    rows : pandas.DataFrame
        From `compare.curves`.
    path : path-like
        The PNG to write.
    """
    down, across = _grid(cells)
    figure, axes = plt.subplots(
        2 * down, across, figsize=(2.6 * across + 0.8, 5.2 * down + 0.4), sharex=True,
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for axis in axes[-2:, len(cells) - across * (down - 1) :].flat:
        axis.axis("off")
    for place, cell in enumerate(cells):
        block, column = divmod(place, across)
        of_cell = rows[rows["cell"] == cell]
        ours, theirs = (of_cell[of_cell["what"] == what] for what in ("replicate", "write-up"))
        axes[2 * block, column].set_title(_short(cell), fontsize=10)
        for line, figure_name in enumerate(("accuracy", "loss")):
            axis = axes[2 * block + line, column]
            if place:
                axis.sharey(axes[line, 0])
            axis.label_outer()
            for split, colour in (("train", TRAINING), ("val", colours(cells)[cell])):
                by_epoch = ours[ours["split"] == split].groupby("epoch")[figure_name]
                low, mean, high = by_epoch.min(), by_epoch.mean(), by_epoch.max()
                axis.fill_between(mean.index, low, high, color=colour, alpha=0.25, linewidth=0)
                axis.plot(mean, color=colour, linewidth=2.2, marker="o" if len(mean) == 1 else "")
            published = theirs[theirs["split"] == "val"]
            axis.plot(published["epoch"], published[figure_name], "k:", linewidth=1.4)
            axis.grid(alpha=0.3)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for line in range(2 * down):
        axes[line, 0].set_ylabel("cross entropy" if line % 2 else "accuracy")
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    of_ours = colours(cells)[cells[0]]
    axes[0, 0].plot([], [], color=TRAINING, linewidth=2.2, label="training images (augmented)")
    axes[0, 0].plot([], [], color=of_ours, linewidth=2.2, label="validation images (in colour)")
    axes[0, 0].fill_between([], [], color="#cccccc", label="least to most of the replicates")
    if "write-up" in set(rows["what"]):
        axes[0, 0].plot([], [], "k:", label=f"{WRITE_UP}, validation images")
    _legend(figure, 4)
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
    figure, axes = _panels(cells, 2.6)
    for axis, cell in zip(axes.flat, cells, strict=False):
        of_cell = rows[rows["cell"] == cell]
        probabilities = of_cell.pivot(index="label", columns="predicted", values="share")
        counts = of_cell.pivot(index="label", columns="predicted", values="images")
        if len(probabilities):
            axis.imshow(probabilities, cmap="Blues", vmin=0, vmax=1)
        for (y, x), share in _entries(probabilities):
            tone = "white" if share > 0.5 else "black"
            axis.text(x, y, f"{counts.iloc[y, x]:.1f}", ha="center", va="center", color=tone)
        axis.set_xticks(range(len(probabilities)), probabilities.columns)
        axis.set_yticks(range(len(probabilities)), probabilities.index)
        axis.set_title(_short(cell), fontsize=10)
    for axis in axes[:, 0]:
        axis.set_ylabel("true class")
    figure.supxlabel("predicted class (images, mean over replicates, best epoch)", fontsize=10)
    _save(figure, path)


def differences(cells, rows, path):
    """Draw each pair's difference of accuracy with its interval, and zero.

    Parameters
    ----------
    cells : list of str
        Unused: a pair has no colour of its own.
    rows : pandas.DataFrame
        From `compare.differences`.
    path : path-like
        The PNG to write.
    """
    best = rows[rows["which"] == "best"].set_index("pair")["difference"]
    largest = set(best.abs().sort_values(ascending=False, kind="stable").index[:MOST_DRAWN])
    pairs = [pair for pair in best.index if pair in largest]
    rows = rows[rows["pair"].isin(largest)]
    figure, axis = plt.subplots(figsize=(8, 1.4 + 0.3 * len(pairs)), layout="constrained")
    for which, shift, face in (("best", -0.13, None), ("last", 0.13, "white")):
        for row in rows[rows["which"] == which].itertuples():
            place = pairs.index(row.pair) + shift
            tone = "#D55E00" if row.differ else "#666666"
            axis.plot([100 * row.low, 100 * row.high], [place, place], color=tone, linewidth=1.6)
            axis.plot(100 * row.difference, place, "o", color=tone, markersize=5, mfc=face or tone)
    for label, style in (
        ("best epoch", {"color": "#666666"}),
        ("last epoch", {"color": "#666666", "mfc": "white"}),
        ("can be told apart", {"color": "#D55E00"}),
    ):
        axis.plot([], [], "o-", label=label, markersize=5, **style)
    axis.axvline(0, color="black", linewidth=1)
    axis.set_yticks(range(len(pairs)), map(_short, pairs))
    axis.set_ylim(max(len(pairs), 1) - 0.5, -0.5)
    left_out = f"; the {len(pairs)} largest of {len(best)}" if len(pairs) < len(best) else ""
    axis.set_xlabel(
        f"first − second: difference of accuracies\nin points, with 95 % interval{left_out}"
    )
    axis.grid(axis="x", alpha=0.3)
    _legend(figure)
    _save(figure, path)


def time(cells, rows, path):
    """Draw accuracy against run time.

    Parameters
    ----------
    cells : list of str
        For the colours.
    rows : pandas.DataFrame
        From `compare.times`.
    path : path-like
        The PNG to write.
    """
    figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for row in rows.dropna(subset="accuracy").itertuples():
        colour = colours(cells)[row.cell]
        axis.errorbar(
            row.seconds, row.accuracy,
            xerr=[[row.seconds - row.fastest], [row.slowest - row.seconds]],
            yerr=[[row.accuracy - row.low], [row.high - row.accuracy]],
            fmt=markers(cells)[row.cell], color=colour, markersize=8, label=row.cell,
        )  # fmt: skip
    _logarithmic(axis.xaxis, rows["seconds"])
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_xlabel("seconds a run, fastest to slowest (a probe's with its share of the features)")
    axis.set_ylabel("accuracy, best epoch, 95 % interval")
    axis.grid(alpha=0.3)
    _legend(figure)
    _save(figure, path)


def costs(cells, rows, path):
    """Draw run time against each cost that might explain it.

    Parameters
    ----------
    cells : list of str
        For the colours.
    rows : pandas.DataFrame
        From `compare.costs`.
    path : path-like
        The PNG to write.
    """
    names = list(dict.fromkeys(rows["cost"]))
    figure, axes = plt.subplots(
        1, len(names), figsize=(2.5 * len(names) + 0.8, 3.4), sharey=True, layout="constrained"
    )
    for axis, name in zip(axes, names, strict=True):
        of_cost = rows[rows["cost"] == name]
        for row in of_cost.itertuples():
            label = row.cell if name == names[0] else None
            look = {"color": colours(cells)[row.cell], "marker": markers(cells)[row.cell]}
            axis.plot(row.amount, row.seconds, linestyle="", label=label, **look)
        correlation = of_cost["rank_correlation"].iloc[0]
        told = "" if correlation != correlation else f"\nrank correlation {correlation:.2f}"
        axis.set_title(f"{name.replace('_', ' ')}{told}", fontsize=10)
        _logarithmic(axis.xaxis, of_cost["amount"])
        axis.set_xlabel("1e9 an image" if name == "gmacs" else "number")
        axis.grid(alpha=0.3)
    _logarithmic(axes[0].yaxis, rows["seconds"])
    axes[0].set_ylabel("seconds a run")
    _legend(figure)
    _save(figure, path)


def phases(cells, rows, path):
    """Draw what the seconds of an epoch go into.

    Parameters
    ----------
    cells : list of str
        From top to bottom.
    rows : pandas.DataFrame
        From `compare.phases`.
    path : path-like
        The PNG to write.
    """
    figure, axis = plt.subplots(figsize=(8, 1.3 + 0.4 * len(cells)), layout="constrained")
    wide = rows.pivot(index="cell", columns="phase", values="seconds").reindex(cells).fillna(0)
    left = wide.sum(axis=1) * 0
    for phase, colour in zip(rows["phase"].unique(), SHADES, strict=False):
        axis.barh(range(len(cells)), wide[phase], left=left, color=colour, label=phase)
        left = left + wide[phase]
    axis.set_yticks(range(len(cells)), map(_short, cells))
    axis.invert_yaxis()
    axis.set_xlabel("seconds an epoch")
    axis.grid(axis="x", alpha=0.3)
    _legend(figure, 7)
    _save(figure, path)


def reliability(cells, rows, path):
    """Draw how often predictions were right against how sure they were.

    Parameters
    ----------
    cells : list of str
        From left to right.
    rows : pandas.DataFrame
        From `compare.calibration`.
    path : path-like
        The PNG to write.
    """
    figure, axes = _panels(cells, 2.7)
    for axis, cell in zip(axes.flat, cells, strict=False):
        of_cell = rows[rows["cell"] == cell]
        axis.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1)
        axis.grid(alpha=0.3)
        axis.set_title(f"{_short(cell)}\nno finished run", fontsize=10)
        if len(of_cell):
            confidence, right = of_cell["confidence"], of_cell["accuracy"]
            axis.plot(confidence, right, color=colours(cells)[cell])
            sizes = 150 * of_cell["predictions"] / of_cell["predictions"].sum()
            axis.scatter(confidence, right, 12 + sizes, colours(cells)[cell])
            error = of_cell["calibration_error"].iloc[0]
            told = f"calibration error {100 * error:.1f} points"
            axis.set_title(f"{_short(cell)}\n{told}", fontsize=10)
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_formatter(PercentFormatter(1, decimals=0))
    low = min(0.5, *rows["confidence"], 1.0) - 0.03
    axes[0, 0].set_xlim(low, 1.03)
    for axis in axes[:, 0]:
        axis.set_ylabel("share of them that are right")
    figure.supxlabel("probability of the predicted class (dot: number of predictions)", fontsize=10)
    _save(figure, path)


def thumbnails(rows, folder=IMAGES):
    """Return small pictures of validation images, upright.

    Parameters
    ----------
    rows : pandas.DataFrame
        From `compare.hardest`.
    folder : path-like
        Where the images are.

    Returns
    -------
    list of PIL.Image.Image

    Raises
    ------
    UserError
        If one is missing or damaged.
    """
    pictures = []
    for name in rows["image"]:
        path = Path(folder, "val", name)
        try:
            with Image.open(path) as image:
                pictures.append(ImageOps.exif_transpose(image).convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises
            raise UserError(
                f"{path} cannot be read: {error}.\nRestore the images with: dvc repro verify"
            ) from error
        pictures[-1].thumbnail((320, 320))
    return pictures


def gallery(rows, photographs, path):
    """Draw the validation images that most runs get wrong.

    Parameters
    ----------
    rows : pandas.DataFrame
        From `compare.hardest`.
    photographs : list of PIL.Image.Image
        From `thumbnails`, of the same images.
    path : path-like
        The PNG to write.
    """
    across = 4
    down = max(1, -(-len(rows) // across))
    figure, axes = plt.subplots(
        down, across, figsize=(2.1 * across, 2.3 * down), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    if rows.empty:
        axes[0, 0].text(0, 0.5, "No finished run got a validation image wrong.")
    for axis, row, photograph in zip(axes.flat, rows.itertuples(), photographs, strict=False):
        axis.imshow(photograph)
        axis.set_title(
            f"{Path(row.image).name[:28]}\n{row.label}: {row.wrong} of {row.runs} runs wrong\n"
            f"mean probability of {row.label} {row.probability:.2f}",
            fontsize=7,
        )
    _save(figure, path)


def _grid(cells):
    """Return how many panels, one a cell, stand below and beside each other."""
    return -(-len(cells) // ACROSS), min(ACROSS, len(cells))


def _panels(cells, height):
    """Return a figure and its axes, one a cell, that share both their scales."""
    down, across = _grid(cells)
    figure, axes = plt.subplots(
        down, across, figsize=(2.4 * across + 0.6, height * down + 0.4), sharex=True, sharey=True,
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for axis in axes.flat[len(cells) :]:
        axis.axis("off")
    return figure, axes


def _short(name):
    """Break a long name over lines."""
    return textwrap.fill(name, 60 if " − " in name else 30)


def _legend(figure, most=3):
    """Put the legend below, in as many columns as fit, if there is anything to name."""
    labels = [label for axis in figure.axes for label in axis.get_legend_handles_labels()[1]]
    if labels:
        fit = int(11 * figure.get_figwidth() / (6 + max(map(len, labels))))
        figure.legend(loc="outside lower center", ncols=max(1, min(most, fit)), frameon=False)


def _logarithmic(axis, values):
    """Make an axis logarithmic, in plain numbers: 1, 2, 5 of each decade if these are few."""
    if values.isna().all():
        return  # matplotlib finds no place for ticks
    getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
    few = values.max() < 100 * values.min()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axis.set_major_formatter(EngFormatter(sep=""))
    axis.set_minor_formatter(NullFormatter())


def _entries(table, most=12):
    """Yield places and values of a table that is small enough to be written out."""
    if len(table) <= most:
        for y in range(len(table)):
            for x in range(len(table)):
                yield (y, x), table.iloc[y, x]


def _save(figure, path):
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    plt.close(figure)
