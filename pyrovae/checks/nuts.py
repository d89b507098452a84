"""Pyro's own NUTS on one row after another: slow, and independent of everything else here."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS
from torch import Tensor

from pyrovae.evaluation.unconstrained import LatentSpace
from pyrovae.programs.call import Call
from pyrovae.programs.masks import Unmask


def nuts_chains(call: Call, num_chains: int, num_warmup: int, num_samples: int) -> dict[str, Tensor]:
    """Draws by site, of shape (chains, draws, *event_shape), of one row; the networks' parameters stay as they are.

    Args:
        call: the program on a single row.
        num_chains: chains, one after the other; they start at the guide and at the prior by turns.
        num_warmup: transitions that adapt.
        num_samples: draws kept of each chain.
    """
    space = LatentSpace(call)
    masked = set(space.names) - space.flat
    starts = [space.guide_draws(num_chains), space.prior_draws(num_chains)]
    chains = []
    for chain in range(num_chains):
        u = starts[chain % 2][chain][None]
        initial = {b.name: _natural(space, b, u) for b in space.blocks}
        chains.append(_chain(call, initial, num_warmup, num_samples, masked))
    return {name: torch.stack([chain[name] for chain in chains]) for name in chains[0]}


def _natural(space: LatentSpace, block: Any, u: Tensor) -> Tensor:
    """The unconstrained value in the shape that the model gives it, without the particle axis."""
    return block.transform.inv(space.values(u)[0][block.name])[0].reshape(_shape(space, block))


def _shape(space: LatentSpace, block: Any) -> torch.Size:
    trace = poutine.trace(poutine.block(space.call.program.model, expose_types=["sample"])).get_trace(
        *space.call.args, **space.call.kwargs
    )
    return block.transform.inv(trace.nodes[block.name]["value"]).shape


def _chain(
    call: Call, initial: Mapping[str, Tensor], num_warmup: int, num_samples: int, masked: Collection[str]
) -> dict[str, Tensor]:
    kernel = NUTS(Unmask(masked)(_frozen(call.program.model)), max_plate_nesting=call.nesting)
    kernel.initial_params = {name: value.detach() for name, value in initial.items()}
    mcmc = MCMC(kernel, num_samples, num_warmup, initial_params=kernel.initial_params, disable_progbar=True)
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mcmc.run(*call.args, **call.kwargs)
    return {name: _squeezed(value, call) for name, value in mcmc.get_samples().items() if name in initial}


def _squeezed(value: Tensor, call: Call) -> Tensor:
    """(draws, *plates, *event) of a single row, its plates of size one dropped."""
    lead = value.shape[1 : 1 + call.nesting]
    return value.reshape(len(value), *[size for size in lead if size > 1], *value.shape[1 + call.nesting :])


def _frozen(model: Callable) -> Callable:
    """The model without its param messages: NUTS would otherwise ask the parameter store."""
    return poutine.block(model, hide_fn=lambda site: site["type"] == "param")
