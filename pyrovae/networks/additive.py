"""A sum of one network for each input: what an input does is the same wherever the others are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyrovae.networks.base import Shape, as_shape
from pyrovae.networks.layers import flat_rows
from pyrovae.networks.trunk import VectorTrunk


class Additive(VectorTrunk):
    r"""A network whose output is a sum of functions of single inputs; as a decoder it makes each latent's effect readable.

    .. math:: y = b + \sum_j W_j\, a(u_j x_j + v_j)

    Args:
        in_shape: shape of one input, whose entries are the x_j; an integer for a vector.
        hidden: the number of hidden units of each input.
        out_shape: shape of one output; None leaves the network open.

    Raises:
        ValueError: a shape has an axis without entries.

    Reference: Agarwal et al. 2021, arXiv:2004.13912; Lachapelle et al. 2023, arXiv:2307.02598 (additive decoders).

    >>> Additive(3, 16, out_shape=5)(torch.zeros(7, 3)).shape
    torch.Size([7, 5])
    """

    def __init__(self, in_shape: Shape, hidden: int = 16, out_shape: Shape | None = None) -> None:
        size, units = as_shape(in_shape, "in_shape").numel(), as_shape(hidden, "hidden").numel()
        super().__init__(in_shape, size * units)
        self.scale, self.shift = (nn.Parameter(torch.randn(size, units)) for _ in range(2))
        self.finish(out_shape)

    def features(self, rows: Tensor) -> Tensor:
        """Return the hidden units of all inputs of rows ``(rows, *in_shape)``."""
        return nn.functional.silu(flat_rows(rows)[..., None] * self.scale + self.shift).flatten(1)
