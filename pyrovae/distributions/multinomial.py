"""The multinomial with a total for each row, and its conditional."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints


class TotalMultinomial(TorchDistribution):
    r"""The multinomial with a total of its own for each row.

    .. math:: P(x) = \frac{n!}{\prod_j x_j!} \prod_j \pi_j^{x_j}, \qquad \sum_j x_j = n

    Counts of another total have mass zero. The marginal over some entries lumps the others into one.

    Args:
        logits: unnormalised log probabilities, of shape ``(*batch, d)``.
        total_count: n, of shape ``batch``.
        validate_args: check arguments.

    >>> TotalMultinomial(torch.zeros(3, 2), torch.tensor([1.0, 2.0, 3.0])).log_prob(torch.tensor([1.0, 0.0])).exp()
    tensor([0.5000, 0.0000, 0.0000])
    """

    arg_constraints: ClassVar = {"logits": constraints.real_vector, "total_count": constraints.nonnegative_integer}
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(self, logits: Tensor, total_count: Tensor, validate_args: bool | None = None) -> None:
        batch_shape = torch.broadcast_shapes(logits.shape[:-1], total_count.shape)
        self.logits = logits.log_softmax(-1).expand(*batch_shape, -1)
        self.total_count = total_count.to(logits.dtype).expand(batch_shape)
        self._mask: Tensor | None = None
        super().__init__(batch_shape, logits.shape[-1:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """The mean, of shape ``(*batch, d)``."""
        return self.total_count.unsqueeze(-1) * self.logits.exp()

    @property
    def variance(self) -> Tensor:
        """The marginal variances, of shape ``(*batch, d)``."""
        probs = self.logits.exp()
        return self.total_count.unsqueeze(-1) * probs * (1 - probs)

    def mask_entries(self, mask: Tensor) -> TotalMultinomial:
        """The marginal over the entries that ``mask`` (of shape ``(*batch, d)``) marks as observed."""
        new = self.expand(torch.broadcast_shapes(self.batch_shape, mask.shape[:-1]))
        new._mask = mask
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """The log mass in nats, of shape ``batch``."""
        if self._validate_args:
            self._validate_sample(value)
        logits, mask = self.logits, self._mask
        if mask is not None:
            value = torch.where(mask, value, 0.0)
        rest = self.total_count - value.sum(-1)
        terms = value * logits - torch.lgamma(value + 1)
        inside = rest >= 0
        filled = torch.where(inside, rest, 0.0)
        log_rest = torch.where(rest > 0, self._log_missing(mask), 0.0)
        total = torch.lgamma(self.total_count + 1) + terms.sum(-1) + filled * log_rest - torch.lgamma(filled + 1)
        return torch.where(inside, total, -torch.inf)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Counts, as floating point numbers: one binomial an entry, of what the entries before have left."""
        shape = torch.Size(sample_shape) + self.batch_shape
        probs = self.logits.exp()
        left, mass, counts = self.total_count.expand(shape).contiguous(), torch.ones_like(probs[..., 0]), []
        for j in range(self.event_shape[0]):
            last = j == self.event_shape[0] - 1
            share = (probs[..., j] / mass.clamp(min=torch.finfo(mass.dtype).tiny)).clamp(0, 1)
            counts.append(left if last else torch.binomial(left, share.expand(shape).contiguous()))
            left, mass = left - counts[-1], mass - probs[..., j]
        return torch.stack(counts, -1)

    def expand(self, batch_shape: Sequence[int], _instance: TorchDistribution | None = None) -> TotalMultinomial:
        """The same distribution with its batch axes expanded to ``batch_shape``."""
        new = self._get_checked_instance(TotalMultinomial, _instance)
        new.logits = self.logits.expand(*batch_shape, -1)
        new.total_count = self.total_count.expand(batch_shape)
        new._mask = None if self._mask is None else self._mask.expand(*batch_shape, -1)
        super(TotalMultinomial, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _log_missing(self, mask: Tensor | None) -> Tensor:
        """The log probability of all missing entries together: minus infinity where there are none."""
        if mask is None:
            return torch.full_like(self.total_count, -torch.inf)
        some = (~mask).any(-1)
        lumped = torch.where(mask, -torch.inf, self.logits)
        lumped = torch.where(some.unsqueeze(-1), lumped, 0.0)
        return torch.where(some, lumped.logsumexp(-1), -torch.inf)
