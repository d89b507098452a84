"""Links from an unconstrained network output to a distribution's parameter, safe at any finite input.

Pyro's own bijection onto the positive numbers is ``exp``, which overflows at 89 in single precision; these grow linearly.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional

FLOOR = 1e-6
"""The distance that a link keeps from an open boundary."""


class Link(Protocol):
    """A map from the real line into a constraint's interior, and its inverse."""

    def forward(self, raw: Tensor) -> Tensor:
        """From the real line into the interior."""

    def inverse(self, value: Tensor) -> Tensor:
        """From the interior to the real line; infinite or NaN outside it."""


class Identity(NamedTuple):
    """The link onto the real line."""

    def forward(self, raw: Tensor) -> Tensor:
        """The value itself."""
        return raw

    def inverse(self, value: Tensor) -> Tensor:
        """The value itself."""
        return value


class OneSided(NamedTuple):
    r"""A softplus with a floor, :math:`b \pm (\log(1 + e^r) + 10^{-6})`."""

    bound: float | Tensor
    sign: int = 1

    def forward(self, raw: Tensor) -> Tensor:
        """From the real line to one side of the bound."""
        return self.bound + self.sign * (functional.softplus(raw) + FLOOR)

    def inverse(self, value: Tensor) -> Tensor:
        """The raw number whose link is ``value``."""
        distance = self.sign * (value - self.bound) - FLOOR
        return distance + torch.log(-torch.expm1(-distance))


class TwoSided(NamedTuple):
    r"""A sigmoid kept off its ends, :math:`a + (b - a)(10^{-6} + (1 - 2\cdot 10^{-6})\,\sigma(r))`."""

    lower: float | Tensor
    upper: float | Tensor

    def forward(self, raw: Tensor) -> Tensor:
        """From the real line into the interval."""
        return self.lower + (self.upper - self.lower) * (FLOOR + (1 - 2 * FLOOR) * torch.sigmoid(raw))

    def inverse(self, value: Tensor) -> Tensor:
        """The raw number whose link is ``value``."""
        return torch.logit(((value - self.lower) / (self.upper - self.lower) - FLOOR) / (1 - 2 * FLOOR))


def link(constraint: constraints.Constraint) -> Link:
    r"""The link onto a scalar constraint: identity, a softplus with a floor, or a sigmoid kept off its ends.

    .. math:: (0, \infty):\ \log(1 + e^r) + 10^{-6}, \qquad (a, b):\ a + (b - a)\,\sigma(r)

    Args:
        constraint: a scalar constraint of ``torch.distributions.constraints`` (real, positive, unit interval, ...).

    Raises:
        ValueError: the constraint is discrete, dependent on other parameters, or not of a scalar.

    >>> import torch
    >>> from torch.distributions import constraints
    >>> link(constraints.positive).forward(torch.tensor([-1e4, 0.0, 1e4])).isfinite().all()
    tensor(True)
    """
    if constraint is constraints.real:
        return Identity()
    if isinstance(constraint, (constraints.greater_than, constraints.greater_than_eq)):
        return OneSided(constraint.lower_bound)
    if isinstance(constraint, constraints.less_than):
        return OneSided(constraint.upper_bound, -1)
    if isinstance(constraint, (constraints.interval, constraints.half_open_interval)):
        return TwoSided(constraint.lower_bound, constraint.upper_bound)
    raise ValueError(
        f"no link onto {constraint}: a network can only give real, positive, bounded or one-sided scalars. "
        "Give this parameter a value instead (a number, a tensor or FromCovariate)."
    )


def positive(raw: Tensor) -> Tensor:
    """The link onto the positive numbers.

    >>> positive(torch.tensor(RAW_ONE))
    tensor(1.)
    """
    return link(constraints.positive).forward(raw)


RAW_ONE = float(link(constraints.positive).inverse(torch.tensor(1.0)))
"""The raw number whose :func:`positive` is one."""
