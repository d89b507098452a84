"""Where batches come from, in an order that can be drawn again: rows in memory, or a torch loader."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pyrovae.data import Batch, Batches, Data, LoaderBatches, as_data, batches, loader_batches
from pyrovae.programs import Program


class Source(ABC):
    """Batches for one pair of model and guide.

    Args:
        program: the program, which says whether it takes the whole data set's size.
        num_rows: rows of the whole data set.
        generator: the source of the order and of per-batch draws.
    """

    resumes_within_epochs: bool

    def __init__(self, program: Program, num_rows: int, generator: torch.Generator) -> None:
        self.program, self.num_rows, self.generator = program, num_rows, generator
        self.sized = program.sized
        self.full_size: int | None = None
        """Rows that a program without ``size`` scales each batch to by itself, with a plate that subsamples."""

    @property
    def generators(self) -> dict[str, torch.Generator]:
        """The generators that batches draw from, by name: what a checkpoint keeps."""
        return {"data": self.generator}

    @abstractmethod
    def __len__(self) -> int:
        """Batches in an epoch."""

    @abstractmethod
    def order(self) -> Tensor | None:
        """Draw the order of one epoch."""

    @abstractmethod
    def along(self, order: Tensor | None, first: int) -> Iterator[Batch]:
        """The batches of an epoch, from batch number ``first`` on."""

    def arguments(self, batch: Batch) -> tuple[Program, tuple, dict[str, Any], int]:
        """The program with the arguments of model and guide, and the rows that the loss stands for."""
        size = self.num_rows if self.sized else self.full_size or len(batch.index)
        return *self.program.on(batch.x, batch.covariates, size, batch.index), size


class Memory(Source):
    """Batches of rows in memory, by index; resumes in the middle of an epoch."""

    resumes_within_epochs = True

    def __init__(self, program: Program, loader: Batches, generator: torch.Generator) -> None:
        super().__init__(program, loader.num_rows, generator)
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def order(self) -> Tensor | None:
        """Draw the order of one epoch."""
        return self.loader.order()

    def along(self, order: Tensor | None, first: int) -> Iterator[Batch]:
        """The batches of an epoch, from batch number ``first`` on."""
        return self.loader.along(order, first)


class Loader(Source):
    """Batches of a torch loader; resumes at the start of an epoch."""

    resumes_within_epochs = False

    def __init__(self, program: Program, loader: LoaderBatches, generator: torch.Generator) -> None:
        if loader.num_rows is None:
            raise ValueError(
                "the loader does not say how many rows its data set has, and global latents would be counted wrongly: give a "
                "Dataset with __len__, or the rows themselves"
            )
        super().__init__(program, loader.num_rows, generator)
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def generators(self) -> dict[str, torch.Generator]:
        """Also the generators of the loader and of its sampler, where they have their own."""
        loader = self.loader.loader
        owners = {"loader": loader, "sampler": getattr(loader, "sampler", None)}
        own = {name: getattr(owner, "generator", None) for name, owner in owners.items()}
        return super().generators | {name: found for name, found in own.items() if found is not None}

    def order(self) -> Tensor | None:
        """None: the loader draws its own order."""
        return None

    def along(self, order: Tensor | None, first: int) -> Iterator[Batch]:
        """The batches of an epoch; it cannot start in the middle."""
        if first:
            raise ValueError(
                "a loader cannot resume in the middle of an epoch: give the rows themselves to resume there"
            )
        return iter(self.loader)


def source_of(
    program: Program,
    data: Any,
    covariates: Any,
    batch_size: int,
    drop_last: bool,
    place: Mapping[str, Any],
    generator: torch.Generator,
) -> tuple[Source, Data | None]:
    """The batches of whatever ``fit`` is given, and the data itself where it lies in memory.

    Rows that fill one batch keep their order: a guide may hold parameters for each row.
    """
    if isinstance(data, (DataLoader, Dataset)):
        names = () if covariates is None else tuple(covariates)
        size = batch_size if isinstance(data, Dataset) else None
        found = loader_batches(data, size, True, generator, drop_last, covariates=names, **place)
        return Loader(program, found, generator), None
    rows = as_data(data)  # its covariates are already with it
    is_whole = isinstance(batch_size, int) and batch_size >= len(rows)
    loader = batches(rows, batch_size, not is_whole, generator, drop_last, **place)
    return Memory(program, loader, generator), rows
