"""Kinds of table columns whose values are levels: two, several, or ordered ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pyrovae.distributions.categorical import LevelCategorical, increasing, proportional_odds, steps_of
from pyrovae.distributions.columns import Column
from pyrovae.errors import refusal


@dataclass(frozen=True)
class Leveled(Column):
    """A column of levels, coded 0 to K - 1 (abstract).

    Args:
        name: the column's name.
        levels: the names of the levels, in the order of their codes.
        frequencies: their shares in the data.
    """

    levels: tuple[str, ...]
    frequencies: tuple[float, ...]
    is_mass: ClassVar = True

    @classmethod
    def fit(cls, name: str, values: Tensor, given: tuple[Any, ...] = ()) -> Any:
        """With the shares of the levels, each counted once more than it is there."""
        levels = given or tuple(str(code) for code in range(int(values.max()) + 1))
        if len(levels) < 2 or (cls.kind == "binary" and len(levels) > 2):
            raise refusal(
                f"column {name!r} has {len(levels)} level(s), which is not {cls.kind}: drop it, or say another", "kinds"
            )
        counts = 1.0 + torch.bincount(values.long().clamp(0, len(levels) - 1), minlength=len(levels)).double()
        return cls(name, levels, tuple((counts / counts.sum()).tolist()))._holding(values)

    @property
    def units(self) -> tuple[float, ...]:
        """The frequencies."""
        return self.frequencies

    @staticmethod
    def inside(value: Tensor, units: Tensor) -> Tensor:
        """Whether values are codes of the levels."""
        return (value >= 0) & (value == value.round()) & (value < units.shape[-1])


@dataclass(frozen=True)
class Binary(Leveled):
    """One of two levels: Bernoulli.

    Args:
        name: the column's name.
        levels: the names of the two levels.
        frequencies: their shares in the data.
    """

    kind: ClassVar = "binary"

    @property
    def start(self) -> tuple[float, ...]:
        """The log odds of the second level."""
        return (math.log(self.frequencies[1] / self.frequencies[0]),)

    @staticmethod
    def distribution(raw: Tensor, units: Tensor) -> dist.TorchDistribution:
        """A Bernoulli."""
        return dist.Bernoulli(logits=raw[..., 0])

    @staticmethod
    def features(value: Tensor, units: Tensor) -> Tensor:
        """The code, less the second level's frequency."""
        return (value - units[..., 1]).unsqueeze(-1)

    @staticmethod
    def center(distribution: Any) -> Tensor:
        """The most probable code."""
        return (distribution.logits > 0).to(distribution.logits.dtype)


@dataclass(frozen=True)
class Category(Leveled):
    """One of several levels: categorical.

    Args:
        name: the column's name.
        levels: the names of the levels, in the order of their codes.
        frequencies: their shares in the data.

    >>> Category.fit("color", torch.tensor([0.0, 1.0]), ("blue", "red")).start
    (-0.6931471805599453, -0.6931471805599453)
    """

    kind: ClassVar = "category"

    @property
    def num_located(self) -> int:  # type: ignore[override]
        """One logit per level."""
        return len(self.levels)

    num_features = num_located  # type: ignore[assignment]

    @property
    def start(self) -> tuple[float, ...]:
        """The log frequencies."""
        return tuple(math.log(frequency) for frequency in self.frequencies)

    @staticmethod
    def distribution(raw: Tensor, units: Tensor) -> dist.TorchDistribution:
        """A categorical."""
        return LevelCategorical(logits=raw)

    @staticmethod
    def features(value: Tensor, units: Tensor) -> Tensor:
        """Indicators of the levels, less their frequencies."""
        return one_hot(value.long(), units.shape[-1]).to(value.dtype) - units

    @staticmethod
    def center(distribution: Any) -> Tensor:
        """The most probable code."""
        return distribution.logits.argmax(-1).to(distribution.logits.dtype)


@dataclass(frozen=True)
class Ordered(Leveled):
    """One of several ordered levels: proportional odds, with cutpoints that do not depend on the latents.

    Args:
        name: the column's name.
        levels: the names of the levels, in their order.
        frequencies: their shares in the data.
    """

    kind: ClassVar = "ordinal"

    @property
    def start(self) -> tuple[float, ...]:
        """Location zero, and the cutpoints of the frequencies."""
        cutpoints = torch.tensor(self.frequencies, dtype=torch.float64).cumsum(0)[:-1].logit()
        return (0.0, *steps_of(cutpoints).tolist())

    @staticmethod
    def distribution(raw: Tensor, units: Tensor) -> dist.TorchDistribution:
        """A categorical with the masses of a cumulative logit model."""
        return LevelCategorical(logits=proportional_odds(raw[..., 0], increasing(raw[..., 1:])))

    @staticmethod
    def features(value: Tensor, units: Tensor) -> Tensor:
        """The code, standardized by the frequencies."""
        codes = torch.arange(units.shape[-1], dtype=units.dtype, device=units.device)
        mean = (units * codes).sum(-1)
        sd = (units * (codes - mean.unsqueeze(-1)).square()).sum(-1).sqrt()
        return ((value - mean) / sd).unsqueeze(-1)

    center = staticmethod(Category.center)
