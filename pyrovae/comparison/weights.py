"""Model weights from pointwise log densities, stable whatever their size."""

from __future__ import annotations

import numpy as np

NEGLIGIBLE_WEIGHT = 1e-9
"""A weight below this is within the optimizer's error of zero, and is set to zero."""
TINY = 1e-300


def stacking_weights(log_p: np.ndarray) -> np.ndarray:
    r"""The weights of the mixture of models that predicts the rows best.

    .. math:: \max_{w \ge 0,\ \sum_m w_m = 1} \sum_i \log \sum_m w_m\, p_m(x_i)

    The problem is concave; sequential quadratic programming (scipy's SLSQP) finds its maximum.

    Args:
        log_p: of shape (data, models), in nats; minus infinity is a density of zero.

    Reference: Yao, Vehtari, Simpson & Gelman 2018, arXiv:1704.02030.

    >>> stacking_weights(np.log([[0.9, 0.1], [0.1, 0.9]])).round(6).tolist()
    [0.5, 0.5]
    """
    from scipy.optimize import minimize

    p = np.exp(_relative(log_p))
    models = p.shape[1]
    if models == 1 or not len(p):
        return np.full(models, 1.0 / models)

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        mixture = np.maximum(p @ w, TINY)
        return -float(np.log(mixture).mean()), -(p / mixture[:, None]).mean(0)

    total = {"type": "eq", "fun": lambda w: w.sum() - 1.0, "jac": np.ones_like}
    options = {"ftol": 1e-16, "maxiter": 1000}
    start, bounds = np.full(models, 1.0 / models), [(0.0, 1.0)] * models
    found = minimize(loss, start, jac=True, method="SLSQP", bounds=bounds, constraints=total, options=options).x
    weights = np.where(found < NEGLIGIBLE_WEIGHT, 0.0, found)
    return weights / weights.sum()


def pseudo_bma_weights(log_p: np.ndarray, num_draws: int = 1000, seed: int = 0) -> np.ndarray:
    r"""Weights in proportion to each model's total, averaged over the Bayesian bootstrap of the rows (pseudo-BMA+).

    .. math:: w_m = \mathbb{E}_{\alpha \sim \mathrm{Dirichlet}(1)}
        \Bigl[\mathrm{softmax}_m\, N \sum_i \alpha_i \log p_m(x_i)\Bigr]

    Args:
        log_p: of shape (data, models), in nats; minus infinity is a density of zero. Weights are NaN where every model
            gives a density of zero to some row.
        num_draws: of the bootstrap.
        seed: of the bootstrap.

    Reference: Yao, Vehtari, Simpson & Gelman 2018, arXiv:1704.02030.

    >>> pseudo_bma_weights(np.zeros((10, 2))).tolist()
    [0.5, 0.5]
    """
    generator = np.random.default_rng(seed)
    relative = _relative(log_p)
    possible = np.isfinite(relative).all(0)
    rows = generator.standard_exponential((num_draws, len(relative)))
    totals = len(relative) * (rows / rows.sum(1, keepdims=True)) @ relative[:, possible]
    if not possible.any():
        return np.full(len(possible), np.nan)
    shares = np.exp(totals - totals.max(1, keepdims=True))
    weights = np.zeros(len(possible))
    weights[possible] = (shares / shares.sum(1, keepdims=True)).mean(0)
    return weights


def _relative(log_p: np.ndarray) -> np.ndarray:
    """Log densities less each row's largest, which changes no weights but keeps exponentials in range.

    A row of density zero under every model says nothing about the weights and is left out.
    """
    kept = log_p[np.isfinite(log_p.max(1))]
    return kept - kept.max(1, keepdims=True)
