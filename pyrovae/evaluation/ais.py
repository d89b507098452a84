"""Annealed importance sampling with HMC, batched over chains and data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrovae.evaluation.gaussian import Gaussian
from pyrovae.evaluation.hmc import LogDensity, State, adapted, at, transition
from pyrovae.evaluation.unconstrained import LatentSpace

PILOT_CHAINS = 4
MASS_DRAWS = 64
"""Draws of the start from which the scale of the proposals is taken."""


SMOOTHED = 9
"""Temperatures over which the spread of the log ratio is averaged."""
KEPT = 0.2
"""The share of the temperatures that stays on the grid of the pilot."""


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


def from_mixture(space: LatentSpace, starts: Sequence[Start]) -> Start:
    """Start at the mixture of several starts, from which draws are taken by turns.

    Raises:
        ValueError: some latents are masked, and the starts count them differently.
    """
    if not space.counted.all():
        raise ValueError("some latents of these rows are masked: give one start, since several count them differently")

    def draw(num_samples: int) -> Tensor:
        drawn = torch.stack([start.draw(num_samples) for start in starts])
        first = int(torch.randint(len(starts), ())) if num_samples % len(starts) else 0  # as likely from each
        turns = (torch.arange(num_samples) + first) % len(starts)
        return drawn[turns, torch.arange(num_samples)]

    def densities(u: Tensor) -> tuple[Tensor, Tensor]:
        pairs = [start.log_density(u) for start in starts]
        return torch.stack([one for one, _ in pairs]).logsumexp(0) - math.log(len(starts)), pairs[0][1]

    return Start(draw, densities, Gaussian.of_draws(draw(MASS_DRAWS)))


@dataclass(frozen=True)
class Schedule:
    """How to anneal: inverse temperatures and transitions; frozen, so that one schedule serves forward and backward.

    Args:
        num_temperatures: T, the number of steps from the start to the target.
        leapfrog_steps: gradients per step.
        betas: from 0 to 1 for each row, of shape (T + 1, rows), frozen after a pilot; None before.
        step_sizes: of shape (T, rows), frozen after a pilot; None before.
    """

    num_temperatures: int = 100
    leapfrog_steps: int = 3
    betas: Tensor | None = None
    step_sizes: Tensor | None = None

    @property
    def grid(self) -> Tensor:
        """From 0 to 1, denser at both ends, of shape (T + 1,), float64: the temperatures of the pilot."""
        grid = torch.linspace(-4.0, 4.0, self.num_temperatures + 1, dtype=torch.float64).sigmoid()
        return (grid - grid[0]) / (grid[-1] - grid[0])


def pilot(start: Start, schedule: Schedule, num_chains: int = PILOT_CHAINS) -> Schedule:
    """Anneal once to choose temperatures and step sizes for each row; its weights are thrown away.

    Args:
        start: where to start.
        schedule: the number of temperatures, and leapfrog steps.
        num_chains: chains of the pilot.
    """
    state = at(start.log_density, start.draw(num_chains))
    grid = schedule.grid.to(state.start.device)[:, None].expand(-1, state.start.shape[1])
    step_size, sizes = torch.full_like(state.start[0], 0.5), []
    spreads = [_ratio(state).nan_to_num(posinf=0.0, neginf=0.0).std(0)]
    for beta in grid[1:]:
        state, acceptance = transition(start.log_density, state, beta, step_size, schedule.leapfrog_steps, start.mass)
        step_size = adapted(step_size, acceptance)
        sizes.append(step_size)
        spreads.append(_ratio(state).nan_to_num(posinf=0.0, neginf=0.0).std(0))
    betas = evenly_spread(grid, torch.stack(spreads))
    step_sizes = interpolated(betas[1:], grid[1:], torch.stack(sizes).double().log()).exp().to(state.start)
    return replace(schedule, betas=betas, step_sizes=step_sizes)


def evenly_spread(grid: Tensor, spreads: Tensor) -> Tensor:
    r"""As many temperatures, between which the weights of the chains lose equally much of their effective sample size.

    A step by delta leaves a share of about 1 - delta^2 s^2 of it, s being the standard deviation of the log ratio there, so
    that all steps are equal in the integral of s. Since few chains estimate s, it is smoothed over neighboring temperatures,
    and a part of the steps stays as the grid has it.

    Args:
        grid: temperatures from 0 to 1, of shape (T + 1, rows).
        spreads: the standard deviation of log target - log start over chains, of the same shape.

    Reference: Zhou, Johansen & Aston 2016, Towards automatic model comparison, arXiv:1303.3123.
    """
    width = min(SMOOTHED, len(grid) // 2 * 2 - 1)
    padded = torch.nn.functional.pad(spreads.T[:, None], (width // 2, width // 2), mode="replicate")
    smooth = torch.nn.functional.avg_pool1d(padded, width, 1)[:, 0].T
    steps = (smooth[1:] + smooth[:-1]) / 2 * grid.diff(dim=0)
    steps = steps / steps.sum(0).clamp_min(torch.finfo(torch.float64).tiny)
    even = torch.full_like(steps, 1 / len(steps))
    lengths = torch.cat([torch.zeros_like(steps[:1]), ((1 - KEPT) * steps + KEPT * even).cumsum(0)])
    lengths = lengths / lengths[-1]
    wanted = torch.linspace(0, 1, len(grid), dtype=torch.float64, device=grid.device)[:, None].expand_as(grid)
    betas = interpolated(wanted, lengths, grid)
    betas[0], betas[-1] = 0.0, 1.0
    return betas


def interpolated(x: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """Linear interpolation down each column; x, the ascending places and the values are of shapes (any or many, rows)."""
    above = torch.searchsorted(places.T.contiguous(), x.T.contiguous()).T.clamp(1, len(places) - 1)
    (x0, x1), (y0, y1) = ((part.gather(0, above - 1), part.gather(0, above)) for part in (places, values))
    share = ((x - x0) / (x1 - x0).clamp_min(torch.finfo(torch.float64).tiny)).clamp(0, 1)
    return y0 + share * (y1 - y0)


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
    state, betas = at(start.log_density, start.draw(num_chains)), _betas(schedule)
    log_weight = torch.zeros_like(state.start, dtype=torch.float64)
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
    state, betas = at(start.log_density, u), _betas(schedule)
    log_weight = torch.zeros_like(state.start, dtype=torch.float64)
    for t in range(len(betas) - 1, 0, -1):
        if t < len(betas) - 1:
            state = _move(start, schedule, state, betas[t], t)
        log_weight -= (betas[t] - betas[t - 1]) * _ratio(state)
    return log_weight


def _ratio(state: State) -> Tensor:
    return (state.target - state.start).double()


def _betas(schedule: Schedule) -> Tensor:
    if schedule.betas is None:
        raise ValueError("the schedule has no temperatures and step sizes: run pilot(start, schedule) first")
    return schedule.betas


def _move(start: Start, schedule: Schedule, state: State, beta: Tensor, t: int) -> State:
    step_size: Any = schedule.step_sizes
    return transition(start.log_density, state, beta, step_size[t - 1], schedule.leapfrog_steps, start.mass)[0]
