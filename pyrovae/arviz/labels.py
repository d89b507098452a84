"""Names of dimensions and their labels: the user's, a table's, the program's plates, else the defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pyrovae.arviz import as_coordinate
from pyrovae.arviz.named import Arrays, Source
from pyrovae.data import Data
from pyrovae.errors import refusal
from pyrovae.programs import DATA

_REDUCED = (
    "log_likelihood",
    "log_prior",
    "prior_sbc",
)  # their variables lack dimensions that the same sites have elsewhere


def labels(
    rows: Data,
    coords: Mapping[str, Any],
    dims: Mapping[str, Sequence[str]],
    block: Arrays,
    sources: Mapping[str, Source],
    num_new: int,
) -> tuple[dict[str, list[str]], dict[str, np.ndarray]]:
    """The dimensions of every variable of some groups after the draws, and the labels of the dimensions.

    Args:
        rows: the data, whose row names and columns count.
        coords: dimension -> labels, which come before a table's.
        dims: variable -> names of its event dimensions, or of all after the draws.
        block: the arrays of some rows, which show the variables.
        sources: where each data site's numbers come from.
        num_new: the number of rows that are predicted.

    Raises:
        ValueError: dims or coords name what is not there, or have another length.
    """
    given = {name: list(names) for name, names in dims.items()}
    named: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    for group, arrays in block.items():
        for name, (array, own) in arrays.items():
            if group not in _REDUCED or name not in named:
                named[name] = _named(name, own, None if group in _REDUCED else given.get(name))
                sizes |= dict(zip(reversed(named[name]), reversed(array.shape), strict=False))
    sizes |= {DATA: len(rows), **({"new_data": num_new} if num_new else {})}
    variables = [*named, *(source.variable for source in sources.values())]
    dimensions = ["chain", "draw", *sizes, *(dim for names in given.values() for dim in names)]
    for what, names, known in (("dims", given, variables), ("coords", coords, dimensions)):
        if unknown := [name for name in names if name not in known]:
            listed = ", ".join(dict.fromkeys(known))
            raise refusal(f"{what} names {unknown[0]!r}, which is not there; known are: {listed}", what)
    found: dict[str, Any] = {DATA: np.arange(len(rows)) if rows.row_names is None else rows.row_names}
    columns = list(rows.names().values())
    for variable, leaf, own in sources.values():
        if leaf is not None and columns[leaf] is not None and len(own) == 2:
            found[_named(variable, own, given.get(variable))[-1]] = columns[leaf]
    labeled = {dim: as_coordinate(values) for dim, values in {**found, **coords}.items()}
    for dim, values in labeled.items():
        if dim in sizes and len(values) != sizes[dim]:
            raise refusal(f"coords[{dim!r}] has {len(values)} labels, but there are {sizes[dim]} along it", "coords")
    return named, labeled


def _named(name: str, dims: tuple[str | None, ...], given: list[str] | None) -> list[str]:
    """The names of a variable's dimensions: given for its event, or for everything after the draws."""
    given = given or []
    number = dims.count(None)
    if given and len(given) == len(dims):
        if [own for own, dim in zip(given, dims, strict=True) if dim == DATA] not in ([], [DATA]):
            raise refusal(
                f"dims[{name!r}] = {given} renames the rows, whose dimension is 'data': write {[DATA, *given[1:]]}, or "
                f"the event's dimensions alone, {given[1:]}",
                "dims",
            )
        return list(given)
    if len(given) > number:
        raise refusal(
            f"dims[{name!r}] = {given} names {len(given)} dimensions, but {name!r} has {number} for its event, after "
            f"{[dim for dim in dims if dim is not None]}",
            "dims",
        )
    own = iter([*given, *(f"{name}_dim_{i}" for i in range(number - len(given)))])
    return [next(own) if dim is None else dim for dim in dims]
