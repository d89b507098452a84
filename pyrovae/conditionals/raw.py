"""Where a joint distribution's unconstrained numbers come from: a network, or one learned tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from pyrovae.networks import Network

Covariates = Mapping[str, Tensor]


def as_shape(event_shape: int | Sequence[int] | None, owner: str) -> torch.Size:
    """An event shape as a tuple.

    Raises:
        ValueError: none is given.
    """
    if event_shape is None:
        raise ValueError(f"{owner} needs event_shape=, the shape of one datum or one latent, e.g. event_shape=10")
    return torch.Size((event_shape,) if isinstance(event_shape, int) else event_shape)


def as_vector(event_shape: int | Sequence[int] | None, owner: str, least: int = 1) -> int:
    """The length of a vector-shaped event.

    Raises:
        ValueError: the event is not a vector, or is too short.
    """
    shape = as_shape(event_shape, owner)
    if len(shape) != 1 or shape[0] < least:
        raise ValueError(
            f"{owner} is a distribution over vectors of {least} or more entries, got event_shape={tuple(shape)}: "
            f"flatten the data and write event_shape={max(shape.numel(), least)}"
        )
    return shape[0]


def as_count(value: int, name: str, least: int = 1) -> int:
    """An integer of at least ``least``.

    Raises:
        TypeError: something else, such as the network, stands in its place.
        ValueError: it is too small.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} comes first and is an integer, got {type(value).__name__}: the network follows it")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value


class Raw(nn.Module):
    """The unconstrained numbers behind a joint distribution: a network's output, or one learned tensor.

    Args:
        net: a network; an open one is closed with ``shape``. None for a learned tensor.
        shape: the numbers' shape for one datum.
        initial: the learned tensor's start, by default zeros.
        preprocess: applied to the network's input; missing entries are zero after it.

    Raises:
        TypeError: ``net`` is a bare module.
        ValueError: a closed network's shape differs.
    """

    def __init__(
        self,
        net: Network | None,
        shape: Sequence[int],
        initial: Tensor | None = None,
        preprocess: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.shape = torch.Size(shape)
        self.preprocess = preprocess
        self.net = None if net is None else _close(net, self.shape)
        if net is None:
            self.value = nn.Parameter(torch.zeros(self.shape) if initial is None else initial.clone())
        mask = () if preprocess is None else ("mask",)
        self.covariate_names = tuple(dict.fromkeys((*mask, *(() if net is None else net.covariate_names))))

    def forward(self, value: Tensor | None = None, covariates: Covariates | None = None) -> Tensor:
        """The numbers, of shape ``(*batch, *shape)``."""
        if self.net is None:
            return self.value
        if self.preprocess is not None and value is not None:
            value = self.preprocess(value)
            if covariates is not None and "mask" in covariates:
                value = torch.where(covariates["mask"], value, value.new_zeros(()))
        return self.net(value, covariates) if self.net.covariate_names else self.net(value)


def _close(net: Network, shape: torch.Size) -> Network:
    if not isinstance(net, Network):
        raise TypeError(
            f"net= takes a pyrovae Network, got {type(net).__name__}: write BatchAxes(module, in_shape, {tuple(shape)})"
        )
    if net.out_shape is not None and net.out_shape != shape:
        raise ValueError(
            f"this distribution reads {tuple(shape)} numbers from its network, got out_shape={tuple(net.out_shape)}; "
            f"write out_shape={tuple(shape)}, or leave out_shape out and it is added"
        )
    return net if net.out_shape is not None else net.close(shape)
