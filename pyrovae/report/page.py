"""The page of one run, and of several compared: what is shown, in plain values; the templates say how."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import torch

from pyrovae.checks import Case, Report, headline, run_checks
from pyrovae.checks.diagnose import with_best_epoch
from pyrovae.checks.findings import GOOD, some_rows, tones_by_subject
from pyrovae.errors import counted
from pyrovae.limits import BAD_SHARE
from pyrovae.presets.options import kinds_in_words
from pyrovae.report.evidence import (
    EVIDENCE_DRAWS,
    Evidence,
    affordable_rows,
    bound_means,
    measure_of,
    number,
    read_evaluated,
    remembered,
)
from pyrovae.report.pictures import Picture, check_pictures, graph_pictures, history_picture, shown, view_pictures
from pyrovae.report.render import attempt, render, signed
from pyrovae.report.snippet import fit_snippet, load_snippet
from pyrovae.report.subject import Subject
from pyrovae.report.views import ROWS, Views, column_tables, views

SIMULATIONS, REPLICATES, BOUND_ROWS, CHECK_ROWS = 400, 300, 1000, 400
_NAMES = frozenset({"bernoulli", "laplace", "poisson", "student", "dirichlet"})
_WORDS = {
    "standard_normal": "standard normal",
    "vamp": "VampPrior",
    "mixture": "Gaussian mixture",
    "full_normal": "full-covariance normal",
}


class RunPage:
    """Everything that a page shows of one run; the evidence is of so many rows, by default as many as the budget allows."""

    def __init__(self, subject: Subject, rows: int | None = None, seed: int = 0, progress: bool | None = False) -> None:
        self.subject, self.rows, self.seed, self.progress = subject, rows, seed, progress
        self.skipped: dict[str, str] = {}
        self.report, self.evidence = self._checked()

    def _checked(self) -> tuple[Report, Evidence]:
        vae, data, seed = self.subject.vae, self.subject.data, self.seed
        history = with_best_epoch(self.subject.run.history, self.subject.results.get("best_epoch"))
        test = remembered(self.subject.results)
        if vae is None or data is None:
            case = Case(None, None, history=history)  # type: ignore[arg-type]
            return run_checks(case, ["training"] if history else []), Evidence(test)
        few = self.rows or attempt("budget", lambda: affordable_rows(vae, data.test, EVIDENCE_DRAWS), self.skipped)
        case = Case(
            vae,
            data.test,
            train=attempt("training rows", lambda: data.train.drawn(seed), self.skipped),
            history=history,
            num_samples=EVIDENCE_DRAWS,
            num_simulations=min(SIMULATIONS, max(100, 8 * (few or 10))),  # as costly as the evidence of few rows
            num_replicates=REPLICATES,
            max_rows=CHECK_ROWS,
            evidence_rows=few or 10,
            seed=seed,
            progress=self.progress,
        )
        report = run_checks(case, errors=Exception)
        self.skipped |= report.skipped
        rows = some_rows(data.test, BOUND_ROWS, seed)
        test = test or attempt("test ELBO", lambda: bound_means(vae, rows, seed), self.skipped) or {}
        kept = attempt("evaluated", lambda: read_evaluated(self.subject.run, data.test), self.skipped)
        own = report.results.get("reliability")
        return report, Evidence(test, None if own is None else own.dataset, kept)

    @property
    def name(self) -> str:
        """What the page calls the run."""
        return self.subject.name

    @property
    def findings(self) -> list[dict[str, str]]:
        """What was found, the most pressing first, each with what to do next."""
        folder = str(self.subject.run.folder).replace("`", "")
        found = self.evidence.judged(self.report.findings())
        return [{**vars(f), "advice": f.advice.replace("RUN", folder)} for f in found]

    @property
    def key(self) -> list[dict[str, str]]:
        """The few numbers for a busy reader."""
        entries, where = [], f"{self.subject.variant or self.subject.data_name}, "
        if "elbo" in self.evidence.test:
            elbo = self.evidence.test["elbo"]
            rows = f"{where}{counted(elbo.rows, 'test row')}"
            entries.append(_entry("Test ELBO", signed(elbo.value), elbo.error, f"nats per datum; {rows}"))
            if (bits := self.bits_per_dim) is not None:
                entries.append(_entry("Bits per dimension", f"{bits:.3f}", math.nan, f"from the test ELBO; {rows}"))
        whole = self.evidence.log_marginal
        if whole is not None:
            note = f"nats per datum; {where}{self.evidence.how()}"
            low = "at least " if self.evidence.is_low else ""
            entries.append(_entry("Held-out log p(x)", signed(whole.value), whole.error, note, low))
        found = self.evidence.judged(self.report.findings())
        if found:
            tones = tones_by_subject(found).values()
            fine = sum(tone == GOOD for tone in tones)
            entries.append(
                _entry("Checks", f"{fine} of {len(tones)} fine", math.nan, headline(found, self.report.skipped))
            )
        return entries

    @property
    def bits_per_dim(self) -> float | None:
        """Minus the test ELBO in bits per entry of a datum; None for a density, for several data sites, or where unknown."""
        results, elbo = self.subject.results, self.evidence.test.get("elbo")
        if "bits_per_dim" in results:
            kept = number(results["bits_per_dim"])
            return None if math.isnan(kept) else kept
        vae, data = self.subject.vae, self.subject.data
        if elbo is None or vae is None or data is None or not isinstance(data.event_shape, torch.Size):
            return None
        if measure_of(vae, data.test) != "mass":
            return None
        return -elbo.value / (math.log(2) * math.prod(data.event_shape))

    @property
    def lines(self) -> list[list[str]]:
        """The table of evidence."""
        lines = []
        for name, mean in self.evidence.lines.items():
            spread = "–" if math.isnan(mean.low) else f"{signed(mean.low, '.1f')} to {signed(mean.high, '.1f')}"
            cells = [signed(mean.value), signed(mean.error), spread, f"{mean.rows:,}", f"{mean.draws:,}"]
            lines.append([name, *cells, self.subject.variant or "–"])
        return lines

    @property
    def numbers(self) -> list[list[str]]:
        """The numbers of the checks, without those that the table of evidence has with their rows and method."""
        rows = []
        for line in self.report.table():
            if line.quantity in ("ELBO", "log p(x)", "KL"):
                continue
            error = "" if math.isnan(line.error) else signed(line.error, ",.2g")
            is_tiny = line.value < 1e-3 and (line.value > 0 or "p-value" in line.quantity)
            rows.append([line.quantity, "< 0.001" if is_tiny else signed(line.value, ",.4g"), error, line.unit])
        return rows

    @property
    def monte_carlo(self) -> str:
        """How log p(x) was found, and how far to trust it."""
        whole = self.evidence.log_marginal
        if whole is None:
            return ""
        words = (
            f"log p(x): {self.evidence.how()}; {whole.draws:,} draws per row. The Monte-Carlo error of the mean is "
            f"{whole.mcse:.3f} nats by the delta method, and too small where k-hat is large."
        )
        if self.evidence.is_low:
            words += f" It is a lower estimate, since k-hat is too large on more than {BAD_SHARE:.0%} of the rows."
        return words

    def figures(self, only: Sequence[str] = (), prefix: str = "") -> list[dict[str, Any]]:
        """The figures of the run whose names begin with one of ``only`` (all without any), their anchors behind a prefix."""
        pictures: dict[str, Picture] = {}
        best = self.subject.results.get("best_epoch")
        if self.subject.run.history.get("epoch"):
            best = best if isinstance(best, int) else None
            pictures["history"] = history_picture(self.subject.run.history, best)
        if self.seen is not None:
            pictures |= view_pictures(self.seen)
            args = self.subject.vae, self.seen.work.data, self.seed
            pictures |= attempt("figures of the graph", lambda: graph_pictures(*args), self.skipped) or {}
        pictures |= check_pictures(self.report)
        wanted = {n: p for n, p in pictures.items() if not only or n.startswith(tuple(only))}
        wanted |= {n: _bare(p) for n, p in wanted.items() if n.startswith("reconstructions")}
        return shown(wanted, self.skipped, prefix)

    @cached_property
    def seen(self) -> Views | None:
        """Some test rows through the program; None where that fails."""
        vae, data = self.subject.vae, self.subject.data
        if vae is None or data is None:
            return None
        return attempt("figures of the program", lambda: views(vae, data.test[:ROWS], self.seed), self.skipped)

    @property
    def columns(self) -> list[dict[str, Any]]:
        """The tables of the columns of the data, for data sites that are a table or counts."""
        return [] if self.seen is None else column_tables(self.seen)

    @property
    def sentence(self) -> str:
        """What was trained on what, in one sentence."""
        spec, kept = self.subject.run.spec, self.subject.kept
        rows = f" on {_count(kept.get('rows'), 'row')}" if kept else ""
        epochs = self.subject.run.history.get("epoch", ())
        length = f" for {_count(len(epochs), 'epoch')}" if epochs else ""
        given = self.subject.covariates
        covariates = f", given {', '.join(given)}" if given else ""
        if spec is None:
            kind = str(self.subject.run.config.get("class"))[:100]
            return f"A composition of one's own ({kind}){covariates}, trained{rows}{length}."
        prior, likelihood, posterior = (_plain(spec[name]) for name in ("prior", "likelihood", "posterior"))
        size = self.subject.num_parameters
        size_words = "" if size is None else f" and {size:,} parameters"
        prior = prior if prior.endswith("Prior") else f"{prior} prior"
        parts = [
            f"{'an' if part[0] in 'aeiou' else 'a'} {part}"
            for part in (prior, f"{likelihood} likelihood", f"{posterior} posterior")
        ]
        return (
            f"A VAE with {parts[0]}, {parts[1]} and {parts[2]}, {_count(spec['latent_dim'], 'latent dimension')}"
            f"{size_words}{covariates}, trained{rows}{length}."
        )

    @property
    def facts(self) -> list[dict[str, Any]]:
        """What was trained on what and how: data, model, settings and versions, each a table."""
        config, kept, data = self.subject.run.config, self.subject.kept, self.subject.data
        known: dict[str, Any] = {name: kept.get(name) for name in ("name", "variant")}
        known["training rows"] = kept.get("rows")
        for part in ("validation", "test"):
            with suppress(ValueError, AttributeError, LookupError):  # there are no data, or not that part of them
                known[f"{part} rows"] = len(getattr(data, part))
        known.setdefault("test rows", self.subject.results.get("test_rows"))
        known["covariates"] = ", ".join(self.subject.covariates) or None
        known |= {name: kept.get(name) for name in ("event_shape", "seed", "fingerprint")}
        groups = {
            "Data": known,
            "Model": self.subject.run.spec or {"class": config.get("class")},
            "Settings": {**_in_force(self.subject.settings), "seed": config.get("seed")},
            "Versions": config["versions"],
        }
        tables = []
        for title, values in groups.items():
            lines = [
                [str(name).replace("_", " "), shown_value(v)] for name, v in values.items() if v not in (None, (), [])
            ]
            if lines:
                tables.append({"title": title, "lines": lines})
        return tables

    @property
    def command(self) -> str:
        """The command that trained the run; empty where it is not known."""
        command = self.subject.run.config.get("command")
        return " ".join(map(str, command)) if isinstance(command, list) else ""

    @property
    def code(self) -> list[dict[str, str]]:
        """The code that brings the run back in Python."""
        parts = {
            "Load it": ("Python code that loads the run", load_snippet(self.subject)),
            "Build it from its spec and train it anew": ("Python code that trains it anew", fit_snippet(self.subject)),
        }
        return [{"title": t, "label": label, "source": source} for t, (label, source) in parts.items() if source]


def run_page(page: RunPage) -> str:
    """The page of one run, as HTML."""
    figures, columns = page.figures(), page.columns
    title = f"{page.name}: {page.subject.data_name}"
    rows = 0 if page.evidence.source is None else page.evidence.source.sizes["data"]
    return render("run.html", page=page, title=title, figures=figures, columns=columns, rows=rows)


def _in_force(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those that others put out of force: the warm-up belongs to a learning rate of one's own."""
    idle = () if settings.get("learning_rate") else ("warm_up",)
    return {name: value for name, value in settings.items() if name not in idle}


def _bare(picture: Picture) -> Picture:
    """Without the names of its rows, which the caption says legibly."""

    def draw() -> Any:
        ax = picture.draw()
        ax.set_yticks([])
        return ax

    return picture._replace(draw=draw)


def _entry(name: str, value: str, error: float, note: str, before: str = "") -> dict[str, str]:
    after = "" if math.isnan(error) else f"± {error:,.2f}"
    return {"name": name, "before": before, "value": value, "after": after, "note": note}


def _plain(word: Any) -> str:
    words = _WORDS.get(str(word), str(word).replace("_", " "))
    return " ".join(part.capitalize() if part in _NAMES else part for part in words.split(" "))


def _count(number: Any, what: str) -> str:
    known = isinstance(number, int) and not isinstance(number, bool)
    return counted(number, what) if known else f"an unknown number of {what}s"


def shown_value(value: Any) -> str:
    """A field of a spec or a setting as the page writes it."""
    if value is None or value in ((), []):
        return "–"
    if words := kinds_in_words(value):
        return words
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " × ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
