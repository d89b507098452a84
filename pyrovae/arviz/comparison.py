"""A comparison of models in the form that ArviZ's own functions take, on either of its lines."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae.arviz.containers import import_arviz, is_old
from pyrovae.limits import MOST_K, too_many_bad_k

if TYPE_CHECKING:
    import pandas as pd

    from pyrovae.comparison import Comparison


def to_elpd_data(comparison: Comparison) -> dict[str, Any]:
    r"""One ``ELPDData`` for each model, which ``arviz.compare`` takes: held-out log densities in the place of loo's.

    .. math:: \mathrm{elpd} = \sum_i \log p(x_i), \qquad \mathrm{se} = \sqrt{N\,\mathrm{var}_i \log p(x_i)}

    ArviZ 0.23's stacking weights silently become equal where the log densities exceed about 700 nats per row; those of the
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
    return {name: _elpd_data(points[name].log_p, points[name].num_samples) for name in comparison.frame.index}


def to_compare_frame(comparison: Comparison) -> pd.DataFrame:
    """The table in the form of ``arviz.compare``'s, which ``arviz.plot_compare`` takes, for the installed line of ArviZ.

    ArviZ 0.x calls its column ``elpd_loo`` and counts ``elpd_diff`` upwards from the best model; 1.x calls it ``elpd`` and
    counts downwards.

    Args:
        comparison: from :func:`pyrovae.compare`.

    Raises:
        TypeError: something else was given.

    >>> import numpy as np, pyrovae as pvae
    >>> table = pvae.compare({"a": np.zeros(5), "b": np.zeros(5) - 1.0})
    >>> list(to_compare_frame(table).index)
    ['a', 'b']
    """
    frame = _checked(comparison).frame
    table = frame[["rank", "elpd", "elpd_diff", "weight", "se", "dse"]].copy()
    table.insert(2, "p", np.nan)
    table["warning"] = too_many_bad_k(frame["pct_bad_k"].fillna(0.0) / 100)
    if is_old():
        table["elpd_diff"] = -table["elpd_diff"]
        table = table.rename(columns={"elpd": "elpd_loo", "p": "p_loo"})
    table["scale"] = "log"
    return table


def _checked(comparison: Any) -> Comparison:
    if not hasattr(comparison, "pointwise") or not hasattr(comparison, "frame"):
        raise TypeError(
            f"expected what pyrovae.compare returned, got {type(comparison).__name__}; write "
            "compare({'one': first, 'two': second}, x) and give its result whole"
        )
    return comparison  # type: ignore[no-any-return]


def _elpd_data(log_p: np.ndarray, num_samples: int | None) -> Any:
    import xarray as xr

    rows = xr.DataArray(log_p, dims=["data"], coords={"data": range(len(log_p))}, name="loo_i")
    known = {
        "se": float(np.sqrt(len(log_p) * np.var(log_p))),
        "n_samples": num_samples or 1,
        "n_data_points": len(log_p),
        "warning": False,
        "scale": "log",
    }
    if is_old():
        series = {"elpd_loo": log_p.sum(), "p_loo": np.nan, **known, "loo_i": rows}
        return import_arviz().stats.ELPDData(data=list(series.values()), index=list(series))
    utils = importlib.import_module("arviz_stats.utils")
    record = {"elpd": log_p.sum(), "p": np.nan, **known, "good_k": MOST_K, "elpd_i": rows}
    of_loo = getattr(utils, "ELPDDataLOO", None)  # before 1.3 of arviz-stats one class was told its kind
    return utils.ELPDData(kind="loo", **record) if of_loo is None else of_loo(**record)
