"""Conditionals over directions, and the uniform prior on the sphere."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pyrovae.conditionals.base import Conditional, EventShape, Net, Preprocess, as_length
from pyrovae.distributions.links import positive
from pyrovae.distributions.spherical import PowerSpherical, UniformSphere
from pyrovae.networks.base import Shape


class Spherical(Conditional):
    r"""A conditional over directions: a power spherical distribution.

    .. math:: q(z \mid x) = \mathrm{PowerSpherical}\bigl(z;\ \mu(x), \kappa(x)\bigr)

    Args:
        net: a network; an open one is closed with ``d + 1`` numbers. None for a learned distribution.
        event_shape: d, the length of the vector, at least 2.
        preprocess: applied to the network's input, e.g. ``torch.log1p``.

    Reference: Davidson et al. 2018, Hyperspherical VAE, arXiv:1804.00891; De Cao & Aziz 2020, arXiv:2006.04437.

    >>> import pyrovae as pvae
    >>> Spherical(pvae.MLP(6, (16,)), event_shape=3)(torch.zeros(7, 6)).event_shape
    torch.Size([3])
    """

    def __init__(self, net: Net = None, event_shape: EventShape = None, *, preprocess: Preprocess = None) -> None:
        size = as_length(event_shape, "Spherical", least=2)
        super().__init__(net, size, start=torch.ones(size + 1), preprocess=preprocess)

    def distribution(self, raw: Tensor) -> PowerSpherical:
        """The power spherical distribution given its mean, of any length, and its raw concentration."""
        loc, concentration = raw[..., :-1], raw[..., -1]
        first = torch.eye(1, loc.shape[-1], dtype=raw.dtype, device=raw.device)[0]
        return PowerSpherical(normalize(loc + 1e-4 * first, dim=-1), positive(concentration))


class UniformDirection(Conditional):
    r"""The uniform prior on the unit sphere in d dimensions.

    .. math:: p(z) = \Gamma(d / 2) / (2 \pi^{d / 2})

    Args:
        event_shape: d, the length of the vector, at least 2.

    >>> UniformDirection(3)().event_shape
    torch.Size([3])
    """

    def __init__(self, event_shape: Shape) -> None:
        super().__init__(None, as_length(event_shape, "UniformDirection", least=2), start=torch.zeros(0))

    def distribution(self, raw: Tensor) -> UniformSphere:
        """The uniform distribution; it has no parameters."""
        return UniformSphere(raw.new_zeros(self.event_shape))
