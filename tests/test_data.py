"""`Data` and `as_data`: what goes in comes out, rows stay together, hashes tell rows apart."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from pyrovae.data import Binarize, Data, SparseRows, as_data, split

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
    assert data.fingerprint() == as_data(TABLE).fingerprint()


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
    assert data.labels.tolist() == numbers
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
    assert (data.variant, data.labels.tolist(), list(data.covariates)) == ("counts", list(range(6)), ["c"])
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
    assert sorted([*train.labels.tolist(), *validation.labels.tolist()]) == list(range(100))
    assert (train.split, validation.split, train.seed) == ("train", "validation", 1)
    again, others = split(data, fraction, seed=1)[1], split(data, fraction, seed=2)[1]
    assert again.labels.tolist() == validation.labels.tolist() != others.labels.tolist()


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
