"""Latents and reconstructions of rows, whether or not the posterior has a mean in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

DRAWS = 64


def encoded(vae: Any, x: Tensor, seed: int = 0) -> Tensor:
    """The posterior's mean for each row; where it has no closed form, the average of some draws.

    Args:
        vae: the VAE.
        x: rows, ``(rows, *event_shape)``.
        seed: of the draws.
    """
    try:
        return vae.encode(x)
    except NotImplementedError:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return vae.encode(x, num_samples=DRAWS).mean(0)


def reconstructed(vae: Any, x: Tensor, seed: int = 0) -> Tensor:
    """What the likelihood makes of the posterior's mean; where that has no closed form, its average over some draws.

    Args:
        vae: the VAE.
        x: rows, ``(rows, *event_shape)``.
        seed: of the draws.
    """
    try:
        return vae.reconstruct(x)
    except NotImplementedError:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return vae.reconstruct(x, num_samples=DRAWS)
