"""Mini-batches from torch loaders, read by the names of what they yield."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    WeightedRandomSampler,
)

from pyrovae.data.batching import Place
from pyrovae.data.convert import as_data
from pyrovae.data.rows import map_tree
from pyrovae.data.table import Batch
from pyrovae.errors import check_integer

DRAW_FROM_ALL = (RandomSampler, WeightedRandomSampler, DistributedSampler)
"""Samplers whose epochs may have other lengths than the data set, of which they draw every row sooner or later."""


class LoaderBatches:
    """Mini-batches of a torch loader, once through it for each iteration; made by :func:`loader_batches`."""

    def __init__(self, loader: Iterable[Any], names: tuple[str, ...], place: Place) -> None:
        self.loader, self.names, self.place = loader, names, place

    @property
    def num_rows(self) -> int | None:
        """The rows that the loader goes through: those of its sampler, if that keeps to a part of the data set.

        None where the loader does not know.
        """
        if not isinstance(self.loader, DataLoader) or not isinstance(self.loader.dataset, Sized):
            return None
        rows = len(self.loader.dataset)
        sampler = getattr(self.loader.batch_sampler, "sampler", self.loader.sampler)
        is_part = isinstance(sampler, Sized) and not isinstance(sampler, DRAW_FROM_ALL)
        return min(rows, len(sampler)) if is_part else rows  # type: ignore[arg-type]

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
            x, covariates = _parts(item, self.names)
            data = as_data(x, covariates)
            if data.levels:
                raise TypeError(
                    f"expected numbers from the loader, got text for {next(iter(data.levels))!r}: a batch does not know the "
                    "levels of the others, so let the Dataset yield codes 0, 1, ..."
                )
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
    covariates: Sequence[str] = (),
) -> LoaderBatches:
    """Return mini-batches of a torch ``DataLoader``, or of a ``Dataset``, of which a loader is made.

    A batch is read as follows; labels never become covariates by themselves.

    * A tensor, or a tuple of one tensor, is ``x``.
    * A pair of ``x`` and one integer a row is ``x`` and labels, which are left out unless ``covariates`` names them.
    * A longer tuple, or another pair, is ``x`` and as many covariates as ``covariates`` names.
    * In a dict, the keys in ``covariates`` are covariates, the rest is ``x`` (the value itself, if its key is ``"x"``).

    Args:
        loader: a ``DataLoader``, a ``Dataset``, or any iterable of batches.
        batch_size: rows in a batch of a ``Dataset``; a loader has its own.
        shuffle: whether the rows of a ``Dataset`` come in random order.
        generator: the source of the order of a ``Dataset``.
        drop_last: whether an incomplete last batch of a ``Dataset`` is left out.
        device: where the batches go.
        dtype: the dtype of ``x`` and of the floating-point covariates.
        covariates: the names of the parts that are covariates.

    Raises:
        TypeError: the loader is no iterable, or yields no numbers.
        ValueError: a ``Dataset`` comes without a batch size, a loader with one, or a batch is ambiguous.

    >>> pairs = torch.utils.data.TensorDataset(torch.zeros(6, 2), torch.arange(6))
    >>> [batch.covariates for batch in loader_batches(pairs, batch_size=3)]
    [None, None]
    >>> [sorted(batch.covariates) for batch in loader_batches(pairs, batch_size=3, covariates=["label"])]
    [['label'], ['label']]
    """
    if isinstance(covariates, str):
        raise TypeError(f"expected covariates to be a list of names, got {covariates!r}; write [{covariates!r}]")
    if isinstance(loader, Dataset):
        if batch_size is None:
            raise ValueError("expected a batch_size for a Dataset, got none; write batch_size=128")
        shuffled = shuffle and not isinstance(loader, IterableDataset)
        size = check_integer("batch_size", batch_size)
        loader = DataLoader(loader, size, shuffled, generator=generator, drop_last=drop_last)
    elif batch_size is not None:
        raise ValueError(
            f"expected batch_size with a Dataset only, got batch_size={batch_size} with a {type(loader).__name__}; its "
            "batches have their size already: leave batch_size out"
        )
    if not isinstance(loader, Iterable):
        raise TypeError(
            f"expected a DataLoader, a Dataset or batches, got {type(loader).__name__}; write batches(data, 128)"
        )
    return LoaderBatches(loader, tuple(covariates), Place(device, dtype))


def _parts(item: Any, names: tuple[str, ...]) -> tuple[Any, dict[str, Any] | None]:
    """One batch of a loader as ``x`` and covariates."""
    if isinstance(item, Mapping):
        return _parts_of_dict(item, names)
    if not isinstance(item, tuple | list):
        return _parts_of_dict({"x": item}, names)
    if not names and (len(item) == 1 or (len(item) == 2 and _is_labels(item[1]))):
        return item[0], None
    if not names and len(item) == 2 and not isinstance(item[1], Tensor | Mapping):
        label = item[1][0] if isinstance(item[1], Sequence) and item[1] else item[1]
        raise TypeError(
            f"expected a row's data, or its data and a whole number as its label, which is left out, got {label!r:.50} as "
            "the second part: yield the first part alone"
        )
    if len(item) != 1 + len(names):
        columns = all(isinstance(part, Tensor) and part.ndim == 1 for part in item)
        remedy = "a Dataset of lists: yield torch.tensor(row); " if isinstance(item, list) and columns else ""
        raise ValueError(
            f"expected x and {len(names)} covariates from the loader, got {len(item)} parts; {remedy}name the parts after "
            "the first, covariates=['label'], or yield {'x': x} where labels are to be left out, or a dict by site"
        )
    return item[0], dict(zip(names, item[1:], strict=True))


def _parts_of_dict(item: Mapping[str, Any], names: tuple[str, ...]) -> tuple[Any, dict[str, Any] | None]:
    lacking = [name for name in names if name not in item]
    if lacking:
        raise ValueError(
            f"expected the loader to yield a part named {lacking[0]!r}, got: {', '.join(map(repr, item))}; correct "
            "covariates, or yield a dict with that key"
        )
    x = {key: value for key, value in item.items() if key not in names}
    if "x" in x and len(x) > 1:
        unread = next(key for key in x if key != "x")
        raise ValueError(
            f"expected each part beside 'x' to be named as a covariate, got {unread!r}; write covariates=[{unread!r}], "
            "or leave the part out: labels never become covariates by themselves"
        )
    return x.get("x", x), {name: item[name] for name in names} or None


def _is_labels(part: Any) -> bool:
    return isinstance(part, Tensor) and part.ndim == 1 and not part.is_floating_point()
