"""Per-datum optimization of the guide: semi-amortized inference, for evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial, update_wrapper
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyrovae.errors import check_integer, check_positive, check_word
from pyrovae.evaluation.compiled import compiled
from pyrovae.evaluation.coordinates import Coordinates, bijection
from pyrovae.evaluation.fitting import FAMILIES, fit_rows, not_converged
from pyrovae.evaluation.gaussian import Gaussian
from pyrovae.evaluation.unconstrained import LatentSpace, enumerating
from pyrovae.programs.rows import MAX_BYTES, Block, RowWork


class RefinedGuide:
    """A guide for certain rows: one Gaussian each on the unconstrained latents; made by :func:`refine`.

    Call it as any guide, on all of its rows, or on some of them after ``guide.select_rows(index)``. It is also a program:
    its ``model`` is the program's with discrete sites enumerated, its ``guide`` is itself.

    Args:
        space: the latents of some rows, for their layout.
        gaussian: location and scale of each row, on the unconstrained latents.
        counted: which coordinates the model does not mask, of the shape of the location; its density is that of these.
        model: the program's; by default that of the space.
        converged: whether the optimization of each row came to rest, of shape (rows,); by default all.
    """

    def __init__(
        self,
        space: LatentSpace,
        gaussian: Gaussian,
        counted: Tensor,
        model: Callable | None = None,
        converged: Tensor | None = None,
    ) -> None:
        self.space, self.gaussian, self.counted = space, gaussian, counted
        self.converged = counted.new_ones(len(counted)) if converged is None else converged
        self.program_model = space.call.program.model if model is None else model
        self.model = _enumerated(self.program_model)

    @property
    def guide(self) -> RefinedGuide:
        """Itself, so that a refined guide can be evaluated as a program."""
        return self

    @property
    def notes(self) -> str:
        """How many rows have not converged, in a sentence; empty if all have."""
        return not_converged(self.converged)

    def __call__(self, x: Any, *args: Any, covariates: Any = None, size: int | None = None) -> dict[str, Tensor]:
        """Draw the latents of the rows, in the plate ``data``; of the data nothing but the latents' supports may depend."""
        given = {name: value for name, value in (("covariates", covariates), ("size", size)) if value is not None}
        blocks = self._blocks(x, *args, **given) if self.space.varies else self.space.blocks
        rows, dim = len(self.gaussian.loc), self.space.data_dim
        index = torch.arange(rows, device=self.gaussian.loc.device)
        with pyro.plate("data", size or rows, subsample=index, dim=dim):
            drawn = self._drawn() if self.counted.all() else self._partly_counted()
            return {block.name: self._sample(block, drawn) for block in blocks}

    def _blocks(self, *args: Any, **given: Any) -> list[Coordinates]:
        """The latents with the bijections of the rows at hand, from a run of the model that leaves no trace."""
        with poutine.block(), torch.random.fork_rng():
            trace = poutine.trace(partial(self.program_model, **given)).get_trace(*args)
        return [replace(block, transform=bijection(trace.nodes[block.name])) for block in self.space.blocks]

    def _drawn(self) -> Tensor:
        return pyro.sample("_refined", self._normal(self.gaussian), infer={"is_auxiliary": True})

    def _partly_counted(self) -> Tensor:
        """Draws of all coordinates whose density is that of those which count."""
        drawn = pyro.sample("_refined", self._normal(self.gaussian).mask(False), infer={"is_auxiliary": True})
        counted, loc = (_at(value, self.space.data_dim) for value in (self.counted, self.gaussian.loc))
        at_loc = 0.5 * math.log(2 * math.pi) * (~counted).sum(-1)
        log_prob = (
            self._normal(self.gaussian.marginal(self.counted)).log_prob(torch.where(counted, drawn, loc)) + at_loc
        )
        pyro.factor("_refined_counted", log_prob, has_rsample=True)
        return drawn

    def _normal(self, gaussian: Gaussian) -> Any:
        loc, tril, factor = gaussian.each(lambda value: _at(value, self.space.data_dim))
        if gaussian.family == "full":
            return dist.MultivariateNormal(loc, scale_tril=tril)
        return (
            dist.Normal(loc, tril).to_event(1)
            if factor is None
            else dist.LowRankMultivariateNormal(loc, factor, tril.square())
        )

    def _sample(self, block: Coordinates, drawn: Tensor) -> Tensor:
        part, inner = _inner(drawn[..., block.coordinates], block)
        counted, _ = _inner(_at(self.counted, self.space.data_dim)[..., block.coordinates], block)
        value = block.transform(part)
        log_det = block.log_det(part, value, counted)
        log_det = log_det.sum(tuple(range(len(inner), log_det.ndim))) if log_det.ndim > len(inner) else log_det
        delta = dist.Delta(value, log_density=-log_det, event_dim=block.event_dim)
        plates = [pyro.plate(name, size, dim=dim) for name, size, dim in block.plates]
        for plate in plates:
            plate.__enter__()
        try:
            return pyro.sample(block.name, delta)
        finally:
            for plate in reversed(plates):
                plate.__exit__(None, None, None)

    def select_rows(self, index: Tensor) -> RefinedGuide:
        """The guide of some of the rows, in the order of ``index``."""
        index = index.to(self.counted.device)
        gaussian = self.gaussian.each(lambda value: value[index])
        return RefinedGuide(self.space, gaussian, self.counted[index], self.program_model, self.converged[index])

    def __len__(self) -> int:
        return len(self.gaussian.loc)

    def __repr__(self) -> str:
        lost = int((~self.converged).sum())
        rest = f", not_converged={lost}" if lost else ""
        return f"RefinedGuide(rows={len(self)}, size={self.space.size}, family={self.gaussian.family!r}{rest})"


def _enumerated(model: Callable) -> Callable:
    """The model with discrete sites enumerated; Pyro's handler is put around the call, since it refuses covariates."""

    def run(*args: Any, **kwargs: Any) -> Any:
        return enumerating(partial(model, **kwargs))(*args)

    return update_wrapper(run, model, updated=())


def _at(value: Tensor, data_dim: int) -> Tensor:
    """Put the rows at the dim of the data plate."""
    return value.reshape(value.shape[0], *[1] * (-1 - data_dim), *value.shape[1:])


def _inner(part: Tensor, block: Coordinates) -> tuple[Tensor, torch.Size]:
    """(*batch, k) -> (*batch with the inner plates in their places, *event), and that batch shape."""
    batch = part.shape[:-1]
    sizes = [size for _, size, _ in block.plates]
    part = part.reshape(*batch, *sizes, *block.event_shape)
    depth = max([len(batch), *(-dim for _, _, dim in block.plates)])
    part = part.reshape(*[1] * (depth - len(batch)), *part.shape)
    for number, (_, _, dim) in enumerate(block.plates):
        part = part.transpose(depth + dim, depth + number)
    spare = tuple(range(depth, depth + len(sizes)))
    part = part.squeeze(spare) if spare else part
    return part, part.shape[:depth]


def refine(
    program: Any,
    data: Any,
    covariates: Mapping[str, Any] | None = None,
    *,
    family: str = "auto",
    num_steps: int = 300,
    num_particles: int = 8,
    learning_rate: float = 0.05,
    max_bytes: int = MAX_BYTES,
    seed: int | None = None,
    progress: bool | None = None,
) -> RefinedGuide:
    r"""Optimize a guide for each datum by itself, started at the program's own: a semi-amortized posterior.

    .. math:: \max_{\mu_i, L_i}\ \mathbb{E}_{q(u \mid \mu_i, L_i)}[\log p(x_i, u) - \log q(u \mid \mu_i, L_i)]

    Latents are Gaussian in unconstrained space, all sites of a datum together; discrete ones are summed out, and
    coordinates that the model masks are left out of the density. A direction (an angle, a point on a sphere) is the direction
    of a vector. The model stays as it is. Evaluate the guide with fresh draws: ``log_weights(guide, x)``.

    A row has converged where the mean gradient over the last steps, in coordinates whitened by the Gaussian itself, promises
    at most .1 nats beyond its own noise. Rows that have not are optimized again, up to four times; the guide's ``converged``
    tells of each row whether it has, and its ``notes`` count those that have not.

    Args:
        program: as in :func:`pyrovae.evaluation.log_weights`.
        data: the data, N rows.
        covariates: for each name, a tensor of N rows.
        family: ``"normal"`` (independent coordinates), ``"low_rank"`` (these, and ten common directions), ``"full"`` (any
            covariance), or ``"auto"``: full for at most 200 coordinates, else of low rank.
        num_steps: steps of Adam for each batch of rows.
        num_particles: draws per datum and step.
        learning_rate: of the first steps, in units of the scales; it is halved in each of four stages and decays to zero
            in the last.
        max_bytes: refuse what needs more memory.
        seed: makes the draws reproducible.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Raises:
        ValueError: another family; latents outside the data plate or without an unconstrained form.

    Reference: Cremer, Li & Duvenaud 2018, arXiv:1801.03558; the gradient is Roeder, Wu & Duvenaud 2017, arXiv:1703.09194.

    >>> import torch, pyrovae as pvae
    >>> vae = pvae.build_vae(3, likelihood="poisson", latent_dim=1)
    >>> guide = pvae.refine(vae, torch.ones(4, 3), num_steps=60, seed=0)
    >>> pvae.log_weights(guide, torch.ones(4, 3), num_samples=5).shape
    torch.Size([5, 4])
    """
    check_word("family", family, FAMILIES)
    check_integer("num_steps", num_steps)
    check_positive("learning_rate", learning_rate)
    plan: dict[str, Any] = {"num_samples": num_particles, "seed": seed, "max_bytes": max_bytes, "progress": progress}
    work = RowWork(program, data, covariates, **plan)
    spaces: list[LatentSpace] = []

    def task(block: Block) -> dict[str, Tensor]:
        space = LatentSpace(block.call)
        spaces.append(space)
        fit = fit_rows(block, space, family, num_steps, num_particles, learning_rate)
        columns = {**fit.gaussian._asdict(), "counted": space.counted, "converged": fit.converged}
        return {name: value for name, value in columns.items() if value is not None}

    with compiled(work):
        found = {name: value.to(work.place.get("device")) for name, value in work.run(task, "refine").items()}
    gaussian = Gaussian(found["loc"], found["tril"], found.get("factor"))
    return RefinedGuide(spaces[0], gaussian, found["counted"], work.program.model, found["converged"])
