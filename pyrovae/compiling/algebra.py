"""Rewriting of a graph that is replayed: fewer and cheaper calls of torch for the same bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from pyrovae.compiling.passes import free_nodes, layout, written_nodes

aten = torch.ops.aten
PLUS, MINUS, TIMES, OVER, NEGATIVE = (
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.neg.default,
)
BINARY = {PLUS, MINUS, TIMES, OVER}
SCALAR = {aten.add.Scalar: PLUS, aten.sub.Scalar: MINUS, aten.mul.Scalar: TIMES, aten.div.Scalar: OVER}
UNARY = {aten.log.default, aten.exp.default, aten.pow.Tensor_Scalar, NEGATIVE}
EXACT = (torch.float32, torch.float64)
"""Types in which an operation on a number and one on a tensor of that number round alike."""


class Algebra:
    """Rules by which a node of a graph gets another one with the same value, the sign of a zero and its layout included.

    Minus signs pass products and quotients, which is exact, and vanish in a sum, a number, a constant or another one. What is
    repeated along an axis is computed before it is repeated, and repeated by the operation that needs it. Sums forget axes of
    length one, stacks of one tensor are the tensor.

    Args:
        module: the graph; nothing that it writes to, and no view of it, is touched.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self.module, self.graph = module, module.graph
        self.written, self.free = written_nodes(self.graph), free_nodes(self.graph)
        self.shorter: dict[fx.Node, fx.Node | None] = {}
        """Of nodes that are the same along an axis, what they are before they are repeated along it."""

    def run(self) -> None:
        """Apply the rules until none of them does anything."""
        rules: list[Callable[[fx.Node], fx.Node | None]] = [self.sign, self.repeated, self.axes]
        changed = True
        while changed:
            changed = False
            for node in list(self.graph.nodes):
                near = {node, *node.all_input_nodes}
                behind = {source for part in near for source in part.all_input_nodes}  # read now instead of before
                if node.op != "call_function" or (near | behind) & self.written or not all(map(is_floating, near)):
                    continue
                with self.graph.inserting_before(node):
                    found = (rule(node) for rule in rules)
                    other = next((new for new in found if new is not None and layout(new) == layout(node)), None)
                if other is not None:
                    node.replace_all_uses_with(other)
                    self.graph.erase_node(node)
                    changed = True
            self.graph.eliminate_dead_code()
            self.shorter = {node: short for node, short in self.shorter.items() if is_alive(node) and is_alive(short)}
        self.module.recompile()

    def sign(self, node: fx.Node) -> fx.Node | None:
        """Move a minus sign, or let it vanish."""
        target, args = node.target, node.args
        if node.kwargs or not args or not isinstance(args[0], fx.Node):
            return None
        one: Any = args[0]
        other: Any = args[1] if len(args) == 2 else None
        if target is NEGATIVE:
            return self.negative_of(one)
        if target in (TIMES, OVER) and other == -1:
            return self.call(NEGATIVE, one)
        if target is PLUS and isinstance(other, fx.Node):
            if other.target is NEGATIVE:
                return self.call(MINUS, one, other.args[0])
            if one.target is NEGATIVE:
                return self.call(MINUS, other, one.args[0])
        if target is MINUS and isinstance(other, fx.Node) and other.target is NEGATIVE:
            return self.call(PLUS, one, other.args[0])
        if target in (TIMES, OVER) and self.is_moved(one):
            if type(other) in (int, float):
                return self.call(target, one.args[0], -float(other))
            if isinstance(other, fx.Node):
                return self.call(NEGATIVE, self.call(target, one.args[0], other))
        if target in (TIMES, OVER) and isinstance(other, fx.Node) and self.is_moved(other):
            return self.call(NEGATIVE, self.call(target, one, other.args[0]))
        return None

    def negative_of(self, node: fx.Node) -> fx.Node | None:
        """The negative of a node, where it costs nothing."""
        if node.target is NEGATIVE:
            return node.args[0]  # type: ignore[return-value]
        if len(node.users) > 1 or node.kwargs or node.target not in (TIMES, OVER) or len(node.args) != 2:
            return None
        one, other = node.args
        if type(other) in (int, float):
            return self.call(node.target, one, -float(other))  # type: ignore[arg-type]
        if one in self.free:
            return self.call(node.target, self.call(NEGATIVE, one), other)
        return None

    def is_moved(self, node: fx.Node) -> bool:
        """Whether a node is a minus sign that one node alone needs; that of a constant is computed once, and stays."""
        return node.target is NEGATIVE and len(node.users) == 1 and node not in self.free

    def repeated(self, node: fx.Node) -> fx.Node | None:
        """Let operations of two tensors repeat one of them by themselves."""
        tensors = node.all_input_nodes
        if node.kwargs or node.target not in BINARY or len(tensors) != 2:
            return None
        for repeated, other in (tensors, tensors[::-1]):
            if layout(other) == layout(node) and (short := self.short(repeated)) is not None:
                return self.call(node.target, *(short if argument is repeated else argument for argument in node.args))
        return None

    def short(self, node: fx.Node) -> fx.Node | None:
        """What a node is before it is repeated along an axis, computed where the node is; None if it is not repeated."""
        if node in self.shorter:
            return self.shorter[node]
        found: fx.Node | None = None
        sources = node.all_input_nodes
        if node.kwargs or len(sources) != 1 or node in self.free or not is_floating(node):
            pass
        elif node.target is aten.expand.default:
            found = sources[0]
        elif node.target in UNARY | BINARY and (source := self.short(sources[0])) is not None:
            with self.graph.inserting_after(node):
                found = self.call(node.target, *(source if a is sources[0] else a for a in node.args))
        self.shorter[node] = found
        return found

    def axes(self, node: fx.Node) -> fx.Node | None:
        """Leave out views to another number of axes of length one."""
        if node.target is not aten.view.default:
            return None
        source: Any = node.args[0]
        if source.target is aten.sum.dim_IntList and len(source.args) == 3 and not source.kwargs and source.args[2]:
            return self.call(aten.sum.dim_IntList, *source.args[:2])
        if source.target is aten.stack.default and len(source.args[0]) == 1:
            (only,) = source.args[0]
            if only in self.written or not self.value(only).is_contiguous():
                return None
            return only if layout(only) == layout(node) else self.call(aten.view.default, only, node.args[1])
        return None

    def call(self, target: Any, *args: Any) -> fx.Node:
        """A new node, with what is known of its value; it depends on no placeholder if its arguments do not."""
        node = self.graph.call_function(target, args)
        node.meta["val"] = target(*fx.map_arg(args, self.value))
        if all(source in self.free for source in node.all_input_nodes):
            self.free[node] = None
        return node

    def value(self, node: fx.Node) -> Tensor:
        """A tensor without numbers of a node's shape, strides and type."""
        value = node.meta["val"]
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def is_floating(node: fx.Node) -> bool:
    """Whether a node's value is a tensor of floating point numbers."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def is_alive(node: fx.Node | None) -> bool:
    """Whether a node is still part of its graph."""
    return node is None or not node._erased


def numbers_as_tensors(module: fx.GraphModule) -> None:
    """Make tensors without axes of the numbers that tensors are added to and multiplied by, and products of squares.

    Torch takes longer to make a tensor of a Python number than to multiply a few thousand numbers by it.
    """
    graph = module.graph
    made: dict[Any, fx.Node] = {}
    first = next(iter(graph.nodes))
    for node in list(graph.nodes):
        if node.target not in (*BINARY, *SCALAR, aten.pow.Tensor_Scalar) or node.kwargs or len(node.args) != 2:
            continue
        one, number = node.args  # type: ignore[assignment]
        value = one.meta.get("val") if isinstance(one, fx.Node) else None
        if not isinstance(value, Tensor) or value.dtype not in EXACT or type(number) not in (int, float):
            continue
        if node.target is aten.pow.Tensor_Scalar:
            if number == 2:
                node.target, node.args = TIMES, (one, one)
            continue
        key = (math.copysign(1.0, number), number, value.dtype)
        if key not in made:
            with graph.inserting_before(first):
                made[key] = graph.call_function(aten.full.default, ([], number), {"dtype": value.dtype})
            made[key].meta["val"] = torch.empty((), dtype=value.dtype, device="meta")
        node.target, node.args = SCALAR.get(node.target, node.target), (one, made[key])
    module.recompile()
