"""Blocks of rows: every group's arrays for one batch, and all batches put together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.arviz import GROUPS
from pyrovae.arviz.observed import Source, observed, sources, without_gaps
from pyrovae.arviz.running import Runner, latents_of
from pyrovae.arviz.sites import Named, data_sites, deterministic_sites, draws_of, variable
from pyrovae.data import Data
from pyrovae.evaluation.marginal import summary
from pyrovae.programs import Terms, concatenate, log_terms
from pyrovae.programs.draws import Call
from pyrovae.programs.program import callable_without_data

Arrays = dict[str, dict[str, Named]]
WITH_TERMS = frozenset({"sample_stats", "amortized_diagnostics", "log_likelihood"})
SAMPLED = frozenset(group for group, leading in GROUPS.items() if "draw" in leading)


@dataclass
class Writer:
    """Makes the arrays of the groups asked for, batch by batch.

    Args:
        runners: run the program: one for all draws, or one for each.
        groups: their names.
        sources: where each data site's numbers come from, found on the first batch.
    """

    runners: Sequence[Runner]
    groups: frozenset[str]
    sources: Mapping[str, Source] = field(default_factory=dict)

    def block(self, call: Call, rows: Data) -> Arrays:
        """The arrays of one batch; those of sample groups start with the draws, not with the chain.

        Args:
            call: the program's arguments on these rows.
            rows: the same rows as they were given, in the type that they had.
        """
        parts, terms = [], []
        for runner in self.runners:
            traces = runner.posterior(call)
            self.sources = self.sources or sources(traces[0], call.args)
            parts.append(self._drawn(runner, traces, call))
            if self.groups & WITH_TERMS:
                terms.append(log_terms(*traces))
        made = joined(parts) | given_data(self.sources, traces[0], rows)
        if terms:
            made |= from_terms(terms[0] if len(terms) == 1 else concatenate(terms))
        return self.chosen(made)

    def chosen(self, made: Arrays) -> Arrays:
        """The groups asked for, without empty ones."""
        return {group: arrays for group, arrays in made.items() if group in self.groups and arrays}

    def _drawn(self, runner: Runner, traces: tuple[Trace, Trace], call: Call) -> Arrays:
        made = self.prior(runner, traces[0], call)
        if self.groups & {"posterior", "posterior_predictive"}:
            made |= self.posterior(runner, runner.completed(traces, call), traces[0], call)
        return made

    def posterior(self, runner: Runner, drawn: Trace, model_trace: Trace, call: Call) -> Arrays:
        """The latents of a trace, and data drawn at them."""
        names, made = data_sites(model_trace), {"posterior": _latents(drawn)}
        if "posterior_predictive" in self.groups:
            simulated = runner.simulate(latents_of(drawn), self._template(call, model_trace))
            made["posterior_predictive"] = drawn_data(simulated, names)
        return made

    def prior(self, runner: Runner, model_trace: Trace, call: Call) -> Arrays:
        """Latents and data drawn from the model, if they are asked for."""
        if not self.groups & {"prior", "prior_predictive"}:
            return {}
        names, drawn = data_sites(model_trace), runner.prior(self._template(call, model_trace))
        return {"prior": _latents(drawn, besides=names), "prior_predictive": drawn_data(drawn, names)}

    def _template(self, call: Call, model_trace: Trace) -> Call:
        if callable_without_data(call.program.model):
            return call
        return call._replace(args=without_gaps(self.sources, model_trace, call.args))


def _latents(trace: Trace, besides: Iterable[str] = ()) -> dict[str, Named]:
    names = [*latents_of(trace), *deterministic_sites(trace)]
    return {variable(name): draws_of(trace.nodes[name]) for name in names if name not in besides}


def drawn_data(trace: Trace, names: Iterable[str]) -> dict[str, Named]:
    """The data sites of a trace in which they were drawn."""
    return {variable(name): draws_of(trace.nodes[name]) for name in names}


def given_data(found: Mapping[str, Source], trace: Trace, rows: Data) -> Arrays:
    """What was observed, missing entries included, and the covariates.

    Args:
        found: where each data site's numbers come from.
        trace: of the model, run on these rows.
        rows: these rows as they were given.
    """
    numbers = observed(found, trace, rows.x)
    return {
        "observed_data": {variable(name): Named(array, found[name].dims) for name, array in numbers.items()},
        "constant_data": covariates_of(rows),
    }


def covariates_of(rows: Data) -> dict[str, Named]:
    """The covariates of some rows as it was given."""
    given = {name: _array(value) for name, value in (rows.covariates or {}).items()}
    return {name: Named(value, ("data", *[None] * (value.ndim - 1))) for name, value in given.items()}


def from_terms(terms: Terms) -> Arrays:
    """The log densities of a pair of traces, and what they say about each row."""
    log_weight = terms.log_weights
    log_q, kl = (torch.as_tensor(term).expand_as(log_weight) for term in (terms.log_guide, terms.kl))
    stats = _per_row({"lp": log_weight + log_q, "log_q": log_q, "log_weight": log_weight})
    if terms.outside is not None:
        stats["log_weight_global"] = Named(_array(terms.outside), ())
    return {
        "sample_stats": stats,
        "log_likelihood": _per_row({variable(name): value for name, value in terms.sites["reconstruction"].items()}),
        "amortized_diagnostics": _per_row(summary(log_weight.double()) | {"kl": kl.double().mean(0)}),
    }


def _per_row(values: Mapping[str, Tensor]) -> dict[str, Named]:
    return {name: Named(_array(value), ("data",)) for name, value in values.items()}


def _array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()


def joined(parts: Sequence[Arrays]) -> Arrays:
    """Arrays of some draws each, put together along the draws; what has no draws is the same in each part."""
    if len(parts) == 1:
        return parts[0]
    return {
        group: {
            name: named._replace(array=np.concatenate([part[group][name].array for part in parts]))
            for name, named in arrays.items()
        }
        if group in SAMPLED
        else arrays
        for group, arrays in parts[0].items()
    }


def gather(blocks: Iterable[tuple[slice, Arrays]], size: int) -> Arrays:
    """The blocks put together along the rows, each array made once.

    Args:
        blocks: the rows of each block and its arrays.
        size: the number of rows in all.
    """
    whole: Arrays = {}
    for rows, block in blocks:
        for group, arrays in block.items():
            kept = whole.setdefault(group, {})
            for name, (array, dims) in arrays.items():
                if "data" not in dims:
                    kept.setdefault(name, Named(array, dims))
                    continue
                axis = _axis_of_rows(group, dims)
                if name not in kept:
                    shape = (*array.shape[:axis], size, *array.shape[axis + 1 :])
                    kept[name] = Named(np.empty(shape, array.dtype), dims)
                kept[name].array[(slice(None),) * axis + (rows,)] = array
    return whole


def merged(blocks: Iterable[tuple[slice, Arrays]], size: int) -> Iterator[tuple[slice, Arrays]]:
    """Blocks put together until each has at least so many rows; all but the last have equally many.

    Args:
        blocks: the rows of each block and its arrays, in order.
        size: the number of rows wanted.
    """
    waiting: list[tuple[slice, Arrays]] = []
    for rows, block in blocks:
        waiting.append((rows, block))
        if rows.stop - waiting[0][0].start >= size:
            yield _merge(waiting)
            waiting = []
    if waiting:
        yield _merge(waiting)


def _merge(blocks: Sequence[tuple[slice, Arrays]]) -> tuple[slice, Arrays]:
    start, stop = blocks[0][0].start, blocks[-1][0].stop
    shifted = [(slice(rows.start - start, rows.stop - start), block) for rows, block in blocks]
    return slice(start, stop), gather(shifted, stop - start)


def _axis_of_rows(group: str, dims: tuple[str | None, ...]) -> int:
    return dims.index("data") + (group in SAMPLED)


def bytes_of(block: Arrays, num_draws: int, size: int) -> dict[str, int]:
    """The bytes, by group, of arrays like a block's with so many draws and rows."""
    total = dict.fromkeys(block, 0)
    for group, arrays in block.items():
        for array, dims in arrays.values():
            shape = list(array.shape)
            if group in SAMPLED:
                shape[0] = num_draws
            if "data" in dims:
                shape[_axis_of_rows(group, dims)] = size
            total[group] += math.prod(shape) * array.dtype.itemsize
    return total


def in_chains(block: Arrays, num_chains: int = 1) -> dict[str, dict[str, np.ndarray]]:
    """The arrays alone, the draws of sample groups cut into chains."""
    return {
        group: {
            name: array.reshape(num_chains, -1, *array.shape[1:]) if group in SAMPLED else array
            for name, (array, _) in arrays.items()
        }
        for group, arrays in block.items()
    }
