"""Multiple imputation: completed tables whose spread counts the uncertainty of the weights, and Rubin's rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyrovae.data import Data, as_data
from pyrovae.data.splits import keys_of_rows
from pyrovae.errors import check_integer, refusal
from pyrovae.evaluation import impute
from pyrovae.programs.rows import MAX_BYTES, bar, mixed

if TYPE_CHECKING:
    import pandas as pd


def multiple_imputation(
    refit: Callable[[Data, int], Any],
    data: Any,
    covariates: Mapping[str, Any] | None = None,
    *,
    train: Any = None,
    groups: Any = None,
    num_tables: int = 20,
    num_proposals: int = 1000,
    seed: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> list[Data]:
    r"""Completes a table several times, each time by a program that is fitted to other rows drawn with replacement.

    .. math:: \hat\theta_j = \hat\theta(\text{rows, or groups, drawn with replacement}), \qquad
        x^{(j)}_{\mathrm{mis}} \sim p_{\hat\theta_j}(x_{\mathrm{mis}} \mid x_{\mathrm{obs}}), \qquad j = 1, \dots, m

    The refits carry the uncertainty of the weights, the draws that of the entries given the weights. Analyse each table as if
    it were complete, and join the estimates by :func:`pool`. Entries are taken to be missing at random.

    Args:
        refit: ``refit(rows, seed)`` fits a new program to rows and returns it.
        data: the table, N rows; NaN is a missing entry.
        covariates: for each name, a tensor of N rows.
        train: the rows to draw from for the refits, where they are others than the table's.
        groups: the group of each row to draw from, such as its patient: the name of a label, or one value per row. Whole
            groups are drawn then, since rows of one group are alike.
        num_tables: the number of tables, m.
        num_proposals: draws of the guide from which the latents of each row are chosen.
        seed: of rows, refits and draws; None takes one from torch's random state.
        max_bytes: refuse what needs more memory.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Returns:
        The tables, complete, with the columns, levels and row names of the data.

    Raises:
        ValueError: fewer than one table.

    Reference: Rubin 1987, doi:10.1002/9780470316696; Efron 1994, doi:10.1080/01621459.1994.10476768 (the bootstrap).

    >>> import pyrovae as pvae
    >>> def refit(rows, seed):
    ...     vae = pvae.build_vae(3, likelihood="normal", latent_dim=1, hidden=(4,), start=rows, seed=seed)
    ...     pvae.fit(vae, rows, epochs=1, seed=seed, progress=False)
    ...     return vae
    >>> x = torch.randn(50, 3)
    >>> x[:10, 0] = torch.nan
    >>> tables = multiple_imputation(refit, x, num_tables=2, num_proposals=50, seed=0)
    >>> len(tables), tables[0].complete
    (2, True)
    """
    check_integer("num_tables", num_tables)
    rows = as_data(data, covariates)
    source = rows if train is None else as_data(train)
    keys = keys_of_rows(source, groups, None)
    keys = torch.arange(len(source)) if keys is None else keys
    units = keys.argsort(stable=True).split(keys.bincount().tolist())
    seed = int(torch.randint(2**31, ())) if seed is None else seed
    tables = []
    for number in bar(range(num_tables), "tables", progress):
        own = mixed(seed, number) % 2**31
        generator = torch.Generator().manual_seed(own)
        picked = torch.randint(len(units), (len(units),), generator=generator)
        chosen = source[torch.cat([units[unit] for unit in picked.tolist()])]
        options: dict[str, Any] = {"num_proposals": num_proposals, "max_bytes": max_bytes, "progress": False}
        found = impute(refit(chosen, own), rows, num_samples=1, seed=own, **options)
        tables.append(replace(rows, x=found.draws[0]))
    return tables


def pool(fits: Sequence[Any], df: float | None = None, level: float = 0.95) -> pd.DataFrame:
    r"""Joins the estimates of several completed tables by Rubin's rules.

    .. math:: \bar Q = \tfrac1m \sum_j \hat Q_j, \qquad T = \bar U + \bigl(1 + \tfrac1m\bigr) B, \qquad
        (\bar Q - Q) / \sqrt T \sim t_\nu

    with U the mean of the squared standard errors and B the variance of the estimates between tables.

    Args:
        fits: for each table, a pair of estimates and standard errors (arrays, or dicts or Series by name), or a result with
            ``params`` and ``bse``, as statsmodels has them.
        df: degrees of freedom of the analysis of a complete table (rows less coefficients); by default ``df_resid`` of the
            fits, else without bound.
        level: the content of the intervals.

    Returns:
        A frame with a line for each coefficient: ``estimate``, ``se`` (the root of T), ``df`` (Barnard and Rubin's), ``low``
        and ``high``, ``fmi`` (the fraction of missing information) and ``riv`` (the relative increase of the variance).

    Raises:
        ValueError: fewer than two fits, fits of different coefficients, or numbers out of range.

    Reference: Rubin 1987, doi:10.1002/9780470316696; Barnard & Rubin 1999, doi:10.1093/biomet/86.4.948.

    >>> pool([([1.0], [0.5]), ([2.0], [0.5]), ([3.0], [0.5])]).round(3).T[0].tolist()
    [2.0, 1.258, 2.82, -2.153, 6.153, 0.896, 5.333]
    """
    import pandas as pd
    from scipy.stats import t

    if len(fits) < 2:
        raise refusal(f"pool takes the fits of at least 2 completed tables, got {len(fits)}", "fits")
    if not 0 < level < 1:
        raise refusal(f"level is the content of the intervals, between 0 and 1, got {level}", "level")
    pairs = [(fit.params, fit.bse) if hasattr(fit, "params") else fit for fit in fits]
    estimates = pd.DataFrame([pd.Series(_plain(q)) for q, _ in pairs])
    errors = pd.DataFrame([pd.Series(_plain(se)) for _, se in pairs])
    if errors.shape == estimates.shape and not isinstance(pairs[0][1], Mapping | pd.Series):
        errors.columns = estimates.columns  # errors without names are in the order of the estimates
    same = set(errors.columns) == set(estimates.columns)
    if not same or estimates.isna().any(axis=None) or not (errors > 0).all(axis=None):
        raise refusal("expected the same coefficients in every fit, with positive standard errors", "fits")
    df = min(float(getattr(fit, "df_resid", math.inf)) for fit in fits) if df is None else float(df)
    count, within, between = len(fits), (errors**2).mean(), estimates.var(ddof=1)
    added = (1 + 1 / count) * between
    total = within + added
    share, riv = added / total, added / within
    with np.errstate(divide="ignore"):
        large = (count - 1) / share**2
        observed = (df + 1) / (df + 3) * df * (1 - share) if math.isfinite(df) else np.inf * (1 - share)
        degrees = 1 / (1 / large + 1 / observed)
    half = t.ppf((1 + level) / 2, degrees) * np.sqrt(total)
    mean = estimates.mean()
    columns = {"estimate": mean, "se": np.sqrt(total), "df": degrees, "low": mean - half, "high": mean + half}
    return pd.DataFrame({**columns, "fmi": (riv + 2 / (degrees + 3)) / (riv + 1), "riv": riv})


def _plain(values: Any) -> Any:
    return values.detach().numpy() if isinstance(values, torch.Tensor) else values
