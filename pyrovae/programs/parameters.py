"""Modules announce their parameters to Pyro by messages, so that any SVI trains them and no global store is touched."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pyro.poutine.runtime import _PYRO_STACK, am_i_wrapped, effectful
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn
from torch.distributions import constraints


def register(*modules: nn.Module, **named: nn.Module) -> None:
    """Announce the parameters that require a gradient to Pyro: one param message each, inside a model or a guide.

    ``pyro.infer.SVI`` then trains the modules; Pyro's global parameter store is neither read nor written, so any number
    of models live in one process. Frozen parameters are not announced.

    Args:
        *modules: named after their class (``Linear``, ``Linear_2``, ...).
        **named: modules under names of your own; dots may be given by ``**{"vae.prior": module}``.

    Raises:
        TypeError: an argument is not a module.
        ValueError: a running trace already holds the name for another tensor.

    >>> import pyro.poutine, torch
    >>> trace = pyro.poutine.trace(lambda: register(regression=torch.nn.Linear(2, 1))).get_trace()
    >>> trace.param_nodes
    ['regression.weight', 'regression.bias']
    """
    for module in (*modules, *named.values()):
        if not isinstance(module, nn.Module):
            raise TypeError(f"register takes torch modules, got {type(module).__name__}")
    if not am_i_wrapped():
        return
    traces = [handler.trace for handler in _PYRO_STACK if isinstance(handler, TraceMessenger)]
    for module in modules:
        prefix = _free_prefix(module, traces)
        for path, parameter in _trainable(module):
            _announce(f"{prefix}.{path}", parameter)
    for prefix, module in named.items():
        for path, parameter in _trainable(module):
            _check_free(f"{prefix}.{path}", parameter, traces)
            _announce(f"{prefix}.{path}", parameter)


def announced(trace: object) -> dict[str, nn.Parameter]:
    """The unconstrained tensors behind the param sites of a Pyro trace, by name, each tensor once."""
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for name, site in trace.nodes.items():  # type: ignore[attr-defined]
        if site["type"] != "param":
            continue
        tensor = site["value"].unconstrained()
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor
    return found


def _trainable(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((path, parameter) for path, parameter in module.named_parameters() if parameter.requires_grad)


def _announce(name: str, parameter: nn.Parameter) -> None:
    """The value is a detached view: an attribute on the parameter itself would break pickling and deep copies."""
    value = parameter.detach()
    value.unconstrained = lambda: parameter  # type: ignore[attr-defined]
    _param(value, name=name, constraint=constraints.real, event_dim=None)


@effectful(type="param")
def _param(value: Tensor, constraint: constraints.Constraint, event_dim: int | None) -> Tensor:
    """The message's keywords are those of ``pyro.param``, which ``pyro.render_model`` reads."""
    return value


def _holder(name: str, traces: list) -> torch.Tensor | None:
    for trace in traces:
        if name in trace.nodes and trace.nodes[name]["type"] == "param":
            return trace.nodes[name]["value"].unconstrained()
    return None


def _check_free(name: str, parameter: nn.Parameter, traces: list) -> None:
    if _clashes(name, parameter, traces):
        raise ValueError(
            f"the parameter {name!r} is already announced for another tensor, so one of the two would silently not train: "
            "give the models different names, e.g. VAE(..., name='vae2')"
        )


def _clashes(name: str, parameter: nn.Parameter, traces: list) -> bool:
    holder = _holder(name, traces)
    return holder is not None and holder is not parameter


def _free_prefix(module: nn.Module, traces: list) -> str:
    base, number = type(module).__name__, 1
    while True:
        prefix = base if number == 1 else f"{base}_{number}"
        if not any(_clashes(f"{prefix}.{path}", parameter, traces) for path, parameter in _trainable(module)):
            return prefix
        number += 1
