"""A loss and its gradients as one graph of torch's operations, whose inputs are all that may change."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, fx
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from pyrovae.compiling.algebra import Algebra, numbers_as_tensors
from pyrovae.compiling.passes import call_directly, fold_constants, own_outputs, simplify, written_nodes
from pyrovae.compiling.rules import RewoundError, no_host_reads, no_rewinding
from pyrovae.programs.outside import LIBRARIES, changed, noise_put_back, plain_state


class UntraceableError(Exception):
    """A program does not run as a graph; the text says at which line, and why."""


@dataclass
class Graph:
    """A traced function.

    Args:
        module: ``module(*captured, *inputs)`` returns the loss and the gradients of ``parameters``.
        captured: the tensors that the function reads beside its inputs, the parameters with a gradient first. They are the live
            tensors, so that their values are those of the moment.
        parameters: the parameters with a gradient.
        written: those of the captured tensors that the graph writes to (moments of batch norm), by their place.
    """

    module: fx.GraphModule
    captured: list[Tensor]
    parameters: list[Tensor]
    written: list[int] = field(default_factory=list)

    def finish(self) -> None:
        """Simplify the graph, and make a second one that is replayed, in which constants are computed already."""
        simplify(self.module)
        written = written_nodes(self.module.graph)
        places = enumerate(self.module.graph.find_nodes(op="placeholder"))
        self.written = [place for place, node in places if node in written and place < len(self.captured)]
        own_outputs(self.module)
        replayed = fx.GraphModule(self.module, copy.deepcopy(self.module.graph))  # the tensors are not copied
        constants = []
        if all(tensor.is_cpu for tensor in self.captured):
            Algebra(replayed).run()
            numbers_as_tensors(replayed)
            constants = fold_constants(replayed)
        own_outputs(replayed)
        for module in (self.module, replayed):
            call_directly(module)
        self.forward, self.held = replayed.forward, [*constants, *self.captured]

    @torch.no_grad()
    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Loss and gradients at some inputs, operation by operation."""
        return self.forward(*self.held, *inputs)  # type: ignore[no-any-return]


def trace(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    others: Sequence[Tensor],
    parameters: Sequence[Tensor],
    settle: Callable[[], object] = lambda: None,
) -> Graph:
    """Trace a loss and its gradients, twice, with other inputs and other noise, and compare the two graphs.

    Random state and gradients are left as they were; buffers that the function changes are not.

    Args:
        function: from the inputs to the loss, a 0-dim tensor.
        inputs: tensors.
        others: other values of the inputs, of the same shapes. What the function makes of values outside of torch (by numpy, by
            Python) differs between the two, and so do the graphs.
        parameters: the tensors to differentiate by; without any, the function may return any tensor.
        settle: called after the loss, inside the trace: copies buffers that modules have replaced into those that were there.

    Raises:
        UntraceableError: the function reads numbers from tensors, or its two graphs differ.
    """
    if any(parameter._post_accumulate_grad_hooks for parameter in parameters):  # type: ignore[attr-defined]
        raise UntraceableError("a hook of a parameter is called when its gradient is there, which a graph would not do")
    with noise_put_back():
        graph = _traced(function, inputs, parameters, settle)
        before = plain_state(function, LIBRARIES)
        again = _traced(function, others, parameters, settle)
        where = changed(before, plain_state(function, LIBRARIES))
    if not _equal(graph, again):
        where = _first_difference(*(_traced(function, given, parameters, settle, True) for given in (inputs, others)))
        raise UntraceableError(f"two runs of the program differ{where}: it depends on something outside of torch")
    if where:
        raise UntraceableError(f"the program changes {where} in each run, which a graph would not see")
    graph.finish()
    return graph


def tensors_of(tree: Any) -> tuple[list[Tensor], Callable[..., Any]]:
    """The tensors of a tree, and the tree as a function of such tensors.

    >>> tensors, tree_of = tensors_of({"a": torch.zeros(2), "b": None})
    >>> tree_of(torch.ones(2))
    {'a': tensor([1., 1.]), 'b': None}
    """
    leaves, spec = tree_flatten(tree)
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def tree_of(*tensors: Tensor) -> Any:
        found = dict(zip(places, tensors, strict=True))
        return tree_unflatten([found.get(place, leaf) for place, leaf in enumerate(leaves)], spec)

    return [leaves[place] for place in places], tree_of


def _traced(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    parameters: Sequence[Tensor],
    settle: Callable[[], object],
    lines: bool = False,
) -> Graph:
    trained: list[Tensor] = []

    def loss_and_gradients(*inputs: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            loss = function(*inputs)
            found = torch.autograd.grad(loss, parameters, allow_unused=True) if loss.requires_grad else ()
        settle()
        pairs = [(p, g) for p, g in zip(parameters, found, strict=False) if g is not None]
        trained[:] = [parameter for parameter, _ in pairs]
        return [loss.detach(), *(_in_layout_of(parameter.detach(), gradient) for parameter, gradient in pairs)]

    devices = {t.device.index or 0 for t in (*inputs, *parameters) if t.device.type == "cuda"}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(sorted(devices)))
        stack.enter_context(no_host_reads())
        stack.enter_context(no_gradients(parameters))
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(patch.object(proxy_tensor, "extract_val", layout_of, create=True))
        try:
            with no_rewinding(), noted_lines() if lines else nullcontext():
                module = make_fx(loss_and_gradients)(*inputs)
        except RewoundError as error:
            raise UntraceableError(str(error)) from error
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UntraceableError(
                f"the program reads a number from a tensor{_line_of(error)} ({reason:.120})"
            ) from error
    module.graph.eliminate_dead_code()
    held = [getattr(module, node.target) for node in module.graph.find_nodes(op="get_attr")]
    if any(isinstance(value, torch.Generator) for value in held):
        raise UntraceableError("noise is drawn from a generator of the program's own, not from torch's global one")
    return Graph(module, _lift(module, trained), trained)


def layout_of(value: Any, include_real: bool = False) -> Tensor | None:
    """A tensor's shape, strides and type: all that is read of a node's value, in a tenth of torch's own time for it."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        return None
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def _in_layout_of(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with the parameter's strides, as torch's accumulation of gradients lays it out."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _lift(module: fx.GraphModule, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Make placeholders of all tensors that the graph holds, the parameters first; returns them in this order."""
    graph, held = module.graph, {id(tensor): (tensor, []) for tensor in parameters}  # type: ignore[var-annotated]
    for node in graph.nodes:
        if node.op == "get_attr" and isinstance(tensor := getattr(module, node.target), Tensor):
            held.setdefault(id(tensor), (tensor, []))[1].append(node)
    with graph.inserting_before(next(iter(graph.nodes))):
        for number, (tensor, nodes) in enumerate(held.values()):
            placeholder = graph.placeholder(f"captured_{number}")
            placeholder.meta["val"] = tensor.detach()
            for node in nodes:
                node.replace_all_uses_with(placeholder)
                graph.erase_node(node)
    module.recompile()
    return [tensor for tensor, _ in held.values()]


def _equal(one: Graph, other: Graph) -> bool:
    """Whether two graphs do the same to the same tensors; constants that were made anew are compared by value."""
    if one.module.code != other.module.code or len(one.captured) != len(other.captured):
        return False
    return all(
        a is b
        or (a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.nan_to_num(nan=0.5), b.nan_to_num(nan=0.5)))
        for a, b in zip(one.captured, other.captured, strict=True)
    )


# Where in the user's code


def _line_of(error: BaseException) -> str:
    """The innermost line of the user's code that an error came through; else the innermost line outside of torch."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.endswith(".py")]
    own = [frame for frame in frames if not frame.filename.startswith(LIBRARIES)]
    outside = [frame for frame in frames if not frame.filename.startswith(LIBRARIES[0])]
    return _shown(own or outside or frames)


@contextmanager
def noted_lines() -> Iterator[None]:
    """Note with each node of a graph that is made inside the line of the user's code that made it."""
    create = fx.Graph.create_node

    def noting(self: fx.Graph, *args: Any, **kwargs: Any) -> fx.Node:
        node, stack = create(self, *args, **kwargs), traceback.extract_stack()
        node.meta["line"] = _shown([frame for frame in stack if not frame.filename.startswith(LIBRARIES)])
        return node

    with patch.object(fx.Graph, "create_node", noting):
        yield


def _first_difference(one: Graph, other: Graph) -> str:
    """The line of the user's code that made the first operation in which two graphs differ."""
    known = {id(tensor) for tensor in other.captured}
    new = {f"captured_{number}" for number, tensor in enumerate(one.captured) if id(tensor) not in known}
    for a, b in zip(one.module.graph.nodes, other.module.graph.nodes, strict=False):
        differs = (a.target, str(a.args), str(a.kwargs)) != (b.target, str(b.args), str(b.kwargs))
        if a.op != "placeholder" and (differs or new & {source.name for source in a.all_input_nodes}):
            return a.meta.get("line") or b.meta.get("line") or ""
    return ""


def _shown(frames: Sequence[traceback.FrameSummary]) -> str:
    """The last frame as `` at FILE:LINE (CODE)``."""
    return "".join(f" at {Path(frame.filename).name}:{frame.lineno} ({frame.line})" for frame in frames[-1:])


@contextmanager
def no_gradients(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Take the gradients that parameters hold away inside the block, and put them back."""
    kept = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in zip(parameters, kept, strict=True):
            parameter.grad = gradient
