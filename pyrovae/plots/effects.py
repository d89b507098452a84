"""Figures of features: how far each differs between groups of rows, and how each follows the latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae.errors import check_integer
from pyrovae.plots.arrays import same_length, to_finite
from pyrovae.plots.style import VERMILLION, finding, ink, legend, number, one_panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyrovae.plots.arrays import Values


def plot_volcano(
    difference: Values,
    evidence: Values,
    *,
    called: Values | None = None,
    names: Sequence[str] | None = None,
    delta: float | None = None,
    num_labels: int = 8,
    ax: Axes | None = None,
) -> Axes:
    r"""Each feature's difference against the evidence that it is more than delta.

    .. math:: \log \frac{P(|D| > \delta) / P(|D| \le \delta)}{P_0(|D| > \delta) / P_0(|D| \le \delta)}

    Args:
        difference: of each feature, ``(features,)``.
        evidence: log Bayes factors in nats, ``(features,)``.
        called: which features are called changed.
        names: of the features, written beside the most extreme of those that are called, where there is room.
        delta: the smallest difference that matters, drawn as two lines.
        num_labels: at most so many features are named.
        ax: where to draw.

    Raises:
        ValueError: lengths differ, or a number is not finite.

    >>> plot_volcano([0.1, 2.0], [-1.0, 5.0], called=[False, True]).get_title(loc="left")
    '1 of 2 features called changed'
    """
    check_integer("num_labels", num_labels, 0)
    x, y = to_finite("difference", difference, "features"), to_finite("evidence", evidence, "features")
    hit = np.zeros(len(x), bool) if called is None else np.asarray(called, bool)
    same_length(difference=x, evidence=y, called=hit, names=names)
    ax = one_panel(ax)
    for which, tint, size, label in ((~hit, ink(ax), 9, "not called"), (hit, VERMILLION, 18, "called changed")):
        ax.scatter(
            x[which], y[which], s=size, color=tint, alpha=0.7, linewidths=0, label=label, rasterized=len(x) > 2000
        )
    for edge in () if delta is None else (-delta, delta):
        ax.axvline(edge, color=ink(ax), linestyle=":", linewidth=1)
    if names is not None:
        _draw_names(ax, x, y, np.flatnonzero(hit)[np.argsort(-np.abs(x[hit]), kind="stable")], names, num_labels)
    ax.margins(x=0.15)
    ax.set(xlabel="difference (units of the quantity)", ylabel="log Bayes factor (nats)")
    finding(ax, f"{hit.sum()} of {len(x)} features called changed")
    legend(ax)
    return ax


def _draw_names(ax: Axes, x: np.ndarray, y: np.ndarray, order: np.ndarray, names: Sequence[str], most: int) -> None:
    """The names of the first points in an order that have room beside those already named."""
    spread = np.stack([x / max(np.ptp(x), 1e-12), y / max(np.ptp(y), 1e-12)], 1)
    named: list[int] = []
    for one in order:
        if len(named) < most and all((np.abs(spread[one] - spread[other]) > (0.4, 0.07)).any() for other in named):
            named.append(one)
            left = x[one] < 0
            place: dict[str, Any] = {"xytext": (-4 if left else 4, 2), "ha": "right" if left else "left"}
            look: dict[str, Any] = {"fontsize": "x-small", "color": ink(ax)}
            ax.annotate(names[one], (x[one], y[one]), textcoords="offset points", **look, **place)


def plot_effects(
    effects: Values,
    *,
    latents: Sequence[str] | None = None,
    features: Sequence[str] | None = None,
    max_features: int = 30,
    label: str = "change per sd of the latent",
    ax: Axes | None = None,
) -> Axes:
    r"""How far each feature moves with each latent: a heat map, features that move most first.

    .. math:: \mathbb{E}\Bigl[\frac{\partial h_k}{\partial z_j}\Bigr]\, \mathrm{sd}(z_j)

    Args:
        effects: ``(latents, features)``.
        latents: the names of the latents.
        features: the names of the features.
        max_features: at most so many columns are drawn.
        label: what the numbers are.
        ax: where to draw.

    Raises:
        ValueError: numbers that are not finite, or names of another number.

    >>> plot_effects([[0.0, 2.0], [1.0, -1.0]], features=["a", "b"]).get_xticklabels()[0].get_text()
    'b'
    """
    from matplotlib import colormaps

    check_integer("max_features", max_features)
    values = to_finite("effects", effects, "latents", "features")
    rows = list(latents) if latents is not None else [f"z[{j}]" for j in range(len(values))]
    columns = list(features) if features is not None else [str(k) for k in range(values.shape[1])]
    same_length(latents=rows, effects=values)
    same_length(features=columns, effects=values.T)
    order = np.argsort(-np.abs(values).max(0), kind="stable")[:max_features]
    width, height = 1.8 + 0.26 * len(order), 1.2 + 0.3 * len(rows)
    ax = one_panel(ax, max(width, 3.6), height, image=True)
    most = float(np.abs(values).max()) or 1.0
    image = ax.imshow(values[:, order], cmap=colormaps["RdBu_r"].resampled(21), vmin=-most, vmax=most, aspect="auto")
    ax.set_xticks(
        range(len(order)), [columns[k] for k in order], rotation=90 if len(order) > 6 else 0, fontsize="small"
    )
    ax.set_yticks(range(len(rows)), rows)
    ax.set(xlabel="feature", ylabel="latent")
    bar = ax.figure.colorbar(image, ax=ax)
    bar.set_label(label, color=ink(ax), fontsize="small")
    bar.set_ticks([-most, 0, most], labels=[number(v, ".2g") for v in (-most, 0, most)])
    return ax
