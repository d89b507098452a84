"""A comparison in the form that ArviZ's own functions take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyrovae.arviz.elpd import compare_frame, elpd_data
from pyrovae.comparison.table import Comparison

if TYPE_CHECKING:
    import pandas as pd


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
    if not isinstance(comparison, Comparison):
        raise TypeError(
            f"expected what pyrovae.compare returned, got {type(comparison).__name__}; write "
            "compare({'one': first, 'two': second}, x) and give its result whole"
        )
    return comparison
