"""The page of one run, and of several compared: what is shown, in plain values; the templates say how."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any

from pyrovae import __version__
from pyrovae.checks import Case, Report, headline, run_checks
from pyrovae.checks.diagnose import with_best_epoch
from pyrovae.checks.findings import some_rows
from pyrovae.comparison import compare
from pyrovae.report.evidence import (
    EVIDENCE_DRAWS,
    Evidence,
    Mean,
    affordable_rows,
    bound_means,
    measure_of,
    number,
    read_evaluated,
    remembered,
)
from pyrovae.report.pictures import (
    ROWS,
    Picture,
    Views,
    check_pictures,
    columns_of,
    history_picture,
    inline,
    view_pictures,
    views,
)
from pyrovae.report.snippet import fit_snippet, load_snippet
from pyrovae.report.subject import Subject

if TYPE_CHECKING:
    from jinja2 import Environment

    from pyrovae.comparison import Comparison

SIMULATIONS, REPLICATES, BOUND_ROWS, CHECK_ROWS = 400, 300, 1000, 400
COMPARED = ("elpd", "se", "elpd_diff", "dse", "weight", "elbo", "gap", "mcse")
_NAMES = frozenset({"bernoulli", "laplace", "poisson", "student", "dirichlet"})
_WORDS = {
    "standard_normal": "standard normal",
    "vamp": "VampPrior",
    "mixture": "Gaussian mixture",
    "full_normal": "full-covariance normal",
}


def attempt(name: str, task: Callable[[], Any], skipped: dict[str, str]) -> Any:
    """Do a part of the page; where it fails, remember why and go on without it.

    Args:
        name: of the part.
        task: what to do.
        skipped: where the reason goes.

    >>> why = {}
    >>> attempt("part", lambda: 1 / 0, why), why
    (None, {'part': 'division by zero'})
    """
    try:
        return task()
    except Exception as error:  # whatever a part runs into, the rest of the page is still worth having
        skipped[name] = (str(error) or type(error).__name__).split("\nTrace Shapes")[0][:500]
        return None


class RunPage:
    """Everything that a page shows of one run.

    Args:
        subject: the run.
        rows: of the evidence; by default as many as the budget allows.
        seed: of rows and draws.
    """

    def __init__(self, subject: Subject, rows: int | None = None, seed: int = 0) -> None:
        self.subject, self.rows, self.seed = subject, rows, seed
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
            num_simulations=SIMULATIONS,
            num_replicates=REPLICATES,
            max_rows=CHECK_ROWS,
            evidence_rows=few or 10,
            seed=seed,
            progress=False,
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
            rows = f"{where}{elbo.rows:,} test rows"
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
            worst: dict[str, str] = {}
            for finding in found:
                worst.setdefault(finding.about, finding.tone)
            fine = sum(tone == "good" for tone in worst.values())
            entries.append(_entry("Checks", f"{fine} of {len(worst)} fine", math.nan, headline(found)))
        return entries

    @property
    def bits_per_dim(self) -> float | None:
        """Minus the test ELBO in bits per entry of a datum; None where that is not known, or for a density."""
        results, elbo = self.subject.results, self.evidence.test.get("elbo")
        if "bits_per_dim" in results:
            kept = number(results["bits_per_dim"])
            return None if math.isnan(kept) else kept
        vae, data = self.subject.vae, self.subject.data
        if elbo is None or vae is None or data is None or measure_of(vae, data.test) != "mass":
            return None
        return -elbo.value / (math.log(2) * math.prod(data.event_shape))

    @property
    def lines(self) -> list[list[str]]:
        """The table of evidence."""
        variant = self.subject.variant or "–"
        return [[name, *_cells(mean), variant] for name, mean in self.evidence.lines.items()]

    @property
    def numbers(self) -> list[list[str]]:
        """What the checks measured."""
        rows = []
        for line in self.report.table():
            error = "" if math.isnan(line.error) else signed(line.error, ",.2g")
            value = "< 0.001" if 0 < line.value < 1e-3 else signed(line.value, ",.4g")
            rows.append([line.quantity, value, error, line.unit])
        return rows

    @property
    def monte_carlo(self) -> str:
        """How log p(x) was found, and how far to trust it."""
        whole = self.evidence.log_marginal
        if whole is None:
            return ""
        low = (
            " It is a lower estimate, since k-hat is too large on more than 5 % of the rows."
            if self.evidence.is_low
            else ""
        )
        return (
            f"log p(x): {self.evidence.how()}; {whole.draws:,} draws per row. The Monte-Carlo error of the mean is "
            f"{whole.mcse:.3f} nats by the delta method, and too small where k-hat is large.{low}"
        )

    def figures(self, only: Sequence[str] = (), prefix: str = "") -> list[dict[str, Any]]:
        """The figures of the run, drawn inside the page.

        Args:
            only: the beginnings of the names of those that are wanted; all without any.
            prefix: of their anchors.
        """
        pictures: dict[str, Picture] = {}
        best = self.subject.results.get("best_epoch")
        if self.subject.run.history.get("epoch"):
            best = best if isinstance(best, int) else None
            pictures["history"] = history_picture(self.subject.run.history, best)
        if self.seen is not None:
            pictures |= view_pictures(self.seen)
        pictures |= check_pictures(self.report)
        wanted = {n: p for n, p in pictures.items() if not only or n.startswith(tuple(only))}
        wanted |= {n: _bare(p) for n, p in wanted.items() if n.startswith("reconstructions")}
        found = []
        for name, picture in wanted.items():
            anchor = re.sub(r"[^\w-]", "-", prefix + name)
            svg = attempt(f"figure {name}", partial(inline, anchor, picture), self.skipped)
            if svg is not None:
                found.append({"id": anchor, "svg": svg, "title": picture.title, "caption": picture.caption})
        return found

    @cached_property
    def seen(self) -> Views | None:
        """Some test rows through the program; None where that fails."""
        vae, data = self.subject.vae, self.subject.data
        if vae is None or data is None:
            return None
        return attempt("figures of the program", lambda: views(vae, data.test[:ROWS], self.seed), self.skipped)

    @property
    def columns(self) -> list[dict[str, Any]]:
        """For each data site that is a table or counts: its columns, and a note."""
        if self.seen is None:
            return []
        found = []
        for name, view in self.seen.data.items():
            if view.kind not in ("table", "counts"):
                continue
            known = self.subject.data.columns  # type: ignore[union-attr]
            lines = columns_of(view, known if len(self.seen.data) == 1 else None)
            total = view.rows[0].numel()
            more = f" The first {len(lines)} of {total} columns." if total > len(lines) else ""
            heads = ["column", "test rows, mean (sd)", "prior samples, mean (sd)", "correlation with reconstruction"]
            heads += ["zeros", "zeros of samples"] if view.kind == "counts" else []
            note = f"{len(view.rows):,} test rows beside as many draws of the model, and beside their own reconstructions.{more}"
            title = "Columns" if len(self.seen.data) == 1 else f"Columns of {name}"
            found.append({"title": title, "note": note, "heads": heads, "lines": lines})
        return found

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
        return (
            f"A VAE with {_with_article(prior)}, {_with_article(f'{likelihood} likelihood')} and "
            f"{_with_article(f'{posterior} posterior')}, {_count(spec['latent_dim'], 'latent dimension')}{size_words}"
            f"{covariates}, trained{rows}{length}."
        )

    @property
    def facts(self) -> list[dict[str, Any]]:
        """What was trained on what and how: data, model, settings and versions, each a table."""
        config, kept, data = self.subject.run.config, self.subject.kept, self.subject.data
        known: dict[str, Any] = {name: kept.get(name) for name in ("name", "variant")}
        known["training rows"] = kept.get("rows")
        for part in ("validation", "test"):
            known[f"{part} rows"] = _size(data, part)
        known["test rows"] = known["test rows"] or self.subject.results.get("test_rows")
        known["covariates"] = ", ".join(self.subject.covariates) or None
        known |= {name: kept.get(name) for name in ("event_shape", "seed", "fingerprint")}
        groups = {
            "Data": known,
            "Model": self.subject.run.spec or {"class": config.get("class")},
            "Settings": {**self.subject.settings, "seed": config.get("seed")},
            "Versions": config["versions"],
        }
        tables = [{"title": title, "lines": _present(values)} for title, values in groups.items()]
        return [table for table in tables if table["lines"]]

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
    return (
        _environment()
        .get_template("run.html")
        .render(page=page, title=title, figures=figures, columns=columns, version=__version__)
    )


def comparison_page(pages: Sequence[RunPage], rows: int | None, seed: int) -> str:
    """The page of several runs on the same data, as HTML.

    Args:
        pages: the runs.
        rows: of the paired evidence; by default as many as the budget allows.
        seed: of rows and draws.
    """
    skipped: dict[str, str] = {}
    subjects = [page.subject for page in pages]
    result = attempt("paired comparison", lambda: compared(subjects, rows, seed), skipped)
    paired = None if result is None else _paired(result, subjects[0], skipped)
    each = [(page, page.figures(("history", "samples", "reconstructions"), f"run{i}-")) for i, page in enumerate(pages)]
    title = f"{len(pages)} runs: {subjects[0].data_name}"
    return (
        _environment()
        .get_template("comparison.html")
        .render(
            title=title,
            pages=each,
            paired=paired,
            skipped=skipped,
            reached=[_reached(page) for page in pages],
            version=__version__,
        )
    )


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
    return compare(models, test, num_samples=EVIDENCE_DRAWS, seed=seed, progress=False)


def _paired(result: Comparison, subject: Subject, skipped: dict[str, str]) -> dict[str, Any]:
    frame = result.per_datum()
    order = ", ".join(f"{name} {value:.1f}" for name, value in result.frame["elpd"].items())
    picture = Picture(
        "Held-out log evidence",
        result.plot,
        "Sums over the rows in nats, the best on top, with the paired differences.",
        f"Dots with error bars of the held-out log evidence: {order} nats.",
    )
    svg = attempt("figure", lambda: inline("elpd", picture), skipped)
    how = (
        f"Nats per datum, {subject.variant or subject.data_name}: importance sampling with each guide on the same "
        f"{frame['num_data'].iloc[0]:,} test rows chosen at random, {EVIDENCE_DRAWS:,} draws each. The difference to the "
        "best is paired row by row, and its error is the one to judge by."
    )
    form = {"mcse": ",.3f"}
    return {
        "lead": result.lead(),
        "how": how,
        "lines": [[n, *(signed(row[c], form.get(c, ",.2f")) for c in COMPARED)] for n, row in frame.iterrows()],
        "notes": result.notes,
        "figures": []
        if svg is None
        else [{"id": "elpd", "svg": svg, "title": picture.title, "caption": picture.caption}],
    }


def _reached(page: RunPage) -> list[str]:
    """What a run says that it reached: a line of the table, after its name."""
    subject, test, bits = page.subject, page.evidence.test, page.bits_per_dim
    size, epochs = subject.num_parameters, len(subject.run.history.get("epoch", ()))
    rest = [str(epochs), "–" if size is None else f"{size:,}", subject.variant or "–"]
    if "elbo" not in test:
        return ["–"] * 6 + rest
    means = [test["elbo"].value, test["elbo"].error, test["kl"].value, test["reconstruction"].value]
    return [*map(signed, means), "–" if bits is None else f"{bits:.3f}", f"{test['elbo'].rows:,}", *rest]


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("pyrovae.report", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["code"] = lambda words: list(enumerate(str(words).split("`")))
    return environment


def signed(value: float, form: str = ",.2f") -> str:
    """A number with a true minus sign; a dash where there is none.

    Args:
        value: the number.
        form: how to write it.

    >>> signed(-1.5), signed(float("nan"))
    ('−1.50', '–')
    """
    return "–" if value is None or math.isnan(value) else format(value, form).replace("-", "−")


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


def _cells(mean: Mean) -> list[str]:
    spread = "–" if math.isnan(mean.low) else f"{signed(mean.low, '.1f')} to {signed(mean.high, '.1f')}"
    return [signed(mean.value), signed(mean.error), spread, f"{mean.rows:,}", f"{mean.draws:,}"]


def _plain(word: Any) -> str:
    words = _WORDS.get(str(word), str(word).replace("_", " "))
    return " ".join(part.capitalize() if part in _NAMES else part for part in words.split(" "))


def _with_article(words: str) -> str:
    return f"{'an' if words[:1] in 'aeiou' else 'a'} {words}"


def _count(number: Any, what: str) -> str:
    known = isinstance(number, int) and not isinstance(number, bool)
    return f"{number:,} {what}{'' if number == 1 else 's'}" if known else f"an unknown number of {what}s"


def _size(data: Any, part: str) -> int | None:
    try:
        return len(getattr(data, part))
    except (ValueError, AttributeError, LookupError):
        return None


def _present(values: Mapping[str, Any]) -> list[list[str]]:
    return [[str(name).replace("_", " "), _shown(value)] for name, value in values.items() if value is not None]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " × ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
