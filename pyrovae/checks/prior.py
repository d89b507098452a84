"""Does the model make data like these by itself? Statistics of whole data sets, and columns in their units before any fit."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.checks import predictive
from pyrovae.checks.calls import Covariates, counted_data, entry_names, sharing_work, side_by_side
from pyrovae.checks.entries import array
from pyrovae.checks.findings import CAUTION, GOOD, Case, Check, Finding, Result, listed
from pyrovae.programs.rows import MAX_BYTES, Block

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

QUANTILES = (0.05, 0.5, 0.95)
WIDE, NARROW = 10.0, 0.1
"""The ratio of the model's central 90 % range of a column to that of the data, from which on it is too wide, or too narrow."""
UNLIKE = 0.5
"""The total variation distance between the shares of a column's levels, above which they are off."""


class PriorPredictive(Result):
    """Draws of the model beside the columns of the data, made by :func:`prior_predictive`."""

    def to_frame(self) -> pd.DataFrame:
        """One line for each column: medians and central 90 % ranges of data and draws; of levels the shares' distance."""
        import pandas as pd

        columns = {
            f"{side}, {quantile:g}": values[:, number]
            for side, values in (("data", self.observed), ("draws", self.predicted))
            for number, quantile in enumerate(QUANTILES)
        }
        index = pd.Index(self.dataset["column"].values, name="column")
        return pd.DataFrame({**columns, "distance of shares": self.distance}, index)


def prior_predictive(
    program: Any,
    data: Any,
    covariates: Covariates | None = None,
    *,
    num_samples: int = 20,
    seed: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> PriorPredictive:
    r"""Data that the model makes as it stands, before any fit, beside each column of the data in its units.

    .. math:: z \sim p(z), \qquad x^{\mathrm{rep}} \sim p(x \mid z)

    No guide is involved, and no weight is changed. Draws lack the entries that the data lack.

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``.
        data: data of N rows.
        covariates: for each name, a tensor of N rows.
        num_samples: draws of the model for each row; all rows share each draw of global latents.
        seed: of the draws; None takes one from torch's random state.
        max_bytes: refuse what needs more memory.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Returns:
        A result over ``column`` and ``quantile``: ``observed`` and ``predicted``, NaN for columns of levels; over ``column``
        ``distance``, of levels the total variation distance between their shares, else NaN; and the numbers themselves,
        ``x`` over ``data`` and ``drawn`` over ``draw`` and ``data``. ``plot()`` draws the columns.

    Raises:
        ValueError: the model cannot be simulated.

    Reference: Gabry et al. 2019, arXiv:1709.01449.

    >>> import pyrovae as pvae
    >>> vae = pvae.build_vae(2, likelihood="normal", latent_dim=2, hidden=(8,), scale=1.0, seed=0)
    >>> prior_predictive(vae, 1000 * torch.randn(50, 2), seed=0).predicted.shape
    (2, 3)
    """
    plan: dict[str, Any] = {"num_samples": num_samples, "seed": seed, "max_bytes": max_bytes, "progress": progress}
    work = sharing_work(program, data, covariates, share="prior", **plan)

    def task(block: Block) -> dict[str, Tensor]:
        x = side_by_side(counted_data(block)).cpu()
        made = [side_by_side(predictive.prior_replicates(tile), 2).cpu() for tile in block.tiles()]
        drawn = torch.cat(made).reshape(-1, *x.shape)
        return {"x": x, "drawn": torch.where(x.isnan(), torch.nan, drawn).movedim(1, 0)}

    found = {name: array(values) for name, values in work.run(task, "prior_predictive").items()}
    x, drawn = found["x"].reshape(len(work), -1), found["drawn"].reshape(len(work), num_samples, -1)
    names = (
        entry_names(work)
        or work.data.columns
        or [f"[{', '.join(map(str, entry))}]" for entry in np.ndindex(*found["x"].shape[1:])]
    )
    names = [str(name) for name in names]
    levels = {name: list(work.data.levels[name]) for name in names if name in work.data.levels}
    return PriorPredictive(dataset_of(x, drawn, names, levels), judge_columns, draw_columns)


def dataset_of(x: Any, drawn: Any, names: list[str], levels: dict[str, list[str]]) -> xr.Dataset:
    """Data ``(data, column)`` and draws ``(data, draw, column)`` with quantiles of numbers and distances of levels."""
    import xarray as xr

    rows = {"observed": x, "predicted": drawn.reshape(-1, len(names))}
    quantiles = {name: np.full((len(names), len(QUANTILES)), np.nan) for name in rows}
    distance = np.full(len(names), np.nan)
    for place, name in enumerate(names):
        known = [values[:, place][np.isfinite(values[:, place])] for values in rows.values()]
        if not all(map(len, known)):
            continue
        if name in levels:
            shares = [np.bincount(part.astype(int), minlength=len(levels[name])) / len(part) for part in known]
            distance[place] = 0.5 * np.abs(shares[0] - shares[1]).sum()
            continue
        for side, part in zip(rows, known, strict=True):
            quantiles[side][place] = np.quantile(part, QUANTILES)
    variables = {name: (("column", "quantile"), values) for name, values in quantiles.items()}
    return xr.Dataset(
        {
            **variables,
            "distance": ("column", distance),
            "x": (("data", "column"), x),
            "drawn": (("data", "draw", "column"), drawn),
        },
        {"column": names, "quantile": list(QUANTILES)},
        {"levels": json.dumps(levels)},
    )


def judge_columns(found: xr.Dataset) -> list[Finding]:
    """The columns on which the model before any fit is far off.

    Its central 90 % range does not meet that of the data, or is over ten times as wide, or less than a tenth as wide; or
    the shares of a column's levels are over half apart.
    """
    observed, predicted = found["observed"].values, found["predicted"].values
    names, width = found["column"].values, observed[:, 2] - observed[:, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = (predicted[:, 2] - predicted[:, 0]) / width
    apart = (observed[:, 0] > predicted[:, 2]) | (observed[:, 2] < predicted[:, 0])
    wrong = {"elsewhere": apart, "too wide": ~apart & (ratio > WIDE), "too narrow": ~apart & (ratio < NARROW)}
    words = []
    for word, where in wrong.items():
        ranges = [
            f"{names[j]} (90 % from {predicted[j, 0]:.3g} to {predicted[j, 2]:.3g}; the data's from {observed[j, 0]:.3g} to "
            f"{observed[j, 2]:.3g})"
            for j in np.flatnonzero(where)
        ]
        words += [f"{word} in {listed(ranges)}"] if ranges else []
    off = names[found["distance"].values > UNLIKE]
    words += [f"off in the shares of the levels of {listed(off)}"] if len(off) else []
    if not words:
        claim = f"Before any fit draws of the model cover all {len(names)} columns of the data."
        return [Finding(GOOD, "prior predictive", claim)]
    advice = "Start the model at the data (`build_vae(start=data)`), standardize the columns, or change the likelihood's scale."
    return [Finding(CAUTION, "prior predictive", f"Before any fit draws of the model are {'; '.join(words)}.", advice)]


def draw_columns(found: xr.Dataset, ax: Any = None) -> Any:
    """Each column of the data beside draws of the model."""
    from pyrovae.plots import plot_columns

    names = [name for name in found["column"].values if np.isfinite(found["x"].sel(column=name)).any()]
    parts = [{str(n): found[side].sel(column=n).values.ravel() for n in names} for side in ("x", "drawn")]
    return plot_columns(*parts, levels=json.loads(found.attrs["levels"]), label="draws before any fit", ax=ax)


def _run(case: Case) -> xr.Dataset:
    options = {"kind": "prior", "num_samples": case.num_replicates, **case.options}
    return predictive.predictive_check(case.program, case.some, **options).dataset


def judge(found: xr.Dataset) -> list[Finding]:
    """The statistics that draws of the model do not reproduce, Bonferroni-adjusted."""
    advice = (
        "Where replicates from the posterior reproduce them, the latents miss the prior: a learned prior (mixture, VampPrior, "
        "flow) may help; else a likelihood of another family."
    )
    return [
        replace(finding, about="generated data", advice=advice if finding.advice else "")
        for finding in predictive.judge(found)
    ]


PRIOR = Check("prior", _run, judge, draw=predictive.draw)
