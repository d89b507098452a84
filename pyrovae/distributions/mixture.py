"""A mixture of normals with diagonal covariances, whose draws are differentiable: a prior or a posterior."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.distributions.base import Maskable


class DiagonalNormalMixture(Maskable):
    r"""A mixture of normals with diagonal covariances, with implicitly reparameterized draws.

    .. math:: p(y) = \sum_k \pi_k \prod_j \mathcal{N}(y_j;\ \mu_{kj}, \sigma_{kj}^2)

    The conditional distribution functions :math:`F(y_j \mid y_{<j})` of a draw are held fixed while the parameters
    move, which defines its derivative, exactly and for the weights too.

    Args:
        logits: unnormalized log weights, of shape ``(*batch, K)``.
        locs: means, of shape ``(*batch, K, d)``.
        scales: standard deviations, of shape ``(*batch, K, d)``.
        stratified: several draws of one row, along axes in front of the batch, are shared out among its components by their
            weights: two draws of two equal components are one of each. Each draw alone follows the mixture.

    Reference: Graves 2016, arXiv:1607.05690; Figurnov et al. 2018, arXiv:1805.08498.

    >>> d = DiagonalNormalMixture(torch.zeros(4), torch.randn(4, 2), torch.ones(4, 2))
    >>> d.rsample((3,)).shape
    torch.Size([3, 2])
    """

    arg_constraints: ClassVar = {"logits": constraints.real_vector, "scales": constraints.positive}
    support = constraints.real_vector
    has_rsample = True
    axes: Mapping[str, int] = {"logits": 1, "locs": 2, "scales": 2}

    def __init__(
        self,
        logits: Tensor,
        locs: Tensor,
        scales: Tensor,
        stratified: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        batch_shape = torch.broadcast_shapes(logits.shape[:-1], locs.shape[:-2], scales.shape[:-2])
        self.logits = logits.log_softmax(-1).expand(*batch_shape, -1)
        self.locs = locs.expand(*batch_shape, *locs.shape[-2:])
        self.scales = scales.expand(*batch_shape, *locs.shape[-2:])
        self.stratified, self.row_axes = stratified, len(batch_shape)
        super().__init__(batch_shape, locs.shape[-1:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """The mean, of shape ``(*batch, d)``."""
        return (self.logits.exp().unsqueeze(-1) * self.locs).sum(-2)

    @property
    def variance(self) -> Tensor:
        """The marginal variances, of shape ``(*batch, d)``."""
        second = self.scales.square() + (self.locs - self.mean.unsqueeze(-2)).square()
        return (self.logits.exp().unsqueeze(-1) * second).sum(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density in nats, of shape ``batch``."""
        white = (self._checked(value).unsqueeze(-2) - self.locs) / self.scales
        terms = -0.5 * white.square() - self.scales.log() - 0.5 * math.log(2 * math.pi)
        if self._mask is not None:
            terms = torch.where(self._mask.unsqueeze(-2), terms, 0.0)
        return (self.logits + terms.sum(-1)).logsumexp(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of shape ``(*sample_shape, *batch, d)``."""
        shape = torch.Size(sample_shape)
        which = self._shares(shape) if self.stratified else self._components(shape)
        index = which[..., None, None].expand(*which.shape, 1, self.event_shape[0])
        loc, scale = (
            t.expand(*which.shape, *t.shape[-2:]).gather(-2, index).squeeze(-2) for t in (self.locs, self.scales)
        )
        return loc + scale * torch.randn_like(loc)

    def _components(self, shape: torch.Size) -> Tensor:
        return torch.distributions.Categorical(logits=self.logits, validate_args=False).sample(shape)

    def _shares(self, shape: torch.Size) -> Tensor:
        """Components by systematic sampling: the draws of a row lie in equal parts of its weights, in random order."""
        batch = shape + self.batch_shape
        rows = batch[len(batch) - self.row_axes :]
        count = batch.numel() // max(rows.numel(), 1)
        like: dict[str, Any] = {"dtype": self.logits.dtype, "device": self.logits.device}
        part = torch.rand(count, *rows, **like).argsort(0)
        points = ((part + torch.rand(rows, **like)) / count).reshape(*batch, 1)
        ends = self.logits.exp().cumsum(-1)
        ends = (ends / ends[..., -1:]).expand(*batch, -1).contiguous()
        return torch.searchsorted(ends, points.clamp(max=1 - 1e-6), right=True).squeeze(-1)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws whose derivatives hold their conditional distribution functions fixed, entry after entry."""
        fixed = self.sample(sample_shape)
        log_weights, draws = self.logits, []
        for j in range(self.event_shape[0]):
            loc, scale = self.locs[..., j], self.scales[..., j]
            here = fixed[..., j].unsqueeze(-1)
            posterior = log_weights + _log_normal(here, loc, scale)
            draws.append(_implicit(fixed[..., j], log_weights, posterior, loc, scale))
            log_weights = (log_weights + _log_normal(draws[-1].unsqueeze(-1), loc, scale)).log_softmax(-1)
        return torch.stack(draws, -1)


def _log_normal(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return -0.5 * ((x - loc) / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)


def _implicit(fixed: Tensor, log_weights: Tensor, posterior: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    r"""The draw itself, with the derivative :math:`-\partial F / f` of its distribution function F at fixed value."""
    log_density = posterior.detach().logsumexp(-1)
    above = fixed > (log_weights.detach().exp() * loc.detach()).sum(-1)
    white = (fixed.unsqueeze(-1) - loc) / scale
    sign = torch.where(above, -1.0, 1.0).unsqueeze(-1)
    tail = log_weights.exp() * torch.special.ndtr(sign * white)
    distribution = sign.squeeze(-1) * tail.sum(-1)
    slope = distribution * (-log_density).exp()
    return fixed - (slope - slope.detach())
