"""Saved tensors into modules and optimisers: checked as a whole, then copied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

# The entries of torch's and Pyro's optimisers that have one number for each number of the parameter.
_ELEMENTWISE = frozenset(
    [
        "exp_avg",
        "exp_avg_sq",
        "max_exp_avg_sq",
        "exp_inf",
        "momentum_buffer",
        "square_avg",
        "acc_delta",
        "grad_avg",
        "sum",
        "prev",
        "prev_grad",
        "step_size",
        "ax",
    ]
)


def load_state(module: nn.Module, state: Mapping[str, Any], source: str = "the saved state") -> None:
    """Copy saved weights and buffers into a module of the same names, shapes and dtypes.

    Everything is compared before the first number is copied, so that a refused state changes nothing.

    Args:
        module: The module, on any device.
        state: The saved `state_dict()`.
        source: Where it comes from, for the message.

    Raises:
        ValueError: A name is missing or too many, or a shape or dtype differs; up to three are listed.

    Example:
        >>> load_state(nn.Linear(2, 1), nn.Linear(2, 1).state_dict())
        >>> load_state(nn.Linear(2, 1), nn.Linear(3, 1).state_dict(), "run 7")
        Traceback (most recent call last):
        ...
        ValueError: run 7 does not fit this Linear: weight has shape (1, 3) there, (1, 2) here. Build ...
    """
    own = module.state_dict()
    problems = [f"{name} is missing there" for name in own if name not in state]
    problems += [f"{name[:200]} is missing here" for name in state if name not in own]
    problems += [text for name in own if name in state and (text := _difference(name, state[name], own[name]))]
    if problems:
        rest = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(
            f"{source} does not fit this {type(module).__name__}: {'; '.join(problems[:3])}{rest}. "
            "Build the module with the settings that it was saved with"
        )
    module.load_state_dict(dict(state))


def _difference(name: str, saved: Any, own: Any) -> str:
    if not isinstance(own, Tensor):
        return ""  # a module's extra state: its own set_extra_state judges it
    if not isinstance(saved, Tensor):
        return f"{name} is no tensor there"
    if saved.shape != own.shape:
        return f"{name} has shape {tuple(saved.shape)} there, {tuple(own.shape)} here"
    return f"{name} is {saved.dtype} there, {own.dtype} here" if saved.dtype != own.dtype else ""


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Any], source: str = "the saved state"
) -> None:
    """Load an optimiser's state after comparing its groups and the shapes of its moments with the parameters.

    torch itself compares no shapes: a fused step on a moment of the wrong size reads beyond its memory.

    Args:
        optimizer: The optimiser, over the same parameters in the same order.
        state: The saved `state_dict()`.
        source: Where it comes from, for the message.

    Raises:
        ValueError: The number of groups or parameters differs, or a moment has the wrong shape.

    Example:
        >>> optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(2))])
        >>> load_optimizer_state(optimizer, optimizer.state_dict())
    """
    try:
        _check_groups(optimizer, state)
        _check_moments(optimizer, state)
        optimizer.load_state_dict(dict(state))
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{source} does not fit this {type(optimizer).__name__}: {error}. "
            "Resume with the model and the optimiser that it was saved with"
        ) from error


def _check_groups(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    own = [len(group["params"]) for group in optimizer.param_groups]
    saved = [len(group["params"]) for group in state["param_groups"]]
    if own != saved:
        raise ValueError(f"its groups have {saved} parameters there, {own} here")


def _check_moments(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    indices = [index for group in state["param_groups"] for index in group["params"]]
    for index, parameter in zip(indices, parameters, strict=True):
        for name, value in state["state"].get(index, {}).items():
            if name in _ELEMENTWISE and isinstance(value, Tensor) and value.shape != parameter.shape:
                shapes = f"{tuple(value.shape)} there, the parameter {tuple(parameter.shape)} here"
                raise ValueError(f"{name} of parameter {index} has shape {shapes}")
