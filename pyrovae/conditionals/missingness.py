"""How entries come to be missing: the probability of seeing an entry, given its value."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.conditionals.base import EventShape, as_event_shape
from pyrovae.networks.base import Covariates


class SelfMasking(nn.Module):
    r"""Each entry is seen with a probability that depends on its own value.

    .. math:: p(s_j = 1 \mid x_j) = \mathrm{sigmoid}(a_j + b_j x_j)

    Data do not tell the sign of b: whether high or low values are hidden has to be assumed, or left open and said.

    Args:
        event_shape: the shape of one datum.
        sign: 1 where high values are seen more often, -1 where low ones are, a sequence of these by entry; None leaves the
            sign open, and b starts at zero.

    Reference: Ipsen, Mattei & Frellsen 2021, not-MIWAE, arXiv:2006.12871.

    >>> SelfMasking(3, sign=-1)(torch.zeros(5, 3)).event_shape
    torch.Size([3])
    """

    covariate_names: tuple[str, ...] = ()

    def __init__(self, event_shape: EventShape, sign: float | Sequence[float] | None = None) -> None:
        super().__init__()
        shape = as_event_shape(event_shape, "SelfMasking")
        self.offset = nn.Parameter(torch.zeros(shape))
        self.slope = nn.Parameter(torch.zeros(shape))
        self.sign: Tensor | None
        self.register_buffer(
            "sign", None if sign is None else torch.as_tensor(sign, dtype=self.slope.dtype).expand(shape)
        )

    @property
    def strength(self) -> Tensor:
        """The slope b of each entry."""
        return self.slope if self.sign is None else self.sign * nn.functional.softplus(self.slope)

    def forward(self, value: Tensor, covariates: Covariates | None = None) -> dist.TorchDistribution:
        """The distribution of the mask, given complete data.

        Raises:
            ValueError: a datum has another shape.
        """
        if value.shape[value.ndim - self.slope.ndim :] != self.slope.shape:
            raise ValueError(
                f"SelfMasking({tuple(self.slope.shape)}) got data of shape {tuple(value.shape)}: write the shape of one datum"
            )
        return dist.Bernoulli(logits=self.offset + self.strength * value).to_event(self.slope.ndim)
