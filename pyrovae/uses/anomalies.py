"""Which rows are strange: conformal p-values, discoveries of which a bounded share is false, the features behind them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyrovae.checks import leave_one_feature_out
from pyrovae.comparison.rows import check_held_out, row_hashes
from pyrovae.data import Data, as_data
from pyrovae.errors import check_integer, check_seed, refusal
from pyrovae.evaluation import log_marginal
from pyrovae.programs.rows import MAX_BYTES, mixed
from pyrovae.uses.scores import Array, Score, anomaly_scores, simulated

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.axes import Axes

EXPLAINED = 200
"""Calibration rows beside which the features of strange rows are held."""
DRIFTED = 0.01
"""A p-value of the test of drift below it is said."""
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
    strange, known = (np.asarray(values, dtype=float) for values in (scores, calibration))
    for name, values in (("scores", strange), ("calibration", known)):
        if np.isnan(values).any():
            raise refusal(f"{name} hold {np.isnan(values).sum()} NaN: leave these rows out", name)
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
    return max(1, math.ceil(num_rows / (fdr * discoveries) - 1 - 1e-9))


@dataclass(frozen=True)
class Detection:
    """Which rows :func:`detect` found strange.

    Args:
        dataset: over ``data``: ``score``, ``error``, ``first``, ``p_value``, ``q_value`` (Benjamini-Hochberg's), and
            ``discovered``; over ``calibration`` its ``calibration_score``.
        notes: what to know before believing them.
        reasons: for the strangest rows, the features that made them strange; None where they were not asked for.
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
            frame["features"] = said.groupby(self.reasons["row"]).agg(", ".join).reindex(frame["first"]).values
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
    exchangeable with the calibration rows. Two tests of this are made: whether rows in the less strange half of all are
    distributed as calibration rows, and whether p-values drift along the order of the rows. Strange rows among the training
    rows cost power, and so do strange rows among the calibration rows, which make p-values larger, never smaller.

    Args:
        program: as in :func:`anomaly_scores`.
        data: the rows to look at, m; NaN is a missing entry.
        covariates: for each name, a tensor of m rows.
        calibration: n usual rows, their covariates with them (``as_data(x, covariates)``). Scores of training rows are too
            small, which makes false alarms of other rows: training rows are refused.
        train: the training rows, by which calibration rows that are among them are recognized, whatever their order.
        fdr: the share of false discoveries, q.
        explain: so many of the strangest rows are explained by their features: those least expected given the others.
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
    if explain and window > 1:
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
    drift = _drift(found["score"].values, there["score"].values, p)
    if drift < DRIFTED:
        notes.append(
            f"usual rows do not look like the calibration rows (p = {drift:.2g}): they have drifted, so that the share of false "
            "alarms is not what it is meant to be; take newer calibration rows"
        )
    reasons = None
    if explain:
        strangest = np.argsort(-found["score"].values, kind="stable")[:explain]
        reasons = _reasons(program, rows[torch.from_numpy(strangest)], known, strangest, {**plan, "seed": seed})
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
        again = 0 if other is None else len(set(hashes) & set(row_hashes(as_data(other))))
        if again:
            notes.append(f"{again} of the rows are {name} rows, too: their p-values are too large")
    if rows.complete != known.complete:
        notes.append(
            "entries are missing in some rows but not in calibration rows, or the reverse: they do not compare"
        )
    return notes


def _drift(scores: Array, known: Array, p: Array) -> float:
    """The p-value of two tests together: whether the lower half are as calibration rows, and whether p follows the order."""
    from scipy.stats import ks_2samp, spearmanr

    middle = np.median(np.concatenate([scores, known]))
    lower = scores[scores <= middle], known[known <= middle]
    found = [ks_2samp(*lower).pvalue] if min(map(len, lower)) > 1 else []
    if len(p) >= FEWEST_IN_ORDER and np.ptp(p):
        found.append(spearmanr(np.arange(len(p)), p).pvalue)
    return min(1.0, len(found) * min(found)) if found else 1.0


def _reasons(
    program: Any, rows: Data, known: Data, numbers: NDArray[np.int64], plan: Mapping[str, Any]
) -> pd.DataFrame:
    r"""For each row the three features that are least expected given its others.

    The surprise of an entry is by how many nats :math:`\log p(x_j \mid x_{-j})` lies below its median over calibration rows.
    """
    import pandas as pd

    elpd, k = _left_out(program, rows, plan)
    usual, _ = _left_out(program, known[:EXPLAINED], plan)
    surprise = np.nanmedian(usual, 0) - elpd
    values, lines = rows.dense().x.reshape(len(rows), -1), []
    names = rows.columns or ["x[" + ",".join(map(str, at)) + "]" for at in np.ndindex(*rows.event_shape)]
    for row, number in enumerate(numbers):
        for j in np.argsort(-np.nan_to_num(surprise[row], nan=-np.inf))[:3]:
            p_value = (1 + np.sum(usual[:, j] <= elpd[row, j])) / (1 + len(usual))
            lines.append((number, names[j], float(values[row, j]), surprise[row, j], p_value, k[row, j]))
    return pd.DataFrame(lines, columns=["row", "feature", "value", "surprise", "p_value", "pareto_k"])


def _left_out(program: Any, rows: Data, plan: Mapping[str, Any]) -> tuple[Array, Array]:
    r"""For each row and feature :math:`\log p(x_j \mid x_{-j})` and the Pareto shape behind it, ``(rows, features)``.

    Where the likelihood is joint over its entries, as that of a table is, each entry is hidden in turn.
    """
    try:
        found = leave_one_feature_out(program, rows, **{**plan, "num_samples": plan["num_samples"] or 1000})
        return found.elpd.reshape(len(rows), -1), found.pareto_k.reshape(len(rows), -1)
    except ValueError:
        x = rows.dense().x.reshape(len(rows), -1)
    features = x.shape[1]
    hidden = x.to(torch.get_default_dtype() if not x.is_floating_point() else x.dtype)[:, None].repeat(1, features, 1)
    hidden[:, torch.arange(features), torch.arange(features)] = torch.nan
    copies = rows[torch.arange(len(rows)).repeat_interleave(features)]
    by: dict[str, Any] = {"method": "importance", **plan}  # each row once for each of its features
    others = log_marginal(program, replace(copies, x=hidden.reshape(-1, *rows.event_shape)), **by)
    whole = log_marginal(program, rows, **by)["log_marginal"].values
    elpd = whole[:, None] - others["log_marginal"].values.reshape(len(rows), features)
    return np.where(x.isnan().numpy(), np.nan, elpd), others["pareto_k"].values.reshape(len(rows), features)
