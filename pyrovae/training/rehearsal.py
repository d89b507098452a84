"""One run of a program before training: what it announces, what it samples, and whether the objective fits it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any

import pyro
import torch
from pyro.infer import JitTrace_ELBO, RenyiELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoGuide
from pyro.infer.elbo import ELBO
from pyro.poutine.trace_struct import Trace
from torch.distributions import kl_divergence

from pyrovae.programs import DATA, DryRun, Program, dry_run
from pyrovae.programs.dry_run import listening
from pyrovae.programs.program import unwrapped
from pyrovae.programs.sites import frame_of
from pyrovae.training.step import check_data


def rehearse(program: Program, args: tuple, kwargs: dict[str, Any]) -> DryRun:
    """Run guide and model once, leaving random state and buffers as they were.

    Raises:
        ValueError: there is no plate over data, no parameter to train, or a site whose log density has a wrong shape.
    """
    with listening(program):  # in eval mode, so that buffers stay as they are
        check_data(program.model, args, kwargs)
    with pyro.validation_enabled(False):  # what is not finite is for the steps to skip, count and explain
        rehearsal = dry_run(program, args, kwargs)
    if not any(_in_plate(site) for site in _samples(rehearsal.model_trace)):
        raise ValueError(
            f"the model has no site inside a plate named {DATA!r}: write with pyro.plate({DATA!r}, size, dim=-1)"
        )
    if not rehearsal.announced.trained:
        raise ValueError(
            "the program announces no parameter that requires a gradient, so nothing would train: call "
            "pyrovae.register(module) in the model or the guide, or unfreeze a part"
        )
    return rehearsal


def check_rows(rehearsal: DryRun, rows: int) -> int | None:
    """The rows to which the program's own plate scales a batch, or None where it does not.

    Raises:
        ValueError: the plate holds other rows than the batch's: the program draws a batch of its own.
    """
    frames = _frames(rehearsal.model_trace)
    for frame in frames:
        if frame.size != rows:
            raise ValueError(
                f"the plate {DATA!r} holds {frame.size} rows of a batch of {rows}: do not subsample in the program; fit draws "
                "the batches (batch_size=), and gives a model that takes it the size of the whole data: "
                f"pyro.plate({DATA!r}, size, subsample=x)"
            )
    full = max((frame.full_size or frame.size for frame in frames), default=rows)
    return full if full != rows else None


def check_batches(program: Program, rehearsal: DryRun, rows: int, *, scaled: bool) -> None:
    """Refuse programs for which a batch cannot stand for the whole data.

    Raises:
        ValueError: a latent outside the plate would see one batch alone, or an autoguide holds parameters for each row.
    """
    latents = [s for s in _samples(rehearsal.model_trace) if not s["is_observed"]]
    outside = [s["name"] for s in latents if not _in_plate(s)]
    data = [s for s in _samples(rehearsal.model_trace) if s["is_observed"] and _in_plate(s)]
    if outside and not scaled and not any(_scales_itself(site) for site in data):
        raise ValueError(
            f"the latent {outside[0]!r} lies outside the plate {DATA!r}, and the model takes no size: it would learn from "
            f"{rows} rows at a time as if they were all. Write def model(x, size=None) with pyro.plate({DATA!r}, size or "
            "len(x), subsample=x), and the guide likewise, or give a batch_size of all rows"
        )
    by_row = any(f.full_size in (None, f.size) for f in _frames(rehearsal.guide_trace))
    if isinstance(unwrapped(program.guide), AutoGuide) and by_row:
        raise ValueError(
            f"{type(unwrapped(program.guide)).__name__} holds parameters for each row of a batch, and the next batch has "
            "other rows: give a batch_size of all rows, or an amortized guide"
        )


def _scales_itself(site: dict[str, Any]) -> bool:
    """Whether a site is scaled up by more than its plates, by ``poutine.scale``."""
    plates = math.prod((frame.full_size or frame.size) / frame.size for frame in site["cond_indep_stack"])
    return float(torch.as_tensor(site["scale"]).max()) > 1.001 * plates


def check_beta_sites(sites: Iterable[str | None], rehearsal: DryRun) -> None:
    """Refuse a beta for a site that is no latent inside the plate: it would silently train at beta 1.

    Raises:
        ValueError: naming the site, and the sites there are.
    """
    known = [s["name"] for s in _samples(rehearsal.guide_trace) if _in_plate(s) and not s["is_observed"]]
    unknown = [site for site in sites if site is not None and site not in known]
    if unknown:
        raise ValueError(f"beta names {unknown[0]!r}, which is no latent site per datum; there are: {', '.join(known)}")


def check_objective(objective: ELBO, rehearsal: DryRun, *, beta_is_one: bool, subsampled: bool) -> None:
    """Refuse objectives that would be silently wrong for this program, and warn where one falls back silently.

    Raises:
        TypeError: not an instance of a Pyro ELBO.
        ValueError: an objective that is wrong here; the message says what to use.
    """
    if isinstance(objective, type) or not isinstance(objective, ELBO):
        raise TypeError(f"objective takes an instance of an ELBO, e.g. pyro.infer.Trace_ELBO(), got {objective!r}")
    if isinstance(objective, JitTrace_ELBO):
        raise ValueError("JitTrace_ELBO cannot trace parameters that live in modules: use pyro.infer.Trace_ELBO()")
    if isinstance(objective, RenyiELBO) and (subsampled or not beta_is_one):
        raise ValueError(
            "pyro.infer.RenyiELBO takes plate and beta scales inside its logsumexp, which is a wrong bound under mini-batches "
            "or beta: use pyrovae.ImportanceWeightedELBO"
        )
    if isinstance(objective, TraceMeanField_ELBO):
        _warn_without_closed_form(rehearsal)
    if isinstance(objective, TraceEnum_ELBO) and not beta_is_one:
        _refuse_model_enumeration(rehearsal)
    if objective.max_plate_nesting == math.inf:  # or Pyro guesses it at the first step and consumes random numbers
        vectorized = objective.vectorize_particles and objective.num_particles > 1
        objective.max_plate_nesting = rehearsal.nesting + vectorized


def _samples(trace: Trace) -> list[dict[str, Any]]:
    return [s for s in trace.nodes.values() if s["type"] == "sample" and type(s["fn"]).__name__ != "_Subsample"]


def _frames(trace: Trace) -> list[Any]:
    return [frame for site in _samples(trace) if (frame := frame_of(site))]


def _in_plate(site: dict[str, Any]) -> bool:
    return frame_of(site) is not None


def _warn_without_closed_form(rehearsal: DryRun) -> None:
    for site in _samples(rehearsal.guide_trace):
        name = site["name"]
        if name not in rehearsal.model_trace.nodes:
            continue
        prior = rehearsal.model_trace.nodes[name]["fn"]
        try:
            kl_divergence(site["fn"], prior)
        except NotImplementedError:
            warnings.warn(
                f"site {name!r} has no closed-form divergence between {_name(site['fn'])} and {_name(prior)}: "
                "TraceMeanField_ELBO estimates it from draws there, as Trace_ELBO does everywhere",
                UserWarning,
                stacklevel=4,
            )


def _refuse_model_enumeration(rehearsal: DryRun) -> None:
    for site in _samples(rehearsal.model_trace):
        enumerated = site["infer"].get("enumerate") is not None and not site["is_observed"]
        if enumerated and site["name"] not in rehearsal.guide_trace.nodes:
            raise ValueError(
                f"site {site['name']!r} is enumerated in the model alone, where beta other than 1 has no meaning: enumerate it "
                "in the guide, or train at beta=1"
            )


def _name(distribution: Any) -> str:
    return type(getattr(distribution, "base_dist", distribution)).__name__
