"""`Data` and `as_data`: what goes in comes out, rows stay together, hashes tell rows apart."""

from __future__ import annotations

import copy
import pickle
import re
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from pyrovae.data import Binarize, Data, SparseRows, as_data, batches, split

NAN = float("nan")
TABLE = np.arange(12.0).reshape(6, 2)


def dense(data: Data) -> np.ndarray:
    return data.dense().x.numpy()


@pytest.mark.parametrize(
    "make",
    [
        torch.from_numpy,
        np.asarray,
        np.ndarray.tolist,
        lambda a: [torch.tensor(row) for row in a],
        lambda a: a[::-1].copy()[::-1],
        np.asfortranarray,
        lambda a: a.astype(">f8"),
        lambda a: np.frombuffer(a.tobytes()).reshape(a.shape),
        np.ma.MaskedArray,
        lambda a: a.astype(np.longdouble),
        lambda a: pd.DataFrame(a, columns=["a", "b"]),
        scipy.sparse.csr_array,
        scipy.sparse.csr_matrix,
        scipy.sparse.coo_array,
        lambda a: torch.from_numpy(a).to_sparse(),
        lambda a: torch.from_numpy(a).to_sparse_csr(),
        lambda a: torch.from_numpy(a).requires_grad_(),
        lambda a: Data(torch.from_numpy(a)),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_every_kind_of_table_holds_the_same_rows(make):
    data = as_data(make(TABLE))
    assert (len(data), data.event_shape) == (6, (2,))
    np.testing.assert_array_equal(dense(data), TABLE)
    np.testing.assert_array_equal(dense(data[[4, -5, 1]]), TABLE[[4, 1, 1]])
    assert data.fingerprint(values_only=True) == as_data(TABLE).fingerprint()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (np.uint8, torch.uint8),
        (np.int64, torch.int64),
        (np.float32, torch.float32),
        (bool, torch.bool),
        (np.uint16, torch.int32),
        (np.uint32, torch.int64),
        (np.uint64, torch.float64),
    ],
)
def test_dtypes_are_kept_or_widened(given, kept):
    assert as_data(TABLE.astype(given)).x.dtype == kept
    assert as_data(scipy.sparse.csr_array(TABLE.astype(given))).dense().x.dtype == kept


def test_tensors_and_arrays_are_shared():
    tensor, array = torch.zeros(3, 2), np.zeros((3, 2))
    assert as_data(tensor).x.data_ptr() == tensor.data_ptr()
    array[1] = 7
    assert as_data(array).x.data_ptr() == array.ctypes.data
    given = as_data(tensor)
    assert as_data(given) is given


def test_a_table_keeps_its_columns_and_its_holes():
    frame = pd.DataFrame({"a": [1, 2, 3], "b": [0.5, NAN, 1.5], "c": [True, False, True]}, index=[7, 8, 9])
    data = as_data(frame)
    assert data.columns == ("a", "b", "c")
    np.testing.assert_array_equal(dense(data), [[1, 0.5, 1], [2, NAN, 0], [3, 1.5, 1]])
    assert data[1:].columns == data.columns
    assert as_data(frame[["a", "c"]]).x.dtype == torch.int64


def test_nullable_and_masked_entries_become_nan():
    frame = pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": pd.array([True, None], dtype="boolean")})
    np.testing.assert_array_equal(dense(as_data(frame)), [[1, 1], [NAN, NAN]])
    masked = np.ma.MaskedArray([[1, 2], [3, 4]], mask=[[False, True], [False, False]])
    np.testing.assert_array_equal(dense(as_data(masked)), [[1, NAN], [3, 4]])
    np.testing.assert_array_equal(dense(as_data(pd.Series([1.0, None]))), [1, NAN])


def test_sparse_rows_stay_sparse():
    matrix = scipy.sparse.random_array((50, 30), density=0.1, rng=np.random.default_rng(0), format="csc")
    data = as_data(matrix)
    kept = data[10:40][torch.arange(0, 30, 3)]
    assert isinstance(kept.x, SparseRows)
    np.testing.assert_array_equal(dense(kept), matrix.toarray()[10:40:3])
    assert "shape=(10, 30)" in repr(kept.x)


def test_trees_are_indexed_together():
    images, counts = torch.arange(24.0).reshape(6, 1, 2, 2), scipy.sparse.csr_array(TABLE)
    data = as_data({"image": images, "rest": (counts, np.arange(6))})
    assert data.event_shape == {"image": (1, 2, 2), "rest": ((2,), ())}
    part = data[[5, 0]].dense()
    torch.testing.assert_close(part.x["image"], images[[5, 0]])
    np.testing.assert_array_equal(part.x["rest"][0], TABLE[[5, 0]])
    np.testing.assert_array_equal(part.x["rest"][1], [5, 0])


@pytest.mark.parametrize(
    ("rows", "numbers"),
    [
        (slice(2), [0, 1]),
        (slice(-2, None), [4, 5]),
        (slice(None, None, 2), [0, 2, 4]),
        (slice(None, None, -1), [5, 4, 3, 2, 1, 0]),
        ([3, -1], [3, 5]),
        (np.array([2, 2]), [2, 2]),
        (torch.tensor([1], dtype=torch.int32), [1]),
        (torch.tensor([True, False] * 3), [0, 2, 4]),
        (np.array([False] * 5 + [True]), [5]),
        (range(1, 3), [1, 2]),
    ],
)
def test_rows_labels_and_covariates_are_selected_alike(rows, numbers):
    data = as_data(TABLE, covariates={"c": np.arange(6.0)[:, None]}, labels=range(6))[rows]
    np.testing.assert_array_equal(dense(data), TABLE[numbers])
    assert data.label.tolist() == numbers
    assert data.covariates["c"][:, 0].tolist() == numbers


def test_slices_are_views():
    data = as_data(torch.zeros(6, 2))
    assert data[2:].x.data_ptr() == data.x[2:].data_ptr()


def test_labels_are_never_covariates():
    data = as_data(TABLE, labels=range(6))
    assert data.covariates is None
    assert as_data(data, covariates={"c": range(6)}).covariates["c"].tolist() == list(range(6))
    assert data.covariates is None


def test_as_data_adds_to_data_what_is_given():
    data = as_data(as_data(TABLE, labels=range(6), variant="counts"), covariates={"c": range(6)})
    assert (data.variant, data.label.tolist(), list(data.covariates)) == ("counts", list(range(6)), ["c"])
    assert as_data(data, variant="grey").variant == "grey"


def test_the_repr_tells_what_must_be_known():
    data = Data(torch.zeros(4, 3), name="toy", variant="counts", split="test", seed=3, covariates={"b": torch.zeros(4)})
    told = "Data('toy', variant='counts', split='test', rows=4, event_shape=(3,), seed=3, covariates=('b',))"
    assert repr(data) == told


def test_data_is_frozen_and_copies():
    data = as_data({"x1": TABLE, "x2": scipy.sparse.csr_array(TABLE)}, covariates={"c": range(6)})
    with pytest.raises(AttributeError):
        data.variant = "grey"
    for twin in (copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert twin.fingerprint() == data.fingerprint()
        assert {data, data, twin} == {twin, data}  # compared by identity, as tensors are
        assert twin != data


@pytest.mark.parametrize(
    "other",
    [
        TABLE[::-1],
        TABLE[:5],
        TABLE + 1e-3,
        np.where(TABLE == 0, 5, TABLE),
        np.where(TABLE == 3, NAN, TABLE),
        TABLE.reshape(3, 4),
        {"x": TABLE},
        (TABLE, TABLE),
    ],
)
def test_a_fingerprint_tells_rows_apart(other):
    assert as_data(other).fingerprint() != as_data(TABLE).fingerprint()


@pytest.mark.parametrize(
    "same",
    [TABLE.astype("float32"), TABLE.astype(int), TABLE[:, None], np.where(TABLE == 0, -0.0, TABLE)],
)
def test_a_fingerprint_sees_values_only(same):
    assert as_data(same).fingerprint() == as_data(TABLE).fingerprint()


def test_a_fingerprint_is_the_same_in_chunks_and_for_any_nan():
    x = torch.arange(10_000.0)
    x[7] = NAN
    other = x.clone()
    other.view(torch.int32)[7] ^= 0x123
    assert bool(other[7].isnan())
    assert as_data(x).fingerprint() == as_data(other).fingerprint()
    last = x.clone()
    last[-1] += 1
    assert as_data(x).fingerprint() != as_data(last).fingerprint()


def test_parts_are_disjoint_and_whole():
    data = Data(torch.arange(10.0), parts={"train": torch.tensor([9, 0, 3]), "test": slice(4, 6)})
    assert data.train.x.tolist() == [9, 0, 3]
    assert (data.test.x.tolist(), data.test.split, data.test.parts) == ([4, 5], "test", {})


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.89])
def test_split_is_a_partition_by_its_seed(fraction: float):
    data = as_data(torch.arange(100.0), labels=range(100))
    train, validation = split(data, fraction, seed=1)
    assert len(validation) == max(1, round(fraction * 100))
    assert sorted([*train.label.tolist(), *validation.label.tolist()]) == list(range(100))
    assert (train.split, validation.split, train.seed) == ("train", "validation", 1)
    again, others = split(data, fraction, seed=1)[1], split(data, fraction, seed=2)[1]
    assert again.label.tolist() == validation.label.tolist() != others.label.tolist()


def test_split_draws_the_validation_rows_once():
    grey = Data(torch.rand(40, 50, generator=torch.Generator().manual_seed(0)), transform=Binarize())
    train, validation = split(grey, 0.5, seed=3)
    assert (train.transform, validation.transform) == (Binarize(), None)
    assert set(validation.x.unique().tolist()) == {0.0, 1.0}
    assert split(grey, 0.5, seed=3)[1].fingerprint() == validation.fingerprint()
    assert train.x.unique().numel() > 2


def test_binarize_draws_each_level_at_its_rate():
    levels = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0, NAN]).repeat(40_000, 1)
    drawn = Binarize()(levels, torch.Generator().manual_seed(0))
    assert drawn[:, 5].isnan().all()
    assert set(drawn[:, :5].unique().tolist()) == {0.0, 1.0}
    rate, level = drawn[:, :5].mean(0), levels[0, :5]
    assert bool(((rate - level).abs() <= 5 * (level * (1 - level) / 40_000).sqrt()).all())
    assert levels[0, 1] == 0.1  # the levels are left alone
    tree = Binarize()({"a": levels[:, :5]}, torch.Generator().manual_seed(0))
    assert torch.equal(tree["a"], Binarize()(levels[:, :5], torch.Generator().manual_seed(0)))


def test_drawn_is_recorded_and_done():
    data = Data(torch.full((50, 4), 0.5), transform=Binarize())
    once = data.drawn(5)
    assert (once.seed, once.transform, once.drawn(6) is once) == (5, None, True)
    assert once.fingerprint() == data.drawn(5).fingerprint() != data.drawn(6).fingerprint()


@pytest.mark.parametrize(
    ("x", "complete"),
    [
        (TABLE, True),
        (TABLE.astype(int), True),
        (np.where(TABLE == 11, NAN, TABLE), False),
        ({"a": TABLE, "b": np.where(TABLE == 0, NAN, TABLE)}, False),
        (scipy.sparse.csr_array(TABLE), True),
        (scipy.sparse.csr_array(np.where(TABLE == 11, NAN, TABLE)), False),
        (np.append(np.zeros(9000), NAN), False),
    ],
)
def test_data_know_whether_they_are_complete(x, complete):
    assert as_data(x).complete is complete


def test_rows_are_one_batch_without_the_transform():
    data = Data(torch.rand(6, 2), covariates={"c": torch.arange(6)}, transform=Binarize())
    for index, numbers in ((torch.tensor([4, 1]), [4, 1]), (slice(2, 4), [2, 3])):
        batch = data.rows(index)
        assert batch.index.tolist() == batch.covariates["c"].tolist() == numbers
        assert torch.equal(batch.x, data.x[numbers])


# Matched by name, never by place


FRAME = pd.DataFrame(TABLE, columns=["a", "b"], index=list("uvwxyz"))


def test_rows_of_covariates_and_labels_are_matched_by_index():
    sizes = pd.Series(range(6), index=FRAME.index)
    shuffled = sizes.sample(frac=1, random_state=0)
    data = as_data(FRAME, covariates={"size": shuffled}, labels=shuffled.to_frame("kind"))
    assert data.covariates["size"].tolist() == data.labels["kind"].tolist() == list(range(6))
    assert as_data(data, labels=shuffled).label.tolist() == list(range(6))
    assert as_data(data[2:], labels=shuffled[FRAME.index[:1:-1]]).label.tolist() == [2, 3, 4, 5]
    both = as_data({"one": FRAME, "two": FRAME[::-1]})
    assert torch.equal(both.x["one"], both.x["two"])
    assert as_data(TABLE, labels=shuffled).label.tolist() == shuffled.tolist()  # an array's rows have no names


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (pd.Series(range(6)), "the rows of .* lacking 'u', 'v', .* and others 0, 1"),
        (pd.Series(range(7), index=list("uvwxyzA")), "got 7 for 6: others 'A'"),
        (pd.Series(range(5), index=list("uvwxy")), "got 5 for 6: lacking 'z'"),
        (pd.Series(range(6), index=list("uvwxyy")), "lacking 'z'"),
    ],
)
def test_rows_with_other_names_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        as_data(FRAME, covariates={"size": sizes})
    with pytest.raises(ValueError, match=message):
        as_data(FRAME, labels=sizes)


@pytest.mark.parametrize("make", [lambda f: f, lambda f: {"t": f}, lambda f: f.astype(pd.SparseDtype(float, 0))])
def test_columns_in_another_order_are_put_right_and_others_refused(make):
    train, other = as_data(make(FRAME)), as_data(make(FRAME[["b", "a"]] * 2))
    matched = train.matched(other)
    assert matched.fingerprint() == as_data(make(FRAME * 2)).fingerprint() != other.fingerprint()
    assert matched.columns == train.columns
    with pytest.raises(
        ValueError, match=r"the columns of x.* got 2 for 2: lacking 'b' and others 'c'; rename or select"
    ):
        train.matched(as_data(make(FRAME.rename(columns={"b": "c"}))))
    with pytest.raises(ValueError, match="got 1 for 2: lacking 'b'"):
        train.matched(as_data(make(FRAME[["a"]])))


def test_where_one_of_two_has_no_names_places_count():
    assert as_data(FRAME).matched(as_data(TABLE + 1)).x.tolist() == (TABLE + 1).tolist()
    assert as_data(TABLE).matched(as_data(FRAME)).columns == ("a", "b")
    with pytest.raises(ValueError, match=r"expected rows of shape \(2,\) in x, as the training rows have, got \(3,\)"):
        as_data(FRAME).matched(as_data(np.zeros((4, 3))))
    with pytest.raises(ValueError, match=r"expected data with the parts x, got x\['a'\]; give the same dict or tuple"):
        as_data(FRAME).matched(as_data({"a": FRAME}))


def test_covariates_are_matched_by_name_and_level():
    train = as_data(TABLE, covariates={"batch": list("abcabc"), "size": range(6)})
    assert train.levels == {"batch": ("a", "b", "c")}
    other = as_data(TABLE[:3], covariates={"size": range(3), "batch": list("cca"), "more": range(3)})
    assert other.covariates["batch"].tolist() == [1, 1, 0]
    matched = train.matched(other)
    assert {name: value.tolist() for name, value in matched.covariates.items()} == {
        "batch": [2, 2, 0],
        "size": [0, 1, 2],
    }
    assert matched.levels == train.levels
    codes = as_data(TABLE[:3], covariates={"size": range(3), "batch": [2, 1, 0]})
    assert train.matched(codes).covariates["batch"].tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("covariates", "message"),
    [
        ({"batch": list("abd")}, "'batch' has the level 'd' in row 2, expected one of 'a', 'b', 'c', coded 0..2: drop"),
        ({"batch": [0, -1, 2]}, "'batch' has the code -1 in row 1"),
        ({"batch": [0, 1, 3]}, "'batch' has the code 3 in row 2"),
        ({"batch": [0.5, 1, 2]}, "'batch' has the code 0.5 in row 0"),
        ({"batch": torch.zeros(3, 1)}, r"expected rows of shape \(\) in covariates\['batch'\].*got \(1,\); reshape"),
        ({"other": [1, 2, 3]}, r"expected the covariate 'batch', which the training rows have, got \['other'\]"),
        (None, r"expected the covariate 'batch', which the training rows have, got \[\]; write .*\{'batch': values\}"),
    ],
)
def test_covariates_that_do_not_match_are_refused(covariates, message):
    train = as_data(TABLE, covariates={"batch": list("abcabc")})
    with pytest.raises(ValueError, match=message):
        train.matched(as_data(TABLE[:3], covariates=covariates))


def test_text_is_no_match_for_numbers():
    train = as_data(TABLE, covariates={"batch": range(6)})
    with pytest.raises(
        ValueError, match=r"expected 'batch' to be numbers, as in the training rows, got the levels \['a'"
    ):
        train.matched(as_data(TABLE, covariates={"batch": list("abcabc")}))


def test_covariates_come_once():
    with pytest.raises(ValueError, match=r"expected covariates once, got \['c'\] with the data and others beside it"):
        as_data(as_data(TABLE, covariates={"c": range(6)}), covariates={"c": range(6)})


# Levels


KINDS = pd.DataFrame({"size": [1.5, 2.0, NAN], "kind": ["cat", None, "dog"]}, index=[5, 3, 4])


def test_categories_become_codes_on_request():
    data = as_data(KINDS, kinds={})
    np.testing.assert_array_equal(dense(data), [[1.5, 0], [2.0, NAN], [NAN, 1]])
    assert data.levels == {"kind": ("cat", "dog")}
    ordered = KINDS.assign(kind=pd.Categorical(["dog", None, "dog"], categories=["dog", "cow", "cat"]))
    other = as_data(ordered, kinds={})
    assert other.levels == {"kind": ("dog", "cow", "cat")}
    np.testing.assert_array_equal(dense(data.matched(other))[:, 1], [1, NAN, 1])
    with pytest.raises(ValueError, match="'kind' has the level 'cow' in row 1, expected one of 'cat', 'dog'"):
        data.matched(as_data(KINDS.assign(kind=["cat", "cow", "dog"]), kinds={}))


def test_columns_by_name_are_taken_out():
    data = as_data(KINDS.assign(batch=list("bab")), covariates=["batch"], labels="kind")
    assert (data.columns, data.covariates["batch"].tolist(), data.labels["kind"].tolist()) == (
        ("size",),
        [1, 0, 1],
        [0, -1, 1],
    )
    assert data.levels == {"batch": ("a", "b"), "kind": ("cat", "dog")}
    with pytest.raises(
        ValueError, match="expected a column 'bach' in the table, got: 'size', 'kind'; correct its name"
    ):
        as_data(KINDS, covariates=["bach"])
    with pytest.raises(
        ValueError, match=r"expected a table for columns by name, got ndarray and the names \['batch'\]"
    ):
        as_data(TABLE, covariates=["batch"])


def test_a_missing_category_is_refused_as_a_covariate():
    with pytest.raises(ValueError, match=r"expected covariates\['kind'\] without missing entries, got NaN in row 1"):
        as_data(KINDS["size"].fillna(0), covariates=KINDS[["kind"]])


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pd.date_range("2020-01-01", periods=12), "'t' .dates: write .column - start..dt.days, say"),
        (["2020-01-01", "2021-02-03"] * 6, "'t' .dates: write .pandas.to_datetime.column. - start..dt.days"),
        (["01.02.2020 10:00"] * 12, "'t' .dates"),
        ([f"patient {n}" for n in range(12)], "ids or free text, 12 distinct in 12 rows: make it the index"),
        (["1", "2", "?"] * 4, "text among numbers, '\\?' in row 2: leave a missing entry empty"),
        (["1,5", "2", "3"] * 4, "text among numbers, '1,5' in row 0"),
        (["a", "b"] * 6, "the levels 'a', 'b': give it as a covariate or a label, or write kinds="),
    ],
)
def test_columns_that_are_no_numbers_are_refused_with_a_remedy(column, message):
    with pytest.raises(TypeError, match=message):
        as_data(pd.DataFrame({"n": range(12), "t": column}))


@pytest.mark.parametrize(
    ("name", "column", "refused"),
    [
        ("id", range(12), True),
        ("patient_ID", range(5, 17), True),
        ("id", [*range(11), 0], False),
        ("humid", range(12), False),
        ("id", np.arange(12) / 2, False),
    ],
)
def test_ids_are_integers_each_once_under_such_a_name(name, column, refused):
    frame = pd.DataFrame({"n": range(12), name: column})
    if refused:
        with pytest.raises(TypeError, match=f"'{name}' .ids: make it the index, or leave it out"):
            as_data(frame)
    else:
        assert as_data(frame).columns == ("n", name)


def test_columns_come_once():
    with pytest.raises(ValueError, match="expected each column of x once, got 'a' twice"):
        as_data(pd.DataFrame(TABLE, columns=["a", "a"]))


@pytest.mark.parametrize("dtype", [int, float])
def test_sparse_frames_stay_sparse(dtype):
    """Those that scanpy's ``to_df`` and ``DataFrame.sparse.from_spmatrix`` give."""
    matrix = scipy.sparse.csr_array((TABLE % 3).astype(dtype))
    data = as_data(pd.DataFrame.sparse.from_spmatrix(matrix, columns=["a", "b"]))
    assert isinstance(data.x, SparseRows)
    assert data.columns == ("a", "b")
    np.testing.assert_array_equal(dense(data), matrix.toarray())
    half = pd.DataFrame.sparse.from_spmatrix(matrix).assign(c=range(6))
    np.testing.assert_array_equal(dense(as_data(half)), np.column_stack([matrix.toarray(), range(6)]))


def test_anndata_give_counts_names_labels_and_covariates():
    counts = scipy.sparse.csr_matrix(TABLE.astype("float32"))
    obs = pd.DataFrame(
        {"batch": list("bbabab"), "kind": pd.Categorical(list("xyxyxy")), "depth": range(6)}, list("uvwxyz")
    )
    cells = anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=["g1", "g2"]))
    data = as_data(cells[::-1][::-1].copy(), covariates=["batch", "depth"])
    assert isinstance(data.x, SparseRows)
    assert (data.columns, list(data.row_names)) == (("g1", "g2"), list("uvwxyz"))
    assert data.levels == {"batch": ("a", "b"), "kind": ("x", "y")}
    assert data.covariates["batch"].tolist() == [1, 1, 0, 1, 0, 1]
    assert data.labels["kind"].tolist() == [0, 1, 0, 1, 0, 1]
    other = cells[:, ["g2", "g1"]].copy()
    np.testing.assert_array_equal(dense(data.matched(as_data(other, covariates=["batch", "depth"]))), TABLE)
    both = as_data({"rna": cells, "other": FRAME[::-1]})
    np.testing.assert_array_equal(both.dense().x["rna"], both.x["other"])


# Digits lost by a cast


@pytest.mark.parametrize(
    ("mean", "spread", "lost"),
    [
        (5_800_000.0, 0.2, True),
        (2_460_000.0, 0.05, True),
        (1_700_000_000.0, 60.0, True),
        (1_700_000_000.0, 60.0 * 400, False),
        (2_460_000.0, 365.0, False),
        (0.1, 0.0, False),
        (0.0, 1.0, False),
    ],
)
def test_a_cast_that_loses_digits_warns(mean, spread, lost):
    x = mean + spread * np.random.default_rng(0).normal(size=(200, 1))
    frame = pd.DataFrame({"good": np.linspace(0, 1, 200), "when": x[:, 0]})
    for data, name in (
        (frame, "when"),
        (x, r"x\[:, 0\]"),
        (as_data(frame[["good"]], {"c": x[:, 0]}), r"covariates\['c'\]"),
    ):
        assert bool(as_data(data).coarse) is lost
        batches(data, 10, dtype=torch.float64)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            batches(data, 10, dtype=torch.float32)
        told = [str(warning.message) for warning in caught]
        assert bool(told) is lost
        assert all(
            re.match(f"single precision rounds {name}.* by more than 1 % .*subtract a constant.*vae.double", t)
            for t in told
        )


def test_integers_lose_digits_above_24_bits_alone():
    exact = np.arange(2**24 - 30, 2**24)[:, None]
    assert as_data(exact).coarse == ()
    assert as_data(exact + 40).coarse == ("x[:, 0]",)


def test_a_fingerprint_knows_names_covariates_and_levels():
    prints = [
        as_data(TABLE),
        as_data(FRAME),
        as_data(FRAME.rename(columns={"b": "c"})),
        as_data(TABLE, {"c": range(6)}),
        as_data(TABLE, {"c": [0, 1, 2, 3, 4, 4]}),
        as_data(TABLE, {"d": range(6)}),
        as_data(TABLE, {"c": list("abcdef")}),
        as_data(TABLE, {"c": list("abcdeg")}),
    ]
    assert len({data.fingerprint() for data in prints}) == len(prints)
    assert len({data.fingerprint(values_only=True) for data in prints}) == 1
