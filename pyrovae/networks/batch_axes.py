"""Any module as a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyrovae.networks.base import Covariates, Network, Rows, Shape, as_shape, closed_already


class BatchAxes(Network):
    r"""A module that knows one leading axis, made a network of any number of them.

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
        names = module.covariate_names if isinstance(module, Network) else ()
        super().__init__(in_shape, as_shape(out_shape, "out_shape"), names)
        self.module = self._closed(module) if isinstance(module, Network) else module
        self.train(self.training)

    def forward(self, x: Tensor | None, covariates: Covariates | None = None) -> Tensor:
        """The module's output ``(*batch, *out_shape)`` for an input ``(*batch, *in_shape)``."""
        if isinstance(self.module, Network):
            return self.module(x, covariates)
        rows = Rows.of(self, x)
        output = self.module(rows.values)
        self._check_output(output, len(rows.values))
        return rows.restore(output, self.closed_shape)

    def train(self, mode: bool = True) -> BatchAxes:
        """Set the mode of everything but a frozen module, which stays in eval mode."""
        super().train(mode)
        if _is_frozen(self.module):
            self.module.eval()
        return self

    def add_head(self, out_shape: torch.Size) -> Network:
        """Refused: it is closed."""
        raise closed_already(self)

    def _closed(self, network: Network) -> Network:
        if network.in_shape != self.in_shape:
            raise ValueError(
                f"BatchAxes expected in_shape={tuple(network.in_shape)}, which is its {type(network).__name__}'s, "
                f"got {tuple(self.in_shape)}: networks need no BatchAxes, leave it out"
            )
        return network.close(self.closed_shape)

    def _check_output(self, output: Tensor, rows: int) -> None:
        name = type(self.module).__name__
        if not isinstance(output, Tensor):
            raise TypeError(
                f"{name} returned a {type(output).__name__}, expected one tensor: wrap it in a module that picks it"
            )
        if output.shape != (rows, *self.closed_shape):
            raise ValueError(
                f"{name} expected to return {(rows, *self.closed_shape)}, got {tuple(output.shape)} for an input of "
                f"{(rows, *self.in_shape)}: write out_shape={tuple(output.shape[1:])}"
            )


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
