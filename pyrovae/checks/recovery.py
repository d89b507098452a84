"""What simulated truths tell beside their ranks: contraction, z-scores, recovery and coverage of each latent, with figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyrovae.checks.entries import along_latent
from pyrovae.checks.findings import CAUTION, GOOD, Finding, listed
from pyrovae.checks.uniformity import central_coverage, density_coverage

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float64]
LEVELS = np.linspace(0.05, 0.95, 19)
"""The credible levels at which coverage is kept."""
SURE = 0.9
"""The level of the intervals whose coverage is told in words."""
FEW = 12
"""Of more latents than these, all share one color and none is named."""


def moments(truth: Array, off: Array, squares: Array, num_samples: int) -> dict[str, Array]:
    """Truth, mean and standard deviation of a latent's draws, of the sums over draws of their distances from the truth.

    >>> moments(np.array([1.0]), np.array([4.0]), np.array([10.0]), 2)
    {'truth': array([1.]), 'mean': array([3.]), 'sd': array([1.41421356])}
    """
    variance = (squares - off**2 / num_samples) / max(num_samples - 1, 1)
    return {"truth": truth, "mean": truth + off / num_samples, "sd": np.sqrt(np.maximum(variance, 0.0))}


def recovered(parts: Mapping[str, Mapping[str, Array]]) -> dict[str, Any]:
    r"""Variables of a Dataset, of truth, mean and sd by latent site ``(num_simulations, *event_shape)``.

    .. math:: \mathrm{contraction} = 1 - \frac{\mathbb{E}[\mathrm{sd}^2]}{\mathrm{Var}[z^*]}, \qquad
        z\text{-score} = \frac{\bar z - z^*}{\mathrm{sd}}, \qquad \mathrm{recovery} = \mathrm{corr}(z^*, \bar z)
    """
    truth, mean, sd = (along_latent(parts[name], "simulation") for name in ("truth", "mean", "sd"))
    with np.errstate(invalid="ignore", divide="ignore"):
        score = (mean - truth) / sd
        contraction = 1 - (sd**2).mean("simulation") / truth.var("simulation")
        centered = truth - truth.mean("simulation"), mean - mean.mean("simulation")
        recovery = (centered[0] * centered[1]).mean("simulation") / (truth.std("simulation") * mean.std("simulation"))
    columns = {"truth": truth, "posterior_mean": mean, "posterior_sd": sd, "z_score": score}
    return {**columns, "contraction": contraction, "recovery": recovery}


def covered(ranks: Array, log_q_ranks: Array, num_samples: int) -> dict[str, Any]:
    """Coverage at some levels, of each latent's central intervals and of the guide's regions, with the band for all together."""
    from pyrovae.plots.calibration import ecdf_band

    low, high = ecdf_band(len(ranks), LEVELS, num_curves=ranks.shape[1] + 1)
    return {
        "level": LEVELS,
        "central_coverage": (("level", "latent"), central_coverage(ranks, num_samples, LEVELS)),
        "joint_coverage": ("level", density_coverage(log_q_ranks, num_samples, LEVELS)),
        "coverage_low": ("level", low),
        "coverage_high": ("level", high),
    }


def coverage_p_values(found: xr.Dataset) -> Array:
    """For each latent the p-value of the truths inside its intervals of the level :data:`SURE`, binomial and two-sided.

    The share that is expected is that of uniform ranks, which a few draws cannot bring to the level exactly.
    """
    from scipy.stats import binom

    samples, count = found.attrs["num_samples"], found.attrs["num_simulations"]
    inside = found["central_coverage"].sel(level=SURE, method="nearest")
    expected = central_coverage(np.arange(samples + 1), samples, [float(inside["level"])])[0]
    held = np.rint(inside.values * count)
    tails = binom.cdf(held, count, expected), binom.sf(held - 1, count, expected)
    return np.minimum(1.0, 2 * np.minimum(*tails))


def finding(found: xr.Dataset, is_calibrated: bool) -> Finding:
    """How much the data tell of each latent, in numbers; a guide that is not calibrated makes them doubtful."""
    names, off = found["latent"].values, np.sqrt((found["z_score"] ** 2).mean("simulation").values)
    inside = found["central_coverage"].sel(level=SURE, method="nearest").values
    columns = zip(names, found["contraction"].values, found["recovery"].values, off, inside, strict=True)
    each = [f"{name} {c:.2f}, {r:.2f}, {z:.2f}, {i:.0%}" for name, c, r, z, i in columns]
    claim = (
        "Contraction of the prior's variance, correlation of posterior means and truths, root mean square of the z-scores "
        f"(1 where calibrated), and coverage of {SURE:.0%} intervals: {listed(each)}."
    )
    advice = "Mend the calibration first: a guide that is too narrow overstates contraction."
    return Finding(GOOD, "recovery", claim) if is_calibrated else Finding(CAUTION, "recovery", claim, advice)


def draw_coverage(found: xr.Dataset, ax: Any = None) -> Any:
    """Coverage of each latent and of all together against the level, with the band of 95 % of the simulations."""
    from pyrovae.plots import plot_coverage

    central = dict(zip(found["latent"].values, found["central_coverage"].values.T, strict=True))
    curves = {"joint": found["joint_coverage"].values, **central}
    return plot_coverage(found["level"].values, curves, found.attrs["num_simulations"], ax=ax)


def draw_recovery(found: xr.Dataset, ax: Any = None) -> Any:
    """Posterior means against the truths, both in standard deviations of the prior, and the line on which they are equal."""
    from pyrovae.plots.style import ink

    center, scale = found["truth"].mean("simulation"), found["truth"].std("simulation")
    ax = _draw_points(found, (found["truth"] - center) / scale, (found["posterior_mean"] - center) / scale, ax)
    ax.axline((0, 0), slope=1, color=ink(ax), linestyle=":", linewidth=1)
    ax.set(xlabel="truth (sd of the prior)", ylabel="posterior mean (sd of the prior)")
    return ax


def draw_contraction(found: xr.Dataset, ax: Any = None) -> Any:
    """The z-score of each simulation against its contraction: at the right and within 2 where the data tell much."""
    from pyrovae.plots.style import ink

    contraction = 1 - found["posterior_sd"] ** 2 / found["truth"].var("simulation")
    ax = _draw_points(found, contraction, found["z_score"], ax)
    for edge in (-2, 2):
        ax.axhline(edge, color=ink(ax), linestyle=":", linewidth=1)
    ax.set(xlabel="contraction of the variance (share)", ylabel="z-score of the truth (posterior sd)")
    return ax


def _draw_points(found: xr.Dataset, x: xr.DataArray, y: xr.DataArray, ax: Any) -> Any:
    """A point for each simulation and latent."""
    from pyrovae.plots.style import BLUE, color, legend, one_panel

    ax, names = one_panel(ax), found["latent"].values
    few = len(names) <= FEW
    for number, name in enumerate(names):
        look: dict[str, Any] = {"color": color(number), "label": name} if few else {"color": BLUE}
        ax.scatter(x.values[:, number], y.values[:, number], s=7, alpha=0.5, linewidths=0, rasterized=True, **look)
    if few:
        legend(ax, outside=True)
    return ax
