"""The multinomial with a total for each row, and its conditional."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae.distributions.factorized import FromCovariate
from pyrovae.distributions.raw import Covariates, Raw, as_vector
from pyrovae.networks import Network


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


class Multinomials(nn.Module):
    r"""A conditional over vectors of counts with known totals.

    .. math:: p(x \mid z, n) = \mathrm{Multinomial}\bigl(x;\ n, \mathrm{softmax}\, f(z)\bigr)

    Args:
        net: a network; an open one is closed with ``d`` numbers. None for learned probabilities.
        event_shape: d, the length of the vector.
        total_count: n: a number, or ``FromCovariate(name)`` for one total a row.

    Raises:
        ValueError: the event is not a vector, no total is given, or a closed network's shape differs.

    >>> import pyrovae as pvae
    >>> likelihood = Multinomials(pvae.MLP(2, (16,)), event_shape=5, total_count=pvae.FromCovariate("total"))
    >>> likelihood(torch.zeros(3, 2), covariates={"total": torch.tensor([4.0, 5.0, 6.0])}).event_shape
    torch.Size([5])
    """

    def __init__(
        self,
        net: Network | None = None,
        event_shape: int | Sequence[int] | None = None,
        *,
        total_count: float | FromCovariate | None = None,
    ) -> None:
        super().__init__()
        if total_count is None:
            raise ValueError("Multinomials needs total_count=: a number, or FromCovariate(name) for one total a row")
        size = as_vector(event_shape, "Multinomials")
        self.event_shape = torch.Size((size,))
        self.raw = Raw(net, (size,))
        self.source = total_count if isinstance(total_count, FromCovariate) else None
        number = 0.0 if isinstance(total_count, FromCovariate) else float(total_count)
        self.total_count: Tensor
        self.register_buffer("total_count", torch.tensor(number))
        own = () if self.source is None else (self.source.name,)
        self.covariate_names = tuple(dict.fromkeys((*own, *self.raw.covariate_names)))

    def forward(self, value: Tensor | None = None, covariates: Covariates | None = None) -> TotalMultinomial:
        """The distribution given ``value`` of shape ``(*batch, *in_shape)``."""
        total = self.total_count if self.source is None else self.source.read(covariates, 0)
        return TotalMultinomial(self.raw(value, covariates), total)
