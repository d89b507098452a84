"""What a training was begun with, kept beside its checkpoints, so that resuming needs no option and forgets none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyrovae.errors import refusal

CHANGEABLE = ("epochs", "patience", "device")
"""Options that may be others when training is resumed."""


def remembered(folder: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the training in a folder was begun with, and those that are asked for now.

    Raises:
        ValueError: an option is asked for that differs from what the training was begun with.
    """
    from pyrovae.files import read_json

    begun = read_json(_path(folder)) if _path(folder).exists() else {}
    for name, value in asked.items():
        value = list(value) if isinstance(value, tuple) else value
        if name in begun and begun[name] != value and name not in CHANGEABLE:
            raise refusal(
                f"{folder} was begun with {begun[name]}, and this request is for {value}: leave the option out, or choose "
                "another folder",
                name,
            )
    return {**begun, **asked}


def keep(folder: Path, options: Mapping[str, Any]) -> None:
    """Write down what a training is begun with, unless checkpoints of one are there: ``fit`` says what becomes of them."""
    from pyrovae.files import CheckpointStore, write_json_atomic

    if not CheckpointStore(_path(folder).parent).paths:
        write_json_atomic(_path(folder), dict(options))


def _path(folder: Path) -> Path:
    return folder / "checkpoints" / "begun.json"
