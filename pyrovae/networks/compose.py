"""Networks made of others: any module as a network, and networks one after the other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyrovae.networks.base import Covariates, Network, Shape, as_shape, check_network


class BatchAxes(Network):
    r"""A network around a module that knows one leading axis.

    .. math:: (*\text{batch}, *\text{in}) \to (\textstyle\prod \text{batch}, *\text{in}) \xrightarrow{\text{module}}
        (\prod \text{batch}, *\text{out}) \to (*\text{batch}, *\text{out})

    Batch-norm statistics therefore run over all leading axes. A module that has parameters of which none requires a
    gradient is *frozen*: it stays in eval mode, also after ``.train()``, so that its running statistics do not move
    (looked at here and at each call of ``.train()``: freeze it first).

    Args:
        module: any module that maps ``(rows, *in_shape)`` to ``(rows, *out_shape)``; a network passes unchanged.
        in_shape: shape of one input; an integer for a vector.
        out_shape: shape of one output.

    Raises:
        TypeError: ``module`` is not a module, or does not return a tensor.
        ValueError: the module's output has another shape.

    >>> net = BatchAxes(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)), (1, 7, 5), (4, 7, 5))
    >>> net(torch.zeros(2, 3, 1, 7, 5)).shape
    torch.Size([2, 3, 4, 7, 5])
    """

    def __init__(self, module: nn.Module, in_shape: Shape, out_shape: Shape) -> None:
        if not isinstance(module, nn.Module):
            raise TypeError(f"BatchAxes expected a module, got {type(module).__name__}: wrap functions in an nn.Module")
        network = module if isinstance(module, Network) else None
        names = () if network is None else network.covariate_names
        super().__init__(in_shape, as_shape(out_shape, "out_shape"), names)
        if network is not None and network.in_shape != self.in_shape:
            raise ValueError(
                f"BatchAxes expected in_shape={tuple(network.in_shape)}, which is its {type(network).__name__}'s, "
                f"got {tuple(self.in_shape)}: networks need no BatchAxes, leave it out"
            )
        self.module = module if network is None else network.close(self.closed_shape)
        self.train(self.training)

    def forward(self, x: Tensor | None, covariates: Covariates | None = None) -> Tensor:
        """Return the module's output ``(*batch, *out_shape)`` of an input ``(*batch, *in_shape)``."""
        return self.module(x, covariates) if isinstance(self.module, Network) else self.flattened(x, self._checked)

    def _checked(self, rows: Tensor) -> Tensor:
        output, name = self.module(rows), type(self.module).__name__
        if not isinstance(output, Tensor):
            raise TypeError(
                f"{name} returned a {type(output).__name__}, expected one tensor: wrap it in a module that picks it"
            )
        if output.shape != (len(rows), *self.closed_shape):
            raise ValueError(
                f"{name} expected to return {(len(rows), *self.closed_shape)}, got {tuple(output.shape)} for an input of "
                f"{tuple(rows.shape)}: write out_shape={tuple(output.shape[1:])}"
            )
        return output

    def train(self, mode: bool = True) -> BatchAxes:
        """Set the mode of everything but a frozen module, which stays in eval mode."""
        super().train(mode)
        parameters = list(self.module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            self.module.eval()
        return self

    def check_codes(self, values: Tensor, what: str, levels: Sequence[str] | None = None) -> None:
        """Refuse inputs that are no codes of the network's categories."""
        if isinstance(self.module, Network):
            self.module.check_codes(values, what, levels)


class Chain(Network):
    r"""Networks one after the other, such as a frozen backbone and a head that is trained.

    .. math:: y = f_n(\dots f_2(f_1(x, c), c) \dots, c)

    Args:
        *networks: each takes the output of the one before; all but the last are closed, and each reads its own covariates.

    Raises:
        TypeError: a part is not a network.
        ValueError: there is none, one before the last is open, or two neighbors' shapes differ.

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
        names_read = [name for network in networks for name in network.covariate_names]
        super().__init__(networks[0].in_shape, networks[-1].out_shape, names_read)
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor | None, covariates: Covariates | None = None) -> Tensor:
        """Return the last network's output ``(*batch, *out_shape)``; each network is given the covariates."""
        for network in self.networks:
            x = network(x, covariates)
        return x  # type: ignore[return-value]

    def add_head(self, out_shape: torch.Size) -> Network:
        """Return this chain with its last network closed; all of them are shared."""
        *others, last = self.networks
        return Chain(*others, last.close(out_shape))  # type: ignore[arg-type, operator]

    def check_codes(self, values: Tensor, what: str, levels: Sequence[str] | None = None) -> None:
        """Refuse inputs that are no codes of the first network's categories."""
        self.networks[0].check_codes(values, what, levels)  # type: ignore[operator]
