"""A program with the arguments for one batch of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import pyro
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.programs.masks import Redraw
from pyrovae.programs.program import Program
from pyrovae.programs.running import paired_traces
from pyrovae.programs.terms import Terms, concatenate, log_terms


class Call(NamedTuple):
    """A program with the arguments of both functions for one batch of rows."""

    program: Program
    args: tuple
    kwargs: Mapping[str, Any]
    nesting: int
    """The number of nested plates."""
    rows: Tensor
    """The numbers of the rows."""

    def traces(self, num_samples: int | None, enumerate_discrete: bool = True) -> tuple[Trace, Trace]:
        """The model's trace replayed against the guide's."""
        return paired_traces(self.program, self.args, self.kwargs, num_samples, self.nesting, enumerate_discrete)

    def terms(self, num_samples: int, vectorize: bool = True, dtype: torch.dtype | None = torch.float64) -> Terms:
        """The log densities per datum of fresh draws."""
        if vectorize:
            return log_terms(*self.traces(num_samples), dtype=dtype)
        return concatenate([log_terms(*self.traces(None), dtype=dtype) for _ in range(num_samples)])

    def using(self, **functions: Any) -> Call:
        """The call with another ``model=`` or ``guide=``."""
        return self._replace(program=replace(self.program, **functions))

    def redrawing(self, masked: list[str]) -> tuple[Call, Mapping[str, Tensor]]:
        """The call with masked latents drawn from their prior where they are masked; and their values of its last run.

        Args:
            masked: the latents that both functions mask.
        """
        redraw = Redraw(masked)
        return (self.using(model=redraw(self.program.model)) if masked else self), redraw.values


@contextmanager
def checked(wanted: bool) -> Iterator[None]:
    """Leave Pyro's validation as it is, or turn it off: rows that were checked once need not be checked at every draw."""
    with nullcontext() if wanted else pyro.validation_enabled(False):
        yield
