"""Data simulated from a program's model, with the latents that made them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import infer_discrete
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.utils._pytree import tree_map

from pyrovae.programs.draws import Call
from pyrovae.programs.program import Program, callable_without_data
from pyrovae.programs.running import PARTICLES
from pyrovae.programs.sites import data_axis, sites_of


def simulate(
    program: Program, size: int, covariates: Mapping[str, Tensor] | None = None
) -> tuple[Any, dict[str, Tensor]]:
    """Rows of data from the model, and the values of its latent sites.

    The model is called without data, and must return what it sampled: ``model(size=100)``.

    Args:
        program: the program.
        size: rows.
        covariates: for each name, a tensor of ``size`` rows.

    Raises:
        ValueError: the model needs data, or returns none.
    """
    if not callable_without_data(program.model):
        raise ValueError(
            "simulating needs a model that samples its data when called without them: def model(x=None, size=None), "
            "returning x"
        )
    keywords = {"size": size} if covariates is None else {"size": size, "covariates": covariates}
    with torch.no_grad():
        trace = poutine.trace(program.model).get_trace(**keywords)
    x = trace.nodes["_RETURN"]["value"]
    if x is None:
        raise ValueError("simulating needs a model that returns the data it sampled: end it with `return x`")
    returned: list[int] = []
    tree_map(lambda leaf: returned.append(id(leaf)), x)
    latents = {
        s["name"]: s["value"] for s in sites_of(trace) if not s["is_observed"] and id(s["value"]) not in returned
    }
    return x, latents


def likelihood_draws(call: Call, values: Mapping[str, Tensor], num_samples: int, rows: int) -> Tensor:
    """Data drawn from the likelihood, given values of all latents of shape (samples, ...): (samples, rows, *rest).

    A model that takes data only as an argument runs on them with its observations released.

    Raises:
        ValueError: there is not one data site.
    """
    model, args, kwargs = call.program.model, call.args, dict(call.kwargs)
    if callable_without_data(model):
        args, kwargs["size"] = (), rows
    else:
        model = poutine.uncondition(model)
    model = many(call, model, num_samples)
    with torch.no_grad():
        trace = poutine.trace(poutine.condition(model, data=values)).get_trace(*args, **kwargs)
    drawn = [s for s in sites_of(trace) if not s["is_observed"] and s["value"].numel()]  # a factor has no entries
    if len(drawn) != 1:
        raise ValueError(f"expected one data site to draw from, got {[s['name'] for s in drawn]}")
    return drawn[0]["value"].movedim(data_axis(drawn[0]), 1)


def enumerated_draws(
    call: Call, model_trace: Trace, values: Mapping[str, Tensor], num_samples: int
) -> dict[str, Tensor]:
    """The discrete latents that the model sums out, from their exact posterior given the others.

    Args:
        call: the program's arguments.
        model_trace: in which they are enumerated.
        values: of the other latents, of shape (samples, ...).
        num_samples: of them.
    """
    names = [s["name"] for s in sites_of(model_trace) if "_enumerate_dim" in s["infer"]]
    if not names:
        return {}
    model = poutine.condition(many(call, call.program.model, num_samples), data=values)
    drawn = infer_discrete(model, first_available_dim=-2 - call.nesting, temperature=1)
    with torch.no_grad():
        trace = poutine.trace(drawn).get_trace(*call.args, **call.kwargs)
    return {name: trace.nodes[name]["value"] for name in names}


def many(call: Call, model: Callable, num_samples: int) -> Callable:
    """A model that is run so many times at once."""
    return pyro.plate(PARTICLES, num_samples, dim=-1 - call.nesting)(model)
