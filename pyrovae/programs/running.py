"""Running a pair: the model replayed against its guide, particles and enumerated sites along axes of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from pyro.util import check_site_shape

from pyrovae.programs.program import Program, unwrapped
from pyrovae.programs.sites import PARTICLES, is_delta

HALF_TURN = float(torch.tensor(math.pi, dtype=torch.float32))
"""The end of an angle, as single precision has it, in which it lies above pi."""


def plate_nesting(program: Program, args: tuple, kwargs: Mapping[str, Any]) -> int:
    """The number of nested plates of a program, found by running it once; the random state is left as it was."""
    with torch.random.fork_rng(), poutine.block(), torch.no_grad():
        guide_trace, model_trace = run(program, args, kwargs)
        return check_sites(guide_trace, model_trace)


def check_sites(guide_trace: Trace, model_trace: Trace) -> int:
    """The number of nested plates of two traces, whose sites are checked on the way.

    Raises:
        ValueError: a site's log density has another shape than its plates (``.to_event`` is missing an axis: it would be
            broadcast, silently), a latent lives on a simplex or a sphere in the model or in the guide alone, or the guide
            covers a part of the prior's support only.
    """
    sites = [site for trace in (guide_trace, model_trace) for site in trace.nodes.values() if site["type"] == "sample"]
    dims = [frame.dim for site in sites for frame in site["cond_indep_stack"] if frame.vectorized]
    nesting = -min(dims, default=0)
    for name, site in guide_trace.nodes.items():
        if site["type"] == "sample" and name in model_trace.nodes and not is_delta(site["fn"]):
            _check_spaces(name, site["fn"], model_trace.nodes[name]["fn"])
    with torch.no_grad(), pyro.validation_enabled(False):
        for trace in (guide_trace, model_trace):
            trace.compute_log_prob(lambda name, site: not site_is_subsample(site))
    for site in (site for site in sites if not site_is_subsample(site)):
        # Nothing is enumerated here, so that no axis stands left of the plates.
        check_site_shape(site, max(nesting, site["log_prob"].ndim))
    return nesting


def _check_spaces(name: str, posterior: Any, prior: Any) -> None:
    one, other = _space(posterior), _space(prior)
    if one != other and {one, other} & set(_THIN):
        raise ValueError(
            f"latent {name!r} lives on the {one} in the guide and on the {other} in the model, so their densities are of "
            f"different spaces: give prior and posterior the same ({_THIN[one if one in _THIN else other]})"
        )
    (low, high), (least, most) = bounds(posterior), bounds(prior)
    slack = (1e-6 * end.where(end.isfinite(), 0.0).abs() for end in (least, most))  # of single precision
    if bool((low > least + next(slack)).any()) or bool((high < most - next(slack)).any()):
        raise ValueError(
            f"the guide draws latent {name!r} from {low.min():.5g} to {high.max():.5g} alone, a part of the prior's support "
            f"{prior.support}: the evidence of the rest would be lost, whatever the number of draws. Give the guide a "
            "distribution on all of the prior's support"
        )


_THIN = {
    "simplex": "SimplexNormal, SimplexDirichlet or RelaxedOneHot for both",
    "sphere": "UniformDirection with Spherical",
}


def bounds(distribution: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The ends of a univariate support, of an angle -pi and pi; NaN for what is discrete."""
    support = getattr(distribution, "support", None)
    while (base := getattr(support, "base_constraint", None)) is not None:
        support = base
    while (base := getattr(distribution, "base_dist", None)) is not None:
        distribution = base
    if "VonMises" in type(distribution).__name__:
        return torch.tensor(-HALF_TURN, dtype=torch.float64), torch.tensor(HALF_TURN, dtype=torch.float64)
    if support is None or support.is_discrete:
        return torch.tensor(math.nan), torch.tensor(math.nan)
    ends = getattr(support, "lower_bound", -math.inf), getattr(support, "upper_bound", math.inf)
    low, high = (torch.as_tensor(end, dtype=torch.float64) for end in ends)
    return low, high


def reaches_beyond(posterior: Any, prior: Any) -> bool:
    """Whether a guide may draw a latent outside the support of its prior; points, the images of other draws, may not."""
    (low, high), (least, most) = bounds(posterior), bounds(prior)
    return not is_delta(posterior) and bool((low < least).any() or (high > most).any())


def _space(distribution: Any) -> str:
    support = getattr(distribution, "support", None)
    while (base := getattr(support, "base_constraint", None)) is not None:
        support = base
    if support is constraints.simplex:
        return "simplex"
    return "sphere" if support is constraints.sphere else "whole space"


def run(program: Program, args: tuple, kwargs: Mapping[str, Any]) -> tuple[Trace, Trace]:
    """A trace of the guide, and a trace of the model replayed against it."""
    messenger = unwrapped(program.guide)
    if isinstance(messenger, poutine.guide.GuideMessenger):
        program.guide(*args, **kwargs)
        model_trace, guide_trace = messenger.get_traces()
        return guide_trace, model_trace
    guide_trace = poutine.trace(program.guide).get_trace(*args, **kwargs)
    model_trace = poutine.trace(poutine.replay(program.model, trace=guide_trace)).get_trace(*args, **kwargs)
    return guide_trace, model_trace


def paired_traces(
    program: Any,
    args: tuple,
    kwargs: Mapping[str, Any] | None = None,
    num_particles: int | None = None,
    nesting: int | None = None,
    enumerate_discrete: bool = True,
) -> tuple[Trace, Trace]:
    """A trace of the model replayed against a trace of its guide, the particles along an axis left of every plate.

    Args:
        program: anything that :meth:`Program.of` takes.
        args: positional arguments of both functions.
        kwargs: keyword arguments of both functions.
        num_particles: draws per datum; None draws once and adds no axis.
        nesting: the number of nested plates of the program; None finds it by one more run.
        enumerate_discrete: enumerate the sites marked ``infer={"enumerate": "parallel"}``, left of the particles.

    Returns:
        The model's trace and the guide's.
    """
    program, kwargs = Program.of(program), kwargs or {}
    nesting = plate_nesting(program, args, kwargs) if nesting is None else nesting
    model, guide = program.model, program.guide
    if num_particles is not None:
        particles = pyro.plate(PARTICLES, num_particles, dim=-1 - nesting)
        model, guide = particles(model), particles(guide)
    if enumerate_discrete:
        first = -1 - nesting - (num_particles is not None)
        model, guide = EnumMessenger()(model), EnumMessenger(first)(guide)
    guide_trace, model_trace = run(Program(model, guide), args, kwargs)
    return model_trace, guide_trace
