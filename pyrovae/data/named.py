"""The named data sets: where their files are, and how their variants are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyrovae.data.idx import read_idx
from pyrovae.data.locate import obtain
from pyrovae.data.table import Transform
from pyrovae.data.transforms import Binarize

MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)

MNIST_MD5 = {
    "mnist/train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "mnist/train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
    "mnist/t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
    "mnist/t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
}
"""The files as the mirrors have them, zipped."""

MNIST_SHA256 = {
    "mnist/train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "mnist/train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "mnist/t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "mnist/t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""The checksums of the unzipped files, whoever zipped them."""


class Images(NamedTuple):
    """Grey images ``(rows, 1, height, width)``, uint8, before a variant is made of them."""

    levels: Tensor
    labels: Tensor | None = None
    num_test: int = 0  # how many rows at the end are the test set by tradition


class Variant(NamedTuple):
    """One variant of a data set."""

    x: Tensor
    name: str | None = None  # in full, where that says more than was asked for
    transform: Transform | None = None


Recipe = Callable[[Tensor, int, int], Variant]
"""``recipe(levels, seed, num_train)``: the first ``num_train`` rows are for training, where rows come in that order."""


@dataclass(frozen=True)
class Source:
    """A named data set."""

    rows: int
    event_shape: tuple[int, ...]
    variants: Mapping[str, Recipe]  # the first is the default
    read: Callable[[bool], Images]  # gets whether files may be downloaded
    sizes: tuple[float, float]  # the shares of validation and test, by default
    files: tuple[str, ...] = ()  # within a data folder
    elsewhere: str = ""  # where it is, or how to get it, when the files are not found


def _static(levels: Tensor, seed: int, num_train: int) -> Variant:
    """One draw of all rows, in their order: a row's pixels depend on the seed and its place, not on the split."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.cat([Binarize()(rows.float().div_(255), generator) for rows in levels.split(1000)])
    return Variant(drawn, f"static(seed={seed})")


def _dynamic(levels: Tensor, seed: int, num_train: int) -> Variant:
    """Grey rows to train on, which are drawn for each batch; the other rows as in the static variant of this seed."""
    x = _static(levels, seed, num_train).x
    x[:num_train] = levels[:num_train].float().div_(255)
    return Variant(x, transform=Binarize())


def _plain(function: Callable[[Tensor], Tensor]) -> Recipe:
    return lambda levels, seed, num_train: Variant(function(levels))


_grey = _plain(lambda levels: levels.float().div_(255))
_uint8 = _plain(lambda levels: levels)
_threshold = _plain(lambda levels: (levels > 127).float())
_counts = _plain(lambda levels: levels.float())
_sixteenths = _plain(lambda levels: levels.float().div_(16))


def _read_digits(download: bool) -> Images:
    found = find_spec("sklearn")  # whose import takes a second: its file alone is read
    places = found.submodule_search_locations if found else None
    path = Path(next(iter(places or ()), ""), "datasets", "data", "digits.csv.gz")
    if path.is_file():
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    else:
        from sklearn.datasets import load_digits

        raw = load_digits()
        table = np.concatenate([raw.data, raw.target[:, None]], 1).astype(np.uint8)
    levels = torch.from_numpy(table[:, :-1].reshape(-1, 1, 8, 8).copy())
    return Images(levels, torch.from_numpy(table[:, -1].astype(np.int64)))


def _read_mnist(download: bool) -> Images:
    paths = obtain(MNIST_MD5, MNIST_MIRRORS if download else ())
    arrays = (read_idx(path, sha256) for path, sha256 in zip(paths, MNIST_SHA256.values(), strict=True))
    train, train_labels, test, test_labels = arrays
    levels = torch.from_numpy(np.concatenate([train, test]))[:, None]
    return Images(levels, torch.from_numpy(np.concatenate([train_labels, test_labels]).astype(np.int64)), len(test))


def _read_freyfaces(download: bool) -> Images:
    path: Path = obtain({"freyfaces/freyfaces.npz": None})[0]
    with np.load(path, allow_pickle=False) as arrays:
        images = arrays["images"] if "images" in arrays.files else np.empty(0)
    if images.dtype != np.uint8 or images.shape[1:] != (28, 20):
        raise ValueError(
            f"expected an array 'images' of shape (1965, 28, 20) and dtype uint8 in {path}, got {images.shape} and "
            f"{images.dtype}; save the frames so by numpy.savez"
        )
    return Images(torch.from_numpy(images)[:, None])


SOURCES: Mapping[str, Source] = {
    "digits": Source(
        1797,
        (1, 8, 8),
        {"counts": _counts, "scaled": _sixteenths},
        _read_digits,
        sizes=(0.1, 0.2),
        elsewhere="comes with scikit-learn",
    ),
    "mnist": Source(
        70_000,
        (1, 28, 28),
        {"dynamic": _dynamic, "static": _static, "grey": _grey, "threshold": _threshold, "uint8": _uint8},
        _read_mnist,
        sizes=(1 / 12, 0),
        files=tuple(MNIST_SHA256),
        elsewhere="downloaded when first loaded, to {folder}",
    ),
    "freyfaces": Source(
        1965,
        (1, 28, 20),
        {"uint8": _uint8, "grey": _grey},
        _read_freyfaces,
        sizes=(200 / 1965, 200 / 1965),
        files=("freyfaces/freyfaces.npz",),
        elsewhere="put freyfaces.npz (array 'images') into {folder}",
    ),
}
