"""Families on integer levels: a density on the line, integrated over each level."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from pyrovae.distributions.base import Number, Univariate
from pyrovae.distributions.precise import to_double
from pyrovae.distributions.special import log1mexp, log_ndtr, log_normal_interval


class Discretized(Univariate):
    r"""A density on the real line, integrated over each of ``levels`` integers (abstract).

    .. math:: P(k) = F(u_k + h) - F(u_k - h), \qquad u_k = \frac{2k}{L - 1} - 1,\quad h = \frac{1}{L - 1}

    The first and the last level take the whole tail, so that the masses sum to one. Location and scale refer to the range
    [-1, 1] for any number of levels, so that the outputs of a network are of order one.
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}
    given_constraints: ClassVar = {"levels": constraints.greater_than_eq(2)}

    def __init__(self, loc: Number, scale: Number, levels: Number = 256, validate_args: bool | None = None) -> None:
        super().__init__({"loc": loc, "scale": scale, "levels": levels}, validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The integers from 0 to ``levels - 1``."""
        return constraints.integer_interval(0, self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """The mean level, exact: the sum of the survival function over the levels."""
        total = torch.zeros_like(self.loc)
        for k in range(1, int(self.levels.max())):
            edge = ((2 * k - 1) / (self.levels - 1) - 1 - self.loc) / self.scale
            total = total + torch.where(k < self.levels, self._log_survival(edge).exp(), 0.0)
        return total

    def log_prob(self, value: Tensor) -> Tensor:
        """The log mass of the levels ``value``, in nats."""
        last, dtype = self.levels - 1, torch.promote_types(value.dtype, self.loc.dtype)
        place = 2 * to_double(self._checked(value)) / last - 1  # many levels are close together: in two parts
        high = place.to(dtype)
        middle, half = (high - self.loc + (place - high).to(dtype)) / self.scale, 1 / (last * self.scale)
        ends = value < 0.5, value > self.levels - 1.5
        return self._log_mass(middle - half, middle + half, 2 * half, *ends)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Levels, as floating point numbers."""
        shape = self._extended_shape(torch.Size(sample_shape))
        draw = self.loc + self.scale * self._standard_sample(shape)
        last = self.levels - 1
        return torch.minimum((0.5 * (draw + 1) * last).round().clamp(min=0), last)

    def _log_mass(self, lower: Tensor, upper: Tensor, width: Tensor, is_first: Tensor, is_last: Tensor) -> Tensor:
        """The log mass of a level that has its whole tail at an end."""
        inner = torch.where(is_first, self._log_survival(-upper), self._log_interval(lower, upper, width))
        return torch.where(is_last, self._log_survival(lower), inner)

    @abstractmethod
    def _log_interval(self, lower: Tensor, upper: Tensor, width: Tensor) -> Tensor:
        """The log mass of the standardized density between two ends that are ``width`` apart."""

    @abstractmethod
    def _log_survival(self, x: Tensor) -> Tensor:
        """The log mass above ``x`` of the standardized density, which is symmetric."""

    @abstractmethod
    def _standard_sample(self, shape: torch.Size) -> Tensor:
        """Draws from the standardized density."""


class DiscretizedLogistic(Discretized):
    r"""The logistic distribution integrated over ``levels`` integers.

    .. math:: \sigma(a) - \sigma(b) = \sigma(a)\, \sigma(-b)\, \bigl(1 - e^{-(a - b)}\bigr)

    is used as it stands, so that no mass is ever the difference of two rounded numbers.

    Args:
        loc: location on the range [-1, 1].
        scale: scale on the same range.
        levels: number of levels L; the values are the integers 0 to L - 1.

    Reference: Salimans et al. 2017, PixelCNN++, arXiv:1701.05517.

    >>> DiscretizedLogistic(torch.zeros(2), 0.1, levels=4).log_prob(torch.tensor([0.0, 2.0])).exp().sum() < 1
    tensor(True)
    """

    def _log_mass(self, lower: Tensor, upper: Tensor, width: Tensor, is_first: Tensor, is_last: Tensor) -> Tensor:
        below, above = logsigmoid(upper), logsigmoid(-lower)  # once each: half the work of large images
        inner = torch.where(is_first, below, below + above + log1mexp(width))
        return torch.where(is_last, above, inner)

    def _log_interval(self, lower: Tensor, upper: Tensor, width: Tensor) -> Tensor:
        return logsigmoid(upper) + logsigmoid(-lower) + log1mexp(width)

    def _log_survival(self, x: Tensor) -> Tensor:
        return logsigmoid(-x)

    def _standard_sample(self, shape: torch.Size) -> Tensor:
        uniform = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
        tiny = torch.finfo(uniform.dtype).tiny
        return uniform.clamp(min=tiny).log() - torch.log1p(-uniform)


class DiscretizedNormal(Discretized):
    r"""The normal distribution integrated over ``levels`` integers.

    .. math:: P(k) = \Phi\Bigl(\frac{u_k + h - \mu}{s}\Bigr) - \Phi\Bigl(\frac{u_k - h - \mu}{s}\Bigr)

    Args:
        loc: mean before discretization, on the range [-1, 1].
        scale: standard deviation on the same range.
        levels: number of levels L; the values are the integers 0 to L - 1.

    Reference: Ho et al. 2020, arXiv:2006.11239, section 3.3.

    >>> DiscretizedNormal(torch.zeros(()), 0.1, levels=3).log_prob(torch.arange(3.0)).exp().sum().round(decimals=5)
    tensor(1.)
    """

    def _log_interval(self, lower: Tensor, upper: Tensor, width: Tensor) -> Tensor:
        return log_normal_interval(lower, upper, width)

    def _log_survival(self, x: Tensor) -> Tensor:
        return log_ndtr(-x)

    def _standard_sample(self, shape: torch.Size) -> Tensor:
        return torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
