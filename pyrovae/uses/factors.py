"""Factor models: the loadings of a linear decoder, rotated, with errors over refits; scores, their reliability, item bias."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyrovae.conditionals import TableLikelihood
from pyrovae.distributions.table import TableDistribution
from pyrovae.errors import check_word, refusal

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

KAPPA = 4
"""The power to which promax raises varimax loadings."""
TOLERANCE, TINY, ROUNDS = 1e-9, 1e-12, 1000
_NUMBERS, _LEVELS = ("real", "positive"), ("binary", "ordinal")


@dataclass(frozen=True, eq=False)
class Factors:
    r"""Rotated factors, the result of :func:`factor_loadings`.

    .. math:: f = T z, \qquad x^*_j = \textstyle\sum_k l_{jk} f_k + \sqrt{1 - h_j^2}\, \varepsilon_j

    Attributes:
        loadings: l, columns by factors: standard deviations of the column (of the number behind its levels, for levels) per
            standard deviation of the factor.
        errors: their standard errors, the spread over the refits; NaN without refits.
        correlations: of the factors.
        transform: T, ``(factors, latents)``.
    """

    loadings: pd.DataFrame
    errors: pd.DataFrame
    correlations: pd.DataFrame
    transform: np.ndarray

    @property
    def communalities(self) -> pd.Series:
        """The share of each column's variance that the factors explain, h squared."""
        return (self.loadings @ self.correlations * self.loadings).sum(axis=1).rename("communality")

    def scores(self, draws: Any) -> xr.Dataset:
        r"""The factors of each row, and how reliable their estimates are.

        .. math:: \rho_k = \frac{\operatorname{Var}_i\, \mathrm E(f_{ik} \mid x_i)}
            {\operatorname{Var}_i\, \mathrm E(f_{ik} \mid x_i) + \mathrm E_i \operatorname{Var}(f_{ik} \mid x_i)}

        Args:
            draws: of the latents of N rows, ``(samples, N, latents)``, as by ``pvae.posterior_draws(vae, data).values["z"]``.

        Returns:
            A Dataset with ``score`` and ``sd`` over ``data`` and ``factor``, and ``reliability`` over ``factor``.
        """
        import xarray as xr

        z = np.asarray(draws, np.float64)
        if z.ndim != 3 or z.shape[-1] != self.transform.shape[1]:
            expected = f"(samples, rows, {self.transform.shape[1]})"
            raise refusal(f"expected draws of shape {expected}, got {z.shape}", "draws")
        found = z @ self.transform.T
        mean, variance = found.mean(0), found.var(0, ddof=1)
        between = mean.var(0) - variance.mean(0) / len(z)  # the noise of a mean of so many draws is taken off
        cells = {"score": (("data", "factor"), mean), "sd": (("data", "factor"), np.sqrt(variance))}
        reliability = between / (between + variance.mean(0))
        return xr.Dataset({**cells, "reliability": ("factor", reliability)}, {"factor": list(self.loadings.columns)})

    def __repr__(self) -> str:
        return f"Factors of {len(self.loadings)} columns:\n{self.loadings.round(2).to_string()}"


def factor_loadings(
    fits: Any, covariates: Mapping[str, Any] | None = None, *, rotation: str = "varimax", names: Sequence[str] = ()
) -> Factors:
    r"""The loadings of a VAE whose decoder is linear, standardized and rotated to simple structure.

    .. math:: l_j = \frac{\lambda_j}{\sqrt{\lambda_j^\top \lambda_j + \sigma_j^2}}, \qquad
        \sigma_j^2 = \pi^2 / 3 \ \text{for levels}

    Loadings of several fits are rotated one by one; factors are matched by the order and the signs that bring them
    closest to the first fit's. The largest factor comes first; the sum of a factor's loadings is positive.

    Args:
        fits: a VAE with a standard normal prior, a linear decoder (``decoder_hidden=()``) and a likelihood of a table whose
            columns are real, positive, binary or ordinal; or several, the first of the data and refits to rows drawn with
            replacement, whose spread estimates the standard errors.
        covariates: the values of one row for a decoder that reads covariates; the loadings do not depend on them.
        rotation: ``"varimax"``, orthogonal; ``"promax"``, whose factors are correlated; or ``"none"``.
        names: of the factors; by default ``f1``, ``f2``, ...

    Raises:
        TypeError: the likelihood is not one of a table.
        ValueError: the decoder is not linear, or a column has another kind.

    Reference: Kaiser 1958, doi:10.1007/BF02289233 (varimax); Hendrickson & White 1964,
    doi:10.1111/j.2044-8317.1964.tb00244.x (promax); Takane & de Leeuw 1987, doi:10.1007/BF02294363 (loadings of levels).
    """
    import pandas as pd

    check_word("rotation", rotation, ("varimax", "promax", "none"))
    vaes = list(fits) if isinstance(fits, list | tuple) else [fits]
    found = [_ordered(*rotate(_standardized(vae, covariates), rotation)) for vae in vaes]
    first, transform = found[0]
    count = first.shape[1]
    if names and len(names) != count:
        raise refusal(f"expected {count} names, one for each factor, got {len(names)}", "names")
    refits = np.stack([_matched(loadings, first) for loadings, _ in found[1:]]) if len(found) > 2 else None
    errors = np.full_like(first, np.nan) if refits is None else refits.std(0, ddof=1)
    columns = [column.name for column in vaes[0].likelihood.schema.columns]
    axes: tuple[Any, Any] = (columns, list(names) or [f"f{number + 1}" for number in range(count)])
    correlations = pd.DataFrame(transform @ transform.T, axes[1], axes[1])
    return Factors(pd.DataFrame(first, *axes), pd.DataFrame(errors, *axes), correlations, transform)


def rotate(loadings: Any, rotation: str = "varimax") -> tuple[np.ndarray, np.ndarray]:
    r"""Rotates loadings to simple structure, where each column loads on few factors; rows are weighted alike (Kaiser).

    .. math:: L T = \Lambda, \qquad T^* = \arg\max_{T T^\top = I}
        \sum_k \operatorname{Var}_j \bigl((\Lambda T^\top)_{jk}^2 / h_j^2\bigr)

    Args:
        loadings: Λ, ``(columns, latents)``.
        rotation: ``"varimax"``, ``"promax"`` or ``"none"``.

    Returns:
        The rotated loadings L and the matrix T of the factors T z; the factors' correlations are T times its transpose.

    >>> rotated, transform = rotate([[0.6, 0.6], [0.5, 0.5], [0.6, -0.6], [0.5, -0.5]])
    >>> abs(rotated).round(3).tolist()
    [[0.849, 0.0], [0.707, 0.0], [0.0, 0.849], [0.0, 0.707]]
    """
    found = np.asarray(loadings, np.float64)
    if rotation == "none" or found.shape[1] == 1:
        return found, np.eye(found.shape[1])
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    weighted = found / np.where(lengths > 0, lengths, 1.0)
    turn = _varimax(weighted)
    rotated = found @ turn
    if rotation == "varimax":
        return rotated, turn.T
    target = rotated * np.abs(rotated) ** (KAPPA - 1)
    oblique = np.linalg.lstsq(rotated, target, rcond=None)[0]
    oblique = oblique * np.sqrt(np.diag(np.linalg.inv(oblique.T @ oblique)))  # factors of variance one
    return rotated @ oblique, np.linalg.inv(oblique) @ turn.T


def _varimax(loadings: np.ndarray) -> np.ndarray:
    """The orthogonal matrix that rotates loadings, plane by plane, each by the best angle (Kaiser's)."""
    turn = np.eye(loadings.shape[1])
    for _ in range(ROUNDS):
        largest = 0.0
        for plane in itertools.combinations(range(len(turn)), 2):
            x, y = (loadings @ turn[:, plane]).T
            pairs = (x + 1j * y) ** 2
            sums = (pairs**2).sum() - pairs.sum() ** 2 / len(pairs)
            angle = float(np.angle(sums)) / 4 if abs(sums) > TINY else 0.0
            turn[:, plane] = turn[:, plane] @ [
                [math.cos(angle), -math.sin(angle)],
                [math.sin(angle), math.cos(angle)],
            ]
            largest = max(largest, abs(angle))
        if largest < TOLERANCE:
            break
    return turn


def item_bias(
    fits: Any, reference: Mapping[str, Any], focal: Mapping[str, Any], *, rotation: str = "varimax"
) -> tuple[pd.DataFrame, pd.Series]:
    r"""Which columns differ between two groups by more than the factors explain (differential item functioning).

    .. math:: s_j = \sum_k l_{jk} \delta_k + b_j, \qquad \hat\delta = \arg\min_\delta \sum_j |s_j - \textstyle\sum_k l_{jk}
        \delta_k|

    The decoder reads the group; s is the shift of each column between the groups at equal latents, in standard deviations of
    the column. What the factors can explain, the difference δ of the groups in their means, is taken off by a regression
    through the median, so that most columns are taken to be free of bias; the rest is the bias b.

    Args:
        fits: as in :func:`factor_loadings`; refits give the standard errors.
        reference: the covariates of one row of the reference group, as in ``{"gender": [0]}``.
        focal: those of one row of the other group.
        rotation: as in :func:`factor_loadings`.

    Returns:
        A frame with ``bias`` and ``se`` by column, and the ``impact`` δ by factor, in standard deviations of the factor.

    Reference: Holland & Wainer 1993, Differential Item Functioning; Wang, Liu & Liu 2023, doi:10.1007/s11336-022-09887-4.
    """
    import pandas as pd

    vaes = list(fits) if isinstance(fits, list | tuple) else [fits]
    first = factor_loadings(vaes[0], reference, rotation=rotation)
    biases, impact = [], np.zeros(0)
    for vae in vaes:
        loadings = _standardized(vae, reference)
        shift = (_located(vae, focal) - _located(vae, reference))[0] / _spread(vae, reference)
        found = _median_regression(loadings, shift)
        biases.append(shift - loadings @ found)
        impact = impact if len(impact) else first.transform @ found
    errors = np.std(biases[1:], axis=0, ddof=1) if len(biases) > 2 else np.nan
    frame = pd.DataFrame({"bias": biases[0], "se": errors}, first.loadings.index)
    return frame, pd.Series(impact, first.loadings.columns, name="impact")


def _median_regression(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The coefficients with the least sum of absolute residuals."""
    from scipy.optimize import linprog

    rows, columns = x.shape
    cost = np.concatenate([np.zeros(columns), np.ones(2 * rows)])
    equal = np.concatenate([x, np.eye(rows), -np.eye(rows)], 1)
    return linprog(cost, A_eq=equal, b_eq=y, bounds=[(None, None)] * columns + [(0, None)] * (2 * rows)).x[:columns]


def _standardized(vae: Any, covariates: Mapping[str, Any] | None) -> np.ndarray:
    """The loadings of a linear decoder, ``(columns, latents)``, in units of the columns' spread."""
    located = _located(vae, covariates)
    doubled, slopes = located[-1], (located[1:-1] - located[0]).T
    if not np.allclose(doubled - located[0], 2 * slopes.sum(1), rtol=1e-3, atol=1e-4):
        raise refusal("loadings are those of a linear decoder: build the VAE with decoder_hidden=()", "fits")
    return slopes / _spread(vae, covariates)[:, None]


def _spread(vae: Any, covariates: Mapping[str, Any] | None) -> np.ndarray:
    """The standard deviation of each column, or of the number behind its levels, in the units of its location."""
    located, own = _located(vae, covariates), _distribution(vae, covariates)
    noise = []
    for column in vae.likelihood.schema.columns:
        is_number = column.kind in _NUMBERS
        noise.append(float(own.column(column.name).scale[0]) / column.units[1] if is_number else math.pi / math.sqrt(3))
    return np.sqrt(((located[1:-1] - located[0]) ** 2).sum(0) + np.square(noise))


def _located(vae: Any, covariates: Mapping[str, Any] | None) -> np.ndarray:
    """The columns' locations at the latents 0, at the unit vectors, and at two of their sum."""
    own = _distribution(vae, covariates)
    return own.located[:, own.schema.order].double().numpy()


def _distribution(vae: Any, covariates: Mapping[str, Any] | None) -> TableDistribution:
    likelihood = getattr(vae, "likelihood", None)
    if not isinstance(likelihood, TableLikelihood) or likelihood.net is None:
        raise refusal(f"expected a VAE with a likelihood of a table, got {type(vae).__name__}", "fits", TypeError)
    wrong = [c.name for c in likelihood.schema.columns if c.kind not in (*_NUMBERS, *_LEVELS)]
    if wrong:
        kinds = ", ".join((*_NUMBERS, *_LEVELS))
        raise refusal(f"loadings are of columns that are {kinds}; {wrong[0]!r} is of another kind", "fits")
    like = next(likelihood.parameters())
    size = math.prod(likelihood.net.in_shape)
    z = torch.cat([torch.zeros(1, size), torch.eye(size), torch.full((1, size), 2.0)]).to(like)
    rows = {k: torch.as_tensor(v).reshape(1, -1)[:, 0].expand(len(z)) for k, v in (covariates or {}).items()}
    with torch.no_grad():
        return likelihood(z, covariates={k: v.to(like.device) for k, v in rows.items()} or None)


def _ordered(loadings: np.ndarray, transform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest factor first, each with a positive sum of loadings."""
    order = (-(loadings**2).sum(0)).argsort()
    signs = np.where(loadings.sum(0) < 0, -1.0, 1.0)
    return (loadings * signs)[:, order], (transform * signs[:, None])[order]


def _matched(loadings: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The loadings with their factors in the order and with the signs that bring them closest to others."""
    from scipy.optimize import linear_sum_assignment

    products = like.T @ loadings
    places = linear_sum_assignment(-np.abs(products))[1]
    return loadings[:, places] * np.where(products[np.arange(len(places)), places] < 0, -1.0, 1.0)
