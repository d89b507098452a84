"""What was observed: the argument's own numbers, missing ones included, for each data site of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from pyrovae.arviz.sites import Named, data_sites, draws_of, inside


class Source(NamedTuple):
    """Where a data site's values came from: the number of the argument's leaf, or None if they are none of them."""

    leaf: int | None
    dims: tuple[str | None, ...]


def sources(trace: Trace, x: Any) -> dict[str, Source]:
    """For each data site of the plate ``data``, the leaf of ``x`` that holds the numbers it observed.

    A trace holds fills where entries are missing, so a leaf is known by what it has of the rest.

    Args:
        trace: of the model, run on ``x``.
        x: a tensor, or a tree of tensors.
    """
    leaves, _ = tree_flatten(x)
    found = {}
    for name in data_sites(trace):
        if inside(trace.nodes[name]):
            value, dims = _first(trace, name)
            equal = [number for number, leaf in enumerate(leaves) if _agrees(leaf, value)]
            found[name] = Source(equal[0] if equal else None, dims)
    return found


def observed(found: Mapping[str, Source], trace: Trace, x: Any) -> dict[str, np.ndarray]:
    """The observed numbers of each data site, of shape ``(rows, *shape)``; NaN where an entry is missing.

    Args:
        found: from :func:`sources`.
        trace: of the model, run on these rows.
        x: these rows.
    """
    leaves, _ = tree_flatten(x)
    values = {}
    for name, source in found.items():
        value, _ = _first(trace, name)
        values[name] = value if source.leaf is None else leaves[source.leaf].cpu().numpy().reshape(value.shape)
    return values


def without_gaps(found: Mapping[str, Source], trace: Trace, x: Any) -> Any:
    """The data with the program's own fills for its missing entries, so that no site is masked."""
    leaves, spec = tree_flatten(x)
    for name, source in found.items():
        if source.leaf is not None and leaves[source.leaf].is_floating_point():
            leaf = leaves[source.leaf]
            filled = torch.as_tensor(_first(trace, name)[0]).to(leaf).reshape(leaf.shape)
            leaves[source.leaf] = torch.where(leaf.isnan(), filled, leaf)
    return tree_unflatten(leaves, spec)


def _first(trace: Trace, name: str) -> Named:
    array, dims = draws_of(trace.nodes[name])
    return Named(array[0], dims)


def _agrees(leaf: Tensor, value: np.ndarray) -> bool:
    if len(leaf) != len(value) or leaf.numel() != value.size:
        return False
    own = leaf.cpu().numpy().reshape(value.shape)
    missing = np.isnan(own) if own.dtype.kind == "f" else np.zeros(own.shape, bool)
    return bool(np.all(missing | (own == value)))
