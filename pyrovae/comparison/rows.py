"""Which rows and which results may be compared: held-out rows, the same rows, the same numbers, the same measure."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pyrovae.comparison.pointwise import Pointwise
from pyrovae.data import Data, as_data
from pyrovae.data.rows import leaves
from pyrovae.errors import refusal

LEAKED = 0.01
"""The share of held-out rows that may be training rows beyond what chance explains."""
SAME = 1e-3
"""The relative difference at which two sums of observed numbers still count as the same numbers."""
BLOCK = 4096
OVERFITTING = "on which overfitting wins: give held-out rows, or accept training rows by in_sample"
REMEDIES = {
    "rows": "evaluate all models on the same rows in the same order",
    "variant": "numbers on different variants of the data are of different things",
    "measure": "a density and a mass cannot be compared: put both on the same support, e.g. by a discretized likelihood",
    "entries": "log densities of different columns cannot be compared: let every model observe the same numbers",
    "magnitude": (
        "a log density changes with the unit of its data: let every model observe the same numbers, and put scalings and "
        "logarithms into the likelihood"
    ),
    "estimator": "evaluate all models with the same estimator",
    "num_samples": "evaluate all models with the same number of samples",
}


def check_held_out(
    data: Data, train: Any, in_sample: bool = False, *, argument: str = "data", advice: str = OVERFITTING
) -> list[str]:
    """Notes on rows that are meant to be held out.

    A held-out row may equal a training row by chance, where data are discrete. How often is known from the training rows:
    the share of them that have a twin. Rows are refused where more of them are training rows than that share explains, by
    five standard errors and one per cent of the rows, unless ``in_sample`` accepts training rows. The refusal is of
    ``argument`` and ends in ``advice``: what training rows do, and what to give instead.
    """
    if data.split == "train" and not in_sample:
        raise refusal(f"the rows are training rows, {advice}", argument)
    rows, notes = row_hashes(data), []
    repeated = len(rows) - len(set(rows))
    if repeated:
        notes.append(
            f"{repeated} of {len(rows)} rows repeat another row: if these are copies rather than observations of their own, "
            "the standard errors are too small"
        )
    if train is None or in_sample:
        return notes
    seen = Counter(row_hashes(as_data(train)))
    found, twins = sum(row in seen for row in rows), sum(count for count in seen.values() if count > 1)
    expected = twins / seen.total()
    chance = len(rows) * expected + 5 * math.sqrt(len(rows) * expected * (1 - expected))
    if found > chance + LEAKED * len(rows):
        raise refusal(f"{found} of {len(rows)} rows are training rows, {advice}", argument)
    if found:
        notes.append(f"{found} of {len(rows)} rows are among the training rows")
    return notes


def row_hashes(data: Data) -> list[bytes]:
    """One hash per row, equal for equal rows whatever their dtype, shape or storage, as in ``Data.fingerprint``."""
    found = []
    for start in range(0, len(data), BLOCK):
        dense = data[start : start + BLOCK].dense().x
        parts = [leaf.reshape(len(leaf), -1).cpu().float() for leaf, _ in leaves(dense)]
        block = torch.cat(parts, 1) + 0.0  # -0.0 becomes 0.0
        block = block.masked_fill(block.isnan(), torch.nan)
        found += [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in block.numpy()]
    return found


def check_comparable(results: Mapping[str, Sequence[Pointwise]], in_sample: bool) -> None:
    """Refuse results of different rows or quantities, or of training rows, naming what differs in which models."""
    every = [(name, result) for name, refits in results.items() for result in refits]
    sizes = {name: len(result.log_p) for name, result in every}
    if len({len(result.log_p) for _, result in every}) > 1:
        raise refusal(f"models have different numbers of rows: {sizes}", "models")
    for field, remedy in REMEDIES.items():
        known = [(name, value) for name, result in every if (value := getattr(result, field)) is not None]
        if any(not _same(value, known[0][1]) for _, value in known):
            if field == "magnitude" and any(result.measure == "mass" for _, result in every):
                continue  # a mass does not change with the unit
            listed = ", ".join(f"{name!r} {value}" for name, value in dict.fromkeys(known))
            raise refusal(f"models differ in {field}: {listed}. {remedy[0].upper()}{remedy[1:]}", "models")
    if not in_sample and any(result.split == "train" for _, result in every):
        raise refusal(
            "a result was computed on training rows: evaluate held-out rows, or accept them by in_sample", "models"
        )


def _same(one: Any, other: Any) -> bool:
    return math.isclose(one, other, rel_tol=SAME) if isinstance(one, float) else one == other
