"""The one simulator: data and latents from a model, and data replicated at given latents; never the data handed back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.infer import infer_discrete
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.uncondition_messenger import UnconditionMessenger
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from pyrovae.programs.call import Call
from pyrovae.programs.program import callable_without_data
from pyrovae.programs.sites import DATA, PARTICLES, Site, data_axis, data_sites, frame_of, latent_names, sites_of


class Simulated(NamedTuple):
    """Rows simulated from a model.

    Args:
        x: the data, in the structure in which the program takes them.
        latents: the latents' values by site.
        size: the number of rows.
    """

    x: Any
    latents: dict[str, Tensor]
    size: int


class Substitute(Messenger):
    """Sets latent sites to given values, whatever the program would draw; the sites stay latent."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"] = self.values[msg["name"]]
            msg["done"] = True


class OfRows(Messenger):
    """Refuses a model that, called without data, draws another number of rows than it was asked for, at its first site."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if any(frame.name == DATA and frame.size != self.size for frame in msg["cond_indep_stack"]):
            raise ValueError(
                f"the model, called without data for size={self.size}, draws another number of rows: where x is None write "
                "pyro.plate('data', size)"
            )


class Release(UnconditionMessenger):
    """Draws the sites of the rows that were observed, but neither fixed globals nor what ``pyro.deterministic`` computes."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if frame_of(msg) and not msg["infer"].get("_deterministic"):
            super()._pyro_sample(msg)


def simulate(model: Callable, size: int, x: Any = None, covariates: Mapping[str, Tensor] | None = None) -> Simulated:
    """Rows of latents and data from a model.

    A model that takes ``size`` and needs no data is called without them. Any other is called on rows of ``x``: its
    observations are released. Of ``x`` the shapes are used and the missing entries, which the simulated rows have, too;
    rows of ``x`` and of the covariates are used in turn, again and again.

    Args:
        model: a Pyro program with one plate ``data``.
        size: the number of rows.
        x: data whose shapes and missing entries are taken; needed where the model cannot be called without.
        covariates: a tensor of rows for each name.

    Raises:
        ValueError: the model needs an ``x`` to be called, its data sites cannot be told from its latents, or it has a
            ``pyro.factor``, so that its draws are not those of its joint distribution.
    """
    rows = torch.arange(size)
    given = {} if covariates is None else {"covariates": {n: v[rows % len(v)] for n, v in covariates.items()}}
    with torch.no_grad():
        if callable_without_data(model):
            trace = poutine.trace(OfRows(size)(model)).get_trace(size=size, **given)
            template = (
                trace.nodes["_RETURN"]["value"] if x is None else tree_map(lambda leaf: leaf[rows % len(leaf)], x)
            )
            names = _returned(trace)
        elif x is None:
            raise ValueError(
                "this model cannot be called without data: pass data, whose shapes are used and whose values are not, or "
                "write def model(x=None, size=None) and return what it samples"
            )
        else:
            template = tree_map(lambda leaf: leaf[rows % len(leaf)], x)
            args = template if isinstance(template, tuple) else (template,)
            trace = poutine.trace(Release()(model)).get_trace(*args, **given)
            names = [s["name"] for s in sites_of(trace) if s["infer"].get("was_observed")]
    _refuse_factors(trace)
    values = {s["name"]: s["value"] for s in sites_of(trace) if frame_of(s) or not s["is_observed"]}
    latents = {name: value for name, value in values.items() if name not in names}
    made = _like(template, {name: values[name] for name in names})
    return Simulated(made if x is None else tree_map(_missing_as_in, made, template), latents, size)


def _missing_as_in(made: Any, template: Any) -> Any:
    """Simulated values with the missing entries of a template of the same shape."""
    if not isinstance(made, Tensor) or not template.is_floating_point() or made.shape != template.shape:
        return made
    return torch.where(template.isnan(), torch.nan, made.to(template))


def _refuse_factors(trace: Trace) -> None:
    factors = [s["name"] for s in sites_of(trace) if isinstance(getattr(s["fn"], "base_dist", s["fn"]), Unit)]
    if factors:
        raise ValueError(
            f"the model weighs its draws by the factor {factors[0]!r}, so that they are not draws of its joint distribution: "
            "nothing can be simulated from it"
        )


def replicate(call: Call, latents: Mapping[str, Tensor], num_samples: int | None = None) -> Trace:
    """A trace of the model at given latents, its data sites drawn and the latents that are not given, too.

    A model that can be called without data is, so that what it draws cannot depend on them (on which entries are missing,
    say). Any other runs on the data with its observations released.

    Args:
        call: the program on some rows.
        latents: by site, in the shapes of a trace with as many particles.
        num_samples: particles; None adds no axis for them.
    """
    model, args, kwargs = call.program.model, call.args, dict(call.kwargs)
    if callable_without_data(model):
        args, kwargs["size"] = (), len(tree_leaves(call.args)[0])
        model = OfRows(kwargs["size"])(model)
    else:
        model = Release()(model)
    with torch.no_grad():
        return poutine.trace(Substitute(latents)(many(call, model, num_samples))).get_trace(*args, **kwargs)


def replicated_data(call: Call, latents: Mapping[str, Tensor], num_samples: int) -> dict[str, Tensor]:
    """By data site the draws of :func:`replicate`, of shape ``(samples, rows, *rest)``."""
    sites = replicated_sites(call, latents, num_samples)
    return {name: site["value"].movedim(data_axis(site), 1) for name, site in sites.items()}


def replicated_sites(call: Call, latents: Mapping[str, Tensor], num_samples: int) -> dict[str, Site]:
    """The data sites of :func:`replicate`, with their distributions and draws.

    Raises:
        ValueError: no latents are given, and the model has a factor.
    """
    names = [s["name"] for s in data_sites(call.traces(None)[0])]
    trace = replicate(call, latents, num_samples)
    if not latents:
        _refuse_factors(trace)
    return {name: trace.nodes[name] for name in names}


def enumerated_draws(call: Call, latents: Mapping[str, Tensor], num_samples: int | None) -> dict[str, Tensor]:
    """The discrete latents that the model sums out, drawn from their exact posterior given the others.

    Args:
        call: the program on some rows.
        latents: the other latents by site, of shape (samples, ...).
        num_samples: particles; None adds no axis for them.

    Raises:
        ValueError: a latent is neither given nor enumerated.
    """
    # Conditioned, not substituted: enumeration must see the given latents.
    model = poutine.condition(many(call, call.program.model, num_samples), data=dict(latents))
    with torch.no_grad(), torch.random.fork_rng():
        trace = poutine.trace(model).get_trace(*call.args, **call.kwargs)
    rest = latent_names(trace)
    lacking = [name for name in rest if trace.nodes[name]["infer"].get("enumerate") != "parallel"]
    if lacking:
        raise ValueError(f"there are no draws of the latent sites {lacking}: give them too")
    if not rest:
        return {}
    drawn = infer_discrete(model, first_available_dim=-1 - call.nesting - (num_samples is not None), temperature=1)
    with torch.no_grad():
        trace = poutine.trace(drawn).get_trace(*call.args, **call.kwargs)
    return {name: trace.nodes[name]["value"] for name in rest}


def many(call: Call, model: Callable, num_samples: int | None) -> Callable:
    """A model that is run so many times at once; None leaves it as it is."""
    if num_samples is None:
        return model
    return pyro.plate(PARTICLES, num_samples, dim=-1 - call.nesting)(model)


def _returned(trace: Trace) -> list[str]:
    """The sites whose values a model returned: its data."""
    leaves = tree_flatten(trace.nodes["_RETURN"]["value"])[0]
    names = [s["name"] for leaf in leaves for s in sites_of(trace) if s["value"] is leaf]
    if not names or len(names) != len(leaves):
        raise ValueError(
            "the data sites cannot be told from the latents: a model that runs without data must return what it samples, one "
            'sample site for each tensor of the data (return pyro.sample("x", ..., obs=x)), not a stack of several sites. With '
            "a site for each time step, give the data as a dict from site names to tensors, and return such a dict. "
            "Take size= out of a model that needs data"
        )
    return names


def _like(like: Any, sites: dict[str, Tensor]) -> Any:
    """Simulated sites in the structure of the program's argument: by name in a dict, else in order."""
    leaves, spec = tree_flatten(like)
    if isinstance(like, Mapping) and set(sites) <= set(like):
        return {**like, **sites}
    if len(leaves) != len(sites):
        raise ValueError(
            f"the model has {len(sites)} data sites ({', '.join(sites)}) and its argument {len(leaves)} tensors: give "
            "the data as a dict from site names to tensors"
        )
    return tree_unflatten(list(sites.values()), spec)
