"""Saved tensors into modules and optimizers: compared as a whole, then copied."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

# The entries of torch's and Pyro's optimizers that have one number for each number of the parameter.
_ELEMENTWISE = {
    *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg", "acc_delta", "grad_avg"),
    *("sum", "prev", "prev_grad", "step_size", "ax"),
}
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def load_weights(module: nn.Module, tensors: Mapping[str, Any], source: str = "the saved state") -> None:
    """Copy saved weights and buffers into a module of the same names, shapes and dtypes.

    Everything is compared before the first number is copied, so that a refused state changes nothing.

    Args:
        module: the module, on any device.
        tensors: the saved ``state_dict()``.
        source: where it comes from, for the message.

    Raises:
        ValueError: a name is missing or too many, or a shape or dtype differs; up to three are listed.

    >>> load_weights(nn.Linear(2, 1), nn.Linear(3, 1).state_dict(), "run 7")
    Traceback (most recent call last):
    ...
    ValueError: run 7 does not fit this Linear: weight has shape (1, 3) there, (1, 2) here. Build ...
    """
    own = module.state_dict()
    problems = [f"{name} is missing there" for name in own if name not in tensors]
    problems += [f"{name[:200]} is missing here" for name in tensors if name not in own]
    for name, value in own.items():
        saved = tensors.get(name, value)
        if not isinstance(value, Tensor):
            continue  # a module's extra state: its own set_extra_state judges it
        if not isinstance(saved, Tensor):
            problems.append(f"{name} is no tensor there")
        elif saved.shape != value.shape:
            problems.append(f"{name} has shape {tuple(saved.shape)} there, {tuple(value.shape)} here")
        elif saved.dtype != value.dtype:
            problems.append(f"{name} is {saved.dtype} there, {value.dtype} here")
    if problems:
        rest = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(
            f"{source} does not fit this {type(module).__name__}: {'; '.join(problems[:3])}{rest}. "
            "Build the module with the settings that it was saved with"
        )
    module.load_state_dict(dict(tensors))


def parts_of(module: nn.Module) -> dict[str, str]:
    """What a module consists of: the ``repr`` of each child (of the module, where it has none), without addresses in memory.

    >>> parts_of(nn.ModuleDict({"net": nn.Linear(2, 1)}))
    {'net': 'Linear(in_features=2, out_features=1, bias=True)'}
    """
    children = dict(module.named_children()) or {type(module).__name__: module}
    return {name: _ADDRESS.sub("", repr(child)) for name, child in children.items()}


def different_parts(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    """The first difference between two results of :func:`parts_of`, in words; empty where they are equal.

    >>> different_parts({"net": "Linear(2, 1)"}, {"net": "Linear(3, 1)"})
    "net has 'Linear(2, 1)' there, 'Linear(3, 1)' here"
    """
    for name in (*there, *(name for name in here if name not in there)):
        lines = itertools.zip_longest(*(of.get(name, "").splitlines() for of in (there, here)), fillvalue="")
        for one, other in lines:
            if one != other:
                return f"{name} has {one.strip() or 'nothing'!r:.200} there, {other.strip() or 'nothing'!r:.200} here"
    return ""


def optimizer_state(optimizer: Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, Any]:
    """The state of a torch optimizer in the names of the parameters, which are given by name (more do no harm).

    ``moments`` has a dict for each name, ``groups`` the options with names in ``params``, ``others`` what else is kept.

    >>> weight = nn.Parameter(torch.zeros(2))
    >>> optimizer_state(torch.optim.SGD([weight], lr=0.1), {"weight": weight})["groups"][0]["params"]
    ['weight']
    """
    names, state = _names(optimizer, parameters), optimizer.state_dict()
    moments, groups = state.pop("state"), state.pop("param_groups")
    return {
        "moments": {names.get(index, index): entries for index, entries in moments.items()},
        "groups": [{**group, "params": [names[index] for index in group["params"]]} for group in groups],
        "others": state,
    }


def load_optimizer_state(
    optimizer: Optimizer, state: Mapping[str, Any], parameters: Mapping[str, Tensor], source: str = "the saved state"
) -> None:
    """Put a result of :func:`optimizer_state` into an optimizer, equal to the last bit.

    Names and shapes are compared first: torch compares no shapes, and a fused step on a moment of the wrong size reads
    beyond its memory. A moment takes the layout in memory of its parameter, since fused steps walk both side by side.

    Args:
        optimizer: the optimizer, over parameters of the same names in the same groups.
        state: what was saved.
        parameters: the tensors that it trains, by name.
        source: where the state comes from, for the message.

    Raises:
        ValueError: the groups' names differ, or a moment has the wrong shape.
    """
    try:
        here = [group["params"] for group in optimizer_state(optimizer, parameters)["groups"]]
        there = [group["params"] for group in state["groups"]]
        if here != there:
            raise ValueError(f"its groups train {there!r:.200} there, {here!r:.200} here")
        trained = {name: parameters[name] for names in here for name in names}
        for name, entries in state["moments"].items():
            for key, value in entries.items() if name in trained else ():
                if key in _ELEMENTWISE and isinstance(value, Tensor) and value.shape != trained[name].shape:
                    shapes = f"{tuple(value.shape)} there, the parameter {tuple(trained[name].shape)} here"
                    raise ValueError(f"{key} of {name} has shape {shapes}")
        numbers = {name: index for index, name in _names(optimizer, parameters).items()}
        groups = [{**group, "params": [numbers[name] for name in group["params"]]} for group in state["groups"]]
        moments = {numbers.get(name, name): entries for name, entries in state["moments"].items()}
        optimizer.load_state_dict({**state["others"], "state": moments, "param_groups": groups})
        for name in state["moments"].keys() & trained.keys():
            _place(optimizer.state[trained[name]], state["moments"][name], trained[name])
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{source} does not fit this {type(optimizer).__name__}: {error}. "
            "Resume with the model and the optimizer that it was saved with"
        ) from error


def _place(own: dict[str, Any], saved: Mapping[str, Any], parameter: Tensor) -> None:
    """Copy moments as they were saved: torch casts them to the parameter's dtype, and keeps the layout of the file."""
    for key, value in saved.items():
        if isinstance(value, Tensor):
            like = parameter if value.shape == parameter.shape else value
            own[key] = torch.empty_like(like, dtype=value.dtype, device=own[key].device).copy_(value)


def _names(optimizer: Optimizer, parameters: Mapping[str, Tensor]) -> dict[Any, str]:
    """The parameters' names by the numbers that torch gives them."""
    known = {id(parameter): name for name, parameter in parameters.items()}
    return dict(enumerate(known[id(tensor)] for group in optimizer.param_groups for tensor in group["params"]))
