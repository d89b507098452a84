"""The normal truncated to an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.distributions.base import Number, Univariate
from pyrovae.distributions.precise import to_double
from pyrovae.distributions.special import log_normal_interval


class TruncatedNormal(Univariate):
    r"""A normal truncated to an interval, whose ends have a density too: for scores, shares and percentages.

    .. math:: p(y) = \mathcal{N}(y;\ \mu, \sigma^2) \Big/
        \Bigl[\Phi\Bigl(\frac{b - \mu}{\sigma}\Bigr) - \Phi\Bigl(\frac{a - \mu}{\sigma}\Bigr)\Bigr], \qquad a \le y \le b

    Args:
        loc: :math:`\mu`, the mean before truncation.
        scale: :math:`\sigma`, the standard deviation before truncation.
        lower: a, known.
        upper: b, known.

    >>> TruncatedNormal(0.5, 10.0, lower=0.0, upper=1.0).log_prob(torch.tensor([0.0, 1.0])).round(decimals=2)
    tensor([-0., -0.])
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}
    given_constraints: ClassVar = {"lower": constraints.real, "upper": constraints.real}
    lower: Tensor
    upper: Tensor

    def __init__(
        self, loc: Number, scale: Number, lower: Number, upper: Number, validate_args: bool | None = None
    ) -> None:
        super().__init__({"loc": loc, "scale": scale, "lower": lower, "upper": upper}, validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The interval."""
        return constraints.interval(self.lower, self.upper)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        low, high = self._ends()
        log_mass = log_normal_interval(low, high, high - low)
        inner = (-0.5 * low.square() - log_mass).exp() - (-0.5 * high.square() - log_mass).exp()
        mean = self.loc + self.scale * inner / math.sqrt(2 * math.pi)
        return torch.minimum(torch.maximum(mean, self.lower), self.upper)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density in nats."""
        low, high = self._ends()
        white = (self._checked(value) - self.loc) / self.scale
        constant = self.scale.log() + 0.5 * math.log(2 * math.pi)
        return -0.5 * white.square() - constant - log_normal_interval(low, high, high - low)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws by the inverse distribution function, taken in the tail that loses no digits."""
        low, high = (to_double(end) for end in self._ends())
        flip = low + high > 0
        start, end = torch.where(flip, -high, low), torch.where(flip, -low, high)
        first, last = torch.special.ndtr(start), torch.special.ndtr(end)
        uniform = torch.rand(self._extended_shape(torch.Size(sample_shape)), dtype=low.dtype, device=low.device)
        white = torch.special.ndtri(first + uniform * (last - first)).clamp(start, end)
        drawn = self.loc + self.scale * torch.where(flip, -white, white)
        return torch.minimum(torch.maximum(drawn.to(self.loc.dtype), self.lower), self.upper)

    def _ends(self) -> tuple[Tensor, Tensor]:
        return (self.lower - self.loc) / self.scale, (self.upper - self.loc) / self.scale
