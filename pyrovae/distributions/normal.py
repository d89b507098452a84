"""Normals with correlated entries: a full covariance by its Cholesky factor, and a low-rank one plus a diagonal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints, register_kl

from pyrovae.distributions.base import Parametric


class CholeskyNormal(Parametric):
    r"""A normal with full covariance, given by its Cholesky factor.

    .. math:: y = \mu + L \epsilon, \qquad \log p(y) = \log \mathcal{N}(y;\ \mu, L L^\top)

    Pyro's ``MultivariateNormal`` repeats the factor when its batch axes are expanded (many draws of one posterior). This
    class does not, and it knows the marginal over a subset of its entries.

    Args:
        loc: the mean, of shape ``(*batch, d)``.
        scale_tril: lower triangular with a positive diagonal, of shape ``(*batch, d, d)``.

    >>> d = CholeskyNormal(torch.zeros(5, 3), torch.eye(3))
    >>> d.batch_shape, d.event_shape
    (torch.Size([5]), torch.Size([3]))
    """

    arg_constraints: ClassVar = {"loc": constraints.real_vector, "scale_tril": constraints.lower_cholesky}
    support = constraints.real_vector
    has_rsample = True
    axes: Mapping[str, int] = {"loc": 1}

    def __init__(self, loc: Tensor, scale_tril: Tensor, validate_args: bool | None = None) -> None:
        batch_shape = torch.broadcast_shapes(loc.shape[:-1], scale_tril.shape[:-2])
        self.loc = loc.expand(*batch_shape, -1)
        self.scale_tril = scale_tril  # never expanded: a matrix is not repeated
        super().__init__(batch_shape, loc.shape[-1:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """The mean, of shape ``(*batch, d)``."""
        return self.loc

    @property
    def covariance_matrix(self) -> Tensor:
        """The covariance, of shape ``(*batch, d, d)``."""
        covariance = self.scale_tril @ self.scale_tril.mT
        return covariance.expand(*self.batch_shape, *covariance.shape[-2:])

    @property
    def variance(self) -> Tensor:
        """The marginal variances, of shape ``(*batch, d)``."""
        return self.scale_tril.square().sum(-1).expand_as(self.loc)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of shape ``(*sample_shape, *batch, d)``, differentiable in both parameters."""
        noise = torch.randn(
            self._extended_shape(torch.Size(sample_shape)), dtype=self.loc.dtype, device=self.loc.device
        )
        return self.loc + _by_factor(torch.matmul, self.scale_tril, noise)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density in nats, of shape ``batch``."""
        white = _by_factor(_solve, self.scale_tril, self._checked(value) - self.loc)
        return -0.5 * (white.square().sum(-1) + _log_determinant(self) + self.event_shape[0] * math.log(2 * math.pi))

    def entropy(self) -> Tensor:
        """The entropy in nats, of shape ``batch``."""
        entropy = 0.5 * (_log_determinant(self) + self.event_shape[0] * (1 + math.log(2 * math.pi)))
        return entropy.expand(self.batch_shape)

    def mask_entries(self, mask: Tensor) -> TorchDistribution:
        """The marginal over the entries that ``mask`` (of shape ``(*batch, d)``) marks as observed."""
        kept = mask.to(self.loc.dtype)
        covariance = self.scale_tril @ self.scale_tril.mT * kept.unsqueeze(-1) * kept.unsqueeze(-2)
        factor = torch.linalg.cholesky(covariance + torch.diag_embed(1 - kept))
        return _Observed(CholeskyNormal(self.loc, factor, validate_args=False), mask)


class LowRankNormal(dist.LowRankMultivariateNormal):
    r"""A normal whose covariance is a low-rank matrix plus a diagonal, with the marginal over a subset of its entries.

    .. math:: \log p(y) = \log \mathcal{N}(y;\ \mu, W W^\top + D)

    Args:
        loc: the mean, of shape ``(*batch, d)``.
        cov_factor: W, of shape ``(*batch, d, rank)``.
        cov_diag: the diagonal of D, of shape ``(*batch, d)``.

    >>> LowRankNormal(torch.zeros(5, 3), torch.ones(3, 1), torch.ones(3)).batch_shape
    torch.Size([5])
    """

    def mask_entries(self, mask: Tensor) -> TorchDistribution:
        """The marginal over the entries that ``mask`` (of shape ``(*batch, d)``) marks as observed."""
        factor = self.cov_factor * mask.unsqueeze(-1)
        diagonal = torch.where(mask, self.cov_diag, 1.0)
        return _Observed(LowRankNormal(self.loc.expand_as(diagonal), factor, diagonal, validate_args=False), mask)


class _Observed(TorchDistribution):
    """A normal over some of its entries: in ``base`` the others are standard normals around their mean."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __init__(self, base: CholeskyNormal | LowRankNormal, mask: Tensor) -> None:
        self.base = base.expand(torch.broadcast_shapes(base.batch_shape, mask.shape[:-1]))
        self._mask = mask
        super().__init__(self.base.batch_shape, base.event_shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean of all entries."""
        return self.base.mean

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density of the observed entries, in nats."""
        missing = (~self._mask).sum(-1).to(value.dtype)
        filled = torch.where(self._mask, value, self.base.mean)
        return self.base.log_prob(filled) + 0.5 * math.log(2 * math.pi) * missing

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of the observed entries; the others are NaN."""
        return torch.where(self._mask, self.base.sample(torch.Size(sample_shape)), torch.nan)

    def expand(self, batch_shape: Sequence[int], _instance: TorchDistribution | None = None) -> _Observed:
        """The same distribution with its batch axes expanded to ``batch_shape``."""
        return _Observed(self.base.expand(batch_shape), self._mask.expand(*batch_shape, -1))


def _by_factor(operation: Callable[[Tensor, Tensor], Tensor], factor: Tensor, vectors: Tensor) -> Tensor:
    """Apply a matrix operation to vectors. Axes that the vectors alone have become columns, so no matrix is repeated."""
    extra = vectors.ndim + 1 - factor.ndim
    if extra <= 0:
        return operation(factor, vectors.unsqueeze(-1)).squeeze(-1)
    columns = vectors.flatten(0, extra - 1).movedim(0, -1)
    return operation(factor, columns).movedim(-1, 0).unflatten(0, vectors.shape[:extra])


def _solve(factor: Tensor, columns: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(factor, columns, upper=False)


def _log_determinant(d: CholeskyNormal) -> Tensor:
    return 2 * d.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


@register_kl(CholeskyNormal, CholeskyNormal)
def _kl_full_full(q: CholeskyNormal, p: CholeskyNormal) -> Tensor:
    whitened = _solve(p.scale_tril, q.scale_tril).square().sum((-2, -1))
    shift = _by_factor(_solve, p.scale_tril, q.loc - p.loc).square().sum(-1)
    return 0.5 * (_log_determinant(p) - _log_determinant(q) + whitened + shift - q.event_shape[0])


@register_kl(CholeskyNormal, torch.distributions.Independent)
@register_kl(LowRankNormal, torch.distributions.Independent)
def _kl_correlated_factorized(q: CholeskyNormal | LowRankNormal, p: torch.distributions.Independent) -> Tensor:
    normal = _vector_normal(p)
    cross = torch.log(normal.scale) + 0.5 * (q.variance + (q.mean - normal.loc).square()) / normal.scale.square()
    return (cross + 0.5 * math.log(2 * math.pi)).sum(-1) - q.entropy()


@register_kl(torch.distributions.Independent, CholeskyNormal)
def _kl_factorized_full(q: torch.distributions.Independent, p: CholeskyNormal) -> Tensor:
    normal = _vector_normal(q)
    return _kl_full_full(CholeskyNormal(normal.loc, torch.diag_embed(normal.scale), validate_args=False), p)


def _vector_normal(d: torch.distributions.Independent) -> torch.distributions.Normal:
    if isinstance(d.base_dist, torch.distributions.Normal) and d.reinterpreted_batch_ndims == 1:
        return d.base_dist
    raise NotImplementedError
