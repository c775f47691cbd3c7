"""The parameters: a typed schema of ``params.yaml``, and the cells that it describes."""

import contextlib
import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, Discriminator, Field, Tag, ValidationInfo
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from headswap.errors import UserError, bulleted
from headswap.io import StrPath, not_here, read_bytes, write_text
from headswap.paths import SHIPPED_MANIFEST

FILE = "params.yaml"
GENERATED = "generated"  # the ``dataset.url`` of the synthetic images
Mode = Literal["finetune", "frozen", "probe"]
ALL = -1  # no fold is left out: all photographs are trained on


def _refuse(find: Callable[[Any], Any], message: str) -> AfterValidator:
    """Refuse values in which `find` finds something, which the message shows in place of {}."""

    def check(value: Any) -> Any:
        if found := find(value):
            raise ValueError(message.format(found))
        return value

    return AfterValidator(check)


def _written_as(pattern: str, form: str) -> AfterValidator:
    def find(text: str) -> str:
        plain = re.sub(r"\W", "", text.lower())
        hint = f"; did you mean {plain}?" if re.fullmatch(pattern, plain) else ""
        return "" if re.fullmatch(pattern, text) else f"{text!r}{hint}"

    return _refuse(find, f"must be written as {form}, not {{}}")


NUMBER, RATES = "[number]", "[rates]"  # tags of alternatives, in the places of mistakes
Distinct = _refuse(
    lambda them: next((repr(v) for v in them if them.count(v) > 1), ""), "lists {} more than once"
)
NotEmpty = _refuse(lambda values: not values, "must list at least one")
TwoOrMore = _refuse(lambda n: n == 1, "must be 2 or more, or 0 for the manifest's split")
Seed = Annotated[int, Field(ge=0, le=2**53 - 1)]  # which JSON, CSV and torch all hold exactly
Name = Annotated[str, _written_as(r"[a-z0-9_]+", "lower-case letters, digits and _")]
TARGET = r"[A-Za-z_][\w.]*:[A-Za-z_][\w.:]*"
Target = Annotated[str, _written_as(TARGET, "package.module:callable or timm:name")]
Entry = _written_as(
    r"(finetune|frozen)(-[a-z0-9_]+)?",
    "finetune or frozen (probe is always run), with a recipe as finetune-<recipe>",
)
Literally = _refuse(
    lambda text: "${" in text or text == "???", "DVC would replace it; write out what it stands for"
)
Text = Annotated[str, Field(min_length=1), Literally]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Rates = Annotated[list[Rate], NotEmpty, Distinct, Tag(RATES)]
Share = Annotated[float, Field(ge=0, lt=1)]
Auto = Annotated[Literal["auto"], Tag("[auto]")]
AutoOr = Discriminator(lambda value: "[auto]" if value == "auto" else NUMBER)
OneOrSeveral = Discriminator(lambda value: RATES if isinstance(value, list) else NUMBER)


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)


class Dataset(_Section):
    """Where the images come from, the manifest that they are compared with, and their use."""

    url: Text
    manifest: Text
    folds: Annotated[int, Field(ge=0), TwoOrMore]  # of a cross-validation; 0: the manifest's split


class Recipe(_Section):
    """How a network is trained; what has a default is as in the tutorial."""

    epochs: pydantic.PositiveInt
    batch_size: pydantic.PositiveInt
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[Annotated[Rate, Tag(NUMBER)] | Rates, OneOrSeveral]  # a list is tuned
    momentum: Share  # of sgd; adamw has torch's betas
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    schedule: Literal["step", "cosine"] = "step"
    lr_step: pydantic.PositiveInt
    lr_gamma: Annotated[float, Field(gt=0, le=1)]
    warmup_epochs: pydantic.NonNegativeInt = 0
    label_smoothing: Share = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    head: Literal["random", "probe"] = "random"
    flip: bool = True  # mirror half of the training images

    @pydantic.field_validator("warmup_epochs")
    @classmethod
    def _leaves_epochs(cls, warmup_epochs: int, others: ValidationInfo) -> int:
        if warmup_epochs >= others.data.get("epochs", math.inf):
            raise ValueError("should be less than epochs")
        return warmup_epochs


class Image(_Section):
    """What a network sees of an image; ``auto``: the pixels that each network was made for."""

    size: Annotated[Annotated[int, Field(ge=8, le=2048), Tag(NUMBER)] | Auto, AutoOr]
    resize: Annotated[Annotated[int, Field(ge=8, le=4096), Tag(NUMBER)] | Auto, AutoOr]
    fit: Literal["crop", "squash", "pad"] = "crop"  # what is not square
    shrink: bool  # store large photographs reduced, not the published ones

    @pydantic.model_validator(mode="after")
    def _crop_fits(self) -> "Image":
        if (self.size == "auto") != (self.resize == "auto"):
            raise ValueError("size and resize must both be numbers, or both auto")
        if self.size != "auto" and self.resize != "auto" and self.resize < self.size:
            raise ValueError(f"resize ({self.resize}) must be at least size ({self.size})")
        return self


@dataclass(frozen=True)
class Cell:
    """A backbone, by its name under ``models`` in ``params.yaml``, and a way to train it."""

    model: str
    mode: Mode
    recipe: str = ""  # its name under `recipes`; empty for `train`
    lr: float | None = None  # of a recipe that lists several; None before it is chosen
    fold: int | None = None  # that is left out, or `ALL`; None on the manifest's split
    held_out: int | None = None  # the quarter that `lr` is tried on; None where it is used

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
    models: Annotated[list[Name], NotEmpty, Distinct]
    factories: dict[Name, Target]
    recipes: dict[Name, Recipe]  # in the file only what differs from `train`
    modes: Annotated[list[Annotated[str, Entry]], Distinct]
    seeds: Annotated[list[Seed], NotEmpty, Distinct]
    weights: Literal["imagenet", "random"]
    train: Recipe
    image: Image
    precision: Literal["float32", "bfloat16"]
    device: Literal["auto", "cpu", "cuda", "mps"]

    @pydantic.model_validator(mode="before")
    @classmethod
    def _complete_recipes(cls, tree: dict[str, Any]) -> dict[str, Any]:
        train, recipes = tree.get("train"), tree.get("recipes")
        if not (isinstance(train, dict) and isinstance(recipes, dict)):
            return tree
        whole = {k: train | v if isinstance(v, dict) else v for k, v in recipes.items()}
        return {**tree, "recipes": whole}

    @pydantic.field_validator("modes")
    @classmethod
    def _recipes_are_named(cls, modes: list[str], others: ValidationInfo) -> list[str]:
        recipes = others.data.get("recipes", {})
        for mode in modes:
            if (recipe := mode.partition("-")[2]) and recipe not in recipes:
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
        """Return the seeds of a cell's replicates; a probe on a fixed split is one run."""
        return [0] if cell.mode == "probe" and not self.dataset.folds else sorted(self.seeds)

    def runs(self, cell: Cell) -> list[tuple[Cell, int]]:
        """Return a cell's runs with seeds; with folds one for each, and the kept one, `ALL`."""
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


def load(path: StrPath = FILE) -> Params:
    """Read the parameters as DVC does, YAML 1.2; a UserError has a line for every mistake."""
    return parse(_read(path, "safe"), str(path))


def _read(path: StrPath, kind: Literal["safe", "rt"]) -> Any:
    """Read YAML; ``rt`` keeps what a writer needs, and is what DVC reads before it writes."""
    if not Path(path).exists():
        raise not_here(path)
    content = read_bytes(path)
    try:
        return YAML(typ=kind).load(content.decode())
    except (ValueError, RecursionError, YAMLError) as error:  # 2024-13-45: a ValueError
        where, what = _explain_yaml_error(error, content.decode(errors="replace").splitlines())
        text = f"{path}{where} cannot be read: {what}."
        raise UserError(f"{text}\nCorrect that line, then run: headswap check") from None


def _explain_yaml_error(error: Any, lines: list[str]) -> tuple[str, str]:
    """Return the line of a mistake, empty if it has none, and the mistake in plain words."""
    what = (getattr(error, "problem", None) or str(error)).splitlines()[0]
    if not (mark := getattr(error, "problem_mark", None)):
        return "", what
    number = min(mark.line, len(lines) - 1)
    if "\t" in lines[number][: mark.column + 1]:
        what = "a tab; use spaces"
    elif "expected ':'" in what or "mapping values" in what:
        what = "a second colon; write the text behind the first in quotes"
        # A line without a colon is read as one text with the next; the mark is behind it.
        for n in [n for n in range(number + 1) if re.match(r"\s*[^\s#-]", lines[n])][-2:]:
            if not re.search(r":(\s|$)", lines[n].partition(" #")[0]):
                name, colon, _ = lines[n].split()[0].partition(":")
                number, what = n, f"there is no {'blank' if colon else 'colon'} after {name}{colon}"
    elif "did not find expected key" in what:
        what = "it is indented otherwise than the lines around it"
    elif "unexpected end of stream" in what:
        number, what = error.context_mark.line, "a quote is opened and not closed"
    return f", line {number + 1}", what


def check_round_trip() -> None:
    """Check that ``dvc exp run --set-param`` keeps the parameters: in braces it drops quotes."""
    load()
    values, tree = _read(FILE, "safe"), _read(FILE, "rt")
    for key, section in tree.items():
        with contextlib.suppress(YAMLError):
            if YAML(typ="safe").load(_dump({key: section})) == {key: values[key]}:
                continue
        form = _dump(values if tree.fa.flow_style() else {key: values[key]})
        where = f"{FILE}, line {tree.lc.key(key)[0] + 1}, {key}"
        text = f"{where}: `dvc exp run --set-param` would break it. Write it as\n\n{form}"
        raise UserError(f"{text}\nthen run: headswap check")


def _dump(tree: Any) -> str:
    """Return YAML as DVC writes it: lines, or braces where the tree was read from braces."""
    yaml, text = YAML(), StringIO()
    yaml.width = 2**16
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.dump(tree, text)
    return text.getvalue()


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
    yaml.preserve_quotes = True
    yield (tree := yaml.load(Path(FILE).read_text(encoding="utf-8")))
    write_text(Path(FILE).resolve(), _dump(tree))
    load()


def dataset_lines(url: str, manifest: str) -> str:
    """Return the two lines of ``params.yaml`` that name photographs and their manifest."""
    return _dump({"dataset": {"url": url, "manifest": manifest}}).partition("\n")[2].rstrip()


SECTIONS = dict[str, type[_Section]](dataset=Dataset, train=Recipe, recipes=Recipe, image=Image)
ADDED = {"recipes": "recipes: {}", "dataset.folds": "folds: 0", "image.shrink": "shrink: true"}
PLAIN = {"list_type": "be a list, as in [a, b]", "model_type": "have its keys in lines below it"}


def parse(tree: Any, name: str = FILE) -> Params:
    """Check parameters that have been read (see `load`)."""
    if not isinstance(tree, dict):
        text = f"{name} has no keys; it needs {', '.join(Params.model_fields)}."
        raise UserError(f"{text}\nRestore it with `git checkout`, then run: headswap check")
    try:
        return Params.model_validate(tree)
    except pydantic.ValidationError as error:
        text = bulleted([_describe(mistake) for mistake in error.errors()])
        raise UserError(
            f"{name} has mistakes:\n{text}\nCorrect them, then: headswap check"
        ) from None


def _describe(mistake: Mapping[str, Any]) -> str:
    kind, given = mistake["type"], mistake["input"]
    *parents, last = [part for part in mistake["loc"] if part not in ("[key]", NUMBER, RATES)]
    is_unknown = kind in ("extra_forbidden", "invalid_key")
    where = ".".join(map(str, [*parents, last]))
    if isinstance(last, int) and not is_unknown:
        where = f"{'.'.join(map(str, parents))}, entry {last + 1}"
    message = re.sub(r"^Value error, |^Input should |^\w+ should ", "", mistake["msg"])
    if is_unknown:
        keys = (SECTIONS[str(parents[0])] if parents else Params).model_fields
        close = difflib.get_close_matches(str(last), keys, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        message = f"no such key; {hint}allowed are {', '.join(keys)}; or remove it"
    elif kind == "missing":  # perhaps in an older params.yaml
        message = "is missing" + (f"; write {ADDED[where]}" if where in ADDED else "")
    elif kind != "value_error":
        or_auto = ", or auto" if mistake["loc"][0] == "image" else ""
        message = f"should {PLAIN.get(kind, message)}{or_auto}, not {given!r}"
        is_number = isinstance(given, str) and re.fullmatch(r"[+-]?[\d.,]+(e.*)?", given)
        if is_number and kind.startswith(("int", "float")):
            message += f"; write {given.replace(',', '.')}, without quotes"
    return f"{where}: {message}"
