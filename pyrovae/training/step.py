"""One guarded step of stochastic variational inference: a bad loss never reaches the weights, nor the buffers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer import SVI
from pyro.infer.elbo import ELBO
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from pyrovae.programs import Program
from pyrovae.training.optimizer import TorchOptimizer


class Outcome(NamedTuple):
    """What one step gave: the loss and the gradients' norm, both per row of the data, and whether it was skipped."""

    loss: float
    gradient_norm: float
    skipped: bool


class BufferGuard:
    """Copies of a module's buffers, to put back when a forward pass has poisoned them (batch norm's running moments)."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        parts = {id(part): part for module in modules for part in module.modules()}.values()
        buffers = {id(buffer): buffer for part in parts for buffer in part.buffers(recurse=False)}
        norms = [part for part in parts if isinstance(part, _NormBase)]
        # Normalization updates its moments without counting it as a change; other buffers are copied when they change.
        self._silent = {id(buffer) for norm in norms for buffer in norm.buffers()}
        self._kept: list[list[Any]] = [
            [buffer, buffer._version, buffer.detach().clone()] for buffer in buffers.values()
        ]

    def keep(self) -> None:
        """Copy the buffers that have changed since the last copy."""
        for entry in self._changed():
            entry[2].copy_(entry[0])
            entry[1] = entry[0]._version

    def restore(self) -> None:
        """Put the copies back."""
        with torch.no_grad():
            for entry in self._changed():
                entry[0].copy_(entry[2])
                entry[1] = entry[0]._version

    def _changed(self) -> list[list[Any]]:
        return [entry for entry in self._kept if id(entry[0]) in self._silent or entry[0]._version != entry[1]]


class Step:
    """A step of ``pyro.infer.SVI`` on per-row gradients, skipped where loss or gradients are not finite.

    Args:
        program: the program, under whatever handlers.
        scaled: puts the handlers around a program that is bound to one batch.
        objective: an ELBO of Pyro or of pyrovae.
        optimizer: the optimizer.
        modules: whose buffers are guarded.
        names: the parameters' names, for messages.
        max_skipped: bad steps in a row after which training stops with an error.
    """

    def __init__(
        self,
        program: Program,
        scaled: Callable[[Program], Program],
        objective: ELBO,
        optimizer: TorchOptimizer,
        modules: Iterable[nn.Module],
        names: dict[str, Tensor],
        max_skipped: int,
    ) -> None:
        self.program, self.scaled = program, scaled
        self.handled = scaled(program)
        self.svi = SVI(self.handled.model, self.handled.guide, optimizer, objective)
        self.optimizer = optimizer
        self.buffers = BufferGuard(modules)
        self.names = names
        self.max_skipped = max_skipped
        self.in_a_row = 0

    def __call__(self, program: Program, args: tuple, kwargs: dict[str, Any], size: int) -> Outcome:
        """Take a step on one batch; ``size`` is the number of rows of the whole data set.

        Raises:
            FloatingPointError: too many steps in a row were not finite; the message names the site, rows and parameter.
        """
        self.buffers.keep()
        program = self.handled if program is self.program else self.scaled(program)
        loss, announced = self._loss_and_gradients(program, args, kwargs)
        self.optimizer.check_known(announced)
        gradients = self.optimizer.gradients()
        if gradients:
            torch._foreach_div_(gradients, size)
        norm = torch.nn.utils.get_total_norm(gradients)
        norm_value = float(norm)
        if not (math.isfinite(loss) and math.isfinite(norm_value)):
            self._skip(loss, program, args, kwargs)
            return Outcome(loss / size, norm_value, True)
        self.in_a_row = 0
        self.optimizer.update(norm)
        return Outcome(loss / size, norm_value, False)

    def _loss_and_gradients(self, program: Program, args: tuple, kwargs: dict[str, Any]) -> tuple[float, list[Tensor]]:
        try:
            with poutine.trace(param_only=True) as capture:
                loss = self.svi.loss_and_grads(program.model, program.guide, *args, **kwargs)
        except ValueError as error:
            self.optimizer.drop_gradients()
            if is_about_parameters(error):
                check_data(program.model, args, kwargs)
            self.buffers.restore()
            if not is_about_parameters(error):
                raise
            return math.nan, []
        return float(loss), [site["value"].unconstrained() for site in capture.trace.nodes.values()]

    def _skip(self, loss: float, program: Program, args: tuple, kwargs: dict[str, Any]) -> None:
        self.buffers.restore()
        self.in_a_row += 1
        if self.in_a_row > self.max_skipped:
            message = self.explain_skipped(program, args, kwargs)
            self.optimizer.drop_gradients()
            raise FloatingPointError(f"{message} (Last loss: {loss}.)")
        self.optimizer.drop_gradients()

    def explain_skipped(self, program: Program, args: tuple, kwargs: dict[str, Any]) -> str:
        """How many steps in a row were skipped, what in the program is not finite on this batch, and what to try."""
        found = explain(program.model, program.guide, args, kwargs, self.names)
        self.buffers.restore()
        return (
            f"{self.in_a_row} steps in a row had a loss or a gradient that is not finite; the weights are those before them. "
            f"{found} Try a smaller learning rate, clip_norm=1.0, scaled data, or float64."
        )


def is_about_parameters(error: ValueError) -> bool:
    """Whether it is Pyro's check of a distribution's parameters: what NaN runs into while validation is on."""
    return "to satisfy the constraint" in str(error)


def check_data(model: Callable, args: tuple, kwargs: dict[str, Any]) -> None:
    """Run the model on latents of its own, so that data outside the support is named before what the guide makes of it.

    Raises:
        ValueError: the data is not in the likelihood's support, or has a wrong shape.
    """
    with torch.no_grad(), torch.random.fork_rng(), poutine.block():
        try:
            model(*args, **kwargs)
        except NotImplementedError:  # an improper prior cannot be sampled
            return
        except ValueError as error:
            if not is_about_parameters(error):
                raise


def explain(model: Callable, guide: Callable, args: tuple, kwargs: dict[str, Any], names: dict[str, Tensor]) -> str:
    """Say where a program stops being finite: the first such site with its rows, and the first such parameter."""
    with torch.no_grad(), pyro.validation_enabled(False), torch.random.fork_rng():
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
    sites = (("guide", guide_trace), ("model", model_trace))
    found = (_bad_site(role, name, site) for role, trace in sites for name, site in trace.nodes.items())
    where = next((text for text in found if text), "No site shows it on these rows with fresh draws.")
    for what, kind in ((lambda p: p, "is not finite"), (lambda p: p.grad, "has a gradient that is not finite")):
        bad = [
            name for name, parameter in names.items() if what(parameter) is not None and not _finite(what(parameter))
        ]
        if bad:
            return f"{where} The parameter {bad[0]!r} {kind}."
    return f"{where} All parameters and their gradients are finite."


def _bad_site(role: str, name: str, site: dict[str, Any]) -> str | None:
    if site["type"] != "sample" or type(site["fn"]).__name__ == "_Subsample":
        return None
    with torch.no_grad(), pyro.validation_enabled(False):
        log_prob = site["fn"].log_prob(site["value"])
    for what, tensor in (("value", site["value"]), ("log density", log_prob)):
        if not _finite(tensor):
            return f"In the {role}, site {name!r} has a {what} that is not finite in {_rows(tensor)}."
    return None


def _rows(tensor: Tensor) -> str:
    if tensor.ndim == 0:
        return "its only value"
    bad = (~tensor.isfinite()).reshape(tensor.shape[0], -1).any(-1).nonzero()[:, 0].tolist()
    return f"{len(bad)} of {tensor.shape[0]} rows of the batch ({', '.join(map(str, bad[:5]))}{', ...' if len(bad) > 5 else ''})"


def _finite(tensor: Tensor | Iterable) -> bool:
    return bool(torch.as_tensor(tensor).isfinite().all())
