"""A run's folder: what it says of itself, and how it is replaced as a whole."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyrovae.errors import refusal
from pyrovae.files.atomic import DamagedError, NewerFormatError, explained, synchronize, temporary_of
from pyrovae.files.config import (
    CONFIG,
    FIGURE,
    HISTORY,
    NEXT,
    STATE,
    check_file,
    read_config,
    read_config_file,
)
from pyrovae.files.lock import locked

_HISTORY_LIMIT = 2**26  # bytes


@dataclass(frozen=True)
class Run:
    """What a run folder says of itself, read and checked; the weights are left where they are.

    Attributes:
        folder: the folder.
        config: the content of ``config.json``.
        history: the columns of ``history.csv``; None where a number does not exist.
        figures: the paths of the figures.

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
        """Read the folder that ``save`` wrote.

        Raises:
            FileNotFoundError: there is no run, or a file of it is missing.
            DamagedError: a file was altered, is truncated or not of this library's making.
            NewerFormatError: a later version wrote it.
        """
        folder = Path(folder)
        config = read_config(folder)
        paths = {name: check_file(folder, name, config["files"]) for name in sorted(config["files"]) if name != STATE}
        history = _parse_history(paths[HISTORY]) if HISTORY in paths else {}
        return cls(folder, config, history, tuple(path for name, path in paths.items() if FIGURE.fullmatch(name)))

    @property
    def spec(self) -> dict[str, Any] | None:
        """The fields of :class:`pyrovae.presets.Spec`, or None for a VAE that was composed of classes."""
        return self.config["spec"]

    def __repr__(self) -> str:
        kind = "a composition" if self.spec is None else f"{self.spec['likelihood']}, prior {self.spec['prior']}"
        data = self.config["data"] or {}
        return f"Run({str(self.folder)!r}, {kind}, data={data.get('name')!r}, variant={data.get('variant')!r})"


def _parse_history(path: Path) -> dict[str, list[Any]]:
    if path.stat().st_size > _HISTORY_LIMIT:
        raise DamagedError(f"{path} is larger than {_HISTORY_LIMIT} bytes")
    try:
        names, *lines = csv.reader(io.StringIO(path.read_bytes().decode()), strict=True)
        columns = list(zip(*lines, strict=True)) or [()] * len(names)
        return {n: [_number(text) for text in column] for n, column in zip(names, columns, strict=True)}
    except (ValueError, csv.Error) as error:
        raise DamagedError(f"{path} is no table of numbers: {str(error)[:200]}") from error


def _number(text: str) -> float | int | None:
    if not text:
        return None
    return int(text) if re.fullmatch(r"-?\d{1,18}", text) else float(text)


@contextlib.contextmanager
def replaced_run(folder: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Give an empty folder to write a run into; at the end of the block it replaces the run in ``folder``, as a whole.

    The files are written and synchronized beside the run. One rename to ``.next`` makes them the run; then each moves to its
    place, ``config.json`` last. Until then readers look into ``.next`` first, and the next writer completes the moves of a
    killed one. So an error, a full disk or a kill leaves the old run or the new one.

    Args:
        folder: the run's folder; made if need be. Other files in it stay.
        overwrite: replace a run that stands there; else its presence is a ValueError.
    """
    folder = Path(folder)
    with locked(folder):
        require_no_run(folder, overwrite)
        staged = temporary_of(folder / "run")
        try:
            staged.mkdir()
            yield staged
            for name in (CONFIG, *read_config_file(staged / CONFIG)["files"]):
                if (folder / name).is_dir() or (folder / name).parent.is_file():
                    raise explained(FileExistsError(errno.EEXIST, "in the way"), folder / name)
            os.rename(staged, folder / NEXT)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        _settle(folder)


def require_no_run(folder: Path, overwrite: bool = False) -> None:
    """Refuse a folder that holds a run, unless it may be replaced; call it in :func:`locked`.

    Raises:
        ValueError: there is a run.
    """
    _settle(folder)
    if (folder / CONFIG).exists() and not overwrite:
        raise refusal(
            f"{str(folder)!r} holds a run already: choose another folder, resume or overwrite it", "overwrite"
        )


def _settle(folder: Path) -> None:
    """Move the files of ``.next`` to their places, and remove those of the former run that the new one lacks."""
    staged = folder / NEXT
    if (staged / CONFIG).exists():
        new, former = read_config_file(staged / CONFIG)["files"], _listed(folder / CONFIG)
        for name in new:
            if (staged / name).exists():
                (folder / name).parent.mkdir(exist_ok=True)
                os.replace(staged / name, folder / name)
        for name in former - new.keys():
            (folder / name).unlink(missing_ok=True)
        os.replace(staged / CONFIG, folder / CONFIG)
    shutil.rmtree(staged, ignore_errors=True)
    synchronize(folder)


def _listed(config: Path) -> set[str]:
    try:
        return set(read_config_file(config)["files"])
    except (FileNotFoundError, DamagedError, NewerFormatError):
        return set()
