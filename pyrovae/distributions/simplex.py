"""Proportions: the logistic-normal and the Dirichlet distribution, with draws that stay off the simplex's edge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints, register_kl

from pyrovae.distributions.base import Parametric
from pyrovae.distributions.precise import Precise


class AdditiveLogisticNormal(Parametric):
    r"""Proportions whose log ratios to the last one are independent normals.

    .. math:: \log \frac{y_j}{y_K} \sim \mathcal{N}(\mu_j, \sigma_j^2), \quad j < K, \qquad
        \log p(y) = \log \mathcal{N}\Bigl(\log \frac{y_{<K}}{y_K}\Bigr) - \sum_{j \le K} \log y_j

    Args:
        loc: means of the log ratios, of shape ``(*batch, K - 1)``.
        scale: their standard deviations, of the same shape.

    Reference: Aitchison & Shen 1980, doi:10.2307/2335470.

    >>> AdditiveLogisticNormal(torch.zeros(5, 2), torch.ones(5, 2)).event_shape
    torch.Size([3])
    """

    arg_constraints: ClassVar = {
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
    }
    support = constraints.simplex
    has_rsample = True
    axes: Mapping[str, int] = {"loc": 1, "scale": 1}

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        event_shape = torch.Size((self.loc.shape[-1] + 1,))
        super().__init__(self.loc.shape[:-1], event_shape, validate_args=validate_args)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of shape ``(*sample_shape, *batch, K)``."""
        shape = torch.Size(sample_shape) + self.loc.shape
        ratios = self.loc + self.scale * torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return _off_edge(torch.cat([ratios, torch.zeros_like(ratios[..., :1])], -1).softmax(-1))

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density in nats, with respect to the first K - 1 proportions, of shape ``batch``."""
        logs = self._checked(value).log()
        white = (logs[..., :-1] - logs[..., -1:] - self.loc) / self.scale
        terms = -0.5 * white.square() - self.scale.log() - 0.5 * math.log(2 * math.pi)
        return terms.sum(-1) - logs.sum(-1)


class InteriorDirichlet(Precise, dist.Dirichlet):
    r"""Pyro's Dirichlet, its draws kept off the edge of the simplex, where a small concentration has an infinite density.

    .. math:: p(y) \propto \prod_k y_k^{\alpha_k - 1}

    Args:
        concentration: :math:`\alpha`, of shape ``(*batch, K)``.

    >>> InteriorDirichlet(torch.full((3,), 1e-6)).rsample().log().isfinite().all()
    tensor(True)
    """

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of shape ``(*sample_shape, *batch, K)``."""
        return _off_edge(super().rsample(torch.Size(sample_shape)))


def _off_edge(value: Tensor) -> Tensor:
    return value.clamp(min=torch.finfo(value.dtype).tiny)


@register_kl(AdditiveLogisticNormal, AdditiveLogisticNormal)
def _kl_logistic_normals(q: AdditiveLogisticNormal, p: AdditiveLogisticNormal) -> Tensor:
    ratio = q.scale / p.scale
    shift = (q.loc - p.loc) / p.scale
    return (0.5 * (ratio.square() + shift.square() - 1) - ratio.log()).sum(-1)
