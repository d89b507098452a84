"""The log weights of long work by a library that is compiled beside it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pyrovae.data import Batch
from pyrovae.programs.rows import Block, RowWork, Tile

if TYPE_CHECKING:
    from pyrovae.compiling import Function

LONG = 45.0
"""Seconds of work that must lie ahead for a library to be built: about three times what that takes."""
TIMED = 3
"""Tiles from which the rest of the work is estimated."""


@contextmanager
def compiled(work: RowWork) -> Iterator[None]:
    """Inside the block :meth:`pyrovae.programs.rows.Block.log_weights` of some work is compiled where that is worth it."""
    work.weigh = found = Weights(work)
    try:
        yield
    finally:
        found.close()


class Weights:
    """The log weights of tiles: by the program, and in long work by a library of the same graph once it is built.

    The program runs the first tile of every block, which checks the rows, and tells the noise of the tiles by which the
    library is compared with it: those after 1, 2, 4, ... of its calls. Where the two differ beyond rounding, and where the
    program is no graph, the program goes on alone.

    Args:
        work: the rows and draws.
    """

    def __init__(self, work: RowWork) -> None:
        self.work = work
        self.tiles = math.ceil(len(work) / work.rows) * math.ceil(work.num_samples / work.step)
        self.done, self.seconds = 0, 0.0
        self.functions: dict[Any, Function] = {}
        self.is_open = work.vectorize and work.share is None and not work.dry_run.wide_latents

    def __call__(self, block: Block, tile: Tile) -> Tensor:
        """The log weights of a tile's draws, of shape (draws, rows), float64."""
        begun = time.perf_counter()
        found = None if tile.is_first or not self.is_open else self._compiled(block, tile)
        weights = tile.terms().log_weights if found is None else found
        self.done, self.seconds = self.done + 1, self.seconds + time.perf_counter() - begun
        return weights

    def close(self) -> None:
        """Stop compilers that are under way."""
        for function in self.functions.values():
            function.close()

    def _compiled(self, block: Block, tile: Tile) -> Tensor | None:
        """By a library, if there is one for tiles of this shape."""
        from pyrovae.compiling import Function, UntraceableError, tensors_of

        batch, size = block.batch, tile.num_samples
        inputs, tree_of = tensors_of((batch.index, batch.x, batch.covariates))
        key = size, tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        try:
            if key not in self.functions:
                if self.done < TIMED or (self.tiles - self.done) * self.seconds / self.done < LONG:
                    return None

                def weights(*given: Tensor) -> dict[str, Tensor]:
                    return {"log_weights": self.work.call(Batch(*tree_of(*given))).terms(size).log_weights}

                self.functions[key] = Function(weights, inputs, compiled=True)
            if not self.functions[key].is_built():
                return None
            found = self.functions[key].compared(inputs, lambda: {"log_weights": tile.terms().log_weights})
        except (UntraceableError, RuntimeError, ValueError):
            found = None
        self.is_open = found is not None
        return None if found is None else found["log_weights"]
