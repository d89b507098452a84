"""Data or prior: how the posterior of each row moves when its prior, or its likelihood, counts a little more or less."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrovae.checks.calls import Covariates, latent_work
from pyrovae.checks.draws import EXACT_SHARE
from pyrovae.checks.entries import along_latent, array, rows_second, sampled_traces
from pyrovae.checks.findings import CAUTION, GOOD, OPEN, Finding, Result, share
from pyrovae.errors import refusal
from pyrovae.evaluation.psis import Psis, psis
from pyrovae.limits import good_k, share_bad_k, too_many_bad_k
from pyrovae.programs import latent_names, log_terms
from pyrovae.programs.rows import MAX_BYTES, Block

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float64]
SENSITIVE = 0.05
"""The sensitivity above which a posterior is called sensitive, as in Kallioinen et al."""
AT_ONCE = 16
"""Rows whose draws are sorted and weighed together: a block of more holds copies of all of its draws."""


class PowerScaling(Result):
    """What :func:`power_scaling` found, made by :func:`power_scaling`."""


def power_scaling(
    program: Any,
    data: Any,
    covariates: Covariates | None = None,
    *,
    delta: float = 0.01,
    num_samples: int = 1000,
    seed: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> PowerScaling:
    r"""Whether prior or data speak in the posterior of each row's latents, by raising either to a power near one.

    .. math:: p_{a,b}(z \mid x_i) \propto p(z)^a\, p(x_i \mid z)^b, \qquad
        w_s = \frac{p(z_s)^a\, p(x_i \mid z_s)^b}{q(z_s \mid x_i)}, \qquad
        \mathrm{sensitivity} = \frac{D(F_{1 + \delta}, F) + D(F_{1 / (1 + \delta)}, F)}{2 \log_2 (1 + \delta)}

    with D the cumulative Jensen-Shannon distance of the marginals of each latent over the range of the draws. The decoder
    stays as it is: the question is of the latents given the weights; whether the prior matters to the fit is answered by
    refits. Each row has weights of its own; they are those of the whole ratio, so that an inexact guide is corrected on the
    way. A posterior sensitive to the prior alone follows the prior (the data say little); one sensitive to both is torn
    between them.

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``; local latents only.
        data: data of N rows.
        covariates: for each name, a tensor of N rows.
        delta: how far the powers lie from one.
        num_samples: draws of the guide per row.
        seed: of the draws; None takes one from torch's random state.
        max_bytes: refuse what needs more memory.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Returns:
        A result over ``data`` and ``latent``: ``prior`` and ``likelihood`` (the sensitivities); ``prior_shift`` and
        ``likelihood_shift``, how many posterior standard deviations the mean moves as the power is doubled, to first order;
        and over ``data``, ``pareto_k``, the largest of all the ratios, 0 where 99.9 % of the draws are effective.

    Raises:
        ValueError: delta is not positive, global latents, or latents that differ between model and guide.

    Reference: Kallioinen, Paananen, Buerkner & Vehtari 2024, arXiv:2107.14054.

    >>> import pyrovae as pvae
    >>> vae = pvae.build_vae(5, likelihood="normal", latent_dim=2, hidden=(8,))
    >>> power_scaling(vae, torch.zeros(3, 5), seed=0).prior["z"].shape
    (3, 2)
    """
    import xarray as xr

    if not 0 < delta < 1:
        raise refusal(f"expected delta between 0 and 1, got {delta}", "delta")
    plan: dict[str, Any] = {"num_samples": num_samples, "seed": seed, "max_bytes": max_bytes, "progress": progress}
    work = latent_work(program, data, covariates, **plan)
    found = {
        name: array(value) for name, value in work.run(lambda block: _scaled(block, delta), "power_scaling").items()
    }
    shapes = {name.partition(" ")[2]: v.shape[1:] for name, v in found.items() if name.startswith("prior ")}
    made = {
        kind: along_latent({site: found[f"{kind} {site}"] for site in shapes}, "data")
        for kind in ("prior", "likelihood", "prior_shift", "likelihood_shift")
    }
    attributes = {"num_samples": num_samples, "delta": delta}
    return PowerScaling(xr.Dataset(made | {"pareto_k": ("data", found["pareto_k"])}, attrs=attributes), judge, draw)


def _scaled(block: Block, delta: float) -> dict[str, Tensor]:
    """Sensitivities of the rows of a block, by kind and site."""
    drawn: dict[str, list[Tensor]] = {}
    logs: dict[str, list[Tensor]] = {"weight": [], "prior": [], "likelihood": []}
    for tile in block.tiles():
        model_trace, guide_trace = sampled_traces(tile)
        terms = log_terms(model_trace, guide_trace, dtype=torch.float64)
        for name, value in (
            ("weight", terms.log_weights),
            ("prior", terms.log_prior),
            ("likelihood", terms.reconstruction),
        ):
            logs[name].append(value.cpu())
        for name in latent_names(guide_trace):
            site = guide_trace.nodes[name]
            drawn.setdefault(name, []).append(rows_second(site["value"], site).double().cpu())
    every = {name: torch.cat(parts) for name, parts in logs.items()}
    values = {name: torch.cat(parts) for name, parts in drawn.items()}
    del drawn, logs
    parts = [
        _of_rows({n: v[:, some] for n, v in every.items()}, {n: v[:, some] for n, v in values.items()}, delta)
        for some in torch.arange(len(block.call.rows)).split(AT_ONCE)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _of_rows(logs: Mapping[str, Tensor], drawn: Mapping[str, Tensor], delta: float) -> dict[str, Tensor]:
    """Sensitivities of some rows, from the log densities and the latents of their draws ``(draws, rows, ...)``."""
    base = psis(logs["weight"])
    columns, ks = {}, [_tail(base)]
    for kind in ("prior", "likelihood"):
        scaled = [psis(logs["weight"] + (power - 1) * logs[kind]) for power in (1 + delta, 1 / (1 + delta))]
        ks += [_tail(one) for one in scaled]
        weights = [one.log_weights.exp() for one in (base, *scaled)]
        for name, values in drawn.items():
            distance, shift = _sensitivity(values.flatten(2) if values.ndim > 2 else values[..., None], *weights)
            for label, number in ((kind, distance), (f"{kind}_shift", shift)):
                columns[f"{label} {name}"] = (number / np.log2(1 + delta)).reshape(values.shape[1:])
    return {**columns, "pareto_k": torch.stack(ks).amax(0)}


def _tail(smoothed: Psis) -> Tensor:
    """The Pareto shape of weights, 0 where they hardly differ: the shape does not depend on how much they do."""
    return torch.where(smoothed.ess < EXACT_SHARE * len(smoothed.log_weights), smoothed.k, 0.0)


def _sensitivity(values: Tensor, base: Tensor, more: Tensor, less: Tensor) -> tuple[Tensor, Tensor]:
    """Half the sum of both distances, and half the difference of both means in standard deviations; ``(rows, entries)``."""
    distance = (cumulative_distance(values, base, more) + cumulative_distance(values, base, less)) / 2
    means = [(weight[..., None] * values).sum(0) for weight in (base, more, less)]
    variance = (base[..., None] * (values - means[0]) ** 2).sum(0)
    shift = (means[1] - means[2]) / 2 / variance.sqrt()
    return distance, torch.where(variance > 0, shift, 0.0)  # a label whose draws are all alike does not move


def cumulative_distance(values: Tensor, one: Tensor, other: Tensor) -> Tensor:
    r"""The cumulative Jensen-Shannon distance between the draws under two sets of weights, the larger of both directions.

    .. math:: D^2 = \frac{\int P \log_2 \frac{2 P}{P + Q} + \frac{Q - P}{2 \ln 2}
        + \int Q \log_2 \frac{2 Q}{P + Q} + \frac{P - Q}{2 \ln 2}}{\int P + Q}

    Args:
        values: of shape (draws, rows, entries).
        one: weights that sum to one over the draws, of shape (draws, rows).
        other: likewise.

    Reference: Nguyen & Vreeken 2015, doi:10.1007/978-3-319-23525-7_11.

    >>> x = torch.arange(4.0)[:, None, None]
    >>> cumulative_distance(x, torch.full((4, 1), 0.25), torch.full((4, 1), 0.25))
    tensor([[0.]])
    """
    found = []
    for sign in (1.0, -1.0):
        ordered, index = (sign * values).sort(0)
        width = ordered.diff(dim=0)
        p, q = (weight[..., None].expand_as(values).gather(0, index).cumsum(0)[:-1] for weight in (one, other))
        half = (p + q) / 2
        terms = torch.special.xlogy(p, p / half) + torch.special.xlogy(q, q / half)
        area = (width * terms.nan_to_num()).sum(0) / np.log(2)
        found.append((area / (width * (p + q)).sum(0).clamp_min(1e-300)).clamp_min(0).sqrt())
    return torch.maximum(*found)


def judge(found: xr.Dataset) -> list[Finding]:
    """For how many rows the prior speaks, and whether data and prior pull apart."""
    rows, samples = found.sizes["data"], found.attrs["num_samples"]
    prior, likelihood = (found[name].values > SENSITIVE for name in ("prior", "likelihood"))
    torn = (prior & likelihood).any(1).sum()
    weak = (prior & ~likelihood).any(1).sum()
    claim = (
        f"Prior and data both move a latent in {share(int(torn), rows)}; the prior alone, the data saying little, in "
        f"{share(int(weak), rows)}."
    )
    advice = ""
    if too_many_bad_k((prior & likelihood).any(1).mean()):
        advice = (
            "Look at these rows: under another prior they tell another story (`choose` compares priors by evidence)."
        )
    findings = [Finding(OPEN if advice else GOOD, "power-scaling", claim, advice)]
    if too_many_bad_k(bad := share_bad_k(found["pareto_k"].values, samples)):
        claim = f"{bad:.0%} of the rows have k-hat above {good_k(samples):.2f}: their sensitivities are unreliable."
        findings.append(Finding(CAUTION, "weights", claim, "Refine the guide (`refine`), or take more samples."))
    return findings


def draw(found: xr.Dataset, ax: Any = None) -> Any:
    """Each latent of each row: its sensitivity to the prior against that to the likelihood."""
    from pyrovae.plots.style import BLUE, finding, ink, one_panel

    ax = one_panel(ax)
    prior, likelihood = (found[name].values.reshape(-1) for name in ("prior", "likelihood"))
    ax.scatter(likelihood, prior, s=9, color=BLUE, alpha=0.5, linewidths=0, rasterized=len(prior) > 2000)
    for line in (ax.axhline, ax.axvline):
        line(SENSITIVE, color=ink(ax), linestyle=":", linewidth=1)
    ax.set(xlabel="sensitivity to the likelihood (no unit)", ylabel="sensitivity to the prior (no unit)")
    finding(ax, f"{(prior > SENSITIVE).mean():.0%} of the latents sensitive to the prior")
    return ax
