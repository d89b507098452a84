"""``pyrovae evaluate``."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import pyrovae as pvae
from pyrovae.cli.endings import complain
from pyrovae.cli.options import (
    METHOD,
    DataPath,
    Method,
    NumSamples,
    Quiet,
    Rows,
    RunFolder,
    Seed,
    Steps,
    estimator_of,
)
from pyrovae.cli.output import named, number, say, show, why_not_writable
from pyrovae.errors import counted

if TYPE_CHECKING:
    import xarray as xr


def evaluate(
    run: RunFolder,
    data: DataPath = None,
    method: Method = METHOD,
    num_samples: NumSamples = None,
    steps: Steps = None,
    rows: Rows = None,
    out: Annotated[Path | None, typer.Option(help="The .csv file of the rows; by default in the run's folder.")] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Estimate the held-out log evidence of a run; stopped and started again, it goes on where it was."""
    from pyrovae.files import save_file_atomic
    from pyrovae.report.evidence import write_evaluated
    from pyrovae.report.subject import data_of

    found, estimator, reason = pvae.files.Run.read(run), estimator_of(method, steps), why_not_writable(run)
    vae, test = pvae.load(run), data_of(found, data).test[:rows]
    unfinished = None if reason else run / f".evaluate-{method}"
    result = pvae.log_marginal(
        vae,
        test,
        method=estimator,
        num_samples=num_samples,
        seed=seed,
        progress=False if quiet else None,
        resume=unfinished,
    )
    by = result.attrs["method"]
    title = f"{named(test)}, {counted(len(test), 'test row')}, {by}: nats per datum"
    _show(quiet, title, result, test.event_shape.numel())
    if out is not None:
        say(quiet, f"per row  {save_file_atomic(out, result.to_dataframe().to_csv().encode())}")
    elif reason:
        complain(
            f"{run} cannot be written ({reason}), so the estimates are not kept: --out keeps them", "yellow", quiet
        )
    elif more := _more_rows(found, by, len(test)):
        complain(
            f"{run} keeps its estimates of {more:,} rows by this method: --out keeps these as well", "yellow", quiet
        )
    else:
        say(quiet, f"per row  {write_evaluated(found, result, by)}\n`pyrovae report {run}` puts them on a page")
    if unfinished is not None:
        shutil.rmtree(unfinished, ignore_errors=True)


def _more_rows(run: pvae.files.Run, method: str, num_rows: int) -> int | None:
    """Of how many rows the estimates in the run's folder are, if they are of its weights and of more rows than these."""
    from pyrovae.files import read_json
    from pyrovae.files.config import STATE

    path = run.folder / f"evidence-{method}.json"
    known = read_json(path) if path.is_file() else {}
    is_own = known.get("weights") == run.config["files"].get(STATE)
    return known["num_data"] if is_own and known.get("num_data", 0) > num_rows else None


def _show(quiet: bool, title: str, result: xr.Dataset, entries: int) -> None:
    from pyrovae.limits import FEWEST_SAMPLES, good_k, share_bad_k

    values, num_samples = result["log_marginal"].values, result.attrs["num_samples"]
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    is_mass = result.attrs.get("measure") == "mass"  # the bits of a density depend on the data's unit
    cells = {
        "log p(x)": f"{values.mean():.2f} ± {number(error)}",
        "mcse": number(float((result["mcse"] ** 2).sum()) ** 0.5 / len(values), ".3f"),  # of the mean beside it
        "ELBO": number(float(result["elbo"].mean())),
        "gap": number(float(result["gap"].mean())),
        "bits/dim": number(-values.mean() / (math.log(2) * entries) if is_mass else None, ".3f"),
    }
    if num_samples >= FEWEST_SAMPLES:
        bad = share_bad_k(result["pareto_k"].values, num_samples)
        cells[f"k-hat > {good_k(num_samples):.2f}"] = f"{bad:.0%}"
    show(quiet, title, list(cells), [list(cells.values())])
    if "notes" in result.attrs:
        say(quiet, f"note: {result.attrs['notes']}")
