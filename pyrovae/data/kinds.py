"""The kinds of a table's columns, guessed from their values: numbers of several sorts, counts, and levels."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

_NUMBER = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?")
LEVELED = ("binary", "category", "ordinal", "constant")
"""Kinds whose values are coded 0, 1, ...; the others are numbers: real, positive, student_t, bounded, count."""
FEW, REPEATS = 10, 5
"""Numbers are levels where there are at most so many distinct ones, each there so many times on average."""
STEPS = 4
"""Levels that are numbers at equal steps, so many or more, have an order: a scale, grades. Fewer are codes as often."""
MOST = 2**24
"""Whole numbers from here on are no counts, since single precision cannot tell them apart: times in seconds, sums of money."""
SKEWED = 0.02
"""Nats per row by which a log-normal must beat a normal."""
MISFIT = 0.1
"""Nats per row by which a density may beat a negative binomial before whole numbers are no counts."""


def guess_kind(column: pd.Series) -> str:
    """Guess the kind of a column from its values; holes do not count.

    Two values are binary; text and categories are categories, or ordinal where pandas has them in an order; one value, or
    none, is constant. Numbers of few distinct values are ordinal where there are four or more at equal steps (grades from 1
    to 5), else categories (the codes 1, 2, 3, or 1, 2, 9). Whole numbers from 0 up are counts where a negative binomial describes
    them about as well as levels or a density do. Numbers above 0 are positive where a log-normal describes them better than
    a normal. All others are real.

    Args:
        column: numbers, truth values, text or categories.

    >>> import pandas as pd
    >>> [guess_kind(pd.Series(values)) for values in ([0, 1, None], ["a", "b", "c"], [0.5, 1.25, 2.5])]
    ['binary', 'category', 'real']
    >>> guess_kind(pd.Series([1, 2, 3, 4, 5] * 5))
    'ordinal'
    """
    seen = column.dropna()
    if not is_number(column.dtype):
        levels = len(column.cat.categories) if column.dtype.name == "category" else seen.nunique()
        is_ordered = column.dtype.name == "category" and column.cat.ordered
        return {0: "constant", 1: "constant", 2: "binary"}.get(levels, "ordinal" if is_ordered else "category")
    values = seen.to_numpy(np.float64)
    values = values[np.isfinite(values)]
    distinct, repeats = np.unique(values, return_counts=True)
    few = len(distinct) <= FEW and len(values) >= REPEATS * len(distinct)
    if set(distinct) == {0.0, 1.0} or (few and len(distinct) == 2):
        return "binary"
    if len(distinct) < 2:
        return "constant"
    whole = bool((values == values.round()).all())
    normal, log_normal = _normal(values), -math.inf
    if values.min() > 0:
        log_normal = _normal(np.log(values)) - float(np.log(values).mean())
    is_count = whole and values.min() >= 0 and values.max() < MOST
    counts = _counts(values) if is_count else -math.inf
    if few:
        shares, penalty = repeats / len(values), 0.5 * (len(distinct) - 3) * math.log(len(values)) / len(values)
        if counts >= float((shares * np.log(shares)).sum()) - penalty:
            return "count"
        steps = np.diff(distinct)
        return "ordinal" if len(distinct) >= STEPS and np.allclose(steps, steps[0]) else "category"
    if counts >= max(normal, log_normal) - MISFIT:
        return "count"
    return "positive" if log_normal > normal + max(SKEWED, 3 / len(values)) else "real"


def kind_words(kinds: Mapping[str, str], levels: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Kinds as they are asked for when other rows are read: an ordinal one of text names its levels in their order.

    >>> kind_words({"size": "ordinal", "n": "count"}, {"size": ("S", "M", "L")})
    {'size': 'ordinal:S:M:L', 'n': 'count'}
    """
    texts = {name for name, own in levels.items() if not all(_NUMBER.fullmatch(level) for level in own)}
    ordered = {name for name, kind in kinds.items() if kind == "ordinal" and name in texts}
    return {name: ":".join([kind, *levels[name]]) if name in ordered else kind for name, kind in kinds.items()}


def wrong_values(kind: str, values: np.ndarray) -> np.ndarray:
    """Which values a kind of numbers cannot have; NaN is missing.

    >>> wrong_values("count", np.array([0.0, 2.5, -1.0, np.nan])).tolist()
    [False, True, True, False]
    """
    name, *bounds = kind.split(":")
    if name == "count":
        return (values < 0) | (values != np.round(values)) & ~np.isnan(values)
    if name == "positive":
        return values <= 0
    if name == "bounded":
        low, high = map(float, bounds or ("0", "1"))
        return (values < low) | (values > high)
    return np.zeros(values.shape, bool)


def is_number(dtype: Any) -> bool:
    """Whether a dtype of pandas is one of real numbers, truth values included."""
    from pandas.api import types

    return types.is_bool_dtype(dtype) or (types.is_numeric_dtype(dtype) and not types.is_complex_dtype(dtype))


def _normal(values: np.ndarray) -> float:
    """The mean log density of values under the normal that fits them best."""
    return -0.5 * math.log(2 * math.pi * math.e * max(values.var(), 1e-300))


def _counts(values: np.ndarray) -> float:
    """The mean log mass of counts under the negative binomial, or Poisson, of their moments."""
    from scipy import stats

    mean, variance = values.mean(), values.var()
    if variance <= mean * (1 + 1e-6):
        return float(stats.poisson.logpmf(values, mean).mean())
    size = mean**2 / (variance - mean)
    return float(stats.nbinom.logpmf(values, size, size / (size + mean)).mean())
