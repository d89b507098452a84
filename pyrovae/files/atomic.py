"""Files that are whole or absent, and JSON that is read with suspicion."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import secrets
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

_SUFFIX = "pyrovae-tmp"
_LEFTOVER = re.compile(rf"\..+\.(?P<process>\d+)-[0-9a-f]{{8}}\.{_SUFFIX}")
_ABANDONED = 3600.0  # seconds after which a temporary file belongs to nobody, whoever has its process number now
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
    """A file that is truncated, altered or not of this library's making.

    Example:
        >>> issubclass(DamagedError, ValueError)
        True
    """


def save_file_atomic(path: str | os.PathLike[str], content: bytes | Callable[[BinaryIO], object]) -> Path:
    """Write a file so that at every moment either the old content or the new stands there, never a part.

    The content goes to a temporary file in the same folder, which is synchronised to the disk and then renamed.

    Args:
        path: Where to write; missing folders are made.
        content: The bytes, or a function that writes them to an open binary file.

    Returns:
        The path.

    Raises:
        OSError: The folder cannot be written or the disk is full (the message names the folder and the remedy); what
            stood there before is unchanged, and no temporary file is left.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_file_atomic(Path(folder) / "note.txt", b"hello").read_bytes()
        b'hello'
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.{_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(temporary, content)
        os.replace(temporary, path)
    except OSError as error:
        _explain(error, path)
    finally:
        with contextlib.suppress(OSError):  # gone already after the rename
            temporary.unlink()
    _synchronise_folder(path.parent)
    return path


def _write(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    with open(path, "xb") as file:
        if callable(content):
            content(file)
        else:
            file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _synchronise_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can open folders (POSIX)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _explain(error: OSError, path: Path) -> NoReturn:
    number = error.errno or errno.EIO
    reason = _REASONS.get(number, error.strerror or str(error))
    message = f"cannot write {path.name!r} in {str(path.parent)!r}: {reason}. What stood there before is unchanged"
    raise OSError(number, message) from error


def remove_leftovers(folder: str | os.PathLike[str]) -> list[Path]:
    """Remove the temporary files that a killed process left in a folder.

    Only files that carry this library's pattern are touched, and only those of a process that no longer runs, of this
    one, or untouched for an hour. Call it before writing starts, not while another thread writes.

    Args:
        folder: The folder; a missing one has no leftovers.

    Returns:
        The paths removed.

    Example:
        >>> remove_leftovers("/no/such/folder")
        []
    """
    removed = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        for path in sorted(Path(folder).iterdir()):
            match = _LEFTOVER.fullmatch(path.name)
            if match and _is_abandoned(path, int(match["process"])):
                with contextlib.suppress(OSError):
                    path.unlink()
                    removed.append(path)
    return removed


def _is_abandoned(path: Path, process: int) -> bool:
    if process == os.getpid() or time.time() - path.stat().st_mtime > _ABANDONED:
        return True
    try:
        os.kill(process, 0)  # signal 0 asks whether it runs and sends nothing
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        return False
    return False


def write_json_atomic(path: str | os.PathLike[str], value: Any) -> Path:
    """Write a value as indented JSON, atomically.

    Args:
        path: Where to write.
        value: Dicts with string keys, lists, strings, finite numbers, booleans and None.

    Returns:
        The path.

    Raises:
        ValueError: The value is not JSON.
        OSError: As in `save_file_atomic`.

    Example:
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
    """Read a JSON file of at most 16 MiB, refusing whatever a JSON file of this library never holds.

    Args:
        path: The file.

    Returns:
        The value.

    Raises:
        DamagedError: Too large, not UTF-8, not JSON, a key given twice, NaN or infinity, or nested too deep.
        OSError: The file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     read_json(save_file_atomic(Path(folder) / "a.json", b"[1, 2]"))
        [1, 2]
    """
    with open_regular(path) as file:
        raw = file.read(_JSON_LIMIT + 1)
    if len(raw) > _JSON_LIMIT:
        raise DamagedError(f"{path} is larger than {_JSON_LIMIT} bytes, which no file of this library is")
    return parse_json(raw, str(path))


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; a pipe or a device, which could be read for ever, is refused.

    Args:
        path: The file.

    Returns:
        The open binary file.

    Raises:
        DamagedError: Something else stands there.
        OSError: The file cannot be opened.

    Example:
        >>> open_regular("/dev/null")
        Traceback (most recent call last):
        ...
        pyrovae.files.atomic.DamagedError: /dev/null is not a regular file
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise DamagedError(f"{path} is not a regular file")
    return open(path, "rb")


def parse_json(raw: bytes, source: str) -> Any:
    """Parse JSON strictly: no duplicate keys, no NaN or infinity, no nesting beyond the interpreter's stack.

    Args:
        raw: UTF-8 bytes.
        source: What they are, for the message.

    Returns:
        The value.

    Raises:
        DamagedError: They are not such JSON.

    Example:
        >>> parse_json(b'{"a": [1, 2.5]}', "example")
        {'a': [1, 2.5]}
    """
    try:
        return json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite
        )
    except RecursionError:
        raise DamagedError(f"{source} is nested too deep") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise DamagedError(f"{source} is not valid JSON: {_clip(str(error))}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is given twice")
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{_clip(text)} overflows")
    return value


def _clip(text: str, width: int = 200) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
