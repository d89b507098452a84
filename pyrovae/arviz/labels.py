"""Names of dimensions and their labels: the user's, a table's, the program's plates, else the defaults."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils._pytree import tree_flatten

from pyrovae.arviz import as_coordinate
from pyrovae.arviz.blocks import Arrays
from pyrovae.arviz.observed import Source
from pyrovae.arviz.sites import variable
from pyrovae.data import Data

_REDUCED = ("log_likelihood", "prior_sbc")  # their variables lack dimensions that the same sites have elsewhere


class Labels:
    """The dimensions and coordinates of every variable, complete once a trial run has shown the variables.

    Args:
        data: the argument as it came, whose index and columns count.
        rows: the same as ``Data``.
        coords: dimension -> labels, which come before a table's.
        dims: variable -> names of its event dimensions, or of all after the draws.
    """

    def __init__(self, data: Any, rows: Data, coords: Mapping[str, Any], dims: Mapping[str, Sequence[str]]) -> None:
        self._size, self._tables = len(rows), tables(data, rows)
        self._given_coords, self._given_dims = dict(coords), {name: list(given) for name, given in dims.items()}
        self._dims: dict[str, list[str]] = {}
        self._coords: dict[str, np.ndarray] = {}

    def learn(self, block: Arrays, sources: Mapping[str, Source], num_new: int = 0) -> None:
        """Name every dimension of a block's variables, and label those that are known.

        Args:
            block: the arrays of some rows.
            sources: where each data site's numbers come from.
            num_new: the number of rows that are predicted.

        Raises:
            ValueError: dims or coords name what is not there, or have another length.
        """
        sizes: dict[str, int] = {}
        for group, arrays in block.items():
            for name, (array, dims) in arrays.items():
                reduced = group in _REDUCED
                if reduced and name in self._dims:
                    continue
                named = _named(name, dims, None if reduced else self._given_dims.get(name))
                self._dims[name] = named
                sizes |= dict(zip(reversed(named), reversed(array.shape), strict=False))
        sizes |= {"data": self._size, **({"new_data": num_new} if num_new else {})}
        named = [dim for given in self._given_dims.values() for dim in given]
        _known("dims", self._given_dims, [*self._dims, *map(variable, sources)])
        _known("coords", self._given_coords, ["chain", "draw", *sizes, *named])
        self._coords = {**self._from_tables(sources), **{d: as_coordinate(v) for d, v in self._given_coords.items()}}
        for dim, labels in self._coords.items():
            if dim in sizes and len(labels) != sizes[dim]:
                raise ValueError(f"coords[{dim!r}] has {len(labels)} labels, but there are {sizes[dim]} along it")

    def _from_tables(self, sources: Mapping[str, Source]) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for site, (leaf, dims) in sources.items():
            if leaf is None or leaf not in self._tables:
                continue
            index, columns = self._tables[leaf]
            if index is not None:
                found.setdefault("data", index)
            if len(dims) == 2:
                found[_named(site, dims, self._given_dims.get(variable(site)))[-1]] = columns
        return found

    def dims(self) -> Mapping[str, list[str]]:
        """Variable -> names of the dimensions after the draws."""
        return self._dims

    def coords(self, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """Dimension -> labels, those of the rows in question."""
        labels = {"data": np.arange(self._size), **self._coords}
        return labels | {"data": labels["data"][rows]}


def _named(name: str, dims: tuple[str | None, ...], given: list[str] | None) -> list[str]:
    """The names of a variable's dimensions: given for its event, or for everything after the draws."""
    if given is None:
        given = []
    number = dims.count(None)
    if len(given) == len(dims):
        if [own for own, dim in zip(given, dims, strict=True) if dim == "data"] not in ([], ["data"]):
            raise ValueError(
                f"dims[{name!r}] = {given} renames the rows, whose dimension is 'data': write {['data', *given[1:]]}, or "
                f"the event's dimensions alone, {given[1:]}"
            )
        return list(given)
    if len(given) > number:
        raise ValueError(
            f"dims[{name!r}] = {given} names {len(given)} dimensions, but {name!r} has {number} of its own, after "
            f"{[dim for dim in dims if dim is not None]}"
        )
    own = iter([*given, *(f"{name}_dim_{i}" for i in range(number - len(given)))])
    return [next(own) if dim is None else dim for dim in dims]


def _known(what: str, given: Mapping[str, Any], known: Any) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(
            f"{what} names {unknown[0]!r}, which is not there; known are: {', '.join(dict.fromkeys(known))}"
        )


def tables(data: Any, rows: Data) -> dict[int, tuple[np.ndarray | None, np.ndarray]]:
    """Of each leaf that came as a table: the labels of its rows (None if unknown) and of its columns."""
    if isinstance(data, Data):
        return {} if rows.columns is None else {0: (None, as_coordinate(rows.columns))}
    if "pandas" not in sys.modules:
        return {}
    frame = sys.modules["pandas"].DataFrame
    leaves, _ = tree_flatten(data)
    return {
        number: (as_coordinate(leaf.index), as_coordinate(leaf.columns))
        for number, leaf in enumerate(leaves)
        if isinstance(leaf, frame)
    }
