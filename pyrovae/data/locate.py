"""Where data lie: the folder `PYROVAE_DATA`, then the user's cache folder, then a verified download into it."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TIMEOUT = 30
"""Seconds without an answer after which a download is given up."""

UNZIP: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zip": lambda path: (archive := zipfile.ZipFile(path)).open(archive.namelist()[0]),
}
"""How compressed files are opened, by the end of their name."""


TABLES = (".csv", ".tsv", ".tab", ".txt", ".parquet")
"""How the names of tables end, before what compresses them."""


def is_table(path: str | Path) -> bool:
    """Whether a file's name is that of a table, compressed or not.

    >>> is_table("my.csv.gz"), is_table("rows.npy")
    (True, False)
    """
    name = Path(path).name.lower()
    return name.removesuffix(Path(name).suffix if Path(name).suffix in UNZIP else "").endswith(TABLES)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Say in one way that a file cannot be read, whichever library finds out."""
    try:
        yield
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        remedy = "it is damaged or of another kind: get or save it anew"
        if "pickle" in str(error):
            remedy = "pickles are never loaded, since they can run any code: save numbers, numpy.save(path, x)"
        raise ValueError(f"{path} cannot be read ({error}); {remedy}") from None


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, unzipped if its name ends so."""
    with readable(path), UNZIP.get(path.suffix.lower(), lambda path: path.open("rb"))(path) as file:
        return file.read()


def cache_folder() -> Path:
    """The folder for downloaded data: ``pyrovae`` in the user's cache folder, by the platform's convention."""
    import pooch

    return Path(pooch.os_cache("pyrovae"))


def data_folders() -> list[Path]:
    """The folders in which data are looked for, in this order."""
    given = os.environ.get("PYROVAE_DATA")
    return [*([Path(given).expanduser()] if given else []), cache_folder()]


def find(file: str) -> Path | None:
    """The first data folder's copy of a file, ``"mnist/train-images-idx3-ubyte.gz"`` say, or of its unzipped form."""
    names = [file, file.removesuffix(".gz")]
    found = (folder / name for folder in data_folders() for name in names if (folder / name).is_file())
    return next(found, None)


def obtain(files: Mapping[str, str | None], mirrors: Sequence[str] = ()) -> list[Path]:
    """Return the paths of files by their names within a data folder, each with the hash that a download must have.

    Files found nowhere are downloaded from the first of the mirrors that has them.

    Raises:
        FileNotFoundError: one is nowhere and cannot be downloaded; says which files belong where.
    """
    for file, known_hash in files.items():
        if find(file) is None:
            _download(file, known_hash, mirrors, [other for other in files if find(other) is None])
    return [path for path in map(find, files) if path is not None]


def _download(file: str, known_hash: str | None, mirrors: Sequence[str], missing: Sequence[str]) -> None:
    import pooch

    folder, name = cache_folder() / Path(file).parent, Path(file).name
    failures = []
    for mirror in mirrors:
        try:
            pooch.retrieve(mirror + name, known_hash, name, folder, downloader=pooch.HTTPDownloader(timeout=TIMEOUT))
        except (OSError, ValueError) as error:
            failures.append(f"{mirror}: {error}")
        else:
            return
    tried = f"; downloading failed ({'; '.join(failures)})" if failures else ""
    source = f" (from {mirrors[0]}, on a machine with internet)" if mirrors else ""
    raise FileNotFoundError(
        f"expected the data files {', '.join(missing)}, found in none of {', '.join(map(str, data_folders()))}{tried}; put "
        f"them{source} into {folder}, or set PYROVAE_DATA to the folder that holds {Path(file).parent}/"
    )
