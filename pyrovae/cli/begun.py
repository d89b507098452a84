"""Which data a training was begun on, kept beside its checkpoints: it goes on with the same, or says what differs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrovae.files import CheckpointStore, read_json, write_json_atomic

if TYPE_CHECKING:
    from pyrovae.cli.train import Request
    from pyrovae.data import Data


def keep_or_compare(folder: Path, request: Request, rows: Data) -> None:
    """Write down what a training begins on; where it goes on, compare.

    Args:
        folder: of the run.
        request: what was asked for.
        rows: the data that were found.

    Raises:
        ValueError: it was begun on other data, or checkpoints are there and are not to be resumed from.
    """
    store = CheckpointStore(folder / "checkpoints")
    path = store.folder / "data.json"
    here = {"data": request.data, "variant": rows.variant, "split_seed": request.split_seed}
    if not request.resume:
        store.require_empty()
    if not store.paths:
        write_json_atomic(path, here)
    elif path.exists():
        _compare(folder, read_json(path), here)


def _compare(folder: Path, begun: Any, here: dict[str, Any]) -> None:
    if begun == here or not isinstance(begun, dict):
        return
    words = ["pyrovae", "train", str(begun.get("data"))]
    words += ["--variant", str(begun["variant"])] if begun.get("variant") else []
    words += ["--split-seed", str(begun.get("split_seed", 0)), "--out", str(folder), "--resume"]
    raise ValueError(
        f"{folder} was begun on {_said(begun)}, and this request is for {_said(here)}: write {shlex.join(words)}, with its "
        "other options, or choose another --out"
    )


def _said(of: dict[str, Any]) -> str:
    variant = f" ({of['variant']})" if of.get("variant") else ""
    return f"{of.get('data')}{variant} with --split-seed {of.get('split_seed', 0)}"
