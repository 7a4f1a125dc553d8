"""Fills the page templates; all text is escaped because users control some of it."""

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, **values: Any) -> str:
    """Renders a page.

    Args:
        template: name of a file in `templates`.
        **values: variables of the template; only `Markup` is inserted as HTML.
    """
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> "Environment":
    """Creates the Jinja environment."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # slow to import

    loader = PackageLoader("trimformer.reporting.page", "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
