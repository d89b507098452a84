"""``pyrovae compress``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import pyrovae as pvae
from pyrovae.cli.options import Force, Quiet, RunFolder, Seed
from pyrovae.cli.output import check_free, say
from pyrovae.errors import refusal

BatchSize = Annotated[int, typer.Option(help="Rows at a time: more are faster, and take more initial bits.", min=1)]


def compress(
    run: RunFolder,
    data: Annotated[str | None, typer.Argument(help="A data set or file; by default the run's test rows.")] = None,
    out: Annotated[Path | None, typer.Option(help="The file; by default rows.pvae in the run.")] = None,
    batch_size: BatchSize = 64,
    seed: Seed = 0,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write rows of integers as a file of about as many bits as their negative ELBO; decompress gives them back."""
    import bz2
    import gzip
    import lzma

    import numpy as np

    from pyrovae.files import save_file_atomic
    from pyrovae.report.subject import data_of, rows_of
    from pyrovae.uses import coded_size

    path = out or run / "rows.pvae"
    check_free(path, force or out is None)
    vae, kept = pvae.load(run), pvae.files.Run.read(run)
    rows = data_of(kept).test if data is None else rows_of(kept, data)
    if rows.covariates:
        raise refusal("rows with covariates are coded in Python, by pyrovae.uses.compress", "data")
    progress = False if quiet else None
    blob = pvae.uses.compress(vae, rows, batch_size=batch_size, seed=seed, progress=progress)
    save_file_atomic(path, blob)
    size = coded_size(blob)
    numbers = size["rows"] * size["dimensions"]
    say(quiet, f"{size['rows']} rows of {size['dimensions']} entries: {size['file'] // 8} bytes")
    say(
        quiet,
        f"bits an entry: {size['net'] / numbers:.4f} net, {size['written'] / numbers:.4f} with {size['initial']} initial "
        f"bits, {size['file'] / numbers:.4f} with the header",
    )
    raw = rows.dense().x.numpy()
    raw = raw.astype(np.min_scalar_type(int(raw.max(initial=0)))).tobytes()
    others: dict[str, Any] = {"gzip": gzip.compress, "bz2": bz2.compress, "lzma": lzma.compress}
    beside = ", ".join(f"{name} {8 * len(coder(raw)) / numbers:.4f}" for name, coder in others.items())
    say(quiet, f"beside   {beside}")
    say(quiet, f"file     {path}")
