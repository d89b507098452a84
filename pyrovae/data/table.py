"""`Data`: frozen rows that know their variant, their split and where they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pyrovae.data.rows import Index, LazyRows, leaves, map_tree, select, take

Transform = Callable[[Any, "torch.Generator | None"], Any]

_CHUNK = 4096
"""Rows handled at once where all rows are gone through, so that compact rows never lie dense in memory together."""


@dataclass(frozen=True, eq=False, repr=False)
class Data:
    """Rows of data, with what must be known to use and compare them.

    Args:
        x: A tensor `(rows, *event_shape)`, compact rows, or a dict or tuple of these; NaN is a missing entry.
        labels: `(rows,)`, or None. For figures and scores: labels are never covariates.
        covariates: For each name, a tensor of `rows` rows that the programs may read; or None.
        variant: How the raw data became these numbers ("grey", "dynamic", "counts", ...). Numbers on different variants
            must never be compared.
        name: Where the rows came from.
        split: `"all"`, `"train"`, `"validation"` or `"test"`.
        seed: The seed of the split and of whatever was drawn, or None.
        columns: The names of the columns of a table, or None.
        transform: `transform(x, generator)`, applied afresh to each training batch (dynamic binarisation), or None.
        parts: The rows of `train`, `validation` and `test`: an index or a slice for each.

    Raises:
        TypeError: If rows are neither a tensor nor compact rows (`as_data` converts arrays and tables).
        ValueError: If there is no row, or the parts have different numbers of rows.

    >>> data = Data(torch.zeros(6, 2), name="zeros", parts={"train": slice(0, 4), "test": slice(4, 6)})
    >>> data.train
    Data('zeros', variant=None, split='train', rows=4, event_shape=(2,))
    >>> len(data[:3]), data.event_shape
    (3, torch.Size([2]))
    """

    x: Any  # Tensor | LazyRows, or a dict or tuple of these (Tree); Any spares every reader a cast
    labels: Tensor | None = None
    covariates: Mapping[str, Tensor] | None = None
    variant: str | None = None
    name: str = "data"
    split: str = "all"
    seed: int | None = None
    columns: tuple[str, ...] | None = None
    transform: Transform | None = None
    parts: Mapping[str, Index] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not leaves(self.x):
            raise ValueError("expected data, got an empty dict or tuple; give at least one array of rows")
        for leaf, path in self._everything():
            if not isinstance(leaf, Tensor | LazyRows):
                raise TypeError(
                    f"expected {path} to be a tensor, got {type(leaf).__name__}; write pyrovae.data.as_data(x), which "
                    "converts arrays, tables and sparse matrices"
                )
            if len(leaf.shape) == 0:
                raise ValueError(f"expected {path} to have rows, got a single number; write tensor[None] for one row")
        self._check_lengths()

    def _everything(self) -> list[tuple[Any, str]]:
        labels = [] if self.labels is None else [(self.labels, "labels")]
        return leaves(self.x) + labels + leaves(dict(self.covariates or {}), "covariates")

    def _check_lengths(self) -> None:
        (first, first_path), *others = self._everything()
        empty = [(path, tuple(leaf.shape)) for leaf, path in self._everything() if 0 in leaf.shape]
        if empty:
            raise ValueError(f"expected at least one row and one entry, got {empty[0][0]} of shape {empty[0][1]}")
        for leaf, path in others:
            if leaf.shape[0] != first.shape[0]:
                raise ValueError(
                    f"expected one row a datum everywhere, got {first.shape[0]} rows in {first_path} and "
                    f"{leaf.shape[0]} in {path}; give both the same rows in the same order"
                )

    def __len__(self) -> int:
        return leaves(self.x)[0][0].shape[0]

    def __repr__(self) -> str:
        shapes = map_tree(lambda rows, _: tuple(rows.shape[1:]), self.x)
        known = {"variant": self.variant, "split": self.split, "rows": len(self), "event_shape": shapes}
        known |= {} if self.seed is None else {"seed": self.seed}
        known |= {} if not self.covariates else {"covariates": tuple(self.covariates)}
        return f"Data({self.name!r}, {', '.join(f'{key}={value!r}' for key, value in known.items())})"

    @property
    def event_shape(self) -> Any:
        """The shape of one datum: a `torch.Size`, or a dict or tuple of them."""
        return map_tree(lambda rows, _: torch.Size(rows.shape[1:]), self.x)

    @property
    def train(self) -> Data:
        """The rows to train on."""
        return self._part("train")

    @property
    def validation(self) -> Data:
        """The rows on which settings are chosen; drawn once, where training rows are drawn afresh."""
        return replace(self._part("validation"), transform=None)

    @property
    def test(self) -> Data:
        """The rows to look at once, at the end; drawn once, where training rows are drawn afresh."""
        return replace(self._part("test"), transform=None)

    def _part(self, name: str) -> Data:
        if name not in self.parts:
            raise ValueError(
                f"expected data with a {name} part, got {self!r}, whose parts are: {', '.join(self.parts) or 'none'}; "
                "write first, second = pyrovae.data.split(data, 0.1, seed=0), or take the part before the rows: "
                f"data.{name}[:500]"
            )
        return replace(self._rows(self.parts[name]), split=name)

    def __getitem__(self, rows: Any) -> Data:
        return self._rows(_index(rows, len(self)))

    def _rows(self, index: Index) -> Data:
        return replace(
            self,
            x=map_tree(lambda rows, _: select(rows, index), self.x),
            labels=None if self.labels is None else take(self.labels, index),
            covariates=None
            if self.covariates is None
            else {name: take(rows, index) for name, rows in self.covariates.items()},
            parts={},
        )

    def dense(self) -> Data:
        """The same data with all rows in memory as tensors."""
        return replace(self, x=map_tree(lambda rows, _: take(rows, slice(None)), self.x))

    def drawn(self, seed: int) -> Data:
        """The data with its per-batch transform applied once to all rows, and no transform any more.

        Args:
            seed: The seed of the draws, recorded in the result.
        """
        if self.transform is None:
            return self
        generator = torch.Generator().manual_seed(seed)
        return replace(self, x=self.transform(self.dense().x, generator), transform=None, seed=seed)

    def fingerprint(self) -> str:
        """A hash of the rows in their order: equal for equal rows, whatever their dtype, shape or storage.

        Values are compared in single precision, since programs are trained in it; all NaN are one.

        >>> counts = Data(torch.arange(6.0).reshape(3, 2))
        >>> counts.fingerprint() == Data(torch.arange(6).reshape(3, 1, 2)).fingerprint()
        True
        >>> counts.fingerprint() == counts[[0, 2, 1]].fingerprint()
        False
        """
        digest = hashlib.blake2b(str(len(self)).encode(), digest_size=16)
        for rows, path in leaves(self.x):
            digest.update(path.encode())
            for start in range(0, len(self), _CHUNK):
                chunk = take(rows, slice(start, start + _CHUNK)).detach().cpu().float() + 0.0  # -0.0 becomes 0.0
                digest.update(chunk.masked_fill_(chunk.isnan(), torch.nan).contiguous().numpy().tobytes())
        return digest.hexdigest()


def split(data: Data, fraction: float, seed: int = 0) -> tuple[Data, Data]:
    """Split rows at random into a part to train on and a part to validate on.

    Args:
        data: The data.
        fraction: The share of the rows in the second part, in (0, 1).
        seed: The seed of the split.

    Returns:
        The training part and the validation part, each in the order of the data. Where the data has a per-batch
        transform, the validation part is drawn once, with the same seed.

    Raises:
        ValueError: If the fraction is not in (0, 1), or leaves a part without a row.

    >>> first, second = split(Data(torch.zeros(10, 2)), 0.2, seed=0)
    >>> len(first), len(second)
    (8, 2)
    """
    if not 0 < fraction < 1:
        raise ValueError(f"expected a fraction in (0, 1), got {fraction}; write fraction=0.1 for a tenth of the rows")
    parts = random_parts(len(data), {"validation": max(1, round(fraction * len(data)))}, seed)
    whole = replace(data, parts=parts, seed=seed)
    return whole.train, replace(whole._part("validation").drawn(seed), transform=None)


def random_parts(num_rows: int, sizes: Mapping[str, int], seed: int) -> dict[str, Tensor]:
    """Seeded disjoint index tensors of the given sizes, in ascending order; `"train"` gets the rest.

    Raises:
        ValueError: If no row is left to train on.
    """
    if sum(sizes.values()) >= num_rows:
        wanted = " and ".join(f"{size} for {name}" for name, size in sizes.items())
        raise ValueError(
            f"expected some of the {num_rows} rows to be left for training, got {wanted}; ask for fewer, or give more "
            "data"
        )
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed))
    pieces = order.split([num_rows - sum(sizes.values()), *sizes.values()])
    return {name: piece.sort().values for name, piece in zip(["train", *sizes], pieces, strict=True)}


def _index(rows: Any, num_rows: int) -> Index:
    """Rows as asked for, as an index from 0 to `num_rows`, or as a slice where one will do."""
    if isinstance(rows, slice):
        numbers = range(*rows.indices(num_rows))
        return (
            slice(numbers.start, numbers.stop) if numbers.step == 1 else torch.tensor(list(numbers), dtype=torch.long)
        )
    try:
        index = torch.as_tensor(rows)
    except (TypeError, ValueError, RuntimeError):
        index = torch.empty(0, 0)
    if index.dtype == torch.bool and index.shape == (num_rows,):
        return index.nonzero()[:, 0]
    if index.ndim != 1 or index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise TypeError(
            f"expected a slice, whole numbers or a mask of {num_rows} truth values, got {_brief(rows)}; write "
            "data[:500], data[[3, 5]], or data[3:4] for one row"
        )
    return _in_range(index.long(), num_rows)


def _in_range(index: Tensor, num_rows: int) -> Tensor:
    outside = index[(index < -num_rows) | (index >= num_rows)]
    if len(outside):
        raise IndexError(
            f"expected rows from {-num_rows} to {num_rows - 1}, got {outside[0]}; the data has {num_rows} rows"
        )
    return index % num_rows


def _brief(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"
    text = repr(value)
    return text if len(text) <= 60 else f"{type(value).__name__} {text[:50]}..."
