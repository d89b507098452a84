"""Figures of decoded latents: the manifold, traversals, interpolations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Unpack

import numpy as np
import torch

from pyrovae.errors import check_integer
from pyrovae.plots.arrays import names_of, same_length, to_finite, to_shape
from pyrovae.plots.mosaic import Scale, draw_mosaic, paint, to_images
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
    ax: Axes | None = None,
    **scale: Unpack[Scale],
) -> Axes:
    r"""Two latent dimensions decoded to images, laid out as they lie in latent space.

    .. math:: \mathbb{E}[x \mid z = (z_1, z_2)] \quad \text{at } z_1 \text{ (right) and } z_2 \text{ (up)}

    Args:
        images: decoded images ``(rows, columns, *image)`` in any layout of :func:`plot_samples`, or a function such as
            ``vae.decode`` that gives them for ``(rows, columns, 2)`` latents.
        grid: the latents, ``(rows, columns, 2)``; by default :func:`latent_grid` of as many points.
        image_shape: the shape of one image, where they are flat.
        ax: where to draw.
        **scale: ``vmin``, ``vmax`` and ``cmap`` as in :func:`plot_samples`.

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
    array = to_images("images", images, image_shape, "rows", "columns")
    rows, columns = array.shape[:2]
    if grid is None and rows != columns:
        raise ValueError(f"images should be (n, n, ...), got {array.shape}; for another grid pass the latents as grid=")
    points = to_shape("grid", latent_grid(rows) if grid is None else grid, "rows", "columns", "two")
    if points.shape[-1] != 2:
        raise ValueError(
            f"grid should have shape (rows, columns, 2), got {points.shape}; for more latents write plot_traversals"
        )
    if points.shape[:2] != (rows, columns):
        raise ValueError(f"grid has {points.shape[:2]} rows and columns, images have {(rows, columns)}")
    ax = draw_mosaic(ax, paint(array, **scale), _some(points[:, 0, 1]), _some(points[0, :, 0]), gap=0, inches=0.35)
    ax.set_xlabel("first latent dimension", color=ink(ax))
    ax.set_ylabel("second latent dimension", color=ink(ax))
    return ax


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
    ax: Axes | None = None,
    **scale: Unpack[Scale],
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
        ax: where to draw.
        **scale: ``vmin``, ``vmax`` and ``cmap`` as in :func:`plot_samples`.

    Raises:
        ValueError: a shape is none of these, lengths differ, or a KL is not finite.

    >>> ax = plot_traversals(np.zeros((2, 7, 8, 8)), kl=[0.01, 2.5])
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['z[1]  2.50', 'z[0]  0.01']
    """
    array = to_images("images", images, image_shape, "dimensions", "steps")
    rates = to_finite("kl", kl, "dimensions")
    labels = names_of(names, images=array, kl=rates)
    order = np.argsort(-rates, kind="stable")[: check_integer("max_rows", max_rows)]
    at = np.empty(0) if values is None else to_shape("values", values, "steps").round(2)
    if values is not None and len(at) != array.shape[1]:
        raise ValueError(f"values has {len(at)} entries, images have {array.shape[1]} steps")
    rows = [f"{labels[index]}  {rates[index]:.2f}" for index in order]
    ax = draw_mosaic(ax, paint(array, **scale)[order], rows, [number(step, "g") for step in at])
    shown = f"{len(order)}" if len(order) == len(rates) else f"{len(order)} of {len(rates)}"
    finding(ax, f"{shown} dimensions, by KL (nats)")
    ax.set_xlabel("value of the one dimension" if len(at) else "", color=ink(ax))
    return ax


def plot_interpolation(
    images: Values,
    *,
    names: Sequence[str] | None = None,
    image_shape: Sequence[int] | None = None,
    ax: Axes | None = None,
    **scale: Unpack[Scale],
) -> Axes:
    r"""Decoded images along paths from one latent to another, one row for each path.

    .. math:: \mathbb{E}[x \mid z(t)], \qquad t = 0, \dots, 1

    Args:
        images: ``(paths, steps, *image)`` in any layout of :func:`plot_samples`, e.g.
            ``vae.decode(torch.stack([linear_path(a, b), spherical_path(a, b)]))``.
        names: of the paths, e.g. ``["linear", "spherical"]``.
        image_shape: the shape of one image, where they are flat.
        ax: where to draw.
        **scale: ``vmin``, ``vmax`` and ``cmap`` as in :func:`plot_samples`.

    Raises:
        ValueError: the shape is none of these, or the number of names differs from that of the paths.

    >>> plot_interpolation(np.zeros((2, 9, 8, 8)), names=["linear", "spherical"]).get_xlabel()
    'position t on the path'
    """
    array = to_images("images", images, image_shape, "paths", "steps")
    same_length(images=array, names=names)
    every = 1 if array.shape[1] < 8 else 2
    steps = [f"{t:.2g}" if i % every == 0 else "" for i, t in enumerate(np.linspace(0, 1, array.shape[1]))]
    ax = draw_mosaic(ax, paint(array, **scale), list(names or ()), steps)
    ax.set_xlabel("position t on the path", color=ink(ax))
    return ax
