"""Which engine takes the steps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pyrovae.compiling.products import SMALL, is_exact
from pyrovae.errors import check_word
from pyrovae.training.compiled import Compiled
from pyrovae.training.engine import Eager
from pyrovae.training.loss import Loss
from pyrovae.training.rows import Memory, Rows
from pyrovae.training.traced import Traced

FEW_STEPS = 300
"""Steps on batches of one shape below which tracing takes longer than it saves."""
KEPT = 2**25 - 2**16
"""Bytes of a block after which glibc keeps freed blocks of up to this size (at most 32 MiB) for the next step."""


@contextmanager
def engine_of(
    level: str | bool, precision: str | None, loss: Loss, rows: Rows, total: int, max_skipped: int, *, is_asked: bool
) -> Iterator[Eager]:
    """The engine of a level. What is under way in the background ends with the block.

    Args:
        level: ``"auto"``, ``"trace"``, ``"compile"`` or False.
        precision: ``"bf16"`` rounds the factors of products of matrices, where the processor has units for it.
        loss: the loss.
        rows: the training rows.
        total: the steps in all.
        max_skipped: steps in a row that may be skipped.
        is_asked: a user's callbacks are called after each epoch, and may change the program. Graphs are then compared with
            the program in every epoch, too; else each time that the number of steps has doubled, and in the last step.
    """

    def audited(step: int) -> bool:
        return step == total - 1 or (is_asked and step % rows.steps == 0)

    check_word("precision", precision, [None, "bf16"])
    common: dict[str, Any] = {"complete": rows.complete, "rounded": precision == "bf16" and not is_exact()}
    short = total // rows.steps if isinstance(rows, Memory) and rows.least < rows.size else 0
    options = {**common, "audited": audited, "runs_short": level == "auto" and short < FEW_STEPS}
    check_word("compile", level or None, [None, "auto", "trace", "compile"])
    torch.empty(KEPT, dtype=torch.uint8)  # else each step gets its memory from the system anew, page by page
    if not level or (level == "auto" and (total - short < FEW_STEPS or loss.like.device.type != "cpu")):
        engine = Eager(loss, max_skipped, **common)
        if level:
            few = f"fewer than {FEW_STEPS} steps on batches of one shape are not worth a graph"
            engine.blocked = (
                few if loss.like.device.type == "cpu" else f"graphs are for the processor, not {loss.like.device}"
            )
        yield engine
    elif level == "trace" or (level == "auto" and cores() < 2):
        replaying = Traced(loss, max_skipped, **options)
        replaying.is_quiet = level == "auto"
        yield replaying
    else:
        compiling = Compiled(loss, max_skipped, total=total, waits=level == "compile", **options)
        compiling.is_quiet = level == "auto"
        try:
            yield compiling
        finally:
            compiling.close()


@contextmanager
def threads_of(loss: Loss) -> Iterator[None]:
    """One thread while a loss trains whose products are so small that a second one would cost more than it does."""
    before = torch.get_num_threads()
    if 0 < (loss.operations or 0) < 2 * SMALL / 3:  # two operations for each multiplication, a third of all in the loss
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cores() -> int:
    """The processor's cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
