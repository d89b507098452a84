"""Bidirectional Monte Carlo: log p(x) of simulated data between a lower and an upper bound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrovae.data import as_covariates
from pyrovae.errors import check_integer, check_seed
from pyrovae.evaluation import ais
from pyrovae.evaluation.compiled import compiled
from pyrovae.evaluation.estimators import AIS
from pyrovae.evaluation.unconstrained import LatentSpace
from pyrovae.programs import Program
from pyrovae.programs.dry_run import listening
from pyrovae.programs.rows import MAX_BYTES, Block, RowWork
from pyrovae.programs.simulate import simulate


@dataclass(frozen=True)
class Sandwich:
    """Stochastic bounds on log p(x) for each simulated datum, in nats, of shape (data,), float64."""

    lower: Tensor
    upper: Tensor

    @property
    def gap(self) -> float:
        """The mean distance of the bounds: at least the mean error of the estimator on such data."""
        return (self.upper - self.lower).mean().item()

    @property
    def gap_error(self) -> float:
        """The standard error of the gap, over data."""
        return ((self.upper - self.lower).std() / len(self.lower) ** 0.5).item()

    def plot(self, ax: Any = None) -> Any:
        """Draw the distance of the bounds of each datum, in ascending order; returns the axes.

        Args:
            ax: where to draw; by default a new figure.
        """
        from pyrovae.plots import plot_gaps

        return plot_gaps({"upper - lower": self.upper - self.lower}, ax=ax)

    def __repr__(self) -> str:
        return (
            f"Sandwich(data={len(self.lower)}, lower={self.lower.mean():.3f}, upper={self.upper.mean():.3f}, "
            f"gap={self.gap:.4f} +- {self.gap_error:.4f})"
        )


def bdmc(
    program: Any,
    num_simulations: int = 100,
    covariates: Mapping[str, Any] | None = None,
    *,
    estimator: AIS | None = None,
    num_chains: int | None = None,
    max_bytes: int = MAX_BYTES,
    seed: int | None = None,
    progress: bool | None = None,
) -> Sandwich:
    r"""Bound the error of annealed importance sampling, on data simulated from the model.

    .. math:: \mathbb{E}\Bigl[\log \tfrac1C \sum_c w_c\Bigr] \le \log p(x) \le
        -\mathbb{E}\Bigl[\log \tfrac1C \sum_c \overleftarrow{w}_c\Bigr]

    The backward chains start at the latents that made the data: exact draws from their posterior.

    Args:
        program: with a model that samples and returns its data when called without: ``model(size=100)``.
        num_simulations: rows to simulate.
        covariates: for each name, a tensor of that many rows.
        estimator: temperatures, leapfrog steps and start; by default ``AIS()``.
        num_chains: chains in each direction; by default the estimator's.
        max_bytes: refuse what needs more memory.
        seed: makes the draws reproducible.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Raises:
        ValueError: the model cannot be called without data.

    Reference: Grosse, Ghahramani & Adams 2015, arXiv:1511.02543.

    >>> import torch, pyrovae as pvae
    >>> vae = pvae.build_vae(3, likelihood="poisson", latent_dim=1)
    >>> sandwich = pvae.evaluation.bdmc(vae, 4, seed=0)
    >>> sandwich.lower.shape
    torch.Size([4])
    """
    check_integer("num_simulations", num_simulations)
    check_seed(seed)
    covariates = None if covariates is None else as_covariates(covariates)
    estimator = AIS() if estimator is None else estimator
    chains = estimator.num_samples if num_chains is None else num_chains
    source = Program.of(program)
    with torch.no_grad(), torch.random.fork_rng(), listening(source):
        if seed is not None:
            torch.manual_seed(seed)
        x, latents, _ = simulate(source.model, num_simulations, covariates=covariates)
    plan: dict[str, Any] = {"num_samples": chains, "max_bytes": max_bytes, "progress": progress}
    work = RowWork(program, x, covariates, seed=None if seed is None else seed + 1, **plan)

    def task(block: Block) -> dict[str, Tensor]:
        space = LatentSpace(block.call)
        rows = {name: _rows(latents[name], block.batch.index, name, space) for name in space.names}
        lower, upper = _bounds(block, space, estimator, chains, space.flatten(rows))
        return {"lower": lower, "upper": upper}

    with compiled(work):
        return Sandwich(**work.run(task, "bdmc"))


def _rows(value: Tensor, index: Tensor, name: str, space: LatentSpace) -> Tensor:
    """Some rows of a latent that was drawn without particles, with an axis of size one for those."""
    event_dim = next(block.event_dim for block in space.blocks if block.name == name)
    value = value.index_select(space.data_dim - event_dim, index.to(value.device))
    missing = space.call.nesting - (value.ndim - event_dim)
    return value.reshape(1, *[1] * missing, *value.shape)


def _bounds(block: Block, space: LatentSpace, estimator: AIS, chains: int, posterior: Tensor) -> tuple[Tensor, Tensor]:
    start, schedule = estimator.prepare(block, space)
    forward, _ = ais.anneal(start, schedule, chains)
    backward = ais.anneal_back(start, schedule, posterior.expand(chains, -1, -1))
    count = math.log(chains)
    return forward.logsumexp(0) - count, count - backward.logsumexp(0)
