"""From a pair of traces to the log densities per datum."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.programs.elimination import Factor, eliminate, responsibilities
from pyrovae.programs.sites import (
    PARTICLES,
    Site,
    check_latents,
    check_plates,
    expanded_log_prob,
    frame_of,
    plate_dims,
    sites_of,
)


@dataclass(frozen=True)
class Terms:
    r"""The log densities of a pair of traces, each of shape ``(samples, data)``, in nats, never scaled.

    .. math:: \log w_{si} = \log p(x_i \mid z_{si}) + \log p(z_{si}) - \log q(z_{si} \mid x_i)

    Where discrete sites are summed out, a term is its expectation under their exact posterior and ``log_guide`` holds
    that posterior's log probability, so that the sum is the log of the summed weight.
    """

    reconstruction: Tensor
    """Observed sites of the model inside the data plate."""
    log_prior: Tensor
    """Latent sites of the model inside the data plate."""
    log_guide: Tensor
    """Sites of the guide inside the data plate."""
    outside: Tensor | None = None
    """Of shape (samples,): the log weight of everything outside the data plate (global latents); None if nothing is."""
    sites: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """The three terms by site: ``sites["log_prior"]["z"]``."""

    @property
    def log_weights(self) -> Tensor:
        """The sum, of shape (samples, data), given the global latents."""
        return self.reconstruction + self.log_prior - self.log_guide

    @property
    def kl(self) -> Tensor:
        """The guide's log density minus the prior's, of shape (samples, data)."""
        return self.log_guide - self.log_prior


def log_terms(model_trace: Trace, guide_trace: Trace, dtype: torch.dtype | None = None) -> Terms:
    """The log densities per datum of a model's trace replayed against its guide's.

    Args:
        model_trace: from :func:`paired_traces`.
        guide_trace: from :func:`paired_traces`.
        dtype: the type in which sites and plates are added up; None leaves the program's.

    Raises:
        ValueError: latent names differ; a Delta guide; no site in the plate; a sequential plate.
    """
    check_latents(model_trace, guide_trace)
    return _terms(sites_of(model_trace), sites_of(guide_trace), dtype)


def given_terms(trace: Trace, latents: Collection[str], dtype: torch.dtype | None = None) -> Terms:
    """The log densities per datum of one function, model or guide, run at given values of its latents.

    Its latents count as prior and its data as reconstruction; ``log_guide`` is zero, but for discrete sites summed out.

    Args:
        trace: of the function conditioned on the values (``pyro.poutine.condition``).
        latents: the names of the sites that were conditioned.
        dtype: the type in which sites and plates are added up.
    """
    sites = [{**s, "is_observed": s["is_observed"] and s["name"] not in latents} for s in sites_of(trace)]
    return _terms(sites, [], dtype)


def _terms(model: list[Site], guide: list[Site], dtype: torch.dtype | None) -> Terms:
    observed, latent = ([s for s in model if s["is_observed"] is wanted] for wanted in (True, False))
    roles = {"reconstruction": observed, "log_prior": latent, "log_guide": guide}
    check_plates([*model, *guide])
    axes = Axes.of(model)
    local = {role: [s for s in sites if frame_of(s)] for role, sites in roles.items()}
    rest = {role: [s for s in sites if not frame_of(s)] for role, sites in roles.items()}
    enumerated = [s for s in (*latent, *guide) if "_enumerate_dim" in s["infer"]]
    _check_local(enumerated)
    parts = _summed_out(local, enumerated, axes, dtype) if enumerated else _plain(local, axes, dtype)
    zeros = torch.zeros_like(next(value for values in parts.values() for value in values.values()))
    totals = {role: sum(values.values(), zeros) for role, values in parts.items()}
    return Terms(**totals, outside=_outside(rest, axes, dtype), sites=parts)


class Axes(NamedTuple):
    """Where the particles and the data lie, counted from the right; the number of rows."""

    particles: int | None
    data: int
    size: int

    @classmethod
    def of(cls, sites: list[Site], particle_plate: str = PARTICLES) -> Axes:
        """The axes of a program, from its sites' plates."""
        data = next(frame for frame in (frame_of(s) for s in sites) if frame)
        particles = [frame.dim for s in sites for frame in s["cond_indep_stack"] if frame.name == particle_plate]
        return cls(particles[0] if particles else None, data.dim, data.size)

    def keep(self, log_prob: Tensor, *dims: int | None) -> Tensor:
        """Sum over all other axes: one row for each particle (one without), then one axis for each further dim."""
        kept = [dim % log_prob.ndim for dim in dims if dim is not None]
        others = [dim for dim in range(log_prob.ndim) if dim not in kept]
        log_prob = log_prob.sum(others) if others else log_prob
        return log_prob if self.particles is not None else log_prob[None]


def _plain(local: Mapping[str, list[Site]], axes: Axes, dtype: torch.dtype | None) -> dict[str, dict[str, Tensor]]:
    return {
        role: {s["name"]: axes.keep(expanded_log_prob(s, dtype), axes.particles, axes.data) for s in sites}
        for role, sites in local.items()
    }


def _summed_out(
    local: Mapping[str, list[Site]], enumerated: list[Site], axes: Axes, dtype: torch.dtype | None
) -> dict[str, dict[str, Tensor]]:
    """A site that the guide enumerates is summed exactly too: its own guide density cancels out of the weight."""
    names = _names(enumerated)
    kept = frozenset(dim for dim in (axes.particles, axes.data) if dim is not None)
    width = max(-dim for sites in local.values() for s in sites for dim in plate_dims(s))
    plates = {s["name"]: plate_dims(s) - kept for s in enumerated}
    chosen = [
        (role, s) for role, sites in local.items() for s in sites if role != "log_guide" or s["name"] not in plates
    ]
    signed = []
    for role, s in chosen:
        log_prob, sites = _by_site(_normalized(s) if s["name"] in plates else s, names, width, dtype)
        signed.append(Factor(-log_prob if role == "log_guide" else log_prob, sites, plate_dims(s) - kept))
    total = axes.keep(eliminate(signed, plates), axes.particles, axes.data)
    parts: dict[str, dict[str, Tensor]] = {role: {} for role in local}
    for (role, s), value in zip(chosen, responsibilities(signed, plates, tuple(kept)), strict=True):
        value = axes.keep(value, axes.particles, axes.data)
        parts[role][s["name"]] = -value if role == "log_guide" else value
    known = sum((-v if role == "log_guide" else v) for role, values in parts.items() for v in values.values())
    parts["log_guide"][" and ".join(sorted(plates))] = known - total
    return parts


def _names(enumerated: list[Site]) -> dict[int, str]:
    """The enumerated site that each of Pyro's ids stands for; the sites of a chain take turns at the same dims."""
    names: dict[int, str] = {}
    for site in enumerated:
        id_ = site["infer"]["_dim_to_id"][site["infer"]["_enumerate_dim"]]
        if names.setdefault(id_, site["name"]) != site["name"]:
            raise ValueError(
                f"discrete sites {names[id_]!r} and {site['name']!r} share an axis in the guide, which forgets one before "
                "the other, and depend on each other in the model: give pyro.markov the same history in both"
            )
    return names


def _normalized(site: Site) -> Site:
    """A masked discrete site is not there: its probabilities, which still sum to one, leave no trace in the sum."""
    return {**site, "mask": None}


def _by_site(
    site: Site, names: Mapping[int, str], width: int, dtype: torch.dtype | None
) -> tuple[Tensor, tuple[str, ...]]:
    """The log density with one axis for each enumerated site it depends on, then ``width`` axes; and these sites."""
    log_prob = expanded_log_prob(site, dtype)
    ids = site["infer"].get("_dim_to_id", {})
    dims = [dim for dim in range(-log_prob.ndim, -width) if log_prob.shape[dim] > 1]
    if any(ids.get(dim) not in names for dim in dims):
        raise ValueError(
            f"site {site['name']!r} depends on discrete sites that are out of its reach: use a state of pyro.markov only "
            "inside its loop, and no further back than its history; model and guide need the same loops"
        )
    sizes = [log_prob.shape[dim] for dim in dims]
    right = [1] * (width - log_prob.ndim) + list(log_prob.shape[-width:])
    return log_prob.reshape(sizes + right), tuple(names[ids[dim]] for dim in dims)


def _outside(rest: Mapping[str, list[Site]], axes: Axes, dtype: torch.dtype | None) -> Tensor | None:
    terms = [
        axes.keep(expanded_log_prob(s, dtype), axes.particles) * (-1 if role == "log_guide" else 1)
        for role, sites in rest.items()
        for s in sites
    ]
    return sum(terms[1:], terms[0]) if terms else None


def _check_local(enumerated: list[Site]) -> None:
    if not all(frame_of(site) for site in enumerated):
        raise ValueError(
            "an enumerated site lies outside the data plate: the rows are not independent given the other latents"
        )


def concatenate(parts: list[Terms], dim: int = 0) -> Terms:
    """Join terms along the samples (``dim=0``), or along the data (``dim=1``) given the same global draws."""
    names = {role: list(values) for role, values in parts[0].sites.items()}
    outside = parts[0].outside if dim else None
    if parts[0].outside is not None and not dim:
        outside = torch.cat([part.outside for part in parts if part.outside is not None])
    return Terms(
        reconstruction=torch.cat([p.reconstruction for p in parts], dim),
        log_prior=torch.cat([p.log_prior for p in parts], dim),
        log_guide=torch.cat([p.log_guide for p in parts], dim),
        outside=outside,
        sites={role: {n: torch.cat([p.sites[role][n] for p in parts], dim) for n in ns} for role, ns in names.items()},
    )
