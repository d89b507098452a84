"""Findings in words: what is well, what is not, and what to do next."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyrovae.report.evaluated import Evaluated
from pyrovae.report.findings import Findings, share_bad
from pyrovae.report.subject import Subject

PROBLEM, CAUTION, OPEN, GOOD = "problem", "caution", "open", "good"
_ORDER = (PROBLEM, CAUTION, OPEN, GOOD)


@dataclass(frozen=True)
class Verdict:
    """One finding.

    Attributes:
        tone: ``problem``, ``caution``, ``open`` (it cannot be told) or ``good``.
        about: what it is about.
        claim: what was found, in a sentence.
        advice: what to do next; empty where there is nothing to do.
        detail: more words, from the diagnostic itself.
    """

    tone: str
    about: str
    claim: str
    advice: str = ""
    detail: str = ""


def judge(subject: Subject, findings: Findings) -> list[Verdict]:
    """The verdicts on a run, the most pressing first.

    Args:
        subject: the run.
        findings: the numbers.
    """
    parts = (_training(subject), _latents(findings), _prior(findings), _weights(findings))
    found = [v for part in (*parts, _overfitting(findings), _calibration(findings), _rows(findings)) for v in part]
    return sorted(found, key=lambda verdict: _ORDER.index(verdict.tone))


def headline(verdicts: list[Verdict]) -> str:
    """All verdicts in one sentence.

    Args:
        verdicts: of `judge`.

    >>> headline([Verdict("good", "latents", "in use"), Verdict("caution", "k-hat", "too large")])
    '1 of 2 checks asks for attention: k-hat.'
    """
    if not verdicts:
        return "Nothing could be checked."
    pressing = [verdict.about for verdict in verdicts if verdict.tone in (PROBLEM, CAUTION)]
    undecided = [verdict.about for verdict in verdicts if verdict.tone == OPEN]
    left = f" Open: {', '.join(undecided)}." if undecided else ""
    if not pressing:
        return f"{'None' if undecided else f'All {len(verdicts)} checks are fine; none'} asks for attention.{left}"
    verb = "asks" if len(pressing) == 1 else "ask"
    return f"{len(pressing)} of {len(verdicts)} checks {verb} for attention: {', '.join(pressing)}.{left}"


def _training(subject: Subject) -> Iterator[Verdict]:
    history = subject.run.history
    if not history.get("epoch"):
        return
    skipped = int(sum(_known(history.get("skipped"))))
    if skipped:
        yield Verdict(
            CAUTION,
            "training",
            f"{skipped} steps were skipped because their loss or gradient was not finite.",
            "Lower the learning rate, or clip the gradient (`--clip-norm`).",
        )
    epochs, rise = len(history["epoch"]), _late_rise(history)
    if math.isnan(rise):
        return
    if rise > _worth(history):
        claim = f"The validation ELBO still rose by {rise:.2f} nats over the last tenth of {epochs} epochs."
        yield Verdict(CAUTION, "training length", claim, "Train longer (`--epochs`).")
    else:
        claim = f"The validation ELBO had settled: {_signed(rise)} nats over the last tenth of {epochs} epochs."
        yield Verdict(GOOD, "training length", claim)


def _known(column: Any) -> list[float]:
    return [value for value in column or [] if value is not None]


def _late_rise(history: Any) -> float:
    values = _known(history.get("validation_elbo"))
    return values[-1] - values[-1 - max(1, len(values) // 10)] if len(values) > 1 else math.nan


def _worth(history: Any) -> float:
    """Nats of the validation ELBO that are worth more epochs: a five-hundredth of it, and never below a tenth."""
    return max(0.1, 0.002 * abs(_known(history["validation_elbo"])[-1]))


def _latents(findings: Findings) -> Iterator[Verdict]:
    structure = findings.structure
    if structure is None:
        return
    total = sum(values.size for values in structure.kl.values())
    claim = (
        f"{structure.num_active} of {total} latent dimensions are active, and {structure.num_informative} carry more than "
        "0.1 nats."
    )
    detail = structure.summary()
    if structure.verdict == "collapsed":
        claim = (
            f"The posterior has collapsed: the latents carry {structure.surgery.mutual_information:.2f} nats. {claim}"
        )
        advice = "Warm beta up (`--beta-warm-up`), give free bits, or weaken the decoder."
        yield Verdict(PROBLEM, "collapse", claim, advice, detail)
        return
    spare = total - structure.num_informative
    advice = f"{spare} dimensions are spare, which is harmless; `--latent-dim` may be smaller." if spare > 1 else ""
    yield Verdict(GOOD, "collapse", f"No collapse: {claim}", advice, detail)


def _prior(findings: Findings) -> Iterator[Verdict]:
    structure = findings.structure
    if structure is None or structure.verdict == "collapsed":
        return
    surgery = structure.surgery
    low, high = sorted(max(value, 0.0) for value in (surgery.marginal_kl_lower, surgery.marginal_kl))
    between = f"between {low:.2f} and {high:.2f} nats"
    learned = "Try a learned prior (`--prior vamp`, `mixture` or `spline_flow`) and compare the evidence."
    if structure.verdict == "prior hole":
        claim = f"Taken together, the latents miss the prior by {between}, so that some prior draws may decode badly."
        yield Verdict(CAUTION, "prior", claim, learned)
    elif structure.verdict == "undecided":
        claim = (
            f"Whether the latents fill the prior is open: with {structure.num_data} rows their distance is only known "
            f"to lie {between}."
        )
        yield Verdict(OPEN, "prior", claim, learned)
    else:
        yield Verdict(GOOD, "prior", "Taken together, the latents follow the prior.")


def _weights(findings: Findings) -> Iterator[Verdict]:
    found, kept = findings.reliability, findings.evaluated
    if found is None:
        return
    share = share_bad(found)
    claim = (
        f"k-hat is above {found.good_k:.2f}, the limit for {found.num_samples:,} samples, on {share:.0%} of "
        f"{len(found.elbo)} test rows (median {np.median(found.pareto_k):.2f})."
    )
    if share <= 0.05:
        yield Verdict(GOOD, "evidence", f"{claim} The estimate of log p(x) can be trusted.", detail=found.summary())
    elif kept is not None and kept.method != "importance":
        yield _of_evaluated(f"With the guide alone {claim}", kept, found.summary())
    else:
        yield Verdict(
            CAUTION,
            "evidence",
            f"{claim} There importance sampling with this guide mostly errs on the low side: read log p(x) as a lower estimate.",
            "Refine the guide row by row: `pyrovae evaluate RUN --method refined --rows 200`, or train with "
            "`--posterior full_normal`.",
            found.summary(),
        )


def _of_evaluated(claim: str, kept: Evaluated, detail: str) -> Verdict:
    """On a better estimate that was made by ``pyrovae evaluate``."""
    taken = f"log p(x) is taken from {kept.file} ({kept.method}, the first {len(kept.elbo):,} test rows)"
    share = share_bad(kept)
    if share <= 0.05:
        return Verdict(GOOD, "evidence", f"{claim} So {taken}; there it is on {share:.0%}.", detail=detail)
    again = f"`pyrovae evaluate RUN --method {kept.method} --steps 1000`"
    if np.isinf(kept.pareto_k).all():
        known = f"{kept.num_samples} chains are too few for a k-hat: read it as a lower estimate."
        return Verdict(CAUTION, "evidence", f"{claim} So {taken}; {known}", f"See whether it rises: {again}.", detail)
    known = f"there it still is on {share:.0%}: read log p(x) as a lower estimate."
    advice = f"Take more steps, {again}, or samples, or train with `--posterior full_normal`."
    return Verdict(CAUTION, "evidence", f"{claim} So {taken}; {known}", advice, detail)


def _overfitting(findings: Findings) -> Iterator[Verdict]:
    gap, error = findings.gap
    if math.isnan(gap):
        return
    numbers = f"{_signed(gap)} ± {error:.2f} nats per datum (ELBO, train less test)"
    if gap > 2 * error:
        claim = f"Training rows are explained better than test rows: {numbers}."
        advice = "Stop early (`--patience`), add dropout or weight decay, or use a smaller network or more data."
        yield Verdict(CAUTION, "overfitting", claim, advice)
    else:
        yield Verdict(GOOD, "overfitting", f"No sign of overfitting beyond two standard errors: {numbers}.")


def _calibration(findings: Findings) -> Iterator[Verdict]:
    found = findings.sbc
    if found is None:
        return
    test = f"Simulation-based calibration on {found.num_simulations} simulated rows: {_p(found.p_value)}."
    if found.p_value < 0.01:
        advice = (
            "Do not read posterior intervals off the guide alone: refine it, or correct its draws (`posterior_draws`)."
        )
        yield Verdict(CAUTION, "calibration", f"The guide is not calibrated. {test}", advice, found.summary())
    else:
        yield Verdict(GOOD, "calibration", f"The guide passes. {test}", detail=found.summary())


def _p(value: float) -> str:
    return "p\u00a0<\u00a00.001" if value < 1e-3 else f"p\u00a0=\u00a0{value:.2g}"


def _signed(value: float) -> str:
    return f"{value:+,.2f}".replace("-", "−")


def _rows(findings: Findings) -> Iterator[Verdict]:
    found = findings.typicality
    if found is None:
        return
    share, total = float(found.atypical.mean()), len(found.atypical)
    claim = f"{share:.0%} of {total} test rows do not look like the model's own simulations; {found.level:.0%} would by chance."
    if share > found.level + 3 * math.sqrt(found.level / total):
        yield Verdict(
            CAUTION, "atypical rows", claim, "Look at those rows; a richer likelihood or prior may take them in."
        )
    else:
        yield Verdict(GOOD, "atypical rows", claim)
