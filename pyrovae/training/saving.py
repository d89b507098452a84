"""Training state to checkpoints and back, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pyrovae.files import (
    CheckpointStore,
    check_state,
    load_optimizer_state,
    optimizer_state,
    rng_state,
    set_rng_state,
)
from pyrovae.training.loop import Loop, State


class Saver:
    """Writes a loop's state to a store when a checkpoint is due, and puts it back.

    Args:
        store: the folder of checkpoints.
        settings: what a resumed run must have in common with the one that was saved.
    """

    def __init__(self, store: CheckpointStore, settings: Mapping[str, Any]) -> None:
        self.store = store
        self.settings = dict(settings)

    def __call__(self, loop: Loop, force: bool) -> None:
        """Save if due, or if forced; where batches cannot be replayed, at the start of an epoch only."""
        at_rest = loop.source.resumes_within_epochs or loop.state.batch == 0
        if at_rest and (force or self.store.due(loop.state.step)):
            self.store.save(self._tree(loop), loop.state.step)

    def check(self, loop: Loop) -> None:
        """Refuse, before training, a state that could not be saved.

        Raises:
            TypeError: the optimizer, the scheduler or a setting holds something that is neither number, text nor tensor.
        """
        check_state(self._tree(loop))

    def resume(self, loop: Loop) -> bool:
        """Put the newest whole checkpoint's state into a loop; False where there is none.

        Raises:
            ValueError: the checkpoint is of another program, data or settings.
        """
        found = self.store.load_latest()
        if found is None:
            return False
        tree, path = found
        _require_parts(tree, str(path))
        self._compare(tree["settings"], str(path))
        loop.weights.load(tree["weights"])
        load_optimizer_state(loop.step.optimizer.torch_optimizer, tree["optimizer"], loop.step.names, str(path))
        if loop.step.optimizer.scheduler is not None:
            loop.step.optimizer.scheduler.load_state_dict(tree["scheduler"])
        loop.state = State(**tree["state"])
        loop.best = tree["best"]
        loop.history.rows = tree["history"]
        loop.step.in_a_row = loop.state.in_a_row
        loop.bar.update(loop.state.step)
        set_rng_state(tree["rng"], loop.source.generators)
        return True

    def _tree(self, loop: Loop) -> dict[str, Any]:
        scheduler = loop.step.optimizer.scheduler
        return {
            "settings": self.settings,
            "weights": loop.weights.tensors(),
            "best": loop.best,
            "optimizer": optimizer_state(loop.step.optimizer.torch_optimizer, loop.step.names),
            "scheduler": None if scheduler is None else scheduler.state_dict(),
            "state": asdict(loop.state),
            "history": loop.history.rows,
            "rng": rng_state(loop.source.generators),
        }

    def _compare(self, saved: Mapping[str, Any], path: str) -> None:
        different = [name for name, value in self.settings.items() if saved.get(name) != value]
        if different:
            name = different[0]
            raise ValueError(
                f"{path} was saved with {name}={saved.get(name)!r}, this run has {self.settings[name]!r}: resume with the same "
                "settings, or start afresh in another folder"
            )


def _require_parts(tree: Mapping[str, Any], path: str) -> None:
    missing = sorted({"settings", "weights", "best", "optimizer", "scheduler", "state", "history", "rng"} - tree.keys())
    if missing:
        raise ValueError(
            f"{path} is no checkpoint of a training, it lacks {', '.join(missing)}: name the folder that fit(checkpoint=) "
            "wrote, or start afresh in another folder"
        )
