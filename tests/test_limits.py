"""The thresholds that several rooms judge by: a case on each side, in every room that reads them."""

import numpy as np
import pytest

from pyrovae.arviz import to_compare_frame
from pyrovae.comparison import Pointwise, compare
from pyrovae.limits import good_k, share_bad_k, too_many_bad_k


@pytest.mark.parametrize(
    ("num_samples", "limit"), [(1, 0.0), (10, 0.0), (100, 0.5), (2154, 0.7), (None, 0.7), (0, 0.7)]
)
def test_the_limit_of_the_pareto_shape(num_samples, limit):
    assert good_k(num_samples) == pytest.approx(limit, abs=1e-4)


def shapes(bad, rows=100):
    return np.where(np.arange(rows) < bad, 0.71, 0.69)


@pytest.mark.parametrize(("bad", "too_many"), [(5, False), (6, True)])
def test_one_rule_of_five_per_cent(bad, too_many):
    assert too_many_bad_k(share_bad_k(shapes(bad), 10_000)) is too_many
    comparison = compare({"a": Pointwise(np.zeros(100), pareto_k=shapes(bad), num_samples=10_000)})
    assert any("Pareto k too large" in note for note in comparison.notes) is too_many
    assert bool(to_compare_frame(comparison)["warning"].iloc[0]) is too_many


def test_a_shape_that_is_no_number_is_bad():
    assert share_bad_k([0.1, np.nan, np.inf, 0.2], 10_000) == 0.5
