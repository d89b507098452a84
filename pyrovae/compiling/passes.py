"""Passes over a graph that leave every number as it is, to the bit: less work, and less between the calls of torch."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten
SAME_SHAPE = {aten.view.default, aten.expand.default, aten._unsafe_view.default, aten.slice.Tensor, aten.clone.default}
TIMES = {aten.mul.Tensor, aten.div.Tensor, aten.mul.Scalar, aten.div.Scalar}
PLUS = {aten.add.Tensor, aten.sub.Tensor}
TWICE = {aten.neg.default, aten.t.default}
NAMES = (
    "abs add addcmul addmm bmm cat clamp cos cumsum digamma div empty eq erf exp expm1 floor full ge gt index_select le "
    "lerp lgamma log log1p logsumexp lt matmul maximum mean minimum mm mul ne neg ones ones_like outer pow randn reciprocal relu "
    "rsqrt select sigmoid sign sin softmax log_softmax sqrt square squeeze stack sub sum t tan tanh transpose triu tril unbind "
    "unsqueeze where zeros zeros_like binary_cross_entropy_with_logits"
)
DIRECT = {name: getattr(torch, name) for name in NAMES.split()} | {
    name: getattr(torch._C._nn, name) for name in ("softplus", "silu", "gelu", "leaky_relu", "elu")
}
"""Operations with torch's own bindings, which are called in a third of the time of ``torch.ops``."""
UNLIKE = {aten.binary_cross_entropy_with_logits.default}
"""Their bindings have other defaults than the operations."""
METHODS = {aten.view.default: "view", aten.expand.default: "expand", aten.normal_.default: "normal_"}
SHARING = {operator.getitem, aten._unsafe_view.default}
"""What they return shares memory with what they are given, though no schema tells so."""
LIKE = {aten.ones_like.default, aten.zeros_like.default, aten.full_like.default}
"""Their numbers depend on the shape of what they are like alone."""
MOST_NUMBERS = 2**14
"""Of a constant that is computed once."""


def simplify(module: fx.GraphModule) -> None:
    """Drop views to the same shape, x * 1, x + 0, x ** 1, -(-x), transposes of transposes, and work that is done twice.

    Nothing that is written to, and no view of it, is touched.
    """
    graph, before = module.graph, -1
    while len(graph.nodes) != before:
        before = len(graph.nodes)
        written, known = written_nodes(graph), {}  # type: ignore[var-annotated]
        for node in list(graph.nodes):
            if not isinstance(node.target, torch._ops.OpOverload) or node in written:
                continue
            if any(source in written for source in node.all_input_nodes) or node.target._schema.is_mutable:
                continue
            same = _same_value(node)
            if same is None and _is_repeatable(node):
                same = known.setdefault((node.target, str(node.args), str(node.kwargs)), node)
            if same not in (None, node):
                node.replace_all_uses_with(same)
                graph.erase_node(node)
        graph.eliminate_dead_code()
    module.recompile()


def _same_value(node: fx.Node) -> fx.Node | None:
    """The earlier node whose value a node repeats."""
    target, source = node.target, node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return None
    number: Any = node.args[1] if len(node.args) == 2 and not node.kwargs else None
    number = None if isinstance(number, (fx.Node, list, tuple)) else number
    if target in (aten.detach.default, aten.alias.default):
        return source
    if target in TWICE and source.target is target:
        return source.args[0]  # type: ignore[return-value]
    is_neutral = (
        (target in SAME_SHAPE and not (target is aten.clone.default and node.kwargs))
        or (target in TIMES and number == 1)
        or (target in PLUS and number == 0 and number is not None)
        or (target is aten.pow.Tensor_Scalar and number == 1)
    )
    return source if is_neutral and layout(node) == layout(source) else None


def layout(node: fx.Node) -> Any:
    """The shape, the strides and the type of a node's value; the node itself where that is no tensor."""
    value = node.meta.get("val")
    return (value.shape, value.stride(), value.dtype) if isinstance(value, Tensor) else node


def _families(graph: fx.Graph) -> dict[fx.Node, set[fx.Node]]:
    """For each node, the nodes that share its memory."""
    family: dict[fx.Node, set[fx.Node]] = {node: {node} for node in graph.nodes}
    for node in graph.nodes:
        for source, alias_info in _arguments(node):
            if alias_info is not None or node.target in SHARING:
                joined = family[node] | family[source]
                for member in joined:
                    family[member] = joined
    return family


def written_nodes(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that an operation writes to, with all that share their memory."""
    written: set[fx.Node] = set()
    for node in graph.nodes:
        written |= {source for source, alias_info in _arguments(node) if alias_info and alias_info.is_write}
        if node.target is aten.native_batch_norm.default:  # it updates its moments without a word in its schema
            written |= {source for source in node.args[3:5] if isinstance(source, fx.Node)}
    families = _families(graph)
    return {member for node in written for member in families[node]}


def _arguments(node: fx.Node) -> list[tuple[fx.Node, Any]]:
    """The nodes among a node's arguments, those in lists too, with what the operation's schema says of sharing memory."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return [(source, None) for source in node.all_input_nodes]
    found: list[tuple[fx.Node, Any]] = []
    for place, argument in enumerate(node.target._schema.arguments):
        given = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name)
        sources: list[fx.Node] = []
        fx.map_arg(given, sources.append)
        found += [(source, argument.alias_info) for source in sources]
    return found


def own_outputs(module: fx.GraphModule) -> None:
    """Copy outputs that share memory with an input or with an earlier output, so that each may be written to."""
    graph = module.graph
    (output,), families = graph.find_nodes(op="output"), _families(graph)
    taken, outputs = {node for node in graph.nodes if node.op == "placeholder"}, []
    for node in output.args[0]:
        if families[node] & taken:
            with graph.inserting_before(output):
                node = graph.call_function(aten.clone.default, (node,))
        else:
            taken |= families[node]
        outputs.append(node)
    output.args = (outputs,)
    module.recompile()


def free_nodes(graph: fx.Graph) -> dict[fx.Node, None]:
    """The nodes that depend on no placeholder, in order; those of many numbers are left out."""
    free: dict[fx.Node, None] = {}
    written = written_nodes(graph)
    for node in graph.nodes:
        is_free = node.target in LIKE or all(source in free for source in node.all_input_nodes)
        if not is_free or node in written or not _is_of_torch(node):
            continue
        if node.target._schema.is_mutable or not _is_repeatable(node):
            continue
        values = [part.meta.get("val") for part in (node, *node.all_input_nodes)]
        if all(isinstance(value, Tensor) for value in values) and values[0].numel() <= MOST_NUMBERS:
            free[node] = None
    return free


def fold_constants(module: fx.GraphModule) -> list[Tensor]:
    """Compute once what depends on no placeholder; returns these tensors, which become the first placeholders of the graph."""
    graph, free = module.graph, free_nodes(module.graph)
    used = [node for node in free if any(user not in free for user in node.users)]
    known: dict[fx.Node, Any] = {}
    for node in free:
        for source in node.all_input_nodes:
            if source not in free:  # it tells a shape alone
                known[source] = torch.empty_like(source.meta["val"], device="cpu")
        known[node] = node.target(*fx.map_arg(node.args, known.get), **fx.map_arg(node.kwargs, known.get))  # type: ignore[operator]
    with graph.inserting_before(next(iter(graph.nodes))):
        for node in used:
            place = graph.placeholder(f"constant_{node.name}")
            place.meta = node.meta
            node.replace_all_uses_with(place)
    graph.eliminate_dead_code()
    module.recompile()
    return [known[node] for node in used]


def _is_repeatable(node: fx.Node) -> bool:
    """Whether an operation of torch gives the same numbers each time: it draws no noise and fills its memory."""
    return torch.Tag.nondeterministic_seeded not in node.target.tags and "empty" not in str(node.target)  # type: ignore[union-attr]


def _is_of_torch(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten"


def call_directly(module: fx.GraphModule) -> None:
    """Call torch's own bindings where there are some: for graphs that are replayed, not compiled."""
    for node in module.graph.nodes:
        if node.target in UNLIKE:
            node.args += tuple(argument.default_value for argument in node.target._schema.arguments[len(node.args) :])
        if _is_of_torch(node) and node.target._opname in DIRECT:
            node.target = DIRECT[node.target._opname]
        elif node.op == "call_function" and node.target in METHODS:
            node.op, node.target = "call_method", METHODS[node.target]
    module.recompile()
