"""Model weights from pointwise log densities, stable whatever their size."""

from __future__ import annotations

import numpy as np

TOLERANCE = 1e-12


def stacking_weights(log_p: np.ndarray, max_steps: int = 200) -> np.ndarray:
    r"""The weights of the mixture of models that predicts the rows best.

    .. math:: \max_{w \ge 0,\ \sum_m w_m = 1} \sum_i \log \sum_m w_m\, p_m(x_i)

    Each row's largest log density is subtracted first, which changes nothing but keeps the exponentials in range. The
    problem is concave; Newton's method on the models with positive weight finds its maximum.

    Args:
        log_p: of shape (data, models), in nats.
        max_steps: steps of Newton's method.

    Reference: Yao, Vehtari, Simpson & Gelman 2018, arXiv:1704.02030.

    >>> stacking_weights(np.log([[0.9, 0.1], [0.1, 0.9]])).round(6).tolist()
    [0.5, 0.5]
    """
    p = np.exp(log_p - log_p.max(1, keepdims=True))
    models = p.shape[1]
    w = _mix(p, np.full(models, 1.0 / models), steps=50)
    active = w > 1e-6
    for _ in range(max_steps):
        w = np.where(active, w, 0.0)
        w /= w.sum()
        step, gradient = _newton(p, w, active)
        waiting = ~active & (gradient > 1 + 1e-9)
        if np.abs(step).max() < TOLERANCE and not waiting.any():
            break
        if np.abs(step).max() < 1e-9 and waiting.any():
            active = active | waiting
            w = np.where(waiting, 1e-3, w)
            continue
        w = _walk(p, w, step)
        active = w > 0
    return w


def _mix(p: np.ndarray, w: np.ndarray, steps: int) -> np.ndarray:
    """Expectation maximization: slow, but from anywhere."""
    for _ in range(steps):
        joint = p * w
        w = (joint / joint.sum(1, keepdims=True)).mean(0)
    return w


def _newton(p: np.ndarray, w: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The Newton step among the active models under a fixed sum, and the gradient, which is 1 for them at the optimum."""
    ratio = p / (p @ w)[:, None]
    gradient = ratio.mean(0)
    used = ratio[:, active]
    count = used.shape[1]
    system = np.zeros((count + 1, count + 1))
    system[:count, :count] = used.T @ used / len(p)
    system[:count, count] = system[count, :count] = 1.0
    step = np.zeros_like(w)
    step[active] = np.linalg.lstsq(system, np.append(gradient[active], 0.0), rcond=1e-14)[0][:count]
    return step, gradient


def _walk(p: np.ndarray, w: np.ndarray, step: np.ndarray) -> np.ndarray:
    """As far along the step as weights stay positive and the objective does not fall."""
    shrinking = step < 0
    length = min(1.0, (w[shrinking] / -step[shrinking]).min(initial=np.inf))
    here = np.log(p @ w).sum()
    for _ in range(50):
        there = np.maximum(w + length * step, 0.0)
        there = np.where(there < 1e-15, 0.0, there)
        if np.log(p @ there).sum() >= here - 1e-12 * abs(here):
            break
        length /= 2
    return there / there.sum()


def pseudo_bma_weights(log_p: np.ndarray, num_draws: int = 1000, seed: int = 0) -> np.ndarray:
    r"""Weights in proportion to each model's total, averaged over the Bayesian bootstrap of the rows (pseudo-BMA+).

    .. math:: w_m = \mathbb{E}_{\alpha \sim \mathrm{Dirichlet}(1)}
        \Bigl[\mathrm{softmax}_m\, N \sum_i \alpha_i \log p_m(x_i)\Bigr]

    Args:
        log_p: of shape (data, models), in nats.
        num_draws: of the bootstrap.
        seed: of the bootstrap.

    Reference: Yao, Vehtari, Simpson & Gelman 2018, arXiv:1704.02030.

    >>> pseudo_bma_weights(np.zeros((10, 2))).tolist()
    [0.5, 0.5]
    """
    generator = np.random.default_rng(seed)
    relative = log_p - log_p.max(1, keepdims=True)
    rows = generator.standard_exponential((num_draws, len(log_p)))
    totals = len(log_p) * (rows / rows.sum(1, keepdims=True)) @ relative
    weights = np.exp(totals - totals.max(1, keepdims=True))
    return (weights / weights.sum(1, keepdims=True)).mean(0)
