"""Mini-batches by index from memory, and functions of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrovae.data.convert import as_data
from pyrovae.data.rows import Index, map_tree
from pyrovae.data.table import Batch, Data
from pyrovae.errors import check_integer


class Place(NamedTuple):
    """Where batches go, and in which dtype; None leaves them as they are."""

    device: torch.device | str | None = None
    dtype: torch.dtype | None = None

    def x(self, rows: Tensor, path: str) -> Tensor:
        """Rows of the data, cast and moved."""
        return rows if self == (None, None) else rows.to(self.device, self.dtype)

    def covariates(self, rows: Tensor) -> Tensor:
        """A covariate, cast if it is floating-point, and moved."""
        return self.x(rows, "") if rows.is_floating_point() else rows.to(self.device)


@dataclass(repr=False, eq=False)
class Batches:
    """Mini-batches of ``Data``, once through the rows for each iteration; made by :func:`batches`."""

    data: Data
    size: int
    shuffle: bool
    generator: torch.Generator | None
    drop_last: bool
    place: Place

    @property
    def num_rows(self) -> int:
        """The rows of the data, including those that ``drop_last`` drops."""
        return len(self.data)

    def __len__(self) -> int:
        return self.num_rows // self.size if self.drop_last else -(-self.num_rows // self.size)

    def __iter__(self) -> Iterator[Batch]:
        return self.along(self.order())

    def order(self) -> Tensor | None:
        """The order of the rows for one pass, drawn afresh; None for the rows as they are."""
        return epoch_order(self.num_rows, self.generator) if self.shuffle else None

    def along(self, order: Tensor | None, first: int = 0) -> Iterator[Batch]:
        """The batches of one pass in this order, from batch number ``first`` on."""
        for start in range(first * self.size, len(self) * self.size, self.size):
            rows = slice(start, min(start + self.size, self.num_rows))
            yield self.batch(rows if order is None else order[rows])

    def batch(self, index: Index) -> Batch:
        """The batch of these rows: transformed, cast and moved."""
        batch = self.data.rows(index)
        x = batch.x if self.data.transform is None else self.data.transform(batch.x, self.generator)
        covariates = {name: self.place.covariates(rows) for name, rows in (batch.covariates or {}).items()}
        return Batch(batch.index, map_tree(self.place.x, x), covariates or None)

    def __repr__(self) -> str:
        return f"Batches({self.data!r}, batch_size={self.size}, batches={len(self)})"


def batches(
    data: Any,
    batch_size: int,
    shuffle: bool = True,
    generator: torch.Generator | None = None,
    drop_last: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Batches:
    """Return mini-batches by index from memory, in a new order for each iteration.

    The data's per-batch transform, if any, is applied to each batch, with the same generator. A cast to single precision
    that rounds a column by more than 1 % of its standard deviation is warned of.

    Args:
        data: ``Data``, or whatever ``as_data`` takes.
        batch_size: rows in a batch; the last one may have fewer.
        shuffle: whether the rows come in random order; unshuffled batches are views of the rows: do not write to them.
        generator: the source of the order and of the transform's draws; by default torch's global one.
        drop_last: whether an incomplete last batch is left out.
        device: where the batches go; by default they stay where the rows are.
        dtype: the dtype of ``x`` and of the floating-point covariates; by default that of the rows.

    Raises:
        ValueError: the batch size is below 1, or ``drop_last`` leaves no batch.

    >>> loader = batches(torch.arange(10.0), batch_size=4, generator=torch.Generator().manual_seed(0))
    >>> [tuple(batch.x.shape) for batch in loader]
    [(4,), (4,), (2,)]
    >>> len(loader)
    3
    """
    data = as_data(data)
    check_integer("batch_size", batch_size)
    if drop_last and batch_size > len(data):
        raise ValueError(
            f"expected drop_last to leave a batch, got {len(data)} rows for batch_size={batch_size}; write "
            f"batch_size={len(data)} or drop_last=False"
        )
    if dtype == torch.float32 and data.coarse:
        warnings.warn(
            f"single precision rounds {', '.join(data.coarse[:5])} by more than 1 % of the standard deviation over the "
            "rows: subtract a constant first (the mean, or the first date), or compute in double precision (vae.double())",
            UserWarning,
            stacklevel=2,
        )
    return Batches(data, batch_size, shuffle, generator, drop_last, Place(device, dtype))


def epoch_order(num_rows: int, generator: torch.Generator | None = None) -> Tensor:
    """Return a random order of the rows for one epoch: a permutation, of shape ``(num_rows,)``.

    Args:
        num_rows: the number of rows.
        generator: the source of randomness; by default torch's global one.

    >>> epoch_order(4, torch.Generator().manual_seed(0)).sort().values
    tensor([0, 1, 2, 3])
    """
    return torch.randperm(num_rows, generator=generator)


def map_batches(
    function: Callable[[Batch], Any],
    data: Any,
    covariates: Any = None,
    *,
    like: Tensor | None = None,
    batch_size: int = 1024,
    dim: int = 0,
) -> Any:
    """Return ``function(batch)`` of all batches, joined in the order of the rows, on the CPU.

    Args:
        function: from a batch, in ``like``'s dtype and on its device, to a tensor or a dict or tuple of tensors.
        data: whatever ``as_data`` takes.
        covariates: likewise.
        like: a tensor of the program, whose dtype and device the batches get; by default they stay as they are.
        batch_size: rows in a batch; the last one may have fewer.
        dim: the axis of the rows in the results.

    >>> map_batches(lambda batch: 2 * batch.x, [[1], [2], [3]], like=torch.zeros(()), batch_size=2)
    tensor([[2.],
            [4.],
            [6.]])
    """
    place = (None, None) if like is None else (like.device, like.dtype)
    found = [
        map_tree(lambda part, _: part.cpu(), function(batch))
        for batch in batches(as_data(data, covariates), batch_size, False, None, False, *place)
    ]
    first, *others = found
    return map_tree(lambda _, __, *parts: torch.cat(parts, dim), first, first, *others)
