"""Draws of missing entries from their predictive distribution given the observed ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.errors import check_integer
from pyrovae.evaluation.imputed import Imputation
from pyrovae.evaluation.psis import Psis, psis
from pyrovae.programs import latent_names, log_terms
from pyrovae.programs.call import Call
from pyrovae.programs.rows import MAX_BYTES, Block, RowWork
from pyrovae.programs.simulate import enumerated_draws, replicate
from pyrovae.programs.sites import Site, data_axis, data_sites


def impute(
    program: Any,
    data: Any,
    covariates: Mapping[str, Any] | None = None,
    *,
    num_samples: int = 100,
    num_proposals: int = 1000,
    max_bytes: int = MAX_BYTES,
    seed: int | None = None,
    progress: bool | None = None,
) -> Imputation:
    r"""Draw the missing entries of each datum, by self-normalized importance sampling of its latents.

    .. math:: z_s \sim q(z \mid x_{\mathrm{obs}}), \quad z \sim \sum_s \bar w_s \delta_{z_s}, \quad
        x_{\mathrm{mis}} \sim p(x_{\mathrm{mis}} \mid z)

    A latent ``x_missing`` of a model of missingness is taken for the missing entries of the site x as it is. Weights are
    Pareto smoothed; discrete latents that the model sums out are drawn from their posterior given z. Observed
    entries are left as they are; entries are taken to be missing at random.

    Args:
        program: as in :func:`pyrovae.evaluation.log_weights`, without global latents; of several data sites
            each must have the name of its key in a dict of data.
        data: the data, N rows; NaN is a missing entry.
        num_samples: draws of the missing entries.
        covariates: for each name, a tensor of N rows.
        num_proposals: draws of the guide from which the latents are chosen.
        max_bytes: refuse what needs more memory.
        seed: makes the draws reproducible.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Raises:
        ValueError: several data sites and no dict of data, or a site that does not hold all of its data.

    Reference: Mattei & Frellsen 2019, arXiv:1812.02633.

    >>> import torch, pyrovae as pvae
    >>> vae = pvae.build_vae(3, likelihood="poisson", latent_dim=1)
    >>> x = torch.tensor([[1.0, float("nan"), 2.0]])
    >>> pvae.impute(vae, x, num_samples=20, seed=0).draws.shape
    torch.Size([20, 1, 3])
    """
    check_integer("num_samples", num_samples)
    plan: dict[str, Any] = {"num_samples": num_proposals, "seed": seed, "max_bytes": max_bytes, "progress": progress}
    work = RowWork(program, data, covariates, **plan)
    found = work.run(lambda block: _impute(block, num_samples), "impute")
    draws = {name.removeprefix("draws "): v.movedim(1, 0) for name, v in found.items() if name.startswith("draws ")}
    is_dict = isinstance(work.first(1).x, Mapping)
    return Imputation(draws if is_dict else next(iter(draws.values())), found["pareto_k"], found["ess"], work.data)


def _impute(block: Block, num_samples: int) -> dict[str, Tensor]:
    call, picked, smoothed, model_trace, guide_trace = reweighted(block, num_samples)
    data = by_site(block.batch.x, data_sites(model_trace))
    trace = None if all(f"{name}_missing" in picked for name in data) else replicate(call, picked, num_samples)
    columns = {"pareto_k": smoothed.k, "ess": smoothed.ess}
    for name, x in data.items():
        own = f"{name}_missing"
        site = guide_trace.nodes[own] if trace is None or own in picked else trace.nodes[name]
        value = picked.get(own, site["value"])
        drawn = _shaped(value.movedim(data_axis(site), 1), x).to(x)
        columns[f"draws {name}"] = torch.where(x.isnan(), drawn, x).movedim(0, 1)
    return columns


class Reweighted(NamedTuple):
    """Draws of the posterior of some rows, chosen among the guide's by their weights; made by :func:`reweighted`."""

    call: Call
    latents: dict[str, Tensor]
    """By site, in the shapes of a trace with as many particles."""
    smoothed: Psis
    model_trace: Trace
    guide_trace: Trace


def reweighted(block: Block, num_samples: int) -> Reweighted:
    """Draws of all latents of some rows by Pareto-smoothed weights; discrete ones that the model sums out come last."""
    guide = poutine.infer_config(block.call.program.guide, config_fn=lambda _: {"enumerate": None})
    call = block.call.using(guide=guide)
    values: dict[str, list[Tensor]] = {}
    weights = []
    redrawing, redrawn = call.redrawing(block.work.dry_run.masked_latents)
    for tile in block.tiles():
        model_trace, guide_trace = redrawing.traces(tile.num_samples)
        weights.append(log_terms(model_trace, guide_trace, dtype=torch.float64).log_weights)
        for name in latent_names(guide_trace):
            values.setdefault(name, []).append(redrawn.get(name, guide_trace.nodes[name]["value"]))
    smoothed = psis(torch.cat(weights))
    chosen = torch.multinomial(torch.nan_to_num(smoothed.log_weights.exp().T, nan=1.0), num_samples, replacement=True).T
    picked = {name: _pick(torch.cat(parts), chosen, guide_trace.nodes[name]) for name, parts in values.items()}
    picked |= enumerated_draws(call, picked, num_samples)
    return Reweighted(call, picked, smoothed, model_trace, guide_trace)


def by_site(x: Any, sites: list[Site]) -> dict[str, Tensor]:
    """The rows of each data site; of several sites over one tensor, the one that shows it (another may show its mask)."""
    names = [site["name"] for site in sites]
    if isinstance(x, Mapping):
        return {name: rows for name, rows in x.items() if name in names}
    shown = isinstance(x, Tensor) and [
        s["name"] for s in sites if s["value"].shape == x.shape and _shows(s["value"], x)
    ]
    if not shown and (not isinstance(x, Tensor) or len(names) != 1):
        raise ValueError(
            f"expected a program with one data site, or a dict of data by the names of the sites; got data of type "
            f"{type(x).__name__} and the sites {names}"
        )
    return {shown[0] if shown else names[0]: x}


def _shows(value: Tensor, x: Tensor) -> bool:
    return bool(((value == x) | x.isnan()).all())


def _pick(values: Tensor, chosen: Tensor, site: Site) -> Tensor:
    """Each row's chosen samples, of the values (proposals, ...) of a site."""
    shape = [1] * values.ndim
    shape[0], shape[data_axis(site)] = chosen.shape
    return values.gather(0, chosen.reshape(shape).expand(-1, *values.shape[1:]))


def _shaped(drawn: Tensor, x: Tensor) -> Tensor:
    """Draws (samples, rows, *rest), plates and event after the rows, in the shape of the data."""
    if drawn[0].numel() != x.numel():
        raise ValueError(
            f"the data site draws {tuple(drawn.shape[1:])} where the data are {tuple(x.shape)}: impute takes a program whose "
            "one data site observes all of x"
        )
    return drawn.reshape(len(drawn), *x.shape)
