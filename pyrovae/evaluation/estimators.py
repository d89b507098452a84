"""Ways to estimate log p(x): each turns a batch of rows into log weights per sample and datum."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyrovae.errors import check_word
from pyrovae.evaluation import ais, mixture
from pyrovae.evaluation.fitting import Fit, fit_rows
from pyrovae.evaluation.gaussian import Gaussian
from pyrovae.evaluation.refine import RefinedGuide
from pyrovae.evaluation.unconstrained import LatentSpace
from pyrovae.programs.call import checked
from pyrovae.programs.rows import Block, RowWork


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

    def evaluate(self, block: Block) -> tuple[Tensor, dict[str, Tensor]]:
        """The log weights, and by name what else became known of each row."""
        return self.log_weights(block), {}

    def per_row(self, num_samples: int) -> int:
        """Draws per datum that are needed at once: more rows are taken together where there are few."""
        return num_samples

    def suited(self, work: RowWork) -> tuple[Estimator, str]:
        """The estimator that a program can have, and why it is not this one; empty where it is."""
        return self, ""


@dataclass(frozen=True)
class Importance(Estimator):
    """Importance sampling from the program's guide.

    Reference: Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519.
    """

    name = "importance"
    num_samples = 1000

    def log_weights(self, block: Block) -> Tensor:
        """One weight for each draw of the guide."""
        return block.log_weights()


@dataclass(frozen=True)
class Refined(Estimator):
    """Importance sampling from a guide that is first optimized for each datum, then drawn from afresh.

    Args:
        family: ``"auto"``, ``"full"``, ``"low_rank"`` or ``"normal"``, see :func:`pyrovae.evaluation.refine`.
        num_steps: steps of Adam.
        num_particles: draws per datum and step.
        learning_rate: of the first step.
        guide: a refined guide of these rows, to be used instead of optimizing one.
    """

    family: str = "auto"
    num_steps: int = 300
    num_particles: int = 8
    learning_rate: float = 0.05
    guide: RefinedGuide | None = None
    name = "refined"
    num_samples = 1000

    def per_row(self, num_samples: int) -> int:
        """The particles of a step: samples can be drawn a few at a time."""
        return self.num_particles

    def fit(self, block: Block, space: LatentSpace) -> Fit:
        """The optimized Gaussians of these rows."""
        if self.guide is not None:
            guide = self.guide.select_rows(block.call.rows)
            return Fit(guide.gaussian, guide.converged)
        return fit_rows(block, space, self.family, self.num_steps, self.num_particles, self.learning_rate)

    def log_weights(self, block: Block) -> Tensor:
        """One weight for each fresh draw of the optimized guide."""
        return self.evaluate(block)[0]

    def evaluate(self, block: Block) -> tuple[Tensor, dict[str, Tensor]]:
        """The log weights, and whether the optimization of each row has converged."""
        space = LatentSpace(block.call)
        fit = self.fit(block, space)
        weights = [_weights(space, fit.gaussian, tile.num_samples) for tile in block.tiles()]
        return torch.cat(weights), {"converged": fit.converged}


def _weights(space: LatentSpace, gaussian: Gaussian, size: int) -> Tensor:
    u = gaussian.draw(size)
    with checked(False):  # fitting has checked the rows
        return (space.log_joint(u, masked=True) - gaussian.log_prob(u, space.counted)).double()


@dataclass(frozen=True)
class Mixture(Estimator):
    r"""Importance sampling from a mixture for each datum: Gaussians around all modes that are found, and the program's guide.

    .. math:: w_s = \frac{p(x, u_s)}{\sum_g \frac{S_g}{S} q_g(u_s)}, \qquad u_s \sim q_{g(s)}

    A single optimized Gaussian sits on one mode, and loses the others while every alarm stays in order. Here many starts
    climb to local optima: draws of the guide, of the guides of other rows, and of the prior. One Gaussian is optimized at
    the guide's moments and one at each of the highest distinct optima; pilot draws decide how many of the final draws each
    of them gets. A fifth of the draws is the guide's, so that no weight exceeds five times that under the guide alone. A
    guide with auxiliary draws, one that masks other latents than the model, and a flow without an inverse have no density at
    the draws of others: the mixture is then of Gaussians alone, and ``guide_share`` is 0. A mode that no start finds stays
    lost, and so do those beyond ``components``: the notes count the rows that have as many optima.

    Args:
        components: Gaussians at distinct optima, beside the one at the guide's moments.
        starts: from which optima are searched for.
        candidates: draws of each source among which the starts are chosen, at least three quarters of these.
        family: as in :func:`pyrovae.evaluation.refine`.
        num_steps: steps of Adam for each component.
        num_particles: draws per component and step.
        learning_rate: of the first step.
        robust: search twice, and raise an alarm where the two searches disagree.
        fallback: the method for a program that has no mixture (latents shared by rows, discrete ones that cannot be
            enumerated, more than 200 coordinates); None refuses the first two, and takes a low rank for the third.

    Reference: Veach & Guibas 1995, doi:10.1145/218380.218498 (balance heuristic); Owen & Zhou 2000, doi:10.2307/2669533.
    """

    components: int = 5
    starts: int = 64
    candidates: int = 48
    family: str = "auto"
    num_steps: int = 100
    num_particles: int = 4
    learning_rate: float = 0.02
    robust: bool = False
    fallback: str | None = None
    name = "mixture"
    num_samples = 1000

    @property
    def strata(self) -> int:
        """The turns that the proposals take."""
        return mixture.strata_for(self.components) * (1 + self.robust)

    def per_row(self, num_samples: int) -> int:
        """The vectors at which the density is needed at once."""
        return max(self.candidates, self.starts, (self.components + 1) * self.num_particles)

    def suited(self, work: RowWork) -> tuple[Estimator, str]:
        """This estimator, or its fallback and why the program has no mixture."""
        why = "" if self.fallback is None else mixture.lacking(work)
        return (as_estimator(self.fallback), why) if why and self.fallback else (replace(self, fallback=None), "")

    def log_weights(self, block: Block) -> Tensor:
        """One weight for each draw; the strata take turns, so that each has its share of any number of draws."""
        return self.evaluate(block)[0]

    def evaluate(self, block: Block) -> tuple[Tensor, dict[str, Tensor]]:
        """The log weights; how many starts and distinct optima there were, and how far two searches lie apart."""
        space, total = LatentSpace(block.call), block.work.num_samples
        turns = mixture.strata_for(self.components)
        by = [[s for s in range(total) if s // turns % (1 + self.robust) == n] for n in range(1 + self.robust)]
        optima = [mixture.search(space, self.starts, self.candidates, self.components) for _ in by]
        options: dict[str, Any] = {"num_steps": self.num_steps, "num_particles": self.num_particles}
        options |= {"rate": self.learning_rate, "strata": turns}
        if not (block.work.whole or space.flat):
            options["repeated"] = lambda rows: LatentSpace(block.select(rows).call)
        found = [
            mixture.proposals(space, one, len(numbers), family=self.family, **options)
            for one, numbers in zip(optima, by, strict=True)
            if numbers
        ]
        weights, alone = (torch.zeros(total, space.rows, dtype=torch.float64) for _ in range(2))
        for tile in block.tiles():
            for one, numbers in zip(found, by, strict=False):
                mine = [(s, place) for place, s in enumerate(numbers) if tile.samples.start <= s < tile.samples.stop]
                if mine:
                    at, places = zip(*mine, strict=True)
                    weights[at, :], alone[at, :] = one.log_weights(places)
        known = {
            "pareto_k": mixture.bounded_k(weights, alone),
            "starts": torch.full((space.rows,), len(by) * self.starts),
        }
        known["guide_share"] = torch.stack([(one.turns == -1).double().mean(0) for one in found]).mean(0)
        known["optima"] = torch.stack([one.counts for one in optima]).amax(0)
        if self.robust and len(found) > 1:
            means = [weights[numbers].logsumexp(0) - math.log(len(numbers)) for numbers in by]
            known["apart"] = (means[0] - means[1]).abs()
        return weights, known


@dataclass(frozen=True)
class AIS(Estimator):
    """Annealed importance sampling with HMC; the samples are chains.

    A pilot chooses the step sizes of each row and its temperatures, between which the effective sample size falls by the same
    share; then both are frozen.

    Args:
        num_temperatures: steps from the start to the posterior.
        leapfrog_steps: gradients per step.
        start: where chains start: a function of the latent space, ``ais.from_guide`` or ``ais.from_prior``, a
            :class:`Refined`, whose Gaussians are fitted first, or a tuple of these, whose mixture is then the start: chains
            start from each by turns, and a mode that one of them misses is reached from another.

    Reference: Wu, Burda, Salakhutdinov & Grosse 2017, arXiv:1611.04273; Zhou, Johansen & Aston 2016, arXiv:1303.3123.
    """

    num_temperatures: int = 100
    leapfrog_steps: int = 3
    start: Any = ais.from_guide
    name = "ais"
    num_samples = 16

    def __repr__(self) -> str:
        starts = self.start if isinstance(self.start, tuple) else (self.start,)
        names = ", ".join(getattr(one, "__qualname__", None) or repr(one) for one in starts)
        start = f"({names})" if isinstance(self.start, tuple) else names
        return f"AIS(num_temperatures={self.num_temperatures}, leapfrog_steps={self.leapfrog_steps}, start={start})"

    @property
    def strata(self) -> int:
        """The starts that take turns."""
        return len(self.start) if isinstance(self.start, tuple) else 1

    def begin(self, block: Block, space: LatentSpace, one: Any) -> ais.Start:
        """Where the chains of these rows start."""
        if isinstance(one, tuple):
            return ais.from_mixture(space, [self.begin(block, space, each) for each in one])
        return ais.from_gaussian(space, one.fit(block, space).gaussian) if isinstance(one, Refined) else one(space)

    def prepare(self, block: Block, space: LatentSpace) -> tuple[ais.Start, ais.Schedule]:
        """The start, and the schedule with temperatures and step sizes from a pilot."""
        start = self.begin(block, space, self.start)
        return start, ais.pilot(start, ais.Schedule(self.num_temperatures, self.leapfrog_steps))

    def log_weights(self, block: Block) -> Tensor:
        """One weight for each chain."""
        start, schedule = self.prepare(block, LatentSpace(block.call))
        return torch.cat([ais.anneal(start, schedule, tile.num_samples)[0] for tile in block.tiles()])


METHODS = {
    "auto": Mixture(fallback="importance"),
    "importance": Importance(),
    "refined": Refined(),
    "mixture": Mixture(),
    "ais": AIS(),
}
DEFAULT = "auto"
"""What estimates log p(x) where nothing is asked for: the mixture, and importance sampling where a program has none."""


def as_estimator(method: str | Estimator) -> Estimator:
    """An estimator by name with its defaults, or as it is.

    Raises:
        ValueError: another name.
    """
    if isinstance(method, Estimator):
        return method
    return METHODS[check_word("method", method, METHODS)]
