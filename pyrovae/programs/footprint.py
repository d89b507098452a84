"""How much memory a run of a program takes, measured on a few rows and draws."""

from __future__ import annotations

from typing import Any, NamedTuple

import pyro
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyrovae.programs.alone import check_draws
from pyrovae.programs.call import Call


class Footprint(NamedTuple):
    """The bytes of all tensors that a run makes: a bound on what it holds at once, also under automatic differentiation."""

    fixed: float
    per_row: float
    per_pair: float
    """For each pair of a draw and a row."""


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {value.untyped_storage().data_ptr() for value in args if isinstance(value, Tensor)}
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor) and value.untyped_storage().data_ptr() not in known:
                self.total += value.untyped_storage().nbytes()
        return result


def footprint(few: Call, more: Call | None, alone: Trace, vectorize: bool = True) -> Footprint:
    """Measure the memory of a program's runs by three small ones, and check that a draw means the same beside others.

    Args:
        few: the program on a few rows.
        more: the program on other numbers of rows, or None where it runs on these alone.
        alone: a trace of the guide on the few rows without an axis of draws.
        vectorize: whether the program takes an axis for the draws.

    Raises:
        ValueError: a draw has other log densities beside others than alone.
    """
    rows = len(few.rows)
    one, _ = _bytes(few, 2 if vectorize else None)
    per_pair = one / rows
    if vectorize:
        four, traces = _bytes(few, 4)
        per_pair = max(four - one, 0.0) / (2 * rows)
        check_draws(few, *traces, alone)
    if more is None or len(more.rows) == rows:
        per_row = max(one / rows - 2 * per_pair, 0.0)
    else:
        per_row = (_bytes(more, 2 if vectorize else None)[0] - one) / (len(more.rows) - rows)
        per_row = max(per_row - (2 if vectorize else 1) * per_pair, 0.0)
    drawn = 2 if vectorize else 1
    return Footprint(max(one - rows * (per_row + drawn * per_pair), 0.0), per_row, per_pair)


def _bytes(call: Call, num_samples: int | None) -> tuple[float, tuple[Trace, Trace]]:
    """The bytes of a run, and its traces of model and guide."""
    with torch.random.fork_rng(), pyro.validation_enabled(False), _Counter() as counter:
        traces = call.traces(num_samples)
        for trace in traces:
            trace.compute_log_prob()
    return float(counter.total), traces
