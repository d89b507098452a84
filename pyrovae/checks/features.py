"""Each feature predicted from the model alone, or from the other features of its row: PIT and elpd."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrovae.checks.calls import check_local
from pyrovae.checks.entries import array, entry_log_prob, rows_second, sampled_traces
from pyrovae.checks.predictive import prior_replicates, replicates_at
from pyrovae.checks.simulate import Covariates
from pyrovae.checks.uniformity import uniformity_p_value
from pyrovae.evaluation.psis import good_k, psis
from pyrovae.programs import latent_names, log_terms
from pyrovae.programs.draws import Call, Draws
from pyrovae.programs.sites import sites_of

Array = NDArray[np.float64]
ENTRIES_AT_ONCE = 2**24
BINS = 99


@dataclass(frozen=True, repr=False)
class PIT:
    """Probability integral transforms: uniform over the rows where predictions are calibrated.

    Attributes:
        pit: shape ``(data, *event_shape)``, NaN where missing.
        p_values: of uniformity over the rows, of each feature alone, shape ``(*event_shape)``.
    """

    pit: Array
    p_values: Array

    @property
    def p_value(self) -> float:
        """The smallest p-value times the number of features (Bonferroni), at most 1."""
        return float(min(1.0, np.nanmin(self.p_values) * np.isfinite(self.p_values).sum()))

    def summary(self, level: float = 0.01) -> str:
        """How many features are predicted without calibration, and in which way."""
        tested = np.isfinite(self.p_values)
        bad = tested & (self.p_values * tested.sum() < level)
        if not bad.any():
            return f"The predictions of all {tested.sum()} features are calibrated as far as these rows tell."
        pit = self.pit[:, bad]
        spread = np.nanmean((pit - 0.5) ** 2) * 12
        shape = "too narrow (a heavier-tailed or wider likelihood may help)" if spread > 1.1 else "off in location"
        shape = "too wide (a tighter likelihood, or longer training, may help)" if spread < 0.9 else shape
        return f"The predictions of {bad.sum()} of {tested.sum()} features are not calibrated; on the whole they are {shape}."

    def __repr__(self) -> str:
        return f"PIT({len(self.pit)} rows, p = {self.p_value:.2g})\n{self.summary()}"

    @classmethod
    def of(cls, pit: Array) -> PIT:
        """PIT values with their uniformity tests."""
        flat = pit.reshape(len(pit), -1)
        p = np.array([_uniformity(column[~np.isnan(column)]) for column in flat.T])
        return cls(pit, p.reshape(pit.shape[1:]))


def _uniformity(pit: Array) -> float:
    return float(uniformity_p_value(np.minimum((pit * (BINS + 1)).astype(int), BINS), BINS)) if len(pit) > 1 else np.nan


def marginal_pit(
    program: Any, data: Any, covariates: Covariates | None = None, *, num_samples: int = 199, seed: int = 0
) -> PIT:
    r"""Where each feature lies in the model's own marginal distribution of it; no guide is involved.

    .. math:: u_{ij} = \Pr(x^{\mathrm{rep}}_j < x_{ij}) + v\, \Pr(x^{\mathrm{rep}}_j = x_{ij}), \qquad
        x^{\mathrm{rep}} \sim p(x), \quad v \sim \mathrm{Uniform}(0, 1)

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``; one data site.
        data: data of N rows, best held out.
        num_samples: draws of the model for each row.
        covariates: a tensor of N rows for each name.
        seed: of the draws.

    Raises:
        ValueError: several data sites, or global latents.

    Reference: Czado, Gneiting & Held 2009, doi:10.1111/j.1541-0420.2009.01191.x (counts).

    >>> import pyrovae as pvae, pyro.distributions as dist
    >>> vae = pvae.VAE(pvae.standard_normal(2), pvae.Factorized(dist.Normal, pvae.MLP(2, (8,)), 5, scale=1.0),
    ...     pvae.Factorized(dist.Normal, pvae.MLP(5, (8,)), 2))
    >>> marginal_pit(vae, torch.zeros(20, 5)).pit.shape
    (20, 5)
    """
    draws = _few_rows(program, data, covariates, num_samples, seed)
    parts = []
    with draws.each("marginal_pit") as batches:
        for _, batch in batches:
            replicates = prior_replicates(draws.call(batch), num_samples)
            weights = torch.full((num_samples, *batch.x.shape), 1 / (num_samples + 1), dtype=torch.float64)
            parts.append(array(_weighted_pit(batch.x.cpu(), replicates.cpu(), weights)))
    return PIT.of(np.concatenate(parts))


def _weighted_pit(x: Tensor, replicates: Tensor, weights: Tensor) -> Tensor:
    """The weight below x, plus a uniform part of the weight at x and of what the weights lack to one."""
    below = (weights * (replicates < x)).sum(0)
    at = (weights * (replicates == x)).sum(0) + (1 - weights.sum(0)).clamp_min(0)
    return torch.where(x.isnan(), torch.nan, below + torch.rand_like(at) * at)


@dataclass(frozen=True, repr=False)
class FeatureLOO:
    """Leave-one-feature-out predictions of each entry from the others of its row.

    Attributes:
        elpd: log p(x_ij | other entries of row i) in nats, shape ``(data, *event_shape)``, NaN where missing.
        pareto_k: the Pareto shape of the weights behind each, likewise.
        pit: probability integral transforms of the same predictions.
        corrected: whether the guide's draws were reweighted to the posterior.
        num_samples: draws a row.
    """

    elpd: Array
    pareto_k: Array
    pit: PIT
    corrected: bool
    num_samples: int

    @property
    def total(self) -> float:
        """The sum over all entries."""
        return float(np.nansum(self.elpd))

    @property
    def se(self) -> float:
        """The standard error of the total over rows, which are independent while a row's entries are not."""
        rows = np.nansum(self.elpd.reshape(len(self.elpd), -1), axis=1)
        return float(np.sqrt(len(rows)) * rows.std(ddof=1)) if len(rows) > 1 else float("nan")

    @property
    def share_bad_k(self) -> float:
        """The share of entries whose weights are unreliable."""
        known = np.isfinite(self.elpd)
        return float((~(self.pareto_k[known] <= good_k(self.num_samples))).mean())

    def summary(self) -> str:
        """The total, its reliability, and what to do."""
        entries = int(np.isfinite(self.elpd).sum())
        lines = [
            f"elpd {self.total:.1f} (se {self.se:.1f}) nats over {entries} entries, {self.total / entries:.3f} each."
        ]
        if self.share_bad_k > 0.05:
            lines.append(
                f"{100 * self.share_bad_k:.0f} % of the entries have k-hat above {good_k(self.num_samples):.2f}: refine the "
                "guide, or take more samples."
            )
        if not self.corrected:
            lines.append("Not corrected for the guide: the numbers are those of a model whose posterior is the guide.")
        return "\n".join([*lines, self.pit.summary()])

    def __repr__(self) -> str:
        return f"FeatureLOO({len(self.elpd)} rows)\n{self.summary()}"


def leave_one_feature_out(
    program: Any,
    data: Any,
    covariates: Covariates | None = None,
    *,
    num_samples: int = 1000,
    corrected: bool = True,
    seed: int = 0,
) -> FeatureLOO:
    r"""Predicts each entry from the other entries of its row, by importance sampling from the guide.

    .. math:: p(x_{ij} \mid x_{i,-j}) = \frac{\sum_s \tilde w_s\, p(x_{ij} \mid z_s)}{\sum_s \tilde w_s}, \qquad
        \tilde w_s \leftarrow \frac{w_s}{p(x_{ij} \mid z_s)}, \quad w_s = \frac{p(x_i, z_s)}{q(z_s \mid x_i)}

    with Pareto-smoothed weights. It is a valid cross-validation for local latents: no entry predicts itself. (Leaving
    out whole *rows* through log p(x | z) is not, and ``az.loo`` on that misleads.) Without the factor w it is biased by
    whatever the guide gets wrong.

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``; one data site, with
            entries that are independent given the latents.
        data: data of N rows; NaN is a missing entry.
        num_samples: draws a row.
        covariates: a tensor of N rows for each name.
        corrected: reweight the guide's draws to the posterior.
        seed: of the draws.

    Raises:
        ValueError: a joint likelihood, several data sites, or global latents.

    Reference: Vehtari, Gelman & Gabry 2017, arXiv:1507.04544; Vehtari et al. 2024, arXiv:1507.02646.

    >>> import pyrovae as pvae, pyro.distributions as dist
    >>> vae = pvae.VAE(pvae.standard_normal(2), pvae.Factorized(dist.Normal, pvae.MLP(2, (8,)), 5, scale=1.0),
    ...     pvae.Factorized(dist.Normal, pvae.MLP(5, (8,)), 2))
    >>> leave_one_feature_out(vae, torch.zeros(20, 5), num_samples=100).elpd.shape
    (20, 5)
    """
    draws = _few_rows(program, data, covariates, num_samples, seed)
    with draws.each("features") as batches:
        parts = [_left_out(draws, draws.call(batch), batch.x, corrected) for _, batch in batches]
    elpd, k, pit = (np.concatenate([array(part[i]) for part in parts]) for i in range(3))
    return FeatureLOO(elpd, k, PIT.of(pit), corrected, num_samples)


def _few_rows(program: Any, x: Any, covariates: Covariates | None, num_samples: int, seed: int) -> Draws:
    """Rows in batches so small that all samples of all entries fit."""
    draws = Draws(program, x, covariates, 1, seed=seed, progress=False)
    check_local(draws)
    first = next(iter(draws.batches)).x
    if not isinstance(first, Tensor):
        raise ValueError(f"this takes programs with one data site, got data of type {type(first).__name__}")
    rows = max(1, ENTRIES_AT_ONCE // (num_samples * max(first[0].numel(), 1)))
    return Draws(program, x, covariates, num_samples, rows * min(rows, num_samples), seed=seed, progress=False)


class Pieces(NamedTuple):
    """For some samples: the log weights, each entry's log likelihood, and replicates."""

    log_weights: Tensor
    log_likelihood: Tensor
    replicates: Tensor


def entry_pieces(call: Call, num_samples: int) -> Pieces:
    """Draws of the guide with what leave-one-out and pointwise log likelihoods need; samples first, rows second.

    Raises:
        ValueError: the likelihood is joint over its entries, or depends on a discrete site that is summed out.
    """
    model_trace, guide_trace = sampled_traces(call, num_samples)
    site = next(s for s in sites_of(model_trace) if s["is_observed"])
    entries = entry_log_prob(site)
    if entries is None or len(site["fn"].batch_shape) > 1 + call.nesting:
        raise ValueError(
            f"the likelihood of {site['name']!r} is not a product over its entries given the drawn latents, so one entry "
            "cannot be left out: use a factorized likelihood, or sample discrete sites in the guide"
        )
    shape = (num_samples, *entries.shape[1:])
    values = {name: guide_trace.nodes[name]["value"] for name in latent_names(guide_trace)}
    replicates = replicates_at(call, values, num_samples)
    layout = {**site, "value": replicates}
    return Pieces(
        log_terms(model_trace, guide_trace, dtype=torch.float64).log_weights.cpu(),
        rows_second(entries.expand(shape), layout).double().cpu(),
        rows_second(replicates, layout).cpu(),
    )


def _left_out(draws: Draws, call: Call, x: Tensor, corrected: bool) -> tuple[Tensor, Tensor, Tensor]:
    pieces = [entry_pieces(call, size) for size in draws.sizes()]
    log_weights, log_likelihood, replicates = (torch.cat(columns) for columns in zip(*pieces, strict=True))
    x = x.cpu()
    ratios = -log_likelihood + (log_weights.reshape(*log_weights.shape, *(1,) * (x.ndim - 1)) if corrected else 0.0)
    smoothed = psis(ratios.flatten(1))
    weights = smoothed.log_weights.reshape(ratios.shape)
    missing = x.isnan()
    elpd = torch.where(missing, torch.nan, (weights + log_likelihood).logsumexp(0))
    k = torch.where(missing, torch.nan, smoothed.k.reshape(x.shape))
    return elpd, k, _weighted_pit(x, replicates, weights.exp())
