"""What holds while a program is traced: numbers are not read for checks and reports, and the noise is one stream."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import pyro
import pyro.util
import torch
from pyro.infer.util import Dice
from torch import Tensor
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

ELBOS = ("pyro.infer.", "pyrovae.objectives.")
"""Where a number is read for the loss that is reported: there the tensor does as well."""


@contextmanager
def no_host_reads() -> Iterator[None]:
    """Let Pyro's objectives run without reading a number: sums stay tensors, and nothing is checked.

    A program that reads a number by itself (``if z > 0``, ``z.item()``, ``z.tolist()``, ``z.numpy()``) makes a trace of it fail.
    """
    item, expectation = Tensor.item, Dice.compute_expectation

    def item_unless_reported(self: Tensor) -> Any:
        caller = sys._getframe(1).f_globals.get("__name__", "")
        return self.detach() if caller.startswith(ELBOS) else item(self)

    with ExitStack() as stack:
        for owner, name, replacement in (
            (Tensor, "item", item_unless_reported),
            *((Tensor, name, _refused(name)) for name in ("tolist", "numpy", "__array__", "__dlpack__")),
            (pyro.util, "torch_isnan", lambda value: False),
            (pyro.util, "torch_isinf", lambda value: False),
            (torch.nn.functional, "one_hot", _unchecked(torch.nn.functional.one_hot)),
            (torch.distributions.Distribution, "_validate_sample", lambda self, value: None),
            (Dice, "compute_expectation", _without_selection(expectation)),
        ):
            stack.enter_context(patch.object(owner, name, replacement))
        stack.enter_context(pyro.validation_enabled(False))
        yield


def _refused(name: str) -> Callable:
    def read(self: Tensor, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError(f"Tensor.{name} reads numbers, which are other ones in the next step")

    return read


def _unchecked(one_hot: Callable) -> Callable:
    """``one_hot`` that does not read its numbers where it is told how many classes there are."""

    def encode(tensor: Tensor, num_classes: int = -1) -> Tensor:
        if num_classes < 0:
            return one_hot(tensor, num_classes)
        return tensor.new_zeros(*tensor.shape, num_classes).scatter_(-1, tensor[..., None], 1)

    return encode


class RewoundError(RuntimeError):
    """Noise was drawn a second time from an earlier random state, which a graph does not know."""


@contextmanager
def no_rewinding() -> Iterator[None]:
    """Refuse draws between a return to an earlier random state and the way back: a graph would draw fresh numbers for them."""
    set_state, now = torch.set_rng_state, torch.get_rng_state
    stream: Tensor | None = None  # where the noise goes on, while the generator stands elsewhere
    elsewhere: Tensor | None = None

    @disable_proxy_modes_tracing()
    def check() -> None:
        if elsewhere is not None and not torch.equal(now(), elsewhere):
            raise RewoundError(
                "noise is drawn again from an earlier random state, such as dropout masks by gradient='dreg'"
            )

    @disable_proxy_modes_tracing()
    def moved(state: Tensor) -> None:
        nonlocal stream, elsewhere
        check()
        stream = now() if stream is None else stream
        elsewhere = None if torch.equal(state, stream) else state.clone()
        stream = None if elsewhere is None else stream
        set_state(state)

    with patch.object(torch, "set_rng_state", moved):
        yield
        check()


def _without_selection(expectation: Callable) -> Callable:
    """The expectation with zeros for impossible values, which Pyro leaves out by a selection whose size depends on the data."""

    def compute_expectation(self: Dice, costs: Any) -> Any:
        zeroed = patch.object(Tensor, "masked_select", lambda x, mask: torch.where(mask, x, torch.zeros_like(x)))
        with patch.object(torch._C, "_get_tracing_state", lambda: True), zeroed:
            return expectation(self, costs)

    return compute_expectation
