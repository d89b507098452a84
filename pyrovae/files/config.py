"""The file that says what a run is, and the checksums that hold the run's files together."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pyrovae.files.atomic import DamagedError, check_version, open_regular, read_json

VERSION = 1
FORMAT = "pyrovae-run"
CONFIG, STATE, HISTORY = "config.json", "state.safetensors", "history.csv"
NEXT = ".next"
FIGURE = re.compile(r"figures/[A-Za-z0-9][A-Za-z0-9_-]{0,99}\.png")
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float64, torch.float32, torch.bfloat16)}
_MAYBE = (dict, type(None))
_KINDS: Mapping[str, Any] = {
    "spec": _MAYBE,
    "data": _MAYBE,
    "command": (list, type(None)),
    "dtype": str,
    "class": str,
    **dict.fromkeys(("files", "parts", "versions", "settings", "results"), dict),
}


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def sealed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with a checksum over its content, however it is laid out."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return {**config, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def locate(folder: Path, name: str) -> Path:
    """Where a file of a run lies: in the subfolder ``.next`` if its writer was killed before it moved it to its place."""
    waiting = folder / NEXT / name
    return waiting if waiting.exists() else folder / name


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a run's ``config.json``, checked.

    Raises:
        FileNotFoundError: there is none.
        DamagedError: it was altered or is not of this library's making.
        NewerFormatError: a later version wrote it.
    """
    try:
        return read_config_file(locate(folder, CONFIG))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"{str(folder)!r} holds no run (there is no {CONFIG}): give the folder that save, or pyrovae train, wrote"
        ) from None


def read_config_file(path: Path) -> dict[str, Any]:
    """The content of one such file; raises as :func:`read_config`."""
    config = read_json(path)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise DamagedError(f"{path} is not of a pyrovae run")
    check_version(config.get("version"), VERSION, path)
    if sealed({key: value for key, value in config.items() if key != "sha256"}) != config:
        raise DamagedError(f"{path} was altered: its checksum does not match its content")
    for key, kind in _KINDS.items():
        if key not in config or not isinstance(config[key], kind):
            raise DamagedError(f"{path} has no valid {key!r}")
    texts = {"command": config["command"] or (), "parts": config["parts"].values(), "files": config["files"].values()}
    for key, values in texts.items():
        if not all(isinstance(value, str) for value in values):
            raise DamagedError(f"{path} has no valid {key!r}: expected texts in it")
    for name in config["files"]:
        if name not in (STATE, HISTORY) and not FIGURE.fullmatch(name):
            raise DamagedError(f"{path} lists a file {name[:100]!r}, which no run has")
    return config


def check_file(folder: Path, name: str, files: Mapping[str, str]) -> Path:
    """The path of a run's file; one that is missing or not the one that was saved is refused, by the run's checksums."""
    if name not in files:
        raise DamagedError(f"{folder / CONFIG} lists no {name}")
    path = locate(folder, name)
    try:
        found = digest(path)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{str(folder)!r} lacks {name}, which belongs to the run: copy the whole folder"
        ) from None
    if found != files[name]:
        raise DamagedError(f"{path} was altered, truncated, or belongs to another run: its checksum differs")
    return path
