"""``pyrovae report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyrovae.cli.options import DataPath, Force, Quiet, Seed
from pyrovae.cli.output import say
from pyrovae.errors import refusal


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folder of a run, or of several to compare.")],
    data: DataPath = None,
    out: Annotated[
        Path | None, typer.Option(help="The page; by default report.html in the run, or comparison.html for several.")
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            help="Test rows for log p(x); by default as many as on the page that stands there, else as seconds allow."
        ),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    force: Force = False,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Write one page of HTML on a run, or on several compared: the model, its results, and how far to trust them."""
    import webbrowser

    from pyrovae.files import Run
    from pyrovae.report import write_report
    from pyrovae.report.render import rows_shown
    from pyrovae.report.subject import data_of, read_subject
    from pyrovae.report.write import COMPARISON, REPORT

    own = None if data is None else data_of(Run.read(folders[0]), data)
    page = out or (folders[0] / REPORT if len(folders) == 1 else Path(COMPARISON))
    if page.exists() and not force:
        kept, otherwise = rows_shown(page), "choose another file, or say --force"
        if rows is not None and rows < kept:
            raise refusal(f"{page} shows the evidence of {kept:,} rows, more than {rows:,}: {otherwise}", "rows")
        if poor := [words for folder in folders for words in read_subject(folder, data=own).missing]:
            raise refusal(f"{page} may hold more than this page would: {otherwise}. {poor[0]}", "out")
        rows = rows or kept or None
    path = write_report(folders, out, data=own, rows=rows, seed=seed, progress=False if quiet else None)
    say(quiet, f"report  {path}")
    if open_ and not webbrowser.open(path.resolve().as_uri()):
        say(quiet, "no browser was found: open the file by hand")
