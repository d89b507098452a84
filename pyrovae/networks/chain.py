"""Networks one after the other."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from pyrovae.networks.base import Covariates, Network, networks_of


class Chain(Network):
    r"""Networks one after the other, such as a frozen backbone and a head that is trained.

    .. math:: y = f_n(\dots f_2(f_1(x, c), c) \dots, c)

    Args:
        *networks: each takes what the one before gives; all but the last are closed, and each reads the covariates' names
            that are its own.

    Raises:
        TypeError: a part is not a network.
        ValueError: there is none, one before the last is open, or two neighbours' shapes differ.

    >>> import torch
    >>> from pyrovae import MLP
    >>> net = Chain(MLP((1, 8, 8), (32,), out_shape=16), MLP(16, (32,)))
    >>> net.close(3)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 3])
    """

    def __init__(self, *networks: Network) -> None:
        for network in networks:
            check_network("Chain", network)
        if not networks:
            raise ValueError("Chain expected at least one network, got none: write Chain(first, second)")
        for before, after in itertools.pairwise(networks):
            _check_link(before, after)
        names = [name for network in networks for name in network.covariate_names]
        super().__init__(networks[0].in_shape, networks[-1].out_shape, names)
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor | None, covariates: Covariates | None = None) -> Tensor:
        """The last network's output ``(*batch, *out_shape)``; each network is given the covariates."""
        first, *others = self.networks
        y = first(x, covariates)
        for network in others:
            y = network(y, covariates)
        return y

    def add_head(self, out_shape: torch.Size) -> Network:
        """This chain with its last network closed; all of them are shared."""
        *others, last = networks_of(self.networks)
        return Chain(*others, last.close(out_shape))


def check_network(who: str, network: Network) -> None:
    """Refuse what is not a network.

    Raises:
        TypeError: it is something else.

    >>> from pyrovae import MLP
    >>> check_network("Chain", MLP(3, (4,)))
    """
    if not isinstance(network, Network):
        name = type(network).__name__
        raise TypeError(f"{who} expected a pyrovae Network, got {name}: write BatchAxes(module, in_shape, out_shape)")


def _check_link(before: Network, after: Network) -> None:
    names = type(before).__name__, type(after).__name__
    if before.out_shape is None:
        raise ValueError(
            f"Chain expected closed networks before the last, got an open {names[0]}: "
            f"write out_shape={tuple(after.in_shape)} there"
        )
    if before.out_shape != after.in_shape:
        raise ValueError(
            f"Chain expected {names[1]} to take {tuple(before.out_shape)}, which {names[0]} gives, got "
            f"in_shape={tuple(after.in_shape)}: write in_shape={tuple(before.out_shape)} there"
        )
