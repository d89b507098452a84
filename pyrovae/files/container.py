"""One file of named tensors and texts: safetensors, with a checksum over every byte."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor

from pyrovae.files.atomic import DamagedError, open_regular, save_file_atomic
from pyrovae.files.header import DTYPES, HEADER_LIMIT, Header, header_length, parse_header

VERSION = 1
_KEYS = frozenset({"format", "version", "sha256"})
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_HASH_START = len(b'"sha256":"')


class NewerFormatError(ValueError):
    """A file written by a later version of this library.

    Example:
        >>> issubclass(NewerFormatError, ValueError)
        True
    """


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], kind: str, texts: Mapping[str, str] | None = None
) -> Path:
    """Write named tensors and texts into one safetensors file, atomically and with a checksum.

    The checksum is the SHA-256 of the whole file in which the checksum's own 64 digits are zeros. The file holds no
    time and no machine name: equal content gives equal bytes.

    Args:
        path: The file.
        tensors: Dense tensors on any device; those that share memory are written out one by one.
        kind: What the file is, such as `"checkpoint"`; a reader asks for the same kind.
        texts: More texts for the header.

    Returns:
        The path.

    Raises:
        ValueError: The header would be too large, or a text has a reserved name.
        OSError: As in `save_file_atomic`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_tensors(Path(folder) / "a.safetensors", {"mean": torch.zeros(2)}, "model")
        ...     read_tensors(path, "model")
        ({'mean': tensor([0., 0.])}, {})
    """
    texts = dict(texts or {})
    if reserved := _KEYS & set(texts):
        raise ValueError(f"the names {sorted(reserved)} are taken by the file format; choose others")
    texts |= {"format": _format(kind), "version": str(VERSION)}
    parts = {name: _flat_bytes(tensors[name]) for name in sorted(tensors, key=lambda n: (-tensors[n].itemsize, n))}
    digest = hashlib.sha256(_head(tensors, parts, texts, "0" * 64))
    for part in parts.values():
        digest.update(part)
    head = _head(tensors, parts, texts, digest.hexdigest())

    def write(file: BinaryIO) -> None:
        file.write(head)
        for part in parts.values():
            file.write(part)

    return save_file_atomic(path, write)


def _format(kind: str) -> str:
    return f"pyrovae-{kind}"


def _flat_bytes(tensor: Tensor) -> memoryview:
    """A tensor's bytes in row-major order; a view, where it is contiguous and on the CPU."""
    flat = tensor.detach().resolve_conj().resolve_neg().to("cpu").reshape(-1)
    if flat.stride(0) != 1:  # one number cut from a row counts as contiguous, and still refuses the view as bytes
        flat = flat.clone(memory_format=torch.contiguous_format)
    array: Any = flat.view(torch.uint8).numpy()
    return memoryview(array)


def _head(
    tensors: Mapping[str, Tensor], parts: Mapping[str, memoryview], texts: Mapping[str, str], digest: str
) -> bytes:
    """The length and the JSON header. Written here, since safetensors orders the texts anew in every process."""
    stops = list(accumulate(len(part) for part in parts.values()))
    entries: dict[str, Any] = {"__metadata__": {**texts, "sha256": digest}}
    for (name, part), stop in zip(parts.items(), stops, strict=True):
        dtype, shape = _NAMES[tensors[name].dtype], list(tensors[name].shape)
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [stop - len(part), stop]}
    raw = json.dumps(entries, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    if len(raw) > HEADER_LIMIT:
        raise ValueError(f"the texts and names take {len(raw)} bytes, the limit is {HEADER_LIMIT}: save fewer strings")
    return len(raw).to_bytes(8, "little") + raw


def read_tensors(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file of `write_tensors`, trusting nothing in it: the header and the checksum are verified first.

    Args:
        path: The file.
        kind: The kind of file expected.

    Returns:
        The tensors, on the CPU, and the texts.

    Raises:
        DamagedError: The file is truncated, altered, or of another kind or origin.
        NewerFormatError: The file was written by a later version.
        OSError: The file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_file_atomic(Path(folder) / "a.safetensors", b"not this")
        ...     read_tensors(path, "model")  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        DamagedError: a.safetensors is not a safetensors file
    """
    header, raw = _read(path, kind, whole=True)
    source = str(path)
    _check_sum(raw, header, source)
    try:
        tensors = safetensors.torch.load(raw)
    except Exception as error:  # safetensors raises its own class for whatever slipped through
        raise DamagedError(f"{source} is not readable: {error}") from error
    _check_booleans(tensors, source)
    return tensors, {name: text for name, text in header.texts.items() if name not in _KEYS}


def read_header(path: str | os.PathLike[str], kind: str) -> Header:
    """Read the checked header alone: what the tensors would be, before any is loaded.

    Args:
        path: The file.
        kind: The kind of file expected.

    Returns:
        Its texts and shapes.

    Raises:
        DamagedError: The header is damaged or foreign.
        NewerFormatError: The file was written by a later version.
        OSError: The file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_tensors(Path(folder) / "a.safetensors", {"mean": torch.zeros(2)}, "model")
        ...     read_header(path, "model").shapes
        {'mean': (torch.float32, (2,))}
    """
    return _read(path, kind, whole=False)[0]


def _read(path: str | os.PathLike[str], kind: str, whole: bool) -> tuple[Header, bytes]:
    source = str(path)
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        first = file.read(8)
        raw = first + file.read(header_length(first, size, source))
        header = parse_header(raw[8:], size, source)
        _check_origin(header.texts, kind, source)
        if whole:
            file.seek(0)
            raw = file.read(size)
    return header, raw


def _check_origin(texts: Mapping[str, str], kind: str, source: str) -> None:
    found = texts.get("format", "")
    if found != _format(kind):
        what = f"a {found[:100]!r} file" if found else "a safetensors file of another origin"
        raise DamagedError(f"{source} is {what}, expected {_format(kind)!r}")
    version = texts.get("version", "")
    if not (version.isascii() and version.isdigit() and len(version) < 10 and int(version) > 0):
        raise DamagedError(f"{source} has no valid format version")
    if int(version) > VERSION:
        raise NewerFormatError(
            f"{source} has format version {version}, this pyrovae reads up to {VERSION}: "
            "upgrade it (`pip install --upgrade pyrovae`)"
        )


def _check_sum(raw: bytes, header: Header, source: str) -> None:
    stated = header.texts.get("sha256", "")
    field = b'"sha256":"' + stated.encode() + b'"'
    at = raw.find(field, 8, header.start) + _HASH_START
    if len(stated) != 64 or at < _HASH_START:
        raise DamagedError(f"{source} carries no checksum")
    view = memoryview(raw)
    digest = hashlib.sha256(view[:at])
    digest.update(b"0" * 64)
    digest.update(view[at + 64 :])
    if digest.hexdigest() != stated:
        raise DamagedError(f"{source} is damaged: its checksum does not match its content")


def _check_booleans(tensors: Mapping[str, Tensor], source: str) -> None:
    """A byte other than 0 and 1 in a boolean tensor is undefined behaviour in torch."""
    for name, tensor in tensors.items():
        if tensor.dtype == torch.bool and tensor.numel() and tensor.view(torch.uint8).max() > 1:
            raise DamagedError(f"tensor {name[:200]!r} of {source} is boolean and holds other bytes than 0 and 1")


def is_storable(tensor: Tensor) -> bool:
    """Whether a tensor is dense, holds numbers, and has a dtype that the file format knows.

    Args:
        tensor: Any tensor.

    Returns:
        Whether `write_tensors` takes it.

    Example:
        >>> is_storable(torch.zeros(2)), is_storable(torch.zeros(2, device="meta"))
        (True, False)
    """
    return tensor.layout == torch.strided and tensor.device.type != "meta" and tensor.dtype in DTYPES.values()
