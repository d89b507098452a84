"""Tables whose columns are of different kinds: the schema, and the distribution of a row."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints, transform_to
from torch.distributions.transforms import Transform

from pyrovae.distributions.base import Maskable
from pyrovae.distributions.columns import Category, Column, Count, Real

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(frozen=True)
class TableSchema:
    """The columns of a table: their kinds, labels and scales.

    Args:
        columns: one :class:`~pyrovae.distributions.columns.Column` each, in the data's order.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"age": [31, 45, None], "color": ["red", "blue", "red"], "visits": [0, 2, 5]})
    >>> schema = TableSchema.from_frame(frame)
    >>> [type(column).__name__ for column in schema.columns]
    ['Real', 'Category', 'Count']
    >>> schema.encode(frame).tolist()
    [[31.0, 1.0, 0.0], [45.0, 0.0, 2.0], [nan, 1.0, 5.0]]
    """

    columns: tuple[Column, ...]

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, kinds: Mapping[Hashable, type[Column]] | None = None) -> TableSchema:
        """Read the kinds from a frame's dtypes, and labels and scales from its values.

        Booleans, categoricals and strings are categories; integers are counts, or real if one is negative; floating point
        numbers are real.

        Args:
            frame: the training data; missing values are left out.
            kinds: kinds for some columns by name: ``Real``, ``Positive``, ``Count`` or ``Category``.

        Raises:
            ValueError: a kind is given for a column that the frame lacks, two columns share a name, or a column is constant or
                does not fit its kind.
        """
        if not frame.columns.is_unique:
            twice = frame.columns[frame.columns.duplicated()][0]
            raise ValueError(f"the frame has two columns named {twice!r}: give each its own name")
        kinds = {} if kinds is None else kinds
        unknown = [name for name in kinds if name not in frame.columns]
        if unknown:
            raise ValueError(f"kinds= names the column {unknown[0]!r}, the frame has {list(frame.columns)}")
        found = [kinds.get(name, _kind(frame[name])).from_series(name, frame[name]) for name in frame.columns]
        return cls(tuple(found))

    @property
    def num_parameters(self) -> int:
        """How many numbers a likelihood's network gives for one row."""
        return sum(column.num_parameters for column in self.columns)

    @property
    def num_features(self) -> int:
        """How many numbers a posterior's network sees of one row: features and one missingness indicator a column."""
        return sum(column.num_features + 1 for column in self.columns)

    def encode(self, frame: pd.DataFrame) -> np.ndarray:
        """A frame as floating point numbers of shape ``(rows, columns)``, NaN where missing.

        Raises:
            ValueError: a column is absent, or holds a value outside its kind.
        """
        import numpy as np

        absent = [column.name for column in self.columns if column.name not in frame.columns]
        if absent:
            raise ValueError(f"the frame lacks the column {absent[0]!r}; it has {list(frame.columns)}")
        return np.stack([column.encode(frame[column.name]) for column in self.columns], 1)

    def decode(self, values: np.ndarray | Tensor) -> pd.DataFrame:
        """The frame back from numbers of shape ``(rows, columns)``."""
        import numpy as np
        import pandas as pd

        array = np.asarray(values, dtype=float)
        return pd.DataFrame({column.name: column.decode(array[:, j]) for j, column in enumerate(self.columns)})

    def features(self, x: Tensor, mask: Tensor) -> Tensor:
        """The features that a posterior reads, of order one and zero where missing, and the mask: ``(*batch, num_features)``.

        Args:
            x: coded data of shape ``(*batch, columns)``, any finite value where missing.
            mask: True where observed, of the same shape.
        """
        filled = torch.where(mask, x, self.interior(x))
        parts = [
            torch.where(seen.unsqueeze(-1), column.features(value), 0.0)
            for column, value, seen in zip(self.columns, filled.unbind(-1), mask.unbind(-1), strict=True)
        ]
        return torch.cat([*parts, mask.to(x.dtype)], -1)

    def interior(self, like: Tensor) -> Tensor:
        """A value inside each column's support."""
        return torch.tensor([column.interior for column in self.columns], dtype=like.dtype, device=like.device)


class ColumnSupport(constraints.Constraint):
    """Each entry of a row in its own column's support.

    Args:
        schema: the columns.
    """

    event_dim = 1
    is_discrete = False

    def __init__(self, schema: TableSchema) -> None:
        self.schema = schema
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether each row lies in the support."""
        columns = zip(self.schema.columns, value.unbind(-1), strict=True)
        return torch.stack([column.support.check(entry) for column, entry in columns], -1).all(-1)


class TableDistribution(Maskable):
    r"""Independent columns of different kinds.

    .. math:: p(x) = \prod_j p_j(x_j)

    A density in the real and positive columns, a mass in the others.

    Args:
        schema: the columns.
        raw: their unconstrained parameters, of shape ``(*batch, num_parameters)``.
        mask: True for the entries that count, of shape ``(*batch, columns)``; None for all.

    Reference: Nazabal et al. 2020, HI-VAE, doi:10.1016/j.patcog.2020.107501, arXiv:1807.03653.

    >>> from pyrovae.distributions.columns import Real
    >>> TableDistribution(TableSchema((Real("a", 0.0, 1.0),)), torch.zeros(5, 2)).event_shape
    torch.Size([1])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    axes: Mapping[str, int] = {"raw": 1}

    def __init__(self, schema: TableSchema, raw: Tensor, mask: Tensor | None = None) -> None:
        self.schema, self.raw, self._mask = schema, raw, mask
        super().__init__(raw.shape[:-1], torch.Size((len(schema.columns),)), validate_args=False)

    @property
    def support(self) -> ColumnSupport:
        """Each entry in its own column's support."""
        return ColumnSupport(self.schema)

    @property
    def columns(self) -> tuple[dist.TorchDistribution, ...]:
        """The columns' distributions, each of batch shape ``batch``."""
        parts = self.raw.split([column.num_parameters for column in self.schema.columns], -1)
        return tuple(column.distribution(part) for column, part in zip(self.schema.columns, parts, strict=True))

    @property
    def mean(self) -> Tensor:
        """The mean of a number, the most probable code of a category: shape ``(*batch, columns)``."""
        pairs = zip(self.schema.columns, self.columns, strict=True)
        return torch.stack([column.center(distribution) for column, distribution in pairs], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density in nats, in the columns' own units, of shape ``batch``."""
        if self._mask is not None:
            value = torch.where(self._mask, value, self.schema.interior(value))
        pairs = zip(self.columns, value.unbind(-1), strict=True)
        terms = torch.stack([distribution.log_prob(entry) for distribution, entry in pairs], -1)
        return (terms if self._mask is None else torch.where(self._mask, terms, 0.0)).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Coded rows of shape ``(*sample_shape, *batch, columns)``."""
        draws = [distribution.sample(torch.Size(sample_shape)) for distribution in self.columns]
        return torch.stack([draw.to(self.raw.dtype) for draw in draws], -1)


def _kind(series: pd.Series) -> type[Column]:
    import pandas as pd

    if pd.api.types.is_bool_dtype(series) or not pd.api.types.is_numeric_dtype(series):
        return Category
    if pd.api.types.is_integer_dtype(series) and not (series.dropna() < 0).any():
        return Count
    return Real


@transform_to.register(ColumnSupport)
class ColumnTransform(Transform):
    """A map whose value at zero lies inside each column's support, which is what filling missing entries needs.

    Args:
        support: the support of a table's rows.
    """

    domain = codomain = constraints.real_vector

    def __init__(self, support: ColumnSupport) -> None:
        super().__init__()
        self.schema = support.schema

    def _call(self, x: Tensor) -> Tensor:
        return x + self.schema.interior(x)
