"""The evidence of some entries of each datum given the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyrovae.data import Data, as_data
from pyrovae.data.rows import leaves, map_tree
from pyrovae.errors import refusal
from pyrovae.evaluation.estimators import DEFAULT, Estimator
from pyrovae.evaluation.marginal import log_marginal
from pyrovae.programs.rows import MAX_BYTES, RowWork

if TYPE_CHECKING:
    import xarray as xr


def log_conditional(
    program: Any,
    data: Any,
    covariates: Mapping[str, Any] | None = None,
    *,
    given: str | Sequence[str] | Any,
    method: str | Estimator = DEFAULT,
    num_samples: int | None = None,
    max_bytes: int = MAX_BYTES,
    seed: int | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    r"""Estimate the log evidence of each datum given some of its entries, by two calls of ``log_marginal``.

    .. math:: \log \hat p(a_i \mid b_i) = \log \hat p(a_i, b_i) - \log \hat p(b_i)

    Args:
        program: as in :func:`pyrovae.evaluation.log_weights`; it must take missing entries.
        data: the data, N rows; NaN is a missing entry, which counts nowhere.
        covariates: for each name, a tensor of N rows.
        given: b, by the names of data sites (the keys of a dict of data) or of columns; or a boolean tensor, True for the
            entries in b, of the shape of the data or of one row; a dict of these for a dict of data.
        method: as in :func:`log_marginal`. For ``"importance"`` the guide must know rows of b alone.
        num_samples: samples per datum, of each of the two.
        max_bytes: refuse what needs more memory.
        seed: makes the draws reproducible.
        progress: True shows bars, False none; by default there are some on a terminal.

    Returns:
        A Dataset over ``data``: ``log_conditional`` and its ``mcse``, as if the two estimates were independent; the larger
        ``pareto_k``; and the two evidences, ``joint`` and ``given``. All but ``pareto_k`` are in nats. ``notes`` are among the
        attributes where those of ``log_marginal`` are.

    Raises:
        ValueError: a name that is neither a data site nor a column; a mask of another shape; a model of missingness.

    >>> import pyrovae as pvae
    >>> vae = pvae.build_vae(3, likelihood="normal", latent_dim=1, seed=0)
    >>> found = log_conditional(vae, torch.zeros(4, 3), given=torch.tensor([True, False, False]), num_samples=10, seed=0)
    >>> sorted(found), found.log_conditional.shape
    (['given', 'joint', 'log_conditional', 'mcse', 'pareto_k'], (4,))
    """
    import xarray as xr

    rows = as_data(data, covariates).dense()
    only = replace(rows, x=map_tree(_hidden, rows.x, _masks(rows, given)))
    if len(RowWork(program, only, seed=seed).dry_run.data_sites) > len(leaves(only.x)):
        raise ValueError(
            "the program observes more than its data, such as which entries are missing, and would take the hidden entries for "
            "missing ones: give the graph without its model of missingness"
        )
    plan: dict[str, Any] = {"method": method, "num_samples": num_samples, "max_bytes": max_bytes}
    joint, part = (log_marginal(program, x, **plan, seed=seed, progress=progress) for x in (rows, only))
    columns = {
        "log_conditional": joint.log_marginal - part.log_marginal,
        "mcse": (joint.mcse**2 + part.mcse**2) ** 0.5,
        "pareto_k": joint.pareto_k.where(joint.pareto_k > part.pareto_k, part.pareto_k),
        "joint": joint.log_marginal,
        "given": part.log_marginal,
    }
    notes = dict.fromkeys(note for found in (joint, part) if (note := found.attrs.get("notes")))
    kept = {name: value for name, value in joint.attrs.items() if name not in ("notes", "entries", "magnitude")}
    return xr.Dataset(columns, attrs=kept | ({"notes": "; ".join(notes)} if notes else {}))


def _masks(rows: Data, given: Any) -> Any:
    """Which entries are given, in the structure of the data."""
    if not (isinstance(given, str) or (isinstance(given, Sequence) and all(isinstance(name, str) for name in given))):
        parts = set(rows.x) if isinstance(rows.x, Mapping) else None
        if (set(given) if isinstance(given, Mapping) else None) != parts:
            raise refusal("given must have a mask for each of the data's parts, under the same names", "given")
        return given
    chosen = (given,) if isinstance(given, str) else tuple(given)
    sites = tuple(rows.x) if isinstance(rows.x, Mapping) else tuple(rows.columns or ())
    unknown = [name for name in chosen if name not in sites]
    if unknown or not chosen:
        known = ", ".join(map(repr, sites)) or "none: give a boolean mask"
        raise refusal(f"given names {unknown or 'nothing'}; the data sites or columns are {known}", "given")
    if isinstance(rows.x, Mapping):
        return {name: torch.tensor(name in chosen) for name in sites}
    return torch.tensor([name in chosen for name in sites])


def _hidden(x: Tensor, path: str, given: Any) -> Tensor:
    """The rows with NaN for the entries that are not given."""
    mask = torch.as_tensor(given, device=x.device)
    if mask.dtype != torch.bool or mask.ndim > x.ndim or not _fits(mask.shape, x.shape):
        raise refusal(
            f"given must be a boolean mask of {path}, of shape {tuple(x.shape)} or {tuple(x.shape[1:])}, got "
            f"{mask.dtype} of shape {tuple(mask.shape)}",
            "given",
        )
    if bool(mask.all()):
        return x
    x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
    return torch.where(mask, x, torch.nan)


def _fits(mask: torch.Size, rows: torch.Size) -> bool:
    return mask in (rows, rows[1:], torch.Size())
