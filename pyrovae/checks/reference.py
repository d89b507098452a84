"""A reference posterior for each of a few rows, by Hamiltonian Monte Carlo, and the guide beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyro
import torch
from torch import Tensor

from pyrovae.arviz.containers import import_arviz
from pyrovae.checks.calls import Covariates, local_work
from pyrovae.checks.entries import along_latent, array
from pyrovae.checks.findings import CAUTION, GOOD, Finding, Result, share
from pyrovae.checks.nuts import nuts_chains
from pyrovae.data import batches
from pyrovae.errors import check_word
from pyrovae.evaluation.compiled import compiled
from pyrovae.evaluation.gaussian import Gaussian
from pyrovae.evaluation.hmc import LogDensity, State, adapted, at, transition
from pyrovae.evaluation.unconstrained import LatentSpace
from pyrovae.programs.rows import MAX_BYTES, Block

if TYPE_CHECKING:
    import xarray as xr

CONVERGED = 1.01
"""The R-hat up to which chains can stand for the posterior."""
STUCK = 1.05
"""The R-hat above which chains have not mixed."""


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


class ReferencePosterior(Result):
    """Draws that stand for the true posterior, with the evidence that they may, made by :func:`reference_posterior`.

    Args:
        values: by site, shape ``(chains, draws, data, *event_shape)``.
        method: ``"hmc"`` or ``"nuts"``.
    """

    def __init__(self, values: dict[str, Tensor], method: str) -> None:
        super().__init__(_diagnosed(values, method), judge)
        self.values = values

    @property
    def num_data(self) -> int:
        """The number of rows."""
        return self.dataset.sizes["data"]

    def draws(self) -> dict[str, Tensor]:
        """The chains joined: by site, shape ``(samples, data, *event_shape)``."""
        return {name: values.flatten(0, 1) for name, values in self.values.items()}

    def __repr__(self) -> str:
        chains, draws, rows = (self.dataset.sizes[name] for name in ("chain", "draw", "data"))
        return f"ReferencePosterior({self.method}, {rows} rows, {chains} chains x {draws} draws)\n{self.summary()}"


def _diagnosed(values: dict[str, Tensor], method: str) -> xr.Dataset:
    """The chains as ArviZ takes them, with the largest R-hat and the smallest effective sample size of each row."""
    import xarray as xr

    az = import_arviz()
    found = xr.Dataset(attrs={"method": method})
    for name, drawn in values.items():
        dims = [f"{name}_dim_{axis}" for axis in range(drawn.ndim - 3)]
        found[name] = xr.DataArray(array(drawn), dims=("chain", "draw", "data", *dims))
    chains, half = found.copy(), found.sizes["draw"] // 2
    if found.sizes["chain"] == 1:  # of which ArviZ asks for two: the halves of the one
        halves = [slice(None, half), slice(half, 2 * half)]
        chains = xr.concat([found.isel(draw=part) for part in halves], "chain")
    for name, measure in (("rhat", az.rhat), ("ess", az.ess)):
        by_site = measure(chains)
        found[name] = along_latent({site: by_site[site].values for site in values}, "data")
    found["max_rhat"], found["min_ess"] = found["rhat"].max("latent"), found["ess"].min("latent")
    return found


def judge(found: xr.Dataset) -> list[Finding]:
    """Whether the chains can serve as a reference, and what to do where not."""
    bad, rows = int((~(found["max_rhat"] <= CONVERGED)).sum()), found.sizes["data"]
    claim = f"R-hat at most {float(found['max_rhat'].max()):.3f}, effective draws at least {float(found['min_ess'].min()):.0f}."
    if not bad:
        return [Finding(GOOD, "chains", f"{claim} The chains agree: they can serve as the reference.")]
    advice = "Run longer chains (`Sampler(num_warmup=, num_samples=)`)."
    return [Finding(CAUTION, "chains", f"{claim} {share(bad, rows)} exceed {CONVERGED}.", advice)]


def reference_posterior(
    program: Any,
    data: Any,
    covariates: Covariates | None = None,
    *,
    method: str = "hmc",
    sampler: Sampler | None = None,
    seed: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> ReferencePosterior:
    r"""Draws from p(z | x) of each row by MCMC: the gold standard that a guide is held against.

    .. math:: p(z \mid x_i) \propto p(x_i \mid z)\, p(z)

    All rows and chains move at once, on the unconstrained latents, discrete sites summed out. Half of the chains start
    at the guide and half at the prior, so that a mode which the guide has missed shows in R-hat.

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``; local latents only.
        data: data of N rows.
        covariates: for each name, a tensor of N rows.
        method: ``"hmc"``, batched; or ``"nuts"``, Pyro's own, row by row and a hundred times slower: a cross-check.
        sampler: number and length of chains.
        seed: of all draws; None takes one from torch's random state.
        max_bytes: refuse what needs more memory.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Returns:
        A result whose ``values`` hold the chains by site, ``(chains, draws, data, *event_shape)``, and ``draws()`` the chains
        joined; over ``data`` and ``latent``: ``rhat`` (rank-normalized, split) and ``ess`` (of the bulk), both by ArviZ;
        over ``data``: ``max_rhat`` and ``min_ess``.

    Raises:
        ValueError: another method, global latents, or latents without an unconstrained form.

    Reference: Neal 2011, arXiv:1206.1901; Hoffman & Gelman 2014, arXiv:1111.4246; Vehtari et al. 2021, arXiv:1903.08008.

    >>> import pyrovae as pvae
    >>> vae = pvae.build_vae(5, likelihood="normal", latent_dim=2, hidden=(8,))
    >>> reference_posterior(vae, torch.zeros(3, 5), sampler=Sampler(2, 50, 50), seed=0).values["z"].shape
    torch.Size([2, 50, 3, 2])
    """
    check_word("method", method, _METHODS)
    sampler = Sampler() if sampler is None else sampler
    plan: dict[str, Any] = {
        "num_samples": sampler.num_chains,
        "seed": seed,
        "max_bytes": max_bytes,
        "progress": progress,
    }
    work = local_work(program, data, covariates, **plan)
    with compiled(work):
        found = work.run(lambda block: _METHODS[method](block, sampler), method)
    return ReferencePosterior({name: values.movedim(0, 2) for name, values in found.items()}, method)


def _hmc(block: Block, sampler: Sampler) -> dict[str, Tensor]:
    """Chains of the rows of a block, ``(rows, chains, draws, *rest)``."""
    space = LatentSpace(block.call)
    with pyro.validation_enabled(False):  # the space's own first run has validated
        chains = run_chains(space, sampler)
    values = [space.values(u)[0] for u in chains]
    drawn = {b.name: torch.stack([rows_first(v[b.name], space) for v in values], 1) for b in space.blocks}
    return {name: value.movedim(2, 0) for name, value in drawn.items()}


def rows_first(value: Tensor, space: LatentSpace) -> Tensor:
    """A site's values with the rows right after the particles, unused plates dropped: (particles, rows, *rest)."""
    batch = 1 + space.call.nesting
    value = value.movedim(batch + space.data_dim, 1)
    unused = [axis for axis in range(2, batch) if value.shape[axis] == 1]
    return value.squeeze(unused) if unused else value


def run_chains(space: LatentSpace, sampler: Sampler) -> Tensor:
    """Chains on the unconstrained latents, of shape (draws, chains, rows, size); step sizes are frozen after warm-up."""

    def density(u: Tensor) -> tuple[Tensor, Tensor]:
        return (u * 0).sum(-1), space.log_joint(u)

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


def _nuts(block: Block, sampler: Sampler) -> dict[str, Tensor]:
    """The same, row by row."""
    loader = batches(block.work.data, 1, shuffle=False, **block.work.place)
    rows = [block.work.call(loader.batch(index[None])) for index in block.batch.index]
    parts = [nuts_chains(call, sampler.num_chains, sampler.num_warmup, sampler.num_samples) for call in rows]
    return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}


_METHODS: Mapping[str, Callable[[Block, Sampler], dict[str, Tensor]]] = {"hmc": _hmc, "nuts": _nuts}
