"""``pyrovae sample``."""

from __future__ import annotations

from typing import Annotated

import typer

import pyrovae as pvae
from pyrovae.cli.options import Out, Quiet, RunFolder, Seed
from pyrovae.cli.output import picture_path, save_arrays, save_axes, say


def sample(
    run: RunFolder,
    num_samples: Annotated[int, typer.Option("--num-samples", "-n", help="How many.", min=1)] = 64,
    out: Out = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Draw data from a run's model."""
    import torch

    vae = pvae.load(run)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        drawn = vae.sample(num_samples)
    path = out or run / "samples.npz"
    save_arrays(path, x=drawn.numpy())
    say(quiet, f"samples  {path}")
    if drawn.ndim == 4:
        save_axes(picture_path(run, out, "drawn"), pvae.plots.plot_samples(drawn), quiet)
