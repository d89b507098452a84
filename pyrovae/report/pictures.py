"""The figures of a run: what its program draws, gives back and encodes, whatever its graph; as files, and inside a page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyrovae import plots
from pyrovae.checks import Report
from pyrovae.data import Data
from pyrovae.errors import counted
from pyrovae.evaluation import impute
from pyrovae.graphs import MissingnessModel, SemiSupervisedVAE
from pyrovae.plots.style import BLUE, finding, ink, one_panel
from pyrovae.report.render import attempt
from pyrovae.report.views import ROWS, View, Views, column_names, views
from pyrovae.uses import tipping_points

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure
    from torch import Tensor

IMAGES, SAMPLES, COLUMNS, TIPPING_ROWS, LABEL_DRAWS = 10, 64, 6, 500, 400
_INK = "#010203"
"""A color that no figure has, to be found again in its text."""
_LOOK = {
    "font.size": 11.0,
    "font.sans-serif": ["DejaVu Sans"],
    "svg.fonttype": "none",
    "svg.hashsalt": "pyrovae",
    "image.interpolation": "none",
    **{key: (_INK if ink == plots.DARK["text.color"] else "none") for key, ink in plots.DARK.items()},
}
_SCALE = 1.22
"""Pixels of the page for a point of a drawing, at most: letters of 13 pixels."""


class Picture(NamedTuple):
    """A figure to be drawn.

    Attributes:
        title: its heading.
        draw: draws it, and returns axes.
        caption: what it shows.
        alt: the same for readers who cannot see it.
        table: the heads and the lines of a table below it, if there is one.
    """

    title: str
    draw: Callable[[], Any]
    caption: str
    alt: str
    table: tuple[list[str], list[list[str]]] | None = None


def draw_figures(
    program: Any, data: Data, history: Mapping[str, Any], best_epoch: int | None, seed: int
) -> dict[str, Figure]:
    """The figures of a trained program on held-out rows, by name; each says above it what it shows."""
    pictures = {"history": history_picture(history, best_epoch), **view_pictures(views(program, data[:ROWS], seed))}
    drawn = {}
    for name, picture in pictures.items():
        first = np.ravel(picture.draw())[0]
        if not first.get_title(loc="left"):
            finding(first, picture.caption)
        drawn[name] = first.figure
    return drawn


def history_picture(history: Mapping[str, Any], best_epoch: int | None = None) -> Picture:
    """The curves of training, and the epoch whose weights were kept."""
    ends = []
    for name, words in (("elbo", "training ELBO"), ("validation_elbo", "validation ELBO")):
        known = [value for value in history.get(name, ()) if value is not None]
        if known:
            ends.append(f"the {words} goes from {known[0]:.1f} to {known[-1]:.1f} nats")
    levels = {name[3:]: history[name][-1] for name in history if name.startswith("kl/")}
    parts = [f"{name} {value:.2f}" for name, value in levels.items() if value is not None]
    return Picture(
        "Training curves",
        lambda: plots.plot_history(history, best_epoch=best_epoch),
        "ELBO and its two terms by epoch in nats per datum at beta 1, and beta where it changes."
        + (f" KL of each latent at the end: {', '.join(parts)} nats." if parts else ""),
        f"Lines of the ELBO, reconstruction and KL over {len(history['epoch'])} epochs; {', '.join(ends)}.",
    )


def view_pictures(seen: Views) -> dict[str, Picture]:
    """What the program draws, gives back and encodes, by name."""
    pictures: dict[str, Picture] = {}
    several = len(seen.data) > 1
    for name, view in seen.data.items():
        made = {"image": _of_images, "sequence": _of_sequences}.get(view.kind, _of_columns)(seen, view)
        for key, picture in made.items():
            titled = picture._replace(title=f"{picture.title} of {name}") if several else picture
            pictures[f"{key}-{name}" if several else key] = titled
    for name, means in list(seen.latents.items())[:3]:
        pictures[f"latent-{name}" if len(seen.latents) > 1 else "latent"] = _of_latent(seen, name, means)
    return pictures


def _of_images(seen: Views, view: View) -> dict[str, Picture]:
    rows = min(IMAGES, len(view.rows))
    top = float(view.rows[:1000].nan_to_num().max())
    count = min(SAMPLES, len(view.means))
    pictures = {
        "reconstructions": Picture(
            "Reconstructions",
            lambda: plots.plot_reconstructions(view.rows[:rows], view.again[:rows], vmin=0, vmax=top),
            f"The first {counted(rows, 'test row')} above what the model makes of their posterior means.",
            f"Two rows of {rows} images: test rows, and their reconstructions below them.",
        ),
        "samples": Picture(
            "Prior samples",
            lambda: plots.plot_samples(view.means[:count], vmin=0, vmax=top),
            f"Means of the likelihood at {count} draws of the prior{_given(seen)}.",
            f"A grid of {count} images that the model draws from its prior.",
        ),
    }
    sizes = {name: means.shape[1] for name, means in seen.latents.items()}
    if list(sizes.values()) == [2] and len(seen.data) == 1:
        pictures["manifold"] = Picture(
            "Manifold",
            lambda: plots.plot_manifold(seen.decoded_grid(), vmin=0, vmax=top),
            f"Means of the likelihood on a grid of the two latent dimensions{_given(seen, 'the first row')}.",
            "A grid of decoded images over the two latent dimensions.",
        )
    return pictures


def _given(seen: Views, of: str = "the first rows") -> str:
    names = ", ".join(seen.work.data.covariates or ())
    return f", given the covariates ({names}) of {of}" if names else ""


def _of_sequences(seen: Views, view: View) -> dict[str, Picture]:
    """The mean over rows at each step, of the data and of the model, with the standard deviations between rows."""

    def draw() -> Any:
        ax = one_panel(None, 5.2, 3.0)
        for label, values, color in (
            ("test rows", view.rows, plots.SERIES[0]),
            ("prior samples", view.draws, plots.SERIES[1]),
        ):
            array = values.double().flatten(2).mean(2).numpy() if values.ndim > 2 else values.double().numpy()
            mean, sd, at = np.nanmean(array, 0), np.nanstd(array, 0), np.arange(array.shape[1])
            ax.plot(at, mean, color=color, label=label)
            ax.fill_between(at, mean - sd, mean + sd, color=color, alpha=0.2, linewidth=0)
        ax.set(xlabel="step", ylabel="mean of the entries")
        ax.legend(frameon=False)
        return ax

    words = f"Mean and standard deviation of rows at each step: {counted(len(view.rows), 'test row')} beside draws of the model."
    return {"sequences": Picture("Sequences", draw, words, f"Two lines with bands. {words}")}


def _of_columns(seen: Views, view: View) -> dict[str, Picture]:
    """The columns of a table or of counts, in their units, beside draws of the model."""
    names, sides = column_names(seen, view), [part.reshape(len(part), -1) for part in (view.rows, view.draws)]
    known = [n for n in range(len(names)) if all(bool(side[:, n].isfinite().any()) for side in sides)][:COLUMNS]
    if not known:
        return {}
    rows, draws = ({names[n]: side[:, n] for n in known} for side in sides)
    words = f"{counted(len(view.rows), 'test row')} beside draws of the model, each column in its units."
    return {
        "columns": Picture(
            "Columns of the data",
            lambda: plots.plot_columns(rows, draws, levels=seen.work.data.levels, label="prior samples"),
            words,
            f"Histograms. {words}",
        )
    }


def _of_latent(seen: Views, name: str, means: Tensor) -> Picture:
    size = means.shape[1]
    title = "Latent space" if len(seen.latents) == 1 else f"Latent space of {name}"
    if size < 2:
        words = f"Posterior means of {counted(len(means), 'test row')} beside draws of the prior."
        return Picture(
            title,
            lambda: plots.plot_latent_density(means, seen.prior[name], names=[name]),
            words,
            f"Histogram. {words}",
        )
    where = "" if size == 2 else f" on a map that keeps neighbors in {size} dimensions together"
    colored = "" if seen.label is None else ", colored by label"
    words = f"Posterior means of {counted(len(means), 'test row')}{where}{colored}, with the posterior's standard deviation."
    sd = seen.sd[name] if bool(seen.sd[name].isfinite().all()) else None
    of = seen.work.data.label_name
    return Picture(
        title, lambda: plots.plot_latent(means, seen.label, sd=sd, title=of), words, f"Scatter plot. {words}"
    )


def graph_pictures(graph: Any, data: Data, seed: int) -> dict[str, Picture]:
    """What the page of one graph has beside those of all programs: labels, and a mechanism that is assumed."""
    if isinstance(graph, MissingnessModel):
        return {"tipping": _of_mechanism(graph, data, seed)}
    if isinstance(graph, SemiSupervisedVAE) and not data.dense().x["y"].isnan().all():
        return {"labels": _of_labels(graph, data, seed)}
    return {}


def _of_mechanism(graph: MissingnessModel, data: Data, seed: int) -> Picture:
    sign = getattr(graph.mechanism, "sign", None)
    assumed = f"{type(graph.mechanism).__name__}, its sign {'open' if sign is None else 'given'}"
    words = (
        f"Data do not tell why entries are missing: the mechanism ({assumed}) is an assumption. Shift of each column's mean if, "
        "beyond it, high values (b > 0) or low ones (b < 0) are missing more often; the table has the means."
    )
    options: dict[str, Any] = {"num_samples": 500, "num_proposals": 2000, "seed": seed, "progress": False}
    imputed = impute(graph, data[:TIPPING_ROWS], **options)
    found = tipping_points(imputed.sites()[graph.site] if isinstance(imputed.draws, dict) else imputed)
    means = found.to_frame()
    lines = [[str(name), *(f"{mean:.3g}" for mean in column)] for name, column in means.items()]
    table = ["", *(f"b = {b:+g}" if b else "as assumed" for b in means.index)], lines
    return Picture("What another mechanism would change", found.plot, words, f"A line for each column. {words}", table)


def _of_labels(graph: SemiSupervisedVAE, data: Data, seed: int) -> Picture:
    """How often what q(y | x) claims of recorded labels is right: the likeliest category, or the intervals of a number."""
    import torch

    y = data.dense().x["y"]
    known = ~y.isnan().reshape(len(y), -1).any(1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        drawn = graph.predict(data, num_samples=LABEL_DRAWS)[:, known]
    if not drawn.is_floating_point():
        top, guess = graph.classify(data)[known].max(-1)
        right = (guess == y[known].reshape(-1)).double()
        order = top.argsort()
        groups = [part for part in order.chunk(min(10, max(1, len(order) // 10))) if len(part)]
        claimed, found = ([float(values[part].mean()) for part in groups] for values in (top.double(), right))
        words = (
            f"{float(right.mean()):.1%} of {int(known.sum()):,} recorded test labels are the likeliest under q(y | x), which "
            f"gives them a probability of {float(top.mean()):.2f} on average. Dots on the line: as often right as claimed."
        )
        names = "mean probability of the guess", "share that is right"
    else:
        below = (drawn < y[known]).double().mean(0)
        claimed = [level / 10 for level in range(1, 10)]
        found = [float(((2 * below - 1).abs() <= level).double().mean()) for level in claimed]
        words = (
            f"The central 90 % intervals of q(y | x) hold {found[-1]:.1%} of {int(known.sum()):,} recorded test labels. Dots on "
            "the line: intervals hold as many as claimed; below it q(y | x) is too narrow or off."
        )
        names = "probability of the interval", "share of labels inside"

    def draw() -> Any:
        ax = one_panel(None, 4.2, 3.1)
        ax.plot([0, 1], [0, 1], color=ink(ax), linewidth=1, alpha=0.6)
        ax.plot(claimed, found, "o", color=BLUE)
        ax.set(xlim=(0, 1.03), ylim=(0, 1.03), xlabel=names[0], ylabel=names[1])
        return ax

    return Picture("Calibration of labels", draw, words, f"Dots near the diagonal. {words}")


CHECK_PICTURES = {
    "structure": (
        "Use of the latents",
        "Bars",
        "Mean KL of each latent entry to its prior in nats, the most used first.",
    ),
    "reliability": (
        "Reliability of log p(x)",
        "Dots",
        "Pareto k-hat of the rows in order: above the line importance sampling cannot be trusted.",
    ),
    "calibration": (
        "Calibration",
        "Lines",
        "Ranks of simulated truths among the guide's draws: calibrated ones stay inside the band.",
    ),
    "predictive": (
        "Replicated data",
        "Histogram",
        "The statistic that the model reproduces worst: of the test rows, and of data sets that the model makes.",
    ),
}


def check_pictures(report: Report) -> dict[str, Picture]:
    """The figures of the checks that were done."""
    found = {}
    for name, (title, form, words) in CHECK_PICTURES.items():
        if name in report:
            found[name] = Picture(title, partial(_narrow, report[name].plot), words, f"{form}. {words}")
    return found


def _narrow(draw: Callable[[], Any]) -> Any:
    """In the width of a column, with as many names below bars as fit."""
    ax = draw()
    ax.figure.set_size_inches(min(ax.figure.get_size_inches()[0], 5.2), 3.1)
    names = [label.get_text() for label in ax.get_xticklabels()]
    if any(names) and len(names) > 16:
        step = -(-len(names) // 16)
        ax.set_xticks(ax.get_xticks()[::step], names[::step])
    return ax


def shown(pictures: Mapping[str, Picture], skipped: dict[str, str], prefix: str = "") -> list[dict[str, Any]]:
    """Figures as the templates take them, their anchors behind a prefix; of those that fail, ``skipped`` gets the reason."""
    found = []
    for name, picture in pictures.items():
        anchor = re.sub(r"[^\w-]", "-", prefix + name)
        svg = attempt(f"figure {name}", partial(inline, anchor, picture), skipped)
        if svg is not None:
            about = {"title": picture.title, "caption": picture.caption, "table": picture.table}
            found.append({"id": anchor, "svg": svg, **about})
    return found


def inline(name: str, picture: Picture) -> Markup:
    """A figure as SVG inside the page, under a unique name; its ink is the page's, so that it is legible by day and by night."""
    import matplotlib
    from markupsafe import Markup, escape

    with matplotlib.rc_context(_LOOK):  # type: ignore[arg-type]
        drawn, file = np.ravel(picture.draw())[0].figure, io.StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        drawn.savefig(file, format="svg", bbox_inches="tight", pad_inches=0.05, metadata=metadata)
    svg = file.getvalue()
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    opening, rest = body.split(">", 1)
    box = re.search(r'viewBox="([-\d. ]+)"', opening)
    if box is None:
        raise ValueError("expected a drawing with a viewBox")
    width = round(_SCALE * float(box[1].split()[2]))
    rest = re.sub(r'\bid="', f'id="{name}-', rest)
    rest = re.sub(r'href="#', f'href="#{name}-', rest).replace("url(#", f"url(#{name}-").replace("xlink:href", "href")
    rest = re.sub(r"font-family: [^;\"]*;?", "", rest).replace(_INK, "currentColor")
    opened = f'<svg viewBox="{box[1]}" role="img" aria-label="{escape(picture.alt)}" style="max-width:{width}px">'
    return Markup(opened + rest.rstrip())
