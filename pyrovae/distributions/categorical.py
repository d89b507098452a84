"""Categories: one-hot and relaxed latents, and a categorical likelihood over levels for each entry."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor


class InteriorRelaxedOneHot(dist.RelaxedOneHotCategorical):
    r"""Pyro's relaxed one-hot categorical with draws kept off the simplex's edge, to which rounding takes them.

    .. math:: y = \mathrm{softmax}\bigl((\ell + g) / T\bigr), \qquad g \sim \mathrm{Gumbel}(0, 1)

    Args:
        temperature: T, a positive scalar.
        probs: probabilities, of shape ``(*batch, K)``.
        logits: or unnormalized log probabilities, of the same shape.
        validate_args: check arguments.

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
        validate_args: check arguments.

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
