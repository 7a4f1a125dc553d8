"""Fills the templates of this folder. All text is escaped, as it may be a user's."""

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, **values: Any) -> str:
    """A page.

    Args:
        template: a file in `templates`.
        **values: its names; only `Markup` is taken as HTML.
    """
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined  # those who write no page need not wait for it

    loader = PackageLoader("trimformer.reporting.page", "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
