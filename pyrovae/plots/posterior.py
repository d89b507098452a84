"""Figures of posteriors: of all data together against the prior, and of one datum as several methods draw it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyrovae.errors import check_integer
from pyrovae.plots.arrays import by_name, check_mass, names_of, to_finite
from pyrovae.plots.style import BLUE, VERMILLION, color, finding, ink, legend, marker, one_panel, panels

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
        z: one draw for each datum from the posterior (not its mean, which is narrower), ``(data, latent_dim)``.
        prior: draws from the prior, ``(draws, latent_dim)``.
        num_dims: at most so many histograms.
        names: of the dimensions; by default ``z[0]``, ``z[1]``, ...
        ax: divided into the panels, if given.

    Returns:
        An array of Axes: one for two dimensions, otherwise one for each dimension.

    Raises:
        ValueError: shapes differ or an entry is not finite.

    References:
        M. D. Hoffman and M. J. Johnson, "ELBO surgery" (2016), NIPS workshop on advances in approximate Bayesian
        inference.

    >>> plot_latent_density(np.random.randn(50, 3), np.random.randn(50, 3)).shape
    (3,)
    """
    first = to_finite("z", z, "data", "latent_dim")
    second = to_finite("prior", prior, "draws", "latent_dim")
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"z has {first.shape[1]} latent dimensions, prior has {second.shape[1]}")
    labels = names_of(names, dimensions=first.T)
    if first.shape[1] == 2:
        return _contours(one_panel(ax, 4.6, 4.2), first, second, labels)
    return _histograms(ax, first, second, labels, check_integer("num_dims", num_dims))


def _limits(points: np.ndarray) -> np.ndarray:
    """Where the axes begin and end, ``(latent_dim, 2)``: far outliers are left out."""
    low, high = np.quantile(points, [0.001, 0.999], axis=0)
    margin = 0.15 * (high - low) + 1e-6
    return np.stack([low - margin, high + margin], 1)


def _contours(ax: Axes, z: np.ndarray, prior: np.ndarray, names: list[str]) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    edges = [np.linspace(low, high, 61) for low, high in _limits(np.concatenate([z, prior]))]
    middles = [(edge[1:] + edge[:-1]) / 2 for edge in edges]
    for points, tint, dash, label in ((z, BLUE, "-", "aggregate posterior"), (prior, VERMILLION, "--", "prior")):
        width = 60 * len(points) ** (-1 / 6) / 6  # Scott's rule for a density that fills a sixth of the range
        density = gaussian_filter(np.histogramdd(points, bins=edges)[0], max(width, 1.0)).T
        levels = mass_levels(density, (0.9, 0.5))
        ax.contour(*middles, density, levels=levels, colors=tint, linestyles=dash, linewidths=1.5)
        ax.plot([], [], dash, color=tint, label=label)
    ax.set(xlabel=names[0], ylabel=names[1])
    ax.set_aspect("equal", adjustable="datalim")
    finding(ax, "contours hold 50 % and 90 %")
    legend(ax)
    return np.array([ax])


def mass_levels(density: np.ndarray, masses: Sequence[float]) -> list[float]:
    """The heights above which the density holds each of these shares of its mass, ascending."""
    ordered = np.sort(density.ravel())[::-1]
    held = np.cumsum(ordered) / ordered.sum()
    return sorted({float(ordered[np.searchsorted(held, mass)]) for mass in masses})


def _histograms(ax: Axes | None, z: np.ndarray, prior: np.ndarray, names: list[str], num_dims: int) -> np.ndarray:
    from scipy.stats import ks_2samp

    apart = np.array([ks_2samp(*pair, method="asymp").statistic for pair in zip(z.T, prior.T, strict=True)])
    order, limits = np.argsort(-apart, kind="stable")[:num_dims], _limits(np.concatenate([z, prior]))
    columns = min(3, len(order))
    rows = -(-len(order) // columns)
    grid = panels(ax, [1] * rows, columns, width=2.0 + 2.1 * columns, height=0.4 + 1.6 * rows)
    for axes, index in zip(grid.flat, order, strict=False):
        low, high = limits[index]
        edges = np.linspace(low, high, 31)
        first, second = (np.histogram(points[:, index], edges, density=True)[0] for points in (z, prior))
        axes.stairs(first, edges, color=BLUE, fill=True, alpha=0.45, label="aggregate posterior")
        axes.stairs(second, edges, color=VERMILLION, linestyle="--", linewidth=1.5, label="prior")
        axes.set(yticks=[], ylabel="density" if axes in grid[:, 0] else "")
        axes.locator_params(axis="x", nbins=4)
        axes.tick_params(labelsize="small")
        finding(axes, f"{names[index]}\ndistance {apart[index]:.2f}")
    for axes in grid.flat[len(order) :]:
        axes.set_axis_off()
    legend(grid[0, -1], outside=True)
    return grid.ravel()[: len(order)]


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
    arrays = by_name("draws", draws, "draws", "latents")
    check_mass("prob", prob)
    labels = names_of(names, "z[{}]", **{name: to_finite(name, array).T for name, array in arrays.items()})
    ax = one_panel(ax, 5.2, 1.0 + len(labels) * (0.12 + 0.13 * len(arrays)))
    tail = (1 - prob) / 2
    for index, (name, array) in enumerate(arrays.items()):
        height = np.arange(len(labels)) + (index - (len(arrays) - 1) / 2) * 0.6 / len(arrays)
        low, quarter, half, high = np.quantile(array, [tail, 0.25, 0.75, 1 - tail], axis=0)
        ax.hlines(height, low, high, color=color(index), linewidth=1.1)
        ax.hlines(height, quarter, half, color=color(index), linewidth=3.2)
        ax.plot(array.mean(0), height, marker(index), color=color(index), markersize=5, label=name)
    ax.set_yticks(np.arange(len(labels)), labels)
    ax.set(ylim=(len(labels) - 0.4, -0.6), xlabel=f"latent value (mean, 50% and {prob:.0%} intervals)")
    ax.axvline(0, color=ink(ax), linewidth=0.8, alpha=0.5)
    legend(ax, outside=True)
    return ax
