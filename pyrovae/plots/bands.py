"""Bands that a whole empirical distribution function stays inside, if the numbers are uniform."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_SIMULATIONS = 10_000


class Band(NamedTuple):
    """A band around a uniform distribution function.

    Args:
        expected: the distribution function, at each point.
        lower: the least empirical distribution function inside the band.
        upper: the largest one.

    >>> Band(np.ones(1), np.zeros(1), np.ones(1)).upper
    array([1.])
    """

    expected: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def ecdf_band(num: int, expected: np.ndarray, prob: float = 0.95, num_curves: int = 1) -> Band:
    r"""The simultaneous band for the empirical distribution function of uniform numbers.

    .. math::

        \Pr\bigl(\forall j:\ B_{\gamma/2}(n, F_j) \le n \hat F_j \le B_{1-\gamma/2}(n, F_j)\bigr)
        \ge 1 - \frac{1 - \texttt{prob}}{m}

    with B the binomial quantile. The level gamma that does it is found by simulating 10,000 samples with a fixed seed
    its own: the caller's generators are not touched.

    Args:
        num: n, how many numbers there are.
        expected: the values F of the true distribution function, ascending, in (0, 1), ``(points,)``.
        prob: that all curves stay inside.
        num_curves: m; each curve gets its share of the false alarms (Bonferroni).

    Raises:
        ValueError: ``prob`` lies outside (0, 1).

    References:
        T. Säilynoja, P.-C. Bürkner and A. Vehtari (2022), arXiv:2103.10522, section 2.

    >>> band = ecdf_band(100, np.array([0.25, 0.5, 0.75]))
    >>> band.lower < band.expected
    array([ True,  True,  True])
    """
    from scipy.stats import binom

    if not 0 < prob < 1:
        raise ValueError(f"prob should lie between 0 and 1, got {prob}")
    cells = np.diff(expected, prepend=0, append=1)
    counts = np.random.default_rng(0).multinomial(num, cells, size=_SIMULATIONS).cumsum(1)[:, :-1]
    tails = np.min([_tails(column, num, share) for column, share in zip(counts.T, expected, strict=True)], axis=0)
    gamma = float(np.quantile(tails, (1 - prob) / num_curves, method="lower"))
    gamma = min(gamma, 1.0) * (1 - 1e-9)  # a tail of exactly gamma lies inside, whatever the rounding
    lower, upper = (binom.ppf(tail, num, expected) / num for tail in (gamma / 2, 1 - gamma / 2))
    return Band(expected, lower, upper)


def _tails(counts: np.ndarray, num: int, share: float) -> np.ndarray:
    """Each count's two-sided binomial tail probability; equal counts, of which there are many, are looked at once."""
    from scipy.stats import binom

    values, where = np.unique(counts, return_inverse=True)
    return 2 * np.minimum(binom.cdf(values, num, share), binom.sf(values - 1, num, share))[where]
