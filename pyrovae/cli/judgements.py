"""What the commands that judge runs do: compare several, diagnose one."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae import plots
from pyrovae.arviz import from_pyro_svi, to_netcdf
from pyrovae.checks import diagnose as diagnose_program
from pyrovae.cli.commands import load_vae, save_axes
from pyrovae.cli.console import in_options, named, require_free, say
from pyrovae.comparison import compare as compare_models
from pyrovae.files import Run, save_file_atomic
from pyrovae.report import write_report
from pyrovae.report.subject import data_of, require_same_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyrovae.checks.report import Report
    from pyrovae.evaluation import Estimator

ARVIZ_ROWS = 500


def compare(
    folders: Sequence[Path],
    estimator: Estimator,
    samples: int | None,
    rows: int | None,
    out: Path,
    force: bool,
    seed: int,
    quiet: bool,
) -> None:
    """Compare runs by their held-out evidence on the same test rows; a table, a CSV file and a figure."""
    found = {folder.name: Run.read(folder) for folder in folders}
    if len(found) < 2 or len(found) < len(folders):
        raise ValueError(f"give at least two runs in folders of different names, got {', '.join(map(str, folders))}")
    require_same_rows({name: run.config["data"] or {} for name, run in found.items()})
    written, drawn = out.with_suffix(".csv"), out.with_suffix(".png")
    require_free([written, drawn], force)
    data = data_of(next(iter(found.values())))
    test = data.test if rows is None else data.test[:rows]
    models = {folder.name: load_vae(folder) for folder in folders}
    result = compare_models(
        models, test, method=estimator, num_samples=samples, seed=seed, progress=False if quiet else None
    )
    say(quiet, f"{named(test)}, {len(test)} test rows\n{in_options(str(result))}")
    save_file_atomic(written, result.frame.to_csv().encode())
    say(quiet, f"table  {written}")
    save_axes(drawn, result.plot(), quiet)


def report(folders: Sequence[Path], out: Path | None, rows: int | None, show: bool, seed: int, quiet: bool) -> None:
    """Write the page of a run, or of several compared, and show it in the browser if asked."""
    path = write_report(list(folders), out, rows=rows, seed=seed)
    say(quiet, f"report  {path}")
    if show and not webbrowser.open(path.resolve().as_uri()):
        say(quiet, "no browser was found: open the file by hand")


def diagnose(folder: Path, rows: int | None, seed: int, quiet: bool) -> None:
    """Diagnose a run on its test rows: a report in words, ``posterior.nc`` for ArviZ, and figures."""
    run, vae = Run.read(folder), load_vae(folder)
    data = data_of(run)
    test = data.test if rows is None else data.test[:rows]
    report = diagnose_program(vae, test, train=data.train.drawn(seed), seed=seed, progress=False if quiet else None)
    say(quiet, str(report))
    save_file_atomic(folder / "report.txt", f"{report}\n".encode())
    idata = from_pyro_svi(vae, test[:ARVIZ_ROWS], seed=seed, progress=False if quiet else None)
    say(quiet, f"posterior  {to_netcdf(idata, folder / 'posterior.nc')}")
    for name, axes in _figures(report).items():
        save_axes(folder / "figures" / f"{name}.png", axes, quiet)


def _figures(report: Report) -> dict[str, Axes]:
    reliable = report.reliability
    figures = {"khat": plots.plot_khat(reliable.pareto_k, reliable.num_samples)}
    if report.structure is not None:
        kl, variance = (_flat(values) for values in (report.structure.kl, report.structure.mean_variance))
        figures["kl_per_dimension"] = plots.plot_kl_per_dimension(kl, variance)
    if report.sbc is not None:
        ranks = {name: values.reshape(len(values), -1)[:, 0] for name, values in report.sbc.ranks.items()}
        figures["sbc"] = plots.plot_sbc_ecdf({**ranks, "log p(x, z)": report.sbc.log_joint_ranks}, report.sbc.num_draws)
    return figures


def _flat(values: dict[str, Any]) -> np.ndarray:
    return np.concatenate([np.ravel(value) for value in values.values()])
