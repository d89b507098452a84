"""What a program holds beside its modules: plain numbers, which a graph would hold as they were, and tensors in closures."""

from __future__ import annotations

import functools
import hashlib
import itertools
import operator
import random
import sys
import types
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)
MOST_ITEMS, MOST_BYTES, DEEPEST, MOST_VALUES = 200, 2**20, 30, 100_000
"""Of a container, of an array, of the way from the program, and in all, up to which values are looked at."""
LIBRARIES = tuple(str(Path(root)) for root in (Path(torch.__file__).parent, Path(__file__).parents[1], sys.prefix))
"""Files of torch, of this package and of what is installed: no code of the user's."""
KINDS = (*PLAIN, list, dict, deque, Iterator)
"""Of what stands in a class, those that are looked at."""
SKIPPED = (Tensor, Generator, type, types.ModuleType, types.BuiltinFunctionType, types.CodeType)


class Hash(str):
    """Of the numbers of a tensor or an array."""

    __slots__ = ()


class Held:
    """A tensor that an object or a name holds: another one is another value, and so is one of other memory (``.data =``)."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.memory = tensor, tensor.data_ptr() if tensor.layout is torch.strided else 0

    def __repr__(self) -> str:
        return f"tensor {id(self.tensor)} at {self.memory}"


def constants(root: Any) -> dict[str, Any]:
    """What a program's numbers depend on beside the tensors of its modules, by the way to each.

    Tensors and arrays wherever the user's code holds them, and plain values that stand by themselves in closures, defaults and
    globals: those in lists and in attributes may be counts and records of what was done before.

    >>> scale, names = torch.ones(2), []
    >>> sorted(constants(lambda x: x * scale))
    ["<lambda>'s defaults[0]", "<lambda>'s defaults[1]", 'scale']
    """
    found = plain_state((root,), LIBRARIES, tensors=True)
    return {
        path: value
        for path, value in found.items()
        if isinstance(value, Hash)
        or "'s defaults[" in path
        or (path.partition(" ")[0].isidentifier() and path[:2] != "__")
    }


def plain_state(root: Any, libraries: tuple[str, ...], tensors: bool = False) -> dict[str, Any]:
    """The plain values that an object reaches, by the way to each: attributes, items, and what functions close over or name.

    The states of the global generators of Python and NumPy are among them. What is near comes first, and all beyond
    ``MOST_VALUES`` is left out.

    Args:
        root: a function or an object.
        libraries: folders whose functions name nothing of the user's.
        tensors: hashes of tensors, too, and of arrays of any size, but no generators, and of what libraries hold the modules.

    >>> count = {"calls": 0}
    >>> plain_state(lambda: count["calls"], ())["count['calls']"]
    0
    """
    found: dict[str, Any] = {
        "a generator of Python (random)": hash(random.getstate()),
        "a generator of NumPy (numpy.random)": _digest(repr(np.random.get_state()).encode()),  # noqa: NPY002
    }
    found = {} if tensors else found
    todo, times = deque([("", root, 0)]), Counter[str]()
    seen: dict[int, Any] = {}  # the objects too: an id is free again as soon as its object is gone
    while todo and len(found) < MOST_VALUES:
        path, value, depth = todo.popleft()
        if path in found:  # numbered among its like, so that what comes or goes elsewhere moves no other
            times[path] += 1
            path = f"{path} {times[path]}"
        if isinstance(value, (*PLAIN, Held)):
            found[path] = value
        elif tensors and isinstance(value, Tensor):
            found[path] = digest_of(value)
        elif id(value) not in seen and depth < DEEPEST and not isinstance(value, SKIPPED):
            seen[id(value)] = value
            if isinstance(value, random.Random):
                found[path] = hash(value.getstate())
            elif isinstance(value, np.random.Generator):
                found[path] = repr(value.bit_generator.state)
            elif isinstance(value, np.random.RandomState):
                found[path] = repr(value.get_state())
            elif isinstance(value, np.ndarray):
                small = tensors or value.nbytes <= MOST_BYTES
                found[path] = _digest(value.tobytes()) if small and value.dtype != object else None
            elif len(todo) < MOST_VALUES:
                with suppress(Exception):  # objects of others may refuse to be looked at by an error of any kind
                    todo += [(part, inner, depth + 1) for part, inner in _parts(path, value, libraries, tensors)]
    return found


def digest_of(tensor: Tensor) -> Hash:
    """A hash of a tensor's shape, type and numbers."""
    held = tensor.detach().cpu().to_dense().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return _digest(f"{tuple(tensor.shape)} {tensor.dtype}".encode() + held)


@contextmanager
def noise_put_back() -> Iterator[None]:
    """Leave the global generators of Python and NumPy as they were."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """The way to a value that is another one; None where all are the same."""
    different = (path for path in after if path in before and repr(before[path]) != repr(after[path]))
    return next(different, None)


def _parts(path: str, value: Any, libraries: tuple[str, ...], tensors: bool) -> Iterator[tuple[str, Any]]:
    """What an object holds, each with the way to it."""
    if isinstance(value, Mapping):
        for key, item in itertools.islice(value.items(), MOST_ITEMS):
            yield f"{path}[{key!r:.40}]", item if tensors else _held(item)
    elif isinstance(value, list | tuple | set | frozenset | deque):
        yield f"len({path})", len(value)
        ordered = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
        for number, item in enumerate(itertools.islice(ordered, MOST_ITEMS)):
            yield f"{path}[{number}]", item
    elif isinstance(value, types.FunctionType):
        yield from _of_function(value, libraries, tensors)
    elif isinstance(value, types.MethodType):
        yield path, value.__self__
        yield path, value.__func__
    elif isinstance(value, functools.partial):
        yield from ((path, part) for part in (value.func, value.args, value.keywords))
    elif isinstance(value, itertools.count):
        yield path, repr(value)
    elif isinstance(value, Iterator):
        yield f"what is left of {path}", operator.length_hint(value)
    is_own, classes, slots = _of_class(type(value), libraries)  # type: ignore[arg-type]
    held = getattr(value, "__dict__", {})
    if is_own:
        of_classes = {name: item for cls in classes for name, item in vars(cls).items() if isinstance(item, KINDS)}
        in_slots = {name: getattr(value, name) for name in slots if hasattr(value, name)}
        held = {name: item if tensors else _held(item) for name, item in {**of_classes, **in_slots, **held}.items()}
    elif tensors:
        held = {"_modules": held.get("_modules")}
    for name, item in held.items():
        yield f"{path}.{name}" if path else name, item


@functools.lru_cache(1000)
def _of_class(cls: type, libraries: tuple[str, ...]) -> tuple[bool, tuple[type, ...], tuple[str, ...]]:
    """Whether no library defines a class; the user's classes that it descends from, the first ones first, and their slots."""
    files = {of: getattr(sys.modules.get(str(of.__module__)), "__file__", None) or "" for of in cls.__mro__}
    own = [of for of, file in files.items() if of.__module__ != "builtins" and not file.startswith(libraries)]
    slots = [name for of in own if "__slots__" in vars(of) for name in vars(of) if _is_slot(vars(of)[name])]
    return not files[cls].startswith(libraries), tuple(reversed(own)), tuple(slots)


def _is_slot(member: Any) -> bool:
    return isinstance(member, types.MemberDescriptorType)


def _held(item: Any) -> Any:
    return Held(item) if isinstance(item, Tensor) else item


def _of_function(function: types.FunctionType, libraries: tuple[str, ...], tensors: bool) -> Iterator[tuple[str, Any]]:
    """Defaults, values in cells, and the globals that the user's code names."""
    yield f"{function.__name__}'s defaults", (function.__defaults__, function.__kwdefaults__)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents if tensors else _held(cell.cell_contents)
        except ValueError:  # empty as yet
            continue
    if not function.__code__.co_filename.startswith(libraries):
        for name in _names(function.__code__):
            if name in function.__globals__:
                item = function.__globals__[name]
                yield name, item if tensors else _held(item)


def _names(code: types.CodeType) -> Iterator[str]:
    """The names that code and the functions written in it look up."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _digest(data: bytes) -> Hash:
    return Hash(hashlib.blake2b(data, digest_size=8).hexdigest())
