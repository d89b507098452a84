"""The evidence of a run: test ELBO, estimates of log p(x) with their errors, and what `pyrovae evaluate` keeps in its folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pyrovae.checks import Finding
from pyrovae.checks.findings import CAUTION, GOOD
from pyrovae.data import Data
from pyrovae.errors import counted
from pyrovae.evaluation import elbo
from pyrovae.files import Run, read_json, save_file_atomic, write_json_atomic
from pyrovae.files.config import STATE, digest
from pyrovae.limits import share_bad_k, too_many_bad_k
from pyrovae.programs.rows import RowWork

if TYPE_CHECKING:
    import xarray as xr

TEST_DRAWS, EVIDENCE_DRAWS = 10, 1000
METHODS = ("mixture", "refined", "ais", "importance")
"""The better first."""
COLUMNS = ("log_marginal", "mcse", "elbo", "pareto_k")
OPERATIONS, PER_ENTRY = 2.5e11, 2000
"""Operations that an estimate may take, seconds on an ordinary processor; and those that one entry's density is counted as."""
LADDER = (200, 100, 50, 25, 10)


@dataclass(frozen=True)
class Mean:
    """A mean over rows, in nats per datum; what is not known is NaN.

    Attributes:
        value: the mean.
        error: its standard error over rows.
        low: the 5 % quantile over rows.
        high: the 95 % quantile.
        rows: how many rows.
        draws: how many draws per row.
        mcse: the Monte-Carlo standard error of the mean.
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
        """The mean of one number per row, in nats, each with its Monte-Carlo error ``mcse``."""
        array = np.asarray(values, dtype=np.float64)
        rows = len(array)
        error = float(array.std(ddof=1) / math.sqrt(rows)) if rows > 1 else math.nan
        monte_carlo = math.nan if mcse is None else float(np.sqrt(np.mean(np.square(mcse)) / rows))
        low, high = np.quantile(array, [0.05, 0.95])
        return cls(float(array.mean()), error, float(low), float(high), rows, draws, monte_carlo)


def bound_means(program: Any, rows: Data, seed: int) -> dict[str, Mean]:
    """The ELBO and its two parts on some rows, in nats per datum at beta 1."""
    found = elbo(program, rows, num_samples=TEST_DRAWS, seed=seed, progress=False)
    return {name: Mean.of(found[name], TEST_DRAWS) for name in ("elbo", "kl", "reconstruction")}


def remembered(results: Mapping[str, Any]) -> dict[str, Mean]:
    """The same from the results that ``pyrovae train`` keeps in a run; nothing where they are not numbers.

    >>> remembered({"elbo": -2.0, "kl": 1.0, "reconstruction": -1.0, "test_rows": 5})["kl"].value
    1.0
    """
    names = ("elbo", "kl", "reconstruction")
    if not all(math.isfinite(number(results.get(name))) for name in (*names, "test_rows")):
        return {}
    rows, draws = int(results["test_rows"]), number(results.get("test_draws"))
    found = {}
    for name in names:
        limits = results.get(f"{name}_range")
        low, high = map(number, limits if isinstance(limits, list) and len(limits) == 2 else (None, None))
        error = number(results.get(f"{name}_error"))
        found[name] = Mean(number(results[name]), error, low, high, rows, int(draws) if draws > 0 else TEST_DRAWS)
    return found


def number(value: Any) -> float:
    """A number from a file; NaN where it is none.

    >>> number(True), number(2)
    (nan, 2.0)
    """
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


@dataclass(frozen=True)
class Evidence:
    """The evidence of a run.

    Attributes:
        test: ``elbo``, ``kl`` and ``reconstruction`` of the test rows.
        own: importance sampling with the guide on some test rows, a Dataset of ``pyrovae.checks.reliability``.
        kept: the estimates that ``pyrovae evaluate`` wrote into the run's folder, of the first test rows.
    """

    test: Mapping[str, Mean] = field(default_factory=dict)
    own: xr.Dataset | None = None
    kept: xr.Dataset | None = None

    @property
    def source(self) -> xr.Dataset | None:
        """Where log p(x) is taken from: what was evaluated, if it is better or of more rows than the page's own."""
        kept, own = self.kept, self.own
        if kept is None or own is None:
            return own if kept is None else kept
        return kept if kept.attrs["method"] != "importance" or kept.sizes["data"] > own.sizes["data"] else own

    @property
    def is_low(self) -> bool:
        """Whether log p(x) is only known to be at least that large."""
        return self.source is not None and is_unreliable(self.source)

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
        few = Mean.of(found["log_marginal"], found.attrs["num_samples"], found["mcse"])
        if "elbo" not in self.test or self.test["elbo"].rows <= few.rows:
            return few
        elbo, gaps = self.test["elbo"], found["log_marginal"] - found["elbo"]
        gap = Mean.of(gaps, few.draws)
        shared = 2 * float(np.cov(found["elbo"], gaps)[0, 1]) / elbo.rows
        error = math.sqrt(max(elbo.error**2 + gap.error**2 + shared, gap.error**2))
        return Mean(elbo.value + gap.value, error, math.nan, math.nan, elbo.rows, few.draws, few.mcse)

    @property
    def lines(self) -> dict[str, Mean]:
        """The lines of a table: every mean by its name."""
        means = {f"test {'ELBO' if n == 'elbo' else 'KL' if n == 'kl' else n}": mean for n, mean in self.test.items()}
        if (own := self.own) is not None:
            draws = own.attrs["num_samples"]
            means["log p(x), importance sampling"] = Mean.of(own["log_marginal"], draws, own["mcse"])
            means["ELBO of the same rows"] = Mean.of(own["elbo"], draws)
            means["log p(x) less ELBO"] = Mean.of(own["log_marginal"] - own["elbo"], draws)
        if (kept := self.kept) is not None:
            draws = kept.attrs["num_samples"]
            means[f"log p(x), {kept.attrs['file']}"] = Mean.of(kept["log_marginal"], draws, kept["mcse"])
            means["ELBO of its rows"] = Mean.of(kept["elbo"], draws)
        whole = self.log_marginal
        if whole is not None and self.source is not None and whole.rows > self.source.sizes["data"]:
            means = {f"log p(x) of all test rows{', at least' if self.is_low else ''}": whole, **means}
        return means

    def how(self) -> str:
        """On how many rows log p(x) was estimated, how, and what was done for the others."""
        source, whole = self.source, self.log_marginal
        if source is None or whole is None:
            return ""
        by, which, few = "importance sampling with the guide", "a random", source.sizes["data"]
        if source is self.kept:
            by, which = f"pyrovae evaluate --method {source.attrs['method']} ({source.attrs['file']})", "the first"
        rows = counted(whole.rows, "test row")
        if few == whole.rows:
            return f"{rows}, by {by}"
        return f"{rows}, extrapolated from {which} {few:,}: test ELBO plus the gap found on those by {by}"

    def judged(self, findings: list[Finding]) -> list[Finding]:
        """The findings of the checks, that on the evidence held against better estimates, if there are any."""
        kept, own = self.kept, self.own
        if own is None or kept is None or kept.attrs["method"] == "importance" or not is_unreliable(own):
            return findings
        return [self._of_kept(finding, kept) if finding.about == "evidence" else finding for finding in findings]

    def _of_kept(self, finding: Finding, kept: xr.Dataset) -> Finding:
        method, share = kept.attrs["method"], share_bad_k(kept["pareto_k"].values, kept.attrs["num_samples"])
        claim = finding.claim.split(" There importance sampling")[0]
        claim = (
            f"With the guide alone {claim[0].lower()}{claim[1:]} So log p(x) is taken from {kept.attrs['file']} ({method}, the "
            f"first {kept.sizes['data']:,} test rows);"
        )
        if not too_many_bad_k(share):
            return Finding(GOOD, finding.about, f"{claim} there it is on {share:.0%}.")
        again = f"`pyrovae evaluate RUN --method {method} --steps 1000`"
        if np.isinf(kept["pareto_k"]).all():
            few = f"{kept.attrs['num_samples']} chains are too few for a k-hat: read it as a lower estimate."
            return Finding(CAUTION, finding.about, f"{claim} {few}", f"See whether it rises: {again}.")
        low = f"there it still is on {share:.0%}: read log p(x) as a lower estimate."
        advice = f"Take more steps, {again}, or samples, or train with a richer posterior (`full_normal`)."
        return Finding(CAUTION, finding.about, f"{claim} {low}", advice)


def is_unreliable(found: xr.Dataset) -> bool:
    """Whether k-hat is too large on too many of the rows of some estimates."""
    return bool(too_many_bad_k(share_bad_k(found["pareto_k"].values, found.attrs["num_samples"])))


def write_evaluated(run: Run, result: xr.Dataset, method: str) -> Path:
    """Write the estimates of `log_marginal` for a run's first test rows as CSV; a file beside them says how they were made."""
    table = save_file_atomic(run.folder / f"evidence-{method}.csv", result.to_dataframe().to_csv().encode())
    known = {name: result.attrs[name] for name in ("estimator", "num_samples", "num_data", "seed", "rows", "variant")}
    write_json_atomic(table.with_suffix(".json"), {**known, **_sealed(run, table)})
    return table


def _sealed(run: Run, table: Path) -> dict[str, Any]:
    """Checksums of the table and of the weights that it is of."""
    return {"table": digest(table), "weights": run.config["files"].get(STATE)}


def read_evaluated(run: Run, test: Data) -> xr.Dataset | None:
    """The best estimates in a run's folder that are of its weights and of its first test rows; None without any.

    Raises:
        ValueError: a file that says it belongs to the run holds no such numbers.
    """
    import pandas as pd
    import xarray as xr

    for method in METHODS:
        table = run.folder / f"evidence-{method}.csv"
        if not (table.is_file() and table.with_suffix(".json").is_file()):
            continue
        known = read_json(table.with_suffix(".json"))
        if not _belongs(known, _sealed(run, table), test):
            continue
        columns = pd.read_csv(table, usecols=list(COLUMNS), dtype=np.float64)
        if not np.isfinite(columns[["log_marginal", "elbo"]]).all(axis=None):
            raise ValueError(f"{table} holds numbers that are not finite")
        attributes = {"method": method, "num_samples": int(known["num_samples"]), "file": table.name}
        return xr.Dataset({name: ("data", columns[name].to_numpy()) for name in COLUMNS}, attrs=attributes)
    return None


def _belongs(known: Any, sealed: Mapping[str, Any], test: Data) -> bool:
    if not isinstance(known, dict) or any(known.get(name) != value for name, value in sealed.items()):
        return False
    rows, samples = known.get("num_data"), known.get("num_samples")
    if type(rows) is not int or type(samples) is not int or not 1 < rows <= len(test) or samples < 1:
        return False
    return bool(known.get("rows") == test[:rows].fingerprint(values_only=True))


def affordable_rows(program: Any, data: Data, num_samples: int) -> int:
    """The most rows of a few round numbers whose draws can be evaluated within the budget: counted, not timed.

    >>> import pyrovae as pvae
    >>> digits = pvae.data.load("digits")
    >>> vae = pvae.build_vae((1, 8, 8), likelihood="binomial", levels=17, latent_dim=2, hidden=(16,))
    >>> affordable_rows(vae, digits.test, 1000), affordable_rows(vae, digits.test, 30_000)
    (200, 50)
    """
    from torch.utils.flop_counter import FlopCounterMode

    work = RowWork(program, data[:2], seed=0, progress=False)
    counts = []
    for draws in (1, 2):
        # with gradients, since the counter fails on views of parameters that are made without
        with FlopCounterMode(display=False) as counter, work.evaluating(0), torch.enable_grad():
            work.call(work.first(1)).traces(draws)
        counts.append(counter.get_total_flops())
    leaves = [leaf for leaf in tree_leaves(work.first(1).x) if isinstance(leaf, Tensor)]
    per_draw = counts[1] - counts[0] + PER_ENTRY * sum(leaf.numel() for leaf in leaves)
    return next((rows for rows in LADDER if rows * num_samples * per_draw <= OPERATIONS), LADDER[-1])


def measure_of(program: Any, data: Data) -> str:
    """``"mass"`` or ``"density"``, as the program's data sites have it."""
    with torch.random.fork_rng():
        return RowWork(program, data[:2], seed=0, progress=False).dry_run.measure
