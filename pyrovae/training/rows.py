"""Where rows come from, and in which order: rows in memory by their numbers, or a torch loader that chooses by itself."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset

from pyrovae.data import Batch, Batches, Binarize, Data, LoaderBatches, as_data, batches, loader_batches, split
from pyrovae.data.batching import Place
from pyrovae.data.rows import leaves
from pyrovae.errors import refusal
from pyrovae.missing import numbered_rows
from pyrovae.programs import Program, announced_like
from pyrovae.programs.tables import rows_for

Transform = Callable[[Tensor, "torch.Generator | None"], Tensor]


def noise_seed(seed: int, purpose: str, number: int, rank: int = 0) -> int:
    """The seed of the noise of one step, or of the order of one epoch, on one rank: a hash, so that none is stored.

    >>> noise_seed(0, "step", 1) == noise_seed(0, "step", 1), noise_seed(0, "step", 1) == noise_seed(0, "step", 2)
    (True, False)
    """
    digest = hashlib.blake2b(f"{seed} {purpose} {number} {rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def draw_from(seed: int, device: torch.device) -> None:
    """Seed torch's global generators of the processor and of a device (``torch.manual_seed`` takes 0.1 ms)."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


class Rows(ABC):
    """The rows of one training: called with their numbers, it gives the batch (abstract).

    Args:
        num_rows: the rows of the data set.
        steps: batches in an epoch.
        least: rows in the smallest batch.
        seed: what the order of each epoch is drawn from.
    """

    data: Data | None = None
    """The rows, where they lie in memory."""
    replayable = True
    """Whether a batch can be asked for again, so that training resumes within an epoch."""
    complete = False
    """Whether no entry of any batch is missing."""

    def __init__(self, num_rows: int, steps: int, least: int, seed: int) -> None:
        self.num_rows, self.steps, self.least, self.seed = num_rows, steps, least, seed
        self.epoch: int | None = None

    def plan(self, step: int, count: int) -> Tensor:
        """The numbers of the rows in ``count`` batches from a step on, within one epoch: ``(count, batch)``, padded by -1."""
        epoch, batch = divmod(step, self.steps)
        if epoch != self.epoch:
            draw_from(noise_seed(self.seed, "order", epoch), torch.device("cpu"))
            self.start()
            self.epoch = epoch
        return self.table(batch, count)

    def first(self) -> Batch:
        """The first batch of the first epoch; no random state is used up."""
        states = {name: generator.get_state() for name, generator in self.generators.items()}
        with torch.random.fork_rng():
            batch = self(self.plan(0, 1)[0])
        for name, generator in self.generators.items():
            generator.set_state(states[name])
        self.epoch = None
        return batch

    def numbered(self, batch: Batch) -> AbstractContextManager[None]:
        """Let messages name the batch's rows by their numbers in the data set, where these are known."""
        return nullcontext() if self.data is None else numbered_rows(batch.index, self.num_rows)

    @property
    def generators(self) -> dict[str, torch.Generator]:
        """The generators that the order is drawn from beside torch's global one: what a checkpoint keeps."""
        return {}

    @abstractmethod
    def start(self) -> None:
        """Draw the order of an epoch from torch's global generator."""

    @abstractmethod
    def table(self, batch: int, count: int) -> Tensor:
        """The numbers of the rows in ``count`` batches of this epoch."""

    @abstractmethod
    def __call__(self, index: Tensor) -> Batch:
        """The batch of these rows, its transform drawn from torch's global generator."""


class Memory(Rows):
    """Rows in memory. Rows that fill one batch keep their order."""

    def __init__(self, loader: Batches, seed: int) -> None:
        size = min(loader.size, loader.num_rows)
        incomplete = 0 if loader.drop_last else loader.num_rows % size
        super().__init__(loader.num_rows, len(loader), incomplete or size, seed)
        self.loader, self.data, self.size = loader, loader.data, size
        self.whole = size == loader.num_rows
        transformed = not isinstance(loader.data.transform, Binarize | None)
        self.complete = loader.data.complete and not transformed
        self.of_tensors = not transformed and all(isinstance(leaf, Tensor) for leaf, _ in leaves(loader.data.x))
        """Whether batches are made by operations of torch alone."""

    def start(self) -> None:
        """Draw a permutation of the rows."""
        self.order = torch.arange(self.num_rows) if self.whole else torch.randperm(self.num_rows)

    def table(self, batch: int, count: int) -> Tensor:
        """The numbers of the rows in ``count`` batches of this epoch."""
        rows = self.order[batch * self.size : (batch + count) * self.size]
        lacking = count * self.size - len(rows)
        rows = torch.nn.functional.pad(rows, (0, lacking), value=-1) if lacking else rows
        return rows.view(count, self.size)

    def __call__(self, index: Tensor) -> Batch:
        """The batch of these rows."""
        return self.gather(self.present(index))

    def present(self, index: Tensor) -> Tensor:
        """The numbers of rows without those that fill an incomplete batch."""
        return index if index[-1].item() >= 0 else index[index >= 0]

    def gather(self, index: Tensor) -> Batch:
        """The batch of these rows, none of which fills."""
        return self.loader.batch(slice(0, self.num_rows) if self.whole else index)


class Loader(Rows):
    """A torch loader, which chooses the rows of each batch by itself and cannot give one twice."""

    replayable = False

    def __init__(self, loader: LoaderBatches, seed: int) -> None:
        if loader.num_rows is None:
            raise refusal(
                "the loader does not say how many rows its data set has, and global latents would be counted wrongly: give a "
                "Dataset with __len__, or the rows themselves",
                "data",
            )
        size = getattr(loader.loader, "batch_size", None) or 0  # a batch sampler may have any
        incomplete = size and not getattr(loader.loader, "drop_last", True) and loader.num_rows % size
        super().__init__(loader.num_rows, len(loader), incomplete or size or 2, seed)
        self.loader = loader
        self.batches: Iterator[Batch] = iter(())
        self.last: Batch | None = None

    @property
    def generators(self) -> dict[str, torch.Generator]:
        """The generators of the loader and of its sampler, where they have their own."""
        owners = {"loader": self.loader.loader, "sampler": getattr(self.loader.loader, "sampler", None)}
        return {name: found for name, of in owners.items() if (found := getattr(of, "generator", None)) is not None}

    def start(self) -> None:
        """Start a pass through the loader."""
        self.batches = iter(self.loader)

    def table(self, batch: int, count: int) -> Tensor:
        """A table without columns."""
        return torch.empty(count, 0, dtype=torch.long)

    def __call__(self, index: Tensor) -> Batch:
        """The next batch."""
        self.last = next(self.batches)
        return self.last


def divide(
    program: Program,
    data: Any,
    covariates: Any,
    variant: str | None,
    transform: Transform | None,
    validation: Any,
    seed: int | None,
) -> tuple[Any, Data | None]:
    """The training data, and the validation data brought into their order and drawn once."""
    if isinstance(data, (DataLoader, Dataset)):
        if isinstance(validation, float):
            raise refusal("a loader cannot be divided: give validation= as data", "validation")
        if transform is not None:
            raise refusal("transform= is for rows in memory: transform inside the Dataset", "transform")
        return data, None if validation is None else as_data(validation)
    if variant is not None and not isinstance(variant, str):
        raise refusal(f"variant must be a text, got {variant!r:.100}", "variant", TypeError)
    rows = rows_for(program, data, covariates, variant)
    some = (rows.rows(slice(first, min(first + 4096, len(rows)))) for first in range(0, len(rows), 4096))
    if all(bool(leaf.isnan().all()) for batch in some for leaf in tree_leaves(batch.x)):
        raise refusal(
            f"expected data with observed entries, got NaN (missing) in every entry of {len(rows)} rows; look at how they were "
            "read: a column of text, or a wrong separator, becomes NaN",
            "data",
        )
    rows = rows if transform is None else replace(rows, transform=transform)
    seed = rows.seed or 0 if seed is None else seed
    if isinstance(validation, float):
        return split(rows, validation, seed)
    return rows, None if validation is None else rows.matched(validation).drawn(seed)


def placed_rows(
    program: Program, data: Any, covariates: Any, batch_size: int, drop_last: bool, device: Any, seed: int
) -> tuple[Rows, Place]:
    """The rows in the program's dtype and on its device, and these two; the program is moved to ``device`` first."""

    def rows_in(place: Place) -> Rows:
        if not isinstance(data, (DataLoader, Dataset)):
            return Memory(batches(data, batch_size, True, None, drop_last, *place), seed)
        size = batch_size if isinstance(data, Dataset) else None
        names = () if covariates is None else tuple(covariates)
        return Loader(loader_batches(data, size, True, None, drop_last, *place, covariates=names), seed)

    def call() -> Any:
        first = rows.first()
        return program.on(first.x, first.covariates, rows.num_rows, first.index)

    rows = rows_in(Place())
    like = announced_like(program, call, None if device is None else known_device(device))
    place = Place(device) if like is None else Place(like.device, like.dtype)
    return rows if place == Place() else rows_in(place), place


def known_device(device: Any) -> torch.device:
    """A device by name, if torch sees it.

    Raises:
        ValueError: torch does not know the name, or sees no such device.
    """
    if not isinstance(device, str | int | torch.device) or isinstance(device, bool):
        raise refusal(f"device must be a name such as 'cpu' or 'cuda:0', got {device!r:.100}", "device", TypeError)
    try:
        wanted = torch.device(device)
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = torch.cuda.device_count()
        seen = f"torch sees {there} of CUDA" if there else "torch sees no GPU"
        raise refusal(
            f"device {str(device)!r} was asked for, and {seen}: leave device out, or write 'cpu'", "device"
        ) from error
    return wanted
