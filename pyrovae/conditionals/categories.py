"""Conditionals over categories: one-hot and relaxed latents, and a categorical likelihood for each entry."""

from __future__ import annotations

from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae.conditionals.base import Conditional, EventShape, Net, Preprocess, as_event_shape
from pyrovae.distributions.categorical import InteriorRelaxedOneHot, LevelCategorical
from pyrovae.errors import check_integer, refusal


class OneHot(Conditional):
    r"""A conditional over one-hot vectors, along the last axis of the event.

    .. math:: p(z) = \prod_j \mathrm{softmax}(\ell_j)_{z_j}

    As a latent of one vector it can be enumerated: ``pyro.infer.config_enumerate(vae.guide)`` under ``TraceEnum_ELBO``.
    The family ``OneHotCategoricalStraightThrough`` has (biased) gradients through its draws instead.

    Args:
        net: a network; an open one is closed with the event's shape. None for learned probabilities.
        event_shape: ``K``, or ``(..., K)`` for several vectors.
        family: a family over one-hot vectors with the parameter ``logits``.
        preprocess: applied to the network's input, e.g. ``torch.log1p``.

    >>> OneHot(event_shape=4)().enumerate_support().shape
    torch.Size([4, 4])
    """

    def __init__(
        self,
        net: Net = None,
        event_shape: EventShape = None,
        *,
        family: Callable[..., dist.TorchDistribution] = dist.OneHotCategorical,
        preprocess: Preprocess = None,
    ) -> None:
        super().__init__(net, event_shape, preprocess=preprocess)
        self.family = family

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """One categorical per vector, given its logits."""
        return self.family(logits=raw).to_event(len(self.event_shape) - 1)


class RelaxedOneHot(Conditional):
    r"""A conditional over the simplex that tends to one-hot vectors as its temperature falls (Gumbel-softmax).

    .. math:: z_j = \mathrm{softmax}\bigl((\ell_j + g_j) / T\bigr)

    The evidence is that of the relaxed model, in which both prior and posterior are relaxed. To anneal the temperature,
    write ``posterior.temperature.fill_(0.5)``.

    Args:
        net: a network; an open one is closed with the event's shape. None for learned probabilities.
        event_shape: ``K``, or ``(..., K)`` for several vectors.
        temperature: T, positive.
        preprocess: applied to the network's input, e.g. ``torch.log1p``.

    Reference: Jang et al. 2017, arXiv:1611.01144; Maddison et al. 2017, arXiv:1611.00712.

    >>> RelaxedOneHot(event_shape=(2, 4), temperature=0.5)().event_shape
    torch.Size([2, 4])
    """

    temperature: Tensor

    def __init__(
        self,
        net: Net = None,
        event_shape: EventShape = None,
        *,
        temperature: float = 0.67,
        preprocess: Preprocess = None,
    ) -> None:
        super().__init__(net, event_shape, preprocess=preprocess)
        if temperature <= 0:
            raise refusal(f"temperature must be positive, got {temperature}", "temperature")
        self.register_buffer("temperature", torch.tensor(float(temperature)))

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """One relaxed categorical per vector, given its logits."""
        return InteriorRelaxedOneHot(self.temperature, logits=raw).to_event(len(self.event_shape) - 1)


class Categories(Conditional):
    r"""A conditional over integers ``0 .. K - 1`` for each entry, each entry with its own probabilities.

    .. math:: p(x \mid z) = \prod_j \mathrm{softmax}\bigl(\ell_j(z)\bigr)_{x_j}

    Args:
        net: a network; an open one is closed with ``(K, *event_shape)``. None for learned probabilities.
        event_shape: the shape of one datum.
        num_categories: K, at least 2.
        preprocess: applied to the network's input, e.g. ``torch.log1p``.

    Reference: van den Oord et al. 2016, PixelRNN, arXiv:1601.06759 (256 levels).

    >>> Categories(event_shape=(1, 8, 8), num_categories=17)().event_shape
    torch.Size([1, 8, 8])
    """

    def __init__(
        self, net: Net = None, event_shape: EventShape = None, *, num_categories: int, preprocess: Preprocess = None
    ) -> None:
        check_integer("num_categories", num_categories, least=2)
        start = torch.zeros(num_categories, *as_event_shape(event_shape, "Categories"))
        super().__init__(net, event_shape, start=start, preprocess=preprocess)

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """One categorical per entry, given logits ``(*batch, K, *event_shape)``."""
        event_dim = len(self.event_shape)
        return LevelCategorical(logits=raw.movedim(-1 - event_dim, -1)).to_event(event_dim)
