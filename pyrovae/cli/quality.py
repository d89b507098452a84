"""``pyrovae quality``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import pyrovae as pvae
from pyrovae.cli.options import DataPath, Quiet, RunFolder, Seed
from pyrovae.cli.output import number, say, show
from pyrovae.errors import refusal

if TYPE_CHECKING:
    import pandas as pd

ROWS = 2000
"""At most so many test rows, and as many draws, are looked at."""
LABELED = 10_000
"""At most so many training rows teach the classifier whose features are compared."""


def quality(
    run: RunFolder,
    data: DataPath = None,
    out: Annotated[Path | None, typer.Option(help="A .csv file; by default quality.csv in the run.")] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Tell how much of the labels a run's latents hold, and how good its draws are, beside others on the test rows."""
    import pandas as pd
    import torch

    from pyrovae.files import save_file_atomic
    from pyrovae.report.subject import data_of

    path = out or run / "quality.csv"
    if path.suffix != ".csv":
        raise refusal(f"the output must end in .csv, got {path}", "out")
    vae, kept = pvae.load(run), pvae.files.Run.read(run)
    rows = data_of(kept, data)
    test, train = rows.test[:ROWS].drawn(seed), rows.train.drawn(seed)
    found: list[pd.DataFrame] = []
    if test.label is not None:
        latents = pvae.uses.representation_quality(vae, test, train=train, seed=seed, progress=False)
        found.append(latents["value"].to_series().dropna().unstack("metric"))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        drawn = vae.sample(len(test), test.covariates or None)
    features, name = None, None
    if train.label is not None:
        features, name = pvae.uses.label_features(train[:LABELED], seed=seed)
    draws = pvae.uses.generation_quality(drawn, test, train, features=features, name=name, seed=seed)
    found.append(draws[["value", "error", "floor", "floor_error"]].to_dataframe())
    titles = ["latents of the test rows, by their labels"] * (len(found) - 1)
    titles.append(
        f"{len(test)} draws and training rows (floor), beside {len(test)} test rows; {draws.attrs['features']}"
    )
    for title, frame in zip(titles, found, strict=True):
        cells = [
            [str(name), *(number(value, ".3f") for value in line)]
            for name, line in zip(frame.index, frame.values, strict=True)
        ]
        show(quiet, title, ["", *map(str, frame)], cells)
    save_file_atomic(path, pd.concat(found).to_csv().encode())
    say(quiet, f"table  {path}")
