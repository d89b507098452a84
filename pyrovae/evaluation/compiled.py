"""Long work by graphs of the program: its log weights, and its density at given latents with the gradient."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.distributions.util import is_validation_enabled
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyrovae.compiling import Graphs, tensors_of
from pyrovae.data import Batch
from pyrovae.evaluation.unconstrained import LatentSpace
from pyrovae.programs.rows import Block, RowWork, Tile

LONG = 45.0
"""Seconds of work that must lie ahead for a library to be built: about three times what that takes."""
TIMED = 3
"""Tiles from which the rest of the work is estimated."""
TRACED = 1.0
"""Seconds that densities of one shape have taken after which the next ones go by a graph."""


@contextmanager
def compiled(work: RowWork) -> Iterator[None]:
    """Inside the block the log weights and the densities of some work go by graphs where that is worth it."""
    work.weigh, work.densities = weights, densities = Weights(work), Densities(work)
    try:
        yield
    finally:
        work.densities = None
        weights.graphs.close()
        densities.graphs.close()


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
        self.graphs = Graphs()
        self.is_open = work.vectorize and work.share is None and not work.dry_run.wide_latents

    def __call__(self, block: Block, tile: Tile) -> Tensor:
        """The log weights of a tile's draws, of shape (draws, rows), float64."""
        begun = time.perf_counter()
        found = None if tile.is_first or not self.is_open else self._compiled(block, tile)
        weights = tile.terms().log_weights if found is None else found
        self.done, self.seconds = self.done + 1, self.seconds + time.perf_counter() - begun
        return weights

    def _compiled(self, block: Block, tile: Tile) -> Tensor | None:
        """By a library, if there is one for tiles of this shape."""
        batch, size = block.batch, tile.num_samples
        tree = batch.index, batch.x, batch.covariates

        def weights(index: Tensor, x: Any, covariates: Any) -> dict[str, Tensor]:
            return {"log_weights": self.work.call(Batch(index, x, covariates)).terms(size).log_weights}

        is_short = self.done < TIMED or (self.tiles - self.done) * self.seconds / self.done < LONG
        if is_short and self.graphs.key(size, tree) not in self.graphs.functions:
            return None
        function = self.graphs.of(size, weights, tree, compiled=True)
        if function is None or not function.is_built():
            return None
        return self.graphs(size, weights, tree)["log_weights"]


class Densities:
    """The model's log density at given latents: by the program at first, in longer work by a graph, in long work by a library.

    A graph gives the gradient with the density. It is compared with the program in its calls 1, 2, 4, ... Pyro's checks of
    values, and supports that differ between rows, are the program's.

    Args:
        work: the rows.
    """

    def __init__(self, work: RowWork) -> None:
        self.work, self.begun = work, time.perf_counter()
        self.graphs = Graphs()
        self.seconds: dict[Any, float] = defaultdict(float)
        """By shape, what its densities have taken."""

    def log_joint(self, space: LatentSpace, u: Tensor, masked: bool) -> Tensor:
        """As :meth:`LatentSpace.log_joint`; its derivative by ``u`` is no function of ``u`` anymore."""
        slopes = torch.is_grad_enabled() and u.requires_grad
        batch = space.call.batch
        name, tree = (masked, space.flat, slopes), (u.detach(), space.counted, batch.index, batch.x, batch.covariates)
        key, begun = self.graphs.key(name, tree), time.perf_counter()
        if is_validation_enabled() or space.varies or not self.graphs.is_open or self.seconds[key] < TRACED:
            values = space.on(densities=None).log_joint(u, masked)
        else:
            values = self._by_graph(space, u, masked, slopes, name, tree)
        self.seconds[key] += time.perf_counter() - begun
        function = self.graphs.functions.get(key)
        if function is not None and function.library is None and self._is_long(space, key):
            self.seconds[key] = math.inf  # once
            function.compile(tensors_of(tree)[0])
        return values

    def _is_long(self, space: LatentSpace, key: Any) -> bool:
        """Whether as much lies ahead as a library is worth, or lies behind."""
        if self.seconds[key] == math.inf:
            return False
        done = (int(space.call.rows.max()) + 1) / len(self.work)
        return max((time.perf_counter() - self.begun) * (1 / done - 1), self.seconds[key]) > LONG

    def _by_graph(self, space: LatentSpace, u: Tensor, masked: bool, slopes: bool, name: Any, tree: tuple) -> Tensor:
        def density(u: Tensor, counted: Tensor, index: Tensor, x: Any, covariates: Any) -> dict[str, Tensor]:
            call = self.work.call(Batch(index, x, covariates))
            there = space.on(program=call.program, args=call.args, kwargs=call.kwargs, densities=None)
            there.counted = counted
            if not slopes:
                return {"values": there.log_joint(u, masked)}
            with torch.enable_grad():
                u = u.detach().requires_grad_()
                values = there.log_joint(u, masked)
                return {"values": values.detach(), "slopes": torch.autograd.grad(values.sum(), u)[0]}

        found = self.graphs(name, density, tree)
        return _Known.apply(u, found["values"], found["slopes"]) if slopes else found["values"]


class _Known(torch.autograd.Function):
    """Values of each vector whose gradient is known."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, values: Tensor, slopes: Tensor) -> Tensor:
        ctx.save_for_backward(slopes)
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return grad[..., None] * slopes, None, None
