"""An option is written once: its field's type, default, meaning and range serve Python, files and the command line."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Collection, Mapping
from dataclasses import fields
from types import NoneType
from typing import Any, NamedTuple, get_args, get_type_hints


class Option(NamedTuple):
    """What a field of a spec means and what it may hold; it annotates the field, ``Annotated[int, Option(...)]``.

    Attributes:
        help: the meaning, as documentation and command line print it.
        known: the words that are allowed; empty where it is not a matter of words.
        least: the smallest integer that is allowed.
        most: the largest.
        kind: the field's type, without None; from its annotation, like the two below.
        optional: whether None is allowed.
        default: the field's default; ``dataclasses.MISSING`` where it has none.
    """

    help: str
    known: Collection[str | None] = ()
    least: int = 1
    most: float = math.inf
    kind: Any = None
    optional: bool = False
    default: Any = None


def options_of(spec: type) -> Mapping[str, Option]:
    """The `Option` of each field of a dataclass, by name."""
    hints, found = get_type_hints(spec, include_extras=True), {}
    for field in fields(spec):
        kind, option = get_args(hints[field.name])
        optional = NoneType in get_args(kind)
        if optional:
            kind = functools.reduce(operator.or_, (part for part in get_args(kind) if part is not NoneType))
        found[field.name] = option._replace(kind=kind, optional=optional, default=field.default)
    return found


def to_plain(spec: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON holds them: tuples become lists."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(spec).items()}


def kinds_in_words(value: Any) -> str | None:
    """How many columns of each kind a table of a spec has; None for what is no list of columns.

    >>> kinds_in_words([{"name": "a", "kind": "real"}, {"name": "b", "kind": "count"}, {"name": "c", "kind": "real"}])
    '2 real, 1 count'
    """
    if not isinstance(value, list) or not value or not all(isinstance(column, Mapping) for column in value):
        return None
    kinds = [str(column.get("kind")) for column in value]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
