"""Files of rows: numpy arrays, tables, IDX files and folders of images."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyrovae.data.convert import as_data
from pyrovae.data.idx import read_idx
from pyrovae.data.images import image_folder
from pyrovae.data.table import Data

if TYPE_CHECKING:
    import pandas as pd


class Wanted(NamedTuple):
    """What to read of a file.

    Attributes:
        array: The array of an `.npz` file that holds the rows.
        labels: The array of an `.npz` file, or the column of a table, that holds the labels.
    """

    array: str | None = None
    labels: str | None = None


def read_path(path: Path, variant: str | None, wanted: Wanted) -> Data:
    """All rows of a file or of a folder of images.

    Args:
        path: The file or folder.
        variant: What kind of numbers they hold; for images `"uint8"` (levels 0..255) or `"grey"` (level / 255).
        wanted: What to read of it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read, or is of an unknown kind.
    """
    if path.is_dir():
        return _read_folder(path, variant, wanted)
    if not path.is_file():
        raise FileNotFoundError(f"expected data at {path}, got no such file or folder; correct the path")
    for ending, reader in _READERS.items():
        if path.name.lower().endswith(ending):
            return _named(reader(path, wanted), path, variant)
    raise ValueError(
        f"expected a file that ends in {', '.join(_READERS)} or a folder of images, got {path}; save the rows as one "
        "of these, or give them as an array: pyrovae.data.as_data(x)"
    )


def _named(data: Data, path: Path, variant: str | None) -> Data:
    return replace(data, name=path.name, variant=variant)


def _read_folder(path: Path, variant: str | None, wanted: Wanted) -> Data:
    _refuse(wanted, path, "array", "labels")
    variant = variant or "uint8"
    if variant not in ("uint8", "grey"):
        raise ValueError(
            f"expected variant 'uint8' (levels 0..255) or 'grey' (level / 255) for a folder of images, got {variant!r}"
        )
    images, classes = image_folder(path, scaled=variant == "grey")
    named = None if classes is None else {"label": classes}
    return Data(images, labels=named, variant=variant, name=path.name)


def _read_numpy(path: Path, wanted: Wanted) -> Data:
    with path.open("rb") as file:  # numpy leaves a damaged file open
        loaded = _guarded(path, lambda: np.load(file, allow_pickle=False))
        if isinstance(loaded, np.ndarray):
            _refuse(wanted, path, "array", "labels")
            return as_data(loaded)
        name = _pick(loaded.files, wanted, path)
        rows = _guarded(path, lambda: loaded[name])
        labels = None if wanted.labels is None else _guarded(path, lambda: loaded[wanted.labels])
    return as_data(rows, labels=labels)


def _pick(names: Sequence[str], wanted: Wanted, path: Path) -> str:
    """The name of the array that holds the rows."""
    for option, name in wanted._asdict().items():
        if name is not None and name not in names:
            raise ValueError(f"expected {path} to hold an array {name!r}, got: {_listed(names)}; correct {option}=")
    candidates = [name for name in names if name != wanted.labels]
    if wanted.array is None and len(candidates) != 1:
        example = candidates[0] if candidates else "images"
        raise ValueError(
            f"expected {path} to hold one array of rows, got: {_listed(names)}; say which one, array={example!r}, and "
            "labels= if one holds labels"
        )
    return candidates[0] if wanted.array is None else wanted.array


def _read_csv(path: Path, wanted: Wanted) -> Data:
    import pandas as pd

    def read() -> pd.DataFrame:
        first = pd.read_csv(path, header=None, nrows=1)
        return pd.read_csv(path, header=None if _is_row_of_numbers(first) else "infer")

    frame = _guarded(path, read)
    if frame.columns[0] == "Unnamed: 0":  # the row numbers that pandas writes by default
        frame = frame.drop(columns="Unnamed: 0")
    return _from_frame(frame, path, wanted)


def _is_row_of_numbers(first: pd.DataFrame) -> bool:
    """Whether the first line of a file holds data, not names; 0, 1, 2, ... are names that pandas writes."""
    if any(dtype.kind not in "biuf" for dtype in first.dtypes):
        return False
    named = first.iloc[0].dropna().tolist()
    return named != list(range(len(named)))


def _read_parquet(path: Path, wanted: Wanted) -> Data:
    import pandas as pd

    try:
        frame = _guarded(path, lambda: pd.read_parquet(path))
    except ImportError:
        raise ImportError(
            f"expected pyarrow, which reads {path}, got no such package; write pip install 'pyrovae[io]', or save a "
            ".csv"
        ) from None
    return _from_frame(frame, path, wanted)


def _from_frame(frame: pd.DataFrame, path: Path, wanted: Wanted) -> Data:
    _refuse(wanted, path, "array")
    if wanted.labels is None:
        return as_data(frame)
    if wanted.labels not in frame.columns:
        raise ValueError(
            f"expected {path} to have a column {wanted.labels!r}, got: {_listed(map(str, frame.columns))}; correct "
            "labels="
        )
    return as_data(frame, labels=wanted.labels)


def _read_idx(path: Path, wanted: Wanted) -> Data:
    _refuse(wanted, path, "array", "labels")
    array = read_idx(path)
    return as_data(array[:, None] if array.ndim == 3 else array)  # images get a channel


_READERS: Mapping[str, Callable[[Path, Wanted], Data]] = {
    ".npy": _read_numpy,
    ".npz": _read_numpy,
    ".csv": _read_csv,
    ".csv.gz": _read_csv,
    ".parquet": _read_parquet,
    "-ubyte": _read_idx,
    "-ubyte.gz": _read_idx,
}


def _guarded(path: Path, read: Callable[[], Any]) -> Any:
    """What `read` returns, its errors said in one way."""
    try:
        return read()
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        pickled = "pickle" in str(error)
        remedy = (
            "pickles are never loaded, since they can run any code: save numbers, numpy.save(path, x.astype('float32'))"
            if pickled
            else "it is damaged or of another kind: get or save it anew"
        )
        raise ValueError(f"expected rows of numbers in {path}, got what cannot be read ({error}); {remedy}") from None


def _refuse(wanted: Wanted, path: Path, *options: str) -> None:
    for option in options:
        if wanted._asdict()[option] is not None:
            raise ValueError(
                f"expected no {option}= for {path}, got {wanted._asdict()[option]!r}; this kind of file has none to "
                f"pick: leave {option}= out"
            )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
