"""``pyrovae quality``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import pyrovae as pvae
from pyrovae.cli.options import DataPath, Force, Quiet, RunFolder, Seed
from pyrovae.cli.output import check_free, number, say, show
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
    force: Force = False,
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
    check_free(path, force or out is None)
    vae, kept = pvae.load(run), pvae.files.Run.read(run)
    rows = data_of(kept, data)
    test, train = rows.test[:ROWS].drawn(seed), rows.train.drawn(seed)
    shown: list[pd.DataFrame] = []
    kept_numbers: list[pd.DataFrame] = []
    if test.label is not None:
        latents = pvae.uses.representation_quality(vae, test, train=train, seed=seed, progress=False)
        frame = latents.to_dataframe().dropna(subset=["value"])
        kept_numbers.append(frame.reset_index())
        half = (frame["high"] - frame["low"]) / 2
        cells = frame["value"].map("{:.3f}".format) + " ± " + half.map("{:.3f}".format)
        shown.append(cells.unstack("metric", fill_value="").reindex(frame.index.unique("representation")))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        drawn = vae.sample(len(test), test.covariates or None)
    features, name = None, None
    if train.label is not None:
        features, name = pvae.uses.label_features(train[:LABELED], seed=seed)
    draws = pvae.uses.generation_quality(drawn, test, train, features=features, name=name, seed=seed)
    frame = draws.to_dataframe()
    kept_numbers.append(frame.reset_index().assign(representation="draws"))
    shown.append(frame.map(lambda value: number(value, ".3f")))
    titles = ["latents of the test rows, by their labels, with 95 % intervals"] * (len(shown) - 1)
    titles.append(
        f"{len(test)} draws and training rows (floor), beside {len(test)} test rows; {draws.attrs['features']}"
    )
    for title, frame in zip(titles, shown, strict=True):
        show(
            quiet,
            title,
            ["", *map(str, frame)],
            [[str(n), *line] for n, line in zip(frame.index, frame.values, strict=True)],
        )
    save_file_atomic(path, pd.concat(kept_numbers).to_csv(index=False).encode())
    say(quiet, f"table  {path}")
