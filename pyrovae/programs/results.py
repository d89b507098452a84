"""Finished blocks of long work, in memory, and in a folder so that the work can go on where it was stopped."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from pyrovae.errors import refusal
from pyrovae.files import DamagedError, load_state, save_state

KIND = "results of a block of rows"


class Results:
    """Results of blocks by number, in memory, and in a folder if there is one: a file for each block, whole or absent.

    Args:
        folder: where the files are.
        call: what identifies the call that the results belong to.

    Raises:
        ValueError: the folder holds the results of another call.
    """

    def __init__(self, folder: str | Path | None = None, call: str = "") -> None:
        if folder is not None and not isinstance(folder, str | PathLike):
            raise refusal(f"resume must be the path of a folder, got {folder!r:.100}", "resume", TypeError)
        self.folder, self.call = None if folder is None else Path(folder), call
        self.blocks: dict[int, dict[str, Tensor]] = {}
        for path in [] if self.folder is None else sorted(self.folder.glob("*.safetensors")):
            try:
                stored = load_state(path, KIND)
            except DamagedError:
                warnings.warn(f"{path} is damaged: the work on its rows begins anew", stacklevel=2)
                continue
            if stored["call"] != call:
                raise ValueError(
                    f"{folder} holds results of another program, data or setting: name another folder, or delete it"
                )
            self.blocks[int(path.stem)] = stored["columns"]

    def __contains__(self, number: int) -> bool:
        return number in self.blocks

    def __setitem__(self, number: int, result: dict[str, Tensor]) -> None:
        self.blocks[number] = result
        if self.folder is not None:
            save_state(self.folder / f"{number:08d}.safetensors", {"call": self.call, "columns": result}, KIND)

    def joined(self, numbers: Iterable[int], dim: int) -> dict[str, Tensor]:
        """The results of some blocks in order, joined along their rows."""
        parts = [self.blocks[number] for number in numbers]
        return {name: torch.cat([part[name] for part in parts], dim) for name in parts[0]}
