"""Functions from tensors to named tensors by graphs, which are replayed or compiled, and compared with the functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pyrovae.compiling.graph import UntraceableError, tensors_of, trace
from pyrovae.compiling.library import Library

TOLERANCE = 1e-4
"""The share of a number, and ten times that of the largest one, by which a graph may differ from the function: rounding."""


class Function:
    """A function from tensors to a dict of tensors of one type, as a graph.

    Args:
        function: the function.
        inputs: the tensors that it is traced with.
        compiled: build a library of the graph, beside what follows.

    Raises:
        UntraceableError: the function is no graph.
    """

    def __init__(self, function: Callable[..., dict[str, Tensor]], inputs: Sequence[Tensor], compiled: bool) -> None:
        self.shapes: dict[str, torch.Size] = {}
        self.calls = 0

        def joined(*given: Tensor) -> Tensor:
            with torch.no_grad():
                terms = function(*given)
            self.shapes.update((name, term.shape) for name, term in terms.items())
            return torch.cat([term.reshape(-1) for term in terms.values()])

        self.graph = trace(joined, inputs, [tensor.flip(0) for tensor in inputs], [])
        self.call: Callable[[list[Tensor]], list[Tensor]] | None = None
        self.library: Library | None = None
        if compiled:
            self.compile(inputs)

    def compile(self, inputs: Sequence[Tensor]) -> None:
        """Begin to build a library of the graph; without a compiler, and on a GPU, graphs are replayed.

        Args:
            inputs: as in a call.
        """
        everything = [*self.graph.captured, *inputs]
        if not self.graph.written and all(tensor.is_cpu for tensor in everything):
            self.library = Library(self.graph.module.code, everything, torch.get_num_threads())
            with suppress(RuntimeError, OSError):
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
            (values,) = self.graph(inputs)
        else:
            (values,) = self.call([tensor.detach() for tensor in (*self.graph.captured, *inputs)])
        parts = values.split([shape.numel() for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def compared(
        self,
        inputs: Sequence[Tensor],
        function: Callable[[], Mapping[str, Tensor]],
        wait: bool = False,
        always: bool = False,
    ) -> dict[str, Tensor] | None:
        """The values at some inputs; None where they differ from the function's by more than rounding.

        The two are compared under the same noise, in the calls 1, 2, 4, 8, ...

        Args:
            inputs: tensors of the shapes of those that it was traced with.
            function: the function at these inputs.
            wait: as in a call.
            always: compare in every call.
        """
        self.calls += 1
        expected: Mapping[str, Tensor] = {}
        if always or self.calls & (self.calls - 1) == 0:
            with torch.random.fork_rng({tensor.device for tensor in inputs if not tensor.is_cpu}):
                expected = function()
        found = self(inputs, wait)
        largest = max((float(values.abs().nan_to_num(0, 0, 0).max()) for values in expected.values()), default=0.0)
        slack = TOLERANCE / 10 * largest
        close = (
            name in found and torch.allclose(found[name], values, TOLERANCE, slack, equal_nan=True)
            for name, values in expected.items()
        )
        return found if all(close) else None

    def close(self) -> None:
        """Stop a compiler that is under way."""
        if self.library is not None:
            self.library.close()


class Graphs:
    """Graphs of functions from trees of tensors to named tensors of one type, each compared with its function.

    There is one graph for each function and shapes of its tensors. In its calls 1, 2, 4, ... its values are compared with the
    function's under the same noise. Where they differ beyond rounding, and where a function is no graph, all functions run
    by themselves from then on.
    """

    def __init__(self) -> None:
        self.functions: dict[Any, Function] = {}
        self.is_open = True

    def key(self, name: Any, tree: Any) -> Any:
        """What a graph belongs to: a name, the shapes and types of the tensors, and the tree's other leaves."""
        leaves = tree_leaves(tree)
        return name, *((x.shape, x.dtype) if isinstance(x, Tensor) else repr(x) for x in leaves)

    def of(
        self, name: Any, function: Callable[..., Mapping[str, Tensor]], tree: tuple, compiled: bool = False
    ) -> Function | None:
        """The graph of a function for tensors of these shapes, traced where there is none yet; None where it is no graph.

        Args:
            name: of the function, and of all beside its arguments on which it depends.
            function: called as ``function(*tree)``.
            tree: its arguments.
            compiled: build a library of a new graph.
        """
        key = self.key(name, tree)
        if self.is_open and key not in self.functions:
            inputs, tree_of = tensors_of(tree)
            try:
                self.functions[key] = Function(lambda *given: dict(function(*tree_of(*given))), inputs, compiled)
            except (UntraceableError, RuntimeError, ValueError):
                self.is_open = False
        return self.functions.get(key) if self.is_open else None

    def __call__(
        self,
        name: Any,
        function: Callable[..., Mapping[str, Tensor]],
        tree: tuple,
        *,
        compiled: bool = False,
        wait: bool = False,
        always: bool = False,
    ) -> Mapping[str, Tensor]:
        """The values of a function, by its graph where it has one.

        Args:
            name: as in :meth:`of`, as are the others.
            function: the function.
            tree: its arguments.
            compiled: build a library of a new graph.
            wait: wait for a library that is being built.
            always: compare every call with the function.
        """
        graph, state = self.of(name, function, tree, compiled), torch.get_rng_state()
        if graph is None:
            return function(*tree)
        with suppress(RuntimeError, ValueError):
            found = graph.compared(tensors_of(tree)[0], lambda: function(*tree), wait, always)
            if found is not None:
                return found
        self.is_open = False
        torch.set_rng_state(state)
        return function(*tree)

    def close(self) -> None:
        """Stop compilers that are under way."""
        for function in self.functions.values():
            function.close()
