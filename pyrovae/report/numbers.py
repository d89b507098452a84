"""The numbers of a page: the few for a busy reader, and the table of evidence."""

from __future__ import annotations

import math
from typing import Any

from pyrovae.report.evaluated import Evaluated
from pyrovae.report.findings import Findings, Mean
from pyrovae.report.html import Html, element, table
from pyrovae.report.subject import Subject
from pyrovae.report.verdicts import Verdict, headline

_ESTIMATED = {"log p(x)": "log p(x), importance sampling", "ELBO": "ELBO of the same rows", "gap": "log p(x) less ELBO"}


def key_numbers(subject: Subject, findings: Findings, verdicts: list[Verdict]) -> Html:
    """The few numbers for a busy reader.

    Args:
        subject: the run.
        findings: its numbers.
        verdicts: of them.
    """
    where = f"{subject.variant or subject.data_name}, "
    entries = []
    if "elbo" in findings.test:
        elbo = findings.test["elbo"]
        rows = f"{where}{elbo.rows:,} test rows"
        entries.append(("Test ELBO", _measured(elbo), f"nats per datum; {rows}"))
        bits = bits_per_dim(subject, elbo)
        if bits is not None:
            entries.append(("Bits per dimension", [f"{bits:.3f}"], f"from the test ELBO; {rows}"))
    found = findings.log_marginal
    if found is not None:
        value = [element("span", "at least ") if findings.is_low else "", *_measured(found)]
        entries.append(("Held-out log p(x)", value, f"nats per datum; {where}{_extrapolated(findings, found.rows)}"))
    if verdicts:
        fine = sum(verdict.tone == "good" for verdict in verdicts)
        entries.append(("Checks", [f"{fine} of {len(verdicts)} fine"], headline(verdicts)))
    made = [
        element("div", element("dt", name), element("dd", value, element("small", note)))
        for name, value, note in entries
    ]
    return element("dl", made, class_="key") if made else Html("")


def _extrapolated(findings: Findings, rows: int) -> str:
    """On how many rows log p(x) was estimated, how, and what was done for the others."""
    source = findings.source
    few = 0 if source is None else len(source.elbo)
    if isinstance(source, Evaluated):
        how, which = f"pyrovae evaluate --method {source.method} ({source.file})", "the first"
    else:
        how, which = "importance sampling with the guide", "a random"
    if few == rows:
        return f"{rows:,} test rows, by {how}"
    return f"{rows:,} test rows, extrapolated from {which} {few:,}: test ELBO plus the gap found on those by {how}"


def _measured(mean: Mean) -> list[Any]:
    error = "" if math.isnan(mean.error) else f" ± {mean.error:,.2f}"
    return [signed(mean.value), " ", element("span", error.strip())] if error else [signed(mean.value)]


def signed(value: float, form: str = ",.2f") -> str:
    """A number with a true minus sign; a dash where there is none.

    Args:
        value: the number.
        form: how to write it.

    >>> signed(-1.5), signed(float("nan"))
    ('−1.50', '–')
    """
    return "–" if value is None or math.isnan(value) else format(value, form).replace("-", "−")


def bits_per_dim(subject: Subject, elbo: Mean) -> float | None:
    """Minus the ELBO in bits by the number of entries of a datum; None where that is not known, or for a density.

    Args:
        subject: the run.
        elbo: its test ELBO.
    """
    shape = subject.kept.get("event_shape")
    if subject.run.config["results"].get("bits_per_dim", 0.0) is None:
        return None
    if not isinstance(shape, list) or not all(isinstance(axis, int) and axis > 0 for axis in shape):
        return None
    return -elbo.value / (math.log(2) * math.prod(shape))


def evidence(subject: Subject, findings: Findings) -> list[Html]:
    """The table of evidence, and how it was found.

    Args:
        subject: the run.
        findings: its numbers.
    """
    lines = evidence_lines(subject, findings)
    if not lines:
        return [element("p", "There is no evidence: the run keeps no results, and none could be computed.")]
    columns = ["", "nats per datum", "± over rows", "5 % to 95 % of rows", "rows", "draws", "variant"]
    said = [
        element(
            "p",
            "All at beta 1. ± is the standard error of the mean over rows; the range says how much single rows differ. "
            "Numbers on other variants of the data are of other things.",
            class_="note",
        ),
        element("div", table(columns, lines, "Evidence in nats per datum"), class_="numbers"),
    ]
    found = findings.log_marginal
    if found is not None:
        said.append(element("p", _monte_carlo(findings, found), class_="note"))
    return said


def _monte_carlo(findings: Findings, found: Mean) -> str:
    low = " It is a lower estimate, since k-hat is too large on more than 5 % of the rows." if findings.is_low else ""
    return (
        f"log p(x): {_extrapolated(findings, found.rows)}; {found.draws:,} draws a row. The Monte-Carlo error of the mean "
        f"is {found.mcse:.3f} nats by the delta method, and too small where k-hat is large.{low}"
    )


def evidence_lines(subject: Subject, findings: Findings) -> list[list[str]]:
    """The lines of the table of evidence.

    Args:
        subject: the run.
        findings: its numbers.
    """
    names = {"elbo": "test ELBO", "kl": "test KL", "reconstruction": "test reconstruction"}
    means = {names[name]: mean for name, mean in findings.test.items()}
    if findings.train is not None:
        means["training ELBO"] = findings.train
    means |= {_ESTIMATED[name]: mean for name, mean in findings.evidence.items()}
    kept, found = findings.evaluated, findings.log_marginal
    if kept is not None:
        means[f"log p(x), {kept.file}"] = Mean.of(kept.log_marginal, kept.num_samples, kept.mcse)
        means["ELBO of its rows"] = Mean.of(kept.elbo, kept.num_samples)
    if found is not None and findings.source is not None and found.rows > len(findings.source.elbo):
        low = ", at least" if findings.is_low else ""
        means = {f"log p(x) of all test rows{low}": found, **means}
    lines = [[name, *_cells(mean), subject.variant or "–"] for name, mean in means.items()]
    gap, error = findings.gap
    if not math.isnan(gap):
        lines.append(["training less test ELBO", signed(gap), signed(error), "–", "–", "–", subject.variant or "–"])
    return lines


def _cells(mean: Mean) -> list[str]:
    spread = "–" if math.isnan(mean.low) else f"{signed(mean.low, '.1f')} to {signed(mean.high, '.1f')}"
    return [signed(mean.value), signed(mean.error), spread, f"{mean.rows:,}", f"{mean.draws:,}"]
