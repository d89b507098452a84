"""Directions: the power spherical distribution, the uniform distribution on a sphere, and their divergence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Gamma, register_kl
from torch.nn.functional import normalize

from pyrovae.distributions.base import Parametric
from pyrovae.distributions.special import digamma_difference, log_gamma_ratio


class UniformSphere(Parametric):
    r"""The uniform distribution on the unit sphere in d dimensions.

    .. math:: p(y) = \frac{\Gamma(d / 2)}{2 \pi^{d / 2}}, \qquad \lVert y \rVert = 1

    The density is with respect to the sphere's area.

    Args:
        like: a tensor of shape ``(*batch, d)`` that gives the shape, the dtype and the device.

    >>> UniformSphere(torch.zeros(5, 3)).log_prob(torch.eye(3)[0]).shape
    torch.Size([5])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.sphere
    has_rsample = True
    axes: Mapping[str, int] = {"_like": 1}

    def __init__(self, like: Tensor, validate_args: bool | None = None) -> None:
        self._like = like.detach()
        super().__init__(like.shape[:-1], like.shape[-1:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """The mean, the origin."""
        return torch.zeros_like(self._like)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of shape ``(*sample_shape, *batch, d)``."""
        return _direction(self._extended_shape(torch.Size(sample_shape)), self._like)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density in nats, of shape ``batch``."""
        shape = torch.broadcast_shapes(self._checked(value).shape[:-1], self.batch_shape)
        return torch.full(shape, -_log_area(self.event_shape[0]), dtype=value.dtype, device=value.device)

    def entropy(self) -> Tensor:
        """The entropy in nats, the log of the sphere's area."""
        return torch.full_like(self._like[..., 0], _log_area(self.event_shape[0]))


class PowerSpherical(Parametric):
    r"""Directions around a mean, as of von Mises and Fisher, but with a closed normalizer and without rejected draws.

    .. math:: p(y) \propto (1 + \mu^\top y)^{\kappa}, \qquad \lVert y \rVert = \lVert \mu \rVert = 1

    The density is with respect to the sphere's area.

    Args:
        loc: the mean direction :math:`\mu`, of shape ``(*batch, d)``, of length one; d at least 2.
        concentration: :math:`\kappa`, of shape ``batch``; uniform at 0.

    Reference: De Cao & Aziz 2020, The power spherical distribution, arXiv:2006.04437.

    >>> PowerSpherical(torch.eye(3), torch.ones(3)).rsample((2,)).norm(dim=-1).mean().round(decimals=4)
    tensor(1.)
    """

    arg_constraints: ClassVar = {"loc": constraints.sphere, "concentration": constraints.nonnegative}
    support = constraints.sphere
    has_rsample = True
    axes: Mapping[str, int] = {"loc": 1, "concentration": 0}

    def __init__(self, loc: Tensor, concentration: Tensor, validate_args: bool | None = None) -> None:
        batch_shape = torch.broadcast_shapes(loc.shape[:-1], concentration.shape)
        self.loc, self.concentration = loc.expand(*batch_shape, -1), concentration.expand(batch_shape)
        super().__init__(batch_shape, loc.shape[-1:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """The mean, inside the sphere."""
        a, b = self._shapes()
        return ((a - b) / (a + b)).unsqueeze(-1) * self.loc

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of shape ``(*sample_shape, *batch, d)``, differentiable in both parameters."""
        shape = self._extended_shape(torch.Size(sample_shape))
        near, far = (Gamma(s, 1.0, validate_args=False).rsample(torch.Size(sample_shape)) for s in self._shapes())
        far = far.clamp(min=torch.finfo(far.dtype).tiny * 1e10)
        total = near + far
        along, across = (near - far) / total, 2 * (near / total).sqrt() * (far / total).sqrt()
        side = _direction((*shape[:-1], shape[-1] - 1), self.loc)
        value = torch.cat([along.unsqueeze(-1), across.unsqueeze(-1) * side], -1)
        return normalize(self._reflect(value), dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density in nats, of shape ``batch``."""
        return self._log_normalizer() + self.concentration * self._log_half_chord(self._checked(value))

    def entropy(self) -> Tensor:
        """The entropy in nats, of shape ``batch``."""
        a, b = self._shapes()
        return self.concentration * digamma_difference(a, b) - self._log_normalizer()

    def _shapes(self) -> tuple[Tensor, Tensor]:
        """The two shapes of the beta distribution of half of 1 + (cosine of the angle to the mean)."""
        half = torch.full_like(self.concentration, 0.5 * (self.event_shape[0] - 1))
        return half + self.concentration, half

    def _log_normalizer(self) -> Tensor:
        """Of the density written as a power of half of 1 + (cosine)."""
        a, b = self._shapes()
        return log_gamma_ratio(a, b) - b * math.log(4 * math.pi)

    def _log_half_chord(self, value: Tensor) -> Tensor:
        r"""The log of :math:`(1 + \mu^\top y) / 2`, which is the squared length of :math:`(\mu + y) / 2`."""
        squared = (0.5 * (value + self.loc)).square().sum(-1)
        return squared.clamp(min=torch.finfo(value.dtype).eps ** 2).log()

    def _reflect(self, value: Tensor) -> Tensor:
        """Householder's reflection of the first axis onto the mean direction."""
        first = torch.eye(1, self.event_shape[0], dtype=value.dtype, device=value.device)[0]
        normal = first - self.loc
        length = normal.square().sum(-1, keepdim=True)
        scale = 2 / length.clamp(min=torch.finfo(value.dtype).eps ** 2)
        return value - scale * normal * (normal * value).sum(-1, keepdim=True)


def _direction(shape: Sequence[int], like: Tensor) -> Tensor:
    return normalize(torch.randn(tuple(shape), dtype=like.dtype, device=like.device), dim=-1)


def _log_area(size: int) -> float:
    return math.log(2) + 0.5 * size * math.log(math.pi) - math.lgamma(0.5 * size)


@register_kl(PowerSpherical, UniformSphere)
def _kl_power_uniform(q: PowerSpherical, p: UniformSphere) -> Tensor:
    return _log_area(q.event_shape[0]) - q.entropy()
