"""``pyrovae augment``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import pyrovae as pvae
from pyrovae.cli.options import Force, Quiet, RunFolder, Seed
from pyrovae.cli.output import check_free, save_arrays, say
from pyrovae.errors import refusal


def augment(
    run: RunFolder,
    data: Annotated[
        str | None, typer.Argument(help="A data set or file with labels; by default the run's training rows.")
    ] = None,
    factor: Annotated[int, typer.Option(help="Draws for each row.", min=1)] = 5,
    out: Annotated[
        Path | None, typer.Option(help="An .npz file of rows and labels; by default augmented.npz in the run.")
    ] = None,
    seed: Seed = 0,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write labeled rows and, after them, draws of the model near each one, with its label."""
    from pyrovae.report.subject import data_of, rows_of

    path = out or run / "augmented.npz"
    if path.suffix != ".npz":
        raise refusal(f"the output must end in .npz, got {path}", "out")
    check_free(path, force or out is None)
    vae, kept = pvae.load(run), pvae.files.Run.read(run)
    rows = data_of(kept).train.drawn(seed) if data is None else rows_of(kept, data)
    if rows.label is None:
        raise refusal("the rows have no labels: train with --labels and the name of their column", "data")
    x, labels = pvae.uses.augment(vae, rows, rows.label, factor, seed=seed)
    words = rows.levels.get(str(rows.label_name))
    codes = np.asarray(labels)
    save_arrays(path, x=x.numpy(), labels=codes if words is None else np.array(words)[codes.astype(int)])
    say(quiet, f"{len(rows)} rows and {len(x) - len(rows)} draws near them  {path}")
