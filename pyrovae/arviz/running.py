"""Runs of a program on batches of rows: posterior, prior and predictive draws, the global ones drawn once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
from pyro import poutine
from pyro.infer import infer_discrete
from pyro.poutine.trace_struct import Trace
from pyro.poutine.uncondition_messenger import UnconditionMessenger
from torch import Tensor

from pyrovae.arviz.sites import inside
from pyrovae.checks.simulate import Substitute, num_rows
from pyrovae.programs import PARTICLES, Program, callable_without_data, latent_names, paired_traces
from pyrovae.programs.draws import Call
from pyrovae.programs.sites import sites_of


class Runner:
    """A program run with all of its draws at once, on one batch of rows after the other.

    A latent outside the data plate is drawn with the first batch, and stays for the rest.

    Args:
        num_samples: draws a row; None draws once, without an axis for the draws.

    Attributes:
        global_draws: the guide's draws of latents outside the data plate, by site.
    """

    def __init__(self, num_samples: int | None) -> None:
        self.num_samples = num_samples
        self.global_draws: dict[str, Tensor] = {}
        self._prior_global: dict[str, Tensor] = {}

    def posterior(self, call: Call) -> tuple[Trace, Trace]:
        """The model's trace replayed against the guide's; a site that the guide would enumerate is drawn."""
        drawn = poutine.infer_config(call.program.guide, config_fn=lambda _: {"enumerate": None})
        program = Program(call.program.model, Substitute(self.global_draws)(drawn))
        traces = paired_traces(program, call.args, call.kwargs, self.num_samples, call.nesting)
        self.global_draws = self.global_draws or _outside(traces[1])
        return traces

    def completed(self, traces: tuple[Trace, Trace], call: Call) -> Trace:
        """A trace of the model with every latent drawn: sites that the model alone enumerates, from their posterior.

        That posterior is exact, given the guide's draws of the others.
        """
        model_trace, guide_trace = traces
        if not any("_enumerate_dim" in site["infer"] for site in sites_of(model_trace)):
            return model_trace
        model = poutine.replay(self._many(call.program.model, call), trace=guide_trace)
        drawn = infer_discrete(model, first_available_dim=self._first_free(call), temperature=1)
        return poutine.trace(drawn).get_trace(*call.args, **call.kwargs)

    def given(self, latents: Mapping[str, Tensor], call: Call) -> Trace:
        """A trace of the model on the data at given latents; others are drawn from their posterior, if enumerated.

        Raises:
            ValueError: a latent is neither given nor enumerated.
        """
        model = Substitute(latents)(self._many(call.program.model, call))
        trace = poutine.trace(model).get_trace(*call.args, **call.kwargs)
        rest = [name for name in latent_names(trace) if name not in latents]
        if not rest:
            return trace
        lacking = [name for name in rest if trace.nodes[name]["infer"].get("enumerate") != "parallel"]
        if lacking:
            raise ValueError(f"there are no draws of the latent sites {lacking}: keep them all (no save_params)")
        drawn = infer_discrete(model, first_available_dim=self._first_free(call), temperature=1)
        return poutine.trace(drawn).get_trace(*call.args, **call.kwargs)

    def prior(self, call: Call) -> Trace:
        """A trace of the model alone, its data sites drawn too."""
        trace = self.simulate(self._prior_global, call)
        self._prior_global = self._prior_global or _outside(trace)
        return trace

    def simulate(self, latents: Mapping[str, Tensor], call: Call) -> Trace:
        """A trace of the model at given latents, its data sites drawn.

        A model that can be called without data is, so that what it draws cannot depend on them (on which entries are
        missing, say). Any other runs on the data with its observations released.
        """
        model, args, kwargs = call.program.model, call.args, dict(call.kwargs)
        if callable_without_data(model):
            args, kwargs["size"] = (), num_rows(call.args)
        else:
            model = _Release()(model)
        with Substitute(latents):
            return poutine.trace(self._many(model, call)).get_trace(*args, **kwargs)

    def _first_free(self, call: Call) -> int:
        return -1 - call.nesting - (self.num_samples is not None)

    def _many(self, model: Callable, call: Call) -> Callable:
        if self.num_samples is None:
            return model
        return pyro.plate(PARTICLES, self.num_samples, dim=-1 - call.nesting)(model)


class _Release(UnconditionMessenger):
    """Releases what was observed, but not what ``pyro.deterministic`` computes."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not msg["infer"].get("_deterministic"):
            super()._pyro_sample(msg)


def _outside(trace: Trace) -> dict[str, Tensor]:
    return {s["name"]: s["value"] for s in sites_of(trace) if not s["is_observed"] and not inside(s)}


def latents_of(trace: Trace) -> dict[str, Tensor]:
    """The values of the latent sites of a trace in which all are drawn, auxiliary ones left out."""
    latents = [s for s in sites_of(trace) if not s["is_observed"] and not s["infer"].get("is_auxiliary")]
    return {s["name"]: s["value"] for s in latents}
