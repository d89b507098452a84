"""``pyrovae encode``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import pyrovae as pvae
from pyrovae.cli.options import Quiet, RunFolder, Seed
from pyrovae.cli.output import save_arrays, say
from pyrovae.errors import refusal


def encode(
    run: RunFolder,
    data: Annotated[str | None, typer.Argument(help="A data set or file; by default the run's test rows.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="An .npz or .parquet file; by default latents.npz in the run.")
    ] = None,
    num_samples: Annotated[
        int | None, typer.Option(help="Draws per row instead of the posterior's mean.", min=1)
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Encode rows into latents."""
    import pandas as pd
    import torch

    from pyrovae.files import save_file_atomic
    from pyrovae.report.subject import data_of, rows_of

    path = out or run / "latents.npz"
    if path.suffix not in (".npz", ".parquet"):
        raise refusal(f"the output must end in .npz or .parquet, got {path}", "out")
    if path.suffix == ".parquet" and num_samples is not None:
        raise refusal("a .parquet file holds one vector per row: leave draws out, or write an .npz file", "num_samples")
    vae, kept = pvae.load(run), pvae.files.Run.read(run)
    rows = data_of(kept).test if data is None else rows_of(kept, data)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        z = vae.encode(rows, num_samples=num_samples).numpy()
    labels = None if rows.label is None else rows.label.numpy()
    if path.suffix == ".parquet":
        columns = {f"z{number}": values for number, values in enumerate(z.T)}
        frame = pd.DataFrame(columns if labels is None else {**columns, "label": labels})
        save_file_atomic(path, frame.to_parquet)
    else:
        save_arrays(path, z=z, **({} if labels is None else {"labels": labels}))
    say(quiet, f"latents  {path}")
