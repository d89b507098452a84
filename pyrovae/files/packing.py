"""A nested training state as flat tensors and a JSON skeleton, and back."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.files.atomic import DamagedError
from pyrovae.files.container import is_storable

_DEPTH_LIMIT = 64
_BITS_LIMIT = 4096  # of an integer; Python refuses to parse far longer ones
_RUN = 16  # a list of so many numbers or more becomes a tensor
_KEYS = (str, int, float, bool, type(None), tuple)
_KINDS_OF_ARRAY = "biufc"
_HOLDS = (
    "A checkpoint holds tensors, NumPy arrays and numbers, numbers, strings, None, and lists, tuples and dicts of "
    "these. Leave it out of the state, or replace it by such values"
)


def check_packable(tree: Any, root: str = "") -> None:
    """Refuse a state that `pack` could not keep, before anything is written or trained.

    Args:
        tree: The nested state.
        root: What the state is called in the message.

    Raises:
        TypeError: An entry cannot be kept; the message gives its path.
        ValueError: Nested deeper than 64 levels (or in a circle), or an integer of more than 4096 bits.

    Example:
        >>> check_packable({"step": 3, "weights": [torch.zeros(2), None]})
        >>> check_packable({"state": {0: {"closure": len}}}, "optimizer")
        Traceback (most recent call last):
        ...
        TypeError: optimizer.state.0.closure is a builtin_function_or_method. A checkpoint holds ...
    """
    _Packer(root).pack(tree)


def pack(tree: Any, root: str = "") -> tuple[dict[str, Tensor], Any]:
    """Split a nested state into named tensors and a skeleton of JSON values.

    A tensor that occurs twice is named once. Long lists of numbers become tensors too. Nothing is copied: write the
    result before the state changes.

    Args:
        tree: Dicts (with keys of any such type), lists, tuples, tensors, arrays, numbers, strings, None.
        root: What the state is called in messages.

    Returns:
        The tensors by name, and the skeleton.

    Raises:
        TypeError: As in `check_packable`.
        ValueError: As in `check_packable`.

    Example:
        >>> tensors, skeleton = pack({"w": torch.zeros(2), "beta": float("inf")})
        >>> list(tensors), skeleton
        (['w'], {'w': {'$': 'tensor', 'name': 'w'}, 'beta': {'$': 'float', 'value': 'inf'}})
    """
    packer = _Packer(root)
    skeleton = packer.pack(tree)
    return packer.tensors, skeleton


def unpack(tensors: dict[str, Tensor], skeleton: Any) -> Any:
    """Put a state of `pack` together again.

    Args:
        tensors: The tensors by name; one that is used twice comes back as one object.
        skeleton: The skeleton.

    Returns:
        The nested state.

    Raises:
        DamagedError: The skeleton and the tensors do not belong together, or the skeleton follows no known form.

    Example:
        >>> unpack(*pack({"state": {0: (1, float("inf"))}}))
        {'state': {0: (1, inf)}}
    """
    unpacker = _Unpacker(tensors)
    tree = unpacker.unpack(skeleton)
    if spare := sorted(set(tensors) - unpacker.used):
        raise DamagedError(f"tensor {spare[0][:200]!r} belongs to no place in the state")
    return tree


class _Packer:
    """Walks a state once; `path` is where it stands."""

    def __init__(self, root: str) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.names: dict[tuple[Any, ...], str] = {}
        self.path: list[str] = [root] if root else []

    def pack(self, value: Any) -> Any:
        encode = _ENCODERS.get(type(value))
        if encode is None and isinstance(value, np.generic) and not isinstance(value.item(), np.generic):
            return self.pack(value.item())
        if encode is None:
            raise TypeError(f"{self.where()} is {_a(type(value).__name__)}. {_HOLDS}")
        if len(self.path) > _DEPTH_LIMIT:
            raise ValueError(f"{self.where()[:200]}... is nested deeper than {_DEPTH_LIMIT} levels, or in a circle")
        return encode(self, value)

    def where(self) -> str:
        return ".".join(self.path) or "the state"

    def child(self, key: Any, value: Any) -> Any:
        self.path.append(str(key))
        packed = self.pack(value)
        self.path.pop()
        return packed

    def integer(self, value: int) -> int:
        if value.bit_length() > _BITS_LIMIT:
            raise ValueError(f"{self.where()} is an integer of more than {_BITS_LIMIT} bits")
        return value

    def real(self, value: float) -> Any:
        return float(value) if math.isfinite(value) else {"$": "float", "value": repr(float(value))}

    def sequence(self, value: list[Any]) -> Any:
        if len(value) >= _RUN and (kind := _run_kind(value)) is not None:
            dtype = torch.float64 if kind == "floats" else torch.int64
            return {"$": kind, "name": self.keep(torch.tensor(value, dtype=dtype))}
        return [self.child(index, item) for index, item in enumerate(value)]

    def frozen(self, value: tuple[Any, ...]) -> Any:
        return {"$": "tuple", "items": self.sequence(list(value))}

    def mapping(self, value: dict[Any, Any]) -> Any:
        if type(value) is dict and all(type(key) is str for key in value) and "$" not in value:
            return {key: self.child(key, item) for key, item in value.items()}
        items = [[self.key(key), self.child(key, item)] for key, item in value.items()]
        return {"$": type(value).__name__, "items": items}

    def key(self, value: Any) -> Any:
        if type(value) not in _KEYS:
            raise TypeError(f"{self.where()} has {_a(type(value).__name__)} as a key; expected strings or numbers")
        return self.pack(value)

    def tensor(self, value: Tensor) -> Any:
        if not is_storable(value):
            kind = f"{str(value.layout).removeprefix('torch.')} tensor of {value.dtype} on {value.device}"
            raise TypeError(f"{self.where()} is a {kind}. A checkpoint holds dense tensors of the usual types only")
        order = _memory_order(value)
        name = self.keep(value, order)
        axes = {} if order == sorted(order) else {"axes": order}
        return {"$": "tensor", "name": name, **axes}

    def array(self, value: np.ndarray) -> Any:
        if value.dtype.kind not in _KINDS_OF_ARRAY or not _fits_torch(value):
            raise TypeError(f"{self.where()} is an array of {value.dtype}. {_HOLDS}")
        native = np.array(value, dtype=value.dtype.newbyteorder("="))
        return {"$": "array", "name": self.keep(torch.from_numpy(native))}

    def keep(self, value: Tensor, order: list[int] | None = None) -> str:
        """Name a tensor after its path, once for all tensors of the same memory."""
        identity = _identity(value)
        if identity in self.names:
            return self.names[identity]
        stem = "/".join(self.path).encode("ascii", "backslashreplace").decode() or "state"
        name, count = stem, 1
        while name in self.tensors or name == "__metadata__":
            count += 1
            name = f"{stem}#{count}"
        self.tensors[name] = value.detach() if order is None else value.detach().permute(order)
        self.names[identity] = name
        return name


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def _run_kind(values: list[Any]) -> str | None:
    kinds = set(map(type, values))
    if kinds == {float}:
        return "floats"
    if kinds == {int} and min(values) >= -(2**63) and max(values) < 2**63:
        return "ints"
    return None


def _identity(value: Tensor) -> tuple[Any, ...]:
    """Equal for tensors that show the same memory in the same way."""
    flags = (value.dtype, value.is_conj(), value.is_neg())
    return (value.data_ptr(), value.device, value.shape, value.stride(), *flags)


def _memory_order(value: Tensor) -> list[int]:
    """The axes in the order of memory, where this makes the tensor contiguous (channels last); else as they are.

    Fused optimisers walk memory: a moment that comes back in another layout than its weight would be misread.
    """
    axes = list(range(value.ndim))
    order = sorted(axes, key=value.stride, reverse=True)
    return order if not value.is_contiguous() and value.permute(order).is_contiguous() else axes


def _fits_torch(value: np.ndarray) -> bool:
    try:
        return is_storable(torch.from_numpy(np.empty(0, value.dtype.newbyteorder("="))))
    except TypeError:
        return False


_ENCODERS: dict[type, Callable[[_Packer, Any], Any]] = {
    type(None): lambda packer, value: value,
    bool: lambda packer, value: value,
    str: lambda packer, value: value,
    int: _Packer.integer,
    float: _Packer.real,
    np.float64: _Packer.real,
    list: _Packer.sequence,
    tuple: _Packer.frozen,
    torch.Size: _Packer.frozen,
    dict: _Packer.mapping,
    OrderedDict: _Packer.mapping,
    Counter: _Packer.mapping,
    Tensor: _Packer.tensor,
    torch.nn.Parameter: _Packer.tensor,
    np.ndarray: _Packer.array,
}


class _Unpacker:
    """Rebuilds a state; every form it meets is checked, since the skeleton comes from a file."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.used: set[str] = set()
        self.built: dict[str, Tensor] = {}

    def unpack(self, node: Any, depth: int = 0) -> Any:
        if depth > 2 * _DEPTH_LIMIT + 2:  # a tuple takes two levels of JSON
            raise DamagedError("the state is nested too deep")
        if isinstance(node, list):
            return [self.unpack(item, depth + 1) for item in node]
        if not isinstance(node, dict):
            return node
        if "$" not in node:
            return {key: self.unpack(item, depth + 1) for key, item in node.items()}
        tag = node["$"]
        decode = _DECODERS.get(tag) if isinstance(tag, str) else None
        if decode is None:
            raise DamagedError(f"the state has an entry of the unknown form {str(tag)[:100]!r}")
        return decode(self, node, depth)

    def field(self, node: dict[str, Any], name: str, kind: type) -> Any:
        value = node.get(name)
        if not isinstance(value, kind):
            raise DamagedError(f"an entry of the form {node['$']!r} has no valid {name!r}")
        return value

    def real(self, node: dict[str, Any], depth: int) -> float:
        text = self.field(node, "value", str)
        if text not in ("inf", "-inf", "nan"):
            raise DamagedError(f"a number is given as {text[:100]!r}")
        return float(text)

    def numbers(self, node: dict[str, Any], depth: int) -> list[Any]:
        tensor = self.raw(node)
        if tensor.dtype != (torch.float64 if node["$"] == "floats" else torch.int64) or tensor.ndim != 1:
            raise DamagedError(f"the tensor {node['name'][:200]!r} is no list of {node['$']}")
        return tensor.tolist()

    def frozen(self, node: dict[str, Any], depth: int) -> tuple[Any, ...]:
        items = self.unpack(node.get("items"), depth + 1)
        if not isinstance(items, list):
            raise DamagedError("a tuple has no valid items")
        return tuple(items)

    def mapping(self, node: dict[str, Any], depth: int) -> dict[Any, Any]:
        result = _MAPPINGS[node["$"]]()
        items = self.field(node, "items", list)
        for item in items:
            if not isinstance(item, list) or len(item) != 2:
                raise DamagedError("a dict has an item that is no pair")
            try:
                result[self.unpack(item[0], depth + 1)] = self.unpack(item[1], depth + 1)
            except TypeError:
                raise DamagedError("a dict has a key that cannot be one") from None
        if len(result) != len(items):
            raise DamagedError("a dict has the same key twice")
        return result

    def raw(self, node: dict[str, Any]) -> Tensor:
        name = self.field(node, "name", str)
        if name not in self.tensors:
            raise DamagedError(f"the state names the tensor {name[:200]!r}, which the file lacks")
        self.used.add(name)
        return self.tensors[name]

    def tensor(self, node: dict[str, Any], depth: int) -> Tensor:
        value = self.raw(node)
        if "axes" not in node:
            return value
        axes = self.field(node, "axes", list)
        if any(type(axis) is not int for axis in axes) or sorted(axes) != list(range(value.ndim)):
            raise DamagedError(f"the tensor {node['name'][:200]!r} has no valid axes")
        inverse = sorted(range(value.ndim), key=axes.__getitem__)
        return self.built.setdefault(node["name"], value.permute(inverse))

    def array(self, node: dict[str, Any], depth: int) -> np.ndarray:
        try:
            return self.raw(node).numpy()
        except TypeError:  # bfloat16
            raise DamagedError(f"the tensor {node['name'][:200]!r} is no array") from None


_MAPPINGS: dict[str, type[dict[Any, Any]]] = {"dict": dict, "OrderedDict": OrderedDict, "Counter": Counter}
_DECODERS: dict[str, Callable[[_Unpacker, dict[str, Any], int], Any]] = {
    "float": _Unpacker.real,
    "floats": _Unpacker.numbers,
    "ints": _Unpacker.numbers,
    "tuple": _Unpacker.frozen,
    **dict.fromkeys(_MAPPINGS, _Unpacker.mapping),
    "tensor": _Unpacker.tensor,
    "array": _Unpacker.array,
}
