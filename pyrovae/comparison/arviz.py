"""A comparison in the form that ArviZ's own functions take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae.comparison.pointwise import Pointwise
from pyrovae.comparison.table import Comparison

if TYPE_CHECKING:
    import pandas as pd


def to_elpd_data(comparison: Comparison) -> dict[str, Any]:
    """One ``ELPDData`` for each model, which ``arviz.compare`` takes: held-out log densities in the place of loo's.

    ArviZ 0.23's stacking weights silently become equal where the log densities exceed about 700 nats a row; those of the
    comparison itself do not.

    Args:
        comparison: from :func:`pyrovae.compare`.

    >>> import numpy as np, pyrovae as pvae
    >>> sorted(to_elpd_data(pvae.compare({"a": np.zeros(5), "b": np.zeros(5) - 1.0})))
    ['a', 'b']
    """
    return {name: _elpd_data(comparison.pointwise[name]) for name in comparison.frame.index}


def to_compare_frame(comparison: Comparison) -> pd.DataFrame:
    """The table in the form of ``arviz.compare``'s, which ``arviz.plot_compare`` takes, for the installed line of ArviZ.

    ArviZ 0.x calls its column ``elpd_loo`` and counts ``elpd_diff`` upwards from the best model; 1.x calls it ``elpd`` and
    counts downwards.

    Args:
        comparison: from :func:`pyrovae.compare`.

    >>> import numpy as np, pyrovae as pvae
    >>> table = pvae.compare({"a": np.zeros(5), "b": np.zeros(5) - 1.0})
    >>> list(to_compare_frame(table).index)
    ['a', 'b']
    """
    frame = comparison.frame[["rank", "elpd", "elpd_diff", "weight", "se", "dse"]].copy()
    frame.insert(2, "p", np.nan)
    frame["warning"] = comparison.frame["pct_bad_k"].fillna(0.0) > 5
    if _is_old():
        frame["elpd_diff"] = -frame["elpd_diff"]
        frame = frame.rename(columns={"elpd": "elpd_loo", "p": "p_loo"})
    frame["scale"] = "log"
    return frame


def _is_old() -> bool:
    import arviz

    return arviz.__version__.startswith("0.")


def _elpd_data(point: Pointwise) -> Any:
    import xarray as xr

    pointwise = xr.DataArray(point.log_p, dims=["data"], coords={"data": range(len(point.log_p))}, name="loo_i")
    se = float(np.sqrt(len(point.log_p) * np.var(point.log_p)))
    if _is_old():
        from arviz.stats import ELPDData

        known = {
            "elpd_loo": point.elpd,
            "se": se,
            "p_loo": np.nan,
            "n_samples": point.num_samples or 1,
            "n_data_points": len(point.log_p),
            "warning": False,
            "loo_i": pointwise,
            "scale": "log",
        }
        return ELPDData(data=list(known.values()), index=list(known))
    from arviz_stats.utils import ELPDData as NewELPDData

    return NewELPDData(
        kind="loo",
        elpd=point.elpd,
        se=se,
        p=np.nan,
        n_samples=point.num_samples or 1,
        n_data_points=len(point.log_p),
        scale="log",
        warning=False,
        good_k=0.7,
        elpd_i=pointwise,
    )
