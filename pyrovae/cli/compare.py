"""``pyrovae compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import pyrovae as pvae
from pyrovae.cli.options import METHOD, DataPath, Force, Method, NumSamples, Quiet, Rows, Seed, Steps, estimator_of
from pyrovae.cli.output import named, save_axes, say, show
from pyrovae.errors import counted, refusal


def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Folders of runs on the same data.")],
    data: DataPath = None,
    method: Method = METHOD,
    num_samples: NumSamples = None,
    steps: Steps = None,
    rows: Rows = None,
    out: Annotated[
        Path, typer.Option(help="Path of the table (.csv) and the figure (.png), without its ending.")
    ] = Path("comparison"),
    force: Force = False,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Compare runs by held-out log evidence, paired row by row."""
    from pyrovae.files import save_file_atomic
    from pyrovae.report.subject import data_of, require_same_rows

    estimator, runs = estimator_of(method, steps), {folder.name: pvae.files.Run.read(folder) for folder in folders}
    if len(runs) < 2 or len(runs) < len(folders):
        raise refusal(
            f"give two or more runs in folders of different names, got {', '.join(map(str, folders))}", "folders"
        )
    require_same_rows({name: run.config["data"] or {} for name, run in runs.items()})
    written, drawn = out.with_suffix(".csv"), out.with_suffix(".png")
    if not force and (taken := [str(path) for path in (written, drawn) if path.exists()]):
        raise refusal(f"{' and '.join(taken)} would be overwritten: choose another path, or say --force", "out")
    test = data_of(next(iter(runs.values())), data).test[:rows]
    result = pvae.compare(
        {folder.name: pvae.load(folder) for folder in folders},
        test,
        method=estimator,
        num_samples=num_samples,
        seed=seed,
        progress=False if quiet else None,
    )
    columns = ["", "log p(x)", "difference", "weight", "gap", "mcse", "bad k-hat"]
    cells = [
        (
            *(name, f"{row['elpd']:.2f} ± {row['se']:.2f}", f"{row['elpd_diff']:.2f} ± {row['dse']:.2f}"),
            *(f"{row['weight']:.3f}", f"{row['gap']:.2f}", f"{row['mcse']:.3f}", f"{row['pct_bad_k']:.0f}%"),
        )
        for name, row in result.per_datum().iterrows()
    ]
    by = ", ".join(dict.fromkeys(str(one).partition("(")[0].lower() for one in result.frame["estimator"]))
    show(quiet, f"{named(test)}, {counted(len(test), 'test row')}, {by}: nats per datum", columns, cells)
    say(quiet, "\n".join([result.lead(), *(f"- {note}" for note in result.notes)]))
    save_file_atomic(written, result.frame.to_csv().encode())
    say(quiet, f"table  {written}")
    save_axes(drawn, result.plot(), quiet)
