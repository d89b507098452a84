"""Images as tiles of one picture: shapes resolved, intensities scaled once, gaps left transparent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pyrovae.plots.arrays import to_numpy
from pyrovae.plots.style import SKY, ink, one_panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyrovae.plots.arrays import Values


class Scale(NamedTuple):
    """The intensities drawn as black and as white, and the color map between them.

    Args:
        vmin: drawn with the first color.
        vmax: drawn with the last color.
        cmap: the name of a matplotlib color map, for images of one channel.

    >>> Scale(0.0, 16.0)
    Scale(vmin=0.0, vmax=16.0, cmap='gray')
    """

    vmin: float
    vmax: float
    cmap: str = "gray"


def to_images(
    name: str, values: Values, image_shape: Sequence[int] | None, lead: Sequence[str] = ("images",)
) -> np.ndarray:
    """Images of any layout as ``(*lead, channels, height, width)``.

    Args:
        name: the argument's name, for the message.
        values: ``(*lead, channels, height, width)`` with 1 or 3 channels, ``(*lead, height, width)`` or, with
            ``image_shape``, ``(*lead, pixels)``.
        image_shape: the shape of one image, ``(height, width)`` or ``(channels, height, width)``.
        lead: what the leading axes mean.

    Raises:
        ValueError: the shape fits none of these layouts, or an intensity is infinite.

    >>> to_images("images", np.zeros((5, 64)), (8, 8)).shape
    (5, 1, 8, 8)
    """
    array = to_numpy(name, values)
    batch, event = array.shape[: len(lead)], array.shape[len(lead) :]
    shape = _image_shape(name, array.shape, event, image_shape, lead)
    if array.dtype.kind == "f" and np.isinf(array).any():
        raise ValueError(f"{name} holds infinite intensities: mark missing pixels by NaN and mend the rest")
    return array.reshape(*batch, *((1, *shape) if len(shape) == 2 else shape))


def _image_shape(
    name: str, shape: Sequence[int], event: Sequence[int], image_shape: Sequence[int] | None, lead: Sequence[str]
) -> tuple[int, ...]:
    layout = f"({', '.join(lead)}, channels, height, width)"
    if image_shape is None and len(event) == 1:
        raise ValueError(f"{name} has flat images of {event[0]} pixels: say image_shape=(channels, height, width)")
    wanted = tuple(event if image_shape is None else image_shape)
    if len(wanted) not in (2, 3) or int(np.prod(event)) != int(np.prod(wanted)) or not event:
        remedy = "" if image_shape is None else f" with images of image_shape={wanted}"
        raise ValueError(f"{name} should have shape {layout}{remedy}, got {tuple(shape)}")
    if len(wanted) == 3 and wanted[0] not in (1, 3):
        last = wanted[-1] in (1, 3)
        remedy = "; the channels come before height and width" if last else "; draw the channels one by one"
        raise ValueError(f"{name} should have 1 or 3 channels in {layout}, got {wanted[0]} in {tuple(shape)}{remedy}")
    return wanted


def scale_of(images: Sequence[np.ndarray], vmin: float | None, vmax: float | None, cmap: str = "gray") -> Scale:
    """One scale for several arrays of images, so that their greys can be compared.

    Black is ``vmin``: by default 0, or the least intensity where that is negative. White is ``vmax``: by default 1 for
    real numbers that do not exceed it, otherwise the largest intensity.

    Raises:
        ValueError: every pixel is missing, or ``vmin`` is not below ``vmax``.

    >>> scale_of([np.array([0, 7, 16])], None, None), scale_of([np.array([0.1, 0.4])], None, None).vmax
    (Scale(vmin=0.0, vmax=16.0, cmap='gray'), 1.0)
    """
    known = [array[np.isfinite(array)] for array in images]
    if not any(values.size for values in known):
        raise ValueError("every pixel is missing (NaN): there is nothing to draw")
    least = min(float(values.min()) for values in known if values.size)
    most = max(float(values.max()) for values in known if values.size)
    whole = all(array.dtype.kind in "iu" for array in images)
    low = min(0.0, least) if vmin is None else float(vmin)
    high = (most if whole and most > low else max(most, 1.0)) if vmax is None else float(vmax)
    if not low < high:
        raise ValueError(f"vmin should be below vmax, got vmin={low} and vmax={high}")
    return Scale(low, high, cmap)


def paint(images: np.ndarray, scale: Scale) -> np.ndarray:
    """Images ``(..., channels, height, width)`` as RGBA pictures ``(..., height, width, 4)``.

    A missing pixel (NaN) is sky blue, which no grey image holds.

    >>> paint(np.zeros((5, 1, 8, 8)), Scale(0, 1)).shape
    (5, 8, 8, 4)
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_rgba

    levels = np.clip((images.astype(np.float64) - scale.vmin) / (scale.vmax - scale.vmin), 0, 1)
    if images.shape[-3] == 1:
        return colormaps[scale.cmap].with_extremes(bad=to_rgba(SKY))(np.ma.masked_invalid(levels[..., 0, :, :]))
    opaque = np.ones((*levels.shape[:-3], 1, *levels.shape[-2:]))
    pixels = np.moveaxis(np.concatenate([levels, opaque], axis=-3), -3, -1)
    return np.where(np.isnan(pixels).any(-1, keepdims=True), to_rgba(SKY), pixels)


def in_rows(pictures: np.ndarray, columns: int) -> np.ndarray:
    """Pictures ``(num, ...)`` as a grid ``(rows, columns, ...)``, the last row filled up with transparent ones.

    >>> in_rows(np.ones((5, 8, 8, 4)), 3).shape
    (2, 3, 8, 8, 4)
    """
    rows = -(-len(pictures) // columns)
    fill = np.zeros((rows * columns - len(pictures), *pictures.shape[1:]))
    return np.concatenate([pictures, fill]).reshape(rows, columns, *pictures.shape[1:])


def tile(pictures: np.ndarray, gap: int) -> np.ndarray:
    """One RGBA picture of a grid ``(rows, columns, height, width, 4)``, with transparent gaps of so many pixels.

    >>> tile(np.ones((2, 3, 8, 8, 4)), gap=1).shape
    (17, 26, 4)
    """
    padded = np.pad(pictures, [(0, 0), (0, 0), (0, gap), (0, gap), (0, 0)])
    rows, columns, height, width, _ = padded.shape
    joined = padded.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 4)
    return joined[: rows * height - gap, : columns * width - gap]


def draw_mosaic(
    ax: Axes | None,
    pictures: np.ndarray,
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
    *,
    gap: int | None = None,
    inches: float = 0.55,
) -> Axes:
    """Draw a grid of pictures on one pair of axes.

    Args:
        ax: where to draw, or None.
        pictures: ``(rows, columns, height, width, 4)``, RGBA.
        row_names: written at the left; none, or one a row.
        column_names: written below; none, or one a column.
        gap: pixels between the tiles; by default a twelfth of the tile.
        inches: how wide a tile of a new figure is, as long as the figure stays below 10 inches.

    >>> ax = draw_mosaic(None, np.ones((2, 3, 8, 8, 4)), ["data", "model"])
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['data', 'model']
    """
    rows, columns, height, width, _ = pictures.shape
    between = max(1, round(min(height, width) / 12)) if gap is None else gap
    wide = min(max(columns * inches, 2.0), 9.0)
    tall = wide / columns * rows * height / width
    ax = one_panel(
        ax, wide + (1.0 if row_names else 0.2), min(tall + (0.55 if column_names else 0.1), 12.0), image=True
    )
    ax.imshow(tile(pictures, between))
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, labelsize="small")
    ax.set_yticks(_centers(row_names, height + between, height), row_names, color=ink(ax))
    ax.set_xticks(_centers(column_names, width + between, width), column_names, color=ink(ax))
    return ax


def _centers(names: Sequence[str], step: int, size: int) -> np.ndarray:
    return np.arange(len(names)) * step + (size - 1) / 2
