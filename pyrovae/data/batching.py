"""Mini-batches by index from memory, and from torch loaders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from pyrovae.data.convert import as_data
from pyrovae.data.rows import Index, map_tree, take
from pyrovae.data.table import Data


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of the data.

    Attributes:
        index: `(rows,)`, the numbers of these rows in the data (from a loader: in their order of arrival).
        x: A tensor `(rows, *event_shape)`, or a dict or tuple of these.
        covariates: For each name, a tensor of `rows` rows; or None.
    """

    index: Tensor
    x: Any
    covariates: dict[str, Tensor] | None


class Batches:
    """Mini-batches of `Data`, once through the rows for each iteration; made by `batches`."""

    def __init__(
        self, data: Data, size: int, shuffle: bool, generator: torch.Generator | None, drop_last: bool, place: _Place
    ) -> None:
        self.data, self.size, self.shuffle = data, size, shuffle
        self.generator, self.drop_last, self.place = generator, drop_last, place

    @property
    def num_rows(self) -> int:
        """The rows of the data, including those that `drop_last` drops."""
        return len(self.data)

    def __len__(self) -> int:
        return self.num_rows // self.size if self.drop_last else -(-self.num_rows // self.size)

    def __iter__(self) -> Iterator[Batch]:
        return self.along(self.order())

    def order(self) -> Tensor | None:
        """The order of the rows for one pass, drawn afresh; None for the rows as they are."""
        return epoch_order(self.num_rows, self.generator) if self.shuffle else None

    def along(self, order: Tensor | None, first: int = 0) -> Iterator[Batch]:
        """The batches of one pass in this order, from batch number `first` on."""
        for start in range(first * self.size, len(self) * self.size, self.size):
            rows = slice(start, min(start + self.size, self.num_rows))
            if order is None:
                yield self._batch(torch.arange(rows.start, rows.stop), rows)
            else:
                yield self._batch(order[rows], order[rows])

    def _batch(self, number: Tensor, index: Index) -> Batch:
        data, place = self.data, self.place
        x = map_tree(lambda rows, _: take(rows, index), data.x)
        if data.transform is not None:
            x = data.transform(x, self.generator)
        x = map_tree(place.x, x)
        if not data.covariates:
            return Batch(number, x, None)
        return Batch(number, x, {name: place.covariates(take(rows, index)) for name, rows in data.covariates.items()})

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
    """Mini-batches by index from memory, in a new order for each iteration.

    The data's per-batch transform, if any, is applied to each batch, with the same generator.

    Args:
        data: `Data`, or whatever `as_data` takes.
        batch_size: Rows in a batch; the last one may have fewer.
        shuffle: Whether the rows come in random order; unshuffled batches are views of the rows: do not write to them.
        generator: The source of the order and of the transform's draws; by default torch's global one.
        drop_last: Whether an incomplete last batch is left out.
        device: Where the batches go; by default they stay where the rows are.
        dtype: The dtype of `x` and of the floating-point covariates; by default that of the rows.

    Raises:
        ValueError: If the batch size is below 1, or `drop_last` leaves no batch.

    >>> loader = batches(torch.arange(10.0), batch_size=4, generator=torch.Generator().manual_seed(0))
    >>> [tuple(batch.x.shape) for batch in loader]
    [(4,), (4,), (2,)]
    >>> len(loader)
    3
    """
    data = as_data(data)
    _check_size(batch_size)
    if drop_last and batch_size > len(data):
        raise ValueError(
            f"expected drop_last to leave a batch, got {len(data)} rows for batch_size={batch_size}; write "
            f"batch_size={len(data)} or drop_last=False"
        )
    return Batches(data, batch_size, shuffle, generator, drop_last, _Place(device, dtype))


def epoch_order(num_rows: int, generator: torch.Generator | None = None) -> Tensor:
    """A random order of the rows for one epoch: a permutation, of shape `(num_rows,)`.

    Args:
        num_rows: The number of rows.
        generator: The source of randomness; by default torch's global one.

    >>> epoch_order(4, torch.Generator().manual_seed(0)).sort().values
    tensor([0, 1, 2, 3])
    """
    return torch.randperm(num_rows, generator=generator)


class LoaderBatches:
    """Mini-batches of a torch loader, once through it for each iteration; made by `loader_batches`."""

    def __init__(self, loader: Iterable[Any], covariate_names: tuple[str, ...], place: _Place) -> None:
        self.loader, self.covariate_names, self.place = loader, covariate_names, place

    @property
    def num_rows(self) -> int | None:
        """The rows of the whole data set, or None where it does not know."""
        dataset = self.loader.dataset if isinstance(self.loader, DataLoader) else None
        return len(dataset) if isinstance(dataset, Sized) else None

    def __len__(self) -> int:
        if not isinstance(self.loader, Sized) or (isinstance(self.loader, DataLoader) and self.num_rows is None):
            raise TypeError(
                "expected a loader that knows its length, got one over a stream; count its batches, or give a Dataset "
                "with a __len__"
            )
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        seen = 0
        for item in self.loader:
            x, covariates = _parts(item, self.covariate_names)
            data = as_data(x, covariates)
            index = torch.arange(seen, seen + len(data))
            seen += len(data)
            own = {name: self.place.covariates(rows) for name, rows in (data.covariates or {}).items()}
            yield Batch(index, map_tree(self.place.x, data.dense().x), own or None)
        if seen == 0:
            raise ValueError(
                "expected batches from the loader, got none; a generator runs out after one pass: give a DataLoader, "
                "or a list of batches"
            )


def loader_batches(
    loader: DataLoader | Dataset | Iterable[Any],
    batch_size: int | None = None,
    shuffle: bool = True,
    generator: torch.Generator | None = None,
    drop_last: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    *,
    covariate_names: Sequence[str] = (),
) -> LoaderBatches:
    """Mini-batches of a torch `DataLoader`, or of a `Dataset`, of which a loader is made.

    What the loader yields is read as follows; labels never become covariates by themselves.

    * a tensor, or a tuple of one tensor: `x`;
    * a pair of `x` and one whole number a row: labels, which are left out unless `covariate_names` names them;
    * a longer tuple, or another pair: `x` and as many covariates as `covariate_names` names;
    * a dict: the keys in `covariate_names` are covariates, the rest is `x` (the value itself, if its key is `"x"`).

    Args:
        loader: A `DataLoader`, a `Dataset`, or any iterable of batches.
        batch_size: Rows in a batch of a `Dataset`; a loader has its own.
        shuffle: Whether the rows of a `Dataset` come in random order.
        generator: The source of the order of a `Dataset`.
        drop_last: Whether an incomplete last batch of a `Dataset` is left out.
        device: Where the batches go.
        dtype: The dtype of `x` and of the floating-point covariates.
        covariate_names: The names of the parts that are covariates.

    Raises:
        TypeError: If the loader is no iterable, or yields no numbers.
        ValueError: If a `Dataset` comes without a batch size, a loader with one, or what is yielded is ambiguous.

    >>> pairs = torch.utils.data.TensorDataset(torch.zeros(6, 2), torch.arange(6))
    >>> [batch.covariates for batch in loader_batches(pairs, batch_size=3)]
    [None, None]
    >>> [sorted(batch.covariates) for batch in loader_batches(pairs, batch_size=3, covariate_names=["label"])]
    [['label'], ['label']]
    """
    if isinstance(covariate_names, str):
        raise TypeError(
            f"expected covariate_names to be a list of names, got {covariate_names!r}; write [{covariate_names!r}]"
        )
    if isinstance(loader, Dataset):
        shuffled = shuffle and not isinstance(loader, IterableDataset)
        loader = DataLoader(loader, _dataset_size(batch_size), shuffled, generator=generator, drop_last=drop_last)
    elif batch_size is not None:
        raise ValueError(
            f"expected batch_size with a Dataset only, got batch_size={batch_size} with a {type(loader).__name__}; its "
            "batches have their size already: leave batch_size out"
        )
    if not isinstance(loader, Iterable):
        raise TypeError(
            f"expected a DataLoader, a Dataset or batches, got {type(loader).__name__}; write batches(data, 128)"
        )
    return LoaderBatches(loader, tuple(covariate_names), _Place(device, dtype))


def _parts(item: Any, names: tuple[str, ...]) -> tuple[Any, dict[str, Any] | None]:
    """What a loader yielded as `x` and covariates."""
    if isinstance(item, Mapping):
        return _parts_of_dict(item, names)
    if not isinstance(item, tuple | list):
        return _parts_of_dict({"x": item}, names)
    if not names and (len(item) == 1 or (len(item) == 2 and _is_labels(item[1]))):
        return item[0], None
    if len(item) != 1 + len(names):
        raise ValueError(
            f"expected x and {len(names)} covariates from the loader, got a tuple of {len(item)}; name the "
            "parts after the first, covariate_names=['label'], or yield a dict where several parts are data"
        )
    return item[0], dict(zip(names, item[1:], strict=True))


def _parts_of_dict(item: Mapping[str, Any], names: tuple[str, ...]) -> tuple[Any, dict[str, Any] | None]:
    lacking = [name for name in names if name not in item]
    if lacking:
        raise ValueError(
            f"expected the loader to yield a part named {lacking[0]!r}, got: {', '.join(map(repr, item))}; correct "
            "covariate_names, or yield a dict with that key"
        )
    x = {key: value for key, value in item.items() if key not in names}
    if "x" in x and len(x) > 1:
        unread = next(key for key in x if key != "x")
        raise ValueError(
            f"expected each part beside 'x' to be named as covariates, got {unread!r}; write covariate_names=[{unread!r}], "
            "or leave the part out: labels never become covariates by themselves"
        )
    return x.get("x", x), {name: item[name] for name in names} or None


def _is_labels(part: Any) -> bool:
    return isinstance(part, Tensor) and part.ndim == 1 and not part.is_floating_point()


def _check_size(batch_size: int) -> None:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int):
        raise TypeError(f"expected batch_size to be a whole number, got {batch_size!r}; write batch_size=128")
    if batch_size < 1:
        raise ValueError(f"expected batch_size >= 1, got {batch_size}; write batch_size=128")


def _dataset_size(batch_size: int | None) -> int:
    if batch_size is None:
        raise ValueError("expected a batch_size for a Dataset, got none; write batch_size=128")
    _check_size(batch_size)
    return batch_size


class _Place(NamedTuple):
    """Where batches go, and in which dtype."""

    device: torch.device | str | None
    dtype: torch.dtype | None

    def x(self, rows: Tensor, path: str) -> Tensor:
        return rows if self == (None, None) else rows.to(self.device, self.dtype)

    def covariates(self, rows: Tensor) -> Tensor:
        return self.x(rows, "") if rows.is_floating_point() else rows.to(self.device)
