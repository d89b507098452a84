"""Where each feature lies in its predictive distribution, and how well that foretells it: PIT, CRPS, log score."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrovae.checks.calls import Covariates, counted_data, entry_names, sharing_work, side_by_side
from pyrovae.checks.entries import array, entry_log_prob
from pyrovae.checks.findings import CAUTION, GOOD, OPEN, Finding, Result, of_p
from pyrovae.checks.uniformity import defect, uniformity_p_value
from pyrovae.programs.rows import MAX_BYTES, Block
from pyrovae.programs.simulate import replicated_sites
from pyrovae.programs.sites import Site, data_axis

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float64]
BINS = 99
LEVEL = 0.01
"""The Bonferroni-adjusted p-value below which a feature is called not calibrated."""


def marginal_pit(
    program: Any,
    data: Any,
    covariates: Covariates | None = None,
    *,
    num_samples: int = 199,
    seed: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> Result:
    r"""Where each feature lies in the model's own marginal distribution of it; the rows' guide is not involved.

    .. math:: u_{ij} = \Pr(x^{\mathrm{rep}}_j < x_{ij}) + v\, \Pr(x^{\mathrm{rep}}_j = x_{ij}), \qquad
        x^{\mathrm{rep}} \sim p(x), \quad v \sim \mathrm{Uniform}(0, 1)

    Beside it stand two proper scores of the same distribution, whatever its kind: the continuous ranked probability score, in
    the units of the feature, and the log score.

    .. math:: \mathrm{CRPS}_{ij} = \mathbb{E}|x^{\mathrm{rep}}_j - x_{ij}|
        - \tfrac12\, \mathbb{E}|x^{\mathrm{rep}}_j - x^{\mathrm{rep}\prime}_j|, \qquad
        \log p(x_{ij}) = \log \mathbb{E}_{p(z)}[p(x_{ij} \mid z)]

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``.
        data: data of N rows, best held out.
        covariates: for each name, a tensor of N rows.
        num_samples: draws of the model for each row; all rows share each draw of global latents from the guide.
        seed: of the draws; None takes one from torch's random state.
        max_bytes: refuse what needs more memory.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Returns:
        A result over ``data`` and the axes of a datum (``entry`` where there are several data sites): ``pit`` (uniform over
        the rows where predictions are calibrated, NaN where missing), ``p_values`` of uniformity for each feature alone, and
        ``p_value``, the smallest times their number; ``crps``, the smaller, the better, and ``log_score`` in nats, the larger,
        the better (too low where the noise is so small that draws seldom come near; left out where a likelihood is joint over
        entries).

    Raises:
        ValueError: the model cannot be simulated.

    Reference: Czado, Gneiting & Held 2009, doi:10.1111/j.1541-0420.2009.01191.x (counts); Gneiting & Raftery 2007,
    doi:10.1198/016214506000001437 (scores).

    >>> import pyrovae as pvae
    >>> vae = pvae.build_vae(5, likelihood="normal", latent_dim=2, hidden=(8,))
    >>> marginal_pit(vae, torch.zeros(20, 5), seed=0).pit.shape
    (20, 5)
    """
    plan: dict[str, Any] = {"num_samples": num_samples, "seed": seed, "max_bytes": max_bytes, "progress": progress}
    work = sharing_work(program, data, covariates, **plan)

    def task(block: Block) -> dict[str, Tensor]:
        given = counted_data(block)
        x = side_by_side(given)
        sums = {name: torch.zeros_like(x, dtype=torch.float64) for name in ("below", "at", "near", "spread")}
        dense: dict[str, Tensor] = {}
        last: Tensor | None = None
        for tile in block.tiles():
            sites = replicated_sites(tile.call, {}, tile.num_samples)
            drawn = {name: site["value"].movedim(data_axis(site), 1) for name, site in sites.items()}
            replicates = side_by_side(drawn, 2).reshape(-1, *x.shape)
            sums["below"] += (replicates < x).sum(0)
            sums["at"] += (replicates == x).sum(0)
            sums["near"] += (replicates - x).abs().sum(0, dtype=torch.float64)
            chain = replicates if last is None else torch.cat([last, replicates])  # successive draws are independent
            sums["spread"] += chain.diff(dim=0).abs().sum(0, dtype=torch.float64)
            last = replicates[-1:]
            for name, site in sites.items():
                log_p = _log_masses(site, given[name])
                if log_p is not None:
                    dense[name] = torch.logaddexp(dense[name], log_p) if name in dense else log_p
        pit = (sums["below"] + torch.rand_like(sums["at"]) * (sums["at"] + 1)) / (num_samples + 1)
        columns = {"pit": pit, "crps": sums["near"] / num_samples - sums["spread"] / max(num_samples - 1, 1) / 2}
        if set(dense) == set(given):
            columns["log_score"] = side_by_side(dense) - math.log(num_samples)
        return {name: torch.where(x.isnan(), torch.nan, value) for name, value in columns.items()}

    found = {name: array(value) for name, value in work.run(task, "marginal_pit").items()}
    return Result(dataset_of(found.pop("pit"), entry_names(work), **found), judge, draw)


def _log_masses(site: Site, x: Tensor) -> Tensor | None:
    """The log of the sum over draws of the density of each entry, in the shape of the data; None where entries are joint."""
    axis = data_axis(site)
    drawn = site["value"].movedim(axis, 1)
    seen = torch.where(x.isnan(), drawn.reshape(-1, *x.shape), x).reshape(drawn.shape).movedim(1, axis)
    density = entry_log_prob({**site, "value": seen}, masked=False)
    return None if density is None else density.movedim(axis, 1).reshape(-1, *x.shape).double().logsumexp(0)


def dataset_of(pit: Array, names: list[str] | None = None, **scores: Array) -> xr.Dataset:
    """Transforms, ``(data, *event_shape)``, with the p-values of their uniformity over rows, and scores, as a Dataset.

    Args:
        pit: the transforms.
        names: of the entries, where they are those of several data sites side by side.
        **scores: by name, in the shape of the transforms.
    """
    import xarray as xr

    flat = pit.reshape(len(pit), -1)
    ranks = [_ranks(column) for column in flat.T]
    p = np.array([float(uniformity_p_value(r, BINS)) if len(r) > 1 else np.nan for r in ranks])
    smallest = min(1.0, float(np.nanmin(p)) * int(np.isfinite(p).sum())) if np.isfinite(p).any() else np.nan
    dims = ["entry"] if names else [f"x_dim_{axis}" for axis in range(pit.ndim - 1)]
    variables = {"pit": (("data", *dims), pit), "p_values": (dims, p.reshape(pit.shape[1:])), "p_value": smallest}
    variables |= {name: (("data", *dims), value) for name, value in scores.items()}
    return xr.Dataset(variables, {"entry": names} if names else {})


def _ranks(pit: Array) -> NDArray[np.int64]:
    """Transforms of one feature as ranks among 99, missing ones left out."""
    return np.minimum((pit[~np.isnan(pit)] * (BINS + 1)).astype(int), BINS)


def judge(found: xr.Dataset) -> list[Finding]:
    """How many features are predicted without calibration, and whether in location or in width."""
    p = found["p_values"].values
    tested = np.isfinite(p)
    bad = tested & (p * tested.sum() < LEVEL)
    if not tested.any():
        return [Finding(OPEN, "features", "Not judged: one row tells nothing of the calibration of a feature.")]
    if not bad.any():
        claim = f"The predictions of all {tested.sum()} features are calibrated as far as these rows tell."
        return [Finding(GOOD, "features", claim)]
    patterns = [defect(_ranks(column), BINS) for column in found["pit"].values[:, bad].T]
    counts = {pattern: patterns.count(pattern) for pattern in _WORDS if pattern in patterns}
    kinds = ", ".join(f"{count} {_WORDS[pattern][0]}" for pattern, count in counts.items())
    claim = (
        f"The predictions of {bad.sum()} of {tested.sum()} features are not calibrated ({of_p(float(found['p_value']))}): "
        f"{kinds}."
    )
    advice = " ".join(f"Where they are {_WORDS[pattern][0]}: {_WORDS[pattern][1]}." for pattern in counts)
    return [Finding(CAUTION, "features", claim, advice)]


_WORDS = {
    "shifted": ("off in location", "more training, or a likelihood or prior of another family, may help"),
    "narrow": ("too narrow", "a heavier-tailed or wider likelihood may help"),
    "shifted narrow": ("off in location and too narrow", "a wider likelihood, or one of another family, may help"),
    "wide": ("too wide", "a tighter likelihood, or more training, may help"),
    "shifted wide": ("off in location and too wide", "more training, or a likelihood of another family, may help"),
    "uneven": ("of another shape", "a likelihood of another family may help"),
}


def draw(found: xr.Dataset, ax: Any = None) -> Any:
    """The distribution functions of all features' transforms."""
    from pyrovae.plots import plot_pit

    flat = found["pit"].values.reshape(found.sizes["data"], -1)
    return plot_pit({"x": flat[:, ~np.isnan(flat).any(0)]}, ax=ax)
