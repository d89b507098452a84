"""Networks that are a trunk and a head: an open network still lacks the head."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from pyrovae.networks.base import Covariates, Network, Shape, as_shape


class Trunk(Network):
    """A network that computes with one leading axis, and ends in a head made for the output's shape.

    A subclass builds its layers and then calls ``self.finish(out_shape)``.
    """

    head: nn.Module

    def __init__(self, in_shape: Shape) -> None:
        super().__init__(as_shape(in_shape, "in_shape"))

    @abstractmethod
    def make_head(self, out_shape: torch.Size) -> nn.Module:
        """Return a new head for outputs of this shape."""

    @abstractmethod
    def run(self, rows: Tensor, head: nn.Module) -> Tensor:
        """Return the output ``(rows, ...)``, reshaped later, of ``(rows, *in_shape)`` through the trunk and this head."""

    def finish(self, out_shape: Shape | None) -> None:
        """Add the head, if the output's shape is known: the last step of a subclass's construction."""
        if out_shape is not None:
            self.out_shape = as_shape(out_shape, "out_shape")
            self.head = self.make_head(self.out_shape)

    def forward(self, x: Tensor | None, covariates: Covariates | None = None) -> Tensor:
        """Return the output ``(*batch, *out_shape)`` of ``(*batch, *in_shape)``; covariates are not read."""
        return self.flattened(x, lambda rows: self.run(rows, self.head))

    def add_head(self, out_shape: torch.Size) -> Network:
        """Return this trunk, shared, with a new head."""
        return Headed(self, out_shape)


class Headed(Network):
    """An open trunk, shared with all its other holders, and one head: the result of ``trunk.close(out_shape)``.

    Args:
        trunk: the open network.
        out_shape: shape of one output; an integer for a vector.

    Raises:
        ValueError: the trunk has a head already.

    >>> from pyrovae import MLP
    >>> trunk = MLP(784, (64,))
    >>> trunk.close(10).trunk is trunk.close(2).trunk
    True
    """

    def __init__(self, trunk: Trunk, out_shape: Shape) -> None:
        super().__init__(trunk.in_shape, out_shape)
        if trunk.out_shape is not None:
            raise ValueError(f"expected an open network, got a closed {type(trunk).__name__}: leave its out_shape out")
        self.trunk = trunk
        self.head = trunk.make_head(self.closed_shape)

    def forward(self, x: Tensor | None, covariates: Covariates | None = None) -> Tensor:
        """Return the output ``(*batch, *out_shape)`` of ``(*batch, *in_shape)``; covariates are not read."""
        return self.flattened(x, lambda rows: self.trunk.run(rows, self.head))


class VectorTrunk(Trunk):
    """A trunk that turns one input into a vector of ``num_features`` features, and ends in a linear head."""

    def __init__(self, in_shape: Shape, num_features: int) -> None:
        super().__init__(in_shape)
        self.num_features = num_features

    @abstractmethod
    def features(self, rows: Tensor) -> Tensor:
        """Return the features ``(rows, num_features)`` of ``(rows, *in_shape)``."""

    def make_head(self, out_shape: torch.Size) -> nn.Module:
        """Return a linear map from the features to the flattened output."""
        return nn.Linear(self.num_features, math.prod(out_shape))

    def run(self, rows: Tensor, head: nn.Module) -> Tensor:
        """Return the flattened output of ``(rows, *in_shape)``."""
        return head(self.features(rows))
