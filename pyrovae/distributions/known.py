"""A distribution whose value is known in some rows: a label that is recorded in a part of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

IMPOSSIBLE = -1e10
"""The log probability of a value other than the known one: so small that it adds nothing, yet finite."""


class PartlyKnown(TorchDistribution):
    r"""A distribution in some rows, and a point in the others, whose value is known.

    .. math:: \log p(y_i) = \begin{cases} 0 \text{ at } y_i = v_i & \text{where } v_i \text{ is known} \\
        \log b(y_i) & \text{elsewhere} \end{cases}

    Args:
        base: the distribution of rows whose value is not known.
        value: the known values, of shape ``(*batch, *event_shape)``; anything where they are not known.
        known: boolean, of shape ``batch``.

    >>> import pyro.distributions as dist
    >>> base = dist.Categorical(torch.tensor([0.2, 0.8])).expand((2,))
    >>> PartlyKnown(base, torch.tensor([0, 0]), torch.tensor([True, False])).log_prob(torch.tensor([0, 1])).exp()
    tensor([1.0000, 0.8000])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, base: Any, value: Tensor, known: Tensor) -> None:
        shape = torch.broadcast_shapes(base.batch_shape, known.shape, value.shape[: value.ndim - base.event_dim])
        self.base, self.value, self.known = base.expand(shape), value, known
        super().__init__(shape, base.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:
        """Whether draws of the base are differentiable."""
        return bool(self.base.has_rsample)

    @property
    def support(self) -> Any:
        """The support of the base."""
        return self.base.support

    @property
    def has_enumerate_support(self) -> bool:
        """Whether all values of the base can be listed."""
        return bool(self.base.has_enumerate_support)

    @property
    def mean(self) -> Tensor:
        """The known value, else the base's mean, or its mode where it is a category."""
        return self._filled(self.base.mode if self.base.support.is_discrete else self.base.mean)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> PartlyKnown:
        """The same distribution with its batch axes expanded."""
        return PartlyKnown(self.base.expand(torch.Size(batch_shape)), self.value, self.known)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of shape ``(*sample_shape, *batch, *event_shape)``."""
        return self._filled(self.base.rsample(torch.Size(sample_shape)))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of shape ``(*sample_shape, *batch, *event_shape)``."""
        return self._filled(self.base.sample(torch.Size(sample_shape)))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All values of the base along the first axis."""
        return self.base.enumerate_support(expand)  # type: ignore[no-any-return]

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density or log mass in nats, of shape ``batch``."""
        same = value == self.value
        same = same.reshape(*same.shape[: same.ndim - self.event_dim], -1).all(-1)
        base = self.base.log_prob(value)
        return torch.where(self.known, torch.where(same, 0.0, IMPOSSIBLE).to(base), base)

    def known_log_prob(self) -> Tensor:
        """The base's log density at the known values, zero where none is known: how well it predicts them."""
        safe = torch.where(self._over_events(), self.value, self.mean.detach()).to(self.mean.dtype)
        return torch.where(self.known, self.base.log_prob(safe), 0.0)

    def _filled(self, drawn: Tensor) -> Tensor:
        return torch.where(self._over_events(), self.value.to(drawn.dtype), drawn)

    def _over_events(self) -> Tensor:
        return self.known.reshape((*self.known.shape, *[1] * self.event_dim))
