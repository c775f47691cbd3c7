"""What is done to an image before a network sees it, as plain values that a file can hold."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from headswap.errors import UserError
from headswap.io import read_tensors
from headswap.params import Image
from headswap.paths import WEIGHTS

INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic")  # torchvision's for tensors


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image that a network is validated on; the defaults are ImageNet's."""

    size: int = 224  # pixels a side of what the network sees
    resize: int = 256  # the shorter side before a center crop
    interpolation: str = "bilinear"  # one of INTERPOLATIONS
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])  # of 0 to 1
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    fit: str = "crop"  # or squash, or pad, with the mean colour, all of the image to a square

    def with_image(self, image: Image) -> "Preprocessing":
        """Override fit, and size and resize unless they are auto."""
        if image.size == "auto" or image.resize == "auto":
            return replace(self, fit=image.fit)
        return replace(self, size=image.size, resize=image.resize, fit=image.fit)


# What a network may say of itself, with ImageNet's values
OF_NETWORK = {key: value for key, value in asdict(Preprocessing()).items() if key != "fit"}


def preprocessing(model: str, image: Image) -> Preprocessing:
    """Return the preprocessing in a model's file in ``data/weights``, overridden by `image`."""
    path = WEIGHTS / f"{model}.safetensors"
    remedy = f"Run: dvc repro --force --single-item weights@{model}"
    return read_preprocessing(read_tensors(path, only=())[1], path, remedy).with_image(image)


def read_preprocessing(record: Mapping[str, Any], path: Path, remedy: str) -> Preprocessing:
    """Return the preprocessing in what headswap wrote to `path`, with the remedy if it cannot."""
    try:
        return Preprocessing(**record["preprocessing"])
    except (TypeError, LookupError) as error:
        text = f"{path} does not say how images are prepared: {error}. Another version wrote it."
        raise UserError(f"{text}\n{remedy}") from error


def preprocessing_from_network(network: object, name: str) -> Preprocessing:
    """Return what a factory's network was made for, as an attribute says; else ImageNet's."""
    for attribute in ("preprocessing", "pretrained_cfg", "default_cfg"):  # the latter are timm's
        given = getattr(network, attribute, None)
        if given and not callable(given):  # a layer may have such a name
            try:
                values = dict(given if isinstance(given, Mapping) else vars(given))
                return _check_values(values if attribute == "preprocessing" else _from_timm(values))
            except (TypeError, ValueError, ZeroDivisionError) as error:
                text = f"factories.{name}: its network's {attribute} cannot be used: {error}."
                remedy = f"Let the factory set, for instance, network.preprocessing = {OF_NETWORK}"
                raise UserError(f"{text}\n{remedy}") from error
    return Preprocessing()


def _from_timm(given: dict[str, Any]) -> dict[str, Any]:
    """Translate timm's values; those that are missing are timm's defaults."""
    known: dict[str, Any] = {"input_size": (3, 224, 224), "crop_mode": "center", "crop_pct": 0.875}
    known |= {"interpolation": "bicubic"} | {key: value for key, value in given.items() if value}
    _, size, width = known["input_size"]
    if size != width:
        raise ValueError(f"its input of {size} x {width} pixels is not square")
    if known["crop_mode"] != "center":
        raise ValueError(f"its crop_mode {known['crop_mode']!r} is not 'center'")
    names = [name for name in ("interpolation", "mean", "std") if name in known]
    sides = {"size": size, "resize": int(size / known["crop_pct"])}
    return sides | {name: known[name] for name in names}


def _check_values(values: dict[str, Any]) -> Preprocessing:
    if unknown := sorted(set(values) - set(OF_NETWORK)):
        raise ValueError(f"{unknown[0]!r} is none of {', '.join(OF_NETWORK)}")
    lists: dict[str, Any] = {k: [*map(float, values[k])] for k in ("mean", "std") if k in values}
    found = Preprocessing(**{**values, **lists})
    size, resize = found.size, found.resize
    if not (type(size) is type(resize) is int and 8 <= size <= resize):
        raise ValueError(f"size ({size}) and resize ({resize}) must be integers, 8 ≤ size ≤ resize")
    if found.interpolation not in INTERPOLATIONS:
        raise ValueError(f"{found.interpolation!r} is none of {', '.join(INTERPOLATIONS)}")
    if len(found.mean) != 3 or len(found.std) != 3 or min(found.std) <= 0:
        raise ValueError("mean and std must have 3 numbers each, those of std above 0")
    return found
