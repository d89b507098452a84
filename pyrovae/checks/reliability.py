"""Per datum: how far estimates from the guide can be trusted, and what to do where they cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.checks.calls import Covariates, local_work
from pyrovae.checks.entries import array
from pyrovae.checks.findings import CAUTION, GOOD, Case, Check, Finding, Line, Result, mean_line, share, some_rows
from pyrovae.evaluation.marginal import summary
from pyrovae.limits import MOST_K, good_k, share_bad_k, too_many_bad_k
from pyrovae.programs.rows import MAX_BYTES, Block

if TYPE_CHECKING:
    import xarray as xr

FINE, MORE, REFINE, RICHER = "fine", "more samples", "refine", "richer guide"
TOLERANCE = 0.1
"""Nats of Monte-Carlo error of log p(x) above which more samples are asked for."""


class Reliability(Result):
    """What :func:`reliability` found, made by :func:`reliability`."""

    @property
    def good_k(self) -> float:
        """The largest k-hat at which so many samples can be trusted."""
        return good_k(self.num_samples)

    def count(self, advice: str) -> int:
        """The number of rows with that advice."""
        return int((self.advice == advice).sum())


def reliability(
    program: Any,
    data: Any,
    covariates: Covariates | None = None,
    *,
    num_samples: int = 1000,
    seed: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> Reliability:
    r"""Whether importance-sampling estimates with this guide can be trusted, row by row, and what to do where not.

    .. math:: \hat k_i = \text{Pareto shape of } w_{si} = \frac{p(x_i, z_{si})}{q(z_{si} \mid x_i)}, \qquad
        \hat k_i \le \min(1 - 1 / \log_{10} S,\ 0.7)

    Most amortized guides exceed the limit on many rows; that speaks of the guide, not of the model.

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, a ``pyro.infer.SVI``, or a refined guide.
        data: data of N rows.
        covariates: for each name, a tensor of N rows.
        num_samples: draws per row.
        seed: of the draws; None takes one from torch's random state.
        max_bytes: refuse what needs more memory.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Returns:
        A result over ``data``, in nats: ``elbo`` (the mean log weight), ``log_marginal`` (the log mean weight, low where
        k-hat is high), ``mcse`` (its standard error by the delta method), ``kl``, and ``pareto_k``, ``ess`` and ``advice``:
        ``"fine"``, ``"more samples"``, ``"refine"``, or ``"richer guide"`` where the guide has been refined.

    Raises:
        ValueError: global latents.

    Reference: Yao et al. 2018, arXiv:1802.02538; Vehtari et al. 2024, arXiv:1507.02646.

    >>> import pyro, pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2, 0.8))
    >>> reliability((model, guide), torch.zeros(3), seed=0).advice
    array(['fine', 'fine', 'fine'], dtype='<U12')
    """
    plan: dict[str, Any] = {"num_samples": num_samples, "seed": seed, "max_bytes": max_bytes, "progress": progress}
    work = local_work(program, data, covariates, **plan)

    def task(block: Block) -> dict[str, Tensor]:
        terms = list(block.terms())
        columns = summary(torch.cat([part.log_weights for part in terms]))
        names = ("elbo", "log_marginal", "mcse", "pareto_k", "ess")
        return {name: columns[name] for name in names} | {"kl": torch.cat([part.kl for part in terms]).mean(0)}

    columns = {name: array(values) for name, values in work.run(task, "reliability").items()}
    refined = callable(getattr(work.program.guide, "select_rows", None))
    return Reliability(dataset_of(columns, num_samples, refined), judge, draw)


def dataset_of(columns: dict[str, Any], num_samples: int, refined: bool = False) -> xr.Dataset:
    """The columns over rows as a Dataset, with the advice for each row.

    A k-hat above the limit for so many samples is too large; up to 0.7 more samples raise that limit, beyond they do not.
    """
    import xarray as xr

    k, mcse = (np.asarray(columns[name]) for name in ("pareto_k", "mcse"))
    bad = ~(k <= good_k(num_samples))
    few = ~bad & (mcse > TOLERANCE) | bad & (k <= MOST_K)
    advice = np.select([few, bad], [MORE, RICHER if refined else REFINE], FINE)
    variables = {name: ("data", values) for name, values in {**columns, "advice": advice}.items()}
    return xr.Dataset(variables, attrs={"num_samples": num_samples, "refined": int(refined)})


def judge(found: xr.Dataset) -> list[Finding]:
    """Whether the estimates over all rows can be trusted, and what to do about the rows where they cannot."""
    samples, rows = found.attrs["num_samples"], found.sizes["data"]
    k, advice = found["pareto_k"].values, found["advice"].values
    bad = share_bad_k(k, samples)
    counts = {word: int((advice == word).sum()) for word in (REFINE, RICHER, MORE, FINE)}
    claim = (
        f"k-hat is above {good_k(samples):.2f}, the limit for {samples:,} samples, on {share(round(bad * rows), rows)}; its "
        f"median is {np.median(k):.2f}. "
    )
    claim += (
        "There importance sampling with this guide mostly errs on the low side: read log p(x) as a lower estimate."
        if too_many_bad_k(bad)
        else "The estimate of log p(x) over all rows can be trusted."
    )
    if counts[FINE]:
        claim += f" {share(counts[FINE], rows)}: reliable; draws reweighted by importance can stand for the posterior."
    remedies = _remedies(samples)
    steps = [f"{share(counts[word], rows)}: {remedy}" for word, remedy in remedies.items() if counts[word]]
    return [Finding(CAUTION if too_many_bad_k(bad) else GOOD, "evidence", claim, " ".join(steps))]


def _remedies(samples: int) -> dict[str, str]:
    limit = good_k(samples)
    between = (
        f", or k-hat is above {limit:.2f}, the limit for {samples:,} samples, but not above {MOST_K}"
        if limit < MOST_K
        else ""
    )
    always = f"k-hat above {MOST_K}, the limit for any number of samples"
    return {
        REFINE: f"unreliable ({always}); refine the guide (`pyrovae.refine`, or `log_marginal(method='refined')`).",
        RICHER: (
            f"still unreliable after refinement ({always}); use a richer guide (full covariance, flow, mixture), or chains "
            "(`posterior_draws(method='hmc')`)."
        ),
        MORE: f"more samples will do (the Monte-Carlo error of log p(x) is above {TOLERANCE} nats{between}).",
    }


def numbers(found: xr.Dataset) -> list[Line]:
    """The means over rows, and what k-hat amounts to."""
    samples, k = found.attrs["num_samples"], found["pareto_k"].values
    return [
        mean_line("ELBO", found["elbo"]),
        mean_line("log p(x)", found["log_marginal"]),
        mean_line("KL", found["kl"]),
        Line("median k-hat", float(np.median(k))),
        Line(f"rows with k-hat above {good_k(samples):.2f}", 100 * share_bad_k(k, samples), unit="%"),
    ]


def draw(found: xr.Dataset, ax: Any = None) -> Any:
    """The k-hats in their order."""
    from pyrovae.plots import plot_khat

    return plot_khat(found["pareto_k"].values, found.attrs["num_samples"], ax=ax)


def _run(case: Case) -> xr.Dataset:
    options: dict[str, Any] = {"num_samples": case.num_samples, **case.options}
    rows = some_rows(case.data, case.evidence_rows, case.seed)
    return reliability(case.program, rows, **options).dataset


RELIABILITY = Check("reliability", _run, judge, numbers=numbers, draw=draw, kind=Reliability)
