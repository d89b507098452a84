"""A reference posterior for each of a few rows, by Hamiltonian Monte Carlo, and the guide beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrovae.checks.calls import check_local
from pyrovae.checks.convergence import ess, rhat
from pyrovae.checks.entries import array
from pyrovae.checks.nuts import nuts_chains
from pyrovae.checks.simulate import Covariates, take
from pyrovae.checks.words import share
from pyrovae.evaluation.gaussian import Gaussian
from pyrovae.evaluation.hmc import LogDensity, State, adapted, at, transition
from pyrovae.evaluation.unconstrained import LatentSpace
from pyrovae.programs.draws import Draws

Array = NDArray[np.float64]
CONVERGED = 1.01
CHUNK_SIZE = 4096
"""Chains (pairs of a chain and a row) that move at once."""


@dataclass(frozen=True)
class Sampler:
    """How chains run: their number and length, and the longest trajectory.

    Args:
        num_chains: chains a row; half of them start at the guide, half at the prior.
        num_warmup: transitions that adapt step size and scale, and are thrown away.
        num_samples: draws kept of each chain.
        max_leapfrog: the largest number of gradients a transition, drawn anew for each.
    """

    num_chains: int = 8
    num_warmup: int = 200
    num_samples: int = 500
    max_leapfrog: int = 8

    def __post_init__(self) -> None:
        if min(self.num_chains, self.num_warmup, self.max_leapfrog) < 1 or self.num_samples < 4:
            raise ValueError(f"expected positive numbers and at least 4 samples, got {self}")


@dataclass(frozen=True, repr=False)
class ReferencePosterior:
    """Draws that stand for the true posterior, with the evidence that they may.

    Attributes:
        values: by site, shape ``(chains, draws, data, *event_shape)``.
        rhat: by site, shape ``(data, *event_shape)``.
        ess: by site, likewise.
        method: ``"hmc"`` or ``"nuts"``.
    """

    values: dict[str, Tensor]
    method: str
    rhat: dict[str, Array] = field(init=False)
    ess: dict[str, Array] = field(init=False)

    def __post_init__(self) -> None:
        for name, measure in (("rhat", rhat), ("ess", ess)):
            object.__setattr__(self, name, {n: measure(array(v)) for n, v in self.values.items()})

    @property
    def num_data(self) -> int:
        """The number of rows."""
        return next(iter(self.values.values())).shape[2]

    @property
    def max_rhat(self) -> Array:
        """The largest R-hat of each row, over all entries of all sites; shape ``(data,)``."""
        return np.max([values.reshape(len(values), -1).max(1) for values in self.rhat.values()], axis=0)

    @property
    def min_ess(self) -> Array:
        """The smallest effective sample size of each row; shape ``(data,)``."""
        return np.min([values.reshape(len(values), -1).min(1) for values in self.ess.values()], axis=0)

    def draws(self) -> dict[str, Tensor]:
        """The chains joined: by site, shape ``(samples, data, *event_shape)``."""
        return {name: values.flatten(0, 1) for name, values in self.values.items()}

    def summary(self) -> str:
        """Whether the chains can serve as a reference, and what to do where not."""
        bad = int((~(self.max_rhat <= CONVERGED)).sum())
        line = f"R-hat at most {self.max_rhat.max():.3f}, effective draws at least {self.min_ess.min():.0f}."
        if not bad:
            return f"{line} The chains agree: they can serve as the reference."
        return f"{line} {share(bad, self.num_data)} exceed {CONVERGED}: run longer chains (Sampler(num_warmup=, num_samples=))."

    def __repr__(self) -> str:
        chains, draws = next(iter(self.values.values())).shape[:2]
        return f"ReferencePosterior({self.method}, {self.num_data} rows, {chains} chains x {draws} draws)\n{self.summary()}"


def reference_posterior(
    program: Any,
    data: Any,
    covariates: Covariates | None = None,
    *,
    method: str = "hmc",
    sampler: Sampler | None = None,
    chunk_size: int = CHUNK_SIZE,
    seed: int = 0,
    progress: bool | None = None,
) -> ReferencePosterior:
    r"""Draws from p(z | x) of each row by MCMC: the gold standard that a guide is held against.

    .. math:: p(z \mid x_i) \propto p(x_i \mid z)\, p(z)

    All rows and chains move at once, on the unconstrained latents, discrete sites summed out. Half of the chains start
    at the guide and half at the prior, so that a mode which the guide has missed shows in R-hat.

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``; local latents only.
        data: data of N rows.
        covariates: a tensor of N rows for each name.
        method: ``"hmc"``, batched; or ``"nuts"``, Pyro's own, row by row and a hundred times slower: a cross-check.
        sampler: number and length of chains.
        chunk_size: pairs of a chain and a row that move at once.
        seed: of all draws.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Raises:
        ValueError: another method, global latents, or latents without an unconstrained form.

    Reference: Neal 2011, arXiv:1206.1901; Hoffman & Gelman 2014, arXiv:1111.4246; Vehtari et al. 2021, arXiv:1903.08008.

    >>> import pyro, pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2, 1.0))
    >>> reference_posterior((model, guide), torch.zeros(3), sampler=Sampler(2, 50, 50)).values["z"].shape
    torch.Size([2, 50, 3])
    """
    if method not in _METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, _METHODS))}, got {method!r}")
    sampler = Sampler() if sampler is None else sampler
    draws = Draws(program, data, covariates, sampler.num_chains, chunk_size, seed=seed, progress=progress)
    check_local(draws)
    with draws.each(method) as batches:
        parts = [_METHODS[method](draws, batch, sampler) for _, batch in batches]
    return ReferencePosterior({name: torch.cat([part[name] for part in parts], 2) for name in parts[0]}, method)


def _hmc(draws: Draws, batch: Any, sampler: Sampler) -> dict[str, Tensor]:
    space = LatentSpace(draws.call(batch))
    with pyro.validation_enabled(False):  # the space's own first run has validated
        chains = run_chains(space, sampler)
    values = [space.values(u)[0] for u in chains]
    return {b.name: torch.stack([rows_first(v[b.name], space) for v in values], 1).cpu() for b in space.blocks}


def rows_first(value: Tensor, space: LatentSpace) -> Tensor:
    """A site's values with the rows right after the particles, unused plates dropped: (particles, rows, *rest)."""
    batch = 1 + space.call.nesting
    value = value.movedim(batch + space.data_dim, 1)
    unused = [axis for axis in range(2, batch) if value.shape[axis] == 1]
    return value.squeeze(unused) if unused else value


def run_chains(space: LatentSpace, sampler: Sampler) -> Tensor:
    """Chains on the unconstrained latents, of shape (draws, chains, rows, size); step sizes are frozen after warm-up."""
    density = _target(space)
    guide = space.guide_draws(max(64, sampler.num_chains))
    from_prior = sampler.num_chains // 2
    start = torch.cat([guide[: sampler.num_chains - from_prior], space.prior_draws(max(1, from_prior))[:from_prior]])
    state, step = at(density, start), torch.full_like(start[0, :, 0], 0.3)
    state, step, seen = _adapt(density, state, step, Gaussian.of_draws(guide), sampler, sampler.num_warmup // 2)
    mass = _of_chains(seen)
    state, step, _ = _adapt(density, state, torch.full_like(step, 0.5), mass, sampler, -(-sampler.num_warmup // 2))
    kept = []
    for _ in range(sampler.num_samples):
        state, _ = transition(density, state, 1.0, step, _leaps(sampler), mass)
        kept.append(state.u)
    return torch.stack(kept)


def _target(space: LatentSpace) -> LogDensity:
    return lambda u: ((u * 0).sum(-1), space.log_joint(u))


def _leaps(sampler: Sampler) -> int:
    return int(torch.randint(1, sampler.max_leapfrog + 1, ()))


def _adapt(
    density: LogDensity, state: State, step: Tensor, mass: Gaussian, sampler: Sampler, num: int
) -> tuple[State, Tensor, Tensor]:
    """Moves with adapting steps; returns the average log step of the later half, and the draws of that half."""
    later, steps = [], []
    for number in range(max(num, 2)):
        state, acceptance = transition(density, state, 1.0, step, _leaps(sampler), mass)
        step = adapted(step, acceptance, 0.6 / (1 + number) ** 0.5)
        if 2 * number >= num:
            later.append(state.u)
            steps.append(step.log())
    return state, torch.stack(steps).mean(0).exp(), torch.stack(later)


def _of_chains(seen: Tensor) -> Gaussian:
    """Location and scale of each row from warm-up draws (draws, chains, rows, size): correlated where they suffice."""
    draws = seen.flatten(0, 1)
    size = draws.shape[-1]
    if len(draws) < 10 * size:
        return Gaussian.of_draws(draws)
    centered = draws - draws.mean(0)
    covariance = torch.einsum("sbi,sbj->bij", centered, centered) / len(draws)
    ridge = covariance.diagonal(dim1=-2, dim2=-1).clamp_min(1e-8)
    return Gaussian(draws.mean(0), torch.linalg.cholesky(0.95 * covariance + torch.diag_embed(0.05 * ridge)))


def _nuts(draws: Draws, batch: Any, sampler: Sampler) -> dict[str, Tensor]:
    """Row by row: a batch is cut into batches of one row."""
    rows = [draws.call(_row_of(batch, i)) for i in range(len(batch.index))]
    parts = [nuts_chains(call, sampler.num_chains, sampler.num_warmup, sampler.num_samples) for call in rows]
    return {name: torch.stack([part[name] for part in parts], 2) for name in parts[0]}


def _row_of(batch: Any, index: int) -> Any:
    rows = slice(index, index + 1)
    covariates = None if batch.covariates is None else {name: value[rows] for name, value in batch.covariates.items()}
    return replace(batch, x=take(batch.x, rows), index=batch.index[rows], covariates=covariates)


_METHODS: Mapping[str, Callable[[Draws, Any, Sampler], dict[str, Tensor]]] = {"hmc": _hmc, "nuts": _nuts}
