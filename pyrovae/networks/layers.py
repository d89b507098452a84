"""The parts that networks are made of: activations, gates, shortcuts, and their checks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

MakeActivation = Callable[[], nn.Module]
MakeNormalization = Callable[[int], nn.Module]


class Residual(nn.Module):
    r"""A shortcut around a module, :math:`h + f(h)`.

    Args:
        module: a module whose output has the shape of its input.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, h: Tensor) -> Tensor:
        """The input plus the module's output."""
        return h + self.module(h)


class Gate(nn.Module):
    r"""One half of the features gates the other, :math:`a(h_1) \odot \sigma(h_2)`.

    Args:
        activation: the module :math:`a` on the gated half.

    Reference: Dauphin et al. 2017, arXiv:1612.08083; in autoencoders Tomczak & Welling 2018, arXiv:1705.07120.
    """

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, h: Tensor) -> Tensor:
        """From ``(..., 2 * width)`` to ``(..., width)``."""
        value, gate = h.chunk(2, -1)
        return self.activation(value) * gate.sigmoid()


def flat_rows(rows: Tensor) -> Tensor:
    """Rows of inputs of any shape as rows of vectors; there may be no rows.

    >>> flat_rows(torch.zeros(0, 2, 3)).shape, flat_rows(torch.zeros(4)).shape
    (torch.Size([0, 6]), torch.Size([4, 1]))
    """
    return rows.flatten(1) if rows.ndim > 1 else rows.unsqueeze(1)


def new_activation(activation: MakeActivation) -> nn.Module:
    """A new module of an activation's class, so that no two layers share one.

    >>> new_activation(nn.Tanh)
    Tanh()
    """
    remedy = "write a class such as activation=nn.SiLU, or functools.partial(nn.LeakyReLU, 0.2)"
    if isinstance(activation, nn.Module) or not callable(activation):
        raise TypeError(f"activation= expected a module's class, got {activation!r}: {remedy}")
    try:
        module = activation()
    except TypeError as error:
        raise TypeError(f"activation= expected a module's class, got {activation!r} ({error}): {remedy}") from None
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"activation= expected a module's class, {activation!r} made a {type(module).__name__}: {remedy}"
        )
    return module


def new_normalization(normalization: MakeNormalization, width: int, space: tuple[int, ...], remedy: str) -> nn.Module:
    """A new normalising module of this width, tried on two rows of features ``(width, *space)``.

    >>> new_normalization(nn.LayerNorm, 8, (), "nn.LayerNorm")
    LayerNorm((8,), eps=1e-05, elementwise_affine=True, bias=True)
    """
    if isinstance(normalization, nn.Module) or not callable(normalization):
        raise TypeError(f"normalization= expected a module's class, got {normalization!r}: write {remedy}")
    module = normalization(width)
    probe = torch.zeros(2, width, *space)
    try:
        fits = module.eval()(probe).shape == probe.shape
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"normalization= made {module}, which does not take features of {tuple(probe.shape[1:])} ({error}): "
            f"write {remedy}"
        ) from None
    if not fits:
        raise ValueError(f"normalization= made {module}, which changes the shape of its input: write {remedy}")
    return module.train()


def new_dropout(dropout: float) -> nn.Module | None:
    """A dropout of this probability; none at 0.

    >>> new_dropout(0.1)
    Dropout(p=0.1, inplace=False)
    """
    if not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise ValueError(f"dropout= must be a probability in [0, 1), got {dropout!r}")
    return nn.Dropout(dropout) if dropout else None


def sequential(*modules: nn.Module | None) -> nn.Sequential:
    """The modules that are there, one after the other.

    >>> sequential(nn.Tanh(), None)
    Sequential(
      (0): Tanh()
    )
    """
    return nn.Sequential(*[module for module in modules if module is not None])
