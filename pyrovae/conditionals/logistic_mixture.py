"""The likelihood of PixelCNN++ over images of integer levels."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrovae.conditionals.base import Conditional, EventShape, Net, Preprocess, as_event_shape
from pyrovae.distributions.links import positive
from pyrovae.distributions.logistic_mixture import DiscretizedLogisticMixture
from pyrovae.errors import check_integer

START_PIXELS = 5000
"""So many pixels, chosen at random, are looked at where the mixture starts at the data."""


class LogisticMixture(Conditional):
    r"""A conditional over images of integer levels: the mixture of discretized logistics of PixelCNN++.

    .. math:: p(x \mid z) = \prod_s \sum_k \pi_{ks}(z) \prod_c P\bigl(x_{cs} \mid x_{<c,s}, z, k\bigr)

    The network gives ``K (1 + 2 C + pairs)`` numbers per position: log weights, locations, raw scales, raw couplings.

    Args:
        net: a network; an open one is closed with ``(numbers, *positions)``. None for one learned mixture.
        event_shape: ``(channels, *positions)``, as in ``(3, 32, 32)``.
        num_components: K.
        levels: number of levels; the data are the integers 0 to ``levels - 1``.
        coupled: let a channel's location move with the channels before it.
        preprocess: applied to the network's input.

    Reference: Salimans et al. 2017, PixelCNN++, arXiv:1701.05517.

    >>> import pyrovae as pvae
    >>> likelihood = LogisticMixture(pvae.MLP(10, (32,)), event_shape=(3, 4, 4), num_components=5)
    >>> likelihood(torch.zeros(7, 10)).event_shape
    torch.Size([3, 4, 4])
    """

    def __init__(
        self,
        net: Net = None,
        event_shape: EventShape = None,
        *,
        num_components: int,
        levels: int = 256,
        coupled: bool = True,
        preprocess: Preprocess = None,
    ) -> None:
        channels, *positions = as_event_shape(event_shape, "LogisticMixture")
        sizes = (1, channels, channels, channels * (channels - 1) // 2 if coupled else 0)
        numbers = check_integer("num_components", num_components) * sum(sizes)
        start = 0.5 * torch.randn(numbers, *[1] * len(positions))  # one everywhere: a convolution has one head
        super().__init__(net, event_shape, start=start.repeat(1, *positions), preprocess=preprocess)
        self.num_components, self.levels, self.sizes = num_components, check_integer("levels", levels, least=2), sizes

    def initialize(self, x: Tensor, steps: int = 100) -> None:
        """Start at one mixture, the same at every position: the fit to pixels from all of them.

        Args:
            x: data of shape ``(rows, *event_shape)``; NaN is missing.
            steps: number of steps.

        Raises:
            ValueError: the data does not fit.
        """
        target = self.value if self.net is None else self.offset
        channels, *positions = self.event_shape
        pixels = x.to(target).movedim(1, -1).reshape(-1, channels, *[1] * len(positions))
        order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
        coupled = self.sizes[-1] > 0
        of_one = LogisticMixture(
            None,
            (channels, *[1] * len(positions)),
            num_components=self.num_components,
            levels=self.levels,
            coupled=coupled,
        )
        of_one.to(target)
        Conditional.initialize(of_one, pixels[order[:START_PIXELS]], steps)
        with torch.no_grad():
            target.copy_(of_one.value.expand_as(target))

    def distribution(self, raw: Tensor) -> DiscretizedLogisticMixture:
        """The mixture given log weights, locations, raw scales and raw couplings of each component."""
        positions = len(self.event_shape) - 1
        axis = -1 - positions
        split = raw.unflatten(axis, (self.num_components, sum(self.sizes))).split(self.sizes, axis)
        logits, loc, scale, coupling = split
        return DiscretizedLogisticMixture(
            logits.squeeze(axis), loc, positive(scale), coupling.tanh(), self.levels, positions
        )
