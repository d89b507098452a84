"""Transforms, drawn afresh for each training batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrovae.data.rows import map_tree


@dataclass(frozen=True)
class Binarize:
    r"""Redraw every pixel from its grey level, each time that it is called.

    .. math:: b_j \sim \mathrm{Bernoulli}(x_j), \qquad x_j \in [0, 1]

    Zeros and ones stay as they are, and so does NaN.

    Reference: Salakhutdinov & Murray 2008, On the quantitative analysis of deep belief networks,
    doi:10.1145/1390156.1390266.

    >>> Binarize()(torch.tensor([0.0, 1.0, float("nan")]))
    tensor([0., 1., nan])
    """

    def __call__(self, x: Any, generator: torch.Generator | None = None) -> Any:
        """Return one draw of ``x``, from floating-point levels in [0, 1].

        Args:
            x: rows of grey levels: a tensor, or a dict or tuple of tensors.
            generator: the source of randomness; by default torch's global one.
        """
        return map_tree(lambda rows, _: _draw(rows, generator), x)


def _draw(x: Tensor, generator: torch.Generator | None) -> Tensor:
    uniform = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    drawn = torch.lt(uniform, x, out=uniform)
    return drawn.add_(x - x)  # 0, or NaN where x is
