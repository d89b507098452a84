"""Compile a step or a function into a shared library, in a process of its own: ``python -m pyrovae.compiling.build FOLDER``.

The graph travels as source, with the shapes of its inputs. A pickled GraphModule would not do: it is traced again when it is
loaded, by proxies for which every call without a tensor argument (``empty``, ``randn``) is made there and then, which freezes
the noise.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from pyrovae.compiling.step import Recipe, Update, forward_of, whole_step

OPTIONS = {"fallback_random": True, "aot_inductor.precompile_headers": False, "memory_planning": True}
"""The noise is that of torch's generator; memory for all that is computed on the way is asked for once."""


def build(folder: Path) -> None:
    """Read the job in a folder, compile it, and write the library there."""
    from torch._inductor import aot_compile
    from torch._inductor.decomposition import decompositions

    wanted = json.loads((folder / "job").read_text())
    torch.set_num_threads(wanted["threads"])
    recipe = wanted["recipe"]
    if isinstance(recipe, str):
        function: Callable[..., list[torch.Tensor]] = partial(forward_of(recipe), None)
    else:
        updates = [Update(**update) for update in recipe["updates"]]
        function = whole_step(Recipe(**{**recipe, "updates": updates}))
    inputs = [
        torch.empty_strided(size, stride, dtype=getattr(torch, dtype)).zero_()
        for size, stride, dtype in wanted["inputs"]
    ]
    module = make_fx(function, tracing_mode="fake")(*inputs)
    module.graph.eliminate_dead_code()
    if any(node.op == "get_attr" for node in module.graph.nodes):
        raise RuntimeError("a tensor of the program would be frozen in the compiled step")
    sum_apart(module)
    drawn_at_once(module)
    for node in module.graph.nodes:
        node.meta.clear()
    module.recompile()
    decompositions.pop(
        torch.ops.aten.bernoulli.default, None
    )  # it would compare uniform numbers, which are other draws
    options = {**OPTIONS, "aot_inductor.output_path": str(folder / "step.so")}
    with torch.no_grad():
        try:  # that the C++ compiler knows the processor's instructions is tried here, and not by programs of its own
            aot_compile(module, tuple(inputs), options={**options, "cpp.vec_isa_ok": True})
        except Exception:
            aot_compile(module, tuple(inputs), options=options)


def sum_apart(module: fx.GraphModule) -> None:
    """Make a product of matrices and a sum of what is a product with a sum, so that the sum joins the loop that follows.

    The sum is written as a difference, since the compiler would put it back into the product. For small matrices a product with
    a sum takes twice the time of a product.
    """
    graph, aten = module.graph, torch.ops.aten
    for node in list(graph.nodes):
        product = None
        if node.target is aten.addmm.default and not node.kwargs:
            with graph.inserting_before(node):
                product, other = graph.call_function(aten.mm.default, node.args[1:]), node.args[0]
        elif node.target is aten.add.Tensor and not node.kwargs:
            product, other = next(
                ((a, b) for a, b in (node.args, node.args[::-1]) if getattr(a, "target", None) is aten.mm.default),
                (None, None),
            )
        if product is not None and isinstance(other, fx.Node):
            with graph.inserting_before(node):
                negative = graph.call_function(aten.neg.default, (other,))
                node.replace_all_uses_with(graph.call_function(aten.sub.Tensor, (product, negative)))
            graph.erase_node(node)
    module.recompile()


def drawn_at_once(module: fx.GraphModule) -> None:
    """Draw standard normal noise where its memory is made, by the same numbers of the generator: else that is copied first."""
    graph, aten = module.graph, torch.ops.aten
    for node in list(graph.nodes):
        if node.target is not aten.normal_.default or len(node.args) > 1 or node.kwargs:
            continue
        (empty,) = node.args
        if empty.target is aten.empty.memory_format and len(empty.users) == 1:
            with graph.inserting_before(node):
                drawn = graph.call_function(aten.randn.default, empty.args, dict(empty.kwargs))
            node.replace_all_uses_with(drawn)
            graph.erase_node(node)
            graph.erase_node(empty)
    module.recompile()


def main() -> None:
    """Compile; the last line of the output tells why it failed."""
    with suppress(AttributeError, OSError):
        os.nice(5)
    try:
        build(Path(sys.argv[1]))
    except Exception as error:
        words = str(error).strip().splitlines()
        print(f"{type(error).__name__}: {words[0] if words else ''}", flush=True)  # noqa: T201
        sys.exit(1)


if __name__ == "__main__":
    main()
