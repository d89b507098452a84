"""The figure of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae.plots.arrays import column, same_length
from pyrovae.plots.style import BLUE, GREEN, VERMILLION, finding, ink, legend, line, number, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyrovae.plots.arrays import Table

_Curves = list[tuple[np.ndarray, dict[str, Any]]]
_TERMS = {"elbo": ("ELBO (nats)", 3.0), "reconstruction": ("reconstruction\n(nats)", 1.6), "kl": ("KL (nats)", 1.6)}
"""The label and the height of each term's panel."""


def plot_history(history: Table, *, best_epoch: int | None = None, ax: Axes | None = None) -> np.ndarray:
    r"""How training went: the ELBO and its two terms in nats per datum, and beta below them where it changes.

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
    name = next((name for name in ("epoch", "step") if column(history, name) is not None), "row")
    x, shown = column(history, name), _panels(history)
    if not shown:
        raise ValueError(
            "history has none of the columns elbo, loss, reconstruction, kl, beta with a finite number in it"
        )
    heights = [height for _, height, _ in shown]
    axes = panels(ax, heights, width=5.6, height=0.9 + 0.75 * sum(heights), share=True)[:, 0]
    named = {"beta"}
    for panel, (label, _, curves) in zip(axes, shown, strict=True):
        for values, look in curves:
            at = np.arange(1, len(values) + 1) if x is None else x
            same_length(**{"the horizontal axis": at, look["label"]: values})
            known = np.isfinite(values)
            panel.plot(at[known], values[known], marker="o" if known.sum() == 1 else "", **look)
        panel.set_ylabel(label)
        _leave_out_the_start(panel, [values for values, _ in curves])
        labels = {look["label"] for _, look in curves}
        if labels - named:
            legend(panel)
        named |= labels
        if best_epoch is not None:
            panel.axvline(best_epoch, color=ink(panel), linewidth=0.8, linestyle=":")
    if best_epoch is not None:
        already = axes[0].get_title(loc="left")
        finding(axes[0], f"weights kept from {name} {best_epoch}" + (f"; {already}" if already else ""))
    axes[-1].set_xlabel(name)
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    axes[0].figure.align_ylabels(list(axes))
    return axes


def _panels(history: Table) -> list[tuple[str, float, _Curves]]:
    """The label, the height and the curves of each panel that has any."""
    looks = {"": ("training", BLUE, "-"), "validation_": ("validation", VERMILLION, "--")}
    made: list[tuple[str, float, _Curves]] = []
    for term, (panel, height) in _TERMS.items():
        curves: _Curves = []
        for prefix, (label, tint, dash) in looks.items():
            if (values := column(history, prefix + term)) is not None:
                curves.append((values, {"label": label, "color": tint, "linestyle": dash, "linewidth": 1.6}))
        if term == "elbo" and (loss := column(history, "loss")) is not None:
            curves.append((-loss, {"label": "objective (− loss)", "color": GREEN, "linestyle": ":", "linewidth": 1.2}))
        made.append((panel, height, curves))
    betas, look = _betas(history), {"color": BLUE, "linewidth": 1.6}
    steps: _Curves = [(v, {**look, "label": n, "linestyle": line(i)}) for i, (n, v) in enumerate(betas.items())]
    changes = any(np.nanmin(values) < np.nanmax(values) for values in betas.values())
    made += [("beta", 1.0, steps)] * changes
    return [panel for panel in made if panel[2]]


def _betas(history: Table) -> dict[str, np.ndarray]:
    """The weights of the KL by site; one for all sites is called beta."""
    try:
        entries = list(history["beta"])
    except KeyError:
        return {}
    sites = dict.fromkeys(site for entry in entries if isinstance(entry, Mapping) for site in entry)
    if not sites:
        values = column(history, "beta")
        return {} if values is None else {"beta": values}
    return {site: np.array([(entry or {}).get(site, np.nan) for entry in entries], dtype=np.float64) for site in sites}


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
