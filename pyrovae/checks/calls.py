"""What the checks share of running a program: the engine of rows for local latents, and seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pyrovae.errors import check_seed
from pyrovae.evaluation.impute import by_site
from pyrovae.programs.masks import counted
from pyrovae.programs.rows import Block, RowWork
from pyrovae.programs.sites import check_data_plate, data_axis, data_sites, latent_names, sites_of

Covariates = Mapping[str, Any]


def local_work(program: Any, data: Any, covariates: Covariates | None = None, **plan: Any) -> RowWork:
    """A program and data, ready for work per datum (:class:`pyrovae.programs.rows.RowWork`), whose latents all are the rows'.

    Raises:
        ValueError: no plate is named ``data``; the program has global latents, which no check of single rows can place.
    """
    work = RowWork(program, data, covariates, **plan)
    check_data_plate(sites_of(work.dry_run.model_trace))
    if work.dry_run.global_latents:
        sites = work.dry_run.guide_trace.nodes
        names = [name for name in work.dry_run.global_latents if not sites[name]["infer"].get("is_auxiliary")]
        remedy = "e.g. at their posterior means by pyro.poutine.condition on both model and guide"
        if any(hasattr(owner, "hold_globals") for owner in work.program.owners):
            remedy = "for an AmortizedGuide by guide.hold_globals(), a program to check in its place"
        raise ValueError(
            f"the checks take the rows one by one, and {names or 'global latents'} lie outside the plate 'data': fix the global "
            f"latents, {remedy}"
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


def sharing_work(
    program: Any, data: Any, covariates: Covariates | None = None, share: str = "guide", **plan: Any
) -> RowWork:
    """As :class:`pyrovae.programs.rows.RowWork`, under draws of the global latents, if any, that all rows share.

    Raises:
        ValueError: no plate is named ``data``.
    """
    work = RowWork(program, data, covariates, share=share, **plan)
    check_data_plate(sites_of(work.dry_run.model_trace))
    return work


def one_tensor(x: Any) -> Tensor:
    """The data of a program with one data site.

    Raises:
        ValueError: they are a dict or a tuple.
    """
    if not isinstance(x, Tensor):
        raise ValueError(f"this check takes programs with one data site, got data of type {type(x).__name__}")
    return x


def counted_data(block: Block, shown_alone: bool = False) -> dict[str, Tensor]:
    """By data site the rows of a block, NaN where an entry is missing or the program masks it, so that it counts nowhere.

    Args:
        block: the rows.
        shown_alone: leave out sites that show no part of the data, such as the mask of what is seen.

    Raises:
        ValueError: the data sites and the tensors of the data cannot be matched, by name in a dict, else in their order.
    """
    rows, sites = block.batch.x, data_sites(block.call.traces(None, enumerate_discrete=False)[0])
    if shown_alone and len(sites) > len(tree_leaves(rows)):
        shown = by_site(rows, sites)
        sites = [site for site in sites if site["name"] in shown]
    names = [site["name"] for site in sites]
    is_named = isinstance(rows, Mapping) and set(names) <= set(rows)
    leaves = [rows[name] for name in names] if is_named else tree_leaves(rows)
    if len(leaves) != len(sites):
        raise ValueError(f"expected one data site for each tensor of the data, got {names} and {len(leaves)} tensors")
    found = {}
    for site, x in zip(sites, leaves, strict=True):
        if (mask := counted(site)) is not None:
            counts = mask.expand(site["value"].shape).movedim(data_axis(site), 0).reshape(x.shape)
            x = torch.where(counts, x if x.is_floating_point() else x.to(torch.get_default_dtype()), torch.nan)
        found[site["name"]] = x
    return found


def side_by_side(sites: Mapping[str, Tensor], lead: int = 1) -> Tensor:
    """The values of one data site as they are; of several all entries of a row side by side, after so many axes."""
    if len(sites) == 1:
        return next(iter(sites.values()))
    return torch.cat([values.reshape(*values.shape[:lead], -1) for values in sites.values()], -1)


def entry_names(work: RowWork) -> list[str] | None:
    """The names of the entries that :func:`side_by_side` gives for several data sites; None for one."""
    sites = data_sites(work.dry_run.model_trace)
    sizes = {site["name"]: site["value"].numel() // site["value"].shape[data_axis(site)] for site in sites}
    if len(sizes) == 1:
        return None
    return [name if size == 1 else f"{name}[{entry}]" for name, size in sizes.items() for entry in range(size)]


def evaluated(block: Block) -> dict[str, Tensor]:
    """A task that evaluates the program once on every row, so that rows that it cannot take are named before any work."""
    return {"log_weight": block.call.terms(1).log_weights[0]}


def seed_or_drawn(seed: int | None) -> int:
    """The seed; without one, a number from torch's random state."""
    return int(torch.randint(2**31, ())) if seed is None else check_seed(seed)
