"""Do imputed entries deserve their spread? Observed entries are hidden, imputed, and ranked among their imputations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrovae.checks.calls import stream
from pyrovae.checks.entries import array
from pyrovae.checks.simulate import Covariates
from pyrovae.checks.uniformity import central_coverage, ranks_among, uniformity_p_value
from pyrovae.checks.words import share
from pyrovae.evaluation.impute import impute
from pyrovae.evaluation.psis import good_k
from pyrovae.programs.draws import Draws

Array = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class ImputationCalibration:
    """What :func:`imputation_calibration` found.

    Attributes:
        ranks: of each hidden truth among its imputations, from 0 to ``num_samples``, shape ``(hidden,)``.
        row: the row of each hidden entry.
        error: the imputations' mean less the truth, shape ``(hidden,)``.
        baseline: the feature's mean over the entries still observed less the truth, likewise.
        pareto_k: of each row's weights, shape ``(data,)``.
        num_samples: imputations of each entry.
        num_proposals: draws of the guide behind them.
    """

    ranks: NDArray[np.int64]
    row: NDArray[np.int64]
    error: Array
    baseline: Array
    pareto_k: Array
    num_samples: int
    num_proposals: int

    @property
    def p_value(self) -> float:
        """Of uniform ranks, on the first hidden entry of each row (entries of a row are not independent)."""
        first = np.unique(self.row, return_index=True)[1]
        return float(uniformity_p_value(self.ranks[first], self.num_samples)) if len(first) > 1 else float("nan")

    @property
    def rmse(self) -> float:
        """The root mean squared error of the imputations' mean."""
        return float(np.sqrt((self.error**2).mean()))

    @property
    def baseline_rmse(self) -> float:
        """The same for the feature's mean."""
        return float(np.sqrt((self.baseline**2).mean()))

    def coverage(self, levels: Array) -> Array:
        """The share of hidden truths inside the central interval of their imputations, at each level."""
        return central_coverage(self.ranks, self.num_samples, levels)

    def summary(self, level: float = 0.01) -> str:
        """Error and calibration in words, with what to do."""
        half, most = self.coverage(np.array([0.5, 0.9]))
        lines = [
            f"{len(self.ranks)} hidden entries: rmse {self.rmse:.3g} (feature means: {self.baseline_rmse:.3g}); 50 % and 90 % "
            f"intervals hold {100 * half:.0f} and {100 * most:.0f} %."
        ]
        if self.p_value < level:
            narrow = most < 0.9
            lines.append(
                "The imputations are too narrow: a wider or heavier-tailed likelihood, or a richer guide, may help."
                if narrow
                else "The imputations are too wide, or off: train longer, or use a tighter likelihood."
            )
        weak = int((~(self.pareto_k <= good_k(self.num_proposals))).sum())
        if weak:
            lines.append(
                f"{share(weak, len(self.pareto_k))} have unreliable weights: refine the guide or give more proposals."
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"ImputationCalibration(p = {self.p_value:.2g})\n{self.summary()}"


def imputation_calibration(
    program: Any,
    data: Any,
    covariates: Covariates | None = None,
    *,
    hidden: float = 0.1,
    num_samples: int = 99,
    num_proposals: int = 1000,
    seed: int = 0,
) -> ImputationCalibration:
    r"""Hides observed entries at random, imputes them, and ranks each truth among its imputations.

    .. math:: r_{ij} = \#\{s : x_{ij}^{(s)} < x_{ij}\}, \qquad x^{(s)}_{ij} \sim p(x_{ij} \mid x_{i, \mathrm{observed}})

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``, that takes missing entries.
        data: data of N rows; entries that are missing already stay so.
        hidden: the share of the observed entries to hide, between 0 and 1.
        num_samples: imputations of each.
        covariates: a tensor of N rows for each name.
        num_proposals: draws of the guide behind the imputations.
        seed: of the hiding and the draws.

    Raises:
        ValueError: a share outside (0, 1), or one so small that nothing is hidden.

    Reference: Mattei & Frellsen 2019, arXiv:1812.02633.

    >>> import pyrovae as pvae, pyro.distributions as dist
    >>> vae = pvae.VAE(pvae.standard_normal(2), pvae.Factorized(dist.Normal, pvae.MLP(2, (8,)), 5, scale=1.0),
    ...     pvae.Factorized(dist.Normal, pvae.MLP(5, (8,)), 2))
    >>> imputation_calibration(vae, torch.zeros(20, 5), hidden=0.5, num_proposals=100).ranks.max() <= 99
    np.True_
    """
    if not 0 < hidden < 1:
        raise ValueError(f"hidden is the share of entries to hide, between 0 and 1, got {hidden}")
    draws = Draws(program, data, covariates, 1, seed=seed, progress=False)
    data = torch.cat([batch.x for batch in draws.batches]).cpu()
    chosen = _chosen(data, hidden, stream(seed, 1))
    masked = torch.where(chosen, torch.nan, data)
    imputed = impute(
        program,
        masked,
        num_samples=num_samples,
        covariates=covariates,
        num_proposals=num_proposals,
        seed=stream(seed, 2),
        progress=False,
    )
    truth, drawn = array(data[chosen]), array(imputed.draws[:, chosen])
    ranks = ranks_among(truth, drawn, np.random.default_rng(seed))
    means = masked.nanmean(0).expand_as(data)[chosen]
    row = array(chosen.nonzero()[:, 0])
    error = drawn.mean(0) - truth
    return ImputationCalibration(
        ranks, row, error, array(means) - truth, array(imputed.pareto_k), num_samples, num_proposals
    )


def _chosen(data: Tensor, hidden: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    chosen = (torch.rand(data.shape, generator=generator) < hidden) & ~data.isnan()
    if not chosen.any():
        raise ValueError(
            f"hiding {hidden:g} of the entries of {len(data)} rows hides none: give more rows or a larger share"
        )
    return chosen
