"""The ELBO's terms at beta 1 after each epoch, on training rows and on validation rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor

from pyrovae.compiling import Graphs
from pyrovae.compiling.products import denormals_as_zero
from pyrovae.data import Batch, Batches
from pyrovae.errors import refusal
from pyrovae.missing import complete_data
from pyrovae.programs import Buffers, announcements_off, eval_mode, log_terms, paired_traces
from pyrovae.training.loss import Loss
from pyrovae.training.rows import Memory, Rows, draw_from

BATCH_SIZE = 1024
TRAINING_ROWS = (250, 1000)
"""The least and the most training rows on which the terms are computed, between them an eighth of all, so that they cost a small
part of an epoch; drawn once, so that the curve is not of different rows each epoch."""
MANY = 100
"""Epochs below which tracing the terms takes longer than it saves."""


def are_many(epochs: float) -> bool:
    """Whether a graph of the terms, or its library, pays in a training of so many epochs."""
    return epochs >= MANY


class Evaluation:
    """Means over rows of ELBO, divergence and reconstruction, in eval mode, with the same noise each epoch.

    Args:
        loss: the loss, which knows the program and its modules.
        rows: the training rows.
        held_out: the validation rows, or None.
        seed: the seed of the draws.
        traced: replay a graph of the terms, which is compared with the program in the calls 1, 2, 4, 8, ...
        is_asked: callbacks may change the program after each epoch: compare it in every call.

    Raises:
        ValueError: the program refuses the validation rows.
    """

    def __init__(
        self, loss: Loss, rows: Rows, held_out: Batches | None, seed: int, traced: bool = False, is_asked: bool = False
    ) -> None:
        self.loss, self.seed, self.traced, self.is_asked = loss, seed, traced, is_asked
        self.compiled = self.waits = False
        self.graphs, self.buffers = Graphs(), Buffers(loss.announced.modules.values())
        self.calls = 0
        self.numbers: Tensor | None = None
        """The numbers of the training rows that are looked at, for programs that look their rows up."""
        self.bad = torch.zeros(0, dtype=torch.bool)
        """Which validation rows have an ELBO that is not finite."""
        self.few: list[Batch] = []
        self.parts: dict[str, Batches] = {}
        if isinstance(rows, Memory):
            data, size = rows.loader.data, BATCH_SIZE
            if rows.whole:  # a guide may hold parameters for each row, in their order
                size = max(size, len(data))
            elif len(data) > (few := min(max(TRAINING_ROWS[0], len(data) // 8), TRAINING_ROWS[1])):
                order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
                self.numbers = order[:few]
                data = data[self.numbers]
            self.parts[""] = Batches(data.drawn(seed), size, False, None, False, rows.loader.place)
        if held_out is not None:
            self.parts["validation_"] = held_out
        self._check()

    def __call__(self) -> dict[str, float | None]:
        """The columns ``elbo, kl, reconstruction`` and the same with ``validation_``, in nats per datum.

        Where there are several latents, ``kl/<site>`` is the part of each.
        """
        columns: dict[str, float | None] = {}
        self.calls += 1
        for prefix in ("", "validation_"):
            columns |= {f"{prefix}{name}": None for name in ("elbo", "kl", "reconstruction")}
            if prefix in self.parts:
                found = self.means(prefix)
                found["elbo"] = found["reconstruction"] - found["kl"]
                columns |= {f"{prefix}{name}": mean for name, mean in found.items()}
        return columns

    def _check(self) -> None:
        """Run on a few rows before training; the columns of a program without an ELBO in nats per datum stay empty."""
        remedy = "a guide with parameters for each row knows the training rows alone: leave validation= out"
        if "validation_" in self.parts and self.loss.indexed:
            raise refusal(f"validation rows have no parameters in the guide; {remedy}", "validation")
        self.buffers.keep()
        for prefix, part in reversed(self.parts.items()):
            few = min(part.size, part.num_rows) if prefix == "" else min(2, part.num_rows)
            try:
                with torch.random.fork_rng():
                    self.terms(part.batch(slice(0, few)), few)
            except (ValueError, NotImplementedError) as error:
                if prefix:
                    raise
                warnings.warn(f"the history's ELBO columns stay empty: {error}", UserWarning, stacklevel=4)
                del self.parts[""]
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                if prefix:
                    message = f"the program does not run on two validation rows ({reason}); {remedy}"
                    raise refusal(message, "validation") from error
            break
        if self.buffers.are_written():  # a graph that is compared with the program would find what that has written
            self.traced = False
        self.buffers.restore(torch.tensor(True, device=self.loss.like.device))

    def means(self, prefix: str) -> dict[str, float]:
        """The means of :meth:`terms` over a part's rows."""
        part, size = self.parts[prefix], self.parts[prefix].num_rows
        found = []
        draw_from(self.seed, self.loss.like.device)
        self.buffers.keep()
        with complete_data(part.data.complete), announcements_off(), denormals_as_zero():
            for batch in self.batches(prefix):
                found.append((self.replayed if self.traced else self.terms)(batch, size))
        self.buffers.restore(torch.tensor(True, device=self.loss.like.device))  # training goes on from where it was
        columns = {name: torch.cat([terms[name] for terms in found]) for name in found[0]}
        if prefix:
            self.bad = torch.stack([*columns.values()]).isfinite().all(0).logical_not()
        return {name: float(values.sum() / size) for name, values in columns.items()}

    def batches(self, prefix: str) -> Iterable[Batch]:
        """The batches of a part; the few training rows are cut from the data once."""
        made, numbers = self.parts[prefix].along(None), self.numbers
        if prefix or numbers is None:
            return made
        if not self.few:
            self.few = [Batch(numbers[batch.index], batch.x, batch.covariates) for batch in made]
        return self.few

    def replayed(self, batch: Batch, size: int) -> Mapping[str, Tensor]:
        """The terms by a graph; those of the program where it has none, or where the two differ."""

        def terms(index: Tensor, x: Any, covariates: Any) -> dict[str, Tensor]:
            return self.terms(Batch(index, x, covariates), size)

        return self.graphs(
            size,
            terms,
            (batch.index, batch.x, batch.covariates),
            compiled=self.compiled and size == self.parts[""].num_rows,
            wait=self.waits and self.calls > 0,
            always=self.is_asked,
        )

    def compile(self, epochs: float, waits: bool) -> None:
        """Begin to compile the graph for the training rows, where epochs are many; the call after the first one waits for it.

        Args:
            epochs: of the whole training.
            waits: wait for it; else it is replayed until it is there.
        """
        if "" in self.parts and self.traced and self.graphs.is_open and not self.compiled and are_many(epochs):
            self.compiled, self.waits = True, waits
            self.graphs = Graphs()
            with torch.random.fork_rng():
                self.means("")

    def close(self) -> None:
        """Stop compilers that are under way."""
        self.graphs.close()

    def terms(self, batch: Batch, size: int) -> dict[str, Tensor]:
        """Reconstruction and divergence of each row, and the part of each of several latents, in double precision."""
        program, args, kwargs = self.loss.unweighted.on(batch.x, batch.covariates, size, batch.index)
        with torch.no_grad(), pyro.validation_enabled(False), eval_mode(self.loss.announced.modules.values()):
            found = log_terms(*paired_traces(program, args, kwargs, nesting=self.loss.nesting))
        terms = {"reconstruction": found.reconstruction, "kl": found.kl}
        prior, guide = found.sites["log_prior"], found.sites["log_guide"]
        if len(prior) > 1 and set(prior) == set(guide):
            terms |= {f"kl/{site}": guide[site] - prior[site] for site in prior}
        return {name: value.sum(0).double().cpu() for name, value in terms.items()}
