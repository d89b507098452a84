"""The groups of a program: drawn by its guide or taken from chains, block by block of its rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.infer import MCMC
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from pyrovae.arviz.named import (
    Arrays,
    Named,
    Source,
    covariate_arrays,
    data_arrays,
    data_sites,
    draws_of,
    joined,
    latent_arrays,
    latent_values,
    observed,
    place,
    sources,
    variable,
)
from pyrovae.data import as_data, batches
from pyrovae.errors import refusal
from pyrovae.evaluation.marginal import summary
from pyrovae.programs import DATA, Terms, callable_without_data, concatenate, log_terms
from pyrovae.programs.call import Call
from pyrovae.programs.rows import Block, RowWork, Tile
from pyrovae.programs.simulate import Substitute, enumerated_draws, many, replicate
from pyrovae.programs.sites import frame_of, sites_of

WITH_TERMS = frozenset({"sample_stats", "amortized_diagnostics", "log_likelihood", "log_prior"})
PREDICTIVE = frozenset({"posterior", "posterior_predictive"})
PRIOR = frozenset({"prior", "prior_predictive"})


@dataclass
class Runner:
    """Some draws of a program, made at once on one block of rows after the other.

    A latent outside the data plate is drawn with the first block, and stays for the rest.
    """

    num_samples: int | None
    """The number of draws; None draws once, without an axis for the draws."""
    chains: Callable[[Call], dict[str, Tensor]] | None = None
    """Makes the values of all latents for a call, which take the guide's place; None runs the guide."""
    masked: Collection[str] = ()
    """The latents that both functions mask."""
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

        The template is the call without missing entries, for a model that cannot be called without data.
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
    leaves, spec = tree_flatten(call.args)
    for name, source in found.items():
        if source.leaf is not None and leaves[source.leaf].is_floating_point():
            leaf = leaves[source.leaf]
            fills = torch.as_tensor(draws_of(trace.nodes[name])[0][0]).to(leaf).reshape(leaf.shape)
            leaves[source.leaf] = torch.where(leaf.isnan(), fills, leaf)
    return call._replace(args=tree_unflatten(leaves, spec))


def term_arrays(terms: Terms, names: Mapping[str, str], has_guide: bool) -> Arrays:
    """The log densities of all draws, of a guide or of chains, and the diagnostics of each row that follow from them."""
    log_weight = terms.log_weights
    log_q, kl = (torch.as_tensor(term).expand_as(log_weight) for term in (terms.log_guide, terms.kl))
    likelihood = {names[name]: value for name, value in terms.sites["reconstruction"].items() if name in names}
    made = {"log_likelihood": _per_row(likelihood), "sample_stats": _per_row({"lp": log_weight + log_q})}
    made["log_prior"] = _per_row({variable(name): value for name, value in terms.sites["log_prior"].items()})
    if has_guide:
        made["sample_stats"] |= _per_row({"log_q": log_q, "log_weight": log_weight})
        if terms.outside is not None:
            made["sample_stats"]["log_weight_global"] = Named(terms.outside.cpu().numpy(), ())
        made["amortized_diagnostics"] = _per_row(summary(log_weight.double()) | {"kl": kl.double().mean(0)})
    return made


def _per_row(values: Mapping[str, Tensor]) -> dict[str, Named]:
    return {name: Named(value.detach().cpu().numpy(), (DATA,)) for name, value in values.items()}


@dataclass(frozen=True)
class Chains:
    """The draws of a ``pyro.infer.MCMC`` that has run."""

    draws: Mapping[str, Tensor]
    """By site, of shape ``(chains * draws, *shape)``."""
    num_chains: int
    diverging: np.ndarray
    """Which draws diverged, of shape ``(chains * draws,)``."""

    @classmethod
    def of(cls, mcmc: MCMC) -> Chains:
        """The draws of a sampler, which has run and has a model."""
        try:
            samples = mcmc.get_samples(group_by_chain=True)
        except (AttributeError, TypeError):
            samples = {}
        if not samples or mcmc._args is None:
            raise ValueError("this MCMC has no draws: call mcmc.run(x) first")
        if mcmc.kernel.model is None:
            raise ValueError("this MCMC ran on a potential function: give its kernel the model, NUTS(model)")
        num_chains, num_draws = next(iter(samples.values())).shape[:2]
        diverging = np.zeros((num_chains, num_draws), bool)
        for chain, found in enumerate(mcmc.diagnostics().get("divergences", {}).values()):
            diverging[chain, found] = True
        return cls({n: v.flatten(0, 1) for n, v in samples.items()}, num_chains, diverging.reshape(-1))

    def __len__(self) -> int:
        return len(self.diverging)

    def values(self, samples: slice, work: RowWork) -> Callable[[Call], dict[str, Tensor]]:
        """Makes some draws for the rows of a call, with the axes that the program gives to its latents."""

        def of(call: Call) -> dict[str, Tensor]:
            found = {}
            for name, every in self.draws.items():
                site, value = work.dry_run.model_trace.nodes[name], every[samples]
                event = len(site["fn"].event_shape)
                if frame := frame_of(site):
                    value = value.index_select(frame.dim - event, call.rows.to(value.device))
                ones = [1] * (call.nesting + 1 + event - value.ndim)
                found[name] = value.reshape(len(value), *ones, *value.shape[1:]) if work.vectorize else value[0]
            return found

        return of


class Export:
    """The arrays of a program's groups, drawn by its guide or taken from chains, and predictions for new covariates.

    Attributes:
        sources: where each data site's numbers come from.
        num_new: the number of rows to be predicted.
    """

    def __init__(
        self,
        work: RowWork,
        wanted: frozenset[str],
        chains: Chains | None = None,
        new_covariates: Mapping[str, Any] | None = None,
    ) -> None:
        self.work, self.wanted, self.chains, self.num_new = work, wanted, chains, 0
        self.runners: dict[int, Runner] = {}
        self.sources: Mapping[str, Source] = {}
        if new_covariates is not None:
            if not callable_without_data(work.program.model):
                raise refusal(
                    "predictions of new rows need a model that samples its data when it is called without them: write "
                    "def model(x=None, covariates=None, size=None)",
                    "new_covariates",
                )
            self.num_new = len(next(iter(new_covariates.values())))
            self.new = as_data(torch.zeros(self.num_new, 1), new_covariates)

    def trial(self) -> Arrays:
        """The arrays of two draws on the first block of rows, and of predictions, which tell names and sizes."""
        work, few = self.work, slice(0, min(2, self.work.num_samples))
        with work.evaluating(work.seed):
            call, runners = work.call(work.first(work.rows)), self._new_runners(few)
            made = self._arrays([(runner, call) for runner in runners], slice(0, len(call.rows)))
            return made | (next(self._predicted(runners))[1] if self.num_new else {})

    def block(self, block: Block, rows: slice) -> Arrays:
        """The arrays of one block of rows."""
        return self._arrays(((runner, tile.call) for tile in block.tiles() for runner in self._of(tile)), rows)

    def predictions(self) -> Arrays:
        """Data drawn for the new rows at the guide's draws of the global latents, and their covariates."""
        whole: Arrays = {}
        if not self.num_new:
            return whole
        work = self.work
        with work.evaluating(work.seed):
            batch = work.first(work.rows)
            for tile in Block(work, 0, batch, work.call(batch)).tiles():
                for runner in self._of(tile):
                    if work.dry_run.global_latents:
                        runner.traces(tile.call)
            for rows, made in self._predicted(list(self.runners.values())):
                place(whole, rows, made, self.num_new)
        return whole

    def _predicted(self, runners: list[Runner]) -> Iterator[tuple[slice, Arrays]]:
        names = {name: source.variable for name, source in self.sources.items()}
        done = 0
        for batch in batches(self.new, self.work.rows, shuffle=False, **self.work.place):
            rows = slice(done, done + len(batch.index))
            call = self.work.call(batch, guide=self.work.program.model)  # no guide is run
            drawn = [{"predictions": data_arrays(replicate(call, r.shared, r.num_samples), names)} for r in runners]
            yield rows, joined(drawn) | {"predictions_constant_data": covariate_arrays(self.new[rows])}
            done = rows.stop

    def _of(self, tile: Tile) -> list[Runner]:
        """The runners of a tile's draws, which keep their global draws from block to block."""
        start, stop = tile.samples.start, tile.samples.stop
        if start not in self.runners:
            step = tile.num_samples if self.work.vectorize else 1
            self.runners |= dict(zip(range(start, stop, step), self._new_runners(tile.samples), strict=True))
        return [self.runners[number] for number in range(start, stop) if number in self.runners]

    def _new_runners(self, samples: slice) -> list[Runner]:
        """One runner of some draws together, or one for each."""
        masked, step = self.work.dry_run.masked_latents, samples.stop - samples.start
        pieces = [samples] if self.work.vectorize else [slice(i, i + 1) for i in range(samples.start, samples.stop)]
        given = [None if self.chains is None else self.chains.values(piece, self.work) for piece in pieces]
        return [Runner(step if self.work.vectorize else None, values, masked) for values in given]

    def _arrays(self, runs: Iterable[tuple[Runner, Call]], rows: slice) -> Arrays:
        """The arrays of some rows: those of each run's draws joined, and what the rows and all draws give."""
        parts, terms, given = [], [], self.work.data[rows].dense()
        for runner, call in runs:
            traces = runner.traces(call)
            self.sources = self.sources or sources(traces[0], call.args)
            parts.append(runner.groups(self.wanted, traces[0], call, filled(call, self.sources, traces[0])))
            if self.wanted & WITH_TERMS:
                terms.append(log_terms(*traces))
        made = joined(parts)
        made["observed_data"] = observed(self.sources, traces[0], given.x)
        made["constant_data"] = covariate_arrays(given)
        if terms:
            made |= term_arrays(concatenate(terms), data_sites(traces[0]), self.chains is None)
            if self.chains is not None:
                made["sample_stats"]["diverging"] = Named(self.chains.diverging, ())
        return {group: arrays for group, arrays in made.items() if group in self.wanted and arrays}
