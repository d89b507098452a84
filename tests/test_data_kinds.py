"""The kinds of a table's columns: guessed from values, a case on each side of every threshold, and what given kinds do."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pyrovae.data import as_data
from pyrovae.data.kinds import guess_kind

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 1, np.nan], "binary"),
        ([True, False, True], "binary"),
        (["yes", "no", None], "binary"),
        ([1, 2] * 5, "binary"),  # two values, five times each
        ([1.0, 2.5] * 4, "real"),  # and four times
        ([1, 2, 3, 4] * 5, "ordinal"),  # four values at equal steps
        ([1, 2, 3] * 5, "category"),  # three
        ([1, 2, 3, 5] * 5, "category"),  # four with a gap
        (np.array([0.1, 0.2, 0.3, 0.4]).repeat(5), "ordinal"),  # steps that are equal but for rounding
        ([1, 2, 3, 4] * 4, "count"),
        (np.repeat(np.arange(10) + 0.5, 5), "ordinal"),  # ten distinct fractions
        (np.repeat(np.arange(11) + 0.5, 5), "real"),  # eleven
        (["a", "b", "c"], "category"),
        (pd.Categorical(["S", "L", "S"], ["S", "M", "L"], ordered=True), "ordinal"),
        (pd.Categorical(["S", "L", "S"], ["S", "M", "L"]), "category"),
        (RNG.poisson(1.0, 500), "count"),  # few values, and a Poisson's
        (RNG.integers(0, 5, 500), "ordinal"),  # few values, of equal shares
        (np.where(np.arange(500) % 7, RNG.negative_binomial(2, 0.1, 500), np.nan), "count"),  # with holes
        (RNG.integers(2000, 2020, 500), "real"),  # years: far narrower than counts are
        (RNG.lognormal(0.0, 1.0, 500), "positive"),
        (RNG.normal(170.0, 10.0, 500), "real"),  # positive, and not skewed
        (-RNG.lognormal(0.0, 1.0, 500), "real"),
        (np.arange(-2, 3).repeat(5), "ordinal"),
        ([7, 7, np.nan], "constant"),
        ([None, None], "constant"),
    ],
)
def test_a_kind_is_guessed_from_values(values, kind):
    assert guess_kind(pd.Series(values)) == kind


def test_whole_numbers_that_single_precision_confuses_are_no_counts():
    counts = np.random.default_rng(0).negative_binomial(2, 2e-6, 200)
    counts = counts * (2**24 - 1) // counts.max()
    assert guess_kind(pd.Series(counts)) == "count"
    assert guess_kind(pd.Series(counts + 1)) != "count"
    assert guess_kind(pd.Series(1.6e9 + counts)) in ("real", "positive")  # times in seconds


def test_levels_of_numbers_are_coded_and_named():
    data = as_data(pd.DataFrame({"grade": [3.0, 1.0, np.nan, 2.5]}), kinds={"grade": "ordinal"})
    assert data.kinds == {"grade": "ordinal"}
    assert data.levels == {"grade": ("1", "2.5", "3")}
    np.testing.assert_array_equal(data.x[:, 0], [2, 0, np.nan, 1])
    assert data.to_frame()["grade"].tolist()[:2] == ["3", "1"]


def test_counts_are_integers_where_none_is_missing():
    frame = pd.DataFrame({"n": [3, 40, 17, 8, 25, 31]})
    whole, holed = as_data(frame, kinds={"n": "count"}), as_data(frame.mask(frame == 8), kinds={"n": "count"})
    assert (whole.to_frame()["n"].dtype, holed.to_frame()["n"].dtype) == (np.int64, np.float64)
    assert whole.to_frame(whole.x.double() / 2)["n"].tolist() == (frame["n"] / 2).tolist()  # means stay as they are


def test_numbers_of_other_rows_are_matched_by_value_not_by_code():
    train = as_data(pd.DataFrame({"grade": [3, 1, 2]}), kinds={"grade": "category"})
    other = pd.DataFrame({"grade": [2, 3]})
    for rows in (other, as_data(other), as_data(other, kinds={"grade": "category"})):
        assert train.matched(rows).x[:, 0].tolist() == [1, 2]
    with pytest.raises(ValueError, match="'grade' has the level '4' in row 1, expected one of '1', '2', '3'"):
        train.matched(as_data(pd.DataFrame({"grade": [2, 4]})))


@pytest.mark.parametrize("kind", ["category", "binary", "ordinal:a:b"])
def test_levels_that_are_all_missing_are_missing(kind):
    frame = pd.DataFrame({"s": ["a", "b"] * 10, "x": np.arange(20) ** 0.5})
    train = as_data(frame, kinds={"s": kind})
    for empty in (None, np.nan):
        later = train.matched(frame.assign(s=empty)[:3])
        assert later.x[:, 0].isnan().all()
        assert later.levels["s"] == ("a", "b")


def test_text_cannot_be_a_number():
    with pytest.raises(TypeError, match=r"'a' .the levels 'x', 'y', which are not count: give it another kind"):
        as_data(pd.DataFrame({"a": ["x", "y"]}), kinds={"a": "count"})
