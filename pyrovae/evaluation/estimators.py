"""Ways to estimate log p(x): each turns a batch of rows into log weights per sample and datum."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyrovae.errors import check_word
from pyrovae.evaluation import ais
from pyrovae.evaluation.gaussian import Gaussian
from pyrovae.evaluation.refine import RefinedGuide, fit_gaussian
from pyrovae.evaluation.unconstrained import LatentSpace
from pyrovae.programs.call import checked
from pyrovae.programs.rows import Block


class Estimator(ABC):
    """Log weights whose mean exponent is an unbiased estimate of p(x) for each datum."""

    name: str
    num_samples: int
    """The default number of samples per datum."""

    @property
    def strata(self) -> int:
        """The proposals that take turns, each for a fixed share of the samples."""
        return 1

    @abstractmethod
    def log_weights(self, block: Block) -> Tensor:
        """Of shape (samples, rows), float64, for one block of rows."""

    def per_row(self, num_samples: int) -> int:
        """Draws per datum that are needed at once: more rows are taken together where there are few."""
        return num_samples


@dataclass(frozen=True)
class Importance(Estimator):
    """Importance sampling from the program's guide.

    Reference: Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519.
    """

    name = "importance"
    num_samples = 1000

    def log_weights(self, block: Block) -> Tensor:
        """One weight for each draw of the guide."""
        return torch.cat([terms.log_weights for terms in block.terms()])


@dataclass(frozen=True)
class Refined(Estimator):
    """Importance sampling from a guide that is first optimized for each datum, then drawn from afresh.

    Args:
        family: ``"full"`` or ``"normal"``, see :func:`pyrovae.evaluation.refine`.
        num_steps: steps of Adam.
        num_particles: draws per datum and step.
        learning_rate: of the first step.
        guide: a refined guide of these rows, to be used instead of optimizing one.
    """

    family: str = "full"
    num_steps: int = 300
    num_particles: int = 8
    learning_rate: float = 0.05
    guide: RefinedGuide | None = None
    name = "refined"
    num_samples = 1000

    def per_row(self, num_samples: int) -> int:
        """The particles of a step: samples can be drawn a few at a time."""
        return self.num_particles

    def gaussian(self, space: LatentSpace, index: Tensor) -> Gaussian:
        """The optimized Gaussians of these rows."""
        if self.guide is not None:
            return self.guide.select_rows(index).gaussian
        if self.family not in ("normal", "full"):
            raise ValueError(f"family must be 'normal' or 'full', got {self.family!r}")
        return fit_gaussian(space, self.family == "full", self.num_steps, self.num_particles, self.learning_rate)

    def log_weights(self, block: Block) -> Tensor:
        """One weight for each fresh draw of the optimized guide."""
        space = LatentSpace(block.call)
        gaussian = self.gaussian(space, block.call.rows)
        return torch.cat([_weights(space, gaussian, tile.num_samples) for tile in block.tiles()])


def _weights(space: LatentSpace, gaussian: Gaussian, size: int) -> Tensor:
    u = gaussian.draw(size)
    with checked(False):  # fitting has checked the rows
        return (space.log_joint(u, masked=True) - gaussian.log_prob(u, space.counted)).double()


@dataclass(frozen=True)
class Mixture(Estimator):
    r"""Importance sampling from a mixture of Gaussians for each datum, each optimized from a start of its own.

    .. math:: w_s = \frac{p(x, u_s)}{\sum_g \frac{S_g}{S} q_g(u_s)}, \qquad u_s \sim q_{s \bmod G}

    A single optimized Gaussian sits on one mode, and loses the others while every alarm stays in order. Here the first
    component starts at the guide's moments. The others start uphill of draws from the best quarter of many draws of guide
    and prior, each as far as possible from the ones before. A mode that no component finds stays lost.

    Args:
        components: G, the number of Gaussians.
        candidates: draws of guide and of prior, each, among which the starts are chosen.
        family: ``"full"`` or ``"normal"``, see :func:`pyrovae.evaluation.refine`.
        num_steps: steps of Adam for each component.
        num_particles: draws per datum and step.
        learning_rate: of the first step.

    Reference: Veach & Guibas 1995, doi:10.1145/218380.218498 (balance heuristic); Owen & Zhou 2000, doi:10.2307/2669533.
    """

    components: int = 4
    candidates: int = 256
    family: str = "full"
    num_steps: int = 300
    num_particles: int = 8
    learning_rate: float = 0.05
    name = "mixture"
    num_samples = 1000

    @property
    def strata(self) -> int:
        """The components, which take turns."""
        return self.components

    def per_row(self, num_samples: int) -> int:
        """The draws among which starts are chosen."""
        return self.candidates

    def log_weights(self, block: Block) -> Tensor:
        """One weight for each draw; the components take turns, so that each has its share of any number of draws."""
        space = LatentSpace(block.call)
        starts = [None, *self.starts(space)]
        options = (self.family == "full", self.num_steps, self.num_particles, self.learning_rate)
        parts = [fit_gaussian(space, *options, start=start) for start in starts]
        total, pieces = block.work.num_samples, []
        shares = torch.tensor(
            [math.log(len(range(g, total, len(parts))) / total) for g in range(min(len(parts), total))]
        )
        parts = parts[: len(shares)]
        for tile in block.tiles():
            turn = torch.arange(tile.samples.start, tile.samples.stop) % len(parts)
            drawn = torch.stack([part.draw(tile.num_samples) for part in parts])
            u = drawn[turn, torch.arange(tile.num_samples)]
            log_q = torch.stack([part.log_prob(u, space.counted) for part in parts]) + shares[:, None, None]
            pieces.append((space.log_joint(u, masked=True) - log_q.logsumexp(0)).double())
        return torch.cat(pieces)

    def starts(self, space: LatentSpace) -> list[Gaussian]:
        """Narrow Gaussians uphill of draws of high density that lie far from each other, and from the guide's mean."""
        guide = space.guide_draws(self.candidates)
        sources = [guide] if space.flat else [guide, space.prior_draws(self.candidates)]
        own, kept = Gaussian.of_draws(guide), []
        for draws in sources:
            best = space.log_joint(draws).topk(max(len(draws) // 4, 1), dim=0).indices
            kept.append(draws.gather(0, best.unsqueeze(-1).expand(-1, -1, draws.shape[-1])))
        top = torch.cat(kept)
        spread = torch.cat(sources).std(0).clamp_min(1e-4)
        nearest = ((top - own.loc) / spread).square().sum(-1)
        found = []
        for _ in range(self.components - 1):
            chosen = top.gather(0, nearest.argmax(0)[None, :, None].expand(1, -1, top.shape[-1]))
            found.append(Gaussian(uphill(space, chosen[0], spread), own.tril))
            nearest = torch.minimum(nearest, ((top - chosen) / spread).square().sum(-1))
        return found


def uphill(space: LatentSpace, u: Tensor, spread: Tensor, num_steps: int = 100) -> Tensor:
    """Vectors ``(rows, size)`` moved towards higher density by Adam, in steps of a tenth of the spread that fall to zero."""
    with torch.enable_grad(), poutine.block(), checked(False):
        moved = torch.zeros_like(u, requires_grad=True)
        optimizer = torch.optim.Adam([moved], lr=0.1)
        for number in range(num_steps):
            optimizer.param_groups[0]["lr"] = 0.1 * (1 - number / num_steps)
            log_joint = space.log_joint((u + moved * spread)[None], masked=True).sum()
            moved.grad = torch.nan_to_num(torch.autograd.grad(-log_joint, moved)[0])
            optimizer.step()
        return (u + moved * spread).detach()


@dataclass(frozen=True)
class AIS(Estimator):
    """Annealed importance sampling with HMC; the samples are chains. Step sizes are adapted on a pilot, then frozen.

    Args:
        num_temperatures: steps from the start to the posterior.
        leapfrog_steps: gradients per step.
        start: where chains start: a function of the latent space, ``ais.from_guide`` or ``ais.from_prior``, or a
            :class:`Refined`, whose Gaussians are fitted first.

    Reference: Wu, Burda, Salakhutdinov & Grosse 2017, arXiv:1611.04273.
    """

    num_temperatures: int = 100
    leapfrog_steps: int = 3
    start: Any = ais.from_guide
    name = "ais"
    num_samples = 16

    def begin(self, space: LatentSpace, index: Tensor) -> ais.Start:
        """Where the chains of these rows start."""
        if isinstance(self.start, Refined):
            return ais.from_gaussian(space, self.start.gaussian(space, index))
        return self.start(space)

    def prepare(self, space: LatentSpace, index: Tensor) -> tuple[ais.Start, ais.Schedule]:
        """The start, and the schedule with step sizes from a pilot."""
        start = self.begin(space, index)
        return start, ais.pilot(start, ais.Schedule(self.num_temperatures, self.leapfrog_steps))

    def log_weights(self, block: Block) -> Tensor:
        """One weight for each chain."""
        start, schedule = self.prepare(LatentSpace(block.call), block.call.rows)
        return torch.cat([ais.anneal(start, schedule, tile.num_samples)[0] for tile in block.tiles()])


METHODS = {"importance": Importance(), "refined": Refined(), "mixture": Mixture(), "ais": AIS()}


def as_estimator(method: str | Estimator) -> Estimator:
    """An estimator by name with its defaults, or as it is.

    Raises:
        ValueError: another name.
    """
    if isinstance(method, Estimator):
        return method
    return METHODS[check_word("method", method, METHODS)]
