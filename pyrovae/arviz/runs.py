"""Runs of a program on blocks of rows: posterior, prior and predictive draws, the global ones drawn once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.arviz.traced import (
    Arrays,
    Named,
    Source,
    data_arrays,
    data_sites,
    latent_arrays,
    latent_values,
    without_gaps,
)
from pyrovae.evaluation.marginal import summary
from pyrovae.programs import DATA, Terms, callable_without_data
from pyrovae.programs.call import Call
from pyrovae.programs.simulate import Substitute, enumerated_draws, many, replicate
from pyrovae.programs.sites import frame_of, sites_of

PREDICTIVE = frozenset({"posterior", "posterior_predictive"})
PRIOR = frozenset({"prior", "prior_predictive"})


@dataclass
class Runner:
    """Some draws of a program, made at once on one block of rows after the other.

    A latent outside the data plate is drawn with the first block, and stays for the rest.

    Args:
        num_samples: the number of draws; None draws once, without an axis for the draws.
        chains: makes the values of all latents for a call, which take the guide's place; None runs the guide.
        masked: the latents that both functions mask.
    """

    num_samples: int | None
    chains: Callable[[Call], dict[str, Tensor]] | None = None
    masked: Collection[str] = ()
    shared: dict[str, Tensor] = field(default_factory=dict)
    """The guide's draws of latents outside the data plate, by site."""
    shared_prior: dict[str, Tensor] = field(default_factory=dict)

    def traces(self, call: Call) -> tuple[Trace, Trace]:
        """The model's trace replayed against the guide's; a site that the guide would enumerate is drawn."""
        if self.chains is not None:
            latents = self.chains(call)
            trace = self._at(call, latents | enumerated_draws(call, latents, self.num_samples))
            return trace, trace
        drawn = poutine.infer_config(call.program.guide, config_fn=lambda _: {"enumerate": None})
        traces = call.using(guide=Substitute(self.shared)(drawn)).traces(self.num_samples)
        self.shared = self.shared or _outside(traces[1])
        return traces

    def groups(self, wanted: Collection[str], model_trace: Trace, call: Call, template: Call) -> Arrays:
        """The draws of the groups asked for: of the posterior and of the prior, each with the data drawn at them.

        Args:
            wanted: the names of the groups.
            model_trace: from :meth:`traces`.
            call: the program on the rows.
            template: the same without missing entries, for a model that cannot be called without data.
        """
        made, sites = {}, data_sites(model_trace)
        if PREDICTIVE & set(wanted):
            drawn, latents = self._completed(model_trace, call)
            made["posterior"] = latent_arrays(drawn, self.masked)
            if "posterior_predictive" in wanted:
                made["posterior_predictive"] = data_arrays(replicate(template, latents, self.num_samples), sites)
        if PRIOR & set(wanted):
            drawn = replicate(template, self.shared_prior, self.num_samples)
            self.shared_prior = self.shared_prior or _outside(drawn)
            made["prior"] = latent_arrays(drawn, self.masked, besides=sites)
            made["prior_predictive"] = data_arrays(drawn, sites)
        return made

    def _completed(self, model_trace: Trace, call: Call) -> tuple[Trace, dict[str, Tensor]]:
        """A trace of the model with every latent drawn, given the guide's draws; and the values of its latents.

        Sites that the model alone enumerates come from their exact posterior. Among the values, coordinates that both
        functions mask come from their prior.
        """
        enumerated = [s["name"] for s in sites_of(model_trace) if "_enumerate_dim" in s["infer"]]
        latents = {name: value for name, value in latent_values(model_trace).items() if name not in enumerated}
        if self.chains is not None or not (enumerated or self.masked):
            return model_trace, latents
        call, redrawn = call.redrawing(list(self.masked))
        if enumerated:
            latents |= enumerated_draws(call, latents, self.num_samples)
        return self._at(call, latents), {**latents, **redrawn}

    def _at(self, call: Call, latents: Mapping[str, Tensor]) -> Trace:
        """A trace of the model on the data at given latents."""
        model = Substitute(latents)(many(call, call.program.model, self.num_samples))
        return poutine.trace(model).get_trace(*call.args, **call.kwargs)


def _outside(trace: Trace) -> dict[str, Tensor]:
    return {s["name"]: s["value"] for s in sites_of(trace) if not s["is_observed"] and not frame_of(s)}


def filled(call: Call, found: Mapping[str, Source], trace: Trace) -> Call:
    """The call with the program's own fills for missing entries, where its model cannot be called without data."""
    if callable_without_data(call.program.model):
        return call
    return call._replace(args=without_gaps(found, trace, call.args))


def term_arrays(terms: Terms, names: Mapping[str, str], has_guide: bool) -> Arrays:
    """The log densities of the draws, and the diagnostics of each row that follow from them.

    Args:
        terms: of all draws.
        names: the variables of the data sites.
        has_guide: whether the draws are a guide's, not those of chains.
    """
    log_weight = terms.log_weights
    log_q, kl = (torch.as_tensor(term).expand_as(log_weight) for term in (terms.log_guide, terms.kl))
    likelihood = {names[name]: value for name, value in terms.sites["reconstruction"].items() if name in names}
    made = {"log_likelihood": _per_row(likelihood), "sample_stats": _per_row({"lp": log_weight + log_q})}
    if has_guide:
        made["sample_stats"] |= _per_row({"log_q": log_q, "log_weight": log_weight})
        if terms.outside is not None:
            made["sample_stats"]["log_weight_global"] = Named(terms.outside.cpu().numpy(), ())
        made["amortized_diagnostics"] = _per_row(summary(log_weight.double()) | {"kl": kl.double().mean(0)})
    return made


def _per_row(values: Mapping[str, Tensor]) -> dict[str, Named]:
    return {name: Named(value.detach().cpu().numpy(), (DATA,)) for name, value in values.items()}
