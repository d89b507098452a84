"""The ELBO's terms at beta 1 after each epoch, on training rows and on validation rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyrovae.data import Data, batches
from pyrovae.programs import Program, eval_mode, log_terms, paired_traces

BATCH_SIZE = 1024
TRAINING_ROWS = 1000
"""Training rows on which the terms are computed; drawn once, so that the curve is not of different rows each epoch."""


class Evaluation:
    """Means over rows of ELBO, divergence and reconstruction, in eval mode, with the same noise each epoch.

    Args:
        program: the program.
        modules: those behind it.
        rows: the training rows, or None for a loader.
        validation: the validation rows, or None.
        place: the program's device and dtype.
        seed: the seed of the draws.
        whole: training takes all rows at once, and so does this: a guide may hold parameters for each row.
    """

    def __init__(
        self,
        program: Program,
        modules: Iterable[nn.Module],
        rows: Data | None,
        validation: Data | None,
        place: Mapping[str, Any],
        seed: int,
        whole: bool = False,
    ) -> None:
        self.program, self.modules, self.place, self.seed = program, tuple(modules), place, seed
        self.batch_size = BATCH_SIZE if rows is None or not whole else max(BATCH_SIZE, len(rows))
        training = rows.drawn(seed) if rows is not None and whole else _some(rows, seed)
        self.parts: dict[str, Data | None] = {"": training, "validation_": validation}
        self.nesting: int | None = None

    def __call__(self) -> dict[str, float | None]:
        """The columns ``elbo, kl, reconstruction`` and the same with ``validation_``, in nats per datum."""
        columns: dict[str, float | None] = {}
        for prefix, data in self.parts.items():
            terms = (None, None, None) if data is None else self._terms(data)
            for name, value in zip(("elbo", "kl", "reconstruction"), terms, strict=True):
                columns[prefix + name] = value
        return columns

    def check(self) -> None:
        """Run on a few rows before training; the columns of a program without an ELBO in nats per datum stay empty.

        Raises:
            ValueError: the program refuses the validation rows.
        """
        training, validation = self.parts[""], self.parts["validation_"]
        if validation is not None:
            try:
                self._terms(validation[:2])
            except RuntimeError as error:
                raise ValueError(
                    f"the program does not run on two validation rows ({str(error).splitlines()[0]}); a guide with parameters "
                    "for each row knows the training rows alone: leave validation= out"
                ) from error
        elif training is not None:
            try:
                self._terms(training[: self.batch_size])
            except (ValueError, NotImplementedError) as error:
                warnings.warn(f"the history's ELBO columns stay empty: {error}", UserWarning, stacklevel=3)
                self.parts[""] = None

    def _terms(self, data: Data) -> tuple[float, float, float]:
        sums = torch.zeros(2, dtype=torch.float64)
        with torch.random.fork_rng(), torch.no_grad(), pyro.validation_enabled(False), eval_mode(self.modules):
            torch.manual_seed(self.seed)
            for batch in batches(data, self.batch_size, False, **self.place):
                sums += self._batch(*self.program.on(batch.x, batch.covariates, len(data), batch.index))
        reconstruction, kl = (sums / len(data)).tolist()
        return reconstruction - kl, kl, reconstruction

    def _batch(self, program: Program, args: tuple, kwargs: Mapping[str, Any]) -> Tensor:
        terms = log_terms(*paired_traces(program, args, kwargs, nesting=self.nesting))
        return torch.stack([terms.reconstruction.sum(), terms.kl.sum()]).double().cpu()


def _some(rows: Data | None, seed: int) -> Data | None:
    if rows is None:
        return None
    if len(rows) > TRAINING_ROWS:
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        rows = rows[order[:TRAINING_ROWS]]
    return rows.drawn(seed)
