"""A bound on the memory that a spec from a file may take."""

from __future__ import annotations

import math
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Budget(TorchDispatchMode):
    """Refuses to make tensors of more than so many bytes in all.

    Weights as large as the file can fill are allowed; a spec that asks for terabytes is refused before they are taken.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.left = limit

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for argument in args[:3]:
            if isinstance(argument, list | tuple | torch.Size) and all(type(axis) is int for axis in argument):
                self._take(math.prod(argument), keep=True)
        known = {_address(value) for value in args if isinstance(value, Tensor)}
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and _address(result) not in known:
            self._take(result.untyped_storage().nbytes())
        return result

    def _take(self, size: int, keep: bool = False) -> None:
        if size > self.left:
            self._refuse()
        self.left -= 0 if keep else size

    def _refuse(self) -> NoReturn:
        raise MemoryError("it asks for far more numbers than the weights beside it hold")


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
