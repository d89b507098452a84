"""Running a pair: the model replayed against its guide, particles and enumerated sites along axes of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.trace_struct import Trace

from pyrovae.traces.programs import Pair, as_pair

PARTICLES = "particles"
"""The plate of the particles, to the left of every plate of the program."""


def plate_nesting(pair: Pair, args: tuple, kwargs: Mapping[str, Any]) -> int:
    """The number of nested plates of a pair, found by running it once; the random state is left as it was."""
    with torch.random.fork_rng(), poutine.block(), torch.no_grad():
        guide_trace, model_trace = _run(pair, args, kwargs)
    sites = [site for trace in (guide_trace, model_trace) for site in trace.nodes.values() if site["type"] == "sample"]
    dims = [frame.dim for site in sites for frame in site["cond_indep_stack"] if frame.vectorized]
    return -min(dims, default=0)


def _run(pair: Pair, args: tuple, kwargs: Mapping[str, Any]) -> tuple[Trace, Trace]:
    messenger = poutine.unwrap(pair.guide)
    if isinstance(messenger, poutine.guide.GuideMessenger):
        pair.guide(*args, **kwargs)
        model_trace, guide_trace = messenger.get_traces()
        return guide_trace, model_trace
    guide_trace = poutine.trace(pair.guide).get_trace(*args, **kwargs)
    model_trace = poutine.trace(poutine.replay(pair.model, trace=guide_trace)).get_trace(*args, **kwargs)
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
        program: a program or a pair.
        args: positional arguments of both functions.
        kwargs: keyword arguments of both functions.
        num_particles: draws per datum; None draws once and adds no axis.
        nesting: the number of nested plates of the program; None finds it by one more run.
        enumerate_discrete: enumerate the sites marked ``infer={"enumerate": "parallel"}``, left of the particles.

    Returns:
        The model's trace and the guide's.
    """
    pair, kwargs = as_pair(program), kwargs or {}
    nesting = plate_nesting(pair, args, kwargs) if nesting is None else nesting
    model, guide = pair.model, pair.guide
    if num_particles is not None:
        particles = pyro.plate(PARTICLES, num_particles, dim=-1 - nesting)
        model, guide = particles(model), particles(guide)
    if enumerate_discrete:
        first = -1 - nesting - (num_particles is not None)
        model, guide = EnumMessenger()(model), EnumMessenger(first)(guide)
    guide_trace, model_trace = _run(Pair(model, guide, None), args, kwargs)
    return model_trace, guide_trace
