"""A function from tensors to named tensors by a graph, which is replayed or compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from pyrovae.compiling.graph import trace
from pyrovae.compiling.library import Library


class Function:
    """A function from tensors to a dict of tensors of one shape, as a graph.

    Args:
        function: the function.
        inputs: the tensors that it is traced with.
        compiled: build a library of the graph, beside what follows.

    Raises:
        UntraceableError: the function is no graph.
    """

    def __init__(self, function: Callable[..., dict[str, Tensor]], inputs: Sequence[Tensor], compiled: bool) -> None:
        def stacked(*given: Tensor) -> Tensor:
            with torch.no_grad():
                terms = function(*given)
            self.names[:] = terms
            return torch.stack([*terms.values()])

        self.names: list[str] = []
        self.graph = trace(stacked, inputs, [tensor.flip(0) for tensor in inputs], [])
        everything = [*self.graph.captured, *inputs]
        self.call: Callable[[list[Tensor]], list[Tensor]] | None = None
        self.library: Library | None = None
        if compiled and not self.graph.written and all(tensor.is_cpu for tensor in everything):
            self.library = Library(self.graph.module.code, everything, torch.get_num_threads())
            with suppress(RuntimeError, OSError):  # without a compiler, graphs are replayed
                self.call = self.library.function()

    def is_built(self, wait: bool = False) -> bool:
        """Whether the library is there; without a compiler it never is.

        Args:
            wait: wait until it is built.
        """
        if self.library is not None and self.call is None:
            try:
                self.call = self.library.function(wait=wait)
            except (RuntimeError, OSError):
                self.library = None
        return self.call is not None

    @torch.no_grad()
    def __call__(self, inputs: Sequence[Tensor], wait: bool = False) -> dict[str, Tensor]:
        """The values at some inputs.

        Args:
            inputs: tensors of the shapes of those that it was traced with.
            wait: wait for a library that is still being built, instead of replaying the graph.
        """
        self.is_built(wait)
        if self.call is None:
            (values,) = self.graph.module.forward(*self.graph.captured, *inputs)
        else:
            (values,) = self.call([tensor.detach() for tensor in (*self.graph.captured, *inputs)])
        return dict(zip(self.names, values, strict=True))

    def close(self) -> None:
        """Stop a compiler that is under way."""
        if self.library is not None:
            self.library.close()
