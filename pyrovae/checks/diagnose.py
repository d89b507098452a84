"""One call, one report: every check that a program and its data allow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pyrovae.checks.calls import Covariates, evaluated, local_work, seed_or_drawn
from pyrovae.checks.findings import Case, Check, Finding, Line, Result, headline, pressing_first
from pyrovae.data import as_data
from pyrovae.errors import check_integer, check_word
from pyrovae.programs.rows import MAX_BYTES


@dataclass(frozen=True, repr=False)
class Report:
    """The results of several checks, made by :func:`diagnose`.

    ``report.calibration``, or ``report["calibration"]``, is one of them; the attribute is None where it was left out.

    Attributes:
        results: by the name of the check.
        skipped: by the name of the check, why it could not be done.
        checks: by the name, the checks that were done.
    """

    results: Mapping[str, Result]
    skipped: Mapping[str, str]
    checks: Mapping[str, Check]

    def __getattr__(self, name: str) -> Any:
        from pyrovae.checks import CHECKS

        if name not in {check.name for check in CHECKS} | set(self.__dict__.get("results", ())):
            raise AttributeError(f"there is no check {name!r}; the results are {', '.join(self.results)}")
        return self.results.get(name)

    def __getitem__(self, name: str) -> Result:
        return self.results[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def findings(self) -> list[Finding]:
        """The findings of all checks, the most pressing first."""
        return pressing_first(finding for result in self.results.values() for finding in result.findings())

    def table(self) -> list[Line]:
        """The numbers, one line each; errors are standard errors over rows, NaN where there is none."""
        return [line for name, check in self.checks.items() for line in check.numbers(self.results[name].dataset)]

    def summary(self) -> str:
        """All findings in words, check by check, and what could not be done."""
        words = {name: result.summary() for name, result in self.results.items()}
        skipped = {name: f"not done: {why}" for name, why in self.skipped.items()}
        return "\n\n".join("\n  ".join([name, *text.splitlines()]) for name, text in {**words, **skipped}.items())

    def plot(self) -> dict[str, Any]:
        """Draw every check that has a figure; returns the axes by name."""
        return {name: self.results[name].plot() for name, check in self.checks.items() if check.draw is not None}

    def __repr__(self) -> str:
        rows = "\n".join(f"  {line}" for line in self.table())
        return f"Report\n{rows}\n\n{headline(self.findings(), self.skipped)}\n\n{self.summary()}"

    def _repr_html_(self) -> str:
        from html import escape

        items = "".join(f"<li>{f.tone}: {escape(str(f))}</li>" for f in self.findings())
        return f"<p>{escape(headline(self.findings(), self.skipped))}</p><ul>{items}</ul>"


def diagnose(
    program: Any,
    data: Any,
    covariates: Covariates | None = None,
    *,
    train: Any = None,
    train_covariates: Covariates | None = None,
    history: Any = None,
    checks: Iterable[str] | None = None,
    num_samples: int = 1000,
    num_simulations: int = 1000,
    max_rows: int = 1000,
    seed: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> Report:
    r"""Runs the checks that fit a program and says in words what they found and what to do.

    .. math:: \text{reliability of } q(z \mid x_i), \quad \text{latent structure}, \quad \text{calibration}, \quad
        \text{typical rows}, \quad \text{predictive checks}, \quad \mathcal{L}_{\mathrm{train}} - \mathcal{L}_{\mathrm{test}}

    A check that the program does not allow is left out, and the report says why.

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``; local latents only.
        data: data of N rows, best held out.
        covariates: for each name, a tensor of N rows.
        train: training rows, for the check of overfitting; at most ``max_rows`` are used.
        train_covariates: the covariates of the training rows.
        history: what ``fit`` returned, for the check of training.
        checks: the names of the checks to run; by default all that apply (``pyrovae.checks.CHECKS``).
        num_samples: draws per row for the evidence and k-hat.
        num_simulations: rows simulated for calibration and typicality.
        max_rows: rows, chosen at random, for all checks but that of reliability.
        seed: of all draws; None takes one from torch's random state.
        max_bytes: refuse what needs more memory.
        progress: True shows bars, False none; by default there are some on a terminal.

    Returns:
        A :class:`Report`: its ``table()`` in numbers, its ``findings()``, its ``summary()`` in words, and by name the result
        of each check (``report.calibration``).

    Raises:
        ValueError: an unknown check; global latents; rows that the program cannot take.

    >>> import pyrovae as pvae, torch
    >>> vae = pvae.build_vae(5, likelihood="normal", latent_dim=2, hidden=(8,))
    >>> diagnose(vae, torch.zeros(50, 5), num_samples=100, num_simulations=100, seed=0).structure.verdict
    'collapsed'
    """
    seed, num_samples = seed_or_drawn(seed), check_integer("num_samples", num_samples, 2)
    num_simulations = check_integer("num_simulations", num_simulations, 2)
    work = local_work(program, data, covariates, seed=seed, max_bytes=max_bytes, progress=False)
    work.run(evaluated)
    case = Case(
        program,
        work.data,
        train=None if train is None else as_data(train, train_covariates),
        history=with_best_epoch(history),
        num_samples=num_samples,
        num_simulations=num_simulations,
        max_rows=max_rows,
        seed=seed,
        max_bytes=max_bytes,
        progress=progress,
    )
    return run_checks(case, checks)


def with_best_epoch(history: Any, best_epoch: Any = None) -> Mapping[str, Any] | None:
    """The columns of a training, with the epoch whose weights were kept; None where there are none."""
    if not history:
        return None
    columns = dict(history) if isinstance(history, Mapping) else history.to_dict()
    return {"best_epoch": getattr(history, "best_epoch", best_epoch), **columns}


def run_checks(case: Case, checks: Iterable[str] | None = None, errors: type[Exception] = ValueError) -> Report:
    """Run checks on a case, by default all whose needs it meets; one that fails is left out, and the report says why.

    Raises:
        ValueError: an unknown check.
    """
    from pyrovae.checks import CHECKS

    known = {check.name: check for check in CHECKS}
    wanted = [check_word("checks", name, known) for name in (known if checks is None else checks)]
    skipped: dict[str, str] = {}
    for name in wanted:
        check = known[name]
        lacking = [need for need in check.needs if not case.has(need)]
        if lacking and checks is not None:
            skipped[name] = f"it needs {', '.join(lacking)}"
        if lacking:
            continue
        try:
            case.done[name] = check.run(case)
        except errors as error:
            skipped[name] = reason(error)
    done = {name: known[name] for name in wanted if name in case.done}
    return Report({name: check.result(case.done[name]) for name, check in done.items()}, skipped, done)


def reason(error: Exception) -> str:
    """Why something failed, in few words: the error's message without Pyro's table of shapes."""
    return (str(error) or type(error).__name__).split("\nTrace Shapes")[0][:500]
