"""Finished blocks of long work, in memory, and in a file so that the work can go on where it was stopped."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Results:
    """Results of blocks by number, in memory, and in a file if there is one; every new block is saved atomically.

    Args:
        path: the file, in numpy's npz format without pickles.
        call: what identifies the call that the results belong to.

    Raises:
        ValueError: the file holds the results of another call.
    """

    def __init__(self, path: str | Path | None = None, call: str = "") -> None:
        self.path, self.call = None if path is None else Path(path), call
        self.blocks: dict[int, dict[str, Tensor]] = {}
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def __contains__(self, number: int) -> bool:
        return number in self.blocks

    def __setitem__(self, number: int, result: dict[str, Tensor]) -> None:
        self.blocks[number] = result
        if self.path is not None:
            self._write(self.path)

    def joined(self, numbers: Iterable[int], dim: int) -> dict[str, Tensor]:
        """The results of some blocks in order, joined along their rows."""
        parts = [self.blocks[number] for number in numbers]
        return {name: torch.cat([part[name] for part in parts], dim) for name in parts[0]}

    def _read(self, path: Path) -> None:
        try:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
                stored = {key: file[key] for key in file.files}
            call = str(stored.pop("call"))
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
            warnings.warn(f"{path} is damaged: the work begins anew", stacklevel=2)
            return
        if call != self.call:
            raise ValueError(
                f"{path} holds results of another program, data or setting: name another file, or delete it"
            )
        for key, values in stored.items():
            number, name = key.split("/", 1)
            self.blocks.setdefault(int(number), {})[name] = torch.from_numpy(values)

    def _write(self, path: Path) -> None:
        arrays: dict[str, Any] = {
            f"{n}/{name}": value.numpy() for n, part in self.blocks.items() for name, value in part.items()
        }
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with open(partial, "wb") as stream:
                np.savez(stream, call=np.array(self.call), **arrays)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
