"""The figure of one datum's posterior, as several methods draw it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyrovae.plots.arrays import finite, same_length, to_shape
from pyrovae.plots.style import color, ink, legend, marker, one_panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyrovae.plots.arrays import Values


def plot_posterior_comparison(
    draws: Mapping[str, Values], *, names: Sequence[str] | None = None, prob: float = 0.94, ax: Axes | None = None
) -> Axes:
    r"""A forest of intervals: each latent's posterior by each method, mean, central half and central ``prob``.

    Args:
        draws: posterior draws of one datum by method, e.g. ``{"guide": ..., "NUTS": ...}``, each ``(draws, latents)``.
        names: of the latents; by default ``z[0]``, ``z[1]``, ...
        prob: the mass between the ends of the thin lines.
        ax: where to draw.

    Raises:
        ValueError: the methods differ in the number of latents, an entry is not finite, or ``prob`` lies outside (0,
            1).

    >>> ax = plot_posterior_comparison({"guide": np.zeros((50, 2)), "NUTS": np.ones((40, 2))})
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['z[0]', 'z[1]']
    """
    if not draws:
        raise ValueError("draws is an empty mapping: there is nothing to draw")
    if not 0 < prob < 1:
        raise ValueError(f"prob should lie between 0 and 1, got {prob}")
    arrays = {
        name: finite(name, to_shape(f"draws[{name!r}]", values, ("draws", "latents"))) for name, values in draws.items()
    }
    same_length(**{name: array.T for name, array in arrays.items()})
    latents = next(iter(arrays.values())).shape[1]
    labels = [f"z[{index}]" for index in range(latents)] if names is None else list(names)
    same_length(latents=range(latents), names=labels)
    ax = one_panel(ax, 5.2, 1.0 + latents * (0.12 + 0.13 * len(arrays)))
    step = 0.6 / len(arrays)
    for index, (name, array) in enumerate(arrays.items()):
        height = np.arange(latents) + (index - (len(arrays) - 1) / 2) * step
        _intervals(ax, array, height, prob, index, name)
    ax.set_yticks(np.arange(latents), labels)
    ax.set(ylim=(latents - 0.4, -0.6), xlabel=f"latent value (mean, 50% and {prob:.0%} intervals)")
    ax.axvline(0, color=ink(ax), linewidth=0.8, alpha=0.5)
    legend(ax, outside=True)
    return ax


def _intervals(ax: Axes, array: np.ndarray, height: np.ndarray, prob: float, index: int, name: str) -> None:
    tail = (1 - prob) / 2
    low, quarter, half, high = np.quantile(array, [tail, 0.25, 0.75, 1 - tail], axis=0)
    ax.hlines(height, low, high, color=color(index), linewidth=1.1)
    ax.hlines(height, quarter, half, color=color(index), linewidth=3.2)
    ax.plot(array.mean(0), height, marker(index), color=color(index), markersize=5, label=name)
