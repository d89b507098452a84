"""Lossless compression: rows of integers as a file of about as many bits as the program's negative ELBO."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrovae.data import Batch, as_data, batches
from pyrovae.errors import check_integer, refusal
from pyrovae.missing import numbered_rows, rows_text
from pyrovae.programs.rows import MAX_BYTES, RowWork, bar
from pyrovae.programs.simulate import replicate
from pyrovae.programs.sites import latent_names
from pyrovae.uses.coder import Cumulative, Entries, Stack, entries_of, independent

MAGIC = b"pyrovae\x01"
PACKAGES = ("pyrovae", "torch", "numpy", "scipy", "constriction")


def compress(
    program: Any,
    data: Any,
    covariates: Mapping[str, Any] | None = None,
    *,
    latent_bits: int = 12,
    batch_size: int = 64,
    seed: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> bytes:
    r"""Rows of integers as bytes, by bits back with asymmetric numeral systems; :func:`decompress` gives the rows back.

    The latents are cut into :math:`2^b` bins of equal prior mass. Each row takes its latents' bins Q from the bits that are
    there already, then codes itself and the bins, so that the file grows by

    .. math:: -\log_2 p(x \mid z) - \log_2 P(z) + \log_2 Q(z \mid x) \text{ bits,}

    on average the negative ELBO under the binned posterior. The first rows take bits that are there for nothing; later ones
    those of the rows before. Rows are coded some at a time, few at first, so that these initial bits are few.

    Args:
        program: one latent, whose prior has independent entries and whose posterior is normal (with any covariance) or has
            independent entries; one data site of integers, each coded by its own distribution, which may depend on those
            before it (the channels of a logistic mixture).
        data: N rows without missing entries.
        covariates: for each name, N rows; :func:`decompress` needs the same.
        latent_bits: b. Bins should be narrower than the posterior; more cost time, not bits.
        batch_size: rows at a time at most. More are faster, and take more initial bits.
        seed: of the initial bits; None takes one from torch's random state.
        max_bytes: refuse what needs more memory.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Returns:
        The file: :func:`coded_size` tells its bits. It can be read where the same versions compute the same floating point
        numbers, with the same number of threads.

    Raises:
        ImportError: constriction is not installed.
        ValueError: missing entries, values outside the likelihood's support, or a program that cannot be coded, by name.

    Reference: Townsend et al. 2019, arXiv:1901.04866; the coder is constriction, Bamler 2022, arXiv:2201.01741.

    >>> import pyrovae as pvae
    >>> vae = pvae.build_vae(5, likelihood="poisson", latent_dim=2, hidden=(8,), seed=0)
    >>> x = torch.poisson(torch.ones(20, 5))
    >>> bool((decompress(vae, compress(vae, x)) == x).all())
    True
    """
    check_integer("latent_bits", latent_bits, 1, 20)
    check_integer("batch_size", batch_size)
    x = as_data(data, covariates).dense().x
    if not isinstance(x, Tensor):
        raise refusal("several data sites cannot be coded: give the rows as one tensor", "data")
    if x.is_floating_point() and x.isnan().any():
        raise refusal("missing entries cannot be coded: fill them first, as by pyrovae.impute", "data")
    x = x + 0.0 if x.is_floating_point() else x  # one zero, not two
    header = {
        "dtype": str(x.dtype).removeprefix("torch."),
        "shape": list(x.shape),
        "latent_bits": latent_bits,
        "batch_size": batch_size,
    }
    seed = int(torch.randint(2**31, ())) if seed is None else seed
    chain = Chain(program, data, covariates, header, max_bytes, seed)
    wrong = (x < 0) | (x != x.round()) | x.isinf() if x.is_floating_point() else x < 0
    if wrong.any():
        message = f"expected the integers 0, 1, 2, ..., got {float(x[wrong][0]):g} in {rows_text(wrong)}"
        raise refusal(message, "data")
    header["top"] = int(x.max())
    for rows in bar(chain.blocks(), "compress", progress):
        chain.push(chain.batch(rows), x[rows])
    words = chain.stack.words()
    header |= {"rows": _digest(x.contiguous().numpy()), "initial_words": chain.stack.initial, "words": len(words)}
    text = json.dumps(header | chain.identity(), separators=(",", ":")).encode()
    body = struct.pack("<I", len(text)) + text + words.astype("<u4").tobytes()
    return MAGIC + hashlib.sha256(body).digest() + body


def decompress(
    program: Any,
    data: bytes,
    covariates: Mapping[str, Any] | None = None,
    *,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> Tensor:
    """The rows of a file that :func:`compress` wrote with the same program.

    Args:
        program: the program that wrote the file.
        data: the file.
        covariates: those of the rows.
        max_bytes: refuse what needs more memory.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Returns:
        A tensor of the rows, in their shape and dtype.

    Raises:
        ImportError: constriction is not installed.
        ValueError: another kind of file, a truncated or changed one, another program, or a machine that computes other
            floating point numbers.
    """
    header, words = _opened(data)
    x = torch.zeros(header["shape"], dtype=getattr(torch, header["dtype"]))
    chain = Chain(program, x, covariates, header, max_bytes, words)
    own = chain.identity()
    if own["model"] != header["model"]:
        raise refusal("the file was written by another program or other weights: take those that wrote it", "program")
    differing = [f"{name} {header[name]} there and {own[name]} here" for name in own if own[name] != header.get(name)]
    if own["canary"] != header["canary"]:
        differing = [text for text in differing if not text.startswith("canary")] or ["another processor"]
        raise refusal(
            "the program computes other floating point numbers here than where the file was written, so that it cannot be "
            f"read: {', '.join(differing)}",
            "data",
        )
    for rows in bar(list(reversed(chain.blocks())), "decompress", progress):
        x[rows] = chain.pop(chain.batch(rows)).reshape(x[rows].shape).to(x.dtype)
    if len(chain.stack.words()) != header["initial_words"] or _digest(x.numpy()) != header["rows"]:
        raise refusal("the rows that were read are not those that were written: nothing is returned", "data")
    return x


def coded_size(data: bytes) -> dict[str, int]:
    """The bits of a file of :func:`compress`: ``file``, ``written`` (without the header), ``initial``, ``net``, and its sizes.

    ``net`` is what was written less the initial bits, which hold nothing.

    Args:
        data: the file.

    Raises:
        ValueError: another kind of file, or a truncated or changed one.
    """
    header, words = _opened(data)
    written, initial = 32 * len(words), 32 * header["initial_words"]
    sizes = {"rows": header["shape"][0], "dimensions": math.prod(header["shape"][1:])}
    return {"file": 8 * len(data), "written": written, "initial": initial, "net": written - initial, **sizes}


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
        max_bytes: int,
        words: np.ndarray | int,
    ) -> None:
        self.work = work = RowWork(program, data, covariates, seed=0, max_bytes=max_bytes, progress=False)
        self.header, self.depth, self.bins = header, header["latent_bits"], 2 ** header["latent_bits"]
        latents, sites = latent_names(work.dry_run.model_trace), work.dry_run.data_sites
        is_local = latents == latent_names(work.dry_run.guide_trace) and not work.dry_run.global_latents
        if len(latents) != 1 or len(sites) != 1 or not is_local:
            raise refusal(
                "a program of one latent for each row and one data site can be coded; this one has the latents "
                f"{', '.join(latents) or 'none'} and the data sites {', '.join(sites)}",
                "program",
            )
        if work.whole or work.dry_run.masked_latents:
            raise refusal("a guide with parameters for each row, or masked latents, cannot be coded", "program")
        (self.latent,), (self.site,) = latents, sites
        node = work.dry_run.model_trace.nodes[self.site]
        some = node["value"].reshape(len(node["value"]), -1).cpu().numpy()
        list(entries_of(node["fn"], self.site, np.zeros_like(some)))  # refuses densities
        self.loader = batches(work.data, header["batch_size"], shuffle=False, **work.place)
        self.size = work.dry_run.guide_trace.nodes[self.latent]["value"][0].numel()
        self.stack = Stack(words, 64 + 2 * self.size * header["batch_size"])

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
        """Code a block of rows: bins from the stack, then values and bins onto it."""
        values, index = x.reshape(len(x), -1).long().numpy(), self._middle(batch)
        with self.work.evaluating(0), numbered_rows(batch.index, len(self.work)):
            model_trace, guide_trace = self.work.call(batch).traces(None)  # which checks the rows
        prior, posterior = (trace.nodes[self.latent]["fn"] for trace in (model_trace, guide_trace))
        with self._running():
            for places, cumulative in self._bin_masses(posterior, prior, index):
                index[:, places] = self.stack.pop(cumulative, self.depth).reshape(len(x), -1)
            for part in reversed(list(self._decoded(batch, index, values)[1])):
                symbols = values[:, part.places]
                self.stack.push(symbols.reshape(-1), *self._capped(part))
        self.stack.push_uniform(index.reshape(-1), self.bins)

    def pop(self, batch: Batch) -> Tensor:
        """The rows of a block: what :meth:`push` does, undone in the reverse order."""
        index = self.stack.pop_uniform(len(batch.index) * self.size, self.bins).reshape(-1, self.size)
        values = np.zeros((len(index), math.prod(self.header["shape"][1:])), dtype=np.int64)
        with self._running():
            prior, parts = self._decoded(batch, index, values)
            for part in parts:
                values[:, part.places] = self.stack.pop(*self._capped(part)).reshape(len(index), -1)
            x = torch.from_numpy(values).reshape(batch.x.shape)
            posterior = self._encoded(replace(batch, x=x.to(batch.x)))
            for places, cumulative in reversed(list(self._bin_masses(posterior, prior, index))):
                self.stack.push(index[:, places].reshape(-1), cumulative, self.depth)
        return x

    def identity(self) -> dict[str, Any]:
        """What must be the same where the file is read: the weights, the versions, and the numbers that the program computes."""
        model, canary = hashlib.sha256(), hashlib.sha256()
        for name, tensor in sorted(self.work.dry_run.announced.tensors.items()):
            model.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            model.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        blocks = self.blocks()
        for rows in (max(blocks, key=lambda block: block.stop - block.start), blocks[-1]):
            batch = self.batch(rows)
            pattern = torch.arange(batch.x.numel()).reshape(batch.x.shape) % 2
            batch = replace(batch, x=pattern.to(batch.x))
            with self._running():
                values = pattern.reshape(len(pattern), -1).numpy()
                prior, parts = self._decoded(batch, self._middle(batch), values)
                masses = [part.cumulative for part in parts]
                masses += [masses for _, masses in self._bin_masses(self._encoded(batch), prior, self._middle(batch))]
                for cumulative in masses:
                    canary.update(np.asarray(cumulative(np.int64(0)), dtype="<f8").tobytes())
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        device = str(self.work.place.get("device", "cpu"))
        machine = {
            "threads": torch.get_num_threads(),
            "device": device,
            "processor": torch.backends.cpu.get_cpu_capability(),
        }
        return {"model": model.hexdigest(), "canary": canary.hexdigest(), **machine, **versions}

    @contextmanager
    def _running(self) -> Iterator[None]:
        with self.work.evaluating(0), pyro.validation_enabled(False):
            yield

    def _middle(self, batch: Batch) -> np.ndarray:
        return np.full((len(batch.index), self.size), self.bins // 2)

    def _decoded(self, batch: Batch, index: np.ndarray, values: np.ndarray) -> tuple[Any, Iterator[Entries]]:
        """The prior, and the entries' masses given the bins and the entries before: the model is not shown the data."""
        at_bins = AtBins(self.latent, (index + 0.5) / self.bins)
        with at_bins:
            trace = replicate(self.work.call(replace(batch, x=torch.zeros_like(batch.x))), {})
        return at_bins.prior, entries_of(trace.nodes[self.site]["fn"], self.site, values)

    def _encoded(self, batch: Batch) -> Any:
        """The posterior given the rows."""
        call = self.work.call(batch)
        trace = poutine.trace(call.program.guide).get_trace(*call.args, **call.kwargs)
        return trace.nodes[self.latent]["fn"]

    def _bin_masses(self, posterior: Any, prior: Any, index: np.ndarray) -> Iterator[tuple[Any, Cumulative]]:
        """The posterior's masses of the bins: of all latents at once, or one by one given those before where they correlate.

        The bins of latents that were yielded are read from ``index``, which the caller has filled by then.
        """
        posterior, every = independent(posterior), slice(None)
        if not posterior.event_shape:
            own, quantile = _columns(posterior, every), _quantile(prior, every)
            yield every, lambda k: _of(own.cdf, quantile((k + 1) / self.bins))
            return
        if not hasattr(posterior, "scale_tril"):
            raise refusal(
                f"the posterior {type(posterior).__name__} cannot be coded: take a normal, or independent entries",
                "program",
            )
        loc, factor = (getattr(posterior, name).double().cpu().numpy() for name in ("loc", "scale_tril"))
        factor, noise = np.broadcast_to(factor, (*index.shape, self.size)), np.zeros(index.shape)
        for d in range(self.size):
            mean, sd = loc[:, d] + (factor[:, d, :d] * noise[:, :d]).sum(1), factor[:, d, d]
            quantile = _quantile(prior, d)
            yield [d], partial(self._normal_masses, mean, sd, quantile)
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
    """Sets a latent to quantiles of its prior, which is noted.

    Args:
        site: the latent.
        levels: the quantiles' levels, of shape ``(rows, latents)``.
    """

    def __init__(self, site: str, levels: np.ndarray) -> None:
        super().__init__()
        self.site, self.levels = site, levels
        self.prior: Any = None

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == self.site:
            self.prior = msg["fn"]
            values = _quantile(self.prior, slice(None))(self.levels.reshape(-1))
            like = next(getattr(independent(self.prior), name) for name in independent(self.prior).arg_constraints)
            msg["value"] = torch.from_numpy(values).reshape(self.prior.shape()).to(like)
            msg["done"] = True


def _columns(distribution: Any, places: Any) -> Any:
    """Some latents of a distribution of independent entries, in double precision, rows and latents along one axis."""
    found = independent(distribution)
    if found.event_shape or not hasattr(found, "arg_constraints"):
        raise refusal(
            f"the prior {type(found).__name__} cannot be coded: take one of independent entries, as standard_normal",
            "program",
        )
    given = {n: getattr(found, n).double().expand(found.batch_shape) for n in found.arg_constraints}
    given = {n: value.reshape(len(value), -1)[:, places].reshape(-1) for n, value in given.items()}
    return type(found)(**given, validate_args=False)


def _quantile(prior: Any, places: Any) -> Callable[[np.ndarray], np.ndarray]:
    part = _columns(prior, places)
    return lambda levels: _of(part.icdf, levels)


def _of(function: Callable[[Tensor], Tensor], values: np.ndarray) -> np.ndarray:
    return function(torch.as_tensor(values)).numpy()


def _digest(rows: np.ndarray) -> str:
    return hashlib.sha256(rows.tobytes()).hexdigest()


def _opened(data: bytes) -> tuple[dict[str, Any], np.ndarray]:
    """The header and the words of a file that is whole."""
    if not isinstance(data, bytes | bytearray) or data[: len(MAGIC)] != MAGIC:
        raise refusal("expected the bytes of a file that pyrovae.uses.compress wrote", "data")
    begin = len(MAGIC) + 32
    body = bytes(data[begin:])
    if hashlib.sha256(body).digest() != data[len(MAGIC) : begin]:
        raise refusal("the file is truncated or was changed: its checksum is wrong", "data")
    (size,) = struct.unpack_from("<I", body)
    return json.loads(body[4 : 4 + size]), np.frombuffer(body[4 + size :], dtype="<u4").astype(np.uint32)
