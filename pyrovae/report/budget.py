"""How many rows an estimate may take: counted, not timed, so that the same run always gives the same report."""

from __future__ import annotations

import math
from typing import Any

import torch

from pyrovae.data import Data
from pyrovae.report.codes import encoded

OPERATIONS = 2.5e11
"""For each estimate: seconds on an ordinary processor."""
PER_ENTRY = 2000
"""Operations that the density of one entry is counted as."""
LADDER = (200, 100, 50, 25, 10)


def affordable_rows(vae: Any, data: Data, num_samples: int) -> int:
    """The most rows of a few round numbers whose draws can be decoded within the budget.

    Args:
        vae: the VAE.
        data: rows of the kind to be evaluated.
        num_samples: draws a row.

    >>> import pyrovae as pvae
    >>> digits = pvae.data.load("digits")
    >>> vae = pvae.build_vae((1, 8, 8), likelihood="binomial", levels=17, latent_dim=2, hidden=(16,))
    >>> affordable_rows(vae, digits.test, 1000), affordable_rows(vae, digits.test, 30_000)
    (200, 50)
    """
    per_row = num_samples * _operations(vae, data)
    return next((rows for rows in LADDER if rows * per_row <= OPERATIONS), LADDER[-1])


def _operations(vae: Any, data: Data) -> float:
    """Floating-point operations behind one draw."""
    from torch.utils.flop_counter import FlopCounterMode

    z = encoded(vae, data[:1].dense().x)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        vae.decode(z)
    return counter.get_total_flops() + PER_ENTRY * math.prod(data.event_shape)


def some_rows(data: Data, most: int, seed: int) -> Data:
    """At most so many rows, chosen at random, in their order.

    Args:
        data: the rows.
        most: how many.
        seed: of the choice.

    >>> import pyrovae as pvae
    >>> len(some_rows(pvae.data.load("digits").test, 20, seed=0))
    20
    """
    if len(data) <= most:
        return data
    generator = torch.Generator().manual_seed(seed)
    return data[torch.randperm(len(data), generator=generator)[:most].sort().values]
