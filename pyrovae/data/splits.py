"""Rows split at random, by groups or by time: into a part to train on and parts to judge by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.data.convert import as_data
from pyrovae.data.frames import aligned, time_ranks
from pyrovae.data.kinds import is_number
from pyrovae.data.table import Data
from pyrovae.errors import check_word, refusal


def split(data: Any, fraction: float, seed: int = 0, *, groups: Any = None, time: Any = None) -> tuple[Data, Data]:
    """Split rows into a part to train on and a part to validate on, at random unless ``time`` is given.

    Args:
        data: rows of any kind that :func:`as_data` takes.
        fraction: the share of the rows in the second part, in (0, 1).
        seed: the seed of the split.
        groups: the group of each row, such as its patient: the name of a label, or one value per row. Rows of one group
            stay together, so that the fraction is kept only roughly.
        time: the time of each row, likewise: the last rows are validated on, and rows of one time stay together. With
            groups too, these stay together instead, in the order of the times of their last rows.

    Returns:
        The training part and the validation part, each in the order of the data. Where the data has a per-batch
        transform, the validation part is drawn once, with the same seed.

    Raises:
        ValueError: the fraction is not in (0, 1), or leaves a part without a row.

    >>> first, second = split(Data(torch.zeros(10, 2)), 0.2, seed=0)
    >>> len(first), len(second)
    (8, 2)
    """
    if not 0 < fraction < 1:
        raise ValueError(f"expected a fraction in (0, 1), got {fraction}; write fraction=0.1 for a tenth of the rows")
    data = as_data(data)
    keys = keys_of_rows(data, groups, time)
    parts = parts_of_rows(len(data), {"validation": max(1, round(fraction * len(data)))}, seed, keys, time is not None)
    whole = replace(data, parts=parts, seed=seed)
    return whole.train, replace(whole[parts["validation"]], split="validation").drawn(seed)


def keys_of_rows(data: Data, groups: Any, time: Any) -> Tensor | None:
    """The number of each row's group or time, in ascending order of their values; of groups with times by their last one."""
    import pandas as pd

    if groups is not None and time is not None:
        group, moment = (np.asarray(keys_of_rows(data, *key)) for key in ((groups, None), (None, time)))
        last = pd.Series(moment).groupby(group).max().rank(method="first").to_numpy(np.int64) - 1
        return torch.from_numpy(last[group])
    name, given = ("groups", groups) if time is None else ("time", time)
    what = f"{name} {given!r}" if isinstance(given, str) else name
    if given is None:
        return None
    if isinstance(given, str):
        if not data.labels:
            raise refusal(f"{what} is the name of a label, and the rows have none: give one value per row", name)
        codes = (data.labels or {})[check_word(name, given, data.labels or {})].numpy()
        named = data.levels.get(given)
        given = codes if named is None else [named[int(code)] if code >= 0 else None for code in codes]
    column = pd.Series(aligned(given, data.row_names, name)).reset_index(drop=True)
    if len(column) != len(data):
        raise refusal(f"expected one value per row, {len(data)} in all, got {len(column)}", name)
    if column.isna().any():
        message = f"expected a value of {what} in each row, got none in row {int(column.isna().argmax())}"
        raise refusal(f"{message}: fill it in, or drop the row", name)
    values = column.astype(str) if time is None and not is_number(column.dtype) else column
    values = (values if time is None else time_ranks(values)).to_numpy()
    return torch.from_numpy(np.unique(values, return_inverse=True)[1])


def parts_of_rows(
    num_rows: int, sizes: Mapping[str, int], seed: int, groups: Tensor | None = None, in_order: bool = False
) -> dict[str, Tensor]:
    """Return seeded, disjoint index tensors of the given sizes, in ascending order; ``"train"`` gets the rest.

    Args:
        num_rows: the number of rows.
        sizes: the number of rows of each part.
        seed: of the order.
        groups: ``(num_rows,)``; rows of one value stay together, so that sizes are kept only roughly.
        in_order: groups are times: the last ones make the last part, and so on, and the seed does nothing.

    Raises:
        ValueError: no row is left to train on, or there are fewer groups than parts.

    >>> parts_of_rows(6, {"test": 2}, 0, torch.tensor([0, 1, 2, 0, 1, 2]))["test"].tolist() in ([0, 3], [1, 4], [2, 5])
    True
    """
    if sum(sizes.values()) >= num_rows:
        wanted = " and ".join(f"{size} for {name}" for name, size in sizes.items())
        raise ValueError(
            f"expected some of the {num_rows} rows to be left for training, got {wanted}; ask for fewer, or give more "
            "data"
        )
    generator = torch.Generator().manual_seed(seed)
    if groups is None:
        order = torch.randperm(num_rows, generator=generator)
        pieces = order.split([num_rows - sum(sizes.values()), *sizes.values()])
        return {name: piece.sort().values for name, piece in zip(["train", *sizes], pieces, strict=True)}
    _, group, counts = groups.unique(return_inverse=True, return_counts=True)
    if len(counts) <= len(sizes):
        raise refusal(
            f"expected more groups than {len(sizes)}, so that each part gets one, got {len(counts)}", "groups"
        )
    left = (torch.arange(len(counts)) if in_order else torch.randperm(len(counts), generator=generator)).tolist()
    parts: dict[str, Tensor] = {}
    for number, (name, size) in enumerate(reversed(list(sizes.items()))):
        chosen = [left.pop()]
        while len(left) > len(sizes) - number and counts[[*chosen, left[-1]]].sum() <= size:
            chosen.append(left.pop())
        parts[name] = torch.isin(group, torch.tensor(chosen)).nonzero()[:, 0]
    return {"train": torch.isin(group, torch.tensor(left)).nonzero()[:, 0], **{name: parts[name] for name in sizes}}
