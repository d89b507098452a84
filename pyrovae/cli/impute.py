"""``pyrovae impute``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import pyrovae as pvae
from pyrovae.cli.options import Force, Quiet, RunFolder, Seed
from pyrovae.cli.output import check_free, say, show
from pyrovae.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd

    from pyrovae.data import Data
    from pyrovae.files import Run


def impute(
    run: RunFolder,
    data: Annotated[
        str, typer.Argument(help="A file with the columns that the run was trained on, some entries missing.")
    ],
    out: Annotated[Path, typer.Option(help="The CSV file of the completed table; others are written beside it.")],
    tables: Annotated[
        int,
        typer.Option(
            help="Tables for multiple imputation, each by a VAE that is trained on rows, or --groups, drawn anew.",
            min=0,
        ),
    ] = 0,
    train: Annotated[
        str | None, typer.Option(help="Where the training data lie now, if not where they were; for --tables.")
    ] = None,
    level: Annotated[float, typer.Option(help="Content of the intervals of single entries.")] = 0.9,
    num_samples: Annotated[int, typer.Option(help="Draws of each missing entry.", min=2)] = 200,
    seed: Seed = 0,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Fill the missing entries of a table, once and several times."""
    import pandas as pd

    from pyrovae.files import save_file_atomic
    from pyrovae.limits import share_bad_k
    from pyrovae.report.subject import data_of, rows_of
    from pyrovae.uses import multiple_imputation

    names = ["-cells", *(f"-{number}" for number in range(1, tables + 1))]
    paths = [out, *(out.with_stem(out.stem + name) for name in names)]
    for path in paths:
        check_free(path, force)
    kept = pvae.files.Run.read(run)
    vae, rows = pvae.load(run), rows_of(kept, data)
    if rows.complete:
        raise refusal(f"no entry of {data} is missing: there is nothing to impute", "data")
    progress = False if quiet else None
    found = pvae.impute(vae, rows, num_samples=num_samples, seed=seed, progress=progress)
    cells = found.to_frame(level)
    made = [found.completed()]
    if tables:
        options: dict[str, Any] = {"num_tables": tables, "seed": seed, "progress": progress}
        options["groups"] = kept.config["settings"].get("groups")
        made += multiple_imputation(_refit(kept, quiet), rows, train=data_of(kept, train).train, **options)
    save_file_atomic(paths[1], cells.to_csv().encode())
    for path, table in zip([out, *paths[2:]], made, strict=True):
        frame = _filled(data, table, kept.config["settings"])
        save_file_atomic(path, frame.to_csv(index=not isinstance(frame.index, pd.RangeIndex)).encode())
    by_column = cells.groupby("column", sort=False)
    lines = [[name, len(part), f"{len(part) / len(rows):.0%}"] for name, part in by_column]
    show(quiet, f"{len(cells)} missing entries of {len(rows)} rows", ["column", "missing", "of its rows"], lines)
    bad = share_bad_k(found.pareto_k[rows.x.isnan().any(1)], 1000)
    say(quiet, f"rows whose draws are unreliable (k-hat): {bad:.0%}")
    say(quiet, f"completed  {out} (means and modes: standard errors from this table are too small)")
    say(quiet, f"cells      {paths[1]} ({level:.0%} intervals)")
    for path in paths[2:]:
        say(quiet, f"table      {path}")
    if tables:
        say(quiet, "Analyse each table, and join the estimates by pyrovae.uses.pool.")


def _filled(source: str, table: Data, settings: Mapping[str, Any]) -> pd.DataFrame:
    """The table of a file with its missing entries filled; columns that the model does not know stay as they are."""
    import numpy as np
    import pandas as pd

    from pyrovae.data.delimited import read_delimited
    from pyrovae.data.locate import is_table

    filled = table.to_frame()
    if not is_table(source) or source.endswith(".parquet"):
        return filled
    frame, _ = read_delimited(Path(source), settings.get("header"), settings.get("missing") or ())
    seen = frame.notna().any()  # a column without an entry has no dtype of its own
    whole = [column.dtype.kind == "f" and bool((column.dropna() % 1 == 0).all()) for _, column in frame.items()]
    is_whole = seen.to_numpy() & np.array(whole)
    for name, made in filled.set_axis(frame.index).items():
        made = pd.to_numeric(made) if seen[name] and frame[name].dtype.kind in "biuf" else made
        frame[name] = frame[name].where(frame[name].notna(), made) if seen[name] else made
    for number in np.flatnonzero(is_whole):  # written without a decimal point, which pandas adds where there are holes
        numbers = [int(value) if value == value // 1 else value for value in frame.iloc[:, number]]
        frame.isetitem(number, pd.Series(numbers, frame.index, object))
    return frame


def _refit(run: Run, quiet: bool) -> Callable[[Data, int], Any]:
    """Trains the run's VAE anew on other rows, with the options of its training."""
    from pyrovae.presets import Spec, Training
    from pyrovae.presets.options import options_of

    settings: dict[str, Any] = run.config["settings"]
    if run.spec is None or not set(options_of(Training)) <= set(settings):
        message = (
            f"{run.folder} was not trained by `pyrovae train`, so that it cannot be trained anew: leave the tables out"
        )
        raise refusal(message, "tables")
    spec = Spec.from_json(run.spec)
    options = Training(**{name: settings[name] for name in options_of(Training)}).for_fit()
    options |= {"patience": None, "epochs": run.config["results"].get("best_epoch") or len(run.history["epoch"])}

    def refit(rows: Data, seed: int) -> Any:
        vae = pvae.build_vae(spec, start=rows, seed=seed)
        pvae.fit(vae, rows, **{**options, "seed": seed}, progress=False)
        return vae

    return refit
