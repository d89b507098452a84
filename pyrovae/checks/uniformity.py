"""Are these ranks uniform? Tests, bands for the empirical distribution, and coverage; numpy in, numpy out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def ranks_among(truth: ArrayLike, draws: ArrayLike, rng: np.random.Generator) -> NDArray[np.int64]:
    """The number of draws below the truth, ties broken at random: an integer from 0 to the number of draws.

    Args:
        truth: shape ``(*shape)``.
        draws: shape ``(num_draws, *shape)``.
        rng: breaks the ties, which discrete latents have many of.

    >>> ranks_among([0.5], [[0.0], [1.0], [0.2]], np.random.default_rng(0))
    array([2])
    """
    truth, draws = np.asarray(truth), np.asarray(draws)
    below = (draws < truth).sum(0)
    ties = (draws == truth).sum(0)
    return below + rng.integers(0, ties + 1)


def uniformity_p_value(ranks: ArrayLike, num_draws: int, order: int = 4, num_bins: int = 20) -> Array:
    r"""The p-value of uniform ranks, from two chi-squared tests joined by Bonferroni.

    .. math:: \sum_{k=1}^{\mathrm{order}} \Bigl(\tfrac1{\sqrt N}\sum_i P_k(r_i)\Bigr)^2 \sim \chi^2_{\mathrm{order}}

    Neyman's smooth test on the first polynomials that are orthonormal under the discrete uniform law sees shifts, wrong
    widths and skew; the binned test sees anything local.

    Args:
        ranks: integers from 0 to ``num_draws``, shape ``(num_simulations, *shape)``.
        num_draws: the number of draws behind each rank.
        order: the number of polynomials.
        num_bins: the largest number of bins.

    Returns:
        Shape ``(*shape)``.

    Reference: Neyman 1937, doi:10.1080/03461238.1937.10404821; Talts et al. 2018, arXiv:1804.06788.

    >>> uniformity_p_value(np.arange(1000) % 100, 99).round(2), uniformity_p_value(np.arange(1000) % 50, 99).round(2)
    (np.float64(1.0), np.float64(0.0))
    """
    from scipy.stats import chi2

    ranks = _as_ranks(ranks, num_draws)
    order, num_bins = min(order, num_draws), min(num_bins, num_draws + 1, max(2, len(ranks) // 5))
    smooth = chi2.sf(_smooth_statistic(ranks, num_draws, order), order)
    binned = chi2.sf(_binned_statistic(ranks, num_draws, num_bins), num_bins - 1)
    return np.minimum(1.0, 2.0 * np.minimum(smooth, binned))


def _as_ranks(ranks: ArrayLike, num_draws: int) -> NDArray[np.int64]:
    ranks = np.asarray(ranks)
    if ranks.ndim == 0 or len(ranks) < 2:
        raise ValueError(f"expected ranks of at least two simulations along the first axis, got shape {ranks.shape}")
    if ranks.min() < 0 or ranks.max() > num_draws:
        raise ValueError(f"ranks among {num_draws} draws lie in 0..{num_draws}, got {ranks.min()}..{ranks.max()}")
    return ranks


def _smooth_statistic(ranks: NDArray[np.int64], num_draws: int, order: int) -> Array:
    grid = np.linspace(-1.0, 1.0, num_draws + 1)
    basis = np.linalg.qr(np.vander(grid, order + 1, increasing=True))[0][:, 1:] * np.sqrt(num_draws + 1)
    scores = np.stack([column[ranks].sum(0) for column in basis.T]) / np.sqrt(len(ranks))
    return (scores**2).sum(0)


def _binned_statistic(ranks: NDArray[np.int64], num_draws: int, num_bins: int) -> Array:
    bins = np.arange(num_draws + 1) * num_bins // (num_draws + 1)
    expected = np.bincount(bins, minlength=num_bins) * (len(ranks) / (num_draws + 1))
    counts = np.stack([(bins[ranks] == b).sum(0) for b in range(num_bins)])
    return ((counts - _column(expected, counts)) ** 2 / _column(expected, counts)).sum(0)  # type: ignore[arg-type]


def _column(values: Array, like: NDArray) -> Array:
    return values.reshape(-1, *(1,) * (like.ndim - 1))


class Band(NamedTuple):
    """Simultaneous limits for an empirical distribution function: ``grid``, ``lower`` and ``upper``, one shape."""

    grid: Array
    lower: Array
    upper: Array


def ecdf(ranks: ArrayLike, num_draws: int) -> Array:
    """The share of ranks at or below 0, 1, ..., ``num_draws``; shape ``(num_draws + 1, *shape)``.

    >>> ecdf([0, 1, 1, 3], 3)
    array([0.25, 0.75, 0.75, 1.  ])
    """
    ranks = _as_ranks(ranks, num_draws)
    counts = np.stack([(ranks == r).sum(0) for r in range(num_draws + 1)])
    return counts.cumsum(0) / len(ranks)


def ecdf_band(num_simulations: int, num_draws: int, level: float = 0.95, num_replicates: int = 2000) -> Band:
    r"""Limits that hold a uniform rank's whole empirical distribution with probability ``level``.

    .. math:: \Pr\bigl(\mathrm{lower}_k \le \hat F_k \le \mathrm{upper}_k\ \forall k\bigr) = \mathrm{level}

    Pointwise binomial quantiles at a level adjusted by simulation, so that the band is simultaneous.

    Reference: Säilynoja, Bürkner & Vehtari 2022, doi:10.1007/s11222-022-10090-6.

    >>> band = ecdf_band(1000, 19)
    >>> band.grid.shape, bool((band.lower <= band.grid).all() and (band.grid <= band.upper).all())
    ((20,), True)
    """
    from scipy.stats import binom

    grid = np.arange(1, num_draws + 2) / (num_draws + 1)
    rng = np.random.default_rng(0)
    uniform = np.full(num_draws + 1, 1.0 / (num_draws + 1))
    counts = rng.multinomial(num_simulations, uniform, size=num_replicates)[:, :-1].cumsum(1)
    tails = np.minimum(binom.cdf(counts, num_simulations, grid[:-1]), binom.sf(counts - 1, num_simulations, grid[:-1]))
    each = np.quantile(tails.min(1), 1.0 - level)
    lower, upper = (binom.ppf(q, num_simulations, grid) / num_simulations for q in (each, 1.0 - each))
    return Band(grid, np.append(lower[:-1], 1.0), np.append(upper[:-1], 1.0))


def central_coverage(ranks: ArrayLike, num_draws: int, levels: ArrayLike) -> Array:
    """The share of truths inside the central interval of each level; shape ``(num_levels, *shape)``.

    >>> central_coverage(np.arange(100), 99, [0.5, 0.9]).round(2)
    array([0.5, 0.9])
    """
    position = (_as_ranks(ranks, num_draws) + 0.5) / (num_draws + 1)
    return np.stack([(np.abs(2 * position - 1) <= level).mean(0) for level in np.asarray(levels)])


def density_coverage(ranks: ArrayLike, num_draws: int, levels: ArrayLike) -> Array:
    r"""Expected coverage: the share of truths inside the highest-density region of the guide, from ranks of log q.

    .. math:: \Pr\bigl(\log q(z^* \mid x) \ge q_{1 - \mathrm{level}}[\log q(z \mid x)]\bigr)

    Reference: Hermans et al. 2022, arXiv:2110.06581.

    >>> density_coverage(np.arange(100), 99, [0.5, 0.9]).round(2)
    array([0.5, 0.9])
    """
    position = (_as_ranks(ranks, num_draws) + 0.5) / (num_draws + 1)
    return np.stack([(position >= 1 - level).mean(0) for level in np.asarray(levels)])
