"""Figures of calibration: ranks, coverage, probability integral transforms, predictive checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae.errors import check_integer
from pyrovae.plots.arrays import (
    check_mass,
    check_probabilities,
    named_columns,
    same_length,
    to_finite,
)
from pyrovae.plots.style import BLUE, CLASSES, VERMILLION, color, finding, ink, legend, line, marker, one_panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyrovae.plots.arrays import Values

_SIMULATIONS = 10_000
_FEW = 12
"""Of more curves than these, those inside the band share one color, and so do those outside but the first."""


def plot_sbc_ecdf(
    ranks: Values | Mapping[str, Values], num_draws: int, *, prob: float = 0.95, ax: Axes | None = None
) -> Axes:
    r"""Ranks of simulated truths among posterior draws: their distribution function less the uniform one.

    .. math:: \hat F(r) - \frac{r + 1}{L + 1}, \qquad r = \#\{l : z_l < z^*\}

    If the posterior is right, all curves stay inside the band with probability ``prob``. A curve above it on the left
    means that truths rank too low. An S shape that starts above means too narrow a posterior, one that starts below too
    wide a one.

    Args:
        ranks: integers from 0 to ``num_draws``, ``(simulations,)`` or ``(simulations, *quantities)``, or such arrays by
            name, e.g. ``{"z": ..., "log_joint": ...}``.
        num_draws: L, the posterior draws among which each truth was ranked.
        prob: that *all* curves stay inside under calibration (Bonferroni over the quantities).
        ax: where to draw.

    Raises:
        ValueError: a rank lies outside 0 to ``num_draws``, a shape is none of these, or ``prob`` lies outside (0, 1).

    References:
        T. Säilynoja, P.-C. Bürkner and A. Vehtari (2022), arXiv:2103.10522.

    >>> ranks = np.random.default_rng(1).integers(0, 100, (500, 3))
    >>> plot_sbc_ecdf({"z": ranks}, num_draws=99).get_title(loc="left")
    'all 3 inside the joint 95% band'
    """
    check_integer("num_draws", num_draws)
    columns = named_columns("ranks", ranks, "simulations")
    for name, values in columns.items():
        if values.min() < 0 or values.max() > num_draws or (values != values.round()).any():
            found = f"{values.min():g} to {values.max():g}"
            raise ValueError(f"{name} should hold whole ranks from 0 to num_draws={num_draws}, got values from {found}")
    positions = np.unique(np.linspace(0, num_draws - 1, min(num_draws, 50)).round())
    curves = {name: (values[:, None] <= positions).mean(0) for name, values in columns.items()}
    ax = _draw_ecdfs(ax, curves, (positions + 1) / (num_draws + 1), len(next(iter(columns.values()))), prob)
    ax.set_xlabel(f"rank among {num_draws} draws (share)")
    return ax


def plot_pit(pit: Values | Mapping[str, Values], *, prob: float = 0.95, ax: Axes | None = None) -> Axes:
    r"""Probability integral transforms: their distribution function less the uniform one, with a joint band.

    .. math:: u_i = \Pr(x^\text{rep}_i \le x_i), \qquad \hat F(u) - u

    The values must be independent of each other for the band to hold; those of one datum's pixels are not.

    Args:
        pit: numbers in [0, 1], ``(data,)`` or ``(data, *quantities)``, or such arrays by name.
        prob: that *all* curves stay inside under calibration (Bonferroni over the quantities).
        ax: where to draw.

    Raises:
        ValueError: a value lies outside [0, 1], a shape is none of these, or ``prob`` lies outside (0, 1).

    References:
        T. Säilynoja, P.-C. Bürkner and A. Vehtari (2022), arXiv:2103.10522.

    >>> plot_pit(np.linspace(0.01, 0.99, 99)).get_xlabel()
    'probability integral transform (probability)'
    """
    columns = named_columns("pit", pit, "data")
    at = np.linspace(0, 1, 51)[1:-1]
    curves = {}
    for name, values in columns.items():
        check_probabilities(name, values)
        curves[name] = np.searchsorted(np.sort(values), at, side="right") / len(values)
    ax = _draw_ecdfs(ax, curves, at, len(next(iter(columns.values()))), prob)
    ax.set_xlabel("probability integral transform (probability)")
    return ax


def _draw_ecdfs(ax: Axes | None, curves: Mapping[str, np.ndarray], expected: np.ndarray, num: int, prob: float) -> Axes:
    """Draw distribution functions of so many numbers each, less the expected one, and the band for all of them."""
    lower, upper = ecdf_band(num, expected, prob, len(curves))
    ax = one_panel(ax, 6.2)
    at, many = np.concatenate([[0], expected, [1]]), len(curves) > _FEW
    low, high = (np.pad(edge - expected, 1) for edge in (lower, upper))
    ax.fill_between(at, low, high, color=ink(ax), alpha=0.22, linewidth=0, label=f"joint {prob:.0%} band")
    ax.axhline(0, color=ink(ax), linewidth=0.8)
    outside = [name for name, curve in curves.items() if ((curve < lower) | (curve > upper)).any()]
    inside = [name for name in curves if many and name not in outside]
    tints = (*CLASSES, "#AA4499", ink(ax))
    for index, name in enumerate(outside[:_FEW] if many else curves):
        tint = tints[(index + many) % len(tints)]  # blue is taken by the many inside
        ax.plot(at, np.pad(curves[name] - expected, 1), line(index), color=tint, linewidth=1.5, label=name)
    for names, tint, where in ((inside, BLUE, "inside"), (outside[_FEW:] if many else [], VERMILLION, "more outside")):
        for index, name in enumerate(names):
            label = None if index else f"{len(names)} {where}"
            ax.plot(at, np.pad(curves[name] - expected, 1), color=tint, alpha=0.4, linewidth=0.8, label=label)
    found = f"{len(outside)} of {len(curves)} outside" if outside else f"all {len(curves)} inside"
    finding(ax, f"{found} the joint {prob:.0%} band")
    legend(ax, outside=True)
    ax.set_ylabel("distribution function\nless uniform (probability)")
    return ax


def ecdf_band(num: int, expected: np.ndarray, prob: float = 0.95, num_curves: int = 1) -> tuple[np.ndarray, np.ndarray]:
    r"""The least and the largest empirical distribution function of uniform numbers, at all points together.

    .. math::

        \Pr\bigl(\forall j:\ B_{\gamma/2}(n, F_j) \le n \hat F_j \le B_{1-\gamma/2}(n, F_j)\bigr)
        \ge 1 - \frac{1 - \texttt{prob}}{m}

    with B the binomial quantile. The level gamma is found by simulating 10,000 samples with a fixed seed.

    Args:
        num: n, how many numbers there are.
        expected: the values F of the true distribution function, ascending, in (0, 1), ``(points,)``.
        prob: that all curves stay inside.
        num_curves: m; each curve gets its share of the false alarms (Bonferroni).

    References:
        T. Säilynoja, P.-C. Bürkner and A. Vehtari (2022), arXiv:2103.10522, section 2.

    >>> lower, upper = ecdf_band(100, np.array([0.25, 0.5, 0.75]))
    >>> lower < upper
    array([ True,  True,  True])
    """
    from scipy.stats import binom

    check_mass("prob", prob)
    cells = np.diff(expected, prepend=0, append=1)
    counts = np.random.default_rng(0).multinomial(num, cells, size=_SIMULATIONS).cumsum(1)[:, :-1]
    least = np.ones(_SIMULATIONS)
    for column, share in zip(counts.T, expected, strict=True):
        values, where = np.unique(column, return_inverse=True)  # equal counts, of which there are many, once
        tail = 2 * np.minimum(binom.cdf(values, num, share), binom.sf(values - 1, num, share))
        least = np.minimum(least, tail[where])
    gamma = float(np.quantile(least, (1 - prob) / num_curves, method="lower"))
    gamma *= 1 - 1e-9  # a tail of exactly gamma lies inside, whatever the rounding
    return binom.ppf(gamma / 2, num, expected) / num, binom.ppf(1 - gamma / 2, num, expected) / num


def plot_coverage(
    levels: Values,
    coverage: Values | Mapping[str, Values],
    num_simulations: int | None = None,
    *,
    of: str = "simulations",
    ax: Axes | None = None,
) -> Axes:
    r"""How often credible regions of each level hold the truth; below the diagonal the posterior is too sure of itself.

    .. math:: \alpha \mapsto \Pr\bigl(z^* \in C_\alpha(x)\bigr)

    Args:
        levels: nominal credible levels, ``(levels,)``, in [0, 1].
        coverage: the share of simulations whose truth lay inside, ``(levels,)`` or ``(levels, *quantities)``, or such
            arrays by name.
        num_simulations: behind each share; draws the band of 95 % pointwise binomial intervals around the diagonal.
        of: what was counted, in the plural: ``"hidden entries"`` for :func:`pyrovae.checks.imputation_calibration`.
        ax: where to draw.

    Raises:
        ValueError: lengths differ, or a number lies outside [0, 1].

    References:
        J. Hermans et al., "A trust crisis in simulation-based inference? Your posterior approximations can be
        unfaithful" (2022), arXiv:2110.06581.

    >>> plot_coverage([0.5, 0.9], [0.4, 0.8], num_simulations=500).get_ylabel()
    'coverage (share of simulations)'
    """
    from scipy.stats import binom

    nominal, columns = to_finite("levels", levels, "levels"), named_columns("coverage", coverage, "levels")
    same_length(levels=nominal, **columns)
    for name, values in {"levels": nominal, **columns}.items():
        check_probabilities(name, values)
    ax = one_panel(ax, 4.6, 4.2)
    if num_simulations is not None:
        check_integer("num_simulations", num_simulations)
        level = np.linspace(0, 1, 101)
        low, high = (binom.ppf(tail, num_simulations, level) / num_simulations for tail in (0.025, 0.975))
        label = f"95% of {num_simulations:,} {of}"
        ax.fill_between(level, low, high, color=ink(ax), alpha=0.22, linewidth=0, label=label)
    ax.plot([0, 1], [0, 1], color=ink(ax), linewidth=0.8, label="calibrated")
    order, many = np.argsort(nominal), {"color": BLUE, "alpha": 0.4, "linewidth": 0.8}
    for index, (name, values) in enumerate(columns.items()):
        few: dict[str, Any] = {"color": color(index), "linestyle": line(index), "marker": marker(index), "label": name}
        ax.plot(nominal[order], values[order], **(few if len(columns) <= _FEW else many), markersize=3.5)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="credible level (probability)", ylabel=f"coverage (share of {of})")
    ax.set_aspect("equal")
    ax.annotate("too sure", (0.97, 0.04), ha="right", fontsize="small", fontstyle="italic", color=ink(ax))
    if len(columns) > _FEW:
        finding(ax, f"{len(columns)} quantities, a line each")
    legend(ax)
    return ax


def plot_predictive(
    replicated: Values, observed: float, *, name: str = "statistic", unit: str = "", ax: Axes | None = None
) -> Axes:
    r"""A statistic of the observed data among the same statistic of data that the model simulates.

    .. math:: p = \Pr\bigl(T(x^\text{rep}) \ge T(x)\bigr)

    A p-value near 0 or 1 says that the model does not make data like these in that respect. Such p-values are not
    uniform under a right model whose parameters were fitted to the same data: they gather around 1/2.

    Args:
        replicated: the statistic of each simulated data set, ``(draws,)``.
        observed: the statistic of the observed data.
        name: of the statistic, on the axis.
        unit: of the statistic, e.g. ``"nats"``.
        ax: where to draw.

    Raises:
        ValueError: the shape is another, or a number is not finite.

    References:
        A. Gelman, X.-L. Meng and H. Stern, "Posterior predictive assessment of model fitness via realized
        discrepancies" (1996), Statistica Sinica 6, 733-807.

    >>> plot_predictive([1.0, 2.0, 3.0, 4.0], 3.5, name="mean intensity").get_title(loc="left")
    'p = 0.25 of 4 draws'
    """
    draws, found = to_finite("replicated", replicated, "draws"), to_finite("observed", observed)
    if found.size != 1:
        raise ValueError(f"observed should be one number, the statistic of all observed data, got shape {found.shape}")
    value = found.item()
    ax = one_panel(ax)
    ax.hist(draws, bins=int(np.clip(np.sqrt(len(draws)), 8, 60)), color=BLUE, alpha=0.55, label="replicated")
    ax.axvline(value, color=VERMILLION, linewidth=2, label=f"observed: {value:.4g}")
    ax.set(xlabel=f"{name} ({unit})" if unit else name, ylabel="number of draws")
    share = float(np.mean(draws >= value))
    finding(ax, f"{f'p = {share:.2g}' if share else f'p < {1 / len(draws):.2g}'} of {len(draws):,} draws")
    legend(ax)
    return ax
