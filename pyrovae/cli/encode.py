"""``pyrovae encode``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import pyrovae as pvae
from pyrovae.cli.options import Quiet, RunFolder, Seed
from pyrovae.cli.output import save_arrays, say
from pyrovae.errors import refusal

if TYPE_CHECKING:
    from pyrovae.data import Data


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

    path = out or run / "latents.npz"
    if path.suffix not in (".npz", ".parquet"):
        raise refusal(f"the output must end in .npz or .parquet, got {path}", "out")
    if path.suffix == ".parquet" and num_samples is not None:
        raise refusal("a .parquet file holds one vector per row: leave draws out, or write an .npz file", "num_samples")
    vae, rows = pvae.load(run), _rows(pvae.files.Run.read(run), data)
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


def _rows(run: pvae.files.Run, source: str | None) -> Data:
    """The run's test rows; or all rows of a data set or file, in the variant and with the columns of its training rows."""
    from pyrovae.data import load
    from pyrovae.report.subject import columns_of, data_of, reading_of

    kept = run.config["data"]
    if source is None or kept is None:
        return data_of(run).test
    variant, reading = kept["variant"] if source == kept["name"] else None, reading_of(run, is_later=True)
    rows = load(source, variant, seed=kept["seed"] or 0, **reading)
    trained = columns_of(run)
    return trained.matched(rows.drawn(kept["seed"] or 0))
