"""Evidence from a mixture of proposals for each datum: modes are searched from many starts, and the weights stay bounded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from pyrovae.evaluation.fitting import LONG, family_for, fit_gaussian
from pyrovae.evaluation.gaussian import Gaussian
from pyrovae.evaluation.psis import settled_k
from pyrovae.evaluation.unconstrained import LatentSpace
from pyrovae.programs.call import checked
from pyrovae.programs.rows import RowWork
from pyrovae.programs.sites import latent_names

CLIMB = (20, 40)
"""Steps uphill of all starts, and then of those that still lie apart."""
APART = 8
"""At most so many climb on."""
STRATA = 10
"""Proposals take turns of so many; two of each turn are the guide's."""
VALLEY = 0.1
"""Nats by which the density must fall between two optima for them to be two."""
DEAD = 1e-3
"""A component with a smaller share of the evidence among the pilot draws gets no draws."""
WIDEST = 3.0
"""The largest scale of a Gaussian at an optimum, in units of the guide's, where the curvature tells none."""
PILOT = 16
"""Draws of each component from which the number of its final draws follows."""
PROBED = 64
"""Rows on which it is tried whether a program has a mixture."""


class Optima(NamedTuple):
    """Distinct local maxima of each row's density, the highest first; rows with fewer repeat their highest.

    Args:
        places: of shape (optima, rows, size).
        counts: how many distinct ones each row has, at most as many as were asked for, of shape (rows,).
    """

    places: Tensor
    counts: Tensor


@dataclass(frozen=True)
class Stack:
    """Several Gaussians for each row, fitted as if each were a row of its own.

    Args:
        space: the latents of the rows.
        copies: Gaussians per row; all rows' first ones come first.
    """

    space: LatentSpace
    copies: int

    @property
    def counted(self) -> Tensor:
        """As that of the space, once for each copy."""
        return self.space.counted.repeat(self.copies, 1)

    def on(self, **changes: Any) -> Stack:
        """As that of the space."""
        return replace(self, space=self.space.on(**changes))

    def log_joint(self, u: Tensor, masked: bool = False) -> Tensor:
        """As that of the space, at vectors of shape (samples, copies * rows, size)."""
        samples, folded, size = u.shape
        spread = u.reshape(samples * self.copies, folded // self.copies, size)
        return self.space.log_joint(spread, masked).reshape(samples, folded)


@dataclass(frozen=True)
class Proposals:
    """The mixture of each row: Gaussians, and the program's guide with a share that stays; strata take turns.

    Args:
        space: the latents of the rows.
        gaussian: of copies * rows locations, as in :class:`Stack`.
        turns: which component draws in each stratum, of shape (strata, rows); -1 is the guide.
        total: the number of final draws.
    """

    space: LatentSpace
    gaussian: Gaussian
    turns: Tensor
    total: int

    @property
    def copies(self) -> int:
        """The number of Gaussians for each row."""
        return len(self.gaussian.loc) // self.space.rows

    @property
    def takes_part(self) -> bool:
        """Whether the guide is one of the components."""
        return bool((self.turns == -1).any())

    def draw(self, samples: Sequence[int]) -> Tensor:
        """The draws with these numbers, of shape (samples, rows, size)."""
        strata = torch.tensor(samples) % len(self.turns)
        drawn = self.gaussian.draw(len(samples)).unflatten(1, (self.copies, -1))
        turns = self.turns[strata]
        index = turns.clamp_min(0)[:, None, :, None].expand(-1, 1, -1, drawn.shape[-1])
        drawn = drawn.gather(1, index)[:, 0]
        own = (self.turns == -1).all(1)[strata]
        if own.any():
            drawn[own] = self.space.guide_draws(int(own.sum()))
        return drawn

    def log_densities(self, u: Tensor) -> Tensor:
        """Of each component at each vector, of shape (components, samples, rows); the guide, if it takes part, comes last."""
        copies = self.copies
        stacked = u.repeat(1, copies, 1)
        log_q = self.gaussian.log_prob(stacked, Stack(self.space, copies).counted)
        log_q = log_q.unflatten(1, (copies, -1)).transpose(0, 1)
        if not self.takes_part:
            return log_q
        own = self.space.log_guide(u, masked=True)[None]
        return torch.cat([log_q, torch.nan_to_num(own, nan=-torch.inf)])

    @property
    def log_shares(self) -> Tensor:
        """The logarithm of each component's share of the final draws, of shape (components, rows)."""
        strata = len(self.turns)
        sizes = torch.tensor([len(range(first, self.total, strata)) for first in range(strata)], dtype=torch.float64)
        components = [*range(self.copies), *([-1] if self.takes_part else [])]
        counts = torch.stack([((self.turns == one) * sizes[:, None]).sum(0) for one in components])
        return (counts / self.total).log().to(self.gaussian.loc)

    def log_weights(self, samples: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Of fresh draws: under the mixture, and under the guide alone at the same draws; (samples, rows), float64."""
        with checked(False):
            u = self.draw(samples)
            each = self.log_densities(u)
            log_joint = self.space.log_joint(u, masked=True)
        alone = log_joint - each[-1] if self.takes_part else torch.full_like(log_joint, torch.inf)
        return (log_joint - (each + self.log_shares[:, None]).logsumexp(0)).double(), alone.double()


def lacking(work: RowWork) -> str:
    """Why these rows have no mixture of proposals, in words; empty where they have one."""
    if not latent_names(work.dry_run.guide_trace):  # all are summed out: there is nothing to search
        return ""
    if not work.vectorize:
        return "the program runs once for each draw"
    call = work.call(work.first(len(work) if work.whole else min(work.rows, PROBED)))
    try:
        with work.evaluating(0), poutine.block():
            space = LatentSpace(call)
            space.log_joint(space.guide_draws(2) + 1e-3, masked=True)  # no draws that a flow remembers
    except (ValueError, KeyError, NotImplementedError) as error:
        return str(error).partition(":")[0].strip("'\"")
    return f"{space.size:,} coordinates of a row are more than {LONG}" if space.size > LONG else ""


def has_density(space: LatentSpace) -> bool:
    """Whether the guide has a density at the draws of others, of the coordinates that the model counts."""
    if space.auxiliary or not space.masked_alike:
        return False
    try:
        with torch.no_grad(), poutine.block(), checked(False):
            space.log_guide(space.guide_draws(1) + 1e-3, masked=True)
    except (KeyError, NotImplementedError):  # a flow that remembers its own draws alone
        return False
    return True


def strata_for(components: int) -> int:
    """Strata in which so many components and the one at the guide's moments have a turn each, beside the guide's two of ten."""
    return STRATA * -(-(components + 1) // (STRATA - 2))


def search(space: LatentSpace, num_starts: int, num_candidates: int, num_optima: int) -> Optima:
    """Climb from many starts, and keep the distinct optima; starts that have come to one hill climb on as one.

    Half of the starts are draws of high density that lie far from each other, the others are draws as they come: of the
    guide, of the guides of other rows, and of the prior.
    """
    num_candidates = max(num_candidates, 3 * num_starts // 4)  # enough for both halves
    guide = space.guide_draws(num_candidates)
    sources = [guide, torch.stack([draw.roll(1 + number, 0) for number, draw in enumerate(guide)])]
    if not space.flat:
        sources.append(space.prior_draws(num_candidates))
    spread = torch.cat(sources).std(0).clamp_min(1e-4)
    chosen = [guide.mean(0), *far_apart(space, sources, guide.mean(0), spread, num_starts // 2)]
    rest = num_starts - len(chosen)
    chosen += [sources[-1 - number % (len(sources) - 1)][number] for number in range(rest)]
    places = uphill(space, torch.stack(chosen), spread, CLIMB[0], 0.1, 0.07)
    apart = most(distinct(space, places, max(APART, num_optima))).places
    return most(distinct(space, uphill(space, apart, spread, CLIMB[1], 0.07, 0.0), num_optima))


def far_apart(space: LatentSpace, sources: list[Tensor], first: Tensor, spread: Tensor, count: int) -> list[Tensor]:
    """Draws from the best quarter of each source, each as far as possible from the ones before."""
    kept = []
    for draws in sources:
        best = space.log_joint(draws).topk(max(len(draws) // 4, 1), dim=0).indices
        kept.append(draws.gather(0, best.unsqueeze(-1).expand(-1, -1, draws.shape[-1])))
    top, found = torch.cat(kept), []
    nearest = ((top - first) / spread).square().sum(-1)
    for _ in range(count):
        one = top.gather(0, nearest.argmax(0)[None, :, None].expand(1, -1, top.shape[-1]))
        found.append(one[0])
        nearest = torch.minimum(nearest, ((top - one) / spread).square().sum(-1))
    return found


def uphill(space: LatentSpace, u: Tensor, spread: Tensor, num_steps: int, first: float, last: float) -> Tensor:
    """Vectors ``(starts, rows, size)`` moved towards higher density by Adam, in steps from one share of the spread to another."""
    with torch.enable_grad(), poutine.block(), checked(False):
        moved = torch.zeros_like(u, requires_grad=True)
        optimizer = torch.optim.Adam([moved], lr=first)
        for number in range(num_steps):
            optimizer.param_groups[0]["lr"] = first + (last - first) * number / num_steps
            log_joint = space.log_joint(u + moved * spread, masked=True).sum()
            moved.grad = torch.nan_to_num(torch.autograd.grad(-log_joint, moved)[0])
            optimizer.step()
        return (u + moved * spread).detach()


def distinct(space: LatentSpace, places: Tensor, num_optima: int) -> Optima:
    """The highest of some places and those beyond a valley: two are one optimum where the density halfway is as high."""
    with checked(False):
        height = torch.nan_to_num(space.log_joint(places, masked=True), nan=-torch.inf)
        left, rows = height.isfinite(), torch.arange(places.shape[1])
        found, counts = [], torch.zeros(len(rows), dtype=torch.long)
        for _ in range(num_optima):
            some = left.any(0)
            best = torch.where(left, height, -torch.inf).argmax(0)
            best = torch.where(some, best, torch.where(height.isfinite(), height, -torch.inf).argmax(0))
            one = places[best, rows]
            found.append(one)
            halfway = torch.nan_to_num(space.log_joint((places + one) / 2, masked=True), nan=-torch.inf)
            left = left & (halfway < torch.minimum(height, height[best, rows]) - VALLEY)
            left[best, rows] = False
            counts += some
    return Optima(torch.stack(found), counts)


def most(optima: Optima) -> Optima:
    """Without the places that are repeats in every row."""
    return Optima(optima.places[: max(1, int(optima.counts.max()))], optima.counts)


def laplace(space: LatentSpace | Stack, places: Tensor, spread: Tensor, widest: Tensor) -> Gaussian:
    """A Newton step from each place where that is uphill, and the Gaussian that has the curvature of the density there.

    A direction in which the density curves upwards gets a scale of ``WIDEST`` times the spread, one in which it is nearly flat
    at most the widest.

    Args:
        space: the latents of the rows.
        places: of shape (optima, rows, size).
        spread: of the guide, of shape (rows, size).
        widest: the largest scale in units of the spread, at least ``WIDEST``, of shape (rows,).
    """
    with torch.enable_grad(), poutine.block(), checked(False):
        white = torch.zeros_like(places, requires_grad=True)
        height = space.on(densities=None).log_joint(places + white * spread, masked=True)
        slope = torch.autograd.grad(height.sum(), white, create_graph=True)[0]
        rows = [torch.autograd.grad(part.sum(), white, retain_graph=True)[0] for part in slope.unbind(-1)]
    precision, slope = -torch.stack(rows, -1).detach(), torch.nan_to_num(slope.detach())
    values, vectors = torch.linalg.eigh(torch.nan_to_num(precision + precision.mT) / 2)
    curved = torch.where(values > 0, torch.maximum(values, widest[..., None] ** -2), WIDEST**-2)
    root = vectors * curved.rsqrt()[..., None, :]
    moved = places + spread * (root @ (root.mT @ slope[..., None]))[..., 0]
    upper = torch.linalg.qr(root.mT).R  # of the covariance by its root: rounding leaves no steep direction negative
    signs = torch.where(upper.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(upper)
    with checked(False):
        higher = space.log_joint(moved, masked=True) > height
    tril = spread[..., None] * (signs[..., None] * upper).mT
    return Gaussian(torch.where(higher[..., None], moved, places), tril)


def widest_scale(space: LatentSpace, spread: Tensor) -> Tensor:
    """The scale of the prior in units of the guide's, at least ``WIDEST``, of shape (rows,): a guide may be much too narrow.

    Args:
        space: the latents of the rows.
        spread: of the guide, of shape (rows, size).
    """
    if space.flat:
        return torch.full_like(spread[:, 0], WIDEST)
    with torch.random.fork_rng():
        prior = space.prior_draws(4 * PILOT).std(0)
    return (prior / spread).nan_to_num().amax(-1).clamp_min(WIDEST)


def proposals(
    space: LatentSpace,
    optima: Optima,
    total: int,
    *,
    family: str,
    num_steps: int,
    num_particles: int,
    rate: float,
    strata: int = STRATA,
    repeated: Callable[[Tensor], LatentSpace] | None = None,
) -> Proposals:
    """Gaussians fitted at the guide's moments and at the optima; a pilot decides how many strata each of them gets.

    Args:
        space: the latents of the rows.
        optima: as :func:`search` finds them.
        total: the number of final draws.
        family: as in :func:`pyrovae.evaluation.refine`.
        num_steps: steps of Adam.
        num_particles: draws per component and step.
        rate: the learning rate of the first step.
        strata: among how many turns the draws are shared out.
        repeated: from numbers of rows, each as often as it has components, to their latents, so that rows with few optima
            cost little; None where rows cannot be taken out, and every row gets as many components as any.
    """
    own, copies = Gaussian.of_draws(space.guide_draws(PILOT**2)), len(optima.places) + 1
    has = torch.arange(copies, device=own.loc.device)[:, None] <= optima.counts.to(own.loc.device)
    which, row = (has if repeated else torch.ones_like(has)).nonzero(as_tuple=True)
    fitted = len(row)
    spare = -fitted % max(1, space.rows // 2) if repeated else 0  # stacks of few sizes, whose densities share a graph
    which, row = (torch.cat([index, index[:1].expand(spare)]) for index in (which, row))
    stack: Any = repeated(row) if repeated else Stack(space, copies)
    family, spread = family_for(family, space.size), own.tril[row]
    loc, tril = torch.cat([own.loc[None], optima.places])[which, row], spread
    if family == "full":  # else the curvature would be as large as a full covariance
        around, is_own = laplace(stack, loc[None], spread, widest_scale(space, own.tril)[row]), which == 0
        loc = torch.where(is_own[:, None], loc, around.loc[0])
        tril = torch.where(is_own[:, None, None], torch.diag_embed(spread), around.tril[0])
    gaussian = fit_gaussian(stack, family, num_steps, num_particles, rate, start=Gaussian(loc, tril)).gaussian
    number = row[: space.rows].repeat(copies, 1)  # a component that a row lacks is its first one again
    number[which[:fitted], row[:fitted]] = torch.arange(fitted, device=number.device)
    gaussian = gaussian.each(lambda value: value[number.flatten()])
    takes_part = has_density(space)
    every = torch.arange(copies)
    pilot = Proposals(space, gaussian, every[:, None].expand(-1, space.rows), copies * PILOT)
    turns = shared_out(pilot, strata * (STRATA - 2) // STRATA if takes_part else strata)
    if takes_part:
        mine, rest = torch.full_like(turns[:1], -1), turns.split(STRATA // 2 - 1)
        turns = torch.cat([turn for part in rest for turn in (mine, part)])
    return replace(pilot, turns=turns, total=total)


def shared_out(pilot: Proposals, strata: int) -> Tensor:
    """Which component draws in each stratum: every one that matters in one, the others by their shares of the evidence."""
    with checked(False):
        u = pilot.draw(range(pilot.total))
        log_q = pilot.log_densities(u)
        log_w = pilot.space.log_joint(u, masked=True) - log_q.logsumexp(0)
        log_w = torch.nan_to_num(log_w, nan=-torch.inf, posinf=-torch.inf)
        shares = (log_q.log_softmax(0) + log_w.log_softmax(0)).exp().nan_to_num().sum(1)
    counts = torch.zeros_like(shares)
    turns = []
    for _ in range(strata):
        one = torch.where((shares > DEAD) & (counts == 0), 1.0 + shares, shares / (counts + 1)).argmax(0)
        counts += torch.nn.functional.one_hot(one, len(shares)).T
        turns.append(one)
    return torch.stack(turns)


def bounded_k(log_weights: Tensor, alone: Tensor) -> Tensor:
    r"""The Pareto shape of a mixture's weights, whose tail is bounded too.

    The guide's share bounds each weight:

    .. math:: w(u) \le \frac{w_{\mathrm{guide}}(u)}{0.2}

    Args:
        log_weights: under the mixture, of shape (samples, rows).
        alone: under the guide alone at the same draws; infinite where the guide takes no part.
    """
    mean = log_weights.logsumexp(0) - math.log(len(log_weights))
    return settled_k(log_weights, (alone.amax(0) - mean).exp() * STRATA / 2 / len(log_weights))
