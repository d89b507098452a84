"""The loss: a program under an objective, as a module from a batch to a number to minimize."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import Trace_ELBO
from pyro.infer.elbo import ELBO
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyrovae.data import Batch
from pyrovae.objectives.gradients import differentiable_loss, is_differentiable
from pyrovae.programs import DryRun, Program, beta
from pyrovae.programs.program import unwrapped
from pyrovae.programs.sites import frame_of, sites_of


class Loss(nn.Module):
    r"""A program under an objective: from a batch to minus the bound per row of the whole data set.

    .. math:: \ell(\mathrm{batch}) = -\frac1N \Bigl[\frac{N}{B} \sum_{i \in \mathrm{batch}} \mathcal{L}_i
        + \mathcal{L}_{\mathrm{global}}\Bigr]

    Its gradient is the objective's. The modules that the program announced are submodules, so that ``train``, ``to`` and
    ``parameters`` reach them.

    Args:
        program: the program.
        objective: an ELBO of Pyro or pyrovae; it is copied, and the caller's is left as it is.
        dry_run: one run of the program on a batch.
        num_rows: N, the rows of the whole data set.
        numbers: ``beta`` or ``beta/<site>``, and the objective's ``capacity``, to begin with; without a beta it is 1.
        checked: data sites whose values are compared with their support in each batch: outside, the loss is NaN.
    """

    def __init__(
        self,
        program: Program,
        objective: ELBO,
        dry_run: DryRun,
        num_rows: int,
        numbers: Mapping[str, float] | None = None,
        checked: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.announced, self.num_rows, self.checked = dry_run.announced, num_rows, frozenset(checked)
        self.parts = nn.ModuleList(self.announced.modules.values())
        self.known = {id(tensor) for tensor in self.announced.parameters.values()}
        self.operations: int | None = None
        """Floating point operations in the products of the first batch's loss, where they were counted."""
        frames = [frame for site in sites_of(dry_run.model_trace) if (frame := frame_of(site))]
        scaled = [frame.full_size for frame in frames if frame.full_size not in (None, frame.size)]
        self.full_size: int | None = max(scaled, default=None)
        """The rows to which a program without ``size`` scales each batch by itself."""
        numbers = numbers or {}
        self.betas = {
            name.partition("/")[2] or None: torch.tensor(value, dtype=torch.float64)
            for name, value in numbers.items()
            if name.startswith("beta")
        }
        self.program = self.unweighted = program
        if self.betas:
            weight: Any = self.betas.get(None, self.betas)
            self.program = Program(beta(program.model, weight), beta(program.guide, weight))
        self.given = objective
        self.objective: Any = copy.copy(objective)
        if objective.max_plate_nesting == math.inf:  # or Pyro finds it at the first step, and spends random numbers
            vectorized = objective.vectorize_particles and objective.num_particles > 1
            self.objective.max_plate_nesting = dry_run.nesting + vectorized
        self.differentiable = is_differentiable(objective)
        """Whether the objective gives its value as a tensor; TraceGraph_ELBO and RenyiELBO give gradients alone."""
        self.summed = (
            type(objective) is Trace_ELBO
            and objective.num_particles == 1
            and not isinstance(unwrapped(program.guide), GuideMessenger)
            and all(s["fn"].has_rsample for s in sites_of(dry_run.guide_trace) if not s["is_observed"])
        )
        """Whether the bound is the plain sum of log densities, and its derivative that of this sum."""
        if "capacity" in numbers:  # a tensor, which a graph of the loss reads anew at each step
            self.objective.capacity = torch.tensor(numbers["capacity"], dtype=torch.float64)
        self.nesting = dry_run.nesting
        self.like = next(iter(self.announced.trained.values()), torch.zeros(())).detach()
        self.indexed = False
        """Whether the guide holds parameters for each row and looks them up by ``index``."""

    def forward(self, batch: Batch) -> Tensor:
        """Minus the bound per row of the data, a 0-dim tensor in nats."""
        program, args, kwargs, size = self.arguments(batch)
        total, inside = self._sum(program, args, kwargs) if self.summed else (None, None)
        if total is None:
            with Watch(self.known, self.checked) as watch:
                total, inside = self.by_objective(program, args, kwargs), watch.inside
        if inside is not None:
            total = torch.where(inside, total, torch.nan)
        return total / size

    def check_parameters(self) -> None:
        """Refuse parameters that are others than those before training, which the optimizer does not know.

        Raises:
            ValueError: names the first of them.
        """
        for prefix, module in self.announced.modules.items():
            for path, parameter in module.named_parameters():
                name = f"{prefix}.{path}" if prefix else path
                if self.announced.tensors.get(name) is not parameter:
                    raise ValueError(
                        f"a callback has put another tensor in the place of the parameter {name}, and the optimizer does not "
                        "know it: change the values, as in `with torch.no_grad(): parameter.copy_(values)`, or call fit again"
                    )

    def train(self, mode: bool = True) -> Loss:
        """Set the mode of all parts; parts whose parameters are all frozen stay in eval mode."""
        super().train(mode)
        for part in self.parts.modules():
            parameters = list(part.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                part.eval()
        return self

    def arguments(self, batch: Batch, weighted: bool = True) -> tuple[Program, tuple, dict[str, Any], int]:
        """The program, at its betas or without, with the arguments for a batch; and the rows that the bound stands for.

        The bound of a program that neither takes ``size`` nor scales the batch by itself is that of the batch's rows.
        """
        program = self.program if weighted else self.unweighted
        size = self.num_rows if program.sized else self.full_size or len(batch.index)
        return *program.on(batch.x, batch.covariates, size, batch.index), size

    def set_number(self, name: str, value: float) -> None:
        """Set ``beta``, ``beta/<site>`` or the objective's ``capacity``."""
        self.number(name).fill_(value)

    def number(self, name: str) -> Tensor:
        """The 0-dim tensor that holds ``beta``, ``beta/<site>`` or ``capacity``."""
        return self.objective.capacity if name == "capacity" else self.betas[name.partition("/")[2] or None]

    def _sum(self, program: Program, args: tuple, kwargs: Mapping[str, Any]) -> tuple[Tensor | None, Tensor | None]:
        """Minus the bound in one pass over the sites; None where a draw that is not reparameterized appears.

        ``Trace_ELBO`` goes through the sites once more for the terms of the score, which are zero here.
        """
        run = Sum(self.known, self.checked)
        with run:
            program.guide(*args, **kwargs)
        if not run.reparameterized:
            return None, None
        run.sign = -1.0
        with run:
            program.model(*args, **kwargs)
        return run.total, run.inside

    def by_objective(self, program: Program, args: tuple, kwargs: Mapping[str, Any]) -> Tensor:
        """Minus the bound by the objective's own computation."""
        return differentiable_loss(
            self.objective, program.model, program.guide, args, kwargs, self.announced.trained.values()
        )


class Watch(Messenger):
    """Looks at a program's sites as it runs.

    Args:
        known: the ids of the parameters that were announced before training; others are refused.
        checked: the data sites whose values are compared with their support.
    """

    def __init__(self, known: Collection[int], checked: Collection[str]) -> None:
        super().__init__()
        self.known, self.checked = known, checked
        self.inside: Tensor | None = None
        """A 0-dim tensor: whether all values of the checked sites lie inside their support; None if there are none."""

    def _pyro_post_param(self, msg: Any) -> None:
        if id(msg["value"].unconstrained()) not in self.known:
            raise ValueError(
                f"the parameter {msg['name']!r} of shape {tuple(msg['value'].shape)} was announced after training began, and "
                "the optimizer does not know it: was a part swapped? Call fit again"
            )

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.checked:
            inside = msg["fn"].support.check(msg["value"]).all()
            self.inside = inside if self.inside is None else self.inside & inside


class Sum(Watch):
    """Adds up the log densities of the guide, then, with the opposite sign, those of the model at the guide's draws."""

    def __init__(self, known: Collection[int], checked: Collection[str]) -> None:
        super().__init__(known, checked)
        self.total: Any = 0.0
        self.sign = 1.0
        self.draws: dict[str, Any] = {}
        self.reparameterized = True

    def _pyro_sample(self, msg: Any) -> None:
        drawn = self.draws.get(msg["name"])
        if drawn is not None and not msg["is_observed"]:
            msg["value"], msg["infer"] = drawn
            msg["done"] = True

    def _pyro_post_sample(self, msg: Any) -> None:
        super()._pyro_post_sample(msg)
        if self.sign > 0 and not msg["is_observed"]:
            self.draws[msg["name"]] = msg["value"], msg["infer"]
        if site_is_subsample(msg):
            return
        if self.sign > 0 and not (msg["is_observed"] or msg["fn"].has_rsample):
            self.reparameterized = False
        log_prob = msg["fn"].log_prob(msg["value"], *msg["args"], **msg["kwargs"])
        self.total = self.total + self.sign * scale_and_mask(log_prob, msg["scale"], msg["mask"]).sum()
