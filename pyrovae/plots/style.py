"""How figures look: colors told apart by color-blind readers, on white paper and on dark screens.

Nothing here changes matplotlib's settings. Figures follow the settings that are in force; for a dark page, or one
figure for light and dark pages, draw under ``matplotlib.rc_context(pyrovae.plots.DARK)`` or ``NEUTRAL``, which end with
the block.

The colors are those of M. Okabe and K. Ito, "Color universal design" (2008), https://jfly.uni-koeln.de/color/.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

BLUE = "#0072B2"
VERMILLION = "#D55E00"
GREEN = "#009E73"
PURPLE = "#CC79A7"
ORANGE = "#E69F00"
SKY = "#56B4E9"

#: The colors of successive series, the most legible on both white and black first.
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
#: The colors of up to ten classes, told apart by color-blind readers too.
CLASSES = (*SERIES, "#882255", "#999933", "#BBBBBB", "#117733")

#: Settings for ``matplotlib.rcParams.update`` or ``rc_context``: axes that you make yourself look like these figures.
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": f"cycler(color={list(SERIES)})",
    "axes.titlesize": "medium",
    "legend.fontsize": "small",
    "legend.edgecolor": "none",
}
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":")


def _theme(ink: str, paper: str) -> dict[str, str]:
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "axes.titlecolor")
    papered = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
    return dict.fromkeys(inked, ink) | dict.fromkeys(papered, paper)


#: Settings for ``matplotlib.rc_context``: light ink on a dark page.
DARK = _theme("#e6e6e6", "#15181c")

#: Settings for ``matplotlib.rc_context``: grey ink on no paper at all, legible on a white and on a black page.
NEUTRAL = _theme("#808080", "none")


def color(index: int) -> str:
    """The color of the series ``index``; after the last color the first comes again, with another marker."""
    return SERIES[index % len(SERIES)]


def marker(index: int) -> str:
    """The marker of the series ``index``: neighbors differ in it, and no two of 48 series share color and marker.

    >>> marker(0), marker(1), marker(6)
    ('o', '^', '^')
    """
    return MARKERS[(index + index // len(SERIES) * (len(MARKERS) - len(SERIES) + 1)) % len(MARKERS)]


def line(index: int) -> str:
    """The line style of the series ``index``."""
    return LINES[index % len(LINES)]


def new_figure(width: float, height: float, *, fixed_aspect: bool = False) -> Figure:
    """An empty figure that the reader will see, and that nobody has to close.

    In a notebook, or with matplotlib's interactive mode on, the figure is pyplot's: it appears by itself. Elsewhere it
    belongs to the caller alone (``ax.figure.savefig(...)``): no display is needed and pyplot holds no reference to it.
    Figures of a fixed aspect hold images, which do not fill the room they are given.
    """
    import matplotlib

    layout: Literal["compressed", "constrained"] = "compressed" if fixed_aspect else "constrained"
    shells = sys.modules.get("ipykernel.zmqshell")
    if matplotlib.is_interactive() or (shells is not None and shells.ZMQInteractiveShell.initialized()):
        from matplotlib import pyplot

        return pyplot.figure(figsize=(width, height), layout=layout)
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout)


def one_panel(ax: Axes | None, width: float = 5.0, height: float = 3.4, *, image: bool = False) -> Axes:
    """The axes to draw on: the ones given, or those of a new figure."""
    ax = new_figure(width, height, fixed_aspect=image).subplots() if ax is None else _checked(ax)
    return ax if image else tidy(ax)


def _checked(ax: Any) -> Axes:
    from matplotlib.axes import Axes

    if not isinstance(ax, Axes):
        raise TypeError(
            f"ax should be one matplotlib Axes, got {type(ax).__name__}; write ax=figure.subplots() or leave it out"
        )
    return ax


def panels(
    ax: Axes | None, heights: Sequence[float], columns: int = 1, *, width: float, height: float, share: bool = False
) -> np.ndarray:
    """Panels ``(rows, columns)``: of a new figure, or inside the axes given, which become their invisible frame.

    Each row has a relative height; the panels of a column may share the horizontal axis.

    >>> panels(None, [3, 1], width=5, height=3).shape
    (2, 1)
    """
    if ax is None:
        how: dict[str, Any] = {"height_ratios": list(heights), "sharex": "col" if share else False, "squeeze": False}
        axes = new_figure(width, height).subplots(len(heights), columns, **how)
    else:
        axes = _divided(_checked(ax), heights, columns, share)
    for panel in axes.flat:
        tidy(panel)
    return axes


def _divided(ax: Axes, heights: Sequence[float], columns: int, share: bool) -> np.ndarray:
    ax.set_axis_off()
    axes, gap, beside = np.empty((len(heights), columns), dtype=object), 0.1 if share else 0.2, 0.1
    unit = (1 - gap * (len(heights) - 1)) / sum(heights)
    wide = (1 - beside * (columns - 1)) / columns
    for row, column in np.ndindex(axes.shape):
        bottom = sum(heights[row + 1 :]) * unit + gap * (len(heights) - 1 - row)
        above = axes[0, column] if share and row else None
        panel = ax.inset_axes((column * (wide + beside), bottom, wide, heights[row] * unit), sharex=above)
        panel.tick_params(labelbottom=not share or row == len(heights) - 1)
        axes[row, column] = panel
    return axes


def tidy(ax: Axes) -> Axes:
    """Two spines instead of four and a faint grid behind the data, on these axes only."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(visible=True, color=ink(ax), alpha=0.15, linewidth=0.6)
    ax.set_axisbelow(True)
    return ax


def ink(ax: Axes) -> Any:
    """The color of the axes' own labels: black on paper, light in the dark, whatever the settings say."""
    return ax.xaxis.label.get_color()


def finding(ax: Axes, text: str) -> None:
    """Print the figure's main numbers above it, out of the way of the data."""
    ax.set_title(text, loc="left", fontsize="small", color=ink(ax))


def both_papers(cmap: str) -> Colormap:
    """A color map without its darkest quarter and its palest part: points show on white and on black."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps[cmap](np.linspace(0.25, 0.8, 256)), name=f"{cmap} for both papers")


def number(value: float, spec: str) -> str:
    """A number for a label, with the minus sign that matplotlib's axes have.

    >>> number(-1.25, ".1f")
    '−1.2'
    """
    return format(value, spec).replace("-", "−")


def legend(ax: Axes, *, outside: bool = False, title: str | None = None) -> None:
    """A legend inside the axes, or at their right where it can cover nothing."""
    from matplotlib.collections import PathCollection

    at_right = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "borderaxespad": 0, "framealpha": 0}
    place: dict[str, Any] = at_right if outside else {"framealpha": 0.7}
    made = ax.legend(fontsize="small", title=title, labelcolor=ink(ax), edgecolor="none", **place)
    made.get_title().set(color=ink(ax), fontsize="small")
    for handle in made.legend_handles:
        if isinstance(handle, PathCollection):  # the dots of a scatter, which may be tiny and pale among thousands
            handle.set(sizes=[30.0], alpha=1.0)
