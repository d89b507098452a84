"""Modules announce themselves to Pyro by messages, so that any SVI trains them and no global store is touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pyro.poutine.lift_messenger import LiftMessenger
from pyro.poutine.runtime import _PYRO_STACK, am_i_wrapped, effectful
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn
from torch.distributions import constraints

_silent: ContextVar[bool] = ContextVar("silent", default=False)


def register(*modules: nn.Module, **named: nn.Module) -> None:
    """Announce modules to Pyro, inside a model or a guide: one param message for each parameter that requires a gradient.

    ``pyro.infer.SVI`` then trains the modules; Pyro's global parameter store is neither read nor written, so any number
    of models live in one process. Frozen parameters get no param message. Beside these, one message of type ``module``
    for each module, frozen or not, tells pyrovae what to save, to move and to put into eval mode.

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
    for _ in _announcements(modules, named):
        pass


@contextmanager
def registered(**named: nn.Module) -> Iterator[None]:
    """Announce modules as :func:`register` does; in the block they compute with the values that handlers put for parameters.

    ``poutine.lift(vae.model, prior={"vae.likelihood.net.head.bias": prior})`` so makes a weight a latent of all rows.
    """
    held: list[tuple[nn.Module, str, Any]] = []
    try:
        for module, parameter, value in _announcements((), named):
            if hasattr(value, "unconstrained"):  # the parameter itself
                continue
            for owner in module.modules():
                for name in [name for name, own in owner._parameters.items() if own is parameter]:
                    held.append((owner, name, vars(owner).get(name)))
                    vars(owner)[name] = value  # is found before the parameter of the name, which stays as it is
        yield
    finally:
        for owner, name, before in reversed(held):
            if before is None:
                del vars(owner)[name]
            else:
                vars(owner)[name] = before


def _announcements(
    modules: Sequence[nn.Module], named: Mapping[str, nn.Module]
) -> Iterator[tuple[nn.Module, nn.Parameter, Tensor]]:
    """Send the messages; for each parameter its module and the value that came back."""
    for module in (*modules, *named.values()):
        if not isinstance(module, nn.Module):
            raise TypeError(f"register takes torch modules, got {type(module).__name__}")
    is_silent = _silent.get()
    if not am_i_wrapped() or (is_silent and not any(isinstance(handler, LiftMessenger) for handler in _PYRO_STACK)):
        return
    traces = [handler.trace for handler in _PYRO_STACK if isinstance(handler, TraceMessenger)]
    for given, module in (*((None, module) for module in modules), *named.items()):
        prefix = _free_prefix(module, traces) if given is None else given
        if not is_silent:
            _module(module, name=prefix)
        for path, parameter in _trainable(module):
            name = f"{prefix}.{path}"
            if _clashes(name, parameter, traces):
                raise ValueError(
                    f"the parameter {name!r} is already announced for another tensor, so one of the two would silently not "
                    "train: give the models different names, e.g. VAE(..., name='vae2')"
                )
            value = parameter.detach()  # an attribute on the parameter itself would break pickling and deep copies
            value.unconstrained = lambda parameter=parameter: parameter  # type: ignore[attr-defined]
            yield module, parameter, _param(value, name=name, constraint=constraints.real, event_dim=None)


@contextmanager
def announcements_off() -> Iterator[None]:
    """Let ``register`` send no message: for runs of a program whose announcements are known already."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


def announced(trace: Any) -> dict[str, nn.Parameter]:
    """The unconstrained tensors behind the param sites of a Pyro trace, by name, each tensor once."""
    found: dict[str, nn.Parameter] = {}
    for name, site in trace.nodes.items():
        if site["type"] == "param" and not any(site["value"].unconstrained() is known for known in found.values()):
            found[name] = site["value"].unconstrained()
    return found


def _trainable(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((path, parameter) for path, parameter in module.named_parameters() if parameter.requires_grad)


@effectful(type="param")
def _param(value: Tensor, constraint: constraints.Constraint, event_dim: int | None) -> Tensor:
    """The message's keywords are those of ``pyro.param``, which ``pyro.render_model`` reads."""
    return value


@effectful(type="module")
def _module(module: nn.Module) -> nn.Module:
    return module


def _clashes(name: str, parameter: nn.Parameter, traces: list) -> bool:
    nodes = [trace.nodes[name] for trace in traces if name in trace.nodes]
    return any(node["type"] == "param" and node["value"].unconstrained() is not parameter for node in nodes)


def _free_prefix(module: nn.Module, traces: list) -> str:
    base, number = type(module).__name__, 1
    while True:
        prefix = base if number == 1 else f"{base}_{number}"
        if not any(_clashes(f"{prefix}.{path}", parameter, traces) for path, parameter in _trainable(module)):
            return prefix
        number += 1
