"""The one engine for work per datum: blocks of rows, tiles of draws, a bound on memory, progress, resume and shards."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import is_validation_enabled
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn

from pyrovae.data import Batch, batches
from pyrovae.errors import check_integer, check_seed, plain_errors, refusal
from pyrovae.missing import numbered_rows
from pyrovae.networks import check_covariates
from pyrovae.programs.call import Call, checked
from pyrovae.programs.dry_run import DryRun, announced_like, dry_run, listening
from pyrovae.programs.footprint import Footprint, footprint
from pyrovae.programs.outside import constants, digest_of
from pyrovae.programs.program import Program, eval_mode
from pyrovae.programs.results import Results
from pyrovae.programs.simulate import Substitute, replicate
from pyrovae.programs.supports import Inside, data_named
from pyrovae.programs.tables import rows_for
from pyrovae.programs.terms import Terms, concatenate, log_terms

MAX_BYTES = 2**31
"""The memory that a call may take beside its program and data, unless it is told otherwise."""
TILE_BYTES = 2**27
PAIRS = 4096
"""At most so many pairs of a draw and a row are run at once, and so many bytes."""

Columns = dict[str, Tensor]


@dataclass(frozen=True)
class Tile:
    """Some draws for some rows: what is run at once.

    Args:
        call: the program on the rows.
        samples: which of all the draws these are.
        vectorize: False runs the program once for each draw.
        is_first: whether these are the rows' first draws, whose data are checked.
    """

    call: Call
    samples: slice
    vectorize: bool = True
    is_first: bool = True

    @property
    def num_samples(self) -> int:
        """The number of draws."""
        return self.samples.stop - self.samples.start

    def traces(self) -> tuple[Trace, Trace]:
        """The model's trace replayed against the guide's; of one draw where the program runs once for each."""
        size = self.num_samples if self.vectorize else None
        found = self.call.traces(size)
        if self.is_first:
            self.call.check_masks(*found, size)
        return found

    def terms(self) -> Terms:
        """The log densities per datum of fresh draws."""
        runs = range(1 if self.vectorize else self.num_samples)
        return concatenate([log_terms(*self.traces(), dtype=torch.float64) for _ in runs])


@dataclass(frozen=True)
class Block:
    """Some rows, with all of their draws.

    Args:
        work: what the block belongs to.
        number: its number.
        batch: the rows.
        call: the program on them.
    """

    work: RowWork
    number: int
    batch: Batch
    call: Call

    def select(self, rows: Tensor) -> Block:
        """Some of the rows, by their places in the block."""
        loader = batches(self.work.data, self.work.rows, shuffle=False, **self.work.place)
        batch = loader.batch(self.batch.index[rows.to(self.batch.index.device)])
        return replace(self, batch=batch, call=self.work.call(batch))

    def tiles(self, num_samples: int | None = None, stream: int = 0, first: int = 0) -> Iterator[Tile]:
        """The draws of these rows, some at a time, each tile under a seed of its own.

        Args:
            num_samples: draws per row; by default those of the plan.
            stream: tells several passes over the draws apart.
            first: the number of the first of these draws.
        """
        stop = first + (self.work.num_samples if num_samples is None else num_samples)
        for number, start in enumerate(range(first, stop, self.work.step)):
            torch.manual_seed(mixed(self.work.seed, self.number, 1 + number, stream))
            samples = slice(start, min(start + self.work.step, stop))
            call = self.work.sharing(self.call, samples)
            if wide := self.work.dry_run.wide_latents:
                call = call.using(model=Inside(wide)(call.program.model))
            with checked(number == 0):
                yield Tile(call, samples, self.work.vectorize, number == 0)

    def terms(self, num_samples: int | None = None, stream: int = 0) -> Iterator[Terms]:
        """The log densities per datum of fresh draws, tile by tile."""
        return (tile.terms() for tile in self.tiles(num_samples, stream))

    def log_weights(self) -> Tensor:
        """The log weights of the plan's draws, of shape (draws, rows), float64."""
        return torch.cat([self.work.weigh(self, tile).cpu() for tile in self.tiles()])


class RowWork:
    """A program and data, ready for work per datum in blocks of rows and tiles of draws.

    Seeds belong to blocks and tiles, and the sizes of these follow from the program, the data and the number of draws
    alone: numbers are the same whatever the memory, the shard and the interruptions.

    Args:
        program: see :meth:`pyrovae.programs.Program.of`.
        data: whatever :func:`pyrovae.data.as_data` takes; moved in the program's dtype to its device, block by block.
        covariates: for each name, N rows.
        num_samples: draws per row.
        at_once: draws per row that one task needs at once, by which the rows are cut into blocks; by default all.
        share: ``"guide"`` or ``"prior"`` draws the global latents from there once for all rows; None anew in each tile.
        vectorize: False runs the program once for each draw, for programs that do not broadcast.
        seed: of all draws; None takes one from torch's generator.
        max_bytes: refuse what needs more memory.
        progress: True shows a bar, False none; by default there is one on a terminal.
        shard: ``(rank, world)`` takes every ``world``-th block only.

    Raises:
        ValueError: a number out of range, or a program that draws rows by itself.
    """

    def __init__(
        self,
        program: Any,
        data: Any,
        covariates: Mapping[str, Any] | None = None,
        *,
        num_samples: int = 1,
        at_once: int | None = None,
        share: str | None = None,
        vectorize: bool = True,
        seed: int | None = None,
        max_bytes: int = MAX_BYTES,
        progress: bool | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        self.max_bytes = check_integer("max_bytes", max_bytes)
        self.program, self.data = Program.of(program), rows_for(program, data, covariates)
        self.vectorize, self.progress, self.shard = vectorize, progress, shard
        if not isinstance(vectorize, bool):
            raise refusal(f"vectorize must be True or False, got {vectorize!r:.100}", "vectorize", TypeError)
        seed = check_seed(seed)
        self.seed = int(torch.randint(2**62, ())) if seed is None else seed
        self.weigh: Callable[[Block, Tile], Tensor] = lambda block, tile: tile.terms().log_weights
        self.densities: Any = None
        self._shared = slice(0), Substitute({})
        for owner in self.program.owners:
            check_covariates(owner, self.data.covariates or {}, self.data.levels)
        like = announced_like(self.program, lambda: self.call(self.first(2, {}), nesting=0)[:3])
        self.place: dict[str, Any] = {} if like is None else {"device": like.device, "dtype": like.dtype}
        self.modules: tuple[nn.Module, ...] = self.program.owners
        with self.evaluating(self.seed), poutine.block(), listening(self.program):
            few, self.dry_run = self._runs_on()
            self.nesting = self.dry_run.nesting
            self.dry_run.check_rows(len(few.rows))
            self.modules = tuple(self.dry_run.announced.modules.values())
            self._few = few._replace(nesting=self.nesting)
            self.share = share if self.dry_run.global_latents else None
            self.plan(num_samples, at_once)

    def __len__(self) -> int:
        return len(self.data)

    def first(self, rows: int, place: Mapping[str, Any] | None = None) -> Batch:
        """The first rows of the data."""
        place = self.place if place is None else place
        return next(iter(batches(self.data[:rows], rows, shuffle=False, **place)))

    def call(self, batch: Batch, nesting: int | None = None, guide: Any = None) -> Call:
        """The program on a batch of rows; a guide that belongs to certain rows is cut to them."""
        program = self.program if guide is None else replace(self.program, guide=guide)
        select = getattr(program.guide, "select_rows", None)
        program = program if select is None else replace(program, guide=select(batch.index))
        program, args, kwargs = program.on(batch.x, batch.covariates, index=batch.index)
        nesting = self.nesting if nesting is None else nesting
        densities = self.densities if guide is None else None
        return Call(program, args, kwargs, nesting, batch.index, densities, batch)

    def _runs_on(self) -> tuple[Call, DryRun]:
        """A call of two rows and its run; of all, where the program runs on all alone (its guide has parameters for each)."""
        few = self.call(self.first(2), nesting=0)
        self.whole = False
        try:
            return few, dry_run(*few[:3])
        except (ValueError, RuntimeError):
            every = self.call(self.first(len(self.data)), nesting=0)
            with data_named(every.program, every.args, every.kwargs):
                found = dry_run(*every[:3])
            self.whole = len(self.data) > 2
            return every, found

    def plan(self, num_samples: int, at_once: int | None = None) -> None:
        """Fix the number of draws, the rows of a block and the draws of a tile; arguments as for the class."""
        self.num_samples = check_integer("num_samples", num_samples)
        at_once, used = at_once or num_samples, self.footprint
        pairs = max(1, min(PAIRS, int(TILE_BYTES / max(used.per_pair, 1.0))))
        rows = max(math.isqrt(pairs), pairs // at_once)
        rows = max(1, min(rows, int(TILE_BYTES / max(used.per_row, 1.0)), len(self.data)))
        self.rows = len(self.data) if self.whole else rows
        self.draws = max(1, pairs // self.rows)
        self.step = self.draws if self.share is None or self.vectorize else 1
        needed = used.fixed + used.per_row * self.rows + used.per_pair * self.rows * min(self.draws, at_once)
        self._check_bytes(needed, f"a block of {self.rows} rows needs", "")

    @cached_property
    def footprint(self) -> Footprint:
        """The bytes that a run of the program takes: fixed, per row, and per pair of a draw and a row."""
        few = self._few
        more = None if self.whole or len(self.data) < 4 else self.call(self.first(4), self.nesting)
        try:
            return footprint(few, more, self.dry_run.guide_trace, self.vectorize)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            if not self.vectorize:
                raise
            said = str(error).partition("\n")[0]
            raise refusal(
                f"the program runs on rows, but not with an axis of draws to their left ({said}): count axes from the right, "
                "x[..., 0] for x[:, 0] and .sum(-1) for .sum(1), or give vectorize=False where the function takes it: the "
                "program then runs once for each draw",
                "vectorize",
            ) from error

    @contextmanager
    def evaluating(self, seed: int | None = None) -> Iterator[None]:
        """Eval mode and no gradient; the random state, seeded if asked, and Pyro's validation are restored."""
        kept = pyro.validation_enabled(is_validation_enabled())  # tiles turn it off, which outlives them in a traceback
        with kept, plain_errors(), eval_mode(self.modules), torch.no_grad(), torch.random.fork_rng():
            if seed is not None:
                torch.manual_seed(seed)
            yield

    def global_draws(self, num_samples: int | None, of: str = "guide", stream: int = 0) -> dict[str, Tensor]:
        """Draws of the global latents, by site: of the guide, or of their prior; with None one, without an axis for draws."""
        if not self.dry_run.global_latents:
            return {}
        with self.evaluating(mixed(self.seed, 0, 0, 0, 1 + stream)):
            trace = replicate(self._few, {}, num_samples) if of == "prior" else self._few.traces(num_samples)[1]
        return {name: trace.nodes[name]["value"] for name in self.dry_run.global_latents if name in trace}

    def sharing(self, call: Call, samples: slice) -> Call:
        """A call under those draws of the global latents that all rows share, where they do."""
        if self.share is None:
            return call
        if self._shared[0] != samples:
            drawn = self.global_draws(
                samples.stop - samples.start if self.vectorize else None, self.share, samples.start
            )
            self._shared = samples, Substitute(drawn)
        share = self._shared[1]
        return call.using(model=share(call.program.model), guide=share(call.program.guide))

    @property
    def index(self) -> Tensor:
        """The numbers of the rows of this shard, in the order of the results."""
        (rank, world), numbers = self.shard, torch.arange(len(self))
        return numbers[numbers // self.rows % world == rank]

    def run(
        self,
        task: Callable[[Block], Columns],
        label: str = "",
        *,
        dim: int = 0,
        resume: str | Path | None = None,
        settings: Any = None,
    ) -> Columns:
        """Do a task for every block of rows, each under a seed of its own, and join the results.

        Args:
            task: from a block to named tensors with its rows along ``dim``.
            label: the name on the progress bar.
            dim: the axis of the rows in the results.
            resume: a folder in which finished blocks are kept, so that the same call goes on where it was stopped.
            settings: what the results depend on beside program, data, seed and number of draws.

        Returns:
            The results on the CPU, for the rows of :attr:`index`.

        Raises:
            ValueError: the results need more than ``max_bytes``; the folder holds those of another call.
        """
        kept = Results(resume, "" if resume is None else self.fingerprint(settings))
        rank, world = self.shard
        loader = batches(self.data, self.rows, shuffle=False, **self.place)
        mine = range(rank, len(loader), world) or range(1)  # a rank without blocks learns the names of the results
        for done, number in enumerate(bar(mine, label, self.progress)):
            if number in kept:
                continue
            batch = loader.batch(torch.arange(number * self.rows, min((number + 1) * self.rows, len(self))))
            with self.evaluating(mixed(self.seed, number)), numbered_rows(batch.index, len(self)):
                call = self.call(batch)
                with data_named(call.program, call.args, call.kwargs):
                    found = task(Block(self, number, batch, call))
            kept[number] = {name: value.cpu() for name, value in found.items()}
            if not done:
                size = sum(value.nbytes for value in found.values()) * len(mine)
                self._check_bytes(size, "the results need", "take fewer draws or rows, or ")
        joined = kept.joined(mine, dim)
        return joined if rank < len(loader) else {name: value.narrow(dim, 0, 0) for name, value in joined.items()}

    def fingerprint(self, settings: Any = None) -> str:
        """A hash of what the program does on the first rows, its tensors, what its functions close over, data, seed and plan."""
        plan = (settings, self.seed, self.num_samples, self.rows, self.draws, self.vectorize)
        digest = hashlib.sha256(repr((plan, self.data.fingerprint())).encode())
        for name, tensor in sorted(self.dry_run.announced.tensors.items()):
            digest.update(f"{name} {digest_of(tensor)}".encode())
        functions = self.program.model, self.program.guide
        before = constants(functions)
        with self.evaluating(0):
            terms = log_terms(*self._few.traces(None), dtype=torch.float64)
        after = constants(functions)  # what a run changes, such as a count of runs, tells programs apart no more
        digest.update(repr(sorted(item for item in before.items() if item in after.items())).encode())
        for value in (terms.reconstruction, terms.log_prior, terms.log_guide):
            digest.update(" ".join(f"{number:.5g}" for number in value.flatten().tolist()).encode())
        return digest.hexdigest()

    def _check_bytes(self, size: float, what: str, remedy: str) -> None:
        if size > self.max_bytes:
            raise refusal(
                f"{what} about {size / 2**20:.0f} MiB, more than max_bytes={self.max_bytes}: {remedy}write "
                f"max_bytes={int(1.2 * size)} or more",
                "max_bytes",
            )


def over_rows(
    program: Any, data: Any, task: Callable[[Block], Columns], covariates: Any = None, *, dim: int = 0, **plan: Any
) -> Columns:
    """Do a task for every block of rows of some data, and join the results: :meth:`RowWork.run` in one call.

    Args:
        program: the program.
        data: N rows.
        task: from a block to named tensors with its rows along ``dim``.
        covariates: for each name, N rows.
        dim: the axis of the rows in the results.
        **plan: as for :class:`RowWork`.

    >>> import pyro, pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
    >>> def task(block):
    ...     return {"elbo": torch.cat([terms.log_weights for terms in block.terms()]).mean(0)}
    >>> over_rows((model, guide), torch.zeros(3), task, num_samples=5, seed=0)["elbo"]
    tensor([-1.2655, -1.2655, -1.2655], dtype=torch.float64)
    """
    return RowWork(program, data, covariates, **plan).run(task, dim=dim)


def bar(iterable: Iterable, label: str, progress: bool | None) -> Iterable:
    """A progress bar; with None only on a terminal."""
    from tqdm import tqdm

    return tqdm(iterable, desc=label, disable=None if progress is None else not progress, leave=False)


def mixed(seed: int, *numbers: int) -> int:
    """A seed for some part of the work: numbers of several parts do not repeat each other, nor those of the plain seed.

    >>> mixed(0, 1) == mixed(0, 1, 0)
    False
    """
    for number in numbers:
        seed = (seed * 6364136223846793005 + (number + 1) * 1442695040888963407) % 2**63
    return seed
