"""The draws of a `pyro.infer.MCMC` that has run, with what the model says about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from pyro import poutine
from pyro.infer import MCMC
from torch import Tensor

from pyrovae.arviz import check_bytes, from_zarr, to_arviz, to_datasets, to_zarr
from pyrovae.arviz.blocks import Arrays, Writer, bytes_of, from_terms, given_data, in_chains, joined
from pyrovae.arviz.labels import Labels
from pyrovae.arviz.observed import sources
from pyrovae.arviz.requests import Request
from pyrovae.arviz.running import Runner
from pyrovae.arviz.sites import Named
from pyrovae.data import Data, batches
from pyrovae.programs import log_terms
from pyrovae.programs.draws import CHUNK_SIZE, Call, Draws

if TYPE_CHECKING:
    from pyrovae.arviz.containers import Container


def from_chains(mcmc: MCMC, data: Any, covariates: Mapping[str, Any] | None, request: Request) -> Container:
    """The chains of an MCMC run in the groups of :func:`pyrovae.arviz.from_pyro_svi`.

    Args:
        mcmc: a sampler that has run on a model.
        data: the rows; None takes those on which it ran.
        covariates: the covariates; None takes that with which it ran.
        request: what is wanted. There are no ``amortized_diagnostics``, since there is no guide.

    Raises:
        ValueError: it has not run, has no model, or did not keep every latent; predictions or ranks are asked for.
    """
    if request.new_covariates is not None or request.sbc is not None:
        raise ValueError("new_covariates and sbc belong to programs with a guide: leave them out")
    samples = _samples(mcmc)
    args, model = mcmc._args, mcmc.kernel.model
    data = (args[0] if len(args) == 1 else args) if data is None else data
    covariates = mcmc._kwargs.get("covariates") if covariates is None else covariates
    draws = Draws((model, model), data, covariates, seed=request.seed, progress=False)
    num_chains, num_draws = next(iter(samples.values())).shape[:2]
    flat = {name: value.flatten(0, 1) for name, value in samples.items()}
    labels = Labels(data, draws.data, request.coords, request.dims)
    with draws.evaluating(draws.seed):
        pieces = _Pieces(draws, flat, request)
        first = pieces.block(slice(0, 1))
        labels.learn(first, pieces.writer.sources)
        check_bytes(bytes_of(first, num_chains * num_draws, len(draws)), request.max_bytes)
        whole = joined([pieces.block(rows) for rows in pieces.slices()])
    if "sample_stats" in whole:
        whole["sample_stats"]["diverging"] = Named(_diverging(mcmc, num_chains, num_draws), ())
    attrs = request.attributes(draws.data)
    made = to_datasets(in_chains(whole, num_chains), coords=labels.coords(), dims=labels.dims(), attrs=attrs)
    return to_arviz(made, attrs) if request.store is None else from_zarr(to_zarr(to_arviz(made, attrs), request.store))


class _Pieces:
    """The groups of some draws at a time, all rows at once."""

    def __init__(self, draws: Draws, flat: Mapping[str, Tensor], request: Request) -> None:
        place = draws.batches.place
        everything = batches(draws.data, len(draws), shuffle=False, device=place.device, dtype=place.dtype)
        self.call: Call = draws.call(next(iter(everything)))
        self.rows: Data = draws.data.dense()
        self.flat, self.groups, self.vectorize = flat, request.groups - {"amortized_diagnostics"}, request.vectorize
        trace = poutine.trace(self.call.program.model).get_trace(*self.call.args, **self.call.kwargs)
        self.event_dims = {name: len(trace.nodes[name]["fn"].event_shape) for name in flat}

    def slices(self) -> Iterator[slice]:
        """Which draws are handled together."""
        total = len(next(iter(self.flat.values())))
        size = max(1, CHUNK_SIZE // len(self.rows)) if self.vectorize else 1
        return (slice(start, min(start + size, total)) for start in range(0, total, size))

    def block(self, draws: slice) -> Arrays:
        """The arrays of some draws."""
        latents = {name: self._spread(name, value[draws]) for name, value in self.flat.items()}
        runner = Runner(draws.stop - draws.start if self.vectorize else None)
        trace = runner.given(latents, self.call)
        writer = self.writer = Writer([runner], self.groups, sources(trace, self.call.args))
        made = writer.posterior(runner, trace, trace, self.call)
        made |= from_terms(log_terms(trace, trace))
        made["sample_stats"] = {"lp": made["sample_stats"]["lp"]}
        made |= writer.prior(runner, trace, self.call) | given_data(writer.sources, trace, self.rows)
        return writer.chosen(made)

    def _spread(self, name: str, value: Tensor) -> Tensor:
        if not self.vectorize:
            return value[0]
        batch = value.ndim - 1 - self.event_dims[name]
        return value.reshape(len(value), *[1] * (self.call.nesting - batch), *value.shape[1:])


def _samples(mcmc: MCMC) -> dict[str, Tensor]:
    try:
        samples = mcmc.get_samples(group_by_chain=True)
    except (AttributeError, TypeError):
        samples = {}
    if not samples or mcmc._args is None:
        raise ValueError("this MCMC has no draws: call mcmc.run(x) first")
    if mcmc.kernel.model is None:
        raise ValueError("this MCMC ran on a potential function: give its kernel the model, NUTS(model)")
    return samples


def _diverging(mcmc: MCMC, num_chains: int, num_draws: int) -> np.ndarray:
    diverging = np.zeros((num_chains, num_draws), bool)
    for chain, found in enumerate(mcmc.diagnostics().get("divergences", {}).values()):
        diverging[chain, found] = True
    return diverging.reshape(-1)
