"""Training to checkpoints and back, bit for bit, and what a resumed run must have in common with the one that was saved."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pyrovae.data import Batches
from pyrovae.errors import refusal
from pyrovae.files import (
    CheckpointStore,
    check_state,
    different_parts,
    load_optimizer_state,
    optimizer_state,
    parts_of,
    rng_state,
    set_rng_state,
)
from pyrovae.schedules import Schedule
from pyrovae.training.loop import Best, Callback, Loop

_DATA = ("data", "validation")
_SPAN = re.compile(r"\b(epochs|steps)=([\d.e+-]+)")
_KEYS = {"settings", "weights", "best", "optimizer", "scheduler", "counters", "values", "history", "rng"}


class Save(Callback):
    """Writes the state to a store when a checkpoint is due, and puts it back.

    Args:
        store: the folder of checkpoints.
        settings: what a resumed run must have in common with the one that was saved, see :func:`settings_of`.
        best: holds the best weights.
    """

    def __init__(self, store: CheckpointStore, settings: Mapping[str, Any], best: Best) -> None:
        self.store, self.settings, self.best = store, dict(settings), best
        self.saved = 0

    def after_chunk(self, loop: Loop) -> str | None:
        """Save if it is time: batches of a loader cannot be replayed, so with one only between epochs."""
        if loop.outcomes is None:
            self.saved = loop.state.step
        elif self.store.due(loop.state.step):
            self.save(loop)
        if self.store.every_steps is not None:
            self.most = max(1, self.saved + self.store.every_steps - loop.state.step)
        return None

    def at_end(self, loop: Loop) -> None:
        """Save."""
        self.save(loop)

    def resume(self, loop: Loop) -> None:
        """Put the newest whole checkpoint into a loop, if there is one.

        Raises:
            ValueError: the checkpoint is of another program, data or settings, or has more steps than are asked for.
        """
        found = self.store.load_latest()
        if found is None:
            return
        tree, path = found
        lacking = sorted(_KEYS - tree.keys())
        if lacking:
            raise refusal(
                f"{path} is no checkpoint of a training, it lacks {', '.join(lacking)}: name the folder that a training wrote, "
                "or start afresh in another folder",
                "checkpoint",
            )
        state, counters = loop.state, tree["counters"]
        self._compare(tree["settings"], str(path))
        if counters["step"] > loop.total:
            raise refusal(
                f"the checkpoint has {counters['step']} steps, more than the {loop.total} asked for: ask for at least "
                f"{math.ceil(counters['step'] / loop.rows.steps)} epochs",
                "epochs",
            )
        self._load_weights(loop, tree["weights"], str(path))
        trained = loop.engine.loss.announced.trained
        load_optimizer_state(state.optimizer.torch_optimizer, tree["optimizer"], trained, str(path))
        if state.optimizer.scheduler is not None:
            state.optimizer.scheduler.load_state_dict(tree["scheduler"])
        state.bad.copy_(counters["bad"])
        state.step, state.seed, state.values = counters["step"], counters["seed"], tree["values"]
        loop.rows.seed, loop.seconds = counters["seed"], counters["seconds"]
        loop.history.rows, self.best.weights = tree["history"], tree["best"]
        set_rng_state(tree["rng"], loop.rows.generators)

    def save(self, loop: Loop) -> None:
        """Write a checkpoint."""
        if loop.rows.replayable or loop.state.step % loop.rows.steps == 0:
            self.store.save(self.tree(loop), loop.state.step)
            self.saved = loop.state.step

    def tree(self, loop: Loop) -> dict[str, Any]:
        """The state with everything beside it, as a file keeps it."""
        state = loop.state
        scheduler = state.optimizer.scheduler
        return {
            "settings": self.settings,
            "weights": {name: tensor.detach() for name, tensor in state.weights.items()},
            "best": self.best.weights,
            "optimizer": optimizer_state(state.optimizer.torch_optimizer, loop.engine.loss.announced.trained),
            "scheduler": None if scheduler is None else scheduler.state_dict(),
            "counters": {"step": state.step, "seed": state.seed, "bad": state.bad, "seconds": loop.seconds},
            "values": state.values,
            "history": loop.history.rows,
            "rng": rng_state(loop.rows.generators),
        }

    @torch.no_grad()
    def _load_weights(self, loop: Loop, saved: Mapping[str, Any], path: str) -> None:
        live = loop.state.weights
        other = sorted(live.keys() ^ saved.keys())
        other += [n for n in live if n in saved and (live[n].shape, live[n].dtype) != (saved[n].shape, saved[n].dtype)]
        if other:
            raise refusal(
                f"{path} holds the weights of another program: {', '.join(other[:3])} differ in name, shape or dtype; build the "
                "program that was saved, in its dtype",
                "program",
            )
        for name, tensor in live.items():
            tensor.copy_(saved[name])

    def _compare(self, saved: Mapping[str, Any], path: str) -> None:
        found = []
        for name, here in self.settings.items():
            there = saved.get(name)
            if name == "parts":
                words = different_parts(there or {}, here)
                found += [f"the program's part {words}"] if words else []
            elif there != here:
                words = f"{name}={there!r}, this run has {here!r}"
                found.append(
                    f"other {name} (rows, columns or covariates)" if name in _DATA and there and here else words
                )
        if found:
            raise refusal(
                f"{path} was saved with {'; '.join(found[:3])}: resume with the same settings, or start afresh in another folder",
                "resume",
            )


@contextmanager
def checkpoints(
    loop: Loop, store: CheckpointStore, best: Best, held_out: Batches | None, resume: bool, **given: Any
) -> Iterator[None]:
    """Write checkpoints while a loop runs, after going on from the newest one; the folder is locked meanwhile.

    Args:
        loop: the loop, before its first step.
        store: the folder of checkpoints.
        best: holds the best weights.
        held_out: the validation rows.
        resume: go on from the newest checkpoint, if there is one; else there must be none.
        **given: settings by name that a resumed run must have in common with the one that was saved.

    Raises:
        TypeError: the optimizer, the scheduler or a setting holds something that is neither number, text nor tensor.
        ValueError: the checkpoint is of another training, or there is one.
        OSError: the folder cannot be written or is in use.
    """
    settings, notes = settings_of(loop, held_out, given)
    save = Save(store, settings, best)
    check_state(save.tree(loop))
    with store:
        if resume:
            save.resume(loop)
            loop.history.notes += notes
        else:
            store.require_empty()
        loop.callbacks = [*loop.callbacks, save]
        yield


def settings_of(loop: Loop, held_out: Batches | None, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What a resumed run must have in common with the one that was saved, as plain values; and notes of what is not compared.

    A schedule over the whole training may go on to more epochs. A function is known by its name alone.
    """
    loss, optimizer, data = loop.engine.loss, loop.state.optimizer, loop.rows.data
    whole = {"epochs": loop.total / loop.rows.steps, "steps": loop.total}
    notes: list[str] = []

    def plain(name: str, value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, Tensor):
            return value.tolist()
        if isinstance(value, Mapping):
            return {str(key): plain(f"{name}[{key!r}]", item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(name, item) for item in value]
        if isinstance(value, Schedule):
            return _SPAN.sub(lambda m: f"{m[1]}=all" if float(m[2]) == whole[m[1]] else m[0], repr(value))
        text = f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else repr(value)
        if hasattr(value, "__qualname__") or " at 0x" in text:
            text = re.sub(r" at 0x\w+", "", text)
            notes.append(
                f"{name} is known to a checkpoint by its name alone ({text}): whether it is the same is not checked"
            )
        return text

    objective = {name: value for name, value in vars(loss.given).items() if name != "max_plate_nesting"}
    groups = optimizer.torch_optimizer.param_groups
    modules = loss.announced.modules
    parts = {f"{p}.{n}".strip("."): text for p, module in modules.items() for n, text in parts_of(module).items()}
    specs = {prefix: vars(module)["spec"].to_json() for prefix, module in modules.items() if "spec" in vars(module)}
    settings = {
        "parts": parts,
        "spec": specs,
        "objective": {"class": type(loss.given).__name__, **plain("objective", objective)},
        "optimizer": {
            "class": type(optimizer.torch_optimizer).__name__,
            "groups": plain("optimizer", [{k: v for k, v in group.items() if k != "params"} for group in groups]),
        },
        "data": None if data is None else data.fingerprint(),
        "transform": None if data is None else plain("transform", data.transform),
        "validation": None if held_out is None else held_out.data.fingerprint(),
        **{name: plain(name, value) for name, value in given.items()},
    }
    return settings, notes
