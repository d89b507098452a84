"""Replicated data against the data: test statistics with p-values, under the posterior or the prior."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from numpy.typing import ArrayLike, NDArray
from pyro import poutine
from torch import Tensor

from pyrovae.checks.calls import check_local, stream
from pyrovae.checks.entries import array, sampled_traces
from pyrovae.checks.simulate import Covariates
from pyrovae.checks.words import listed
from pyrovae.programs import PARTICLES, latent_names
from pyrovae.programs.draws import CHUNK_SIZE, Call, Draws
from pyrovae.programs.program import callable_without_data
from pyrovae.programs.sites import sites_of

Array = NDArray[np.float64]
Statistic = Callable[[Array], ArrayLike]


def _row_means(x: Array) -> Array:
    return np.nanmean(x.reshape(len(x), -1), axis=1)


STATISTICS: Mapping[str, Statistic] = {
    "mean": np.nanmean,
    "sd": np.nanstd,
    "smallest": np.nanmin,
    "largest": np.nanmax,
    "share of zeros": lambda x: (x == 0).sum() / (~np.isnan(x)).sum(),
    "sd of row means": lambda x: np.nanstd(_row_means(x)),
}
"""What :func:`predictive_check` looks at by default; each takes data of shape ``(rows, *event_shape)``, NaN where missing."""


@dataclass(frozen=True, repr=False)
class PredictiveCheck:
    """Statistics of the data beside those of replicated data sets.

    Attributes:
        observed: by statistic, its value on the data.
        replicated: by statistic, its values on replicated data sets, shape ``(num_samples,)``.
        kind: ``"posterior"`` or ``"prior"``.
    """

    observed: dict[str, float]
    replicated: dict[str, Array]
    kind: str

    @property
    def p_values(self) -> dict[str, float]:
        """By statistic, twice the smaller tail; the data themselves count as one replicate."""
        return {name: _two_sided(value, self.replicated[name]) for name, value in self.observed.items()}

    def summary(self, level: float = 0.05) -> str:
        """The statistics that the model does not reproduce, Bonferroni-adjusted, and what to do."""
        found = [name for name, p in self.p_values.items() if p * len(self.observed) < level]
        what = f"{self.kind} predictive check of {len(self.observed)} statistics"
        if not found:
            return f"{what}: the model reproduces all of them."
        ranges = [f"{name} {self.observed[name]:.4g} against {_range(self.replicated[name])}" for name in found]
        remedy = "a likelihood or prior of another family, or longer training, may reproduce them."
        return f"{what}: {listed(ranges)} replicated; {remedy}"

    def __repr__(self) -> str:
        return f"PredictiveCheck({self.summary()})"


def _two_sided(value: float, replicated: Array) -> float:
    tails = [1 + (replicated <= value).sum(), 1 + (replicated >= value).sum()]
    return float(min(1.0, 2.0 * min(tails) / (len(replicated) + 1)))


def _range(values: Array) -> str:
    low, high = np.quantile(values, [0.025, 0.975])
    return f"{low:.4g} to {high:.4g}"


def predictive_check(
    program: Any,
    data: Any,
    covariates: Covariates | None = None,
    *,
    statistics: Mapping[str, Statistic] | None = None,
    kind: str = "posterior",
    num_samples: int = 500,
    chunk_size: int = CHUNK_SIZE,
    seed: int = 0,
) -> PredictiveCheck:
    r"""Compares statistics of the data with those of data sets that the model makes.

    .. math:: p = \Pr\bigl(T(x^{\mathrm{rep}}) \ge T(x)\bigr), \qquad
        x^{\mathrm{rep}}_i \sim \int p(x \mid z)\, q(z \mid x_i)\, dz \ \text{ or } \ \int p(x \mid z)\, p(z)\, dz

    Replicates are drawn from the likelihood, never the observed values handed back, and have the data's missing entries
    missing. The posterior check uses each row twice and is lenient; the prior check tests the model as a generator.

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``; one data site.
        data: data of N rows.
        statistics: from a name to a function of an array ``(rows, *event_shape)``; :data:`STATISTICS` by default.
        kind: ``"posterior"`` or ``"prior"``.
        num_samples: replicated data sets; the smallest p-value is twice one in so many.
        covariates: a tensor of N rows for each name.
        chunk_size: draws (pairs of a replicate and a row) made at once.
        seed: of the draws.

    Raises:
        ValueError: another kind, several data sites, or global latents.

    Reference: Gelman, Meng & Stern 1996 (Statistica Sinica 6); Gabry et al. 2019, arXiv:1709.01449.

    >>> import pyrovae as pvae, pyro.distributions as dist
    >>> vae = pvae.VAE(pvae.standard_normal(2), pvae.Factorized(dist.Normal, pvae.MLP(2, (8,)), 5, scale=1.0),
    ...     pvae.Factorized(dist.Normal, pvae.MLP(5, (8,)), 2))
    >>> predictive_check(vae, torch.zeros(20, 5), num_samples=50).replicated["mean"].shape
    (50,)
    """
    if kind not in _KINDS:
        raise ValueError(f"kind must be 'posterior' or 'prior', got {kind!r}")
    statistics = STATISTICS if statistics is None else statistics
    draws = Draws(program, data, covariates, 1, chunk_size, seed=seed, progress=False)
    check_local(draws)
    data = array(torch.cat([_only_site(batch.x) for batch in draws.batches]))
    sets = list(_replicates(draws, _KINDS[kind], num_samples, data))
    observed = {name: float(statistic(data)) for name, statistic in statistics.items()}  # type: ignore[arg-type]
    replicated = {name: np.array([float(statistic(s)) for s in sets]) for name, statistic in statistics.items()}  # type: ignore[arg-type]
    return PredictiveCheck(observed, replicated, kind)


def _only_site(x: Any) -> Tensor:
    if not isinstance(x, Tensor):
        raise ValueError(f"predictive checks take programs with one data site, got data of type {type(x).__name__}")
    return x


def _replicates(draws: Draws, draw: Callable[[Call, int], Tensor], num_samples: int, data: Array) -> Iterator[Array]:
    """Replicated data sets, some at a time, NaN where the data are."""
    at_once = max(1, draws.chunk_size // len(draws))
    for start in range(0, num_samples, at_once):
        with draws.evaluating(stream(draws.seed, start)):
            size = min(at_once, num_samples - start)
            parts = [array(draw(draws.call(batch), size)) for batch in draws.batches]
        for values in np.concatenate(parts, 1):
            yield np.where(np.isnan(data), np.nan, values)


def posterior_replicates(call: Call, num_samples: int) -> Tensor:
    """Data drawn from the likelihood at draws of the guide, shape ``(num_samples, rows, *event_shape)``."""
    _, guide_trace = sampled_traces(call, num_samples)
    return replicates_at(call, {n: guide_trace.nodes[n]["value"] for n in latent_names(guide_trace)}, num_samples)


def prior_replicates(call: Call, num_samples: int) -> Tensor:
    """Data drawn from the model, one datum for each row and its covariates: ``(num_samples, rows, *event_shape)``."""
    return replicates_at(call, {}, num_samples)


def replicates_at(call: Call, values: Mapping[str, Tensor], num_samples: int) -> Tensor:
    """Data drawn from the model with some latents given, never the data themselves.

    Args:
        call: the program on some rows.
        values: by site, in the shapes of a trace with as many particles; sites not named are drawn.
        num_samples: particles.
    """
    model_trace, _ = call.traces(None)
    names = [site["name"] for site in sites_of(model_trace) if site["is_observed"]]
    if len(names) != 1:
        raise ValueError(f"expected one data site to draw from, got {names}")
    model, args, keywords = poutine.uncondition(call.program.model), call.args, dict(call.kwargs)
    if callable_without_data(call.program.model):
        args, keywords["size"] = (), _rows(call)
    particles = pyro.plate(PARTICLES, num_samples, dim=-1 - call.nesting)
    with torch.no_grad():
        trace = poutine.trace(poutine.condition(particles(model), data=dict(values))).get_trace(*args, **keywords)
    return trace.nodes[names[0]]["value"]


def _rows(call: Call) -> int:
    return len(_only_site(call.args[0]))


_KINDS: Mapping[str, Callable[[Call, int], Tensor]] = {"posterior": posterior_replicates, "prior": prior_replicates}
