"""The one Jinja environment: autoescape everywhere, undefined names are errors."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from envfarm import __version__

from .formatting import FILTERS
from .links import item_link, link, query, resume_command

HERE = Path(__file__).parent
STATIC = HERE / "static"


@cache
def environment() -> Environment:
    """Templates see values only through escaping. Only the report's inlined style sheet is marked as safe."""
    jinja = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters.update(FILTERS)
    jinja.globals.update(version=__version__, link=link, item_link=item_link, query=query, resume=resume_command)
    jinja.globals["m"] = jinja.get_template("macros.html").module
    return jinja


def render(template: str, **values: object) -> str:
    """The HTML of a template below ``templates/``.

    Text may hold unpaired surrogates (file names that are not UTF-8): they become U+FFFD, so that it can be encoded.
    """
    html = environment().get_template(template).render(values)
    return html.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
