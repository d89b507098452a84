"""Figures of evidence: rate and distortion, comparison of models, estimates against the number of draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae.plots.arrays import finite, same_length, to_shape
from pyrovae.plots.style import BLUE, ORANGE, VERMILLION, color, ink, legend, line, marker, number, one_panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyrovae.plots.arrays import Values

_EVIDENCE_LINES = "pyrovae-equal-elbo"


def plot_rate_distortion(
    rate: Values, distortion: Values, beta: Values | None = None, *, label: str | None = None, ax: Axes | None = None
) -> Axes:
    r"""What a model pays in nats of code for what it saves in nats of reconstruction, one point a value of beta.

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
    rates = finite("rate", to_shape("rate", rate, ("models",)))
    distortions = finite("distortion", to_shape("distortion", distortion, ("models",)))
    betas = None if beta is None else to_shape("beta", beta, ("models",))
    same_length(rate=rates, distortion=distortions, beta=betas)
    ax = one_panel(ax, 6.0, 3.8)
    order = np.argsort(rates if betas is None else betas, kind="stable")
    series = len([drawn for drawn in ax.lines if drawn.get_gid() != _EVIDENCE_LINES])
    style: dict[str, Any] = {"color": color(series), "marker": marker(series), "linewidth": 1.4}
    ax.plot(rates[order], distortions[order], label=label, **style)
    if betas is not None:
        for where, value in zip(zip(rates, distortions, strict=True), betas, strict=True):
            beside: dict[str, Any] = {"textcoords": "offset points", "fontsize": "small", "color": ink(ax)}
            ax.annotate(f"β {value:g}", where, (5, 5), **beside)
    ax.set(xlabel="rate: KL (nats)", ylabel="distortion: − reconstruction (nats)")
    _equal_elbo(ax)
    if ax.get_legend_handles_labels()[1]:
        legend(ax, outside=True)
    return ax


def _equal_elbo(ax: Axes) -> None:
    """Lines of equal R + D behind the data, drawn anew for the limits that the data now have."""
    for artist in [artist for artist in (*ax.lines, *ax.texts) if artist.get_gid() == _EVIDENCE_LINES]:
        artist.remove()
    ax.relim()
    ax.margins(0.12)
    ax.autoscale()
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    for total in _ticks(left + bottom, right + top):
        ax.plot(
            [left, right], [total - left, total - right], color=ink(ax), alpha=0.3, linewidth=0.8, gid=_EVIDENCE_LINES
        )
        at = (max(left, total - top), min(top, total - left))
        faint: dict[str, Any] = {
            "fontsize": "x-small",
            "color": ink(ax),
            "alpha": 0.6,
            "va": "top",
            "gid": _EVIDENCE_LINES,
        }
        ax.annotate(number(-total, "g"), at, (2, -2), textcoords="offset points", **faint)
    ax.set(xlim=(left, right), ylim=(bottom, top))


def _ticks(low: float, high: float) -> np.ndarray:
    from matplotlib.ticker import MaxNLocator

    ticks = np.asarray(MaxNLocator(7).tick_values(low, high))
    return ticks[(ticks > low) & (ticks < high)]


def plot_comparison(
    names: Sequence[str],
    elpd: Values,
    se: Values,
    *,
    elpd_diff: Values | None = None,
    dse: Values | None = None,
    elbo: Values | None = None,
    refits: Sequence[Values] | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Models by held-out log evidence with its standard error, the best on top.

    .. math:: \mathrm{elpd} = \sum_i \log p(x_i), \qquad x_i \text{ held out}

    The second mark of a model is its difference to the best, drawn from the best one's elpd, with the standard error of
    the paired difference: usually far smaller than either model's own, and the one to judge by.

    Args:
        names: one a model.
        elpd: in nats, ``(models,)``.
        se: the standard error of each elpd over rows, ``(models,)``.
        elpd_diff: each elpd less the best one's, not above 0, ``(models,)``; by default computed from ``elpd``.
        dse: the standard error of the paired difference, ``(models,)``; NaN or 0 for the best.
        elbo: in nats, ``(models,)``: how far below its own evidence each model's bound lies; NaN where there is none.
        refits: for each model the elpds of refits with other seeds, any number of each; fewer than two are not drawn.
        ax: where to draw.

    Raises:
        ValueError: lengths differ or an elpd is not finite.

    >>> ax = plot_comparison(["flow", "normal"], [-90.0, -95.0], [2.0, 2.1], dse=[0.0, 0.4])
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['flow', 'normal']
    """
    score = finite("elpd", to_shape("elpd", elpd, ("models",)))
    columns = {"se": se, "elpd_diff": elpd_diff, "dse": dse, "elbo": elbo}
    given = {name: None if values is None else to_shape(name, values, ("models",)) for name, values in columns.items()}
    same_length(names=names, elpd=score, refits=refits, **given)
    order = np.argsort(-score, kind="stable")
    at = np.empty(len(score))
    at[order] = np.arange(len(score))
    ax = one_panel(ax, 6.0, 1.2 + 0.5 * len(score))
    _errors(ax, score, at, given["se"], BLUE, "o", "elpd ± se")
    if given["dse"] is not None:
        difference = score - score.max() if given["elpd_diff"] is None else given["elpd_diff"]
        others = difference < 0
        _errors(
            ax,
            (score.max() + difference)[others],
            at[others] + 0.22,
            given["dse"][others],
            VERMILLION,
            "^",
            "difference ± dse",
        )
    if given["elbo"] is not None:
        hollow: dict[str, Any] = {"color": BLUE, "markerfacecolor": "none", "markersize": 5}
        ax.errorbar(given["elbo"], at, fmt="s", label="ELBO", **hollow)
    if refits is not None:
        _refits(ax, at, refits)
    ax.axvline(score.max(), color=ink(ax), linewidth=1, linestyle="--", alpha=0.6)
    ax.locator_params(axis="x", nbins=5)
    ax.set_yticks(at[order], [str(names[i]) for i in order])
    ax.set(ylim=(len(score) - 0.4, -0.6), xlabel="held-out elpd (nats), higher is better")
    legend(ax, outside=True)
    return ax


def _errors(ax: Axes, x: np.ndarray, y: np.ndarray, error: np.ndarray | None, tint: str, mark: str, label: str) -> None:
    ax.errorbar(x, y, xerr=error, fmt=mark, color=tint, markersize=5, linewidth=1.5, capsize=3, label=label)


def _refits(ax: Axes, at: np.ndarray, refits: Sequence[Values]) -> None:
    label: str | None = "refits"
    for index, (height, values) in enumerate(zip(at, refits, strict=True)):
        seeds = finite("refits", to_shape(f"refits[{index}]", values, ("seeds",)))
        if len(seeds) < 2:
            continue
        ticks: dict[str, Any] = {"color": ORANGE, "markersize": 9, "markeredgewidth": 1.6, "label": label}
        ax.errorbar(seeds, np.full(len(seeds), height - 0.22), fmt="|", **ticks)
        label = None


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
    draws = finite("num_samples", to_shape("num_samples", num_samples, ("numbers",)))
    if draws.min() <= 0:
        raise ValueError(f"num_samples should be above 0, got {draws.min():g}")
    known_errors = errors or {}
    _check_methods(estimates, known_errors)
    ax = one_panel(ax)
    for index, (name, values) in enumerate(estimates.items()):
        heights = to_shape(f"estimates[{name!r}]", values, ("numbers",))
        bars = to_shape(f"errors[{name!r}]", known_errors[name], ("numbers",)) if name in known_errors else None
        same_length(num_samples=draws, estimates=heights, errors=bars)
        ax.errorbar(draws, heights, bars, color=color(index), fmt=marker(index) + line(index), capsize=3, label=name)
    if exact is not None:
        ax.axhline(exact, color=ink(ax), linewidth=1.4, linestyle=":", label="exact")
    ax.set(xscale="log", xlabel="draws per datum", ylabel="log p(x) estimate (nats per datum)")
    legend(ax)
    return ax


def _check_methods(estimates: Mapping[str, Any], errors: Mapping[str, Any]) -> None:
    if not estimates:
        raise ValueError("estimates is an empty mapping: there is nothing to draw")
    unknown = sorted(set(errors) - set(estimates))
    if unknown:
        raise ValueError(f"errors name {', '.join(unknown)}, which estimates lack; they hold {', '.join(estimates)}")
