"""Are these ranks uniform? Tests and coverage; numpy in, numpy out."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
DEFECT = 3.0
"""Standard errors from which on a defect of ranks is named."""
BESIDE = 4.0
"""Standard errors from which on a width is named beside a shift, which already explains why ranks are not uniform."""


def ranks_among(truth: ArrayLike, draws: ArrayLike, rng: np.random.Generator) -> NDArray[np.int64]:
    """The number of draws below the truth, ties broken at random: an integer from 0 to the number of draws.

    Args:
        truth: shape ``(*shape)``.
        draws: shape ``(num_samples, *shape)``.
        rng: breaks the ties, which discrete latents have many of.

    >>> ranks_among([0.5], [[0.0], [1.0], [0.2]], np.random.default_rng(0))
    array([2])
    """
    truth, draws = np.asarray(truth), np.asarray(draws)
    below = (draws < truth).sum(0)
    ties = (draws == truth).sum(0)
    return below + rng.integers(0, ties + 1)


def uniformity_p_value(ranks: ArrayLike, num_samples: int, order: int = 4, num_bins: int = 20) -> Array:
    r"""The p-value of uniform ranks, from two chi-squared tests joined by Bonferroni.

    .. math:: \sum_{k=1}^{\mathrm{order}} \Bigl(\tfrac1{\sqrt N}\sum_i P_k(r_i)\Bigr)^2 \sim \chi^2_{\mathrm{order}}

    Neyman's smooth test on the first polynomials that are orthonormal under the discrete uniform law sees shifts, wrong
    widths and skew; the binned test sees anything local.

    Args:
        ranks: integers from 0 to ``num_samples``, shape ``(num_simulations, *shape)``.
        num_samples: the number of draws behind each rank.
        order: the number of polynomials.
        num_bins: the largest number of bins.

    Returns:
        Shape ``(*shape)``.

    Reference: Neyman 1937, doi:10.1080/03461238.1937.10404821; Talts et al. 2018, arXiv:1804.06788.

    >>> uniformity_p_value(np.arange(1000) % 100, 99).round(2), uniformity_p_value(np.arange(1000) % 50, 99).round(2)
    (np.float64(1.0), np.float64(0.0))
    """
    from scipy.stats import chi2

    ranks = _as_ranks(ranks, num_samples)
    order, num_bins = min(order, num_samples), min(num_bins, num_samples + 1, max(2, len(ranks) // 5))
    grid = np.linspace(-1.0, 1.0, num_samples + 1)
    basis = np.linalg.qr(np.vander(grid, order + 1, increasing=True))[0][:, 1:] * np.sqrt(num_samples + 1)
    scores = np.stack([column[ranks].sum(0) for column in basis.T]) / np.sqrt(len(ranks))
    smooth = chi2.sf((scores**2).sum(0), order)
    bins = np.arange(num_samples + 1) * num_bins // (num_samples + 1)
    counts = np.stack([(bins[ranks] == b).sum(0) for b in range(num_bins)])
    expected = np.bincount(bins, minlength=num_bins) * (len(ranks) / (num_samples + 1))
    expected = expected.reshape(-1, *(1,) * (counts.ndim - 1))
    binned = chi2.sf(((counts - expected) ** 2 / expected).sum(0), num_bins - 1)
    return np.minimum(1.0, 2.0 * np.minimum(smooth, binned))


def _as_ranks(ranks: ArrayLike, num_samples: int) -> NDArray[np.int64]:
    ranks = np.asarray(ranks)
    if ranks.ndim == 0 or len(ranks) < 2:
        raise ValueError(f"expected ranks of at least two simulations along the first axis, got shape {ranks.shape}")
    if ranks.min() < 0 or ranks.max() > num_samples:
        raise ValueError(f"ranks among {num_samples} draws lie in 0..{num_samples}, got {ranks.min()}..{ranks.max()}")
    return ranks


def central_coverage(ranks: ArrayLike, num_samples: int, levels: ArrayLike) -> Array:
    """The share of truths inside the central interval of each level; shape ``(num_levels, *shape)``.

    >>> central_coverage(np.arange(100), 99, [0.5, 0.9]).round(2)
    array([0.5, 0.9])
    """
    position = (_as_ranks(ranks, num_samples) + 0.5) / (num_samples + 1)
    return np.stack([(np.abs(2 * position - 1) <= level).mean(0) for level in np.asarray(levels)])


def density_coverage(ranks: ArrayLike, num_samples: int, levels: ArrayLike) -> Array:
    r"""Expected coverage: the share of truths inside the highest-density region of the guide, from ranks of log q.

    .. math:: \Pr\bigl(\log q(z^* \mid x) \ge q_{1 - \mathrm{level}}[\log q(z \mid x)]\bigr)

    Reference: Hermans et al. 2022, arXiv:2110.06581.

    >>> density_coverage(np.arange(100), 99, [0.5, 0.9]).round(2)
    array([0.5, 0.9])
    """
    position = (_as_ranks(ranks, num_samples) + 0.5) / (num_samples + 1)
    return np.stack([(position >= 1 - level).mean(0) for level in np.asarray(levels)])


def defect(ranks: ArrayLike, num_samples: int) -> str:
    """What is wrong with ranks, read off their normal scores.

    A mean off zero is a shift. A shift alone changes the width of the ranks as well: they are called too narrow or too
    wide beside the width that a mere shift by as much would leave.

    Args:
        ranks: integers from 0 to ``num_samples``, ``(num_simulations,)``.
        num_samples: the number of draws behind each rank.

    Returns:
        ``"shifted"``, ``"narrow"``, ``"wide"`` (of what the draws are from), two of these, or ``"uneven"``.

    >>> defect(np.full(500, 90), 99), defect(np.repeat([0, 99], 300), 99)
    ('shifted wide', 'narrow')
    """
    from scipy.stats import norm

    grid = norm.ppf((np.arange(num_samples + 1) + 0.5) / (num_samples + 1))
    scores = grid[_as_ranks(ranks, num_samples)]
    count, mean = len(scores), float(scores.mean())
    shift = abs(mean) / np.sqrt(max(scores.var(), 1e-12) / count)
    edges = norm.ppf(np.linspace(0.0, 1.0, len(grid) + 1))
    shares = np.diff(norm.cdf(edges - np.linspace(-8.0, 8.0, 801)[:, None]))
    share = shares[np.abs(shares @ grid - mean).argmin()]  # of ranks that are off to one side and else right
    centered = grid - share @ grid
    variance = float(share @ centered**2)
    error = np.sqrt(max(share @ centered**4 - variance**2, 1e-6))
    width = (scores.var() - variance) / (error / np.sqrt(count))
    needed = BESIDE if shift > DEFECT else DEFECT
    named = {"shifted": shift > DEFECT, "narrow": width > needed, "wide": width < -needed}
    return " ".join(name for name, found in named.items() if found) or "uneven"
