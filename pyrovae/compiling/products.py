"""How the processor works: which library multiplies matrices, MKL or oneDNN, and what it does with the smallest numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import fx

Shape = tuple[int, int, int]
SMALL = 2e7
"""Multiplications in the products of a graph below which one thread runs it."""
WORTH = 0.9
"""oneDNN is used where its products take less than this share of MKL's time."""
EXACT = 4.0
"""It must be as exact as single precision: its worst error may be this many times that of MKL."""


@contextmanager
def by_onednn(used: bool = True) -> Iterator[None]:
    """Multiply matrices in single precision by oneDNN inside the block.

    The setting allows oneDNN to round to bfloat16, which it does on processors with matrix units for it (AMX) and not on others:
    see :func:`is_exact`.
    """
    settings = getattr(torch.backends.mkldnn, "matmul", None)  # torch before 2.9 has none
    if settings is None or not used:
        yield
        return
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Take numbers below the smallest normal one (1e-38) as zero inside the block, in this thread.

    A processor takes a hundred times as long for such a number, and the gradients of mixtures are full of them: those of the
    components that have no part in a row.
    """
    tiny = torch.tensor(torch.finfo(torch.float32).tiny, dtype=torch.float32)
    if tiny / 2 == 0 or not torch.set_flush_denormal(True):
        yield
        return
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def is_exact() -> bool:
    """Whether oneDNN multiplies in full single precision here, by a product."""
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(64, 256, generator=generator), torch.randn(256, 64, generator=generator)
    exact = one.double() @ other.double()
    errors = []
    for used in (False, True):
        with by_onednn(used):
            errors.append(float((one @ other - exact).abs().max()))
    return errors[1] <= EXACT * errors[0]


def products_of(module: fx.GraphModule) -> list[Shape]:
    """Rows, inner size and columns of each product of matrices in a graph."""
    nodes = [node for node in module.graph.nodes if node.target in (torch.mm, torch.addmm)]
    pairs = [[source.meta["val"].shape for source in node.args[-2:]] for node in nodes]
    return [(one[0], one[1], other[1]) for one, other in pairs]


def is_small(module: fx.GraphModule) -> bool:
    """Whether a graph does so little that a second thread would cost more than it does."""
    targets = [str(node.target) for node in module.graph.nodes]
    products = [math.prod(shape) for shape in products_of(module)]
    return sum(products) < SMALL and not any("conv" in target for target in targets)


def onednn_is_faster(shapes: Sequence[Shape]) -> bool:
    """Whether oneDNN multiplies matrices of these shapes in clearly less time, and as exactly; measured in some milliseconds."""
    if not shapes or not torch.backends.mkldnn.is_available() or not is_exact():
        return False
    pairs = [(torch.ones(rows, inner), torch.ones(inner, columns)) for rows, inner, columns in shapes]
    best: dict[bool, float] = {}
    for used in (False, True) * 5:
        with by_onednn(used), torch.no_grad():
            started = time.perf_counter()
            for one, other in pairs:
                torch.mm(one, other)
            best[used] = min(best.get(used, float("inf")), time.perf_counter() - started)
    return best[True] < WORTH * best[False]
