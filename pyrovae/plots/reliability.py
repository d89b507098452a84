"""Figures of how far importance weights can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae.errors import check_integer
from pyrovae.limits import MOST_K, good_k
from pyrovae.plots.arrays import by_name, to_numpy
from pyrovae.plots.style import BLUE, VERMILLION, color, finding, ink, legend, marker, one_panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyrovae.plots.arrays import Values


def plot_khat(
    pareto_k: Values | Mapping[str, Values], num_samples: int | None = None, *, ax: Axes | None = None
) -> Axes:
    r"""Each datum's Pareto k-hat, in ascending order, with the line above which importance sampling cannot be trusted.

    .. math:: k_\text{good} = \min\bigl(1 - 1 / \log_{10} S,\ 0.7\bigr)

    Args:
        pareto_k: one for each datum, ``(data,)``, or several such arrays by name, e.g. before and after refining.
            Infinite values are counted and drawn as a triangle at the upper edge.
        num_samples: S, the draws behind each k-hat; with fewer than 2,155 the limit lies below 0.7, where it is by default.
        ax: where to draw.

    Raises:
        ValueError: an entry is NaN, or ``num_samples`` is below 2.

    References:
        A. Vehtari, D. Simpson, A. Gelman, Y. Yao and J. Gabry, "Pareto smoothed importance sampling" (2024),
        arXiv:1507.02646.

    >>> plot_khat([0.1, 0.9], num_samples=1000).get_title(loc="left")
    '50% of 2 data above 0.67, the limit for 1,000 samples'
    """
    arrays = {name: np.sort(values) for name, values in by_name("pareto_k", pareto_k, "data").items()}
    for values in arrays.values():
        if missing := int(np.isnan(values).sum()):
            raise ValueError(f"pareto_k holds {missing} NaN of {len(values)}: find out why before drawing the others")
    limit = good_k(None if num_samples is None else check_integer("num_samples", num_samples, 2))
    which = f"{limit:.2g}{f', the limit for {num_samples:,} samples' if limit < MOST_K else ''}"
    ax, known = one_panel(ax), np.concatenate(list(arrays.values()))
    top = max(1.0, 1.08 * float(known[np.isfinite(known)].max(initial=0.0)))
    found = []
    for index, (name, values) in enumerate(arrays.items()):
        _draw_khats(ax, values, top, color(index), marker(index), name or "k-hat of a datum")
        before, of = (f"{name}: ", "") if name else ("", f" of {len(values):,} data")
        found.append(f"{before}{np.mean(values > limit):.0%}{of} above {which}")
    ax.axhline(limit, color=ink(ax), linewidth=1.2, linestyle="--", label=f"{limit:.2g}: unreliable above")
    ax.set(xlabel="data in the order of k-hat (%)", ylabel="Pareto k-hat (no unit)", ylim=(None, top), xlim=(-2, 102))
    finding(ax, "\n".join(found))
    legend(ax)
    return ax


def _draw_khats(ax: Axes, values: np.ndarray, top: float, tint: str, mark: str, label: str) -> None:
    at = 100 * (np.arange(len(values)) + 0.5) / len(values)
    size = float(np.clip(2000 / len(values), 3, 25))
    known, infinite = np.isfinite(values), int(np.isinf(values).sum())
    look: dict[str, Any] = {"color": tint, "linewidths": 0, "rasterized": len(values) > 2000}
    ax.scatter(at[known], values[known], s=size, marker=mark, label=label, **look)
    if infinite:
        look |= {"s": 30, "marker": "^", "clip_on": False, "label": f"{infinite} infinite"}
        ax.scatter(at[~known], np.full(infinite, top), **look)


def plot_log_weights(log_weights: Values, *, num_data: int = 5, ax: Axes | None = None) -> Axes:
    r"""How importance weights scatter around the evidence they estimate: the longer the right tail, the less to trust.

    .. math:: \log w_s = \log p(x, z_s) - \log q(z_s \mid x), \qquad
        \log \hat p(x) = \log \frac1S \sum_s w_s, \qquad \mathrm{ELBO} = \frac1S \sum_s \log w_s

    Args:
        log_weights: in nats, ``(samples,)`` for one datum or ``(samples, data)``; each datum is shifted by its own
            estimate of log p(x), so that zero means the evidence. Minus infinity is allowed.
        num_data: so many single data are drawn as thin lines, equally spread over the rows.
        ax: where to draw.

    Raises:
        ValueError: there are fewer than 2 draws, a weight is NaN or plus infinity, or a datum has no weight above zero.

    >>> plot_log_weights(np.zeros((100, 3))).get_xlabel()
    'log weight − log p̂(x) (nats)'
    """
    from scipy.special import logsumexp

    array = to_numpy("log_weights", log_weights).astype(np.float64)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or len(array) < 2:
        raise ValueError(
            f"log_weights should have shape (samples,) or (samples, data) with 2 or more samples, got {array.shape}"
        )
    if np.isnan(array).any() or np.isposinf(array).any():
        raise ValueError("log_weights holds NaN or plus infinity: the model or the guide gave no density there")
    if impossible := int(np.isneginf(array).all(0).sum()):
        raise ValueError(f"{impossible} data have no weight above zero: the guide has no mass where the posterior has")
    shifted = array - logsumexp(array, axis=0) + np.log(len(array))
    gap, weights = -shifted.mean(), np.exp(shifted)
    effective = np.median(weights.sum(0) ** 2 / (weights**2).sum(0))
    ax = one_panel(ax)
    _weight_histograms(ax, shifted, num_data)
    ax.axvline(0, color=ink(ax), linewidth=1.4, label="log p̂(x)")
    if np.isfinite(gap):
        ax.axvline(-gap, color=VERMILLION, linewidth=1.6, linestyle="--", label=f"ELBO, {gap:.2f} nats below")
    ax.set(xlabel="log weight − log p̂(x) (nats)", ylabel="density (per nat)")
    bound = "" if np.isfinite(gap) else "; ELBO: minus infinity"
    finding(ax, f"median effective draws: {effective:,.0f} of {len(shifted):,}{bound}")
    legend(ax)
    return ax


def _weight_histograms(ax: Axes, shifted: np.ndarray, num_data: int) -> None:
    known = shifted[np.isfinite(shifted)]
    low, high = np.quantile(known, 0.002), known.max()
    margin = 0.05 * (high - low) + 0.05
    edges = np.linspace(low - margin, high + margin, 61)
    ax.stairs(np.histogram(known, edges, density=True)[0], edges, color=BLUE, fill=True, alpha=0.45, label="all data")
    count = min(num_data, shifted.shape[1]) if shifted.shape[1] > 1 else 0
    for order, index in enumerate(np.linspace(0, shifted.shape[1] - 1, count).astype(int)):
        one = np.histogram(shifted[:, index][np.isfinite(shifted[:, index])], edges, density=True)[0]
        ax.stairs(one, edges, color=ink(ax), alpha=0.5, linewidth=0.8, label=None if order else "one datum each")
