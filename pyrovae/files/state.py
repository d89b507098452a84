"""A nested state in one safetensors file: tensors named by their path, the rest as JSON in the header, one checksum.

Reading a file runs no code. A file is accepted only if its checksum is right and its state would be written the same again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from pyrovae.files.atomic import DamagedError, NewerFormatError, check_version, open_regular, save_file_atomic

VERSION = 1
HEADER_LIMIT = 100_000_000  # bytes; safetensors reads no more
_KEY = "pyrovae"
_DTYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8),
}
_MAPPINGS: dict[str, type[dict[Any, Any]]] = {"$dict": dict, "$OrderedDict": OrderedDict, "$Counter": Counter}
_KEYS = (str, int, float, bool, type(None), tuple)
_HOLDS = (
    "A state holds dense tensors of the usual types, NumPy arrays of numbers, numbers, strings, None, and lists, tuples and "
    "dicts of these. Leave it out of the state, or replace it by such values"
)


def save_state(path: str | os.PathLike[str], state: Any, kind: str = "checkpoint") -> Path:
    """Write a nested state into one file, atomically.

    Equal states give equal files. A tensor that occurs twice is written once. Tensors are written as values, without their
    device and their layout in memory.

    Args:
        path: the file; name it ``*.safetensors``, since any safetensors reader opens it.
        state: dicts, lists, tuples, tensors, arrays, numbers, strings and None, nested.
        kind: what the file is; a reader asks for the same kind.

    Raises:
        TypeError: an entry cannot be kept; the message gives its path.
        ValueError: the state is nested too deep or in a circle, or its texts fill more than a header holds.
        OSError: the folder cannot be written; nothing has changed there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     load_state(save_state(Path(folder) / "state.safetensors", {"step": 3, "betas": (0.9, 0.999)}))
    {'step': 3, 'betas': (0.9, 0.999)}
    """
    structure, tensors = _take_apart(state)
    tensors = {name: _copied(tensor) for name, tensor in tensors.items()}
    about = {"kind": kind, "version": VERSION, "state": structure}
    sealed = {**about, "sha256": _checksum(about, tensors)}
    raw = safetensors.torch.save(tensors, {_KEY: json.dumps(sealed, allow_nan=False)})
    if (length := int.from_bytes(raw[:8], "little")) > HEADER_LIMIT:
        raise ValueError(
            f"numbers and texts take {length} bytes, the limit is {HEADER_LIMIT}: put long lists of numbers into tensors"
        )
    return save_file_atomic(path, raw)


def load_state(path: str | os.PathLike[str], kind: str = "checkpoint") -> Any:
    """Read a nested state of :func:`save_state`, equal to the last bit; tensors come back on the CPU.

    Raises:
        DamagedError: the file is truncated, altered, foreign or of another kind.
        NewerFormatError: a later version wrote the file.
        OSError: the file cannot be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     load_state(save_state(Path(folder) / "state.safetensors", [1.0, None, {"a": float("inf")}]))
    [1.0, None, {'a': inf}]
    """
    open_regular(path).close()
    try:
        with safetensors.safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get(_KEY, "null"))
            if not isinstance(about, dict):
                raise DamagedError(f"{path} is a safetensors file of another origin")
            check_version(about.get("version"), VERSION, path)
            if about.get("kind") != kind:
                raise DamagedError(f"{path} is no {kind}, it is a {str(about.get('kind'))[:100]!r} file")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        if about.pop("sha256", None) != _checksum(about, tensors):
            raise DamagedError(f"{path} is damaged: its checksum does not match its content")
        state = _put_together(about["state"], {name: tensor.clone() for name, tensor in tensors.items()})
        structure, again = _take_apart(state)
        if structure != about["state"] or again.keys() != tensors.keys():
            raise DamagedError(f"{path} is damaged: its content has another form than this library writes")
    except (DamagedError, NewerFormatError):
        raise
    except (OSError, MemoryError):  # of this machine, not of the file
        raise
    except Exception as error:  # whatever a reader raises on bytes from a stranger
        raise DamagedError(f"{path} is damaged, or no {kind} of pyrovae: {str(error)[:300]}") from error
    return state


def check_state(state: Any, root: str = "") -> None:
    """Refuse a state that no file could keep, as :func:`save_state` does; ``root`` is the state's name in the message.

    >>> check_state({"step": 3, "weights": [torch.zeros(2), None]})
    >>> check_state({"state": {0: {"closure": len}}}, "optimizer")
    Traceback (most recent call last):
    ...
    TypeError: optimizer.state.0.closure is of type builtin_function_or_method. A state holds ...
    """
    _take_apart(state, (root,) if root else ())


def _checksum(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over all that a file says: texts, names, dtypes, shapes and values."""
    shapes = [[name, str(tensors[name].dtype), list(tensors[name].shape)] for name in sorted(tensors)]
    digest = hashlib.sha256(json.dumps([about, shapes]).encode())
    for name in sorted(tensors):
        raw = tensors[name].reshape(-1).view(torch.uint8)
        if tensors[name].dtype == torch.bool and raw.numel() and raw.max() > 1:  # undefined behavior in torch
            raise ValueError(f"the tensor {name[:200]!r} is boolean and holds other bytes than 0 and 1")
        digest.update(raw.numpy().data)
    return digest.hexdigest()


def _copied(tensor: Tensor) -> Tensor:
    """The values on the CPU in row-major order, in memory shared with nothing."""
    plain = tensor.detach().resolve_conj().resolve_neg().cpu()
    return plain.clone(memory_format=torch.contiguous_format)


def _take_apart(state: Any, root: tuple[str, ...] = ()) -> tuple[Any, dict[str, Tensor]]:
    """The state as JSON, in which a tensor is its name, and the tensors by name. Nothing is copied."""
    tensors: dict[str, Tensor] = {}
    names: dict[Any, str] = {}

    def named(tensor: Tensor, path: tuple[str, ...]) -> str:
        """The tensor's name: its path, once for all tensors that show the same memory in the same way."""
        view = (tensor.data_ptr(), tensor.device, tensor.shape, tensor.stride(), tensor.dtype)
        identity = (*view, tensor.is_conj(), tensor.is_neg())
        if identity not in names:
            stem = "/".join(path).encode("ascii", "backslashreplace").decode() or "state"
            taken = (*tensors, "__metadata__")
            candidates = (stem if count == 1 else f"{stem}#{count}" for count in itertools.count(1))
            names[identity] = next(name for name in candidates if name not in taken)
            tensors[names[identity]] = tensor
        return names[identity]

    def describe(value: Any, path: tuple[str, ...]) -> Any:
        kind = type(value)
        if value is None or kind in (bool, int, str) or (kind is float and math.isfinite(value)):
            return value
        if kind is float:
            return {"$float": repr(value)}
        if kind in (list, tuple, torch.Size):
            items = [describe(item, (*path, str(index))) for index, item in enumerate(value)]
            return items if kind is list else {"$tuple": items}
        if kind is dict and all(type(key) is str and not key.startswith("$") for key in value):
            return {key: describe(item, (*path, key)) for key, item in value.items()}
        if kind in _MAPPINGS.values() and all(isinstance(key, _KEYS) for key in value):
            pairs = [[describe(key, path), describe(item, (*path, str(key)))] for key, item in value.items()]
            return {f"${kind.__name__}": pairs}
        if kind in (Tensor, nn.Parameter) and _is_plain(value):
            return {"$tensor": named(value, path)}
        if kind is np.ndarray and value.dtype.kind in "biufc" and value.dtype.itemsize <= 8:
            return {"$array": named(torch.from_numpy(np.array(value, value.dtype.newbyteorder("="))), path)}
        if isinstance(value, np.generic) and not isinstance(value.item(), np.generic):
            return describe(value.item(), path)
        raise TypeError(f"{'.'.join(path) or 'the state'} is {_what(value)}. {_HOLDS}")

    try:
        return describe(state, root), tensors
    except RecursionError:
        raise ValueError("the state is nested too deep, or in a circle") from None


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and tensor.device.type != "meta" and tensor.dtype in _DTYPES


def _what(value: Any) -> str:
    """What an entry is that no file keeps."""
    if type(value) in (Tensor, nn.Parameter):
        return f"a {str(value.layout).removeprefix('torch.')} tensor of {value.dtype} on {value.device}"
    if type(value) is np.ndarray:
        return f"an array of {value.dtype}"
    if type(value) in _MAPPINGS.values():
        others = [key for key in value if not isinstance(key, _KEYS)]
        return f"a dict with a key of type {type(others[0]).__name__}"
    return f"of type {type(value).__name__}"


def _put_together(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The state of its JSON and its tensors; any error means that the JSON follows no known form."""
    if isinstance(node, list):
        return [_put_together(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    if not any(key.startswith("$") for key in node):
        return {key: _put_together(item, tensors) for key, item in node.items()}
    [(form, content)] = node.items()
    if form == "$float":
        return float(content)
    if form == "$tensor":
        return tensors[content]
    if form == "$array":
        return tensors[content].numpy()
    items = _put_together(content, tensors)
    return tuple(items) if form == "$tuple" else _MAPPINGS[form](dict(items))
