"""A conditional mixture of normals: a learned prior, or a posterior of several modes."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrovae.conditionals.base import Conditional, EventShape, Net, Preprocess, as_length
from pyrovae.distributions.links import RAW_ONE, positive
from pyrovae.distributions.mixture import DiagonalNormalMixture
from pyrovae.errors import check_integer


class GaussianMixture(Conditional):
    r"""A conditional mixture of normals with diagonal covariances: a learned prior, or a posterior of several modes.

    .. math:: p(z) = \sum_k \pi_k\, \mathcal{N}\bigl(z;\ \mu_k, \mathrm{diag}\,\sigma_k^2\bigr)

    Args:
        net: a network; an open one is closed with ``(K, 1 + 2 d)`` numbers. None for a learned distribution, whose
            means start as standard normal draws.
        event_shape: d, the length of the vector.
        num_components: K.
        preprocess: applied to the network's input, e.g. ``torch.log1p``.

    Reference: Jiang et al. 2017, VaDE, arXiv:1611.05148 (as a prior).

    >>> GaussianMixture(event_shape=8, num_components=10)().event_shape
    torch.Size([8])
    """

    def __init__(
        self, net: Net = None, event_shape: EventShape = None, *, num_components: int, preprocess: Preprocess = None
    ) -> None:
        d, k = as_length(event_shape, "GaussianMixture"), check_integer("num_components", num_components)
        start = torch.cat([torch.zeros(k, 1), torch.randn(k, d), torch.full((k, d), RAW_ONE)], -1)
        super().__init__(net, d, start=start, preprocess=preprocess)

    def distribution(self, raw: Tensor) -> DiagonalNormalMixture:
        """The mixture given log weight, means and raw scales of each component, a row of ``raw``."""
        (d,) = self.event_shape
        logits, locs, scales = raw.split((1, d, d), -1)
        return DiagonalNormalMixture(logits.squeeze(-1), locs, positive(scales))
