"""Had training settled when it ended?"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyrovae.checks.findings import CAUTION, GOOD, OPEN, Case, Check, Finding

if TYPE_CHECKING:
    import xarray as xr

NEGLIGIBLE, NEGLIGIBLE_SHARE = 0.1, 0.002
"""Nats of the validation ELBO, and the share of it, below both of which a change is worth no more epochs."""
HOT = 0.5
"""The share of its peak above which a learning rate still takes steps by which a curve can be judged."""


class Rise(NamedTuple):
    """How the validation ELBO changed over the last tenth of the epochs, what twice as many would win, what is worth it."""

    nats: float
    more: float
    worth: float

    @property
    def is_rising(self) -> bool:
        """Whether more epochs would pay."""
        return bool(max(self.nats, self.more) > self.worth)

    @property
    def is_falling(self) -> bool:
        """Whether fewer epochs would have been better."""
        return bool(self.nats < -self.worth)


def late_rise(history: Mapping[str, Any]) -> Rise | None:
    r"""The late change of the validation ELBO V, and what twice as many epochs would win; None without two values.

    .. math:: \Delta_h = V(h) - V(h / 2), \qquad \text{win} = \Delta_h \min\Bigl(1, \frac{\Delta_h}{\Delta_{h / 2}}\Bigr)

    The end of a learning rate that falls to zero is flat, however short the training: h is the last epoch with a rate of
    at least half its peak. Each value is a mean over a tenth of the epochs up to its own.

    >>> late_rise({"validation_elbo": [-100.0, -90.0, -85.0]}).is_rising
    True
    """
    rates = history.get("learning_rate") or []
    found = [
        (value, rates[number] if number < len(rates) else None)
        for number, value in enumerate(history.get("validation_elbo") or [])
        if value is not None and np.isfinite(value)
    ]
    if len(found) < 2:
        return None
    values = np.array([value for value, _ in found])
    rate = np.array([1.0 if rate is None else rate for _, rate in found])
    hot = int(np.flatnonzero(rate >= HOT * rate.max())[-1]) + 1
    at = [values[int(0.9 * end) : end].mean() for end in (hot, hot // 2, hot // 4) if end]
    wins = [one - other for one, other in pairwise(at)]
    more = wins[0] if len(wins) == 1 else 0.0
    if len(wins) == 2 and wins[0] > 0:
        more = wins[0] * (min(wins[0] / wins[1], 1.0) if wins[1] > 0 else 1.0)
    worth = max(NEGLIGIBLE, NEGLIGIBLE_SHARE * abs(values[-1]))
    return Rise(float(values[-1] - values[-1 - max(1, len(values) // 10)]), float(more), worth)


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
    columns = {} if rise is None else {"late_rise": rise.nats, "more": rise.more, "worth": rise.worth}
    return xr.Dataset(columns, attrs=attributes)


def judge(found: xr.Dataset) -> list[Finding]:
    """Whether steps were skipped, and whether the validation ELBO fell, would rise on, or had settled at the end."""
    epochs, skipped, best = (found.attrs[name] for name in ("epochs", "skipped", "best_epoch"))
    findings = []
    if skipped:
        claim = f"{skipped} steps were skipped because their loss or gradient was not finite."
        advice = "Lower the learning rate, or clip the gradient (`clip_norm`)."
        findings.append(Finding(CAUTION, "skipped steps", claim, advice))
    if "late_rise" not in found:
        claim = "Not judged: the history has no validation ELBO of two epochs."
        return [*findings, Finding(OPEN, "training length", claim, "Give `validation=` to `fit`.")]
    rise = Rise(*(float(found[name]) for name in ("late_rise", "more", "worth")))
    over = f"over the last tenth of {epochs} epochs" if epochs >= 20 else f"over the last of {epochs} epochs"
    kept = f" The weights of epoch {best} were kept." if best and best < epochs else ""
    if rise.is_falling:
        claim = f"The validation ELBO fell by {-rise.nats:.2f} nats {over}.{kept}"
        advice = "" if best else "Keep the best weights (`keep_best`), or stop earlier (`patience`)."
        findings.append(Finding(GOOD if best else CAUTION, "training length", claim, advice))
    elif rise.nats > rise.worth:
        claim = f"The validation ELBO still rose by {rise.nats:.2f} nats {over}."
        findings.append(Finding(CAUTION, "training length", claim, "Train longer (`epochs`)."))
    elif rise.is_rising:
        claim = f"The learning curve tells of about {rise.more:.1f} nats more in twice the {epochs} epochs."
        findings.append(Finding(CAUTION, "training length", claim, "Train longer (`epochs`)."))
    else:
        claim = f"The validation ELBO had settled: {rise.nats:+.2f} nats {over}.{kept}"
        findings.append(Finding(GOOD, "training length", claim))
    return findings


TRAINING = Check("training", _run, judge, needs=("history",))
