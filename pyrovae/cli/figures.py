"""The figures of a trained VAE."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyrovae import plots
from pyrovae.data import Data
from pyrovae.models import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyrovae.training import History

LATENT_ROWS, IMAGE_ROWS, SAMPLES = 2000, 10, 64


def draw_figures(vae: VAE, data: Data, history: History, seed: int) -> dict[str, Figure]:
    """What a trained VAE looks like on held-out rows: a figure for each name."""
    makers: dict[str, Callable[[], Any]] = {
        "history": lambda: plots.plot_history(history.to_dict(), best_epoch=history.best_epoch)
    }
    makers |= _image_figures(vae, data, seed) if _is_image(data) else {}
    makers |= _latent_figures(vae, data)
    return {name: np.ravel(make())[0].figure for name, make in makers.items()}


def _image_figures(vae: VAE, data: Data, seed: int) -> dict[str, Callable[[], Any]]:
    rows = data[:IMAGE_ROWS].dense()
    top = float(data[:1000].dense().x.nan_to_num().max())
    figures: dict[str, Callable[[], Any]] = {
        "reconstructions": lambda: plots.plot_reconstructions(rows.x, vae.reconstruct(rows.x), vmin=0, vmax=top),
        "samples": lambda: plots.plot_samples(_prior_means(vae, seed), vmin=0, vmax=top),
    }
    if _latent_dim(vae, data) == 2:
        figures["manifold"] = lambda: plots.plot_manifold(vae.decode, vmin=0, vmax=top)
    return figures


def _prior_means(vae: VAE, seed: int) -> torch.Tensor:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        return vae.decode(vae.prior().sample((SAMPLES,)))


def _latent_figures(vae: VAE, data: Data) -> dict[str, Callable[[], Any]]:
    if _latent_dim(vae, data) < 2:
        return {}
    rows = data[:LATENT_ROWS].dense()
    return {"latent": lambda: plots.plot_latent(vae.encode(rows.x), rows.labels, title="label")}


def _latent_dim(vae: VAE, data: Data) -> int:
    return vae.encode(data[:1].dense().x).reshape(1, -1).shape[1]


def _is_image(data: Data) -> bool:
    return len(data.event_shape) == 3 and data.event_shape[0] in (1, 3)
