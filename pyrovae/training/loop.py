"""The loop around the engine: a chunk of steps at a time, and callbacks between two chunks: the bar, the history, the best."""

from __future__ import annotations

import math
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrovae.compiling.products import denormals_as_zero
from pyrovae.data import Batch
from pyrovae.errors import check_integer, refusal
from pyrovae.files import StopRequest
from pyrovae.missing import rows_text
from pyrovae.programs import eval_mode
from pyrovae.programs.supports import check_data
from pyrovae.schedules import Progress, Schedule
from pyrovae.training.engine import Eager, Outcomes, Plan, State
from pyrovae.training.explain import explain
from pyrovae.training.history import History
from pyrovae.training.rows import Loader, Rows
from pyrovae.training.validation import Evaluation

Number = float | Callable[[Progress], float]
SECONDS = 0.5
"""About how long a chunk of steps takes, after which the host reads their outcomes."""


def value_of(number: Number, progress: Progress) -> float:
    """A number, or what a schedule gives at this progress.

    Raises:
        ValueError: a schedule gave a negative or non-finite number.
    """
    if not callable(number):
        return float(number)
    value = float(number(progress))
    if not 0 <= value < math.inf:
        raise ValueError(
            f"the schedule {number!r} gave {value} at step {progress.step}: expected a finite number of at least 0"
        )
    return value


class Callback:
    """What happens between two chunks of steps (abstract)."""

    most: float = math.inf
    """Steps that the next chunk may have at most."""

    def after_chunk(self, loop: Loop) -> str | None:
        """Look at the loop; a text says why training is to end. Called before the first chunk, too."""

    def at_end(self, loop: Loop) -> None:
        """Called once after the last chunk, in the reverse order of the callbacks."""


@dataclass
class Loop:
    """Training under one plan: chunks of steps by an engine, callbacks between them.

    Args:
        state: the state.
        engine: the engine.
        rows: where batches come from.
        numbers: learning rate, betas and capacity by name: numbers or schedules.
        total: steps in all.
        history: the table of training.
        evaluation: gives the columns of the ELBO's terms.
        callbacks: called in this order after each chunk.
    """

    state: State
    engine: Eager
    rows: Rows
    numbers: Mapping[str, Number]
    total: int
    history: History
    evaluation: Evaluation
    callbacks: Sequence[Callback]
    outcomes: Outcomes | None = None
    seconds: float = 0.0

    def run(self) -> History:
        """Train to the end of the plan, or until something stops it.

        Raises:
            FloatingPointError: too many steps in a row were not finite; the weights are those before them.
        """
        ended, length, began = self.between(), 1, time.monotonic() - self.seconds
        with StopRequest() as stop:
            while ended is None and self.state.step < self.total:
                started = time.monotonic()
                plan = self.plan(length)
                with denormals_as_zero():
                    self.state, self.outcomes = self.engine.run(self.state, plan, self.rows)
                self.check(self.outcomes.taken)
                now = time.monotonic()
                self.seconds = now - began
                length = max(1, min(int(len(plan.rows) * SECONDS / max(now - started, 1e-6)), 8 * len(plan.rows)))
                ended = self.between() or ("interrupted" if stop.requested else None)
            self.history.ended, self.history.engine = ended or "finished", self.engine.name
            for callback in reversed(self.callbacks):
                callback.at_end(self)
        if stop.signal == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)
        return self.history

    def between(self) -> str | None:
        """Call the callbacks; why training is to end, if it is."""
        reasons = [callback.after_chunk(self) for callback in self.callbacks]
        return next((reason for reason in reasons if reason), None)

    def plan(self, length: int) -> Plan:
        """The next steps: to the end of the epoch at most."""
        step, steps = self.state.step, self.rows.steps
        limits = [length, steps - step % steps, self.total - step, *(callback.most for callback in self.callbacks)]
        count = int(min(limits)) if self.rows.replayable else 1
        schedules = {name: number for name, number in self.numbers.items() if callable(number)}
        progress = [Progress.at(step + number, steps) for number in range(count)] if schedules else []
        tables = {name: [value_of(number, at) for at in progress] for name, number in schedules.items()}
        numbers = {name: torch.tensor(table, dtype=torch.float64) for name, table in tables.items()}
        return Plan(self.rows.plan(step, count), numbers)

    def check(self, taken: Tensor) -> None:
        """Read which steps were taken: raise where data lie outside their support, or too many steps in a row were skipped.

        Raises:
            ValueError: the data of a batch lie outside their support; names the step, the site and the rows.
            FloatingPointError: more than ``max_skipped`` steps in a row, or all of them, were not finite.
        """
        bad, state = int(self.state.bad), self.state
        if self.engine.loss.checked and not taken.all():
            step = state.step - len(taken) + int((~taken).nonzero()[0])
            batch = self.replayed(step)
            try:
                with eval_mode(self.engine.loss.parts), self.rows.numbered(batch):
                    check_data(*self.engine.loss.arguments(batch)[:3])
            except ValueError as error:
                counted = ", rows counted within its batch" if self.rows.data is None else ""
                raise ValueError(f"step {step}{counted}: {error}") from error
        if bad <= self.engine.max_skipped and not (bad and state.step == self.total):
            return
        self.engine.buffers.keep()
        found = explain(self.engine.loss, self.replayed(state.step - bad))
        state.optimizer.drop_gradients()
        self.engine.buffers.restore(torch.tensor(True))
        message = (
            f"{min(bad, self.engine.max_skipped + 1)} steps in a row had a loss or a gradient that is not finite; the weights "
            f"are those before them. {found} Try a smaller learning rate, a clip_norm of 1, scaled data, or float64."
        )
        if bad >= self.total:
            raise FloatingPointError(f"No step was taken: {message}")
        if bad > self.engine.max_skipped:
            raise FloatingPointError(message)
        warnings.warn(f"training ended on skipped steps: {message}", UserWarning, stacklevel=4)

    def replayed(self, step: int) -> Batch:
        """The batch of a step that was done, with its noise to be drawn again; of a loader, the batch that came last."""
        if isinstance(self.rows, Loader) and self.rows.last is not None:
            return self.rows.last
        return self.engine.batch(self.state, step, self.rows.plan(step, 1)[0], self.rows)

    @property
    def epoch_is_over(self) -> bool:
        """Whether the last chunk ended an epoch, or the training."""
        done = self.state.step % self.rows.steps == 0 or self.state.step == self.total
        return self.outcomes is not None and done

    def number(self, name: str) -> float:
        """A number at the last step that was done."""
        return value_of(self.numbers[name], Progress.at(max(self.state.step - 1, 0), self.rows.steps))


class Bar(Callback):
    """A tqdm bar of steps, by default shown on a terminal alone; or a function that is told of each epoch in its place."""

    def __init__(self, total: int, progress: bool | Callable[[History], object] | None) -> None:
        from tqdm.auto import tqdm

        self.tell = progress if callable(progress) else None
        hidden = self.tell is not None or (not sys.stderr.isatty() if progress is None else not progress)
        self.bar = tqdm(total=total, disable=hidden, unit="step", dynamic_ncols=True)
        self.done = 0

    def after_chunk(self, loop: Loop) -> str | None:
        """Move the bar on, and show the last row's numbers."""
        self.bar.update(loop.state.step - self.done)
        self.done = loop.state.step
        if loop.epoch_is_over:
            row = loop.history.rows[-1]
            shown = {name: row[name] for name in ("loss", "elbo", "validation_elbo") if row[name] is not None}
            self.bar.set_postfix({name: f"{value:.2f}" for name, value in shown.items()})
            if self.tell:
                self.tell(loop.history)
        return None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()


class Epochs(Callback):
    """Adds the outcomes up, and writes the history's row at the end of each epoch."""

    def after_chunk(self, loop: Loop) -> str | None:
        """Add the chunk's outcomes to the sums of the epoch under way."""
        if loop.outcomes is None:
            return None
        sums = loop.state.values.setdefault("epoch", {"loss": 0.0, "rows": 0, "norm": 0.0, "taken": 0, "skipped": 0})
        for loss, norm, rows in zip(*(column.tolist() for column in loop.outcomes), strict=True):
            taken = math.isfinite(loss + norm)  # one by one: a sum over chunks would depend on where they end
            sums["skipped"] += not taken
            if taken:
                sums["taken"] += 1
                sums["rows"] += rows
                sums["loss"] += loss * rows
                sums["norm"] += norm
        if loop.epoch_is_over:
            loop.evaluation.traced &= loop.engine.blocked is None
            del loop.state.values["epoch"]
            group = loop.state.optimizer.torch_optimizer.param_groups[0]
            row = {
                "epoch": len(loop.history) + 1,
                "step": loop.state.step,
                "loss": sums["loss"] / sums["rows"] if sums["taken"] else None,
                "beta": loop.number(next(name for name in loop.numbers if name.startswith("beta"))),
                **loop.evaluation(),
                "learning_rate": group["lr"],
                "gradient_norm": sums["norm"] / sums["taken"] if sums["taken"] else None,
                "skipped": sums["skipped"],
                "seconds": loop.seconds,
            }
            loop.history.rows.append(row)
        return None

    def at_end(self, loop: Loop) -> None:
        """Warn of a beta that ended below its schedule's target."""
        done = Progress.at(loop.state.step, loop.rows.steps)
        for name, number in loop.numbers.items() if loop.history.ended == "finished" else ():
            if name.startswith("beta") and isinstance(number, Schedule) and not number.reached(done):
                where = f" of site {name.partition('/')[2]!r}" if "/" in name else ""
                warnings.warn(
                    f"training ended at beta{where} = {value_of(number, done):g} before {number} reached its target "
                    f"{number.end:g}: train longer or shorten the schedule, since evidence is reported at beta 1",
                    UserWarning,
                    stacklevel=4,
                )


class Best(Callback):
    """Follows the validation ELBO: keeps the best weights, and stops when it has not risen for some epochs.

    An ELBO that is not finite is never the best.

    Args:
        patience: epochs without a better ELBO after which training ends, or None.
        keep: end with the best weights; by default where there are validation rows.
        validated: whether there are validation rows.
    """

    def __init__(self, patience: int | None, keep: bool | None, validated: bool) -> None:
        name = "keep_best" if patience is None else "patience"
        if (keep or patience is not None) and not validated:
            message = f"{name} needs validation, data or the fraction of the training rows to hold out"
            raise refusal(message, name)
        self.patience = patience if patience is None else check_integer("patience", patience)
        self.keep = validated if keep is None else keep
        self.warned = False
        self.weights: dict[str, Tensor] | None = None

    def after_chunk(self, loop: Loop) -> str | None:
        """Compare the last row's ELBO with the best one so far."""
        best = loop.state.values.setdefault("best", {"elbo": -math.inf, "epoch": None, "stale": 0})
        elbo = loop.history.rows[-1]["validation_elbo"] if loop.epoch_is_over else None
        if elbo is not None and math.isfinite(elbo) and elbo > best["elbo"]:
            best |= {"elbo": elbo, "epoch": loop.history.rows[-1]["epoch"], "stale": 0}
            if self.keep:
                self.weights = {name: tensor.detach().clone() for name, tensor in loop.state.weights.items()}
        elif elbo is not None:
            best["stale"] += 1
            if not math.isfinite(elbo) and not loop.state.bad:
                self._warn(loop)
        return "early stopping" if self.patience is not None and best["stale"] >= self.patience else None

    def _warn(self, loop: Loop) -> None:
        """Say once which validation rows have no finite ELBO."""
        if not self.warned:
            self.warned = True
            warnings.warn(
                f"the validation ELBO of epoch {len(loop.history)} is not finite, in {rows_text(loop.evaluation.bad)}, and such "
                "an epoch is never the best: a value at the edge of a density's support (an exact 0 under Beta or Gamma) has "
                "an infinite log density; move it inside, or mark it as missing (NaN)",
                UserWarning,
                stacklevel=7,
            )

    @torch.no_grad()
    def at_end(self, loop: Loop) -> None:
        """Put the best weights back."""
        if self.weights is not None:
            for name, tensor in loop.state.weights.items():
                tensor.copy_(self.weights[name])
            loop.history.best_epoch = loop.state.values["best"]["epoch"]


class Asked(Callback):
    """The user's callbacks, called with the history after each epoch; a true answer ends training."""

    def __init__(self, callbacks: Sequence[Callable[[History], Any]]) -> None:
        uncallable = [callback for callback in callbacks if not callable(callback)]
        if uncallable:
            message = f"callbacks must be functions of the history, got {uncallable[0]!r}"
            raise refusal(message, "callbacks", TypeError)
        self.callbacks = tuple(callbacks)

    def after_chunk(self, loop: Loop) -> str | None:
        """Call them all."""
        if not (self.callbacks and loop.epoch_is_over):
            return None
        asked = [bool(callback(loop.history)) for callback in self.callbacks]
        loop.engine.loss.check_parameters()
        return "stopped by a callback" if any(asked) else None
