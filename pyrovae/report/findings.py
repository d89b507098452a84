"""The numbers of a report: evidence with its errors, and what the diagnostics find on a bounded number of rows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyrovae.checks import (
    SBC,
    LatentStructure,
    Reliability,
    Typicality,
    latent_structure,
    reliability,
    sbc,
    typicality,
)
from pyrovae.data import Data
from pyrovae.evaluation import bound
from pyrovae.graphs import VAE
from pyrovae.report.budget import affordable_rows, some_rows
from pyrovae.report.evaluated import Evaluated, read_evaluated
from pyrovae.report.subject import Subject

TEST_DRAWS, EVIDENCE_DRAWS, SIMULATIONS = 10, 1000, 200
BOUND_ROWS, STRUCTURE_ROWS = 1000, 400


@dataclass(frozen=True)
class Mean:
    """A mean over rows, in nats per datum.

    Attributes:
        value: the mean.
        error: its standard error over rows; NaN where it is not known.
        low: the 5 % quantile over rows; NaN where it is not known.
        high: the 95 % quantile.
        rows: how many rows.
        draws: how many draws a row.
        mcse: the Monte-Carlo standard error of the mean; NaN where it is not known.
    """

    value: float
    error: float
    low: float
    high: float
    rows: int
    draws: int
    mcse: float = math.nan

    @classmethod
    def of(cls, values: Any, draws: int, mcse: Any = None) -> Mean:
        """The mean of one number a row.

        Args:
            values: in nats, ``(rows,)``.
            draws: how many draws a row.
            mcse: the Monte-Carlo error of each, ``(rows,)``.
        """
        array = np.asarray(values, dtype=np.float64)
        rows = len(array)
        error = float(array.std(ddof=1) / math.sqrt(rows)) if rows > 1 else math.nan
        monte_carlo = math.nan if mcse is None else float(np.sqrt(np.mean(np.square(mcse)) / rows))
        low, high = np.quantile(array, [0.05, 0.95])
        return cls(float(array.mean()), error, float(low), float(high), rows, draws, monte_carlo)


@dataclass(frozen=True)
class Findings:
    """What a report has to say in numbers; a part that could not be done is None, and ``skipped`` says why.

    Attributes:
        test: ``elbo``, ``kl`` and ``reconstruction`` of the test rows.
        train: the ELBO of some training rows.
        reliability: importance sampling with the guide, on some test rows.
        evaluated: what ``pyrovae evaluate`` found on the first test rows, if it was asked.
        structure: what the latents carry.
        sbc: calibration on simulated data.
        typicality: which rows look like simulated ones.
        skipped: by part, why it could not be done.
    """

    test: Mapping[str, Mean] = field(default_factory=dict)
    train: Mean | None = None
    reliability: Reliability | None = None
    evaluated: Evaluated | None = None
    structure: LatentStructure | None = None
    sbc: SBC | None = None
    typicality: Typicality | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def evidence(self) -> Mapping[str, Mean]:
        """``log p(x)``, ``ELBO`` and ``gap`` of the rows whose evidence was estimated."""
        found = self.reliability
        if found is None:
            return {}
        draws = found.num_samples
        return {
            "log p(x)": Mean.of(found.log_marginal, draws, found.mcse),
            "ELBO": Mean.of(found.elbo, draws),
            "gap": Mean.of(found.log_marginal - found.elbo, draws),
        }

    @property
    def source(self) -> Evaluated | Reliability | None:
        """Where log p(x) is taken from: what was evaluated, if it is better or of more rows than the report's own."""
        kept, own = self.evaluated, self.reliability
        if kept is None or own is None:
            return kept or own
        return kept if kept.method != "importance" or len(kept.elbo) > len(own.elbo) else own

    @property
    def is_low(self) -> bool:
        """Whether log p(x) is only known to be at least that large: k-hat is too large on more than 5 % of the rows."""
        return self.source is not None and share_bad(self.source) > 0.05

    @property
    def log_marginal(self) -> Mean | None:
        r"""Log p(x) of all test rows: their ELBO, plus the mean gap of those rows whose evidence was estimated.

        .. math:: \bar{\mathcal{L}}_N + \bar g_n, \qquad
            \mathrm{se}^2 = \mathrm{se}(\bar{\mathcal{L}}_N)^2 + \mathrm{se}(\bar g_n)^2
            + 2\, \mathrm{Cov}(\mathcal{L}_i, g_i) / N

        The gap differs between rows by far less than log p(x) does, so that few rows will do.
        """
        found = self.source
        if found is None:
            return None
        few = Mean.of(found.log_marginal, found.num_samples, found.mcse)
        if "elbo" not in self.test or self.test["elbo"].rows <= few.rows:
            return few
        elbo, gap = self.test["elbo"], Mean.of(found.log_marginal - found.elbo, found.num_samples)
        shared = 2 * float(np.cov(found.elbo, found.log_marginal - found.elbo)[0, 1]) / elbo.rows
        error = math.sqrt(max(elbo.error**2 + gap.error**2 + shared, gap.error**2))
        return Mean(elbo.value + gap.value, error, math.nan, math.nan, elbo.rows, few.draws, few.mcse)

    @property
    def gap(self) -> tuple[float, float]:
        """The training rows' mean ELBO less the test rows', and its standard error; NaN where there are none."""
        if self.train is None or "elbo" not in self.test:
            return math.nan, math.nan
        test = self.test["elbo"]
        return self.train.value - test.value, math.hypot(self.train.error, test.error)


def share_bad(found: Evaluated | Reliability) -> float:
    """The share of rows whose k-hat is above the limit for so many samples, or unknown.

    Args:
        found: estimates by row.
    """
    return float((~(found.pareto_k <= found.good_k)).mean())


def find(subject: Subject, rows: int | None = None, seed: int = 0) -> Findings:
    """Everything that can be found in seconds.

    Args:
        subject: the run, its VAE and its data.
        rows: of the evidence; by default as many as the budget allows.
        seed: of rows and draws.
    """
    skipped: dict[str, str] = {}
    known = remembered(subject.results)
    if subject.vae is None or subject.data is None:
        return Findings(test=known, skipped=skipped)
    vae, data = subject.vae, subject.data
    tasks: dict[str, Callable[[], Any]] = {
        "test": lambda: known or bound_means(vae, some_rows(data.test, BOUND_ROWS, seed), seed),
        "train": lambda: bound_means(vae, some_rows(data.train, BOUND_ROWS, seed).drawn(seed), seed)["elbo"],
        "reliability": lambda: reliability(
            vae, _evidence_rows(vae, data, rows, seed), num_samples=EVIDENCE_DRAWS, seed=seed
        ),
        "evaluated": lambda: read_evaluated(subject.run, data.test),
        "structure": lambda: latent_structure(vae, some_rows(data.test, STRUCTURE_ROWS, seed), seed=seed),
        "sbc": lambda: sbc(vae, SIMULATIONS, x=data.test[:2].dense().x, seed=seed),
        "typicality": lambda: typicality(
            vae, some_rows(data.test, STRUCTURE_ROWS, seed), num_simulations=2 * SIMULATIONS, seed=seed
        ),
    }
    done = {name: attempt(name, task, skipped) for name, task in tasks.items()}
    return Findings(**{**done, "test": done["test"] or {}}, skipped=skipped)


def _evidence_rows(vae: VAE, data: Data, rows: int | None, seed: int) -> Data:
    return some_rows(data.test, rows or affordable_rows(vae, data.test, EVIDENCE_DRAWS), seed)


def attempt(name: str, task: Callable[[], Any], skipped: dict[str, str]) -> Any:
    """Do a part of the report; where it fails, remember why and go on without it.

    Args:
        name: of the part.
        task: what to do.
        skipped: where the reason goes.

    >>> why = {}
    >>> attempt("part", lambda: 1 / 0, why), why
    (None, {'part': 'division by zero'})
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the page says the same in its verdicts
            return task()
    except Exception as error:  # whatever a part runs into, the rest of the page is still worth having
        skipped[name] = (str(error) or type(error).__name__).split("\nTrace Shapes")[0][:500]
        return None


def bound_means(vae: VAE, rows: Data, seed: int) -> dict[str, Mean]:
    """The ELBO and its two parts on some rows, in nats per datum at beta 1.

    Args:
        vae: the VAE.
        rows: the rows.
        seed: of the draws.
    """
    found = bound(vae, rows, num_samples=TEST_DRAWS, seed=seed, progress=False)
    return {name: Mean.of(getattr(found, name), TEST_DRAWS) for name in ("elbo", "kl", "reconstruction")}


def remembered(results: Mapping[str, Any]) -> dict[str, Mean]:
    """The same from the results that ``pyrovae train`` keeps in a run; nothing where they are not numbers.

    Args:
        results: the results of a run.

    >>> remembered({"elbo": -2.0, "kl": 1.0, "reconstruction": -1.0, "test_rows": 5})["kl"].value
    1.0
    """
    names = ("elbo", "kl", "reconstruction")
    if not all(math.isfinite(_number(results.get(name))) for name in (*names, "test_rows")):
        return {}
    rows, draws = int(results["test_rows"]), _number(results.get("test_draws"))
    draws = int(draws) if math.isfinite(draws) else TEST_DRAWS
    return {name: Mean(_number(results[name]), *_spread(results, name), rows, draws) for name in names}


def _spread(results: Mapping[str, Any], name: str) -> tuple[float, float, float]:
    limits = results.get(f"{name}_range")
    low, high = limits if isinstance(limits, list) and len(limits) == 2 else (None, None)
    return _number(results.get(f"{name}_error")), _number(low), _number(high)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
