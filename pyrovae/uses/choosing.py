"""Which of several models: successive halving on selection rows, refits of the finalists on other rows, the simplest kept."""

from __future__ import annotations

import hashlib
import itertools
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyrovae.checks.training import Rise, late_rise
from pyrovae.comparison import Comparison, Pointwise
from pyrovae.data import Data, as_data
from pyrovae.errors import check_integer, counted, refusal
from pyrovae.evaluation import Estimator, log_marginal
from pyrovae.evaluation.estimators import DEFAULT
from pyrovae.limits import ERRORS
from pyrovae.programs.rows import RowWork, bar, mixed
from pyrovae.training import fit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

FINALISTS = 4
"""At most so many models are refitted."""


@dataclass(frozen=True)
class Choice:
    """Which model :func:`choose` chose, and why.

    Args:
        chosen: the options of the chosen model.
        name: its name in the tables.
        trials: one row for each model and rung of the halving: epochs, mean log p(x) of the selection rows, whether it stayed.
        comparison: the finalists by their refits, on rows that selected nothing.
        models: the options of all models by name, the simplest first.
        epochs: of each refit.
        rising: the finalists whose trainings were too short, with the nats per datum that the ELBO of the selection rows would
            win in twice the epochs, on average over refits.
    """

    chosen: Mapping[str, Any]
    name: str
    trials: pd.DataFrame
    comparison: Comparison
    models: Mapping[str, Mapping[str, Any]]
    epochs: int = 0
    rising: Mapping[str, float] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """All models, the simplest first."""
        return tuple(self.models)

    def told_apart(self, one: str, other: str) -> bool:
        """Whether two finalists differ by more than two standard errors, over rows, draws and refits together."""
        return self.comparison.told_apart(one, other)

    def error(self, one: str, other: str) -> float:
        r"""The standard error of the difference of two finalists, in nats, over rows, draws and refits together.

        .. math:: \mathrm{error}^2 = \mathrm{dse}^2 + \mathrm{mcse}^2 + \frac{s_1^2}{R} + \frac{s_2^2}{R}
        """
        return self.comparison.difference(one, other).error if one != other else 0.0

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the evidence of the finalists against the first option that is a number, such as the size of the latent.

        Bars are two standard errors of the difference from the best: those that reach its line are not told apart from it. Small
        dots are refits; hollow ones all models on the selection rows, at the longest training that each had in the halving.
        """
        from pyrovae.plots.style import ORANGE, color, finding, ink, legend, marker, one_panel

        ax, frame = one_panel(ax), self.comparison.frame
        best, rows = frame.index[0], frame["num_data"].iloc[0]
        at, label, series, ticks = _places(self.models)
        for number, (name, members) in enumerate(series.items()):
            if tried := [one for one in members if one in set(self.trials.get("model", ()))]:
                last = self.trials.drop_duplicates("model", keep="last").set_index("model")["log_p"]
                hollow: dict[str, Any] = {"facecolors": "none", "edgecolors": color(number), "s": 18}
                ax.scatter([at[one] for one in tried], last[tried], **hollow, label=f"{name} selection rows".strip())
            final = [one for one in members if one in frame.index]
            heights, bars = (
                frame.loc[final, "elpd"].to_numpy() / rows,
                [ERRORS * self.error(one, best) / rows for one in final],
            )
            look: dict[str, Any] = {"color": color(number), "marker": marker(number), "capsize": 3, "linewidth": 1}
            ax.errorbar(
                [at[one] for one in final], heights, bars, **look, label=f"{name} ± 2 errors from the best".strip()
            )
            for one in final:
                refits = np.asarray(self.comparison.refits[one]) / rows
                ax.plot([at[one]] * len(refits), refits, ".", color=color(number), markersize=3)
        ax.axhline(frame.loc[best, "elpd"] / rows, color=ink(ax), linestyle="--", linewidth=1, alpha=0.6)
        place = (at[self.name], frame.loc[self.name, "elpd"] / rows)
        ax.plot(*place, "o", markersize=13, markerfacecolor="none", color=ORANGE, label="chosen")
        ax.set_xticks(list(ticks), list(ticks.values()))
        ax.set(xlabel=label, ylabel="held-out log p(x) (nats per datum)")
        finding(ax, f"chosen: {self.name}")
        legend(ax, outside=True)
        return ax

    def __repr__(self) -> str:
        best = self.comparison.frame.index[0]
        why = "the best" if self.name == best else f"the simplest that is not told apart from the best, {best}"
        notes = [f"each refit had {counted(self.epochs, 'epoch')}"] if self.epochs else []
        if self.rising:
            more = ", ".join(f"{name} by about {nats:.2g}" for name, nats in self.rising.items())
            notes.append(
                "trainings were too short: in twice the epochs the ELBO of the selection rows would rise, in nats per datum, "
                f"{more}; models that learn slowly lose by it: give a larger budget"
            )
        return "\n".join([f"{self.name}: {why}", repr(self.comparison), *(f"- {note}" for note in notes)])


def choose(
    make: Callable[..., Any],
    data: Any,
    grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]],
    covariates: Mapping[str, Any] | None = None,
    *,
    budget: int,
    refits: int = 3,
    method: str | Estimator = DEFAULT,
    num_samples: int = 200,
    fit_options: Mapping[str, Any] | None = None,
    resume: str | Path | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Choice:
    """Choose among models by held-out log evidence: how many latents, which likelihood, which prior.

    The rows are cut in three: 60 % to train on, 20 % to select by, 20 % for the last word. All models are trained for a few
    epochs; the better half by log p(x) of the selection rows is trained for twice as many, and so on until at most four are
    left. These are fitted several times from new seeds and compared on the last rows, which selected nothing. Chosen is the
    first model of the grid that is not told apart from the best, over rows, draws and refits. The halving ranks by importance
    sampling from the guide, which is cheap and at worst too low; the last rows are evaluated by ``method``.

    Every training starts anew from its seed, so that a stopped search goes on with the trainings that are not done. Models
    are never compared at their training loss, so that beta is not chosen by the loss that it defines: of programs
    ``(pvae.beta(vae.model, b), pvae.beta(vae.guide, b))`` the evidence at beta 1 decides.

    Args:
        make: ``make(**options)`` builds a new program; its weights follow torch's random state, which is seeded.
        data: the rows.
        grid: for each option its values, or a list of options; the simplest first.
        covariates: for each name, a tensor of as many rows.
        budget: epochs of training, all trainings together; half of them are for the refits.
        refits: trainings of each finalist.
        method: of the finalists' evidence, as in :func:`pyrovae.log_marginal`.
        num_samples: samples per row.
        fit_options: of :func:`pyrovae.fit`, such as ``{"learning_rate": 3e-3}``.
        resume: a folder in which finished trainings are kept.
        seed: of the cut, the trainings and the draws.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Raises:
        ValueError: an empty grid, or a budget too small for one epoch of each training.

    Reference: Jamieson & Talwalkar 2016, arXiv:1502.07943 (successive halving); McLatchie & Vehtari 2024, arXiv:2309.13742 (why
    the best on selection rows is scored on others).

    >>> import pyrovae as pvae
    >>> make = lambda latent_dim: pvae.build_vae(4, likelihood="normal", latent_dim=latent_dim, hidden=(8,))
    >>> found = choose(make, torch.randn(50, 4), {"latent_dim": [1, 2]}, budget=20, refits=2, num_samples=20)
    >>> found.names
    ('latent_dim=1', 'latent_dim=2')
    """
    import pandas as pd

    check_integer("refits", refits)
    models = models_of(grid)
    rows = as_data(data, covariates)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    first, second = int(0.6 * len(rows)), int(0.8 * len(rows))
    train, selection, last = rows[order[:first]], rows[order[first:second]], rows[order[second:]]
    rungs = _rungs(len(models), budget // 2)
    final = budget // 2 // (refits * (rungs[-1][0] if rungs else len(models)))
    if min([final, *(epochs for _, epochs in rungs)]) < 1:
        raise refusal(
            f"a budget of {budget} epochs gives {counted(len(models), 'model')} and {counted(refits, 'refit')} no epoch each: "
            f"give at least {4 * max(len(models) * (len(rungs) + 1), refits * FINALISTS)}",
            "budget",
        )

    def score(name: str, epochs: int, on: Data, number: int) -> tuple[Pointwise, Rise | None]:
        with torch.random.fork_rng():
            torch.manual_seed(mixed(seed, number))
            program = make(**models[name])

        def job() -> tuple[Pointwise, Rise | None]:
            options: dict[str, Any] = {"validation": selection, "keep_best": False} if number else {}
            options |= {"epochs": epochs, "seed": mixed(seed, number), "progress": False, **(fit_options or {})}
            history = fit(program, train, **options)
            found = log_marginal(program, on, method=by, num_samples=num_samples, seed=seed, progress=False)
            return Pointwise.of_dataset(found), late_rise(history.to_dict())

        by = method if number else "importance"
        settings = (name, epochs, number, seed, by, num_samples, sorted((fit_options or {}).items()))
        if resume is None:
            return job()
        begun = RowWork(program, train, seed=0, progress=False).fingerprint(settings)
        return _kept(resume, f"{begun} {on.fingerprint()}", job)

    left, trials = list(models), []
    for kept, epochs in bar(rungs, "halving", progress):
        scores = {name: score(name, epochs, selection, 0)[0].elpd / len(selection) for name in left}
        stay = sorted(left, key=scores.__getitem__, reverse=True)[:kept]
        trials += [{"model": n, "epochs": epochs, "log_p": scores[n], "stayed": n in stay} for n in left]
        left = [name for name in left if name in stay]
    jobs = [(name, number) for name in left for number in range(1, refits + 1)]
    results: dict[str, list[tuple[Pointwise, Rise | None]]] = {name: [] for name in left}
    for name, number in bar(jobs, "refits", progress):
        results[name].append(score(name, final, last, number))
    comparison = Comparison.of({name: [point for point, _ in each] for name, each in results.items()}, "stacking")
    rising = {}
    for name, each in results.items():
        rises = [rise for _, rise in each if rise is not None]
        if 2 * sum(rise.is_rising for rise in rises) > len(rises):
            rising[name] = float(np.mean([max(rise.nats, rise.more) for rise in rises]))
    best = comparison.frame.index[0]
    name = next(name for name in left if name == best or not comparison.told_apart(name, best))
    return Choice(models[name], name, pd.DataFrame(trials), comparison, models, final, rising)


def models_of(grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The options of each model by its name, in the order of the grid."""
    if isinstance(grid, Mapping):
        options = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    else:
        options = [dict(one) for one in grid]
    if not options or not options[0]:
        raise refusal("expected options to choose among, such as {'latent_dim': [2, 4, 8]}; the grid is empty", "grid")
    return {", ".join(f"{key}={value}" for key, value in one.items()): one for one in options}


def _places(
    models: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, float], str, dict[str, list[str]], dict[float, str]]:
    """Where each model stands in a figure, the label of the axis, the models of each series, and the ticks.

    The axis is the first option of several numbers, the others make series; without one, models stand side by side.
    """
    values: dict[str, list[Any]] = {}
    for option, value in itertools.chain.from_iterable(one.items() for one in models.values()):
        values.setdefault(option, []).append(value)
    numbers = [
        option
        for option, given in values.items()
        if len(given) == len(models) and len(set(map(repr, given))) > 1 and {type(v) for v in given} <= {int, float}
    ]
    if not numbers:
        at = {name: float(place) for place, name in enumerate(models)}
        return at, "", {"": list(models)}, {place: name for name, place in at.items()}
    axis = numbers[0]
    series: dict[str, list[str]] = {}
    for name, one in models.items():
        rest = ", ".join(f"{key}={value}" for key, value in one.items() if key != axis)
        series.setdefault(rest if len(values) > 1 else "", []).append(name)
    at = {name: float(one[axis]) for name, one in models.items()}
    return at, axis, series, {place: f"{place:g}" for place in sorted(set(at.values()))}


def _rungs(count: int, budget: int) -> list[tuple[int, int]]:
    """How many models stay after each rung, and the epochs of each training in it: equal shares of the budget."""
    sizes = [count]
    while sizes[-1] > FINALISTS:
        sizes.append(max(FINALISTS, math.ceil(sizes[-1] / 2)))
    return [(after, budget // (len(sizes) - 1) // before) for before, after in itertools.pairwise(sizes)]


def _kept(
    folder: str | Path, settings: str, job: Callable[[], tuple[Pointwise, Rise | None]]
) -> tuple[Pointwise, Rise | None]:
    """What a job returns, from the file of these settings where it was done before; one that is damaged is done again."""
    path = Path(folder) / f"{hashlib.blake2b(settings.encode(), digest_size=12).hexdigest()}.npz"
    names = ("log_p", "elbo", "mcse", "pareto_k", "half", "flagged")
    known = ("measure", "estimator", "num_samples")
    if not (path.exists() and zipfile.is_zipfile(path)):
        found, rise = job()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npz")
        arrays: dict[str, Any] = {n: value for n in names if (value := getattr(found, n)) is not None}
        arrays |= {} if rise is None else {"rise": np.array(rise)}
        np.savez(part, **arrays | {n: np.array(str(getattr(found, n))) for n in known})
        part.replace(path)
    with np.load(path) as held:
        texts: dict[str, Any] = {name: str(held[name]) for name in known}
        arrays = {name: held[name] for name in names if name in held}
        late = Rise(*held["rise"].tolist()) if "rise" in held else None
    texts["num_samples"] = int(texts["num_samples"])
    return Pointwise(**arrays, **texts), late
