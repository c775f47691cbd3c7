"""The command line: a command for each stage, and what a person types besides."""

import functools
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from headswap.errors import UserError, bulleted
from headswap.train import workers

app = typer.Typer(
    help="Swap the head of a pretrained network, train it three ways, and find out which was "
    "better. `dvc repro` runs the stages in order; params.yaml says what they do.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Model = Annotated[str, typer.Argument(help="A name under `models` in params.yaml.")]


def command(function):
    """Register a stage; a `UserError` becomes a message on standard error and exit code 1."""

    @app.command()
    @functools.wraps(function)
    def guarded(*args, **kwargs):
        try:
            function(*args, **kwargs)
        except UserError as error:
            sys.exit(f"headswap {function.__name__}: {error}")
        except OSError as error:
            sys.exit(f"headswap {function.__name__}: {error.filename}: {error.strerror}")
        except KeyboardInterrupt:
            sys.exit("\nStopped. What was finished is kept; go on with: dvc repro")

    return guarded


@command
def check():
    """Check params.yaml: keys, values, networks and factories."""
    params = _params()
    from headswap.data import dataset
    from headswap.train import backbones as networks
    from headswap.train import loop as training

    dataset.check(params.dataset)
    networks.check(params.models, params.factories)
    training.pick(params.device)
    seeds = "1 seed" if len(params.seeds) == 1 else f"{len(params.seeds)} seeds"
    print(f"params.yaml is right: {len(params.cells())} cells, {seeds} each.")


@command
def fetch():
    """Bring the archive of images here, from the mirror, the address, or by drawing them."""
    params = _params()
    from headswap.data import dataset

    print(f"{dataset.ARCHIVE} is here, from {dataset.fetch(params.dataset)}.")


@command
def verify():
    """Unpack the images and hold every one against the manifest."""
    params = _params()
    from headswap.data import dataset

    images = dataset.verify(params.dataset)
    dataset.record(dataset.counts(images))
    print(f"{len(images)} images are as the manifest says.")
    _remark(dataset.remarks(images))


@command
def manifest(
    folder: Annotated[str, typer.Argument(help="With train/<class>/ and val/<class>/ in it.")],
    output: Annotated[str | None, typer.Option(help="Default: data/FOLDER.csv.")] = None,
):
    """Write the manifest of a folder of images of your own."""
    from headswap.data import dataset
    from headswap.images import folders as layout

    output = output or f"data/{Path(folder).resolve().name}.csv"
    images = dataset.write_manifest(folder, output)
    print(f"{output} lists {len(images)} images.")
    _remark(dataset.remarks(images))
    if others := layout.ignored_files(folder):
        print("Left out, being no <split>/<class>/<image> of a kind that is read:")
        print(bulleted(others))
    print(f"In params.yaml: dataset.url: {folder}, dataset.manifest: {output}")


def _remark(remarks):
    if remarks:
        print("A comparison on them suffers from")
        print(bulleted(remarks))


@command
def weights(model: Model):
    """Fetch a network's weights, check them, and find its head."""
    params = _with_model(model)
    from headswap.paths import WEIGHTS
    from headswap.train import pretrained as weights

    path = WEIGHTS / f"{model}.safetensors"
    weights.write_weights(model, params, path)
    print(f"{path} is written.")


@command
def embed(model: Model):
    """Compute the features that the linear probe learns from."""
    params = _with_model(model)
    workers.warm_up("headswap.train.features")
    from headswap import progress as display
    from headswap.train import features as embedding

    with display.progress(params.embed.views + 2, "view") as on_progress:
        embedding.write_features(model, params, on_progress)


@command
def train(model: Model, mode: Annotated[str, typer.Argument(help="A name under `modes`.")]):
    """Train a model in one mode, with every seed."""
    params = _with_model(model)
    if mode not in params.modes:
        raise UserError(f"{mode} is not under modes in params.yaml: {', '.join(params.modes)}.")
    _train(model, mode, params)


@command
def probe(model: Model):
    """Train a linear probe on a model's features, with every seed."""
    _train(model, "probe", _with_model(model))


def _train(model, mode, params):
    workers.warm_up("headswap.train.run")
    from headswap import progress as display
    from headswap.params import Cell
    from headswap.train import cell as cells

    cell = Cell(model, mode)
    with display.progress(params.recipe(cell).epochs, "epoch") as on_progress:
        cells.train_cell(cell, params, on_progress)


@command
def compare():
    """Put all cells into one table and its plots."""
    params = _params()
    from headswap.compare.comparison import write_comparison

    write_comparison(params)


@command
def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
):
    """Remove the runs that params.yaml no longer describes from runs/."""
    params = _params()
    from headswap.io import folder_size
    from headswap.train import run as runs

    kept, gone = folder_size(runs.RUNS), 0
    for folder in runs.unused(params):
        with workers.only_one(folder.with_name("lock")):
            gone += folder_size(folder)
            print(f"{folder}: {folder_size(folder) / 1e6:.1f} MB")
            if not dry_run:
                shutil.rmtree(folder)
    print(
        f"{gone / 1e6:.1f} of {kept / 1e6:.1f} MB under {runs.RUNS}/ "
        f"{'would be' if dry_run else 'are'} freed; DVC's cache keeps the results of all."
    )


def _params():
    from headswap.params import load

    return load()


def _with_model(model):
    params = _params()
    if model not in params.models:
        raise UserError(f"{model} is not under models in params.yaml: {', '.join(params.models)}.")
    return params


def main():
    """Run the command line."""
    workers.stop_with_parent()
    app()
