"""Finished batches of a long computation, kept in a file so that it can go on where it was stopped."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.data.rows import leaves, take
from pyrovae.programs.draws import Draws

ROWS = 4096


class Progress:
    """Results of batches by number, in memory, and in a file if there is one; every new batch is saved atomically.

    Args:
        path: the file, in numpy's npz format without pickles.
        call: what identifies the call that the results belong to.

    Raises:
        ValueError: the file holds the results of another call.
    """

    def __init__(self, path: str | Path | None = None, call: str = "") -> None:
        self.path, self.call = None if path is None else Path(path), call
        self.results: dict[int, dict[str, Tensor]] = {}
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def __contains__(self, number: int) -> bool:
        return number in self.results

    def __setitem__(self, number: int, result: dict[str, Tensor]) -> None:
        self.results[number] = result
        if self.path is not None:
            self._write(self.path)

    def parts(self) -> list[dict[str, Tensor]]:
        """The results in the order of the batches."""
        return [self.results[number] for number in sorted(self.results)]

    def _read(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["call"]) != self.call:
                raise ValueError(
                    f"{path} holds results of another program, data or setting: name another file, or delete it"
                )
            for key in stored.files:
                if key != "call":
                    number, name = key.split("/", 1)
                    self.results.setdefault(int(number), {})[name] = torch.from_numpy(stored[key])

    def _write(self, path: Path) -> None:
        arrays: dict[str, Any] = {
            f"{n}/{name}": value.numpy() for n, part in self.results.items() for name, value in part.items()
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


def fingerprint(draws: Draws, settings: Any) -> str:
    """A hash of the program's parameters, the data, the seed and the settings."""
    digest = hashlib.sha256(repr((settings, draws.seed, draws.num_samples, draws.chunk_size, draws.vectorize)).encode())
    for name, tensor in sorted(draws.dry_run.announced.tensors.items()):
        _add(digest, name, tensor)
    data = draws.data
    for rows, path in [*leaves(data.x), *leaves(dict(data.covariates or {}), "covariates")]:
        for start in range(0, len(data), ROWS):
            _add(digest, path, take(rows, slice(start, start + ROWS)))
    return digest.hexdigest()


def _add(digest: Any, name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
    digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
