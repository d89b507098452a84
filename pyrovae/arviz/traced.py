"""The values of a trace's sites as arrays: draws first, rows second, every axis with a name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from pyrovae.programs import DATA, PARTICLES
from pyrovae.programs.masks import counted
from pyrovae.programs.sites import Site, frame_of, sites_of


class Named(NamedTuple):
    """An array of shape ``(draws, *shape)`` and the names of the axes after the draws, None for those without."""

    array: np.ndarray
    dims: tuple[str | None, ...]


Arrays = dict[str, dict[str, Named]]
"""The arrays of each group."""


def draws_of(site: Site, value: Tensor | None = None) -> Named:
    """A site's value as an array: draws (one without the plate of particles), rows, other plates, then the event.

    A value that lacks the axis of a plate (an observation, a constant) is repeated along it.

    Args:
        site: of a trace.
        value: another tensor in the place of the site's value, with the same event.
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
    """The draws of latents and of ``pyro.deterministic``; NaN where a masked latent does not count.

    Args:
        trace: in which all latents are drawn.
        masked: the latents that both functions mask.
        besides: sites that are data.
    """
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
    value = value if value.is_floating_point() else value.double()
    return torch.where(counts, value, torch.nan)


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

    A trace holds fills where entries are missing, so a leaf is known by the other entries.

    Args:
        trace: of the model, run on ``x``.
        x: a tensor, or a tree of tensors.
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
    """The observed numbers of each data site, of shape ``(rows, *shape)``; NaN where an entry is missing.

    Args:
        found: from :func:`sources`.
        trace: of the model, run on these rows.
        x: these rows as they were given.
    """
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


def without_gaps(found: Mapping[str, Source], trace: Trace, x: Any) -> Any:
    """The data with the program's own fills for its missing entries, so that no site is masked."""
    leaves, spec = tree_flatten(x)
    for name, source in found.items():
        if source.leaf is not None and leaves[source.leaf].is_floating_point():
            leaf = leaves[source.leaf]
            filled = torch.as_tensor(draws_of(trace.nodes[name])[0][0]).to(leaf).reshape(leaf.shape)
            leaves[source.leaf] = torch.where(leaf.isnan(), filled, leaf)
    return tree_unflatten(leaves, spec)
