"""Conditionals over categories: one-hot and relaxed latents, and a categorical likelihood for each entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.conditionals.raw import Covariates, Raw, as_count, as_shape
from pyrovae.distributions.categorical import InteriorRelaxedOneHot, LevelCategorical
from pyrovae.networks import Network


class OneHot(nn.Module):
    r"""A conditional over one-hot vectors, along the last axis of the event.

    .. math:: p(z) = \prod_j \mathrm{softmax}(\ell_j)_{z_j}

    As a latent of one vector it can be enumerated: ``pyro.infer.config_enumerate(vae.guide)`` under ``TraceEnum_ELBO``.
    The family ``OneHotCategoricalStraightThrough`` has (biased) gradients through its draws instead.

    Args:
        net: a network; an open one is closed with the event's shape. None for learned probabilities.
        event_shape: ``K``, or ``(..., K)`` for several vectors.
        family: a family over one-hot vectors with the parameter ``logits``.
        preprocess: applied to the network's input, e.g. ``torch.log1p``.

    Raises:
        ValueError: a closed network's shape differs.

    >>> OneHot(event_shape=4)().enumerate_support().shape
    torch.Size([4, 4])
    """

    def __init__(
        self,
        net: Network | None = None,
        event_shape: int | Sequence[int] | None = None,
        *,
        family: Callable[..., dist.TorchDistribution] = dist.OneHotCategorical,
        preprocess: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.event_shape, self.family = as_shape(event_shape, "OneHot"), family
        self.raw = Raw(net, self.event_shape, preprocess=preprocess)
        self.covariate_names = self.raw.covariate_names

    def forward(self, value: Tensor | None = None, covariates: Covariates | None = None) -> dist.TorchDistribution:
        """The distribution given ``value`` of shape ``(*batch, *in_shape)``."""
        return self.family(logits=self.raw(value, covariates)).to_event(len(self.event_shape) - 1)


class RelaxedOneHot(nn.Module):
    r"""A conditional over the simplex that tends to one-hot vectors as its temperature falls (Gumbel-softmax).

    .. math:: z_j = \mathrm{softmax}\bigl((\ell_j + g_j) / T\bigr)

    Its evidence is that of the relaxed model: prior and posterior are both relaxed. To anneal it, write
    ``posterior.temperature.fill_(0.5)``.

    Args:
        net: a network; an open one is closed with the event's shape. None for learned probabilities.
        event_shape: ``K``, or ``(..., K)`` for several vectors.
        temperature: T, positive.
        preprocess: applied to the network's input, e.g. ``torch.log1p``.

    Raises:
        ValueError: the temperature is not positive, or a closed network's shape differs.

    Reference: Jang et al. 2017, arXiv:1611.01144; Maddison et al. 2017, arXiv:1611.00712.

    >>> RelaxedOneHot(event_shape=(2, 4), temperature=0.5)().event_shape
    torch.Size([2, 4])
    """

    temperature: Tensor

    def __init__(
        self,
        net: Network | None = None,
        event_shape: int | Sequence[int] | None = None,
        *,
        temperature: float = 0.67,
        preprocess: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.event_shape = as_shape(event_shape, "RelaxedOneHot")
        self.register_buffer("temperature", torch.tensor(float(temperature)))
        self.raw = Raw(net, self.event_shape, preprocess=preprocess)
        self.covariate_names = self.raw.covariate_names

    def forward(self, value: Tensor | None = None, covariates: Covariates | None = None) -> dist.TorchDistribution:
        """The distribution given ``value`` of shape ``(*batch, *in_shape)``."""
        relaxed = InteriorRelaxedOneHot(self.temperature, logits=self.raw(value, covariates))
        return relaxed.to_event(len(self.event_shape) - 1)


class Categories(nn.Module):
    r"""A conditional over integers ``0 .. K - 1`` for each entry, with probabilities of its own for each.

    .. math:: p(x \mid z) = \prod_j \mathrm{softmax}\bigl(\ell_j(z)\bigr)_{x_j}

    Args:
        num_categories: K.
        net: a network; an open one is closed with ``(K, *event_shape)``. None for learned probabilities.
        event_shape: the shape of one datum.
        preprocess: applied to the network's input, e.g. ``torch.log1p``.

    Raises:
        ValueError: fewer than two categories, or a closed network's shape differs.

    Reference: van den Oord et al. 2016, PixelRNN, arXiv:1601.06759 (256 levels).

    >>> Categories(17, event_shape=(1, 8, 8))().event_shape
    torch.Size([1, 8, 8])
    """

    def __init__(
        self,
        num_categories: int,
        net: Network | None = None,
        event_shape: int | Sequence[int] | None = None,
        *,
        preprocess: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        as_count(num_categories, "num_categories", 2)
        self.event_shape, self.num_categories = as_shape(event_shape, "Categories"), num_categories
        self.raw = Raw(net, (num_categories, *self.event_shape), preprocess=preprocess)
        self.covariate_names = self.raw.covariate_names

    def forward(self, value: Tensor | None = None, covariates: Covariates | None = None) -> dist.TorchDistribution:
        """The distribution given ``value`` of shape ``(*batch, *in_shape)``."""
        logits = self.raw(value, covariates).movedim(-1 - len(self.event_shape), -1)
        return LevelCategorical(logits=logits).to_event(len(self.event_shape))
