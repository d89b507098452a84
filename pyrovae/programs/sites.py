"""The sites of a trace: which count, in which plates they lie, and their log density over all of them."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyrovae.distributions.precise import log_prob_of

Site = dict[str, Any]
DATA = "data"
"""The plate over the rows of the data."""
PARTICLES = "particles"
"""The plate of the particles, to the left of every plate of the program."""


def site_log_prob(site: Site) -> Tensor:
    """The log density of a trace's site: masks count, scales (plates, beta) do not.

    >>> import pyro
    >>> with pyro.poutine.scale(scale=7.0):
    ...     trace = pyro.poutine.trace(lambda: pyro.sample("z", Delta(torch.tensor(1.0), log_density=2.0))).get_trace()
    >>> site_log_prob(trace.nodes["z"])
    tensor(2.)
    """
    log_prob = site.get("unscaled_log_prob")
    if log_prob is None:
        log_prob = log_prob_of(site["fn"], site["value"], *site["args"], **site["kwargs"])
    return scale_and_mask(log_prob, 1.0, site["mask"])


def expanded_log_prob(site: Site, dtype: torch.dtype | None = None) -> Tensor:
    """A site's log density over all of its plates, also where the distribution was not expanded over one."""
    log_prob = site_log_prob(site)
    return expanded(log_prob if dtype is None else log_prob.to(dtype), site)


def expanded(values: Tensor, site: Site) -> Tensor:
    """Values of a site, expanded over all plates around it."""
    frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
    shape = [1] * max((-frame.dim for frame in frames), default=0)
    for frame in frames:
        shape[frame.dim] = frame.size
    return values.expand(torch.broadcast_shapes(values.shape, shape))


def plate_dims(site: Site) -> frozenset[int]:
    """The dims (negative) of the plates around a site."""
    return frozenset(frame.dim for frame in site["cond_indep_stack"] if frame.vectorized)


def frame_of(site: Site, plate: str = DATA) -> Any:
    """The plate of that name around a site, by default the one over the data; or None."""
    return next((frame for frame in site["cond_indep_stack"] if frame.name == plate), None)


def data_axis(site: Site) -> int:
    """The axis of a site's value, counted from the left, that is the data plate."""
    frame = frame_of(site)
    if frame is None:
        raise ValueError(
            f"site {site['name']!r} lies outside the plate {DATA!r}: diagnostics per datum need local latents"
        )
    return site["value"].ndim - len(site["fn"].event_shape) + frame.dim


def sites_of(trace: Trace) -> list[Site]:
    """The sample sites of a trace that have a density: neither subsamples nor deterministic sites."""
    sites = [site for site in trace.nodes.values() if site["type"] == "sample" and not site_is_subsample(site)]
    return [site for site in sites if not site["infer"].get("_deterministic")]


def data_sites(trace: Trace) -> list[Site]:
    """The observed sites of the rows: without factors, and without globals that were fixed by ``poutine.condition``."""
    return [s for s in sites_of(trace) if s["is_observed"] and s["value"].numel() and frame_of(s)]


def latent_names(trace: Trace) -> list[str]:
    """The latent sites of a trace, auxiliary ones and those enumerated left out."""
    latents = [s for s in sites_of(trace) if not s["is_observed"] and not s["infer"].get("is_auxiliary")]
    return [s["name"] for s in latents if "_enumerate_dim" not in s["infer"]]


def has_parents_before(name: str, model: list[str], guide: list[str]) -> bool:
    """Whether the guide draws a latent after all latents that its prior may depend on, so that its prior is known there.

    Only then is E KL(q(z) || p(z)) in closed form a part of the ELBO: a bottom-up guide draws z1 before z2, on which the
    prior of z1 depends.

    Args:
        name: of the latent.
        model: the names of the model's sites in their order.
        guide: the names of the guide's sites in their order.

    >>> has_parents_before("z1", ["z2", "z1", "x"], ["z1", "z2"]), has_parents_before("z2", ["z2", "z1", "x"], ["z1", "z2"])
    (False, True)
    """
    return set(model[: model.index(name)]) & set(guide) <= set(guide[: guide.index(name)])


def check_latents(model_trace: Trace, guide_trace: Trace) -> None:
    """Refuse a pair that has no evidence: latents that differ between model and guide, or a guide without a density.

    Raises:
        ValueError: naming the sites.
    """
    enumerated = {
        s["name"] for trace in (model_trace, guide_trace) for s in sites_of(trace) if "_enumerate_dim" in s["infer"]
    }
    model, guide = (set(latent_names(trace)) - enumerated for trace in (model_trace, guide_trace))
    if model != guide:
        raise ValueError(
            f"model and guide must have the same latent sites; only the model has {sorted(model - guide)}, only the "
            f"guide {sorted(guide - model)}. Sample them in both, observe them, or mark a discrete site "
            "infer={'enumerate': 'parallel'} to sum it out; an extra draw of the guide may only be the argument of a Delta"
        )
    _check_enumerated(sites_of(model_trace), sites_of(guide_trace))
    _check_points(sites_of(guide_trace))


def _check_enumerated(model: list[Site], guide: list[Site]) -> None:
    names = {site["name"] for site in model}
    for site in (site for site in (*model, *guide) if "_enumerate_dim" in site["infer"]):
        if site["name"] not in names:
            raise ValueError(
                f"the guide enumerates {site['name']!r}, which the model does not sample, so its sum is no evidence: sample "
                "it in the model too, or give the guide a mixture (MixtureSameFamily) instead"
            )
        if site["infer"].get("num_samples"):
            raise ValueError(
                f"site {site['name']!r} is enumerated over num_samples draws, not over all of its values: leave num_samples "
                "out of its infer"
            )


def _check_points(sites: list[Site]) -> None:
    """A Delta in a guide is a density only as the image of auxiliary draws, which must be draws for each row.

    An auxiliary draw that no Delta takes up would be integrated out by nobody: weights p / q would hold its density.
    """
    pending: list[str] = []
    for site in (s for s in sites if not s["is_observed"]):
        if is_delta(site["fn"]):
            pending = []
        elif site["infer"].get("is_auxiliary"):
            pending.append(site["name"])
        elif pending:
            break
    if pending:
        raise ValueError(
            f"the guide draws the auxiliary {pending[0]!r}, and no Delta site is the image of it, so that its density inflates "
            "the evidence without bound: sample it in the model too, or give the guide the marginal distribution of its "
            "latents (a mixture, a flow)"
        )
    points = [s for s in sites if not s["is_observed"] and is_delta(s["fn"])]
    draws = [s for s in sites if s["infer"].get("is_auxiliary") and not is_delta(s["fn"])]
    if points and not draws:
        names = [s["name"] for s in points]
        raise ValueError(
            f"the guide is a point estimate (Delta) at {names}: it has no density, and so no evidence bound"
        )
    local = [s["name"] for s in points if frame_of(s)]
    if local and not any(frame_of(s) for s in draws):
        raise ValueError(
            f"the guide draws {local} jointly over the rows, so there is no log density per datum: use a guide whose "
            "draws lie inside the data plate, such as AutoNormal or an amortized guide"
        )


def is_delta(distribution: Any) -> bool:
    """Whether a distribution is a point, under whatever events, masks, expansions and transforms.

    >>> is_delta(Delta(torch.zeros(3)).to_event(1).mask(False))
    True
    """
    while not isinstance(distribution, Delta):
        if (distribution := getattr(distribution, "base_dist", None)) is None:
            return False
    return True


def check_data_plate(sites: list[Site]) -> None:
    """Refuse programs without the plate over data.

    Raises:
        ValueError: naming the plates that there are, and what to write.
    """
    if any(frame_of(site) for site in sites):
        return
    frames = [frame.name for site in sites for frame in site["cond_indep_stack"]]
    names = [repr(name) for name in dict.fromkeys(frames) if name != PARTICLES]
    with_plate = f"`with pyro.plate({DATA!r}, size, dim=-1):`"
    remedy = f"put the sites of the rows into one, {with_plate}"
    if names:
        plates = f"plate {names[0]}" if len(names) == 1 else f"plates {', '.join(names)}"
        remedy = f"the program has the {plates}; name the plate over the rows {DATA!r} in model and guide, {with_plate}"
    raise ValueError(f"no site lies inside a plate named {DATA!r}: {remedy}")


def check_plates(sites: list[Site]) -> None:
    """Refuse programs without the plate over data, and sequential plates.

    Raises:
        ValueError: naming the site and what to write.
    """
    check_data_plate(sites)
    for site in sites:
        for frame in site["cond_indep_stack"]:
            if not frame.vectorized:
                raise ValueError(
                    f"site {site['name']!r} lies in the sequential plate {frame.name!r}: "
                    "write `with pyro.plate(...)` instead of `for i in pyro.plate(...)`"
                )
