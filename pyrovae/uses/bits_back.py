"""A program as a code: its latents' bins are taken from bits that are there, its data and latents are put onto them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrovae.data import Batch, batches
from pyrovae.errors import refusal
from pyrovae.missing import numbered_rows
from pyrovae.programs.rows import MAX_BYTES, RowWork
from pyrovae.programs.simulate import replicate, simulate
from pyrovae.programs.sites import latent_names
from pyrovae.uses.coder import Cumulative, Entries, Stack, entries_of, independent

PACKAGES = ("pyrovae", "torch", "numpy", "scipy", "constriction")
SIMULATIONS = 1000
"""Rows simulated from the model, by whose moments the bins of lower levels are laid."""


class Move(NamedTuple):
    """One step of coding a block of rows.

    Args:
        site: a latent, or the data.
        takes: whether an encoder takes its values from the stack, by the guide; else it puts them there, by the model.
    """

    site: str
    takes: bool


@dataclass
class Block:
    """Some rows, as far as they are known.

    Args:
        batch: their covariates and numbers.
        values: the data as integers, ``(rows, entries)``; zeros as long as a decoder does not know them.
        index: by latent the bins ``(rows, entries)``, the middle ones as long as they are not known.
        grids: by latent the distribution whose bins have equal mass.
    """

    batch: Batch
    values: np.ndarray
    index: dict[str, np.ndarray]
    grids: dict[str, Any]


class Chain:
    """A program as a code: blocks of rows are pushed on a stack, and popped in the reverse order.

    Args:
        program: the program.
        data: the rows, or zeros of their shape.
        covariates: for each name, N rows.
        header: the sizes that the file keeps.
        max_bytes: refuse what needs more memory.
        words: of the file; or the seed of those to begin with.
    """

    def __init__(
        self,
        program: Any,
        data: Any,
        covariates: Mapping[str, Any] | None,
        header: Mapping[str, Any],
        max_bytes: int = MAX_BYTES,
        words: np.ndarray | int = 0,
    ) -> None:
        self.work = work = RowWork(program, data, covariates, seed=0, max_bytes=max_bytes, progress=False)
        self.header, self.depth, self.bins = dict(header), header["latent_bits"], 2 ** header["latent_bits"]
        self.latents, sites = latent_names(work.dry_run.model_trace), work.dry_run.data_sites
        drawn = latent_names(work.dry_run.guide_trace)
        is_local = sorted(self.latents) == sorted(drawn) and not work.dry_run.global_latents
        if not self.latents or len(sites) != 1 or not is_local:
            raise refusal(
                "a program of latents for each row and one data site can be coded; this one has the latents "
                f"{', '.join(self.latents) or 'none'} and the data sites {', '.join(sites)}",
                "program",
            )
        if work.whole or work.dry_run.masked_latents:
            raise refusal("a guide with parameters for each row, or masked latents, cannot be coded", "program")
        (self.site,) = sites
        node = work.dry_run.model_trace.nodes[self.site]
        some = node["value"].reshape(len(node["value"]), -1).cpu().numpy()
        list(entries_of(node["fn"], self.site, np.zeros_like(some)))  # refuses densities
        nodes = work.dry_run.guide_trace.nodes
        if discrete := [name for name in self.latents if nodes[name]["fn"].support.is_discrete]:
            raise refusal(f"the latent {discrete[0]!r} is discrete: latents of bins are coded, by a density", "program")
        self.sizes = {name: nodes[name]["value"][0].numel() for name in self.latents}
        self.loader = batches(work.data, header["batch_size"], shuffle=False, **work.place)
        self.stack = Stack(words, 64 + 2 * sum(self.sizes.values()) * header["batch_size"])
        self.moments = self._moments() if len(self.latents) > 1 else {}
        self.moves = self._plan(drawn)

    def blocks(self) -> list[slice]:
        """The rows of each block: as many as a quarter of those before, at most ``batch_size``."""
        found, start, total = [], 0, self.header["shape"][0]
        while start < total:
            stop = min(start + 1 + start // 4, start + self.header["batch_size"], total)
            found.append(slice(start, stop))
            start = stop
        return found

    def batch(self, rows: slice) -> Batch:
        """The rows of a block."""
        return self.loader.batch(torch.arange(rows.start, rows.stop))

    def push(self, batch: Batch, x: Tensor) -> None:
        """Code a block of rows."""
        with self.work.evaluating(0), numbered_rows(batch.index, len(self.work)):
            self.work.call(batch).traces(None)  # which checks the rows
        with self._running():
            block = self._block(batch, x.reshape(len(x), -1).long().numpy())
            for move in self.moves:
                (self._take if move.takes else self._put)(block, move)

    def pop(self, batch: Batch) -> Tensor:
        """The rows of a block: what :meth:`push` does, undone in the reverse order."""
        with self._running():
            block = self._block(batch)
            for move in reversed(self.moves):
                (self._put if move.takes else self._take)(block, move)
        return torch.from_numpy(block.values).reshape(batch.x.shape)

    def identity(self) -> dict[str, Any]:
        """What must be the same where the file is read: weights, covariates, versions, the numbers that are computed."""
        model, canary = _digest_of(self.work.dry_run.announced.tensors), hashlib.sha256()
        blocks = self.blocks()
        for rows in (max(blocks, key=lambda block: block.stop - block.start), blocks[-1]):
            with self._running():
                block = self._block(batch := self.batch(rows), _pattern(batch))
                for move in reversed(self.moves):
                    for masses in self._masses(block, move):
                        canary.update(masses.tobytes())
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        device = str(self.work.place.get("device", "cpu"))
        machine = {
            "threads": torch.get_num_threads(),
            "device": device,
            "processor": torch.backends.cpu.get_cpu_capability(),
        }
        known = {"model": model, "covariates": _digest_of(self.work.data.covariates or {})}
        return {**known, "canary": canary.hexdigest(), **machine, **versions}

    def _plan(self, drawn: list[str]) -> list[Move]:
        """The moves of an encoder: level by level where these are a chain, else all latents first.

        Args:
            drawn: the latents in the order in which the guide draws them.
        """
        below = zip(drawn, (self.site, *drawn), strict=False)
        swaps = [move for name, under in below for move in (Move(name, True), Move(under, False))]
        swaps.append(Move(drawn[-1], False))
        wanted = self.header.get("bit_swap")
        is_chain = wanted is not False and drawn == self.latents[::-1] and self._is_chain(swaps)
        if wanted and not is_chain:
            raise refusal(
                "bit_swap codes a Markov chain of latents that the guide draws one by one from the data upwards, and this "
                "program is none: leave bit_swap out",
                "bit_swap",
            )
        self.header["bit_swap"] = is_chain
        every = [Move(name, True) for name in drawn] + [Move(self.site, False)]
        return swaps if is_chain else every + [Move(name, False) for name in reversed(self.latents)]

    def _is_chain(self, moves: list[Move]) -> bool:
        """Whether an encoder and a decoder, each with what it knows by then, compute the same masses at every move."""
        batch, random = self.batch(slice(0, min(2, len(self.work)))), np.random.Generator(np.random.Philox(0))
        with self._running():
            encoder, decoder, found = self._block(batch, _pattern(batch)), self._block(batch), {}
            for move in moves:
                if move.takes:
                    encoder.index[move.site] = random.integers(self.bins, size=encoder.index[move.site].shape)
                found[move] = self._masses(encoder, move)
            for move in reversed(moves):
                if not move.takes:
                    self._target(decoder, move)[:] = self._target(encoder, move)
                both = zip(found[move], self._masses(decoder, move), strict=True)
                if not all(np.array_equal(one, other, equal_nan=True) for one, other in both):
                    return False
        return True

    def _moments(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Means and standard deviations of the latents below the first, in rows simulated from the model."""
        template = next(iter(batches(self.work.data, SIMULATIONS, shuffle=False, **self.work.place)))
        with self._running():
            made = simulate(
                self.work.program.model, SIMULATIONS, torch.zeros_like(template.x), self.work.data.covariates
            )
        found = {name: made.latents[name] for name in self.latents[1:]}
        moments = {name: (z.double().mean(0), z.double().std(0).clamp(min=1e-6)) for name, z in found.items()}
        return {name: (mean.to(found[name]), sd.to(found[name])) for name, (mean, sd) in moments.items()}

    @contextmanager
    def _running(self) -> Iterator[None]:
        with self.work.evaluating(0), pyro.validation_enabled(False):
            yield

    def _block(self, batch: Batch, values: np.ndarray | None = None) -> Block:
        rows = len(batch.index)
        index = {name: np.full((rows, size), self.bins // 2) for name, size in self.sizes.items()}
        grids = {name: dist.Normal(*both).expand((rows, *both[0].shape)) for name, both in self.moments.items()}
        empty = np.zeros((rows, math.prod(self.header["shape"][1:])), dtype=np.int64)
        block = Block(batch, empty if values is None else values, index, grids)
        grids[self.latents[0]] = self._distribution(block, Move(self.latents[0], False))
        return block

    def _distribution(self, block: Block, move: Move) -> Any:
        """The distribution of a site, by the guide given data and bins, or by the model, which is not shown the data."""
        x = torch.from_numpy(block.values).reshape(block.batch.x.shape).to(block.batch.x)
        call = self.work.call(replace(block.batch, x=x if move.takes else torch.zeros_like(x)))
        with AtBins(block, self.bins):
            trace = (
                poutine.trace(call.program.guide).get_trace(*call.args, **call.kwargs)
                if move.takes
                else replicate(call, {})
            )
        return trace.nodes[move.site]["fn"]

    def _target(self, block: Block, move: Move) -> np.ndarray:
        return block.values if move.site == self.site else block.index[move.site]

    def _is_uniform(self, move: Move) -> bool:
        """Whether a move codes the first latent by its prior, whose bins have equal mass."""
        return move == Move(self.latents[0], False)

    def _take(self, block: Block, move: Move) -> None:
        """Fill values in from the stack."""
        target = self._target(block, move)
        if self._is_uniform(move):
            target[:] = self.stack.pop_uniform(target.size, self.bins).reshape(target.shape)
            return
        for part in self._parts(block, move):
            target[:, part.places] = self.stack.pop(*self._capped(part)).reshape(len(target), -1)

    def _put(self, block: Block, move: Move) -> None:
        """Put values onto the stack."""
        target = self._target(block, move)
        if self._is_uniform(move):
            self.stack.push_uniform(target.reshape(-1), self.bins)
            return
        parts = list(self._parts(block, move))
        for part in parts:
            largest = target[:, part.places].max(initial=0)
            if part.levels is not None and largest >= part.levels:
                raise refusal(
                    f"the data hold {largest} where the likelihood at {move.site!r} has no mass beyond {part.levels - 1}: it is "
                    "coded as a decoder knows it, by latents and covariates alone, and must not read the data",
                    "data",
                )
        for part in reversed(parts):
            self.stack.push(target[:, part.places].reshape(-1), *self._capped(part))

    def _masses(self, block: Block, move: Move) -> list[np.ndarray]:
        """The mass of the least value of each entry that a move codes."""
        parts = [] if self._is_uniform(move) else self._parts(block, move)
        return [np.asarray(part.cumulative(np.int64(0)), dtype="<f8") for part in parts]

    def _parts(self, block: Block, move: Move) -> Iterator[Entries]:
        found = self._distribution(block, move)
        if move.site == self.site:
            return entries_of(found, self.site, block.values)
        return self._bin_masses(found, block.grids[move.site], block.index[move.site])

    def _bin_masses(self, found: Any, grid: Any, index: np.ndarray) -> Iterator[Entries]:
        """The masses of bins under a distribution: of all entries at once, or one by one given those before if they correlate.

        The bins of entries that were yielded are read from ``index``, which the caller has filled by then.
        """
        found, every = independent(found), slice(None)
        if not found.event_shape:
            own, quantile = _columns(found, every), _quantile(grid, every)
            yield Entries(every, lambda k: _of(own.cdf, quantile((k + 1) / self.bins)), self.bins)
            return
        if not hasattr(found, "scale_tril"):
            raise refusal(
                f"the posterior {type(found).__name__} cannot be coded: take a normal, or independent entries",
                "program",
            )
        loc, factor = (getattr(found, name).double().cpu().numpy() for name in ("loc", "scale_tril"))
        size = index.shape[1]
        factor, noise = np.broadcast_to(factor, (*index.shape, size)), np.zeros(index.shape)
        for d in range(size):
            mean, sd = loc[:, d] + (factor[:, d, :d] * noise[:, :d]).sum(1), factor[:, d, d]
            quantile = _quantile(grid, d)
            yield Entries([d], partial(self._normal_masses, mean, sd, quantile), self.bins)
            noise[:, d] = (quantile((index[:, d] + 0.5) / self.bins) - mean) / sd

    def _normal_masses(self, mean: np.ndarray, sd: np.ndarray, quantile: Any, k: Any) -> np.ndarray:
        """The masses of one latent's bins up to some."""
        return _of(torch.special.ndtr, (quantile((k + 1) / self.bins) - mean) / sd)

    def _capped(self, part: Entries) -> tuple[Cumulative, int]:
        """The masses with all of them below the last level, beyond the largest value where there is no last; the depth."""
        last = self.header["top"] + 1 if part.levels is None else part.levels - 1
        depth = max(1, last.bit_length())
        return (lambda k: np.where(k >= last, 1.0, part.cumulative(np.minimum(k, last - 1)))), depth


class AtBins(Messenger):
    """Sets the latents of a block to the centers of their bins; the first latent's grid is its prior.

    Args:
        block: the rows.
        bins: how many bins there are.
    """

    def __init__(self, block: Block, bins: int) -> None:
        super().__init__()
        self.block, self.bins = block, bins

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name not in self.block.index or msg["is_observed"]:
            return
        grid = self.block.grids.get(name, msg["fn"])
        values = _quantile(grid, slice(None))((self.block.index[name].reshape(-1) + 0.5) / self.bins)
        like = next(getattr(independent(grid), parameter) for parameter in independent(grid).arg_constraints)
        msg["value"] = torch.from_numpy(values).reshape(grid.shape()).to(like)
        msg["done"] = True


def _digest_of(tensors: Mapping[str, Tensor]) -> str:
    """A hash of tensors with their names, shapes and kinds of numbers."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _pattern(batch: Batch) -> np.ndarray:
    """Zeros and ones in turn, as data of rows."""
    return (np.arange(batch.x.numel()) % 2).reshape(len(batch.x), -1)


def _columns(distribution: Any, places: Any) -> Any:
    """Some entries of a distribution whose entries are independent, in double precision, rows and entries along one axis."""
    found = independent(distribution)
    if found.event_shape or not getattr(found, "arg_constraints", None):
        raise refusal(
            f"the prior or posterior {type(found).__name__} cannot be coded: take one of independent entries, as standard_normal",
            "program",
        )
    given = {n: getattr(found, n).double().expand(found.batch_shape) for n in found.arg_constraints}
    given = {n: value.reshape(len(value), -1)[:, places].reshape(-1) for n, value in given.items()}
    return type(found)(**given, validate_args=False)


def _quantile(grid: Any, places: Any) -> Callable[[np.ndarray], np.ndarray]:
    part = _columns(grid, places)
    return lambda levels: _of(part.icdf, levels)


def _of(function: Callable[[Tensor], Tensor], values: np.ndarray) -> np.ndarray:
    try:
        return function(torch.as_tensor(values)).numpy()
    except NotImplementedError as error:
        name = type(getattr(function, "__self__", None)).__name__
        raise refusal(
            f"a latent with a {name} cannot be coded: torch has no {getattr(function, '__name__', 'cdf')} of it; take another "
            "prior or posterior, such as a normal",
            "program",
        ) from error
