"""``pyrovae decompress``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import pyrovae as pvae
from pyrovae.cli.options import Force, Quiet, RunFolder
from pyrovae.cli.output import check_free, save_rows, say
from pyrovae.errors import counted, refusal


def decompress(
    run: RunFolder,
    file: Annotated[Path, typer.Argument(help="A file that compress wrote with this run.")],
    out: Annotated[Path, typer.Option(help="An .npz file, or a .csv file for a table.")],
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Give the rows of a compressed file back."""
    from pyrovae.report.subject import columns_of
    from pyrovae.uses import decompress as read

    if out.suffix not in (".npz", ".csv"):
        raise refusal(f"the output must end in .npz or .csv, got {out}", "out")
    check_free(out, force)
    vae, kept = pvae.load(run), pvae.files.Run.read(run)
    table = columns_of(kept) if (kept.config["data"] or {}).get("columns") else None
    rows = read(vae, file.read_bytes(), progress=False if quiet else None)
    save_rows(out, rows, table)
    say(quiet, f"{counted(len(rows), 'row')}  {out}")
