"""Draws from the posterior of each row, corrected where the guide is not good enough, and what was done to get them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrovae.checks.calls import check_local
from pyrovae.checks.entries import array, rows_second, sampled_traces
from pyrovae.checks.reference import Sampler, reference_posterior
from pyrovae.checks.simulate import Covariates
from pyrovae.checks.words import share
from pyrovae.evaluation.psis import good_k, psis
from pyrovae.programs import latent_names, log_terms
from pyrovae.programs.draws import CHUNK_SIZE, Call, Draws

Array = NDArray[np.float64]
EXACT_SHARE = 0.95
"""Share of the proposals that must be effective for the guide's own draws to pass as they are."""


class Proposals(NamedTuple):
    """Draws of the guide with their weights, rows second: values by site (proposals, data, *event_shape)."""

    values: dict[str, Tensor]
    log_weights: Tensor
    """Pareto-smoothed, normalized over the proposals; shape (proposals, data)."""
    pareto_k: Tensor
    ess: Tensor


@dataclass(frozen=True, repr=False)
class PosteriorDraws:
    """What :func:`posterior_draws` returns.

    Attributes:
        values: by site, draws of shape ``(samples, data, *event_shape)``.
        method: ``"guide"``, ``"psis"`` or ``"hmc"`` for each row, shape ``(data,)``.
        pareto_k: the Pareto shape of the guide's importance weights, shape ``(data,)``.
        ess: the effective number of the guide's proposals, shape ``(data,)``.
        rhat: the largest R-hat of the rows that were sampled by HMC, NaN elsewhere, shape ``(data,)``.
        num_proposals: draws of the guide that the weights were computed on.
    """

    values: dict[str, Tensor]
    method: NDArray[np.str_]
    pareto_k: Array
    ess: Array
    rhat: Array
    num_proposals: int

    @property
    def num_data(self) -> int:
        """The number of rows."""
        return len(self.method)

    def draws(self) -> dict[str, Tensor]:
        """The draws by site, shape ``(samples, data, *event_shape)``."""
        return self.values

    def summary(self) -> str:
        """How many rows came from which method, and what to do about the unreliable ones."""
        lines = [f"{name}: {share(int((self.method == name).sum()), self.num_data)}" for name in _TABLE]
        limit = good_k(self.num_proposals)
        weak = int(((self.method != "hmc") & ~(self.pareto_k <= limit)).sum())
        if weak:
            lines.append(
                f"{share(weak, self.num_data)} have k-hat above {limit:.2f}, so that neither the guide's draws nor "
                "reweighted ones are reliable there: method='auto' or 'hmc', or refine the guide."
            )
        stuck = int((self.rhat > 1.05).sum())
        if stuck:
            lines.append(
                f"{share(stuck, self.num_data)} have R-hat above 1.05: run longer chains (sampler=Sampler(...))."
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        samples = next(iter(self.values.values())).shape[0]
        return f"PosteriorDraws({samples} draws x {self.num_data} rows)\n{self.summary()}"


def posterior_draws(
    program: Any,
    data: Any,
    covariates: Covariates | None = None,
    *,
    method: str = "auto",
    num_samples: int = 200,
    num_proposals: int = 1000,
    sampler: Sampler | None = None,
    chunk_size: int = CHUNK_SIZE,
    seed: int = 0,
    progress: bool | None = None,
) -> PosteriorDraws:
    r"""Draws from p(z | x) of each row: the guide's, corrected as far as each row needs it.

    .. math:: z_s \sim q(z \mid x_i), \quad w_s = \frac{p(x_i, z_s)}{q(z_s \mid x_i)}, \quad
        z \sim \sum_s \bar w_s\, \delta_{z_s}

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``; local latents only.
        data: data of N rows.
        method: ``"guide"``: as they are; ``"psis"``: resampled by Pareto-smoothed weights; ``"hmc"``: chains, half of them
            started at the guide; ``"auto"``: row by row the guide where 95 % of its draws are effective, else smoothed
            weights where k-hat allows, else chains.
        num_samples: draws a row.
        covariates: a tensor of N rows for each name.
        num_proposals: draws of the guide on which weights are computed.
        sampler: of the chains.
        chunk_size: draws (pairs of a sample and a row) evaluated at once.
        seed: of all draws.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Raises:
        ValueError: another method, global latents, fewer proposals than samples.

    Reference: Vehtari et al. 2024, arXiv:1507.02646; Li et al. 2024, arXiv:2409.04332, for the escalation.

    >>> import pyro, pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2, 1.0))
    >>> posterior_draws((model, guide), torch.zeros(3)).method
    array(['psis', 'psis', 'psis'], dtype='<U5')
    """
    if method not in (*_TABLE, "auto"):
        raise ValueError(f"method must be one of {', '.join(map(repr, _TABLE))} or 'auto', got {method!r}")
    if not 1 <= num_samples <= num_proposals:
        raise ValueError(f"expected 1 <= num_samples <= num_proposals, got {num_samples} and {num_proposals}")
    draws = Draws(program, data, covariates, num_proposals, chunk_size, seed=seed, progress=progress)
    check_local(draws)
    values, proposals, chosen = [], [], []
    with draws.each("posterior_draws") as batches:
        for _, batch in batches:
            proposed = propose(draws, draws.call(batch))
            methods = _escalate(proposed) if method == "auto" else np.full(len(proposed.ess), method, dtype="<U5")
            values.append(_pick(proposed, methods, num_samples))
            proposals.append(proposed)
            chosen.append(methods)
    joined = {name: torch.cat([part[name] for part in values], 1) for name in values[0]}
    methods = np.concatenate(chosen)
    rhat = (
        _replace_by_chains(draws, joined, methods, sampler, seed) if "hmc" in methods else np.full(len(methods), np.nan)
    )
    k, ess = (array(torch.cat([getattr(p, name) for p in proposals])) for name in ("pareto_k", "ess"))
    return PosteriorDraws(joined, methods, k, ess, rhat, num_proposals)


def propose(draws: Draws, call: Call) -> Proposals:
    """The guide's draws for the rows of a call, with smoothed weights, on the CPU."""
    values: dict[str, list[Tensor]] = {}
    weights = []
    call, redrawn = draws.redrawing(call)
    for size in draws.sizes():
        model_trace, guide_trace = sampled_traces(call, size)
        weights.append(log_terms(model_trace, guide_trace, dtype=torch.float64).log_weights.cpu())
        for name in latent_names(guide_trace):
            site = guide_trace.nodes[name]
            values.setdefault(name, []).append(rows_second(redrawn.get(name, site["value"]), site).cpu())
    smoothed = psis(torch.cat(weights))
    return Proposals({n: torch.cat(v) for n, v in values.items()}, smoothed.log_weights, smoothed.k, smoothed.ess)


def _escalate(proposed: Proposals) -> NDArray[np.str_]:
    size = len(proposed.log_weights)
    k, ess = array(proposed.pareto_k), array(proposed.ess)
    methods = np.where(k <= good_k(size), "psis", "hmc").astype("<U5")
    methods[ess >= EXACT_SHARE * size] = "guide"
    return methods


def _pick(proposed: Proposals, methods: NDArray[np.str_], num_samples: int) -> dict[str, Tensor]:
    """The chosen proposals of each row; rows that wait for chains get the guide's draws for now."""
    index = torch.stack([_TABLE[m](w, num_samples) for m, w in zip(methods, proposed.log_weights.T, strict=True)], 1)
    return {name: _gather(values, index) for name, values in proposed.values.items()}


def _gather(values: Tensor, index: Tensor) -> Tensor:
    index = index.reshape(*index.shape, *(1,) * (values.ndim - 2))
    return values.gather(0, index.expand(-1, *values.shape[1:]))


def _first(log_weights: Tensor, num_samples: int) -> Tensor:
    return torch.arange(num_samples)


def _resampled(log_weights: Tensor, num_samples: int) -> Tensor:
    """Systematic resampling, shuffled: each proposal about as often as its weight says."""
    weights = torch.nan_to_num(log_weights.exp(), nan=1.0)
    points = (torch.arange(num_samples) + torch.rand(())) / num_samples
    index = torch.searchsorted(weights.cumsum(0) / weights.sum(), points.double()).clamp_max(len(weights) - 1)
    return index[torch.randperm(num_samples)]


_TABLE: Mapping[str, Callable[[Tensor, int], Tensor]] = {"guide": _first, "psis": _resampled, "hmc": _first}


def _replace_by_chains(
    draws: Draws, values: dict[str, Tensor], methods: NDArray[np.str_], sampler: Sampler | None, seed: int
) -> Array:
    """Puts chains' draws into the rows that need them, in place, and returns every row's R-hat."""
    rows = torch.as_tensor(np.flatnonzero(methods == "hmc"))
    reference = reference_posterior(
        draws.program, draws.data[rows], sampler=sampler, seed=seed, progress=draws.progress
    )
    chains = reference.draws()
    if set(chains) != set(values):
        raise ValueError(
            f"chains sum out the discrete sites {sorted(set(values) - set(chains))}: use method='psis' for draws of them"
        )
    for name, drawn in chains.items():
        picked = torch.linspace(0, len(drawn) - 1, len(values[name])).round().long()
        values[name][:, rows] = drawn[picked].to(values[name])
    rhat = np.full(len(methods), np.nan)
    rhat[rows.numpy()] = reference.max_rhat
    return rhat
