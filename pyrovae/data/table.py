"""`Data`: frozen rows that know their variant, their names and levels, their split and where they came from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.data.kinds import kind_words
from pyrovae.data.matching import match
from pyrovae.data.rows import CHUNK, Index, LazyRows, Rows, leaves, map_tree, select, stored, take

Transform = Callable[[Any, "torch.Generator | None"], Any]

DIGITS_ROWS, DIGITS_SHARE = 10_000, 0.01


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of the data.

    Attributes:
        index: ``(rows,)``, the numbers of these rows in the data (from a loader: in their order of arrival).
        x: a tensor ``(rows, *event_shape)``, or a dict or tuple of these.
        covariates: for each name, a tensor of ``rows`` rows; or None.
    """

    index: Tensor
    x: Any
    covariates: Mapping[str, Tensor] | None


@dataclass(frozen=True, eq=False, repr=False)
class Data:
    """Rows of data, with what must be known to use and compare them; made by ``as_data`` and ``load``.

    Args:
        x: a tensor ``(rows, *event_shape)``, compact rows, or a dict or tuple of these; NaN is a missing entry.
        labels: for each name, a tensor of ``rows`` labels, for figures and scores; or None. Labels are never covariates.
        covariates: for each name, a tensor of ``rows`` rows that programs may read; or None.
        variant: how the raw data became these numbers ("grey", "dynamic", "counts", ...). Numbers on different variants
            must never be compared.
        name: where the rows came from.
        split: ``"all"``, ``"train"``, ``"validation"`` or ``"test"``.
        seed: the seed of the split and of whatever was drawn, or None.
        columns: the names of the columns of a table, or None; for a dict or tuple ``x``, one such entry for each part.
        levels: the names of the levels behind the codes 0, 1, ..., for each column, covariate or label that has them.
        kinds: the kind of each column of a table, where they are known: real, positive, count, category, ...
        row_names: the pandas index of a table, or None.
        transform: ``transform(x, generator)``, applied afresh to each training batch (dynamic binarization), or None.
        parts: the rows of ``train``, ``validation`` and ``test``: an index or a slice for each.
        notes: what was assumed when the rows were read.
        keys: the names of labels that the rows were split by, groups and times, which are no classes of rows.

    Raises:
        TypeError: rows are neither a tensor nor compact rows (``as_data`` converts arrays and tables).
        ValueError: there is no row, or the parts have different numbers of rows.

    >>> data = Data(torch.zeros(6, 2), name="zeros", parts={"train": slice(0, 4), "test": slice(4, 6)})
    >>> data.train
    Data('zeros', variant=None, split='train', rows=4, event_shape=(2,))
    >>> len(data[:3]), data.event_shape
    (3, torch.Size([2]))
    """

    x: Any  # Tensor | LazyRows, or a dict or tuple of these; Any spares every reader a cast
    labels: Mapping[str, Tensor] | None = None
    covariates: Mapping[str, Tensor] | None = None
    variant: str | None = None
    name: str = "data"
    split: str = "all"
    seed: int | None = None
    columns: Any = None
    levels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    row_names: Any = None
    transform: Transform | None = None
    parts: Mapping[str, Index] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not leaves(self.x):
            raise ValueError("expected data, got an empty dict or tuple; give at least one array of rows")
        everything = leaves(self.x)
        for name, table in (("labels", self.labels), ("covariates", self.covariates)):
            if table is not None and not isinstance(table, Mapping):
                raise TypeError(
                    f"expected {name} to be a dict of tensors by name, got {type(table).__name__}; write "
                    f"pyrovae.data.as_data(x, {name}=...)"
                )
            everything += leaves(dict(table or {}), name)
        for leaf, path in everything:
            if not isinstance(leaf, Tensor | LazyRows):
                raise TypeError(
                    f"expected {path} to be a tensor, got {type(leaf).__name__}; write pyrovae.data.as_data(x), which "
                    "converts arrays, tables and sparse matrices"
                )
            if len(leaf.shape) == 0:
                raise ValueError(f"expected {path} to have rows, got a single number; write tensor[None] for one row")
            if 0 in leaf.shape:
                raise ValueError(f"expected at least one row and one entry, got {path} of shape {tuple(leaf.shape)}")
            if leaf.shape[0] != len(self):
                raise ValueError(
                    f"expected one row a datum everywhere, got {len(self)} rows in {everything[0][1]} and "
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
        """The shape of one datum: a ``torch.Size``, or a dict or tuple of them."""
        return map_tree(lambda rows, _: torch.Size(rows.shape[1:]), self.x)

    @property
    def label_name(self) -> str | None:
        """The name of the first of the labels that is no key, or None."""
        return next((name for name in self.labels or () if name not in self.keys), None)

    @property
    def label(self) -> Tensor | None:
        """The first of the labels that is no key, or None.

        >>> labels = {"patient": torch.tensor([0, 0, 1]), "smoker": torch.tensor([1, 1, 0])}
        >>> Data(torch.zeros(3, 2), labels, keys=("patient",)).label
        tensor([1, 1, 0])
        """
        return None if self.labels is None or self.label_name is None else self.labels[self.label_name]

    def names(self) -> dict[str, tuple[str, ...] | None]:
        """The names of the columns of each leaf of ``x``, by the expression that leads to it.

        >>> Data({"a": torch.zeros(3, 1)}, columns={"a": ("size",)}).names()
        {"x['a']": ('size',)}
        """
        found: dict[str, tuple[str, ...] | None] = {}
        map_tree(lambda _, path, names: found.update({path: names}), self.x, self.columns)
        return found

    @property
    def units(self) -> dict[str, str]:
        """The unit of each column whose name ends in one.

        >>> Data(torch.zeros(1, 3), columns=("height [cm]", "age (years)", "f(x)")).units
        {'height [cm]': 'cm', 'age (years)': 'years'}
        """
        names = [name for names in self.names().values() for name in names or ()]
        return {name: found[1] for name in names if (found := re.search(r"\s[\[(]([^\[\]()]+)[\])]$", name))}

    @cached_property
    def complete(self) -> bool:
        """Whether no entry is missing; looked at once."""
        parts = (part for rows, _ in leaves(self.x) if rows.dtype.is_floating_point for part in stored(rows))
        return not any(bool(part.isnan().any()) for part in parts)

    @cached_property
    def coarse(self) -> tuple[str, ...]:
        """The columns that single precision rounds by more than 1 % of their standard deviation; looked at once."""
        if len(self) < 20:
            return ()
        names = self.names()
        found = []
        for rows, path in leaves(self.x) + leaves(dict(self.covariates or {}), "covariates"):
            own = names.get(path)
            found += [own[number] if own else f"{path}[:, {number}]" for number in _coarse_columns(rows)]
        return tuple(found)

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
        return replace(self._select(self.parts[name]), split=name)

    def __getitem__(self, rows: Any) -> Data:
        return self._select(_index(rows, len(self)))

    def _select(self, index: Index) -> Data:
        names = self.row_names
        return replace(
            self,
            x=map_tree(lambda rows, _: select(rows, index), self.x),
            labels=_taken(self.labels, index),
            covariates=_taken(self.covariates, index),
            row_names=None if names is None else names[index if isinstance(index, slice) else index.cpu().numpy()],
            parts={},
        )

    def rows(self, index: Index) -> Batch:
        """Return these rows as dense tensors, the transform not applied.

        Args:
            index: the numbers of the rows, int64, or a slice with a start and a stop.

        >>> Data(torch.arange(4.0)).rows(torch.tensor([2, 0]))
        Batch(index=tensor([2, 0]), x=tensor([2., 0.]), covariates=None)
        """
        number = torch.arange(index.start, index.stop) if isinstance(index, slice) else index
        return Batch(number, map_tree(lambda rows, _: take(rows, index), self.x), _taken(self.covariates, index))

    def dense(self) -> Data:
        """Return the same data with all rows in memory as tensors."""
        return replace(self, x=map_tree(lambda rows, _: take(rows, slice(None)), self.x))

    def drawn(self, seed: int) -> Data:
        """Return the data with its per-batch transform applied once to all rows, and no transform any more.

        Args:
            seed: the seed of the draws, recorded in the result.
        """
        if self.transform is None:
            return self
        generator = torch.Generator().manual_seed(seed)
        return replace(self, x=self.transform(self.dense().x, generator), transform=None, seed=seed)

    def to_frame(self, x: Any = None) -> Any:
        """Return the rows as a pandas DataFrame: columns and rows by name, the levels of codes, None where missing.

        Counts are integers where none is missing.

        Args:
            x: other rows of the same columns, such as draws or means, ``(rows, columns)``; by default the data's own.

        >>> Data(torch.tensor([[1.0], [0.0]]), columns=("pet",), levels={"pet": ("cat", "dog")}).to_frame()["pet"].tolist()
        ['dog', 'cat']
        """
        import pandas as pd

        rows = self.dense().x if x is None else x
        names = self.columns or tuple(map(str, range(rows.shape[-1])))
        frame = pd.DataFrame(np.asarray(rows), columns=list(names))
        if self.row_names is not None and len(frame) == len(self):
            frame.index = self.row_names
        for name in names:
            if name in self.levels:
                codes = frame[name].fillna(-1).round().astype(int)
                ordered = self.kinds.get(name) == "ordinal"
                frame[name] = pd.Categorical.from_codes(codes, list(self.levels[name]), ordered).astype(
                    "category" if ordered else object
                )
            elif self.kinds.get(name) == "count" and (frame[name] % 1 == 0).all():
                frame[name] = frame[name].astype(np.int64)
        return frame

    def matched(self, other: Any) -> Data:
        """Return ``other`` with its columns, covariates and levels in the order of this data.

        Names are matched, never places; where one of the two has no names, places are all there is. Covariates that this
        data does not have are left out.

        Args:
            other: rows that the same program is to read: for validation, a test, or a later use; ``Data``, or what ``as_data``
                takes, a table with this one's kinds.

        Raises:
            ValueError: shapes or names differ, or a level is new; the message names the column and the row.

        >>> train = Data(torch.zeros(3, 2), columns=("a", "b"))
        >>> train.matched(Data(torch.tensor([[1.0, 2.0]]), columns=("b", "a"))).x
        tensor([[2., 1.]])
        """
        from pyrovae.data.convert import as_data

        return match(
            self, as_data(other, kinds=None if isinstance(other, Data) else kind_words(self.kinds, self.levels) or None)
        )

    def fingerprint(self, values_only: bool = False) -> str:
        """Return a hash of the rows in their order, whatever their dtype, shape or storage; names and covariates count.

        Values are compared in single precision, since programs are trained in it; all NaN are one.

        Args:
            values_only: leave columns and covariates out, for comparing programs that read others of the same rows.

        >>> counts = Data(torch.arange(6.0).reshape(3, 2))
        >>> counts.fingerprint() == Data(torch.arange(6).reshape(3, 1, 2)).fingerprint()
        True
        >>> counts.fingerprint() == counts[[0, 2, 1]].fingerprint()
        False
        """
        digest = hashlib.blake2b(str(len(self)).encode(), digest_size=16)
        parts = leaves(self.x)
        if not values_only:
            parts += leaves(dict(self.covariates or {}), "covariates")
            known = [self.columns, sorted(self.levels.items())] if self.columns or self.levels else []
            digest.update("".join(map(repr, known)).encode())
        for rows, path in parts:
            digest.update(path.encode())
            for start in range(0, len(self), CHUNK):
                chunk = take(rows, slice(start, start + CHUNK)).detach().cpu().float() + 0.0  # -0.0 becomes 0.0
                digest.update(chunk.masked_fill_(chunk.isnan(), torch.nan).contiguous().numpy().tobytes())
        return digest.hexdigest()


def _taken(table: Mapping[str, Tensor] | None, index: Index) -> dict[str, Tensor] | None:
    return {name: take(rows, index) for name, rows in table.items()} if table else None


def _coarse_columns(rows: Rows) -> list[int]:
    """The columns (entries of a datum, flattened) that lose digits in single precision, by some of the rows."""
    if rows.dtype not in (torch.float64, torch.int64, torch.int32):
        return []
    some = take(rows, torch.arange(0, rows.shape[0], -(-rows.shape[0] // DIGITS_ROWS)))
    some = some.reshape(len(some), -1).double()
    error = (some - some.float().double()).nan_to_num(posinf=torch.inf).abs().amax(0)
    mean = some.nanmean(0)
    spread = (some - mean).square().nanmean(0).sqrt()
    return ((error > DIGITS_SHARE * spread) & (spread > 1e-12 * mean.abs())).nonzero()[:, 0].tolist()


def _index(rows: Any, num_rows: int) -> Index:
    """The rows that a caller asks for, as an index from 0 to ``num_rows``, or as a slice where one will do."""
    if isinstance(rows, slice) and rows.step in (None, 1):
        return slice(*rows.indices(num_rows)[:2])
    rows = rows.cpu() if isinstance(rows, Tensor) else rows
    found: Any = None
    try:
        found = np.arange(num_rows)[rows if isinstance(rows, slice) else np.asarray(rows)]
    except IndexError as error:
        if "out of bounds" in str(error):
            raise IndexError(f"{error}; the data has {num_rows} rows") from None
    if np.ndim(found) != 1:
        raise TypeError(
            f"expected a slice, integers or a mask of {num_rows} truth values, got {rows!r:.60}; write data[:500], "
            "data[[3, 5]], or data[3:4] for one row"
        )
    return torch.from_numpy(found.copy())
