"""The header of a safetensors file, checked before a byte of its tensors is believed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from pyrovae.files.atomic import DamagedError, parse_json

HEADER_LIMIT = 2**26  # bytes; safetensors itself stops at 100 MB
_AXES_LIMIT = 64  # torch's own
_NUMBERS_LIMIT = 2**62
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself: its texts, its tensors' shapes, and where their bytes start.

    Args:
        texts: The `__metadata__` entry.
        shapes: Each tensor's dtype and shape.
        start: Offset of the tensors' bytes in the file.

    Example:
        >>> Header({}, {"weight": (torch.float32, (2, 3))}, 64).start
        64
    """

    texts: dict[str, str]
    shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]]
    start: int


def header_length(first: bytes, size: int, source: str) -> int:
    """Length of the JSON header in bytes, from the file's first eight.

    Args:
        first: The first eight bytes: a little-endian 64-bit integer.
        size: The size of the whole file in bytes.
        source: The file's name, for the message.

    Returns:
        The length.

    Raises:
        DamagedError: The file is shorter than it says, or the length is absurd.

    Example:
        >>> header_length((2).to_bytes(8, "little"), 10, "example")
        2
    """
    if len(first) < 8:
        raise DamagedError(f"{source} is truncated: {size} bytes cannot hold a safetensors file")
    length = int.from_bytes(first, "little")
    if length > HEADER_LIMIT:
        raise DamagedError(
            f"{source} is not a safetensors file: it would start with a header of {length} bytes, "
            f"more than the limit of {HEADER_LIMIT}"
        )
    if length > size - 8:
        raise DamagedError(f"{source} is truncated: its header has {length} bytes, the rest of the file {size - 8}")
    return length


def parse_header(raw: bytes, size: int, source: str) -> Header:
    """Parse and check the JSON header: every dtype, shape and offset, with no gap and no overlap up to the last byte.

    Args:
        raw: The header's bytes.
        size: The size of the whole file in bytes.
        source: The file's name, for the message.

    Returns:
        The header.

    Raises:
        DamagedError: Something in it does not fit; nothing has been allocated by then.

    Example:
        >>> parse_header(b'{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}', 69, "example").shapes
        {'a': (torch.uint8, (1,))}
    """
    entries = parse_json(raw, f"the header of {source}")
    if not isinstance(entries, dict):
        raise DamagedError(f"the header of {source} is not a table of tensors")
    texts = entries.pop("__metadata__", {})
    if not _is_texts(texts):
        raise DamagedError(f"the metadata of {source} are not a table of texts")
    start = 8 + len(raw)
    spans = {name: _span(entry, f"tensor {name[:200]!r} of {source}") for name, entry in entries.items()}
    _check_cover([span for _, _, span in spans.values()], size - start, source)
    return Header(texts, {name: (dtype, shape) for name, (dtype, shape, _) in spans.items()}, start)


def _is_texts(value: Any) -> bool:
    """A table of texts that UTF-8 can write; JSON's escapes can spell others."""
    try:
        return isinstance(value, dict) and all(isinstance(text.encode(), bytes) for text in value.values())
    except (AttributeError, UnicodeEncodeError):
        return False


def _span(entry: Any, what: str) -> tuple[torch.dtype, tuple[int, ...], tuple[int, int]]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise DamagedError(f"{what} lacks one of dtype, shape, data_offsets, or has more than these")
    dtype, shape, offsets = DTYPES.get(str(entry["dtype"])), entry["shape"], entry["data_offsets"]
    if dtype is None:
        raise DamagedError(f"{what} has dtype {str(entry['dtype'])[:50]!r}; known are {', '.join(DTYPES)}")
    if not _is_shape(shape):
        raise DamagedError(f"{what} has no valid shape")
    if not _is_counts(offsets) or len(offsets) != 2:
        raise DamagedError(f"{what} has no valid offsets")
    if offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise DamagedError(f"{what}: shape {shape} of {entry['dtype']} does not fill the bytes {offsets}")
    return dtype, tuple(shape), (offsets[0], offsets[1])


def _is_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) is int and 0 <= number < _NUMBERS_LIMIT for number in value)


def _is_shape(value: Any) -> bool:
    """Counts whose product fits an integer, also with zeros left out: torch computes strides from it."""
    return _is_counts(value) and len(value) <= _AXES_LIMIT and math.prod(n for n in value if n) < _NUMBERS_LIMIT


def _check_cover(spans: list[tuple[int, int]], size: int, source: str) -> None:
    position = 0
    for start, stop in sorted(spans):
        if start != position:
            raise DamagedError(f"{source}: the bytes of its tensors overlap or leave a gap at byte {position}")
        position = stop
    if position != size:
        reason = "truncated" if position > size else "longer than it says"
        raise DamagedError(f"{source} is {reason}: its tensors have {position} bytes, {size} stand there")
