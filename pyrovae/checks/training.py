"""Had training settled when it ended?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyrovae.checks.findings import CAUTION, GOOD, Case, Check, Finding

if TYPE_CHECKING:
    import xarray as xr

NEGLIGIBLE, NEGLIGIBLE_SHARE = 0.1, 0.002
"""Nats of the validation ELBO, and the share of it, below both of which a late change is worth no more epochs."""


class Rise(NamedTuple):
    """How the validation ELBO changed over the last tenth of the epochs, and the nats that would be worth more epochs."""

    nats: float
    worth: float

    @property
    def is_rising(self) -> bool:
        """Whether more epochs would have paid."""
        return self.nats > self.worth

    @property
    def is_falling(self) -> bool:
        """Whether fewer epochs would have been better."""
        return self.nats < -self.worth


def late_rise(history: Mapping[str, Any]) -> Rise | None:
    """The change of the validation ELBO over the last tenth of the epochs; None without two values.

    >>> late_rise({"validation_elbo": [-100.0, -90.0, -85.0]}).is_rising
    True
    """
    values = [value for value in history.get("validation_elbo") or [] if value is not None and np.isfinite(value)]
    if len(values) < 2:
        return None
    worth = max(NEGLIGIBLE, NEGLIGIBLE_SHARE * abs(values[-1]))
    return Rise(values[-1] - values[-1 - max(1, len(values) // 10)], worth)


def _run(case: Case) -> xr.Dataset:
    import xarray as xr

    history = case.history or {}
    rise = late_rise(history)
    best = history.get("best_epoch")
    attributes = {
        "epochs": len(history.get("epoch") or []),
        "skipped": int(sum(value for value in history.get("skipped") or [] if value is not None)),
        "best_epoch": best if isinstance(best, int) else 0,
    }
    columns = {} if rise is None else {"late_rise": rise.nats, "worth": rise.worth}
    return xr.Dataset(columns, attrs=attributes)


def judge(found: xr.Dataset) -> list[Finding]:
    """Whether steps were skipped, and whether the validation ELBO rose, fell or had settled at the end."""
    epochs, skipped, best = (found.attrs[name] for name in ("epochs", "skipped", "best_epoch"))
    findings = []
    if skipped:
        claim = f"{skipped} steps were skipped because their loss or gradient was not finite."
        advice = "Lower the learning rate, or clip the gradient (`clip_norm`)."
        findings.append(Finding(CAUTION, "skipped steps", claim, advice))
    if "late_rise" not in found:
        return findings
    rise = Rise(float(found["late_rise"]), float(found["worth"]))
    over = f"over the last tenth of {epochs} epochs"
    if rise.is_rising:
        claim = f"The validation ELBO still rose by {rise.nats:.2f} nats {over}."
        findings.append(Finding(CAUTION, "training length", claim, "Train longer (`epochs`)."))
    elif rise.is_falling:
        kept = f" The weights of epoch {best} were kept." if best else ""
        claim = f"The validation ELBO fell by {-rise.nats:.2f} nats {over}.{kept}"
        advice = "" if best else "Keep the best weights (`keep_best`), or stop earlier (`patience`)."
        findings.append(Finding(GOOD if best else CAUTION, "training length", claim, advice))
    else:
        claim = f"The validation ELBO had settled: {rise.nats:+.2f} nats {over}."
        findings.append(Finding(GOOD, "training length", claim))
    return findings


TRAINING = Check("training", _run, judge, needs=("history",))
