"""Kinds of table columns: the coding, the distribution and a posterior's features of each."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import one_hot

from pyrovae.distributions.categorical import LevelCategorical
from pyrovae.distributions.counts import SizedNegativeBinomial
from pyrovae.distributions.links import RAW_ONE, positive

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(frozen=True)
class Column(ABC):
    """One kind of column (abstract): numbers ``(*batch,)``, NaN where missing.

    Args:
        name: the column's name.
    """

    name: Hashable
    support: ClassVar[constraints.Constraint]
    interior: ClassVar[float] = 0.0

    @property
    def num_parameters(self) -> int:
        """How many numbers the likelihood's network gives for this column."""
        return 2

    @property
    def num_features(self) -> int:
        """How many numbers a posterior's network sees of this column."""
        return 1

    @property
    def offset(self) -> tuple[float, ...]:
        """Where the network's numbers start: at the data's marginal distribution, roughly."""
        return (0.0, RAW_ONE)

    @classmethod
    @abstractmethod
    def from_series(cls, name: Hashable, series: pd.Series) -> Column:
        """The column that describes the data."""

    @abstractmethod
    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """The column's distribution given the network's numbers ``(*batch, num_parameters)``."""

    @abstractmethod
    def features(self, value: Tensor) -> Tensor:
        """The features of a posterior's network: numbers of order one, ``(*batch, num_features)``."""

    def encode(self, series: pd.Series) -> np.ndarray:
        """The column as floating point numbers, NaN where missing."""
        values = series.astype("float64").to_numpy(na_value=float("nan")).copy()  # pandas gives a read-only view
        self._check(values)
        return values

    def decode(self, values: np.ndarray) -> Sequence[object] | np.ndarray:
        """The values of the column from its numbers."""
        return values

    def center(self, distribution: dist.TorchDistribution) -> Tensor:
        """The value to impute: the mean of a number, the most probable category."""
        return distribution.mean

    def _check(self, values: np.ndarray) -> None:
        found = torch.as_tensor(values)
        wrong = ~(self.support.check(found) | found.isnan())
        if wrong.any():
            raise ValueError(
                f"column {self.name!r} is {type(self).__name__.lower()}, but row {int(wrong.nonzero()[0])} holds "
                f"{found[wrong][0]:g}: give it another kind, kinds={{{self.name!r}: ...}}, or mend the data"
            )


@dataclass(frozen=True)
class Real(Column):
    r"""A real number: :math:`\mathcal{N}(m + s\,\mu, (s \sigma)^2)`, with m and s of the data.

    Args:
        name: the column's name.
        loc: m.
        scale: s.

    >>> Real("height", loc=170.0, scale=10.0).distribution(torch.zeros(5, 2)).batch_shape
    torch.Size([5])
    """

    loc: float
    scale: float
    support: ClassVar = constraints.real

    @classmethod
    def from_series(cls, name: Hashable, series: pd.Series) -> Real:
        """Standardized by the data's mean and standard deviation."""
        return cls(name, *_moments(name, series.astype("float64")))

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """A normal."""
        return dist.Normal(self.loc + self.scale * raw[..., 0], self.scale * positive(raw[..., 1]))

    def features(self, value: Tensor) -> Tensor:
        """The standardized value."""
        return ((value - self.loc) / self.scale).unsqueeze(-1)


@dataclass(frozen=True)
class Positive(Column):
    r"""A positive number: its logarithm is :math:`\mathcal{N}(m + s\,\mu, (s \sigma)^2)`, with m and s of the data.

    Args:
        name: the column's name.
        loc: m.
        scale: s.

    >>> Positive("price", loc=2.0, scale=1.0).distribution(torch.zeros(2)).support
    GreaterThan(lower_bound=0.0)
    """

    loc: float
    scale: float
    support: ClassVar = constraints.positive
    interior: ClassVar[float] = 1.0

    @classmethod
    def from_series(cls, name: Hashable, series: pd.Series) -> Positive:
        """Standardized by the mean and standard deviation of the data's logarithm."""
        values = series.astype("float64")
        if (values <= 0).any():
            raise ValueError(
                f"column {name!r} cannot be positive, its least value is {values.min():g}: use Real or Count"
            )
        return cls(name, *_moments(name, values.map(math.log, na_action="ignore")))

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """A log-normal."""
        return dist.LogNormal(self.loc + self.scale * raw[..., 0], self.scale * positive(raw[..., 1]))

    def features(self, value: Tensor) -> Tensor:
        """The standardized logarithm."""
        return ((value.log() - self.loc) / self.scale).unsqueeze(-1)


@dataclass(frozen=True)
class Count(Column):
    r"""A count: negative binomial with mean :math:`m \lambda`, with m the data's mean.

    Args:
        name: the column's name.
        mean: m.

    >>> Count("visits", mean=3.0).distribution(torch.zeros(5, 2)).batch_shape
    torch.Size([5])
    """

    mean: float
    support: ClassVar = constraints.nonnegative_integer

    @property
    def offset(self) -> tuple[float, ...]:
        """Rate and dispersion one."""
        return (RAW_ONE, RAW_ONE)

    @classmethod
    def from_series(cls, name: Hashable, series: pd.Series) -> Count:
        """Scaled by the data's mean."""
        return cls(name, max(_moments(name, series.astype("float64"))[0], 1e-3))

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """A negative binomial."""
        return SizedNegativeBinomial(self.mean * positive(raw[..., 0]), positive(raw[..., 1]))

    def features(self, value: Tensor) -> Tensor:
        """The logarithm of one plus the count, centered."""
        return (value.log1p() - math.log1p(self.mean)).unsqueeze(-1)


@dataclass(frozen=True)
class Category(Column):
    r"""One of several labels, coded 0 to K - 1: categorical.

    Args:
        name: the column's name.
        levels: the labels, in the order of their codes.
        frequencies: their shares in the data.

    >>> Category("color", levels=("blue", "red"), frequencies=(0.5, 0.5)).distribution(torch.zeros(2)).probs
    tensor([0.5000, 0.5000])
    """

    levels: tuple[Hashable, ...]
    frequencies: tuple[float, ...]
    support: ClassVar = constraints.nonnegative_integer

    @property
    def num_parameters(self) -> int:
        """One logit a label."""
        return len(self.levels)

    @property
    def num_features(self) -> int:
        """One indicator a label."""
        return len(self.levels)

    @property
    def offset(self) -> tuple[float, ...]:
        """The log frequencies of the labels."""
        return tuple(math.log(frequency) for frequency in self.frequencies)

    @classmethod
    def from_series(cls, name: Hashable, series: pd.Series) -> Category:
        """With the data's labels, sorted (those of a pandas categorical in its order)."""
        levels = series.cat.categories if series.dtype.name == "category" else sorted(series.dropna().unique())
        if len(levels) < 2:
            raise ValueError(
                f"column {name!r} has {len(levels)} label(s), a category needs two or more: drop the column"
            )
        counts = [1 + (series == level).sum() for level in levels]
        return cls(name, tuple(levels), tuple(float(count / sum(counts)) for count in counts))

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """A categorical."""
        return LevelCategorical(logits=raw)

    def features(self, value: Tensor) -> Tensor:
        """Indicators, less the labels' frequencies."""
        indicators = one_hot(value.long(), len(self.levels)).to(value.dtype)
        return indicators - torch.tensor(self.frequencies, dtype=value.dtype, device=value.device)

    def encode(self, series: pd.Series) -> np.ndarray:
        """The labels' codes."""
        codes = series.map({level: float(k) for k, level in enumerate(self.levels)}, na_action="ignore").astype(
            "float64"
        )
        unknown = series[codes.isna() & series.notna()]
        if len(unknown):
            raise ValueError(
                f"column {self.name!r} holds the label {unknown.iloc[0]!r}, unknown to the schema, whose labels are "
                f"{self.levels}: build the schema from data that holds it, or mark it missing"
            )
        return codes.to_numpy()

    def decode(self, values: np.ndarray) -> Sequence[object]:
        """The labels."""
        return [None if value != value else self.levels[int(value)] for value in values]

    def center(self, distribution: dist.TorchDistribution) -> Tensor:
        """The most probable code."""
        return distribution.logits.argmax(-1).to(distribution.logits.dtype)


def _moments(name: Hashable, series: pd.Series) -> tuple[float, float]:
    mean, std = float(series.mean()), float(series.std(ddof=0))
    if not std > 0 or not math.isfinite(mean):
        raise ValueError(f"column {name!r} is constant, empty or infinite, and carries no density: drop it")
    return mean, std
