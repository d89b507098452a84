"""What the latents carry: KL and activity of each entry, the ELBO taken apart, collapse told from a prior hole."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrovae.checks.aggregate import Cross, Drawn, cross_densities, draw
from pyrovae.checks.calls import Covariates, latent_work
from pyrovae.checks.entries import along_latent, array
from pyrovae.checks.findings import CAUTION, GOOD, OPEN, PROBLEM, Case, Check, Finding, Line, Result, listed
from pyrovae.programs.rows import MAX_BYTES, RowWork

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float64]
COLLAPSED = 0.1
"""Nats of mutual information below which the latents say next to nothing about the data."""
UNUSED = 0.01
"""Nats of KL, and of mutual information, below which an entry is called unused."""
INFORMATIVE = 0.1
"""Nats of KL above which an entry is called informative."""
ACTIVE = 0.01
"""The variance of an entry's posterior mean over rows above which it is called active."""
SATURATED_SHARE = 0.07
"""Share of draws at which their own row holds most of the aggregate; above it the estimate of the mutual information was
over 0.15 nats short on exact examples."""


class Surgery(Result):
    """The parts of the mean ELBO, made by :func:`elbo_surgery`."""

    @property
    def kl(self) -> float:
        """The mean KL of the guide to the prior."""
        return self.mean_kl

    @property
    def elbo(self) -> float:
        """The mean ELBO, reconstruction less KL."""
        return self.reconstruction - self.mean_kl

    @property
    def saturated(self) -> bool:
        """Whether the rows are too few, so that the mutual information is only known to be at least the estimate.

        The estimate cannot exceed ``log_n``, and falls short before it comes near. A draw shows that where its own row's
        posterior makes up more than half of the aggregate there, so that hardly another row is left to tell it from; the
        rows count as too few where this is so at more than 7 % of the draws (``own_share > 0.07``).
        """
        return _is_saturated(self.dataset)


class LatentStructure(Result):
    """What :func:`latent_structure` found, made by :func:`latent_structure`."""

    def active(self, variance: float = ACTIVE) -> dict[str, NDArray[np.bool_]]:
        """Active units of Burda et al. 2016 (arXiv:1509.00519): entries whose posterior mean varies over the data."""
        return {name: values > variance for name, values in self.mean_variance.items()}

    def informative(self, nats: float = INFORMATIVE) -> dict[str, NDArray[np.bool_]]:
        """Entries whose KL exceeds ``nats``; fewer than are active where means vary by little."""
        return {name: values > nats for name, values in self.kl.items()}

    @property
    def surgery(self) -> Surgery:
        """The ELBO taken apart, alone."""
        return Surgery(self.dataset, judge_surgery, draw_kl)


def latent_structure(
    program: Any,
    data: Any,
    covariates: Covariates | None = None,
    *,
    num_samples: int = 4,
    seed: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> LatentStructure:
    r"""Which latents carry information, how much of it, and whether together they follow the prior.

    .. math:: \mathrm{KL}_j = \tfrac1N \sum_i \mathrm{KL}(q(z_j \mid x_i)\,\|\,p(z_j)), \qquad
        A_j = \mathrm{Var}_i\, \mathbb{E}_q[z_j \mid x_i]

    together with :func:`elbo_surgery`. A small KL is collapse; a KL that is all marginal KL is not information; a large
    marginal KL is a hole in the prior.

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``; local latents only.
        data: data of N rows, a few thousand at most: the surgery's work grows with N squared.
        covariates: for each name, a tensor of N rows.
        num_samples: draws per row.
        seed: of the draws; None takes one from torch's random state.
        max_bytes: refuse what needs more memory.
        progress: True shows bars, False none; by default there are some on a terminal.

    Returns:
        A result with all of :func:`elbo_surgery`, and over ``latent``: ``kl`` (the mean KL of each entry to its prior, nats)
        and ``mean_variance`` (the variance over rows of its posterior mean); ``num_active`` entries have a variance above
        0.01, ``num_informative`` a KL above 0.1 nats (``kl`` is NaN where the prior depends on a discrete latent that is
        summed out); ``verdict`` is ``"collapsed"``, ``"prior hole"``, ``"in use"``, or
        ``"undecided"`` where the rows are too few to tell, or the guide's log density is not finite.

    Raises:
        ValueError: fewer than two rows; global latents.

    Reference: Burda et al. 2016, arXiv:1509.00519; Hoffman & Johnson 2016; Dai et al. 2020, arXiv:1912.10702 (collapse).

    >>> import pyrovae as pvae, torch
    >>> vae = pvae.build_vae(5, likelihood="normal", latent_dim=2, hidden=(8,))
    >>> latent_structure(vae, torch.zeros(20, 5), seed=0).verdict
    'collapsed'
    """
    plan: dict[str, Any] = {"num_samples": num_samples, "seed": seed, "max_bytes": max_bytes, "progress": progress}
    work = latent_work(program, data, covariates, **plan)
    if len(work) < 2:
        raise ValueError(f"an aggregate posterior needs at least two rows, got {len(work)}")
    drawn = draw(work)
    found = _surgery(work, drawn)
    found["mean_variance"] = along_latent({name: _variance_of_means(means) for name, means in drawn.means.items()})
    found.attrs["num_active"] = int((found["mean_variance"] > ACTIVE).sum())
    found.attrs["num_informative"] = int((found["kl"] > INFORMATIVE).sum())
    found.attrs["verdict"] = _verdict(found)
    return LatentStructure(found, judge, draw_kl)


def elbo_surgery(
    program: Any,
    data: Any,
    covariates: Covariates | None = None,
    *,
    num_samples: int = 4,
    seed: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> Surgery:
    r"""Takes the mean ELBO apart into reconstruction, mutual information and marginal KL.

    .. math:: \tfrac1N \sum_i \mathrm{KL}(q(z \mid x_i)\,\|\,p(z))
        = \underbrace{\mathbb{E}\Bigl[\log \tfrac{q(z \mid x_i)}{q(z)}\Bigr]}_{\text{mutual information} \le \log N}
        + \underbrace{\mathrm{KL}(q(z)\,\|\,p(z))}_{\text{marginal KL}}, \qquad q(z) = \tfrac1N \sum_j q(z \mid x_j)

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``; local latents only.
        data: data of N rows; the work grows with N squared.
        covariates: for each name, a tensor of N rows; the aggregate then mixes over covariates, too.
        num_samples: draws per row.
        seed: of the draws; None takes one from torch's random state.
        max_bytes: refuse what needs more memory.
        progress: True shows bars, False none; by default there are some on a terminal.

    Returns:
        A result in nats per datum. Without dimensions: ``reconstruction`` (the mean of log p(x | z)); ``mean_kl`` (of the
        guide to the prior, the rate); ``mutual_information`` between the row and its latents, with ``mcse`` over rows,
        at most ``log_n`` and short of the truth near it; ``mutual_information_upper``, with the row's own posterior left
        out of the aggregate: an upper bound on average, and a wild one when few rows overlap; ``marginal_kl`` of the
        aggregate posterior to the prior, at most what a better prior could win, and too large by as much as the mutual
        information is too small; ``marginal_kl_lower``, a bound that does not saturate (the best of ``mean_kl`` less the
        upper mutual information, of the KL of the aggregate's normal approximation where the prior is normal, and of
        the sum over entries where it is independent); ``own_share`` of the draws at which the row's own posterior holds
        over half of the aggregate. Over ``latent``: ``kl``, ``entry_mutual_information`` and ``entry_marginal_kl``, the
        last two NaN where the entries of a site are joint or the site depends on other latents.

    Raises:
        ValueError: fewer than two rows; global latents.

    Reference: Hoffman & Johnson 2016 (approximateinference.org/accepted/HoffmanJohnson2016.pdf); Poole et al. 2019,
    arXiv:1905.06922, for the bounds.

    >>> import pyrovae as pvae, torch
    >>> vae = pvae.build_vae(5, likelihood="normal", latent_dim=2, hidden=(8,))
    >>> elbo_surgery(vae, torch.zeros(20, 5), seed=0).entry_mutual_information["z"].shape
    (2,)
    """
    plan: dict[str, Any] = {"num_samples": num_samples, "seed": seed, "max_bytes": max_bytes, "progress": progress}
    return latent_structure(program, data, covariates, **plan).surgery


def _surgery(work: RowWork, drawn: Drawn) -> xr.Dataset:
    import xarray as xr

    rows = len(work)
    joint, entries = cross_densities(work, drawn)
    information = joint.own - joint.aggregate
    kl = sum(float(value.double().mean(0).sum()) for value in drawn.kl.values())
    if set(drawn.kl) != set(drawn.entry_log_prior) or not math.isfinite(kl):  # there is no closed form
        kl = float((drawn.log_guide - drawn.log_prior).mean())
    upper = float((joint.own - joint.others).mean())
    of_entries = {
        "entry_mutual_information": {n: (e.own - e.aggregate) for n, e in entries.items()},
        "entry_marginal_kl": {n: (e.aggregate - drawn.entry_log_prior[n]) for n, e in entries.items()},
    }
    scalars = {
        "reconstruction": float(drawn.reconstruction.mean()),
        "mean_kl": kl,
        "mutual_information": float(information.mean()),
        "mutual_information_upper": upper,
        "marginal_kl": float((joint.aggregate - drawn.log_prior).mean()),
        "marginal_kl_lower": max(0.0, kl - upper, _normal_bound(drawn.whitened), _entry_bound(drawn, entries)),
        "log_n": math.log(rows),
        "own_share": float((information > math.log(rows / 2)).double().mean()),
        "mcse": float(information.mean(1).std() / math.sqrt(rows)),
    }
    found = xr.Dataset(scalars, attrs={"num_data": rows})
    found["kl"] = along_latent({name: array(value).mean(0) for name, value in drawn.kl.items()})
    for name, known in of_entries.items():
        means = {n: array(value.mean((0, 1))) for n, value in known.items()}
        found[name] = along_latent({n: means.get(n, np.full(k.shape[1:], np.nan)) for n, k in drawn.kl.items()})
    return found


def _normal_bound(whitened: Tensor | None) -> float:
    r"""KL of the normal that matches the aggregate to the standard normal, less its bias; nothing exceeds it.

    The bias is the average of that KL where the aggregate is standard normal: by the Wishart law's expected log
    determinant.
    """
    if whitened is None or whitened.shape[0] < 2 * whitened.shape[2]:
        return 0.0
    draws, (rows, _, size) = whitened.flatten(0, 1), whitened.shape
    covariance = torch.atleast_2d(torch.cov(draws.T, correction=0))
    kl = 0.5 * (covariance.trace() + draws.mean(0).square().sum() - size - torch.logdet(covariance))
    degrees = (rows - torch.arange(1, size + 1, dtype=torch.float64)) / 2
    return float(kl) + 0.5 * float((torch.digamma(degrees) - math.log(rows / 2)).sum())


def _entry_bound(drawn: Drawn, entries: dict[str, Cross]) -> float:
    """The entries' own marginal KL, which add up to less than the joint one if the prior's entries are independent."""
    if set(entries) != set(drawn.values):
        return 0.0
    return sum(float((e.others - drawn.entry_log_prior[n]).mean((0, 1)).sum()) for n, e in entries.items())


def _variance_of_means(means: Tensor) -> Array:
    """The variance over rows of the mean over draws, less the Monte-Carlo noise of that mean."""
    values = array(means.movedim(1, 0))
    noise = values.var(0, ddof=1).mean(0) / len(values) if len(values) > 1 else 0.0
    return np.maximum(values.mean(0).var(0, ddof=1) - noise, 0.0)


def _is_saturated(found: xr.Dataset) -> bool:
    return bool(found["own_share"] > SATURATED_SHARE)


def _hole(found: xr.Dataset) -> float:
    """Nats of marginal KL from which on it is called a hole: half a nat, or 5 % of the KL if that is more."""
    return max(0.5, 0.05 * float(found["mean_kl"]))


def _verdict(found: xr.Dataset) -> str:
    if not np.isfinite(found["mutual_information"]):
        return "undecided"
    saturated, hole = _is_saturated(found), _hole(found)
    if not saturated and found["mutual_information"] < COLLAPSED + 3 * found["mcse"]:
        return "collapsed"
    if found["marginal_kl_lower"] > hole or (not saturated and found["marginal_kl"] > hole):
        return "prior hole"
    return "undecided" if saturated and found["marginal_kl"] > hole else "in use"


def _decomposition(found: xr.Dataset) -> str:
    s = {name: float(found[name]) for name in ("reconstruction", "mean_kl", "mutual_information", "marginal_kl")}
    estimate = " (an estimate; in truth it is not below 0)" if s["mutual_information"] < 0 else ""
    return (
        f"ELBO {s['reconstruction'] - s['mean_kl']:.2f} = reconstruction {s['reconstruction']:.2f} - mutual information "
        f"{s['mutual_information']:.2f}{estimate} - marginal KL {s['marginal_kl']:.2f} nats."
    )


_NOT_FINITE = (
    "Undecided: the guide's log density is not finite at its draws under all rows, as where latents are points (Delta) that each "
    "row computes in another way from auxiliary draws, so that nothing is said here of what the latents carry.",
    "The other checks judge the guide all the same; for this one let the guide draw every latent from a density.",
)


def judge_surgery(found: xr.Dataset) -> list[Finding]:
    """The decomposition in one line, open where the number of rows sets the numbers."""
    if not np.isfinite(found["mutual_information"]):
        return [Finding(OPEN, "surgery", *_NOT_FINITE)]
    claim, rows = _decomposition(found), found.attrs["num_data"]
    if not _is_saturated(found):
        return [Finding(GOOD, "surgery", claim)]
    s = {name: float(found[name]) for name in found if not found[name].ndim}
    claim += (
        f" Saturated: {rows} rows are too few, since at {s['own_share']:.0%} of the draws (above {SATURATED_SHARE:.0%}) the "
        f"row's own posterior makes up most of the aggregate. The estimate of the mutual information, which cannot exceed "
        f"log {rows} = {s['log_n']:.2f} nats, falls short before it gets there: the mutual information is at least "
        f"{s['mutual_information']:.2f}, and the marginal KL lies between {s['marginal_kl_lower']:.2f} and "
        f"{s['marginal_kl']:.2f}."
    )
    return [Finding(OPEN, "surgery", claim, "Give more rows.")]


def judge(found: xr.Dataset) -> list[Finding]:
    """Whether the latents have collapsed, whether together they follow the prior, and where the ELBO goes."""
    if not np.isfinite(found["mutual_information"]):
        return [Finding(OPEN, "prior", *_NOT_FINITE)]
    if found.attrs["verdict"] == "collapsed":
        return [_collapse(found)]
    low, high = sorted(max(float(found[name]), 0.0) for name in ("marginal_kl_lower", "marginal_kl"))
    between = f"{low:.2f} to {high:.2f} nats"
    words = {
        "prior hole": (
            CAUTION,
            f"Prior hole: the latents are in use, but taken together they miss the prior by {between}, so that some draws "
            "from the prior may decode badly.",
            "Look at them; a learned prior (mixture, VampPrior, flow) can win up to that much.",
        ),
        "in use": (GOOD, "The latents are in use, and taken together they follow the prior.", ""),
        "undecided": (
            OPEN,
            f"Undecided: the latents are in use; with {found.attrs['num_data']:,} rows their distance from the prior is only "
            f"known to be {between}.",
            "Give more rows, or compare the held-out evidence with that of a learned prior.",
        ),
    }
    tone, claim, advice = words[found.attrs["verdict"]]
    few = f" (of {found.attrs['num_data']:,} rows, too few to tell the last two apart)" if _is_saturated(found) else ""
    parts = f"{_decomposition(found).removesuffix('.')}{few}."
    return [_collapse(found), Finding(tone, "prior", f"{claim} {parts}", advice)]


def _collapse(found: xr.Dataset) -> Finding:
    """How many entries carry something; which do not; which would pass for information, and are distance from the prior."""
    names, kl = found["latent"].values, found["kl"].values
    known = int(np.isfinite(kl).sum())
    carry = f"{found.attrs['num_informative']} carry more than {INFORMATIVE} nats"
    if known < len(kl):
        carry = f"{carry} of {known} whose KL is known" if known else "what each carries is not known under this prior"
    active = f"{found.attrs['num_active']} of {len(kl)} latent entries are active (mean's variance > {ACTIVE})"
    claim = f"{active}, {carry}."
    off = names[(found["entry_mutual_information"].values < UNUSED) & (kl > INFORMATIVE)]
    if len(off):
        claim += (
            f" {listed(off)}: off the prior, yet saying nothing about the data; the KL alone would call them active."
        )
    if found.attrs["verdict"] == "collapsed":
        carried = float(found["mutual_information"])
        told = (
            f"{carried:.2f} nats"
            if carried >= 0
            else f"0.00 nats (estimate {carried:.2f} ± {float(found['mcse']):.2f})"
        )
        collapsed = (
            f"The posterior has collapsed: the latents carry {told} about the data "
            f"(their KL to the prior is {float(found['mean_kl']):.2f}, the aggregate's {float(found['marginal_kl']):.2f})."
        )
        advice = "Warm beta up, give free bits, or weaken the likelihood's network."
        return Finding(PROBLEM, "collapse", f"{collapsed} {claim} {_decomposition(found)}", advice)
    unused = names[kl < UNUSED]
    spare = (
        f"Unused (KL < {UNUSED} nats): {listed(unused)}; harmless, and room for fewer latents." if len(unused) else ""
    )
    return Finding(GOOD, "collapse", f"No collapse: {claim}", spare)


def numbers(found: xr.Dataset) -> list[Line]:
    """What the latents carry, and how many of them."""
    information, error = float(found["mutual_information"]), float(found["mcse"])
    carried = Line(f"mutual information{' (at least)' if _is_saturated(found) else ''}", information, error, "nats")
    if information < 0:  # what two standard errors above the estimate leave
        carried = Line("mutual information (at most)", max(information + 2 * error, 0.0), unit="nats")
    informative = Line(f"entries above {INFORMATIVE} nats", found.attrs["num_informative"])
    return [
        carried,
        Line("marginal KL (at least)", float(found["marginal_kl_lower"]), unit="nats"),
        Line("active units", found.attrs["num_active"]),
        *([] if np.isnan(found["kl"]).all() else [informative]),
    ]


def draw_kl(found: xr.Dataset, ax: Any = None) -> Any:
    """The KL of each entry for which it is known, the most used first."""
    from pyrovae.plots import plot_kl_per_dimension

    known = np.isfinite(found["kl"].values)
    if not known.any():
        raise ValueError(
            "the KL of no latent entry is known: the guide or the prior has no density of each in closed form"
        )
    names = found["latent"].values
    short = names if len(set(found["site"].values)) > 1 else np.arange(len(names)).astype(str)
    shown, variance = found.isel(latent=known), found.get("mean_variance")
    active = None if variance is None else variance.values[known]
    return plot_kl_per_dimension(shown["kl"].values, active, names=list(short[known]), ax=ax)


def _run(case: Case) -> xr.Dataset:
    return latent_structure(case.program, case.some, **case.options).dataset


STRUCTURE = Check("structure", _run, judge, numbers=numbers, draw=draw_kl, kind=LatentStructure)
