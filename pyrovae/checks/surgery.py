"""The ELBO taken apart: reconstruction, mutual information, and the distance of the aggregate posterior from the prior."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.checks.calls import stream, whole
from pyrovae.checks.entries import (
    Site,
    array,
    entry_kl,
    entry_log_prob,
    entry_means,
    rows_second,
    sampled_traces,
    unwrap,
)
from pyrovae.checks.simulate import Covariates, Substitute
from pyrovae.programs import PARTICLES, latent_names, log_terms, site_log_prob
from pyrovae.programs.draws import Call
from pyrovae.programs.sites import data_axis

Array = NDArray[np.float64]
ENTRIES_AT_ONCE = 2**23
SATURATED_SHARE = 0.07
"""Share of draws at which their own row holds most of the aggregate; above it the estimate of the mutual information was
over 0.15 nats short on exact examples."""


@dataclass(frozen=True)
class Surgery:
    """The parts of the mean ELBO, in nats per datum; ``kl = mutual_information + marginal_kl`` up to Monte-Carlo error.

    Attributes:
        reconstruction: the mean of log p(x | z).
        kl: the mean KL of the guide to the prior (the rate).
        mutual_information: between the row and its latents; at most ``log_n``, and short of the truth near it.
        mutual_information_upper: the same with the row's own posterior left out of the aggregate: an upper bound on
            average, and a wild one when few rows overlap.
        marginal_kl: of the aggregate posterior to the prior: what a better prior could win at most; too large by as much
            as the mutual information is too small.
        marginal_kl_lower: a lower bound that does not saturate: the best of ``kl - mutual_information_upper``, the KL of
            the aggregate's normal approximation where the prior is normal, and the sum over entries where it is
            independent.
        log_n: log of the number of rows, the cap of ``mutual_information``.
        own_share: the share of draws at which the row's own posterior holds over half of the aggregate.
        mcse: the standard error of ``mutual_information`` over rows.
        entry_mutual_information: by site, of each entry; NaN where the entries of the site are joint, or where the site
            depends on other latents.
        entry_marginal_kl: by site, of each entry, likewise.
    """

    reconstruction: float
    kl: float
    mutual_information: float
    mutual_information_upper: float
    marginal_kl: float
    marginal_kl_lower: float
    log_n: float
    own_share: float
    mcse: float
    entry_mutual_information: dict[str, Array]
    entry_marginal_kl: dict[str, Array]

    @property
    def elbo(self) -> float:
        """The mean ELBO, reconstruction less KL."""
        return self.reconstruction - self.kl

    @property
    def saturated(self) -> bool:
        """Whether the rows are too few: the mutual information is then only known to be at least the estimate.

        The estimate cannot exceed ``log_n``, and falls short before it comes near. A draw shows that where its own row's
        posterior makes up more than half of the aggregate there, so that hardly another row is left to tell it from; the
        rows count as too few where this is so at more than 7 % of the draws (``own_share > 0.07``).
        """
        return self.own_share > SATURATED_SHARE

    def summary(self) -> str:
        """The decomposition in one line, and a warning where the number of rows sets the numbers."""
        line = (
            f"ELBO {self.elbo:.2f} = reconstruction {self.reconstruction:.2f} - mutual information "
            f"{self.mutual_information:.2f} - marginal KL {self.marginal_kl:.2f} nats"
        )
        if not self.saturated:
            return line
        return (
            f"{line}\nsaturated: {math.exp(self.log_n):.0f} rows are too few, since at {self.own_share:.0%} of the draws "
            f"(above {SATURATED_SHARE:.0%}) the row's own posterior makes up most of the aggregate. The estimate of the mutual "
            f"information, which cannot exceed log {math.exp(self.log_n):.0f} = {self.log_n:.2f} nats, falls short before it "
            f"gets there: the mutual information is at least {self.mutual_information:.2f}, and the marginal KL lies between "
            f"{self.marginal_kl_lower:.2f} and {self.marginal_kl:.2f}. Give more rows."
        )


class Drawn(NamedTuple):
    """Draws of the guide for some rows, and what the pair says of them."""

    log_guide: Tensor
    log_prior: Tensor
    reconstruction: Tensor
    values: dict[str, Tensor]
    axes: dict[str, int]
    """The data's axis in each site's values, counted from the left."""
    entry_log_prior: dict[str, Tensor]
    kl: dict[str, Tensor]
    means: dict[str, Tensor]
    whitened: Tensor | None
    free: frozenset[str]
    """Sites whose entries are independent and whose distribution does not depend on other latents."""


def draw(call: Call, num_samples: int) -> Drawn:
    """Draws for the rows of a call, with the terms that the structure is read from."""
    model_trace, guide_trace = sampled_traces(call, num_samples)
    terms = log_terms(model_trace, guide_trace, dtype=torch.float64)
    names = latent_names(guide_trace)
    means = entry_means(guide_trace)
    free = frozenset(n for i, n in enumerate(names) if _is_free(i, means[n], guide_trace.nodes[n]))
    priors = {n: entry_log_prob(model_trace.nodes[n]) for n in free if _is_fixed(model_trace.nodes[n])}
    return Drawn(
        terms.log_guide,
        terms.log_prior,
        terms.reconstruction,
        {n: guide_trace.nodes[n]["value"] for n in names},
        {n: data_axis(guide_trace.nodes[n]) for n in names},
        {n: rows_second(p, guide_trace.nodes[n]) for n, p in priors.items() if p is not None},
        entry_kl(model_trace, guide_trace),
        means,
        _whitened(model_trace, names),
        free,
    )


def _is_free(position: int, means: Tensor, site: Site) -> bool:
    """The first site depends on no other latent; a later one shows it, if its mean moves with the particle."""
    if unwrap(site["fn"])[0].event_shape:
        return False
    return position == 0 or (len(means) > 1 and bool((means == means[:1]).all()))


def _is_fixed(prior: Site) -> bool:
    """Whether a prior is the same for every particle, as it is not where it depends on other latents."""
    base = unwrap(prior["fn"])[0]
    parameters = [value for value in vars(base).values() if isinstance(value, Tensor) and value.ndim]
    size, ndim = prior["value"].shape[0], prior["value"].ndim
    return all(value.ndim < ndim or size == 1 or bool((value == value[:1]).all()) for value in parameters)


def _whitened(model_trace: Trace, names: list[str]) -> Tensor | None:
    """The draws as standard normals under the prior, (particles, data, all entries); None if a prior is not normal."""
    columns = []
    for name in names:
        site = model_trace.nodes[name]
        base = unwrap(site["fn"])[0]
        if not isinstance(base, torch.distributions.Normal) or len(base.batch_shape) > site["value"].ndim:
            return None
        white = rows_second((site["value"] - base.loc) / base.scale, site)
        columns.append(white.flatten(2) if white.ndim > 2 else white[..., None])
    return torch.cat(columns, -1).double()


class Cross(NamedTuple):
    """Log densities of draws under the guides of all rows: by draw, summed over those rows in the three ways needed."""

    own: Tensor
    aggregate: Tensor
    others: Tensor


def _cross_entropies(call: Call, drawn: Drawn) -> tuple[Cross, dict[str, Cross]]:
    samples, rows = drawn.log_guide.shape
    width = max(v[0].numel() // rows for v in drawn.values.values())
    step = max(1, ENTRIES_AT_ONCE // (samples * rows * max(width, 1)))
    pieces = torch.arange(rows, device=drawn.log_guide.device).split(step)
    parts = [_against_all(call, drawn, index) for index in pieces]
    joint = _joined([part[0] for part in parts])
    return joint, {name: _joined([part[1][name] for part in parts]) for name in parts[0][1]}


def _joined(parts: list[Cross]) -> Cross:
    return Cross(*(torch.cat(columns, 1) for columns in zip(*parts, strict=True)))


def _against_all(call: Call, drawn: Drawn, index: Tensor) -> tuple[Cross, dict[str, Cross]]:
    samples = len(drawn.log_guide)
    own = index.repeat(samples)
    trace = _guide_at(call, drawn, index)
    entries = {n: _rows_by_entry(trace.nodes[n]) for n in drawn.entry_log_prior}
    total = sum(_row_log_prob(trace.nodes[n]) for n in drawn.values)
    shape = (samples, len(index))
    joint = _summed(total.double(), own, shape)  # type: ignore[union-attr]
    return joint, {n: _summed(value.double(), own, shape) for n, value in entries.items()}


def _guide_at(call: Call, drawn: Drawn, index: Tensor) -> Trace:
    """The guide of every row at the draws of a few: particles are (sample, row), the data axis all rows."""
    values = {}
    for name, value in drawn.values.items():
        axis = drawn.axes[name]
        chosen = value.index_select(axis, index).movedim(axis, 1).flatten(0, 1).unsqueeze(axis)
        values[name] = chosen.expand(*chosen.shape[:axis], value.shape[axis], *chosen.shape[axis + 1 :])
    particles = pyro.plate(PARTICLES, len(index) * len(drawn.log_guide), dim=-1 - call.nesting)
    guide = particles(Substitute(values)(call.program.guide))
    return poutine.trace(guide).get_trace(*call.args, **call.kwargs)


def _rows_by_entry(site: Site) -> Tensor:
    entries = entry_log_prob(site)
    return rows_second(entries.expand(site["value"].shape), site)  # type: ignore[union-attr]


def _row_log_prob(site: Site) -> Tensor:
    log_prob = site_log_prob(site)
    shape = site["value"].shape[: site["value"].ndim - len(site["fn"].event_shape)]
    log_prob = log_prob.expand(shape).movedim(data_axis(site), 1)
    return log_prob.flatten(2).sum(-1) if log_prob.ndim > 2 else log_prob


def _summed(log_prob: Tensor, own: Tensor, shape: tuple[int, int]) -> Cross:
    """From (draws, rows, ...) to the density of each draw under its own row, the mean row, and the mean other row."""
    rows = log_prob.shape[1]
    particle = torch.arange(len(own), device=log_prob.device)
    mine = log_prob[particle, own]
    everyone = log_prob.logsumexp(1) - math.log(rows)
    log_prob[particle, own] = -math.inf
    others = log_prob.logsumexp(1) - math.log(max(rows - 1, 1))
    return Cross(*(value.reshape(*shape, *value.shape[1:]) for value in (mine, everyone, others)))


def elbo_surgery(
    program: Any, data: Any, covariates: Covariates | None = None, *, num_samples: int = 4, seed: int = 0
) -> Surgery:
    r"""Takes the mean ELBO apart into reconstruction, mutual information and marginal KL.

    .. math:: \tfrac1N \sum_i \mathrm{KL}(q(z \mid x_i)\,\|\,p(z))
        = \underbrace{\mathbb{E}\Bigl[\log \tfrac{q(z \mid x_i)}{q(z)}\Bigr]}_{\text{mutual information} \le \log N}
        + \underbrace{\mathrm{KL}(q(z)\,\|\,p(z))}_{\text{marginal KL}}, \qquad q(z) = \tfrac1N \sum_j q(z \mid x_j)

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``; local latents only.
        data: data of N rows; the work grows with N squared.
        covariates: a tensor of rows for each name; the aggregate then mixes over covariates, too.
        num_samples: draws a row.
        seed: of the draws.

    Raises:
        ValueError: fewer than two rows; global latents.

    Reference: Hoffman & Johnson 2016 (approximateinference.org/accepted/HoffmanJohnson2016.pdf); Poole et al. 2019,
    arXiv:1905.06922, for the bounds.

    >>> import pyrovae as pvae, pyro.distributions as dist, torch
    >>> vae = pvae.VAE(pvae.standard_normal(2), pvae.Factorized(dist.Normal, pvae.MLP(2, (8,)), 5, scale=1.0),
    ...     pvae.Factorized(dist.Normal, pvae.MLP(5, (8,)), 2))
    >>> elbo_surgery(vae, torch.zeros(20, 5)).entry_mutual_information["z"].shape
    (2,)
    """
    draws, call = whole(program, data, covariates, seed)
    with draws.evaluating(stream(seed)):
        return surgery_of(call, draw(call, num_samples))


def surgery_of(call: Call, drawn: Drawn) -> Surgery:
    """The surgery of draws that are already at hand."""
    rows = drawn.log_guide.shape[1]
    if rows < 2:
        raise ValueError(f"an aggregate posterior needs at least two rows, got {rows}")
    joint, entries = _cross_entropies(call, drawn)
    information = joint.own - joint.aggregate
    kl = _mean_kl(drawn)
    entry_marginal = {n: array((e.aggregate - drawn.entry_log_prior[n]).mean((0, 1))) for n, e in entries.items()}
    upper = float((joint.own - joint.others).mean())
    return Surgery(
        reconstruction=float(drawn.reconstruction.mean()),
        kl=kl,
        mutual_information=float(information.mean()),
        mutual_information_upper=upper,
        marginal_kl=float((joint.aggregate - drawn.log_prior).mean()),
        marginal_kl_lower=max(0.0, kl - upper, _normal_bound(drawn.whitened), _entry_bound(drawn, entries)),
        log_n=math.log(rows),
        own_share=float((information > math.log(rows / 2)).double().mean()),
        mcse=float(information.mean(0).std() / math.sqrt(rows)),
        entry_mutual_information=_filled(
            drawn, {n: array((e.own - e.aggregate).mean((0, 1))) for n, e in entries.items()}
        ),
        entry_marginal_kl=_filled(drawn, entry_marginal),
    )


def _mean_kl(drawn: Drawn) -> float:
    """In closed form where every site's entries are independent, else from the draws."""
    total = sum(float(kl.double().mean(0).sum()) for kl in drawn.kl.values())
    exact = set(drawn.kl) == set(drawn.entry_log_prior) and math.isfinite(total)
    return total if exact else float((drawn.log_guide - drawn.log_prior).mean())


def _normal_bound(whitened: Tensor | None) -> float:
    r"""KL of the normal that matches the aggregate to the standard normal, less its bias; nothing exceeds it."""
    if whitened is None or whitened.shape[1] < 2 * whitened.shape[2]:
        return 0.0
    draws, size = whitened.flatten(0, 1), whitened.shape[2]
    covariance = torch.atleast_2d(torch.cov(draws.T, correction=0))
    kl = 0.5 * (covariance.trace() + draws.mean(0).square().sum() - size - torch.logdet(covariance))
    return float(kl) - _normal_bias(size, whitened.shape[1])


def _normal_bias(size: int, rows: int) -> float:
    """What that KL is on average where the aggregate is standard normal: the Wishart law's expected log determinant."""
    degrees = (rows - torch.arange(1, size + 1, dtype=torch.float64)) / 2
    return -0.5 * float((torch.digamma(degrees) - math.log(rows / 2)).sum())


def _entry_bound(drawn: Drawn, entries: dict[str, Cross]) -> float:
    """The entries' own marginal KL, which add up to less than the joint one if the prior's entries are independent."""
    if set(entries) != set(drawn.values):
        return 0.0
    return sum(float((e.others - drawn.entry_log_prior[n]).mean((0, 1)).sum()) for n, e in entries.items())


def _filled(drawn: Drawn, known: dict[str, Array]) -> dict[str, Array]:
    return {n: known.get(n, np.full(kl.shape[1:], np.nan)) for n, kl in drawn.kl.items()}


__all__ = ["Drawn", "Surgery", "draw", "elbo_surgery", "surgery_of"]
