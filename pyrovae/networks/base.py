"""What a network is: tensors in, tensors out, for any number of leading batch axes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Shape = int | Sequence[int]
Covariates = Mapping[str, Tensor]


class Network(nn.Module, ABC):
    r"""A map from ``(*batch, *in_shape)`` to ``(*batch, *out_shape)``, the same for every row of the batch.

    .. math:: y_b = f(x_b, c_b) \quad \text{for every index } b \text{ of the leading axes}

    The leading axes may be any number, none included. A network without ``out_shape`` is *open*: it has no output head
    yet, and cannot be called; :meth:`close` gives it one. A class of your own writes ``forward`` and ``add_head``; a
    module that exists already becomes a network by :class:`~pyrovae.networks.BatchAxes`.

    Args:
        in_shape: shape of one input; an integer for a vector.
        out_shape: shape of one output; None for an open network.
        covariate_names: the names that are read from the covariates, if any.

    Raises:
        TypeError: a shape is not made of integers.
        ValueError: a shape has an axis without entries.

    >>> from pyrovae import MLP
    >>> MLP((1, 28, 28), (64,)).close(10)(torch.zeros(2, 5, 1, 28, 28)).shape
    torch.Size([2, 5, 10])
    """

    in_shape: torch.Size
    out_shape: torch.Size | None
    covariate_names: tuple[str, ...] = ()

    def __init__(self, in_shape: Shape, out_shape: Shape | None = None, covariate_names: Sequence[str] = ()) -> None:
        super().__init__()
        self.in_shape = as_shape(in_shape, "in_shape", least=0)
        self.out_shape = None if out_shape is None else as_shape(out_shape, "out_shape")
        self.covariate_names = tuple(dict.fromkeys(covariate_names))

    @abstractmethod
    def forward(self, x: Tensor | None, covariates: Covariates | None = None) -> Tensor:
        """The output of shape ``(*batch, *out_shape)``.

        Args:
            x: input of shape ``(*batch, *in_shape)``; None for a network of the covariates alone.
            covariates: tensors by name; names that this network does not read are left alone.

        Raises:
            ValueError: the network is open, a shape does not fit, or the covariates lack a name.
        """

    @abstractmethod
    def add_head(self, out_shape: torch.Size) -> Network:
        """This open network with an output head of its own; what was there before is shared, not copied."""

    def close(self, out_shape: Shape) -> Network:
        """A network with this output shape: this one if it is closed, else this one and a new head behind it.

        The open network is shared, not copied: close it twice, and the two networks train one trunk.

        Args:
            out_shape: shape of one output; an integer for a vector.

        Raises:
            ValueError: the network is closed and has another output shape.

        >>> from pyrovae import MLP
        >>> trunk = MLP(784, (64,))
        >>> trunk.close((2, 10)).out_shape, trunk.out_shape
        (torch.Size([2, 10]), None)
        """
        wanted = as_shape(out_shape, "out_shape")
        if self.out_shape is None:
            return self.add_head(wanted)
        if self.out_shape != wanted:
            raise ValueError(
                f"{type(self).__name__} is closed: expected out_shape={tuple(wanted)}, it has {tuple(self.out_shape)}; "
                f"write out_shape={tuple(wanted)}, or leave out_shape out and it is added"
            )
        return self

    @property
    def closed_shape(self) -> torch.Size:
        """The output's shape.

        Raises:
            ValueError: the network is open.
        """
        if self.out_shape is None:
            name = type(self).__name__
            raise ValueError(f"{name} is open, it has no output yet: write out_shape=..., or call its close(out_shape)")
        return self.out_shape

    def extra_repr(self) -> str:
        """The shapes, and the covariates' names where there are any."""
        out_shape = "open" if self.out_shape is None else tuple(self.out_shape)
        names = f", covariate_names={self.covariate_names}" if self.covariate_names else ""
        return f"{tuple(self.in_shape)} -> {out_shape}{names}"


class Rows(NamedTuple):
    """An input with its leading axes flattened into one, and what those axes were."""

    values: Tensor
    batch_shape: torch.Size

    @classmethod
    def of(cls, network: Network, x: Tensor | None) -> Rows:
        """The rows of an input of this network, checked by their shape alone."""
        x, batch_shape = check_input(network, x)
        size = math.prod(batch_shape)
        if size == 1 and network.training:
            refuse_one_row(network)
        return cls(x.reshape(size, *network.in_shape), batch_shape)

    def restore(self, output: Tensor, out_shape: torch.Size) -> Tensor:
        """An output of one row for each of these, with the leading axes as they were."""
        return output.reshape(self.batch_shape + out_shape)


def as_shape(size: Shape, what: str, least: int = 1) -> torch.Size:
    """An integer or a sequence of integers as a shape.

    >>> as_shape(3, "in_shape")
    torch.Size([3])
    """
    axes = (size,) if isinstance(size, int) else tuple(size) if isinstance(size, Sequence) else None
    if axes is None or not all(isinstance(axis, int) for axis in axes):
        raise TypeError(
            f"{what} must be an integer or a tuple of integers, got {size!r}; write {what}=(1, 28, 28), say"
        )
    if any(axis < least for axis in axes):
        raise ValueError(f"{what} must have axes of at least {least}, got {size!r}")
    return torch.Size(axes)


def check_input(network: Network, x: Tensor | None) -> tuple[Tensor, torch.Size]:
    """An input and its leading axes, once its network is known to be closed and its trailing axes to be right."""
    _, name, expected = network.closed_shape, type(network).__name__, network.in_shape
    if not isinstance(x, Tensor):
        remedy = (
            "a network without a value is ConcatCovariates(net, None, covariates)"
            if x is None
            else "use torch.as_tensor"
        )
        raise TypeError(f"{name} expected a tensor of shape {batch_text(expected)}, got {type(x).__name__}: {remedy}")
    cut = x.ndim - len(expected)
    if cut < 0 or x.shape[cut:] != expected:
        raise ValueError(
            f"{name} expected an input of shape {batch_text(expected)}, got {tuple(x.shape)}: "
            f"reshape the input, or write in_shape={tuple(x.shape[1:])}"
        )
    return x, x.shape[:cut]


def closed_already(network: Network) -> ValueError:
    """The error of a network that is always closed, where it is asked for a head."""
    return ValueError(
        f"{type(network).__name__} is closed with out_shape={tuple(network.closed_shape)}: it takes no head"
    )


def refuse_one_row(network: Network) -> None:
    """Refuse a single training row where batch norm would normalise it by itself alone."""
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.training:
            raise ValueError(
                f"{type(network).__name__} normalises over the batch ({type(module).__name__}), got one training row: "
                "give at least two, call .eval() first, or normalise each row by itself (nn.LayerNorm, nn.GroupNorm)"
            )


def networks_of(modules: nn.ModuleList) -> list[Network]:
    """The networks in a list of modules, in order."""
    return [module for module in modules if isinstance(module, Network)]


def batch_text(shape: torch.Size) -> str:
    """A shape behind any number of leading axes, as text.

    >>> batch_text(torch.Size([3]))
    '(*batch, 3)'
    """
    return f"({', '.join(['*batch', *map(str, shape)])})"
