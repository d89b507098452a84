"""Comparing models by held-out evidence: what is estimated, what is refused, what is warned of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.comparison.pointwise import Pointwise, averaged
from pyrovae.comparison.table import Comparison
from pyrovae.comparison.weights import pseudo_bma_weights, stacking_weights
from pyrovae.data import Data, as_data
from pyrovae.evaluation.estimators import Estimator, as_estimator
from pyrovae.evaluation.marginal import evidence
from pyrovae.programs.draws import CHUNK_SIZE, Draws

CONVERGED = 0.05
"""Nats per row that an estimate may rise when its samples are doubled, to be called converged."""
WEIGHTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "stacking": stacking_weights,
    "pseudo-bma": pseudo_bma_weights,
}


def compare(
    models: Mapping[str, Any],
    data: Any = None,
    covariates: Mapping[str, Any] | None = None,
    *,
    method: str | Estimator = "importance",
    num_samples: int | None = None,
    train: Any = None,
    weights: str = "stacking",
    in_sample: bool = False,
    chunk_size: int = CHUNK_SIZE,
    seed: int | None = None,
    progress: bool | None = None,
) -> Comparison:
    r"""Compare models by their log evidence on rows that none of them was trained on.

    .. math:: \mathrm{elpd}_m = \sum_i \log p_m(x_i), \qquad
        \mathrm{dse}^2 = N\, \mathrm{Var}_i[\log p_m(x_i) - \log p_{\mathrm{best}}(x_i)]

    Differences are paired: of the same rows. ``se`` and ``dse`` are over rows, for the weights as they were trained; give a
    list of refits with other seeds to see how much training itself varies.

    Args:
        models: by name, each one of: a program; a list of programs (refits of one model); what ``log_marginal`` returned;
            an array of log densities in nats, one a row, from elsewhere; a :class:`Pointwise`; a baseline
            (``probabilistic_pca``, ``factor_analysis``, or any function ``(train, x)`` that returns log densities).
        data: the held-out rows; not needed for results alone.
        method: how programs are evaluated, as in :func:`pyrovae.evaluation.log_marginal`.
        num_samples: samples per row.
        covariates: for each name, a tensor of as many rows.
        train: the training rows: for baselines, and to refuse rows that are among them.
        weights: ``"stacking"`` or ``"pseudo-bma"``.
        in_sample: accept training rows.
        chunk_size: the most draws evaluated at once.
        seed: makes the draws reproducible; all programs use the same.
        progress: True shows bars, False none; by default there are some on a terminal.

    Returns:
        A :class:`Comparison`: the table ``frame`` (its columns are explained there), each model's results row by row, and
        what to know before believing the order, in words (``notes``): where Pareto shapes of more than 5 % of a model's
        rows are too large, where estimates still rise with the number of samples, where models are not told apart.

    Raises:
        ValueError: other rows, variants, base measures (density and mass), estimators or numbers of samples; training
            rows.
        TypeError: a model of an unknown kind.

    Reference: Vehtari, Gelman & Gabry 2017, doi:10.1007/s11222-016-9696-4.

    >>> log_p = np.log([0.5, 0.25, 0.5])
    >>> compare({"a": log_p, "b": log_p - 1.0}).frame["elpd_diff"].tolist()
    [0.0, -3.0]
    """
    if not isinstance(models, Mapping):
        raise TypeError(
            f"expected models by name, got {type(models).__name__}; write compare({{'one': vae, 'two': other}}, x)"
        )
    if not models:
        raise ValueError("expected at least one model")
    if weights not in WEIGHTS:
        raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}, got {weights!r}")
    data = None if data is None else as_data(data, covariates)
    _check_split(data, train, in_sample)
    evaluate = _Evaluation(data, train, as_estimator(method), num_samples, chunk_size, seed, progress)
    refits = {name: evaluate.all(name, model) for name, model in models.items()}
    _check_comparable({name: part for name, parts in refits.items() for part in parts}, refits, in_sample)
    points = {name: averaged(parts) for name, parts in refits.items()}
    log_p = np.stack([point.log_p for point in points.values()], 1)
    columns = _columns(points, refits, WEIGHTS[weights](log_p))
    return Comparison.build(columns, points, {name: [r.elpd for r in parts] for name, parts in refits.items()})


class _Evaluation:
    """Turns whatever was given for a model into log densities row by row."""

    def __init__(
        self,
        data: Data | None,
        train: Any,
        estimator: Estimator,
        num_samples: int | None,
        chunk_size: int,
        seed: int | None,
        progress: bool | None,
    ) -> None:
        self.data, self.train, self.estimator = data, train, estimator
        self.num_samples = estimator.num_samples if num_samples is None else num_samples
        self.chunk_size, self.progress = chunk_size, progress
        self.seed = int(torch.randint(2**31, ())) if seed is None else seed

    def all(self, name: str, model: Any) -> list[Pointwise]:
        """One result for each refit of a model."""
        if isinstance(model, list) and not model:
            raise ValueError(f"the list of refits of {name!r} is empty")
        if isinstance(model, list) and not isinstance(model[0], (int, float)):
            return [self.one(name, entry, number) for number, entry in enumerate(model)]
        return [self.one(name, model, 0)]

    def one(self, name: str, model: Any, number: int) -> Pointwise:
        if isinstance(model, Pointwise):
            return model
        if type(model).__name__ == "Dataset" and "log_marginal" in model:
            return Pointwise.of_dataset(model)
        if isinstance(model, (np.ndarray, Tensor, list)) or type(model).__name__ in ("DataArray", "Series"):
            return Pointwise(model)
        if callable(model) and getattr(model, "guide", None) is None:
            return self._baseline(name, model)
        return self._program(name, model, number)

    def _baseline(self, name: str, model: Any) -> Pointwise:
        if self.train is None or self.data is None:
            raise ValueError(f"the baseline {name!r} must be fitted: pass train=, the training rows, and x")
        result = model(self.train, self.data)
        return result if isinstance(result, Pointwise) else Pointwise(result)

    def _program(self, name: str, model: Any, number: int) -> Pointwise:
        if self.data is None:
            raise ValueError(f"{name!r} is a program: pass x, the held-out rows to evaluate it on")
        seed, per_row = self.seed + number, self.estimator.per_row(self.num_samples)
        options: dict[str, Any] = {"seed": seed, "progress": self.progress, "per_row": per_row}
        draws = Draws(model, self.data, None, self.num_samples, self.chunk_size, **options)
        return Pointwise.of_dataset(evidence(draws, self.estimator))


def _check_split(data: Data | None, train: Any, in_sample: bool) -> None:
    if data is None or in_sample:
        return
    if data.split == "train" or (train is not None and as_data(train).fingerprint(True) == data.fingerprint(True)):
        raise ValueError(
            "these rows are training rows, on which overfitting wins: pass held-out rows, or in_sample=True"
        )


def _check_comparable(
    everything: Mapping[str, Pointwise], refits: Mapping[str, list[Pointwise]], in_sample: bool
) -> None:
    every = [(name, part) for name, parts in refits.items() for part in parts]
    if len({len(part.log_p) for _, part in every}) > 1:
        raise ValueError(f"models have different numbers of rows: { {name: len(part.log_p) for name, part in every} }")
    remedies = {
        "rows": "evaluate all models on the same rows in the same order",
        "variant": "numbers on different variants of the data are of different things",
        "measure": "a density and a mass cannot be compared: put both on the same support, e.g. by a discretized likelihood",
        "estimator": "evaluate all models with the same estimator",
        "num_samples": "evaluate all models with the same number of samples",
    }
    for field, remedy in remedies.items():
        known = {name: value for name, part in every if (value := getattr(part, field)) is not None}
        if len(set(known.values())) > 1:
            raise ValueError(f"models differ in {field}: {known}. {remedy[0].upper()}{remedy[1:]}")
    if not in_sample and any(part.split == "train" for part in everything.values()):
        raise ValueError("a result was computed on training rows: evaluate held-out rows, or pass in_sample=True")


def _columns(
    points: Mapping[str, Pointwise], refits: Mapping[str, list[Pointwise]], weights: np.ndarray
) -> dict[str, dict[str, Any]]:
    best = max(points.values(), key=lambda point: point.elpd)
    rows = len(best.log_p)
    columns = {}
    for (name, point), weight in zip(points.items(), weights, strict=True):
        difference = point.log_p - best.log_p
        seeds = [refit.elpd for refit in refits[name]]
        columns[name] = {
            "elpd": point.elpd,
            "se": _error(point.log_p),
            "elpd_diff": 0.0 if point is best else float(difference.sum()),
            "dse": 0.0 if point is best else _error(difference),
            "weight": float(weight),
            "elbo": point.elbo_sum,
            "gap": point.elpd - point.elbo_sum,
            "mcse": point.mcse_sum,
            "bias": point.bias,
            "pct_bad_k": point.bad_k,
            "k_converged": abs(point.bias) <= CONVERGED * rows,
            "num_refits": len(seeds),
            "refit_sd": float(np.std(seeds, ddof=1)) if len(seeds) > 1 else float("nan"),
            "estimator": point.estimator or "exact",
            "num_samples": point.num_samples or 0,
            "num_data": rows,
        }
    return columns


def _error(values: np.ndarray) -> float:
    return float(np.sqrt(len(values) * np.var(values)))
