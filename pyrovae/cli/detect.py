"""``pyrovae detect``."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import pyrovae as pvae
from pyrovae.cli.endings import complain
from pyrovae.cli.options import DataPath, Force, Quiet, RunFolder, Seed
from pyrovae.cli.output import check_free, number, say, show
from pyrovae.errors import refusal

if TYPE_CHECKING:
    from pyrovae.data import Data

SHOWN = 10
"""So many of the strangest rows are printed; the file holds all."""


def detect(
    run: RunFolder,
    data: Annotated[str, typer.Argument(help="A data set or file with the columns that the run was trained on.")],
    calibration: Annotated[
        str | None,
        typer.Option(help="A file of usual rows that nothing was trained on; by default the run's own test rows."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The .csv file of the rows; by default anomalies.csv in the run.")
    ] = None,
    score: Annotated[str, typer.Option(help="evidence, elbo, typicality or likelihood_ratio.")] = "evidence",
    background: Annotated[
        Path | None, typer.Option(help="Folder of the run that is the background of a likelihood ratio.")
    ] = None,
    fdr: Annotated[float, typer.Option(help="Share of false discoveries.")] = 0.1,
    window: Annotated[int, typer.Option(help="Consecutive rows that are looked at together.", min=1)] = 1,
    explain: Annotated[
        int, typer.Option(help="So many of the strangest rows are explained by their features.", min=0)
    ] = 0,
    rows_per_day: Annotated[
        float | None,
        typer.Option(help="Rows (windows) that arrive in a day: tells alarms by level, and what they cost."),
    ] = None,
    cost: Annotated[float, typer.Option(help="Of looking into one alarm.")] = 1.0,
    train: DataPath = None,
    num_samples: Annotated[
        int | None, typer.Option(help="Draws per row (by default 1000, for elbo 100).", min=1)
    ] = None,
    seed: Seed = 0,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Find strange rows by p-values against usual rows, and write a table of all, the strangest first."""
    given = dict(locals())
    from pyrovae.files import save_file_atomic
    from pyrovae.report.subject import rows_of

    path = out or run / "anomalies.csv"
    if path.suffix != ".csv":
        raise refusal(f"the output must end in .csv, got {path}", "out")
    check_free(path, force or out is None)
    kept = pvae.files.Run.read(run)
    own = _own(kept, train, needed=calibration is None, quiet=quiet)
    rows = rows_of(kept, data)
    usual = own.test if own is not None and calibration is None else rows_of(kept, str(calibration))
    needed = pvae.uses.calibration_needed(len(rows) // window, 1, fdr)
    say(
        quiet, f"{len(usual)} calibration rows; to discover a single one of {len(rows)} rows it takes {needed * window}"
    )
    options = {name: given[name] for name in signature(pvae.uses.detect).parameters if name in given}
    options |= {"background": None if background is None else pvae.load(background)}
    options |= {"data": rows, "calibration": usual, "train": None if own is None else own.train.drawn(seed)}
    found = pvae.uses.detect(pvae.load(run), **options, progress=False if quiet else None)
    frame = found.to_frame()
    save_file_atomic(path, frame.to_csv(index=False).encode())
    first = frame.head(SHOWN)
    cells = [[_cell(value) for value in line] for line in first.itertuples(index=False)]
    lead, *_ = repr(found).split("\n")
    show(quiet, lead, list(first.columns), cells)
    if rows_per_day is not None:
        daily = found.alarms(rows_per_day, cost).reset_index()
        lines = [[_cell(value) for value in line] for line in daily.itertuples(index=False)]
        show(quiet, f"{rows_per_day:g} a day, {cost:g} for each alarm", list(daily.columns), lines)
    for note in found.notes:
        say(quiet, f"note: {note}")
    say(quiet, f"table  {path}")


def _own(kept: pvae.files.Run, path: str | None, needed: bool, quiet: bool) -> Data | None:
    """The run's own data: their test rows calibrate, by their training rows others are recognized."""
    from pyrovae.report.subject import data_of

    try:
        return data_of(kept, path)
    except (OSError, ValueError) as error:
        if needed or path is not None:
            raise
        complain(f"training rows among the calibration rows cannot be recognized: {error}", "yellow", quiet)
        return None


def _cell(value: object) -> str:
    return number(value, ".4g") if isinstance(value, float) else str(value)
