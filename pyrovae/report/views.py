"""What a program makes of some rows: means, reconstructions and draws by data site, posterior means by latent site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pyrovae import plots
from pyrovae.checks.entries import by_kind, entry_means, moments, rows_second, sampled_traces
from pyrovae.data import Data
from pyrovae.errors import counted
from pyrovae.evaluation.impute import by_site
from pyrovae.plots.latent import MOST_CLASSES
from pyrovae.programs.rows import Block, RowWork
from pyrovae.programs.simulate import enumerated_draws, replicate
from pyrovae.programs.sites import Site

ROWS, GRID, DRAWS = 2000, 15, 64


@dataclass(frozen=True)
class View:
    """Some rows of one data site beside what the program makes of them, all of shape ``(rows, *event_shape)``.

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
    """Some rows through a program.

    Attributes:
        data: by data site a view.
        latents: by latent site the posterior's means, ``(rows, entries)``.
        sd: the posterior's standard deviations, likewise.
        prior: draws of the prior, likewise.
        label: the rows' labels, by the names of their classes where these are known.
        work: the program and the rows.
    """

    data: Mapping[str, View]
    latents: Mapping[str, Tensor]
    sd: Mapping[str, Tensor]
    prior: Mapping[str, Tensor]
    label: Any
    work: RowWork

    def decoded_grid(self) -> Tensor:
        """The means of the one data site on a grid of the one latent site's two entries, ``(GRID, GRID, *event_shape)``."""
        work, (site,), (name,) = self.work, self.data, self.latents
        grid = plots.latent_grid(GRID).to(work.first(1).x)
        shape = work.dry_run.guide_trace.nodes[name]["value"].shape[1:]
        with work.evaluating(work.seed):
            call = work.call(work.first(1))
            latents = grid.reshape(GRID**2, *[1] * call.nesting, *shape)
            found = replicate(call, {name: latents}, GRID**2).nodes[site]
        return _mean(found).reshape(GRID, GRID, *found["fn"].event_shape).cpu()


def views(program: Any, data: Data, seed: int) -> Views:
    """Look at some rows of held-out data through a program."""
    work = RowWork(program, data, seed=seed, progress=False)
    parts = by_kind(work.run(_looked_at, "views"))
    sites = {name: work.dry_run.model_trace.nodes[name] for name in parts["again"]}
    kinds = ("rows", "again", "means", "draws")
    seen = {n: View(kind_of(site), *(parts[kind][n] for kind in kinds)) for n, site in sites.items()}
    return Views(seen, parts["latent"], parts["sd"], parts["prior"], _labels(data), work)


def _labels(data: Data) -> Any:
    """The rows' labels, by the names of their classes where these are known; of too many classes only numbers can be shown."""
    label, names = data.label, data.levels.get(data.label_name or "")
    if label is None or len(label.unique()) <= MOST_CLASSES:
        return label if label is None or not names else np.asarray([*names, "missing"])[label.numpy()]  # coded -1
    return None if names else label.double()


def kind_of(site: Site) -> str:
    """The kind of a data site: an image, a sequence, counts, or the columns of a table."""
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
    model_trace, guide_trace = sampled_traces(tile)
    names = list(entry_means(guide_trace))
    at = {name: _at_mean(guide_trace.nodes[name]) for name in names}
    if any(value is None for value in at.values()):
        tile = next(block.tiles(DRAWS))
        model_trace, guide_trace = sampled_traces(tile)
        at = {name: guide_trace.nodes[name]["value"] for name in names}
    num = tile.num_samples
    given = {name: value for name, value in at.items() if value is not None}
    again = replicate(block.call, given | enumerated_draws(block.call, given, num), num)
    prior = replicate(block.call, {}, 1)
    columns = {f"latent {n}": _flat(means.double().mean(0)) for n, means in entry_means(guide_trace).items()}
    for n, site in ((n, guide_trace.nodes[n]) for n in names):
        sd = moments(site)[1].sqrt().expand(site["value"].shape)
        columns[f"sd {n}"] = _flat(rows_second(sd, site).mean(0))
    columns |= {f"prior {n}": _flat(rows_second(prior.nodes[n]["value"], prior.nodes[n])[0]) for n in names}
    observed = block.work.dry_run.data_sites
    rows, found = block.batch.x, [model_trace.nodes[name] for name in observed]
    named = isinstance(rows, Tensor) or (isinstance(rows, Mapping) and set(observed) <= set(rows))
    leaves = by_site(rows, found) if named else dict(zip(observed, tree_leaves(rows), strict=True))
    for name, x in leaves.items():
        site, drawn = again.nodes[name], prior.nodes[name]
        columns[f"rows {name}"] = x
        columns[f"again {name}"] = rows_second(_mean(site), site).mean(0)
        columns[f"means {name}"] = rows_second(_mean(drawn), drawn)[0]
        columns[f"draws {name}"] = rows_second(drawn["value"], drawn)[0]
    return columns


def _flat(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1).double()


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
    mean = mean if mean.is_floating_point() else mean.to(torch.get_default_dtype())
    return mean.expand(site["value"].shape)


def column_tables(seen: Views, most: int = 20) -> list[dict[str, Any]]:
    """For each data site that is a table or counts, its columns: the data, the model's draws, and the reconstructions."""
    import pandas as pd

    found = []
    for site, view in seen.data.items():
        if view.kind not in ("table", "counts"):
            continue
        names, levels = column_names(seen, view), seen.work.data.levels
        parts = (values.double().reshape(len(values), -1)[:, :most] for values in (view.rows, view.draws, view.again))
        rows, draws, again = (pd.DataFrame(part.numpy()) for part in parts)
        heads = ["column", "test rows, mean (sd) or shares", "prior samples", "agreement with reconstruction"]
        heads += ["zeros", "zeros of samples"] if view.kind == "counts" else []
        lines = []
        for place, name in enumerate(names[:most]):
            columns = [part[place] for part in (rows, draws, again)]
            cells = [_described(column, levels.get(name)) for column in columns[:2]]
            cells.append(_agreement(columns[0], columns[2], name in levels))
            if view.kind == "counts":
                cells += [f"{(column.dropna() == 0).mean():.0%}" for column in columns[:2]]
            lines.append([name, *("–" if cell.startswith("nan") else cell for cell in cells)])
        more = f" The first {most} of {len(names)} columns." if len(names) > most else ""
        note = f"{counted(len(rows), 'test row')} beside as many draws of the model, and beside their own reconstructions.{more}"
        title = f"Columns of {site}" if len(seen.data) > 1 else "Columns"
        found.append({"title": title, "note": note, "heads": heads, "lines": lines})
    return found


def column_names(seen: Views, view: View) -> list[str]:
    """The names of the entries of a row."""
    names = seen.work.data.columns if len(seen.data) == 1 else None
    return [str(name) for name in names or (f"[{number}]" for number in range(view.rows[0].numel()))]


def _described(column: Any, levels: Sequence[str] | None) -> str:
    """The mean and the standard deviation of numbers; the shares of the most frequent levels."""
    if levels is None:
        return f"{column.mean():.4g} ({column.std(ddof=0):.3g})".replace("-", "−")
    shares = column.dropna().value_counts(normalize=True)
    return ", ".join(f"{levels[int(code)]} {share:.0%}" for code, share in shares.head(3).items())


def _agreement(column: Any, again: Any, has_levels: bool) -> str:
    """The correlation of a column with its reconstructions; for levels the share that is right."""
    if has_levels:
        return f"{(column == again)[column.notna()].mean():.0%} right"
    with np.errstate(invalid="ignore", divide="ignore"):  # a constant column has no correlation
        return f"{column.corr(again, min_periods=3):.2f}".replace("-", "−")
