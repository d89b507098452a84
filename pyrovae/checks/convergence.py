"""R-hat and effective sample size of Markov chains, for many quantities at once; numpy in, numpy out."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def rhat(draws: ArrayLike) -> Array:
    r"""The rank-normalized split R-hat, the larger of its bulk and its folded form; 1 where chains agree.

    .. math:: \hat R = \sqrt{\frac{n - 1}{n} + \frac{B}{n W}}

    Args:
        draws: shape ``(chains, draws, *shape)``, at least four draws.

    Returns:
        Shape ``(*shape)``; NaN where the draws are constant.

    Reference: Vehtari et al. 2021, arXiv:1903.08008.

    >>> rhat(np.random.default_rng(0).normal(size=(4, 500, 2))).round(1)
    array([1., 1.])
    """
    halves = _halves(draws)
    folded = np.abs(halves - np.median(halves, axis=(0, 1)))
    return np.maximum(_split_rhat(_rank_normalized(halves)), _split_rhat(_rank_normalized(folded)))


def ess(draws: ArrayLike) -> Array:
    r"""The effective number of independent draws in the bulk, from rank-normalized split chains.

    .. math:: \mathrm{ESS} = \frac{MN}{-1 + 2 \sum_t \hat P_t}, \qquad \hat P_t = \hat\rho_{2t} + \hat\rho_{2t + 1}

    Args:
        draws: shape ``(chains, draws, *shape)``, at least four draws.

    Returns:
        Shape ``(*shape)``; the number of draws where they are constant.

    Reference: Vehtari et al. 2021, arXiv:1903.08008; Geyer 1992, doi:10.1214/ss/1177011137.

    >>> bool(ess(np.random.default_rng(0).normal(size=(4, 500))) > 1000)
    True
    """
    z = _rank_normalized(_halves(draws))
    flat = z.reshape(*z.shape[:2], -1)
    return np.array([_ess(flat[:, :, j]) for j in range(flat.shape[2])]).reshape(z.shape[2:])


def _halves(draws: ArrayLike) -> Array:
    draws = np.asarray(draws, dtype=float)
    if draws.ndim < 2 or draws.shape[1] < 4:
        raise ValueError(f"expected draws of shape (chains, draws, ...) with at least 4 draws, got {draws.shape}")
    half = draws.shape[1] // 2
    return np.concatenate([draws[:, :half], draws[:, -half:]])


def _rank_normalized(draws: Array) -> Array:
    from scipy.stats import norm, rankdata

    flat = draws.reshape(draws.shape[0] * draws.shape[1], -1)
    ranks = rankdata(flat, axis=0)
    return norm.ppf((ranks - 0.375) / (len(flat) + 0.25)).reshape(draws.shape)


def _split_rhat(z: Array) -> Array:
    size = z.shape[1]
    between, within = size * z.mean(1).var(0, ddof=1), z.var(1, ddof=1).mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt((between / within + size - 1) / size)


def _ess(z: Array) -> float:
    chains, size = z.shape
    total = chains * size
    if np.ptp(z) < np.finfo(float).resolution:
        return float(total)
    rho = _autocorrelation(z)
    pairs = rho[: (size - 3) // 2 * 2].reshape(-1, 2).sum(1)
    ended = np.flatnonzero(pairs <= 0)
    pairs = np.minimum.accumulate(pairs[: ended[0]] if len(ended) else pairs)
    tau = max(-1.0 + 2.0 * pairs.sum() + max(rho[2 * len(pairs)], 0.0), 1 / np.log10(total))
    return total / tau


def _autocorrelation(z: Array) -> Array:
    """Chains joined: one less the ratio of the decorrelated part of the variance to the whole."""
    chains, size = z.shape
    centered = z - z.mean(1, keepdims=True)
    spectrum = np.fft.rfft(centered, 2 * size, axis=1)
    covariance = np.fft.irfft(np.abs(spectrum) ** 2, 2 * size, axis=1)[:, :size].mean(0) / size
    within = covariance[0] * size / (size - 1)
    variance = within * (size - 1) / size + (z.mean(1).var(ddof=1) if chains > 1 else 0.0)
    rho = 1 - (within - covariance) / variance
    rho[0] = 1.0
    return rho
