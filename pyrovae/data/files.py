"""Files of rows: numpy arrays, tables, AnnData, IDX files, sequences and folders of images."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pyrovae.data.convert import as_data
from pyrovae.data.delimited import read_delimited, row_lines
from pyrovae.data.frames import time_ranks
from pyrovae.data.idx import read_idx
from pyrovae.data.images import image_folder
from pyrovae.data.locate import TABLES, UNZIP, is_table, readable
from pyrovae.data.sequences import read_sequences
from pyrovae.data.table import Data
from pyrovae.errors import refusal

_ROW = re.compile(r"(?<!')\brow (\d+)\b")
"""How errors name a row of the data, counted from 0."""


@dataclass(frozen=True)
class Wanted:
    """What to read of a file: the options of ``load``."""

    array: str | None = None
    labels: str | None = None
    covariates: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    header: bool | None = None
    missing: tuple[str, ...] = ()
    kinds: Mapping[str, str] | None = None
    groups: str | None = None
    only: tuple[str, ...] = ()
    weights: str | None = None
    time: str | None = None

    def given(self) -> list[str]:
        """The names of the options that are given."""
        return [name for name, value in vars(self).items() if value != getattr(Wanted, name)]


def read_path(path: Path, variant: str | None, wanted: Wanted) -> Data:
    """Return all rows of a file or of a folder of images; errors name the file."""
    if not path.exists():
        raise FileNotFoundError(f"expected data at {path}, got no such file or folder; correct the path")
    if path.is_dir():
        return _read_folder(path, variant, wanted)
    name = path.name.lower()
    plain = name.removesuffix(path.suffix.lower()) if path.suffix.lower() in UNZIP else name
    kind = next((kind for kind in KINDS if any(plain.endswith(ending) for ending in kind.endings)), None)
    if kind is None or (plain != name and not kind.zipped):
        endings = ", ".join(ending for kind in KINDS for ending in kind.endings)
        raise ValueError(
            f"expected a file that ends in {endings} or a folder of images, got {path}; save the rows as one of these, or "
            "give them as an array: pyrovae.data.as_data(x)"
        )
    _refuse_options(wanted, path, kind.options)
    with of_file(path, wanted.header):
        found = kind.read(path, wanted)
        notes = found.notes
        if found.variant == "uint16" and variant not in (None, "uint16"):
            notes = (
                *notes,
                f"under the variant {variant!r} images of 16 bits are read as counts: for levels leave it out",
            )
        return replace(found, name=path.name, variant=variant or found.variant, notes=notes)


@contextmanager
def of_file(path: Path, header: bool | None = None) -> Iterator[None]:
    """Errors about all rows of a file name it, and of a table of text the lines of the rows, counted from 1."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if str(path) in str(error):
            raise
        text = str(error)
        if _ROW.search(text) and is_table(path) and path.suffix != ".parquet":
            lines = row_lines(path, header)
            text = _ROW.sub(lambda found: f"line {lines[int(found[1])]}", text)
        text += "; lines of prose are read under variant='words' or 'characters'" if path.suffix == ".txt" else ""
        kind_of_error = TypeError if isinstance(error, TypeError) else ValueError
        raise refusal(f"{path}: {text}", getattr(error, "argument", None), kind_of_error) from None


def _refuse_options(wanted: Wanted, path: Path, options: Sequence[str]) -> None:
    for option in wanted.given():
        if option not in options:
            raise ValueError(f"expected no {option}= for {path}: this kind of file has none to pick; leave it out")


def _read_folder(path: Path, variant: str | None, wanted: Wanted) -> Data:
    _refuse_options(wanted, path, ())
    if variant not in (None, "uint8", "uint16", "grey"):
        raise ValueError(
            f"expected variant 'uint8' (levels 0..255; 'uint16': 0..65535) or 'grey' (level / highest) for a folder of images, "
            f"got {variant!r}"
        )
    images, labels, classes, notes = image_folder(path, scaled=variant == "grey")
    own = "uint16" if images.levels > 256 else "uint8"
    if variant not in (None, "grey", own):
        raise ValueError(f"expected variant {own!r} or 'grey' for these images, got {variant!r}; leave variant out")
    variant = variant or own
    named = {} if labels is None else {"labels": {"label": labels}, "levels": {"label": classes}}
    return Data(images, variant=variant, name=path.name, notes=notes, **named)  # type: ignore[arg-type]


def _read_numpy(path: Path, wanted: Wanted) -> Data:
    with path.open("rb") as file:  # numpy leaves a damaged file open
        with readable(path):
            loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            _refuse_options(wanted, path, ())
            return _of_array(loaded)
        for option, name in (("array", wanted.array), ("labels", wanted.labels)):
            if name is not None and name not in loaded.files:
                raise ValueError(f"expected an array {name!r}, got: {_listed(loaded.files)}; correct {option}=")
        candidates = [name for name in loaded.files if name != wanted.labels]
        if wanted.array is None and len(candidates) != 1:
            example = candidates[0] if candidates else "images"
            raise ValueError(
                f"expected one array of rows, got: {_listed(loaded.files)}; say which one, array={example!r}, and labels= "
                "if one holds labels"
            )
        with readable(path):
            labels = None if wanted.labels is None else loaded[wanted.labels]
            rows = loaded[wanted.array or candidates[0]]
    return _of_array(rows, labels)


def _of_array(rows: np.ndarray, labels: Any = None) -> Data:
    """Rows of an array; images of 8 or 16 bits get that variant, and those without a first axis of channels one, and a note."""
    if rows.dtype not in (np.uint8, np.uint16) or rows.ndim not in (3, 4):
        return as_data(rows, labels=labels)
    variant = rows.dtype.name
    if rows.ndim == 4 and (rows.shape[1] in (1, 3) or rows.shape[-1] not in (1, 3, 4)):
        return as_data(rows, variant=variant, labels=labels)
    note = f"an array of shape {rows.shape} is read as images of (rows, height, width{', channels' * (rows.ndim == 4)})"
    rows = rows[:, None] if rows.ndim == 3 else np.moveaxis(rows, -1, 1)
    if rows.shape[1] == 4:
        rows, note = rows[:, :3], f"{note}; the fourth channel, transparency, is left out"
    return replace(as_data(np.ascontiguousarray(rows), variant=variant, labels=labels), notes=(note,))


def _read_text(path: Path, wanted: Wanted) -> Data:
    frame, notes = read_delimited(path, wanted.header, wanted.missing)
    return replace(_from_frame(frame, wanted), notes=notes)


def _read_parquet(path: Path, wanted: Wanted) -> Data:
    import pandas as pd

    try:
        with readable(path):
            frame = pd.read_parquet(path)
    except ImportError:
        raise ImportError(
            f"expected pyarrow, which reads {path}, got no such package; write pip install 'pyrovae[io]', or save a "
            ".csv"
        ) from None
    return _from_frame(frame, wanted)


def _from_frame(frame: Any, wanted: Wanted) -> Data:
    import pandas as pd

    beside = list(dict.fromkeys(name for name in (wanted.labels, wanted.groups, wanted.time) if name is not None))
    given = [*wanted.covariates, *([] if wanted.weights is None else [wanted.weights])]
    for what, names in (("to drop", wanted.drop), ("in the table", [*wanted.only, *beside, *given])):
        absent = [name for name in names if name not in frame.columns]
        if absent:
            raise ValueError(
                f"expected a column {absent[0]!r} {what}, got: {_listed(map(str, frame.columns))}; correct its name"
            )
    left = [name for name in wanted.only or frame.columns if name not in (*wanted.drop, *beside, *given)]
    covariates = frame[list(wanted.covariates)]
    if wanted.weights is not None:
        weights = pd.to_numeric(frame[wanted.weights], errors="coerce").astype("float64")
        is_weight = weights.between(0, np.inf, inclusive="neither")
        if not bool(is_weight.all()):
            row = int((~is_weight).to_numpy().argmax())
            raise refusal(
                f"expected numbers above 0 in the column of weights {wanted.weights!r}, got "
                f"{frame[wanted.weights].iloc[row]} in row {row}: name another column, or drop such rows",
                "weights",
            )
        covariates = covariates.assign(weight=weights / weights.mean())
    labels = frame[beside] if beside else None
    if labels is not None and wanted.time is not None:
        labels = labels.assign(**{wanted.time: time_ranks(frame[wanted.time])})
    return as_data(frame[left], covariates if covariates.shape[1] else None, labels=labels, kinds=wanted.kinds)


def _read_anndata(path: Path, wanted: Wanted) -> Data:
    try:
        import anndata
    except ImportError:
        raise ImportError(
            f"expected anndata, which reads {path}, got no such package; write pip install 'pyrovae[anndata]'"
        ) from None
    cells = anndata.read_h5ad(path)
    if wanted.array is not None:
        if wanted.array not in cells.layers:
            raise ValueError(f"expected a layer {wanted.array!r}, got: {_listed(cells.layers)}; correct array=")
        cells.X = cells.layers[wanted.array]
    return as_data(cells, wanted.covariates or None, labels=wanted.labels)


def _read_idx(path: Path, wanted: Wanted) -> Data:
    array = read_idx(path)
    return as_data(array[:, None] if array.ndim == 3 else array)  # images get a channel


def _read_json(path: Path, wanted: Wanted) -> Data:
    return as_data(read_sequences(path, wanted.array))


@dataclass(frozen=True)
class Kind:
    """A kind of file: the ends of its names, its reader, the options that it knows, whether it may be compressed."""

    endings: tuple[str, ...]
    read: Callable[[Path, Wanted], Data]
    options: tuple[str, ...] = ()
    zipped: bool = False


COLUMNS = ("labels", "covariates", "drop", "kinds", "groups", "only", "weights", "time")

KINDS = (
    Kind((".npy", ".npz"), _read_numpy, ("array", "labels")),
    Kind(TABLES[:4], _read_text, (*COLUMNS, "header", "missing"), zipped=True),
    Kind(TABLES[4:], _read_parquet, COLUMNS),
    Kind((".h5ad",), _read_anndata, ("array", "labels", "covariates")),
    Kind(("-ubyte",), _read_idx, zipped=True),
    Kind((".json",), _read_json, ("array",), zipped=True),
)
"""The kinds of files that are read."""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
