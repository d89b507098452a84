"""A folder of images as rows that are read batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.data.rows import Index, LazyRows

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

_GREY_MODES = ("1", "L", "LA")


class ImageRows(LazyRows):
    """Image files of one size, read when a batch is taken: ``(rows, channels, height, width)``.

    Args:
        paths: the files.
        mode: Pillow's ``"L"`` (one channel) or ``"RGB"`` (three).
        size: height and width in pixels, the same for all files.
        scaled: whether levels are divided by 255 (float32) or stay 0..255 (uint8).
    """

    def __init__(self, paths: Sequence[Path], mode: str, size: tuple[int, int], scaled: bool = False) -> None:
        self.paths, self.mode, self.size, self.scaled = tuple(paths), mode, size, scaled
        self.shape = torch.Size([len(self.paths), 1 if mode == "L" else 3, *size])
        self.dtype = torch.float32 if scaled else torch.uint8

    def take(self, index: Index) -> Tensor:
        """Return these images as a dense tensor of shape ``(len(index), channels, height, width)``."""
        paths = self.select(index).paths
        levels = torch.empty((len(paths), *self.shape[1:]), dtype=torch.uint8)
        for row, path in zip(levels, paths, strict=True):
            with _opened(path) as image:
                pixels = np.array(image.convert(self.mode))
            row.copy_(torch.from_numpy(pixels[None] if self.mode == "L" else pixels.transpose(2, 0, 1)))
        return levels.float().div_(255) if self.scaled else levels

    def stored(self) -> Iterator[Tensor]:
        """Nothing: an image has neither NaN nor infinite levels, and none need be read to know."""
        return iter(())

    def select(self, index: Index) -> ImageRows:
        """Return these images, still on disk."""
        paths = self.paths[index] if isinstance(index, slice) else [self.paths[number] for number in index.tolist()]
        return ImageRows(paths, self.mode, self.size, self.scaled)


def image_folder(folder: Path, scaled: bool) -> tuple[ImageRows, Tensor | None, tuple[str, ...]]:
    """Return all images under a folder, sorted by path; and their classes, the numbers and names of subfolders.

    There are no classes (None) where an image lies in no subfolder.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not paths:
        raise ValueError(
            f"expected images in the folder {folder}, got none; put files there that end in {', '.join(IMAGE_SUFFIXES)}"
        )
    modes, sizes = zip(*(_header(path) for path in paths), strict=True)
    for path, size in zip(paths, sizes, strict=True):
        if size != sizes[0]:
            raise ValueError(
                f"expected images of one size, got {sizes[0]} (height, width) in {paths[0]} and {size} in {path}; crop "
                "or resize them first"
            )
    images = ImageRows(paths, "L" if all(mode in _GREY_MODES for mode in modes) else "RGB", sizes[0], scaled)
    if any(path.parent == folder for path in paths):
        return images, None, ()
    names = [path.relative_to(folder).parts[0] for path in paths]
    classes = tuple(sorted(set(names)))
    return images, torch.tensor([classes.index(name) for name in names]), classes


def _header(path: Path) -> tuple[str, tuple[int, int]]:
    """The mode of an image and its (height, width), without reading its pixels."""
    with _opened(path) as image:
        mode, size = image.mode, image.size
    if mode.startswith(("I", "F")):
        raise ValueError(
            f"expected images of 8 bits a channel, got mode {mode} in {path}; save 16-bit and float images as one .npy "
            "array"
        )
    return mode, (size[1], size[0])


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError) as error:
        raise ValueError(
            f"expected an image, got {path}, which cannot be read ({error}); replace or remove the file"
        ) from None
