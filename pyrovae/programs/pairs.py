"""What a program is: a model and a guide, the module behind them, and the arguments that they take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from pyro import poutine
from pyro.infer import SVI
from torch import Tensor, nn


class Pair(NamedTuple):
    """A model and its guide, and the module that owns their networks (None if there is none)."""

    model: Callable
    guide: Callable
    module: nn.Module | None


def as_pair(program: Any) -> Pair:
    """The model and the guide of a program: an object with both, a tuple ``(model, guide)``, or a ``pyro.infer.SVI``.

    The module is the program itself if it is one; else the modules that own the two callables, or that they name.

    Raises:
        TypeError: anything else.

    >>> as_pair((print, print)).module is None
    True
    """
    if isinstance(program, Pair):
        return program
    if isinstance(program, tuple) and len(program) == 2:
        model, guide = program
    else:
        model, guide = getattr(program, "model", None), getattr(program, "guide", None)
    if not callable(model) or not callable(guide):
        raise TypeError(
            f"expected a program: an object with .model and .guide, a tuple (model, guide) or a pyro.infer.SVI; "
            f"got {type(program).__name__}"
        )
    owner = program if isinstance(program, nn.Module) and not isinstance(program, SVI) else _owner(model, guide)
    return Pair(model, guide, owner)


def _owner(model: Callable, guide: Callable) -> nn.Module | None:
    found = {id(module): module for fn in (model, guide) for module in _modules_of(fn)}
    modules = list(found.values())
    return modules[0] if len(modules) == 1 else nn.ModuleList(modules) if modules else None


def _modules_of(fn: Callable) -> list[nn.Module]:
    if isinstance(fn, nn.Module):
        return [fn]
    owner = getattr(fn, "__self__", None)
    if isinstance(owner, nn.Module):
        return [owner]
    inner = getattr(fn, "__wrapped__", None)
    if inner is not None:
        return _modules_of(inner)
    if not inspect.isfunction(fn):
        return []
    names = inspect.getclosurevars(fn)
    return [value for value in (*names.nonlocals.values(), *names.globals.values()) if isinstance(value, nn.Module)]


@contextmanager
def eval_mode(module: nn.Module | None) -> Iterator[None]:
    """Put a module into eval mode; every submodule's own mode is restored afterwards, also after an error.

    >>> layer = nn.Dropout()
    >>> with eval_mode(layer):
    ...     layer.training
    False
    >>> layer.training
    True
    """
    modes = [] if module is None else [(part, part.training) for part in module.modules()]
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, training in modes:
            part.training = training


def call_arguments(
    pair: Pair,
    covariates: Mapping[str, Tensor] | None = None,
    size: int | None = None,
    index: Tensor | None = None,
) -> dict:
    """The keyword arguments of a pair, for data that go first, by position.

    ``covariates``, ``size`` and ``index`` (the numbers of the batch's rows in the data set) are passed by keyword, each
    only to programs whose two functions both take it.

    Raises:
        ValueError: there are covariates, and one of the two functions takes no ``covariates``.
    """
    given = {"covariates": covariates, "size": size, "index": index}
    accepted = {name: value for name, value in given.items() if value is not None and _accepts(pair, name)}
    if "index" in accepted and not all(_names(fn, "index") for fn in (pair.model, pair.guide)):
        del accepted["index"]  # only programs that name it want it, not those that hand all keywords on
    if covariates is not None and "covariates" not in accepted:
        raise ValueError(
            "covariates were given, but the model or the guide takes no argument named covariates: add covariates=None"
        )
    return accepted


def _accepts(pair: Pair, name: str) -> bool:
    return all(_has_argument(fn, name) for fn in (pair.model, pair.guide))


def _parameters(fn: Callable) -> Mapping[str, inspect.Parameter]:
    fn = poutine.unwrap(fn)
    return inspect.signature(fn.forward if isinstance(fn, nn.Module) else fn).parameters


def _names(fn: Callable, name: str) -> bool:
    return name in _parameters(fn)


def _has_argument(fn: Callable, name: str) -> bool:
    parameters = _parameters(fn)
    return name in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
