"""Names in Pyro's global parameter store: programs that use the same ones share their numbers."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import pyro
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

from pyrovae.programs.dry_run import DryRun
from pyrovae.programs.program import Program, unwrapped

_DIVIDER = "$$$"
"""What ``pyro.module`` puts between the name of a module and that of its parameter."""
_owners = WeakTensorKeyDictionary()
"""For each tensor of the store the functions of the program that was first trained with it."""


def stored_names(program: Program, found: DryRun) -> dict[str, Any]:
    """The names that a program uses in the store, each with its owner: the parameter of a module, else the function."""
    store = dict(pyro.get_param_store().named_parameters())
    names = {}
    for fn, trace in ((program.model, found.model_trace), (program.guide, found.guide_trace)):
        for name in trace.param_nodes:
            site = trace.nodes[name]
            if store.get(name) is site["value"].unconstrained():
                names[name] = site["args"][1] if _DIVIDER in name else _function(fn)
    return names


def foreign_names(program: Program, found: DryRun) -> tuple[list[str], list[str]]:
    """The modules of a program in whose place the store holds another's, and the parameters that another one was trained with."""
    store = dict(pyro.get_param_store().named_parameters())
    functions = [weakref.ref(_function(fn)) for fn in (program.model, program.guide)]
    modules, parameters = [], []
    for name, owner in stored_names(program, found).items():
        if isinstance(owner, nn.Parameter):
            if owner is not store[name]:
                modules.append(name.partition(_DIVIDER)[0])
        elif not any(known() is owner for known in _owners.setdefault(store[name], functions)):
            parameters.append(name)
    return modules, parameters


def _function(fn: Any) -> Callable:
    """The function or module behind handlers and partials, or the object whose method it is."""
    fn = unwrapped(fn)
    while isinstance(fn, functools.partial):
        fn = unwrapped(fn.func)
    return getattr(fn, "__self__", fn)  # type: ignore[no-any-return]
