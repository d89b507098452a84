"""Does my prior matter: refits over priors, their evidence and the conclusions drawn from each side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from pyrovae.checks.findings import CAUTION, GOOD, Finding, Result, of_p
from pyrovae.comparison import Comparison, Pointwise
from pyrovae.data import Data, as_data, split
from pyrovae.errors import check_integer, refusal
from pyrovae.evaluation import Estimator, log_marginal
from pyrovae.evaluation.estimators import DEFAULT
from pyrovae.programs.rows import bar, mixed
from pyrovae.training import fit
from pyrovae.uses.choosing import models_of

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float64]
Conclusion: TypeAlias = "Callable[[Any, Data], Any]"
"""A function of a fitted program and of all rows, to a number or to an array of one shape."""
LEVEL = 0.05
"""The p-value, corrected for the number of priors, below which a conclusion is said to depend on the prior."""


class PriorSensitivity(Result):
    """What :func:`prior_sensitivity` found, made by :func:`prior_sensitivity`.

    Attributes:
        comparison: the held-out evidence of each prior, with its refits.
    """

    def __init__(self, dataset: xr.Dataset, comparison: Comparison) -> None:
        super().__init__(dataset, judge, draw)
        self.comparison = comparison


def prior_sensitivity(
    make: Callable[..., Any],
    data: Any,
    grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]],
    covariates: Mapping[str, Any] | None = None,
    *,
    conclusions: Mapping[str, Conclusion],
    refits: int = 3,
    method: str | Estimator = DEFAULT,
    num_samples: int = 200,
    fit_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> PriorSensitivity:
    r"""Fits a program anew under each prior, and sets what is concluded, and the held-out evidence, side by side.

    .. math:: t_c = \max_m \frac{|\bar c_m - \bar c_1|}{s_c \sqrt{2 / R}}, \qquad s_c^2 = \frac1M \sum_m \mathrm{Var}_r[c_{mr}]

    A conclusion depends on the prior where priors set it further apart than refits under one prior do. Where they are not told
    apart, few refits may be why: the interval of the difference tells how large it may be. Whether a latent's posterior, given
    the weights, follows its prior, ``power_scaling`` tells without a refit.

    Args:
        make: ``make(**options)`` builds a new program; its weights follow torch's random state, which is seeded.
        data: the rows; a fifth is held out for the evidence.
        grid: as in :func:`choose`: for each option its values, or a list of options, the first of which is compared with.
        covariates: for each name, a tensor of as many rows.
        conclusions: by name, ``f(program, rows)`` of a fitted program and of all rows: a number, or an array of one shape.
        refits: trainings under each prior, two or more.
        method: of the evidence, as in :func:`pyrovae.log_marginal`.
        num_samples: samples per row.
        fit_options: of :func:`pyrovae.fit`.
        seed: of the cut, the trainings and the draws.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Returns:
        A result over ``prior`` and ``conclusion``: ``mean`` and ``sd`` (between refits), ``value`` over ``refit`` too; over
        ``conclusion`` alone ``statistic`` (t) and ``p_value``, by Student's t with M (R - 1) degrees of freedom and corrected
        for the number of priors (Bonferroni), the ``difference`` from the first prior that is largest, and the half width of
        its 95 % ``interval``, corrected alike; ``elpd`` over ``prior`` and ``refit`` (nats per held-out row); ``comparison``.

    Raises:
        ValueError: one prior, one refit, no conclusion, or a conclusion whose shape changes or which is not finite.

    >>> import pyrovae as pvae
    >>> make = lambda prior: pvae.build_vae(3, likelihood="normal", prior=prior, latent_dim=1, hidden=(4,))
    >>> spread = {"spread": lambda program, rows: program.encode(rows.x).std()}
    >>> options = {"conclusions": spread, "refits": 2, "num_samples": 20, "fit_options": {"epochs": 2}}
    >>> found = prior_sensitivity(make, torch.randn(50, 3), {"prior": ["standard_normal", "mixture"]}, **options)
    >>> found.value.shape
    (2, 2, 1)
    """
    check_integer("refits", refits, 2)
    models, rows = models_of(grid), as_data(data, covariates)
    if len(models) < 2 or not conclusions:
        got = f"{len(models)} and {len(conclusions)}"
        raise refusal(f"expected two priors or more and a conclusion or more, got {got}", "grid")
    train, held_out = split(rows, 0.2, seed)
    jobs = [(name, number) for name in models for number in range(refits)]
    results: dict[str, list[Pointwise]] = {name: [] for name in models}
    values: dict[str, list[Array]] = {name: [] for name in models}
    labels: list[str] = []
    for name, number in bar(jobs, "refits", progress):
        with torch.random.fork_rng():
            torch.manual_seed(mixed(seed, number))
            program = make(**models[name])
        fit(program, train, seed=mixed(seed, number), progress=False, **(fit_options or {}))
        found = log_marginal(program, held_out, method=method, num_samples=num_samples, seed=seed, progress=False)
        results[name].append(Pointwise.of_dataset(found))
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(mixed(seed, number, 1))
            told = _flat({key: conclusion(program, rows) for key, conclusion in conclusions.items()})
        labels = labels or list(told)
        if list(told) != labels or not np.isfinite(list(told.values())).all():
            raise refusal(f"expected finite numbers of one shape from each conclusion, got {told}", "conclusions")
        values[name].append(np.array(list(told.values())))
    every = np.array([values[name] for name in models])
    elpd = np.array([[one.elpd / len(held_out) for one in found] for found in results.values()])
    return PriorSensitivity(dataset_of(every, list(models), labels, elpd), Comparison.of(results, "stacking"))


def _flat(told: Mapping[str, Any]) -> dict[str, float]:
    """Every number by name and place."""
    arrays = {name: np.asarray(value, dtype=np.float64) for name, value in told.items()}
    return {
        name + (str(list(place)) if place else ""): float(array[place])
        for name, array in arrays.items()
        for place in np.ndindex(array.shape)
    }


def dataset_of(value: Array, priors: Sequence[str], conclusions: Sequence[str], elpd: Array) -> xr.Dataset:
    """Conclusions ``(priors, refits, conclusions)`` with their means, spreads and tests."""
    import xarray as xr
    from scipy.stats import t

    count, refits = value.shape[:2]
    mean, sd = value.mean(1), value.std(1, ddof=1)
    error = np.sqrt((sd**2).mean(0) * 2 / refits)
    apart = np.abs(mean - mean[0]).max(0)
    statistic = np.divide(apart, error, out=np.where(apart > 0, np.inf, 0.0), where=error > 0)
    p = np.minimum(1.0, 2 * (count - 1) * t.sf(statistic, count * (refits - 1)))
    variables = {
        "value": (("prior", "refit", "conclusion"), value),
        "mean": (("prior", "conclusion"), mean),
        "sd": (("prior", "conclusion"), sd),
        "difference": ("conclusion", apart),
        "interval": ("conclusion", error * t.isf(LEVEL / 2 / (count - 1), count * (refits - 1))),
        "statistic": ("conclusion", statistic),
        "p_value": ("conclusion", p),
        "elpd": (("prior", "refit"), elpd),
    }
    return xr.Dataset(variables, {"prior": list(priors), "conclusion": list(conclusions)}, {"refits": refits})


def judge(found: xr.Dataset) -> list[Finding]:
    """The evidence of each prior, and for each conclusion whether it depends on the prior, and by how much at most."""
    priors, findings = found["prior"].values, []
    evidence = found["elpd"].mean("refit").values
    told = ", ".join(f"{value:.2f} under {name}" for name, value in zip(priors, evidence, strict=True))
    findings.append(Finding(GOOD, "evidence", f"Held-out log p(x), nats per datum: {told}."))
    for number, name in enumerate(found["conclusion"].values):
        p = float(found["p_value"][number])
        each = zip(priors, found["mean"].values[:, number], found["sd"].values[:, number], strict=True)
        told = ", ".join(f"{mean:.3g} ± {sd:.2g} under {prior}" for prior, mean, sd in each)
        held = p >= LEVEL
        does = "is not told apart between priors" if held else "depends on the prior"
        size = f"{float(found['difference'][number]):.3g} ± {float(found['interval'][number]):.2g}"
        claim = (
            f"{name} {does} ({of_p(p)}): largest difference from {priors[0]} {size} ({1 - LEVEL:.0%} interval); mean ± sd of "
            f"{found.attrs['refits']} refits: {told}."
        )
        advice = "" if held else "Report it under each prior, or under the prior that the evidence favors."
        findings.append(Finding(GOOD if held else CAUTION, str(name), claim, advice))
    return findings


def draw(found: xr.Dataset, ax: Any = None) -> Any:
    """Each conclusion under each prior, a point for each refit, in standard deviations between refits under one prior."""
    from pyrovae.plots.style import color, finding, legend, marker, one_panel

    names = list(found["conclusion"].values)
    ax = one_panel(ax, 5.0, 1.4 + 0.4 * len(names))
    scale = np.sqrt((found["sd"].values ** 2).mean(0))
    values = (found["value"].values - found["mean"].values[0]) / np.where(scale > 0, scale, 1.0)
    count = len(values)
    for number, (prior, own) in enumerate(zip(found["prior"].values, values, strict=True)):
        at = np.arange(len(names)) + 0.4 * ((number + 0.5) / count - 0.5)
        for refit in own:
            ax.plot(refit, at, marker(number), color=color(number), markersize=5, alpha=0.8)
        ax.plot([], [], marker(number), color=color(number), label=str(prior))
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlabel("difference from the first prior (sd between refits)")
    moved = int((found["p_value"] < LEVEL).sum())
    finding(ax, f"{moved} of {len(names)} conclusions depend on the prior")
    legend(ax, outside=True)
    return ax
