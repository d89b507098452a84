"""A likelihood over vectors of counts with known totals."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.conditionals.base import Conditional, EventShape, Net, Preprocess, as_length
from pyrovae.conditionals.factorized import FromCovariate
from pyrovae.distributions.multinomial import TotalMultinomial
from pyrovae.networks.base import Covariates


class Multinomials(Conditional):
    r"""A conditional over vectors of counts with known totals.

    .. math:: p(x \mid z, n) = \mathrm{Multinomial}\bigl(x;\ n, \mathrm{softmax}\, f(z)\bigr)

    Args:
        net: a network; an open one is closed with ``d`` numbers. None for learned probabilities.
        event_shape: d, the length of the vector.
        total_count: n: a number, or ``FromCovariate(name)`` for one total per row.
        preprocess: applied to the network's input.

    >>> import pyrovae as pvae
    >>> likelihood = Multinomials(pvae.MLP(2, (16,)), event_shape=5, total_count=pvae.FromCovariate("total"))
    >>> likelihood(torch.zeros(3, 2), covariates={"total": torch.tensor([4.0, 5.0, 6.0])}).event_shape
    torch.Size([5])
    """

    total_count: Tensor

    def __init__(
        self,
        net: Net = None,
        event_shape: EventShape = None,
        *,
        total_count: float | FromCovariate,
        preprocess: Preprocess = None,
    ) -> None:
        size = as_length(event_shape, "Multinomials")
        source, number = (total_count, 0.0) if isinstance(total_count, FromCovariate) else (None, float(total_count))
        super().__init__(net, size, preprocess=preprocess, covariate_names=() if source is None else (source.name,))
        self.source = source
        self.register_buffer("total_count", torch.tensor(number))

    def forward(self, value: Tensor | None = None, covariates: Covariates | None = None) -> TotalMultinomial:
        """The distribution given ``value`` of shape ``(*batch, *in_shape)``, and the total where it is a covariate."""
        return self.distribution(self.raw(value, covariates), covariates)

    def distribution(self, raw: Tensor, covariates: Covariates | None = None) -> TotalMultinomial:
        """The multinomial given its logits."""
        total = (
            self.total_count
            if self.source is None
            else self.source.read(covariates, 0, constraints.nonnegative_integer)
        )
        return TotalMultinomial(raw, total)
