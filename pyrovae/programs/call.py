"""A program with the arguments for one batch of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.programs.masks import MaskedApartError, Redraw, masked_by_model_alone
from pyrovae.programs.program import Program
from pyrovae.programs.running import paired_traces
from pyrovae.programs.terms import Terms, concatenate, given_terms, log_terms


class Call(NamedTuple):
    """A program with the arguments of both functions for one batch of rows."""

    program: Program
    args: tuple
    kwargs: Mapping[str, Any]
    nesting: int
    """The number of nested plates."""
    rows: Tensor
    """The numbers of the rows."""
    densities: Any = None
    """What computes densities at given latents in long work; None runs the program."""
    batch: Any = None
    """The rows themselves, with what functions that do not name it were given before."""

    def traces(self, num_samples: int | None, enumerate_discrete: bool = True) -> tuple[Trace, Trace]:
        """The model's trace replayed against the guide's."""
        return paired_traces(self.program, self.args, self.kwargs, num_samples, self.nesting, enumerate_discrete)

    def terms(self, num_samples: int, vectorize: bool = True, dtype: torch.dtype | None = torch.float64) -> Terms:
        """The log densities per datum of fresh draws."""
        runs = [num_samples] if vectorize else [None] * num_samples
        return concatenate([log_terms(*self.traces(size), dtype=dtype) for size in runs])

    def using(self, **functions: Any) -> Call:
        """The call with another ``model=`` or ``guide=``."""
        return self._replace(program=replace(self.program, **functions), densities=None)

    def check_masks(self, model_trace: Trace, guide_trace: Trace, num_samples: int | None) -> None:
        """Refuse latents that model and guide mask differently, but for a mask in the model that stands for a flat prior.

        Args:
            model_trace: of some draws.
            guide_trace: of the same draws.
            num_samples: how many they are.

        Raises:
            MaskedApartError: the guide masks what the model counts; or the model masks what the guide counts, and nothing
                depends on it there.
        """
        alone = masked_by_model_alone(model_trace, guide_trace)
        if not alone:
            return
        same = self.using(
            model=Redraw(list(alone))(self.program.model), guide=poutine.replay(self.program.guide, trace=guide_trace)
        )
        try:
            redrawn, _ = same.traces(num_samples)
        except NotImplementedError:  # an improper prior
            return
        found = [given_terms(trace, list(alone)) for trace in (model_trace, redrawn)]
        depends = (found[0].log_weights != found[1].log_weights).any(0)
        for name, rows in alone.items():
            if (rows & ~depends).any():
                raise MaskedApartError(
                    f"the model masks latent {name!r} where the guide counts it and nothing depends on it, so that weights p / q "
                    "hold its density under the guide alone: mask it alike in model and guide, or refine the guide (`refine`)"
                )

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
