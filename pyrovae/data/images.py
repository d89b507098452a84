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
_DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_CLEAR_MODES = ("LA", "PA", "RGBA", "La", "RGBa")


class ImageRows(LazyRows):
    """Image files of one size, read when a batch is taken: ``(rows, channels, height, width)``.

    Args:
        paths: the files.
        mode: Pillow's ``"L"`` (one channel), ``"I"`` (one channel of 16 bits) or ``"RGB"`` (three).
        size: height and width in pixels, the same for all files.
        scaled: whether levels are divided by the highest (float32) or stay integers (uint8; int32 for 16 bits).
    """

    def __init__(self, paths: Sequence[Path], mode: str, size: tuple[int, int], scaled: bool = False) -> None:
        self.paths, self.mode, self.size, self.scaled = tuple(paths), mode, size, scaled
        self.levels = 2**16 if mode == "I" else 2**8
        self.shape = torch.Size([len(self.paths), 3 if mode == "RGB" else 1, *size])
        self._integers = torch.int32 if mode == "I" else torch.uint8
        self.dtype = torch.float32 if scaled else self._integers

    def take(self, index: Index) -> Tensor:
        """Return these images as a dense tensor of shape ``(len(index), channels, height, width)``."""
        paths = self.select(index).paths
        levels = torch.empty((len(paths), *self.shape[1:]), dtype=self._integers)
        for row, path in zip(levels, paths, strict=True):
            with _opened(path) as image:
                pixels = np.array(image.convert(self.mode))
            row.copy_(torch.from_numpy(pixels.transpose(2, 0, 1) if self.mode == "RGB" else pixels[None]))
        return levels.float().div_(self.levels - 1) if self.scaled else levels

    def stored(self) -> Iterator[Tensor]:
        """Nothing: an image has neither NaN nor infinite levels, and none need be read to know."""
        return iter(())

    def select(self, index: Index) -> ImageRows:
        """Return these images, still on disk."""
        paths = self.paths[index] if isinstance(index, slice) else [self.paths[number] for number in index.tolist()]
        return ImageRows(paths, self.mode, self.size, self.scaled)


def image_folder(folder: Path, scaled: bool) -> tuple[ImageRows, Tensor | None, tuple[str, ...], tuple[str, ...]]:
    """Return all images under a folder, sorted by path; the numbers and names of their classes, the subfolders; and notes.

    There are no classes (None) where an image lies in no subfolder. The notes tell what was done to transparency, depth and
    grey images among colored ones.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not paths:
        raise ValueError(
            f"expected images in the folder {folder}, got none; put files there that end in {', '.join(IMAGE_SUFFIXES)}"
        )
    modes, sizes = zip(*(_header(path) for path in paths), strict=True)
    for path, mode, size in zip(paths, modes, sizes, strict=True):
        if size != sizes[0]:
            raise ValueError(
                f"expected images of one size, got {sizes[0]} (height, width) in {paths[0]} and {size} in {path}; crop "
                "or resize them first, each by PIL.ImageOps.fit(PIL.Image.open(path), (32, 32)).save(new_path)"
            )
        if (mode in _DEEP_MODES) is not (modes[0] in _DEEP_MODES):
            raise ValueError(
                f"expected images of one depth, got mode {modes[0]} in {paths[0]} and {mode} in {path}; save all of them "
                "with 8 bits a channel, or all with 16"
            )
    grey, clear = (sum(mode in known for mode in modes) for known in (_GREY_MODES, _CLEAR_MODES))
    kind = "I" if modes[0] in _DEEP_MODES else "L" if grey == len(paths) else "RGB"
    images, notes = ImageRows(paths, kind, sizes[0], scaled), []
    if kind == "I":
        notes.append("the images have 16 bits, and their levels 0 to 65535 are kept as they are")
    if clear:
        notes.append(f"{clear} of {len(paths)} images have a channel of transparency, which is left out")
    if kind == "RGB" and grey:
        notes.append(
            f"{grey} of {len(paths)} images are grey, and stand as three equal channels beside the colored ones"
        )
    if any(path.parent == folder for path in paths):
        return images, None, (), tuple(notes)
    names = [path.relative_to(folder).parts[0] for path in paths]
    classes = tuple(sorted(set(names)))
    return images, torch.tensor([classes.index(name) for name in names]), classes, tuple(notes)


def _header(path: Path) -> tuple[str, tuple[int, int]]:
    """The mode of an image and its (height, width), without reading its pixels."""
    with _opened(path) as image:
        mode, size = image.mode, image.size
    if mode.startswith(("I", "F")) and mode not in _DEEP_MODES:
        raise ValueError(
            f"expected images of 8 or 16 bits a channel, got mode {mode} in {path}; save them as one .npy array"
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
