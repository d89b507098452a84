"""``pyrovae diagnose``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import pyrovae as pvae
from pyrovae.cli.endings import complain
from pyrovae.cli.options import DataPath, Quiet, Rows, RunFolder, Seed
from pyrovae.cli.output import save_axes, say, why_not_writable
from pyrovae.errors import counted


def diagnose(
    run: RunFolder,
    path: DataPath = None,
    rows: Rows = None,
    posterior: Annotated[
        int | None, typer.Option(help="Also write posterior.nc for ArviZ, draws of so many test rows.", min=1)
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Check a run's posterior: reliability, calibration, collapse, predictive checks; in words and in figures."""
    from pyrovae.arviz import to_netcdf
    from pyrovae.arviz.containers import datasets_of
    from pyrovae.files import save_file_atomic
    from pyrovae.report.subject import data_of

    progress = False if quiet else None
    kept = pvae.files.Run.read(run)
    vae, data = pvae.load(run), data_of(kept, path)
    history = {**kept.history, "best_epoch": kept.config["results"].get("best_epoch")}
    options: dict[str, Any] = {"train": data.train.drawn(seed), "history": history, "seed": seed, "progress": progress}
    found = pvae.diagnose(vae, data.test[:rows], **options)
    say(quiet, str(found))
    if reason := why_not_writable(run):
        complain(f"{run} cannot be written ({reason}), so this and its figures are not kept", "yellow", quiet)
        return
    save_file_atomic(run / "report.txt", f"{found}\n".encode())
    for name, axes in found.plot().items():
        save_axes(run / "figures" / f"{name}.png", axes, quiet)
    if posterior is not None:
        test = data.test[:posterior]
        one = datasets_of(pvae.from_pyro_svi(vae, test[:1], seed=seed, progress=False))
        size = len(test) * sum(group.nbytes for group in one.values())
        say(quiet, f"posterior.nc will take about {size / 1e6:.0f} MB for {counted(len(test), 'row')}")
        idata = pvae.from_pyro_svi(vae, test, seed=seed, progress=progress)
        say(quiet, f"posterior  {to_netcdf(idata, run / 'posterior.nc')}")
