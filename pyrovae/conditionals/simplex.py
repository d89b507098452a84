"""Conditionals over proportions: the logistic-normal and the Dirichlet distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrovae.conditionals.base import Conditional, EventShape, Net, Preprocess, as_length
from pyrovae.distributions.links import RAW_ONE, positive
from pyrovae.distributions.simplex import AdditiveLogisticNormal, InteriorDirichlet


class SimplexNormal(Conditional):
    r"""A conditional over proportions: the logistic-normal distribution.

    .. math:: \log \frac{z_j}{z_K} \sim \mathcal{N}\bigl(\mu_j(x), \sigma_j(x)^2\bigr), \quad j < K

    Without a network it is a learned prior, whose log ratios are standard normal at first.

    Args:
        net: a network; an open one is closed with ``(2, K - 1)`` numbers. None for a learned distribution.
        event_shape: K, the number of proportions, at least 2.
        preprocess: applied to the network's input, e.g. ``torch.log1p``.

    Reference: Srivastava & Sutton 2017, ProdLDA, arXiv:1703.01488.

    >>> import pyrovae as pvae
    >>> SimplexNormal(pvae.MLP(6, (16,)), event_shape=3)(torch.zeros(7, 6)).event_shape
    torch.Size([3])
    """

    def __init__(self, net: Net = None, event_shape: EventShape = None, *, preprocess: Preprocess = None) -> None:
        size = as_length(event_shape, "SimplexNormal", least=2)
        start = torch.stack([torch.zeros(size - 1), torch.full((size - 1,), RAW_ONE)])
        super().__init__(net, size, start=start, preprocess=preprocess)

    def distribution(self, raw: Tensor) -> AdditiveLogisticNormal:
        """The logistic-normal given means and raw scales of its log ratios."""
        loc, scale = raw.unbind(-2)
        return AdditiveLogisticNormal(loc, positive(scale))


class SimplexDirichlet(Conditional):
    r"""A conditional over proportions: the Dirichlet distribution.

    .. math:: q(z \mid x) = \mathrm{Dirichlet}\bigl(z;\ \alpha(x)\bigr), \qquad \alpha > 10^{-3}

    Args:
        net: a network; an open one is closed with ``K`` numbers. None for a learned distribution.
        event_shape: K, the number of proportions, at least 2.
        preprocess: applied to the network's input, e.g. ``torch.log1p``.

    Reference: Figurnov et al. 2018, Implicit reparameterization gradients, arXiv:1805.08498.

    >>> SimplexDirichlet(event_shape=3)().event_shape
    torch.Size([3])
    """

    def __init__(self, net: Net = None, event_shape: EventShape = None, *, preprocess: Preprocess = None) -> None:
        size = as_length(event_shape, "SimplexDirichlet", least=2)
        super().__init__(net, size, start=torch.full((size,), RAW_ONE), preprocess=preprocess)

    def distribution(self, raw: Tensor) -> InteriorDirichlet:
        """The Dirichlet given its raw concentrations."""
        return InteriorDirichlet(positive(raw) + 1e-3)
