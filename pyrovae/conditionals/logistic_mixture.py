"""The likelihood of PixelCNN++ over images of integer levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyrovae.conditionals.raw import Covariates, Raw, as_count, as_shape
from pyrovae.distributions.links import positive
from pyrovae.distributions.logistic_mixture import DiscretizedLogisticMixture
from pyrovae.networks import Network


class LogisticMixture(nn.Module):
    r"""A conditional over images of integer levels: the mixture of discretised logistics of PixelCNN++.

    .. math:: p(x \mid z) = \prod_s \sum_k \pi_{ks}(z) \prod_c P\bigl(x_{cs} \mid x_{<c,s}, z, k\bigr)

    The network gives ``K (1 + 2 C + pairs)`` numbers a position: log weights, locations, raw scales, raw couplings.

    Args:
        num_components: K.
        net: a network; an open one is closed with ``(numbers, *positions)``. None for one learned mixture.
        event_shape: ``(channels, *positions)``, as in ``(3, 32, 32)``.
        levels: number of levels; the data are the integers 0 to ``levels - 1``.
        coupled: let a channel's location move with the channels before it.

    Raises:
        ValueError: fewer than one component or two levels, or a network of another size.

    Reference: Salimans et al. 2017, PixelCNN++, arXiv:1701.05517.

    >>> import pyrovae as pvae
    >>> likelihood = LogisticMixture(5, pvae.MLP(10, (32,)), event_shape=(3, 4, 4))
    >>> likelihood(torch.zeros(7, 10)).event_shape
    torch.Size([3, 4, 4])
    """

    def __init__(
        self,
        num_components: int,
        net: Network | None = None,
        event_shape: Sequence[int] | None = None,
        *,
        levels: int = 256,
        coupled: bool = True,
    ) -> None:
        super().__init__()
        if as_count(num_components, "num_components", 0) < 1 or levels < 2:
            raise ValueError(f"needs num_components >= 1 and levels >= 2, got {num_components} and {levels}")
        self.event_shape = as_shape(event_shape, "LogisticMixture")
        self.num_components, self.levels, self.coupled = num_components, levels, coupled
        channels = self.event_shape[0]
        self._sizes = (1, channels, channels, channels * (channels - 1) // 2 if coupled else 0)
        shape = (num_components * sum(self._sizes), *self.event_shape[1:])
        self.raw = Raw(net, shape, initial=0.5 * torch.randn(shape))
        self.covariate_names = self.raw.covariate_names

    def forward(self, value: Tensor | None = None, covariates: Covariates | None = None) -> DiscretizedLogisticMixture:
        """The distribution given ``value`` of shape ``(*batch, *in_shape)``."""
        positions = len(self.event_shape) - 1
        axis = -1 - positions
        raw = self.raw(value, covariates).unflatten(axis, (self.num_components, sum(self._sizes)))
        logits, loc, scale, coupling = raw.split(self._sizes, axis)
        return DiscretizedLogisticMixture(
            logits.squeeze(axis), loc, positive(scale), coupling.tanh(), self.levels, positions
        )
