"""A warning before training: a density with a learned spread on data that repeat one value."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from pyro.distributions.torch_distribution import MaskedDistribution
from pyro.poutine.trace_struct import Trace
from torch import Tensor

SHARE, LEAST_ROWS = 0.25, 20
_NO_SPREAD = frozenset({"loc", "df"})


def warn_of_atoms(trace: Trace) -> None:
    r"""Warn where more than a quarter of a column's rows are one value, and a density with a learned spread is fitted to it.

    .. math:: \log \mathcal{N}(x_j;\ x_j, \sigma^2) = -\log \sigma + \mathrm{const} \to \infty \quad (\sigma \to 0)

    There the bound has no maximum: it measures the smallest spread that the parametrisation allows.

    Reference: Mattei & Frellsen 2018, Leveraging the exact likelihood of deep latent variable models, arXiv 1802.04826.
    """
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and site["is_observed"] and torch.is_tensor(site["value"]):
            base, mask = _unwrapped(site["fn"])
            if base is not None and _spreads(base):
                _warn(name, type(base).__name__, _columns(site["value"], mask))


def _unwrapped(fn: Any) -> tuple[Any, Any]:
    """The univariate distribution under batch and mask wrappers, and the mask; None where there is none."""
    mask = None
    while isinstance(fn, (torch.distributions.Independent, MaskedDistribution)):
        mask = fn._mask if isinstance(fn, MaskedDistribution) else mask
        fn = fn.base_dist
    univariate = isinstance(fn, torch.distributions.Distribution) and not fn.event_shape
    return (fn if univariate else None), mask


def _spreads(base: Any) -> bool:
    """Whether it is a density whose spread is learned."""
    if base.support is None or base.support.is_discrete:
        return False
    values = (getattr(base, name, None) for name in base.arg_constraints if name not in _NO_SPREAD)
    return any(torch.is_tensor(value) and value.requires_grad for value in values)


def _columns(value: Tensor, mask: Any) -> Tensor:
    rows = value.detach()
    if torch.is_tensor(mask):
        rows = torch.where(mask, rows, rows.new_full((), torch.nan))
    return rows.reshape(len(rows), -1) if rows.ndim else rows.reshape(0, 1)


def _warn(name: str, family: str, rows: Tensor) -> None:
    if len(rows) < LEAST_ROWS:
        return
    often = torch.stack(
        [rows.nanmedian(0).values, rows.nan_to_num(torch.inf).amin(0), rows.nan_to_num(-torch.inf).amax(0)]
    )
    share = (rows == often.unsqueeze(1)).to(rows.dtype).mean(1).amax(0)
    found = int((share > SHARE).sum())
    if found:
        worst = int(share.argmax())
        warnings.warn(
            f"{found} of {rows.shape[1]} columns of {name!r} take one value in more than a quarter of the rows (column {worst}: "
            f"{float(share[worst]):.0%}), and {family} is a density with a learned spread: it grows without bound there, and "
            "ELBO and evidence measure the smallest spread allowed. Use a likelihood of masses (DiscretizedLogistic, "
            "DiscretizedNormal, Binomial, ...), leave such columns out, or fix the spread",
            UserWarning,
            stacklevel=4,
        )
