"""Masked latents: where their density counts, and a handler that lets it count everywhere."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import Independent

from pyrovae.programs.sites import Site, data_axis, frame_of, is_delta, sites_of


class Unmask(Messenger):
    """Takes the masks off some sites.

    Args:
        names: of the sites.
    """

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.names:
            msg["mask"], msg["fn"] = None, _unmasked(msg["fn"])


class Redraw(Messenger):
    """Draws the masked coordinates of some replayed sites from their prior, given what was drawn before them.

    A guide that masks a latent as the model does says nothing of it there, and weights do not correct it.

    Args:
        names: of the sites.
    """

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self.names = names
        self.values: dict[str, Tensor] = {}
        """The values of these sites as they were last redrawn."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] not in self.names or (counts := counted(msg)) is None:
            return
        with torch.no_grad():
            drawn = _unmasked(msg["fn"]).sample()
        msg["value"] = self.values[msg["name"]] = torch.where(counts, msg["value"], drawn)


def _unmasked(distribution: Any) -> Any:
    if isinstance(distribution, MaskedDistribution):
        return _unmasked(distribution.base_dist)
    if isinstance(distribution, Independent):
        return _unmasked(distribution.base_dist).to_event(distribution.reinterpreted_batch_ndims)
    return distribution


def counted(site: Site) -> Tensor | None:
    """Where a site's density counts: boolean, broadcast against its batch and event axes; None if it is not masked."""
    distribution, device = site["fn"], site["value"].device
    masks = [] if site["mask"] is None else [_over_events(site["mask"], distribution, device)]
    while isinstance(distribution, (MaskedDistribution, Independent)):
        if isinstance(distribution, MaskedDistribution):
            masks.append(_over_events(distribution._mask, distribution, device))
        distribution = distribution.base_dist
    return torch.stack(torch.broadcast_tensors(*masks)).all(0) if masks else None


class MaskedApartError(ValueError):
    """Model and guide mask a latent differently, so that weights of the guide's draws are no evidence."""


def masked_by_model_alone(model_trace: Trace, guide_trace: Trace) -> dict[str, Tensor]:
    """In which rows the model alone masks some of a latent, by latent.

    Raises:
        MaskedApartError: the guide masks what the model counts, so that the weights of its draws lack their density.
    """
    found = {}
    for site in sites_of(guide_trace):
        name = site["name"]
        if is_delta(site["fn"]) or "_enumerate_dim" in site["infer"] or name not in model_trace or not frame_of(site):
            continue
        masks = [counted(model_trace.nodes[name]), counted(site)]
        if masks[0] is None and masks[1] is None:
            continue
        shape = site["value"].shape
        model, guide = (
            torch.ones(shape, dtype=torch.bool, device=site["value"].device) if mask is None else mask.expand(shape)
            for mask in masks
        )
        if (model & ~guide).any():
            raise MaskedApartError(
                f"the guide masks latent {name!r} where the model counts it, so that weights p / q lack its density: mask it "
                "alike in model and guide"
            )
        only = (guide & ~model).movedim(data_axis(site), 0).flatten(1).any(1)
        if only.any():
            found[name] = only
    return found


def _over_events(mask: Any, distribution: Any, device: torch.device) -> Tensor:
    mask = torch.as_tensor(mask, device=device)
    return mask.reshape((*mask.shape, *[1] * len(distribution.event_shape)))
