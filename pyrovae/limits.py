"""The thresholds that more than one room judges by, each written once: every room may use them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

MOST_K = 0.7
"""The Pareto shape above which no number of samples makes an importance-sampling estimate reliable."""
BAD_SHARE = 0.05
"""The share of rows with a Pareto shape above the limit, from which on an estimate over all rows is called unreliable."""
FEWEST_SAMPLES = 25
"""With fewer samples per row no Pareto shape can be fitted: it is infinite, and says nothing."""
FEWEST_EFFECTIVE = 3
"""Effective samples of a row below which its Monte-Carlo error, too, is that of one or two samples."""
ERRORS = 2.0
"""A difference below so many standard errors is not told apart from zero."""


def good_k(num_samples: int | None) -> float:
    r"""The largest Pareto shape at which an estimate from so many samples can be trusted.

    .. math:: \min(1 - 1 / \log_{10} S,\ 0.7)

    Args:
        num_samples: the samples per row, S; 0 or None where it is not known, which gives 0.7.

    Reference: Vehtari et al. 2024, arXiv:1507.02646.

    >>> round(good_k(100), 3), good_k(10_000), good_k(None)
    (0.5, 0.7, 0.7)
    """
    if not num_samples:
        return MOST_K
    return min(1.0 - 1.0 / math.log10(num_samples), MOST_K) if num_samples > 1 else 0.0


def share_bad_k(pareto_k: Any, num_samples: int | None) -> float:
    """The share of rows whose Pareto shape is above the limit for so many samples, or not a number.

    Args:
        pareto_k: one shape per row, ``(data,)``.
        num_samples: the samples per row.

    >>> share_bad_k([0.1, 0.69, 0.71, float("nan")], 10_000)
    0.5
    """
    return float(np.mean(~(np.asarray(pareto_k) <= good_k(num_samples))))


def too_many_bad_k(share: Any) -> Any:
    """Whether a share of rows with too large a Pareto shape makes an estimate over all rows unreliable.

    Args:
        share: one share, or an array of them; NaN, where none is known, is not too many.

    >>> too_many_bad_k(0.05), too_many_bad_k(0.051)
    (False, True)
    """
    return share > BAD_SHARE
