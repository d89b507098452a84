"""Whether a program gives a draw the same log densities beside other draws, on an axis to their left, as alone."""

from __future__ import annotations

import pyro
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.programs.call import Call
from pyrovae.programs.simulate import Substitute
from pyrovae.programs.sites import is_delta, sites_of
from pyrovae.programs.terms import given_terms

TOLERANCE = 1e-3
"""The share by which two log densities of one draw may differ, and twenty times that in nats: rounding of many entries."""


def check_draws(call: Call, model_trace: Trace, guide_trace: Trace, alone: Trace) -> None:
    """Refuse a program that takes the axis of draws for another one: its numbers would be wrong without an error.

    The last draw is run again by itself; where a program draws by other means than its sites, nothing is known.

    Args:
        call: the program on a few rows.
        model_trace: of several draws.
        guide_trace: of the same draws.
        alone: a trace of the guide without an axis of draws, for the shapes of its sites.

    Raises:
        ValueError: a site has another shape beside other draws, or the draw other log densities.
    """
    sites = [site for site in sites_of(guide_trace) if not site["is_observed"]]
    if any("_enumerate_dim" in site["infer"] for site in sites):
        return
    values: dict[str, Tensor] = {}
    for site in (site for site in sites if not is_delta(site["fn"])):
        drawn, shape = site["value"], alone.nodes[site["name"]]["value"].shape
        axis = drawn.ndim - site["fn"].event_dim - 1 - call.nesting
        if axis < 0:
            return
        if axis or drawn[-1].numel() != shape.numel():
            raise ValueError(
                f"latent {site['name']!r} has the shape {tuple(drawn.shape)} there, {tuple(shape)} without draws"
            )
        values[site["name"]] = drawn[-1].reshape(shape)
    names = [site["name"] for site in sites]
    fixed = call.using(guide=Substitute(values)(call.program.guide))
    with torch.random.fork_rng(), pyro.validation_enabled(False):
        once = fixed.traces(None)
        if not _alike((model_trace, guide_trace), once, names) and _alike(once, fixed.traces(None), names):
            raise ValueError("the log densities of a draw are others beside other draws")


def _alike(some: tuple[Trace, Trace], one: tuple[Trace, Trace], names: list[str]) -> bool:
    """Whether model and guide give the last of some draws the log densities of one draw, up to rounding."""
    for traces in zip(some, one, strict=True):
        for site in (site for trace in traces for site in trace.nodes.values()):
            site.pop("unscaled_log_prob", None)  # Pyro's own, of large counts too coarse to be compared
        try:
            found = [given_terms(trace, names) for trace in traces]
        except (ValueError, KeyError, NotImplementedError):  # no density: of a point, of a flow at the draws of others
            continue
        for role in ("reconstruction", "log_prior", "outside"):
            of_some, of_one = (getattr(terms, role) for terms in found)
            if of_some is None:
                continue
            share = max(TOLERANCE, torch.finfo(of_one.dtype).eps ** 0.5)  # a tenth in bfloat16
            if not torch.allclose(of_some[-1].double(), of_one[-1].double(), share, 20 * share, equal_nan=True):
                return False
    return True
