"""The parameters: a typed schema of ``params.yaml``, and the cells that it describes."""

import contextlib
import difflib
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import StringIO
from os import PathLike
from pathlib import Path
from textwrap import indent
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from headswap.errors import UserError, bulleted
from headswap.io import write_text
from headswap.paths import SHIPPED_MANIFEST

FILE = "params.yaml"
GENERATED = "generated"
"""The ``dataset.url`` of the synthetic images."""


def _distinct(values: list[Any]) -> list[Any]:
    repeated = sorted({value for value in values if values.count(value) > 1}, key=str)
    if repeated:
        raise ValueError(f"lists {repeated[0]!r} more than once")
    return values


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


NAME = r"^[a-z0-9_]+$"
TARGET = r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.:]*$"
MODE = r"^(finetune|frozen)(-[a-z0-9_]+)?$"
FORMS = {
    NAME: "lower-case letters, digits and _",
    TARGET: "package.module:callable or timm:name",
    MODE: "finetune or frozen, with a recipe as finetune-<recipe>",
}
NUMBER, RATES = "[number]", "[rates]"
"""Tags of alternatives, in the places that pydantic names."""

Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, le=2**53 - 1)]  # which JSON, CSV and torch all hold exactly
Name = Annotated[str, Field(pattern=NAME)]
Target = Annotated[str, Field(pattern=TARGET)]


def _literal(text: str) -> str:
    if "${" in text or text == "???":
        raise ValueError(f"DVC would replace {text!r}; write out what it stands for")
    return text


Text = Annotated[str, Field(min_length=1), AfterValidator(_literal)]


def _at_least_two(folds: int) -> int:
    if folds == 1:
        raise ValueError("must be 2 or more, or 0 for the manifest's split")
    return folds


class Dataset(_Section):
    """Where the images come from, the manifest that they are compared with, and their use.

    ``folds`` is the number of parts of a cross-validation; 0: the manifest's split.
    """

    url: Text
    manifest: Text
    folds: Annotated[int, Field(ge=0), AfterValidator(_at_least_two)]


Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Rates = Annotated[list[Rate], Field(min_length=1), AfterValidator(_distinct), Tag(RATES)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Recipe(_Section):
    """How a network is trained; what has a default is as in the tutorial."""

    epochs: Positive
    batch_size: Positive
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[
        Annotated[Rate, Tag(NUMBER)] | Rates,
        Discriminator(lambda value: RATES if isinstance(value, list) else NUMBER),
    ]
    """A list is tuned, for each cell by itself, inside its training images."""
    momentum: Share
    """Of `sgd`; `adamw` has torch's betas."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    schedule: Literal["step", "cosine"] = "step"
    lr_step: Positive
    lr_gamma: Annotated[float, Field(gt=0, le=1)]
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    label_smoothing: Share = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    head: Literal["random", "probe"] = "random"
    flip: bool = True
    """Mirror half of the training images; left and right must not matter."""

    @field_validator("warmup_epochs")
    @classmethod
    def _leaves_epochs(cls, warmup_epochs: int, others: ValidationInfo) -> int:
        if warmup_epochs >= others.data.get("epochs", math.inf):
            raise ValueError("should be less than epochs")
        return warmup_epochs


REMOVED = {
    "probe": "a probe chooses its penalty itself now; remove probe: and the lines below it",
    "embed": "features are of center crops alone now; remove embed: and the lines below it",
}
"""What to do with sections that an older ``params.yaml`` has."""
ADDED = {
    "recipes": "recipes: {}",
    "dataset.folds": "folds: 0, under dataset",
    "image.shrink": "shrink: true, under image",
}
"""What to do with keys that an older ``params.yaml`` lacks."""

Auto = Annotated[Literal["auto"], Tag("[auto]")]
AutoOr = Discriminator(lambda value: "[auto]" if value == "auto" else NUMBER)


class Image(_Section):
    """Pixels: the sides of the network's input, and the shorter side before the crop.

    ``auto``: those that each network was made for. ``fit`` is what is done with what is not square.
    """

    size: Annotated[Annotated[int, Field(ge=8, le=2048), Tag(NUMBER)] | Auto, AutoOr]
    resize: Annotated[Annotated[int, Field(ge=8, le=4096), Tag(NUMBER)] | Auto, AutoOr]
    fit: Literal["crop", "squash", "pad"] = "crop"
    shrink: bool
    """Store large photographs reduced (`images.reading.STORED_SIDE`), not the published ones."""

    @model_validator(mode="after")
    def _crop_fits(self) -> "Image":
        if self.size == "auto" or self.resize == "auto":
            if self.size != self.resize:
                raise ValueError("size and resize must both be numbers, or both auto")
        elif self.resize < self.size:
            raise ValueError(f"resize ({self.resize}) must be at least size ({self.size})")
        return self


Mode = Literal["finetune", "frozen", "probe"]
ALL = -1
"""No fold is left out: all photographs are trained on."""


@dataclass(frozen=True)
class Cell:
    """A backbone, by its name under ``models`` in ``params.yaml``, and a way to train it."""

    model: str
    mode: Mode
    recipe: str = ""
    """Its name under ``recipes``; empty for ``train``."""
    lr: float | None = None
    """The learning rate of a recipe that lists several; None before it is chosen."""
    fold: int | None = None
    """The fold of a cross-validation that is left out, or `ALL`; None on the manifest's split."""
    held_out: int | None = None
    """The quarter of the training images that `lr` is tried on; None where it is used."""

    @property
    def listed_as(self) -> str:
        """Its entry under ``modes``, ``<mode>`` or ``<mode>-<recipe>``."""
        return f"{self.mode}-{self.recipe}" if self.recipe else self.mode

    @property
    def name(self) -> str:
        """The cell's name in file names and tables, ``<model>-<mode>`` or with the recipe."""
        trial = "" if self.held_out is None else f"-lr-{self.lr:g}-{self.held_out}"
        return f"{self.model}-{self.listed_as}{trial}"

    @property
    def stage(self) -> str:
        """The name of the DVC stage that trains it, ``train@<cell>`` or ``probe@<model>``."""
        return f"probe@{self.model}" if self.mode == "probe" else f"train@{self.name}"


class Params(_Section):
    """All of ``params.yaml``."""

    dataset: Dataset
    models: Annotated[list[Name], Field(min_length=1), AfterValidator(_distinct)]
    factories: dict[Name, Target]
    recipes: dict[Name, Recipe]
    """In the file only what differs from ``train``."""
    modes: Annotated[list[Annotated[str, Field(pattern=MODE)]], AfterValidator(_distinct)]
    seeds: Annotated[list[Seed], Field(min_length=1), AfterValidator(_distinct)]
    weights: Literal["imagenet", "random"]
    train: Recipe
    image: Image
    precision: Literal["float32", "bfloat16"]
    device: Literal["auto", "cpu", "cuda", "mps"]

    @model_validator(mode="before")
    @classmethod
    def _complete_recipes(cls, tree: dict[str, Any]) -> dict[str, Any]:
        train, recipes = tree.get("train"), tree.get("recipes")
        if not isinstance(train, dict) or not isinstance(recipes, dict):
            return tree
        complete = {
            name: {**train, **changes} if isinstance(changes, dict) else changes
            for name, changes in recipes.items()
        }
        return {**tree, "recipes": complete}

    @field_validator("modes")
    @classmethod
    def _recipes_are_named(cls, modes: list[str], others: ValidationInfo) -> list[str]:
        recipes = others.data.get("recipes", {})
        for mode in modes:
            _, _, recipe = mode.partition("-")
            if recipe and recipe not in recipes:
                known = ", ".join(recipes) or "none"
                raise ValueError(f"{mode} needs {recipe} under recipes, which has {known}")
        return modes

    @property
    def shrinks(self) -> bool:
        """Whether large photographs are stored reduced: never the published ones."""
        return self.image.shrink and Path(self.dataset.manifest) != SHIPPED_MANIFEST

    def cells(self) -> list[Cell]:
        """Return the cells of the matrix, model by model."""
        modes: list[Any] = [mode.split("-") for mode in [*self.modes, "probe"]]
        return [Cell(model, *mode) for model in self.models for mode in modes]

    def run_seeds(self, cell: Cell) -> list[int]:
        """Return the seeds of a cell's replicates.

        A probe, in which only the folds are random, is one run without them.
        """
        return [0] if cell.mode == "probe" and not self.dataset.folds else sorted(self.seeds)

    def runs(self, cell: Cell) -> list[tuple[Cell, int]]:
        """Return a cell's runs with their seeds.

        In a cross-validation each leaves out a fold, and the last one, whose network is kept, none.
        """
        seeds, folds = self.run_seeds(cell), range(self.dataset.folds)
        if not folds:
            return [(cell, seed) for seed in seeds]
        of_folds = [(replace(cell, fold=fold), seed) for seed in seeds for fold in folds]
        return [*of_folds, (replace(cell, fold=ALL), seeds[0])]

    def recipe(self, cell: Cell) -> Recipe:
        """Return the recipe that a cell is trained with, which a probe is not."""
        recipe = self.recipes[cell.recipe] if cell.recipe else self.train
        return recipe.model_copy(update={"lr": cell.lr}) if cell.lr else recipe

    def epochs(self, cell: Cell) -> int:
        """Return the number of epochs of a cell's runs; the fit of a probe counts as one."""
        return 1 if cell.mode == "probe" else self.recipe(cell).epochs


def load(path: str | PathLike[str] = FILE) -> Params:
    """Read and check the parameters, as DVC reads YAML: 1.2, so ``1e-3`` is a number.

    A UserError has a line for every mistake, which names the key and says what is allowed.
    """
    return parse(_read(path, "safe"), str(path))


def _read(path: str | PathLike[str], kind: Literal["safe", "rt"]) -> Any:
    """Read YAML; ``rt`` keeps what a writer needs, and is what DVC reads before it writes."""
    try:
        return YAML(typ=kind).load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"There is no {path} in {Path.cwd()}.\n"
            "Go to the project's folder, the one with dvc.yaml, and try again."
        ) from None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}.\nMake it readable, then run: headswap check"
        ) from None
    except (ValueError, RecursionError, YAMLError) as error:  # 2024-13-45: a ValueError
        where, what = _explain_yaml_error(error, Path(path).read_bytes().decode(errors="replace"))
        raise UserError(
            f"{path}{where} cannot be read: {what}.\nCorrect that line, then run: headswap check"
        ) from None


def _explain_yaml_error(error: Exception, text: str) -> tuple[str, str]:
    """Return the line of a mistake, empty if it has none, and the mistake in plain words."""
    what = (getattr(error, "problem", None) or str(error)).splitlines()[0]
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return "", what
    lines = text.splitlines()
    number = min(mark.line, len(lines) - 1)
    if "\t" in lines[number][: mark.column + 1]:
        what = "a tab; use spaces"
    elif "expected ':'" in what or "mapping values" in what:
        # A line without a colon is read as one text with the next; the mark is behind it.
        candidates = ((n, lines[n].partition("#")[0].strip()) for n in range(number, -1, -1))
        candidates = ((n, line) for n, line in candidates if line and not line.startswith("-"))
        for before, line in itertools.islice(candidates, 2):
            if ":" not in line:
                number, what = before, f"there is no colon after {line.split()[0]}"
                break
        else:
            what = "a second colon; write the text behind the first in quotes"
    elif "did not find expected key" in what:
        what = "it is indented otherwise than the lines around it"
    elif "unexpected end of stream" in what:
        number, what = error.context_mark.line, "a quote is opened and not closed"  # type: ignore[attr-defined]
    return f", line {number + 1}", what


def check_round_trip() -> None:
    """Check that ``dvc exp run --set-param`` can rewrite the parameters, which `load` accepts.

    It cannot where a section is quoted in braces, where DVC's writer leaves out quotes that are
    needed.
    """
    load()
    values, tree = _read(FILE, "safe"), _read(FILE, "rt")
    for key, section in tree.items():
        try:
            is_kept = YAML(typ="safe").load(_dump({key: section})) == {key: values[key]}
        except YAMLError:
            is_kept = False
        if not is_kept:
            form = values if tree.fa.flow_style() else {key: values[key]}
            raise UserError(
                f"{FILE}, line {tree.lc.key(key)[0] + 1}, {key}: `dvc exp run --set-param` "
                f"would break it. Write it as\n\n{_dump(form)}\nthen run: headswap check"
            )


def _dump(tree: dict[str, Any]) -> str:
    """Return YAML as DVC writes it: lines, or braces where the tree was read from braces."""
    yaml, text = YAML(), StringIO()
    yaml.default_flow_style = False
    yaml.dump(tree, text)
    return text.getvalue()


def parse(tree: Any, name: str = FILE) -> Params:
    """Check parameters that have been read (see `load`)."""
    if not isinstance(tree, dict):
        raise UserError(
            f"{name} has no keys; it needs {_keys(Params)}.\n"
            "Restore it with `git checkout`, then run: headswap check"
        )
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        mistakes = [_describe(mistake) for mistake in error.errors()]
        raise UserError(
            f"{name} has mistakes:\n{bulleted(mistakes)}\nCorrect them, then run: headswap check"
        ) from None


def recorded_stages() -> dict[str, Any]:
    """Return what ``dvc.lock`` records of each stage; nothing where it cannot be read."""
    try:
        return YAML(typ="safe").load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"]
    except (OSError, ValueError, LookupError, TypeError, YAMLError):
        return {}


def set_dataset(url: str, manifest: str) -> None:
    """Write ``dataset.url`` and ``dataset.manifest`` into the parameters; comments stay."""
    with _edited() as tree:
        tree["dataset"] |= {"url": url, "manifest": manifest}
        for comments in tree["dataset"].ca.items.values():
            if comments[2]:
                comments[2].start_mark.column = 0  # right behind the value, however short it is now


def set_models(models: list[str]) -> None:
    """Write ``models`` into the parameters, and `finetune` and `frozen` if there are no modes."""
    with _edited() as tree:
        names = tree["models"]
        last = names.ca.items.pop(len(names) - 1, None)
        names[:] = models
        if last:  # with the last entry's comment goes what follows in lines of its own
            last[0].value = "\n" + last[0].value.partition("\n")[2]
            names.ca.items[len(models) - 1] = last
        if not tree["modes"]:
            tree["modes"].extend(["finetune", "frozen"])


@contextlib.contextmanager
def _edited() -> Iterator[Any]:
    """Yield what is in the parameters, to be edited, and write it; comments stay."""
    load()
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 2**16
    yaml.indent(mapping=2, sequence=4, offset=2)
    tree = yaml.load(Path(FILE).read_text(encoding="utf-8"))
    yield tree
    text = StringIO()
    yaml.dump(tree, text)
    write_text(Path(FILE).resolve(), text.getvalue())
    load()


def dataset_lines(url: str, manifest: str) -> str:
    """Return the two lines of ``params.yaml`` that name photographs and their manifest.

    >>> print(dataset_lines("my: photos", "data/photos.csv"))
      url: 'my: photos'
      manifest: data/photos.csv
    """
    yaml, text = YAML(), StringIO()
    yaml.width = 2**16
    yaml.dump({"url": url, "manifest": manifest}, text)
    return indent(text.getvalue().rstrip(), "  ")


def _describe(mistake: ErrorDetails) -> str:
    kind, given, limits = mistake["type"], mistake["input"], mistake.get("ctx", {})
    *parents, last = [part for part in mistake["loc"] if part not in ("[key]", NUMBER, RATES)]
    where = ".".join(map(str, [*parents, last]))
    if isinstance(last, int) and kind not in ("extra_forbidden", "invalid_key"):
        where = f"{'.'.join(map(str, parents))}, entry {last + 1}"
    if where in REMOVED:
        return f"{where}: {REMOVED[where]}"
    if kind in ("extra_forbidden", "invalid_key"):
        section = _section(mistake["loc"][:-1])
        close = difflib.get_close_matches(str(mistake["loc"][-1]), section.model_fields, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"{where}: no such key; {hint}allowed are {_keys(section)}"
    if kind == "missing":
        return f"{where}: is missing" + (f"; write {ADDED[where]}" if where in ADDED else "")
    if kind == "model_type":
        return f"{where}: must have the keys {_keys(_section(mistake['loc']))}, not {given!r}"
    if kind == "list_type":
        example = given if isinstance(given, str | int) else "..."
        return f"{where}: must be a list, as in {where}: [{example}], not {given!r}"
    if where.startswith("modes, ") and given == "probe":
        return f"{where}: probe is always run; list finetune, frozen or both"
    if kind == "too_short":
        return f"{where}: must list at least one"
    if kind == "string_pattern_mismatch":
        lower = re.sub(r"\W", "", given.lower())
        hint = f"; did you mean {lower}?" if re.match(limits["pattern"], lower) else ""
        return f"{where}: must be written as {FORMS[limits['pattern']]}, not {given!r}{hint}"
    message = re.sub(r"^Value error, |^Input should |^\w+ should ", "", mistake["msg"])
    if kind == "value_error":
        return f"{where}: {message}"
    or_auto = ", or auto" if mistake["loc"][0] == "image" else ""
    hint = _number_hint(given) if "number" in message or "integer" in message else ""
    return f"{where}: should {message}{or_auto}, not {given!r}{hint}"


def _number_hint(given: object) -> str:
    """Say how to write a number that was read as text."""
    if not isinstance(given, str):
        return ""
    number = given.replace(",", ".")
    try:
        float(number)
    except ValueError:
        return ""
    return "; write it without quotes" if number == given else f"; write {number}, with a point"


def _section(location: tuple[int | str, ...]) -> type[BaseModel]:
    if location[:1] == ("recipes",):
        return Recipe
    section: Any = Params
    for part in location:
        section = section.model_fields[part].annotation
    return section


def _keys(section: type[BaseModel]) -> str:
    return ", ".join(section.model_fields)
