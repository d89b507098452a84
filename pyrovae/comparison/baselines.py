"""Classical models with a closed-form density, to compare a VAE with: one word each in ``compare``."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyrovae.comparison.pointwise import Pointwise
from pyrovae.data import as_data


def probabilistic_pca(train: Any, x: Any, num_components: int = 10) -> Pointwise:
    r"""Held-out log densities under probabilistic PCA, fitted in closed form.

    .. math:: p(x) = \mathcal{N}(x \mid \mu,\ W W^\top + \sigma^2 I)

    Args:
        train: the rows to fit.
        x: the held-out rows.
        num_components: columns of W, at most one fewer than the entries of a row.

    Raises:
        ValueError: missing entries.

    Reference: Tipping & Bishop 1999, doi:10.1111/1467-9868.00196.

    >>> rows = np.random.default_rng(0).normal(size=(50, 4))
    >>> probabilistic_pca(rows[:40], rows[40:], num_components=2).log_p.shape
    (10,)
    """
    from sklearn.decomposition import PCA

    matrix = _matrix(train)
    components = min(num_components, matrix.shape[1] - 1)
    return _score(PCA(n_components=components, svd_solver="full").fit(matrix), x)


def factor_analysis(train: Any, x: Any, num_components: int = 10) -> Pointwise:
    r"""Held-out log densities under factor analysis, fitted by maximum likelihood.

    .. math:: p(x) = \mathcal{N}(x \mid \mu,\ W W^\top + \mathrm{diag}(\psi))

    Args:
        train: the rows to fit.
        x: the held-out rows.
        num_components: columns of W, at most one fewer than the entries of a row.

    Raises:
        ValueError: missing entries.

    Reference: Rubin & Thayer 1982, doi:10.1007/BF02293851.

    >>> import torch
    >>> factor_analysis(torch.randn(50, 4), torch.randn(3, 4), num_components=2).log_p.shape
    (3,)
    """
    from sklearn.decomposition import FactorAnalysis

    matrix = _matrix(train)
    components = min(num_components, matrix.shape[1] - 1)
    return _score(FactorAnalysis(n_components=components, svd_method="lapack").fit(matrix), x)


def _score(fitted: Any, x: Any) -> Pointwise:
    held_out = as_data(x)
    variant = held_out.variant
    scores = fitted.score_samples(_matrix(held_out))
    return Pointwise(scores, measure="density", variant=variant, rows=held_out.fingerprint(True), split=held_out.split)


def _matrix(x: Any) -> np.ndarray:
    rows = as_data(x).dense().x
    matrix = rows.reshape(len(rows), -1).double().numpy()
    if np.isnan(matrix).any():
        raise ValueError("the baselines take no missing entries: leave those rows out, or impute them for all models")
    return matrix
