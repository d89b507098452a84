"""Loss and gradients of plain ``pyro.infer.SVI`` by a graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.elbo import ELBO
from pyro.poutine.runtime import am_i_wrapped, effectful
from torch import Tensor
from torch.utils._pytree import tree_flatten

from pyrovae.compiling.graph import Graph, UntraceableError, no_gradients, tensors_of, trace
from pyrovae.objectives.gradients import differentiable_loss
from pyrovae.programs import Buffers, Program
from pyrovae.programs.dry_run import listening

MOST_KINDS = 8
"""Kinds of arguments that are traced; a program that is called with more of them is run."""
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


@dataclass
class Announced:
    """What one run of a program announces.

    Args:
        program: the program.
        sites: the param sites: their names and values.
        parameters: the tensors behind them that require a gradient.
        buffers: of the modules.
        graphs: by the kind of arguments.
        calls: how often the program was asked for.
    """

    program: Program
    sites: list[tuple[str, Tensor]]
    parameters: list[Tensor]
    buffers: Buffers
    modes: Callable[[], tuple[bool, ...]]
    graphs: dict[Any, Graph] = field(default_factory=dict)
    calls: int = 0


class CompiledELBO(ELBO):
    """Any ELBO of Pyro whose loss and gradients are traced once for each kind of arguments, and then replayed.

    A drop-in for the ``loss`` of ``pyro.infer.SVI``, and for ``differentiable_loss`` in a loop of one's own: the optimizer stays
    the caller's, and the noise is that of the objective itself. The first call runs the program (autoguides set themselves
    up); calls 2, 4, 8, ... compare the graph with the program. A program that cannot be traced, or has changed, is run from
    then on, with a warning that names the line.

    Args:
        objective: an ELBO; ``Trace_ELBO()`` by default.

    >>> import pyro, pyro.distributions as dist, pyrovae as pvae
    >>> vae = pvae.VAE(
    ...     prior=pvae.standard_normal(2),
    ...     likelihood=pvae.Factorized(dist.Poisson, pvae.MLP(2, (8,)), event_shape=5),
    ...     posterior=pvae.Factorized(dist.Normal, pvae.MLP(5, (8,)), event_shape=2),
    ... )
    >>> svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), CompiledELBO())
    >>> losses = [svi.step(torch.ones(16, 5)) for _ in range(10)]
    """

    def __init__(self, objective: ELBO | None = None) -> None:
        objective = Trace_ELBO() if objective is None else objective
        super().__init__(
            num_particles=objective.num_particles,
            max_plate_nesting=objective.max_plate_nesting,
            vectorize_particles=objective.vectorize_particles,
        )
        self.objective: Any = objective
        self.met: set[tuple[Callable, Callable]] = set()
        """The programs that were run once."""
        self.known: dict[Any, Announced] = {}
        self.blocked: str | None = None
        """Why programs are run."""

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Minus the bound, as a number, by the objective."""
        return self.objective.loss(model, guide, *args, **kwargs)

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, a 0-dim tensor with the objective's derivative."""
        found = self._graph(model, guide, args, kwargs)
        if found is None:
            return self.objective.differentiable_loss(model, guide, *args, **kwargs)
        return _Replayed.apply(*found, *found[0].parameters)

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Minus the bound as a number, after adding its gradient to the parameters'."""
        found = self._graph(model, guide, args, kwargs)
        if found is None:
            return self.objective.loss_and_grads(model, guide, *args, **kwargs)
        graph, tensors = found
        with torch.no_grad():
            loss, *gradients = graph(tensors)
        for parameter, gradient in zip(graph.parameters, gradients, strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return loss.item()

    def _get_trace(self, *args: Any) -> Any:
        return self.objective._get_trace(*args)

    def _graph(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> tuple[Graph, list[Tensor]] | None:
        """The graph for these arguments, with their tensors; None where the objective itself is to be called."""
        if self.blocked:
            return None
        if (model, guide) not in self.met:
            self.met.add((model, guide))
            return None
        if (model, guide) not in self.known:
            self.known[model, guide] = _announced(model, guide, args, kwargs)
        known = self.known[model, guide]
        known.calls += 1
        tensors, tree_of = tensors_of((args, kwargs))
        leaves, spec = tree_flatten((args, kwargs))
        kind = [(leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves]
        key = (str(spec), str(kind), known.modes())

        def loss(*given: Tensor) -> Tensor:
            args, kwargs = tree_of(*given)
            return differentiable_loss(self.objective, model, guide, args, kwargs, known.parameters)

        try:
            with poutine.block():
                if key not in known.graphs:
                    if len(known.graphs) == MOST_KINDS:
                        raise UntraceableError(
                            f"more than {MOST_KINDS} kinds of arguments: give numbers that change as tensors"
                        )
                    known.buffers.keep()
                    others = [tensor.flip(0) if tensor.ndim else tensor for tensor in tensors]
                    try:
                        known.graphs[key] = trace(loss, tensors, others, known.parameters, known.buffers.settle)
                    finally:
                        known.buffers.restore(torch.tensor(True))
                if known.calls & (known.calls - 1) == 0:
                    _audit(known, known.graphs[key], loss, tensors)
        except UntraceableError as error:
            self.blocked = str(error)
            warnings.warn(f"the program is run without a graph: {error}", UserWarning, stacklevel=5)
            return None
        if am_i_wrapped():
            for name, value in known.sites:
                _announce(value, name=name)
        return known.graphs[key], tensors


class _Replayed(torch.autograd.Function):
    """The loss of a graph, whose gradients the graph gives too."""

    @staticmethod
    def forward(ctx: Any, graph: Graph, tensors: list[Tensor], *parameters: Tensor) -> Tensor:
        loss, *gradients = graph(tensors)
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> Any:
        return None, None, *(outer * gradient for gradient in ctx.saved_tensors)


@effectful(type="param")
def _announce(value: Tensor) -> Tensor:
    return value


def _announced(model: Callable, guide: Callable, args: tuple, kwargs: dict) -> Announced:
    """One run of a program in eval mode, after which random state and buffers are as before."""
    program = Program.of((model, guide))
    with (
        torch.random.fork_rng([]),
        poutine.block(),
        listening(program) as announced,
        poutine.trace(param_only=True) as capture,
    ):
        drawn = poutine.trace(guide).get_trace(*args, **kwargs)
        poutine.replay(model, trace=drawn)(*args, **kwargs)
    sites = [(name, site["value"]) for name, site in capture.trace.nodes.items() if site["type"] == "param"]
    parameters = {id(tensor): tensor for _, value in sites if (tensor := value.unconstrained()).requires_grad}
    parts = [part for module in announced.modules.values() for part in module.modules()]
    return Announced(
        program,
        sites,
        list(parameters.values()),
        Buffers(announced.modules.values()),
        lambda: tuple(part.training for part in parts),
    )


def _audit(known: Announced, graph: Graph, loss: Callable[..., Tensor], tensors: list[Tensor]) -> None:
    """Compare loss and gradients of a graph with those of the program, with the same noise; nothing changes.

    Raises:
        UntraceableError: they differ.
    """
    found = []
    known.buffers.keep()
    for replayed in (False, True):
        with torch.random.fork_rng(), no_gradients(known.parameters), torch.enable_grad():
            value = _Replayed.apply(graph, tensors, *graph.parameters) if replayed else loss(*tensors)
            gradients = torch.autograd.grad(value, known.parameters, allow_unused=True) if value.requires_grad else ()
        known.buffers.restore(torch.tensor(True))
        squares = [gradient.double().square().sum() for gradient in gradients if gradient is not None]
        found.append(torch.stack([value.detach().double(), sum(squares, torch.zeros(())).sqrt()]))
    tolerance = TOLERANCE.get(value.dtype, 2e-2)
    if not torch.allclose(found[0], found[1], rtol=tolerance, atol=tolerance, equal_nan=True):
        (true_value, true_norm), (own_value, own_norm) = (pair.tolist() for pair in found)
        raise UntraceableError(
            f"at call {known.calls + 1} it gives a loss of {true_value:.8g} and a gradient of norm {true_norm:.6g}, its graph "
            f"{own_value:.8g} and {own_norm:.6g}: it has changed"
        )
