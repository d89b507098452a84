"""Compile a training step into a shared library, in a process of its own: ``python -m pyrovae.compiling.build FOLDER``.

The graph travels as source, with the shapes of its inputs. A pickled GraphModule would not do: it is traced again when it is
loaded, by proxies for which every call without a tensor argument (``empty``, ``randn``) is made there and then, which freezes
the noise.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyrovae.compiling.step import Recipe, Update, whole_step

OPTIONS = {"fallback_random": True, "aot_inductor.precompile_headers": False}
"""The noise is that of torch's generator."""


def build(folder: Path) -> None:
    """Read the job in a folder, compile it, and write the library there."""
    from torch._inductor import aot_compile
    from torch._inductor.decomposition import decompositions

    wanted = json.loads((folder / "job").read_text())
    torch.set_num_threads(wanted["threads"])
    recipe = Recipe(**{**wanted["recipe"], "update": Update(**wanted["recipe"]["update"])})
    inputs = [
        torch.empty_strided(size, stride, dtype=getattr(torch, dtype)).zero_()
        for size, stride, dtype in wanted["inputs"]
    ]
    module = make_fx(whole_step(recipe), tracing_mode="fake")(*inputs)
    module.graph.eliminate_dead_code()
    if any(node.op == "get_attr" for node in module.graph.nodes):
        raise RuntimeError("a tensor of the program would be frozen in the compiled step")
    for node in module.graph.nodes:
        node.meta.clear()
    module.recompile()
    decompositions.pop(
        torch.ops.aten.bernoulli.default, None
    )  # it would compare uniform numbers, which are other draws
    with torch.no_grad():
        aot_compile(module, tuple(inputs), options={**OPTIONS, "aot_inductor.output_path": str(folder / "step.so")})


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
