"""Two sets of posterior draws side by side: how far the guide is from the reference, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyrovae.checks.entries import along_latent, array
from pyrovae.checks.findings import CAUTION, GOOD, Finding, Result

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float64]
FAR, NARROW, WIDE, UNLIKE = 0.5, 0.8, 1.25, 0.2
"""Where draws are called off: the 95 % quantile of shifts, the median ratio of widths, the median difference of correlations."""


class PosteriorComparison(Result):
    """What :func:`compare_posteriors` found, made by :func:`compare_posteriors`."""

    def table(self) -> dict[str, dict[str, float]]:
        """Medians and 95 % quantiles over rows and entries, by site."""
        return _table(self.dataset)


def compare_posteriors(draws: Any, reference: Any) -> PosteriorComparison:
    r"""Holds draws of the guide against draws of the reference: means, widths, marginals and correlations.

    .. math:: \mathrm{shift} = \frac{\bar z - \bar z^{*}}{s^{*}}, \qquad
        W_1 = \frac1{s^{*}} \int_0^1 |F^{-1}(u) - F_{*}^{-1}(u)|\, du

    Args:
        draws: :class:`PosteriorDraws`, :class:`ReferencePosterior`, or draws by site of shape
            ``(samples, data, *event_shape)``.
        reference: likewise, for the same rows.

    Returns:
        A result over ``data`` and ``latent``, lengths in units of the reference's standard deviation: ``shift`` (the
        difference of means), ``sd_ratio`` (of standard deviations), ``wasserstein`` (the 1-Wasserstein distance of the
        marginals); and over ``data`` and ``latent_site``, ``correlation``: the root-mean-square difference of correlations
        between the entries of a site, zero for a single entry.

    Raises:
        ValueError: no site in common, or other rows.

    >>> import torch
    >>> a, b = torch.randn(2, 1000, 3)
    >>> compare_posteriors({"z": a}, {"z": b}).sd_ratio["z"].shape
    (3,)
    """
    import xarray as xr

    first, second = (side if isinstance(side, Mapping) else side.draws() for side in (draws, reference))
    names = [name for name in second if name in first]
    if not names or any(first[n].shape[1:] != second[n].shape[1:] for n in names):
        shapes = [{n: tuple(v.shape) for n, v in side.items()} for side in (first, second)]
        raise ValueError(
            f"expected draws of the same sites and rows, (samples, data, ...), got {shapes[0]} and {shapes[1]}"
        )
    pairs: dict[str, tuple[Array, Array]] = {n: (array(first[n]), array(second[n])) for n in names}
    sd = {n: b.std(0, ddof=1) for n, (_, b) in pairs.items()}
    variables = {
        "shift": {n: (a.mean(0) - b.mean(0)) / sd[n] for n, (a, b) in pairs.items()},
        "sd_ratio": {n: a.std(0, ddof=1) / sd[n] for n, (a, _) in pairs.items()},
        "wasserstein": {n: _wasserstein(a, b) / sd[n] for n, (a, b) in pairs.items()},
    }
    found = xr.Dataset({name: along_latent(values, "data") for name, values in variables.items()})
    correlations = np.stack([_correlation(a, b) for a, b in pairs.values()], -1)
    found["correlation"] = xr.DataArray(correlations, dims=("data", "latent_site"), coords={"latent_site": names})
    return PosteriorComparison(found, judge)


def _wasserstein(a: Array, b: Array, grid_size: int = 512) -> Array:
    """By quantiles on one grid, which serves any two numbers of draws."""
    grid = (np.arange(grid_size) + 0.5) / grid_size
    return np.abs(np.quantile(a, grid, axis=0) - np.quantile(b, grid, axis=0)).mean(0)


def _correlation(a: Array, b: Array) -> Array:
    matrices = []
    for values in (a.reshape(*a.shape[:2], -1), b.reshape(*b.shape[:2], -1)):
        z = (values - values.mean(0)) / np.maximum(values.std(0), 1e-300)
        matrices.append(np.einsum("sbi,sbj->bij", z, z) / len(z))
    off = ~np.eye(matrices[0].shape[-1], dtype=bool)
    return np.sqrt(((matrices[0] - matrices[1])[:, off] ** 2).mean(-1)) if off.any() else np.zeros(a.shape[1])


def _table(found: xr.Dataset) -> dict[str, dict[str, float]]:
    rows = {}
    for site in map(str, found["latent_site"].values):
        part = found.isel(latent=np.flatnonzero(found["site"].values == site)).sel(latent_site=site)
        rows[site] = {
            "shift": float(np.median(np.abs(part["shift"]))),
            "shift_95": float(np.quantile(np.abs(part["shift"]), 0.95)),
            "sd_ratio": float(np.median(part["sd_ratio"])),
            "wasserstein": float(np.median(part["wasserstein"])),
            "wasserstein_95": float(np.quantile(part["wasserstein"], 0.95)),
            "correlation": float(np.median(part["correlation"])),
        }
    return rows


def judge(found: xr.Dataset) -> list[Finding]:
    """The typical differences of each site, with what to do about each."""
    findings = []
    for site, row in _table(found).items():
        claim = (
            f"{site}: means differ by {row['shift']:.2f} reference sd (95 %: {row['shift_95']:.2f}), sd ratio "
            f"{row['sd_ratio']:.2f}, Wasserstein distance {row['wasserstein']:.2f} sd."
        )
        advice = []
        if row["shift_95"] > FAR:
            advice.append("For some rows the guide's mean is off: refine it per datum, or train it further.")
        if not NARROW <= row["sd_ratio"] <= WIDE:
            advice.append("The guide's width is off: refine it per datum, or use a richer guide.")
        if row["correlation"] > UNLIKE:
            advice.append("The correlations differ: use a full-covariance guide or a flow.")
        findings.append(Finding(CAUTION if advice else GOOD, f"draws of {site}", claim, " ".join(advice)))
    return findings
