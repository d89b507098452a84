"""One call, one report: everything that the diagnostics say about a program on some data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from pyrovae.checks.calibration import SBC, sbc
from pyrovae.checks.predictive import PredictiveCheck, predictive_check
from pyrovae.checks.reliability import Reliability, Typicality, reliability, typicality
from pyrovae.checks.simulate import Covariates
from pyrovae.checks.structure import LatentStructure, latent_structure
from pyrovae.programs.draws import Draws


class Line(NamedTuple):
    """One line of a report's table."""

    quantity: str
    value: float
    error: float
    unit: str


@dataclass(frozen=True)
class Gap:
    """Training rows against the rows of the report: means in nats per datum, differences with their standard errors.

    Attributes:
        elbo: the training rows' mean ELBO less the other rows'.
        elbo_error: its standard error.
        log_marginal: likewise of the estimated log p(x).
        log_marginal_error: its standard error.
    """

    elbo: float
    elbo_error: float
    log_marginal: float
    log_marginal_error: float

    def summary(self) -> str:
        """Whether the training rows are explained better, and by which part of the program."""
        model = self.log_marginal > 2 * self.log_marginal_error
        guide = self.elbo - self.log_marginal > 2 * self.elbo_error
        words = (
            f"train - test: ELBO {self.elbo:+.2f} (se {self.elbo_error:.2f}), log p(x) {self.log_marginal:+.2f} "
            f"(se {self.log_marginal_error:.2f}) nats per datum."
        )
        if model:
            words += " The model explains its training rows better: stop earlier, regularize, or give it more data."
        if guide:
            words += " The guide does, too, beyond the model: refine it for new rows."
        return words if model or guide else f"{words} No sign of overfitting beyond two standard errors."


@dataclass(frozen=True, repr=False)
class Report:
    """What :func:`diagnose` found; each part is also a result of its own.

    Attributes:
        reliability: per datum, of importance-sampling estimates with the guide.
        structure: what the latents carry.
        sbc: calibration on simulated data.
        typicality: which rows look like simulated ones.
        predictive: statistics of the data beside replicated ones.
        gap: training rows against these; None without training rows.
        skipped: by part, why it could not be done.
    """

    reliability: Reliability
    structure: LatentStructure | None
    sbc: SBC | None
    typicality: Typicality | None
    predictive: PredictiveCheck | None
    gap: Gap | None
    skipped: Mapping[str, str]

    @property
    def num_data(self) -> int:
        """The number of rows."""
        return len(self.reliability.elbo)

    def table(self) -> list[Line]:
        """The numbers, one line each; errors are standard errors over rows, NaN where there is none."""
        r = self.reliability
        lines = [
            _mean("ELBO", r.elbo),
            _mean("log p(x)", r.log_marginal),
            _mean("KL", r.kl),
            Line("median k-hat", float(np.median(r.pareto_k)), np.nan, ""),
            Line(f"rows with k-hat above {r.good_k:.2f}", 100 * float((~(r.pareto_k <= r.good_k)).mean()), np.nan, "%"),
        ]
        if self.structure is not None:
            lines += _of_structure(self.structure)
        if self.sbc is not None:
            lines.append(Line("SBC p-value (Bonferroni)", self.sbc.p_value, np.nan, ""))
        if self.typicality is not None:
            lines.append(Line("atypical rows", 100 * float(self.typicality.atypical.mean()), np.nan, "%"))
        if self.gap is not None:
            lines.append(Line("train - test ELBO", self.gap.elbo, self.gap.elbo_error, "nats"))
            lines.append(Line("train - test log p(x)", self.gap.log_marginal, self.gap.log_marginal_error, "nats"))
        return lines

    def parts(self) -> dict[str, Any]:
        """The parts that were done, by name."""
        names = ("reliability", "structure", "sbc", "typicality", "predictive", "gap")
        return {name: part for name in names if (part := getattr(self, name)) is not None}

    def summary(self) -> str:
        """All findings in words, part by part."""
        said = {name: part.summary() for name, part in self.parts().items()}
        skipped = {name: f"not done: {why}" for name, why in self.skipped.items()}
        return "\n\n".join(f"{name}\n{_indented(words)}" for name, words in {**said, **skipped}.items())

    def __repr__(self) -> str:
        rows = "\n".join(_formatted(line) for line in self.table())
        return f"Report({self.num_data} rows)\n{rows}\n\n{self.summary()}"


def _mean(name: str, values: np.ndarray) -> Line:
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return Line(name, float(values.mean()), float(error), "nats")


def _of_structure(structure: LatentStructure) -> list[Line]:
    surgery = structure.surgery
    bound = " (at least)" if surgery.saturated else ""
    return [
        Line(f"mutual information{bound}", surgery.mutual_information, surgery.mcse, "nats"),
        Line("marginal KL (at least)", surgery.marginal_kl_lower, np.nan, "nats"),
        Line("active units", structure.num_active, np.nan, ""),
        Line("entries above 0.1 nats", structure.num_informative, np.nan, ""),
    ]


def _formatted(line: Line) -> str:
    error = "" if np.isnan(line.error) else f" +- {line.error:.2g}"
    return f"  {line.quantity:<34} {line.value:>10.4g}{error} {line.unit}".rstrip()


def _indented(words: str) -> str:
    return "\n".join(f"  {line}" for line in words.splitlines())


def diagnose(
    program: Any,
    data: Any,
    covariates: Covariates | None = None,
    *,
    train: Any = None,
    train_covariates: Covariates | None = None,
    num_samples: int = 1000,
    num_simulations: int = 1000,
    max_rows: int = 1000,
    seed: int = 0,
    progress: bool | None = None,
) -> Report:
    r"""Runs the diagnostics that fit a program and says in words what they found and what to do.

    .. math:: \text{reliability of } q(z \mid x_i), \quad \text{latent structure}, \quad \text{calibration}, \quad
        \text{typical rows}, \quad \text{predictive checks}, \quad \mathcal{L}_{\mathrm{train}} - \mathcal{L}_{\mathrm{test}}

    A part that the program does not allow is left out, and the report says why.

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``; local latents only.
        data: data of N rows, best held out.
        train: training rows, for the gap; as many as ``max_rows`` are used.
        covariates: a tensor of N rows for each name.
        train_covariates: likewise for the training rows.
        num_samples: draws a row for the evidence and k-hat.
        num_simulations: rows simulated for calibration and typicality.
        max_rows: rows of ``x``, chosen at random, on which structure and predictive checks are done.
        seed: of all draws.
        progress: True shows bars, False none; by default there are some on a terminal.

    Returns:
        A :class:`Report`: its ``table()`` in numbers, its ``summary()`` in words, and each part as a result of its own
        (``reliability``, ``structure``, ``sbc``, ``typicality``, ``predictive``, ``gap``), None where it was left out.

    Raises:
        ValueError: global latents.

    >>> import pyrovae as pvae, pyro.distributions as dist
    >>> vae = pvae.VAE(pvae.standard_normal(2), pvae.Factorized(dist.Normal, pvae.MLP(2, (8,)), 5, scale=1.0),
    ...     pvae.Factorized(dist.Normal, pvae.MLP(5, (8,)), 2))
    >>> report = diagnose(vae, torch.randn(50, 5), num_samples=100, num_simulations=100)
    >>> sorted(report.parts())
    ['predictive', 'reliability', 'sbc', 'structure', 'typicality']
    """
    reliable = reliability(program, data, num_samples=num_samples, covariates=covariates, seed=seed, progress=progress)
    some = _some(program, data, covariates, max_rows, seed)
    template = next(iter(Draws(program, some, seed=seed, progress=False).batches)).x
    tasks: dict[str, Callable[[], Any]] = {
        "structure": lambda: latent_structure(program, some, seed=seed),
        "sbc": lambda: sbc(program, num_simulations, x=template, covariates=some.covariates, seed=seed),
        "typicality": lambda: typicality(
            program, data, num_simulations=num_simulations, covariates=covariates, seed=seed
        ),
        "predictive": lambda: predictive_check(program, some, seed=seed),
        "gap": lambda: _gap(program, train, train_covariates, reliable, max_rows, seed),
    }
    done: dict[str, Any] = {"reliability": reliable}
    skipped: dict[str, str] = {}
    for name, task in tasks.items():
        done[name] = _attempt(name, task, skipped)
    return Report(**done, skipped=skipped)


def _attempt(name: str, task: Callable[[], Any], skipped: dict[str, str]) -> Any:
    try:
        return task()
    except ValueError as error:
        skipped[name] = str(error)
        return None


def _some(program: Any, x: Any, covariates: Covariates | None, max_rows: int, seed: int) -> Any:
    """Rows of the data chosen at random, with their covariates."""
    data = Draws(program, x, covariates, seed=seed, progress=False).data
    if len(data) <= max_rows:
        return data
    generator = torch.Generator().manual_seed(seed)
    return data[torch.randperm(len(data), generator=generator)[:max_rows].sort().values]


def _gap(
    program: Any, train: Any, covariates: Covariates | None, here: Reliability, max_rows: int, seed: int
) -> Gap | None:
    if train is None:
        return None
    rows = _some(program, train, covariates, max_rows, seed)
    there = reliability(program, rows, num_samples=here.num_samples, seed=seed)
    elbo, log_marginal = (_difference(getattr(there, n), getattr(here, n)) for n in ("elbo", "log_marginal"))
    return Gap(*elbo, *log_marginal)


def _difference(train: np.ndarray, test: np.ndarray) -> tuple[float, float]:
    variance = sum(values.var(ddof=1) / len(values) for values in (train, test))
    return float(train.mean() - test.mean()), float(np.sqrt(variance))
