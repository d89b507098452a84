"""A folder with one writer, cleared of what killed writers left behind."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pyrovae.files.atomic import TEMPORARY, explained, try_lock

LOCK = ".lock"
_held: dict[tuple[str, int], tuple[int, object]] = {}
"""By real path and process, the thread that holds a folder, and a token of its outermost ``with``."""


class InUseError(OSError):
    """A folder that another process or thread writes into."""


@contextlib.contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Hold a folder as its only writer: made, found to be writable, and cleared of the leftovers of killed writers.

    The lock is advisory and dies with its process. The thread that holds it may take it again. Readers need none.

    Raises:
        InUseError: another process or thread holds it.
        OSError: the folder cannot be written.

    >>> with tempfile.TemporaryDirectory() as name, locked(name) as folder, locked(name):
    ...     [path.name for path in folder.iterdir()]
    ['.lock']
    """
    folder, mine = Path(folder), (threading.get_ident(), object())
    key = (os.path.realpath(folder), os.getpid())
    holder = _held.setdefault(key, mine)
    if holder[0] != mine[0]:
        raise _in_use(folder, "another thread of this process")
    if holder is not mine:
        yield folder
        return
    try:
        with _lock_file(folder):
            remove_leftovers(folder)
            yield folder
    finally:
        del _held[key]


@contextlib.contextmanager
def _lock_file(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # a lock file of old can be opened where no new file can be made
            pass
        file = _hold(folder / LOCK)
    except InUseError:
        raise
    except OSError as error:
        raise explained(error, folder) from error
    with file:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.unlink(file.name)


def _hold(path: Path) -> BinaryIO:
    while True:
        file = open(path, "a+b")  # noqa: SIM115  its caller closes it
        if not try_lock(file):
            with file:
                file.seek(0)
                raise _in_use(path.parent, file.read(200).decode(errors="replace") or "another process")
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {platform.node()}".encode())
                file.flush()
                return file
        file.close()  # its holder removed it between the two lines: try again


def _in_use(folder: Path, who: str) -> InUseError:
    return InUseError(
        errno.EBUSY, f"{str(folder)!r} is in use by {who}: wait until that has ended, or choose another folder"
    )


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove the temporary files and folders that killed writers left in a folder; returns their paths.

    Only names of this library's pattern are touched, and no file that a process is writing.
    """
    removed = []
    for path in sorted(path for path in folder.iterdir() if TEMPORARY.fullmatch(path.name)):
        with contextlib.suppress(OSError):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                with open(path, "r+b") as file:
                    if not try_lock(file):
                        continue
                path.unlink()
            removed.append(path)
    return removed
