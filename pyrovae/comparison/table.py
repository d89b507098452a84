"""The result of a comparison: the table, and what to know before believing its order."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae.comparison.notes import notes_of
from pyrovae.comparison.pointwise import CONVERGED, Difference, Pointwise, averaged, less
from pyrovae.comparison.predictions import mixed_draws
from pyrovae.comparison.weights import pseudo_bma_weights, stacking_weights
from pyrovae.errors import check_word, counted
from pyrovae.evaluation.estimators import METHODS
from pyrovae.limits import ERRORS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

WEIGHTS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "stacking": stacking_weights,
    "pseudo-bma": pseudo_bma_weights,
}
SHOWN = [
    "rank",
    "elpd",
    "se",
    "elpd_diff",
    "dse",
    "p_worse",
    "diag_diff",
    "weight",
    "elbo",
    "gap",
    "mcse",
    "diag_elpd",
]
DECIMALS = {"weight": 3, "p_worse": 3}
FEW_ROWS = 100
"""With fewer rows the normal approximation of a difference understates its error."""
SMALL_DIFFERENCE = 4.0
"""Nats below which the error of a difference cannot be trusted, whatever it is: the models predict alike."""
NEGLIGIBLE = 1e-3
"""Nats that no one asks about."""


@dataclass(frozen=True, repr=False, eq=False)
class Comparison:
    """Models by held-out log evidence, the best first; sums over rows, in nats.

    Printing shows the columns that are needed to judge, and the notes; ``per_datum()`` divides all that is in nats by the
    number of rows.

    Columns of ``frame``, which is indexed by model:

    * ``rank``: 0 for the best model, by ``elpd``.
    * ``elpd``: the sum over rows of log p(x), in nats; over refits the average.
    * ``se``: the standard error of ``elpd`` over rows, in nats; rows differ, so it is large whatever the model.
    * ``elpd_diff``: ``elpd`` less that of the reference, in nats; at most 0 where the reference is the best model.
    * ``dse``: the standard error of ``elpd_diff`` over rows, paired row by row, in nats: the one to judge by.
    * ``p_worse``: the probability that the model predicts worse than the reference, by the normal approximation, with the
      errors over rows, draws and refits. It is calibrated for a reference that was fixed beforehand; against the best of
      several it lies in [.5, 1] and says less, since the best is the best on these rows.
    * ``diag_diff``: why ``dse`` and ``p_worse`` are too optimistic: ``"N < 100"`` rows, or ``"|elpd_diff| < 4"`` nats (Sivula
      et al. 2020, arXiv:2008.10296); empty where there is no reason.
    * ``diag_elpd``: why ``elpd`` is not to be believed as it stands: how many rows have a k-hat above the limit
      (``"12 k-hat > 0.67"``), an estimate below their own bound (``"3 flagged"``: a mode may be lost) or a density of zero
      (``"2 -inf"``), and ``"rising"`` where ``k_converged`` is False; empty where there is no reason.
    * ``weight``: of the model in the mixture of all of them, from 0 to 1 (stacking, or pseudo-BMA+).
    * ``elbo``: the sum of the rows' bounds under the program's own guide, in nats; NaN without a guide.
    * ``gap``: ``elpd`` less ``elbo``, in nats: what the guide loses.
    * ``mcse``: the Monte-Carlo standard error of ``elpd``, in nats, by the delta method; too small where ``pct_bad_k``
      is large.
    * ``bias``: how far ``elpd`` rose from half of the samples to all, in nats: about the bias that is left.
    * ``pct_bad_k``: rows, in per cent, whose Pareto k-hat is above the limit for so many samples,
      min(1 - 1 / log10(num_samples), 0.7) as in ArviZ; their estimates are too low. NaN where no k-hat is known. For
      another limit, count ``pointwise[name].pareto_k``.
    * ``k_converged``: whether ``bias`` is at most 0.05 nats per row.
    * ``num_refits``: how many refits were averaged; 1 without any.
    * ``refit_sd``: the standard deviation of ``elpd`` between refits, in nats; NaN without any.
    * ``estimator``, ``num_samples``, ``num_data``: the estimator, its samples (or chains) per row, and the number of rows.

    Attributes:
        frame: the table, a DataFrame.
        pointwise: each model's results row by row.
        refits: each model's elpd for each of its refits.
        reference: the model from which differences are taken.
        notes: what to know before believing the ranking; where estimates cannot be trusted comes first.
    """

    frame: pd.DataFrame
    pointwise: Mapping[str, Pointwise]
    refits: Mapping[str, list[float]]
    notes: tuple[str, ...]
    reference: str

    @classmethod
    def of(
        cls,
        results: Mapping[str, Sequence[Pointwise]],
        weights: str,
        about_rows: Sequence[str] = (),
        reference: str | None = None,
    ) -> Comparison:
        """Order the models by the results of their refits, and note what to know about them, after notes on the rows."""
        import pandas as pd

        points = {name: averaged(refits) for name, refits in results.items()}
        best = max(points, key=lambda name: points[name].elpd)
        fixed = best if reference is None else check_word("reference", reference, points)
        frame = pd.DataFrame({name: _columns(point, points[fixed], results[name]) for name, point in points.items()}).T
        frame["weight"] = WEIGHTS[weights](np.stack([point.log_p for point in points.values()], 1))
        frame = frame.infer_objects().sort_values("elpd", ascending=False, kind="stable").rename_axis("model")
        frame.insert(0, "rank", range(len(frame)))
        refits = {name: [refit.elpd for refit in found] for name, found in results.items()}
        result = cls(frame, points, refits, (), fixed)
        return replace(result, notes=(*notes_of(result, reference is None), *about_rows))

    def difference(self, one: str, other: str) -> Difference:
        """How far the model named first lies above the other on the same rows, with the error of that difference."""
        return Difference.between(self.pointwise[one], self.pointwise[other])

    def told_apart(self, one: str, other: str) -> bool:
        r"""Whether two models differ by more than two standard errors, over rows, draws and refits together.

        .. math:: |\mathrm{elpd\_diff}| > 2 \sqrt{\mathrm{dse}^2 + \mathrm{mcse}^2 + s_1^2 / R_1 + s_2^2 / R_2}

        where s is the standard deviation of ``elpd`` over R refits (0 for one).
        """
        return self.difference(one, other).told_apart

    def reach(self, one: str, other: str) -> float:
        """The sum of the biases left in the estimates of two models, and two errors of the draws, in nats.

        Below a thousandth of a nat it is 0.
        """
        left = abs(self.pointwise[one].bias) + abs(self.pointwise[other].bias)
        reach = left + ERRORS * self.difference(one, other).mcse
        return reach if reach > NEGLIGIBLE else 0.0

    def lead(self) -> str:
        """Whether the best model is ahead of the second, and by how much, in one sentence that the notes agree with."""
        if len(self.frame) == 1:
            return f"{self.frame.index[0]} is compared with nothing."
        best, second = self.frame.index[:2]
        rows, found = self.frame["num_data"].iloc[0], self.difference(best, second)
        error = f" ± {found.error / rows:.2f}" if np.isfinite(found.error) else ""
        numbers = f"{found.elpd_diff / rows:.2f}{error} nats per datum, paired over {counted(rows, 'row')}"
        if np.isnan(found.elpd_diff):
            return (
                f"{best} and {second} are not told apart: each gives a density of zero to rows that the other allows."
            )
        if np.isinf(found.elpd_diff):
            return f"{best} is ahead of {second}, which gives some of the {rows:,} rows a density of zero."
        if not found.told_apart:
            return f"{best} and {second} are not told apart: {numbers}."
        if found.elpd_diff < self.reach(best, second):
            return f"The order of {best} and {second} lies inside the estimators' error: {numbers}."
        return f"{best} is ahead of {second} by {numbers}."

    def influence(self, one: str, other: str) -> pd.Series:
        """The difference of two models in each row, in nats, the most influential rows first: which rows decide.

        The index holds the numbers of the rows; the sum is ``difference(one, other).elpd_diff``.

        >>> from pyrovae import compare
        >>> compare({"a": np.array([0.0, -1, 0]), "b": np.array([0.0, 0, -3])}).influence("a", "b").to_dict()
        {2: 3.0, 1: -1.0, 0: 0.0}
        """
        import pandas as pd

        rows = pd.Series(less(self.pointwise[one].log_p, self.pointwise[other].log_p), name=f"{one} less {other}")
        return rows.rename_axis("row").sort_values(key=np.abs, ascending=False, kind="stable")

    def plot_influence(self, one: str, other: str, ax: Axes | None = None) -> Axes:
        """Draw the difference of two models row by row, and how it adds up from the most influential rows on."""
        from pyrovae.plots import plot_influence

        return plot_influence(self.influence(one, other).to_numpy(), names=(one, other), ax=ax)

    def weight_predictions(
        self, draws: Mapping[str, Any], num_samples: int | None = None, seed: int | None = None
    ) -> np.ndarray:
        """Predictive draws of the mixture of all models, each in proportion to its ``weight``.

        Args:
            draws: by model, ``(samples, *shape)``: of new rows, of missing entries, of what is predicted; a model of weight 0
                needs none.
            num_samples: draws of the mixture; by default as many as there can be without repeating one.
            seed: of the selection.

        Raises:
            ValueError: a model with a weight has no draws, or shapes differ.

        Reference: Yao, Vehtari, Simpson & Gelman 2018, arXiv:1704.02030.

        >>> from pyrovae import compare
        >>> table = compare({"a": np.array([0.0, -9, 0, -9]), "b": np.array([-9.0, 0, -9, 0])})
        >>> table.weight_predictions({"a": np.zeros((10, 1)), "b": np.ones((10, 1))}, seed=0).mean()
        np.float64(0.5)
        """
        return mixed_draws(draws, self.frame["weight"].to_dict(), num_samples, seed)

    def per_datum(self) -> pd.DataFrame:
        """The table divided by the number of rows: nats per datum."""
        frame = self.frame.copy()
        sums = ["elpd", "se", "elpd_diff", "dse", "elbo", "gap", "mcse", "bias", "refit_sd"]
        frame[sums] = frame[sums].div(frame["num_data"], axis=0)
        return frame

    def to_latex(self) -> str:
        """The table for a paper, as a LaTeX tabular with the rules of the package booktabs."""
        shown = self._shown()
        style = shown.style.format(escape="latex")
        style = style.format_index(escape="latex").format_index(escape="latex", axis=1)
        return style.to_latex(column_format="l" + "r" * shown.shape[1], hrules=True)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the paired differences from the best model in nats per datum, and each model's bound.

        A model whose elpd is minus infinity is left out.
        """
        from pyrovae.plots import plot_comparison

        frame = self.frame[np.isfinite(self.frame["elpd"])]
        names, seeds = list(frame.index), [self.refits[name] for name in frame.index]
        best = [self.difference(name, names[0]) for name in names]
        more: dict[str, Any] = {"elpd_diff": [one.elpd_diff for one in best], "dse": [one.dse for one in best]}
        more |= {"elbo": frame["elbo"].to_numpy()} if frame["elbo"].notna().any() else {}
        more |= {"num_data": int(frame["num_data"].iloc[0])}
        return plot_comparison(names, frame["elpd"].to_numpy(), frame["se"].to_numpy(), **more, refits=seeds, ax=ax)

    def _shown(self) -> pd.DataFrame:
        """The columns to judge by, as text."""
        columns = [*SHOWN, *(["refit_sd"] if (self.frame["num_refits"] > 1).any() else [])]
        shown = {name: [_cell(value, DECIMALS.get(name, 2)) for value in self.frame[name]] for name in columns}
        return type(self.frame)(shown, index=list(self.frame.index)).rename_axis(columns="model")

    def __repr__(self) -> str:
        defaults = {repr(one): type(one).__name__ for one in METHODS.values()}
        names = (defaults.get(estimator, estimator) for estimator in self.frame["estimator"])
        pairs = zip(names, self.frame["num_samples"], strict=True)
        how = ", ".join(dict.fromkeys(f"{estimator} x {count}" if count else estimator for estimator, count in pairs))
        about = f"nats, sums over {counted(self.frame['num_data'].iloc[0], 'row')}; estimator: {how}"
        return "\n".join([self._shown().to_string(), about, *(f"- {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        return self._shown().to_html() + (f"<ul>{notes}</ul>" if notes else "")


def _columns(point: Pointwise, reference: Pointwise, refits: Sequence[Pointwise]) -> dict[str, Any]:
    difference, elpds = Difference.between(point, reference), [refit.elpd for refit in refits]
    spread = float(np.std(elpds, ddof=1)) if len(refits) > 1 and np.isfinite(elpds).all() else float("nan")
    small = abs(difference.elpd_diff) < SMALL_DIFFERENCE
    reason = "N < 100" if len(point.log_p) < FEW_ROWS else "|elpd_diff| < 4" if small else ""
    return {
        "elpd": point.elpd,
        "se": point.se,
        "elpd_diff": difference.elpd_diff,
        "dse": difference.dse,
        "p_worse": float("nan") if point is reference else difference.p_worse,
        "diag_diff": "" if point is reference else reason,
        "diag_elpd": point.doubts,
        "weight": 0.0,
        "elbo": point.elbo_sum,
        "gap": point.elpd - point.elbo_sum,
        "mcse": point.mcse_sum,
        "bias": point.bias,
        "pct_bad_k": point.bad_k,
        "k_converged": abs(point.bias) <= CONVERGED * len(point.log_p),
        "num_refits": len(refits),
        "refit_sd": spread,
        "estimator": point.estimator or "exact",
        "num_samples": point.num_samples or 0,
        "num_data": len(point.log_p),
    }


def _cell(value: Any, decimals: int) -> str:
    if isinstance(value, str):
        return value or "-"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return str(value)
    return "-" if np.isnan(value) else f"{value:.{decimals}f}"
