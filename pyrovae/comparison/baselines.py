"""Classical models with a closed-form density, to compare a VAE with: one word each in ``compare``."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from pyrovae.comparison.pointwise import Pointwise
from pyrovae.data import as_data
from pyrovae.errors import refusal


def probabilistic_pca(train: Any, x: Any, num_components: int = 10) -> Pointwise:
    r"""Held-out log densities under probabilistic PCA, fitted in closed form.

    .. math:: p(x) = \mathcal{N}(x \mid \mu,\ W W^\top + \sigma^2 I)

    Args:
        train: the rows to fit.
        x: the held-out rows.
        num_components: columns of W, at most one fewer than the entries of a row.

    Raises:
        ValueError: missing entries, or data of several tables.

    Reference: Tipping & Bishop 1999, doi:10.1111/1467-9868.00196.

    >>> rows = np.random.default_rng(0).normal(size=(50, 4))
    >>> probabilistic_pca(rows[:40], rows[40:], num_components=2).log_p.shape
    (10,)
    """
    from sklearn.decomposition import PCA

    matrix = _matrix(train)
    fitted = PCA(n_components=min(num_components, matrix.shape[1] - 1), svd_solver="full").fit(matrix)
    return _result(fitted.score_samples(_matrix(x)), x)


def factor_analysis(train: Any, x: Any, num_components: int = 10) -> Pointwise:
    r"""Held-out log densities under factor analysis, fitted by maximum likelihood.

    .. math:: p(x) = \mathcal{N}(x \mid \mu,\ W W^\top + \mathrm{diag}(\psi))

    The fit is of standardized columns, so that their units do not matter.

    Args:
        train: the rows to fit.
        x: the held-out rows.
        num_components: columns of W, at most one fewer than the entries of a row.

    Raises:
        ValueError: missing entries, a constant column, or data of several tables.

    Reference: Rubin & Thayer 1982, doi:10.1007/BF02293851.

    >>> import torch
    >>> factor_analysis(torch.randn(50, 4), torch.randn(3, 4), num_components=2).log_p.shape
    (3,)
    """
    from sklearn.decomposition import FactorAnalysis

    matrix = _matrix(train)
    constant, scale = np.flatnonzero(np.ptp(matrix, 0) == 0), matrix.std(0)
    if len(constant):
        raise refusal(
            f"columns {constant.tolist()[:10]} are constant in the training rows, where the density of "
            "factor analysis is unbounded: leave them out for all models, or take probabilistic_pca",
            "train",
        )
    model = FactorAnalysis(n_components=min(num_components, matrix.shape[1] - 1), svd_method="lapack")
    fitted = model.fit(matrix / scale)
    return _result(fitted.score_samples(_matrix(x) / scale) - np.log(scale).sum(), x)


def _result(log_p: np.ndarray, x: Any) -> Pointwise:
    data, matrix = as_data(x), _matrix(x)
    return Pointwise(
        log_p,
        measure="density",
        variant=data.variant,
        rows=data.fingerprint(values_only=True),
        split=data.split,
        entries=matrix.size,
        magnitude=float(np.abs(matrix).sum()),
    )


def _matrix(x: Any) -> np.ndarray:
    rows = as_data(x).dense().x
    if not isinstance(rows, Tensor):
        got = f"a dict of {', '.join(map(repr, rows))}" if isinstance(rows, dict) else f"a tuple of {len(rows)}"
        raise refusal(
            f"the baselines take one table of numbers, got {got}: leave the baselines out, or give all models one table",
            "models",
        )
    matrix = rows.reshape(len(rows), -1).double().numpy()
    if np.isnan(matrix).any():
        raise ValueError("the baselines take no missing entries: leave those rows out, or impute them for all models")
    return matrix
