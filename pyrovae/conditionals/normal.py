"""Conditional normals with correlated entries: a full covariance, and a low-rank one plus a diagonal."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyrovae.conditionals.base import Conditional, EventShape, Net, Preprocess, as_length
from pyrovae.distributions.links import RAW_ONE, positive
from pyrovae.distributions.normal import CholeskyNormal, LowRankNormal
from pyrovae.errors import check_integer

_RATIO_BOUND = 10.0


class FullNormal(Conditional):
    r"""A conditional normal with a full covariance.

    .. math:: q(z \mid x) = \mathcal{N}\bigl(z;\ U m,\ S U U^\top S\bigr), \qquad
        U_{ii} = 1,\quad U_{ij} = \frac{r_{ij} / \sqrt d}{\sqrt{1 + \lVert r_i \rVert^2 / (100\, d)}},\ j < i

    The network gives the vector m, the positive diagonal matrix S, and the numbers r below the diagonal. The unit triangle
    U multiplies m as well as the noise, as in a linear inverse autoregressive flow (Kingma et al. 2016, arXiv 1606.04934),
    and r is divided by the square root of the dimension. Both matter: with the mean m instead of U m and with unscaled r,
    the same family trains to a lower bound than a mean-field normal. Below the diagonal a row of U has a length of at most
    10, so the correlation of two entries stays below 0.995. Standardize a network's input (``preprocess=``): far from the
    values of training U may be ill-conditioned, and the density inexact in single precision. Without a network the
    distribution is a learned prior that starts as the standard normal.

    Args:
        net: a network; an open one is closed with ``d (d + 3) / 2`` numbers. None for a learned distribution.
        event_shape: d, the length of the vector.
        preprocess: applied to the network's input, e.g. ``torch.log1p``.

    >>> import pyrovae as pvae
    >>> FullNormal(pvae.MLP((1, 8, 8), (32,)), event_shape=4)(torch.zeros(7, 1, 8, 8)).batch_shape
    torch.Size([7])
    """

    _index: Tensor

    def __init__(self, net: Net = None, event_shape: EventShape = None, *, preprocess: Preprocess = None) -> None:
        d = as_length(event_shape, "FullNormal")
        pairs = d * (d - 1) // 2
        start = torch.cat([torch.zeros(d), torch.full((d,), RAW_ONE), torch.zeros(pairs)])
        super().__init__(net, d, start=start, preprocess=preprocess)
        index = torch.zeros(d, d, dtype=torch.long)  # where each entry of the triangle stands among (0, *r)
        index[tuple(torch.tril_indices(d, d, -1))] = torch.arange(1, pairs + 1)
        self.register_buffer("_index", index, persistent=False)

    def distribution(self, raw: Tensor) -> CholeskyNormal:
        """The normal given m, the raw diagonal of S, and r."""
        (d,) = self.event_shape
        loc, scale, ratio = raw.split((d, d, raw.shape[-1] - 2 * d), -1)
        rows = torch.cat([torch.zeros_like(loc[..., :1]), ratio / math.sqrt(d)], -1)[..., self._index]
        rows = rows * (1 + rows.square().sum(-1, keepdim=True) / _RATIO_BOUND**2).rsqrt()
        unit = rows + torch.eye(d, dtype=loc.dtype, device=loc.device)
        mean = (unit @ loc.unsqueeze(-1)).squeeze(-1)
        return CholeskyNormal(mean, positive(scale).unsqueeze(-1) * unit)


class LowRank(Conditional):
    r"""A conditional normal whose covariance is of low rank plus a diagonal.

    .. math:: q(z \mid x) = \mathcal{N}\bigl(z;\ \mu(x), S (V V^\top + I) S\bigr)

    S is a positive diagonal matrix, and the entries of V stay in (-10, 10). Without a network the distribution is a
    learned prior.

    Args:
        net: a network; an open one is closed with ``(2 + rank, d)`` numbers. None for a learned distribution.
        event_shape: d, the length of the vector.
        rank: the number of columns of V.
        preprocess: applied to the network's input, e.g. ``torch.log1p``.

    >>> import pyrovae as pvae
    >>> LowRank(pvae.MLP((1, 8, 8), (32,)), event_shape=16, rank=2)(torch.zeros(7, 1, 8, 8)).event_shape
    torch.Size([16])
    """

    def __init__(
        self, net: Net = None, event_shape: EventShape = None, *, rank: int, preprocess: Preprocess = None
    ) -> None:
        d = as_length(event_shape, "LowRank")
        check_integer("rank", rank)
        start = torch.cat([torch.zeros(1, d), torch.full((1, d), RAW_ONE), 0.1 * torch.randn(rank, d)])
        super().__init__(net, d, start=start, preprocess=preprocess)

    def distribution(self, raw: Tensor) -> LowRankNormal:
        """The normal given its mean, the raw diagonal of S, and the raw columns of V, each a row of ``raw``."""
        scale, columns = positive(raw[..., 1, :]), raw[..., 2:, :]
        factor = scale.unsqueeze(-1) * (columns / (1 + columns.abs() / _RATIO_BOUND)).mT
        return LowRankNormal(raw[..., 0, :], factor, scale.square())
