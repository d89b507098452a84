"""Pyro's own NUTS on one row after another: slow, and independent of everything else here."""

from __future__ import annotations

import warnings

import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS
from torch import Tensor

from pyrovae.errors import refusal
from pyrovae.evaluation.coordinates import Direction
from pyrovae.evaluation.unconstrained import LatentSpace
from pyrovae.programs.call import Call
from pyrovae.programs.masks import Unmask


def nuts_chains(call: Call, num_chains: int, num_warmup: int, num_samples: int) -> dict[str, Tensor]:
    """Draws by site, of shape (chains, draws, *event_shape), of one row; chains start at the guide and at the prior by turns.

    The model is run without its param messages, for which NUTS would ask the parameter store.
    """
    space = LatentSpace(call)
    directions = [block.name for block in space.blocks if isinstance(block.transform, Direction)]
    if directions:
        raise refusal(f"NUTS takes no directions, and the latents {directions} are: use method='hmc'", "method")
    starts = [space.guide_draws(num_chains), space.prior_draws(num_chains)]
    sampled = poutine.trace(poutine.block(call.program.model, expose_types=["sample"]))
    shaped = sampled.get_trace(*call.args, **call.kwargs)
    model = poutine.block(call.program.model, hide_fn=lambda site: site["type"] == "param")
    model = Unmask(set(space.names) - space.flat)(model)
    chains = []
    for chain in range(num_chains):
        values = space.values(starts[chain % 2][chain][None])[0]
        initial = {}
        for block in space.blocks:
            shape = block.transform.inv(shaped.nodes[block.name]["value"]).shape
            initial[block.name] = block.transform.inv(values[block.name])[0].reshape(shape).detach()
        kernel = NUTS(model, max_plate_nesting=call.nesting)
        mcmc = MCMC(kernel, num_samples, num_warmup, initial_params=initial, disable_progbar=True)
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mcmc.run(*call.args, **call.kwargs)
        chains.append({name: _squeezed(value, call) for name, value in mcmc.get_samples().items() if name in initial})
    return {name: torch.stack([chain[name] for chain in chains]) for name in chains[0]}


def _squeezed(value: Tensor, call: Call) -> Tensor:
    """(draws, *plates, *event) of a single row, its plates of size one dropped."""
    lead = value.shape[1 : 1 + call.nesting]
    return value.reshape(len(value), *[size for size in lead if size > 1], *value.shape[1 + call.nesting :])
