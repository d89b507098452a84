"""Figures of evidence: rate and distortion, comparison of models, estimates against the number of draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae.errors import check_integer, counted
from pyrovae.plots.arrays import by_name, same_length, to_finite, to_shape
from pyrovae.plots.style import BLUE, ORANGE, VERMILLION, color, finding, ink, legend, line, marker, number, one_panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyrovae.plots.arrays import Values

_EVIDENCE_LINES = "pyrovae-equal-elbo"


def plot_influence(differences: Values, *, names: tuple[str, str] = ("one", "other"), ax: Axes | None = None) -> Axes:
    r"""How the difference of two models adds up over rows, the most influential rows first.

    .. math:: \sum_{j \le r} \bigl[\log p_1(x_{(j)}) - \log p_2(x_{(j)})\bigr], \qquad r = 1, \ldots, N

    A step at the left that the rest does not take back is a comparison that a few rows decide.

    Args:
        differences: of each row, in nats, in any order, ``(data,)``.
        names: of the model that is ahead where the difference is positive, and of the other.
        ax: where to draw.

    Raises:
        ValueError: a difference is not finite.

    >>> [float(y) for y in plot_influence([1.0, -3.0, 1.0]).lines[0].get_ydata()]
    [0.0, -3.0, -2.0, -1.0]
    """
    rows = to_finite("differences", differences, "data")
    rows = rows[np.argsort(-np.abs(rows), kind="stable")]
    ax = one_panel(ax, 6.0, 3.2)
    ax.plot(np.arange(len(rows) + 1), np.concatenate([[0.0], rows.cumsum()]), color=BLUE, label="sum so far")
    ax.axhline(rows.sum(), color=ORANGE, linestyle="--", label="all rows")
    ax.axhline(0, color=ink(ax), linewidth=1, alpha=0.6)
    ax.set(xlabel="rows, the most influential first", ylabel="difference (nats)", title=f"{names[0]} less {names[1]}")
    legend(ax)
    return ax


def plot_rate_distortion(
    rate: Values, distortion: Values, beta: Values | None = None, *, label: str | None = None, ax: Axes | None = None
) -> Axes:
    r"""The rate of a model in nats against the distortion of its reconstructions in nats, one point for each value of beta.

    .. math::

        R = \mathrm{KL}\bigl(q(z \mid x)\,\|\,p(z)\bigr), \qquad
        D = -\mathbb{E}_q[\log p(x \mid z)], \qquad -\mathrm{ELBO} = R + D

    On each grey line the ELBO is the same; the number on it is the ELBO in nats.

    Args:
        rate: mean KL in nats, ``(models,)``.
        distortion: minus the mean reconstruction term in nats, ``(models,)``.
        beta: what each model was trained at, ``(models,)``, written beside its point; it orders the line too.
        label: of this family of models, for the legend. Call again with ``ax=`` to add another family.
        ax: where to draw.

    Raises:
        ValueError: lengths differ or an entry is not finite.

    References:
        A. A. Alemi et al., "Fixing a broken ELBO" (2018), arXiv:1711.00464.

    >>> plot_rate_distortion([1.0, 5.0], [90.0, 80.0], [4, 1]).get_xlabel()
    'rate: KL (nats)'
    """
    rates, distortions = to_finite("rate", rate, "models"), to_finite("distortion", distortion, "models")
    betas = None if beta is None else to_shape("beta", beta, "models")
    same_length(rate=rates, distortion=distortions, beta=betas)
    ax = one_panel(ax, 6.0, 3.8)
    order = np.argsort(rates if betas is None else betas, kind="stable")
    series = len([drawn for drawn in ax.lines if drawn.get_gid() != _EVIDENCE_LINES])
    style: dict[str, Any] = {"color": color(series), "marker": marker(series), "linewidth": 1.4}
    ax.plot(rates[order], distortions[order], label=label, **style)
    for x, y, value in [] if betas is None else zip(rates, distortions, betas, strict=True):
        ax.annotate(f"β {value:g}", (x, y), (5, 5), textcoords="offset points", fontsize="small", color=ink(ax))
    ax.set(xlabel="rate: KL (nats)", ylabel="distortion: − reconstruction (nats)")
    _equal_elbo(ax)
    if ax.get_legend_handles_labels()[1]:
        legend(ax, outside=True)
    return ax


def _equal_elbo(ax: Axes) -> None:
    """Lines of equal R + D behind the data, drawn anew for the limits that the data now have."""
    from matplotlib.ticker import MaxNLocator

    for artist in [artist for artist in (*ax.lines, *ax.texts) if artist.get_gid() == _EVIDENCE_LINES]:
        artist.remove()
    ax.relim()
    ax.margins(0.12)
    ax.autoscale()
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    totals = np.asarray(MaxNLocator(7).tick_values(left + bottom, right + top))
    for total in totals[(totals > left + bottom) & (totals < right + top)]:
        faint: dict[str, Any] = {"color": ink(ax), "gid": _EVIDENCE_LINES}
        ax.plot([left, right], [total - left, total - right], alpha=0.3, linewidth=0.8, **faint)
        at = (max(left, total - top), min(top, total - left))
        faint |= {"fontsize": "x-small", "alpha": 0.6, "va": "top", "textcoords": "offset points"}
        ax.annotate(number(-total, "g"), at, (2, -2), **faint)
    ax.set(xlim=(left, right), ylim=(bottom, top))


def plot_comparison(
    names: Sequence[str],
    elpd: Values,
    se: Values,
    *,
    elpd_diff: Values | None = None,
    dse: Values | None = None,
    elbo: Values | None = None,
    refits: Sequence[Values] | None = None,
    num_data: int = 1,
    ax: Axes | None = None,
) -> Axes:
    r"""Models by their held-out log evidence less that of the best model, which lies at zero on top.

    .. math:: \mathrm{elpd}_m - \mathrm{elpd}_\mathrm{best}, \qquad \mathrm{elpd} = \sum_i \log p(x_i), \quad x_i \text{ held out}

    A difference has the standard error of pairs of rows, usually far smaller than either model's own, and the one to judge
    by. The best model's elpd stands above the figure.

    Args:
        names: one for each model.
        elpd: in nats, ``(models,)``.
        se: the standard error of each elpd over rows, ``(models,)``; that of the best one is printed.
        elpd_diff: each elpd less the best one's, not above 0, ``(models,)``; by default computed from ``elpd``.
        dse: the standard error of the paired difference, ``(models,)``; NaN or 0 for the best.
        elbo: in nats, ``(models,)``: how far below its own evidence each model's bound lies; NaN where there is none.
        refits: for each model the elpds of refits with other seeds, any number of each; fewer than two are not drawn.
        num_data: the number of rows, by which all is divided: nats per datum instead of sums.
        ax: where to draw.

    Raises:
        ValueError: lengths differ or an elpd is not finite.

    >>> ax = plot_comparison(["flow", "normal"], [-90.0, -95.0], [2.0, 2.1], dse=[0.0, 0.4])
    >>> [text.get_text() for text in ax.get_yticklabels()], ax.get_title(loc="left")
    (['flow', 'normal'], 'flow: elpd −90.00 ± 2.00 nats')
    """
    score = to_finite("elpd", elpd, "models")
    columns = {"se": se, "elpd_diff": elpd_diff, "dse": dse, "elbo": elbo}
    given = {name: None if values is None else to_shape(name, values, "models") for name, values in columns.items()}
    same_length(names=names, elpd=score, refits=refits, **given)
    count, top = check_integer("num_data", num_data), int(score.argmax())
    order, best = np.argsort(-score, kind="stable"), score[top]
    at = np.argsort(order).astype(float)
    difference = score - best if given["elpd_diff"] is None else given["elpd_diff"]
    ax = one_panel(ax, 6.0, 1.3 + 0.45 * len(score))
    ax.axvline(0, color=ink(ax), linewidth=1, linestyle="--", alpha=0.6)
    error = None if given["dse"] is None else np.nan_to_num(given["dse"]) / count
    label = "difference" if error is None else "difference ± dse"
    ax.errorbar(difference / count, at, xerr=error, fmt="o", color=BLUE, markersize=5, capsize=3, label=label)
    if given["elbo"] is not None:
        hollow: dict[str, Any] = {"color": VERMILLION, "markerfacecolor": "none", "markersize": 5, "label": "ELBO"}
        ax.errorbar((given["elbo"] - best) / count, at, fmt="s", **hollow)
    seeds = [to_finite(f"refits[{index}]", values, "seeds") for index, values in enumerate(refits or ())]
    several = [(np.full(len(s), height - 0.22), s) for s, height in zip(seeds, at, strict=False) if len(s) > 1]
    if several:
        heights, values = (np.concatenate(parts) for parts in zip(*several, strict=True))
        ticks: dict[str, Any] = {"color": ORANGE, "markersize": 9, "markeredgewidth": 1.6, "label": "refits"}
        ax.errorbar((values - best) / count, heights, fmt="|", **ticks)
    unit = "nats" if count == 1 else f"nats per datum, {counted(count, 'row')}"
    ax.locator_params(axis="x", nbins=5)
    ax.set_yticks(at[order], [str(names[i]) for i in order])
    ax.set(ylim=(len(score) - 0.4, -0.6), xlabel=f"held-out elpd less the best ({unit})")
    own = to_shape("se", se, "models")[top] / count
    finding(ax, f"{names[top]}: elpd {number(best / count, ',.2f')} ± {number(own, ',.2f')} {unit.partition(',')[0]}")
    legend(ax, outside=True)
    return ax


def plot_convergence(
    num_samples: Values,
    estimates: Mapping[str, Values],
    errors: Mapping[str, Values] | None = None,
    *,
    exact: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Estimates of log evidence against the number of draws: an estimate that still climbs has not converged.

    .. math::

        \mathbb{E}\Bigl[\log \frac1K \sum_{k=1}^K w_k\Bigr]
        \le \mathbb{E}\Bigl[\log \frac{1}{K + 1} \sum_{k=1}^{K+1} w_k\Bigr] \le \log p(x)

    Args:
        num_samples: draws per datum, ``(numbers,)``, above 0; the axis is logarithmic.
        estimates: in nats per datum, ``(numbers,)`` for each method; NaN where a method was not run.
        errors: standard errors, by method.
        exact: the exact value, where it is known.
        ax: where to draw.

    Raises:
        ValueError: lengths differ, a number of draws is not above 0, or errors name an unknown method.

    References:
        Y. Burda, R. Grosse and R. Salakhutdinov, "Importance weighted autoencoders" (2016), arXiv:1509.00519, theorem
        1.

    >>> plot_convergence([1, 10, 100], {"importance": [-95.0, -92.0, -91.5]}, exact=-91.0).get_xscale()
    'log'
    """
    draws = to_finite("num_samples", num_samples, "numbers")
    if draws.min() <= 0:
        raise ValueError(f"num_samples should be above 0, got {draws.min():g}")
    heights = by_name("estimates", estimates, "numbers")
    bars = by_name("errors", errors, "numbers") if errors else {}
    if unknown := sorted(set(bars) - set(heights)):
        raise ValueError(f"errors name {', '.join(unknown)}, which estimates lack; they hold {', '.join(heights)}")
    ax = one_panel(ax)
    for index, (name, values) in enumerate(heights.items()):
        same_length(num_samples=draws, estimates=values, errors=bars.get(name))
        look: dict[str, Any] = {"color": color(index), "fmt": marker(index) + line(index), "capsize": 3, "label": name}
        ax.errorbar(draws, values, bars.get(name), **look)
    if exact is not None:
        ax.axhline(exact, color=ink(ax), linewidth=1.4, linestyle=":", label="exact")
    ax.set(xscale="log", xlabel="draws per datum", ylabel="log p(x) estimate (nats per datum)")
    legend(ax)
    return ax


def plot_gaps(gaps: Values | Mapping[str, Values], *, ax: Axes | None = None) -> Axes:
    r"""How far bounds lie below log p(x): each datum's distance in ascending order, one line for each kind.

    .. math:: \log p(x_i) - \mathcal{L}_i

    Args:
        gaps: in nats, ``(data,)``, or several such arrays by name: ``log_marginal(...)["gap"]``, or
            ``inference_gaps(...)[["approximation", "amortization"]]``.
        ax: where to draw.

    Raises:
        ValueError: an entry is not finite.

    >>> ax = plot_gaps({"approximation": [0.1, 0.3], "amortization": [0.0, 0.2]})
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['approximation: mean 0.20', 'amortization: mean 0.10']
    """
    arrays = by_name("gaps", gaps, "data")
    ax = one_panel(ax)
    ax.axhline(0, color=ink(ax), linewidth=0.8)
    for index, (name, values) in enumerate(arrays.items()):
        ordered = np.sort(to_finite(name or "gaps", values))
        at = 100 * (np.arange(len(ordered)) + 0.5) / len(ordered)
        label = f"{name or 'gap'}: mean {number(ordered.mean(), '.2f')}"
        ax.step(at, ordered, line(index), where="mid", color=color(index), linewidth=1.6, label=label)
    ax.set(xlabel="data in the order of the gap (%)", ylabel="gap (nats)", xlim=(-2, 102))
    legend(ax)
    return ax
