"""Draws from the posterior of each row, corrected where the guide is not good enough, and what was done to get them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrovae.checks.calls import Covariates, local_work
from pyrovae.checks.entries import array, rows_second, sampled_traces
from pyrovae.checks.findings import CAUTION, GOOD, Finding, Result, listed, share
from pyrovae.checks.reference import STUCK, Sampler, reference_posterior
from pyrovae.errors import check_word
from pyrovae.evaluation.psis import psis
from pyrovae.limits import good_k, share_bad_k
from pyrovae.programs import latent_names, log_terms
from pyrovae.programs.rows import MAX_BYTES, Block, RowWork
from pyrovae.programs.sites import sites_of

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float64]
EXACT_SHARE = 0.999
"""Share of the proposals that must be effective for the guide's own draws to pass as they are: at 0.95 a mean could be off by
0.2 posterior standard deviations, or a variance by a third, which the weights would have corrected."""


class Proposals(NamedTuple):
    """Draws of the guide with their weights, rows second: values by site (proposals, data, *event_shape)."""

    values: dict[str, Tensor]
    log_weights: Tensor
    """Pareto-smoothed, normalized over the proposals; shape (proposals, data)."""
    pareto_k: Tensor
    ess: Tensor


class PosteriorDraws(Result):
    """What :func:`posterior_draws` returns, made by :func:`posterior_draws`.

    Attributes:
        values: by site, draws of shape ``(samples, data, *event_shape)``.
    """

    def __init__(self, dataset: xr.Dataset, values: dict[str, Tensor]) -> None:
        super().__init__(dataset, judge, draw)
        self.values = values

    @property
    def num_data(self) -> int:
        """The number of rows."""
        return len(self.method)

    def draws(self) -> dict[str, Tensor]:
        """The draws by site, shape ``(samples, data, *event_shape)``."""
        return self.values


def posterior_draws(
    program: Any,
    data: Any,
    covariates: Covariates | None = None,
    *,
    method: str = "auto",
    num_samples: int = 200,
    num_proposals: int = 1000,
    sampler: Sampler | None = None,
    seed: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> PosteriorDraws:
    r"""Draws from p(z | x) of each row: the guide's, corrected as far as each row needs it.

    Discrete latents that are summed out (``infer={"enumerate": "parallel"}``) are left out, and a note names them;
    :func:`pyrovae.from_pyro_svi` draws them, too.

    .. math:: z_s \sim q(z \mid x_i), \quad w_s = \frac{p(x_i, z_s)}{q(z_s \mid x_i)}, \quad
        z \sim \sum_s \bar w_s\, \delta_{z_s}

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``; local latents only.
        data: data of N rows.
        covariates: for each name, a tensor of N rows.
        method: ``"guide"``: as they are; ``"psis"``: resampled by Pareto-smoothed weights; ``"hmc"``: chains, half of them
            started at the guide; ``"auto"``: row by row the guide where 99.9 % of its draws are effective, else smoothed
            weights where k-hat allows, else chains.
        num_samples: draws per row.
        num_proposals: draws of the guide on which weights are computed.
        sampler: of the chains.
        seed: of all draws; None takes one from torch's random state.
        max_bytes: refuse what needs more memory.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Returns:
        A result over ``data``: ``method`` of each row, ``pareto_k`` and ``ess`` of the guide's importance weights, ``rhat`` (the
        largest of a row that was sampled by HMC, else NaN); ``values`` and ``draws()`` are the draws by site.

    Raises:
        ValueError: another method, global latents, fewer proposals than samples.

    Reference: Vehtari et al. 2024, arXiv:1507.02646; Li et al. 2024, arXiv:2409.04332, for the escalation.

    >>> import pyrovae as pvae
    >>> vae = pvae.build_vae(5, likelihood="normal", latent_dim=2, hidden=(8,))
    >>> posterior_draws(vae, torch.zeros(3, 5), seed=0).values["z"].shape
    torch.Size([200, 3, 2])
    """
    import xarray as xr

    check_word("method", method, (*_TABLE, "auto"))
    if not 1 <= num_samples <= num_proposals:
        raise ValueError(f"expected 1 <= num_samples <= num_proposals, got {num_samples} and {num_proposals}")
    plan: dict[str, Any] = {"num_samples": num_proposals, "seed": seed, "max_bytes": max_bytes, "progress": progress}
    work = local_work(program, data, covariates, **plan)
    found = work.run(lambda block: _picked(propose(block), method, num_samples), "posterior_draws")
    methods = np.array(list(_TABLE))[array(found.pop("method"))]
    columns = {name: array(found.pop(name)) for name in ("pareto_k", "ess")}
    joined = {name.removeprefix("value "): drawn.movedim(1, 0) for name, drawn in found.items()}
    rhat = np.full(len(methods), np.nan)
    if "hmc" in methods:
        rhat = _replace_by_chains(work, joined, methods, sampler)
    variables: dict[str, Any] = {n: ("data", v) for n, v in {"method": methods, **columns, "rhat": rhat}.items()}
    for name, drawn in joined.items():
        dims = [f"{name}_dim_{axis}" for axis in range(drawn.ndim - 2)]
        variables[name] = (("draw", "data", *dims), drawn.numpy())
    latents = [site["name"] for site in sites_of(work.dry_run.model_trace) if not site["is_observed"]]
    attributes: dict[str, Any] = {"num_samples": num_samples, "num_proposals": num_proposals}
    attributes["summed_out"] = ", ".join(name for name in latents if name not in joined)
    return PosteriorDraws(xr.Dataset(variables, attrs=attributes), joined)


def propose(block: Block) -> Proposals:
    """The guide's draws for the rows of a block, with smoothed weights, on the CPU."""
    values: dict[str, list[Tensor]] = {}
    weights = []
    call, redrawn = block.call.redrawing(block.work.dry_run.masked_latents)
    for tile in block.tiles():
        model_trace, guide_trace = sampled_traces(replace(tile, call=call))
        weights.append(log_terms(model_trace, guide_trace, dtype=torch.float64).log_weights.cpu())
        for name in latent_names(guide_trace):
            site = guide_trace.nodes[name]
            values.setdefault(name, []).append(rows_second(redrawn.get(name, site["value"]), site).cpu())
    smoothed = psis(torch.cat(weights))
    return Proposals({n: torch.cat(v) for n, v in values.items()}, smoothed.log_weights, smoothed.k, smoothed.ess)


def _picked(proposed: Proposals, method: str, num_samples: int) -> dict[str, Tensor]:
    """The chosen proposals of each row; rows that wait for chains get the guide's draws for now."""
    size, k, ess = len(proposed.log_weights), array(proposed.pareto_k), array(proposed.ess)
    by_weights = np.where(ess >= EXACT_SHARE * size, "guide", np.where(k <= good_k(size), "psis", "hmc"))
    methods = by_weights if method == "auto" else [method] * len(ess)
    chosen = [_TABLE[m](w, num_samples) for m, w in zip(methods, proposed.log_weights.T, strict=True)]
    index = torch.stack(chosen, 1)
    columns = {"pareto_k": proposed.pareto_k, "ess": proposed.ess}
    for name, values in proposed.values.items():
        at = index.reshape(*index.shape, *(1,) * (values.ndim - 2)).expand(-1, *values.shape[1:])
        columns[f"value {name}"] = values.gather(0, at).movedim(1, 0)
    return {**columns, "method": torch.tensor([list(_TABLE).index(m) for m in methods])}


def _resampled(log_weights: Tensor, num_samples: int) -> Tensor:
    """Systematic resampling, shuffled: each proposal about as often as its weight says."""
    weights = torch.nan_to_num(log_weights.exp(), nan=1.0)
    points = (torch.arange(num_samples) + torch.rand(())) / num_samples
    index = torch.searchsorted(weights.cumsum(0) / weights.sum(), points.double()).clamp_max(len(weights) - 1)
    return index[torch.randperm(num_samples)]


_TABLE: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "guide": lambda _, num_samples: torch.arange(num_samples),
    "psis": _resampled,
    "hmc": lambda _, num_samples: torch.arange(num_samples),
}


def _replace_by_chains(
    work: RowWork, values: dict[str, Tensor], methods: NDArray[np.str_], sampler: Sampler | None
) -> Array:
    """Puts chains' draws into the rows that need them, in place, and returns every row's R-hat."""
    rows = torch.as_tensor(np.flatnonzero(methods == "hmc"))
    plan: dict[str, Any] = {"seed": work.seed, "max_bytes": work.max_bytes, "progress": work.progress}
    reference = reference_posterior(work.program, work.data[rows], sampler=sampler, **plan)
    chains = reference.draws()
    if set(chains) != set(values):
        raise ValueError(
            f"chains sum out the discrete sites {sorted(set(values) - set(chains))}: use method='psis' for draws of them"
        )
    for name, drawn in chains.items():
        picked = torch.linspace(0, len(drawn) - 1, len(values[name])).round().long()
        values[name][:, rows] = drawn[picked].to(values[name])
    rhat = np.full(len(methods), np.nan)
    rhat[rows.numpy()] = reference.max_rhat
    return rhat


def judge(found: xr.Dataset) -> list[Finding]:
    """How many rows came from which method, and what to do about the unreliable ones."""
    method, rows, proposals = found["method"].values, found.sizes["data"], found.attrs["num_proposals"]
    claim = f"Rows by method: {listed([f'{name}: {share(int((method == name).sum()), rows)}' for name in _TABLE])}."
    summed = found.attrs["summed_out"]
    without = f" Without {summed}, summed out here: pyrovae.from_pyro_svi draws {'them' if ',' in summed else 'it'}."
    findings = [Finding(GOOD, "posterior draws", claim + (without if summed else ""))]
    k, limit = found["pareto_k"].values[method != "hmc"], good_k(proposals)
    weak = round(share_bad_k(k, proposals) * len(k)) if len(k) else 0
    if weak:
        claim = (
            f"{share(weak, rows)} have k-hat above {limit:.2f}, so that neither the guide's draws nor reweighted ones are "
            "reliable there."
        )
        advice = "Draw with method='auto' or 'hmc', or refine the guide."
        findings.append(Finding(CAUTION, "posterior draws", claim, advice))
    stuck = int((found["rhat"] > STUCK).sum())
    if stuck:
        claim = f"{share(stuck, rows)} have R-hat above {STUCK}."
        findings.append(Finding(CAUTION, "posterior draws", claim, "Run longer chains (sampler=Sampler(...))."))
    return findings


def draw(found: xr.Dataset, ax: Any = None) -> Any:
    """The k-hats of the guide's weights, by which the methods are chosen."""
    from pyrovae.plots import plot_khat

    return plot_khat(found["pareto_k"].values, found.attrs["num_proposals"], ax=ax)
