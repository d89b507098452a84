"""Buffers that a forward pass changes, such as the moments of batch norm, and how they are put back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


class Buffers:
    """Copies of the modules' buffers, to put back after a forward pass that was not finite (moments of batch norm).

    A buffer that a module replaces (``self.mean = new``) is copied into the tensor that was there before, so that the
    tensors of the state stay those of the modules.

    Args:
        modules: the modules.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.kept: dict[int, list[Any]] = {}
        for part in (part for module in modules for part in module.modules()):
            for name, buffer in part._buffers.items():
                if buffer is not None:  # torch's normalization updates its moments without counting it as a change
                    self.kept[id(buffer)] = [
                        part,
                        name,
                        buffer,
                        buffer.detach().clone(),
                        -1,
                        isinstance(part, _NormBase),
                    ]

    def keep(self) -> None:
        """Copy the buffers that have changed since they were last copied."""
        for entry in self._changed():
            entry[3].copy_(entry[2])
            entry[4] = entry[2]._version

    @torch.no_grad()
    def restore(self, stop: Tensor) -> None:
        """Put the copies back where the 0-dim tensor ``stop`` is true."""
        if stop.is_cpu and not stop:
            self.settle()
            return
        for _, _, buffer, copy, *_ in self._changed():
            buffer.copy_(torch.where(stop, copy, buffer))

    def are_written(self) -> bool:
        """Whether a buffer was written to since they were kept, but for the moments of torch's normalization."""
        self.settle()
        return any(buffer._version != version for _, _, buffer, _, version, _ in self.kept.values())

    def _changed(self) -> list[list[Any]]:
        self.settle()
        return [entry for entry in self.kept.values() if entry[5] or entry[2]._version != entry[4]]

    def settle(self) -> None:
        """Copy buffers that modules have replaced into the tensors that were there before."""
        for part, name, buffer, *_ in self.kept.values():
            new = part._buffers[name]
            if new is not buffer and isinstance(new, Tensor):
                if new.shape != buffer.shape:
                    raise ValueError(
                        f"{type(part).__name__} replaced its buffer {name!r} of shape {tuple(buffer.shape)} by one of shape "
                        f"{tuple(new.shape)}: a buffer that is saved and restored must keep its shape"
                    )
                buffer.detach().copy_(new.detach())
                part._buffers[name] = buffer
