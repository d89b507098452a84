"""Rewriting of a graph that is replayed: fewer and cheaper calls of torch for the same numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from pyrovae.compiling.passes import constant_nodes, written_nodes

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
SUMS = {aten.sum.default, aten.sum.dim_IntList}
EXACT = (torch.float32, torch.float64)
"""Types in which an operation on a number and one on a tensor of that number round alike."""


class Algebra:
    """Rules by which a node of a graph gets another one with the same value; signs and shapes alone move, which is exact.

    Minus signs move towards the output, where they meet a sum, a number or another one. What is repeated along an axis is
    computed before it is repeated, and repeated by the operation that needs it. Sums forget axes of length one, stacks of one
    tensor are the tensor.

    Args:
        module: the graph; nothing that it writes to, and no view of it, is touched.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self.module, self.graph = module, module.graph
        self.written, self.known = written_nodes(self.graph), constant_nodes(self.graph)

    def run(self) -> None:
        """Apply the rules until none of them does anything."""
        rules: list[Callable[[fx.Node], fx.Node | None]] = [self.sign, self.repeated, self.axes]
        changed = True
        while changed:
            changed = False
            for node in list(self.graph.nodes):
                near = {node, *node.all_input_nodes}
                behind = {source for part in near for source in part.all_input_nodes}  # read now instead of before
                if node.op != "call_function" or (near | behind) & self.written or not all(map(has_exact_signs, near)):
                    continue
                with self.graph.inserting_before(node):
                    other = next((new for rule in rules if (new := rule(node)) is not None), None)
                if other is not None:
                    node.replace_all_uses_with(other)
                    self.graph.erase_node(node)
                    changed = True
            self.graph.eliminate_dead_code()
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
        if self.is_moved(one):
            x = one.args[0]
            if target in (TIMES, OVER) and isinstance(other, (int, float)):
                return self.call(target, x, -other)
            if target in SUMS or (target in (TIMES, OVER) and other is not None):
                return self.call(NEGATIVE, self.call(target, x, *args[1:]))
            if target is MINUS:
                return self.call(NEGATIVE, self.call(PLUS, x, other))
            if target is PLUS and isinstance(other, (int, float)):
                return self.call(NEGATIVE, self.call(MINUS, x, other))
        if target in (TIMES, OVER) and isinstance(other, fx.Node) and self.is_moved(other):
            return self.call(NEGATIVE, self.call(target, one, other.args[0]))
        return None

    def negative_of(self, node: fx.Node) -> fx.Node | None:
        """The negative of a node, where it costs nothing."""
        if node.target is NEGATIVE:
            return node.args[0]  # type: ignore[return-value]
        if len(node.users) > 1 or node.kwargs or node.target not in BINARY or len(node.args) != 2:
            return None
        one, other = node.args
        if node.target is MINUS and isinstance(one, fx.Node) and isinstance(other, fx.Node):
            return self.call(MINUS, other, one)
        if node.target in (TIMES, OVER):
            if isinstance(other, (int, float)):
                return self.call(node.target, one, -other)
            if one in self.known:
                return self.call(node.target, self.call(NEGATIVE, one), other)
        return None

    def is_moved(self, node: fx.Node) -> bool:
        """Whether a node is a minus sign that one node alone needs; that of a constant is computed once, and stays."""
        return node.target is NEGATIVE and len(node.users) == 1 and node not in self.known

    def repeated(self, node: fx.Node) -> fx.Node | None:
        """Compute before repeating, and let operations of two tensors repeat by themselves."""
        target = node.target
        args: tuple[Any, ...] = node.args
        if node.kwargs or (target not in UNARY and target not in BINARY) or node in self.known:
            return None
        tensors: list[Any] = [a for a in args if isinstance(a, fx.Node)]
        repeated = [a for a in tensors if a.target is aten.expand.default and not a.kwargs]
        if not repeated:
            return None
        if len(tensors) == 1:
            short = self.call(target, *(repeated[0].args[0] if a is repeated[0] else a for a in args))
            return self.call(aten.expand.default, short, repeated[0].args[1])
        first = repeated[0]
        rest = [a for a in tensors if a is not first]
        if len(rest) != 1 or layout(rest[0]) != layout(node):
            return None
        return self.call(target, *(a.args[0] if a is first else a for a in args))

    def axes(self, node: fx.Node) -> fx.Node | None:
        """Leave out views to another number of axes of length one."""
        if node.target is not aten.view.default:
            return None
        source: Any = node.args[0]
        if source.target is aten.sum.dim_IntList and len(source.args) == 3 and not source.kwargs and source.args[2]:
            plain = self.call(aten.sum.dim_IntList, *source.args[:2])
            if layout(plain) == layout(node):
                return plain
            self.graph.erase_node(plain)
        if source.target is aten.stack.default and len(source.args[0]) == 1:
            (only,) = source.args[0]
            if only in self.written or not self.value(only).is_contiguous():
                return None
            return only if layout(only) == layout(node) else self.call(aten.view.default, only, node.args[1])
        return None

    def call(self, target: Any, *args: Any) -> fx.Node:
        """A new node, with what is known of its value; a constant if its arguments are."""
        node = self.graph.call_function(target, args)
        node.meta["val"] = target(*fx.map_arg(args, self.value))
        if all(source in self.known for source in node.all_input_nodes):
            self.known[node] = target(*fx.map_arg(args, self.known.get))
        return node

    def value(self, node: fx.Node) -> Tensor:
        """A tensor without numbers of a node's shape, strides and type."""
        value = node.meta["val"]
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def layout(node: fx.Node) -> Any:
    """The shape, the strides and the type of a node's value."""
    value = node.meta["val"]
    return value.shape, value.stride(), value.dtype


def has_exact_signs(node: fx.Node) -> bool:
    """Whether a node's value is a tensor of floating point numbers."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


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
