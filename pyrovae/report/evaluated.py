"""What `pyrovae evaluate` leaves in a run's folder, and the report takes up: estimates by row, and what they are of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyrovae.data import Data
from pyrovae.evaluation.psis import good_k
from pyrovae.files import Run, read_json, save_file_atomic, write_json_atomic
from pyrovae.files.config import STATE, digest

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float64]
METHODS = ("mixture", "refined", "ais", "importance")
"""The better first."""


@dataclass(frozen=True)
class Evaluated:
    """Estimates of log p(x) of a run's first test rows, of shape ``(rows,)``, in nats.

    Attributes:
        method: ``mixture``, ``refined``, ``ais`` or ``importance``.
        num_samples: samples (or chains) a row.
        log_marginal: the estimates.
        mcse: their Monte-Carlo standard errors.
        elbo: the bound under the program's own guide.
        pareto_k: the Pareto shapes; infinite where so few samples have none.
    """

    method: str
    num_samples: int
    log_marginal: Array
    mcse: Array
    elbo: Array
    pareto_k: Array

    @property
    def good_k(self) -> float:
        """The largest k-hat at which so many samples can be trusted."""
        return good_k(self.num_samples)

    @property
    def file(self) -> str:
        """Where it lies in the run's folder."""
        return f"evidence-{self.method}.csv"


def write_evaluated(run: Run, result: xr.Dataset, method: str) -> Path:
    """Write the estimates of `log_marginal` by row, and beside them what they are of.

    Args:
        run: the run.
        result: of its first test rows.
        method: by which.

    Returns:
        The path of the CSV file.
    """
    table = save_file_atomic(run.folder / f"evidence-{method}.csv", result.to_dataframe().to_csv().encode())
    known = {name: result.attrs[name] for name in ("estimator", "num_samples", "num_data", "seed", "rows", "variant")}
    write_json_atomic(table.with_suffix(".json"), {**known, **_sealed(run, table)})
    return table


def _sealed(run: Run, table: Path) -> dict[str, Any]:
    """Checksums of the table and of the weights that it is of."""
    return {"table": digest(table), "weights": run.config["files"].get(STATE)}


def read_evaluated(run: Run, test: Data) -> Evaluated | None:
    """The best estimates in a run's folder that are of its weights and of its first test rows; None without any.

    Args:
        run: the run.
        test: its test rows.

    Raises:
        ValueError: a file that says it belongs to the run holds no such numbers.
    """
    for method in METHODS:
        table = run.folder / f"evidence-{method}.csv"
        if table.is_file() and table.with_suffix(".json").is_file():
            known = read_json(table.with_suffix(".json"))
            if _belongs(known, _sealed(run, table), test):
                return _read(table, method, int(known["num_samples"]))
    return None


def _belongs(known: Any, sealed: Mapping[str, Any], test: Data) -> bool:
    if not isinstance(known, dict) or any(known.get(name) != value for name, value in sealed.items()):
        return False
    rows, samples = known.get("num_data"), known.get("num_samples")
    if type(rows) is not int or type(samples) is not int or not 1 < rows <= len(test) or samples < 1:
        return False
    return bool(known.get("rows") == test[:rows].fingerprint(values_only=True))


def _read(table: Path, method: str, num_samples: int) -> Evaluated:
    import pandas as pd

    names = ["log_marginal", "mcse", "elbo", "pareto_k"]
    columns = pd.read_csv(table, usecols=names, dtype=np.float64)
    if not np.isfinite(columns[["log_marginal", "elbo"]]).all(axis=None):
        raise ValueError(f"{table} holds numbers that are not finite")
    return Evaluated(method, num_samples, *(columns[name].to_numpy() for name in names))
