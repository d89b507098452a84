"""How far the means of columns move if entries are missing because of their values: a table over sign and strength."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae.errors import refusal
from pyrovae.evaluation.imputed import Imputation

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

STRENGTHS = (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0)
FEWEST = 20.0
"""Effective draws of a column's entries below which its mean is not to be read."""


@dataclass(frozen=True)
class TippingPoints:
    """The result of :func:`tipping_points`.

    Attributes:
        dataset: over ``strength`` and ``column``: ``mean`` of the completed column and ``missing_mean`` of its missing entries,
            both in the column's units, and ``ess``, the mean effective number of draws of these entries.
    """

    dataset: xr.Dataset

    def crossing(self, value: float) -> dict[str, float]:
        """For each column the strength nearest to zero at which its mean crosses a value; NaN where it does not.

        Args:
            value: in the units of the columns.
        """
        b, found = self.dataset.strength.values, {}
        for column, means in zip(self.dataset.column.values, self.dataset["mean"].values.T, strict=True):
            gap = means - value
            sides = np.flatnonzero(gap[:-1] * gap[1:] <= 0)
            with np.errstate(divide="ignore", invalid="ignore"):
                at = [b[i] - gap[i] * (b[i + 1] - b[i]) / (gap[i + 1] - gap[i]) for i in sides]
            found[str(column)] = float(min(at, key=abs, default=np.nan))
        return found

    def to_frame(self) -> pd.DataFrame:
        """The means of the completed columns, a line for each strength."""
        return self.dataset["mean"].to_pandas()  # type: ignore[no-any-return]

    def plot(self, ax: Any = None) -> Any:
        """Draw how far each mean moves with the strength, in standard deviations of its observed entries; returns the axes.

        Args:
            ax: where to draw; by default a new figure.
        """
        from pyrovae.plots.style import color, ink, legend, one_panel

        found, ax = self.dataset, one_panel(ax, 5.2, 3.2)
        moved = (found["mean"] - found["mean"].sel(strength=0.0)) / found["observed_sd"]
        for number, name in enumerate(found.column.values):
            line = moved.where(found["ess"] >= FEWEST).sel(column=name)
            ax.plot(found.strength, line, marker="o", color=color(number), label=str(name))
        ax.axhline(0, color=ink(ax), linewidth=1, alpha=0.6)
        ax.set(xlabel="strength b: the odds of missing grow by exp(b) with each sd", ylabel="shift of the mean (sd)")
        legend(ax)
        return ax


def tipping_points(imputation: Imputation, strengths: Sequence[float] = STRENGTHS) -> TippingPoints:
    r"""How the mean of each column moves if its entries are missing because of their values, by sign and strength.

    .. math:: \frac{P(\text{missing} \mid x_j)}{P(\text{seen} \mid x_j)} \propto e^{b\, x_j / \mathrm{sd}_j}
        \quad\Rightarrow\quad p_b(x_j \mid \text{missing}) \propto p(x_j \mid x_{\mathrm{obs}})\, e^{b\, x_j / \mathrm{sd}_j}

    Data do not tell b. At b > 0 high values are missing more often: with every standard deviation the odds grow by
    :math:`e^b`. The draws of an imputation are weighed again, one column at a time. At b = 0 stands what the imputation
    assumed: missing at random, or the mechanism of a :class:`~pyrovae.graphs.MissingnessModel`, and b is then beyond it.

    Args:
        imputation: the draws of missing entries, as :func:`pyrovae.impute` returns them for one data site.
        strengths: values of b; 0 is added.

    Returns:
        A table over strength and column that draws itself by ``plot()``; ``crossing(value)`` is the tipping point of a claim.

    Raises:
        ValueError: nothing is missing in a column of numbers, or several data sites.

    Reference: Robins, Rotnitzky & Scharfstein 2000, doi:10.1007/978-1-4612-1284-3_1 (exponential tilting).

    >>> import torch, pyrovae as pvae
    >>> vae = pvae.build_vae(3, likelihood="normal", latent_dim=1, hidden=(4,))
    >>> x = torch.randn(50, 3)
    >>> x[:10, 0] = torch.nan
    >>> tipping_points(pvae.impute(vae, x, seed=0, progress=False)).to_frame().shape
    (7, 1)
    """
    import xarray as xr

    if isinstance(imputation.draws, dict):
        raise refusal(
            "tipping_points takes the imputation of one data site: give that of one, imputation.sites()[name]",
            "imputation",
        )
    holes = [hole for hole in imputation.holes() if not hole.levels]
    if not holes:
        raise refusal("no entry of a column of numbers is missing, so none can be moved", "imputation")
    b = np.unique([0.0, *map(float, strengths)])
    x = imputation.data.dense().x
    x, columns = x.reshape(len(x), -1).double().numpy(), {}
    for hole in holes:
        observed, draws = x[:, hole.place][~np.isnan(x[:, hole.place])], hole.draws.numpy()
        sd = observed.std()
        log_w = b[:, None, None] * (draws - draws.mean(0)) / sd
        weights = np.exp(log_w - log_w.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        missing = (weights * draws).sum(1)  # (strengths, cells)
        columns[hole.name] = {
            "mean": (observed.sum() + missing.sum(1)) / len(x),
            "missing_mean": missing.mean(1),
            "ess": (1 / (weights**2).sum(1)).mean(1),
            "observed_sd": np.full(len(b), sd),
        }
    names = list(columns)
    dims = ("strength", "column")
    parts = {v: (dims, np.stack([columns[name][v] for name in names], 1)) for v in ("mean", "missing_mean", "ess")}
    sds = ("column", np.array([columns[name]["observed_sd"][0] for name in names]))
    return TippingPoints(xr.Dataset({**parts, "observed_sd": sds}, {"strength": b, "column": names}))
