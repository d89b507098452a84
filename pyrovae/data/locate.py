"""Where data lies: `PYROVAE_DATA`, then the user's cache folder, then a checksummed download into it."""

from __future__ import annotations

import http.client
import os
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

TIMEOUT = 30
"""Seconds without an answer after which a download is given up."""


def cache_folder() -> Path:
    """The folder for downloaded data: `pyrovae` in the user's cache folder, by the platform's convention."""
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "pyrovae"
    homes = {
        "darwin": Path.home() / "Library" / "Caches",
        "win32": Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"),
    }
    return homes.get(sys.platform, Path.home() / ".cache") / "pyrovae"


def data_folders() -> list[Path]:
    """The folders in which data is looked for, in this order."""
    given = os.environ.get("PYROVAE_DATA")
    return [*([Path(given).expanduser()] if given else []), cache_folder()]


def find(file: str) -> Path | None:
    """The first data folder's copy of a file, `"mnist/train-images-idx3-ubyte.gz"` say, or of its unzipped form."""
    names = [file, file.removesuffix(".gz")]
    found = (folder / name for folder in data_folders() for name in names if (folder / name).is_file())
    return next(found, None)


def obtain(
    files: Sequence[str], mirrors: Sequence[str] = (), verify: Callable[[Path, str], object] = lambda path, file: None
) -> list[Path]:
    """The paths of the files of a data set; those found nowhere are downloaded.

    Args:
        files: Their names within a data folder, `"mnist/train-images-idx3-ubyte.gz"` say.
        mirrors: Addresses of folders that hold them; tried in this order. None: nothing is downloaded.
        verify: `verify(path, file)` raises ValueError for a downloaded file of the wrong content.

    Raises:
        FileNotFoundError: If one is nowhere and cannot be downloaded; says which files belong where.
    """
    for file in files:
        if find(file) is None:
            _download_from(mirrors, file, [other for other in files if find(other) is None], verify)
    return [path for path in map(find, files) if path is not None]


def _download_from(
    mirrors: Sequence[str], file: str, missing: Sequence[str], verify: Callable[[Path, str], object]
) -> None:
    failures = []
    for mirror in mirrors:
        try:
            return _download(mirror + Path(file).name, cache_folder() / file, lambda path: verify(path, file))
        except (OSError, http.client.HTTPException, ValueError) as error:
            failures.append(f"{mirror}: {error}")
    raise FileNotFoundError(_not_found(missing, mirrors, failures))


def _not_found(missing: Sequence[str], mirrors: Sequence[str], failures: Sequence[str]) -> str:
    folders = [str(folder) for folder in data_folders()]
    tried = f"; downloading failed ({'; '.join(failures)})" if failures else ""
    source = f" (from {mirrors[0]}, on a machine with internet)" if mirrors else ""
    return (
        f"expected the data files {', '.join(missing)}, found in none of {', '.join(folders)}{tried}; put them{source} "
        f"into {(cache_folder() / missing[0]).parent}, or set PYROVAE_DATA to the folder that holds "
        f"{Path(missing[0]).parent}/"
    )


def _download(url: str, target: Path, verify: Callable[[Path], object]) -> None:
    """Download to a temporary file beside the target, which appears only when complete and verified."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, suffix=f".part{target.suffix}")
    try:
        with os.fdopen(handle, "wb") as file, urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            shutil.copyfileobj(response, file)
        verify(Path(name))
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)
