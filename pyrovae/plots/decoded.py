"""Figures of decoded latents: the manifold, traversals, interpolations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from pyrovae.plots.arrays import at_least, finite, same_length, to_shape
from pyrovae.plots.mosaic import draw_mosaic, paint, scale_of, to_images
from pyrovae.plots.paths import latent_grid
from pyrovae.plots.style import finding, ink, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyrovae.plots.arrays import Values


def plot_manifold(
    images: Values | Callable[[torch.Tensor], Values],
    grid: Values | None = None,
    *,
    image_shape: Sequence[int] | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    cmap: str = "gray",
    ax: Axes | None = None,
) -> Axes:
    r"""What two latent dimensions decode to, laid out as they lie in latent space.

    .. math:: \mathbb{E}[x \mid z = (z_1, z_2)] \quad \text{at } z_1 \text{ (right) and } z_2 \text{ (up)}

    Args:
        images: decoded images ``(rows, columns, *image)`` in any layout of :func:`plot_samples`, or a function such as
            ``vae.decode`` that gives them for ``(rows, columns, 2)`` latents.
        grid: the latents, ``(rows, columns, 2)``; by default :func:`latent_grid` of as many points.
        image_shape: the shape of one image, where they are flat.
        vmin: the intensity drawn black.
        vmax: the intensity drawn white.
        cmap: a matplotlib color map for images of one channel.
        ax: where to draw.

    Raises:
        ValueError: a shape is none of these, or ``images`` and ``grid`` differ.

    References:
        D. P. Kingma and M. Welling, "Auto-encoding variational Bayes" (2014), arXiv:1312.6114, figure 4.

    >>> plot_manifold(np.zeros((15, 15, 8, 8))).get_xlabel()
    'first latent dimension'
    """
    if callable(images):
        grid = latent_grid() if grid is None else grid
        with torch.no_grad():
            images = images(torch.as_tensor(grid))
    array = to_images("images", images, image_shape, ("rows", "columns"))
    pictures = paint(array, scale_of([array], vmin, vmax, cmap))
    points = _grid_of(array) if grid is None else to_shape("grid", grid, ("rows", "columns", "two"))
    _check_grid(points, array)
    ax = draw_mosaic(ax, pictures, _some(points[:, 0, 1]), _some(points[0, :, 0]), gap=0, inches=0.35)
    ax.set_xlabel("first latent dimension", color=ink(ax))
    ax.set_ylabel("second latent dimension", color=ink(ax))
    return ax


def _grid_of(images: np.ndarray) -> np.ndarray:
    rows, columns = images.shape[:2]
    if rows != columns:
        raise ValueError(
            f"images should be (n, n, ...), got {images.shape}; for another grid pass the latents as grid="
        )
    return latent_grid(rows).numpy()


def _check_grid(grid: np.ndarray, images: np.ndarray) -> None:
    if grid.shape[-1] != 2:
        raise ValueError(
            f"grid should have shape (rows, columns, 2), got {grid.shape}; for more latents write plot_traversals"
        )
    if grid.shape[:2] != images.shape[:2]:
        raise ValueError(f"grid has {grid.shape[:2]} rows and columns, images have {images.shape[:2]}")


def _some(values: np.ndarray, most: int = 8) -> list[str]:
    """Names for some of the points, evenly spread, and nothing for the others."""
    step = -(-len(values) // most)
    start = (len(values) - 1) % step // 2
    return [number(value, ".1f") if index % step == start else "" for index, value in enumerate(values)]


def plot_traversals(
    images: Values,
    kl: Values,
    values: Values | None = None,
    *,
    names: Sequence[str] | None = None,
    max_rows: int = 10,
    image_shape: Sequence[int] | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    cmap: str = "gray",
    ax: Axes | None = None,
) -> Axes:
    r"""Decoded images while one latent dimension moves and the others stay, the most used dimension first.

    .. math:: \mathbb{E}\bigl[x \mid z = (\bar z_1, \dots, \bar z_{d-1}, v, \bar z_{d+1}, \dots)\bigr]

    Args:
        images: ``(dimensions, steps, *image)`` in any layout of :func:`plot_samples`, e.g.
            ``vae.decode(grid.flatten(0, 1)).unflatten(0, grid.shape[:2])`` of a ``grid = traversal_grid(z)``.
        kl: each dimension's mean KL to the prior in nats, ``(dimensions,)``. It orders the rows and is printed beside
            them.
        values: what the dimension is set to at each step, ``(steps,)``, written below.
        names: of the dimensions; by default ``z[0]``, ``z[1]``, ...
        max_rows: only the dimensions of the largest KL are drawn.
        image_shape: the shape of one image, where they are flat.
        vmin: the intensity drawn black.
        vmax: the intensity drawn white.
        cmap: a matplotlib color map for images of one channel.
        ax: where to draw.

    Raises:
        ValueError: a shape is none of these, lengths differ, or a KL is not finite.

    >>> ax = plot_traversals(np.zeros((2, 7, 8, 8)), kl=[0.01, 2.5])
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['z[1]  2.50', 'z[0]  0.01']
    """
    array = to_images("images", images, image_shape, ("dimensions", "steps"))
    rates = finite("kl", to_shape("kl", kl, ("dimensions",)))
    labels = [f"z[{index}]" for index in range(len(rates))] if names is None else list(names)
    same_length(images=array, kl=rates, names=labels)
    order = np.argsort(-rates, kind="stable")[: at_least(1, max_rows=max_rows)]
    steps = _step_names(values, array.shape[1])
    pictures = paint(array[order], scale_of([array], vmin, vmax, cmap))
    ax = draw_mosaic(ax, pictures, [f"{labels[index]}  {rates[index]:.2f}" for index in order], steps)
    finding(ax, f"{_of(len(order), len(rates), 'dimensions')}, by KL (nats)")
    ax.set_xlabel("value of the one dimension" if steps else "", color=ink(ax))
    return ax


def _of(shown: int, total: int, what: str) -> str:
    return f"{shown} {what}" if shown == total else f"{shown} of {total} {what}"


def _step_names(values: Values | None, steps: int) -> list[str]:
    if values is None:
        return []
    numbers = to_shape("values", values, ("steps",))
    if len(numbers) != steps:
        raise ValueError(f"values has {len(numbers)} entries, images have {steps} steps")
    return [number(step, "g") for step in numbers.round(2)]


def plot_interpolation(
    images: Values,
    *,
    names: Sequence[str] | None = None,
    image_shape: Sequence[int] | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    cmap: str = "gray",
    ax: Axes | None = None,
) -> Axes:
    r"""Decoded images along paths from one latent to another, a row a path.

    .. math:: \mathbb{E}[x \mid z(t)], \qquad t = 0, \dots, 1

    Args:
        images: ``(paths, steps, *image)`` in any layout of :func:`plot_samples`, e.g.
            ``vae.decode(torch.stack([linear_path(a, b), spherical_path(a, b)]))``.
        names: of the paths, e.g. ``["linear", "spherical"]``.
        image_shape: the shape of one image, where they are flat.
        vmin: the intensity drawn black.
        vmax: the intensity drawn white.
        cmap: a matplotlib color map for images of one channel.
        ax: where to draw.

    Raises:
        ValueError: the shape is none of these, or the number of names differs from that of the paths.

    >>> plot_interpolation(np.zeros((2, 9, 8, 8)), names=["linear", "spherical"]).get_xlabel()
    'position t on the path'
    """
    array = to_images("images", images, image_shape, ("paths", "steps"))
    same_length(images=array, names=names)
    steps = [f"{t:.2g}" for t in np.linspace(0, 1, array.shape[1])]
    pictures = paint(array, scale_of([array], vmin, vmax, cmap))
    ax = draw_mosaic(
        ax, pictures, list(names or ()), [t if i % 2 == 0 or len(steps) < 8 else "" for i, t in enumerate(steps)]
    )
    ax.set_xlabel("position t on the path", color=ink(ax))
    return ax
