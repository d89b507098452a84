"""Conditional normals with correlated entries: a full covariance, and a low-rank one plus a diagonal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pyrovae.conditionals.raw import Covariates, Raw, as_count, as_vector
from pyrovae.distributions.links import RAW_ONE, positive
from pyrovae.distributions.normal import CholeskyNormal, LowRankNormal
from pyrovae.networks import Network

_RATIO_BOUND = 10.0


class FullNormal(nn.Module):
    r"""A conditional normal with a full covariance.

    .. math:: q(z \mid x) = \mathcal{N}\bigl(z;\ U m,\ S U U^\top S\bigr), \qquad
        U_{ii} = 1,\quad U_{ij} = \frac{r_{ij} / \sqrt d}{\sqrt{1 + \lVert r_i \rVert^2 / (100\, d)}},\ j < i

    where m, the positive diagonal S and r are the network's output. The unit triangle acts on the mean as well as on the
    noise, as in a linear inverse autoregressive flow (Kingma et al. 2016, arXiv 1606.04934), and r is scaled by the
    dimension: with a mean of its own and unscaled r the same family trains to a lower bound than a mean-field normal does.
    A row of U keeps a length below 10, so a correlation of two entries stays below 0.995. Standardize a network's input
    (``preprocess=``): on values far from those that it was trained on U may be so ill-conditioned that the density is inexact
    in single precision. With no network it is a learned prior, standard normal at first.

    Args:
        net: a network; an open one is closed with ``d (d + 3) / 2`` numbers. None for a learned distribution.
        event_shape: d, the length of the vector.
        preprocess: applied to the network's input, e.g. ``torch.log1p``.

    Raises:
        ValueError: the event is not a vector, or a closed network's shape differs.

    >>> import pyrovae as pvae
    >>> FullNormal(pvae.MLP((1, 8, 8), (32,)), event_shape=4)(torch.zeros(7, 1, 8, 8)).batch_shape
    torch.Size([7])
    """

    def __init__(
        self,
        net: Network | None = None,
        event_shape: int | Sequence[int] | None = None,
        *,
        preprocess: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.size = as_vector(event_shape, "FullNormal")
        self.event_shape = torch.Size((self.size,))
        pairs = self.size * (self.size - 1) // 2
        self._sizes = (self.size, self.size, pairs)
        index = torch.zeros(self.size, self.size, dtype=torch.long)
        index[tuple(torch.tril_indices(self.size, self.size, -1))] = torch.arange(1, pairs + 1)
        self._index: Tensor
        self.register_buffer("_index", index, persistent=False)
        start = torch.cat([torch.zeros(self.size), torch.full((self.size,), RAW_ONE), torch.zeros(pairs)])
        self.raw = Raw(net, (sum(self._sizes),), start, preprocess)
        self.covariate_names = self.raw.covariate_names

    def forward(self, value: Tensor | None = None, covariates: Covariates | None = None) -> CholeskyNormal:
        """The distribution given ``value`` of shape ``(*batch, *in_shape)``."""
        loc, scale, ratio = self.raw(value, covariates).split(self._sizes, -1)
        rows = torch.cat([torch.zeros_like(loc[..., :1]), ratio / math.sqrt(self.size)], -1)[..., self._index]
        unit = _bounded(rows) + torch.eye(self.size, dtype=loc.dtype, device=loc.device)
        mean = (unit @ loc.unsqueeze(-1)).squeeze(-1)
        return CholeskyNormal(mean, positive(scale).unsqueeze(-1) * unit)


class LowRank(nn.Module):
    r"""A conditional normal whose covariance is of low rank plus a diagonal.

    .. math:: q(z \mid x) = \mathcal{N}\bigl(z;\ \mu(x), S (V V^\top + I) S\bigr)

    with a positive diagonal S and the entries of V kept in (-10, 10). With no network it is a learned prior.

    Args:
        rank: the number of columns of V.
        net: a network; an open one is closed with ``d (2 + rank)`` numbers. None for a learned distribution.
        event_shape: d, the length of the vector.
        preprocess: applied to the network's input, e.g. ``torch.log1p``.

    Raises:
        ValueError: the event is not a vector, the rank is below one, or a closed network's shape differs.

    >>> import pyrovae as pvae
    >>> LowRank(2, pvae.MLP((1, 8, 8), (32,)), event_shape=16)(torch.zeros(7, 1, 8, 8)).event_shape
    torch.Size([16])
    """

    def __init__(
        self,
        rank: int,
        net: Network | None = None,
        event_shape: int | Sequence[int] | None = None,
        *,
        preprocess: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.size = as_vector(event_shape, "LowRank")
        if as_count(rank, "rank", 0) < 1:
            raise ValueError(
                f"rank must be at least 1, got {rank}; without correlations write Factorized(dist.Normal, ...)"
            )
        self.event_shape, self.rank = torch.Size((self.size,)), rank
        start = torch.cat(
            [torch.zeros(1, self.size), torch.full((1, self.size), RAW_ONE), 0.1 * torch.randn(rank, self.size)]
        )
        self.raw = Raw(net, (2 + rank, self.size), start, preprocess)
        self.covariate_names = self.raw.covariate_names

    def forward(self, value: Tensor | None = None, covariates: Covariates | None = None) -> LowRankNormal:
        """The distribution given ``value`` of shape ``(*batch, *in_shape)``."""
        raw = self.raw(value, covariates)
        scale = positive(raw[..., 1, :])
        factor = scale.unsqueeze(-1) * _soft_clip(raw[..., 2:, :]).mT
        return LowRankNormal(raw[..., 0, :], factor, scale.square())


def _soft_clip(x: Tensor) -> Tensor:
    return x / (1 + x.abs() / _RATIO_BOUND)


def _bounded(rows: Tensor) -> Tensor:
    """Rows whose length stays below the bound; short ones are left as they are."""
    return rows * (1 + rows.square().sum(-1, keepdim=True) / _RATIO_BOUND**2).rsqrt()
