"""Fully connected networks."""

from __future__ import annotations

import itertools
import math

from torch import Tensor, nn

from pyrovae.networks.base import Shape, as_shape
from pyrovae.networks.layers import (
    Gate,
    MakeActivation,
    MakeNormalization,
    Residual,
    flat_rows,
    new_activation,
    new_dropout,
    new_normalization,
    sequential,
)
from pyrovae.networks.trunk import VectorTrunk


class MLP(VectorTrunk):
    r"""A fully connected network: the input flattened, hidden layers, a linear head, the output unflattened.

    .. math:: h_{l+1} = \mathrm{drop}\bigl(a(\mathrm{norm}(W_l h_l + b_l))\bigr), \qquad y = W h_L + b

    Args:
        in_shape: shape of one input, ``(784,)`` or ``(1, 28, 28)``; an integer for a vector.
        hidden: widths of the hidden layers; none, ``()``, for a linear map.
        out_shape: shape of one output; None leaves the network open.
        activation: class of the activation, ``nn.SiLU`` by default; with ``gated``, none by default.
        normalization: class called with a width, ``nn.LayerNorm`` or ``nn.BatchNorm1d``; the latter's statistics run
            over all leading axes.
        residual: add each layer's input to its output, where the two have the same width.
        gated: each layer is :math:`a(W h + b) \odot \sigma(V h + c)`, as in Tomczak & Welling.
        dropout: probability in [0, 1), after each hidden layer.

    Raises:
        ValueError: the normalization does not take vectors, or no two layers of a residual network have the same width.

    Reference: Tomczak & Welling 2018, arXiv:1705.07120 (gates); He et al. 2016, arXiv:1603.05027 (shortcuts).

    >>> import torch
    >>> MLP((1, 8, 8), (32, 32), out_shape=(2, 5), residual=True)(torch.zeros(7, 1, 8, 8)).shape
    torch.Size([7, 2, 5])
    >>> MLP(10, (32,)).out_shape is None
    True
    """

    def __init__(
        self,
        in_shape: Shape,
        hidden: Shape,
        out_shape: Shape | None = None,
        *,
        activation: MakeActivation | None = None,
        normalization: MakeNormalization | None = None,
        residual: bool = False,
        gated: bool = False,
        dropout: float = 0.0,
    ) -> None:
        widths = [math.prod(as_shape(in_shape, "in_shape")), *as_shape(hidden, "hidden")]
        super().__init__(in_shape, widths[-1])
        pairs = list(itertools.pairwise(widths))
        if residual and not any(before == after for before, after in pairs):
            raise ValueError(
                f"residual=True expected a layer as wide as its input, got widths {tuple(widths)}: "
                f"write two equal hidden widths, hidden=({widths[-1]}, {widths[-1]}), say"
            )

        def layer(before: int, after: int) -> nn.Module:
            width = 2 * after if gated else after
            nonlinear = new_activation(activation or (nn.Identity if gated else nn.SiLU))
            return sequential(
                nn.Linear(before, width),
                normalization and new_normalization(normalization, width, (), "nn.LayerNorm or nn.BatchNorm1d"),
                Gate(nonlinear) if gated else nonlinear,
                new_dropout(dropout),
            )

        layers = [(layer(before, after), residual and before == after) for before, after in pairs]
        self.body = nn.Sequential(*[Residual(made) if short else made for made, short in layers])
        self.finish(out_shape)

    def features(self, rows: Tensor) -> Tensor:
        """Return the last hidden layer of rows ``(rows, *in_shape)``."""
        return self.body(flat_rows(rows))
