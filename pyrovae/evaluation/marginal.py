"""Estimates of log p(x) for each datum, with what is needed to judge them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from pyrovae.evaluation.compiled import compiled
from pyrovae.evaluation.estimators import AIS, DEFAULT, Estimator, Importance, Mixture, Refined, as_estimator
from pyrovae.evaluation.fitting import not_converged
from pyrovae.evaluation.psis import settled_k
from pyrovae.limits import FEWEST_EFFECTIVE, FEWEST_SAMPLES, good_k, share_bad_k, too_many_bad_k
from pyrovae.programs.call import Call
from pyrovae.programs.masks import MaskedApartError, counted
from pyrovae.programs.rows import MAX_BYTES, Block, RowWork
from pyrovae.programs.sites import data_axis, data_sites, latent_names

if TYPE_CHECKING:
    import xarray as xr

ELBO_SAMPLES = 100
"""Draws of the program's own guide for the ELBO beside an estimate that does not use it."""
BEHIND = 3.0
"""Standard errors of each by which the guide's own bound must lie above an estimate, for the row to be estimated again."""
BY_CHANCE = 0.05
"""The probability that any row of a correct estimate is flagged."""
NOTED: Mapping[type[Estimator], tuple[str, str]] = {
    Importance: ("importance-sampling estimates with this guide", "search for modes (method 'mixture')"),
    Mixture: (
        "estimates by the mixture of Gaussians and guide",
        "optimize it longer (method=Mixture(num_steps=400)), or train the guide further",
    ),
    Refined: (
        "estimates by optimized Gaussians",
        "take more steps (method=Refined(num_steps=1000)), or search for modes ('mixture')",
    ),
    AIS: ("estimates by annealing", "take more temperatures (method=AIS(num_temperatures=400))"),
}
LONG_NAMES = {
    "log_marginal": "log p(x), the logarithm of the mean weight",
    "mcse": "Monte-Carlo standard error of log_marginal",
    "ess": "effective number of samples",
    "pareto_k": "Pareto shape of the weights",
    "elbo": "evidence lower bound under the program's own guide",
    "gap": "log_marginal - elbo",
    "half": "log_marginal from the first half of the samples",
    "starts": "starts from which modes were searched for",
    "optima": "distinct optima that the search for modes found",
    "guide_share": "share of the draws that are the guide's, which bounds the weights",
    "apart": "how far two searches for modes lie apart",
    "converged": "whether the optimization of the row's guide came to rest",
    "refitted": "estimated again, since the guide's own bound lay above",
    "flagged": "whether the guide's own bound still lies above the estimate",
}


def log_marginal(
    program: Any,
    data: Any,
    covariates: Mapping[str, Any] | None = None,
    *,
    method: str | Estimator = DEFAULT,
    num_samples: int | None = None,
    max_bytes: int = MAX_BYTES,
    vectorize: bool = True,
    seed: int | None = None,
    progress: bool | None = None,
    resume: str | Path | None = None,
) -> xr.Dataset:
    r"""Estimate the log evidence of each datum, with its error and reliability.

    .. math:: \log \hat p(x_i) = \log \tfrac1S \sum_s w_{si}, \qquad
        \mathrm{mcse}^2 = \frac{1}{\mathrm{ESS}} - \frac1S, \quad \mathrm{ESS} = \frac{(\sum_s w_{si})^2}{\sum_s w_{si}^2}

    The error is by the delta method; it is too small where ``pareto_k > 0.7``, and the estimate is then biased downwards.
    With global latents this is the log predictive density of each datum under the guide's distribution of them.

    Args:
        program: as in :func:`pyrovae.evaluation.log_weights`.
        data: the data, N rows; NaN is a missing entry.
        method: ``"auto"`` is ``"mixture"`` (draws of the guide and of Gaussians optimized around all modes that a search
            finds) where the program has one, else ``"importance"``, and ``notes`` say so. Cheaper, but without a word where
            the guide misses a mode: ``"importance"`` (draws of the guide) and ``"refined"`` (of one Gaussian optimized for
            each datum). ``"ais"`` anneals from the guide. An estimator has options: ``Mixture(robust=True)``.
        num_samples: samples (or chains) per datum; by default 1000, of chains 16.
        covariates: for each name, a tensor of N rows.
        max_bytes: refuse what needs more memory.
        vectorize: False runs the program once for each draw (by importance sampling).
        seed: makes the draws reproducible.
        progress: True shows a bar, False none; by default there is one on a terminal.
        resume: a folder in which finished blocks of rows are kept, so that the same call goes on where it was stopped;
            the draws are the same as without a stop. Needs a seed.

    Returns:
        A Dataset over ``data`` with ``log_marginal, mcse, ess, pareto_k, elbo, gap`` and ``half`` (the estimate from half of
        the samples, to see whether it has converged), in nats, float64. Other methods than importance sampling compare each
        estimate with the ELBO under the program's own guide: a row whose ELBO lies above by three standard errors of each is
        estimated again (``refitted``), and so is its ELBO, and ``flagged`` where it stays so, by as many errors as chance gives
        to any of the rows with probability .05; the two are never combined. Refined guides tell which rows have
        ``converged``; a mixture tells its ``starts``, distinct ``optima``, ``guide_share`` (the part of its draws that
        is the guide's), and, if ``robust``, how far its two searches lie ``apart``. ``pareto_k`` does not exceed the limit where
        the tail of the weights is worth less than .02 nats.
        The attributes tell the method, the rows, and how many numbers the program observes in all complete rows (``entries``),
        with the sum of their absolute values (``magnitude``); ``notes`` is among them where rows have not converged, or where the
        estimates are unreliable: more than 5 % of the rows have a Pareto shape above the limit for so many samples. The evidence
        of a relaxed discrete latent is the relaxed model's, and says so.

    Raises:
        ValueError: an unknown method; ``resume`` without a seed, or with a folder of another call; a program that
            :func:`pyrovae.evaluation.log_weights` refuses (masks that differ leave other methods than importance sampling
            without an ELBO, which is then NaN).

    >>> import pyro, pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
    >>> found = log_marginal((model, guide), torch.zeros(3), seed=0)
    >>> found.attrs["method"], found.log_marginal.values.round(2)
    ('mixture', array([-1.27, -1.27, -1.27]))
    >>> sorted(log_marginal((model, guide), torch.zeros(3), method="importance", seed=0))
    ['elbo', 'ess', 'gap', 'half', 'log_marginal', 'mcse', 'pareto_k']
    """
    if resume is not None and seed is None:
        raise ValueError(
            "resume needs a seed, so that the rest of the draws is the same as without a stop: pass seed=0"
        )
    estimator = as_estimator(method)
    size = estimator.num_samples if num_samples is None else num_samples
    plan: dict[str, Any] = {"num_samples": size, "at_once": estimator.per_row(size), "vectorize": vectorize}
    plan |= {"seed": seed, "max_bytes": max_bytes, "progress": progress}
    work = RowWork(program, data, covariates, **plan)
    return marginal_of(work, *estimator.suited(work), num_samples, resume)


def marginal_of(
    work: RowWork,
    estimator: Estimator,
    why: str = "",
    num_samples: int | None = None,
    resume: str | Path | None = None,
) -> xr.Dataset:
    """The log evidence of each row of some work, as :func:`log_marginal` returns it.

    Args:
        work: the program and rows; its draws are planned anew.
        estimator: one that the program has.
        why: it is not the one that was asked for.
        num_samples: samples per row; by default those of the estimator.
        resume: as in :func:`log_marginal`.
    """
    exact = not latent_names(work.dry_run.guide_trace)  # all are summed out: the program's own terms are log p(x)
    estimator = as_estimator("importance") if exact else estimator
    size = estimator.num_samples if num_samples is None else num_samples
    work.plan(size, estimator.per_row(size))

    def task(block: Block) -> dict[str, Tensor]:
        columns = _estimated(estimator, block)
        if not isinstance(estimator, Importance):
            own = _own_weights(block, 1)
            behind = flagged = _behind(columns, own)
            if behind.any():
                again = _estimated(estimator, block)
                columns = {name: torch.where(behind, again[name], value) for name, value in columns.items()}
                own = torch.where(behind, _own_weights(block, 2), own)  # the first draws have chosen these rows
                flagged = behind & _behind(columns, own, surely(len(work)))
            columns |= {"elbo": own.mean(0), "refitted": behind, "flagged": flagged}
        columns["gap"] = columns["log_marginal"] - columns["elbo"]
        return columns | _observed(block.call)

    with compiled(work):
        columns = work.run(task, estimator.name, resume=resume, settings=estimator)
    found = _dataset(columns, estimator, work, why)
    return found.assign_attrs(estimator="exact") if exact else found


def _own_weights(block: Block, stream: int) -> Tensor:
    """Log weights of the program's own guide, whose mean is the ELBO; NaN where it masks other latents than the model."""
    try:
        return torch.cat([terms.log_weights for terms in block.terms(ELBO_SAMPLES, stream=stream)])
    except MaskedApartError:  # other methods draw by their own proposals, of what the model counts
        return torch.full((ELBO_SAMPLES, len(block.call.rows)), torch.nan, dtype=torch.float64)


def _estimated(estimator: Estimator, block: Block) -> dict[str, Tensor]:
    weights, known = estimator.evaluate(block)
    columns = summary(weights, estimator.strata) | known
    zero = columns["log_marginal"].isneginf()  # no weight has a tail
    return columns | {"pareto_k": columns["pareto_k"].masked_fill(zero, 0.0)}


def _behind(columns: Mapping[str, Tensor], own: Tensor, errors: float = BEHIND) -> Tensor:
    """Whether the bound under the program's own guide lies above the estimate by so many standard errors of each."""
    error = own.std(0) / math.sqrt(len(own))
    return own.mean(0) - errors * error > columns["log_marginal"] + errors * columns["mcse"]


def surely(rows: int) -> float:
    """The standard errors that one of so many rows exceeds by chance with probability .05 at most; at least three.

    >>> [round(surely(rows), 1) for rows in (1, 37, 900)]
    [3.0, 3.0, 3.9]
    """
    return max(BEHIND, NormalDist().inv_cdf(1 - BY_CHANCE / rows))


def _observed(call: Call) -> dict[str, Tensor]:
    """How many numbers the program observes in each complete row, and the sum of their absolute values; else 0."""
    with torch.random.fork_rng():
        trace, _ = call.traces(None, enumerate_discrete=False)
    found = {name: torch.zeros(len(call.rows), dtype=torch.float64) for name in ("entries", "magnitude")}
    for site in data_sites(trace):
        value = site["value"].expand(torch.broadcast_shapes(site["value"].shape, site["fn"].shape()))
        counts = torch.ones_like(value, dtype=torch.bool) if (mask := counted(site)) is None else mask.expand_as(value)
        axis = data_axis({**site, "value": value})
        for name, part in (("entries", counts), ("magnitude", torch.where(counts, value.abs(), 0))):
            found[name] += part.movedim(axis, 0).reshape(len(call.rows), -1).double().sum(1).cpu()
    leaves = [leaf for leaf in tree_flatten(call.args)[0] if leaf.is_floating_point()]
    complete = (
        ~torch.stack([leaf.reshape(len(leaf), -1).isnan().any(1) for leaf in leaves]).any(0).cpu() if leaves else True
    )
    return {name: values * complete for name, values in found.items()}


def summary(log_weights: Tensor, strata: int = 1) -> dict[str, Tensor]:
    r"""The estimate, its error, the effective sample size, the Pareto shape and the mean of log weights.

    .. math:: \mathrm{mcse}^2 = \frac{1}{S} \sum_g \frac{S_g}{S} \frac{\mathrm{var}_{s \in g}\, w_s}{\bar w^2}

    Args:
        log_weights: of shape (samples, data), float64.
        strata: the groups g of samples in fixed numbers that take turns; only the variance within a group is an error.
    """
    samples = len(log_weights)
    total = log_weights.logsumexp(0)
    ess = (2 * total - (2 * log_weights).logsumexp(0)).exp()
    relative = (log_weights - total + math.log(samples)).exp()
    groups = [relative[first::strata] for first in range(min(strata, samples))]
    variance = sum((len(w) * w.var(0, correction=0) for w in groups), torch.zeros_like(total)) / samples**2
    return {
        "log_marginal": total - math.log(samples),
        "mcse": variance.sqrt() if samples > 1 else torch.full_like(total, torch.nan),
        "ess": ess,
        "pareto_k": settled_k(log_weights),
        "elbo": log_weights.mean(0),
        "half": log_weights[: max(1, samples // 2)].logsumexp(0) - math.log(max(1, samples // 2)),
    }


def _note(columns: Mapping[str, Tensor], num_samples: int, estimator: Estimator) -> str:
    """Whether the estimates are unreliable, in a sentence; samples too few for a Pareto fit are judged by the effective ones."""
    share = share_bad_k(columns["pareto_k"].numpy(), num_samples)
    if num_samples < FEWEST_SAMPLES:
        share = float((columns["ess"] < FEWEST_EFFECTIVE).double().mean())
        if num_samples <= FEWEST_EFFECTIVE or not too_many_bad_k(share):
            return ""
        return (
            f"{share:.0%} of the rows rest on fewer than {FEWEST_EFFECTIVE} effective samples of {num_samples}: they are biased "
            "downwards by more than mcse tells; take more temperatures or samples, or start from a refined guide"
        )
    if not too_many_bad_k(share):
        return ""
    how, remedy = NOTED.get(type(estimator), ("the estimates", "take more samples"))
    return (
        f"{how} are unreliable for {share:.0%} of the rows (Pareto k above {good_k(num_samples):.2f}), and biased "
        f"downwards; {remedy}"
    )


def _lost(columns: Mapping[str, Tensor]) -> str:
    """How many rows are estimated below their own bound, in a sentence."""
    count = int(columns["flagged"].sum()) if "flagged" in columns else 0
    if not count:
        return ""
    return (
        f"the ELBO of {count} rows (flagged) lies above their estimate, which may have lost a part of the posterior: search "
        "longer (method=Mixture(starts=100, components=10)), or leave them to the guide (method='importance')"
    )


def fallen_back(why: str) -> str:
    """Which method took the place of the mixture, and why, in a sentence; empty without a reason."""
    return why and (
        f"estimated by importance sampling from the guide, which loses modes that the guide misses without an alarm: there is no "
        f"mixture, since {why}"
    )


def _unbounded(columns: Mapping[str, Tensor]) -> str:
    """In how many rows the guide takes no part in the mixture, in a sentence."""
    count = int((columns["guide_share"] == 0).sum()) if "guide_share" in columns else 0
    return (
        f"the guide has no density at the draws of others in {count} rows (it draws auxiliary sites, masks other latents than "
        "the model, or is a flow without an inverse): the mixture is of Gaussians alone, and nothing bounds its weights"
        if count
        else ""
    )


def _full(optima: Tensor, components: int) -> str:
    """How many rows may have more modes than there are components, in a sentence."""
    count = int((optima >= components).sum())
    return (
        f"{count} rows have {components} optima, as many as a mixture of {components} components keeps, and may have lost "
        f"others: method=Mixture(components={4 * components}, starts={64 * components})"
        if count and components > 1
        else ""
    )


def _dataset(columns: Mapping[str, Tensor], estimator: Estimator, work: RowWork, why: str) -> xr.Dataset:
    import xarray as xr

    variables = {n: ("data", columns[n].numpy(), {"long_name": text}) for n, text in LONG_NAMES.items() if n in columns}
    for name in {"log_marginal", "mcse", "elbo", "gap", "half", "apart"} & set(variables):
        variables[name][2]["units"] = "nats"
    attributes = {
        "method": estimator.name,
        "estimator": repr(estimator),
        "num_samples": work.num_samples,
        "num_data": len(work),
        "seed": str(work.seed),
        "rows": work.data.fingerprint(values_only=True),
        "variant": str(work.data.variant),
        "split": work.data.split,
        "measure": work.dry_run.measure,
    }
    if columns["entries"].any():
        attributes |= {name: columns[name].sum().item() for name in ("entries", "magnitude")}
    unknown = int((columns["elbo"].isnan() & columns["log_marginal"].isfinite()).sum())
    no_bound = f"{unknown} rows have no ELBO: the guide masks other latents than the model does" if unknown else ""
    notes = [
        no_bound,
        fallen_back(why),
        _note(columns, work.num_samples, estimator),
        _lost(columns),
        _unbounded(columns),
    ]
    notes += [_full(columns["optima"], estimator.components)] if isinstance(estimator, Mixture) else []
    notes += [not_converged(columns["converged"])] if "converged" in columns else []
    if any(notes):
        attributes["notes"] = "; ".join(filter(None, notes))
    if work.dry_run.relaxed_latents:
        attributes["relaxed"] = (
            f"the evidence is that of the model with {', '.join(work.dry_run.relaxed_latents)} relaxed"
        )
    return xr.Dataset(variables, {"data": range(len(work))}, attributes)
