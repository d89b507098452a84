"""Sequences of unequal length as one tensor: from lists, from JSON, from the lines of a text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.data.convert import as_data
from pyrovae.data.locate import read_bytes
from pyrovae.data.table import Data
from pyrovae.data.text import Vocabulary


def padded(sequences: Iterable[Any]) -> Tensor:
    """Sequences of unequal length as one tensor ``(rows, T, *shape)``, where NaN follows the end of a shorter one.

    Args:
        sequences: each an array or a list of steps, ``(steps, *shape)``.

    Raises:
        ValueError: there is no sequence, one has no step, or steps differ in their shape.

    >>> padded([[1, 2, 3], [4]])
    tensor([[1., 2., 3.],
            [4., nan, nan]])
    """
    try:
        rows = [torch.as_tensor(np.asarray(sequence, dtype=np.float32)) for sequence in sequences]
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected sequences of steps of one shape, each of numbers, got others ({error})") from None
    shapes = {tuple(row.shape[1:]) for row in rows}
    if len(shapes) != 1 or not all(row.ndim and len(row) for row in rows):
        raise ValueError(
            f"expected sequences of at least one step, all steps of one shape, got {len(rows)} with steps of the shapes "
            f"{sorted(shapes)}"
        )
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=torch.nan)


def read_sequences(path: Path, key: str | None) -> Tensor:
    """The sequences of a JSON file: a list of lists of steps, or one of several such lists by its name."""
    found = json.loads(read_bytes(path))
    if isinstance(found, dict):
        if key not in found:
            raise ValueError(f"expected one list of sequences, got: {', '.join(map(repr, found))}; say which, array=")
        found = found[key]
    return padded(found)


def load_text(
    path: str | Path, *, words: bool = False, most: int = 10_000, num_steps: int | None = None
) -> tuple[Data, Vocabulary]:
    """The lines of a text file as rows of codes ``(rows, num_steps)``, and their vocabulary; empty lines are left out.

    Args:
        path: a UTF-8 text, which may be compressed.
        words: take words and punctuation instead of characters.
        most: at most so many tokens.
        num_steps: the length of a row, by default that of the longest line and its end; longer lines are left out.

    Raises:
        ValueError: no line is left, or the file cannot be read.
    """
    lines = [line for line in read_bytes(Path(path)).decode().splitlines() if line.strip()]
    split = Vocabulary((), words).split
    lines = [line for line in lines if num_steps is None or len(split(line)) < num_steps]
    if not lines:
        raise ValueError(
            f"expected lines of fewer than {num_steps} tokens in {path}, got none; give a larger num_steps"
        )
    vocabulary = Vocabulary.of(lines, words, most)
    return as_data(vocabulary.encode(lines, num_steps)), vocabulary


def read_lines(path: Path, variant: str) -> Data:
    """The lines of a text file as codes of characters or words, whose tokens are the levels of ``"token"``."""
    rows, vocabulary = load_text(path, words=variant == "words")
    return replace(rows, name=path.name, variant=variant, levels={"token": vocabulary.tokens})
