"""Arrays with named axes, draws first and rows second: the values of a trace's sites, put together along draws and rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.utils._pytree import tree_flatten

from pyrovae.arviz import GROUPS
from pyrovae.data import Data
from pyrovae.programs import DATA, PARTICLES
from pyrovae.programs.masks import counted
from pyrovae.programs.rows import Block, RowWork
from pyrovae.programs.sites import Site, frame_of, sites_of

SAMPLED = frozenset(group for group, leading in GROUPS.items() if "draw" in leading)


class Named(NamedTuple):
    """An array of shape ``(draws, *shape)`` and the names of the axes after the draws, None for those without."""

    array: np.ndarray
    dims: tuple[str | None, ...]


Arrays = dict[str, dict[str, Named]]
"""The arrays of each group."""


def draws_of(site: Site, value: Tensor | None = None) -> Named:
    """A site's value as an array: draws (one without the plate of particles), rows, other plates, then the event.

    A value that lacks the axis of a plate (an observation, a constant) is repeated along it. Another tensor with the same
    event may take the place of the site's value.
    """
    value = site["value"] if value is None else value
    frames = {frame.dim: frame for frame in site["cond_indep_stack"] if frame.vectorized}
    event = _event_dim(site, value, frames)
    batch = max([value.ndim - event, *(-dim for dim in frames)])
    own = (1,) * (batch + event - value.ndim) + tuple(value.shape)
    sizes = [frames[dim].size if dim in frames else own[batch + dim] for dim in range(-batch, 0)]
    names = [frames[dim].name if dim in frames else None for dim in range(-batch, 0)]
    order = sorted(range(batch), key=lambda axis: (names[axis] != PARTICLES, names[axis] != DATA, axis))
    used = [axis for axis in order if names[axis] is not None or sizes[axis] > 1]
    unused = [axis for axis in order if axis not in used]
    full = value.expand((*sizes, *value.shape[value.ndim - event :]))
    full = full.permute((*used, *unused, *range(batch, batch + event)))
    only_draw = () if PARTICLES in names else (1,)
    full = full.reshape((*only_draw, *(sizes[axis] for axis in used), *value.shape[value.ndim - event :]))
    dims = (*(names[axis] for axis in used if names[axis] != PARTICLES), *[None] * event)
    return Named(full.detach().cpu().numpy(), dims)


def _event_dim(site: Site, value: Tensor, frames: Mapping[int, Any]) -> int:
    """The axes that are the event: of a deterministic site, which calls all of them so, those right of the plates."""
    event = len(site["fn"].event_shape)
    if not site["infer"].get("_deterministic") or event < value.ndim:
        return event
    depth = max((-dim for dim in frames), default=0)
    own = value.ndim - depth
    fits = own >= 0 and all(value.shape[depth + dim] in (1, frame.size) for dim, frame in frames.items())
    return own if fits else event


def variable(name: str) -> str:
    """A site's name as a variable's: files take a slash for a folder."""
    return name.replace("/", ".")


def latent_values(trace: Trace) -> dict[str, Tensor]:
    """The values of the latent sites of a trace in which all are drawn, auxiliary ones left out."""
    latents = [s for s in sites_of(trace) if not s["is_observed"] and not s["infer"].get("is_auxiliary")]
    return {s["name"]: s["value"] for s in latents}


def latent_arrays(trace: Trace, masked: Collection[str], besides: Collection[str] = ()) -> dict[str, Named]:
    """The draws of latents and of ``pyro.deterministic``, besides data; NaN where a masked latent does not count."""
    found = {}
    deterministic = [n for n, s in trace.nodes.items() if s["type"] == "sample" and s["infer"].get("_deterministic")]
    for name in [*latent_values(trace), *deterministic]:
        site = trace.nodes[name]
        if name in besides or f"{name}_unobserved" in trace.nodes:  # data completed by Pyro's obs_mask
            continue
        counts = counted(site) if name in masked else None
        found[variable(name)] = draws_of(site, None if counts is None else _hidden(site["value"], counts))
    return found


def _hidden(value: Tensor, counts: Tensor) -> Tensor:
    """The value with NaN where it does not count; whole numbers become floats."""
    return torch.where(counts, value if value.is_floating_point() else value.double(), torch.nan)


def data_sites(trace: Trace) -> dict[str, str]:
    """The observed sites of a model's trace by name, without those that only add a factor, each with its variable.

    ``pyro.sample("x", ..., obs_mask=)`` observes a site ``x_observed``, whose variable is ``x``.
    """
    found = {}
    for site in sites_of(trace):
        name = site["name"]
        if site["is_observed"] and site["value"].numel():
            whole = name.removesuffix("_observed")
            found[name] = variable(whole if f"{whole}_unobserved" in trace.nodes else name)
    return found


def data_arrays(trace: Trace, sites: Mapping[str, str]) -> dict[str, Named]:
    """The data sites of a trace in which they were drawn."""
    return {named: draws_of(trace.nodes[name]) for name, named in sites.items()}


class Source(NamedTuple):
    """Where a data site's values come from: the number of the argument's leaf, or None if they are none of them."""

    variable: str
    leaf: int | None
    dims: tuple[str | None, ...]


def sources(trace: Trace, x: Any) -> dict[str, Source]:
    """For each data site of the plate ``data``, the leaf of ``x`` that holds the numbers it observed.

    A trace of the model on ``x`` holds fills where entries are missing, so a leaf is known by the other entries.
    """
    leaves, _ = tree_flatten(x)
    found = {}
    for name, named in data_sites(trace).items():
        if frame_of(trace.nodes[name]):
            array, dims = draws_of(trace.nodes[name])
            equal = [number for number, leaf in enumerate(leaves) if _agrees(leaf, array[0])]
            found[name] = Source(named, equal[0] if equal else None, dims)
    return found


def _agrees(leaf: Tensor, value: np.ndarray) -> bool:
    if len(leaf) != len(value) or leaf.numel() != value.size:
        return False
    own = leaf.cpu().numpy().reshape(value.shape)
    missing = np.isnan(own) if own.dtype.kind == "f" else np.zeros(own.shape, bool)
    return bool(np.all(missing | (own == value)))


def observed(found: Mapping[str, Source], trace: Trace, x: Any) -> dict[str, Named]:
    """The observed numbers of each data site in some rows ``x``, ``(rows, *shape)``; NaN where an entry is missing."""
    leaves, _ = tree_flatten(x)
    arrays = {}
    for name, (named, leaf, dims) in found.items():
        site = trace.nodes[name]
        array = draws_of(site)[0][0]
        array = array if leaf is None else leaves[leaf].cpu().numpy().reshape(array.shape)
        if named != variable(name) and (counts := counted(site)) is not None:  # by Pyro's obs_mask
            array = np.where(draws_of(site, counts.expand_as(site["value"]))[0][0], array, np.nan)
        arrays[named] = Named(array, dims)
    return arrays


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
    """Write a block into its rows of the whole, whose arrays of ``size`` rows are made when the first block comes."""
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
    """Make the arrays of every block, and write those of at least ``at_once`` rows together, as many each time."""
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
