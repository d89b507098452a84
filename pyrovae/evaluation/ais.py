"""Annealed importance sampling with HMC, batched over chains and data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyrovae.evaluation.gaussian import Gaussian
from pyrovae.evaluation.hmc import LogDensity, State, adapted, at, transition
from pyrovae.evaluation.unconstrained import LatentSpace

PILOT_CHAINS = 4
MASS_DRAWS = 64
"""Draws of the start from which the scale of the proposals is taken."""


class Start(NamedTuple):
    """Where annealing starts: draws, a normalized log density, and the scale of the proposals."""

    draw: Callable[[int], Tensor]
    log_density: LogDensity
    """Of the start and of the target."""
    mass: Gaussian


def from_guide(space: LatentSpace) -> Start:
    """Start at the program's guide, on the unconstrained latents; what both functions mask stays as it was drawn."""
    masked = space.masked_alike
    mass = Gaussian.of_draws(space.guide_draws(MASS_DRAWS))
    mass = mass.frozen(space.counted) if masked else mass
    return Start(space.guide_draws, lambda u: (space.log_guide(u, masked), space.log_joint(u, masked)), mass)


def from_prior(space: LatentSpace) -> Start:
    """Start at the model's prior: the path is the likelihood's power.

    Raises:
        ValueError: a latent has a flat prior.
    """
    if space.flat:
        raise ValueError(
            f"the latents {sorted(space.flat)} have no prior to start at (it is masked): start at the guide"
        )

    return Start(space.prior_draws, space.log_prior_and_joint, Gaussian.of_draws(space.prior_draws(MASS_DRAWS)))


def from_gaussian(space: LatentSpace, gaussian: Gaussian) -> Start:
    """Start at one Gaussian per datum, a refined guide's; what the model masks stays as it was drawn."""

    def densities(u: Tensor) -> tuple[Tensor, Tensor]:
        return gaussian.log_prob(u, space.counted), space.log_joint(u, masked=True)

    return Start(gaussian.draw, densities, gaussian.frozen(space.counted))


@dataclass(frozen=True)
class Schedule:
    """How to anneal: inverse temperatures and transitions; frozen, so that one schedule serves forward and backward.

    Args:
        num_temperatures: T, the number of steps from the start to the target.
        leapfrog_steps: gradients per step.
        step_sizes: of shape (T, rows), frozen after a pilot; None before.
    """

    num_temperatures: int = 100
    leapfrog_steps: int = 3
    step_sizes: Tensor | None = None

    @property
    def betas(self) -> list[float]:
        """From 0 to 1, denser at both ends."""
        grid = torch.linspace(-4.0, 4.0, self.num_temperatures + 1, dtype=torch.float64).sigmoid()
        return ((grid - grid[0]) / (grid[-1] - grid[0])).tolist()


def pilot(start: Start, schedule: Schedule, num_chains: int = PILOT_CHAINS) -> Schedule:
    """Anneal once to choose a step size for each temperature and datum; its weights are thrown away.

    Args:
        start: where to start.
        schedule: temperatures and leapfrog steps.
        num_chains: chains of the pilot.
    """
    state = at(start.log_density, start.draw(num_chains))
    step_size = torch.full_like(state.start[0], 0.5)
    sizes = []
    for beta in schedule.betas[1:]:
        state, acceptance = transition(start.log_density, state, beta, step_size, schedule.leapfrog_steps, start.mass)
        step_size = adapted(step_size, acceptance)
        sizes.append(step_size)
    return Schedule(schedule.num_temperatures, schedule.leapfrog_steps, torch.stack(sizes))


def anneal(start: Start, schedule: Schedule, num_chains: int) -> tuple[Tensor, Tensor]:
    r"""Chains from the start to the target, and their log weights.

    .. math:: \log w = \sum_t (\beta_t - \beta_{t-1}) [\log p(x, u_{t-1}) - \log q(u_{t-1})], \qquad \mathbb{E}[w] = p(x)

    Args:
        start: where to start.
        schedule: with frozen step sizes.
        num_chains: chains for each datum.

    Returns:
        Log weights of shape (chains, rows), float64, and the last vectors (chains, rows, size).

    Reference: Neal 2001, doi:10.1023/A:1008923215028; Wu, Burda, Salakhutdinov & Grosse 2017, arXiv:1611.04273.
    """
    state = at(start.log_density, start.draw(num_chains))
    log_weight = torch.zeros_like(state.start, dtype=torch.float64)
    betas = schedule.betas
    for t in range(1, len(betas)):
        log_weight += (betas[t] - betas[t - 1]) * _ratio(state)
        if t < len(betas) - 1:
            state = _move(start, schedule, state, betas[t], t)
    return log_weight, state.u


def anneal_back(start: Start, schedule: Schedule, u: Tensor) -> Tensor:
    """The time-reversed chains, from exact posterior draws to the start: log weights whose mean exponent is 1 / p(x).

    Args:
        start: where forward chains start.
        schedule: the forward chains'.
        u: exact draws from the posterior, of shape (chains, rows, size).

    Returns:
        Log weights of shape (chains, rows), float64.

    Reference: Grosse, Ghahramani & Adams 2015, arXiv:1511.02543.
    """
    state = at(start.log_density, u)
    log_weight = torch.zeros_like(state.start, dtype=torch.float64)
    betas = schedule.betas
    for t in range(len(betas) - 1, 0, -1):
        if t < len(betas) - 1:
            state = _move(start, schedule, state, betas[t], t)
        log_weight -= (betas[t] - betas[t - 1]) * _ratio(state)
    return log_weight


def _ratio(state: State) -> Tensor:
    return (state.target - state.start).double()


def _move(start: Start, schedule: Schedule, state: State, beta: float, t: int) -> State:
    if schedule.step_sizes is None:
        raise ValueError("the schedule has no step sizes: run pilot(start, schedule) first")
    step_size = schedule.step_sizes[t - 1]
    return transition(start.log_density, state, beta, step_size, schedule.leapfrog_steps, start.mass)[0]
