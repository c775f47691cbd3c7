"""Own networks: the functions in ``networks`` that make them, and what their code is known by."""

import ast
import difflib
import functools
import importlib
import re
import sys
from collections.abc import Callable
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any

from headswap.errors import UserError
from headswap.io import digest, explain_damage, syntax_tree
from headswap.paths import NETWORKS


def import_factory(name: str, factory: str) -> Callable[..., Any]:
    """Return the function ``module:callable``, **which is code that is executed**."""
    module, _, attribute = factory.partition(":")
    if module == "timm":
        try:
            import timm
        except ImportError:
            raise UserError(
                f"factories.{name}: {factory} needs timm, which headswap otherwise does without.\n"
                "In the project's folder: pip install --constraint constraints.txt timm"
            ) from None
        if not timm.is_model(attribute):
            check_name(f"factories.{name}", attribute, "timm", timm.list_models())
        return functools.partial(timm.create_model, attribute)
    if (folder := str(NETWORKS.absolute())) not in sys.path:
        sys.path.insert(0, folder)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # the user's module may fail in any way
        raise UserError(
            f"factories.{name}: {factory} cannot be imported: {type(error).__name__}: {error}; "
            f"mine:net would be net of {NETWORKS}/mine.py or of an installed package"
        ) from error
    if not callable(found):
        raise UserError(f"factories.{name}: {factory} is not callable")
    return found


def torchvision_names() -> set[str]:
    """Return torchvision's networks as its code registers them: to import it takes seconds."""
    package: Any = find_spec("torchvision")
    files = Path(package.origin).parent.glob("models/*.py")
    register = re.compile(r"^@register_model\(\)\n(?:.*\n)*?def (\w+)", re.MULTILINE)
    return {name for file in files for name in register.findall(file.read_text("utf-8"))}


def check_name(where: str, network: str, library: str, known: list[str]) -> None:
    """Raise a UserError unless a library knows a network."""
    if network not in known:
        close = difflib.get_close_matches(network.lower(), known, 3)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise UserError(
            f"{where}: {network} is not a network of {library}; {hint}`headswap networks PATTERN` "
            "lists all; your own go under factories"
        )


def timm_url(factory: str) -> str:
    """Return where timm's pretrained weights of a network are, as a rule on Hugging Face's hub."""
    import timm
    from huggingface_hub import hf_hub_url

    config: Any = timm.get_pretrained_cfg(factory.removeprefix("timm:"))
    if config.hf_hub_id:
        return hf_hub_url(config.hf_hub_id, config.hf_hub_filename or "model.safetensors")
    if not config.url:
        raise UserError(f"{factory} has no weights.\nName another network, or set weights: random")
    return config.url


def factory_origin(name: str, factory: str) -> dict[str, Any]:
    """Return what a factory is known by: ``packages``, and its own ``code``'s digest or None."""
    code, imported = _scan(name, factory)
    import_factory(name, factory)
    installed = packages_distributions()
    if code is None and factory.partition(":")[0].partition(".")[0] not in installed:
        raise UserError(
            f"factories.{name}: {factory} is neither in {NETWORKS}/ nor an installed package's, so "
            f"DVC sees no edit to it.\nCopy its module into {NETWORKS}/, then: headswap check"
        )
    names = {"torch", "torchvision"}.union(*(installed.get(path, ()) for path in imported))
    return {"factory": factory, "code": code, "packages": {name: version(name) for name in names}}


def check_code(name: str, factory: str, code: str | None) -> None:
    """Raise a UserError unless the code of a factory has the digest that it had, `code`."""
    if _scan(name, factory)[0] != code:
        raise UserError(
            f"{factory} is other code than when the weights of {name} were written, so it may be "
            f"another network.\nBring back {NETWORKS}/ as it was, or train it anew with: dvc repro"
        )


def _scan(name: str, factory: str) -> tuple[str | None, set[str]]:
    """Return the digest of an own factory's code in ``networks``, and what it imports besides."""
    trees: dict[str, str | None] = {"": None}  # the parent of a module without one
    waiting = [factory.partition(":")[0]]
    while waiting:
        if (module := waiting.pop()) in trees:
            continue
        waiting.append(parent := module.rpartition(".")[0])
        place = NETWORKS.joinpath(*module.split("."))
        package, file = module, place / "__init__.py"
        if not file.is_file():
            package, file = parent, place.with_suffix(".py")
        code = file.read_bytes() if file.is_file() else b""
        with explain_damage(file, "Correct it, then: headswap check"):
            trees[module] = syntax_tree(code) if file.is_file() else None
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.Import):
                    waiting += [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    source = resolve_name("." * node.level + (node.module or ""), package)
                    waiting += [f"{source}.{alias.name}" for alias in node.names]
    own = {module: tree for module, tree in trees.items() if tree}
    elsewhere = {module.partition(".")[0] for module in trees}
    elsewhere -= {module.partition(".")[0] for module in own}
    if misplaced := sorted(f"{top}.py" for top in elsewhere if Path(f"{top}.py").is_file()):
        raise UserError(
            f"factories.{name}: DVC sees edits to own networks, and to what they import, in "
            f"{NETWORKS}/ alone.\nMove them there: mv {' '.join(misplaced)} {NETWORKS}/"
        )
    return digest(own) if own else None, elsewhere
