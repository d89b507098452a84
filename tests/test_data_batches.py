"""Batches: every row once, in an order that the generator's state gives back; loaders read by name."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from pyrovae.data import Binarize, Data, as_data, batches, epoch_order, loader_batches, map_batches

ROWS = torch.arange(23.0)[:, None] + torch.tensor([0.0, 100.0])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("make", [as_data, lambda x: scipy.sparse.csr_array(x.numpy()), lambda x: (x, {"b": x})])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("size", [1, 7, 23, 50])
def test_every_row_once_beside_its_number(make, shuffle: bool, size: int):
    loader = batches(make(ROWS), size, shuffle, seeded())
    seen = list(loader)
    assert len(seen) == len(loader) == -(-23 // size)
    index = torch.cat([batch.index for batch in seen])
    assert sorted(index.tolist()) == list(range(23))
    assert (index.tolist() == list(range(23))) is not shuffle
    for batch in seen:
        x = batch.x[1]["b"] if isinstance(batch.x, tuple) else batch.x
        assert torch.equal(x.float(), ROWS[batch.index])


def test_drop_last():
    loader = batches(ROWS, 5, generator=seeded(), drop_last=True)
    assert [len(batch.x) for batch in loader] == [5] * 4
    assert (len(loader), loader.num_rows) == (4, 23)
    assert len(batches(ROWS, 23, drop_last=True)) == 1


def test_the_generators_state_gives_the_batches_back():
    data = Data(ROWS / 200, transform=Binarize())
    generator = seeded()
    loader = batches(data, 4, generator=generator)
    first = [batch.x for batch in loader]
    state = generator.get_state()
    second = [batch.x for batch in loader]
    generator.set_state(state)
    again = [batch.x for batch in loader]
    assert all(torch.equal(a, b) for a, b in zip(second, again, strict=True))
    assert not torch.equal(torch.cat(first), torch.cat(second))


def test_by_default_torchs_generator_shuffles():
    torch.manual_seed(3)
    first = torch.cat([batch.index for batch in batches(ROWS, 4)])
    torch.manual_seed(3)
    assert torch.equal(first, torch.cat([batch.index for batch in batches(ROWS, 4)]))
    assert first.tolist() != list(range(23))
    assert torch.equal(epoch_order(23, seeded()), torch.randperm(23, generator=seeded()))


def test_a_seeded_generator_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    list(batches(Data(ROWS / 200, transform=Binarize()), 4, generator=seeded()))
    assert torch.equal(before, torch.get_rng_state())


def test_the_transform_is_drawn_afresh_at_the_right_rate():
    data = Data(torch.full((200, 10), 0.3), transform=Binarize())
    loader = batches(data, 50, generator=seeded())
    epochs = [torch.cat([batch.x for batch in loader]) for _ in range(20)]
    assert not torch.equal(epochs[0], epochs[1])
    assert abs(torch.stack(epochs).mean() - 0.3) < 5 * (0.21 / 40_000) ** 0.5


def test_covariates_goes_with_its_rows_and_keeps_whole_numbers():
    data = as_data(ROWS, covariates={"label": torch.arange(23), "size": torch.arange(23.0)}, labels=range(23))
    for batch in batches(data, 6, generator=seeded(), dtype=torch.float64, device="cpu"):
        assert (batch.x.dtype, batch.covariates["size"].dtype) == (torch.float64, torch.float64)
        assert torch.equal(batch.covariates["label"], batch.index)
        assert torch.equal(batch.covariates["size"], batch.index.double())


@pytest.mark.parametrize("x", [torch.arange(9, dtype=torch.uint8), scipy.sparse.eye_array(9, dtype=int).tocsr()])
def test_whole_numbers_are_cast_on_request_only(x):
    assert not next(iter(batches(x, 4))).x.is_floating_point()
    assert next(iter(batches(x, 4, dtype=torch.float32))).x.dtype == torch.float32


def test_unshuffled_batches_are_views():
    assert next(iter(batches(ROWS, 4, shuffle=False))).x.data_ptr() == ROWS.data_ptr()


def test_reprs_tell_the_number_of_batches():
    assert repr(batches(ROWS, 4)).endswith("batch_size=4, batches=6)")


LABELS = torch.arange(23)


class Rows(Dataset):
    """Any map-style dataset."""

    def __init__(self, item):
        self.item = item

    def __len__(self):
        return 23

    def __getitem__(self, number):
        return self.item(number)


class Stream(IterableDataset):
    """A dataset without a length."""

    def __iter__(self):
        return iter(ROWS)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (DataLoader(TensorDataset(ROWS), batch_size=5), ()),
        (DataLoader(TensorDataset(ROWS, LABELS), batch_size=5), ()),
        (DataLoader(TensorDataset(ROWS, LABELS), batch_size=5), ("label",)),
        (DataLoader(Rows(lambda i: ROWS[i]), batch_size=5), ()),
        (DataLoader(Rows(lambda i: {"x": ROWS[i], "label": i}), batch_size=5), ("label",)),
        (DataLoader(Rows(lambda i: {"image": ROWS[i]}), batch_size=5), ()),
        ([(ROWS[:10].numpy(), LABELS[:10]), (ROWS[10:].numpy(), LABELS[10:])], ()),
        (DataLoader(Stream(), batch_size=5), ()),
    ],
)
def test_loaders_are_read_by_name(source, names):
    seen = list(loader_batches(source, covariates=names, dtype=torch.float64))
    x = torch.cat([batch.x["image"] if isinstance(batch.x, dict) else batch.x for batch in seen])
    assert torch.equal(x, ROWS.double())
    assert torch.equal(torch.cat([batch.index for batch in seen]), LABELS)
    if names:
        assert torch.equal(torch.cat([batch.covariates["label"] for batch in seen]), LABELS)
    else:
        assert all(batch.covariates is None for batch in seen)


def test_a_dataset_becomes_a_seeded_loader():
    pairs = TensorDataset(ROWS, LABELS)
    first, second = (
        torch.cat([batch.x for batch in loader_batches(pairs, 5, generator=seeded(seed))]) for seed in (0, 1)
    )
    assert sorted(first[:, 0].tolist()) == ROWS[:, 0].tolist() != first[:, 0].tolist()
    assert not torch.equal(first, second)
    assert torch.equal(first, torch.cat([batch.x for batch in loader_batches(pairs, 5, generator=seeded())]))


def test_loaders_tell_their_length_where_they_know_it():
    loader = loader_batches(TensorDataset(ROWS), 5)
    assert (len(loader), loader.num_rows) == (5, 23)
    assert len(loader_batches(TensorDataset(ROWS), 5, drop_last=True)) == 4
    assert loader_batches([ROWS]).num_rows is None
    assert loader_batches(Stream(), 5).num_rows is None
    with pytest.raises(TypeError, match="expected a loader that knows its length, got one over a stream"):
        len(loader_batches(Stream(), 5))


def test_several_covariates_variables_by_place():
    dataset = TensorDataset(ROWS, ROWS[:, 0], LABELS)
    batch = next(iter(loader_batches(dataset, 23, shuffle=False, covariates=("size", "label"))))
    assert torch.equal(batch.covariates["size"], ROWS[:, 0])
    assert torch.equal(batch.covariates["label"], LABELS)


def test_arrays_of_a_loader_may_miss_entries():
    (batch,) = loader_batches([np.array([[1.0, np.nan]])])
    assert bool(batch.x.isnan()[0, 1])


def test_a_pass_resumes_in_its_middle():
    loader = batches(ROWS, 4, generator=seeded())
    order = loader.order()
    whole, rest = list(loader.along(order)), list(loader.along(order, first=4))
    assert [batch.index.tolist() for batch in rest] == [batch.index.tolist() for batch in whole[4:]]
    assert torch.equal(torch.cat([batch.index for batch in whole]), order)
    assert batches(ROWS, 4, shuffle=False).order() is None


PART = SubsetRandomSampler(range(9))


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({"sampler": PART}, 9),
        ({"sampler": range(9)}, 9),
        ({"batch_sampler": BatchSampler(PART, 4, drop_last=False)}, 9),
        ({"batch_sampler": [[0, 1], [2, 3]]}, 23),
        ({"sampler": RandomSampler(LABELS, replacement=True, num_samples=7)}, 23),
        ({"sampler": RandomSampler(LABELS, replacement=True, num_samples=70)}, 23),
        ({"sampler": WeightedRandomSampler([1.0] * 23, 10)}, 23),
        ({"sampler": DistributedSampler(LABELS, num_replicas=3, rank=0)}, 23),
        ({"shuffle": True, "batch_size": 10, "drop_last": True}, 23),
    ],
)
def test_a_sampler_of_a_part_sets_the_number_of_rows(options, rows):
    """A sampler that draws from all rows does not, however long its epoch is."""
    assert loader_batches(DataLoader(TensorDataset(ROWS), **options)).num_rows == rows
    subset = DataLoader(Subset(TensorDataset(ROWS), range(12)), batch_size=5)
    assert loader_batches(subset).num_rows == 12


@pytest.mark.parametrize(
    "make",
    [
        as_data,
        torch.Tensor.numpy,
        torch.Tensor.tolist,
        lambda x: pd.DataFrame(x.numpy()),
        lambda x: scipy.sparse.csr_array(x.numpy()),
        lambda x: scipy.sparse.dok_array(x.numpy()),
        lambda x: anndata.AnnData(x.numpy()),
    ],
)
@pytest.mark.filterwarnings("ignore::anndata.ImplicitModificationWarning")
def test_functions_are_mapped_over_any_kind_of_data(make):
    like = torch.zeros((), dtype=torch.float64)
    got = map_batches(lambda batch: {"sum": batch.x.sum(1), "row": batch.index}, make(ROWS), like=like, batch_size=5)
    assert torch.equal(got["sum"], ROWS.double().sum(1))
    assert torch.equal(got["row"], torch.arange(23))
    covariates = {"size": range(23)}
    got = map_batches(lambda batch: (batch.x + batch.covariates["size"])[None], ROWS[:, 0], covariates, dim=1)
    assert torch.equal(got, 2 * ROWS[None, :, 0])
