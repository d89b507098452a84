"""Rows: tensors, or compact forms that become tensors batch by batch; and trees of them, indexed together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    import scipy.sparse

Index: TypeAlias = "Tensor | slice"


class LazyRows(ABC):
    """Rows in a compact form, which become a dense tensor when a batch of them is taken.

    Attributes:
        shape: `(rows, *event_shape)`.
        dtype: The dtype of the dense rows.
    """

    shape: torch.Size
    dtype: torch.dtype

    @abstractmethod
    def take(self, index: Index) -> Tensor:
        """These rows as a dense tensor of shape `(len(index), *event_shape)`."""

    @abstractmethod
    def select(self, index: Index) -> LazyRows:
        """These rows in the same compact form."""

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={tuple(self.shape)}, dtype={self.dtype})"


class SparseRows(LazyRows):
    """The rows of a scipy CSR matrix, kept sparse; an absent entry is zero.

    Args:
        matrix: A matrix or array of shape `(rows, features)` in CSR format, of a dtype that torch knows.

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
        """These rows as a dense tensor of shape `(len(index), features)`."""
        return torch.from_numpy(self.select(index).matrix.toarray())

    def select(self, index: Index) -> SparseRows:
        """These rows, still sparse."""
        return SparseRows(self.matrix[index if isinstance(index, slice) else index.cpu().numpy()])


Rows: TypeAlias = "Tensor | LazyRows"
Tree: TypeAlias = "Rows | Mapping[Any, Tree] | tuple[Tree, ...]"


def map_tree(function: Callable[[Any, str], Any], tree: Any, path: str = "x") -> Any:
    """Apply `function(leaf, path)` to each leaf of nested dicts and tuples, keeping their structure.

    Args:
        function: Gets a leaf and the expression that leads to it, `"x['counts']"` say, for messages.
        tree: A leaf, or a dict or tuple of trees.
        path: The expression that stands for the whole tree.

    >>> map_tree(lambda leaf, path: (leaf, path), {"a": 1, "b": (2,)})
    {'a': (1, "x['a']"), 'b': ((2, "x['b'][0]"),)}
    """
    if isinstance(tree, Mapping):
        return {key: map_tree(function, branch, f"{path}[{key!r}]") for key, branch in tree.items()}
    if isinstance(tree, tuple):
        return tuple(map_tree(function, branch, f"{path}[{number}]") for number, branch in enumerate(tree))
    return function(tree, path)


def leaves(tree: Any, path: str = "x") -> list[tuple[Any, str]]:
    """All leaves of a tree with their paths, in order.

    Args:
        tree: A leaf, or a dict or tuple of trees.
        path: The expression that stands for the whole tree.

    >>> leaves(({"a": 1}, 2))
    [(1, "x[0]['a']"), (2, 'x[1]')]
    """
    found: list[tuple[Any, str]] = []
    map_tree(lambda leaf, where: found.append((leaf, where)), tree, path)
    return found


def take(rows: Rows, index: Index) -> Tensor:
    """Rows as a dense tensor: a copy for an index, a view of a tensor for a slice."""
    if isinstance(rows, LazyRows):
        return rows.take(index)
    return rows[index] if isinstance(index, slice) else rows.index_select(0, index.to(rows.device))


def select(rows: Rows, index: Index) -> Rows:
    """Rows in the form that they have, dense or compact."""
    return rows.select(index) if isinstance(rows, LazyRows) else take(rows, index)
