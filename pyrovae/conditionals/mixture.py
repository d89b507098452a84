"""A conditional mixture of normals: a learned prior, or a posterior of several modes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pyrovae.conditionals.raw import Covariates, Raw, as_vector
from pyrovae.distributions.links import RAW_ONE, positive
from pyrovae.distributions.mixture import DiagonalNormalMixture
from pyrovae.networks import Network


class GaussianMixture(nn.Module):
    r"""A conditional mixture of normals with diagonal covariances: a learned prior, or a posterior of several modes.

    .. math:: p(z) = \sum_k \pi_k\, \mathcal{N}\bigl(z;\ \mu_k, \mathrm{diag}\,\sigma_k^2\bigr)

    Args:
        num_components: K.
        net: a network; an open one is closed with ``(K, 1 + 2 d)`` numbers. None for a learned distribution, whose
            means start as standard normal draws.
        event_shape: d, the length of the vector.
        preprocess: applied to the network's input, e.g. ``torch.log1p``.

    Raises:
        ValueError: fewer than one component, the event is not a vector, or a closed network's shape differs.

    Reference: Jiang et al. 2017, VaDE, arXiv:1611.05148 (as a prior).

    >>> GaussianMixture(10, event_shape=8)().event_shape
    torch.Size([8])
    """

    def __init__(
        self,
        num_components: int,
        net: Network | None = None,
        event_shape: int | Sequence[int] | None = None,
        *,
        preprocess: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if num_components < 1:
            raise ValueError(f"num_components must be at least 1, got {num_components}")
        self.size, self.num_components = as_vector(event_shape, "GaussianMixture"), num_components
        self.event_shape = torch.Size((self.size,))
        start = [torch.zeros(num_components, 1), torch.randn(num_components, self.size)]
        start.append(torch.full((num_components, self.size), RAW_ONE))
        self.raw = Raw(net, (num_components, 1 + 2 * self.size), torch.cat(start, -1), preprocess)
        self.covariate_names = self.raw.covariate_names

    def forward(self, value: Tensor | None = None, covariates: Covariates | None = None) -> DiagonalNormalMixture:
        """The distribution given ``value`` of shape ``(*batch, *in_shape)``."""
        logits, locs, scales = self.raw(value, covariates).split((1, self.size, self.size), -1)
        return DiagonalNormalMixture(logits.squeeze(-1), locs, positive(scales))
