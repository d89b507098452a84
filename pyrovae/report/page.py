"""The page of one run, section by section."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from pyrovae import __version__, plots
from pyrovae.plots.style import one_panel
from pyrovae.report.columns import column_table
from pyrovae.report.figures import Picture, history_picture, inline, vae_pictures
from pyrovae.report.findings import Findings, attempt
from pyrovae.report.html import Html, code, element, prose, table
from pyrovae.report.numbers import evidence, key_numbers
from pyrovae.report.snippet import fit_snippet, load_snippet
from pyrovae.report.style import STYLE
from pyrovae.report.subject import Subject
from pyrovae.report.verdicts import Verdict, headline, judge

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_NAMES = frozenset({"bernoulli", "laplace", "poisson", "student", "dirichlet"})
_WORDS = {
    "standard_normal": "standard normal",
    "vamp": "VampPrior",
    "mixture": "Gaussian mixture",
    "full_normal": "full-covariance normal",
}


def document(title: str, header: Html, sections: Iterable[Html]) -> str:
    """A whole page that needs nothing but itself.

    Args:
        title: of the page.
        header: what stands on top.
        sections: what follows.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        Html(f"<style>{STYLE}</style>"),
    )
    foot = element(
        "footer", f"Written by pyrovae {__version__}. This page is one file and asks nothing of the network."
    )
    body = element("body", header, element("main", *sections), foot)
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def run_page(subject: Subject, findings: Findings, seed: int) -> str:
    """The page of one run.

    Args:
        subject: the run.
        findings: its numbers.
        seed: of the draws in the figures.
    """
    verdicts = judge(subject, findings)
    skipped = dict(findings.skipped)
    sections = {
        "verdicts": ("What to make of it", verdict_list(subject, verdicts)),
        "pictures": ("What it looks like", _pictures(subject, findings, seed, skipped)),
        "evidence": ("Evidence", evidence(subject, findings)),
        "making": ("How it was made", [facts(subject)]),
        "python": ("In Python", _python(subject)),
    }
    if skipped:
        sections["skipped"] = ("What could not be done", [_skipped(skipped)])
    header = element(
        "header",
        element("p", "pyrovae report", class_="eyebrow"),
        element("h1", f"{subject.name}: {subject.data_name}"),
        element("p", sentence(subject), class_="lead"),
        notices(subject),
        key_numbers(subject, findings, verdicts),
        _navigation(sections),
    )
    made = [section(name, title, content) for name, (title, content) in sections.items()]
    return document(f"{subject.name}: {subject.data_name} · pyrovae report", header, made)


def section(name: str, title: str, content: Sequence[Html | None]) -> Html:
    """A section with its heading.

    Args:
        name: its anchor.
        title: its heading.
        content: what it holds.
    """
    return element(
        "section", element("h2", title, id=f"{name}-title"), *content, id=name, aria_labelledby=f"{name}-title"
    )


def _navigation(sections: Mapping[str, tuple[str, Any]]) -> Html:
    items = [element("li", element("a", title, href=f"#{name}")) for name, (title, _) in sections.items()]
    return element("nav", element("ul", items), aria_label="Sections")


def sentence(subject: Subject) -> str:
    """What was trained on what, in one sentence.

    Args:
        subject: the run.
    """
    spec, kept = subject.run.spec, subject.kept
    rows = f" on {_count(kept.get('rows'), 'row')}" if kept else ""
    epochs = subject.run.history.get("epoch", ())
    length = f" for {_count(len(epochs), 'epoch')}" if epochs else ""
    if spec is None:
        return f"A composition of one's own ({str(subject.run.config.get('class'))[:100]}), trained{rows}{length}."
    prior, likelihood, posterior = (_plain(spec[name]) for name in ("prior", "likelihood", "posterior"))
    size = "" if subject.num_parameters is None else f" and {subject.num_parameters:,} parameters"
    prior = prior if prior.endswith("Prior") else f"{prior} prior"
    latent = _count(spec["latent_dim"], "latent dimension")
    return (
        f"A VAE with {_with_article(prior)}, {_with_article(f'{likelihood} likelihood')} and "
        f"{_with_article(f'{posterior} posterior')}, {latent}{size}, "
        f"trained{rows}{length}."
    )


def _plain(word: Any) -> str:
    said = _WORDS.get(str(word), str(word).replace("_", " "))
    return " ".join(part.capitalize() if part in _NAMES else part for part in said.split(" "))


def _with_article(words: str) -> str:
    return f"{'an' if words[:1] in 'aeiou' else 'a'} {words}"


def _count(number: Any, what: str) -> str:
    known = isinstance(number, int) and not isinstance(number, bool)
    return f"{number:,} {what}{'' if number == 1 else 's'}" if known else f"an unknown number of {what}s"


def notices(subject: Subject) -> Html | None:
    """What is missing, in words.

    Args:
        subject: the run.
    """
    said = [element("p", words) for words in subject.missing]
    return element("div", said, class_="missing", role="note") if said else None


def verdict_list(subject: Subject, verdicts: list[Verdict]) -> list[Html]:
    """The verdicts as a list, each with what to do next.

    Args:
        subject: the run.
        verdicts: what was found.
    """
    items = [_verdict(subject, verdict) for verdict in verdicts]
    return [element("ul", items, class_="verdicts") if items else element("p", headline(verdicts))]


def _verdict(subject: Subject, verdict: Verdict) -> Html:
    advice = prose(verdict.advice.replace("RUN", str(subject.run.folder).replace("`", "")))
    detail = (
        element("details", element("summary", "In detail"), element("p", verdict.detail)) if verdict.detail else None
    )
    words = element(
        "div", element("p", verdict.claim), element("p", "Next: ", advice, class_="advice") if advice else None, detail
    )
    tone = element("span", f"{verdict.about[0].upper()}{verdict.about[1:]}", class_="tone")
    label = f"{verdict.tone}: {verdict.about}"
    return element("li", tone, words, class_=verdict.tone, aria_label=label)


def _pictures(subject: Subject, findings: Findings, seed: int, skipped: dict[str, str]) -> list[Html]:
    pictures = pictures_of(subject, findings, seed, skipped)
    drawn = [attempt(f"figure {name}", partial(inline, name, p), skipped) for name, p in pictures.items()]
    columns = attempt("columns", lambda: _columns(subject, seed), skipped)
    if columns is None and not any(drawn):
        return [element("p", "There is nothing to draw: neither a history nor a VAE with data was found.")]
    return [element("div", drawn, class_="pictures"), columns or Html("")]


def _columns(subject: Subject, seed: int) -> Html | None:
    if subject.vae is None or subject.data is None:
        return None
    return column_table(subject.vae, subject.data.test, seed)


def pictures_of(subject: Subject, findings: Findings, seed: int, skipped: dict[str, str]) -> dict[str, Picture]:
    """The figures of a run by name, as far as they can be drawn.

    Args:
        subject: the run.
        findings: its numbers.
        seed: of the draws.
        skipped: where it is said why one cannot.
    """
    pictures: dict[str, Picture] = {}
    best = subject.results.get("best_epoch")
    if subject.run.history.get("epoch"):
        pictures["history"] = history_picture(subject.run.history, best if isinstance(best, int) else None)
    if subject.vae is not None and subject.data is not None:
        vae, test = subject.vae, subject.data.test
        pictures |= attempt("figures of the VAE", lambda: vae_pictures(vae, test, seed), skipped) or {}
    if "reconstructions" in pictures:
        pictures["reconstructions"] = _bare(pictures["reconstructions"])
    return {**pictures, **_diagnostic_pictures(findings)}


def _bare(picture: Picture) -> Picture:
    """Without the names of its rows, which the caption says legibly."""

    def draw() -> Any:
        ax = picture.draw()
        ax.set_yticks([])
        return ax

    return picture._replace(draw=draw)


def _diagnostic_pictures(findings: Findings) -> dict[str, Picture]:
    pictures = {}
    if findings.structure is not None:
        found = findings.structure
        kl, variance = (
            np.concatenate([np.ravel(part) for part in parts.values()]) for parts in (found.kl, found.mean_variance)
        )
        words = f"Mean KL of each latent dimension to its prior in nats, over {found.num_data:,} test rows."
        pictures["kl"] = Picture("Use of the latents", lambda: _kl_bars(kl, variance), words, f"Bars. {words}")
    if findings.reliability is not None:
        reliable = findings.reliability
        words = (
            f"Pareto k-hat of {len(reliable.elbo)} test rows in order, from {reliable.num_samples:,} draws each: above the "
            "line importance sampling cannot be trusted."
        )
        pictures["khat"] = Picture(
            "Reliability of log p(x)",
            lambda: plots.plot_khat(reliable.pareto_k, reliable.num_samples),
            words,
            f"Dots. {words}",
        )
    return pictures


def _kl_bars(kl: np.ndarray, variance: np.ndarray) -> Any:
    """The bars in the width of a column, with as many names as fit below them."""
    ax = plots.plot_kl_per_dimension(kl, variance, ax=one_panel(None, 5.0, 3.0))
    step = -(-len(ax.get_xticks()) // 16)
    names = [label.get_text() for label in ax.get_xticklabels()]
    ax.set_xticks(ax.get_xticks()[::step], names[::step])
    return ax


def facts(subject: Subject) -> Html:
    """What was trained on what and how: words, data, settings, versions and the command.

    Args:
        subject: the run.
    """
    config = subject.run.config
    groups = {
        "Data": _data_facts(subject),
        "Model": _present(subject.run.spec or {"class": config.get("class")}),
        "Settings": _present({**subject.settings, "seed": config.get("seed")}),
        "Versions": _present(config["versions"]),
    }
    tables = [
        element("div", element("h3", name), table(["", ""], sorted_facts, name))
        for name, sorted_facts in groups.items()
        if sorted_facts
    ]
    command = config.get("command")
    line = code(" ".join(map(str, command)), "Command") if isinstance(command, list) else None
    return element("div", line, element("div", tables, class_="facts"))


def _data_facts(subject: Subject) -> list[list[str]]:
    kept, data = subject.kept, subject.data
    known: dict[str, Any] = {name: kept.get(name) for name in ("name", "variant")}
    known["training rows"] = kept.get("rows")
    if data is not None:
        known |= {"validation rows": _size(data, "validation"), "test rows": _size(data, "test")}
    else:
        known["test rows"] = subject.results.get("test_rows")
    return _present({**known, **{name: kept.get(name) for name in ("event_shape", "seed", "fingerprint")}})


def _size(data: Any, part: str) -> int | None:
    try:
        return len(getattr(data, part))
    except (ValueError, AttributeError, LookupError):
        return None


def _present(values: Mapping[str, Any]) -> list[list[str]]:
    return [[name.replace("_", " "), _said(value)] for name, value in values.items() if value is not None]


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " × ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _python(subject: Subject) -> list[Html]:
    load, fit = load_snippet(subject), fit_snippet(subject)
    said: list[Html] = []
    if load is not None:
        said += [element("h3", "Load it"), code(load, "Python code that loads the run")]
    if fit is not None:
        said += [
            element("h3", "Build it from its words and train it anew"),
            code(fit, "Python code that trains it anew"),
        ]
    if not said:
        return [
            element(
                "p",
                "The run is a composition of one's own: build it as it was built, then pyrovae.load(folder, into=vae).",
            )
        ]
    return said


def _skipped(skipped: Mapping[str, str]) -> Html:
    return element("ul", [element("li", element("b", name), f": {why}") for name, why in skipped.items()])
