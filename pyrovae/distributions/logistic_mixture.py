"""The mixture of discretized logistics of PixelCNN++: one mixture a pixel, shared by its channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.distributions.base import Maskable
from pyrovae.distributions.discretized import DiscretizedLogistic


class DiscretizedLogisticMixture(Maskable):
    r"""A mixture over each pixel's channels, in which a channel's location moves with the channels before it.

    .. math::
        p(x) = \prod_s \sum_k \pi_{ks} \prod_c P\bigl(x_{cs};\ \mu_{kcs} + \textstyle\sum_{d<c} w_{kcds} u_{ds},\
        \sigma_{kcs}\bigr), \qquad u = \frac{2 x}{L - 1} - 1

    Args:
        logits: unnormalized log weights, of shape ``(*batch, K, *positions)``.
        loc: on the range [-1, 1], of shape ``(*batch, K, channels, *positions)``.
        scale: the same shape.
        coupling: the weights w of the pairs (1, 0), (2, 0), (2, 1), ..., of shape ``(*batch, K, pairs, *positions)``;
            ``pairs`` is 0 for uncoupled channels.
        levels: number of levels L; the values are the integers 0 to L - 1.
        position_dim: how many axes ``positions`` has.

    Reference: Salimans et al. 2017, PixelCNN++, arXiv:1701.05517.

    >>> shape = torch.Size([2, 5, 3, 4, 4])
    >>> d = DiscretizedLogisticMixture(
    ...     torch.zeros(2, 5, 4, 4), torch.zeros(shape), torch.ones(shape), torch.zeros(shape)
    ... )
    >>> d.batch_shape, d.event_shape
    (torch.Size([2]), torch.Size([3, 4, 4]))
    """

    arg_constraints: ClassVar = {"scale": constraints.positive}

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        coupling: Tensor,
        levels: int = 256,
        position_dim: int = 2,
        validate_args: bool | None = None,
    ) -> None:
        self.position_dim, self.levels = position_dim, int(levels)
        self.logits = logits.log_softmax(-1 - position_dim)
        self.loc, self.scale, self.coupling = loc, scale, coupling
        self.axes = dict.fromkeys(("loc", "scale", "coupling"), 2 + position_dim) | {"logits": 1 + position_dim}
        split = loc.ndim - 1 - position_dim
        super().__init__(loc.shape[: split - 1], loc.shape[split:], validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """The integers from 0 to ``levels - 1``, in each entry."""
        return constraints.independent(constraints.integer_interval(0, self.levels - 1), 1 + self.position_dim)

    @property
    def mean(self) -> Tensor:
        """The mean level; with coupling, the channels before enter by their means (exact but for clipping)."""
        weights = self.logits.exp().unsqueeze(-1 - self.position_dim)
        axis = -1 - self.position_dim
        centered = torch.zeros_like(self.loc)
        for c in range(self.loc.shape[axis]):
            shifted = DiscretizedLogistic(self._shifted(centered), self.scale, self.levels, validate_args=False)
            channel = torch.arange(self.loc.shape[axis], device=self.loc.device) == c
            channel = channel.reshape((-1,) + (1,) * self.position_dim)
            centered = torch.where(channel, 2 * shifted.mean / (self.levels - 1) - 1, centered)
        return (weights * (centered + 1) * (self.levels - 1) / 2).sum(axis - 1)

    def mask_entries(self, mask: Tensor) -> DiscretizedLogisticMixture:
        """The marginal over the observed entries; exact when the channels are uncoupled or a pixel lacks its last ones.

        Args:
            mask: True where observed, of shape ``(*batch, *event_shape)``.

        Raises:
            ValueError: coupled channels, and a channel is observed after a missing one in the same pixel (checked while
                validation is on; otherwise such a pixel's log mass is NaN).
        """
        new = super().mask_entries(mask)
        if self._validate_args and new._broken().any():
            raise ValueError(
                "a pixel misses a channel before one that is observed, and the channels are coupled in order: drop the "
                "pixel's other channels too, or build the mixture with coupled=False"
            )
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """The log mass of the images ``value``, in nats, of shape ``batch``."""
        axis = -1 - self.position_dim
        value = self._checked(value).unsqueeze(axis - 1)
        loc = self._shifted(2 * value / (self.levels - 1) - 1)
        terms = DiscretizedLogistic(loc, self.scale, self.levels, validate_args=False).log_prob(value)
        if self._mask is not None:
            terms = torch.where(self._mask.unsqueeze(axis - 1), terms, 0.0)
        pixels = (self.logits + terms.sum(axis)).logsumexp(axis)
        if self._mask is not None:
            pixels = torch.where(self._broken(), torch.nan, pixels)
        return pixels.flatten(-self.position_dim).sum(-1) if self.position_dim else pixels

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Images of levels, as floating point numbers."""
        axis = -1 - self.position_dim
        batch = torch.Size(sample_shape) + self.batch_shape
        full = self.expand(batch)
        which = torch.distributions.Categorical(logits=full.logits.movedim(axis, -1)).sample()
        loc, scale, coupling = (_pick(t, which, axis) for t in (full.loc, full.scale, full.coupling))
        draws: list[Tensor] = []
        for c, (center, width) in enumerate(zip(loc.unbind(axis), scale.unbind(axis), strict=True)):
            for d in range(c if coupling.shape[axis] else 0):
                center = center + coupling.select(axis, c * (c - 1) // 2 + d) * (2 * draws[d] / (self.levels - 1) - 1)
            draws.append(DiscretizedLogistic(center, width, self.levels, validate_args=False).sample())
        return torch.stack(draws, axis)

    def _shifted(self, centered: Tensor) -> Tensor:
        """The locations given the channels' values on [-1, 1], both with the components' axis."""
        axis = -1 - self.position_dim
        if not self.coupling.shape[axis]:
            return self.loc
        values = centered.expand(torch.broadcast_shapes(centered.shape, self.loc.shape)).unbind(axis)
        shifted = list(self.loc.unbind(axis))
        weights = iter(self.coupling.unbind(axis))
        for c in range(len(shifted)):
            for d in range(c):
                shifted[c] = shifted[c] + next(weights) * values[d]
        return torch.stack(torch.broadcast_tensors(*shifted), axis)

    def _broken(self) -> Tensor:
        axis = -1 - self.position_dim
        mask = torch.ones((), dtype=torch.bool).expand(self.event_shape) if self._mask is None else self._mask
        seen = mask.movedim(axis, -1)
        late = (seen[..., 1:] & ~seen[..., :-1]).any(-1)
        return late if self.coupling.shape[axis] else torch.zeros_like(late)


def _pick(tensor: Tensor, which: Tensor, axis: int) -> Tensor:
    """The chosen component's numbers: the components' axis is ``axis - 1`` and goes."""
    index = which.unsqueeze(axis).unsqueeze(axis)
    shape = list(tensor.shape)
    shape[axis - 1] = 1
    return tensor.gather(axis - 1, index.expand(shape)).squeeze(axis - 1)
