"""Blocks of rows put together: each group's arrays for some rows, joined along draws and along rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pyrovae.arviz import GROUPS
from pyrovae.arviz.traced import Arrays, Named
from pyrovae.data import Data
from pyrovae.programs import DATA
from pyrovae.programs.rows import Block, RowWork

SAMPLED = frozenset(group for group, leading in GROUPS.items() if "draw" in leading)


def covariate_arrays(rows: Data) -> dict[str, Named]:
    """The covariates of some rows as they were given."""
    given = {name: value.cpu().numpy() for name, value in (rows.covariates or {}).items()}
    return {name: Named(value, (DATA, *[None] * (value.ndim - 1))) for name, value in given.items()}


def joined(parts: Sequence[Arrays]) -> Arrays:
    """Arrays of some draws each, put together along the draws; what has no draws is the same in each part."""
    if len(parts) == 1:
        return parts[0]
    return {
        group: {
            name: named._replace(array=np.concatenate([part[group][name].array for part in parts]))
            for name, named in arrays.items()
        }
        if group in SAMPLED
        else arrays
        for group, arrays in parts[0].items()
    }


def place(whole: Arrays, rows: slice, block: Arrays, size: int) -> None:
    """Write a block into its rows; an array of ``size`` rows is made when its first block comes.

    Args:
        whole: the arrays, changed in place.
        rows: where the block belongs.
        block: its arrays.
        size: the number of rows in all.
    """
    for group, arrays in block.items():
        kept = whole.setdefault(group, {})
        for name, (array, dims) in arrays.items():
            if DATA not in dims:
                kept.setdefault(name, Named(array, dims))
                continue
            axis = _axis_of_rows(group, dims)
            if name not in kept:
                kept[name] = Named(np.empty((*array.shape[:axis], size, *array.shape[axis + 1 :]), array.dtype), dims)
            kept[name].array[(slice(None),) * axis + (rows,)] = array


def collect(
    work: RowWork, make: Callable[[Block, slice], Arrays], at_once: int, write: Callable[[slice, Arrays], None]
) -> None:
    """Make every block, and write them put together, some rows at once.

    Args:
        work: the program and its rows.
        make: the arrays of a block and its rows.
        at_once: rows that are written together at least; all writes but the last have equally many.
        write: takes some rows and their arrays.
    """
    at_once = -(-at_once // work.rows) * work.rows
    whole: Arrays = {}

    def task(block: Block) -> dict[str, Any]:
        nonlocal whole
        rows = slice(block.number * work.rows, block.number * work.rows + len(block.batch.index))
        first = rows.start // at_once * at_once
        size = min(at_once, len(work) - first)
        place(whole, slice(rows.start - first, rows.stop - first), make(block, rows), size)
        if rows.stop == first + size:
            write(slice(first, rows.stop), whole)
            whole = {}
        return {}

    work.run(task, "from_pyro_svi")


def _axis_of_rows(group: str, dims: tuple[str | None, ...]) -> int:
    return dims.index(DATA) + (group in SAMPLED)


def bytes_of(group: str, arrays: Mapping[str, Named], num_draws: int, size: int) -> int:
    """The bytes of a group's arrays with so many draws and rows."""
    total = 0
    for array, dims in arrays.values():
        shape = list(array.shape)
        if group in SAMPLED:
            shape[0] = num_draws
        if DATA in dims:
            shape[_axis_of_rows(group, dims)] = size
        total += math.prod(shape) * array.dtype.itemsize
    return total


def in_chains(block: Mapping[str, Mapping[str, Named]], num_chains: int) -> dict[str, dict[str, np.ndarray]]:
    """The arrays alone, the draws of sample groups cut into chains."""
    return {
        group: {
            name: array.reshape(num_chains, -1, *array.shape[1:]) if group in SAMPLED else array
            for name, (array, _) in arrays.items()
        }
        for group, arrays in block.items()
    }
