"""Where each feature lies in its predictive distribution: probability integral transforms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrovae.checks.calls import Covariates, counted_data, entry_names, sharing_work, side_by_side
from pyrovae.checks.entries import array
from pyrovae.checks.findings import CAUTION, GOOD, Finding, Result, of_p
from pyrovae.checks.predictive import prior_replicates
from pyrovae.checks.uniformity import defect, uniformity_p_value
from pyrovae.programs.rows import MAX_BYTES, Block

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
        ``p_value``, the smallest times their number.

    Raises:
        ValueError: the model cannot be simulated.

    Reference: Czado, Gneiting & Held 2009, doi:10.1111/j.1541-0420.2009.01191.x (counts).

    >>> import pyrovae as pvae
    >>> vae = pvae.build_vae(5, likelihood="normal", latent_dim=2, hidden=(8,))
    >>> marginal_pit(vae, torch.zeros(20, 5), seed=0).pit.shape
    (20, 5)
    """
    plan: dict[str, Any] = {"num_samples": num_samples, "seed": seed, "max_bytes": max_bytes, "progress": progress}
    work = sharing_work(program, data, covariates, **plan)

    def task(block: Block) -> dict[str, Tensor]:
        x = side_by_side(counted_data(block))
        below, at = torch.zeros_like(x, dtype=torch.float64), torch.ones_like(x, dtype=torch.float64)
        for tile in block.tiles():
            replicates = side_by_side(prior_replicates(tile), 2).reshape(-1, *x.shape)
            below += (replicates < x).sum(0)
            at += (replicates == x).sum(0)
        pit = (below + torch.rand_like(at) * at) / (num_samples + 1)
        return {"pit": torch.where(x.isnan(), torch.nan, pit)}

    return Result(dataset_of(array(work.run(task, "marginal_pit")["pit"]), entry_names(work)), judge, draw)


def dataset_of(pit: Array, names: list[str] | None = None) -> xr.Dataset:
    """Transforms, ``(data, *event_shape)``, with the p-values of their uniformity over rows, as a Dataset.

    Args:
        pit: the transforms.
        names: of the entries, where they are those of several data sites side by side.
    """
    import xarray as xr

    flat = pit.reshape(len(pit), -1)
    ranks = [_ranks(column) for column in flat.T]
    p = np.array([float(uniformity_p_value(r, BINS)) if len(r) > 1 else np.nan for r in ranks])
    smallest = min(1.0, float(np.nanmin(p)) * int(np.isfinite(p).sum())) if np.isfinite(p).any() else np.nan
    dims = ["entry"] if names else [f"x_dim_{axis}" for axis in range(pit.ndim - 1)]
    variables = {"pit": (("data", *dims), pit), "p_values": (dims, p.reshape(pit.shape[1:])), "p_value": smallest}
    return xr.Dataset(variables, {"entry": names} if names else {})


def _ranks(pit: Array) -> NDArray[np.int64]:
    """Transforms of one feature as ranks among 99, missing ones left out."""
    return np.minimum((pit[~np.isnan(pit)] * (BINS + 1)).astype(int), BINS)


def judge(found: xr.Dataset) -> list[Finding]:
    """How many features are predicted without calibration, and whether in location or in width."""
    p = found["p_values"].values
    tested = np.isfinite(p)
    bad = tested & (p * tested.sum() < LEVEL)
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
