"""What training leaves behind: one row an epoch."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

COLUMNS = (
    "epoch",
    "step",
    "loss",
    "beta",
    "elbo",
    "kl",
    "reconstruction",
    "validation_elbo",
    "validation_kl",
    "validation_reconstruction",
    "learning_rate",
    "gradient_norm",
    "skipped",
    "seconds",
)
"""``loss`` is a mean over the rows of the epoch's steps, ``gradient_norm``, of the gradient per row, a mean over these steps;
steps that were skipped count in neither. The ELBO's terms are at beta 1, in nats per datum, on (a sample of) the training rows
and on the validation rows; ``beta`` and ``learning_rate`` are those of the last step. Where there are several latents, columns
``kl/<site>`` and ``validation_kl/<site>`` follow, the part of each."""


@dataclass
class History:
    """A tidy table of training, one row an epoch, with why it ended.

    Args:
        rows: a dictionary for each epoch with the keys of ``COLUMNS``; None where a number does not exist.
        variant: the data's variant, printed beside every number.
        ended: why training ended: finished, early stopping, interrupted.
        best_epoch: the epoch whose weights were kept, if the best were.
        engine: how the steps were taken: eager, traced, and why.
        notes: caveats, e.g. of settings that a resumed run could not compare.

    >>> History([{"epoch": 1, "loss": 3.0}], variant="counts")["loss"]
    [3.0]
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    variant: str | None = None
    ended: str = "not started"
    best_epoch: int | None = None
    engine: str = "eager"
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def __getitem__(self, column: str) -> list[Any]:
        if column not in self.columns:
            raise KeyError(f"no column {column!r}; there are {', '.join(self.columns)}")
        return [row.get(column) for row in self.rows]

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(dict.fromkeys((*COLUMNS, *(name for row in self.rows for name in row if "kl/" in name))))

    def __repr__(self) -> str:
        if not self.rows:
            return f"History(no epochs, {self.ended})"
        last = {name: self.rows[-1].get(name) for name in ("loss", "elbo", "validation_elbo")}
        shown = ", ".join(f"{name}={value:.4g}" for name, value in last.items() if value is not None)
        about = f"History({len(self)} epochs, {self.ended}, variant={self.variant!r}, last: {shown} nats per datum)"
        return "\n".join([about, *(f"- {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        if not self.rows:
            return f"<p>{self}</p>"
        frame = self.to_frame().drop(columns=["step", "gradient_norm", "skipped", "seconds"]).dropna(axis=1, how="all")
        shown = frame[frame["epoch"].isin([self.rows[0]["epoch"], self.best_epoch, self.rows[-1]["epoch"]])]
        best = "" if self.best_epoch is None else f", weights of epoch {self.best_epoch}"
        about = f"{len(self)} epochs ({self.ended}){best}; nats per datum, variant {self.variant or 'not named'}"
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        table = shown.to_html(index=False, float_format="{:.4g}".format)
        return f"<p>{about}</p>" + (f"<ul>{notes}</ul>" if notes else "") + table

    def plot(self, ax: Any = None) -> Any:
        """Draw the ELBO, its two terms and beta by epoch; returns the axes.

        Args:
            ax: divided into the panels; by default a new figure.
        """
        from pyrovae.plots import plot_history

        return plot_history(self, best_epoch=self.best_epoch, ax=ax)

    def to_dict(self) -> dict[str, list[Any]]:
        """The table by columns."""
        return {name: self[name] for name in self.columns}

    def to_frame(self) -> pandas.DataFrame:
        """The table as a DataFrame; NaN where a number does not exist."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=list(self.columns))

    def to_text(self) -> str:
        """The table as CSV text."""
        return self.to_frame().to_csv(index=False, lineterminator="\n")

    def to_csv(self, path: str | Path) -> None:
        """Write the table to a CSV file."""
        Path(path).write_text(self.to_text())
