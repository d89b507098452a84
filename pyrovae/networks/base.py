"""What a network is: tensors in, tensors out, for any number of leading batch axes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Shape = int | Sequence[int]
Covariates = Mapping[str, Tensor]


class Network(nn.Module, ABC):
    r"""A map from ``(*batch, *in_shape)`` to ``(*batch, *out_shape)``, the same for every row of the batch.

    .. math:: y_b = f(x_b, c_b) \quad \text{for every index } b \text{ of the leading axes}

    The leading axes may be any number, none included. A network without ``out_shape`` is *open*: it has no output head
    yet and cannot be called; :meth:`close` gives it one. A class of your own writes ``forward``, and ``add_head`` if it
    can be open; a module that exists already becomes a network by :class:`~pyrovae.networks.BatchAxes`.

    Args:
        in_shape: shape of one input; an integer for a vector.
        out_shape: shape of one output; None for an open network.
        covariate_names: the names of the covariates that the network reads, if any.

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
        """Return the output ``(*batch, *out_shape)``.

        Args:
            x: input of shape ``(*batch, *in_shape)``; None for a network of covariates alone.
            covariates: tensors by name; names that this network does not read are left alone.

        Raises:
            ValueError: the network is open, a shape does not fit, or a covariate is missing.
        """

    def add_head(self, out_shape: torch.Size) -> Network:
        """Return this open network with an output head of its own; what was there before is shared, not copied."""
        name, shape = type(self).__name__, tuple(self.closed_shape)
        raise ValueError(f"{name} is closed with out_shape={shape}: it takes no head")

    def check_codes(self, values: Tensor, what: str, levels: Sequence[str] | None = None) -> None:
        """Refuse rows of inputs that are no codes of this network's categories; a network without categories takes any."""

    def close(self, out_shape: Shape) -> Network:
        """Return a network with this output shape: this one if it is closed, else this one with a new head.

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
        """The output's shape; ValueError where the network is open."""
        if self.out_shape is None:
            name = type(self).__name__
            raise ValueError(f"{name} is open, it has no output yet: write out_shape=..., or call its close(out_shape)")
        return self.out_shape

    def flattened(self, x: Tensor | None, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``function`` of the input with its leading axes flattened into one, those axes restored.

        Raises:
            ValueError: the shape does not fit, or batch norm would see one training row alone.
        """
        x, batch_shape = check_input(self, x)
        rows = math.prod(batch_shape)
        if rows == 1 and self.training and least_rows(self) > 1:
            raise ValueError(
                f"{type(self).__name__} normalizes over the batch (batch norm), got one training row: give at least two, "
                "call .eval() first, or normalize each row by itself (nn.LayerNorm, nn.GroupNorm)"
            )
        return function(x.reshape(rows, *self.in_shape)).reshape(batch_shape + self.closed_shape)

    def extra_repr(self) -> str:
        """The shapes, and the covariates' names where there are any."""
        out_shape = "open" if self.out_shape is None else tuple(self.out_shape)
        names = f", covariate_names={self.covariate_names}" if self.covariate_names else ""
        return f"{tuple(self.in_shape)} -> {out_shape}{names}"


def least_rows(module: nn.Module) -> int:
    """Return the rows that a training batch needs: 2 under batch norm, which would normalize one row by itself, else 1.

    >>> least_rows(nn.BatchNorm1d(3)), least_rows(nn.BatchNorm1d(3).eval()), least_rows(nn.LayerNorm(3))
    (2, 1, 1)
    """
    return 1 + any(isinstance(part, _BatchNorm) and part.training for part in module.modules())


def as_shape(size: Shape, what: str, least: int = 1) -> torch.Size:
    """Return an integer or a sequence of integers as a shape."""
    axes = (size,) if isinstance(size, int) else tuple(size) if isinstance(size, Sequence) else None
    if axes is None or not all(isinstance(axis, int) for axis in axes):
        raise TypeError(
            f"{what} must be an integer or a tuple of integers, got {size!r}; write {what}=(1, 28, 28), say"
        )
    if any(axis < least for axis in axes):
        raise ValueError(f"{what} must have axes of at least {least}, got {size!r}")
    return torch.Size(axes)


def check_network(who: str, network: nn.Module) -> None:
    """Refuse, with a TypeError, what is not a network."""
    if not isinstance(network, Network):
        name = type(network).__name__
        raise TypeError(f"{who} expected a pyrovae Network, got {name}: write BatchAxes(module, in_shape, out_shape)")


def check_input(network: Network, x: Tensor | None) -> tuple[Tensor, torch.Size]:
    """Return an input and its leading axes, once its network is known to be closed and its trailing axes to be right."""
    _, name, shape = network.closed_shape, type(network).__name__, network.in_shape
    expected = f"({', '.join(['*batch', *map(str, shape)])})"
    if not isinstance(x, Tensor):
        remedy = "use torch.as_tensor"
        if x is None:
            remedy = "a network without a value is ConcatCovariates(net, None, covariates)"
        raise TypeError(f"{name} expected a tensor of shape {expected}, got {type(x).__name__}: {remedy}")
    cut = x.ndim - len(shape)
    if cut < 0 or x.shape[cut:] != shape:
        raise ValueError(
            f"{name} expected an input of shape {expected}, got {tuple(x.shape)}: reshape the input, or write "
            f"in_shape={tuple(x.shape[1:])}"
        )
    return x, x.shape[:cut]
