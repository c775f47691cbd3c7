"""The command line: a command for each stage, and those that a user types."""

import contextlib
import difflib
import functools
import gc
import io
import os
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from headswap.errors import UserError, bulleted, os_error_text

if TYPE_CHECKING:
    from headswap.params import Cell, Params
    from headswap.runs.workers import Task

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Model = Annotated[str, typer.Argument(help="A name under `models` in params.yaml.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only list them.")]
NOT_RESUMABLE = (
    *("check", "choose", "evaluate", "export", "manifest", "networks", "predict"),
    *("prune", "report", "status"),
)
"""The commands that keep nothing to continue with when they are interrupted."""


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command; a `UserError` becomes a message on standard error and exit code 1."""

    @app.command()
    @functools.wraps(function)
    def guarded(*args: object, **kwargs: object) -> None:
        try:
            for name, value in kwargs.items():
                if str(value).startswith("--"):
                    raise UserError(
                        f"--{name} is without its value: {value} follows.\n"
                        f"Write one between them; headswap {function.__name__} --help says which."
                    )
            function(*args, **kwargs)
        except UserError as error:
            _fail(f"headswap {function.__name__}: {error}")
        except OSError as error:
            _fail(f"headswap {function.__name__}: {os_error_text(error)}")
        except KeyboardInterrupt:
            if function.__name__ in NOT_RESUMABLE:
                hint = "; it goes on after the rows of --csv, and --explain takes a new folder"
                hint *= function.__name__ == "predict"
                sys.exit(f"\nStopped. No row is half written. Run the same command again{hint}.")
            sys.exit("\nStopped. Finished runs and epochs are saved; continue with: dvc repro")

    return guarded


def stage(function: Callable[..., None]) -> Callable[..., None]:
    """Register the command of a stage: it fails if what DVC records for it is edited meanwhile."""

    @functools.wraps(function)
    def watched(*args: object, **kwargs: object) -> None:
        from headswap.snapshot import dependencies, unchanged

        _print_changes()
        read = functools.partial(dependencies, function.__name__)
        with unchanged(read(), read):
            function(*args, **kwargs)

    return command(watched)


def _print_changes() -> None:
    """Print whether photographs lie in their folder and not in the manifest, or otherwise."""
    from headswap.data.changes import note_changes

    with contextlib.suppress(UserError):  # whoever needs the parameters and the manifest says it
        if note := note_changes(_load().dataset):
            print(note)


def _fail(message: str) -> None:
    """Print a message on standard error, broken between words on a terminal; exit with code 1."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        lines = message.split("\n")
        message = "\n".join(textwrap.fill(line, width, break_long_words=False) for line in lines)
    sys.exit(message)


@app.callback(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Swap the head of a network, train it three ways, and find out which was better.

    `dvc repro` runs the stages in order; params.yaml describes them.
    """
    if version:
        from importlib import metadata

        print(f"headswap {metadata.version('headswap')}")
        raise typer.Exit


@command
def check() -> None:
    """Check params.yaml, its networks and its photographs."""
    params = _load_current()
    from headswap.data.changes import check_photographs
    from headswap.data.fetch import check_dataset
    from headswap.params import check_round_trip
    from headswap.runs.workers import worker_count
    from headswap.train.devices import resolve_device
    from headswap.train.networks import check_models

    check_round_trip()
    check_dataset(params.dataset)
    check_photographs(params.dataset)
    check_models(params.models, params.factories)
    resolve_device(params.device)
    worker_count()
    seeds = "1 seed" if len(params.seeds) == 1 else f"{len(params.seeds)} seeds"
    folds = f" of {params.dataset.folds} folds" * bool(params.dataset.folds)
    runs = sum(len(params.runs(cell)) for cell in params.cells())
    print(f"params.yaml is correct: {len(params.cells())} cells, {seeds}{folds}, {runs} runs.")


@stage
def fetch() -> None:
    """Fetch, pack or draw the archive of images."""
    params = _load_current()
    from headswap.data.fetch import fetch_archive
    from headswap.paths import ARCHIVE

    if source := fetch_archive(params.dataset, shrink=params.shrinks):
        print(f"{ARCHIVE} is written, from {source}.")
    else:
        manifest = params.dataset.manifest
        print(f"{ARCHIVE} already holds the images of {manifest}; nothing to download.")


@stage
def verify() -> None:
    """Compare the images with the manifest, and unpack them."""
    params = _load_current()
    from headswap.data.manifest import count_images
    from headswap.data.quality import find_quality_issues
    from headswap.data.verify import verify_images
    from headswap.images.index import read_index
    from headswap.io import write_json
    from headswap.paths import DATASET_METRICS, TEST

    images = verify_images(params.dataset, shrink=params.shrinks)
    write_json(DATASET_METRICS, counts := count_images(images))
    apart = len(images) - counts["images"]
    tested = f", {apart} of these to test on, in {TEST}" if apart else ""
    print(f"{len(images)} images are as the manifest says{tested}.")
    _print_issues(find_quality_issues({row.path: row.phash for row in read_index().rows}))


@command
def manifest(
    folder: Annotated[str, typer.Argument(help="With the classes, or train/ and val/, in it.")],
    val: Annotated[
        float | None, typer.Option(min=0, max=1, help="The share to validate on, if unsplit.")
    ] = None,
    test: Annotated[
        float | None, typer.Option(min=0, max=1, help="The share to keep for a final test.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split.")] = 0,
    labels: Annotated[str | None, typer.Option(help="A CSV of labels, or a Camtrap DP.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Its column of paths.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Its column of labels.")] = None,
    group_column: Annotated[str | None, typer.Option(help="Its column of groups.")] = None,
    split_column: Annotated[str | None, typer.Option(help="Its column of splits.")] = None,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="folder|REGEX",
            help="Photographs of one folder in a class, or with the same match, stay together.",
        ),
    ] = None,
    group_minutes: Annotated[
        float | None, typer.Option(help="Photographs taken so shortly after another do.")
    ] = None,
    layout: Annotated[
        Literal["classes", "splits"] | None,
        typer.Option(help="What folders such as train/ are, where they could be both."),
    ] = None,
    output: Annotated[str | None, typer.Option(help="Default: data/FOLDER.csv.")] = None,
    use: Annotated[bool, typer.Option("--use", help="Write both into params.yaml.")] = False,
    drop_duplicates: Annotated[
        bool,
        typer.Option("--drop-duplicates", help="Leave out copies, also resized or saved anew."),
    ] = False,
) -> None:
    """List a folder of your own images in a manifest."""
    from headswap.data.changes import manifest_command, remember_command
    from headswap.data.labels import Columns
    from headswap.data.listing import list_images, print_left_out, set_groups
    from headswap.data.quality import find_quality_issues, print_classes
    from headswap.data.writing import write_manifest
    from headswap.params import Dataset, dataset_lines, load, set_dataset

    output = output or _default_output(folder)
    columns = Columns(image_column, label_column, group_column, split_column)
    if any(columns) and not labels:
        raise UserError("A column is named, but no table.\nAdd, for instance: --labels labels.csv")
    listing = list_images(folder, layout, labels, columns)
    set_groups(listing, group, group_minutes)
    images = write_manifest(listing, output, val, seed, drop_duplicates, test)
    dataset = Dataset(url=folder, manifest=output, folds=0)
    remember_command(
        dataset,
        {
            "labels": labels,
            **{f"{name}-column": column for name, column in columns._asdict().items()},
            "group": group,
            "group-minutes": group_minutes,
            "layout": layout,
        },
    )
    print_left_out(listing)
    print(f"{output} lists {len(images)} images.")
    print_classes(images)
    for note in listing.notes:
        print(note)
    issues = find_quality_issues(listing.hashes)
    _print_issues(issues)
    if any(kind.startswith("near-duplicates") for kind in issues):
        print(f"To leave near-duplicates out: {manifest_command(dataset)} --drop-duplicates")
    if use:
        set_dataset(folder, output)
    with contextlib.suppress(UserError):  # the manifest is written, whatever is in params.yaml
        if load().dataset == dataset:
            return print(f"params.yaml names {folder} and {output}. Next: dvc repro")
    print("To use them, run this again with --use, or write into params.yaml, under dataset:")
    print(dataset_lines(folder, output))


def _default_output(folder: str) -> str:
    output = f"data/{Path(folder).resolve().name or 'photos'}.csv"
    if output == "data/manifest.csv":
        raise UserError(
            f"{output} is the manifest of the published photographs; it is not overwritten.\n"
            f"Name another file: headswap manifest {folder} --output data/photos.csv"
        )
    return output


def _print_issues(issues: dict[str, list[str]]) -> None:
    for kind, lines in issues.items():
        print(f"A comparison on these images is less reliable because of {kind} ({len(lines)}):")
        print(bulleted(lines, limit=5))


@stage
def weights(model: Model) -> None:
    """Fetch a network's weights and verify them."""
    params = _load_current(model)
    from headswap.paths import WEIGHTS
    from headswap.train.weights import write_weights

    path = WEIGHTS / f"{model}.safetensors"
    head = write_weights(model, params, path)
    print(f"{path} is written; the head is {head}.")


@stage
def embed(model: Model) -> None:
    """Compute the features that the linear probe is fitted to."""
    params = _with_device(_load_current(model))
    from headswap.runs.features import write_features

    write_features(model, params)


@stage
def train(model: Model, mode: Annotated[str, typer.Argument(help="A name under `modes`.")]) -> None:
    """Train a model in one mode, with every seed."""
    params = _load_current(model)
    from headswap.runs.queue import chosen_cells

    (cell,) = chosen_cells(params, [f"{model}-{mode}"])
    _train(cell, params)


@stage
def probe(model: Model) -> None:
    """Fit a linear probe to a model's features."""
    from headswap.params import Cell

    _train(Cell(model, "probe"), _load_current(model))


@command
def runs(
    cells: Annotated[
        list[str] | None, typer.Argument(help="Such as resnet18-frozen; default: all of them.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Compute missing features, and train the unfinished runs of all changed cells, in one queue.

    A cell is changed if DVC calls its stage changed; `dvc repro` then finds its runs finished.
    """
    params = _with_device(_load_current())
    from headswap.data.changes import check_photographs
    from headswap.runs.features import feature_key, feature_tasks
    from headswap.runs.queue import changed_cells, chosen_cells, queued_runs

    check_photographs(params.dataset)
    changed, models = changed_cells(chosen_cells(params, cells or []))
    tasks, waiting = queued_runs(changed, params)
    total = len(tasks) + len(waiting)
    features = [t for m in models for t in feature_tasks(m, params, feature_key(m, params))]
    if dry_run:
        print(*[task.name for task in (*features, *tasks)], *waiting, sep="\n")
        features = tasks = []
    _run_queue("part", features)
    while tasks:
        _run_queue("epoch", tasks)
        tasks = queued_runs(changed, params)[0] if waiting else []
        waiting = []
    count = "1 run" if total == 1 else f"{total} runs"
    print(count, "to train. Next: headswap runs" if dry_run else "trained. Next: dvc repro")


def _run_queue(unit: str, tasks: "list[Task]") -> None:
    from headswap.progress import progress
    from headswap.runs.cluster import run_parallel

    if tasks:
        seconds = {task.name: task.seconds for task in tasks}
        with progress(unit, {task.name: task.steps for task in tasks}, seconds) as on_progress:
            run_parallel(tasks, on_progress)


def _train(cell: "Cell", params: "Params") -> None:
    params = _with_device(params)
    from headswap.progress import progress
    from headswap.runs.cells import train_cell
    from headswap.runs.status import pipeline_summary

    if summary := pipeline_summary(params):
        print(f"The whole pipeline: {summary}")
    with progress("epoch", params.epochs(cell)) as on_progress:
        train_cell(cell, params, on_progress)


@stage
def compare() -> None:
    """Put all cells into one table and its plots."""
    from headswap.compare.outputs import write_comparison

    write_comparison(_load_current())


@command
def choose(
    count: Annotated[int, typer.Argument(min=1, metavar="N", help="How many networks.")],
) -> None:
    """Write the best N networks of the comparison into params.yaml, to be trained, too."""
    params = _load()
    from headswap.compare.outputs import best_models
    from headswap.params import load, set_models

    set_models(best_models(params, count))
    names = ", ".join(cell.name for cell in load().cells())
    print(f"params.yaml names {names}. Next: headswap runs, then dvc repro")


@command
def predict(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CELL] IMAGE...",
            help="A cell, or a model folder; by default the best of the comparison. Then images, "
            "folders of images, patterns.",
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many classes to give.")] = 1,
    csv: Annotated[Path | None, typer.Option(help="Write path, rank, class, probability.")] = None,
    json: Annotated[Path | None, typer.Option(help="The same as JSON.")] = None,
    seeds: Annotated[
        Literal["kept", "all"], typer.Option(help="The first run, or the mean of all.")
    ] = "kept",
    explain: Annotated[
        Path | None, typer.Option(help="A folder for pictures of what the decisions rest on.")
    ] = None,
    misclassified: Annotated[
        str | None,
        typer.Option(
            metavar="CELL", help="Classify the images that most runs of all cells got wrong."
        ),
    ] = None,
) -> None:
    """Classify photographs with what was trained."""
    from headswap.io import output_path
    from headswap.predict.files import find_named_images, misclassified_images, split_arguments
    from headswap.predict.folders import best_cell, find_folder

    cell, images = split_arguments(arguments or [])
    if misclassified and arguments:
        raise UserError("--misclassified takes a cell and no images.\nLeave one of them out.")
    named = misclassified or cell
    folder = find_folder(named) if named else None
    if not misclassified and not images:
        example = " ".join(["headswap predict", *([cell] if cell else []), "data/images/val"])
        raise UserError(f"No image is given.\nName files, folders or patterns, such as: {example}")
    if not folder:
        best = best_cell()
        print(f"The best cell of the comparison is {best}.", file=sys.stderr)
        folder = find_folder(best)
    paths = misclassified_images() if misclassified else find_named_images(images)
    # Of the photographs only one with such a name could be overwritten.
    read = [folder, *(path for path in paths if path.suffix.lower() in (".csv", ".json"))]
    csv, json = _output_files(read, csv=csv, json=json)
    if explain:
        explain = output_path(
            explain, "--explain", inputs=[*read, *images, *filter(None, (csv, json))]
        )
    if misclassified:
        print(f"The {len(paths)} images that most runs of all cells got wrong:", file=sys.stderr)
    from headswap.predict.predict import classify

    classify(folder, paths, seeds=seeds, top=top, csv=csv, json=json, explain=explain)


def _output_files(read: list[Path], **options: Path | None) -> list[Path | None]:
    """Return where to write what options name: over no file that is read, nor over each other."""
    from headswap.io import output_path

    files = list[Path | None]()
    for name, path in options.items():
        ending = ".png" if name == "picture" else f".{name}"
        others = [*read, *filter(None, files)]
        files.append(path and output_path(path, f"--{name}", ending, others))
    return files


@command
def evaluate(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CELL] [FOLDER]",
            help="A cell, or a model folder; by default the best of the comparison. Then a folder "
            "with a folder for each class; by default the test set of the manifest.",
        ),
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write each photograph's prediction.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the confusion matrix, a PNG.")] = None,
) -> None:
    """Evaluate a trained network on photographs whose classes are known, such as a test set."""
    from headswap.paths import TEST
    from headswap.predict.files import split_arguments
    from headswap.predict.folders import best_cell, find_folder

    cell, folders = split_arguments(arguments or [])
    if len(folders) > 1:
        raise UserError(f"Name one folder, not {len(folders)}: {', '.join(folders)}.")
    source, images = find_folder(cell or best_cell()), Path(folders[0] if folders else TEST)
    csv, json, picture = _output_files([source, images], csv=csv, json=json, picture=picture)
    from headswap.compare import evaluation
    from headswap.predict.labelled import classify_labelled

    print(f"{source.name} on {images}:")
    predictions, notes = classify_labelled(source, images)
    evaluation.report(predictions, source.name, csv=csv, json=json, picture=picture)
    for note in notes:
        print(note)


@command
def export(
    cell: Annotated[str, typer.Argument(help="A cell, or a model folder.")],
    folder: Annotated[Path, typer.Argument(help="A new or an empty folder.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Write model.onnx, too.")] = False,
) -> None:
    """Write a trained network for use without headswap."""
    from headswap.io import output_path
    from headswap.predict.folders import find_folder

    source = find_folder(cell)
    folder = output_path(folder, "FOLDER", inputs=[source])
    from headswap.predict.export import export as write_export

    record = write_export(source, folder, onnx)
    print(
        f"{folder} is written; {folder / 'README.md'} says how to use it. Its own code gives "
        f"{record['checked']} validation images headswap's probabilities, give or take "
        f"{record['difference']}. One of them goes with it, {record['example']}: take it out, and "
        "expected.json, if others may not see it."
    )


@command
def status() -> None:
    """Say how far all runs are, from any terminal, at any time."""
    params = _with_device(_load())
    from headswap.progress import console
    from headswap.runs.status import status_lines

    for line in status_lines(params):
        if console.is_terminal:
            console.print(line, no_wrap=True, overflow="ellipsis")
        else:
            print(line)
    _print_changes()


@command
def networks(
    pattern: Annotated[str, typer.Argument(help="A part of the name, such as vit.")] = "",
) -> None:
    """List the networks that params.yaml can name, with what they cost."""
    from headswap.train.catalogue import list_networks

    found = False
    print("parameters    GMACs  input  weights  network")
    for name, *facts in list_networks(pattern):
        found = True
        print("{:>10} {:>8} {:>6}  {:7}".format(*facts), name)
    if not pattern:
        print("And those of timm: headswap networks PATTERN, such as headswap networks vit")
    elif not found:
        raise UserError(f"No network has {pattern!r} in its name.\nAll: headswap networks")
    print("Names with a colon go under factories in params.yaml, as in  mine: NAME")


@command
def report(
    output: Annotated[Path, typer.Option(help="The file to write.")] = Path("report.html"),
) -> None:
    """Write the comparison as one HTML file that needs no network."""
    from headswap.compare.page import write_page

    write_page(output)
    print(f"{output} is written; open it in a browser.")


@command
def prune(dry_run: DryRun = False) -> None:
    """Remove the runs that params.yaml no longer describes from runs/."""
    params = _with_device(_load())
    from headswap.io import folder_size
    from headswap.runs.queue import unused_folders
    from headswap.runs.store import file_lock, runs_root

    total, freed = folder_size(runs_root()), 0
    for folder in unused_folders(params):
        with contextlib.ExitStack() as locks:
            for lock in folder.glob("*.lock"):
                locks.enter_context(file_lock(lock))
            freed += (size := folder_size(folder))
            print(f"{folder}: {size / 1e6:.1f} MB")
            if not dry_run:
                shutil.rmtree(folder)
    print(
        f"{freed / 1e6:.1f} of {total / 1e6:.1f} MB under {runs_root()}/ "
        f"{'would be' if dry_run else 'are'} freed; DVC's cache keeps the results of all."
    )


def _load() -> "Params":
    from headswap.params import load  # imported here: pydantic would slow `--help` down

    return load()


def _load_current(model: str = "") -> "Params":
    """Load the parameters, and say which cells were made by other versions: DVC does not notice."""
    params = _load()
    if model and model not in params.models:
        close = difflib.get_close_matches(model.lower(), params.models, 1)
        hint = f"\nDid you mean {close[0]}?" if close else ""
        known = ", ".join(params.models)
        raise UserError(f"{model} is not under models in params.yaml: {known}.{hint}")
    from headswap.compare.versions import outdated_cells

    if outdated := outdated_cells(params.cells()):
        print("Other versions than the installed ones made:")
        print(bulleted([f"{', '.join(cells)}: {what}" for what, cells in outdated.items()], 100))
        print("To make them again: dvc repro --force")
    return params


def _with_device(params: "Params") -> "Params":
    """Return parameters whose device is one that this machine has."""
    from headswap.train.devices import resolve_device

    return params.model_copy(update={"device": resolve_device(params.device)})


def stop_with_parent() -> None:
    """End the command of a stage, and so its workers, when DVC has ended or was killed."""
    if "DVC_STAGE" not in os.environ:  # DVC sets it
        return
    import psutil

    child = psutil.Process()  # of DVC: this process or, where its shell does not exec, the shell
    parent = child.parent()
    # DVC may be another user's; or end just now.
    with contextlib.suppress(psutil.Error):
        while parent and "DVC_STAGE" in parent.environ():
            child, parent = parent, parent.parent()

    def watch() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            while child.parent() == parent:
                time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Run the command line."""
    stop_with_parent()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may not have all characters
        sys.stdout.reconfigure(errors="replace")
    try:
        app(prog_name="headswap")
    finally:
        gc.freeze()  # speed: Python does not search torch's objects for garbage when it exits
