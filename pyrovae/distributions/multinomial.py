"""The multinomial with one total per row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.distributions.base import Maskable
from pyrovae.distributions.precise import check_exact, in_double


class TotalMultinomial(Maskable):
    r"""The multinomial with one total per row.

    .. math:: P(x) = \frac{n!}{\prod_j x_j!} \prod_j \pi_j^{x_j}, \qquad \sum_j x_j = n

    Counts of another total have mass zero. The marginal over some entries takes the others together as one.

    Args:
        logits: unnormalized log probabilities, of shape ``(*batch, d)``.
        total_count: n, of shape ``batch``.

    >>> TotalMultinomial(torch.zeros(3, 2), torch.tensor([1.0, 2.0, 3.0])).log_prob(torch.tensor([1.0, 0.0])).exp()
    tensor([0.5000, 0.0000, 0.0000])
    """

    arg_constraints: ClassVar = {"logits": constraints.real_vector, "total_count": constraints.nonnegative_integer}
    support = constraints.independent(constraints.nonnegative_integer, 1)
    axes: Mapping[str, int] = {"logits": 1, "total_count": 0}

    def __init__(self, logits: Tensor, total_count: Tensor, validate_args: bool | None = None) -> None:
        batch_shape = torch.broadcast_shapes(logits.shape[:-1], total_count.shape)
        self.logits = logits.expand(*batch_shape, -1)
        self.total_count = total_count.to(logits.dtype).expand(batch_shape)
        super().__init__(batch_shape, logits.shape[-1:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """The mean, of shape ``(*batch, d)``."""
        return self.total_count.unsqueeze(-1) * self.logits.softmax(-1)

    @property
    def variance(self) -> Tensor:
        """The marginal variances, of shape ``(*batch, d)``."""
        probs = self.logits.softmax(-1)
        return self.total_count.unsqueeze(-1) * probs * (1 - probs)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log mass in nats, of shape ``batch``; computed in double precision, in the dtype of the arguments."""
        if self._validate_args:
            check_exact(self.total_count, "total_count")
        return in_double(self, self._checked(value), TotalMultinomial.log_mass).clamp(max=0)

    def log_mass(self, value: Tensor) -> Tensor:
        """The log mass in nats, in the precision of the arguments."""
        logits, mask = self.logits.log_softmax(-1), self._mask
        if mask is not None:
            value = torch.where(mask, value, 0.0)
        rest = self.total_count - value.sum(-1)
        terms = value * logits - torch.lgamma(value + 1)
        inside = rest >= 0
        filled = torch.where(inside, rest, 0.0)
        log_rest = torch.where(rest > 0, _log_missing(logits, mask), 0.0)
        total = torch.lgamma(self.total_count + 1) + terms.sum(-1) + filled * log_rest - torch.lgamma(filled + 1)
        return torch.where(inside, total, -torch.inf)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Counts, as floating point numbers: entry by entry, each binomial in the counts that are left."""
        shape = torch.Size(sample_shape) + self.batch_shape
        probs = self.logits.softmax(-1)
        left, mass, counts = self.total_count.expand(shape).contiguous(), torch.ones_like(probs[..., 0]), []
        for j in range(self.event_shape[0]):
            last = j == self.event_shape[0] - 1
            share = (probs[..., j] / mass.clamp(min=torch.finfo(mass.dtype).tiny)).clamp(0, 1)
            counts.append(left if last else torch.binomial(left, share.expand(shape).contiguous()))
            left, mass = left - counts[-1], mass - probs[..., j]
        return torch.stack(counts, -1)


def _log_missing(logits: Tensor, mask: Tensor | None) -> Tensor:
    """The log probability of all missing entries together: minus infinity where there are none."""
    if mask is None:
        return torch.full_like(logits[..., 0], -torch.inf)
    some = (~mask).any(-1)
    together = torch.where(mask, -torch.inf, logits)
    together = torch.where(some.unsqueeze(-1), together, 0.0)
    return torch.where(some, together.logsumexp(-1), -torch.inf)
