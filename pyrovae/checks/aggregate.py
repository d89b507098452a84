"""The aggregate posterior of some rows: draws of the guide, and their densities under the guides of all rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.checks.entries import by_kind, entry_kl, entry_log_prob, entry_means, rows_second, sampled_traces, unwrap
from pyrovae.programs import given_terms, latent_names, log_terms, site_log_prob
from pyrovae.programs.call import Call
from pyrovae.programs.masks import counted
from pyrovae.programs.rows import Block, RowWork, Tile
from pyrovae.programs.simulate import Substitute, many
from pyrovae.programs.sites import Site, data_axis, frame_of, is_delta, sites_of


@dataclass(frozen=True)
class Drawn:
    """Draws of the guide for all rows, with their log densities, ``(data, samples)``, and what is known of each site.

    Attributes:
        log_guide: under the row's own guide.
        log_prior: under the prior, discrete sites summed out.
        reconstruction: of the data given the draws.
        values: by site, the draws in the shape of a trace, all draws of all rows as particles, a single row.
        entry_log_prior: of each entry, for sites whose entries are independent and whose prior is fixed.
        kl: by site, of each entry, ``(data, *event_shape)``.
        means: by site, the guide's mean of each entry for each draw, ``(data, samples, *event_shape)``.
        whitened: the draws as standard normals under the prior, ``(data, samples, all entries)``; None if a prior is not
            normal.
        auxiliary: by site, the guide's auxiliary draws in the shape of the values.
        images: the sites that are computed from auxiliary draws; what is known of their entries alone is left out.
    """

    log_guide: Tensor
    log_prior: Tensor
    reconstruction: Tensor
    values: dict[str, Tensor]
    entry_log_prior: dict[str, Tensor]
    kl: dict[str, Tensor]
    means: dict[str, Tensor]
    whitened: Tensor | None
    auxiliary: dict[str, Tensor]
    images: frozenset[str]


def draw(work: RowWork) -> Drawn:
    """Draw from the guide for all rows, with the terms from which the structure is read.

    A masked entry, on which neither function says anything, stands at a draw from its prior, which takes the guide's
    place: the entry carries no information and follows the prior.
    """
    found = work.run(_drawn, "draws")
    parts, guide = by_kind(found), work.dry_run.guide_trace

    def particles(kind: str) -> dict[str, Tensor]:
        return {n: v.flatten(0, 1).unsqueeze(_axis(work, n, v)) for n, v in parts.get(kind, {}).items()}

    return Drawn(
        found["log_guide"],
        found["log_prior"],
        found["reconstruction"],
        values=particles("value"),
        entry_log_prior=parts.get("entry", {}),
        kl=parts["kl"],
        means=parts["mean"],
        whitened=found.get("whitened"),
        auxiliary=particles("auxiliary"),
        images=frozenset(n for n in latent_names(guide) if is_delta(guide.nodes[n]["fn"])),
    )


def _axis(work: RowWork, name: str, value: Tensor) -> int:
    """The data's axis of a site's value with so many axes, counted from the left: that of the dry run from the right."""
    site = work.dry_run.guide_trace.nodes[name]
    return value.ndim - (site["value"].ndim - data_axis(site))


def _drawn(block: Block) -> dict[str, Tensor]:
    pieces = [_of_tile(tile, block.work.dry_run.masked_latents) for tile in block.tiles()]
    columns = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
    kl = {name: value.mean(0) for name, value in columns.items() if name.startswith("kl ")}
    return {name: value.movedim(1, 0) for name, value in columns.items()} | kl


def _of_tile(tile: Tile, masked: list[str]) -> dict[str, Tensor]:
    """The terms of some draws, ``(draws, rows, ...)``."""
    call, redrawn = tile.call.redrawing(masked)
    model_trace, guide_trace = sampled_traces(Tile(call, tile.samples, tile.vectorize))
    terms = log_terms(model_trace, guide_trace, dtype=torch.float64)
    names, means = latent_names(guide_trace), entry_means(guide_trace)
    values = {n: redrawn.get(n, guide_trace.nodes[n]["value"]) for n in names}
    priors = {n: model_trace.nodes[n] for n in names}
    rest: Any = 0.0
    if redrawn:
        priors = _priors_at(tile.call, values, tile.num_samples)
        for name in redrawn:
            guide, prior = guide_trace.nodes[name], priors[name]
            counts = rows_second(_counts(guide), prior)
            of_prior = rows_second(unwrap(prior["fn"]).mean.expand_as(values[name]), prior)
            means[name] = torch.where(counts, means[name], of_prior)
            rest = rest + _sum_rows(_left_out(guide, prior), prior)
    log_guide, log_prior = terms.log_guide + rest, terms.log_prior + rest
    if any("_enumerate_dim" in site["infer"] for site in model_trace.nodes.values() if site["type"] == "sample"):
        log_guide = _sum_of(guide_trace, names).double() + rest
        log_prior = _summed_prior(tile.call, values, tile.num_samples) + rest
    images = [n for n in names if is_delta(guide_trace.nodes[n]["fn"])]
    free = [n for i, n in enumerate(names) if n not in images and _is_free(i, means[n], guide_trace.nodes[n])]
    entries = {n: entry_log_prob(priors[n], masked=False) for n in free if _is_fixed(priors[n])}
    kl = entry_kl(model_trace, guide_trace)
    kl |= {n: torch.full_like(kl[n], torch.nan) for n in images}  # a point has no density of its own
    columns = {
        "log_guide": log_guide,
        "log_prior": log_prior,
        "reconstruction": terms.log_weights + log_guide - log_prior,
    }
    for n in names:
        columns[f"value {n}"] = values[n].movedim(data_axis(guide_trace.nodes[n]), 1)
        columns[f"mean {n}"] = means[n]
        columns[f"kl {n}"] = kl[n].expand(tile.num_samples, *kl[n].shape)
        if entries.get(n) is not None:
            columns[f"entry {n}"] = rows_second(entries[n], guide_trace.nodes[n])  # type: ignore[arg-type]
    for n in _auxiliary(guide_trace):
        columns[f"auxiliary {n}"] = guide_trace.nodes[n]["value"].movedim(data_axis(guide_trace.nodes[n]), 1)
    whitened = _whitened([priors[n] for n in names])
    return columns if whitened is None else {**columns, "whitened": whitened}


def _auxiliary(trace: Trace) -> list[str]:
    """The draws of a guide from which its points are computed."""
    sites = [site for site in sites_of(trace) if site["infer"].get("is_auxiliary")]
    return [site["name"] for site in sites if not is_delta(site["fn"]) and frame_of(site)]


class _Done(Exception):  # noqa: N818
    """All latents have been seen."""


class _UntilSeen(Messenger):
    """Ends a run after some sites, before the data's network is run."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self.left = set(names)

    def _pyro_post_sample(self, msg: Any) -> None:
        self.left.discard(msg["name"])
        if not self.left:
            raise _Done


def _beginning(call: Call, model: Callable) -> Trace:
    """The trace of a model that ends after some sites."""
    with poutine.trace() as capture, suppress(_Done):
        model(*call.args, **call.kwargs)
    return capture.trace


def _priors_at(call: Call, values: Mapping[str, Tensor], particles: int) -> dict[str, Site]:
    """The model's latent sites at given values, with so many particles."""
    trace = _beginning(call, many(call, _UntilSeen(values)(Substitute(values)(call.program.model)), particles))
    return {name: trace.nodes[name] for name in values}


def _summed_prior(call: Call, values: dict[str, Tensor], particles: int) -> Tensor:
    """The log density of the latents under their prior, discrete sites summed out, ``(particles, rows)``."""
    given = _UntilSeen(values)(poutine.condition(call.program.model, data=values))
    trace = _beginning(call, EnumMessenger(-2 - call.nesting)(many(call, given, particles)))
    return given_terms(trace, values, dtype=torch.float64).log_weights


def _sum_of(trace: Trace, names: Collection[str]) -> Tensor:
    total: Any = 0.0
    for name in names:
        site = trace.nodes[name]
        batch = site["value"].shape[: site["value"].ndim - len(site["fn"].event_shape)]
        total = total + _sum_rows(site_log_prob(site).expand(batch), site)
    return total


def _counts(site: Site) -> Tensor:
    counts = counted(site)
    counts = torch.ones((), dtype=torch.bool, device=site["value"].device) if counts is None else counts
    return counts.expand(site["value"].shape)


def _left_out(guide: Site, prior: Site) -> Tensor:
    """The prior's log density of what the guide's mask leaves out, entry by entry or in blocks that are joint."""
    base = unwrap(prior["fn"])
    log_prob = base.log_prob(prior["value"])
    counts = _counts(guide)
    for _ in base.event_shape:
        counts = counts.all(-1)
    return torch.where(counts, log_prob.new_zeros(()), log_prob)


def _sum_rows(log_prob: Tensor, site: Site) -> Tensor:
    """The sum of what stands in the shape of a site's batch and event, ``(particles, data)``."""
    log_prob = log_prob.movedim(data_axis(site), 1)
    return log_prob.flatten(2).sum(-1) if log_prob.ndim > 2 else log_prob


def _is_free(position: int, means: Tensor, site: Site) -> bool:
    """The first site depends on no other latent; a later one shows it, if its mean moves with the particle."""
    if unwrap(site["fn"]).event_shape:
        return False
    return position == 0 or (len(means) > 1 and bool((means == means[:1]).all()))


def _is_fixed(prior: Site) -> bool:
    """Whether a prior is the same for every particle, as it is not where it depends on other latents."""
    parameters = [v for v in vars(unwrap(prior["fn"])).values() if isinstance(v, Tensor) and v.ndim]
    size, ndim = prior["value"].shape[0], prior["value"].ndim
    return all(value.ndim < ndim or size == 1 or bool((value == value[:1]).all()) for value in parameters)


def _whitened(priors: list[Site]) -> Tensor | None:
    columns = []
    for site in priors:
        base = unwrap(site["fn"])
        if not isinstance(base, torch.distributions.Normal) or len(base.batch_shape) > site["value"].ndim:
            return None
        white = rows_second((site["value"] - base.loc) / base.scale, site)
        columns.append(white.flatten(2) if white.ndim > 2 else white[..., None])
    return torch.cat(columns, -1).double()


class Cross(NamedTuple):
    """Log densities of draws under their own row's guide, the mean over all rows' guides, and that over all others'."""

    own: Tensor
    aggregate: Tensor
    others: Tensor


class _Running:
    """The densities of draws summed over the guides of rows, some rows at a time."""

    def __init__(self) -> None:
        self.own = self.others = torch.zeros(0)

    def add(self, log_prob: Tensor, draws: slice, own: Tensor, total: int) -> None:
        """Take in ``(some draws, some rows, ...)``; ``own`` is the position of each draw's row among these, or -1."""
        if not len(self.own):
            self.own = log_prob.new_full((total, *log_prob.shape[2:]), -math.inf)
            self.others = self.own.clone()
        mine = (own >= 0).nonzero()[:, 0]
        self.own[draws][mine] = log_prob[mine, own[mine]]
        log_prob[mine, own[mine]] = -math.inf
        self.others[draws] = torch.logaddexp(self.others[draws], log_prob.logsumexp(1))

    def cross(self, rows: int, samples: int) -> Cross:
        """The three densities, ``(data, samples, ...)``."""
        everyone = torch.logaddexp(self.own, self.others) - math.log(rows)
        others = self.others - math.log(max(rows - 1, 1))
        return Cross(*(v.reshape(rows, samples, *v.shape[1:]) for v in (self.own, everyone, others)))


def cross_densities(work: RowWork, drawn: Drawn) -> tuple[Cross, dict[str, Cross]]:
    """The densities of all draws under the guides of all rows: of all sites together, and of single entries by site."""
    rows, samples = drawn.log_guide.shape
    joint, entries = _Running(), {name: _Running() for name in drawn.entry_log_prior}
    width = sum(value[0].numel() for value in drawn.values.values())
    device = work.place.get("device")
    masked = [name for name in work.dry_run.masked_latents if name in drawn.values]

    def task(block: Block) -> dict[str, Tensor]:
        index = block.batch.index
        step = max(1, min(work.max_bytes, 2**27) // (64 * len(index) * max(width, 1)))
        for start in range(0, rows * samples, step):
            part = slice(start, min(start + step, rows * samples))
            owner = torch.arange(part.start, part.stop) // samples
            own = torch.where((owner >= index[0]) & (owner <= index[-1]), owner - index[0], -1)
            every = {**drawn.values, **drawn.auxiliary}
            placed = {n: _beside(v[part].to(device), _axis(work, n, v), len(index)) for n, v in every.items()}
            total, found = _at(block.call, placed, masked, entries, drawn)
            joint.add(total.cpu(), part, own, rows * samples)
            for name, value in found.items():
                entries[name].add(value.cpu(), part, own, rows * samples)
        return {"row": index}

    work.run(task, "aggregate posterior")
    return joint.cross(rows, samples), {name: running.cross(rows, samples) for name, running in entries.items()}


def _beside(value: Tensor, axis: int, rows: int) -> Tensor:
    return value.expand(*value.shape[:axis], rows, *value.shape[axis + 1 :])


def _at(
    call: Call, placed: dict[str, Tensor], masked: list[str], free: Collection[str], drawn: Drawn
) -> tuple[Tensor, dict[str, Tensor]]:
    """The log densities of some draws under the guides of the rows of a call, ``(draws, rows)``, and entry by entry.

    A latent that is computed from auxiliary draws is computed anew from the same ones; where another row's guide makes another
    value of them, its density at the given one is not known.
    """
    particles = len(next(iter(placed.values())))
    values = {n: value for n, value in placed.items() if n in drawn.values}
    given = {n: value for n, value in placed.items() if n not in drawn.images}
    guide = many(call, Substitute(given)(call.program.guide), particles)
    trace = poutine.trace(guide).get_trace(*call.args, **call.kwargs)
    priors = _priors_at(call, values, particles) if masked else {}
    total, entries = _sum_of(trace, placed), {}
    for name in drawn.images:
        site = trace.nodes[name]
        same = rows_second(torch.isclose(site["value"], values[name], rtol=1e-4, atol=1e-6), site)
        total = torch.where(same.flatten(2).all(-1) if same.ndim > 2 else same, total, torch.nan)
    rest = {name: _left_out(trace.nodes[name], priors[name]) for name in masked}
    for name, value in rest.items():
        total = total + _sum_rows(value, trace.nodes[name])
    for name in free:
        site = trace.nodes[name]
        entry: Any = entry_log_prob(site)
        entries[name] = rows_second((entry + rest.get(name, 0.0)).expand(site["value"].shape), site).double()
    return total.double(), entries
