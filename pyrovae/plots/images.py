"""Figures of data that are images: samples, reconstructions, imputations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

import numpy as np

from pyrovae.errors import check_integer
from pyrovae.plots.arrays import same_length
from pyrovae.plots.mosaic import Scale, draw_mosaic, paint, to_images
from pyrovae.plots.style import finding

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyrovae.plots.arrays import Values


def plot_samples(
    images: Values,
    *,
    num_images: int = 64,
    num_columns: int | None = None,
    image_shape: Sequence[int] | None = None,
    ax: Axes | None = None,
    **scale: Unpack[Scale],
) -> Axes:
    r"""Images in a grid, for instance draws from the generative model.

    .. math:: z \sim p(z), \qquad x \sim p(x \mid z)

    Args:
        images: ``(images, channels, height, width)`` with 1 or 3 channels, ``(images, height, width)`` or flat. Missing
            pixels (NaN) are drawn sky blue.
        num_images: at most so many are drawn, the first ones.
        num_columns: by default the grid is nearly square.
        image_shape: the shape of one image, where they are flat.
        ax: where to draw.
        **scale: ``vmin``, the intensity drawn black (0 by default, or the least one where that is negative); ``vmax``, the
            intensity drawn white (1 for real numbers up to 1, otherwise the largest one); ``cmap``, a matplotlib color map
            for images of one channel.

    Raises:
        ValueError: the shape is none of these, or there are no images.

    >>> plot_samples(np.zeros((16, 8, 8))).images[0].get_array().shape
    (35, 35, 4)
    """
    array = to_images("images", images, image_shape, "images")[: check_integer("num_images", num_images)]
    columns = int(np.ceil(np.sqrt(len(array)))) if num_columns is None else check_integer("num_columns", num_columns)
    columns = min(columns, len(array))
    pictures = paint(array, **scale)
    rows = -(-len(array) // columns)
    empty = np.zeros((rows * columns - len(array), *pictures.shape[1:]))
    grid = np.concatenate([pictures, empty]).reshape(rows, columns, *pictures.shape[1:])
    return draw_mosaic(ax, grid)


def plot_reconstructions(
    originals: Values,
    reconstructions: Values,
    *,
    num_images: int = 10,
    image_shape: Sequence[int] | None = None,
    ax: Axes | None = None,
    **scale: Unpack[Scale],
) -> Axes:
    r"""Originals above their reconstructions, on one scale of intensity.

    .. math:: \hat x = \mathbb{E}\bigl[x \mid z\bigr], \qquad z = \mathbb{E}_{q(z \mid x)}[z]

    Args:
        originals: images in any layout of :func:`plot_samples`.
        reconstructions: as many images, of the same shape.
        num_images: at most so many are drawn, the first ones.
        image_shape: the shape of one image, where they are flat.
        ax: where to draw.
        **scale: ``vmin``, ``vmax`` and ``cmap`` as in :func:`plot_samples`.

    Raises:
        ValueError: a shape is none of these, or the two differ.

    >>> ax = plot_reconstructions(np.zeros((5, 8, 8)), np.ones((5, 8, 8)))
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['original', 'reconstruction']
    """
    first = to_images("originals", originals, image_shape, "images")
    second = to_images("reconstructions", reconstructions, image_shape, "images")
    rows = _stacked(check_integer("num_images", num_images), originals=first, reconstructions=second)
    return draw_mosaic(ax, paint(rows, **scale), ["original", "reconstruction"])


def _stacked(num_images: int, **rows: np.ndarray) -> np.ndarray:
    """The first images of each row, which have as many images of one shape."""
    same_length(**rows)
    if len({array.shape[1:] for array in rows.values()}) > 1:
        found = ", ".join(f"{name} of {array.shape[1:]}" for name, array in rows.items())
        raise ValueError(f"expected images of one shape (channels, height, width), got {found}")
    return np.stack([array[:num_images] for array in rows.values()])


def plot_imputation(
    masked: Values,
    mean: Values,
    draws: Values | None = None,
    *,
    original: Values | None = None,
    num_images: int = 10,
    num_draws: int = 3,
    image_shape: Sequence[int] | None = None,
    ax: Axes | None = None,
    **scale: Unpack[Scale],
) -> Axes:
    r"""Images with missing pixels above what the model puts there.

    .. math:: x_\text{missing} \sim p(x_\text{missing} \mid x_\text{observed})

    Args:
        masked: images in any layout of :func:`plot_samples`, with NaN where a pixel is missing (drawn sky blue).
        mean: as many complete images, the mean of the imputations.
        draws: single imputations, ``(draws, images, ...)``.
        original: the complete images, where they are known.
        num_images: at most so many are drawn, the first ones.
        num_draws: at most so many draws of each.
        image_shape: the shape of one image, where they are flat.
        ax: where to draw.
        **scale: ``vmin``, ``vmax`` and ``cmap`` as in :func:`plot_samples`.

    Raises:
        ValueError: a shape is none of these, shapes differ, or nothing is missing in ``masked``.

    >>> x = np.full((5, 8, 8), np.nan)
    >>> ax = plot_imputation(x, np.ones((5, 8, 8)), np.ones((2, 5, 8, 8)))
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['observed', 'imputed mean', 'draw 1', 'draw 2']
    """
    rows = {} if original is None else {"original": to_images("original", original, image_shape, "images")}
    rows["observed"] = to_images("masked", masked, image_shape, "images")
    if rows["observed"].dtype.kind != "f" or not np.isnan(rows["observed"]).any():
        raise ValueError("masked has no missing pixel: write x.masked_fill(missing, float('nan'))")
    rows["imputed mean"] = to_images("mean", mean, image_shape, "images")
    if draws is not None:
        imputed = to_images("draws", draws, image_shape, "draws", "images")[: check_integer("num_draws", num_draws)]
        rows |= {f"draw {index + 1}": draw for index, draw in enumerate(imputed)}
    ax = draw_mosaic(ax, paint(_stacked(check_integer("num_images", num_images), **rows), **scale), list(rows))
    finding(ax, "sky blue: missing")
    return ax
