"""The engine that replays a graph of loss and gradients, traced once for each shape of a batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyrovae.compiling import Graph, UntraceableError, tensors_of, trace
from pyrovae.data import Batch
from pyrovae.training.engine import Eager, GatherRows, State
from pyrovae.training.loss import Loss
from pyrovae.training.rows import Memory, draw_from, noise_seed

MOST_SHAPES = 8
"""Shapes of batches that are traced; a loader with more of them trains eagerly."""
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""The relative difference of loss and gradient norm between graph and program, above which the graph is given up."""

ROUNDED = 2e-2
"""The same where products are rounded, or numbers have 16 bits."""


class Traced(Eager):
    """The engine that replays a graph of loss and gradients.

    Its steps are those of :class:`~pyrovae.training.engine.Eager`, with the same noise. In the first step, each time that the
    number of steps has doubled, and in those that ``audited`` names, the graph is compared with the program itself. Where they
    differ, and where a program cannot be traced, steps are eager.

    Args:
        loss: the loss, which owns the modules.
        max_skipped: steps in a row that may be skipped.
        complete: no entry of any batch is missing.
        rank: the number of this process among those that train together.
        rounded: the factors of products of matrices are rounded to bfloat16.
        audited: whether a step is to be compared, by its number.
        runs_short: the program is run on incomplete batches, which are too few to be traced.
    """

    def __init__(
        self,
        loss: Loss,
        max_skipped: int,
        *,
        complete: bool = False,
        rank: int = 0,
        rounded: bool = False,
        audited: Callable[[int], bool] = lambda step: False,
        runs_short: bool = False,
    ) -> None:
        super().__init__(loss, max_skipped, complete=complete, rank=rank, rounded=rounded)
        self.audited, self.runs_short = audited, runs_short
        self.graphs: dict[Any, Graph] = {}
        self.made: tuple[Batch, list[Tensor]] | None = None
        """The step's batch, where it was made outside of the graph, and the states of torch's generators behind it."""
        self.is_quiet = False
        self.agreed: int | None = None
        """The last step at which graph and program agreed."""

    @property
    def name(self) -> str:
        """How steps are taken, and why."""
        return super().name if self.blocked else "traced"

    def take(self, state: State, index: Tensor, rows: GatherRows) -> tuple[Tensor, int]:
        """Loss and gradients by the graph."""
        if self.blocked or (self.runs_short and len(index) and index[-1] < 0):
            return super().take(state, index, rows)
        inputs, batch_of = self.inputs(state, index, rows)
        count = len(inputs[0])
        try:
            graph = self.graph(inputs, batch_of, rows)
        except UntraceableError as error:
            return self.give_up(str(error), state, index, rows)
        is_compared = self.due(state.step)
        expected = self.expected(state, index, rows) if is_compared else None
        try:
            loss, *gradients = graph(inputs)
        except (ValueError, RuntimeError) as error:  # torch refuses to draw from NaN, for the program too
            self.buffers.restore(torch.ones_like(state.bad, dtype=torch.bool))
            loss = self.backward(state, self.again(state, index, rows))
            if loss.isfinite():
                self.block(f"its graph fails where the program does not ({str(error).strip():.120})")
            return loss, count
        for parameter, gradient in zip(graph.parameters, gradients, strict=True):
            parameter.grad = gradient
        if expected is not None:
            reason = self.disagreement(state.step, loss, state.optimizer.gradient_norm(), expected)
            if reason:
                self.buffers.restore(torch.ones_like(state.bad, dtype=torch.bool))
                return self.give_up(reason, state, index, rows)
        return loss, count

    def due(self, step: int) -> bool:
        """Whether a step is to be compared: the first one, and where the steps have doubled since the graph agreed last."""
        return self.agreed is None or step >= 2 * max(self.agreed, 1) or self.audited(step)

    def inputs(self, state: State, index: Tensor, rows: GatherRows) -> tuple[list[Tensor], Callable[..., Batch]]:
        """The inputs of the graph, and the batch as a function of them; the step's noise is yet to draw.

        Rows of tensors are gathered inside the graph, whose input is their numbers. Other batches are made here.
        """
        if isinstance(rows, Memory) and rows.of_tensors:
            draw_from(noise_seed(state.seed, "step", state.step, self.rank), state.bad.device)
            return [rows.present(index)], rows.gather
        batch = self.batch(state, state.step, index, rows)
        self.made = batch, [generator.get_state() for generator in generators_of(state.bad.device)]
        tensors, tree_of = tensors_of((batch.index, batch.x, batch.covariates))
        return tensors, lambda *tensors: Batch(*tree_of(*tensors))

    def graph(self, inputs: list[Tensor], batch_of: Callable[..., Batch], rows: GatherRows) -> Graph:
        """The graph for inputs of these shapes, traced when they come first."""
        key = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        if key not in self.graphs:
            if len(self.graphs) == MOST_SHAPES:
                raise UntraceableError(f"batches have more than {MOST_SHAPES} shapes")
            others = [tensor.flip(0) for tensor in inputs]
            if batch_of == getattr(rows, "gather", None):  # other rows: the last ones for the first ones
                others = [self.loss.num_rows - 1 - inputs[0]]
            parameters = list(self.loss.announced.trained.values())
            loss = lambda *given: self.loss(batch_of(*given))  # noqa: E731
            try:
                self.graphs[key] = trace(loss, inputs, others, parameters, self.buffers.settle)
            finally:
                self.buffers.restore(torch.tensor(True))
        return self.graphs[key]

    def expected(self, state: State, index: Tensor, rows: GatherRows) -> Tensor:
        """The loss and the gradient's norm of a step that the program gives; nothing changes, the random state neither."""
        with torch.random.fork_rng([state.bad.device] if state.bad.is_cuda else []):
            loss = self.backward(state, self.again(state, index, rows))
            found = torch.stack([loss.double(), state.optimizer.gradient_norm()])
        state.optimizer.drop_gradients()
        self.buffers.restore(torch.ones_like(state.bad, dtype=torch.bool))
        return found

    def again(self, state: State, index: Tensor, rows: GatherRows) -> Batch:
        """The batch of a step whose inputs were made already, with the step's noise yet to draw.

        A transform or a loader, whose noise may be another one when it is asked again, is asked once for each step.
        """
        if self.made is None:
            return self.batch(state, state.step, index, rows)
        batch, states = self.made
        for generator, kept in zip(generators_of(state.bad.device), states, strict=True):
            generator.set_state(kept)
        return batch

    def give_up(self, reason: str, state: State, index: Tensor, rows: GatherRows) -> tuple[Tensor, int]:
        """Take this step and all that follow eagerly, and tell why once."""
        self.block(reason)
        state.optimizer.drop_gradients()
        batch = self.again(state, index, rows)
        return self.backward(state, batch), len(batch.index)

    def block(self, reason: str) -> None:
        """Take all steps from now on eagerly, and tell why; where nobody asked for graphs, in the history's ``engine`` alone.

        That a program has changed is told in any case.
        """
        self.blocked = reason
        if self.is_quiet and self.agreed is None:
            return
        warnings.warn(f"training goes on without a graph: {reason}", UserWarning, stacklevel=6)

    def disagreement(self, step: int, loss: Tensor, norm: Tensor, expected: Tensor) -> str | None:
        """What there is to say of a step of which the graph gives another loss or gradient norm than the program."""
        found, tolerance = (
            torch.stack([loss.double(), norm]),
            ROUNDED if self.rounded else TOLERANCE.get(loss.dtype, ROUNDED),
        )
        if torch.allclose(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True):
            self.agreed = step
            return None
        (value, length), (true_value, true_length) = found.tolist(), expected.tolist()
        since = "from the beginning"
        if self.agreed is not None:
            since = f"since step {self.agreed} at the earliest, and steps after it followed the old one"
        return (
            f"at step {step} the program gives a loss of {true_value:.8g} and a gradient of norm {true_length:.6g}, its graph "
            f"{value:.8g} and {length:.6g}: the program is another {since}"
        )


def generators_of(device: torch.device) -> list[torch.Generator]:
    """Torch's global generators of the processor and of a device."""
    others = [torch.cuda.default_generators[device.index or 0]] if device.type == "cuda" else []
    return [torch.default_generator, *others]
