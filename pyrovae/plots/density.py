"""The figure of the aggregate posterior against the prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyrovae.plots.arrays import at_least, finite, same_length, to_shape
from pyrovae.plots.style import BLUE, VERMILLION, finding, legend, one_panel, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyrovae.plots.arrays import Values


def plot_latent_density(
    z: Values, prior: Values, *, num_dims: int = 9, names: Sequence[str] | None = None, ax: Axes | None = None
) -> np.ndarray:
    r"""The aggregate posterior against the prior: mass of one where the other has none is a hole or a leak.

    .. math:: \frac{1}{N} \sum_i q(z \mid x_i) \quad \text{against} \quad p(z)

    With two dimensions the contours that hold 50 % and 90 % of each; otherwise histograms of the single dimensions, in
    the order of the Kolmogorov distance between the two, the largest difference of their distribution functions.

    Args:
        z: one draw a datum from the posterior (not its mean, which is narrower), ``(data, latent_dim)``.
        prior: draws from the prior, ``(draws, latent_dim)``.
        num_dims: at most so many histograms.
        names: of the dimensions; by default ``z[0]``, ``z[1]``, ...
        ax: divided into the panels, if given.

    Returns:
        An array of Axes: one for two dimensions, otherwise one a dimension.

    Raises:
        ValueError: shapes differ or an entry is not finite.

    References:
        M. D. Hoffman and M. J. Johnson, "ELBO surgery" (2016), NIPS workshop on advances in approximate Bayesian
        inference.

    >>> plot_latent_density(np.random.randn(50, 3), np.random.randn(50, 3)).shape
    (3,)
    """
    first = finite("z", to_shape("z", z, ("data", "latent_dim")))
    second = finite("prior", to_shape("prior", prior, ("draws", "latent_dim")))
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"z has {first.shape[1]} latent dimensions, prior has {second.shape[1]}")
    labels = [f"z[{index}]" for index in range(first.shape[1])] if names is None else list(names)
    same_length(dimensions=first.T, names=labels)
    if first.shape[1] == 2:
        return _joint(ax, first, second, labels)
    return _marginals(ax, first, second, labels, num_dims)


def _joint(ax: Axes | None, z: np.ndarray, prior: np.ndarray, names: list[str]) -> np.ndarray:
    ax = one_panel(ax, 4.6, 4.2)
    both = np.concatenate([z, prior])
    edges = [np.linspace(low, high, 61) for low, high in zip(*_limits(both), strict=True)]
    _contours(ax, z, edges, BLUE, "-", "aggregate posterior")
    _contours(ax, prior, edges, VERMILLION, "--", "prior")
    ax.set(xlabel=names[0], ylabel=names[1])
    ax.set_aspect("equal", adjustable="datalim")
    finding(ax, "contours hold 50 % and 90 %")
    legend(ax)
    return np.array([ax])


def _limits(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.quantile(points, [0.001, 0.999], axis=0)
    margin = 0.15 * (high - low) + 1e-6
    return low - margin, high + margin


def _contours(ax: Axes, points: np.ndarray, edges: list[np.ndarray], tint: str, line: str, label: str) -> None:
    from scipy.ndimage import gaussian_filter

    counts = np.histogramdd(points, bins=edges)[0]
    width = 60 * len(points) ** (-1 / 6) / 6  # Scott's rule for a density that fills a sixth of the range
    density = gaussian_filter(counts, max(width, 1.0)).T
    levels = _mass_levels(density, (0.9, 0.5))
    middles = [(edge[1:] + edge[:-1]) / 2 for edge in edges]
    ax.contour(*middles, density, levels=levels, colors=tint, linestyles=line, linewidths=1.5)
    ax.plot([], [], line, color=tint, label=label)


def _mass_levels(density: np.ndarray, masses: Sequence[float]) -> list[float]:
    """The heights above which the density holds each of these shares of its mass, ascending."""
    ordered = np.sort(density.ravel())[::-1]
    held = np.cumsum(ordered) / ordered.sum()
    return sorted({float(ordered[np.searchsorted(held, mass)]) for mass in masses})


def _marginals(ax: Axes | None, z: np.ndarray, prior: np.ndarray, names: list[str], num_dims: int) -> np.ndarray:
    edges = [np.linspace(low, high, 31) for low, high in zip(*_limits(np.concatenate([z, prior])), strict=True)]
    first = [np.histogram(column, edge, density=True)[0] for column, edge in zip(z.T, edges, strict=True)]
    second = [np.histogram(column, edge, density=True)[0] for column, edge in zip(prior.T, edges, strict=True)]
    apart = [_distance(*pair) for pair in zip(z.T, prior.T, strict=True)]
    order = np.argsort(-np.array(apart), kind="stable")[: at_least(1, num_dims=num_dims)]
    columns = min(3, len(order))
    rows = -(-len(order) // columns)
    grid = panels(ax, [1] * rows, columns, width=2.0 + 2.1 * columns, height=0.4 + 1.6 * rows)
    for axes, index in zip(grid.flat, order, strict=False):
        axes.stairs(first[index], edges[index], color=BLUE, fill=True, alpha=0.45, label="aggregate posterior")
        axes.stairs(second[index], edges[index], color=VERMILLION, linestyle="--", linewidth=1.5, label="prior")
        axes.set(yticks=[], ylabel="density" if axes in grid[:, 0] else "")
        axes.locator_params(axis="x", nbins=4)
        axes.tick_params(labelsize="small")
        finding(axes, f"{names[index]}\ndistance {apart[index]:.2f}")
    for axes in grid.flat[len(order) :]:
        axes.set_axis_off()
    legend(grid[0, -1], outside=True)
    return grid.ravel()[: len(order)]


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    """Kolmogorov's distance between two samples: the largest difference of their distribution functions."""
    points = np.concatenate([first, second])
    below = [np.searchsorted(np.sort(sample), points, side="right") / len(sample) for sample in (first, second)]
    return float(np.abs(below[0] - below[1]).max())
