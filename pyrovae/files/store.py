"""A folder of checkpoints: the newest few, each whole."""

from __future__ import annotations

import contextlib
import os
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyrovae.errors import refusal
from pyrovae.files.atomic import DamagedError
from pyrovae.files.lock import locked
from pyrovae.files.state import load_state, save_state

_NAME = re.compile(r"checkpoint-(?P<step>\d{12})\.safetensors")
_STEP_LIMIT = 10**12


class CheckpointStore:
    """The checkpoints of one training, in a folder of their own.

    ``with store:`` holds the folder for this writer (see :func:`locked`): enter it before the first step. Reading needs
    no lock and writes nothing.

    Args:
        folder: where they stand, as ``checkpoint-<step>.safetensors``.
        keep: how many to keep; the older ones are removed after each save.
        every_steps: :meth:`due` says yes after so many steps; None: never for this reason.
        every_minutes: :meth:`due` says yes after so many minutes; None: never for this reason.
        clock: seconds from any origin, for tests.

    Raises:
        ValueError: ``keep`` below 1, or an interval that is not positive.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, CheckpointStore(folder, every_steps=10) as store:
    ...     path = store.save({"beta": 0.5}, step=20)
    ...     state, path = store.load_latest()
    ...     state, path.name, store.due(25), store.due(30)
    ({'beta': 0.5}, 'checkpoint-000000000020.safetensors', False, True)
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        keep: int = 2,
        *,
        every_steps: int | None = None,
        every_minutes: float | None = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if keep < 1:
            raise ValueError(f"expected keep of at least 1, got {keep}: with none kept there is nothing to resume from")
        for name, interval in (("every_steps", every_steps), ("every_minutes", every_minutes)):
            if interval is not None and not interval > 0:
                argument = name.replace("every", "checkpoint")
                raise refusal(f"expected a positive {name}, got {interval}; None switches it off", argument)
        self.folder, self.keep = Path(folder), keep
        self.every_steps, self.every_minutes = every_steps, every_minutes
        self._clock = clock
        self._damaged: list[Path] = []
        self._lock = contextlib.ExitStack()
        self._mark(0)

    def __repr__(self) -> str:
        return f"CheckpointStore({str(self.folder)!r}, keep={self.keep})"

    def __enter__(self) -> CheckpointStore:
        self._lock.enter_context(locked(self.folder))
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    @property
    def paths(self) -> list[Path]:
        """The checkpoints in the folder, oldest first."""
        try:
            return sorted(path for path in self.folder.iterdir() if _NAME.fullmatch(path.name))
        except FileNotFoundError:
            return []

    def due(self, step: int) -> bool:
        """Whether ``every_steps`` or ``every_minutes`` have passed since the last save or load."""
        steps, seconds = step - self._last_step, self._clock() - self._last_time
        by_time = self.every_minutes is not None and seconds >= 60.0 * self.every_minutes
        return by_time or (self.every_steps is not None and steps >= self.every_steps)

    def save(self, state: Any, step: int) -> Path:
        """Write a checkpoint, then remove those that are too many.

        Args:
            state: as :func:`save_state` takes it.
            step: the number of steps done since training began.

        Raises:
            TypeError: an entry cannot be kept.
            ValueError: the step is not between 0 and 10^12, or as in :func:`save_state`.
            OSError: the folder is in use or cannot be written, or the disk is full; the earlier checkpoints are intact.
        """
        if not 0 <= step < _STEP_LIMIT:
            raise ValueError(f"expected a step from 0 to {_STEP_LIMIT - 1}, got {step}")
        with locked(self.folder):
            path = save_state(self.folder / f"checkpoint-{step:012d}.safetensors", state)
            self._mark(step)
            whole = [other for other in self.paths if other < path and other not in self._damaged]
            for old in [*self._damaged, *whole[: max(len(whole) - self.keep + 1, 0)]]:
                if old != path:
                    with contextlib.suppress(OSError):  # one too many does no harm
                        old.unlink()
            self._damaged = []
        return path

    def load_latest(self) -> tuple[Any, Path] | None:
        """The newest checkpoint that is whole, with its path; None where the folder holds none.

        A damaged one is passed over with a warning, and removed after the next successful :meth:`save`.

        Raises:
            DamagedError: there are checkpoints, and none is whole.
            NewerFormatError: a later version wrote the newest.
        """
        reasons = []
        for path in reversed(self.paths):
            try:
                state = load_state(path)
            except DamagedError as error:
                reasons.append(str(error))
                self._damaged.append(path)
                continue
            if reasons:
                warnings.warn(f"{'; '.join(reasons)}. Going on from the one before, {path.name}", stacklevel=2)
            self._mark(int(path.stem.removeprefix("checkpoint-")))
            return state, path
        if reasons:
            raise DamagedError(
                f"no checkpoint in {str(self.folder)!r} is whole: {'; '.join(reasons)}. "
                "Remove them, or choose another folder, to start afresh"
            )
        return None

    def require_empty(self) -> None:
        """Refuse a folder that holds checkpoints, which would be mistaken for those of a training that begins afresh."""
        if paths := self.paths:
            raise refusal(
                f"{str(self.folder)!r} holds checkpoints already, the newest {paths[-1].name}: resume goes on from there; "
                "to start afresh remove them, or choose another folder",
                "resume",
            )

    def _mark(self, step: int) -> None:
        self._last_step, self._last_time = step, self._clock()
