"""What is to be known of a comparison before it is believed, in sentences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from pyrovae.errors import counted
from pyrovae.limits import BAD_SHARE, ERRORS, good_k, too_many_bad_k

if TYPE_CHECKING:
    from pyrovae.comparison.table import Comparison

MANY_MODELS = 11
"""With more models the best of them leads by luck, even where all are alike."""


def notes_of(table: Comparison, is_best: bool) -> list[str]:
    """The notes on a table.

    Args:
        table: the models, with their results row by row.
        is_best: whether differences are from the best model, rather than from one that was fixed beforehand.
    """
    made = (_reliability, _lost, _convergence, _order, _impossible, _elbo, _apart, _spread)
    return [*(note for make in made for note in make(table)), *_many(table, is_best)]


def _reliability(table: Comparison) -> Iterable[str]:
    bad = table.frame[too_many_bad_k(table.frame["pct_bad_k"] / 100)]
    if len(bad):
        count, estimator = bad["num_samples"].iloc[0], bad["estimator"].iloc[0]
        limit = f"{good_k(count):.2f}" + (f", the limit for {count:,} samples" if count else "")
        yield (
            f"Pareto k too large (above {limit}) on more than {BAD_SHARE:.0%} of the rows of {_quoted(bad.index)}: "
            f"{_remedy(estimator)}"
        )


def _lost(table: Comparison) -> Iterable[str]:
    """A row whose own bound lies above its estimate: the estimator may have lost a part of the posterior."""
    for name in table.frame.index:
        flagged = table.pointwise[name].flagged
        if flagged is not None and flagged.any():
            yield (
                f"the bound of {counted(int(flagged.sum()), 'row')} of {name!r} lies above the estimate, which may have lost a "
                f"part of the posterior: {_remedy(table.frame.loc[name, 'estimator'])}"
            )


def _convergence(table: Comparison) -> Iterable[str]:
    """An estimate that still rises with its samples is too low, and more so under the worse guide."""
    rising = table.frame[~table.frame["k_converged"]]
    if len(rising):
        yield (
            f"estimates of {_quoted(rising.index)} still rise with the number of samples: "
            f"{_remedy(rising['estimator'].iloc[0])}"
        )


def _order(table: Comparison) -> Iterable[str]:
    frame = table.frame
    for above, below in zip(frame.index[:-1], frame.index[1:], strict=True):
        found = table.difference(above, below)
        reach = table.reach(above, below)
        if found.elpd_diff < reach:
            yield (
                f"the order of {above!r} and {below!r} lies inside the estimators' error "
                f"({found.elpd_diff:.3g} < {reach:.3g} nats)"
            )


def _impossible(table: Comparison) -> Iterable[str]:
    for name in table.frame.index:
        rows = np.flatnonzero(np.isneginf(table.pointwise[name].log_p))
        if len(rows):
            yield (
                f"{name!r} gives {counted(len(rows), 'row')}, the first of them row {rows[0]}, a density of zero: its elpd is "
                "minus infinity and has no standard error"
            )


def _elbo(table: Comparison) -> Iterable[str]:
    known = table.frame[np.isfinite(table.frame["elbo"]) & np.isfinite(table.frame["elpd"])]
    for number, first in enumerate(known.index):
        for second in known.index[number + 1 :]:
            one, other = known.loc[first], known.loc[second]
            by_elbo, by_elpd = one["elbo"] - other["elbo"], one["elpd"] - other["elpd"]
            apart = abs(by_elbo - by_elpd)
            dse = np.nan_to_num(table.difference(first, second).dse)
            error = 2 * np.hypot(dse, other["mcse"]) + 1e-3 * abs(by_elpd)
            if apart > error and (by_elbo < 0 or apart > abs(by_elpd)):
                yield (
                    f"the ELBO is no guide here: it sets {first!r} and {second!r} {by_elbo:+.2f} nats apart, the evidence "
                    f"{by_elpd:+.2f}; their guides lose different amounts (gap {one['gap']:.2f} and {other['gap']:.2f})"
                )


def _apart(table: Comparison) -> Iterable[str]:
    best, *others = table.frame.index
    if table.frame["num_data"].iloc[0] == 1:
        yield "one row has no standard error: nothing can be told apart"
        return
    close = [name for name in others if np.isfinite(table.frame.loc[name, "elpd"]) and not table.told_apart(best, name)]
    if close:
        over = "rows, draws and refits" if (table.frame["num_refits"] > 1).any() else "rows and draws"
        how = f"difference within {ERRORS:g} standard errors, over {over}"
        yield f"not told apart from {best!r} ({how}): {_quoted(close)}"


def _spread(table: Comparison) -> Iterable[str]:
    wide = table.frame.index[table.frame["refit_sd"] > max(table.frame["dse"].max(), 1e-12)]
    if len(wide):
        yield f"refits of {_quoted(wide)} differ by more than any dse: training matters more than the rows"


def _many(table: Comparison, is_best: bool) -> Iterable[str]:
    """The best of many models is the best by luck, too, and the rows that chose it flatter it."""
    if is_best and len(table.frame) > MANY_MODELS:
        yield (
            f"{len(table.frame)} models were compared: the best of more than {MANY_MODELS} leads by luck, too; score the first "
            "few again on other rows, or fix a reference beforehand"
        )


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


REMEDIES = {
    "Refined": "take more steps (num_steps of Refined) or samples, or anneal (method 'ais')",
    "Mixture": "search longer (starts and components of Mixture)",
    "AIS": "take more temperatures (num_temperatures of AIS) or chains",
}


def _remedy(estimator: str) -> str:
    """The advice to users of an estimator, which is known by the beginning of its repr."""
    return REMEDIES.get(estimator.partition("(")[0], "search for modes (method 'mixture')")
