"""Categories: one-hot and relaxed latents, and a categorical likelihood over levels for each entry."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus


class InteriorRelaxedOneHot(dist.RelaxedOneHotCategorical):
    r"""Pyro's relaxed one-hot categorical with draws kept off the simplex's edge, to which rounding takes them.

    .. math:: y = \mathrm{softmax}\bigl((\ell + g) / T\bigr), \qquad g \sim \mathrm{Gumbel}(0, 1)

    Args:
        temperature: T, a positive scalar.
        probs: probabilities, of shape ``(*batch, K)``.
        logits: or unnormalized log probabilities, of the same shape.

    Reference: Jang et al. 2017, arXiv:1611.01144; Maddison et al. 2017, arXiv:1611.00712.

    >>> d = InteriorRelaxedOneHot(torch.tensor(0.1), logits=torch.tensor([1e4, 0.0, -1e4]))
    >>> d.log_prob(d.rsample()).isfinite()
    tensor(True)
    """

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of shape ``(*sample_shape, *batch, K)``."""
        value = super().rsample(torch.Size(sample_shape))
        return value.clamp(min=torch.finfo(value.dtype).tiny)


class LevelCategorical(dist.Categorical):
    r"""Pyro's categorical over levels that are numbers, so that it has a mean.

    .. math:: \mathbb{E}[x] = \sum_k k\, \pi_k

    Args:
        probs: probabilities, of shape ``(*batch, K)``.
        logits: or unnormalized log probabilities, of the same shape.

    >>> LevelCategorical(logits=torch.zeros(5)).mean
    tensor(2.)
    """

    @property
    def mean(self) -> Tensor:
        """The mean level, of shape ``batch``."""
        return (self.probs * self._levels()).sum(-1)

    @property
    def variance(self) -> Tensor:
        """The variance of the level, of shape ``batch``."""
        return (self.probs * (self._levels() - self.mean.unsqueeze(-1)).square()).sum(-1)

    def _levels(self) -> Tensor:
        return torch.arange(self.probs.shape[-1], dtype=self.probs.dtype, device=self.probs.device)


def proportional_odds(location: Tensor, cutpoints: Tensor) -> Tensor:
    r"""The log masses of ordered levels under the cumulative logit model; they do not cancel in the tails.

    .. math:: P(x \le k) = \mathrm{sigmoid}(c_k - \eta), \qquad c_0 < \dots < c_{K-2}

    Args:
        location: :math:`\eta`, of shape ``batch``.
        cutpoints: c, increasing along the last axis, of shape ``(*batch, K - 1)``.

    Reference: McCullagh 1980, Regression models for ordinal data, JRSS B 42(2).

    >>> proportional_odds(torch.tensor(0.0), torch.tensor([0.0])).exp()
    tensor([0.5000, 0.5000])
    """
    gaps = cutpoints - location.unsqueeze(-1)
    low, high = gaps[..., :-1], gaps[..., 1:]
    inner = logsigmoid(high) + logsigmoid(-low) + torch.log(-torch.expm1(low - high))
    return torch.cat([logsigmoid(gaps[..., :1]), inner, logsigmoid(-gaps[..., -1:])], -1)


def increasing(raw: Tensor) -> Tensor:
    """Numbers that increase along the last axis: the first, then steps through a softplus.

    >>> increasing(steps_of(torch.tensor([-1.0, 0.0, 2.0]))).round(decimals=4)
    tensor([-1.,  0.,  2.])
    """
    return torch.cat([raw[..., :1], raw[..., :1] + softplus(raw[..., 1:]).cumsum(-1)], -1)


def steps_of(values: Tensor) -> Tensor:
    """The raw numbers whose :func:`increasing` is ``values``."""
    return torch.cat([values[..., :1], values.diff().expm1().log()], -1)
