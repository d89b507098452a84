"""The figures of a run: what its program draws, gives back and encodes, whatever its graph; as files, and inside a page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pyrovae import plots
from pyrovae.checks import Report
from pyrovae.checks.entries import entry_means, rows_second, sampled_traces
from pyrovae.data import Data
from pyrovae.plots.style import one_panel
from pyrovae.programs.rows import Block, RowWork
from pyrovae.programs.simulate import enumerated_draws, replicate
from pyrovae.programs.sites import Site

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

ROWS, IMAGES, SAMPLES, GRID, DRAWS = 2000, 10, 64, 15, 64
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


@dataclass(frozen=True)
class View:
    """What a program makes of some rows of one data site, all of shape ``(rows, *event_shape)``.

    Attributes:
        kind: ``"image"``, ``"sequence"``, ``"counts"`` or ``"table"``.
        rows: the data, NaN where missing.
        again: the means of the likelihood at the posterior's means.
        means: the means of the likelihood at draws of the prior.
        draws: data drawn from the model.
    """

    kind: str
    rows: Tensor
    again: Tensor
    means: Tensor
    draws: Tensor


@dataclass(frozen=True)
class Views:
    """What a program makes of some rows: by data site a view, by latent site the posterior's means and draws of the prior."""

    data: Mapping[str, View]
    latents: Mapping[str, Tensor]
    prior: Mapping[str, Tensor]
    label: Tensor | None
    work: RowWork


def views(program: Any, data: Data, seed: int) -> Views:
    """Look at some rows of held-out data through a program.

    Args:
        program: the program.
        data: the rows, with their covariates.
        seed: of the draws.
    """
    work = RowWork(program, data, seed=seed, progress=False)
    found = work.run(_looked_at, "views")
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in found.items():
        kind, _, name = key.partition(" ")
        parts.setdefault(kind, {})[name] = value
    sites = {name: work.dry_run.model_trace.nodes[name] for name in parts["again"]}
    kinds = ("rows", "again", "means", "draws")
    seen = {n: View(kind_of(site), *(parts[kind][n] for kind in kinds)) for n, site in sites.items()}
    return Views(seen, parts["latent"], parts["prior"], data.label, work)


def kind_of(site: Site) -> str:
    """What the entries of a data site are: an image, a sequence, counts, or the columns of a table."""
    shape, support = site["fn"].event_shape, getattr(site["fn"], "support", None)
    if len(shape) == 3 and shape[0] in (1, 3):
        return "image"
    if len(shape) >= 2:
        return "sequence"
    while (base := getattr(support, "base_constraint", None)) is not None:
        support = base
    unbounded = getattr(support, "lower_bound", None) == 0 and getattr(support, "upper_bound", None) is None
    return "counts" if getattr(support, "is_discrete", False) and unbounded else "table"


def _looked_at(block: Block) -> dict[str, Tensor]:
    """Means of latents and data for the rows of a block, in closed form where the guide has means, else over some draws."""
    tile = next(block.tiles(1))
    _, guide_trace = sampled_traces(tile)
    sites = {n: guide_trace.nodes[n] for n in entry_means(guide_trace)}
    at = {name: _at_mean(site) for name, site in sites.items()}
    num = 1
    if any(value is None for value in at.values()):
        num, tile = DRAWS, next(block.tiles(DRAWS))
        _, guide_trace = sampled_traces(tile)
        num = tile.num_samples
        sites = {name: guide_trace.nodes[name] for name in sites}
        at = {name: site["value"] for name, site in sites.items()}
    given = {name: value for name, value in at.items() if value is not None}
    again = replicate(block.call, given | enumerated_draws(block.call, given, num), num)
    prior = replicate(block.call, {}, 1)
    leaves = tree_leaves(block.batch.x)
    names = [n for n in block.work.dry_run.data_sites if block.work.dry_run.model_trace.nodes[n]["value"].numel()]
    columns = {f"latent {n}": _flat(entry_means(guide_trace)[n].mean(0)) for n in sites}
    columns |= {f"prior {n}": _flat(rows_second(prior.nodes[n]["value"], prior.nodes[n])[0]) for n in sites}
    for name, x in zip(names, leaves, strict=True):
        site, drawn = again.nodes[name], prior.nodes[name]
        columns[f"rows {name}"] = x
        columns[f"again {name}"] = rows_second(_mean(site), site).mean(0)
        columns[f"means {name}"] = rows_second(_mean(drawn), drawn)[0]
        columns[f"draws {name}"] = rows_second(drawn["value"], drawn)[0]
    return columns


def _flat(values: Tensor) -> Tensor:
    return values.flatten(1).double() if values.ndim > 1 else values[:, None].double()


def _at_mean(site: Site) -> Tensor | None:
    """The mean in the shape of a value; None where there is no closed form, or where the site is discrete."""
    try:
        mean = site["fn"].mean
    except NotImplementedError:
        return None
    return mean.expand_as(site["value"]) if site["value"].is_floating_point() and not mean.isnan().any() else None


def _mean(site: Site) -> Tensor:
    try:
        mean = site["fn"].mean
    except NotImplementedError:
        mean = site["fn"].sample((DRAWS,)).to(torch.get_default_dtype()).mean(0)
    return mean.expand(site["value"].shape)


class Picture(NamedTuple):
    """A figure to be drawn.

    Attributes:
        title: its heading.
        draw: draws it, and returns axes.
        caption: what it shows.
        alt: the same for readers who cannot see it.
    """

    title: str
    draw: Callable[[], Any]
    caption: str
    alt: str


def draw_figures(
    program: Any, data: Data, history: Mapping[str, Any], best_epoch: int | None, seed: int
) -> dict[str, Figure]:
    """What a trained program looks like on held-out rows: a matplotlib figure for each name.

    Args:
        program: the program.
        data: the held-out rows.
        history: the columns of its training.
        best_epoch: the epoch whose weights were kept.
        seed: of the draws.
    """
    pictures = {"history": history_picture(history, best_epoch), **view_pictures(views(program, data[:ROWS], seed))}
    return {name: np.ravel(picture.draw())[0].figure for name, picture in pictures.items()}


def history_picture(history: Mapping[str, Any], best_epoch: int | None = None) -> Picture:
    """The curves of training.

    Args:
        history: its columns.
        best_epoch: the epoch whose weights were kept.
    """
    ends = []
    for name, words in (("elbo", "training ELBO"), ("validation_elbo", "validation ELBO")):
        known = [value for value in history.get(name, ()) if value is not None]
        if known:
            ends.append(f"the {words} goes from {known[0]:.1f} to {known[-1]:.1f} nats")
    return Picture(
        "Training curves",
        lambda: plots.plot_history(history, best_epoch=best_epoch),
        "ELBO, its two terms and beta by epoch, in nats per datum at beta 1.",
        f"Lines of the ELBO, reconstruction, KL and beta over {len(history['epoch'])} epochs; {', '.join(ends)}.",
    )


def view_pictures(seen: Views) -> dict[str, Picture]:
    """What the program draws, gives back and encodes, by name.

    Args:
        seen: some rows through the program.
    """
    pictures: dict[str, Picture] = {}
    several = len(seen.data) > 1
    for name, view in seen.data.items():
        made = {"image": _of_images, "sequence": _of_sequences}.get(view.kind, lambda *_: {})(seen, view)
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
            f"The first {rows} test rows above what the model makes of their posterior means.",
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
            lambda: plots.plot_manifold(_decoded_grid(seen, next(iter(sizes))), vmin=0, vmax=top),
            f"Means of the likelihood on a grid of the two latent dimensions{_given(seen, 'the first row')}.",
            "A grid of decoded images over the two latent dimensions.",
        )
    return pictures


def _given(seen: Views, of: str = "the first rows") -> str:
    names = ", ".join(seen.work.data.covariates or ())
    return f", given the covariates ({names}) of {of}" if names else ""


def _decoded_grid(seen: Views, name: str) -> Tensor:
    work, (site,) = seen.work, seen.data
    grid = plots.latent_grid(GRID).to(work.first(1).x)
    shape = work.dry_run.guide_trace.nodes[name]["value"].shape[1:]
    with work.evaluating(work.seed):
        call = work.call(work.first(1))
        latents = grid.reshape(GRID**2, *[1] * call.nesting, *shape)
        found = replicate(call, {name: latents}, GRID**2).nodes[site]
    return _mean(found).reshape(GRID, GRID, *found["fn"].event_shape).cpu()


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

    words = (
        f"Mean and standard deviation over rows at each step: {len(view.rows):,} test rows beside draws of the model."
    )
    return {"sequences": Picture("Sequences", draw, words, f"Two lines with bands. {words}")}


def _of_latent(seen: Views, name: str, means: Tensor) -> Picture:
    size = means.shape[1]
    title = "Latent space" if len(seen.latents) == 1 else f"Latent space of {name}"
    if size < 2:
        words = f"Posterior means of {len(means):,} test rows beside draws of the prior."
        return Picture(
            title,
            lambda: plots.plot_latent_density(means, seen.prior[name], names=[name]),
            words,
            f"Histogram. {words}",
        )
    where = "" if size == 2 else f", the two main components of {size} dimensions"
    colored = "" if seen.label is None else ", colored by label"
    words = f"Posterior means of {len(means):,} test rows{where}{colored}."
    return Picture(title, lambda: plots.plot_latent(means, seen.label, title="label"), words, f"Scatter plot. {words}")


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
    """The figures of the checks that were done.

    Args:
        report: their results.
    """
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


def columns_of(view: View, names: tuple[str, ...] | None, most: int = 20) -> list[list[str]]:
    """The columns of a table or of counts: of the data, of draws of the model, and the agreement with their reconstruction.

    Args:
        view: of vectors.
        names: of the columns.
        most: at most so many columns.
    """
    rows, draws, again = (
        values.double().reshape(len(values), -1).numpy() for values in (view.rows, view.draws, view.again)
    )
    names = names or tuple(f"[{number}]" for number in range(rows.shape[1]))
    lines = []
    for n in range(min(most, rows.shape[1])):
        cells = [str(names[n]), _moments(rows[:, n]), _moments(draws[:, n]), _agreement(rows[:, n], again[:, n])]
        if view.kind == "counts":
            cells += [_zeros(rows[:, n]), _zeros(draws[:, n])]
        lines.append([cell.replace("-", "−") if position else cell for position, cell in enumerate(cells)])
    return lines


def _moments(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    return f"{known.mean():.4g} ({known.std():.3g})" if len(known) else "–"


def _zeros(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    return f"{(known == 0).mean():.0%}" if len(known) else "–"


def _agreement(values: np.ndarray, again: np.ndarray) -> str:
    known = np.isfinite(values) & np.isfinite(again)
    first, second = values[known], again[known]
    if known.sum() < 3 or first.std() == 0 or second.std() == 0:
        return "–"
    return f"{np.corrcoef(first, second)[0, 1]:.2f}"


def inline(name: str, picture: Picture) -> Markup:
    """A figure as SVG inside the page, its ink the page's own, so that it is legible by day and by night.

    Args:
        name: unique on the page.
        picture: what to draw.
    """
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
