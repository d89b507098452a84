"""The parts that networks are made of: activations, gates, shortcuts, and their checks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

MakeActivation = Callable[[], nn.Module]
MakeNormalization = Callable[[int], nn.Module]


class Residual(nn.Module):
    r"""A shortcut around a module whose output has the shape of its input, :math:`h + f(h)`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, h: Tensor) -> Tensor:
        """Return the input plus the module's output."""
        return h + self.module(h)


class Gate(nn.Module):
    r"""One half of the features gates the other after an activation :math:`a`, :math:`a(h_1) \odot \sigma(h_2)`.

    Reference: Dauphin et al. 2017, arXiv:1612.08083; in autoencoders Tomczak & Welling 2018, arXiv:1705.07120.
    """

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, h: Tensor) -> Tensor:
        """Return ``(..., width)`` of ``(..., 2 * width)``."""
        value, gate = h.chunk(2, -1)
        return self.activation(value) * gate.sigmoid()


def flat_rows(rows: Tensor) -> Tensor:
    """Return rows of inputs of any shape as rows of vectors; there may be no rows."""
    return rows.flatten(1) if rows.ndim > 1 else rows.unsqueeze(1)


def new_module(what: str, make: Callable[..., nn.Module], remedy: str, *args: int) -> nn.Module:
    """Return a new module of a class given as an argument, so that no two layers share one."""
    problem = f"got {make!r}"
    if callable(make) and not isinstance(make, nn.Module):
        try:
            module = make(*args)
        except TypeError as error:
            problem = f"got {make!r} ({error})"
        else:
            if isinstance(module, nn.Module):
                return module
            problem = f"{make!r} made a {type(module).__name__}"
    raise TypeError(f"{what}= expected a module's class, {problem}: write {remedy}")


def new_activation(activation: MakeActivation) -> nn.Module:
    """Return a new activation."""
    remedy = "a class such as activation=nn.SiLU, or functools.partial(nn.LeakyReLU, 0.2)"
    return new_module("activation", activation, remedy)


def new_normalization(make: MakeNormalization, width: int, space: tuple[int, ...], remedy: str) -> nn.Module:
    """Return a new normalizing module of this width, tried on two rows of features ``(width, *space)``."""
    module = new_module("normalization", make, remedy, width)
    probe = torch.zeros(2, width, *space)
    why = "changes the shape of its input"
    try:
        if module.eval()(probe).shape == probe.shape:
            return module.train()
    except (RuntimeError, ValueError) as error:
        why = f"does not take features of {tuple(probe.shape[1:])} ({error})"
    raise ValueError(f"normalization= made {module}, which {why}: write {remedy}")


def new_dropout(dropout: float) -> nn.Module | None:
    """Return a dropout of this probability; none at 0."""
    if not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise ValueError(f"dropout= must be a probability in [0, 1), got {dropout!r}")
    return nn.Dropout(dropout) if dropout else None


def sequential(*modules: nn.Module | None) -> nn.Sequential:
    """Return the modules that are there, one after the other."""
    return nn.Sequential(*[module for module in modules if module is not None])
