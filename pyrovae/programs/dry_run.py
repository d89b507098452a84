"""One run of a program that tells what it announces and what it samples, leaving everything as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from pyrovae.errors import plain_errors
from pyrovae.programs.masks import counted
from pyrovae.programs.program import Program
from pyrovae.programs.running import check_sites, reaches_beyond, run
from pyrovae.programs.sites import Site, data_sites, frame_of, sites_of


@dataclass
class Announced:
    """The modules and parameters behind a program: what is trained, saved, moved and put into eval mode.

    Args:
        modules: by name, no module inside another: the program itself or the owners of its functions first, then modules
            given to :func:`pyrovae.register`, then the outermost ones that were called.
        parameters: the tensors of param messages, by name, in the order of their messages.
    """

    modules: dict[str, nn.Module] = field(default_factory=dict)
    parameters: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, module: nn.Module) -> None:
        """Take a module in, unless it lies inside one that is known."""
        if any(module is part for known in self.modules.values() for part in known.modules()):
            return
        number, free = 1, name
        while free in self.modules:
            number, free = number + 1, f"{name}_{number + 1}"
        self.modules[free] = module

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """All parameters and buffers by name, frozen ones too, and the param messages' tensors outside any module."""
        found: dict[str, Tensor] = {}
        for prefix, module in self.modules.items():
            for path, tensor in module.state_dict(keep_vars=True).items():
                if isinstance(tensor, Tensor):
                    found[f"{prefix}.{path}" if prefix else path] = tensor
        known = {id(tensor) for tensor in found.values()}
        return found | {name: tensor for name, tensor in self.parameters.items() if id(tensor) not in known}

    @cached_property
    def trained(self) -> dict[str, Tensor]:
        """The announced parameters that require a gradient, each once, in the order of :attr:`tensors`."""
        announced = {id(tensor): name for name, tensor in self.parameters.items()}
        order = {id(tensor): announced[id(tensor)] for tensor in self.tensors.values() if id(tensor) in announced}
        return {name: self.parameters[name] for name in order.values()}

    @property
    def like(self) -> Tensor | None:
        """A floating-point tensor of the program's dtype and device, or None."""
        found = (*self.tensors.values(), *self.parameters.values())
        return next((tensor.detach() for tensor in found if tensor.is_floating_point()), None)


class _Listener(Messenger):
    """Notes what a program announces while it runs."""

    def __init__(self, announced: Announced) -> None:
        super().__init__()
        self.announced = announced
        self.registered: list[tuple[str, nn.Module]] = []

    def _pyro_post_module(self, msg: Any) -> None:
        self.registered.append((msg["name"], msg["value"]))

    def _pyro_post_param(self, msg: Any) -> None:
        tensor = msg["value"].unconstrained()
        if not any(tensor is known for known in self.announced.parameters.values()):
            self.announced.parameters[msg["name"]] = tensor


@contextmanager
def listening(program: Program) -> Iterator[Announced]:
    """Collect what a program announces in runs inside; the modules that it calls run in eval mode.

    A global hook finds the outermost modules that are called: those behind ``pyro.module``, autoguides, in a dict, in a
    closure or in a ``functools.partial``.
    """
    announced, called = Announced(), {}
    for owner in program.owners:
        announced.add("" if len(program.owners) == 1 else type(owner).__name__, owner)
    depth, modes = [0], [(p, p.training) for owner in program.owners for p in owner.modules()]

    def enter(module: nn.Module, _: Any) -> None:
        if not depth[0] and id(module) not in called:
            called[id(module)] = module
            modes.extend((part, part.training) for part in module.modules())
            _set(module.modules(), False)
        depth[0] += 1

    def leave(*_: Any) -> None:
        depth[0] -= 1

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    _set((part for part, _ in modes), False)
    listener = _Listener(announced)
    try:
        with plain_errors(), listener:
            yield announced
    finally:
        for handle in handles:
            handle.remove()
        for part, training in reversed(modes):
            part.training = training
        for name, module in (*listener.registered, *((type(m).__name__, m) for m in called.values())):
            announced.add(name, module)


def _set(parts: Any, training: bool) -> None:
    for part in parts:
        part.training = training


@dataclass(frozen=True)
class DryRun:
    """What one run of a program tells.

    Args:
        model_trace: of the model, replayed against the guide.
        guide_trace: of the guide.
        nesting: the number of nested plates.
        announced: the modules and parameters.
    """

    model_trace: Trace
    guide_trace: Trace
    nesting: int
    announced: Announced

    @cached_property
    def data_sites(self) -> list[str]:
        """The names of the data sites of the model."""
        return [site["name"] for site in data_sites(self.model_trace)]

    @cached_property
    def global_latents(self) -> list[str]:
        """The latents outside the data plate."""
        return [s["name"] for s in _latents(self.guide_trace) if not frame_of(s)]

    @cached_property
    def masked_latents(self) -> list[str]:
        """The latents that both functions mask, so that they count nowhere there."""
        masks = [
            {s["name"] for s in sites_of(t) if counted(s) is not None} for t in (self.guide_trace, self.model_trace)
        ]
        return sorted(masks[0] & masks[1])

    @cached_property
    def wide_latents(self) -> list[str]:
        """The latents that the guide may draw outside the support of their prior."""
        model = self.model_trace.nodes
        names = [s["name"] for s in _latents(self.guide_trace) if s["name"] in model]
        return [n for n in names if reaches_beyond(self.guide_trace.nodes[n]["fn"], model[n]["fn"])]

    @cached_property
    def relaxed_latents(self) -> list[str]:
        """The latents with a relaxed discrete prior."""
        return [s["name"] for s in _latents(self.model_trace) if "Relaxed" in type(s["fn"]).__name__]

    @cached_property
    def measure(self) -> str:
        """``"mass"``, ``"density"``, both or ``"unknown"``: what the probabilities of the data sites are."""
        supports = [getattr(site["fn"], "support", None) for site in data_sites(self.model_trace)]
        kinds = {
            getattr(support, "measure", "mass" if support.is_discrete else "density")
            for support in supports
            if support is not None
        }
        return " and ".join(sorted(kinds)) or "unknown"

    def check_rows(self, rows: int) -> None:
        """Refuse a program whose plate holds other rows than it was given.

        Raises:
            ValueError: it draws rows by itself.
        """
        for site in sites_of(self.model_trace):
            frame = frame_of(site)
            if frame and frame.size != rows:
                raise ValueError(
                    f"the plate 'data' holds {frame.size} rows of the {rows} given: the program draws rows by itself, and the "
                    "others would have no evidence; let its plate hold all rows of x"
                )


def _latents(trace: Trace) -> list[Site]:
    return [s for s in sites_of(trace) if not s["is_observed"]]


def dry_run(program: Program, args: tuple, kwargs: Mapping[str, Any]) -> DryRun:
    """Run guide and model once, in eval mode; random state, modes and buffers are left as they were.

    Args:
        program: the program.
        args: positional arguments of both functions.
        kwargs: keyword arguments of both functions.

    Raises:
        ValueError: a site's log density has another shape than its plates, or model and guide disagree on a space.
    """
    with torch.random.fork_rng(), listening(program) as announced:
        guide_trace, model_trace = run(program, args, kwargs)
        nesting = check_sites(guide_trace, model_trace)
    return DryRun(model_trace, guide_trace, nesting, announced)


def announced_like(
    program: Program, call: Callable[[], tuple[Program, tuple, Mapping[str, Any]]], device: Any = None
) -> Tensor | None:
    """A tensor of the dtype and device that a program's data need; None where the data will do as they are.

    A program without known owners is run on the data as they are; if it fails, the first floating-point tensor that it
    had announced by then decides.

    Args:
        program: the program.
        call: gives the program and the arguments of both functions for a few rows.
        device: where the modules are moved first; a run finds those that no owner holds.
    """
    owned = Announced()
    for owner in program.owners:
        owned.add(type(owner).__name__, owner)
    if owned.like is not None and device is None:
        return owned.like
    ran, (bound, args, kwargs) = False, call()
    with torch.no_grad(), torch.random.fork_rng(), poutine.block(), listening(bound) as announced:
        try:
            bound.guide(*args, **kwargs)
            bound.model(*args, **kwargs)
            ran = True
        except (RuntimeError, ValueError, TypeError):
            pass
    for module in announced.modules.values() if device is not None else ():
        module.to(device)
    return announced.like if owned.like is not None or not ran else None
