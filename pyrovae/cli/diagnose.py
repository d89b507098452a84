"""``pyrovae diagnose``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import pyrovae as pvae
from pyrovae.cli.endings import complain
from pyrovae.cli.options import Quiet, Rows, RunFolder, Seed
from pyrovae.cli.output import save_axes, say, why_not_writable


def diagnose(
    run: RunFolder,
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
    vae, data = pvae.load(run), data_of(pvae.files.Run.read(run))
    found = pvae.diagnose(vae, data.test[:rows], train=data.train.drawn(seed), seed=seed, progress=progress)
    say(quiet, str(found))
    if reason := why_not_writable(run):
        complain(f"{run} cannot be written ({reason}), so this and its figures are not kept", "yellow", quiet)
        return
    save_file_atomic(run / "report.txt", f"{found}\n".encode())
    for name, axes in _figures(found).items():
        save_axes(run / "figures" / f"{name}.png", axes, quiet)
    if posterior is not None:
        test = data.test[:posterior]
        one = datasets_of(pvae.from_pyro_svi(vae, test[:1], seed=seed, progress=False))
        size = len(test) * sum(group.nbytes for group in one.values())
        say(quiet, f"posterior.nc will take about {size / 1e6:.0f} MB for {len(test)} rows")
        idata = pvae.from_pyro_svi(vae, test, seed=seed, progress=progress)
        say(quiet, f"posterior  {to_netcdf(idata, run / 'posterior.nc')}")


def _figures(found: pvae.checks.Report) -> dict[str, Any]:
    import numpy as np

    reliable = found.reliability
    figures = {"khat": pvae.plots.plot_khat(reliable.pareto_k, reliable.num_samples)}
    if found.structure is not None:
        by_site = (found.structure.kl, found.structure.mean_variance)
        kl, variance = (np.concatenate([np.ravel(value) for value in values.values()]) for values in by_site)
        figures["kl_per_dimension"] = pvae.plots.plot_kl_per_dimension(kl, variance)
    if found.sbc is not None:
        ranks = {name: values.reshape(len(values), -1)[:, 0] for name, values in found.sbc.ranks.items()}
        ranks["log p(x, z)"] = found.sbc.log_joint_ranks
        figures["sbc"] = pvae.plots.plot_sbc_ecdf(ranks, found.sbc.num_draws)
    return figures
