"""Kinds of table columns: the distribution, the start at the data, and the features that a posterior reads, of each."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.distributions.counts import SizedNegativeBinomial
from pyrovae.distributions.links import RAW_ONE, link, positive
from pyrovae.distributions.precise import StudentT
from pyrovae.distributions.truncated import TruncatedNormal
from pyrovae.errors import refusal


@dataclass(frozen=True)
class Column(ABC):
    """A column of a table (abstract): a subclass is a kind, whose methods serve all columns of that kind at once.

    Values are numbers in the data's units, or the codes 0, 1, ... of levels.

    Args:
        name: the column's name.
    """

    name: str
    kind: ClassVar[str]
    is_mass: ClassVar[bool] = False
    interior: ClassVar[Any] = 0.0
    """A value inside the column's range."""
    num_located: ClassVar[Any] = 1
    """How many numbers of the column's distribution depend on the latents: those that a network gives."""
    num_features: ClassVar[Any] = 1
    """How many numbers a posterior's network reads of the column."""

    @classmethod
    @abstractmethod
    def fit(cls, name: str, values: Tensor, given: tuple[Any, ...] = ()) -> Column:
        """The column whose units and start are those of values ``(rows,)`` in double precision, none missing.

        Args:
            name: the column's name.
            values: the values.
            given: the names of the levels, or the bounds, of a kind that has them.
        """

    @property
    def units(self) -> tuple[float, ...]:
        """The constants of the column, such as the center and the spread of its values."""
        return (self.loc, self.scale)  # type: ignore[attr-defined]

    @property
    def start(self) -> tuple[float, ...]:
        """Where the unconstrained parameters start: at the data's marginal distribution."""
        return (0.0, RAW_ONE)

    @staticmethod
    @abstractmethod
    def distribution(raw: Tensor, units: Tensor) -> dist.TorchDistribution:
        """The distribution of columns, given unconstrained parameters ``(..., columns, numbers)`` and units alike."""

    @staticmethod
    def inside(value: Tensor, units: Tensor) -> Tensor:
        """Whether values ``(..., columns)`` are in the columns' range."""
        return value == value

    @staticmethod
    def features(value: Tensor, units: Tensor) -> Tensor:
        """The features of values ``(..., columns)``, numbers of order one: ``(..., columns, num_features)``."""
        return ((value - units[..., 0]) / units[..., 1]).unsqueeze(-1)

    @staticmethod
    def center(distribution: Any) -> Tensor:
        """The value to impute: the mean of a number, the most probable level."""
        return distribution.mean

    def _holding(self, values: Tensor) -> Any:
        """The column, if it can hold these values."""
        inside = self.inside(values, values.new_tensor(self.units))
        if not bool(inside.all()):
            raise refusal(
                f"column {self.name!r} cannot be {self.kind}, since it holds {float(values[~inside][0]):g}: give it another "
                "kind, or mend the data",
                "kinds",
            )
        return self

    def to_json(self) -> dict[str, Any]:
        """The kind and the fields as JSON holds them; ``TableSchema.from_json`` gives the column back."""
        return {"kind": self.kind} | {n: list(v) if isinstance(v, tuple) else v for n, v in vars(self).items()}


@dataclass(frozen=True)
class Real(Column):
    r"""A real number: :math:`\mathcal{N}(m + s\,\mu(z), (s \sigma)^2)`, with m and s of the data.

    Args:
        name: the column's name.
        loc: m.
        scale: s.

    >>> Real.distribution(torch.zeros(5, 1, 2), torch.tensor([[170.0, 10.0]])).batch_shape
    torch.Size([5, 1])
    """

    loc: float
    scale: float
    kind: ClassVar = "real"

    @classmethod
    def fit(cls, name: str, values: Tensor, given: tuple[Any, ...] = ()) -> Real:
        """Standardized by mean and standard deviation."""
        return cls(name, *moments_of(name, values))

    @staticmethod
    def distribution(raw: Tensor, units: Tensor) -> dist.TorchDistribution:
        """A normal."""
        loc, scale = units.unbind(-1)
        return dist.Normal(loc + scale * raw[..., 0], scale * positive(raw[..., 1]))


@dataclass(frozen=True)
class HeavyTailed(Column):
    r"""A real number with heavy tails: :math:`t_\nu(m + s\,\mu(z), s \sigma)` with :math:`\nu > 1`, m and s of the data.

    Args:
        name: the column's name.
        loc: m.
        scale: s.
    """

    loc: float
    scale: float
    kind: ClassVar = "student_t"

    @classmethod
    def fit(cls, name: str, values: Tensor, given: tuple[Any, ...] = ()) -> HeavyTailed:
        """Standardized by the median and the distance between the quartiles."""
        _, sd = moments_of(name, values)
        low, middle, high = values.quantile(values.new_tensor([0.25, 0.5, 0.75])).tolist()
        return cls(name, middle, (high - low) / 1.349 or sd)

    @property
    def start(self) -> tuple[float, ...]:
        """Scale one, eleven degrees of freedom."""
        return (0.0, RAW_ONE, 10.0)

    @staticmethod
    def distribution(raw: Tensor, units: Tensor) -> dist.TorchDistribution:
        """A Student t."""
        loc, scale = units.unbind(-1)
        return StudentT(1 + positive(raw[..., 2]), loc + scale * raw[..., 0], scale * positive(raw[..., 1]))


@dataclass(frozen=True)
class Positive(Column):
    r"""A positive number: its logarithm is :math:`\mathcal{N}(m + s\,\mu(z), (s \sigma)^2)`, with m and s of the data.

    Args:
        name: the column's name.
        loc: m.
        scale: s.
    """

    loc: float
    scale: float
    kind: ClassVar = "positive"
    interior: ClassVar = 1.0

    @classmethod
    def fit(cls, name: str, values: Tensor, given: tuple[Any, ...] = ()) -> Positive:
        """Standardized by mean and standard deviation of the logarithm."""
        logs = values.clamp(min=torch.finfo(values.dtype).tiny).log()
        return cls(name, *moments_of(name, logs))._holding(values)

    @staticmethod
    def distribution(raw: Tensor, units: Tensor) -> dist.TorchDistribution:
        """A log-normal."""
        loc, scale = units.unbind(-1)
        return dist.LogNormal(loc + scale * raw[..., 0], scale * positive(raw[..., 1]))

    @staticmethod
    def inside(value: Tensor, units: Tensor) -> Tensor:
        """Whether values are positive."""
        return value > 0

    @staticmethod
    def features(value: Tensor, units: Tensor) -> Tensor:
        """The standardized logarithm."""
        return Real.features(value.log(), units)


@dataclass(frozen=True)
class Bounded(Column):
    r"""A number in an interval, its ends included: a normal with m + s μ(z) and s σ, truncated to the interval.

    Args:
        name: the column's name.
        lower: the least value.
        upper: the largest value.
        loc: m.
        scale: s.
    """

    lower: float
    upper: float
    loc: float
    scale: float
    kind: ClassVar = "bounded"

    @classmethod
    def fit(cls, name: str, values: Tensor, given: tuple[Any, ...] = ()) -> Bounded:
        """Standardized by mean and standard deviation; without bounds in 0..1 or 0..100, if the values are."""
        largest = float(values.max()) if len(values) else 0.0
        lower, upper = given or (0.0, 1.0 if largest <= 1 else 100.0)
        return cls(name, lower, upper, *moments_of(name, values))._holding(values)

    @property
    def units(self) -> tuple[float, ...]:
        """Center, spread and bounds."""
        return (self.loc, self.scale, self.lower, self.upper)

    @staticmethod
    def distribution(raw: Tensor, units: Tensor) -> dist.TorchDistribution:
        """A truncated normal."""
        loc, scale, lower, upper = units.unbind(-1)
        return TruncatedNormal(loc + scale * raw[..., 0], scale * positive(raw[..., 1]), lower, upper)

    @staticmethod
    def inside(value: Tensor, units: Tensor) -> Tensor:
        """Whether values are in the interval."""
        return (value >= units[..., 2]) & (value <= units[..., 3])

    @property
    def interior(self) -> float:  # type: ignore[override]
        """The middle of the interval."""
        return 0.5 * (self.lower + self.upper)


@dataclass(frozen=True)
class Count(Column):
    r"""A count: negative binomial with mean :math:`m \lambda(z)`, with m the data's mean, and one dispersion.

    Args:
        name: the column's name.
        mean: m.
        dispersion: where the inverse dispersion starts.
    """

    mean: float
    dispersion: float = 1.0
    kind: ClassVar = "count"
    is_mass: ClassVar = True

    @classmethod
    def fit(cls, name: str, values: Tensor, given: tuple[Any, ...] = ()) -> Count:
        """Mean and dispersion by moments."""
        mean, sd = moments_of(name, values)
        return cls(name, mean, min(max(mean**2 / max(sd**2 - mean, 1e-9), 0.1), 100.0))._holding(values)

    @property
    def units(self) -> tuple[float, ...]:
        """The mean."""
        return (self.mean,)

    @property
    def start(self) -> tuple[float, ...]:
        """The rate one, and the dispersion."""
        return (RAW_ONE, float(link(constraints.positive).inverse(torch.tensor(self.dispersion))))

    @staticmethod
    def distribution(raw: Tensor, units: Tensor) -> dist.TorchDistribution:
        """A negative binomial."""
        return SizedNegativeBinomial(units[..., 0] * positive(raw[..., 0]), positive(raw[..., 1]))

    @staticmethod
    def inside(value: Tensor, units: Tensor) -> Tensor:
        """Whether values are counts."""
        return (value >= 0) & (value == value.round())

    @staticmethod
    def features(value: Tensor, units: Tensor) -> Tensor:
        """The logarithm of one plus the count, centered."""
        return (value.log1p() - units[..., 0].log1p()).unsqueeze(-1)


def moments_of(name: str, values: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of a column that varies."""
    mean, sd = float(values.mean()), float(values.std(correction=0))
    if not sd > 1e-12 * abs(mean) or not math.isfinite(mean):
        raise refusal(f"column {name!r} is constant or infinite, and carries no density: drop it", "kinds")
    return mean, sd
