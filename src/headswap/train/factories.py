"""Own networks: the functions in ``networks`` that make them, and what their code is known by."""

import ast
import difflib
import functools
import importlib
import sys
from collections.abc import Callable
from importlib.metadata import packages_distributions, version
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

from headswap.errors import UserError
from headswap.io import digest, explain_damage, syntax_tree
from headswap.paths import NETWORKS


def import_factory(name: str, factory: str) -> Callable[..., Any]:
    """Return the function ``module:callable``, of a file in ``networks`` or of a package.

    **A factory is code that is executed.**
    """
    if is_timm(factory):
        return _timm_factory(name, factory)
    module, _, attribute = factory.partition(":")
    if str(NETWORKS.absolute()) not in sys.path:
        sys.path.insert(0, str(NETWORKS.absolute()))
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # the user's module may fail in any way
        raise UserError(
            f"factories.{name}: {factory} cannot be imported: {type(error).__name__}: {error}; "
            f"allowed is module:callable of a file in {NETWORKS}/, such as mine:net of "
            f"{NETWORKS}/mine.py, or of an installed package"
        ) from error
    if not callable(found):
        raise UserError(f"factories.{name}: {factory} is not callable")
    return found


def is_timm(factory: str | None) -> bool:
    """Return whether a factory is a name of the library timm's, as in ``timm:resnet18.a1_in1k``."""
    return (factory or "").startswith("timm:")


def _timm_factory(name: str, factory: str) -> Callable[..., Any]:
    """Return what builds a network of timm's, without pretrained weights unless told so."""
    try:
        import timm
    except ImportError:
        raise UserError(
            f"factories.{name}: {factory} needs timm, which headswap otherwise does without.\n"
            "In the project's folder: pip install --constraint constraints.txt timm"
        ) from None
    model = factory.removeprefix("timm:")
    if not timm.is_model(model):
        close = difflib.get_close_matches(model, timm.list_models(), 3)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise UserError(
            f"factories.{name}: {model} is not a network of timm; {hint}"
            "its names are listed by: headswap networks PATTERN"
        )
    return functools.partial(timm.create_model, model)


def timm_url(name: str, factory: str) -> str:
    """Return where timm's pretrained weights of a network are, as a rule on Hugging Face's hub."""
    _timm_factory(name, factory)
    import timm
    from huggingface_hub import hf_hub_url

    model = factory.removeprefix("timm:")
    config: Any = timm.get_pretrained_cfg(model)
    if config.hf_hub_id:
        return hf_hub_url(config.hf_hub_id, config.hf_hub_filename or "model.safetensors")
    if config.url:
        return config.url
    raise UserError(
        f"timm has no pretrained weights of {model}.\n"
        "Name another network under factories, or set weights: random"
    )


def factory_origin(name: str, factory: str) -> dict[str, Any]:
    """Return what a factory's network is known by: its digest, and the packages that it imports.

    ``code`` is None if the factory is a package's, which is known by its version.
    """
    code, imported = _scan(name, factory)
    import_factory(name, factory)
    installed = packages_distributions()
    if code is None and factory.partition(":")[0].partition(".")[0] not in installed:
        raise UserError(
            f"factories.{name}: {factory} is neither in {NETWORKS}/ nor an installed package's, so "
            f"DVC sees no edit to it.\nCopy its module into {NETWORKS}/, then: headswap check"
        )
    packages = {package for path in imported for package in installed.get(path, ())}
    return {
        "factory": factory,
        "code": code,
        "packages": {package: version(package) for package in {*packages, "torch", "torchvision"}},
    }


def check_code(name: str, factory: str, code: str | None) -> None:
    """Raise a UserError unless the code of a factory has the digest that it had, `code`."""
    if _scan(name, factory)[0] != code:
        raise UserError(
            f"{factory} is other code than when the weights of {name} were written, so it may be "
            f"another network.\nBring back {NETWORKS}/ as it was, or train it anew with: dvc repro"
        )


def _scan(name: str, factory: str) -> tuple[str | None, set[str]]:
    """Return the digest of an own factory's code, and what it imports from elsewhere.

    The code is its module's, and that of all that this imports from ``networks``, as syntax trees
    without docstrings.
    """
    trees: dict[str, str | None] = {}
    waiting = [factory.partition(":")[0]]
    while waiting:
        module = waiting.pop()
        if module in trees:
            continue
        place = NETWORKS.joinpath(*module.split("."))
        files = [place / "__init__.py", place.with_suffix(".py")]
        file = next((file for file in files if file.is_file()), None)
        code, parent = file.read_bytes() if file else b"", module.rpartition(".")[0]
        with explain_damage(place.with_suffix(".py"), "Correct it, then: headswap check"):
            trees[module] = syntax_tree(code) if file else None
            waiting += [parent] if parent else []
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.Import):
                    waiting += [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    package = module if file == files[0] else parent
                    source = resolve_name("." * node.level + (node.module or ""), package)
                    waiting += [source, *(f"{source}.{alias.name}" for alias in node.names)]
    own = {module: tree for module, tree in trees.items() if tree}
    elsewhere = {module.partition(".")[0] for module in trees}
    elsewhere -= {module.partition(".")[0] for module in own}
    if misplaced := sorted(f"{top}.py" for top in elsewhere if Path(f"{top}.py").is_file()):
        raise UserError(
            f"factories.{name}: DVC sees edits to own networks, and to what they import, in "
            f"{NETWORKS}/ alone.\nMove them there: mv {' '.join(misplaced)} {NETWORKS}/"
        )
    return digest(own) if own else None, elsewhere
