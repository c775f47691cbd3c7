"""What is done to an image before a network sees it, as plain values that a file can hold."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from headswap.errors import UserError
from headswap.io import read_tensors
from headswap.params import Image
from headswap.paths import WEIGHTS

INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic")
"""The values of `torchvision.transforms.InterpolationMode` that work on tensors."""


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image that a network is validated on; the defaults are ImageNet's.

    In pixels: ``size``, the sides of the center crop, and ``resize``, the shorter side before it.
    ``fit`` may also be ``squash`` (to a square, whatever the image's sides) or ``pad`` (with the
    mean colour to a square); of either all is then resized to ``size``.
    ``interpolation`` is one of `INTERPOLATIONS`. ``mean`` and ``std`` are by channel, for pixels
    between 0 and 1.
    """

    size: int = 224
    resize: int = 256
    interpolation: str = "bilinear"
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    fit: str = "crop"

    def with_image(self, image: Image) -> "Preprocessing":
        """Override fit, and size and resize unless they are auto."""
        if image.size == "auto" or image.resize == "auto":
            return replace(self, fit=image.fit)
        return replace(self, size=image.size, resize=image.resize, fit=image.fit)


OF_NETWORK = {key: value for key, value in asdict(Preprocessing()).items() if key != "fit"}
"""What a network may say of itself, with ImageNet's values."""


def preprocessing(model: str, image: Image) -> Preprocessing:
    """Return the preprocessing in a model's file in ``data/weights``, overridden by `image`."""
    path = WEIGHTS / f"{model}.safetensors"
    _, metadata = read_tensors(path, only=())
    remedy = f"Run: dvc repro --force --single-item weights@{model}"
    return read_preprocessing(metadata, path, remedy).with_image(image)


def read_preprocessing(record: Mapping[str, Any], path: Path, remedy: str) -> Preprocessing:
    """Return the preprocessing in what headswap wrote to `path`, with the remedy if it cannot."""
    try:
        return Preprocessing(**record["preprocessing"])
    except (TypeError, LookupError) as error:
        raise UserError(
            f"{path} does not say how images are to be prepared as this version of headswap reads "
            f"it: {error}. Another version wrote it.\n{remedy}"
        ) from error


def preprocessing_from_network(network: object, name: str) -> Preprocessing:
    """Return the preprocessing that a factory's network was made for.

    It is in the network's attribute ``preprocessing``, a dictionary with some of the fields of
    `Preprocessing`; or in ``pretrained_cfg`` or ``default_cfg`` as in timm; else ImageNet's.
    """
    for attribute in ("preprocessing", "pretrained_cfg", "default_cfg"):
        given = getattr(network, attribute, None)
        if given and not callable(given):  # a layer may have such a name
            try:
                values = dict(given if isinstance(given, Mapping) else vars(given))
                return _check_values(values if attribute == "preprocessing" else _from_timm(values))
            except (TypeError, ValueError, ZeroDivisionError) as error:
                raise UserError(
                    f"factories.{name}: its network's {attribute} cannot be used: {error}.\n"
                    "Let the factory set, for instance, network.preprocessing = "
                    f"{OF_NETWORK}"
                ) from error
    return Preprocessing()


def _from_timm(values: dict[str, Any]) -> dict[str, Any]:
    """Translate timm's values; those that are missing are timm's defaults."""
    _, size, width = values.get("input_size") or (3, 224, 224)
    if size != width:
        raise ValueError(f"its input of {size} x {width} pixels is not square")
    if (mode := values.get("crop_mode") or "center") != "center":
        raise ValueError(f"its crop_mode {mode!r} is not 'center'")
    known = {key: values[key] for key in ("mean", "std") if values.get(key)}
    interpolation = values.get("interpolation") or "bicubic"
    resize = int(size / (values.get("crop_pct") or 0.875))
    return {"size": size, "resize": resize, "interpolation": interpolation, **known}


def _check_values(values: dict[str, Any]) -> Preprocessing:
    if unknown := sorted(set(values) - set(OF_NETWORK)):
        raise ValueError(f"{unknown[0]!r} is none of {', '.join(OF_NETWORK)}")
    for key in {"mean", "std"} & set(values):
        values = values | {key: [float(value) for value in values[key]]}
    found = Preprocessing(**values)
    if not (type(found.size) is type(found.resize) is int and 8 <= found.size <= found.resize):
        raise ValueError(
            f"size ({found.size}) and resize ({found.resize}) must be whole numbers, "
            "at least 8, and resize at least size"
        )
    if found.interpolation not in INTERPOLATIONS:
        raise ValueError(f"{found.interpolation!r} is none of {', '.join(INTERPOLATIONS)}")
    if len(found.mean) != 3 or len(found.std) != 3 or min(found.std) <= 0:
        raise ValueError("mean and std must have 3 numbers each, those of std above 0")
    return found
