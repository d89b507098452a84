"""The loop around the step: epochs, schedules, validation, early stopping, interruption and checkpoints."""

from __future__ import annotations

import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyro.infer.elbo import ELBO
from torch import Tensor

from pyrovae.files import StopRequest
from pyrovae.objectives import CapacityELBO
from pyrovae.schedules import Progress, Schedule
from pyrovae.training.history import History
from pyrovae.training.sources import Source
from pyrovae.training.step import Outcome, Step
from pyrovae.training.weights import Weights

Number = float | Callable[[Progress], float]


@dataclass(frozen=True)
class Plan:
    """What training does, fixed from its start.

    Args:
        total_steps: steps in all.
        steps_per_epoch: steps in one epoch.
        beta: a number or schedule for each site name; the key None stands for every other site.
        learning_rate: a number or schedule, or None to leave it to the optimizer.
        patience: epochs without a better validation ELBO after which training stops.
        keep_best: put the weights of the best validation ELBO back at the end.
        callbacks: called with the history after each epoch; a true answer stops training.
    """

    total_steps: int
    steps_per_epoch: int
    beta: dict[str | None, Number]
    learning_rate: Number | None
    patience: int | None
    keep_best: bool
    callbacks: Sequence[Callable[[History], Any]]


@dataclass
class State:
    """Where training stands: everything that a resumed run needs beside weights, optimizer and random state."""

    step: int = 0
    batch: int = 0
    sums: dict[str, float] = field(default_factory=lambda: {"loss": 0.0, "norm": 0.0, "taken": 0.0, "skipped": 0.0})
    best_elbo: float = -math.inf
    best_epoch: int | None = None
    stale: int = 0
    in_a_row: int = 0
    seconds: float = 0.0
    order_state: Any = None
    """The data generator's state before the order of the epoch under way was drawn."""


class Loop:
    """Training of one program under one plan.

    Args:
        plan: what to do.
        step: the guarded step.
        source: where batches come from.
        betas: the 0-dim tensors that the beta handler reads, by site.
        weights: the module or the parameters being trained.
        evaluate: gives the columns of the ELBO's terms for the history.
        history: the table to fill.
        bar: a tqdm bar.
        objective: the ELBO, whose capacity is advanced if it has one.
        checkpoint: called with the loop when a checkpoint may be due (``force`` when it must be written), or None.
    """

    def __init__(
        self,
        plan: Plan,
        step: Step,
        source: Source,
        betas: dict[str | None, Tensor],
        weights: Weights,
        evaluate: Callable[[], dict[str, float | None]],
        history: History,
        bar: Any,
        objective: ELBO,
        checkpoint: Callable[[Loop, bool], None] | None = None,
    ) -> None:
        self.plan, self.step, self.source, self.betas = plan, step, source, betas
        self.weights, self.evaluate, self.history, self.bar = weights, evaluate, history, bar
        self.objective = objective
        self.checkpoint = checkpoint
        self.state = State()
        self.best: dict[str, Tensor] | None = None
        self._last: Any = (step.program, (), {})

    def run(self) -> History:
        """Train to the end of the plan, or until something stops it."""
        self.history.ended = "finished"
        started = time.monotonic() - self.state.seconds
        with StopRequest() as stop:
            for outcome in self._steps():
                self._record(outcome)
                self._check_last(outcome)
                self.state.seconds = time.monotonic() - started
                if self._epoch_is_over() and self._close_epoch():
                    break
                if stop.requested:
                    self.history.ended = "interrupted"
                    break
                if self.checkpoint is not None:
                    self.checkpoint(self, False)
            self._finish()
        if stop.signal == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)
        return self.history

    def progress(self) -> Progress:
        """How far training has come."""
        return Progress.at(self.state.step, self.plan.steps_per_epoch)

    def _steps(self) -> Iterator[Outcome]:
        state = self.state
        while state.step < self.plan.total_steps and not self._stopped_early():
            for batch in self.source.along(self._order(), first=state.batch):
                self._advance_schedules()
                program, args, kwargs, size = self.source.arguments(batch)
                self._last = program, args, kwargs
                yield self.step(program, args, kwargs, size)
                if state.step >= self.plan.total_steps or state.batch == 0 or self._stopped_early():
                    break

    def _check_last(self, outcome: Outcome) -> None:
        """Say so where training ends on skipped steps; an error where none was ever taken."""
        if not outcome.skipped or self.state.step < self.plan.total_steps:
            return
        message = self.step.explain_skipped(*self._last)
        if self.step.in_a_row >= self.plan.total_steps:
            raise FloatingPointError(f"No step was taken: {message}")
        warnings.warn(f"training ended on skipped steps: {message}", UserWarning, stacklevel=4)

    def _order(self) -> Tensor | None:
        """The order of this epoch's rows; of an epoch that was resumed in its middle, the order that it had."""
        state, generator = self.state, self.source.generator
        if state.batch == 0:
            state.order_state = generator.get_state()
            return self.source.order()
        here = generator.get_state()
        generator.set_state(state.order_state)
        order = self.source.order()
        generator.set_state(here)
        return order

    def _advance_schedules(self) -> None:
        progress = self.progress()
        for site, number in self.plan.beta.items():
            self.betas[site].fill_(value_of(number, progress))
        if self.plan.learning_rate is not None:
            self.step.optimizer.set_learning_rate(value_of(self.plan.learning_rate, progress))
        if isinstance(self.objective, CapacityELBO):
            self.objective.advance(progress)

    def _record(self, outcome: Outcome) -> None:
        state, sums = self.state, self.state.sums
        state.step += 1
        state.batch += 1
        state.in_a_row = self.step.in_a_row
        sums["skipped" if outcome.skipped else "taken"] += 1
        if not outcome.skipped:
            sums["loss"] += outcome.loss
            sums["norm"] += outcome.gradient_norm
        self.bar.update(1)

    def _epoch_is_over(self) -> bool:
        return self.state.batch == self.plan.steps_per_epoch or self.state.step == self.plan.total_steps

    def _close_epoch(self) -> bool:
        """Write the epoch's row; whether training should stop."""
        state, sums = self.state, self.state.sums
        taken = max(sums["taken"], 1.0)
        row = {
            "epoch": len(self.history) + 1,
            "step": state.step,
            "loss": sums["loss"] / taken if sums["taken"] else None,
            "beta": float(next(iter(self.betas.values()))),
            **self.evaluate(),
            "learning_rate": self.step.optimizer.torch_optimizer.param_groups[0]["lr"],
            "gradient_norm": sums["norm"] / taken if sums["taken"] else None,
            "skipped": int(sums["skipped"]),
            "seconds": state.seconds,
        }
        self.history.rows.append(row)
        self._note_best(row)
        state.sums = State().sums
        state.batch = 0
        self.bar.set_postfix(
            {name: f"{row[name]:.2f}" for name in ("loss", "elbo", "validation_elbo") if row[name] is not None}
        )
        asked = [bool(callback(self.history)) for callback in self.plan.callbacks]
        if any(asked):
            self.history.ended = "stopped by a callback"
        return any(asked)

    def _note_best(self, row: dict[str, Any]) -> None:
        elbo = row["validation_elbo"]
        if elbo is None:
            return
        if elbo > self.state.best_elbo:
            self.state.best_elbo, self.state.best_epoch, self.state.stale = elbo, row["epoch"], 0
            if self.plan.keep_best:
                self.best = self.weights.copy()
        else:
            self.state.stale += 1

    def _stopped_early(self) -> bool:
        return self.plan.patience is not None and self.state.stale >= self.plan.patience

    def _finish(self) -> None:
        self.bar.close()
        if self.checkpoint is not None:
            self.checkpoint(self, True)
        if self.history.ended == "finished":
            if self._stopped_early():
                self.history.ended = "early stopping"
            self._warn_unreached()
        if self.best is not None:
            self.weights.load(self.best)
            self.history.best_epoch = self.state.best_epoch

    def _warn_unreached(self) -> None:
        for site, number in self.plan.beta.items():
            if isinstance(number, Schedule) and not number.reached(self.progress()):
                where = "" if site is None else f" of site {site!r}"
                warnings.warn(
                    f"training ended at beta{where} = {value_of(number, self.progress()):g} before {number} reached its target "
                    f"{number.end:g}: train longer or shorten the schedule, since evidence is reported at beta 1",
                    UserWarning,
                    stacklevel=4,
                )


def value_of(number: Number, progress: Progress) -> float:
    """A number, or what a schedule says at this progress.

    Raises:
        ValueError: a schedule gave a negative or non-finite number.
    """
    if not callable(number):
        return number
    value = float(number(progress))
    if not 0 <= value < math.inf:
        raise ValueError(
            f"the schedule {number!r} gave {value} at step {progress.step}: expected a finite number of at least 0"
        )
    return value
