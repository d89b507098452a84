"""What the checks share of running a program: the engine of rows for local latents, and seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyrovae.errors import check_seed
from pyrovae.programs.masks import counted
from pyrovae.programs.rows import Block, RowWork
from pyrovae.programs.sites import data_axis, data_sites, latent_names

Covariates = Mapping[str, Any]


def local_work(program: Any, data: Any, covariates: Covariates | None = None, **plan: Any) -> RowWork:
    """A program and data, ready for work per datum (:class:`pyrovae.programs.rows.RowWork`), whose latents all are the rows'.

    Raises:
        ValueError: the program has global latents, which no check of single rows can place.
    """
    work = RowWork(program, data, covariates, **plan)
    if work.dry_run.global_latents:
        raise ValueError(
            f"the checks take the rows one by one, and {work.dry_run.global_latents} lie outside the plate 'data': fix the "
            "global latents, e.g. at their posterior means by pyro.poutine.condition on both model and guide"
        )
    return work


def latent_work(program: Any, data: Any, covariates: Covariates | None = None, **plan: Any) -> RowWork:
    """As :func:`local_work`, for what looks at the latents that the guide draws.

    Raises:
        ValueError: the program has global latents; or none that the guide draws.
    """
    work = local_work(program, data, covariates, **plan)
    if not latent_names(work.dry_run.guide_trace):
        raise ValueError("the guide draws no latent: the program has none, or only discrete ones that are summed out")
    return work


def one_tensor(x: Any) -> Tensor:
    """The data of a program with one data site.

    Raises:
        ValueError: they are a dict or a tuple.
    """
    if not isinstance(x, Tensor):
        raise ValueError(f"this check takes programs with one data site, got data of type {type(x).__name__}")
    return x


def counted_data(block: Block) -> Tensor:
    """The rows of a block, NaN where an entry is missing or the program masks it, so that it counts nowhere.

    Raises:
        ValueError: the program has several data sites.
    """
    x = one_tensor(block.batch.x)
    trace, _ = block.call.traces(None, enumerate_discrete=False)
    site = data_sites(trace)[0]
    mask = counted(site)
    if mask is None:
        return x
    counts = mask.expand(site["value"].shape).movedim(data_axis(site), 0).reshape(x.shape)
    x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
    return torch.where(counts, x, torch.nan)


def evaluated(block: Block) -> dict[str, Tensor]:
    """A task that evaluates the program once on every row, so that rows that it cannot take are named before any work."""
    return {"log_weight": block.call.terms(1).log_weights[0]}


def seed_or_drawn(seed: int | None) -> int:
    """The seed; without one, a number from torch's random state."""
    return int(torch.randint(2**31, ())) if seed is None else check_seed(seed)
