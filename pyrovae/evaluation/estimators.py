"""Ways to estimate log p(x): each turns a batch of rows into log weights per sample and datum."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
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


METHODS = {"importance": Importance(), "refined": Refined(), "ais": AIS()}


def as_estimator(method: str | Estimator) -> Estimator:
    """An estimator by name with its defaults, or as it is.

    Raises:
        ValueError: another name.
    """
    if isinstance(method, Estimator):
        return method
    return METHODS[check_word("method", method, METHODS)]
