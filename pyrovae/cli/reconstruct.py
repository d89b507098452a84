"""``pyrovae reconstruct``."""

from __future__ import annotations

from typing import Annotated

import typer

import pyrovae as pvae
from pyrovae.cli.options import DataPath, Out, Quiet, RunFolder
from pyrovae.cli.output import picture_path, save_arrays, save_axes, say


def reconstruct(
    run: RunFolder,
    data: DataPath = None,
    rows: Annotated[int, typer.Option(help="How many test rows.", min=1)] = 10,
    out: Out = None,
    quiet: Quiet = False,
) -> None:
    """Reconstruct test rows of a run's data."""
    from pyrovae.report.subject import data_of
    from pyrovae.report.views import views

    seen = views(pvae.load(run), data_of(pvae.files.Run.read(run), data).test[:rows], seed=0)
    x, again = next((view.rows, view.again) for view in seen.data.values())
    path = out or run / "reconstructions.npz"
    save_arrays(path, x=x.numpy(), reconstruction=again.numpy())
    say(quiet, f"reconstructions  {path}")
    if again.ndim == 4:
        drawn = pvae.plots.plot_reconstructions(x, again)
        save_axes(
            picture_path(run, out, "reconstructed"), drawn, quiet, "test rows, and means at their posterior means"
        )
