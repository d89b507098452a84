"""Files that are whole or absent, and JSON that is read with suspicion."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # a system without POSIX locks refuses nobody
    fcntl = None  # type: ignore[assignment]

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.pyrovae-tmp")
_JSON_LIMIT = 2**24  # bytes

_UNWRITABLE = "the folder is not writable: choose another one, or change its permissions"
_BLOCKED = "a file or folder of that name is in the way: choose another folder, or move it"
_REASONS = {
    errno.ENOSPC: "the disk is full: free some space, or choose a folder on another disk",
    errno.EDQUOT: "the disk quota is used up: free some space, or choose a folder on another disk",
    errno.EFBIG: "the file would pass this process's file-size limit: raise it (`ulimit -f unlimited`)",
    errno.EACCES: _UNWRITABLE,
    errno.EPERM: _UNWRITABLE,
    errno.EROFS: "the disk is mounted read-only: choose another folder",
    errno.ENOTDIR: _BLOCKED,
    errno.EEXIST: _BLOCKED,
    errno.EISDIR: _BLOCKED,
    errno.ENAMETOOLONG: "the name is too long for this disk: choose a shorter one",
}


class DamagedError(ValueError):
    """A file that is truncated, altered or not of this library's making."""


class NewerFormatError(ValueError):
    """A file that a later version of this library wrote."""


def save_file_atomic(path: str | os.PathLike[str], content: bytes | Callable[[BinaryIO], object]) -> Path:
    """Write a file so that at every moment either the old content or the new stands there, never a part.

    The content goes to a temporary file in the same folder, which is synchronized to the disk and then renamed.

    Args:
        path: where to write; missing folders are made.
        content: the bytes, or a function that writes them to an open binary file.

    Raises:
        OSError: the folder cannot be written or the disk is full, with the remedy; the old content is unchanged.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file_atomic(Path(folder) / "note.txt", b"hello").read_bytes()
    b'hello'
    """
    path = Path(path)
    temporary = temporary_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(temporary, content)
        os.replace(temporary, path)
    except OSError as error:
        raise explained(error, path) from error
    finally:
        with contextlib.suppress(OSError):  # after the rename it is gone
            temporary.unlink()
    synchronize(path.parent)
    return path


def temporary_of(path: Path) -> Path:
    """A new name beside a path, of the pattern by which the leftovers of killed writers are known."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.pyrovae-tmp")


def _write(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    with open(path, "xb") as file:
        try_lock(file)  # a temporary file that no process holds is a leftover
        if callable(content):
            content(file)
        else:
            file.write(content)
        file.flush()
        os.fsync(file.fileno())


def try_lock(file: BinaryIO) -> bool:
    """Whether this process now holds an open file; False where another one does. The lock dies with its process."""
    try:
        if fcntl is not None:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # POSIX allows both
        return False
    except OSError:  # a disk without locks refuses nobody
        return True
    return True


def synchronize(folder: Path) -> None:
    """Make the renames in a folder survive a power cut, where the system can open folders (POSIX)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def explained(error: OSError, path: Path) -> OSError:
    """The error with the folder, the reason in words and the remedy."""
    number = error.errno or errno.EIO
    reason = _REASONS.get(number, error.strerror or str(error))
    folder = Path(*(part for part in path.parent.parts if not TEMPORARY.fullmatch(part)))
    return OSError(number, f"cannot write {path.name!r} in {str(folder)!r}: {reason}. The old content is unchanged")


def write_json_atomic(path: str | os.PathLike[str], value: Any) -> Path:
    """Write a value as indented JSON, atomically; a ValueError says why a value is no JSON.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     read_json(write_json_atomic(Path(folder) / "a.json", {"seed": 0}))
    {'seed': 0}
    """
    try:
        text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
        raw = (text + "\n").encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"cannot write {Path(path).name!r}: expected dicts with string keys, lists, strings, finite numbers, "
            f"booleans and None, but {error}"
        ) from error
    return save_file_atomic(path, raw)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file of finite numbers and at most 16 MiB; anything else is a DamagedError."""
    with open_regular(path) as file:
        raw = file.read(_JSON_LIMIT + 1)
    if len(raw) > _JSON_LIMIT:
        raise DamagedError(f"{path} is larger than {_JSON_LIMIT} bytes, which no file of this library is")
    try:
        value = json.loads(raw.decode("utf-8"))
        json.dumps(value, allow_nan=False)
        return value
    except RecursionError:
        raise DamagedError(f"{path} is nested too deep") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise DamagedError(f"{path} is not valid JSON: {str(error)[:200]}") from error


def check_version(found: Any, newest: int, path: str | os.PathLike[str]) -> None:
    """Refuse a file without a valid format version, or of a later one than this library reads."""
    if type(found) is not int or found < 1:
        raise DamagedError(f"{path} has no valid format version")
    if found > newest:
        raise NewerFormatError(
            f"{path} has format version {str(found)[:20]}, this pyrovae reads up to {newest}: upgrade it "
            "(`pip install --upgrade pyrovae`)"
        )


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; a pipe or a device, which could be read for ever, is refused."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise DamagedError(f"{path} is not a regular file")
    return open(path, "rb")
