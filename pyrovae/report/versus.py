"""The page that compares runs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pyrovae.comparison import compare
from pyrovae.report.budget import affordable_rows, some_rows
from pyrovae.report.figures import Picture, inline
from pyrovae.report.findings import EVIDENCE_DRAWS, Findings, attempt
from pyrovae.report.html import Html, element, table
from pyrovae.report.numbers import bits_per_dim, key_numbers, signed
from pyrovae.report.page import (
    document,
    facts,
    notices,
    pictures_of,
    section,
    sentence,
    verdict_list,
)
from pyrovae.report.subject import Subject
from pyrovae.report.verdicts import judge

if TYPE_CHECKING:
    from pyrovae.comparison import Comparison

_COLUMNS = ("elpd", "se", "elpd_diff", "dse", "weight", "elbo", "gap", "mcse")
_SHOWN = ("history", "samples", "reconstructions")
"""Figures of each run."""


def comparison_page(subjects: Sequence[Subject], findings: Sequence[Findings], rows: int | None, seed: int) -> str:
    """The page of several runs on the same data.

    Args:
        subjects: the runs.
        findings: the numbers of each.
        rows: of the paired evidence; by default as many as the budget allows.
        seed: of rows and draws.
    """
    skipped: dict[str, str] = {}
    result = attempt("paired comparison", lambda: compared(subjects, rows, seed), skipped)
    title = f"{len(subjects)} runs: {subjects[0].data_name}"
    header = element(
        "header",
        element("p", "pyrovae report", class_="eyebrow"),
        element("h1", title),
        element("p", lead(result), class_="lead") if result is not None else None,
        [notices(subject) for subject in subjects],
    )
    first = section("comparison", "By held-out evidence", _paired(subjects[0], result, skipped, seed))
    second = section("remembered", "What each run reached", [_remembered(subjects, findings)])
    each = [_summary(number, *pair, seed) for number, pair in enumerate(zip(subjects, findings, strict=True))]
    return document(f"{title} · pyrovae report", header, [first, second, *each])


def compared(subjects: Sequence[Subject], rows: int | None, seed: int) -> Comparison:
    """The runs compared row by row on the same test rows.

    Args:
        subjects: the runs.
        rows: how many; by default as many as the budget allows.
        seed: of rows and draws.

    Raises:
        ValueError: a VAE or the data are not at hand.
    """
    data = next((subject.data for subject in subjects if subject.data is not None), None)
    models = {subject.name: subject.vae for subject in subjects if subject.vae is not None}
    if data is None or len(models) < len(subjects):
        raise ValueError("it needs the data and the VAE of every run")
    rows = rows or min(affordable_rows(vae, data.test, EVIDENCE_DRAWS) for vae in models.values())
    test = some_rows(data.test, rows, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the notes below the table say the same
        return compare(models, test, num_samples=EVIDENCE_DRAWS, seed=seed, progress=False)


def lead(result: Comparison) -> str:
    """Which run is ahead and by how much, in one sentence.

    Args:
        result: the comparison.
    """
    frame = result.per_datum()
    best, second = frame.index[:2]
    difference, error = -frame["elpd_diff"].iloc[1], frame["dse"].iloc[1]
    if difference < 2 * error:
        return (
            f"{best} and {second} are not told apart: {difference:.2f} ± {error:.2f} nats per datum, paired over "
            f"{frame['num_data'].iloc[0]:,} test rows."
        )
    return (
        f"{best} is ahead of {second} by {difference:.2f} ± {error:.2f} nats per datum, paired over "
        f"{frame['num_data'].iloc[0]:,} test rows."
    )


def _paired(subject: Subject, result: Comparison | None, skipped: dict[str, str], seed: int) -> list[Html]:
    if result is None:
        return [element("p", f"Not done: {why}", class_="missing") for why in skipped.values()]
    frame = result.per_datum()
    heads = ["", "log p(x)", "± over rows", "difference", "± paired", "stacking weight", "ELBO", "gap", "mcse"]
    lines = [
        [name, *(signed(row[c], ",.3f" if c == "mcse" else ",.2f") for c in _COLUMNS)] for name, row in frame.iterrows()
    ]
    drawn = attempt("figure", lambda: inline("elpd", _elpd(result)), skipped)
    how = (
        f"Nats per datum, {subject.variant or subject.data_name}: importance sampling with each guide on the same "
        f"{frame['num_data'].iloc[0]:,} test rows chosen at random, {EVIDENCE_DRAWS:,} draws each. The difference to the "
        "best is paired row by row, and its error is the one to judge by."
    )
    notes = [element("li", note) for note in result.notes]
    return [
        element("p", how, class_="note"),
        element("div", table(heads, lines, "Runs by held-out log evidence"), class_="numbers"),
        element("h3", "Before believing the order") if notes else Html(""),
        element("ul", notes) if notes else Html(""),
        drawn or Html(""),
    ]


def _elpd(result: Comparison) -> Picture:
    order = ", ".join(f"{name} {value:.1f}" for name, value in result.frame["elpd"].items())
    return Picture(
        "Held-out log evidence",
        result.plot,
        "Sums over the rows in nats, the best on top, with the paired differences.",
        f"Dots with error bars of the held-out log evidence: {order} nats.",
    )


def _remembered(subjects: Sequence[Subject], findings: Sequence[Findings]) -> Html:
    heads = [
        "",
        "test ELBO",
        "± over rows",
        "KL",
        "reconstruction",
        "bits/dim",
        "test rows",
        "epochs",
        "parameters",
        "variant",
    ]
    pairs = zip(subjects, findings, strict=True)
    lines = [_line(number, subject, found) for number, (subject, found) in enumerate(pairs)]
    return element("div", table(heads, lines, "Results of each run in nats per datum"), class_="numbers")


def _line(number: int, subject: Subject, found: Findings) -> list[Any]:
    link = element("a", subject.name, href=f"#run{number}")
    size, epochs = subject.num_parameters, len(subject.run.history.get("epoch", ()))
    count = "–" if size is None else f"{size:,}"
    if "elbo" not in found.test:
        return [link, *"–" * 6, str(epochs), count, subject.variant or "–"]
    elbo, kl, reconstruction = (found.test[name] for name in ("elbo", "kl", "reconstruction"))
    bits = bits_per_dim(subject, elbo)
    means = [signed(elbo.value), signed(elbo.error), signed(kl.value), signed(reconstruction.value)]
    return [
        link,
        *means,
        "–" if bits is None else signed(bits, ".3f"),
        f"{elbo.rows:,}",
        str(epochs),
        count,
        subject.variant or "–",
    ]


def _summary(number: int, subject: Subject, found: Findings, seed: int) -> Html:
    skipped: dict[str, str] = {}
    verdicts = judge(subject, found)
    pictures = pictures_of(subject, Findings(), seed, skipped)
    drawn = [
        attempt(name, partial(inline, f"run{number}-{name}", pictures[name]), skipped)
        for name in _SHOWN
        if name in pictures
    ]
    content = [
        element("p", sentence(subject)),
        key_numbers(subject, found, verdicts),
        element("div", drawn, class_="pictures"),
        element("details", element("summary", "The checks in words"), *verdict_list(subject, verdicts)),
        element("details", element("summary", "How it was made"), facts(subject)),
    ]
    return section(f"run{number}", subject.name, content)
