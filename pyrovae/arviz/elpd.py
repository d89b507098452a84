"""Pointwise log densities and tables of comparison, in the form that ArviZ's own functions take on either line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae.arviz.containers import import_arviz
from pyrovae.limits import MOST_K, too_many_bad_k

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike


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
    values = np.asarray(log_p, dtype=float)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"expected one log density for each row, shape (data,), got shape {values.shape}")
    make = _old_elpd_data if _is_old() else _new_elpd_data
    return make(values, float(np.sqrt(len(values) * np.var(values))), num_samples or 1, _pointwise(values))


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
    wanted = ["rank", "elpd", "elpd_diff", "weight", "se", "dse"]
    missing = [name for name in (*wanted, "pct_bad_k") if name not in frame.columns]
    if missing:
        raise ValueError(f"expected the columns {', '.join(wanted)} and pct_bad_k, missing: {', '.join(missing)}")
    table = frame[wanted].copy()
    table.insert(2, "p", np.nan)
    table["warning"] = too_many_bad_k(frame["pct_bad_k"].fillna(0.0) / 100)
    if _is_old():
        table["elpd_diff"] = -table["elpd_diff"]
        table = table.rename(columns={"elpd": "elpd_loo", "p": "p_loo"})
    table["scale"] = "log"
    return table


def _is_old() -> bool:
    return import_arviz().__version__.startswith("0.")


def _pointwise(values: np.ndarray) -> Any:
    import xarray as xr

    return xr.DataArray(values, dims=["data"], coords={"data": range(len(values))}, name="loo_i")


def _old_elpd_data(values: np.ndarray, se: float, num_samples: int, pointwise: Any) -> Any:
    from arviz.stats import ELPDData

    known = {
        "elpd_loo": values.sum(),
        "se": se,
        "p_loo": np.nan,
        "n_samples": num_samples,
        "n_data_points": len(values),
        "warning": False,
        "loo_i": pointwise,
        "scale": "log",
    }
    return ELPDData(data=list(known.values()), index=list(known))


def _new_elpd_data(values: np.ndarray, se: float, num_samples: int, pointwise: Any) -> Any:
    from arviz_stats import utils

    known = {
        "elpd": values.sum(),
        "se": se,
        "p": np.nan,
        "n_samples": num_samples,
        "n_data_points": len(values),
        "scale": "log",
        "warning": False,
        "good_k": MOST_K,
        "elpd_i": pointwise,
    }
    of_loo = getattr(utils, "ELPDDataLOO", None)  # before 1.3 of arviz-stats one class was told its kind
    return utils.ELPDData(kind="loo", **known) if of_loo is None else of_loo(**known)
