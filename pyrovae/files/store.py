"""A folder of checkpoints: the newest few, each whole."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyrovae.errors import refusal
from pyrovae.files.atomic import DamagedError, parse_json, remove_leftovers
from pyrovae.files.container import read_tensors, write_tensors
from pyrovae.files.packing import pack, unpack

_KIND = "checkpoint"
_NAME = re.compile(r"checkpoint-(?P<step>\d{12})\.safetensors")
_STEP_LIMIT = 10**12


def save_tree(path: str | os.PathLike[str], tree: Any, kind: str = _KIND) -> Path:
    """Write a nested state into one file, atomically.

    Args:
        path: The file; name it `*.safetensors`, since any safetensors reader opens it.
        tree: The state, as `pack` takes it.
        kind: What the file is; a reader asks for the same kind.

    Returns:
        The path.

    Raises:
        TypeError: An entry cannot be kept; nothing was written.
        ValueError: As in `pack`.
        OSError: The folder cannot be written; nothing has changed there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     load_tree(save_tree(Path(folder) / "state.safetensors", {"step": 3, "betas": (0.9, 0.999)}))
        {'step': 3, 'betas': (0.9, 0.999)}
    """
    tensors, skeleton = pack(tree)
    return write_tensors(path, tensors, kind, {"tree": json.dumps(skeleton, separators=(",", ":"), allow_nan=False)})


def load_tree(path: str | os.PathLike[str], kind: str = _KIND) -> Any:
    """Read a nested state of `save_tree`, every bit as it was; tensors come back on the CPU.

    Args:
        path: The file.
        kind: The kind of file expected.

    Returns:
        The state.

    Raises:
        DamagedError: The file is truncated, altered or foreign.
        NewerFormatError: The file was written by a later version.
        OSError: The file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     load_tree(save_tree(Path(folder) / "state.safetensors", [1.0, None, {"a": "b"}]))
        [1.0, None, {'a': 'b'}]
    """
    tensors, texts = read_tensors(path, kind)
    try:
        return unpack(tensors, parse_json(texts.get("tree", "").encode(), "the state"))
    except DamagedError as error:
        raise DamagedError(f"{path}: {error}") from error


class CheckpointStore:
    """The checkpoints of one training, in a folder of their own.

    Args:
        folder: Where they stand, as `checkpoint-<step>.safetensors`; made by the first `save`.
        keep: How many to keep; the older ones are removed after each save.
        every_steps: `due` says yes after so many steps; None: never for this reason.
        every_minutes: `due` says yes after so many minutes; None: never for this reason.
        clock: Seconds from any origin, for tests.

    Raises:
        ValueError: `keep` below 1, or an interval that is not positive.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = CheckpointStore(folder, every_steps=10)
        ...     path = store.save({"beta": 0.5}, step=20)
        ...     tree, path = store.load_latest()
        ...     tree, path.name, store.due(25), store.due(30)
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
                raise ValueError(f"expected a positive {name}, got {interval}; None switches it off")
        self.folder = Path(folder)
        self.keep = keep
        self.every_steps = every_steps
        self.every_minutes = every_minutes
        self._clock = clock
        self._last_step = 0
        self._last_time = clock()
        self._damaged: list[Path] = []
        remove_leftovers(self.folder)

    def __repr__(self) -> str:
        return f"CheckpointStore({str(self.folder)!r}, keep={self.keep})"

    @property
    def paths(self) -> list[Path]:
        """The checkpoints in the folder, oldest first."""
        try:
            return sorted(path for path in self.folder.iterdir() if _NAME.fullmatch(path.name))
        except FileNotFoundError:
            return []

    def due(self, step: int) -> bool:
        """Whether it is time for a checkpoint.

        Args:
            step: The number of steps done since training began.

        Returns:
            Whether `every_steps` or `every_minutes` have passed since the last save or load.

        Example:
            >>> CheckpointStore("runs/unused", every_steps=5, every_minutes=None).due(4)
            False
        """
        by_steps = self.every_steps is not None and step - self._last_step >= self.every_steps
        return by_steps or (
            self.every_minutes is not None and self._clock() - self._last_time >= 60.0 * self.every_minutes
        )

    def save(self, tree: Any, step: int) -> Path:
        """Write a checkpoint, then remove those that are too many.

        Args:
            tree: The state, as `pack` takes it.
            step: The number of steps done since training began.

        Returns:
            The path of the new checkpoint.

        Raises:
            TypeError: An entry cannot be kept.
            ValueError: The step is not between 0 and 10^12, or as in `pack`.
            OSError: The folder cannot be written or the disk is full; the earlier checkpoints are intact.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     CheckpointStore(folder).save({}, step=7).name
            'checkpoint-000000000007.safetensors'
        """
        if not 0 <= step < _STEP_LIMIT:
            raise ValueError(f"expected a step from 0 to {_STEP_LIMIT - 1}, got {step}")
        path = save_tree(self.folder / f"checkpoint-{step:012d}.safetensors", tree)
        self._mark(step)
        self._rotate(path)
        return path

    def load_latest(self) -> tuple[Any, Path] | None:
        """Read the newest checkpoint that is whole.

        A damaged one is passed over with a warning, and removed after the next successful `save`.

        Returns:
            The state and its path; None where the folder holds no checkpoint.

        Raises:
            DamagedError: There are checkpoints, and none is whole.
            NewerFormatError: The newest was written by a later version.
            OSError: The folder or a file cannot be read.

        Example:
            >>> CheckpointStore("no/such/folder").load_latest() is None
            True
        """
        reasons = []
        for path in reversed(self.paths):
            try:
                tree = load_tree(path)
            except DamagedError as error:
                reasons.append(str(error))
                self._damaged.append(path)
                continue
            if reasons:
                warnings.warn(f"{'; '.join(reasons)}. Going on from the one before, {path.name}", stacklevel=2)
            self._mark(int(path.stem.removeprefix("checkpoint-")))
            return tree, path
        if reasons:
            raise DamagedError(
                f"no checkpoint in {str(self.folder)!r} is whole: {'; '.join(reasons)}. "
                "Remove them, or choose another folder, to start afresh"
            )
        return None

    def require_empty(self) -> None:
        """Refuse a folder that holds checkpoints already, for a training that begins afresh.

        Raises:
            ValueError: It holds some; they would be mistaken for this training's.

        Example:
            >>> CheckpointStore("no/such/folder").require_empty()
        """
        if paths := self.paths:
            raise refusal(
                f"{str(self.folder)!r} holds checkpoints already, the newest {paths[-1].name}: "
                "resume goes on from there; to start afresh remove them, or choose another folder",
                "resume",
            )

    def _mark(self, step: int) -> None:
        self._last_step, self._last_time = step, self._clock()

    def _rotate(self, newest: Path) -> None:
        older = [path for path in self.paths if path < newest and path not in self._damaged]
        for path in [*self._damaged, *older[: max(len(older) - self.keep + 1, 0)]]:
            if path != newest:
                with contextlib.suppress(OSError):  # one too many does no harm
                    path.unlink()
        self._damaged = []
