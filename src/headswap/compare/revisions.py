"""Two revisions of the project, or experiments, compared cell by cell."""

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich.table import Table

from headswap.compare.intervals import estimate_difference
from headswap.compare.plots import draw_png
from headswap.compare.results import COLUMNS, design_of, path_of, pivot_correct, read_table
from headswap.compare.variance import replicate_prior
from headswap.errors import UserError
from headswap.io import atomic_write, without_apostrophe, write_csv
from headswap.paths import IMAGES, PREDICTIONS
from headswap.progress import console


class Revision(NamedTuple):
    """What a revision says of each photograph, by its content and its name below the split."""

    correct: dict[str, pd.DataFrame]  # of each cell; a row per seed, a column per photograph
    groups: dict[str, str]
    folds: int


def report(before: str, after: str, csv: Path | None = None, picture: Path | None = None) -> None:
    """Print how much more accurate each cell became, and write what is named."""
    old, new = read_revision(before), read_revision(after)
    for name, these, others in ((before, old, new), (after, new, old)):
        if only := these.correct.keys() - others.correct:
            console.print(f"Only in {name}: {', '.join(sorted(only))}")
    rows = differences(old, new)
    if rows.empty:
        text = f"{before} and {after} share no cell with a seed and two groups of photographs."
        raise UserError(f"{text}\nRevisions of the same photographs are listed by: dvc exp show")
    title = f"{after} minus {before}: accuracy"
    how = f"{title} at the last epoch, by photograph and seed"
    table = Table(title=how, box=None, padding=(0, 2, 0, 0), title_justify="left")
    for heading in ("cell", "before", "after", "points (95 %)", "seeds", "images", "verdict"):
        justify: Any = "left" if heading in ("cell", "verdict") else "right"
        table.add_column(heading, justify=justify, no_wrap=heading != "cell", overflow="fold")
    for row in rows.itertuples():
        points = (100 * value for value in (row.difference, row.low, row.high))
        figures = ("{:+.1f} ({:+.1f} to {:+.1f})".format(*points), str(row.seeds), str(row.images))
        says = "differs" if row.differ else "unclear" if row.verdict else "none"
        table.add_row(row.pair, f"{row.before:.1%}", f"{row.after:.1%}", *figures, says)
    console.print(table)
    for row in rows[rows["images_needed"] > 0].itertuples():
        console.print(f"{row.pair}: {row.images_needed:,.0f} images would distinguish as much.")
    if not rows["verdict"].all():
        console.print("No verdict from one seed: another may turn the difference round.")
    if csv:
        write_csv(csv, rows.columns, rows.itertuples(index=False))
    if picture:
        with atomic_write(picture) as temporary:
            titles = {"text": title, "subtitle": "With 95% intervals; black: distinguishable"}
            temporary.write_bytes(draw_png("differences", rows.assign(shown=True), **titles))


def read_revision(name: str) -> Revision:
    """Read the predictions of a revision or experiment, from Git, DVC's cache or its remote."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.scm import SCMError

    correct, folds = {}, 0
    try:
        files = DVCFileSystem(rev=None if name == "workspace" else name)  # as DVC calls it
        with files.open((IMAGES / "index.csv").as_posix()) as file:
            index = pd.read_csv(file, dtype=str, keep_default_na=False).set_index("path")
        index = index.rename(without_apostrophe)
        index["key"] = index["sha256"] + [path.partition("/")[2] for path in index.index]
        for path in sorted(files.glob(f"{PREDICTIONS.as_posix()}/*.csv")):
            with files.open(path) as file:
                table = read_table(Path(path), COLUMNS["predictions"], file)
            folds = 1 + table["fold"].max() if "fold" in table else 0
            table["correct"] = table["label"] == table["predicted"]
            of_cell = pivot_correct(table, "last")
            of_cell.columns = index["key"][[path_of(image, folds) for image in of_cell]]
            correct[Path(path).stem] = of_cell.loc[:, ~of_cell.columns.duplicated()]
    except SCMError as error:
        text = f"There is no revision or experiment {name}: {error}.\nGit's are listed by: "
        raise UserError(f"{text}git branch --all\nand experiments by: dvc exp list") from None
    except (DvcException, OSError, KeyError, ValueError) as error:  # or the index is damaged
        why = "none is committed" if isinstance(error, FileNotFoundError) else error
        text = f"The predictions of {name} are not here: {why}."
        remedy = "If DVC's remote has them: dvc pull --all-commits\nElse make and commit them: "
        remedy += "dvc repro; git add dvc.lock metrics plots; git commit"
        raise UserError(f"{text}\n{remedy}") from None
    return Revision(correct, dict(zip(index["key"], index["group"], strict=True)), folds)


def differences(old: Revision, new: Revision) -> pd.DataFrame:
    """Return the differences of the cells that both have, paired by photograph and seed.

    Columns are as in `plot_rows.differences`; ``before`` and ``after`` are of what both have.
    """
    cells = sorted(old.correct.keys() & new.correct)
    aligned = [(cell, old.correct[cell].align(new.correct[cell], join="inner")) for cell in cells]
    pairs, rows = {cell: pair for cell, pair in aligned if pair[0].size}, []
    for cell, (before, after) in pairs.items():
        design = design_of([new.groups[image] for image in after], max(old.folds, new.folds))
        if design.units(after.shape[1]) == 1:
            continue
        alike = [t for pair in pairs.values() for t in pair if t.shape[1] == after.shape[1]]
        prior = replicate_prior([table.to_numpy(float) for table in alike], design)
        estimate = estimate_difference(after.to_numpy(float) - before, prior, design)
        verdict = len(after) > 1 or (cell.endswith("-probe") and not design.folds)
        needed = None if estimate.sign or not verdict else estimate.images_needed
        counts = (*after.shape, before.to_numpy().mean(), after.to_numpy().mean())
        differ = verdict and bool(estimate.sign)
        rows.append((cell, *counts, *estimate[:3], verdict, differ, needed))
    columns = ["pair", "seeds", "images", "before", "after", "difference", "low", "high"]
    columns += ["verdict", "differ", "images_needed"]
    return pd.DataFrame(rows, columns=columns).astype({"images_needed": float}).round(6)
