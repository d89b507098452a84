"""A likelihood of ordered categories: proportional odds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyrovae.conditionals.base import Conditional, Preprocess, as_event_shape
from pyrovae.distributions.categorical import LevelCategorical, increasing, proportional_odds, steps_of
from pyrovae.errors import check_integer
from pyrovae.networks import Network
from pyrovae.networks.base import Shape


class Ordinal(Conditional):
    r"""A conditional over ordered integers ``0 .. K - 1`` for each entry: the cumulative logit model (proportional odds).

    .. math:: P(x_j \le k \mid z) = \mathrm{sigmoid}\bigl(c_{jk} - \eta_j(z)\bigr), \qquad c_{j0} < \dots < c_{j,K-2}

    The network gives one number per entry, its location; the cutpoints of an entry are learned and do not depend on z.

    Args:
        net: a network; an open one is closed with the event's shape. None for learned locations.
        event_shape: the shape of one datum.
        num_categories: K, at least 2.
        preprocess: applied to the network's input, e.g. ``torch.log1p``.

    Reference: McCullagh 1980, Regression models for ordinal data, JRSS B 42(2).

    >>> Ordinal(event_shape=6, num_categories=5)().event_shape
    torch.Size([6])
    """

    def __init__(
        self,
        net: Network | None = None,
        event_shape: Shape | None = None,
        *,
        num_categories: int,
        preprocess: Preprocess | None = None,
    ) -> None:
        check_integer("num_categories", num_categories, least=2)
        super().__init__(net, event_shape, preprocess=preprocess)
        even = torch.linspace(0, 1, num_categories + 1)[1:-1].logit()  # the categories are equally likely at first
        start = steps_of(even).expand(*as_event_shape(event_shape, "Ordinal"), -1)
        self.unconstrained_cutpoints = nn.Parameter(start.clone())

    @property
    def cutpoints(self) -> Tensor:
        """The cutpoints c, increasing along the last axis, of shape ``(*event_shape, K - 1)``."""
        return increasing(self.unconstrained_cutpoints)

    def distribution(self, raw: Tensor) -> LevelCategorical:
        """One categorical per entry, given locations ``(*batch, *event_shape)``."""
        return LevelCategorical(logits=proportional_odds(raw, self.cutpoints)).to_event(len(self.event_shape))
