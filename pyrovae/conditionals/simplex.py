"""Conditionals over proportions: the logistic-normal and the Dirichlet distribution."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pyrovae.conditionals.raw import Covariates, Raw, as_vector
from pyrovae.distributions.links import RAW_ONE, positive
from pyrovae.distributions.simplex import AdditiveLogisticNormal, InteriorDirichlet
from pyrovae.networks import Network


class SimplexNormal(nn.Module):
    r"""A conditional over proportions: the logistic-normal distribution.

    .. math:: \log \frac{z_j}{z_K} \sim \mathcal{N}\bigl(\mu_j(x), \sigma_j(x)^2\bigr), \quad j < K

    With no network it is a learned prior, whose log ratios are standard normal at first.

    Args:
        net: a network; an open one is closed with ``(2, K - 1)`` numbers. None for a learned distribution.
        event_shape: K, the number of proportions, at least 2.
        preprocess: applied to the network's input, e.g. ``torch.log1p``.

    Raises:
        ValueError: the event is not a vector of two or more, or a closed network's shape differs.

    Reference: Srivastava & Sutton 2017, ProdLDA, arXiv:1703.01488.

    >>> import pyrovae as pvae
    >>> SimplexNormal(pvae.MLP(6, (16,)), event_shape=3)(torch.zeros(7, 6)).event_shape
    torch.Size([3])
    """

    def __init__(
        self,
        net: Network | None = None,
        event_shape: int | Sequence[int] | None = None,
        *,
        preprocess: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        size = as_vector(event_shape, "SimplexNormal", least=2)
        self.event_shape = torch.Size((size,))
        start = torch.stack([torch.zeros(size - 1), torch.full((size - 1,), RAW_ONE)])
        self.raw = Raw(net, (2, size - 1), start, preprocess)
        self.covariate_names = self.raw.covariate_names

    def forward(self, value: Tensor | None = None, covariates: Covariates | None = None) -> AdditiveLogisticNormal:
        """The distribution given ``value`` of shape ``(*batch, *in_shape)``."""
        loc, scale = self.raw(value, covariates).unbind(-2)
        return AdditiveLogisticNormal(loc, positive(scale))


class SimplexDirichlet(nn.Module):
    r"""A conditional over proportions: the Dirichlet distribution.

    .. math:: q(z \mid x) = \mathrm{Dirichlet}\bigl(z;\ \alpha(x)\bigr), \qquad \alpha > 10^{-3}

    Args:
        net: a network; an open one is closed with ``K`` numbers. None for a learned distribution.
        event_shape: K, the number of proportions, at least 2.
        preprocess: applied to the network's input, e.g. ``torch.log1p``.

    Raises:
        ValueError: the event is not a vector of two or more, or a closed network's shape differs.

    Reference: Figurnov et al. 2018, Implicit reparameterization gradients, arXiv:1805.08498.

    >>> SimplexDirichlet(event_shape=3)().event_shape
    torch.Size([3])
    """

    def __init__(
        self,
        net: Network | None = None,
        event_shape: int | Sequence[int] | None = None,
        *,
        preprocess: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        size = as_vector(event_shape, "SimplexDirichlet", least=2)
        self.event_shape = torch.Size((size,))
        self.raw = Raw(net, (size,), torch.full((size,), RAW_ONE), preprocess)
        self.covariate_names = self.raw.covariate_names

    def forward(self, value: Tensor | None = None, covariates: Covariates | None = None) -> InteriorDirichlet:
        """The distribution given ``value`` of shape ``(*batch, *in_shape)``."""
        return InteriorDirichlet(positive(self.raw(value, covariates)) + 1e-3)
