"""What commands print, and the files that they write."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrovae.errors import refusal

if TYPE_CHECKING:
    from pyrovae.data import Data


SHOWN = 40
"""So many columns of a table are listed, the others are counted."""


def say(quiet: bool, text: str) -> None:
    """Print text as it is: in whole lines, however long a path is, and without markup."""
    if not quiet:
        from rich.console import Console

        Console(highlight=False).print(text, soft_wrap=True, markup=False)


def show(quiet: bool, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a title and a table; numbers stand to the right, long cells are folded to the width of the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table()
    for number, column in enumerate(columns):
        made.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
    out = Console(quiet=quiet, highlight=False)
    out.print(Text(title, "bold"), soft_wrap=True)
    out.print(made)


def kinds_table(rows: Data, roles: Mapping[str, str]) -> tuple[list[str], list[list[str]]]:
    """The columns of a table with their kinds, what they hold, and how much is missing: heads and cells.

    Args:
        rows: the rows.
        roles: of the columns beside the model, by name in the rows; others are covariates.
    """
    import numpy as np

    frame, cells = rows.to_frame(), []
    for name, kind in list(rows.kinds.items())[:SHOWN]:
        cells.append([name, kind, _held(frame[name], rows.levels.get(name)), f"{frame[name].isna().mean():.0%}"])
    rest = list(rows.kinds.values())[SHOWN:]
    if rest:
        counts = ", ".join(f"{rest.count(kind)} {kind}" for kind in dict.fromkeys(rest))
        cells.append([f"{len(rest)} more", "", counts, f"{frame.iloc[:, SHOWN:].isna().to_numpy().mean():.0%}"])
    for name, values in {**(rows.covariates or {}), **(rows.labels or {})}.items():
        role, column = roles.get(name, "covariate"), values.numpy()
        is_key = role in ("groups", "time")
        shown = f"{len(np.unique(column))} distinct" if is_key else _held(column, rows.levels.get(name))
        missing = (column < 0) if name in rows.levels else np.isnan(column)
        cells.append([name, role, shown, f"{missing.mean():.0%}"])
    return ["column", "kind", "values", "missing"], cells


def _held(column: Any, levels: Sequence[str] | None) -> str:
    """What a column holds: the first of its levels, or the range of its numbers, holes left out."""
    import numpy as np

    if levels:
        return ", ".join(levels[:6]) + (f", ... ({len(levels)})" if len(levels) > 6 else "")
    column = np.asarray(column, np.float64)
    seen = column[~np.isnan(column)]
    return f"{seen.min():.6g} to {seen.max():.6g}, mean {seen.mean():.4g}" if len(seen) else "none"


def number(value: float | None, form: str = ".2f") -> str:
    """A number as text; a dash where there is none."""
    return "-" if value is None or math.isnan(value) else format(value, form)


def named(data: Data) -> str:
    """The data's name with its variant, if it has one."""
    return str(data.name) if data.variant is None else f"{data.name} ({data.variant})"


def why_not_writable(folder: Path) -> str | None:
    """Why no file can be written into a folder; None where one can."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


def check_free(path: Path, force: bool) -> None:
    """Refuse a file that is there already.

    Raises:
        ValueError: it is there, and is not to be written over.
    """
    if path.exists() and not force:
        raise refusal(f"{path} is there already: choose another file, or write over it with --force", "out")


def save_arrays(path: Path, **arrays: Any) -> None:
    """Write arrays into an ``.npz`` file."""
    import numpy as np

    from pyrovae.files import save_file_atomic

    save_file_atomic(path, lambda file: np.savez_compressed(file, **arrays))


def save_rows(path: Path, rows: Any, table: Data | None, name: str = "x") -> None:
    """Write rows into a ``.csv`` file with the columns and levels of a table, or as an array into an ``.npz`` file."""
    from pyrovae.files import save_file_atomic

    if path.suffix != ".csv":
        save_arrays(path, **{name: rows.numpy()})
    elif table is None:
        raise refusal(f"the rows are no table, and {path} is to hold one: choose an .npz file", "out")
    else:
        save_file_atomic(path, table.to_frame(rows).to_csv(index=False).encode())


def save_axes(path: Path, axes: Any, quiet: bool, title: str = "") -> None:
    """Write a figure, with a title above it if there is one, and say where."""
    from pyrovae.files import save_file_atomic
    from pyrovae.plots.style import finding

    if title:
        finding(axes, title)
    save_file_atomic(path, lambda file: axes.figure.savefig(file, format="png", bbox_inches="tight"))
    say(quiet, f"figure  {path}")


def picture_path(run: Path, out: Path | None, name: str) -> Path:
    """Beside the file that was asked for; else among the run's figures, under a name that training does not write."""
    return run / "figures" / f"{name}.png" if out is None else out.with_suffix(".png")
