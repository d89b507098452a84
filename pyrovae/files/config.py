"""The file that says what a run is, and the checksums that hold the run together."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pyrovae.files import DamagedError, NewerFormatError, read_json
from pyrovae.files.atomic import open_regular

VERSION = 1
FORMAT = "pyrovae-run"
CONFIG, MODEL, HISTORY = "config.json", "model.safetensors", "history.csv"
FIGURE = re.compile(r"figures/[A-Za-z0-9][A-Za-z0-9_-]{0,99}\.png")
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float64, torch.float32, torch.bfloat16)}


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def sealed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with a checksum over its content, however it is laid out."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return {**config, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a run's ``config.json``, checked.

    Raises:
        FileNotFoundError: there is none.
        DamagedError: it was altered or is not of this library's making.
        NewerFormatError: it was written by a later version.
    """
    path = folder / CONFIG
    try:
        config = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"{str(folder)!r} holds no run (there is no {CONFIG}): give the folder that save, or pyrovae train, wrote"
        ) from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise DamagedError(f"{path} is not of a pyrovae run")
    version = config.get("version")
    if type(version) is not int or version < 1:
        raise DamagedError(f"{path} has no valid format version")
    if version > VERSION:
        raise NewerFormatError(
            f"{path} has format version {str(version)[:20]}, this pyrovae reads up to {VERSION}: "
            "upgrade it (`pip install --upgrade pyrovae`)"
        )
    content = {key: value for key, value in config.items() if key != "sha256"}
    if sealed(content)["sha256"] != config.get("sha256"):
        raise DamagedError(f"{path} was altered: its checksum does not match its content")
    _check_config(config, path)
    return config


def _check_config(config: Mapping[str, Any], path: Path) -> None:
    maybe = (dict, type(None))
    kinds = {
        "spec": maybe,
        "data": maybe,
        "dtype": str,
        "files": dict,
        "versions": dict,
        "settings": dict,
        "results": dict,
    }
    for key, kind in kinds.items():
        if key not in config or not isinstance(config[key], kind):  # type: ignore[arg-type]
            raise DamagedError(f"{path} has no valid {key!r}")
    command = config.get("command") or []
    if not isinstance(command, list) or not all(isinstance(part, str) for part in command):
        raise DamagedError(f"{path} has no valid 'command'")
    for name, checksum in config["files"].items():
        if name not in (MODEL, HISTORY) and not FIGURE.fullmatch(name):
            raise DamagedError(f"{path} lists a file {name[:100]!r}, which no run has")
        if not isinstance(checksum, str):
            raise DamagedError(f"{path} lists no checksum of {name!r}")


def check_file(folder: Path, name: str, files: Mapping[str, str]) -> None:
    """Refuse a file of a run that is missing or not the one that was saved, by the run's list of checksums."""
    if name not in files:
        raise DamagedError(f"{folder / CONFIG} lists no {name}")
    try:
        found = digest(folder / name)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{str(folder)!r} lacks {name}, which belongs to the run: copy the whole folder"
        ) from None
    if found != files[name]:
        raise DamagedError(f"{folder / name} was altered, truncated, or belongs to another run: its checksum differs")
