"""IDX files, the format of MNIST: a header of big-endian sizes, then the numbers."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np

from pyrovae.data.locate import read_bytes

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: Path, sha256: str | None = None) -> np.ndarray:
    """Return the array in an IDX file, compressed or not, whose unzipped content has this checksum, if one is given.

    Reference: LeCun, Cortes & Burges, The MNIST database of handwritten digits.
    """
    content = read_bytes(path)
    came = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, came):
        raise ValueError(
            f"expected {path} to have SHA-256 {sha256} (unzipped), got {came}; the file is damaged or another data set: "
            "remove it, so that it is downloaded anew, or load another set by its path"
        )
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _DTYPES:
        raise _damaged(path, f"its first bytes are {content[:4].hex()!r}, not those of an IDX file")
    dtype, num_axes = np.dtype(_DTYPES[content[2]]), content[3]
    start = 4 + 4 * num_axes
    if len(content) < start:
        raise _damaged(path, "its header is cut short")
    shape = struct.unpack(f">{num_axes}I", content[4:start])
    expected = start + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    if len(content) != expected:
        raise _damaged(path, f"its header {shape} asks for {expected} bytes, and it has {len(content)}")
    return np.frombuffer(content, dtype, offset=start).reshape(shape)


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"expected an IDX file, got {path}, which is damaged or of another kind: {why}; get it anew")
