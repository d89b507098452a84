"""The optimization of a Gaussian for each row: its families, its steps, and whether it came to rest."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor, nn

from pyrovae.errors import check_word, refusal
from pyrovae.evaluation.gaussian import Gaussian
from pyrovae.evaluation.unconstrained import LatentSpace
from pyrovae.programs.call import checked
from pyrovae.programs.rows import Block

STAGES = 4
"""Parts of the optimization, each in coordinates whitened by the part before."""
INITIAL_DRAWS = 256
"""Draws of the program's guide from whose moments the optimization starts."""
FAMILIES = ("auto", "full", "low_rank", "normal")
LONG = 200
"""Coordinates above which ``"auto"`` is of low rank: a full covariance of 12,900 takes 0.7 GB for each row."""
RANK = 10
COPIES = 8
"""Tensors of a covariance's size that optimization holds: the parameters, their gradients, the moments of both, sums."""
SLACK = 0.1
"""Nats that one more step may promise for an optimization that has converged."""
ROUNDS = 4
"""How often rows that have not converged are optimized once more."""


class Fit(NamedTuple):
    """What the optimization of some rows came to."""

    gaussian: Gaussian
    converged: Tensor
    """Whether each row came to rest, of shape (rows,)."""


def not_converged(converged: Tensor) -> str:
    """How many rows have not converged, in a sentence; empty if all have."""
    count = int((~converged.bool()).sum())
    return (
        f"the optimization of {count} of {len(converged)} rows has not converged: one more step promises more than {SLACK} "
        "nats (take more steps, num_steps=1000, or a larger learning_rate)"
        if count
        else ""
    )


def family_for(family: str, size: int) -> str:
    """The family for so many coordinates."""
    if check_word("family", family, FAMILIES) != "auto":
        return family
    return "full" if size <= LONG else "low_rank"


def fit_rows(
    block: Block, space: LatentSpace, family: str, num_steps: int, num_particles: int, learning_rate: float
) -> Fit:
    """The fit of the rows of a block; those that have not converged go on from where they are.

    Args:
        block: the rows.
        space: their latents.
        family: as in :func:`refine`.
        num_steps: steps of Adam.
        num_particles: draws per datum and step.
        learning_rate: of the first step.

    Raises:
        ValueError: a full covariance needs more memory than the plan allows.
    """
    family = family_for(family, space.size)
    needed = COPIES * space.rows * space.size**2 * space.like.element_size()
    if family == "full" and needed > block.work.max_bytes:
        raise refusal(
            f"full covariances of {space.size} coordinates need about {needed / 2**20:.0f} MiB for {space.rows} rows, more than "
            f"max_bytes={block.work.max_bytes}: take family='low_rank', or write max_bytes={int(1.2 * needed)} or more",
            "family",
        )
    options: dict[str, Any] = {"num_steps": num_steps, "num_particles": num_particles, "learning_rate": learning_rate}
    fit = fit_gaussian(space, family, **options)
    alone = not (block.work.whole or space.flat)
    for _ in range(ROUNDS):
        left = (~fit.converged).nonzero()[:, 0]
        if not len(left):
            break
        left = left if alone else torch.arange(space.rows, device=left.device)
        few = LatentSpace(block.select(left).call) if alone else space
        again = fit_gaussian(
            few, family, start=fit.gaussian.each(partial(torch.index_select, dim=0, index=left)), **options
        )
        fit = Fit(fit.gaussian.put(left, again.gaussian), fit.converged.index_copy(0, left, again.converged))
    return fit


def fit_gaussian(
    space: LatentSpace,
    family: str,
    num_steps: int = 300,
    num_particles: int = 8,
    learning_rate: float = 0.05,
    start: Gaussian | None = None,
) -> Fit:
    """The Gaussian of each row that maximizes its ELBO, by Adam on path gradients, and whether that came to rest.

    Args:
        space: the latents of some rows.
        family: ``"normal"``, ``"low_rank"`` or ``"full"``.
        num_steps: steps of Adam.
        num_particles: draws per datum and step.
        learning_rate: of the first step.
        start: where to start; by default at the moments of the program's guide.
    """
    gaussian = _moments(space) if start is None else start
    if family == "low_rank" and gaussian.factor is None:
        noise = torch.randn(*gaussian.loc.shape, min(RANK, space.size)).to(gaussian.loc)
        gaussian = gaussian._replace(factor=0.1 * gaussian.tril[..., None] * noise)
    space.log_joint(gaussian.loc[None])  # checks the rows
    steps, seen = -(-num_steps // STAGES), []
    with torch.enable_grad(), poutine.block(), checked(False):
        for stage in range(STAGES):
            parameters = _Parameters(gaussian, family == "full")
            used, rate = list(parameters.parameters()), learning_rate / 2**stage
            optimizer, is_last = torch.optim.Adam(used, lr=rate, betas=(0.9, 0.99)), stage == STAGES - 1
            sums = [[torch.zeros_like(one), torch.zeros_like(one)] for one in used] if is_last else []
            for number in range(steps):
                if is_last:
                    optimizer.param_groups[0]["lr"] = rate * (1 - number / steps)
                gradients = torch.autograd.grad(-_elbo(space, parameters.gaussian(), num_particles), used)
                for parameter, gradient in zip(used, gradients, strict=True):
                    parameter.grad = torch.nan_to_num(gradient)
                if is_last and 2 * number >= steps:
                    seen.append(number)
                    for (total, squares), gradient in zip(sums, gradients, strict=True):
                        total += torch.nan_to_num(gradient)
                        squares += torch.nan_to_num(gradient).square()
                optimizer.step()
            gaussian = parameters.gaussian().detach()
    return Fit(gaussian, _at_rest(sums, len(seen)))


def _at_rest(sums: Sequence[Sequence[Tensor]], steps: int) -> Tensor:
    r"""Whether a Newton step promises each row little: half the squared gradient where the curvature is one, as in white space.

    .. math:: \sum_j c_j (\bar g_j^2 - \mathrm{se}_j^2) < 0.1 + 3 \sqrt{\textstyle\sum_j 2 c_j^2 \mathrm{se}_j^4}

    The curvature along the logarithm of a scale is two, so that c is a quarter there.

    Args:
        sums: of the gradients and of their squares over the steps, for shifts, log scales, and the rest if there is one.
        steps: their number.
    """
    slack = noise = torch.zeros(())
    for (total, squares), weight in zip(sums, (0.5, 0.25, 0.5), strict=False):
        mean = total / steps
        error = (squares / steps - mean.square()).clamp_min(0) / max(steps - 1, 1)
        slack = slack + weight * (mean.square() - error).flatten(1).sum(1)
        noise = noise + 2 * weight**2 * error.square().flatten(1).sum(1)
    return slack < SLACK + 3 * noise.sqrt()


def _moments(space: LatentSpace) -> Gaussian:
    """Of the guide's draws; of what is masked, of the prior's."""
    draws = space.guide_draws(INITIAL_DRAWS)
    if not space.counted.all():
        draws = torch.where(space.counted, draws, space.prior_draws(INITIAL_DRAWS))
    return Gaussian.of_draws(draws)


def _elbo(space: LatentSpace, q: Gaussian, num_particles: int) -> Tensor:
    """The ELBO of all rows, its derivative along the path of the draws alone, which vanishes at an exact guide."""
    u = q.draw(num_particles)
    return (space.log_joint(u, masked=True) - q.detach().log_prob(u, space.counted)).mean(0).sum()


class _Parameters(nn.Module):
    """The Gaussians during optimization, relative to where they start; each row is independent of the others."""

    def __init__(self, start: Gaussian, full: bool) -> None:
        super().__init__()
        self.start = start
        self.shift = nn.Parameter(torch.zeros_like(start.loc))
        self.log_scale = nn.Parameter(torch.zeros_like(start.loc))
        rows, size = start.loc.shape
        rest = start.loc.new_zeros(rows, size, size) if full else start.factor
        self.lower = None if rest is None else nn.Parameter(torch.zeros_like(rest))

    def gaussian(self) -> Gaussian:
        loc = self.start.loc + self.start.stretch(self.shift[None])[0]
        scale = self.log_scale.exp()
        if self.start.factor is not None and self.lower is not None:
            factor = self.start.factor + self.start.scale[..., None] * self.lower
            return Gaussian(loc, self.start.tril * scale, factor)
        if self.lower is None:
            return Gaussian(loc, self.start.tril * scale)
        inner = self.lower.tril(-1) + torch.diag_embed(scale)
        outer = self.start.tril
        return Gaussian(loc, outer @ inner if outer.ndim == 3 else outer[..., None] * inner)
