"""Are the training rows explained better than the others, and by which part of the program?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyrovae.checks.findings import CAUTION, GOOD, Case, Check, Finding, Line, some_rows
from pyrovae.checks.reliability import RELIABILITY, reliability
from pyrovae.checks.training import late_rise
from pyrovae.limits import ERRORS

if TYPE_CHECKING:
    import xarray as xr


def _run(case: Case) -> xr.Dataset:
    """Means of training rows less those of the other rows, in nats per datum, with their standard errors."""
    import xarray as xr

    if case.train is None:
        raise ValueError("the check of overfitting needs the training rows: give them as train")
    rows = some_rows(case.train, case.evidence_rows or case.max_rows, case.seed)
    there = reliability(case.program, rows, num_samples=case.num_samples, **case.options).dataset
    here = case.done["reliability"] if "reliability" in case.done else RELIABILITY.run(case)
    found = xr.Dataset()
    for name in ("elbo", "log_marginal"):
        found[name] = float(there[name].mean() - here[name].mean())
        variances = [float(side[name].var(ddof=1)) / side.sizes["data"] for side in (here, there)]
        found[f"{name}_error"] = float(np.sqrt(sum(variances)))
    rise = late_rise(case.history or {})
    return found.assign_attrs(fell=int(rise is None or rise.is_falling))


def judge(found: xr.Dataset) -> list[Finding]:
    """Whether the training rows are explained better beyond two standard errors, by the model or by the guide alone."""
    elbo, log_p = float(found["elbo"]), float(found["log_marginal"])
    model = log_p > ERRORS * found["log_marginal_error"]
    guide = elbo - log_p > ERRORS * found["elbo_error"]
    numbers = (
        f"Training less other rows: ELBO {elbo:+.2f} (se {float(found['elbo_error']):.2f}), log p(x) {log_p:+.2f} "
        f"(se {float(found['log_marginal_error']):.2f}) nats per datum."
    )
    if not (model or guide):
        return [Finding(GOOD, "overfitting", f"{numbers} No sign of overfitting beyond two standard errors.")]
    claims, steps = [], []
    if model:
        claims.append("The model explains its training rows better.")
        early = "Stop earlier (`patience`), or regularize" if found.attrs.get("fell", 1) else "Regularize"
        steps.append(f"{early} (dropout, weight decay), use a smaller network, or give it more data.")
    if guide:
        claims.append("The guide does, too, beyond the model." if model else "The guide does, beyond the model.")
        steps.append("Refine the guide for new rows.")
    return [Finding(CAUTION, "overfitting", f"{numbers} {' '.join(claims)}", " ".join(steps))]


def numbers(found: xr.Dataset) -> list[Line]:
    """Both differences."""
    names = {"elbo": "training - other rows, ELBO", "log_marginal": "training - other rows, log p(x)"}
    return [Line(words, float(found[n]), float(found[f"{n}_error"]), "nats") for n, words in names.items()]


OVERFITTING = Check("overfitting", _run, judge, needs=("train",), numbers=numbers)
