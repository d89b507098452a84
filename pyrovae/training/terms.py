"""The ELBO's terms of a batch by a graph, which is replayed or compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from pyrovae.compiling import Library, trace


class Terms:
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

    @torch.no_grad()
    def __call__(self, inputs: Sequence[Tensor], wait: bool = True) -> dict[str, Tensor]:
        """The terms of some inputs; where the library is still being built, by replaying the graph unless it is waited for."""
        if self.library is not None and self.call is None:
            try:
                self.call = self.library.function(wait)
            except (RuntimeError, OSError):
                self.library = None
        if self.call is None:
            (values,) = self.graph.module.forward(*self.graph.captured, *inputs)
        else:
            (values,) = self.call([tensor.detach() for tensor in (*self.graph.captured, *inputs)])
        return dict(zip(self.names, values, strict=True))

    def close(self) -> None:
        """Stop a compiler that is under way."""
        if self.library is not None:
            self.library.close()
