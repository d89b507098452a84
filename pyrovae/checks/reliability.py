"""Per datum: how far estimates from the guide can be trusted, and what to do where they cannot; which rows are typical."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyrovae.checks.calls import check_local, stream, whole
from pyrovae.checks.entries import array, entry_means, sampled_traces
from pyrovae.checks.simulate import Covariates, simulate
from pyrovae.checks.words import share
from pyrovae.evaluation.psis import good_k, pareto_k
from pyrovae.programs import log_terms
from pyrovae.programs.draws import CHUNK_SIZE, Call, Draws

Array = NDArray[np.float64]
FINE, MORE, REFINE, RICHER = "fine", "more samples", "refine", "richer guide"
MANY = 10**6
"""Samples at which the limit of k-hat is as high as it gets: 0.7."""
TOLERANCE = 0.1
"""Nats of Monte-Carlo error of log p(x) above which more samples are asked for."""


@dataclass(frozen=True, repr=False)
class Reliability:
    """What :func:`reliability` found; every array of shape ``(data,)``, in nats where it has a unit.

    Attributes:
        elbo: the mean log weight.
        log_marginal: the log mean weight, an estimate of log p(x) that is low where k-hat is high.
        mcse: its standard error by the delta method.
        kl: of the guide to the prior.
        pareto_k: the Pareto shape of the weights.
        ess: their effective number.
        num_samples: draws a row.
        refined: whether the guide is one that was optimized for each row.
    """

    elbo: Array
    log_marginal: Array
    mcse: Array
    kl: Array
    pareto_k: Array
    ess: Array
    num_samples: int
    refined: bool = False

    @property
    def good_k(self) -> float:
        """The largest k-hat at which so many samples can be trusted."""
        return good_k(self.num_samples)

    @property
    def advice(self) -> NDArray[np.str_]:
        """For each row ``"fine"``, ``"more samples"``, ``"refine"``, or, where that has been done, ``"richer guide"``.

        A k-hat above :attr:`good_k` is too large; up to 0.7 more samples raise that limit, beyond it they do not.
        """
        bad = ~(self.pareto_k <= self.good_k)
        few = ~bad & (self.mcse > TOLERANCE) | bad & (self.pareto_k <= good_k(MANY))
        return np.select([few, bad], [MORE, RICHER if self.refined else REFINE], FINE)

    def count(self, advice: str) -> int:
        """The number of rows with that advice."""
        return int((self.advice == advice).sum())

    def summary(self) -> str:
        """The advice in words, most pressing first."""
        total = len(self.advice)
        counts = {advice: share(n, total) for advice in _ADVICE if (n := self.count(advice))}
        return "\n".join(_ADVICE[a].format(rows=rows, between=self._between()) for a, rows in counts.items())

    def _between(self) -> str:
        """The shapes that are too large for so many samples, and not for more."""
        if self.good_k >= good_k(MANY):
            return ""
        return f", or k-hat is above {self.good_k:.2f}, the limit for {self.num_samples:,} samples, but not above 0.7"

    def __repr__(self) -> str:
        k = f"median k-hat {np.median(self.pareto_k):.2f}"
        return f"Reliability({len(self.elbo)} rows x {self.num_samples} samples, {k})\n{self.summary()}"


_ADVICE = {
    REFINE: (
        "{rows}: importance-sampling estimates with this guide are unreliable there (k-hat above 0.7, the limit for any "
        "number of samples); refine the guide "
        "(pyrovae.refine, or log_marginal(method='refined'))."
    ),
    RICHER: (
        "{rows}: still unreliable after refinement (k-hat above 0.7, the limit for any number of samples); use a richer guide "
        "(full covariance, flow, mixture), or chains (posterior_draws(method='hmc'))."
    ),
    MORE: ("{rows}: more samples will do (the Monte-Carlo error of log p(x) is above 0.1 nats{between})."),
    FINE: "{rows}: reliable; draws reweighted by importance can stand for the posterior.",
}


def reliability(
    program: Any,
    data: Any,
    covariates: Covariates | None = None,
    *,
    num_samples: int = 1000,
    chunk_size: int = CHUNK_SIZE,
    seed: int = 0,
    progress: bool | None = None,
) -> Reliability:
    r"""Whether importance-sampling estimates with this guide can be trusted, row by row, and what to do where not.

    .. math:: \hat k_i = \text{Pareto shape of } w_{si} = \frac{p(x_i, z_{si})}{q(z_{si} \mid x_i)}, \qquad
        \hat k_i \le \min(1 - 1 / \log_{10} S,\ 0.7)

    Most amortized guides exceed the limit on many rows; that speaks of the guide, not of the model.

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, a ``pyro.infer.SVI``, or a refined guide.
        data: data of N rows.
        num_samples: draws a row.
        covariates: a tensor of N rows for each name.
        chunk_size: draws (pairs of a sample and a row) evaluated at once.
        seed: of the draws.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Raises:
        ValueError: global latents.

    Reference: Yao et al. 2018, arXiv:1802.02538; Vehtari et al. 2024, arXiv:1507.02646.

    >>> import pyro, pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2, 0.8))
    >>> reliability((model, guide), torch.zeros(3)).advice
    array(['fine', 'fine', 'fine'], dtype='<U12')
    """
    draws = Draws(program, data, covariates, num_samples, chunk_size, seed=seed, progress=progress)
    check_local(draws)
    parts = []
    with draws.each("reliability") as batches:
        for _, batch in batches:
            terms = list(draws.chunks(draws.call(batch)))
            log_weights = torch.cat([t.log_weights for t in terms]).cpu()
            parts.append([*_of_weights(log_weights), array(torch.cat([t.kl for t in terms]).mean(0))])
    elbo, log_marginal, mcse, ess, k, kl = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Reliability(elbo, log_marginal, mcse, kl, k, ess, num_samples, _is_refined(draws))


def _of_weights(log_weights: torch.Tensor) -> list[Array]:
    samples = len(log_weights)
    total = log_weights.logsumexp(0)
    ess = (2 * total - (2 * log_weights).logsumexp(0)).exp()
    mcse = (1 / ess - 1 / samples).clamp_min(0).sqrt()
    return [array(v) for v in (log_weights.mean(0), total - np.log(samples), mcse, ess, pareto_k(log_weights))]


def _is_refined(draws: Draws) -> bool:
    return callable(getattr(draws.program.guide, "select_rows", None))


@dataclass(frozen=True, repr=False)
class Typicality:
    """What :func:`typicality` found.

    Attributes:
        p_values: by statistic, how rarely a simulated row is as extreme, shape ``(data,)``.
        level: the level at which a row is called atypical, Bonferroni-adjusted over the statistics.
    """

    p_values: dict[str, Array]
    level: float

    @property
    def p_value(self) -> Array:
        """The smaller p-value times the number of statistics, at most 1; shape ``(data,)``."""
        return np.minimum(1.0, len(self.p_values) * np.min(list(self.p_values.values()), axis=0))

    @property
    def atypical(self) -> NDArray[np.bool_]:
        """Which rows do not look like data that the model would simulate; shape ``(data,)``."""
        return self.p_value < self.level

    def summary(self) -> str:
        """How many rows are atypical, against how many would be by chance, and what to do."""
        count, total = int(self.atypical.sum()), len(self.atypical)
        expected = f"{100 * self.level:.3g} % would be by chance"
        if count <= total * self.level + 3 * np.sqrt(total * self.level):
            return f"{share(count, total)} are atypical of the model's own data; {expected}."
        return (
            f"{share(count, total)} do not look like data that the model would simulate ({expected}): do not rely on the "
            "amortized guide there; correct its draws (posterior_draws), and look at those rows."
        )

    def __repr__(self) -> str:
        return f"Typicality({self.summary()})"


def typicality(
    program: Any,
    data: Any,
    covariates: Covariates | None = None,
    *,
    num_simulations: int = 1000,
    num_samples: int = 16,
    level: float = 0.05,
    seed: int = 0,
) -> Typicality:
    r"""Which rows do not look like data that the model would simulate, and so lie where the guide was never right.

    .. math:: T_1(x) = \mathrm{ELBO}(x), \qquad T_2(x) = (m(x) - \bar m)^\top C^{-1} (m(x) - \bar m), \qquad
        p = \Pr\bigl(T(x^{\mathrm{sim}}) \text{ is as extreme as } T(x)\bigr)

    with m(x) the posterior means, and their average and covariance over simulated rows.

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``; local latents only.
        data: data of N rows.
        num_simulations: rows simulated from the model.
        covariates: a tensor of N rows for each name; its rows are used in turn for the simulations.
        num_samples: draws of the guide for each row.
        level: the share of typical rows that may be called atypical.
        seed: of simulations and draws.

    Raises:
        ValueError: the model cannot be simulated, or has global latents.

    Reference: Li et al. 2024, arXiv:2409.04332 (a step of their amortized Bayesian workflow).

    >>> import pyrovae as pvae, pyro.distributions as dist
    >>> vae = pvae.VAE(pvae.standard_normal(2), pvae.Factorized(dist.Normal, pvae.MLP(2, (8,)), 5, scale=1.0),
    ...     pvae.Factorized(dist.Normal, pvae.MLP(5, (8,)), 2))
    >>> typicality(vae, 100 * torch.ones(3, 5), num_simulations=200).atypical
    array([ True,  True,  True])
    """
    draws = Draws(program, data, covariates, num_samples, seed=seed, progress=False)
    check_local(draws)
    first = draws.call(next(iter(draws.batches)))
    with draws.evaluating(stream(seed)):
        own = draws.data.covariates
        simulated = simulate(draws.program.model, num_simulations, first.args[0], own)
        repeated = None if own is None else {n: v[torch.arange(num_simulations) % len(v)] for n, v in own.items()}
    with draws.each("typicality") as batches:
        here = [_statistics(draws.call(b), num_samples) for _, b in batches]
    there_draws, there_call = whole(draws.program, simulated.x, repeated, stream(seed, 1))
    with there_draws.evaluating(stream(seed, 2)):
        there = _statistics(there_call, num_samples)
    elbo, means = (np.concatenate([part[i] for part in here]) for i in (0, 1))
    distance, reference = _distances(means, there[1]), _distances(there[1], there[1])
    low, high = _tail(-elbo, -there[0]), _tail(elbo, there[0])
    p_values = {"elbo": np.minimum(1.0, 2 * np.minimum(low, high)), "posterior mean": _tail(distance, reference)}
    return Typicality(p_values, level)


def _statistics(call: Call, num_samples: int) -> tuple[Array, Array]:
    """Of each row: the ELBO, and the posterior means of all sites side by side."""
    model_trace, guide_trace = sampled_traces(call, num_samples)
    elbo = log_terms(model_trace, guide_trace, dtype=torch.float64).log_weights.mean(0)
    means = [m.mean(0).flatten(1) if m.ndim > 2 else m.mean(0)[:, None] for m in entry_means(guide_trace).values()]
    return array(elbo), array(torch.cat([m.double() for m in means], 1))


def _distances(means: Array, simulated: Array) -> Array:
    """Squared Mahalanobis distances from the simulated rows' average."""
    covariance = np.atleast_2d(np.cov(simulated.T)) + 1e-9 * np.eye(simulated.shape[1])
    centered = means - simulated.mean(0)
    return np.einsum("bi,ij,bj->b", centered, np.linalg.inv(covariance), centered)


def _tail(values: Array, simulated: Array) -> Array:
    """The share of simulated values at least as large, the row itself counted as one."""
    above = len(simulated) - np.searchsorted(np.sort(simulated), values)
    return (1 + above) / (len(simulated) + 1)
