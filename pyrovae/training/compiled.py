"""The engine whose steps are one compiled call each, and that replays graphs until the call is built."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pyro
import torch
from torch import Tensor

from pyrovae.compiling import Flat, Graph, Library, Memory, Recipe, UntraceableError, Update
from pyrovae.compiling.products import by_onednn, is_small, onednn_is_faster, products_of
from pyrovae.missing import complete_data
from pyrovae.training.engine import GatherRows, Outcomes, Plan, State
from pyrovae.training.loss import Loss
from pyrovae.training.optimizer import rate_of
from pyrovae.training.rows import Memory as RowsInMemory
from pyrovae.training.rows import noise_seed
from pyrovae.training.traced import Traced

LOADING, BUILDING = 0.1, 45.0
"""Seconds of replayed steps that must be left for a library to be loaded from the cache, and to be built."""
LONGEST = 4096
"""Steps for which a compiled step has room in its tables; longer chunks are cut."""


class Compiled(Traced):
    """The engine whose steps on whole batches are one compiled call each; the others are those of :class:`Traced`.

    Args:
        *args: those of :class:`Traced`.
        total: the steps in all.
        waits: wait for the compiler. Else it works beside the training where that pays, and graphs are replayed until it is done.
        **options: those of :class:`Traced`.
    """

    def __init__(self, *args: Any, total: int, waits: bool, **options: Any) -> None:
        super().__init__(*args, **options)
        self.total, self.waits = total, waits
        self.call: Call | None = None
        self.seconds = 0.0
        """The seconds of a replayed step, as soon as one was measured without a trace beside it."""
        self.refused: str | None = None
        """Why steps are not compiled."""
        self.since: int | None = None
        """The first step that was compiled."""

    @property
    def name(self) -> str:
        """How steps are taken, and why."""
        if self.blocked:
            return super().name
        if self.since is not None:
            return f"compiled from step {self.since}"
        return f"traced, not compiled: {self.refused or 'the steps that were left would not have paid for it'}"

    def run(self, state: State, plan: Plan, rows: GatherRows) -> tuple[State, Outcomes]:
        """Take the steps of a plan: whole batches by compiled calls, as soon as these are there."""
        whole = int((plan.rows[:, -1] >= 0).sum()) if plan.rows.shape[1] else 0
        call = self.ready(state, plan, rows) if whole else None
        if call is None:
            started, traced = time.perf_counter(), len(self.graphs)
            taken = super().run(state, plan, rows)
            if len(self.graphs) == traced:
                self.seconds = (time.perf_counter() - started) / len(plan.rows)
            return taken
        bounds = [*range(0, whole, LONGEST), whole, len(plan.rows)]
        parts = []
        for first, last in itertools.pairwise(bounds):
            if last > first:
                part = Plan(plan.rows[first:last], {name: table[first:last] for name, table in plan.numbers.items()})
                taken = self.chunk(call, state, part, rows) if last <= whole else super().run(state, part, rows)
                parts.append(taken[1])
        return state, Outcomes(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def ready(self, state: State, plan: Plan, rows: GatherRows) -> Call | None:
        """The compiled step, once it is there; it is asked for when it is worth it."""
        if self.blocked or self.refused:
            return None
        if not isinstance(rows, RowsInMemory) or not rows.of_tensors:
            self.refuse("batches come from a loader, a transform or sparse rows, which are no part of a compiled step")
            return None
        if self.call is not None and self.call.step is not None:
            return self.call
        graph = self.graphs.get((((plan.rows.shape[1],), torch.int64),))
        if graph is None and self.waits and state.step:  # resumed: the next step is compiled, too
            self.buffers.keep()
            with suppress(UntraceableError), pyro.validation_enabled(False), complete_data(self.complete):
                graph = self.graph(*self.inputs(state, plan.rows[0], rows), rows)
        if graph is None:
            return None
        left = float("inf") if self.waits else (self.total - state.step) * self.seconds
        try:
            if self.call is None and left > LOADING:
                self.call = Call(self.loss, state, graph, plan, min(rows.steps, LONGEST), self.max_skipped)
            if self.call is None or (not self.call.library.is_begun and left < BUILDING):
                return None
            if not self.call.has_moments():  # every step was skipped so far
                return None
            if self.waits:
                self.call.is_built(False)  # begun first, so that both are built at once
                self.beside()
            if not self.call.is_built(self.waits):
                return None
            self.beside()
            return self.call
        except (UntraceableError, RuntimeError, OSError) as error:
            self.refuse(str(error))
            return None

    def refuse(self, reason: str) -> None:
        """Compile no more steps; where compiled ones were asked for, tell why."""
        self.refused = reason.partition("\n")[0]
        if self.waits:
            warnings.warn(f"steps are replayed, not compiled: {self.refused}", UserWarning, stacklevel=6)

    def chunk(self, call: Call, state: State, plan: Plan, rows: GatherRows) -> tuple[State, Outcomes]:
        """Take steps by compiled calls. Where the first one disagrees with the program, none of them counts."""
        expected = None
        with pyro.validation_enabled(False), complete_data(self.complete), by_onednn(self.rounded):
            self.buffers.keep()
            if self.due(state.step):
                for name, table in plan.numbers.items():
                    self.set_number(state, name, float(table[0]))
                expected = self.expected(state, plan.rows[0], rows)
        try:
            with by_onednn(self.rounded or call.onednn):
                losses, norms = call.run(state, plan, self.rank)
        except RuntimeError as error:
            taken = super().run(state, plan, rows)
            if taken[1].taken.all():  # else torch refused to draw from NaN
                self.refuse(str(error))
            return taken
        reason = None if expected is None else self.disagreement(state.step, losses[0], norms[0], expected)
        if reason:
            self.block(reason)
            return super().run(state, plan, rows)
        self.since = state.step if self.since is None else self.since
        call.store(state, len(plan.rows))
        for name, table in plan.numbers.items():
            self.set_number(state, name, float(table[-1]))
        return state, Outcomes(losses, norms, torch.full((len(losses),), plan.rows.shape[1]))

    def close(self) -> None:
        """Stop a compiler that is under way."""
        if self.call is not None:
            self.call.library.close()


class Call:
    """A compiled step with its tensors, which hold parameters and moments during a run alone.

    Args:
        loss: the loss, which holds the numbers that change.
        state: a state after at least one step.
        graph: loss and gradients by the numbers of the rows.
        plan: steps whose batches are whole.
        room: the most steps of a run.
        max_skipped: steps in a row that may be skipped.

    Raises:
        UntraceableError: the optimizer is none that is compiled, or the parameters are of two dtypes.
    """

    def __init__(self, loss: Loss, state: State, graph: Graph, plan: Plan, room: int, max_skipped: int) -> None:
        optimizer, count = state.optimizer, len(graph.parameters)
        if optimizer.scheduler is not None:
            raise UntraceableError("steps with a scheduler of torch are not compiled: write learning_rate=")
        limit = optimizer.largest_norm if optimizer.clip_norm is None else optimizer.clip_norm
        self.updates = Update.of(optimizer.torch_optimizer, limit, max_skipped)
        self.torch_optimizer, self.graph = optimizer.torch_optimizer, graph
        self.captured, first = graph.captured[count:], graph.parameters[0].detach()
        if any(tensor.dtype != first.dtype for tensor in graph.parameters) or min(graph.written, default=count) < count:
            raise UntraceableError("steps are compiled for parameters of one dtype")
        if any(tensor.device.type != "cpu" for tensor in graph.captured):
            raise UntraceableError("steps are compiled for the processor alone")
        self.written = [place - count for place in graph.written]
        held = {name: loss.number(name) for name in plan.numbers if name != "learning_rate"}
        found = {id(tensor): place for place, tensor in enumerate(self.captured)}
        self.places = {name: found[id(tensor)] for name, tensor in held.items() if id(tensor) in found}
        groups = {id(p): g for g, group in enumerate(self.torch_optimizer.param_groups) for p in group["params"]}
        shapes, own = [list(p.shape) for p in graph.parameters], [groups[id(p)] for p in graph.parameters]
        places, names = list(self.places.values()), list(self.places)
        recipe = Recipe(graph.module.code, shapes, own, self.written, names, places, self.updates)
        flat, kinds = Flat(shapes, own), len(self.updates)
        vectors = [flat.zeros(first.dtype) for _ in range(3)]
        self.views = [flat.views(vector) for vector in vectors]
        self.memory = Memory(
            weights=vectors[0],
            first=vectors[1],
            second=vectors[2],
            counts=torch.zeros(3, dtype=torch.int64),
            order=torch.zeros(room, plan.rows.shape[1], dtype=torch.int64),
            rates=torch.zeros(room, kinds, dtype=torch.float64),
            factors=torch.zeros(room, kinds, 2, dtype=torch.float64),
            losses=torch.zeros(room, dtype=first.dtype),
            norms=torch.zeros(room, dtype=torch.float64),
            numbers=[torch.zeros(room, dtype=torch.float64) for _ in names],
            others=[t.detach().clone() if p in self.written else t.detach() for p, t in enumerate(self.captured)],
        )
        self.threads = 1 if is_small(graph.module) else torch.get_num_threads()
        self.library = Library(recipe, self.memory.tensors(), self.threads)
        self.onednn = False
        """Whether oneDNN multiplies matrices, in full precision."""
        self.taken, self.block = 0, -1
        self.factors = torch.empty(0)
        """The corrections of Adam's biases for the steps of a block of ``LONGEST``, and of the block after it."""
        self.step: Callable[[list[Tensor]], object] | None = None

    def has_moments(self) -> bool:
        """Whether the optimizer has made its moments; one that is not fused makes them in the first step that counts."""
        return all("step" in self.torch_optimizer.state.get(parameter, ()) for parameter in self.graph.parameters)

    def is_built(self, waits: bool) -> bool:
        """Whether the library is there; else it is being built.

        Args:
            waits: wait until it is.

        Raises:
            RuntimeError: it could not be built.
        """
        if self.step is None:
            self.step = self.library.function(waits)
            self.onednn = self.step is not None and self._choice()
        return self.step is not None

    @torch.no_grad()
    def run(self, state: State, plan: Plan, rank: int) -> tuple[Tensor, Tensor]:
        """Take the steps, and return losses and gradient norms; the state is left as it was."""
        memory, steps = self.memory, len(plan.rows)
        moments = [self.torch_optimizer.state[parameter] for parameter in self.graph.parameters]
        self.taken = int(moments[0]["step"])
        for views, tensors in zip(self.views, (self.graph.parameters, *self._moments()), strict=True):
            torch._foreach_copy_(views, tensors)
        for place, tensor in enumerate(self.captured):
            if place in self.written:
                memory.others[place].copy_(tensor)
            else:
                memory.others[place] = tensor.detach()
        memory.counts.copy_(torch.tensor([0, 0, int(state.bad)]))
        memory.order[:steps] = plan.rows
        for number, group in enumerate(self.torch_optimizer.param_groups):
            table = plan.numbers.get("learning_rate")
            rates = group["lr"] if table is None else table.new_tensor([rate_of(group, v) for v in table.tolist()])
            memory.rates[:steps, number] = rates
        block, place = divmod(self.taken, LONGEST)
        if block != self.block:  # whole blocks: a number then has the same last bit wherever a chunk begins
            self.factors = torch.stack([update.factors(block * LONGEST, 2 * LONGEST) for update in self.updates], 1)
            self.block = block
        memory.factors[:steps] = self.factors[place : place + steps]
        for name, table in zip(self.places, memory.numbers, strict=True):
            table[:steps] = plan.numbers[name]
        inputs, take = memory.tensors(), self.step
        if take is None:
            raise ValueError("the compiled step is not built yet: ask is_built first")
        threads, start_from = torch.get_num_threads(), torch.default_generator.manual_seed
        torch.set_num_threads(self.threads)
        try:
            for number in range(state.step, state.step + steps):
                start_from(noise_seed(state.seed, "step", number, rank))
                take(inputs)
        finally:
            torch.set_num_threads(threads)
        return memory.losses[:steps].clone(), memory.norms[:steps].clone()

    @torch.no_grad()
    def store(self, state: State, steps: int) -> None:
        """Bring parameters, moments and buffers back to where they live."""
        for views, tensors in zip(self.views, (self.graph.parameters, *self._moments()), strict=True):
            torch._foreach_copy_(tensors, views)
        for place in self.written:
            self.captured[place].copy_(self.memory.others[place])
        _, taken, bad = self.memory.counts.tolist()
        for parameter in self.graph.parameters:
            self.torch_optimizer.state[parameter]["step"].fill_(self.taken + taken)
        state.bad.fill_(bad)
        state.step += steps

    def _choice(self) -> bool:
        """Whether oneDNN is faster: measured once, and kept beside the library, so that one seed gives one result."""
        path = self.library.path.with_suffix(".onednn")
        if not path.exists():
            is_single = self.memory.weights[0].dtype == torch.float32
            path.write_text(str(int(is_single and onednn_is_faster(products_of(self.graph.module)))))
        return path.read_text() == "1"

    def _moments(self) -> list[list[Tensor]]:
        states = [self.torch_optimizer.state[parameter] for parameter in self.graph.parameters]
        return [[entry[name] for entry in states] for name in ("exp_avg", "exp_avg_sq")]
