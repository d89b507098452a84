"""The inference gap split: what the guide's family costs, and what amortization costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyrovae.evaluation.elbo import Bound, bound
from pyrovae.evaluation.estimators import Estimator, Refined, as_estimator
from pyrovae.evaluation.marginal import log_marginal
from pyrovae.evaluation.refine import refine
from pyrovae.programs.rows import MAX_BYTES

if TYPE_CHECKING:
    import xarray as xr


BOUND_SAMPLES = 1000
"""Draws per datum of the two bounds."""


def inference_gaps(
    program: Any,
    data: Any,
    covariates: Mapping[str, Any] | None = None,
    *,
    family: str = "normal",
    method: str | Estimator = "refined",
    num_samples: int | None = None,
    num_steps: int = 500,
    max_bytes: int = MAX_BYTES,
    seed: int | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    r"""Split log p(x) - ELBO of each datum into the family's part and amortization's.

    .. math:: \log p(x) - \mathcal{L}[q] = \underbrace{\log p(x) - \mathcal{L}[q^*]}_{\text{approximation}} +
        \underbrace{\mathcal{L}[q^*] - \mathcal{L}[q]}_{\text{amortization}}

    q* is the best Gaussian of the family for each datum by itself. Where the guide is of another family than ``family``,
    or its optimization has not converged, the second part holds that too, and may be negative.

    Args:
        program: as in :func:`pyrovae.evaluation.log_weights`.
        data: the data, N rows.
        covariates: for each name, a tensor of N rows.
        family: of q*: ``"normal"`` or ``"full"``, on the unconstrained latents.
        method: how log p(x) is estimated, as in :func:`pyrovae.evaluation.log_marginal`.
        num_samples: draws per datum (or chains) of the estimate of log p(x); by default those of the method. The two bounds
            take 1,000 draws.
        num_steps: steps of optimization for each datum.
        max_bytes: refuse what needs more memory.
        seed: makes the draws reproducible.
        progress: True shows bars, False none; by default there are some on a terminal.

    Returns:
        A Dataset over ``data``: ``log_marginal, elbo, refined_elbo, approximation, amortization`` in nats, each with its
        Monte-Carlo standard error ``..._error``, and ``pareto_k`` of the estimate. To draw both parts, write
        ``plots.plot_gaps(result[["approximation", "amortization"]])``.

    Reference: Cremer, Li & Duvenaud 2018, arXiv:1801.03558.

    >>> import torch, pyrovae as pvae, pyro.distributions as dist
    >>> vae = pvae.VAE(
    ...     pvae.standard_normal(1),
    ...     pvae.Factorized(dist.Normal, pvae.MLP(1, ()), 3, scale=1.0),
    ...     pvae.Factorized(dist.Normal, pvae.MLP(3, ()), 1),
    ... )
    >>> gaps = pvae.inference_gaps(vae, torch.ones(4, 3), num_steps=200, seed=0)
    >>> gaps.sizes["data"]
    4
    """
    estimator = as_estimator(method)
    estimator = replace(estimator, num_steps=num_steps) if isinstance(estimator, Refined) else estimator
    options: dict[str, Any] = {"max_bytes": max_bytes, "progress": progress}
    seeds = [None if seed is None else seed + number for number in range(4)]
    guide = refine(program, data, covariates, family=family, num_steps=num_steps, seed=seeds[0], **options)
    best = bound(guide, data, covariates, num_samples=BOUND_SAMPLES, seed=seeds[1], **options)
    own = bound(program, data, covariates, num_samples=BOUND_SAMPLES, seed=seeds[2], **options)
    evidence = log_marginal(
        program, data, method=estimator, num_samples=num_samples, covariates=covariates, seed=seeds[3], **options
    )
    return _dataset(evidence, best, own)


def _dataset(evidence: xr.Dataset, best: Bound, own: Bound) -> xr.Dataset:
    import xarray as xr

    marginal, error = (torch.from_numpy(evidence[name].values) for name in ("log_marginal", "mcse"))
    columns: dict[str, tuple[Tensor, Tensor]] = {
        "log_marginal": (marginal, error),
        "elbo": (own.elbo, own.elbo_error),
        "refined_elbo": (best.elbo, best.elbo_error),
        "approximation": (marginal - best.elbo, torch.hypot(error, best.elbo_error)),
        "amortization": (best.elbo - own.elbo, torch.hypot(best.elbo_error, own.elbo_error)),
    }
    variables = {name: ("data", value.numpy(), {"units": "nats"}) for name, (value, _) in columns.items()}
    variables |= {f"{name}_error": ("data", value.numpy(), {"units": "nats"}) for name, (_, value) in columns.items()}
    variables["pareto_k"] = ("data", evidence["pareto_k"].values, {})
    return xr.Dataset(variables, {"data": evidence["data"].values}, evidence.attrs)
