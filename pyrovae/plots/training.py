"""The figure of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pyrovae.plots.arrays import column, same_length
from pyrovae.plots.style import BLUE, GREEN, VERMILLION, finding, ink, legend, line, number, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyrovae.plots.arrays import Table


class _Curve(NamedTuple):
    label: str
    values: np.ndarray
    color: str
    line: str = "-"
    width: float = 1.6


_Panel = tuple[str, float, list[_Curve]]


def plot_history(history: Table, *, best_epoch: int | None = None, ax: Axes | None = None) -> np.ndarray:
    r"""How training went: the ELBO and its two terms in nats per datum, and beta below them.

    .. math:: \mathrm{ELBO} = \mathbb{E}_q[\log p(x \mid z)] - \mathrm{KL}\bigl(q(z \mid x)\,\|\,p(z)\bigr)

    The ELBO and its terms are at beta 1; minus the loss is what was climbed, and differs from the ELBO where beta does
    from 1.

    Args:
        history: columns by name, all but one optional: ``elbo``, ``reconstruction``, ``kl`` (each also with
            ``validation_`` before it), ``loss``, ``beta`` (numbers, or a dict by site), and ``epoch`` or ``step`` for
            the horizontal axis. A ``History`` or a DataFrame will do. Entries that are None or NaN are left out.
        best_epoch: the epoch whose weights were kept, marked by a line.
        ax: divided into the panels, if given.

    Returns:
        An array of Axes: ELBO, reconstruction, KL, beta, as far as there are columns for them.

    Raises:
        TypeError: ``history`` does not give columns by name.
        ValueError: none of the columns is there, or their lengths differ.

    >>> plot_history({"epoch": [1, 2], "elbo": [-9.0, -8.0], "kl": [1.0, 2.0]}).shape
    (2,)
    """
    name, x = _progress(history)
    shown = [panel for panel in _panels(history) if panel[2]]
    if not shown:
        raise ValueError(
            "history has none of the columns elbo, loss, reconstruction, kl, beta with a finite number in it"
        )
    heights = [height for _, height, _ in shown]
    axes = panels(ax, heights, width=5.6, height=0.9 + 0.75 * sum(heights), share=True)[:, 0]
    named: set[str] = {"beta"}
    for panel, (label, _, curves) in zip(axes, shown, strict=True):
        _draw_panel(panel, x, curves, label)
        if any(curve.label not in named for curve in curves):
            legend(panel)
        named.update(curve.label for curve in curves)
    if best_epoch is not None:
        _mark_best(axes, name, best_epoch)
    axes[-1].set_xlabel(name)
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    axes[0].figure.align_ylabels(list(axes))
    return axes


def _progress(history: Table) -> tuple[str, np.ndarray | None]:
    for name in ("epoch", "step"):
        found = column(history, name)
        if found is not None:
            return name, found
    return "row", None


def _panels(history: Table) -> list[_Panel]:
    bounds, reconstructions, divergences = (_pair(history, name) for name in ("elbo", "reconstruction", "kl"))
    loss = column(history, "loss")
    if loss is not None:
        bounds.append(_Curve("− loss", -loss, GREEN, ":", 1.2))
    betas = [_Curve(label, beta, BLUE, line(i)) for i, (label, beta) in enumerate(_betas(history).items())]
    return [
        ("ELBO (nats)", 3.0, bounds),
        ("reconstruction\n(nats)", 1.6, reconstructions),
        ("KL (nats)", 1.6, divergences),
        ("beta", 1.0, betas),
    ]


def _pair(history: Table, name: str) -> list[_Curve]:
    curves = [
        ("training", column(history, name), BLUE, "-"),
        ("validation", column(history, f"validation_{name}"), VERMILLION, "--"),
    ]
    return [_Curve(label, values, tint, dash) for label, values, tint, dash in curves if values is not None]


def _betas(history: Table) -> dict[str, np.ndarray]:
    try:
        entries = list(history["beta"])
    except KeyError:
        return {}
    sites = dict.fromkeys(site for entry in entries if isinstance(entry, Mapping) for site in entry)
    if not sites:
        values = column(history, "beta")
        return {} if values is None else {"beta": values}
    return {site: np.array([(entry or {}).get(site, np.nan) for entry in entries], dtype=np.float64) for site in sites}


def _draw_panel(ax: Axes, x: np.ndarray | None, curves: list[_Curve], label: str) -> None:
    for curve in curves:
        at = np.arange(1, len(curve.values) + 1) if x is None else x
        same_length(**{"the horizontal axis": at, curve.label: curve.values})
        known = np.isfinite(curve.values)
        dot = "o" if known.sum() == 1 else ""
        ax.plot(
            at[known],
            curve.values[known],
            curve.line,
            color=curve.color,
            linewidth=curve.width,
            marker=dot,
            label=curve.label,
        )
    ax.set_ylabel(label)
    _leave_out_the_start(ax, [curve.values for curve in curves])


def _mark_best(axes: np.ndarray, name: str, best_epoch: int) -> None:
    for panel in axes:
        panel.axvline(best_epoch, color=ink(panel), linewidth=0.8, linestyle=":")
    said = axes[0].get_title(loc="left")
    finding(axes[0], f"weights kept from {name} {best_epoch}" + (f"; {said}" if said else ""))


def _leave_out_the_start(ax: Axes, curves: list[np.ndarray]) -> None:
    """Where the first row lies far below all the others, the axis is the others', and the panel says so."""
    settled = np.concatenate([values[max(1, len(values) // 10) :] for values in curves])
    start = np.array([values[0] for values in curves])
    settled, start = settled[np.isfinite(settled)], start[np.isfinite(start)]
    if len(settled) < 5 or not start.size:
        return
    low, span = settled.min(), np.ptp(settled)
    if start.min() < low - 1.5 * span and span > 0:
        ax.set_ylim(bottom=low - 0.15 * span)
        finding(ax, f"starts at {number(start.min(), '.4g')}, off the axis")
