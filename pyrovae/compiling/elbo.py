"""Loss and gradients of plain ``pyro.infer.SVI`` by a graph."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.elbo import ELBO
from pyro.poutine.runtime import am_i_wrapped, effectful
from pyro.util import warn_if_nan
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_flatten

from pyrovae.compiling.graph import Graph, UntraceableError, no_gradients, tensors_of, trace
from pyrovae.objectives.gradients import differentiable_loss
from pyrovae.programs import Buffers, Program
from pyrovae.programs.dry_run import listening
from pyrovae.programs.outside import PLAIN

MOST_KINDS = 8
"""Kinds of arguments that are traced; a program that is called with more of them is run."""
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


@dataclass
class Announced:
    """What one run of a program announces.

    Args:
        program: the program.
        sites: the param sites: their names and values.
        parameters: the tensors that the loss is differentiated by: those behind the sites, and others that it depends on.
        stored: the names of those that stand in Pyro's global store.
        parts: the modules, with all modules inside.
        buffers: of the modules.
        graphs: by the kind of arguments.
        calls: how often each of them was asked for.
    """

    program: Program
    sites: list[tuple[str, Tensor]]
    parameters: list[Tensor]
    stored: list[str]
    parts: list[nn.Module]
    buffers: Buffers
    graphs: dict[Any, Graph] = field(default_factory=dict)
    calls: Counter[Any] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.held = self.holds()

    def holds(self) -> list[tuple[Tensor | None, bool]]:
        """The parameters in the global store and in the modules at this moment, and whether each requires a gradient."""
        store = pyro.get_param_store()._params
        now = [*map(store.get, self.stored), *(p for part in self.parts for p in part._parameters.values())]
        return [(tensor, tensor is not None and tensor.requires_grad) for tensor in now]

    @property
    def is_current(self) -> bool:
        """Whether the parameters are those that were announced, and require a gradient as then."""
        now = self.holds()
        pairs = zip(now, self.held, strict=False)
        return len(now) == len(self.held) and all(a is b and one == other for (a, one), (b, other) in pairs)

    @property
    def modes(self) -> tuple[bool, ...]:
        """The training mode of each part."""
        return tuple(part.training for part in self.parts)


class CompiledELBO(ELBO):
    """Any ELBO of Pyro whose loss and gradients are traced once for each kind of arguments, and then replayed.

    A drop-in for the ``loss`` of ``pyro.infer.SVI``, and for ``differentiable_loss`` in a loop of one's own: the optimizer stays
    the caller's, and the noise is that of the objective itself. The first call runs the program (autoguides set themselves
    up); calls 2, 4, 8, ... compare the graph with the program. A program that cannot be traced, or has changed, is run from
    then on, with a warning that names the line, as is one that is called with anything but tensors and plain values. The
    derivative of the loss is no function of the parameters anymore.

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
        self.known: dict[Any, list[Announced]] = {}
        """What each announced: at first, and where parameters were frozen or replaced, or the global store was cleared."""
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
        warn_if_nan(value := loss.item(), "loss")
        return value

    def _get_trace(self, *args: Any) -> Any:
        return self.objective._get_trace(*args)

    def _graph(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> tuple[Graph, list[Tensor]] | None:
        """The graph for these arguments, with their tensors; None where the objective itself is to be called."""
        if self.blocked:
            return None
        if (model, guide) not in self.met:
            self.met.add((model, guide))
            return None
        met = self.known.setdefault((model, guide), [])
        known = next((known for known in met if known.is_current), None)
        if known is None:
            known = _announced(model, guide, args, kwargs)
            met.append(known)
        tensors, tree_of = tensors_of((args, kwargs))
        leaves, spec = tree_flatten((args, kwargs))
        kind = [(leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves]
        key, parameters = (str(spec), str(kind), known.modes), known.parameters
        known.calls[key] += 1

        def loss(*given: Tensor) -> Tensor:
            args, kwargs = tree_of(*given)
            return differentiable_loss(self.objective, model, guide, args, kwargs, parameters)

        try:
            _check_arguments(leaves)
            with poutine.block():
                if key not in known.graphs:
                    if sum(len(known.graphs) for known in met) == MOST_KINDS:
                        raise UntraceableError(
                            f"more than {MOST_KINDS} kinds of arguments: give numbers that change as tensors"
                        )
                    known.buffers.keep()
                    others = [tensor.flip(0) if tensor.ndim else tensor for tensor in tensors]
                    try:
                        known.graphs[key] = trace(loss, tensors, others, parameters, known.buffers.settle)
                    finally:
                        known.buffers.restore(torch.tensor(True))
                if known.calls[key] & (known.calls[key] - 1) == 0:
                    _audit(known, known.graphs[key], loss, tensors, known.calls.total() + 1)
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
    @once_differentiable
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
        torch.enable_grad(),
        poutine.block(),
        listening(program) as announced,
        poutine.trace(param_only=True) as capture,
    ):
        drawn = poutine.trace(guide).get_trace(*args, **kwargs)
        made = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(*args, **kwargs)
        bound = drawn.log_prob_sum() + made.log_prob_sum()
    sites = [(name, site["value"]) for name, site in capture.trace.nodes.items() if site["type"] == "param"]
    store, behind = pyro.get_param_store()._params, [value.unconstrained() for _, value in sites]
    return Announced(
        program,
        sites,
        list({id(tensor): tensor for tensor in (*behind, *_leaves(bound)) if tensor.requires_grad}.values()),
        [name for (name, _), tensor in zip(sites, behind, strict=True) if store.get(name) is tensor],
        [part for module in announced.modules.values() for part in module.modules()],
        Buffers(announced.modules.values()),
    )


def _leaves(value: Any) -> list[Tensor]:
    """The tensors that a value may be differentiated by: parameters that no site announces are among them."""
    todo, seen, found = [getattr(value, "grad_fn", None)], set(), []
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [source for source, _ in node.next_functions]
            found += [node.variable] if hasattr(node, "variable") else []
    return found


def _check_arguments(leaves: Iterable[Any]) -> None:
    """Refuse arguments whose numbers, or whose part in a derivative, a graph does not see.

    Raises:
        UntraceableError: there is one.
    """
    for leaf in leaves:
        if isinstance(leaf, Tensor) and leaf.requires_grad:
            raise UntraceableError("an argument requires a gradient, which its graph would not give")
        if not isinstance(leaf, (Tensor, torch.dtype, torch.device, *PLAIN)) and not callable(leaf):
            raise UntraceableError(f"an argument is a {type(leaf).__name__}, whose numbers may change: give tensors")


def _audit(known: Announced, graph: Graph, loss: Callable[..., Tensor], tensors: list[Tensor], number: int) -> None:
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
            f"at call {number} it gives a loss of {true_value:.8g} and a gradient of norm {true_norm:.6g}, its graph "
            f"{own_value:.8g} and {own_norm:.6g}: it has changed"
        )
