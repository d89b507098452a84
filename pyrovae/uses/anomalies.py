"""Which rows are strange: conformal p-values, discoveries of which a bounded share is false, the features behind them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyrovae.checks import leave_one_feature_out
from pyrovae.comparison.rows import check_held_out, row_hashes
from pyrovae.data import Data, as_data
from pyrovae.errors import check_integer, check_seed, refusal
from pyrovae.evaluation import log_conditional
from pyrovae.limits import MOST_K
from pyrovae.programs.rows import MAX_BYTES, mixed
from pyrovae.uses.scores import Array, Score, anomaly_scores, simulated

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.axes import Axes

EXPLAINED = 200
"""Calibration rows beside which the features of strange rows are held."""
CANDIDATES = 10
"""So many features of a strange row, the least expected by the draws for the whole row, are hidden one by one."""
REASONS = 3
"""So many features are named for each row."""
DRIFTED = 0.01
"""A p-value of the test of drift below it is said."""
STRANGE = 0.2
"""The share of strange rows that raises no alarm of drift."""
FEWEST_IN_ORDER = 8
"""Of fewer rows any order may look like a drift: the test's approximation calls every third order of three rows one."""


def conformal_p_values(scores: Any, calibration: Any) -> Array:
    r"""How rarely a calibration row is as strange: valid whatever the score, where usual rows are exchangeable with these.

    .. math:: p = \frac{1 + \#\{j : s_j \ge s\}}{n + 1}, \qquad
        \Pr(p \le \alpha) = \frac{\lfloor \alpha (n + 1) \rfloor}{n + 1} \le \alpha

    The equality holds without ties, on average over calibration sets; given one set the share of false alarms varies about
    it with a standard deviation of about :math:`\sqrt{\alpha (1 - \alpha) / n}`.

    Args:
        scores: of the rows, ``(data,)``; larger is stranger.
        calibration: of n usual rows that nothing was trained on.

    Raises:
        ValueError: a score is NaN.

    Reference: Vovk, Gammerman & Shafer 2005, doi:10.1007/b106715; Bates et al. 2023, arXiv:2104.08279.

    >>> conformal_p_values([0.0, 2.5, 9.0], [1.0, 2.0, 3.0]).tolist()
    [1.0, 0.5, 0.25]
    """
    strange, known = np.asarray(scores, dtype=float), np.asarray(calibration, dtype=float)
    for name, values in (("scores", strange), ("calibration", known)):
        if (bad := np.isnan(np.atleast_1d(values)).nonzero()[0]).size:
            shown = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
            raise refusal(f"{name} hold {len(bad)} NaN, in rows {shown}: leave these rows out", name)
    known = np.sort(known)
    return (1 + len(known) - np.searchsorted(known, strange)) / (len(known) + 1)


def calibration_needed(num_rows: int, discoveries: int = 1, fdr: float = 0.1) -> int:
    r"""How many calibration rows it takes until so many discoveries among some rows are possible at all.

    The smallest p-value is 1 / (n + 1), and Benjamini-Hochberg discovers k of m rows only where k p-values are at most
    q k / m.

    .. math:: n \ge \frac{m}{q k} - 1

    Args:
        num_rows: the rows that are looked at, m.
        discoveries: how many of them are to be found, k.
        fdr: the share of false ones among the discoveries, q.

    >>> calibration_needed(100), calibration_needed(100, discoveries=10)
    (999, 99)
    """
    if not 0 < fdr < 1:
        raise refusal(f"fdr is the share of false discoveries, between 0 and 1, got {fdr}", "fdr")
    return max(1, math.ceil(num_rows / (fdr * discoveries) - 1 - 1e-9))


@dataclass(frozen=True)
class Detection:
    r"""Which rows :func:`detect` found strange.

    Args:
        dataset: over ``data``: ``score``, ``error``, ``first``, ``p_value``, ``q_value`` (Benjamini-Hochberg's), and
            ``discovered``; over ``calibration`` its ``calibration_score``.
        notes: what to know before believing them.
        reasons: for the strangest rows, the three features that made them strange; None where they were not asked for.
            ``surprise`` is by how many nats :math:`\log p(x_j \mid x_{-j})` lies below its median over calibration rows;
            ``p_value`` is the share of calibration rows (of the first 200, this row with them) whose feature is expected as
            little by the draws for the whole row, not corrected for the choice of rows and features; ``pareto_k`` tells
            whether the surprise can be trusted (up to 0.7).
        row_names: the names of the rows.
    """

    dataset: xr.Dataset
    notes: tuple[str, ...]
    reasons: pd.DataFrame | None = None
    row_names: Any = None

    def to_frame(self) -> pd.DataFrame:
        """A table of the rows, the strangest first, with the features that made them strange where these are known."""
        names = ["first", "score", "error", "p_value", "q_value", "discovered"]
        frame = self.dataset[names].to_dataframe()
        if self.row_names is not None:
            frame.insert(1, "name", np.asarray(self.row_names)[frame["first"]])
        if self.reasons is not None:
            said = self.reasons["feature"] + " (" + self.reasons["surprise"].map("{:.1f}".format) + ")"
            frame["features"] = (
                said.groupby(self.reasons["row"]).agg(", ".join).reindex(frame["first"], fill_value="").values
            )
        return frame.rename(columns={"first": "row"}).sort_values("score", ascending=False, kind="stable")

    def alarms(self, rows_per_day: float, cost: float = 1.0) -> pd.DataFrame:
        """By level of the p-value: how many alarms a day there would be, how many of them false, and what they cost.

        Args:
            rows_per_day: rows (windows) that arrive in a day.
            cost: of looking into one alarm.
        """
        import pandas as pd

        p, n = self.dataset["p_value"].values, self.dataset.sizes["calibration"]
        levels = [level for level in (0.001, 0.005, 0.01, 0.05, 0.1) if level * (n + 1) >= 1]
        seen = np.array([rows_per_day * (p <= level).mean() for level in levels])
        false = [rows_per_day * math.floor(level * (n + 1) + 1e-9) / (n + 1) for level in levels]
        columns = {"alarms_per_day": seen, "false_alarms_per_day": false, "cost_per_day": cost * seen}
        return pd.DataFrame(columns, index=pd.Index(levels, name="level"))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the scores of calibration rows and rows, and the score from which rows are discovered."""
        from pyrovae.plots.style import BLUE, VERMILLION, finding, ink, legend, one_panel

        ax, found = one_panel(ax), self.dataset["discovered"].values
        both = {"calibration": self.dataset["calibration_score"].values, "rows": self.dataset["score"].values}
        finite = np.concatenate([values[np.isfinite(values)] for values in both.values()])
        bins = np.linspace(finite.min(), np.quantile(finite, 0.99), 40).tolist()
        for (name, values), color in zip(both.items(), (BLUE, VERMILLION), strict=True):
            ax.hist(np.clip(values, bins[0], bins[-1]), bins, density=True, color=color, alpha=0.5, label=name)
        if found.any():
            ax.axvline(
                min(both["rows"][found].min(), bins[-1]), color=ink(ax), linestyle=":", label="discovered from here"
            )
        ax.set(xlabel="strangeness (nats; the last bin holds all beyond)", ylabel="density")
        finding(ax, f"{found.sum()} of {len(found)} discovered")
        legend(ax)
        return ax

    def __repr__(self) -> str:
        attrs, sizes = self.dataset.attrs, self.dataset.sizes
        unit = "rows" if attrs["window"] == 1 else f"windows of {attrs['window']} rows"
        lead = f"{int(self.dataset['discovered'].sum())} of {sizes['data']} {unit} discovered at a false discovery rate of "
        lead += f"{attrs['fdr']:g}, beside {sizes['calibration']} calibration {unit}; drift: p = {attrs['drift']:.2g}"
        strange = self.to_frame().head(10).to_string(index=False, float_format=lambda value: f"{value:.4g}")
        return "\n".join([lead, *(f"note: {note}" for note in self.notes), strange])


def detect(
    program: Any,
    data: Any,
    covariates: Mapping[str, Any] | None = None,
    *,
    calibration: Any,
    train: Any = None,
    fdr: float = 0.1,
    explain: int = 0,
    score: Score = "evidence",
    background: Any = None,
    reference: Any = None,
    window: int = 1,
    num_samples: int | None = None,
    seed: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> Detection:
    r"""Finds strange rows by conformal p-values against usual rows that the program was not trained on.

    .. math:: p_i = \frac{1 + \#\{j : s_j \ge s_i\}}{n + 1}, \qquad
        \text{discovered: } p_{(1)}, \dots, p_{(k)}, \quad k = \max\bigl\{k : p_{(k)} \le q\,k / m\bigr\}

    Whatever the program and the score, at most a share q of the discoveries is false on average, as long as usual rows are
    exchangeable with the calibration rows. Strange rows among the training rows cost power, and so do strange rows among the
    calibration rows, which make p-values larger, never smaller.

    Three tests ask whether usual rows have drifted: whether the scores lie above those of the calibration rows when the
    strangest fifth is left out; whether all of them lie below; and whether those that are left follow the order of the rows.
    Up to a fifth of strange rows raises no alarm, wherever they stand; a drift of the data that leaves the scores as they were
    is not seen. Of 100 rows beside 300 with normal scores they find, at p < .01 and in more than four of five cases, scores that
    rise by one standard deviation, or fall by 0.6, or rise by 1.5 along the order.

    Args:
        program: as in :func:`anomaly_scores`.
        data: the rows to look at, m; NaN is a missing entry.
        covariates: for each name, a tensor of m rows.
        calibration: n usual rows, their covariates with them (``as_data(x, covariates)``). Scores of training rows are too
            small, which makes false alarms of other rows: training rows are refused.
        train: the training rows, by which calibration rows that are among them are recognized, whatever their order.
        fdr: the share of false discoveries, q.
        explain: so many of the strangest rows are explained by their features: those least expected given the others, each
            hidden from the program in turn (:class:`Detection`, ``reasons``).
        score: as in :func:`anomaly_scores`, and so are the following.
        background: the background of a likelihood ratio.
        reference: rows of typical score, for typicality.
        window: consecutive rows that are looked at together; the calibration rows are cut into such windows, too.
        num_samples: draws per row.
        seed: of the draws; None takes one from torch's random state.
        max_bytes: refuse what needs more memory.
        progress: True shows bars, False none; by default there are some on a terminal.

    Returns:
        A :class:`Detection`.

    Raises:
        ValueError: calibration rows that are training rows, or so few that nothing can be discovered.

    Reference: Bates et al. 2023, arXiv:2104.08279 (Benjamini-Hochberg on conformal p-values).

    >>> import pyrovae as pvae
    >>> vae = pvae.build_vae(3, likelihood="normal", latent_dim=1, hidden=(4,), seed=0)
    >>> x = torch.stack([torch.zeros(3), torch.full((3,), 9.0)])
    >>> found = detect(vae, x, calibration=torch.randn(99, 3), num_samples=50, seed=0)
    >>> found.dataset.p_value.values.tolist()[1], found.dataset.discovered.values.tolist()
    (0.01, [False, True])
    """
    from scipy.stats import false_discovery_control

    if not 0 < fdr < 1:
        raise refusal(f"fdr is the share of false discoveries, between 0 and 1, got {fdr}", "fdr")
    if check_integer("explain", explain, least=0) and window > 1:
        raise refusal("rows are explained one by one: leave out explain, or the window", "explain")
    rows, known = as_data(data, covariates), as_data(calibration)
    if explain and not isinstance(rows.event_shape, torch.Size):
        raise refusal("rows are explained where the data are one tensor: leave out explain", "explain")
    notes = _about(rows, known, train, fdr, window)
    seed = int(torch.randint(2**31, ())) if seed is None else check_seed(seed)
    if score == "typicality" and reference is None:  # the same for both
        reference = simulated(program, rows, seed)
    plan: dict[str, Any] = {"num_samples": num_samples, "max_bytes": max_bytes, "progress": progress}
    how: dict[str, Any] = {**plan, "score": score, "background": background, "reference": reference, "window": window}
    there = anomaly_scores(program, known, seed=mixed(seed, 4) % 2**31, **how)
    found = anomaly_scores(program, rows, seed=mixed(seed, 5) % 2**31, **how)
    notes += [found.attrs.pop("notes")] if "notes" in found.attrs else []
    p = conformal_p_values(found["score"], there["score"])
    q = false_discovery_control(p, method="bh")
    found = found.assign(p_value=("data", p), q_value=("data", q), discovered=("data", q <= fdr + 1e-12))
    found = found.assign(calibration_score=("calibration", there["score"].values))
    drift = _drift(found["score"].values, there["score"].values)
    if drift < DRIFTED:
        notes.append(
            f"usual rows do not look like the calibration rows (p = {drift:.2g}): they have drifted, so that the share of false "
            "alarms is not what it is meant to be; take newer calibration rows"
        )
    reasons = None
    if explain:
        strangest = np.argsort(-found["score"].values, kind="stable")[:explain]
        reasons = _reasons(program, rows[torch.from_numpy(strangest)], known, strangest, {**plan, "seed": seed})
        if bad := int((reasons["pareto_k"] > MOST_K).sum()):
            notes.append(
                f"{bad} of {len(reasons)} surprises are uncertain, most of them too small: k-hat is above {MOST_K}"
            )
    dataset = found.assign_attrs(fdr=fdr, drift=drift)
    return Detection(dataset, tuple(notes), reasons, rows.row_names)


def _about(rows: Data, known: Data, train: Any, fdr: float, window: int) -> list[str]:
    """What is to be known of the rows before anything is computed; calibration rows that will not do are refused."""
    num_rows, size = (len(data) // check_integer("window", window, most=len(data)) for data in (rows, known))
    fewest = math.ceil(num_rows / (fdr * (size + 1)) - 1e-9)
    if fewest > num_rows:
        raise refusal(
            f"the smallest p-value beside {size} calibration rows is 1 / {size + 1}, above fdr={fdr}, so that nothing can be "
            f"discovered: give {calibration_needed(num_rows, num_rows, fdr)} or more",
            "calibration",
        )
    advice = "whose scores are too small, which makes false alarms of others: give rows that were left out of training"
    notes = [f"calibration: {note}" for note in check_held_out(known, train, argument="calibration", advice=advice)]
    if fewest > 1:
        notes.append(
            f"beside {size} calibration rows nothing is discovered among {num_rows} unless {fewest} or more are, together: a "
            f"single row takes {calibration_needed(num_rows, 1, fdr)} calibration rows"
        )
    hashes = row_hashes(rows)
    for name, other in (("calibration", known), ("training", train)):
        others = set() if other is None else set(row_hashes(as_data(other)))
        if again := sum(one in others for one in hashes):
            notes.append(
                f"{again} of the rows equal {name} rows: if they are the same rows, and not equal by chance as rows of few "
                "values are, their p-values are too large"
            )
    if rows.complete != known.complete:
        notes.append(
            "entries are missing in some rows but not in calibration rows, or the reverse: they do not compare"
        )
    return notes


def _drift(scores: Array, known: Array) -> float:
    """The p-value of three tests together: scores above the known ones without the strangest, below them, and in order."""
    from scipy.stats import ks_2samp, spearmanr

    at_random = np.random.default_rng(0).random(len(scores))  # of equal scores the last must not count as the strangest
    left = np.sort(np.lexsort((at_random, scores))[: len(scores) - int(STRANGE * len(scores))])
    usual = scores[left]
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "ks_2samp: Exact calculation unsuccessful"
        )  # of many rows; its limit is as good
        sides = (usual, "less"), (scores, "greater")
        found = [ks_2samp(values, known, alternative=side).pvalue for values, side in sides]
    if len(usual) >= FEWEST_IN_ORDER and len(np.unique(usual)) > 1:
        found.append(spearmanr(left, usual).pvalue)
    return float(min(1.0, len(found) * min(found)))


def _reasons(
    program: Any, rows: Data, known: Data, numbers: NDArray[np.int64], plan: Mapping[str, Any]
) -> pd.DataFrame:
    """For each row the features that are least expected given its others."""
    import pandas as pd

    elpd, k = _left_out(program, rows, plan)
    usual, _ = _left_out(program, known[:EXPLAINED], plan)
    middle = np.nanmedian(usual, 0)
    counted = 1 + np.isfinite(usual).sum(0)
    at = np.argsort(np.nan_to_num(elpd - middle, nan=np.inf), kind="stable")[:, :CANDIDATES]
    p_value = (1 + (usual[:, None] <= elpd).sum(0)) / counted
    elpd, k = _hidden(program, rows, at, elpd, k, plan)
    surprise = middle - elpd
    values, lines = rows.dense().x.reshape(len(rows), -1), []
    names = rows.columns or ["x[" + ",".join(map(str, at)) + "]" for at in np.ndindex(*rows.event_shape)]
    for row, number in enumerate(numbers):
        seen = [j for j in at[row] if not np.isnan(surprise[row, j])]  # a missing entry is no reason
        for j in sorted(seen, key=lambda j: -surprise[row, j])[:REASONS]:
            lines.append((number, names[j], float(values[row, j]), surprise[row, j], p_value[row, j], k[row, j]))
    return pd.DataFrame(lines, columns=["row", "feature", "value", "surprise", "p_value", "pareto_k"])


def _hidden(
    program: Any, rows: Data, at: NDArray[np.int64], elpd: Array, k: Array, plan: Mapping[str, Any], **how: Any
) -> tuple[Array, Array]:
    r"""These numbers with :math:`\log p(x_j \mid x_{-j})` and its Pareto shape for some features of each row, hidden in turn.

    A program that takes no missing entries keeps the numbers.
    """
    row, feature = np.repeat(np.arange(len(at)), at.shape[1]), at.ravel()
    given = torch.ones(len(row), elpd.shape[1], dtype=torch.bool)
    given[torch.arange(len(row)), torch.from_numpy(feature)] = False
    copies = rows[torch.from_numpy(row)]
    try:
        found = log_conditional(program, copies, given=given.reshape(-1, *rows.event_shape), **plan, **how)
    except ValueError:
        return elpd, k
    elpd, k = elpd.copy(), k.copy()
    is_there = ~np.isnan(rows.dense().x.reshape(len(rows), -1).double().numpy()[row, feature])
    elpd[row, feature] = np.where(is_there, found["log_conditional"].values, np.nan)
    k[row, feature] = found["pareto_k"].values
    return elpd, k


def _left_out(program: Any, rows: Data, plan: Mapping[str, Any]) -> tuple[Array, Array]:
    r"""For each row and feature :math:`\log p(x_j \mid x_{-j})` and the Pareto shape behind it, ``(rows, features)``.

    The draws for the whole row are weighed anew for each feature. Where the likelihood is joint over its entries, as that of a
    table is, each entry is hidden in turn.
    """
    try:
        found = leave_one_feature_out(program, rows, **{**plan, "num_samples": plan["num_samples"] or 1000})
        return found.elpd.reshape(len(rows), -1), found.pareto_k.reshape(len(rows), -1)
    except ValueError:
        empty = np.full((len(rows), math.prod(rows.event_shape)), np.nan)
    every = np.tile(np.arange(empty.shape[1]), (len(rows), 1))
    return _hidden(program, rows, every, empty, empty, plan, method="importance")
