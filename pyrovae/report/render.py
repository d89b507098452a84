"""From plain values to HTML: the templates, numbers as the page writes them, and parts that may fail."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrovae import __version__
from pyrovae.checks.diagnose import reason

if TYPE_CHECKING:
    from jinja2 import Environment


def attempt(name: str, task: Callable[[], Any], skipped: dict[str, str]) -> Any:
    """Do a part of the page; where it fails, remember why in ``skipped`` and go on without it.

    >>> why = {}
    >>> attempt("part", lambda: 1 / 0, why), why
    (None, {'part': 'division by zero'})
    """
    try:
        return task()
    except Exception as error:  # whatever a part runs into, the rest of the page is still worth having
        skipped[name] = reason(error)
        return None


def render(template: str, **values: Any) -> str:
    """A page as HTML, from the template of a name."""
    return _environment().get_template(template).render(version=__version__, **values)


def rows_shown(page: Path) -> int:
    """The number of rows behind the evidence of a page that stands there; 0 where there is none."""
    found = (
        re.search(r'name="evidence-rows" content="(\d+)"', page.read_text("utf-8", "replace"))
        if page.is_file()
        else None
    )
    return int(found[1]) if found else 0


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("pyrovae.report", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["code"] = lambda words: list(enumerate(str(words).split("`")))
    return environment


def signed(value: float, form: str = ",.2f") -> str:
    """A number with a true minus sign; a dash where there is none.

    >>> signed(-1.5), signed(float("nan"))
    ('−1.50', '–')
    """
    return "–" if value is None or math.isnan(value) else format(value, form).replace("-", "−")
