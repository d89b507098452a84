"""Files as people write them: each habit is read as it is meant, noted, or refused with what to do instead."""

from __future__ import annotations

import numpy as np
import pytest

from pyrovae.data import as_data, load

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=40).round(3), RNG.normal(50.0, 10.0, 40).round(2)


def lines(sep=",", decimal=".", x=X, y=Y):
    return [f"{a}{sep}{b}".replace(".", decimal) for a, b in zip(x, y, strict=True)]


def written(path, *rows, name="t.csv", end="\n", encoding="utf-8"):
    (path / name).write_bytes(end.join([*rows, ""]).encode(encoding))
    return path / name


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (["x,y", *lines()], {"end": "\r"}),  # Excel's "Macintosh" format
        (["x,y", *lines()], {"end": "\r\n"}),
        (["sep=;", "x;y", *lines(";", ",")], {"end": "\r\n"}),
        (["\ufeffx;y", *lines(";", ",")], {}),
        (["x      y", *[f"{a:>8}   {b:>8}" for a, b in zip(X, Y, strict=True)]], {"name": "t.txt"}),
        (["x y", *[f"{number} {line}" for number, line in enumerate(lines(" "), 1)]], {"name": "t.txt"}),  # R's
        (["größe\ty", *lines("\t")], {"encoding": "utf-16"}),
    ],
    ids=["old Mac", "Windows", "sep=", "decimal commas", "aligned", "write.table", "utf-16"],
)
def test_a_habit_that_is_no_ambiguity_is_read(tmp_path, rows, options):
    data = load(written(tmp_path, *rows, **options), kinds={})
    np.testing.assert_allclose(data.x, np.stack([X, Y], 1), rtol=1e-6)
    assert data.columns[1] == "y"


def test_one_column_of_decimal_commas(tmp_path):
    column = [str(a).replace(".", ",") for a in X]
    with pytest.raises(ValueError, match="a first line sep=; says another separator than the comma"):
        load(written(tmp_path, "x", *column), kinds={})
    data = load(written(tmp_path, "sep=;", "x", *column), kinds={})
    np.testing.assert_allclose(data.x[:, 0], X, rtol=1e-6)


def test_empty_rows_at_the_end_stay_and_are_noted(tmp_path):
    data = load(written(tmp_path, "x,y", *lines(), ",", ","), kinds={})
    assert len(data) == 42
    assert any("2 rows without a value at the end: delete the lines" in note for note in data.notes)
    inside = load(written(tmp_path, "x,y", ",", *lines()), kinds={})
    assert not any("at the end" in note for note in inside.notes)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["Measured", "", "x,y", *lines()], "line 3 has 2 fields, and the first line has 1 .*below one line of names"),
        (["# by me", "x,y", *lines()], "line 2 has 2 fields, and the first line has 1 .*below one line of names"),
        (["Measured,", ",", "x,y", *lines()], "column 2 has values and no name: .* delete lines above the names"),
        (["x,y"], r"its first line is taken for names \(x, y\), and no row follows"),
        (["<html>404</html>"], "no row follows"),
    ],
)
def test_what_is_above_the_names_is_refused(tmp_path, rows, says):
    with pytest.raises(ValueError, match=says):
        load(written(tmp_path, *rows), kinds={})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            [f'"{1000 + 100 * b:,.2f}"' for b in Y],
            "numbers such as '[0-9],[0-9.]+': write plain numbers",
        ),
        (['"1,000"' if number == 7 else b for number, b in enumerate(Y)], "'1,000' in line 9: write plain numbers"),
        ([f"{b}%" for b in Y], "write plain numbers, as in 1234.5"),
        ([f"${b}" for b in Y], "write plain numbers, as in 1234.5"),
        ([f"{number % 24:02d}:{number:02d}" for number in range(40)], "times: write minutes since midnight"),
        ([f"{number % 28 + 1} Jan 2024" for number in range(40)], "dates: write"),
        ([f'"January {number % 28 + 1}, 2024"' for number in range(40)], "dates: write"),
        (["Yes", "yes", "No", "no "] * 10, "levels that differ in case or spaces alone, 'No' and 'no ': write one"),
        (["." if number % 9 == 0 else b for number, b in enumerate(Y)], "'.' in line 2: leave a missing entry empty"),
        (["kg", *Y[1:]], "'kg' in line 2: delete a second line of names or units; leave a missing entry empty"),
        ([Y[0], "?", *Y[2:]], "'[?]' in line 3: leave a missing entry empty"),
    ],
)
def test_a_column_that_is_neither_numbers_nor_levels_is_refused_with_a_remedy(tmp_path, values, says):
    path = written(tmp_path, "q,x", *[f"{value},{a}" for value, a in zip(values, X, strict=True)])
    with pytest.raises(TypeError, match=says):
        load(path, kinds={})


def test_levels_that_look_like_numbers_dates_or_each_other_but_are_none(tmp_path):
    for values in (["May", "June"], ["1a", "2a"], ["18-24", "25-34"], ["yes", "no"], ["A", "B"]):
        path = written(tmp_path, "q,x", *[f"{values[number % 2]},{a}" for number, a in enumerate(X)])
        assert load(path, kinds={}).kinds["q"] == "binary"
    mixed = written(tmp_path, "q,x", *[f"{['Yes', 'yes'][number % 2]},{a}" for number, a in enumerate(X)])
    assert load(mixed, kinds={"q": "binary"}).levels["q"] == ("Yes", "yes")  # asked for


@pytest.mark.parametrize("name", ["id", "patient_id", "No", "case"])
def test_a_counter_by_its_name_is_refused(tmp_path, name):
    with pytest.raises(TypeError, match="ids: make it the index, or leave it out"):
        load(written(tmp_path, f"{name},x", *[f"{number},{a}" for number, a in enumerate(X)]), kinds={})
    repeated = written(tmp_path, f"{name},x", *[f"{number // 2},{a}" for number, a in enumerate(X)])
    assert load(repeated, kinds={}).columns == (name, "x")


@pytest.mark.parametrize(
    ("name", "levels", "each", "refused"),
    [("id", 21, 2, True), ("id", 20, 2, False), ("station_id", 21, 6, True), ("price index", 21, 2, False)],
)
def test_an_id_of_numbers_may_repeat(tmp_path, name, levels, each, refused):
    rows = [f"{number // each},{number**0.5}" for number in range(levels * each)]
    path = written(tmp_path, f"{name},x", *rows)
    if refused:
        with pytest.raises(TypeError, match=f"ids, 21 distinct in {21 * each} rows: make it the index, keep the rows"):
            load(path, kinds={})
        assert load(path, kinds={name: "category"}).kinds[name] == "category"
        assert load(path, kinds={}, groups=name).columns == ("x",)
    else:
        assert load(path, kinds={}).columns == (name, "x")


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ([1, 2, 3, 4, 5, 99], "99"),
        ([1, 2, 3, 4, 5, -9], "-9"),
        ([1, 2, 3, 4, 5, 9], "9"),
        ([1, 2, 3, 4, 5, 8], ""),  # as far from 5 as a sixth level might be
        ([1, 2, 3, 4, 5, 20], ""),
        ([18, 40, 60, 90, 999], "999"),
        ([18, 40, 60, 90, 99], ""),  # an age
        ([3000.5, 20000.5, 90000.5, -99], "-99"),
        ([-3000.5, 20000.5, 90000.5, -99], ""),
        ([5, 6, 7], ""),
    ],
)
def test_a_code_for_missing_that_lies_apart_is_noted(tmp_path, values, code):
    rows = [f"{values[number % len(values)]},{a}" for number, a in enumerate(X)]
    notes = [note for note in load(written(tmp_path, "q,x", *rows), kinds={}).notes if "missing entry" in note]
    assert [note.split(" in ")[0] for note in notes] == ([f"q holds {code}"] if code else [])


@pytest.mark.parametrize(
    ("form", "days", "order"),
    [
        ("%d.%m.%Y", 12, True),
        ("%d.%m.%Y", 31, True),
        ("%d/%m/%Y", 31, True),
        ("%m/%d/%Y", 31, True),
        ("%Y-%m-%d", 12, True),
        ("%d %b %Y", 12, True),
        ("%d/%m/%Y", 12, False),
        ("%m/%d/%y", 12, False),
    ],
)
def test_times_whose_day_and_month_could_be_exchanged_are_refused(tmp_path, form, days, order):
    import pandas as pd

    dates = pd.date_range("2020-01-01", periods=365)
    dates = dates[dates.day <= days][: len(X)]
    rows = [f"{dates[k].strftime(form)},{k},{X[k]}" for k in RNG.permutation(len(X))]
    path = written(tmp_path, "t,k,x", *rows)
    if order:
        data = load(path, kinds={}, time="t", drop=["x"])
        assert data.test.x[:, 0].sort().values.tolist() == [36, 37, 38, 39]
    else:
        with pytest.raises(ValueError, match=r"'t'.*: write the year first, as in"):
            load(path, kinds={}, time="t")


def test_codes_with_leading_zeros_stay_text(tmp_path):
    rows = [
        f"{'01' if k % 3 else '10'},{number:05d},{a}"
        for k, (a, number) in enumerate(zip(X, range(60, 100), strict=True))
    ]
    path = written(tmp_path, "area,zip,x", *rows)
    data = load(path, kinds={}, drop=["zip"])
    assert (data.kinds["area"], data.levels["area"]) == ("binary", ("01", "10"))
    with pytest.raises(TypeError, match=r"'zip' \(codes with leading zeros, 40 distinct in 40 rows"):
        load(path, kinds={})
    assert load(path, kinds={"zip": "count"}).x[:2, 1].tolist() == [60, 61]


def test_kinds_are_named_by_patterns_too():
    import pandas as pd

    frame = pd.DataFrame(
        {"q1": ["low", "high"] * 6, "q2": ["high", "mid"] * 6, "q 3": [1.5, 2.5] * 6, "[q]": range(12)}
    )
    data = as_data(frame, kinds={"q?": "ordinal:low:mid:high", "q2": "category", "[q]": "count"})
    assert data.kinds == {"q1": "ordinal", "q2": "category", "q 3": "binary", "[q]": "count"}
    assert data.levels["q1"] == ("low", "mid", "high")
    with pytest.raises(ValueError, match=r"expected a column 'r\*' in x"):
        as_data(frame, kinds={"r*": "real"})


@pytest.mark.parametrize(("weight", "line"), [("heavy", 2), ("0", 2), ("", 2), ("1", None)])
def test_weights_are_numbers_above_zero(tmp_path, weight, line):
    path = written(tmp_path, "w,x", *[f"{weight if k == 0 else 2},{a}" for k, a in enumerate(X)])
    if line is None:
        assert load(path, kinds={}, weights="w").covariates["weight"].mean() == pytest.approx(1)
    else:
        with pytest.raises(
            ValueError, match=f"above 0 in the column of weights 'w', got .* in line {line}: name another"
        ):
            load(path, kinds={}, weights="w")


def test_codes_for_missing_entries_are_named_once_and_read_as_missing(tmp_path):
    answers = [(-99 if k % 7 == 0 else k % 5, -99 if k % 9 == 0 else k % 4) for k in range(40)]
    rows = [f"{q},{r},{a}" for (q, r), a in zip(answers, X, strict=True)]
    path = written(tmp_path, "q,r,x", *rows, "?,1,2")
    with pytest.raises(
        TypeError, match=r"'\?' in line 42: leave a missing entry empty, or say how it is written .--missing"
    ):
        load(path, kinds={})
    (note,) = [note for note in load(path, kinds={}, missing=["?"]).notes if "missing entry" in note]
    assert (
        note == "q holds -99 in 6 rows, and 1 other column too: if it stands for a missing entry, --missing -99 says so"
    )
    data = load(path, kinds={}, missing=["?", "-99"])
    assert data.x.isnan().sum(0).tolist() == [7, 5, 0]
    assert not any("-99" in levels for levels in data.levels.values())
    assert not any("missing entry" in note for note in data.notes)


def test_rows_that_are_there_twice_are_noted_where_columns_are_continuous(tmp_path):
    notes = load(written(tmp_path, "x,y", *lines(), lines()[3]), kinds={}).notes
    assert any("1 row repeats another" in note for note in notes)
    for rows in (["x,y", *lines()], ["a,b", *["red,1"] * 20, *["blue,2"] * 20]):
        assert not any("repeat" in note for note in load(written(tmp_path, *rows), kinds={}).notes)


def test_the_order_of_text_levels_is_asked_for():
    import pandas as pd

    frame = pd.DataFrame({"size": ["S", "L", "M", None] * 5, "grade": [1, 3, 2, 5] * 5})
    data = as_data(frame, kinds={"size": "ordinal:S:M:L", "grade": "ordinal"})
    assert data.levels == {"size": ("S", "M", "L"), "grade": ("1", "2", "3", "5")}
    assert data.kinds["size"] == "ordinal"
    np.testing.assert_array_equal(data.x[:4, 0], [0, 2, 1, np.nan])
    assert as_data(frame, kinds={"grade": "ordinal:5:3:2:1"}).x[:4, 1].tolist() == [3, 1, 2, 0]
    with pytest.raises(ValueError, match="'size' are text, whose order is not known: write ordinal:L:M:S in order"):
        as_data(frame, kinds={"size": "ordinal"})
    with pytest.raises(ValueError, match="each level of 'size' once in ordinal:S:M, got 'L'"):
        as_data(frame, kinds={"size": "ordinal:S:M"})
    ordered = pd.DataFrame({"size": pd.Categorical(frame["size"], ["S", "M", "L"], ordered=True)})
    assert as_data(ordered, kinds={"size": "ordinal"}).levels["size"] == ("S", "M", "L")


def test_infinite_entries_are_refused_without_a_word_of_numpy(tmp_path):
    with pytest.raises(ValueError, match="got 1 infinite entries, the first in line 42"):
        load(written(tmp_path, "x,y", *lines(), "inf,2"), kinds={})
