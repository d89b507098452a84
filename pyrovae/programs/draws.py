"""Fresh draws of a program on rows of data, in pieces whose size bounds the memory."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn

from pyrovae.data import Batch, as_data, batches
from pyrovae.programs.call import Call, checked
from pyrovae.programs.dry_run import announced_like, dry_run, listening
from pyrovae.programs.masks import Redraw
from pyrovae.programs.program import Program, eval_mode
from pyrovae.programs.running import plate_nesting
from pyrovae.programs.terms import Terms, log_terms

CHUNK_SIZE = 4096
"""Draws (pairs of a sample and a datum) that are evaluated at once."""


class Draws:
    """A program and data, ready to be evaluated batch by batch.

    Args:
        program: see :meth:`pyrovae.programs.Program.of`.
        x: whatever :func:`pyrovae.data.as_data` takes; floating-point rows are cast to the module's dtype and device.
        covariates: for each name, a tensor of as many rows.
        num_samples: draws per datum.
        chunk_size: the most draws (pairs of a sample and a datum) evaluated at once.
        vectorize: False runs the program once for each draw.
        seed: every batch of rows gets a seed of its own, derived from this one; None derives one from torch's state.
        progress: True shows a bar, False none; by default there is one on a terminal.
        per_row: draws per datum that are needed at once, by which the rows are cut into batches; by default all.

    Raises:
        ValueError: the program runs on all rows alone.
    """

    def __init__(
        self,
        program: Any,
        x: Any,
        covariates: Mapping[str, Any] | None = None,
        num_samples: int = 1,
        chunk_size: int = CHUNK_SIZE,
        vectorize: bool = True,
        seed: int | None = None,
        progress: bool | None = None,
        per_row: int | None = None,
    ) -> None:
        if num_samples < 1 or chunk_size < 1:
            raise ValueError(f"num_samples and chunk_size must be at least 1, got {num_samples} and {chunk_size}")
        self.program, self.data = Program.of(program), as_data(x, covariates)
        self.num_samples, self.chunk_size, self.vectorize, self.progress = num_samples, chunk_size, vectorize, progress
        self.seed = int(torch.randint(2**62, ())) if seed is None else seed
        like = announced_like(self.program, lambda: self.call(self._batch_of(2, {}), nesting=0)[:3])
        place: dict[str, Any] = {} if like is None else {"device": like.device, "dtype": like.dtype}
        rows = min(len(self.data), max(1, math.ceil(math.sqrt(chunk_size)), chunk_size // (per_row or num_samples)))
        self.batches = batches(self.data, rows, shuffle=False, **place)
        self.rows_at_once = rows
        self.modules: tuple[nn.Module, ...] = self.program.owners
        with self.evaluating(), listening(self.program):
            first, self.nesting = self._look(place, per_row or num_samples)
            with poutine.block():
                self.dry_run = dry_run(first.program, first.args, first.kwargs)
        self.dry_run.check_rows(len(first.rows))
        self.modules = tuple(self.dry_run.announced.modules.values())
        self.global_sites, self.masked_sites = self.dry_run.global_latents, self.dry_run.masked_latents
        self.relaxed_sites, self.measure = self.dry_run.relaxed_latents, self.dry_run.measure

    def __len__(self) -> int:
        return len(self.data)

    def redrawing(self, call: Call) -> tuple[Call, Mapping[str, Tensor]]:
        """The call with the latents that both functions mask drawn from their prior there; and their values of its last run."""
        redraw = Redraw(self.masked_sites)
        model = redraw(call.program.model) if self.masked_sites else call.program.model
        return call._replace(program=replace(call.program, model=model)), redraw.values

    def _look(self, place: Mapping[str, Any], per_row: int) -> tuple[Call, int]:
        """A call of two rows, or of a whole batch where a guide takes no less; and the number of nested plates."""
        few = self.call(self._batch_of(2, place), nesting=0)
        nesting = _nesting(few)
        if nesting is not None:
            return few, nesting
        batch = self.call(next(iter(self.batches)), nesting=0)
        try:
            return batch, plate_nesting(batch.program, batch.args, batch.kwargs)
        except (ValueError, RuntimeError) as error:
            every = self.call(self._batch_of(len(self.data), place), nesting=0)
            if self.rows_at_once == len(self.data) or _nesting(every) is None:
                raise
            raise ValueError(
                f"the program runs on all {len(self.data)} rows and not on {self.rows_at_once} of them, so the guide seems to "
                f"have parameters for each row: evaluate all rows at once, by chunk_size={per_row * len(self.data)} or more "
                f"(in from_pyro_svi by batch_size={len(self.data)})"
            ) from error

    def _batch_of(self, rows: int, place: Mapping[str, Any]) -> Batch:
        return next(iter(batches(self.data[:rows], rows, shuffle=False, **place)))

    def call(self, batch: Batch, nesting: int | None = None, guide: Any = None) -> Call:
        """The program's arguments on a batch of rows; a guide that belongs to certain rows is cut to them."""
        program = self.program if guide is None else replace(self.program, guide=guide)
        rows = getattr(program.guide, "select_rows", None)
        program = program if rows is None else replace(program, guide=rows(batch.index))
        program, args, kwargs = program.on(batch.x, batch.covariates, index=batch.index)
        return Call(program, args, kwargs, self.nesting if nesting is None else nesting, batch.index)

    @contextmanager
    def evaluating(self, seed: int | None = None) -> Iterator[None]:
        """Eval mode and no gradient; the random state is seeded if asked, and restored."""
        with eval_mode(self.modules), torch.no_grad(), torch.random.fork_rng():
            if seed is not None:
                torch.manual_seed(seed)
            yield

    @contextmanager
    def each(self, label: str = "") -> Iterator[Iterator[tuple[int, Batch]]]:
        """The batches of rows with their numbers, each under a seed of its own, in eval mode; all restored on an error.

        A context manager, since a generator that is left in its middle keeps what it has set until it is collected.
        """
        with closing(self._each(label)) as found:
            yield found

    def _each(self, label: str) -> Generator[tuple[int, Batch], None, None]:
        for number, batch in enumerate(bar(self.batches, label, self.progress)):
            with self.evaluating(_mixed(self.seed, number)):
                yield number, batch

    def chunks(self, call: Call, num_samples: int | None = None) -> Iterator[Terms]:
        """The terms of all samples of one batch of rows, some samples at once; the first ones check the rows."""
        for number, size in enumerate(self.sizes(num_samples)):
            with checked(number == 0):
                terms = call.terms(size, self.vectorize)
            yield terms

    def sizes(self, num_samples: int | None = None) -> list[int]:
        """How many samples of a batch of rows are drawn at once."""
        total = self.num_samples if num_samples is None else num_samples
        at_once = max(1, self.chunk_size // self.rows_at_once)
        return [min(at_once, total - done) for done in range(0, total, at_once)]

    @contextmanager
    def shared_chunks(self) -> Iterator[Iterator[tuple[slice, Batch, Terms]]]:
        """The terms of all samples and rows, where all rows share each draw of the global latents; as :meth:`each`."""
        with closing(self._shared_chunks()) as found:
            yield found

    def _shared_chunks(self) -> Generator[tuple[slice, Batch, Terms], None, None]:
        done = 0
        for number, size in enumerate(self.sizes() if self.vectorize else [1] * self.num_samples):
            drawn: Trace | None = None
            for position, batch in enumerate(self.batches):
                with self.evaluating(_mixed(self.seed, number * len(self.batches) + position)):
                    call = self.call(batch)
                    if drawn is not None:
                        call = call._replace(
                            program=replace(call.program, guide=poutine.replay(call.program.guide, drawn))
                        )
                    model_trace, guide_trace = call.traces(size if self.vectorize else None)
                    drawn = drawn or _only(guide_trace, self.global_sites)
                    yield slice(done, done + size), batch, log_terms(model_trace, guide_trace, dtype=torch.float64)
            done += size


def _nesting(call: Call) -> int | None:
    """The number of nested plates; None if the program does not run."""
    try:
        return plate_nesting(call.program, call.args, call.kwargs)
    except (ValueError, RuntimeError):
        return None


def bar(iterable: Iterable, label: str, progress: bool | None) -> Iterable:
    """A progress bar; with None only on a terminal."""
    from tqdm import tqdm

    return tqdm(iterable, desc=label, disable=None if progress is None else not progress, leave=False)


def _mixed(seed: int, number: int) -> int:
    return (seed * 6364136223846793005 + (number + 1) * 1442695040888963407) % 2**63


def _only(trace: Trace, names: list[str]) -> Trace:
    kept = Trace()
    for name in names:
        kept.add_node(name, **trace.nodes[name])
    return kept
