"""Figures of calibration: ranks, coverage, probability integral transforms, predictive checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae.plots.arrays import at_least, finite, named_columns, to_numpy, to_shape
from pyrovae.plots.bands import Band, ecdf_band
from pyrovae.plots.style import BLUE, VERMILLION, color, finding, ink, legend, line, marker, one_panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyrovae.plots.arrays import Values


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
        T. Säilynoja, P.-C. Bürkner and A. Vehtari, "Graphical test for discrete uniformity and its applications in
        goodness-of-fit evaluation and multiple sample comparison" (2022), arXiv:2103.10522.

    >>> ranks = np.random.default_rng(1).integers(0, 100, (500, 3))
    >>> plot_sbc_ecdf({"z": ranks}, num_draws=99).get_title(loc="left")
    'all 3 inside the joint 95% band'
    """
    columns = named_columns("ranks", ranks, "simulations")
    for name, values in columns.items():
        _check_ranks(name, values, num_draws)
    positions = np.unique(np.linspace(0, num_draws - 1, min(num_draws, 50)).round())
    curves = {name: (values[:, None] <= positions).mean(0) for name, values in columns.items()}
    expected = (positions + 1) / (num_draws + 1)
    band = ecdf_band(len(next(iter(columns.values()))), expected, prob, len(columns))
    ax = one_panel(ax, 6.2)
    _draw_ecdfs(ax, curves, band, prob)
    ax.set(xlabel=f"rank among {num_draws} draws (share)", ylabel="distribution function\nless uniform (probability)")
    return ax


def _check_ranks(name: str, values: np.ndarray, num_draws: int) -> None:
    at_least(1, num_draws=num_draws)
    if values.min() < 0 or values.max() > num_draws or (values != values.round()).any():
        found = f"{values.min():g} to {values.max():g}"
        raise ValueError(f"{name} should hold whole ranks from 0 to num_draws={num_draws}, got values from {found}")


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
    for name, values in columns.items():
        if not (values.min() >= 0 and values.max() <= 1):
            raise ValueError(f"{name} should hold probabilities from 0 to 1, got {values.min():g} to {values.max():g}")
    expected = np.linspace(0, 1, 51)[1:-1]
    curves = {
        name: np.searchsorted(np.sort(values), expected, side="right") / len(values) for name, values in columns.items()
    }
    band = ecdf_band(len(next(iter(columns.values()))), expected, prob, len(columns))
    ax = one_panel(ax, 6.2)
    _draw_ecdfs(ax, curves, band, prob)
    ax.set(
        xlabel="probability integral transform (probability)",
        ylabel="distribution function\nless uniform (probability)",
    )
    return ax


def _draw_ecdfs(ax: Axes, curves: dict[str, np.ndarray], band: Band, prob: float) -> None:
    at = np.concatenate([[0], band.expected, [1]])
    lower, upper = (np.pad(edge - band.expected, 1) for edge in (band.lower, band.upper))
    ax.fill_between(at, lower, upper, color=ink(ax), alpha=0.22, linewidth=0, label=f"joint {prob:.0%} band")
    ax.axhline(0, color=ink(ax), linewidth=0.8)
    outside = [name for name, curve in curves.items() if ((curve < band.lower) | (curve > band.upper)).any()]
    several = len(curves) > 6
    for name in [name for name in curves if several and name not in outside]:
        ax.plot(at, np.pad(curves[name] - band.expected, 1), color=BLUE, alpha=0.4, linewidth=0.8)
    for index, name in enumerate(outside[:6] if several else curves):
        tint = color(index + several)  # blue is taken by the many inside
        ax.plot(at, np.pad(curves[name] - band.expected, 1), line(index), color=tint, linewidth=1.5, label=name)
    for name in outside[6:]:
        ax.plot(at, np.pad(curves[name] - band.expected, 1), color=VERMILLION, alpha=0.5, linewidth=0.8)
    finding(ax, _outside_words(len(outside), len(curves), prob))
    legend(ax, outside=True)


def _outside_words(outside: int, total: int, prob: float) -> str:
    if not outside:
        return f"all {total} inside the joint {prob:.0%} band"
    return f"{outside} of {total} outside the joint {prob:.0%} band"


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
    nominal = _probabilities("levels", to_shape("levels", levels, ("levels",)))
    columns = {
        name: _probabilities(name, values) for name, values in named_columns("coverage", coverage, "levels").items()
    }
    lengths = {name: len(values) for name, values in columns.items()}
    if set(lengths.values()) != {len(nominal)}:
        raise ValueError(f"levels has {len(nominal)} entries, coverage has {lengths}")
    ax = one_panel(ax, 4.6, 4.2)
    order = np.argsort(nominal)
    if num_simulations is not None:
        _binomial_band(ax, num_simulations, of)
    ax.plot([0, 1], [0, 1], color=ink(ax), linewidth=0.8, label="calibrated")
    many: dict[str, Any] = {"color": BLUE, "alpha": 0.4, "linewidth": 0.8}
    for index, (name, values) in enumerate(columns.items()):
        few: dict[str, Any] = {"color": color(index), "linestyle": line(index), "marker": marker(index), "label": name}
        ax.plot(nominal[order], values[order], **(few if len(columns) <= 6 else many), markersize=3.5)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="credible level (probability)", ylabel=f"coverage (share of {of})")
    ax.set_aspect("equal")
    ax.annotate("too sure", (0.97, 0.04), ha="right", fontsize="small", fontstyle="italic", color=ink(ax))
    if len(columns) > 6:
        finding(ax, f"{len(columns)} quantities, a line each")
    legend(ax)
    return ax


def _probabilities(name: str, values: np.ndarray) -> np.ndarray:
    if not (finite(name, values).min() >= 0 and values.max() <= 1):
        raise ValueError(f"{name} should hold probabilities from 0 to 1, got {values.min():g} to {values.max():g}")
    return values


def _binomial_band(ax: Axes, num_simulations: int, of: str) -> None:
    from scipy.stats import binom

    at_least(1, num_simulations=num_simulations)
    level = np.linspace(0, 1, 101)
    low, high = (binom.ppf(tail, num_simulations, level) / num_simulations for tail in (0.025, 0.975))
    ax.fill_between(level, low, high, color=ink(ax), alpha=0.22, linewidth=0, label=f"95% of {num_simulations:,} {of}")


def _one_number(observed: Values) -> float:
    array = finite("observed", to_numpy("observed", observed).astype(np.float64))
    if array.size != 1:
        raise ValueError(f"observed should be one number, the statistic of all observed data, got shape {array.shape}")
    return float(array.reshape(()))


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
    draws = finite("replicated", to_shape("replicated", replicated, ("draws",)))
    value = _one_number(observed)
    ax = one_panel(ax)
    ax.hist(draws, bins=int(np.clip(np.sqrt(len(draws)), 8, 60)), color=BLUE, alpha=0.55, label="replicated")
    ax.axvline(value, color=VERMILLION, linewidth=2, label=f"observed: {value:.4g}")
    ax.set(xlabel=f"{name} ({unit})" if unit else name, ylabel="number of draws")
    share = float(np.mean(draws >= value))
    finding(ax, f"{f'p = {share:.2g}' if share else f'p < {1 / len(draws):.2g}'} of {len(draws):,} draws")
    legend(ax)
    return ax
