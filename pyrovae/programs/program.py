"""What everything downstream works on: a model and a guide, the arguments that they take, and what one run of them tells."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from pyro import poutine
from pyro.infer import SVI
from torch import Tensor, nn

from pyrovae.errors import refusal


@dataclass(frozen=True)
class Program:
    """A model and its guide; made by :meth:`of` from whatever a user has.

    Args:
        model: a Pyro program that observes the data inside a plate ``data``.
        guide: a Pyro program that samples the model's latents.
        owners: the modules that are known before any run: the program itself, or those that own its two functions.
            Modules behind closures, dicts and ``functools.partial`` are found by a run, see
            :func:`pyrovae.programs.dry_run`.
    """

    model: Callable
    guide: Callable
    owners: tuple[nn.Module, ...] = ()

    @classmethod
    def of(cls, program: Any) -> Program:
        """The program of an object with ``.model`` and ``.guide``, a tuple ``(model, guide)``, or a ``pyro.infer.SVI``.

        Raises:
            TypeError: anything else.

        >>> Program.of((print, print)).owners
        ()
        """
        if isinstance(program, Program):
            return program
        if isinstance(program, type):
            name = program.__name__
            raise refusal(f"expected a program, got the class {name}: build one, {name}(...)", "program", TypeError)
        if isinstance(program, tuple) and len(program) == 2:
            model, guide = program
        else:
            model, guide = getattr(program, "model", None), getattr(program, "guide", None)
        if not callable(model) or not callable(guide):
            raise TypeError(
                f"expected a program: an object with .model and .guide, a tuple (model, guide) or a pyro.infer.SVI; "
                f"got {type(program).__name__}"
            )
        if isinstance(program, nn.Module) and not isinstance(program, SVI):
            return cls(model, guide, (program,))
        owners = {id(owner): owner for fn in (model, guide) if (owner := _owner(fn)) is not None}
        return cls(model, guide, tuple(owners.values()))

    @cached_property
    def sized(self) -> bool:
        """Whether both functions take ``size``, the number of rows of the whole data set."""
        return all(_takes(parameters, "size") for parameters in self._parameters)

    @cached_property
    def _parameters(self) -> tuple[Mapping[str, inspect.Parameter], ...]:
        return parameters_of(self.model), parameters_of(self.guide)

    def on(
        self,
        x: Any,
        covariates: Mapping[str, Tensor] | None = None,
        size: int | None = None,
        index: Tensor | None = None,
    ) -> tuple[Program, tuple, dict[str, Any]]:
        """The program with the arguments of both functions for some rows; ``x`` goes first, by position.

        ``size`` is passed where both functions take it; ``covariates`` and ``index`` (the numbers of the rows in the data
        set) reach the functions that name them. Where one of the two does, they are bound to it.

        Args:
            x: the rows; a tuple is passed as several arguments.
            covariates: for each name, a tensor of as many rows.
            size: the number of rows of the whole data set.
            index: the numbers of the rows.

        Raises:
            ValueError: there are covariates, and neither function takes them.
        """
        args = x if isinstance(x, tuple) else (x,)
        kwargs: dict[str, Any] = {} if size is None or not self.sized else {"size": size}
        program = self
        if covariates is not None:
            takes = tuple(_takes(parameters, "covariates") for parameters in self._parameters)
            if not any(takes):
                raise ValueError(
                    "covariates were given, but neither the model nor the guide takes an argument named covariates: add "
                    "covariates=None"
                )
            program = program._with("covariates", covariates, takes, kwargs)
        if index is not None:
            program = program._with("index", index, self._names_index(len(args)), kwargs)
        return program, args, kwargs

    def _names_index(self, num_args: int) -> tuple[bool, ...]:
        """Which of the two functions name ``index`` and do not get it by position."""
        return tuple("index" in list(parameters)[num_args:] for parameters in self._parameters)

    def _with(self, name: str, value: Any, takes: tuple[bool, ...], kwargs: dict[str, Any]) -> Program:
        """Put a value among the keyword arguments where both functions take it; else bind it to the one that does."""
        if all(takes):
            kwargs[name] = value
            return self
        model, guide = (
            partial(fn, **{name: value}) if take else fn
            for fn, take in zip((self.model, self.guide), takes, strict=True)
        )
        return replace(self, model=model, guide=guide) if any(takes) else self


def unwrapped(fn: Any) -> Any:
    """The function under Pyro's handlers.

    >>> unwrapped(poutine.block(print)) is print
    True
    """
    while isinstance(fn, functools.partial):
        inner = fn.func if not isinstance(fn.func, functools.partial) else None
        if inner is None:  # Pyro's wrapper around a partial
            fn = fn.func
        elif getattr(inner, "__module__", "") == poutine.messenger.__name__ and len(fn.args) >= 2:
            fn = fn.args[1]
        else:
            return fn
    return fn


def _owner(fn: Callable) -> nn.Module | None:
    """The module that a function is, or whose method it is."""
    fn = unwrapped(fn)
    fn = unwrapped(fn.func) if isinstance(fn, functools.partial) else fn
    owner = fn if isinstance(fn, nn.Module) else getattr(fn, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def parameters_of(fn: Callable) -> Mapping[str, inspect.Parameter]:
    """The arguments of a model or guide by name, under Pyro's handlers."""
    fn = unwrapped(fn)
    return inspect.signature(fn.forward if isinstance(fn, nn.Module) else fn).parameters


def _takes(parameters: Mapping[str, inspect.Parameter], name: str) -> bool:
    return name in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def callable_without_data(model: Callable) -> bool:
    """Whether a model takes ``size`` and needs no other argument."""
    parameters = parameters_of(model).values()
    needed = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return not needed and any(p.name == "size" for p in parameters)


@contextmanager
def eval_mode(modules: nn.Module | Iterable[nn.Module]) -> Iterator[None]:
    """Put modules into eval mode; every submodule's own mode is restored afterwards, also after an error.

    >>> layer = nn.Dropout()
    >>> with eval_mode(layer):
    ...     layer.training
    False
    >>> layer.training
    True
    """
    modules = (modules,) if isinstance(modules, nn.Module) else tuple(modules)
    modes = {id(part): (part, part.training) for module in modules for part in module.modules()}
    try:
        for part, _ in modes.values():
            part.training = False
        yield
    finally:
        for part, training in modes.values():
            part.training = training
