"""Figures of tables: columns of the data beside draws of a model, each in its own units."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae.errors import check_integer
from pyrovae.plots.arrays import by_name
from pyrovae.plots.style import BLUE, VERMILLION, legend, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyrovae.plots.arrays import Values

_BINS = 30


def plot_columns(
    observed: Mapping[str, Values],
    drawn: Mapping[str, Values],
    *,
    levels: Mapping[str, Sequence[str]] | None = None,
    label: str = "drawn",
    max_columns: int = 12,
    ax: Axes | None = None,
) -> np.ndarray:
    r"""Columns of a table, each a histogram of the data beside one of draws, in the units of the column.

    .. math:: p(x_j) \quad \text{beside} \quad x_{1j}, \dots, x_{Nj}

    Args:
        observed: by column, the numbers of the data, or codes of levels; NaN where missing.
        drawn: by column, draws, as many as there are.
        levels: by column, the names of the levels behind the codes 0, 1, ...
        label: the name of the draws.
        max_columns: at most so many columns are drawn.
        ax: divided into the panels, if given.

    Returns:
        An array of Axes, one for each column.

    Raises:
        ValueError: the two are not of the same columns, or a column holds no number.

    >>> plot_columns({"height [cm]": [170.0, 181.0]}, {"height [cm]": [168.0, 190.0, 175.0]})[0].get_xlabel()
    'height [cm]'
    """
    check_integer("max_columns", max_columns)
    data, draws = by_name("observed", observed, "rows"), by_name("drawn", drawn, "draws")
    if set(data) != set(draws):
        raise ValueError(f"expected the same columns in observed and drawn, got {list(data)} and {list(draws)}")
    names = list(data)[:max_columns]
    wide = min(3, len(names))
    high = -(-len(names) // wide)
    grid = panels(ax, [1.0] * high, wide, width=2.6 * wide, height=0.5 + 1.9 * high)
    axes = grid.flat[: len(names)]
    for name, panel in zip(names, axes, strict=True):
        both = {"data": data[name][np.isfinite(data[name])], label: draws[name][np.isfinite(draws[name])]}
        if not all(len(values) for values in both.values()):
            raise ValueError(f"the column {name!r} holds no number: leave it out")
        _draw_column(panel, both, (levels or {}).get(name))
        panel.set_xlabel(name)
    for spare in grid.flat[len(names) :]:
        spare.set_visible(False)
    for panel in grid[:, 0]:
        panel.set_ylabel("share")
    legend(axes[0])
    return axes


def _draw_column(ax: Axes, both: Mapping[str, np.ndarray], levels: Sequence[str] | None) -> None:
    """Shares of levels and of few whole numbers; else of bins that reach over the data and most of the draws."""
    data, draws = both.values()
    low, high = np.quantile(draws, [0.005, 0.995])
    low, high = min(data.min(), low), max(data.max(), high)
    are_whole = all((values == values.round()).all() for values in both.values())
    if levels is not None:
        ax.set_xticks(range(len(levels)), list(map(str, levels)))
        edges = np.arange(len(levels) + 1) - 0.5
    elif low == high or (are_whole and high - low < _BINS):
        edges = np.arange(np.floor(low), np.ceil(high) + 2) - 0.5
    else:
        bins = min(_BINS, 2 * math.ceil(math.sqrt(min(len(data), len(draws)))))
        edges = np.linspace(low, high, bins + 1)
    looks: tuple[dict[str, Any], ...] = ({"color": BLUE, "alpha": 0.45}, {"color": VERMILLION, "fill": False})
    for (name, values), look in zip(both.items(), looks, strict=True):
        shares = np.histogram(values, edges)[0] / len(values)
        ax.stairs(shares, edges, label=name, **({"fill": True} | look))
