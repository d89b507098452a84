"""Networks that read named covariates: by concatenation and by modulation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyrovae.networks.base import Covariates, Network, Shape, check_input, check_network
from pyrovae.networks.entries import Entries, Entry
from pyrovae.networks.mlp import MLP


class ConcatCovariates(Network):
    r"""A network of the value and the covariates, concatenated.

    .. math:: y = f([x, c_1, \dots, c_n])

    Value and covariates are broadcast over their batch axes first. Where the network takes a vector, everything is
    flattened; where it takes the value's shape with one longer axis (an image's channels, a sequence's features),
    covariates are repeated along the other axes, or joined as they are if they have them.

    Args:
        net: the network; its ``in_shape`` has room for the value and all covariates.
        in_shape: shape of one value; None where there is no value, as in a conditional prior.
        covariates: for each name the shape of one entry, or a closed network of the entry such as ``Embed(10, 4)``.

    Raises:
        TypeError: ``net`` is not a network.
        ValueError: there is no name, or the network's ``in_shape`` has no room for them.

    Reference: Sohn, Lee & Yan 2015, Learning structured output representation using deep conditional generative
    models, Advances in Neural Information Processing Systems 28.

    >>> from pyrovae import Embed
    >>> net = ConcatCovariates(MLP(784 + 4, (64,), 20), (1, 28, 28), covariates={"label": Embed(10, 4)})
    >>> net(torch.zeros(6, 5, 1, 28, 28), {"label": torch.arange(5)}).shape
    torch.Size([6, 5, 20])
    >>> prior_net = ConcatCovariates(MLP(3, (16,), (2, 8)), None, covariates={"size": 3})
    >>> prior_net(None, {"size": torch.zeros(5, 3)}).shape
    torch.Size([5, 2, 8])
    """

    def __init__(self, net: Network, in_shape: Shape | None, covariates: Mapping[str, Entry]) -> None:
        check_network("ConcatCovariates", net)
        entries = Entries("ConcatCovariates", covariates)
        names = (*entries.names, *net.covariate_names)
        super().__init__(0 if in_shape is None else in_shape, net.out_shape, names)
        self.join = _find_join(net, self.in_shape, entries.shapes)
        self.entries = entries
        self.net = net

    def forward(self, x: Tensor | None, covariates: Covariates | None = None) -> Tensor:
        """Return the output ``(*batch, *out_shape)``, where ``batch`` is the broadcast of the value's and covariates'."""
        values, batches = self.entries(covariates)
        value, batch = check_input(self, values[0].new_empty(0) if x is None and self.in_shape == (0,) else x)
        batches = [batch, *batches]
        batch_shape = _broadcast("ConcatCovariates", batches)
        parts = [
            part.reshape(own + self.join.view(shape)).expand(batch_shape + self.join.full(shape))
            for part, own, shape in zip((value, *values), batches, (self.in_shape, *self.entries.shapes), strict=True)
        ]
        return self.net(torch.cat(parts, self.join.axis - len(self.join.frame)), covariates)

    def add_head(self, out_shape: torch.Size) -> Network:
        """Return the same around the network with a head; all parts are shared."""
        return ConcatCovariates(self.net.close(out_shape), self.in_shape, dict(self.entries.items()))


class FiLM(Network):
    r"""A network whose input features are scaled and shifted by the covariates.

    .. math:: y = f\bigl((1 + \gamma(c)) \odot x + \beta(c)\bigr)

    To modulate hidden features, put it behind another network: ``Chain(first, FiLM(second, covariates))``.

    Args:
        net: the network whose input is modulated.
        covariates: for each name the shape of one entry, or a closed network of the entry such as ``Embed(10, 4)``.
        generator: a network from all entries, flattened and concatenated, to ``(2, features)``; a linear map if None.
        axis: the axis of ``in_shape`` that is modulated, 0 for an image's channels, -1 for a sequence's features.

    Raises:
        TypeError: ``net`` or ``generator`` is not a network.
        ValueError: there is no name, no such axis, or the generator's shapes do not fit.

    Reference: Perez et al. 2018, FiLM: visual reasoning with a general conditioning layer, arXiv:1709.07871.

    >>> from pyrovae import Chain, Embed
    >>> net = Chain(MLP(784, (64,), 32), FiLM(MLP(32, (64,), 20), covariates={"label": Embed(10, 4)}))
    >>> net(torch.zeros(5, 784), {"label": torch.arange(5)}).shape
    torch.Size([5, 20])
    """

    def __init__(
        self, net: Network, covariates: Mapping[str, Entry], generator: Network | None = None, axis: int = 0
    ) -> None:
        check_network("FiLM", net)
        if generator is not None:
            check_network("FiLM's generator=", generator)
        entries = Entries("FiLM", covariates)
        inner = (*net.covariate_names, *(generator.covariate_names if generator is not None else ()))
        super().__init__(net.in_shape, net.out_shape, (*entries.names, *inner))
        dims = len(self.in_shape)
        if not -dims <= axis < dims or math.prod(self.in_shape) == 0:
            raise ValueError(
                f"FiLM expected a value with an axis {axis} to modulate, got in_shape={tuple(self.in_shape)}: "
                "write another axis=, or ConcatCovariates where there is no value"
            )
        self.axis = axis % dims
        self.entries = entries
        size, features = sum(math.prod(shape) for shape in entries.shapes), self.in_shape[self.axis]
        generator = MLP(size, (), (2, features)) if generator is None else generator
        if generator.in_shape != (size,):
            raise ValueError(
                f"FiLM expected a generator with in_shape=({size},), the number of values in its covariates, got "
                f"{tuple(generator.in_shape)}: write in_shape={size} there"
            )
        self.generator = generator.close((2, features))
        self.net = net

    def forward(self, x: Tensor | None, covariates: Covariates | None = None) -> Tensor:
        """Return the output ``(*batch, *out_shape)``, where ``batch`` is the broadcast of the value's and covariates'."""
        values, batches = self.entries(covariates)
        value, batch = check_input(self, x)
        _broadcast("FiLM", [batch, *batches])
        batch_shape = torch.broadcast_shapes(*batches)
        parts = [
            part.reshape(*own, math.prod(shape)).expand(*batch_shape, math.prod(shape))
            for part, own, shape in zip(values, batches, self.entries.shapes, strict=True)
        ]
        ones = [1] * len(self.in_shape)
        ones[self.axis] = self.in_shape[self.axis]
        both = self.generator(torch.cat(parts, -1), covariates)  # (*batch, 2, features)
        scale, shift = both.reshape(*batch_shape, 2, *ones).unbind(len(batch_shape))
        return self.net((1 + scale) * value + shift, covariates)

    def add_head(self, out_shape: torch.Size) -> Network:
        """Return the same around the network with a head; all parts are shared."""
        return FiLM(self.net.close(out_shape), dict(self.entries.items()), self.generator, self.axis)


class Join(NamedTuple):
    """How event shapes are joined: each brought into the form of ``frame``, and concatenated along ``axis``."""

    frame: torch.Size
    axis: int

    def view(self, shape: torch.Size) -> torch.Size:
        """The shape to view a part in: as many axes as the frame, of size one where the part will be repeated."""
        return shape if self._fits(shape) else self._resized(torch.Size([1] * len(self.frame)), math.prod(shape))

    def full(self, shape: torch.Size) -> torch.Size:
        """The shape of a part once it is repeated."""
        return shape if self._fits(shape) else self._resized(self.frame, math.prod(shape))

    def joined(self, shapes: Sequence[torch.Size]) -> torch.Size:
        """The shape of all parts together."""
        return self._resized(self.frame, sum(self.full(shape)[self.axis] for shape in shapes))

    def _fits(self, shape: torch.Size) -> bool:
        return len(shape) == len(self.frame) and self._resized(shape, 0) == self._resized(self.frame, 0)

    def _resized(self, shape: torch.Size, width: int) -> torch.Size:
        return torch.Size([*shape[: self.axis], width, *shape[self.axis + 1 :]])


def _find_join(net: Network, in_shape: torch.Size, shapes: Sequence[torch.Size]) -> Join:
    """The axis along which value and covariates have the network's input shape; all flattened, last of all."""
    joins = [Join(in_shape, axis) for axis in range(len(in_shape))] + [Join(torch.Size([math.prod(in_shape)]), 0)]
    wanted = [join.joined((in_shape, *shapes)) for join in joins]
    if net.in_shape in wanted:
        return joins[wanted.index(net.in_shape)]
    expected = " or ".join(dict.fromkeys(str(tuple(shape)) for shape in reversed(wanted)))
    entries = ", ".join(str(tuple(shape)) for shape in shapes)
    raise ValueError(
        f"ConcatCovariates expected a network with in_shape={expected}, room for a value {tuple(in_shape)} and covariates "
        f"of {entries}, got {tuple(net.in_shape)}: write in_shape={tuple(wanted[-1])} there"
    )


def _broadcast(who: str, batch_shapes: Sequence[torch.Size]) -> torch.Size:
    """The batch axes that value and covariates have together."""
    try:
        return torch.broadcast_shapes(*batch_shapes)
    except RuntimeError:
        came = " and ".join(str(tuple(shape)) for shape in batch_shapes)
        raise ValueError(
            f"{who} expected batch axes of value and covariates that broadcast, got {came}: "
            "give the covariates one row for each row of the value"
        ) from None
