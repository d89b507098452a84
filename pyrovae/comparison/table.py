"""The result of a comparison: a table, what to make of it, and its way into ArviZ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae.comparison.pointwise import Pointwise
from pyrovae.limits import BAD_SHARE, ERRORS, good_k, too_many_bad_k

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SHOWN = ["rank", "elpd", "se", "elpd_diff", "dse", "weight", "elbo", "gap", "mcse", "pct_bad_k", "k_converged"]
NEGLIGIBLE = 1e-3
"""Nats that no one asks about."""
DECIMALS = {"weight": 3, "pct_bad_k": 1}


@dataclass(frozen=True, repr=False, eq=False)
class Comparison:
    """Models by held-out log evidence, the best first; sums over rows, in nats.

    Printing shows the columns that are needed to judge, and the notes; ``per_datum()`` divides all that is in nats by the
    number of rows.

    Columns of ``frame``, which is indexed by model:

    * ``rank``: 0 for the best model, by ``elpd``.
    * ``elpd``: the sum over rows of log p(x), in nats; over refits the average.
    * ``se``: the standard error of ``elpd`` over rows, in nats; rows differ, so it is large whatever the model.
    * ``elpd_diff``: ``elpd`` less the best model's, in nats, at most 0.
    * ``dse``: the standard error of ``elpd_diff`` over rows, paired row by row, in nats: the one to judge by.
    * ``weight``: of the model in the mixture of all of them, from 0 to 1 (stacking, or pseudo-BMA+).
    * ``elbo``: the sum of the rows' bounds under the program's own guide, in nats; NaN without a guide.
    * ``gap``: ``elpd`` less ``elbo``, in nats: what the guide loses.
    * ``mcse``: the Monte-Carlo standard error of ``elpd``, in nats, by the delta method; too small where ``pct_bad_k``
      is large.
    * ``bias``: how far ``elpd`` rose from half of the samples to all, in nats: about the bias that is left.
    * ``pct_bad_k``: rows, in per cent, whose Pareto k-hat is above the limit for so many samples,
      min(1 - 1 / log10(num_samples), 0.7) as in ArviZ; their estimates are too low. NaN where no k-hat is known. For
      another limit, count ``pointwise[name].pareto_k``.
    * ``k_converged``: whether ``bias`` is at most 0.05 nats a row.
    * ``num_refits``: how many refits were averaged; 1 without any.
    * ``refit_sd``: the standard deviation of ``elpd`` between refits, in nats; NaN without any.
    * ``estimator``, ``num_samples``, ``num_data``: how, from how many samples (or chains) a row, and on how many rows.

    Attributes:
        frame: the table, a DataFrame.
        pointwise: each model's results row by row.
        refits: each model's elpd for each of its refits.
        notes: what to know before believing the ranking; first where the estimates cannot be trusted.
    """

    frame: pd.DataFrame
    pointwise: Mapping[str, Pointwise]
    refits: Mapping[str, list[float]]
    notes: tuple[str, ...]

    @classmethod
    def build(
        cls, columns: Mapping[str, dict[str, Any]], points: Mapping[str, Pointwise], refits: Mapping[str, list[float]]
    ) -> Comparison:
        """Order the models and say what to know about them."""
        import pandas as pd

        frame = pd.DataFrame.from_dict(dict(columns), orient="index").sort_values(
            "elpd", ascending=False, kind="stable"
        )
        frame.insert(0, "rank", range(len(frame)))
        frame.index.name = "model"
        return cls(frame, points, refits, (*_reliability(frame), *_bias(frame), *_elbo(frame), *_spread(frame)))

    def lead(self) -> str:
        """Whether the best model is ahead of the second, and by how much, in one sentence that the notes agree with."""
        frame = self.per_datum()
        best, second = frame.index[:2]
        difference, error = -frame["elpd_diff"].iloc[1], frame["dse"].iloc[1]
        numbers = f"{difference:.2f} ± {error:.2f} nats per datum, paired over {frame['num_data'].iloc[0]:,} rows"
        if second in _not_told_apart(self.frame):
            return f"{best} and {second} are not told apart: {numbers}."
        if (best, second) in _inside_the_error(self.frame):
            return f"The order of {best} and {second} lies inside the estimators' error: {numbers}."
        return f"{best} is ahead of {second} by {numbers}."

    def per_datum(self) -> pd.DataFrame:
        """The table divided by the number of rows: nats per datum."""
        frame = self.frame.copy()
        sums = ["elpd", "se", "elpd_diff", "dse", "elbo", "gap", "mcse", "bias", "refit_sd"]
        frame[sums] = frame[sums].div(frame["num_data"], axis=0)
        return frame

    def to_latex(self) -> str:
        """The table for a paper, as a LaTeX tabular."""
        header = " & ".join(["model", *(name.replace("_", r"\_") for name in self._columns())])
        rows = [" & ".join([_escaped(str(name)), *cells]) for name, cells in self._cells().items()]
        body = " \\\\\n".join([header + r" \\ \hline", *rows])
        return f"\\begin{{tabular}}{{l{'r' * len(self._columns())}}}\n{body} \\\\\n\\end{{tabular}}\n".replace(
            "\\\\ \\hline \\\\", "\\\\ \\hline"
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw elpd with its standard error, and the paired differences from the best model.

        Args:
            ax: where to draw; by default a new figure.
        """
        from pyrovae.plots import plot_comparison

        frame = self.frame
        seeds = [self.refits[name] for name in frame.index]
        elbo = frame["elbo"].to_numpy()
        return plot_comparison(
            list(frame.index),
            frame["elpd"].to_numpy(),
            frame["se"].to_numpy(),
            elpd_diff=frame["elpd_diff"].to_numpy(),
            dse=frame["dse"].to_numpy(),
            elbo=elbo if np.isfinite(elbo).any() else None,
            refits=seeds if max(map(len, seeds)) > 1 else None,
            ax=ax,
        )

    def _columns(self) -> list[str]:
        varied = ["refit_sd"] if (self.frame["num_refits"] > 1).any() else []
        return [*SHOWN, *varied]

    def _cells(self) -> dict[str, list[str]]:
        return {
            name: [_cell(row[column], DECIMALS.get(column, 2)) for column in self._columns()]
            for name, row in self.frame.iterrows()
        }

    def __repr__(self) -> str:
        rows = [["model", *self._columns()], *([str(name), *cells] for name, cells in self._cells().items())]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        ]
        first = self.frame.iloc[0]
        how = ", ".join(
            dict.fromkeys(
                f"{e} x {s}" if s else e
                for e, s in zip(self.frame["estimator"], self.frame["num_samples"], strict=True)
            )
        )
        notes = [f"- {note}" for note in self.notes]
        return "\n".join([*lines, f"nats, sums over {first['num_data']} rows; estimator: {how}", *notes])

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{note}</li>" for note in self.notes)
        return self.frame[self._columns()].to_html(float_format="%.2f") + (f"<ul>{notes}</ul>" if notes else "")


def _cell(value: Any, decimals: int) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return str(value)
    return "" if np.isnan(value) else f"{value:.{decimals}f}"


def _escaped(name: str) -> str:
    return name.replace("_", r"\_").replace("%", r"\%").replace("&", r"\&")


def _spread(frame: pd.DataFrame) -> list[str]:
    notes = []
    close = _not_told_apart(frame)
    if close:
        notes.append(f"not told apart from {frame.index[0]!r} (difference below {ERRORS:g} dse): {_quoted(close)}")
    wide = frame.index[frame["refit_sd"] > max(frame["dse"].max(), 1e-12)]
    if len(wide):
        notes.append(f"refits of {_quoted(wide)} differ by more than any dse: training matters more than the rows")
    return notes


def _not_told_apart(frame: pd.DataFrame) -> list[str]:
    """The models whose difference to the best is below two standard errors, over rows and of the estimates."""
    error = ERRORS * np.hypot(frame["dse"], frame["mcse"])
    return [name for name in frame.index[1:] if -frame.loc[name, "elpd_diff"] < error[name]]


def _inside_the_error(frame: pd.DataFrame) -> dict[tuple[str, str], tuple[float, float]]:
    """Neighbors in the table whose distance is below what bias and Monte-Carlo errors may amount to, with both numbers."""
    found = {}
    for above, below in zip(frame.index[:-1], frame.index[1:], strict=True):
        distance = frame.loc[above, "elpd"] - frame.loc[below, "elpd"]
        error = ERRORS * np.hypot(frame.loc[above, "mcse"], frame.loc[below, "mcse"])
        reach = abs(frame.loc[above, "bias"]) + abs(frame.loc[below, "bias"]) + error
        if reach > NEGLIGIBLE and distance < reach:
            found[above, below] = (distance, reach)
    return found


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def _reliability(frame: pd.DataFrame) -> list[str]:
    bad = frame.index[too_many_bad_k(frame["pct_bad_k"] / 100)]
    if not len(bad):
        return []
    first = frame.loc[bad[0]]
    return [
        f"Pareto k too large (above {_limit(first['num_samples'])}) on more than {BAD_SHARE:.0%} of the rows of {_quoted(bad)}: "
        f"{_remedy(first['estimator'])}"
    ]


def _limit(num_samples: int) -> str:
    """The largest Pareto shape that is no cause for a warning, in words."""
    known = f", the limit for {num_samples:,} samples" if num_samples else ""
    return f"{good_k(num_samples):.2f}{known}"


def _remedy(estimator: str) -> str:
    """What is left to do after an estimator, known by the beginning of its repr."""
    return _REMEDIES.get(estimator.partition("(")[0], "refine (method='refined' or 'ais')")


_REMEDIES = {
    "Refined": "take more steps (num_steps of Refined) or samples, or anneal (method='ais')",
    "AIS": "take more temperatures (num_temperatures of AIS) or chains",
}


def _bias(frame: pd.DataFrame) -> list[str]:
    """An estimate that still rises with its samples is too low, and more so under the worse guide."""
    notes = []
    rising = frame.index[~frame["k_converged"].astype(bool)]
    if len(rising):
        remedy = _remedy(frame.loc[rising[0], "estimator"])
        notes.append(f"estimates of {_quoted(rising)} still rise with the number of samples: {remedy}")
    for (above, below), (distance, reach) in _inside_the_error(frame).items():
        notes.append(
            f"the order of {above!r} and {below!r} lies inside the estimators' error ({distance:.3g} < {reach:.3g} nats)"
        )
    return notes


def _elbo(frame: pd.DataFrame) -> list[str]:
    known = frame[np.isfinite(frame["elbo"])]
    notes = []
    for number, first in enumerate(known.index):
        for second in known.index[number + 1 :]:
            by_elbo = known.loc[first, "elbo"] - known.loc[second, "elbo"]
            by_elpd = known.loc[first, "elpd"] - known.loc[second, "elpd"]
            apart = abs(by_elbo - by_elpd)
            if apart > 2 * np.hypot(known.loc[second, "dse"], known.loc[second, "mcse"]) + 1e-3 * abs(by_elpd) and (
                by_elbo < 0 or apart > abs(by_elpd)
            ):
                notes.append(
                    f"the ELBO is no guide here: it sets {first!r} and {second!r} {by_elbo:+.2f} nats apart, the evidence "
                    f"{by_elpd:+.2f}; their guides lose different amounts (gap {known.loc[first, 'gap']:.2f} and "
                    f"{known.loc[second, 'gap']:.2f})"
                )
    return notes
