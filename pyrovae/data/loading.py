"""`load`: data by name or path, with its variant and its split; `available`: what can be loaded."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from pathlib import Path

from pyrovae.data.files import Wanted, read_path
from pyrovae.data.locate import cache_folder, find
from pyrovae.data.named import SOURCES, Images, Source
from pyrovae.data.rows import Index
from pyrovae.data.table import Data, random_parts

Size = int | float | None


def load(
    name_or_path: str | Path,
    variant: str | None = None,
    seed: int = 0,
    *,
    validation: Size = None,
    test: Size = None,
    array: str | None = None,
    labels: str | None = None,
    download: bool = True,
) -> Data:
    """Data by name or path, split into `train`, `validation` and `test`.

    * `"digits"`: 1,797 images (1, 8, 8) that come with scikit-learn; variant `"counts"` (0..16) or `"scaled"` (x / 16).
    * `"mnist"`: 60,000 + 10,000 images (1, 28, 28); variant `"dynamic"` (training rows are grey levels that are redrawn as
      zeros and ones for each batch; the others are drawn once), `"static"` (all drawn once; it names its seed, since it is
      not Larochelle's file), `"grey"` (level / 255), `"threshold"` (level > 127) or `"uint8"` (0..255). Validation is the
      end of the 60,000.
    * `"freyfaces"`: 1,965 video frames (1, 28, 20); variant `"uint8"` or `"grey"`.
    * a path: `.npy`, `.npz`, `.csv` (an empty cell is missing), `.parquet`, IDX files, or a folder of images, which are
      read batch by batch. Pickled objects are never loaded.

    Files of named data are looked for in the folder `PYROVAE_DATA`, then in the user's cache folder, to which MNIST is
    downloaded if need be; its checksums are verified.

    Args:
        name_or_path: The name, or the path.
        variant: Which numbers are made of the raw data, printed beside every result; for a file of numbers, what they are.
        seed: The seed of the split and of whatever is drawn.
        validation: How many rows validation gets: a count, or a fraction below 1; 0 for none.
        test: How many rows the test gets, likewise; MNIST's is given.
        array: The array of an `.npz` file that holds the rows, if there are several.
        labels: The array of an `.npz` file, or the column of a table, that holds the labels.
        download: Whether MNIST may be downloaded.

    Raises:
        FileNotFoundError: If the data is nowhere; says which file to put where.
        ValueError: If the name, variant or sizes are unknown or impossible, or a file is damaged.

    >>> load("digits").train
    Data('digits', variant='counts', split='train', rows=1258, event_shape=(1, 8, 8), seed=0)
    """
    wanted = Wanted(array, labels)
    variant, seed = _with_seed(variant, seed)
    source = SOURCES.get(str(name_or_path))
    if source is None:
        return _load_path(name_or_path, variant, seed, (validation, test), wanted)
    if wanted != (None, None):
        raise ValueError(f"expected array= and labels= with a file only, got them for {name_or_path}; leave them out")
    variant = _known_variant(str(name_or_path), source, variant)
    images = source.read(download)
    parts = _parts(images, source, (validation, test), seed)
    num_train = parts["train"].stop if isinstance(parts["train"], slice) else len(images.levels)
    made = source.variants[variant](images.levels, seed, num_train)
    return Data(
        made.x,
        labels=None if images.labels is None else {"label": images.labels},
        variant=made.name or variant,
        name=str(name_or_path),
        seed=seed,
        transform=made.transform,
        parts=parts,
    )


@dataclass(frozen=True)
class Listing:
    """One named data set.

    Attributes:
        name: What `load` takes.
        variants: The variants, the default first.
        rows: How many rows it has in all.
        event_shape: The shape of one row.
        where: Where it is, or how to get it.
    """

    name: str
    variants: tuple[str, ...]
    rows: int
    event_shape: tuple[int, ...]
    where: str


def available() -> list[Listing]:
    """The named data sets: their variants and sizes, and where they are or how to get them; loads nothing.

    >>> [(listing.name, listing.rows) for listing in available()]
    [('digits', 1797), ('mnist', 70000), ('freyfaces', 1965)]
    """
    return [
        Listing(name, tuple(source.variants), source.rows, source.event_shape, _where(source))
        for name, source in SOURCES.items()
    ]


def _where(source: Source) -> str:
    found = [path for path in map(find, source.files) if path is not None]
    if source.files and len(found) == len(source.files):
        return str(found[0].parent)
    folder = cache_folder() / source.files[0] if source.files else cache_folder()
    return source.elsewhere.format(folder=folder.parent)


def _with_seed(variant: str | None, seed: int) -> tuple[str | None, int]:
    """A variant as `Data` names it in full, `"static(seed=3)"` say, taken apart."""
    named = re.fullmatch(r"(\w+)\(seed=(\d+)\)", variant or "")
    return (named[1], int(named[2])) if named else (variant, seed)


def _known_variant(name: str, source: Source, variant: str | None) -> str:
    if variant is not None and variant not in source.variants:
        raise ValueError(f"expected a variant of {name}, one of {', '.join(source.variants)}; got {variant!r}")
    return variant or next(iter(source.variants))


def _load_path(name: str | Path, variant: str | None, seed: int, sizes: tuple[Size, Size], wanted: Wanted) -> Data:
    data = read_path(_checked_path(name), variant, wanted)
    if len(data) < 10 and sizes == (None, None):
        return data
    return replace(data, seed=seed, parts=_random_parts(len(data), sizes, (0.1, 0.1), seed))


def _checked_path(name: str | Path) -> Path:
    if not isinstance(name, str | Path):
        raise TypeError(
            f"expected a name or a path, got {type(name).__name__}; write pyrovae.data.as_data(x) for arrays"
        )
    path = Path(name).expanduser()
    if str(name) == path.name and not path.suffix and not path.exists():
        close = difflib.get_close_matches(str(name), SOURCES, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "correct the name or the path"
        raise ValueError(
            f"expected one of {', '.join(SOURCES)}, or the path of a file or folder, got {str(name)!r}; {hint}"
        )
    return path


def _parts(images: Images, source: Source, sizes: tuple[Size, Size], seed: int) -> dict[str, Index]:
    """The rows of each part: as tradition has them where there is a given test set, else at random."""
    rows = len(images.levels)
    if images.num_test == 0:
        return _random_parts(rows, sizes, source.sizes, seed)
    if sizes[1] is not None:
        raise ValueError(f"expected no test= for data whose test set is given, got test={sizes[1]}; leave it out")
    end = rows - images.num_test
    start = end - _count("validation", sizes[0], source.sizes[0], end)
    parts = {"train": slice(0, start), "validation": slice(start, end), "test": slice(end, rows)}
    return {name: part for name, part in parts.items() if part.start < part.stop}


def _random_parts(rows: int, sizes: tuple[Size, Size], default: tuple[float, float], seed: int) -> dict[str, Index]:
    names = ("validation", "test")
    counts = {name: _count(name, size, usual, rows) for name, size, usual in zip(names, sizes, default, strict=True)}
    return dict(random_parts(rows, {name: count for name, count in counts.items() if count > 0}, seed))


def _count(name: str, size: Size, default: float, rows: int) -> int:
    """A size given as a count or as a fraction, as a count."""
    size = default if size is None else size
    count = max(1, round(size * rows)) if 0 < size < 1 else size
    if isinstance(size, bool) or count != int(count) or not 0 <= count < rows:
        raise ValueError(
            f"expected {name} to be a number of rows below {rows}, or a fraction below 1, got {size}; write {name}=0.1"
        )
    return int(count)
