"""`load`: data by name or path, with its variant and its split; `available`: the data sets that have names.

* ``"digits"``: 1,797 images (1, 8, 8) that come with scikit-learn; variant ``"counts"`` (0..16) or ``"scaled"`` (x / 16).
* ``"mnist"``: 60,000 + 10,000 images (1, 28, 28); variant ``"dynamic"`` (training rows are grey levels that are redrawn as
  zeros and ones for each batch; the others are drawn once), ``"static"`` (all drawn once; it names its seed, since it is not
  Larochelle's file), ``"grey"`` (level / 255), ``"threshold"`` (level > 127) or ``"uint8"`` (0..255). Validation is the end
  of the 60,000.
* ``"freyfaces"``: 1,965 video frames (1, 28, 20); variant ``"uint8"`` or ``"grey"``.

Their files are looked for in the folder ``PYROVAE_DATA``, then in the user's cache folder, to which MNIST is downloaded if
need be; its checksums are verified.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from pyrovae.data.files import Wanted, of_file, read_path
from pyrovae.data.locate import cache_folder, find
from pyrovae.data.named import SOURCES, Source
from pyrovae.data.rows import Index
from pyrovae.data.sequences import read_lines
from pyrovae.data.splits import keys_of_rows, parts_of_rows
from pyrovae.data.table import Data
from pyrovae.errors import check_word, did_you_mean, refusal

Size = int | float | None
TEXT = ("characters", "words")
"""The variants of lines of text."""


def load(
    name_or_path: str | Path,
    variant: str | None = None,
    seed: int = 0,
    *,
    validation: Size = None,
    test: Size = None,
    array: str | None = None,
    labels: str | None = None,
    covariates: Sequence[str] = (),
    drop: Sequence[str] = (),
    header: bool | None = None,
    missing: Sequence[str] = (),
    kinds: Mapping[str, str] | None = None,
    groups: str | None = None,
    only: Sequence[str] = (),
    weights: str | None = None,
    time: str | None = None,
    download: bool = True,
) -> Data:
    """Return data by name or path, split into ``train``, ``validation`` and ``test``.

    A name is ``"digits"``, ``"mnist"`` or ``"freyfaces"``. A path leads to a table of text (``.csv``, ``.tsv``, ``.txt``),
    ``.parquet``, ``.h5ad`` (AnnData), ``.npy``, ``.npz``, IDX files, a ``.json`` list of sequences of unequal length (NaN
    follows the end of a shorter one), or a folder of images, which are read batch by batch. Pickled objects are never loaded.
    Under the variants ``"characters"`` and ``"words"`` the lines of a text become codes of their tokens, ``levels["token"]``:
    ``Vocabulary(data.levels["token"], words=data.variant == "words")`` decodes them. :func:`load_text` has more options.

    The images of a folder and its subfolders (whose names are the labels) have one size and one depth, 8 or 16 bits. Transparency
    is left out, and grey images beside colored ones become three equal channels; ``notes`` tell.

    A table of text may be compressed, separated by commas, semicolons, tabs, bars or spaces, and have decimal commas; an
    empty cell is missing. What was found stands in ``notes``. A line with more or fewer fields than the first is refused.

    Args:
        name_or_path: the name, or the path.
        variant: which numbers are made of the raw data, printed beside every result; for a file of numbers, what they are.
        seed: the seed of the split and of whatever is drawn.
        validation: how many rows validation gets: a count, or a fraction below 1; 0 for none.
        test: how many rows the test gets, likewise; MNIST's is given.
        array: the array of an ``.npz`` file (the layer of an ``.h5ad`` file, the list of a ``.json`` file) that holds the rows,
            if there are several.
        labels: the array of an ``.npz`` file, or the column of a table, that holds the labels.
        covariates: the columns of a table that are covariates; text becomes codes, whose levels are kept.
        drop: the columns of a table to leave out.
        header: whether the first line of a table of text holds names; by default it is found out, and stands in ``notes``.
        missing: how missing entries of a table of text are written, as ``["-99", "?"]``, beside empty cells and NA.
        kinds: the kinds of some columns of a table, as in ``as_data``; ``{}`` guesses all.
        groups: a column of a table, or one of its labels; rows of one value are never split. It is left out of the rows.
        only: the columns of a table to read, covariates among them; all by default.
        weights: a column of positive numbers: how often each row counts in training, in units of their mean; the covariate
            ``"weight"`` of the rows.
        time: a column of numbers or dates: the last rows are the test, those before them validation. It is left out of the
            rows.
        download: whether MNIST may be downloaded.

    Raises:
        FileNotFoundError: the data are nowhere; says which file to put where.
        TypeError: columns of a table are no numbers; says what to do with each.
        ValueError: the name, variant or sizes are unknown or impossible, or a file is damaged.

    >>> load("digits").train
    Data('digits', variant='counts', split='train', rows=1258, event_shape=(1, 8, 8), seed=0)
    """
    if any(isinstance(names, str) for names in (covariates, drop, missing)):
        raise TypeError(
            "expected covariates, drop and missing to be lists of names, got one name; write ['batch'], say"
        )
    columns = Wanted(array, labels, tuple(covariates), tuple(drop), header, tuple(missing), kinds)
    wanted = replace(columns, groups=groups, only=tuple(only), weights=weights, time=time)
    found = re.fullmatch(r"(\w+)\(seed=(\d+)\)", variant or "")  # a variant in full, as `Data` names it
    if found:
        variant, seed = found[1], int(found[2])
    if str(name_or_path) in SOURCES:
        if wanted.given():
            raise ValueError(f"expected {wanted.given()[0]}= with a file only, got it for {name_or_path}; leave it out")
        return _load_named(str(name_or_path), variant, seed, (validation, test), download)
    path = _checked_path(name_or_path)
    if variant in TEXT and wanted.given():
        raise ValueError(f"expected no {wanted.given()[0]}= for lines of text, which have none to pick; leave it out")
    data = read_lines(path, str(variant)) if variant in TEXT else read_path(path, variant, wanted)
    with of_file(path, header):
        keys = keys_of_rows(data, groups, time)
    if len(data) < 10 and validation is None and test is None:
        return data
    parts = _parts_by_share(len(data), (validation, test), (0.1, 0.1), seed, keys, time is not None)
    return replace(data, seed=seed, parts=parts, keys=tuple(key for key in (groups, time) if key not in (None, labels)))


def _load_named(name: str, variant: str | None, seed: int, sizes: tuple[Size, Size], download: bool) -> Data:
    source = SOURCES[name]
    variant = next(iter(source.variants)) if variant is None else check_word("variant", variant, source.variants)
    images = source.read(download)
    parts = _parts(len(images.levels), images.num_test, source, sizes, seed)
    num_train = parts["train"].stop if isinstance(parts["train"], slice) else len(images.levels)
    made = source.variants[variant](images.levels, seed, num_train)
    return Data(
        made.x,
        labels=None if images.labels is None else {"label": images.labels},
        variant=made.name or variant,
        name=name,
        seed=seed,
        transform=made.transform,
        parts=parts,
    )


@dataclass(frozen=True)
class Listing:
    """One named data set.

    Attributes:
        name: what ``load`` takes.
        variants: the variants, the default first.
        rows: how many rows it has in all.
        event_shape: the shape of one row.
        where: where it is, or how to get it.
    """

    name: str
    variants: tuple[str, ...]
    rows: int
    event_shape: tuple[int, ...]
    where: str


def available() -> list[Listing]:
    """Return the named data sets: variants and sizes, and where they are or how to get them; nothing is loaded.

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


def _checked_path(name: Any) -> Path:
    if not isinstance(name, str | Path):
        raise TypeError(
            f"expected a name or a path, got {type(name).__name__}; write pyrovae.data.as_data(x) for arrays"
        )
    path = Path(name).expanduser()
    if str(name) == path.name and not path.suffix and not path.exists():
        raise ValueError(
            f"expected one of {', '.join(SOURCES)}, or the path of a file or folder, got {str(name)!r}"
            f"{did_you_mean(name, SOURCES) or '; correct the name or the path'}"
        )
    return path


def _parts(rows: int, num_test: int, source: Source, sizes: tuple[Size, Size], seed: int) -> dict[str, Index]:
    """The rows of each part: as tradition has them where there is a given test set, else at random."""
    if num_test == 0:
        return _parts_by_share(rows, sizes, source.sizes, seed)
    if sizes[1] is not None:
        raise refusal(f"expected no test= for data whose test set is given, got test={sizes[1]}; leave it out", "test")
    end = rows - num_test
    start = end - _count("validation", sizes[0], source.sizes[0], end)
    parts = {"train": slice(0, start), "validation": slice(start, end), "test": slice(end, rows)}
    return {name: part for name, part in parts.items() if part.start < part.stop}


def _parts_by_share(
    rows: int,
    sizes: tuple[Size, Size],
    default: tuple[float, float],
    seed: int,
    groups: Tensor | None = None,
    in_order: bool = False,
) -> dict[str, Index]:
    names = ("validation", "test")
    counts = {name: _count(name, size, usual, rows) for name, size, usual in zip(names, sizes, default, strict=True)}
    return dict(
        parts_of_rows(rows, {name: count for name, count in counts.items() if count > 0}, seed, groups, in_order)
    )


def _count(name: str, size: Size, default: float, rows: int) -> int:
    """A size given as a count or as a fraction, as a count."""
    size = default if size is None else size
    count = max(1, round(size * rows)) if 0 < size < 1 else size
    if isinstance(size, bool) or count != int(count) or not 0 <= count < rows:
        raise refusal(
            f"expected {name} to be a number of rows below {rows}, or a fraction below 1, got {size}; write {name}=0.1",
            name,
        )
    return int(count)
