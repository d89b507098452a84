"""Images as tiles of one picture: shapes resolved, intensities scaled once, gaps left transparent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from pyrovae.plots.arrays import to_numpy
from pyrovae.plots.style import SKY, ink, one_panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyrovae.plots.arrays import Values


class Scale(TypedDict, total=False):
    """How intensities become colors, the same in every figure of images.

    Attributes:
        vmin: the intensity drawn black; 0 by default, or the least one where that is negative.
        vmax: the intensity drawn white; 1 for real numbers up to 1, otherwise the largest one.
        cmap: a matplotlib color map for images of one channel; ``"gray"`` by default.
    """

    vmin: float | None
    vmax: float | None
    cmap: str


def to_images(name: str, values: Values, image_shape: Sequence[int] | None, *lead: str) -> np.ndarray:
    """Images of any layout as ``(*lead, channels, height, width)``, with 1 or 3 channels.

    They may lack the axis of channels or, if ``image_shape`` tells the shape of one image, be flat.

    >>> to_images("images", np.zeros((5, 64)), (8, 8), "images").shape
    (5, 1, 8, 8)
    """
    array = to_numpy(name, values)
    batch, event = array.shape[: len(lead)], array.shape[len(lead) :]
    if image_shape is None and len(event) == 1:
        raise ValueError(f"{name} has flat images of {event[0]} pixels: say image_shape=(channels, height, width)")
    layout, shape = (
        f"({', '.join(lead)}, channels, height, width)",
        tuple(event if image_shape is None else image_shape),
    )
    if len(shape) not in (2, 3) or int(np.prod(event)) != int(np.prod(shape)) or not event:
        remedy = "" if image_shape is None else f" with images of image_shape={shape}"
        raise ValueError(f"{name} should have shape {layout}{remedy}, got {array.shape}")
    if len(shape) == 3 and shape[0] not in (1, 3):
        last = shape[-1] in (1, 3)
        remedy = "; the channels come before height and width" if last else "; draw the channels one by one"
        raise ValueError(f"{name} should have 1 or 3 channels in {layout}, got {shape[0]} in {array.shape}{remedy}")
    if array.dtype.kind == "f" and np.isinf(array).any():
        raise ValueError(f"{name} holds infinite intensities: mark missing pixels by NaN and mend the rest")
    return array.reshape(*batch, *((1, *shape) if len(shape) == 2 else shape))


def paint(images: np.ndarray, vmin: float | None = None, vmax: float | None = None, cmap: str = "gray") -> np.ndarray:
    """Images ``(..., channels, height, width)`` as RGBA pictures ``(..., height, width, 4)``, all on one :class:`Scale`.

    A missing pixel (NaN) is sky blue, which no grey image holds.

    >>> paint(np.zeros((5, 1, 8, 8))).shape
    (5, 8, 8, 4)
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_rgba

    known = images[np.isfinite(images)]
    if not known.size:
        raise ValueError("every pixel is missing (NaN): there is nothing to draw")
    most, whole = float(known.max()), images.dtype.kind in "iu"
    low = min(0.0, float(known.min())) if vmin is None else float(vmin)
    high = (most if whole and most > low else max(most, 1.0)) if vmax is None else float(vmax)
    if not low < high:
        raise ValueError(f"vmin should be below vmax, got vmin={low} and vmax={high}")
    levels = np.clip((images.astype(np.float64) - low) / (high - low), 0, 1)
    if images.shape[-3] == 1:
        return colormaps[cmap].with_extremes(bad=to_rgba(SKY))(np.ma.masked_invalid(levels[..., 0, :, :]))
    opaque = np.ones((*levels.shape[:-3], 1, *levels.shape[-2:]))
    pixels = np.moveaxis(np.concatenate([levels, opaque], axis=-3), -3, -1)
    return np.where(np.isnan(pixels).any(-1, keepdims=True), to_rgba(SKY), pixels)


def draw_mosaic(
    ax: Axes | None,
    pictures: np.ndarray,
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
    *,
    gap: int | None = None,
    inches: float = 0.55,
) -> Axes:
    """Draw a grid of pictures on one pair of axes, with transparent gaps between them.

    Args:
        ax: where to draw, or None.
        pictures: ``(rows, columns, height, width, 4)``, RGBA.
        row_names: written at the left; none, or one for each row.
        column_names: written below; none, or one for each column.
        gap: pixels between the tiles; by default a twelfth of the tile.
        inches: how wide a tile of a new figure is, as long as the figure stays below 10 inches.

    >>> ax = draw_mosaic(None, np.ones((2, 3, 8, 8, 4)), ["data", "model"])
    >>> ax.images[0].get_array().shape
    (17, 26, 4)
    """
    rows, columns, height, width, _ = pictures.shape
    gap = max(1, round(min(height, width) / 12)) if gap is None else gap
    padded = np.pad(pictures, [(0, 0), (0, 0), (0, gap), (0, gap), (0, 0)])
    tall, wide = height + gap, width + gap
    whole = padded.transpose(0, 2, 1, 3, 4).reshape(rows * tall, columns * wide, 4)
    across = min(max(columns * inches, 2.0), 9.0)
    down = min(across / columns * rows * height / width + (0.55 if column_names else 0.1), 12.0)
    ax = one_panel(ax, across + (1.0 if row_names else 0.2), down, image=True)
    ax.imshow(whole[: rows * tall - gap, : columns * wide - gap])
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, labelsize="small")
    ax.set_yticks(np.arange(len(row_names)) * tall + (height - 1) / 2, row_names, color=ink(ax))
    ax.set_xticks(np.arange(len(column_names)) * wide + (width - 1) / 2, column_names, color=ink(ax))
    return ax
