"""Held-out log densities of one model, row by row, with what must be known before they may be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pyrovae.limits import share_bad_k

if TYPE_CHECKING:
    import xarray as xr

UNKNOWN = ("unknown", "None", "")


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
        estimator: how it was estimated; None for an exact density.
        num_samples: samples per row; None for an exact density.

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
    estimator: str | None = None
    num_samples: int | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        for name in ("log_p", "elbo", "mcse", "pareto_k", "half"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _vector(value, name))
        if np.isnan(self.log_p).any():
            raise ValueError(
                f"log_p holds NaN in {int(np.isnan(self.log_p).sum())} rows: leave those rows out for all models"
            )

    @property
    def elpd(self) -> float:
        """The sum over rows, in nats."""
        return float(self.log_p.sum())

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
        return 0.0 if self.half is None else float((self.log_p - self.half).sum())

    @property
    def bad_k(self) -> float:
        """The share of rows, in per cent, whose Pareto shape is above the limit for so many samples; NaN where none is known."""
        if self.pareto_k is None or not np.isfinite(self.pareto_k).any():
            return float("nan")
        return 100.0 * share_bad_k(self.pareto_k, self.num_samples)

    @classmethod
    def of_dataset(cls, dataset: xr.Dataset) -> Pointwise:
        """From what ``log_marginal`` returns."""
        known = {name: dataset.attrs.get(name) for name in ("measure", "variant", "rows", "estimator", "split")}
        known = {name: None if value in UNKNOWN else value for name, value in known.items()}
        columns: dict[str, Any] = {
            name: dataset[name].values for name in ("elbo", "mcse", "pareto_k", "half") if name in dataset
        }
        return cls(dataset["log_marginal"].values, num_samples=dataset.attrs.get("num_samples"), **columns, **known)


def averaged(refits: Sequence[Pointwise]) -> Pointwise:
    """The average over refits of a model: what one can expect of its training procedure."""
    if len(refits) == 1:
        return refits[0]
    columns: dict[str, Any] = {}
    for name in ("elbo", "pareto_k", "half"):
        values = [getattr(refit, name) for refit in refits]
        columns[name] = None if any(value is None for value in values) else np.mean(values, 0)
    errors = [np.zeros_like(r.log_p) if r.mcse is None else r.mcse for r in refits]
    columns["mcse"] = np.sqrt(np.mean(np.square(errors), 0) / len(refits))
    if columns["pareto_k"] is not None:
        columns["pareto_k"] = np.max([refit.pareto_k for refit in refits if refit.pareto_k is not None], 0)
    first = refits[0]
    known = {n: getattr(first, n) for n in ("measure", "variant", "rows", "estimator", "num_samples", "split")}
    return Pointwise(np.mean([refit.log_p for refit in refits], 0), **columns, **known)


def _vector(value: Any, name: str) -> np.ndarray:
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{name} must be a vector with one number a row, got shape {array.shape}")
    return array.astype(np.float64)
