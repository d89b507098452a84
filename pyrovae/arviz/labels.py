"""Names of dimensions and their labels: the user's, a table's, the program's plates, else the defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pyrovae.arviz import as_coordinate
from pyrovae.arviz.traced import Arrays, Source
from pyrovae.data import Data
from pyrovae.errors import refusal
from pyrovae.programs import DATA

_REDUCED = ("log_likelihood", "prior_sbc")  # their variables lack dimensions that the same sites have elsewhere


class Labels:
    """The dimensions and coordinates of every variable of some groups.

    Args:
        rows: the data, whose row names and columns count.
        coords: dimension -> labels, which come before a table's.
        dims: variable -> names of its event dimensions, or of all after the draws.
        block: the arrays of some rows, which show the variables.
        sources: where each data site's numbers come from.
        num_new: the number of rows that are predicted.

    Attributes:
        dims: variable -> names of the dimensions after the draws.

    Raises:
        ValueError: dims or coords name what is not there, or have another length.
    """

    def __init__(
        self,
        rows: Data,
        coords: Mapping[str, Any],
        dims: Mapping[str, Sequence[str]],
        block: Arrays,
        sources: Mapping[str, Source],
        num_new: int,
    ) -> None:
        given = {name: list(names) for name, names in dims.items()}
        self.dims: dict[str, list[str]] = {}
        sizes: dict[str, int] = {}
        for group, arrays in block.items():
            for name, (array, own) in arrays.items():
                if group not in _REDUCED or name not in self.dims:
                    self.dims[name] = _named(name, own, None if group in _REDUCED else given.get(name))
                    sizes |= dict(zip(reversed(self.dims[name]), reversed(array.shape), strict=False))
        sizes |= {DATA: len(rows), **({"new_data": num_new} if num_new else {})}
        named = [dim for names in given.values() for dim in names]
        _check_known("dims", given, [*self.dims, *(source.variable for source in sources.values())])
        _check_known("coords", coords, ["chain", "draw", *sizes, *named])
        self._coords = _of_table(rows, sources, given) | {dim: as_coordinate(v) for dim, v in coords.items()}
        for dim, labels in self._coords.items():
            if dim in sizes and len(labels) != sizes[dim]:
                message = f"coords[{dim!r}] has {len(labels)} labels, but there are {sizes[dim]} along it"
                raise refusal(message, "coords")
        self._coords.setdefault(DATA, np.arange(len(rows)))

    def coords(self, rows: slice) -> dict[str, np.ndarray]:
        """Dimension -> labels, those of the rows in question."""
        return self._coords | {DATA: self._coords[DATA][rows]}


def _of_table(rows: Data, sources: Mapping[str, Source], given: Mapping[str, list[str]]) -> dict[str, np.ndarray]:
    """The labels that the data bring: their row names, and the columns of each leaf that a data site observed."""
    found: dict[str, np.ndarray] = {} if rows.row_names is None else {DATA: as_coordinate(rows.row_names)}
    columns = list(rows.names().values())
    for named, leaf, dims in sources.values():
        if leaf is not None and columns[leaf] is not None and len(dims) == 2:
            found[_named(named, dims, given.get(named))[-1]] = as_coordinate(columns[leaf])
    return found


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
            f"dims[{name!r}] = {given} names {len(given)} dimensions, but {name!r} has {number} of its own, after "
            f"{[dim for dim in dims if dim is not None]}",
            "dims",
        )
    own = iter([*given, *(f"{name}_dim_{i}" for i in range(number - len(given)))])
    return [next(own) if dim is None else dim for dim in dims]


def _check_known(what: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        listed = ", ".join(dict.fromkeys(known))
        raise refusal(f"{what} names {unknown[0]!r}, which is not there; known are: {listed}", what)
