"""``pyrovae sample``."""

from __future__ import annotations

from typing import Annotated

import typer

import pyrovae as pvae
from pyrovae.cli.options import DataPath, Out, Quiet, RunFolder, Seed
from pyrovae.cli.output import picture_path, save_axes, save_rows, say


def sample(
    run: RunFolder,
    data: DataPath = None,
    num_samples: Annotated[int, typer.Option("--num-samples", "-n", help="How many.", min=1)] = 64,
    out: Out = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Draw data from a run's model."""
    import torch

    from pyrovae.report.subject import columns_of, data_of

    vae, kept, covariates = pvae.load(run), pvae.files.Run.read(run), None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if vae.covariate_names:  # those of training rows chosen at random
            rows = data_of(kept, data).train
            covariates = rows[torch.randint(len(rows), (num_samples,))].covariates
        drawn = vae.sample(num_samples, covariates)
    table = columns_of(kept) if vae.spec.likelihood == "table" else None
    path = out or run / ("samples.npz" if table is None else "samples.csv")
    save_rows(path, drawn, table)
    say(quiet, f"samples  {path}")
    if drawn.ndim == 4:
        save_axes(picture_path(run, out, "drawn"), pvae.plots.plot_samples(drawn), quiet, "draws of the model")
