"""A likelihood over vectors of counts with known totals."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyrovae.conditionals.factorized import FromCovariate
from pyrovae.conditionals.raw import Covariates, Raw, as_vector
from pyrovae.distributions.multinomial import TotalMultinomial
from pyrovae.networks import Network


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
