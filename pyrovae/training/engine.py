"""What changes during training (the state), and what changes it (an engine): guarded steps along a plan."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import pyro
import torch
from torch import Tensor

from pyrovae.compiling.products import by_onednn
from pyrovae.data import Batch
from pyrovae.errors import check_integer
from pyrovae.missing import complete_data
from pyrovae.programs import Buffers, announcements_off
from pyrovae.training.explain import is_about_numbers
from pyrovae.training.loss import Loss
from pyrovae.training.optimizer import TorchOptimizer
from pyrovae.training.rows import draw_from, noise_seed

GatherRows = Callable[[Tensor], Batch]
NO, YES = torch.tensor(False), torch.tensor(True)


class Plan(NamedTuple):
    """The steps that an engine is to take."""

    rows: Tensor
    """Of shape ``(steps, batch)``, int64: the numbers of the rows in each batch; -1 fills an incomplete batch."""
    numbers: dict[str, Tensor]
    """Of shape ``(steps,)``: the values of the schedules (``learning_rate``, ``beta``, ...) at each step."""


class Outcomes(NamedTuple):
    """What the steps of a plan gave, each of shape ``(steps,)``."""

    loss: Tensor
    """Per row of the data."""
    gradient_norm: Tensor
    """Of the gradient per row of the data, before it is clipped."""
    rows: Tensor
    """The rows in the batch."""

    @property
    def taken(self) -> Tensor:
        """Whether loss and gradient were finite, so that the step was taken."""
        return (self.loss + self.gradient_norm).isfinite()


@dataclass
class State:
    """Everything that decides how training goes on; a checkpoint is this, saved.

    Args:
        weights: all parameters and buffers by name: the live tensors.
        optimizer: the optimizer, which holds the moments.
        seed: what the noise of each step is drawn from, with the step's number.
        bad: a 0-dim tensor, the steps in a row, up to now, whose loss or gradient was not finite.
        step: the steps done, those that were skipped included.
        values: plain values of the callbacks, by the callback's name.
    """

    weights: dict[str, Tensor]
    optimizer: TorchOptimizer
    seed: int
    bad: Tensor
    step: int = 0
    values: dict[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    """Anything that takes the steps of a plan: from a state to the next one."""

    def run(self, state: State, plan: Plan, rows: GatherRows) -> tuple[State, Outcomes]:
        """Take the steps; ``rows`` gives the batch of some row numbers.

        A step whose loss or gradient is not finite changes neither weights, moments nor buffers. After more than
        ``max_skipped`` of them in a row no step changes anything any more.
        """


class Eager:
    """The engine that runs the program by Pyro's handlers, one step after the other.

    Args:
        loss: the loss, which owns the modules.
        max_skipped: steps in a row that may be skipped.
        complete: no entry of any batch is missing.
        rank: the number of this process among those that train together.
        rounded: the factors of products of matrices are rounded to bfloat16, where the processor multiplies these faster.
    """

    def __init__(
        self, loss: Loss, max_skipped: int, *, complete: bool = False, rank: int = 0, rounded: bool = False
    ) -> None:
        self.loss, self.complete, self.rank, self.rounded = loss, complete, rank, rounded
        self.max_skipped = check_integer("max_skipped", max_skipped, least=0)
        self.buffers = Buffers(loss.announced.modules.values())

    blocked: str | None = None
    """Why steps are eager that were to be replayed."""
    beside: Callable[[], object] = staticmethod(lambda: None)
    """Begins to compile what is waited for beside the step."""

    @property
    def name(self) -> str:
        """How steps are taken, and why."""
        return f"eager: {self.blocked}" if self.blocked else "eager"

    def run(self, state: State, plan: Plan, rows: GatherRows) -> tuple[State, Outcomes]:
        """Take the steps of a plan. The first one checks that the program announces no other parameters than before.

        Raises:
            ValueError: a parameter is announced that the optimizer does not know.
        """
        numbers = {name: values.tolist() for name, values in plan.numbers.items()}
        losses, norms, counts = [], [], []
        with pyro.validation_enabled(False), complete_data(self.complete), ExitStack() as stack:
            stack.enter_context(by_onednn(self.rounded))
            for number, index in enumerate(plan.rows):
                for name, values in numbers.items():
                    self.set_number(state, name, values[number])
                self.buffers.keep()
                loss, count = self.take(state, index, rows)
                norm = state.optimizer.gradient_norm()
                stop = self.stop(state, loss, norm)
                state.optimizer.update(norm, stop)
                self.buffers.restore(stop)
                state.step += 1
                losses.append(loss)
                norms.append(norm)
                counts.append(count)
                if number == 0 and self.loss.differentiable:
                    stack.enter_context(announcements_off())
        return state, Outcomes(torch.stack(losses).cpu(), torch.stack(norms).cpu(), torch.tensor(counts))

    def stop(self, state: State, loss: Tensor, norm: Tensor) -> Tensor:
        """Whether a step is to be skipped, a 0-dim tensor; counts the skipped ones in a row."""
        if not state.bad.is_cpu:
            stop = (loss + norm).isfinite().logical_not_().logical_or_(state.bad > self.max_skipped)
            state.bad.add_(1).mul_(stop)
            return stop
        bad = state.bad.item()
        if math.isfinite(loss.item() + norm.item()) and bad <= self.max_skipped:
            if bad:
                state.bad.zero_()
            return NO
        state.bad.add_(1)
        return YES

    def take(self, state: State, index: Tensor, rows: GatherRows) -> tuple[Tensor, int]:
        """The loss of a step, its gradient in the parameters; and the rows of its batch."""
        batch = self.batch(state, state.step, index, rows)
        return self.backward(state, batch), len(batch.index)

    def set_number(self, state: State, name: str, value: float) -> None:
        """Set the learning rate, a beta or the capacity."""
        if name == "learning_rate":
            state.optimizer.set_learning_rate(value)
        else:
            self.loss.set_number(name, value)

    def batch(self, state: State, step: int, index: Tensor, rows: GatherRows) -> Batch:
        """The batch of a step, with the step's noise yet to draw: a transform draws first, then the program."""
        draw_from(noise_seed(state.seed, "step", step, self.rank), state.bad.device)
        return rows(index)

    def backward(self, state: State, batch: Batch) -> Tensor:
        """The loss per row of the data, its gradient added to the parameters; NaN where Pyro refuses a parameter's value."""
        try:
            loss = self.loss(batch)
            if loss.requires_grad:
                loss.backward()
        except (ValueError, RuntimeError) as error:
            state.optimizer.drop_gradients()
            try:
                is_a_matter_of_numbers = is_about_numbers(self.loss, error, batch)
            finally:
                self.buffers.restore(torch.ones_like(state.bad, dtype=torch.bool))
            if not is_a_matter_of_numbers:
                raise
            return torch.full_like(state.bad, torch.nan)
        return loss.detach()
