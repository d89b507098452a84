"""Held-out log densities of one model, row by row, with what must be known before they may be compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pyrovae.errors import counted
from pyrovae.limits import ERRORS, good_k, share_bad_k

if TYPE_CHECKING:
    import xarray as xr

UNKNOWN = ("unknown", "None", "", "exact")
KNOWN = ("measure", "variant", "rows", "estimator", "num_samples", "split", "entries", "magnitude")
"""What is known of an evaluation beside its numbers."""
COLUMNS = ("elbo", "mcse", "pareto_k", "half", "flagged")
"""Numbers of each row beside its log density."""
CONVERGED = 0.05
"""Nats per row that an estimate may rise when its samples are doubled, to be called converged."""


@dataclass(frozen=True)
class Pointwise:
    """The log density of each held-out row under one model, from anywhere: a closed form, scikit-learn, PyMC.

    Args:
        log_p: in nats, of shape (data,); under exact densities nothing else is needed.
        measure: ``"density"`` or ``"mass"``; None where it is not known.
        variant: what kind of numbers the rows are; None where it is not known.
        rows: the fingerprint of the rows (``pyrovae.data.Data.fingerprint``); None where it is not known.
        elbo: each row's bound, NaN without one.
        mcse: each row's Monte-Carlo standard error, 0 for an exact density.
        pareto_k: each row's Pareto shape, NaN without one.
        half: the estimate from half of the samples; by default ``log_p``.
        flagged: whether each row's bound lies above the estimate, which then lost a mode; None where it is not known.
        estimator: how it was estimated; None for an exact density.
        num_samples: samples per row; None for an exact density.
        split: ``"train"`` for training rows; None where it is not known.
        entries: how many numbers the model observes in all complete rows together; None where it is not known.
        magnitude: the sum of the absolute values of these numbers; None where it is not known.
        refit_error: the standard error of the sum over refits, where ``log_p`` is an average of several; else 0.

    >>> Pointwise(np.array([-1.0, -2.0])).elpd
    -3.0
    """

    log_p: np.ndarray
    measure: str | None = None
    variant: str | None = None
    rows: str | None = None
    elbo: np.ndarray | None = None
    mcse: np.ndarray | None = None
    pareto_k: np.ndarray | None = None
    half: np.ndarray | None = None
    flagged: np.ndarray | None = None
    estimator: str | None = None
    num_samples: int | None = None
    split: str | None = None
    entries: int | None = None
    magnitude: float | None = None
    refit_error: float = 0.0

    def __post_init__(self) -> None:
        for name in ("log_p", *COLUMNS):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _vector(value, name))
        unusable = np.isnan(self.log_p) | (self.log_p == np.inf)
        if unusable.any():
            raise ValueError(
                f"log_p holds NaN or plus infinity in {counted(int(unusable.sum()), 'row')}: leave these out for all models"
            )

    @property
    def elpd(self) -> float:
        """The sum over rows, in nats."""
        return float(self.log_p.sum())

    @property
    def se(self) -> float:
        """The standard error of the sum over rows; NaN for one row, or where a log density is minus infinity."""
        return _error_of_sum(self.log_p)

    @property
    def elbo_sum(self) -> float:
        """The sum of the rows' bounds; NaN without one."""
        return float("nan") if self.elbo is None else float(self.elbo.sum())

    @property
    def mcse_sum(self) -> float:
        """The Monte-Carlo standard error of the sum."""
        return 0.0 if self.mcse is None else float(np.sqrt((self.mcse**2).sum()))

    @property
    def bias(self) -> float:
        """How far the sum rose when the samples were doubled: about the bias that is left."""
        return 0.0 if self.half is None else float(less(self.log_p, self.half).sum())

    @property
    def bad_k(self) -> float:
        """The share of rows, in per cent, whose Pareto shape is above the limit for so many samples; NaN where none is known."""
        if self.pareto_k is None or not np.isfinite(self.pareto_k).any():
            return float("nan")
        return 100.0 * share_bad_k(self.pareto_k, self.num_samples)

    @property
    def doubts(self) -> str:
        """Why ``elpd`` is not to be believed as it stands: how many rows speak against it, and how; empty without a reason."""
        bad = 0.0 if np.isnan(self.bad_k) else self.bad_k
        counts = {
            f"k-hat > {good_k(self.num_samples):.2f}": round(bad / 100 * len(self.log_p)),
            "flagged": 0 if self.flagged is None else int(self.flagged.sum()),
            "-inf": int(np.isneginf(self.log_p).sum()),
        }
        rising = ["rising"] if abs(self.bias) > CONVERGED * len(self.log_p) else []
        return ", ".join([*(f"{count} {why}" for why, count in counts.items() if count), *rising])

    @classmethod
    def of_dataset(cls, dataset: xr.Dataset) -> Pointwise:
        """From what ``log_marginal`` returns."""
        known: dict[str, Any] = {name: value for name in KNOWN if (value := dataset.attrs.get(name)) not in UNKNOWN}
        known |= {name: dataset[name].values for name in COLUMNS if name in dataset}
        return cls(dataset["log_marginal"].values, **known)


@dataclass(frozen=True)
class Difference:
    r"""How far one model lies above another on the same rows, in nats.

    .. math:: \mathrm{dse}^2 = N\, \mathrm{Var}_i[\log p_1(x_i) - \log p_2(x_i)]

    Attributes:
        elpd_diff: the sum over rows of log p under the first model less that under the second; NaN where each gives a
            density of zero to rows that the other allows.
        dse: its standard error over rows, paired row by row; NaN where it is not known.
        mcse: its Monte-Carlo standard error.
        refit_error: its standard error over refits, where models were trained more than once; else 0.
    """

    elpd_diff: float
    dse: float
    mcse: float
    refit_error: float = 0.0

    @classmethod
    def between(cls, one: Pointwise, other: Pointwise) -> Difference:
        """The difference of two models on the same rows."""
        rows = less(one.log_p, other.log_p)
        errors = math.hypot(one.mcse_sum, other.mcse_sum), math.hypot(one.refit_error, other.refit_error)
        with np.errstate(invalid="ignore"):  # of minus infinity in other rows of each there is no difference
            return cls(float(rows.sum()), _error_of_sum(rows), *errors)

    @property
    def error(self) -> float:
        """The standard error over rows, draws and refits together, in nats."""
        return math.hypot(self.dse, self.mcse, self.refit_error)

    @property
    def p_worse(self) -> float:
        r"""The probability that the first model predicts worse, by the normal approximation; NaN where no error is known.

        .. math:: \Phi(-\mathrm{elpd\_diff} / \mathrm{error})

        Reference: Sivula, Magnusson, Matamoros & Vehtari 2020, arXiv:2008.10296.
        """
        if math.isinf(self.elpd_diff):
            return float(self.elpd_diff < 0)
        ratio = self.elpd_diff / self.error if self.error else float("nan")
        return 0.5 * math.erfc(ratio / math.sqrt(2))

    @property
    def told_apart(self) -> bool:
        """Whether the difference is infinite or exceeds two standard errors; False where its error is not known."""
        return math.isinf(self.elpd_diff) or abs(self.elpd_diff) > ERRORS * self.error


def averaged(refits: Sequence[Pointwise]) -> Pointwise:
    """The average over refits of a model: what one can expect of its training procedure."""
    if len(refits) == 1:
        return refits[0]
    elpds = [refit.elpd for refit in refits]
    errors = [np.zeros_like(refit.log_p) if refit.mcse is None else refit.mcse for refit in refits]
    halves = [refit.log_p if refit.half is None else refit.half for refit in refits]
    bounds = [refit.elbo for refit in refits if refit.elbo is not None]
    shapes = [refit.pareto_k for refit in refits if refit.pareto_k is not None]
    return Pointwise(
        np.mean([refit.log_p for refit in refits], 0),
        elbo=np.mean(bounds, 0) if len(bounds) == len(refits) else None,
        mcse=np.sqrt(np.mean(np.square(errors), 0) / len(refits)),
        pareto_k=np.max(shapes, 0) if len(shapes) == len(refits) else None,
        half=np.mean(halves, 0),
        refit_error=float(np.std(elpds, ddof=1) / math.sqrt(len(refits))) if np.isfinite(elpds).all() else 0.0,
        flagged=np.max(alarms, 0) if (alarms := [r.flagged for r in refits if r.flagged is not None]) else None,
        **{name: next((v for refit in refits if (v := getattr(refit, name)) is not None), None) for name in KNOWN},
    )


def less(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """One array less another; 0 where both are minus infinity."""
    return np.subtract(one, other, out=np.zeros_like(one), where=one != other)


def _error_of_sum(values: np.ndarray) -> float:
    if len(values) < 2 or not np.isfinite(values).all():
        return float("nan")
    return float(np.sqrt(len(values) * np.var(values)))


def _vector(value: Any, name: str) -> np.ndarray:
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{name} must be a vector with one number per row, got shape {array.shape}")
    return array.astype(np.float64)
