"""The inference gap split: what the guide's family costs, and what amortization costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyrovae.errors import check_integer, check_seed
from pyrovae.evaluation.elbo import elbo
from pyrovae.evaluation.estimators import DEFAULT, Estimator, Refined, as_estimator
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
    method: str | Estimator = DEFAULT,
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
    or its optimization has not converged (``notes`` among the attributes count such rows), the second part holds that too, and
    may be negative.

    Args:
        program: as in :func:`pyrovae.evaluation.log_weights`.
        data: the data, N rows.
        covariates: for each name, a tensor of N rows.
        family: of q*, as in :func:`pyrovae.evaluation.refine`, on the unconstrained latents.
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

    >>> import torch, pyrovae as pvae
    >>> vae = pvae.build_vae(3, likelihood="poisson", latent_dim=1)
    >>> gaps = pvae.inference_gaps(vae, torch.ones(4, 3), num_steps=200, seed=0)
    >>> gaps.sizes["data"]
    4
    """
    estimator = as_estimator(method)
    check_integer("num_steps", num_steps)
    check_seed(seed)
    estimator = replace(estimator, num_steps=num_steps) if isinstance(estimator, Refined) else estimator
    options: dict[str, Any] = {"max_bytes": max_bytes, "progress": progress}
    seeds = [None if seed is None else seed + number for number in range(4)]
    guide = refine(program, data, covariates, family=family, num_steps=num_steps, seed=seeds[0], **options)
    best = elbo(guide, data, covariates, num_samples=BOUND_SAMPLES, seed=seeds[1], **options)
    own = elbo(program, data, covariates, num_samples=BOUND_SAMPLES, seed=seeds[2], **options)
    options |= {"method": estimator, "num_samples": num_samples, "seed": seeds[3]}
    evidence = log_marginal(program, data, covariates, **options)
    found = evidence[["pareto_k"]].assign(log_marginal=evidence.log_marginal, elbo=own.elbo, refined_elbo=best.elbo)
    found["approximation"] = found.log_marginal - found.refined_elbo
    found["amortization"] = found.refined_elbo - found.elbo
    found["log_marginal_error"], found["elbo_error"] = evidence.mcse, own.elbo_error
    found["refined_elbo_error"] = best.elbo_error
    found["approximation_error"] = (evidence.mcse**2 + best.elbo_error**2) ** 0.5
    found["amortization_error"] = (best.elbo_error**2 + own.elbo_error**2) ** 0.5
    for name in found.data_vars:
        found[name].attrs = {} if name == "pareto_k" else {"units": "nats"}
    if guide.notes:
        found.attrs["notes"] = guide.notes
    return found
