"""A bound on the memory that a spec from a file may take."""

from __future__ import annotations

import math
from typing import Any

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
        sizes = [axes for axes in args[:3] if isinstance(axes, list | tuple | torch.Size)]
        asked = max((math.prod(axes) for axes in sizes if all(type(axis) is int for axis in axes)), default=0)
        if asked > self.left:
            raise MemoryError("it asks for far more numbers than the weights beside it hold")
        result = func(*args, **(kwargs or {}))
        known = {value.untyped_storage().data_ptr() for value in args if isinstance(value, Tensor)}
        if isinstance(result, Tensor) and result.untyped_storage().data_ptr() not in known:
            self.left -= result.untyped_storage().nbytes()
        return result
