"""Two sets of posterior draws side by side: how far the guide is from the reference, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pyrovae.checks.entries import array

Array = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class PosteriorComparison:
    """Draws held against reference draws; lengths in units of the reference's standard deviation.

    Attributes:
        shift: by site, the difference of means, shape ``(data, *event_shape)``.
        sd_ratio: by site, the ratio of standard deviations, likewise.
        wasserstein: by site, the 1-Wasserstein distance of the marginals, likewise.
        correlation: by site, the root-mean-square difference of correlations between entries, shape ``(data,)``; zero for
            a single entry.
    """

    shift: dict[str, Array]
    sd_ratio: dict[str, Array]
    wasserstein: dict[str, Array]
    correlation: dict[str, Array]

    def table(self) -> dict[str, dict[str, float]]:
        """Medians and 95 % quantiles over rows and entries, by site."""
        return {name: self._row(name) for name in self.shift}

    def _row(self, name: str) -> dict[str, float]:
        return {
            "shift": float(np.median(np.abs(self.shift[name]))),
            "shift_95": float(np.quantile(np.abs(self.shift[name]), 0.95)),
            "sd_ratio": float(np.median(self.sd_ratio[name])),
            "wasserstein": float(np.median(self.wasserstein[name])),
            "wasserstein_95": float(np.quantile(self.wasserstein[name], 0.95)),
            "correlation": float(np.median(self.correlation[name])),
        }

    def summary(self) -> str:
        """The typical differences in words, with what to do about each."""
        return "\n".join(line for name in self.shift for line in self._words(name))

    def _words(self, name: str) -> list[str]:
        row = self._row(name)
        lines = [
            f"{name}: means differ by {row['shift']:.2f} reference sd (95 %: {row['shift_95']:.2f}), sd ratio "
            f"{row['sd_ratio']:.2f}, Wasserstein distance {row['wasserstein']:.2f} sd."
        ]
        if row["shift_95"] > 0.5:
            lines.append(f"{name}: for some rows the guide's mean is off; refine per datum, or train longer.")
        if not 0.8 <= row["sd_ratio"] <= 1.25:
            lines.append(f"{name}: the guide's width is off; refine per datum, or use a richer guide.")
        if row["correlation"] > 0.2:
            lines.append(f"{name}: correlations differ; use a full-covariance guide or a flow.")
        return lines

    def __repr__(self) -> str:
        return f"PosteriorComparison\n{self.summary()}"


def compare_posteriors(draws: Any, reference: Any) -> PosteriorComparison:
    r"""Holds draws of the guide against draws of the reference: means, widths, marginals and correlations.

    .. math:: \mathrm{shift} = \frac{\bar z - \bar z^{*}}{s^{*}}, \qquad
        W_1 = \frac1{s^{*}} \int_0^1 |F^{-1}(u) - F_{*}^{-1}(u)|\, du

    Args:
        draws: :class:`PosteriorDraws`, :class:`ReferencePosterior`, or draws by site of shape
            ``(samples, data, *event_shape)``.
        reference: likewise, for the same rows.

    Raises:
        ValueError: no site in common, or other rows.

    >>> import torch
    >>> a, b = torch.randn(2, 1000, 3)
    >>> compare_posteriors({"z": a}, {"z": b}).sd_ratio["z"].shape
    (3,)
    """
    first, second = _by_site(draws), _by_site(reference)
    names = [name for name in second if name in first]
    if not names or any(first[n].shape[1:] != second[n].shape[1:] for n in names):
        shapes = [{n: tuple(v.shape) for n, v in side.items()} for side in (first, second)]
        raise ValueError(
            f"expected draws of the same sites and rows, (samples, data, ...), got {shapes[0]} and {shapes[1]}"
        )
    pairs = {n: (array(first[n]), array(second[n])) for n in names}
    return PosteriorComparison(
        {n: (a.mean(0) - b.mean(0)) / b.std(0, ddof=1) for n, (a, b) in pairs.items()},
        {n: a.std(0, ddof=1) / b.std(0, ddof=1) for n, (a, b) in pairs.items()},
        {n: _wasserstein(a, b) / b.std(0, ddof=1) for n, (a, b) in pairs.items()},
        {n: _correlation(a, b) for n, (a, b) in pairs.items()},
    )


def _by_site(draws: Any) -> Mapping[str, Tensor]:
    return draws if isinstance(draws, Mapping) else draws.draws()


def _wasserstein(a: Array, b: Array, grid_size: int = 512) -> Array:
    """By quantiles on one grid, which serves any two numbers of draws."""
    grid = (np.arange(grid_size) + 0.5) / grid_size
    return np.abs(np.quantile(a, grid, axis=0) - np.quantile(b, grid, axis=0)).mean(0)


def _correlation(a: Array, b: Array) -> Array:
    differences = [_correlations(values.reshape(*values.shape[:2], -1)) for values in (a, b)]
    size = differences[0].shape[-1]
    off = ~np.eye(size, dtype=bool)
    if size == 1:
        return np.zeros(a.shape[1])
    return np.sqrt(((differences[0] - differences[1])[:, off] ** 2).mean(-1))


def _correlations(values: Array) -> Array:
    z = (values - values.mean(0)) / np.maximum(values.std(0), 1e-300)
    return np.einsum("sbi,sbj->bij", z, z) / len(z)
