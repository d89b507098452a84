"""Replicated data against the data: test statistics with p-values, under the posterior or the prior."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pyrovae.checks.calls import Covariates, counted_data, sharing_work
from pyrovae.checks.entries import array, sampled_traces
from pyrovae.checks.findings import CAUTION, GOOD, Case, Check, Finding, Result, listed
from pyrovae.errors import check_word
from pyrovae.programs import latent_names
from pyrovae.programs.rows import MAX_BYTES, Block, RowWork, Tile
from pyrovae.programs.simulate import enumerated_draws, replicated_data

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float64]
Statistic = Callable[[Array], ArrayLike]
LEVEL = 0.05
"""The Bonferroni-adjusted p-value below which a statistic is called not reproduced."""


def _sd_of_row_means(x: Array) -> float:
    """The standard deviation of the rows' means, rows without an entry left out."""
    rows = x.reshape(len(x), -1)
    return float(np.nanstd(np.nanmean(rows[~np.isnan(rows).all(1)], axis=1)))


STATISTICS: Mapping[str, Statistic] = {
    "mean": np.nanmean,
    "sd": np.nanstd,
    "smallest": np.nanmin,
    "largest": np.nanmax,
    "share of zeros": lambda x: (x == 0).sum() / (~np.isnan(x)).sum(),
    "sd of row means": _sd_of_row_means,
}
"""The default statistics of :func:`predictive_check`; each takes data ``(rows, *event_shape)``, NaN where missing."""


def predictive_check(
    program: Any,
    data: Any,
    covariates: Covariates | None = None,
    *,
    statistics: Mapping[str, Statistic] | None = None,
    kind: str = "posterior",
    num_samples: int = 500,
    seed: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> Result:
    r"""Compares statistics of the data with those of data sets that the model makes.

    .. math:: p = \Pr\bigl(T(x^{\mathrm{rep}}) \ge T(x)\bigr), \qquad
        x^{\mathrm{rep}}_i \sim \int p(x \mid z)\, q(z \mid x_i)\, dz \ \text{ or } \ \int p(x \mid z)\, p(z)\, dz

    Replicates are drawn from the likelihood, never the observed values handed back, and have the data's missing entries
    missing. The posterior check uses each row twice and is lenient; the prior check tests the model as a generator.

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``.
        data: data of N rows.
        covariates: for each name, a tensor of N rows.
        statistics: from a name to a function of an array ``(rows, *event_shape)``; :data:`STATISTICS` by default.
        kind: ``"posterior"`` or ``"prior"``.
        num_samples: replicated data sets, each with one draw of the global latents, from the guide or from the prior; the
            smallest p-value is twice one in so many.
        seed: of the draws; None takes one from torch's random state.
        max_bytes: refuse what needs more memory.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Returns:
        A result over ``statistic`` (those of each data site where there are several) and ``draw``: ``observed``,
        ``replicated``, and ``p_values``: twice the smaller tail, the data themselves counted as one replicate.

    Raises:
        ValueError: another kind, or a model that cannot be simulated.

    Reference: Gelman, Meng & Stern 1996 (Statistica Sinica 6); Gabry et al. 2019, arXiv:1709.01449.

    >>> import pyrovae as pvae
    >>> vae = pvae.build_vae(5, likelihood="normal", latent_dim=2, hidden=(8,))
    >>> predictive_check(vae, torch.zeros(20, 5), num_samples=50, seed=0).replicated["mean"].shape
    (50,)
    """
    check_word("kind", kind, _KINDS)
    statistics = STATISTICS if statistics is None else statistics
    plan: dict[str, Any] = {"num_samples": num_samples, "seed": seed, "max_bytes": max_bytes, "progress": progress}
    work = sharing_work(program, data, covariates, share="prior" if kind == "prior" else "guide", **plan)
    values = {site: array(rows) for site, rows in work.run(partial(counted_data, shown_alone=True), "data").items()}
    named = {
        name if len(values) == 1 else f"{name} of {site}": (site, statistic)
        for site in values
        for name, statistic in statistics.items()
    }
    observed = {name: float(statistic(values[site])) for name, (site, statistic) in named.items()}  # type: ignore[arg-type]
    replicated: dict[str, list[float]] = {name: [] for name in named}
    for replicate in _replicates(work, _KINDS[kind], values):
        for name, (site, statistic) in named.items():
            replicated[name].append(float(statistic(replicate[site])))  # type: ignore[arg-type]
    return Result(dataset_of(observed, replicated, kind), judge, draw)


def dataset_of(observed: Mapping[str, float], replicated: Mapping[str, ArrayLike], kind: str) -> xr.Dataset:
    """Statistics of the data and of the replicates as a Dataset, with their p-values."""
    import xarray as xr

    value, draws = np.array(list(observed.values())), np.array([replicated[name] for name in observed])
    tails = 1 + np.minimum((draws <= value[:, None]).sum(1), (draws >= value[:, None]).sum(1))
    variables = {
        "observed": ("statistic", value),
        "replicated": (("statistic", "draw"), draws),
        "p_values": ("statistic", np.minimum(1.0, 2.0 * tails / (draws.shape[1] + 1))),
    }
    return xr.Dataset(variables, {"statistic": list(observed)}, {"kind": kind})


def judge(found: xr.Dataset) -> list[Finding]:
    """The statistics that the model does not reproduce, Bonferroni-adjusted."""
    size = found.sizes["statistic"]
    wrong = np.flatnonzero(found["p_values"].values * size < LEVEL)
    about = f"{found.attrs['kind'].capitalize()} predictive check of {size} statistics"
    if not len(wrong):
        return [Finding(GOOD, "replicated data", f"{about}: the model reproduces all of them.")]
    ranges = np.quantile(found["replicated"].values, [0.025, 0.975], axis=1).T
    names, observed = found["statistic"].values, found["observed"].values
    words = [f"{names[j]} {observed[j]:.4g} against {ranges[j][0]:.4g} to {ranges[j][1]:.4g} replicated" for j in wrong]
    advice = "A likelihood or prior of another family may reproduce them."
    return [Finding(CAUTION, "replicated data", f"{about}: {listed(words)}.", advice)]


def draw(found: xr.Dataset, ax: Any = None) -> Any:
    """The statistic of the smallest p-value, observed among its replicates."""
    from pyrovae.plots import plot_predictive

    worst = found.isel(statistic=int(found["p_values"].values.argmin()))
    return plot_predictive(
        worst["replicated"].values, float(worst["observed"]), name=str(worst["statistic"].item()), ax=ax
    )


def _replicates(
    work: RowWork, make: Callable[[Tile], dict[str, Tensor]], data: Mapping[str, Array]
) -> Iterator[dict[str, Array]]:
    """Replicated data sets by data site, some at a time, NaN where the data are; or where a model of missingness has it."""
    at_once = max(1, min(work.max_bytes, 2**29) // (32 * sum(values.size for values in data.values())))
    for stream, start in enumerate(range(0, work.num_samples, at_once)):
        size = min(at_once, work.num_samples - start)

        def task(block: Block, size: int = size, stream: int = stream, start: int = start) -> dict[str, Tensor]:
            made = [make(tile) for tile in block.tiles(size, stream, start)]
            rows, joined = (
                len(block.batch.index),
                {site: torch.cat([part[site].cpu() for part in made]) for site in data},
            )
            return {site: values.reshape(size, rows, *data[site].shape[1:]) for site, values in joined.items()}

        found = {site: array(values) for site, values in work.run(task, "replicates", dim=1).items()}
        for number in range(size):
            yield {
                site: values[number]
                if np.isnan(values).any()
                else np.where(np.isnan(data[site]), np.nan, values[number])
                for site, values in found.items()
            }


def posterior_replicates(tile: Tile) -> dict[str, Tensor]:
    """By data site data drawn from the likelihood at draws of the guide, ``(samples, rows, *event_shape)``."""
    _, guide_trace = sampled_traces(tile)
    latents = {n: guide_trace.nodes[n]["value"] for n in latent_names(guide_trace)}
    latents |= enumerated_draws(tile.call, latents, tile.num_samples)
    return replicated_data(tile.call, latents, tile.num_samples)


def prior_replicates(tile: Tile) -> dict[str, Tensor]:
    """By data site data drawn from the model, a datum for each row and its covariates, ``(samples, rows, *event_shape)``."""
    return replicated_data(tile.call, {}, tile.num_samples)


_KINDS: Mapping[str, Callable[[Tile], dict[str, Tensor]]] = {
    "posterior": posterior_replicates,
    "prior": prior_replicates,
}


def _run(case: Case) -> xr.Dataset:
    return predictive_check(case.program, case.some, num_samples=case.num_replicates, **case.options).dataset


PREDICTIVE = Check("predictive", _run, judge, draw=draw)
