"""A comparison of models in the form that ArviZ's own functions take, on either of its lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae.arviz.containers import import_arviz, is_old
from pyrovae.limits import MOST_K, too_many_bad_k

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

    from pyrovae.comparison import Comparison

COLUMNS = ["rank", "elpd", "elpd_diff", "weight", "se", "dse"]


def to_elpd_data(comparison: Comparison) -> dict[str, Any]:
    """One ``ELPDData`` for each model, which ``arviz.compare`` takes: held-out log densities in the place of loo's.

    ArviZ 0.23's stacking weights silently become equal where the log densities exceed about 700 nats a row; those of the
    comparison itself do not.

    Args:
        comparison: from :func:`pyrovae.compare`.

    Raises:
        TypeError: something else was given.

    >>> import numpy as np, pyrovae as pvae
    >>> sorted(to_elpd_data(pvae.compare({"a": np.zeros(5), "b": np.zeros(5) - 1.0})))
    ['a', 'b']
    """
    points = _checked(comparison).pointwise
    return {name: elpd_data(points[name].log_p, points[name].num_samples) for name in comparison.frame.index}


def to_compare_frame(comparison: Comparison) -> pd.DataFrame:
    """The table in the form of ``arviz.compare``'s, which ``arviz.plot_compare`` takes, for the installed line of ArviZ.

    Args:
        comparison: from :func:`pyrovae.compare`.

    Raises:
        TypeError: something else was given.

    >>> import numpy as np, pyrovae as pvae
    >>> table = pvae.compare({"a": np.zeros(5), "b": np.zeros(5) - 1.0})
    >>> list(to_compare_frame(table).index)
    ['a', 'b']
    """
    return compare_frame(_checked(comparison).frame)


def _checked(comparison: Any) -> Comparison:
    if not hasattr(comparison, "pointwise") or not hasattr(comparison, "frame"):
        raise TypeError(
            f"expected what pyrovae.compare returned, got {type(comparison).__name__}; write "
            "compare({'one': first, 'two': second}, x) and give its result whole"
        )
    return comparison


def elpd_data(log_p: ArrayLike, num_samples: int | None = None) -> Any:
    r"""Held-out log densities as an ``ELPDData``, of which ``arviz.compare`` takes a dict.

    They stand where leave-one-out estimates would: :math:`\mathrm{elpd} = \sum_i \log p(x_i)`, with the standard error
    :math:`\sqrt{N\,\mathrm{var}_i \log p(x_i)}`.

    Args:
        log_p: log p(x_i) of each held-out row, shape ``(data,)``, nats.
        num_samples: draws behind each of them, if any.

    Raises:
        ValueError: ``log_p`` is not one number for each row.

    >>> elpd_data([-1.0, -3.0]).n_data_points
    2
    """
    import xarray as xr

    values = np.asarray(log_p, dtype=float)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"expected one log density for each row, shape (data,), got shape {values.shape}")
    rows = xr.DataArray(values, dims=["data"], coords={"data": range(len(values))}, name="loo_i")
    known = {
        "se": float(np.sqrt(len(values) * np.var(values))),
        "n_samples": num_samples or 1,
        "n_data_points": len(values),
        "warning": False,
        "scale": "log",
    }
    if is_old():
        ELPDData = import_arviz().stats.ELPDData
        series = {"elpd_loo": values.sum(), "p_loo": np.nan, **known, "loo_i": rows}
        return ELPDData(data=list(series.values()), index=list(series))
    from arviz_stats import utils

    record = {"elpd": values.sum(), "p": np.nan, **known, "good_k": MOST_K, "elpd_i": rows}
    of_loo = getattr(utils, "ELPDDataLOO", None)  # before 1.3 of arviz-stats one class was told its kind
    return utils.ELPDData(kind="loo", **record) if of_loo is None else of_loo(**record)


def compare_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """A table of comparison with the columns that ``arviz.plot_compare`` takes, for the installed line of ArviZ.

    ArviZ 0.x calls its column ``elpd_loo`` and counts ``elpd_diff`` upwards from the best model; 1.x calls it ``elpd`` and
    counts downwards.

    Args:
        frame: one row for each model, with the columns ``rank``, ``elpd``, ``elpd_diff`` (at most zero), ``weight``, ``se``,
            ``dse`` and ``pct_bad_k``.

    Raises:
        ValueError: a column is missing.

    >>> import pandas as pd
    >>> table = {"rank": [0], "elpd": [-9.0], "elpd_diff": [0.0], "weight": [1.0], "se": [1.0], "dse": [0.0], "pct_bad_k": [0.0]}
    >>> "elpd_diff" in compare_frame(pd.DataFrame(table, index=["a"])).columns
    True
    """
    missing = [name for name in (*COLUMNS, "pct_bad_k") if name not in frame.columns]
    if missing:
        raise ValueError(f"expected the columns {', '.join(COLUMNS)} and pct_bad_k, missing: {', '.join(missing)}")
    table = frame[COLUMNS].copy()
    table.insert(2, "p", np.nan)
    table["warning"] = too_many_bad_k(frame["pct_bad_k"].fillna(0.0) / 100)
    if is_old():
        table["elpd_diff"] = -table["elpd_diff"]
        table = table.rename(columns={"elpd": "elpd_loo", "p": "p_loo"})
    table["scale"] = "log"
    return table
