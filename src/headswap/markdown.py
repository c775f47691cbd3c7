"""Fill the templates of Markdown pages."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def fill_template(
    package: str, name: str, facts: Mapping[str, Any], filters: Mapping[str, Callable[..., Any]]
) -> str:
    """Fill a template from the folder ``templates`` of a package with facts."""
    environment = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.loader, environment.undefined = PackageLoader(package), StrictUndefined
    environment.filters |= {"escaped": escaped, **filters}
    return environment.get_template(name).render(facts)


def escaped(text: object) -> str:
    """Return a text that Markdown, and GitHub's, shows as it is, on one line."""
    special = r"[\\`*\[\]<>|~$&]|(?<![^\W_])_|_(?![^\W_])"  # not an underscore within a word
    return re.sub(special, r"\\\g<0>", " ".join(str(text).split()))
