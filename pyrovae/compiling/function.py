"""A function from tensors to named tensors by a graph, which is replayed or compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from pyrovae.compiling.graph import trace
from pyrovae.compiling.library import Library

TOLERANCE = 1e-4
"""The share of a number, and ten times that of the largest one, by which a graph may differ from the function: rounding."""


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
        self.calls = 0
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

    def compared(
        self,
        inputs: Sequence[Tensor],
        function: Callable[[], dict[str, Tensor]],
        wait: bool = False,
        always: bool = False,
    ) -> dict[str, Tensor] | None:
        """The values at some inputs; None where they differ from the function's by more than rounding.

        Random state is then as it was. The two are compared in the calls 1, 2, 4, 8, ...

        Args:
            inputs: tensors of the shapes of those that it was traced with.
            function: the function at these inputs.
            wait: as in a call.
            always: compare in every call.
        """
        self.calls += 1
        state, devices = torch.get_rng_state(), {tensor.device for tensor in inputs if not tensor.is_cpu}
        expected: dict[str, Tensor] = {}
        if always or self.calls & (self.calls - 1) == 0:
            with torch.random.fork_rng(devices):
                expected = function()
        found = self(inputs, wait)
        largest = max((float(values.abs().nan_to_num(0, 0, 0).max()) for values in expected.values()), default=0.0)
        for name, values in expected.items():
            slack = TOLERANCE / 10 * largest
            if name not in found or not torch.allclose(found[name], values, TOLERANCE, slack, equal_nan=True):
                torch.set_rng_state(state)
                return None
        return found

    def close(self) -> None:
        """Stop a compiler that is under way."""
        if self.library is not None:
            self.library.close()
