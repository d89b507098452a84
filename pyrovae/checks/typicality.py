"""Which rows do not look like data that the model would simulate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrovae.checks.calls import Covariates, latent_work, seed_or_drawn
from pyrovae.checks.entries import array, entry_means, sampled_traces
from pyrovae.checks.findings import CAUTION, GOOD, Case, Check, Finding, Line, Result, share
from pyrovae.data import Data, batches
from pyrovae.data.rows import leaves
from pyrovae.errors import check_integer
from pyrovae.programs import log_terms
from pyrovae.programs.rows import MAX_BYTES, Block, RowWork, mixed
from pyrovae.programs.simulate import simulate

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float64]
FEWEST = 159
"""Simulated rows for each pattern of missing entries: the fewest whose p-values attain a level of 5 % exactly."""


def typicality(
    program: Any,
    data: Any,
    covariates: Covariates | None = None,
    *,
    num_simulations: int = 1000,
    num_samples: int = 16,
    level: float = 0.05,
    seed: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> Result:
    r"""Which rows do not look like data that the model would simulate, and so lie where the guide was never right.

    .. math:: T_1(x) = \mathrm{ELBO}(x), \qquad T_2(x) = (m(x) - \bar m)^\top C^{-1} (m(x) - \bar m), \qquad
        p = \Pr\bigl(T(x^{\mathrm{sim}}) \text{ is as extreme as } T(x)\bigr)

    with m(x) the posterior means, and their average and covariance over simulated rows. A row is held against simulated
    rows that lack the same entries. The test of the ELBO is two-sided, that of the posterior mean asks for distances as
    large.

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``; local latents only.
        data: data of N rows.
        covariates: for each name, a tensor of N rows, which the simulations use in turn.
        num_simulations: rows simulated from the model; at least 159 for each pattern of missing entries.
        num_samples: draws of the guide for each row.
        level: the share of typical rows that may be called atypical.
        seed: of simulations and draws; None takes one from torch's random state.
        max_bytes: refuse what needs more memory.
        progress: True shows bars, False none; by default there are some on a terminal.

    Returns:
        A result over ``data``: ``p_values`` by statistic, ``"elbo"`` and ``"posterior mean"`` (how rarely a simulated row is
        as extreme), ``p_value`` (the smaller of the two times two, at most 1), and ``atypical`` (``p_value`` below ``level``).

    Raises:
        ValueError: the model cannot be simulated, or has global latents.

    Reference: Li et al. 2024, arXiv:2409.04332 (a step of their amortized Bayesian workflow).

    >>> import pyrovae as pvae
    >>> vae = pvae.build_vae(5, likelihood="normal", latent_dim=2, hidden=(8,))
    >>> typicality(vae, 100 * torch.ones(3, 5), num_simulations=200, seed=0).atypical
    array([ True,  True,  True])
    """
    import xarray as xr

    seed, num_simulations = seed_or_drawn(seed), check_integer("num_simulations", num_simulations)
    plan: dict[str, Any] = {"num_samples": num_samples, "max_bytes": max_bytes, "progress": progress}
    work = latent_work(program, data, covariates, seed=seed, **plan)
    patterns = _patterns(work.data)
    each = max(FEWEST, num_simulations // len(patterns)) if len(patterns) > 1 else num_simulations
    rows = work.data[torch.cat([pattern[torch.arange(each) % len(pattern)] for pattern in patterns])]
    template = next(iter(batches(rows, len(rows), shuffle=False, **work.place)))
    with work.evaluating(mixed(seed, 0, 0, 1)):
        simulated = simulate(work.program.model, len(rows), template.x, rows.covariates)
    there = latent_work(work.program, simulated.x, rows.covariates, seed=mixed(seed, 0, 0, 2), **plan)
    (elbo, means), (elbos, reference) = _statistics(work), _statistics(there)
    distance, distances = _distances(means, reference), _distances(reference, reference)
    p_elbo, p_mean = np.empty(len(work)), np.empty(len(work))
    for number, pattern in enumerate(patterns):
        made = slice(number * each, (number + 1) * each)
        tails = np.minimum(_tail(-elbo[pattern], -elbos[made]), _tail(elbo[pattern], elbos[made]))
        p_elbo[pattern] = np.minimum(1.0, 2 * tails)
        p_mean[pattern] = _tail(distance[pattern], distances[made])
    p = np.minimum(1.0, 2 * np.minimum(p_elbo, p_mean))
    variables = {
        "p_values": (("statistic", "data"), np.stack([p_elbo, p_mean])),
        "p_value": ("data", p),
        "atypical": ("data", p < level),
    }
    attributes = {"level": level, "num_simulations": len(rows)}
    return Result(xr.Dataset(variables, {"statistic": ["elbo", "posterior mean"]}, attributes), judge, draw)


def _patterns(data: Data) -> list[Tensor]:
    """The rows that lack the same entries, pattern by pattern."""
    if data.complete:
        return [torch.arange(len(data))]
    missing = torch.cat([leaf.isnan().reshape(len(leaf), -1) for leaf, _ in leaves(data.dense().x)], 1)
    _, pattern = missing.unique(dim=0, return_inverse=True)
    return [(pattern == number).nonzero()[:, 0] for number in range(int(pattern.max()) + 1)]


def _statistics(work: RowWork) -> tuple[Array, Array]:
    """Of each row: the ELBO, and the posterior means of all entries side by side, zero where they are masked."""

    def task(block: Block) -> dict[str, Tensor]:
        elbo, means = [], []
        for tile in block.tiles():
            model_trace, guide_trace = sampled_traces(tile)
            elbo.append(log_terms(model_trace, guide_trace, dtype=torch.float64).log_weights)
            found = entry_means(guide_trace, masked=True).values()
            means.append(torch.cat([m.flatten(2) if m.ndim > 2 else m[..., None] for m in found], 2).double())
        return {"elbo": torch.cat(elbo).mean(0), "means": torch.cat(means).mean(0)}

    found = work.run(task, "typicality")
    return array(found["elbo"]), array(found["means"])


def _distances(means: Array, simulated: Array) -> Array:
    """Squared Mahalanobis distances from the simulated rows' average."""
    covariance = np.atleast_2d(np.cov(simulated.T)) + 1e-9 * np.eye(simulated.shape[1])
    centered = means - simulated.mean(0)
    return np.einsum("bi,ij,bj->b", centered, np.linalg.inv(covariance), centered)


def _tail(values: Array, simulated: Array) -> Array:
    """The share of simulated values at least as large, the row itself counted as one."""
    above = len(simulated) - np.searchsorted(np.sort(simulated), values)
    return (1 + above) / (len(simulated) + 1)


def judge(found: xr.Dataset) -> list[Finding]:
    """How many rows are atypical, against how many would be by chance: beyond three standard errors it is too many."""
    count, total, level = int(found["atypical"].sum()), found.sizes["data"], found.attrs["level"]
    chance = f"{100 * level:.3g} % would be by chance"
    if count <= total * level + 3 * np.sqrt(total * level):
        return [
            Finding(GOOD, "atypical rows", f"{share(count, total)} are atypical of the model's own data; {chance}.")
        ]
    claim = f"{share(count, total)} do not look like data that the model would simulate ({chance})."
    advice = (
        "Look at those rows, and do not rely on the amortized guide there: correct its draws (`posterior_draws`). A richer "
        "likelihood or prior may take them in."
    )
    return [Finding(CAUTION, "atypical rows", claim, advice)]


def numbers(found: xr.Dataset) -> list[Line]:
    """The share of atypical rows."""
    return [Line("atypical rows", 100 * float(found["atypical"].mean()), unit="%")]


def draw(found: xr.Dataset, ax: Any = None) -> Any:
    """The p-values of the rows, uniform where the model makes such data."""
    from pyrovae.plots import plot_pit

    return plot_pit(
        {str(name): found["p_values"].sel(statistic=name).values for name in found["statistic"].values}, ax=ax
    )


def _run(case: Case) -> xr.Dataset:
    return typicality(case.program, case.some, num_simulations=case.num_simulations, **case.options).dataset


TYPICALITY = Check("typicality", _run, judge, numbers=numbers, draw=draw)
