"""What a contrast is of, random pairs or means of units, and what its features tell of each other: spreads and a prior."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Units = NDArray[np.int64]
MANY_FEATURES = 20
"""With so many features or more, units and features tell of each other: spreads are moderated, and differences have a prior."""
MOST_DF = 1e6
STEPS = 1000
"""Of the EM algorithm for the weights of the prior, whose log likelihood is concave."""
ROUNDING = 1e-6
"""The share of the median variance up to which a variance is that of a constant."""
CLOSE = 1e-6
"""The change of a weight below which they have settled."""


class Estimate(NamedTuple):
    """The difference of each feature by itself: Student's t around a location."""

    loc: Array
    scale: Array
    df: Array


def moderated(variance: Array, df: float) -> tuple[Array, float]:
    r"""Variances of features with few degrees of freedom d, moderated by the distribution of all of them; and the new degrees.

    .. math:: \tilde s_g^2 = \frac{d_0 s_0^2 + d s_g^2}{d_0 + d}, \qquad
        \frac{s_g^2}{s_0^2} \sim F_{d, d_0}

    Args:
        variance: of each feature; one without spread, but for rounding, counts nowhere in the estimates of :math:`d_0` and
            :math:`s_0^2`.
        df: the degrees of freedom of each.

    Reference: Smyth 2004, doi:10.2202/1544-6115.1027.

    >>> moderated(np.array([1.0, 1.0, 1.0]), 3)[0].round(2)
    array([1.45, 1.45, 1.45])
    """
    from scipy.optimize import brentq
    from scipy.special import digamma, polygamma

    known = variance[np.isfinite(variance) & (variance > 0)]
    known = known[known > ROUNDING * np.median(known)] if len(known) else known
    if len(known) < 2:
        return variance, df
    logs = np.log(known) - digamma(df / 2) + np.log(df / 2)
    excess = logs.var(ddof=1) - polygamma(1, df / 2)  # of the logarithms, beyond what sampling makes of equal variances
    if excess <= polygamma(1, MOST_DF / 2):
        return np.full_like(variance, np.exp(logs.mean())), MOST_DF
    prior = 2 * brentq(lambda half: float(polygamma(1, half) - excess), 1e-6, MOST_DF)
    center = np.exp(logs.mean() + digamma(prior / 2) - np.log(prior / 2))
    return (prior * center + df * variance) / (prior + df), float(min(prior + df, MOST_DF))


def beyond(estimate: Estimate, delta: float) -> Array:
    r"""The probability of each feature that its difference exceeds delta, under a prior that all features tell.

    .. math:: D_g \sim \sum_k \pi_k\, \mathcal{N}(0, \sigma_k^2), \qquad \hat D_g \mid D_g \sim \mathcal{N}(D_g, s_g^2)

    The scales are a grid with 0 among them, the weights those of the largest likelihood; s is the scale at which a normal
    distribution has the tail that Student's t has beyond the estimate. A flat prior would take most of the features that do
    not differ, but lie off by chance, to differ.

    Args:
        estimate: of each feature; one that is no number has the probability NaN, and tells the others nothing.
        delta: the difference.

    Reference: Stephens 2017, doi:10.1093/biostatistics/kxw041.

    >>> loc = np.array([0.0, 0.1, -0.2, 0.15, -0.1, 0.0, 2.0])
    >>> beyond(Estimate(loc, np.full(7, 0.2), np.full(7, 50.0)), 0.5).round(2)
    array([0., 0., 0., 0., 0., 0., 1.])
    """
    from scipy.stats import norm, t

    fine = np.isfinite(estimate.loc) & np.isfinite(estimate.scale) & np.isfinite(estimate.df)
    if not fine.all():
        whole = np.full(len(fine), np.nan)
        whole[fine] = beyond(Estimate(*(part[fine] for part in estimate)), delta) if fine.any() else np.nan
        return whole
    size, central = np.abs(estimate.loc), t.pdf(0.0, estimate.df) / norm.pdf(0.0)
    z = norm.isf(t.sf(size / estimate.scale, estimate.df))
    scale = np.where(z > 1e-3, size / np.maximum(z, 1e-3), estimate.scale / central)
    scale = np.maximum(np.where(np.isfinite(scale), scale, estimate.scale), 1e-150)
    lowest = scale.min() / 10
    highest = max(2 * np.sqrt(max(float((size**2 - scale**2).max()), 0.0)), 8 * lowest)
    grid = np.concatenate([[0.0], lowest * 2 ** np.arange(0, np.log2(highest / lowest) + 0.5, 0.5)])
    variance = grid**2 + scale[:, None] ** 2
    log_p = -0.5 * size[:, None] ** 2 / variance - 0.5 * np.log(variance)
    p, weights = np.exp(log_p - log_p.max(1, keepdims=True)), np.full(len(grid), 1 / len(grid))
    for _ in range(STEPS):
        shares = p * weights
        shares /= shares.sum(1, keepdims=True)
        before, weights = weights, shares.mean(0)
        if np.abs(weights - before).max() < CLOSE:
            break
    kept = grid**2 / variance
    center, sd = size[:, None] * kept, np.maximum(np.sqrt(kept) * scale[:, None], 1e-300)
    found: Array = (shares * (norm.sf((delta - center) / sd) + norm.cdf((-delta - center) / sd))).sum(1)
    return found


class Drawn(NamedTuple):
    """Draws of the difference ``(draws, features)``, and, where features have a prior, what each by itself tells of its own."""

    difference: Array
    estimate: Estimate | None = None


def joined(fits: Sequence[Drawn]) -> Drawn:
    """The draws of several fits; the variance of an estimate is that within fits and between them."""
    known = [one.estimate for one in fits if one.estimate is not None]
    joined = None
    if len(known) == len(fits):
        locs, scales, dfs = (np.stack(part) for part in zip(*known, strict=True))
        joined = Estimate(locs.mean(0), np.sqrt((scales**2).mean(0) + locs.var(0)), dfs.mean(0))
    return Drawn(np.concatenate([one.difference for one in fits]), joined)


def _population(
    values: list[Array],
    units: list[Units],
    rest: list[Array | None],
    num: int,
    rng: np.random.Generator,
    is_grouped: bool,
) -> Drawn:
    """Differences of random pairs: of a random row of a random unit on each side, at a random draw."""
    picked = []
    for drawn, unit in zip(values, units, strict=True):
        chance = 1 / np.bincount(unit)[unit]
        rows = rng.choice(len(drawn), num, p=chance / chance.sum())
        picked.append(drawn[rows, rng.integers(0, drawn.shape[1], num)])
    return Drawn(picked[0] - picked[1])


def _mean(
    values: list[Array],
    units: list[Units],
    rest: list[Array | None],
    num: int,
    rng: np.random.Generator,
    is_grouped: bool,
) -> Drawn:
    """Differences of the means of two populations of units: of those at hand, plus Welch's t for their being a sample.

    The spread of the units is that of their posterior means, so that what a latent is not known enters once, by its draws;
    where rest is given, by which the data of units lie above the model, it is part of their means.
    """
    centers, spreads, weights = [], [], []
    for drawn, unit, above in zip(values, units, rest, strict=True):
        count = unit.max() + 1
        means = np.zeros((count, *drawn.shape[1:]))
        np.add.at(means, unit, drawn)
        means /= np.bincount(unit)[:, None, None]
        means = means if above is None else means + above[:, None]
        centers.append(means.mean(0))
        spreads.append((means.mean(1).var(0, ddof=1) if count > 1 else np.zeros(drawn.shape[-1]), count))
        weights.append(max(count - 1, 1))
    total, df = _welch([variance / count for variance, count in spreads], weights)
    draws, center = np.arange(num) % centers[0].shape[0], centers[0] - centers[1]
    difference = center[draws] + np.sqrt(total) * rng.standard_t(df, (num, len(df)))
    if not is_grouped or center.shape[-1] < MANY_FEATURES:
        return Drawn(difference)
    shared = [moderated(variance, weight) for (variance, _), weight in zip(spreads, weights, strict=True)]
    sizes = [count for _, count in spreads]
    total, df = _welch([v / n for (v, _), n in zip(shared, sizes, strict=True)], [weight for _, weight in shared])
    return Drawn(difference, Estimate(center.mean(0), np.sqrt(total + center.var(0)), df))


def _welch(variances: Sequence[Array], weights: Sequence[float]) -> tuple[Array, Array]:
    """The variance of a difference of two means from theirs, and its degrees of freedom, from 1 on."""
    total = np.maximum(variances[0] + variances[1], 1e-300)
    df = total**2 / np.maximum(sum(v**2 / w for v, w in zip(variances, weights, strict=True)), 1e-300)
    return total, np.clip(df, 1.0, MOST_DF)


ESTIMANDS: Mapping[str, Callable[..., Drawn]] = {"mean": _mean, "population": _population}
