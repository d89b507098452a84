"""The nouns of this room: a check, what it runs on, the numbers that it leaves, and the sentences read off them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pyrovae.checks.entries import by_site
from pyrovae.data import Data
from pyrovae.programs.rows import MAX_BYTES

if TYPE_CHECKING:
    import xarray as xr

PROBLEM, CAUTION, OPEN, GOOD = "problem", "caution", "open", "good"
TONES = (PROBLEM, CAUTION, OPEN, GOOD)
"""The most pressing first; ``open`` is what the data at hand cannot tell."""


@dataclass(frozen=True)
class Finding:
    """One sentence on a program, with what to do next.

    Attributes:
        tone: ``"problem"``, ``"caution"``, ``"open"`` or ``"good"``.
        about: the subject, in a word or two.
        claim: what was found.
        advice: what to do; empty where there is nothing to do.

    >>> print(Finding("caution", "k-hat", "It is too large.", "Refine the guide."))
    It is too large. Refine the guide.
    """

    tone: str
    about: str
    claim: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.claim} {self.advice}".rstrip()


def pressing_first(findings: Iterable[Finding]) -> list[Finding]:
    """The findings in the order of their tones.

    >>> pressing_first([Finding("good", "a", "."), Finding("problem", "b", ".")])[0].about
    'b'
    """
    return sorted(findings, key=lambda finding: TONES.index(finding.tone))


def tones_by_subject(findings: Iterable[Finding]) -> dict[str, str]:
    """For each subject its most pressing tone, the most pressing subjects first."""
    worst: dict[str, str] = {}
    for finding in pressing_first(findings):
        worst.setdefault(finding.about, finding.tone)
    return worst


def headline(findings: Sequence[Finding], not_done: Iterable[str] = ()) -> str:
    """All findings in one sentence, and the checks that could not be done in another.

    >>> headline([Finding("good", "latents", "in use"), Finding("caution", "k-hat", "too large")])
    '1 of 2 checks asks for attention: k-hat.'
    """
    skipped = list(not_done)
    lacking = f" {len(skipped)} not done: {', '.join(skipped)}." if skipped else ""
    if not findings:
        return f"Nothing could be checked.{lacking}"
    worst = tones_by_subject(findings)
    pressing = [about for about, tone in worst.items() if tone in (PROBLEM, CAUTION)]
    undecided = [about for about, tone in worst.items() if tone == OPEN]
    rest = f" Open: {', '.join(undecided)}.{lacking}" if undecided else lacking
    if not pressing:
        fine = "None" if undecided else f"All {len(worst)} checks {'that were done ' if skipped else ''}are fine; none"
        return f"{fine} asks for attention.{rest}"
    verb = "asks" if len(pressing) == 1 else "ask"
    return f"{len(pressing)} of {len(worst)} checks {verb} for attention: {', '.join(pressing)}.{rest}"


class Line(NamedTuple):
    """One number for a table."""

    quantity: str
    value: float
    error: float = np.nan
    """The standard error; NaN where there is none."""
    unit: str = ""

    def __str__(self) -> str:
        error = "" if np.isnan(self.error) else f" +- {self.error:.2g}"
        return f"{self.quantity:<34} {self.value:>10.4g}{error} {self.unit}".rstrip()


def mean_line(quantity: str, values: Any) -> Line:
    """A mean over rows in nats, with its standard error.

    >>> print(mean_line("ELBO", np.array([1.0, 2.0, 3.0])))
    ELBO                                        2 +- 0.58 nats
    """
    values = np.asarray(values)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return Line(quantity, float(values.mean()), float(error), "nats")


def some_rows(data: Data, most: int | None, seed: int) -> Data:
    """At most so many rows, chosen at random, in their order; all of them with None.

    >>> from pyrovae.data import as_data
    >>> len(some_rows(as_data(torch.zeros(50, 2)), 20, seed=0))
    20
    """
    if most is None or len(data) <= most:
        return data
    generator = torch.Generator().manual_seed(seed)
    return data[torch.randperm(len(data), generator=generator)[:most].sort().values]


@dataclass(frozen=True)
class Case:
    """A program on some rows, with whatever else a check may need.

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``.
        data: the rows, with their covariates.
        train: training rows; None where there are none.
        history: the columns of the training; None where they are not known.
        num_samples: draws per row for the evidence and k-hat.
        num_simulations: rows simulated for calibration and typicality.
        num_replicates: replicated data sets.
        max_rows: rows for checks whose work or memory grows fast, chosen at random.
        evidence_rows: rows for the evidence, chosen at random; None takes all.
        seed: of all draws.
        max_bytes: refuse what needs more memory.
        progress: True shows bars, False none; by default there are some on a terminal.
        done: by name, the numbers of the checks that have been run, for those that build on them.
    """

    program: Any
    data: Data
    train: Data | None = None
    history: Mapping[str, Any] | None = None
    num_samples: int = 1000
    num_simulations: int = 1000
    num_replicates: int = 500
    max_rows: int = 1000
    evidence_rows: int | None = None
    seed: int = 0
    max_bytes: int = MAX_BYTES
    progress: bool | None = None
    done: dict[str, xr.Dataset] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """The keywords that every check takes."""
        return {"seed": self.seed, "max_bytes": self.max_bytes, "progress": self.progress}

    @cached_property
    def some(self) -> Data:
        """At most ``max_rows`` of the rows."""
        return some_rows(self.data, self.max_rows, self.seed)

    def has(self, need: str) -> bool:
        """Whether something is at hand: ``"train"``, ``"history"``, ``"covariates"`` or ``"missing"`` (entries of the rows)."""
        if need == "covariates":
            return bool(self.data.covariates)
        if need != "missing":
            return getattr(self, need) is not None
        leaves = [leaf for leaf in tree_leaves(self.some.dense().x) if isinstance(leaf, Tensor)]
        return any(bool(leaf.isnan().any()) for leaf in leaves if leaf.is_floating_point())


def _plain(variable: xr.DataArray) -> Any:
    return variable.values if variable.ndim else variable.item()


Judge: TypeAlias = "Callable[[xr.Dataset], list[Finding]]"
Draw: TypeAlias = "Callable[[xr.Dataset, Any], Any]"


class Result:
    """The numbers of one check, a Dataset, and the findings that are read off them.

    Every variable and attribute of the Dataset is an attribute here, too: an array; a number where it has no dimension;
    and where it lies along ``latent`` or ``statistic``, a dictionary from each latent site to an array of the site's shape,
    or from each statistic.

    Args:
        dataset: the numbers, with named dimensions: ``data``, ``draw``, ``latent``, ``simulation``.
        judge: from the numbers to findings.
        draw: draws the numbers on axes, ``(dataset, ax)``; None where there is no figure.
    """

    def __init__(self, dataset: xr.Dataset, judge: Judge, draw: Draw | None = None) -> None:
        self.dataset, self._judge, self._draw = dataset, judge, draw

    def __getattr__(self, name: str) -> Any:
        if name == "dataset" or name.startswith("_"):
            raise AttributeError(name)
        if name in self.dataset.attrs:
            return self.dataset.attrs[name]
        if name not in self.dataset:
            known = ", ".join(map(str, [*self.dataset, *self.dataset.attrs]))
            raise AttributeError(f"{type(self).__name__} has no {name!r}; its Dataset holds {known}")
        variable = self.dataset[name]
        if "latent" in variable.dims:
            return by_site(variable)
        if "statistic" in variable.dims:
            return {str(key): _plain(variable.sel(statistic=key)) for key in variable["statistic"].values}
        return _plain(variable)

    def findings(self) -> list[Finding]:
        """What the numbers say."""
        return self._judge(self.dataset)

    def summary(self) -> str:
        """The findings in words, a line each, with what to do about them."""
        return "\n".join(map(str, self.findings()))

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know before believing the numbers."""
        return tuple(filter(None, str(self.dataset.attrs.get("notes", "")).split("\n")))

    def plot(self, ax: Any = None) -> Any:
        """Draw the numbers, on given axes or in a new figure; returns the axes.

        Raises:
            NotImplementedError: there is no figure of these numbers.
        """
        if self._draw is None:
            raise NotImplementedError("there is no figure of these numbers: draw from .dataset")
        return self._draw(self.dataset, ax)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}: {size}" for name, size in self.dataset.sizes.items())
        return f"{type(self).__name__}({sizes})\n{self.summary()}"

    def _repr_html_(self) -> str:
        from html import escape

        items = "".join(f"<li>{escape(str(finding))}</li>" for finding in self.findings())
        return f"<ul>{items}</ul>{self.dataset._repr_html_()}"


def no_numbers(found: xr.Dataset) -> list[Line]:
    """No lines for a table."""
    return []


@dataclass(frozen=True)
class Check:
    """A question to a program: what it needs, the numbers that it computes, and how they are judged.

    Args:
        name: one word, by which :func:`pyrovae.checks.diagnose` and its report know the check.
        run: from a case to the numbers.
        judge: from the numbers to findings.
        needs: what a case must have: ``"train"``, ``"history"``, ``"missing"``; without it the check does not apply.
        numbers: the numbers for a table, if any.
        draw: draws the numbers on axes, ``(dataset, ax)``.
        kind: the class of the result, where it has methods of its own.
    """

    name: str
    run: Callable[[Case], xr.Dataset]
    judge: Judge
    needs: tuple[str, ...] = ()
    numbers: Callable[[xr.Dataset], list[Line]] = no_numbers
    draw: Draw | None = None
    kind: type[Result] = Result

    def result(self, dataset: xr.Dataset) -> Result:
        """The numbers together with this check."""
        return self.kind(dataset, self.judge, self.draw)


def listed(names: Iterable[Any], most: int = 4) -> str:
    """A list in words, cut after ``most`` names.

    >>> listed(["z[0]", "z[1]", "z[2]"]), listed([f"z[{i}]" for i in range(9)], most=2)
    ('z[0], z[1] and z[2]', 'z[0], z[1] and 7 more')
    """
    names = list(map(str, names))
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def share(part: int, whole: int) -> str:
    """A count of rows and its percentage.

    >>> share(3, 200)
    '3 of 200 rows (1.5 %)'
    """
    return f"{part} of {whole} rows ({100 * part / max(whole, 1):.3g} %)"


def of_p(value: float) -> str:
    """A p-value in words.

    >>> of_p(0.0004), of_p(0.25)
    ('p < 0.001', 'p = 0.25')
    """
    return "p < 0.001" if value < 1e-3 else f"p = {value:.2g}"
