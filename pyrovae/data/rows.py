"""Rows: tensors, or compact forms that become tensors batch by batch; and trees of them, indexed together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    import scipy.sparse

Index: TypeAlias = "Tensor | slice"

CHUNK = 4096
"""Rows handled at once where a function goes through all rows: compact rows never lie dense in memory together."""


class LazyRows(ABC):
    """Rows in a compact form, which become a dense tensor when a batch of them is taken.

    Attributes:
        shape: ``(rows, *event_shape)``.
        dtype: the dtype of the dense rows.
    """

    shape: torch.Size
    dtype: torch.dtype

    @abstractmethod
    def take(self, index: Index) -> Tensor:
        """Return these rows as a dense tensor of shape ``(len(index), *event_shape)``."""

    @abstractmethod
    def select(self, index: Index) -> LazyRows:
        """Return these rows in the same compact form."""

    def stored(self) -> Iterator[Tensor]:
        """The stored numbers, a part at a time: what must be looked at for NaN and infinity."""
        return (self.take(slice(start, start + CHUNK)) for start in range(0, len(self), CHUNK))

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={tuple(self.shape)}, dtype={self.dtype})"


class SparseRows(LazyRows):
    """The rows of a scipy CSR matrix, kept sparse; an absent entry is zero.

    Args:
        matrix: a matrix or array of shape ``(rows, features)`` in CSR format, of a dtype that torch knows.

    >>> import scipy.sparse
    >>> rows = SparseRows(scipy.sparse.csr_array([[0.0, 2.0], [0.0, 0.0], [1.0, 0.0]]))
    >>> rows.take(torch.tensor([2, 0]))
    tensor([[1., 0.],
            [0., 2.]], dtype=torch.float64)
    """

    def __init__(self, matrix: scipy.sparse.csr_array) -> None:
        self.matrix = matrix
        self.shape = torch.Size(matrix.shape)
        self.dtype = torch.from_numpy(matrix.data[:0]).dtype

    def take(self, index: Index) -> Tensor:
        """Return these rows as a dense tensor of shape ``(len(index), features)``."""
        return torch.from_numpy(self.select(index).matrix.toarray())

    def select(self, index: Index) -> SparseRows:
        """Return these rows, still sparse."""
        return SparseRows(self.matrix[index if isinstance(index, slice) else index.cpu().numpy()])

    def columns(self, order: list[int]) -> SparseRows:
        """Return the rows with their columns in this order."""
        return SparseRows(self.matrix[:, order])

    def stored(self) -> Iterator[Tensor]:
        """The stored numbers, at once."""
        yield torch.from_numpy(self.matrix.data)


Rows: TypeAlias = "Tensor | LazyRows"


def map_tree(function: Callable[..., Any], tree: Any, *others: Any, path: str = "x") -> Any:
    """Apply ``function(leaf, path, *others)`` to each leaf of nested dicts and tuples, keeping their structure.

    The path is the expression that leads to the leaf, for messages; ``others`` are trees with at least this tree's structure,
    of which the function gets the same place (None stands for a tree of None).

    >>> map_tree(lambda leaf, path: (leaf, path), {"a": 1, "b": (2,)})
    {'a': (1, "x['a']"), 'b': ((2, "x['b'][0]"),)}
    """
    if isinstance(tree, tuple):
        return tuple(_branches(function, enumerate(tree), others, path).values())
    if isinstance(tree, Mapping) and not hasattr(tree, "tocsr"):  # a sparse matrix by keys is a dict
        return _branches(function, tree.items(), others, path)
    return function(tree, path, *others)


def _branches(function: Callable[..., Any], items: Iterable[Any], others: tuple, path: str) -> dict[Any, Any]:
    return {
        key: map_tree(function, branch, *(None if o is None else o[key] for o in others), path=f"{path}[{key!r}]")
        for key, branch in items
    }


def leaves(tree: Any, path: str = "x") -> list[tuple[Any, str]]:
    """Return all leaves of a tree with their paths, in order."""
    found: list[tuple[Any, str]] = []
    map_tree(lambda leaf, where: found.append((leaf, where)), tree, path=path)
    return found


def take(rows: Rows, index: Index) -> Tensor:
    """Return rows as a dense tensor: a copy for an index, a view of a tensor for a slice."""
    if isinstance(rows, LazyRows):
        return rows.take(index)
    return rows[index] if isinstance(index, slice) else rows.index_select(0, index.to(rows.device))


def select(rows: Rows, index: Index) -> Rows:
    """Return rows in the form that they have, dense or compact."""
    return rows.select(index) if isinstance(rows, LazyRows) else take(rows, index)


def stored(rows: Rows) -> Iterator[Tensor]:
    """The stored numbers of rows, a part at a time."""
    return rows.stored() if isinstance(rows, LazyRows) else iter(rows.split(CHUNK))


def first_row(wrong: Tensor) -> int:
    """Return the number of the first row with a True entry."""
    return int(wrong.reshape(len(wrong), -1).any(1).nonzero()[0])
