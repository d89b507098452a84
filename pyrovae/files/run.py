"""What a run says of itself."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyrovae.files import DamagedError
from pyrovae.files.config import FIGURE, HISTORY, MODEL, check_file, read_config

_HISTORY_LIMIT = 2**26  # bytes


@dataclass(frozen=True)
class Run:
    """What a run folder says of itself, read and checked; the weights are left where they are.

    Attributes:
        folder: The folder.
        config: The content of ``config.json``.
        history: The columns of ``history.csv``; None where a number does not exist.
        figures: The paths of the figures.

    Example:
        >>> import tempfile, torch
        >>> import pyrovae as pvae
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = Run.read(pvae.save(torch.nn.Linear(2, 1), folder, seed=7))
        >>> run.config["seed"], run.spec is None
        (7, True)
    """

    folder: Path
    config: Mapping[str, Any]
    history: Mapping[str, list[Any]]
    figures: tuple[Path, ...]

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Run:
        """Read a run folder.

        Args:
            folder: The folder that `save` wrote.

        Returns:
            The run.

        Raises:
            FileNotFoundError: There is no run, or a file of it is missing.
            DamagedError: A file was altered, is truncated or not of this library's making.
            NewerFormatError: It was written by a later version.
        """
        folder = Path(folder)
        config = read_config(folder)
        files = config["files"]
        for name in files:
            if name != MODEL:
                check_file(folder, name, files)
        history = _parse_history(folder / HISTORY) if HISTORY in files else {}
        return cls(folder, config, history, tuple(folder / name for name in sorted(files) if FIGURE.fullmatch(name)))

    @property
    def spec(self) -> dict[str, Any] | None:
        """The fields of `pyrovae.presets.Spec`, or None for a VAE that was composed of classes."""
        return self.config["spec"]

    def __repr__(self) -> str:
        kind = "a composition" if self.spec is None else f"{self.spec['likelihood']}, prior {self.spec['prior']}"
        data = self.config["data"] or {}
        return f"Run({str(self.folder)!r}, {kind}, data={data.get('name')!r}, variant={data.get('variant')!r})"


def _parse_history(path: Path) -> dict[str, list[Any]]:
    if path.stat().st_size > _HISTORY_LIMIT:
        raise DamagedError(f"{path} is larger than {_HISTORY_LIMIT} bytes")
    try:
        rows = list(csv.reader(io.StringIO(path.read_bytes().decode()), strict=True))
        names, *lines = rows
        columns = list(zip(*lines, strict=True)) or [()] * len(names)
        return {n: [_number(text) for text in column] for n, column in zip(names, columns, strict=True)}
    except (ValueError, csv.Error) as error:
        raise DamagedError(f"{path} is no table of numbers: {str(error)[:200]}") from error


def _number(text: str) -> float | int | None:
    if not text:
        return None
    return int(text) if re.fullmatch(r"-?\d{1,18}", text) else float(text)
