"""Do the latents hold: refits compared on the same rows, latent by latent, up to linear maps, and by neighbors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyrovae.checks.calls import latent_work, seed_or_drawn
from pyrovae.checks.entries import along_latent, array, by_kind, entry_kl, entry_means, sampled_traces
from pyrovae.checks.findings import CAUTION, GOOD, OPEN, Finding, Result, listed
from pyrovae.data import as_data
from pyrovae.errors import check_integer, refusal
from pyrovae.programs.rows import MAX_BYTES, Block

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float64]
SAME = 0.9
"""The correlation of matched latents, and the R^2 of linear maps, from which on two refits found the same."""
ACTIVE = 0.01
"""The variance of its posterior means over rows below which a latent carries nothing, and is left out."""


class Agreement(Result):
    """What :func:`agreement` found, made by :func:`agreement`."""


def agreement(
    programs: Sequence[Any],
    data: Any,
    covariates: Mapping[str, Any] | None = None,
    *,
    num_neighbors: int = 10,
    num_samples: int = 20,
    seed: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> Agreement:
    r"""Compares refits of one program on the same rows: which latents are found again, and what is, if no single latent is.

    .. math:: r_{jk} = \mathrm{corr}_i\bigl(\mathbb{E}[z_j \mid x_i],\ \mathbb{E}[z'_k \mid x_i]\bigr), \qquad
        \max_{\text{permutations}} \sum_j |r_{j \pi(j)}|

    Latents are known up to what leaves p(x) as it is: signs and order always, under a standard normal prior all rotations.
    So each refit is matched to the first latent by latent, then as a whole by canonical correlations and the R^2 of linear
    maps, then by the nearest neighbors of each row, which no smooth map of small distances changes.

    Args:
        programs: two refits or more, of as many latents or others.
        data: N rows, best held out.
        covariates: for each name, a tensor of N rows.
        num_neighbors: rows that count as a row's neighbors.
        num_samples: draws per row, of which the means are taken where a guide has none in closed form.
        seed: of the draws; None takes one from torch's random state.
        max_bytes: refuse what needs more memory.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Returns:
        A result over ``refit`` (those after the first) and ``latent`` (those of the first): ``matched``, the number of the latent
        in the refit, -1 for none; ``correlation``, with its sign; ``holds``, in how many fits the latent is found (the first
        counts, a latent that is not active is found in none); ``kl``, nats per row of the latent in the first fit (``fit`` 0) and
        of its matches in the others, over ``fit`` and ``latent``, NaN without a match; over ``refit``: ``cca`` (the mean
        canonical correlation), ``r2`` (of the first's latents by linear maps of the refit's), ``neighbors`` (the share in
        common, by chance ``num_neighbors / (N - 1)``).

    Raises:
        ValueError: fewer than two programs, too few rows, global latents, or no active latent.

    Reference: Raghu et al. 2017, arXiv:1706.05806 (canonical correlations); Kuhn 1955, doi:10.1002/nav.3800020109 (matching).

    >>> import pyrovae as pvae
    >>> fits = [pvae.build_vae(5, likelihood="normal", latent_dim=2, hidden=(8,), seed=seed) for seed in range(2)]
    >>> agreement(fits, torch.randn(50, 5), seed=0).holds["z"].shape
    (2,)
    """
    import xarray as xr

    check_integer("num_neighbors", num_neighbors)
    fits, rows, seed = list(programs), as_data(data, covariates), seed_or_drawn(seed)
    if len(fits) < 2:
        raise refusal(f"expected two refits or more, got {len(fits)}", "programs")
    if len(rows) <= num_neighbors + 1:
        raise refusal(
            f"expected more than {num_neighbors + 1} rows for {num_neighbors} neighbors, got {len(rows)}", "data"
        )
    plan: dict[str, Any] = {"num_samples": num_samples, "seed": seed, "max_bytes": max_bytes, "progress": progress}
    means, kls = zip(*(_described(fit, rows, **plan) for fit in fits), strict=True)
    active = [one.values.var(0) > ACTIVE for one in means]
    if not all(one.any() for one in active):
        raise ValueError(f"a fit has no active latent (posterior means of variance above {ACTIVE}): nothing can agree")
    kept = [one.values[:, which] for one, which in zip(means, active, strict=True)]
    near = [_neighbors(one, num_neighbors) for one in kept]
    size, others = len(active[0]), len(fits) - 1
    number, correlation = np.full((others, size), -1), np.zeros((others, size))
    whole = np.zeros((3, others))
    for fit in range(others):
        number[fit, active[0]], correlation[fit, active[0]] = matched(kept[0], kept[fit + 1])
        number[fit] = np.where(number[fit] < 0, -1, np.flatnonzero(active[fit + 1])[number[fit]])
        same = (near[0][:, :, None] == near[fit + 1][:, None, :]).any(2).mean()
        whole[:, fit] = [_canonical(kept[0], kept[fit + 1]), _explained(kept[0], kept[fit + 1]), same]
    latent = means[0].coords["latent"]
    own = [kls[fit + 1].values[number[fit]] for fit in range(others)]
    kl = np.stack([kls[0].values, *(np.where(number[fit] < 0, np.nan, own[fit]) for fit in range(others))])
    found = xr.Dataset(
        {
            "matched": (("refit", "latent"), number),
            "correlation": (("refit", "latent"), correlation),
            "kl": (("fit", "latent"), kl),
            "holds": ("latent", np.where(active[0], 1 + (np.abs(correlation) >= SAME).sum(0), 0)),
            **dict(zip(("cca", "r2", "neighbors"), (("refit", part) for part in whole), strict=True)),
        },
        {"latent": latent, "site": means[0].coords["site"], "refit": np.arange(1, len(fits))},
    )
    chance = num_neighbors / (len(rows) - 1)
    return Agreement(found.assign_attrs(refits=len(fits), num_data=len(rows), chance=chance), judge, draw)


def posterior_means(program: Any, data: Any, **plan: Any) -> xr.DataArray:
    """The guide's mean of every latent entry of each row, ``(data, latent)``."""
    return _described(program, data, **plan)[0]


def _described(program: Any, data: Any, **plan: Any) -> tuple[xr.DataArray, xr.DataArray]:
    """The guide's means ``(data, latent)``, and the mean over rows of the KL of every entry to its prior, ``(latent,)``."""

    def task(block: Block) -> dict[str, torch.Tensor]:
        sums: dict[str, torch.Tensor] = {}
        for number, tile in enumerate(block.tiles()):
            model_trace, guide_trace = sampled_traces(tile)
            for name, mean in entry_means(guide_trace, masked=True).items():
                key = f"mean {name}"
                sums[key] = sums.get(key, 0.0) + mean.double().sum(0) / block.work.num_samples
            if not number:
                sums |= {f"kl {name}": value for name, value in entry_kl(model_trace, guide_trace).items()}
        return sums

    parts = by_kind({n: array(v) for n, v in latent_work(program, data, **plan).run(task, "posterior means").items()})
    kl = {name: value.mean(0) for name, value in parts["kl"].items()}
    return along_latent(parts["mean"], "data"), along_latent(kl)


def matched(one: Array, other: Array) -> tuple[NDArray[np.int64], Array]:
    """Each column of the first to a column of the other, so that absolute correlations add up to most; -1 where there is none."""
    from scipy.optimize import linear_sum_assignment

    size = one.shape[1]
    correlation = np.corrcoef(one, other, rowvar=False)[:size, size:]
    rows, columns = linear_sum_assignment(-np.abs(correlation))
    number, value = np.full(size, -1), np.zeros(size)
    number[rows], value[rows] = columns, correlation[rows, columns]
    return number, value


def _canonical(one: Array, other: Array) -> float:
    """The mean canonical correlation."""
    bases = [np.linalg.svd(values - values.mean(0), full_matrices=False)[0] for values in (one, other)]
    return float(np.linalg.svd(bases[0].T @ bases[1], compute_uv=False).clip(0, 1).mean())


def _explained(one: Array, other: Array) -> float:
    """The share of the variance of the first, each column in units of its sd, that linear maps of the other explain."""
    scaled = (one - one.mean(0)) / one.std(0)
    design = np.column_stack([np.ones(len(other)), other])
    left = scaled - design @ np.linalg.lstsq(design, scaled, rcond=None)[0]
    return float(1 - (left**2).mean())


def _neighbors(values: Array, count: int) -> NDArray[np.int64]:
    """The numbers of the rows nearest to each row."""
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=count + 1).fit(values).kneighbors(return_distance=False)
    return found[:, 1:] if found.shape[1] > count else found


def judge(found: xr.Dataset) -> list[Finding]:
    """Which latents are found in every fit, and whether the fits agree as a whole where single latents do not."""
    fits, names = found.attrs["refits"], found["latent"].values
    holds = found["holds"].values
    counted = [f"{name} in {number} of {fits}" for name, number in zip(names, holds, strict=True) if number]
    claim = f"Latents that hold over refits (|r| >= {SAME:g}): {listed(counted)}."
    whole = (
        f"Linear maps between fits explain {float(found['r2'].min()):.0%} of the latents' variance at least; "
        f"{float(found['neighbors'].mean()):.0%} of the neighbors are shared (by chance {found.attrs['chance']:.0%})."
    )
    every, linear = (holds[holds > 0] == fits).all(), float(found["r2"].min()) >= SAME
    if every:
        return [Finding(GOOD, "single latents", claim), Finding(GOOD if linear else OPEN, "all latents", whole)]
    if linear:
        advice = "Report what no rotation changes: contrasts, neighbors, predictions; name no single latent."
        return [Finding(CAUTION, "single latents", claim, advice), Finding(GOOD, "all latents", whole)]
    advice = "Refits disagree: fit longer, take fewer latents, or report only what holds in all of them."
    return [Finding(CAUTION, "single latents", claim), Finding(CAUTION, "all latents", whole, advice)]


def draw(found: xr.Dataset, ax: Any = None) -> Any:
    """The correlation of each latent with its match in each refit."""
    from pyrovae.plots import plot_effects

    names: dict[str, Any] = {"latents": [f"refit {number}" for number in found["refit"].values]}
    ax = plot_effects(
        found["correlation"].values, features=list(found["latent"].values), label="correlation", **names, ax=ax
    )
    ax.set(xlabel="latent of the first fit", ylabel="")
    return ax
