"""The values of a trace's sites as arrays: draws first, rows second, every axis with a name."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.programs import PARTICLES
from pyrovae.programs.sites import sites_of

Site = dict[str, Any]


class Named(NamedTuple):
    """An array of shape ``(draws, *shape)`` and the names of the axes after the draws, None for those without."""

    array: np.ndarray
    dims: tuple[str | None, ...]


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
    order = sorted(range(batch), key=lambda axis: (names[axis] != PARTICLES, names[axis] != "data", axis))
    used = [axis for axis in order if names[axis] is not None or sizes[axis] > 1]
    unused = [axis for axis in order if axis not in used]
    full = value.expand((*sizes, *value.shape[value.ndim - event :]))
    full = full.permute((*used, *unused, *range(batch, batch + event)))
    only_draw = () if PARTICLES in names else (1,)
    full = full.reshape((*only_draw, *(sizes[axis] for axis in used), *value.shape[value.ndim - event :]))
    dims = (*(names[axis] for axis in used if names[axis] != PARTICLES), *[None] * event)
    return Named(full.detach().cpu().numpy(), dims)


def _event_dim(site: Site, value: Tensor, frames: dict[int, Any]) -> int:
    """The axes that are the event: of a deterministic site, which calls all of them so, those right of the plates."""
    event = len(site["fn"].event_shape)
    if not site["infer"].get("_deterministic") or event < value.ndim:
        return event
    depth = max((-dim for dim in frames), default=0)
    own = value.ndim - depth
    fits = own >= 0 and all(value.shape[depth + dim] in (1, frame.size) for dim, frame in frames.items())
    return own if fits else event


def data_sites(trace: Trace) -> list[str]:
    """The observed sites of a model's trace, without those that only add a factor."""
    return [s["name"] for s in sites_of(trace) if s["is_observed"] and s["value"].numel()]


def deterministic_sites(trace: Trace) -> list[str]:
    """The sites of ``pyro.deterministic``."""
    nodes = trace.nodes.values()
    return [s["name"] for s in nodes if s["type"] == "sample" and s["infer"].get("_deterministic")]


def inside(site: Site, plate: str = "data") -> bool:
    """Whether a site lies in a plate of that name."""
    return any(frame.name == plate for frame in site["cond_indep_stack"])


def variable(name: str) -> str:
    """A site's name as a variable's: files take a slash for a folder."""
    return name.replace("/", ".")
