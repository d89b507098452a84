"""Hamiltonian Monte Carlo on the latents of many data at once: one trajectory for every chain and datum."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pyro
import torch
from torch import Tensor

from pyrovae.evaluation.gaussian import Gaussian

LogDensity = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Vectors (chains, rows, size) -> the log densities (chains, rows) of the start and of the target."""
ACCEPTANCE = 0.8
"""The acceptance rate that step sizes are adapted to."""


class State(NamedTuple):
    """Where the chains are: vectors, both log densities, and their gradients."""

    u: Tensor
    start: Tensor
    target: Tensor
    start_gradient: Tensor
    target_gradient: Tensor

    def tempered(self, beta: Tensor | float) -> Tensor:
        """(1 - beta) start + beta target, of shape (chains, rows); beta is one number, or one for each row."""
        return torch.lerp(self.start, self.target, torch.as_tensor(beta).to(self.start))

    def gradient(self, beta: Tensor | float) -> Tensor:
        """The gradient of the tempered log density."""
        weight = torch.as_tensor(beta).to(self.u)[..., None]
        return torch.lerp(self.start_gradient, self.target_gradient, weight)


def at(log_density: LogDensity, u: Tensor) -> State:
    """The state of chains at u; a density that is no number or infinite counts as zero, so that the step is refused."""
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        start, target = log_density(u)
        start_gradient = _gradient(start, u)
        target_gradient = _gradient(target, u)
    return State(u.detach(), _finite(start), _finite(target), start_gradient, target_gradient)


def _finite(log_density: Tensor) -> Tensor:
    log_density = log_density.detach()
    return torch.where(log_density.isfinite(), log_density, -torch.inf)


def _gradient(values: Tensor, u: Tensor) -> Tensor:
    gradient = torch.autograd.grad(values.sum(), u, retain_graph=True)[0]
    return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)


def transition(
    log_density: LogDensity,
    state: State,
    beta: Tensor | float,
    step_size: Tensor,
    leapfrog_steps: int,
    mass: Gaussian,
) -> tuple[State, Tensor]:
    r"""One step of HMC that leaves the tempered density invariant.

    Pyro validates nothing on the way: a trajectory that leaves the support, or what floats can hold of it, is refused.

    Args:
        log_density: both log densities.
        state: where the chains are.
        beta: the inverse temperature, between the start (0) and the target (1), or one for each row.
        step_size: of shape (rows,), in units of the mass's scale.
        leapfrog_steps: gradients per transition.
        mass: the proposal's scale for each row.

    Returns:
        The new state, and the acceptance probabilities of shape (chains, rows).

    Reference: Neal 2011, arXiv:1206.1901.
    """
    epsilon = step_size[:, None]
    momentum = torch.randn_like(state.u)
    energy = state.tempered(beta) - 0.5 * momentum.square().sum(-1)
    proposal, moving = state, momentum
    with pyro.validation_enabled(False):
        for _ in range(leapfrog_steps):
            half = moving + 0.5 * epsilon * mass.shrink(proposal.gradient(beta))
            proposal = at(log_density, proposal.u + mass.stretch(epsilon * half))
            moving = half + 0.5 * epsilon * mass.shrink(proposal.gradient(beta))
    proposed = proposal.tempered(beta) - 0.5 * moving.square().sum(-1)
    acceptance = torch.nan_to_num((proposed - energy).clamp_max(0.0).exp(), nan=0.0)
    accepted = torch.rand_like(acceptance) < acceptance
    return State(*(_choose(accepted, new, old) for new, old in zip(proposal, state, strict=True))), acceptance


def _choose(accepted: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(accepted if new.ndim == accepted.ndim else accepted[..., None], new, old)


def adapted(step_size: Tensor, acceptance: Tensor, rate: float = 0.3) -> Tensor:
    """Step sizes moved towards the wanted acceptance, each row by its chains' average."""
    return step_size * (rate * (acceptance.mean(0) - ACCEPTANCE)).exp()
