"""Conditionals over directions, and the uniform prior on the sphere."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from pyrovae.conditionals.raw import Covariates, Raw, as_vector
from pyrovae.distributions.links import positive
from pyrovae.distributions.spherical import PowerSpherical, UniformSphere
from pyrovae.networks import Network


class Spherical(nn.Module):
    r"""A conditional over directions: a power spherical distribution.

    .. math:: q(z \mid x) = \mathrm{PowerSpherical}\bigl(z;\ \mu(x), \kappa(x)\bigr)

    Args:
        net: a network; an open one is closed with ``d + 1`` numbers. None for a learned distribution.
        event_shape: d, the length of the vector, at least 2.
        preprocess: applied to the network's input, e.g. ``torch.log1p``.

    Raises:
        ValueError: the event is not a vector of two or more, or a closed network's shape differs.

    Reference: Davidson et al. 2018, Hyperspherical VAE, arXiv:1804.00891; De Cao & Aziz 2020, arXiv:2006.04437.

    >>> import pyrovae as pvae
    >>> Spherical(pvae.MLP(6, (16,)), event_shape=3)(torch.zeros(7, 6)).event_shape
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
        self.size = as_vector(event_shape, "Spherical", least=2)
        self.event_shape = torch.Size((self.size,))
        self.raw = Raw(net, (self.size + 1,), torch.ones(self.size + 1), preprocess)
        self.covariate_names = self.raw.covariate_names

    def forward(self, value: Tensor | None = None, covariates: Covariates | None = None) -> PowerSpherical:
        """The distribution given ``value`` of shape ``(*batch, *in_shape)``."""
        raw = self.raw(value, covariates)
        loc, concentration = raw[..., :-1], raw[..., -1]
        first = one_hot(torch.zeros((), dtype=torch.long, device=raw.device), self.size).to(raw.dtype)
        return PowerSpherical(normalize(loc + 1e-4 * first, dim=-1), positive(concentration))


class UniformDirection(nn.Module):
    r"""The uniform prior on the unit sphere in d dimensions.

    .. math:: p(z) = \Gamma(d / 2) / (2 \pi^{d / 2})

    Args:
        event_shape: d, the length of the vector, at least 2.

    Raises:
        ValueError: the event is not a vector of two or more.

    >>> UniformDirection(3)().event_shape
    torch.Size([3])
    """

    covariate_names: tuple[str, ...] = ()

    def __init__(self, event_shape: int | Sequence[int]) -> None:
        super().__init__()
        self.size = as_vector(event_shape, "UniformDirection", least=2)
        self.event_shape = torch.Size((self.size,))
        self._like: Tensor
        self.register_buffer("_like", torch.zeros(self.size), persistent=False)

    def forward(self, value: None = None, covariates: Covariates | None = None) -> UniformSphere:
        """The distribution; its batch shape is ``()``."""
        return UniformSphere(self._like)
