"""A normal pushed through invertible maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints


class FlowDistribution(TorchDistribution):
    r"""A normal pushed through an invertible map.

    .. math:: y = f(\epsilon), \qquad \log p(y) = \log \mathcal{N}(\epsilon;\ \mu, \sigma^2)
        - \log \Bigl| \det \frac{\partial f}{\partial \epsilon} \Bigr|

    The distribution remembers the log density of its latest draw, so that scoring this draw inverts no map. It is
    computed anew where the draw or the weights have changed since, or where gradients are wanted that were off.

    Args:
        base: a normal over vectors, of event shape ``(d,)``.
        transforms: maps of vectors, each with ``call_and_ladj`` and ``inv`` as zuko's have; applied in this order.
        weights: returns the tensors on which the maps depend, e.g. ``module.parameters``.

    >>> import pyro.distributions as dist
    >>> FlowDistribution(dist.Normal(torch.zeros(3), 1.0).to_event(1), ()).event_shape
    torch.Size([3])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, base: TorchDistribution, transforms: Sequence[Any], weights: Callable[[], Iterable[Tensor]] = tuple
    ) -> None:
        self.base, self.transforms, self.weights = base, tuple(transforms), weights
        self._latest: tuple[Tensor, Tensor, tuple[Any, ...]] | None = None
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of shape ``(*sample_shape, *batch, d)``."""
        noise = self.base.rsample(torch.Size(sample_shape))
        value, log_density = noise, self.base.log_prob(noise)
        for transform in self.transforms:
            value, ladj = transform.call_and_ladj(value)
            log_density = log_density - ladj
        self._latest = (value, log_density, self._state(value))
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density in nats, of shape ``batch``."""
        if self._latest is not None and self._latest[0] is value and self._latest[2] == self._state(value):
            return self._latest[1]
        total = 0.0
        for transform in reversed(self.transforms):
            value, ladj = transform.inv.call_and_ladj(value)
            total = total + ladj
        return self.base.log_prob(value) + total

    def expand(self, batch_shape: Sequence[int], _instance: TorchDistribution | None = None) -> FlowDistribution:
        """The same distribution with its batch axes expanded to ``batch_shape``."""
        return FlowDistribution(self.base.expand(torch.Size(batch_shape)), self.transforms, self.weights)

    def _state(self, value: Tensor) -> tuple[Any, ...]:
        """Whether gradients are on, and the versions of the draw and of the weights: torch counts changes in place."""
        tensors = (value, *self.weights())
        return (torch.is_grad_enabled(), *((id(t), None if t.is_inference() else t._version) for t in tensors))
