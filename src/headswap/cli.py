"""The command line: a command for each stage, and those that a user types."""

import contextlib
import difflib
import functools
import gc
import importlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Argument, Option

from headswap.errors import UserError, bulleted, os_error_text, pluralize

if TYPE_CHECKING:
    from headswap.params import Params

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)
app.pretty_exceptions_enable = False
Model = Annotated[str, Argument(help="A name under `models` in params.yaml.")]
DryRun = Annotated[bool, Option("--dry-run", help="Only list them.")]
PREDICTED, PNG = "path,rank,class,probability", ".PNG.*Softwareheadswap"  # marks (`output_path`)
WHICH = "A cell, or a model folder; by default the best of the comparison. Then "


class _Lazy:
    """A package whose modules are imported when they are used: `--help` waits for none of them."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, name: str) -> Any:
        module = importlib.import_module(f"{self._name}.{name}")
        return _Lazy(module.__name__) if hasattr(module, "__path__") else module


headswap: Any = _Lazy("headswap")


def command(function: Callable[..., Any], is_stage: bool = False) -> Callable[..., Any]:
    """Register a command, where a `UserError` is a message on standard error and exit code 1.

    A stage fails if what DVC records for it is edited meanwhile; DVC is to record those it returns.
    """
    name = function.__name__

    @app.command()
    @functools.wraps(function)
    def guarded(**arguments: object) -> None:
        try:
            for option, value in arguments.items():
                if str(value).startswith("--"):
                    what = f"--{option} is without its value: {value} follows.\nWrite one between"
                    raise UserError(f"{what} them; headswap {name} --help says which.")
            if not is_stage:
                return function(**arguments)
            _print_changes()
            read = functools.partial(headswap.snapshot.dependencies, name)
            with headswap.snapshot.unchanged(read(), read):
                written = function(**arguments)
            if written:
                headswap.dvc.run("commit", "--force", *written)
        except BrokenPipeError:  # nobody reads any more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except (UserError, OSError) as error:
            from rich.console import Console  # on a terminal it breaks lines between words

            text = os_error_text(error) if isinstance(error, OSError) else error
            console = Console(stderr=True, markup=False, emoji=False, highlight=False)
            console.soft_wrap = not console.is_terminal
            console.print(f"headswap {name}: {text}")
            sys.exit(1)
        except KeyboardInterrupt:
            if is_stage or name == "runs":
                sys.exit("\nStopped. Finished runs and epochs are saved; continue with: dvc repro")
            hint = "; rows of --csv are kept; --explain takes a new folder" * (name == "predict")
            sys.exit(f"\nStopped. No row is half written. Run the same command again{hint}.")

    return function


stage = functools.partial(command, is_stage=True)


def _print_changes() -> None:
    """Print whether photographs lie in their folder and not in the manifest, or otherwise."""
    with contextlib.suppress(UserError):  # whoever needs the parameters and the manifest says it
        if note := headswap.data.changes.note_changes(headswap.params.load().dataset):
            print(note)


@app.callback(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
def options(version: Annotated[bool, Option("--version", help="Print it.")] = False) -> None:
    """Swap the head of a network, train it three ways, and find out which was better.

    `dvc repro` runs the stages in order; params.yaml describes them.
    """
    if version:
        print("headswap", importlib.import_module("importlib.metadata").version("headswap"))
        raise typer.Exit


@command
def check() -> None:
    """Check params.yaml, its networks and its photographs."""
    params = _load_current()
    if params.device != "auto":
        headswap.train.devices.resolve_device(params.device)
    headswap.params.check_round_trip()
    headswap.data.changes.check_dataset(params.dataset)
    if params.factories or set(params.models) - headswap.train.factories.torchvision_names():
        headswap.train.networks.check_models(params.models, params.factories)
    headswap.runs.workers.worker_count()
    runs = [len(params.runs(cell)) for cell in params.cells()]
    seeds, all_runs = pluralize(len(params.seeds), "seed"), pluralize(sum(runs), "run")
    folds = f" of {params.dataset.folds} folds" * bool(params.dataset.folds)
    print(f"params.yaml is correct: {pluralize(len(runs), 'cell')}, {seeds}{folds}, {all_runs}.")


@stage
def fetch() -> None:
    """Fetch, pack or draw the archive of images."""
    params = _load_current()
    source = headswap.data.verify.fetch_archive(params.dataset, shrink=params.shrinks)
    there = f"already holds the images of {params.dataset.manifest}; nothing to download."
    print(headswap.paths.ARCHIVE, f"is written, from {source}." if source else there)


@stage
def verify() -> None:
    """Compare the images with the manifest, and unpack them."""
    params = _load_current()
    images = headswap.data.verify.verify_images(params.dataset, shrink=params.shrinks)
    counts = headswap.data.manifest.count_images(images)
    headswap.io.write_json(headswap.paths.DATASET_METRICS, counts)
    apart = len(images) - counts["images"]
    tested = f", {apart} of these to test on, in {headswap.paths.TEST}" if apart else ""
    print(f"{len(images)} images are as the manifest says{tested}.")
    _print_issues({row.path: row.phash for row in headswap.images.index.read_index().rows})


@command
def manifest(
    folder: Annotated[str, Argument(help="With the classes, or train/ and val/, in it.")],
    val: Annotated[float | None, Option(min=0.001, max=1, help="Share to validate on.")] = None,
    test: Annotated[float | None, Option(min=0, max=1, help="Share for a final test.")] = None,
    seed: Annotated[int, Option(help="Of the split.")] = 0,
    labels: Annotated[str | None, Option(help="A CSV of labels, or a Camtrap DP.")] = None,
    image_column: Annotated[str | None, Option(help="Its column of paths.")] = None,
    label_column: Annotated[str | None, Option(help="Its column of labels.")] = None,
    group_column: Annotated[str | None, Option(help="Its column of groups.")] = None,
    split_column: Annotated[str | None, Option(help="Its column of splits.")] = None,
    group: Annotated[str | None, Option(metavar="folder|REGEX", help="Kept together.")] = None,
    group_minutes: Annotated[float | None, Option(min=0.01, help="Kept together: bursts.")] = None,
    layout: Annotated[Literal["classes", "splits"] | None, Option(help="What train/ is.")] = None,
    output: Annotated[str | None, Option(help="Default: data/FOLDER.csv.")] = None,
    use: Annotated[bool, Option("--use", help="Write both into params.yaml.")] = False,
    drop_duplicates: Annotated[
        bool, Option("--drop-duplicates", help="Leave out copies, also resized or saved anew.")
    ] = False,
) -> None:
    """List a folder of your own images in a manifest."""
    name = Path(folder).resolve().name
    reserved = name.lower() in ("", "manifest")  # data/manifest.csv lists the published photographs
    output = output or f"data/{'photos' if reserved else name}.csv"
    columns = headswap.data.labels.Columns(image_column, label_column, group_column, split_column)
    if sum(map(bool, (group, group_minutes, group_column))) > 1:
        ways = "--group, --group-minutes and --group-column are three ways.\nGive the one"
        raise UserError(f"{ways} with the largest groups, such as sites, and leave the others out.")
    if any(columns) and not labels:
        raise UserError("A column is named, but no table.\nAdd, for instance: --labels labels.csv")
    listing = headswap.data.listing.list_images(folder, layout, labels, columns)
    headswap.data.listing.set_groups(listing, group, group_minutes)
    images = headswap.data.writing.write_manifest(listing, output, val, seed, drop_duplicates, test)
    dataset = headswap.params.Dataset(url=folder, manifest=output, folds=0)
    given = {"labels": labels, **{f"{of}-column": name for of, name in columns._asdict().items()}}
    given |= {"group": group, "group-minutes": group_minutes, "layout": layout}
    headswap.data.changes.remember_command(dataset, given)
    headswap.data.listing.print_left_out(listing)
    print(f"{output} lists {len(images)} images.")
    headswap.data.writing.print_classes(images)
    print("".join(f"{note}\n" for note in listing.notes), end="")
    if any(kind.startswith("near-duplicates") for kind in _print_issues(listing.hashes)):
        again = headswap.data.changes.manifest_command(dataset)
        print(f"To leave near-duplicates out: {again} --drop-duplicates")
    if use:
        headswap.params.set_dataset(folder, output)
    with contextlib.suppress(UserError):  # the manifest is written, whatever is in params.yaml
        if note := headswap.data.changes.note_changes(dataset):  # so `check` has nothing to read
            print(note)
        if headswap.params.load().dataset == dataset:
            return print(f"params.yaml names {folder} and {output}. Next: dvc repro")
    print("To use them, run this again with --use, or write into params.yaml, under dataset:")
    print(headswap.params.dataset_lines(folder, output))


def _print_issues(hashes: Mapping[str, str]) -> list[str]:
    """Print what makes a comparison on images less reliable; return of which kinds it is."""
    issues = headswap.data.verify.find_quality_issues(hashes)
    for kind, lines in issues.items():
        print(f"A comparison on these images is less reliable because of {kind} ({len(lines)}):")
        print(bulleted(lines, limit=5))
    return list(issues)


@stage
def weights(
    model: Annotated[str, Argument(help="A name under `models`; else all of them.")] = "",
) -> list[str]:
    """Fetch the weights of a network, or of all, and verify them."""
    params = _load_current(model)
    changed = None if model else headswap.dvc.changed_stages("weights")
    written, failures = list[str](), list[str]()
    for name in [model] if model else params.models:
        if changed is None or f"weights@{name}" in changed:
            path = headswap.paths.WEIGHTS / f"{name}.safetensors"
            try:
                head = headswap.train.weights.write_weights(name, params, path)
                print(f"{path} is written; the head is {head}.")
                written.append(f"weights@{name}")
            except UserError as error:
                failures.append(str(error))
    if failures:
        raise UserError("\n".join(failures))
    if not written:
        print("All weights are up to date.")
    return written if changed else []


@stage
def embed(model: Model) -> None:
    """Compute the features that the linear probe is fitted to."""
    headswap.runs.features.write_features(model, _with_device(_load_current(model)))


@stage
def train(model: Model, mode: Annotated[str, Argument(help="A name under `modes`.")]) -> None:
    """Train a model in one mode, with every seed."""
    params = _load_current(model)
    (cell,) = headswap.runs.queue.chosen_cells(params, [f"{model}-{mode}"])
    params = _with_device(params)
    if summary := headswap.runs.status.pipeline_summary(params):
        print(f"The whole pipeline: {summary}")
    with headswap.progress.progress("epoch", params.epochs(cell)) as on_progress:
        headswap.runs.cells.train_cell(cell, params, on_progress)


@stage
def probe(model: Model) -> None:
    """Fit a linear probe to a model's features."""
    train(model, "probe")


@command
def runs(
    cells: Annotated[list[str] | None, Argument(help="Such as resnet18-frozen; else all.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Compute the features, and train the runs, that are missing."""
    params = _with_device(_load_current())
    headswap.data.changes.check_photographs(params.dataset)
    queue, features = headswap.runs.queue, headswap.runs.features
    changed, models = queue.changed_cells(queue.chosen_cells(params, cells or []))
    tasks, waiting = queue.queued_runs(changed, params)
    keys = [(model, params, features.feature_key(model, params)) for model in models]
    parts = [part for key in keys for part in features.feature_tasks(*key)]
    if dry_run:
        print(*[task.name for task in (*parts, *tasks)], *waiting, sep="\n")
    else:
        _run_queue("part", parts)
        _run_queue("epoch", tasks)
        _run_queue("epoch", queue.queued_runs(changed, params)[0] if waiting else [])
    count = len(tasks) + len(waiting)
    what = "to train. Next: headswap runs" if dry_run else "trained. Next: dvc repro"
    print(pluralize(count, "run"), what)


def _run_queue(unit: str, tasks: list[Any]) -> None:
    if tasks:
        steps = {task.name: task.steps for task in tasks}
        seconds = {task.name: task.seconds for task in tasks}
        with headswap.progress.progress(unit, steps, seconds) as on_progress:
            headswap.runs.cluster.run_parallel(tasks, on_progress)


@stage
def compare() -> None:
    """Put all cells into one table and its plots."""
    headswap.compare.outputs.write_comparison(_load_current())


@command
def choose(count: Annotated[int, Argument(min=1, metavar="N", help="How many networks.")]) -> None:
    """Write the N best networks into params.yaml, to be trained, too."""
    headswap.params.set_models(headswap.compare.outputs.best_models(headswap.params.load(), count))
    names = ", ".join(cell.name for cell in headswap.params.load().cells())
    print(f"params.yaml names {names}. Next: headswap runs, then dvc repro")


@command
def predict(
    arguments: Annotated[
        list[str] | None,
        Argument(metavar="[CELL] IMAGE...", help=f"{WHICH}images, folders of images, patterns."),
    ] = None,
    top: Annotated[int, Option(min=1, help="How many classes to give.")] = 1,
    csv: Annotated[Path | None, Option(help="Write path, rank, class, probability.")] = None,
    json: Annotated[Path | None, Option(help="The same as JSON.")] = None,
    seeds: Annotated[Literal["kept", "all"], Option(help="One run, or the mean of all.")] = "kept",
    explain: Annotated[Path | None, Option(help="A folder for pictures of the reasons.")] = None,
    unsure: Annotated[
        float, Option(min=0, max=1, metavar="SHARE", help="Answer `unsure` below this probability.")
    ] = 0.0,
    misclassified: Annotated[
        str | None, Option(metavar="CELL", help="Classify what most runs of all cells got wrong.")
    ] = None,
) -> None:
    """Classify photographs with what was trained."""
    folders = headswap.predict.folders
    cell, images = folders.split_arguments(arguments or [])
    if misclassified and arguments:
        raise UserError("--misclassified takes a cell and no images.\nLeave one of them out.")
    if not misclassified and not images:
        if cell:  # which may be mistyped, or photographs that are not there
            folders.find_folder(cell)
        example = f"headswap predict {f'{cell} ' if cell else ''}data/images/val"
        raise UserError(f"No image is given.\nName files, folders or patterns, such as: {example}")
    folder = folders.find_folder(named := misclassified or cell or folders.best_cell())
    if not (misclassified or cell):
        print(f"The best cell of the comparison is {named}.", file=sys.stderr)
    paths = folders.misclassified_images() if misclassified else folders.find_named_images(images)
    # No photograph begins as a table does, so only what has another name could be overwritten.
    read = [folder, *(path for path in paths if path.suffix.lower() not in folders.EXTENSIONS)]
    csv, json = outputs = _outputs(read, csv=(csv, PREDICTED), json=(json, r"\[(\{path:|\]$)"))
    (explain,) = _outputs([*read, *images, *filter(None, outputs)], explain=(explain, ""))
    if misclassified:
        print(f"The {len(paths)} images that most runs of all cells got wrong:", file=sys.stderr)
        if headswap.params.load().dataset.folds:
            print("This network was trained on them.", file=sys.stderr)
    to: dict[str, Any] = {"csv": csv, "json": json, "explain": explain, "unsure": unsure}
    headswap.predict.predict.classify(folder, paths, seeds=seeds, top=top, **to)


def _outputs(read: list[Any], **options: tuple[Path | None, str]) -> list[Path | None]:
    """Return where to write what options name, each a path and a mark: never over one another."""
    found = list[Path | None]()
    for name, (path, mark) in options.items():
        ending = {"explain": "", "picture": ".png"}.get(name, f".{name}")
        others = [*read, *filter(None, found)]
        found.append(path and headswap.io.output_path(path, f"--{name}", ending, others, mark))
    return found


@command
def evaluate(
    arguments: Annotated[
        list[str] | None,
        Argument(metavar="[CELL] [FOLDER]", help=f"{WHICH}a folder of classes, or the test set."),
    ] = None,
    csv: Annotated[Path | None, Option(help="Write each photograph's prediction.")] = None,
    json: Annotated[Path | None, Option(help="Write the figures.")] = None,
    picture: Annotated[Path | None, Option(help="Draw the confusion matrix, a PNG.")] = None,
) -> None:
    """Evaluate a network on photographs whose classes are known."""
    cell, named = headswap.predict.folders.split_arguments(arguments or [])
    if len(named) > 1:
        raise UserError(f"Name one folder, not {len(named)}: {', '.join(named)}.")
    folders, images = headswap.predict.folders, Path(named[0] if named else headswap.paths.TEST)
    source = folders.find_folder(cell or folders.best_cell())
    marked = {"csv": (csv, "image,label,group,predicted"), "json": (json, r"\{cell:[^,]*,images:")}
    csv, json, picture = _outputs([source, images], **marked, picture=(picture, PNG))
    print(f"{source.name} on {images}:")
    predictions, notes = headswap.predict.predict.classify_labelled(source, images)
    report = headswap.compare.evaluation.report
    report(predictions, source.name, csv=csv, json=json, picture=picture)
    print("".join(f"{note}\n" for note in notes), end="")


@command
def diff(
    before: Annotated[str, Argument(help="A branch, tag, commit or experiment.")],
    after: Annotated[str, Argument(help="Another; else the files as they are.")] = "workspace",
    csv: Annotated[Path | None, Option(help="Write the differences.")] = None,
    picture: Annotated[Path | None, Option(help="Draw them, a PNG.")] = None,
) -> None:
    """Compare two revisions or experiments, with error bars."""
    csv, picture = _outputs([], csv=(csv, "pair,seeds,images,before"), picture=(picture, PNG))
    headswap.compare.revisions.report(before, after, csv, picture)


@command
def export(
    cell: Annotated[str, Argument(help="A cell, or a model folder.")],
    folder: Annotated[Path, Argument(help="A new or an empty folder.")],
    onnx: Annotated[bool, Option("--onnx", help="Write model.onnx, too.")] = False,
) -> None:
    """Write a trained network for use without headswap."""
    source = headswap.predict.folders.find_folder(cell)
    folder = headswap.io.output_path(folder, "FOLDER", inputs=[source])
    record = headswap.predict.export.export(source, folder, onnx)
    checked = f"{record['checked']} validation images headswap's probabilities, give or take"
    print(f"{folder} is written; {folder / 'README.md'} says how to use it. Its own code gives")
    print(f"{checked} {record['difference']}. One of them goes with it, {record['example']}:")
    print("take it out, and expected.json, if others may not see it.")


@command
def status() -> None:
    """Say how far all runs are, from any terminal, at any time."""
    console = headswap.progress.console
    for line in headswap.runs.status.status_lines(_with_device(headswap.params.load())):
        console.print(line, no_wrap=True, overflow="ellipsis" if console.is_terminal else None)
    _print_changes()


@command
def networks(pattern: Annotated[str, Argument(help="Part of a name, such as vit.")] = "") -> None:
    """List the networks that params.yaml can name, and their costs."""
    name = ""
    print("parameters    GMACs  input  weights  network")
    for name, *facts in headswap.train.complexity.list_networks(pattern):
        print("{:>10} {:>8} {:>6}  {:7}".format(*facts), name)
    if not name:
        raise UserError(f"No network has {pattern!r} in its name.\nAll: headswap networks")
    if not pattern:
        print("And those of timm: headswap networks PATTERN, such as headswap networks vit")
    print("Names with a colon go under factories in params.yaml, as in  mine: NAME")


@command
def report(output: Annotated[Path, Option(help="The file.")] = Path("report.html")) -> None:
    """Write the comparison as one HTML file that needs no network."""
    headswap.compare.page.write_page(output)
    print(f"{output} is written; open it in a browser.")


@command
def prune(dry_run: DryRun = False) -> None:
    """Remove the runs that params.yaml no longer describes from runs/."""
    root, folder_size = headswap.runs.store.runs_root(), headswap.io.folder_size
    total, freed = folder_size(root), 0
    for folder in headswap.runs.queue.unused_folders(_with_device(headswap.params.load())):
        with contextlib.ExitStack() as locks:
            for lock in (*folder.rglob("*.lock"), *folder.parent.glob(f"{folder.name}.lock")):
                locks.enter_context(headswap.runs.store.file_lock(lock))
            freed += (size := folder_size(folder))
            print(f"{folder}: {size / 1e6:.1f} MB")
            if not dry_run:
                shutil.rmtree(folder)
    are = f"under {root}/ {'would be' if dry_run else 'are'} freed"
    print(f"{freed / 1e6:.1f} of {total / 1e6:.1f} MB {are}; DVC's cache keeps the results of all.")


def _load_current(model: str = "") -> "Params":
    """Load the parameters, and say which cells were made by other versions: DVC does not notice."""
    params = headswap.params.load()
    if model and model not in params.models:
        close = difflib.get_close_matches(model.lower(), params.models, 1)
        hint = f"\nDid you mean {close[0]}?" if close else ""
        known = ", ".join(params.models)
        raise UserError(f"{model} is not under models in params.yaml: {known}.{hint}")
    if outdated := headswap.compare.versions.outdated_cells(params.cells()):
        print("Other versions than the installed ones made:")
        print(bulleted([f"{', '.join(cells)}: {what}" for what, cells in outdated.items()], 100))
        print("To make them again: dvc repro --force")
    return params


def _with_device(params: "Params") -> "Params":
    """Return parameters whose device is one that this machine has."""
    device = headswap.train.devices.resolve_device(params.device)
    return params.model_copy(update={"device": device})


def stop_with_parent() -> None:
    """End the command of a stage, and so its workers, when DVC has ended or was killed."""
    if "DVC_STAGE" not in os.environ:  # DVC sets it
        return
    import psutil

    child = psutil.Process()  # of DVC: this process or, where its shell does not exec, the shell
    parent = child.parent()
    with contextlib.suppress(psutil.Error):  # DVC may be another user's; or end just now
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
    if hasattr(sys.stdout, "reconfigure"):  # a terminal may not have all characters
        sys.stdout.reconfigure(errors="replace")
    try:
        app(prog_name="headswap")
    finally:
        gc.freeze()  # speed: Python does not search torch's objects for garbage when it exits
