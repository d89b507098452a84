"""The page of several runs on the same data, compared row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyrovae.checks.findings import some_rows
from pyrovae.comparison import compare
from pyrovae.errors import counted
from pyrovae.report.evidence import EVIDENCE_DRAWS, affordable_rows
from pyrovae.report.page import RunPage, shown_value
from pyrovae.report.pictures import Picture, shown
from pyrovae.report.render import attempt, render, signed
from pyrovae.uses import agreement

if TYPE_CHECKING:
    from pyrovae.comparison import Comparison
    from pyrovae.report.subject import Subject
    from pyrovae.uses import Agreement

AGREED_ROWS = 1000
"""Test rows on which the latents of refits are compared."""
COLUMNS = ("elpd", "se", "elpd_diff", "dse", "weight", "elbo", "gap", "mcse")


def comparison_page(pages: Sequence[RunPage], rows: int | None, seed: int) -> str:
    """The page of several runs, as HTML; the paired evidence is of so many rows, by default as many as the budget allows."""
    skipped: dict[str, str] = {}
    subjects = [page.subject for page in pages]
    result = attempt("paired comparison", lambda: compared(subjects, rows, seed, pages[0].progress), skipped)
    differences = _differences(subjects)
    agreed = None
    if result is not None and {line[0] for line in differences} <= {"seed"}:  # refits of one spec on the same data
        agreed = attempt("agreement of the latents", lambda: _agreement(subjects, rows, seed), skipped)
    each = [(page, page.figures(("history", "samples", "reconstructions"), f"run{i}-")) for i, page in enumerate(pages)]
    return render(
        "comparison.html",
        title=f"{len(pages)} runs: {subjects[0].data_name}",
        pages=each,
        rows=0 if result is None else len(next(iter(result.pointwise.values())).log_p),
        differences=differences,
        agreed=None if agreed is None else agreed.findings(),
        paired=None if result is None else _paired(result, subjects[0], skipped),
        skipped=skipped,
        reached=[_reached(page) for page in pages],
    )


def compared(subjects: Sequence[Subject], rows: int | None, seed: int, progress: bool | None = False) -> Comparison:
    """The runs compared row by row on the same test rows.

    Raises:
        ValueError: a VAE or the data are not at hand.
    """
    data = next((subject.data for subject in subjects if subject.data is not None), None)
    models = {subject.name: subject.vae for subject in subjects if subject.vae is not None}
    if data is None or len(models) < len(subjects):
        raise ValueError("it needs the data and the VAE of every run")
    rows = rows or min(affordable_rows(vae, data.test, EVIDENCE_DRAWS) for vae in models.values())
    test = some_rows(data.test, rows, seed)
    options: dict[str, Any] = {
        "method": "importance",
        "num_samples": EVIDENCE_DRAWS,
        "seed": seed,
        "progress": progress,
    }
    return compare(models, test, **options)  # by the estimator of the page of each run


def _agreement(subjects: Sequence[Subject], rows: int | None, seed: int) -> Agreement:
    """Which latents of the first run are found again in the others, on the same test rows."""
    data = next(subject.data for subject in subjects if subject.data is not None)
    return agreement([subject.vae for subject in subjects], some_rows(data.test, rows or AGREED_ROWS, seed), seed=seed)


def _differences(subjects: Sequence[Subject]) -> list[list[str]]:
    """What the runs were made with, where that differs: the name of a field, and its value in each run."""
    kept = [
        {**subject.settings, "seed": subject.run.config.get("seed"), **(subject.run.spec or {})} for subject in subjects
    ]
    names = dict.fromkeys(name for fields in kept for name in fields)
    lines = [[name.replace("_", " "), *(shown_value(fields.get(name)) for fields in kept)] for name in names]
    return [line for line in lines if len(set(line[1:])) > 1]


def _paired(result: Comparison, subject: Subject, skipped: dict[str, str]) -> dict[str, Any]:
    frame = result.per_datum()
    order = ", ".join(f"{name} {value:.2f}" for name, value in frame["elpd"].items())
    picture = Picture(
        "Held-out log evidence",
        result.plot,
        "Less that of the best run in nats per datum, with the standard errors of the paired differences; ELBO is each bound.",
        f"Dots with error bars of the held-out log evidence: {order} nats per datum.",
    )
    how = (
        f"Nats per datum, {subject.variant or subject.data_name}: importance sampling with each guide on the same "
        f"{counted(frame['num_data'].iloc[0], 'test row')} chosen at random, {EVIDENCE_DRAWS:,} draws each. The difference to "
        "the best is paired row by row, and its error is the one to judge by."
    )
    form = {"mcse": ",.3f"}
    return {
        "lead": result.lead(),
        "how": how,
        "lines": [[n, *(signed(row[c], form.get(c, ",.2f")) for c in COLUMNS)] for n, row in frame.iterrows()],
        "notes": result.notes,
        "figures": shown({"elpd": picture}, skipped),
    }


def _reached(page: RunPage) -> list[str]:
    """The results of a run: a line of the table, after the run's name."""
    subject, test, bits = page.subject, page.evidence.test, page.bits_per_dim
    size, epochs = subject.num_parameters, len(subject.run.history.get("epoch", ()))
    rest = [str(epochs), "–" if size is None else f"{size:,}", subject.variant or "–"]
    if "elbo" not in test:
        return ["–"] * 6 + rest
    means = [test["elbo"].value, test["elbo"].error, test["kl"].value, test["reconstruction"].value]
    return [*map(signed, means), "–" if bits is None else f"{bits:.3f}", f"{test['elbo'].rows:,}", *rest]
