"""Do imputed entries deserve their spread? Observed entries are hidden, imputed, and ranked among their imputations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrovae.checks.calls import Covariates, evaluated, local_work, one_tensor, seed_or_drawn
from pyrovae.checks.entries import array, entry_names
from pyrovae.checks.findings import CAUTION, GOOD, Case, Check, Finding, Result, of_p, share
from pyrovae.checks.uniformity import central_coverage, defect, ranks_among, uniformity_p_value
from pyrovae.data.rows import map_tree
from pyrovae.errors import refusal
from pyrovae.evaluation.impute import impute
from pyrovae.limits import share_bad_k
from pyrovae.programs.rows import MAX_BYTES, mixed

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Array = NDArray[np.float64]
LEVEL = 0.01
"""The p-value below which imputations are called not calibrated."""


class ImputationCalibration(Result):
    """What :func:`imputation_calibration` found, made by :func:`imputation_calibration`."""

    @property
    def rmse(self) -> float:
        """The root mean squared error of the imputations' mean."""
        return float(np.sqrt((self.error**2).mean()))

    @property
    def baseline_rmse(self) -> float:
        """The same for the feature's mean."""
        return float(np.sqrt((self.baseline**2).mean()))

    def to_frame(self, level: float = 0.9) -> pd.DataFrame:
        """One line for each column, in its units.

        Args:
            level: the content of the central intervals whose ``coverage`` is counted.

        Returns:
            A frame by column: ``hidden`` entries, ``rmse`` and that of the column's mean, ``wrong`` (of levels the share whose
            mode misses the truth), ``coverage``, and the ``p_value`` of uniform ranks.
        """
        import pandas as pd

        frame = pd.DataFrame(
            {name: self.dataset[name].values for name in ("column", "ranks", "error", "baseline", "wrong")}
        )
        lines = {}
        for name, part in frame.groupby("column", sort=False):
            ranks, is_number = part["ranks"].to_numpy(), part["wrong"].isna().all()
            lines[name] = {
                "hidden": len(part),
                "rmse": np.sqrt((part["error"] ** 2).mean()) if is_number else np.nan,
                "rmse of the mean": np.sqrt((part["baseline"] ** 2).mean()) if is_number else np.nan,
                "wrong": part["wrong"].mean(),
                "coverage": central_coverage(ranks, self.num_samples, [level])[0] if len(part) > 1 else np.nan,
                "p_value": float(uniformity_p_value(ranks, self.num_samples)) if len(part) > 1 else np.nan,
            }
        return pd.DataFrame.from_dict(lines, orient="index").rename_axis("column")

    def coverage(self, levels: Array) -> Array:
        """The share of hidden truths inside the central interval of their imputations, at each level."""
        return central_coverage(self.ranks, self.num_samples, levels)


def imputation_calibration(
    program: Any,
    data: Any,
    covariates: Covariates | None = None,
    *,
    hidden: float = 0.1,
    num_samples: int = 99,
    num_proposals: int = 1000,
    seed: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> ImputationCalibration:
    r"""Hides observed entries at random, imputes them, and ranks each truth among its imputations.

    .. math:: r_{ij} = \#\{s : x_{ij}^{(s)} < x_{ij}\}, \qquad x^{(s)}_{ij} \sim p(x_{ij} \mid x_{i, \mathrm{observed}})

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``, that takes missing entries.
        data: data of N rows; entries that are missing already stay so.
        covariates: for each name, a tensor of N rows.
        hidden: the share of the observed entries to hide, between 0 and 1.
        num_samples: imputations of each.
        num_proposals: draws of the guide behind the imputations.
        seed: of the hiding and the draws; None takes one from torch's random state.
        max_bytes: refuse what needs more memory.
        progress: True shows bars, False none; by default there are some on a terminal.

    Returns:
        A result over ``hidden``, the hidden entries: ``ranks`` from 0 to ``num_samples``, ``row``, ``error`` (the
        imputations' mean less the truth), ``baseline`` (the feature's mean over the entries still observed less the truth),
        ``column``, ``wrong`` (of levels, whether the imputations' mode misses the truth) and ``tested``; over ``data``,
        ``pareto_k`` of the row's weights; and ``p_value`` of uniform ranks, on one hidden entry of each row chosen at random
        (``tested``), since the entries of a row are not independent.

    Raises:
        ValueError: a share outside (0, 1), or one so small that nothing is hidden.

    Reference: Mattei & Frellsen 2019, arXiv:1812.02633.

    >>> import pyrovae as pvae
    >>> vae = pvae.build_vae(5, likelihood="normal", latent_dim=2, hidden=(8,))
    >>> imputation_calibration(vae, torch.zeros(20, 5), hidden=0.5, num_proposals=100, seed=0).ranks.max() <= 99
    np.True_
    """
    if not 0 < hidden < 1:
        raise refusal(f"hidden is the share of entries to hide, between 0 and 1, got {hidden}", "hidden")
    seed = seed_or_drawn(seed)
    options: dict[str, Any] = {"max_bytes": max_bytes, "progress": progress}
    work = local_work(program, data, covariates, seed=seed, **options)
    x = work.run(lambda block: {"x": _side_by_side(block.batch.x), **evaluated(block)}, "data")["x"]
    chosen = _chosen(x, hidden, mixed(seed, 0, 1))
    masked = torch.where(chosen, torch.nan, x)
    shapes = map_tree(lambda rows, _: rows.shape[1:], work.first(1).x)
    options |= {"num_samples": num_samples, "num_proposals": num_proposals, "seed": mixed(seed, 0, 2)}
    try:
        imputed = impute(program, _apart(masked, shapes), work.data.covariates, **options)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{_NO_MISSING}: {str(error)[:200]}") from error
    if imputed.pareto_k.isnan().any():
        raise ValueError(f"{_NO_MISSING}: its log densities are not numbers")
    found = {name: imputed.draws[name] for name in shapes} if isinstance(shapes, Mapping) else imputed.draws
    draws = _side_by_side(found, num_axes=2)[:, chosen]
    truth, drawn = array(x[chosen]), array(draws)
    given = work.data.names().values()
    sites = shapes.items() if isinstance(shapes, Mapping) else [("", shapes)]
    names = [name for own, (site, shape) in zip(given, sites, strict=True) for name in own or entry_names(site, shape)]
    column = np.array([str(name) for name in names])[array(torch.arange(x.shape[1]).expand(x.shape)[chosen])]
    leveled, mode = np.isin(column, list(work.data.levels)), array(draws.mode(0).values)
    columns = {
        "column": column,
        "wrong": np.where(leveled, mode != truth, np.nan),
        "ranks": ranks_among(truth, drawn, np.random.default_rng(seed)),
        "row": array(chosen.nonzero()[:, 0]),
        "error": drawn.mean(0) - truth,
        "baseline": array(masked.nanmean(0).expand_as(x)[chosen]) - truth,
    }
    found = dataset_of(columns, array(imputed.pareto_k), num_samples, num_proposals, mixed(seed, 0, 3))
    return ImputationCalibration(found, judge, draw)


_NO_MISSING = (
    "the program does not take missing entries (NaN): fill and mask them in model and guide (pyrovae.missing.observed and "
    "fill_zeros), as a VAE does"
)


def _side_by_side(x: Any, num_axes: int = 1) -> Tensor:
    """The entries of rows of one data site, or of several by name, as a matrix of rows behind other axes."""
    parts = list(x.values()) if isinstance(x, Mapping) else [one_tensor(x)]
    return torch.cat([part.reshape(*part.shape[:num_axes], -1) for part in parts], -1)


def _apart(x: Tensor, shapes: Any) -> Any:
    """A matrix of rows as the rows of one data site, or of several by name."""
    if not isinstance(shapes, Mapping):
        return x.reshape(-1, *shapes)
    parts = x.split([shape.numel() for shape in shapes.values()], 1)
    return {name: part.reshape(-1, *shape) for part, (name, shape) in zip(parts, shapes.items(), strict=True)}


def _chosen(x: Tensor, hidden: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    chosen = (torch.rand(x.shape, generator=generator) < hidden) & ~x.isnan()
    if not chosen.any():
        message = f"hiding {hidden:g} of the entries of {len(x)} rows hides none: give more rows or a larger share"
        raise refusal(message, "hidden")
    return chosen


def dataset_of(columns: dict[str, Any], pareto_k: Array, num_samples: int, num_proposals: int, seed: int) -> xr.Dataset:
    """The hidden entries as a Dataset, with the p-value of one entry of each row, chosen at random."""
    import xarray as xr

    row, ranks = np.asarray(columns["row"]), np.asarray(columns["ranks"])
    order = np.random.default_rng(seed).permutation(len(row))
    one_of_each = order[np.unique(row[order], return_index=True)[1]]
    tested = np.isin(np.arange(len(row)), one_of_each)
    p = float(uniformity_p_value(ranks[tested], num_samples)) if tested.sum() > 1 else np.nan
    variables = {name: ("hidden", values) for name, values in {**columns, "tested": tested}.items()}
    attributes = {"num_samples": num_samples, "num_proposals": num_proposals}
    return xr.Dataset({**variables, "pareto_k": ("data", pareto_k), "p_value": p}, attrs=attributes)


def judge(found: xr.Dataset) -> list[Finding]:
    """The error beside that of feature means, whether the spread is right, and whether the weights can be trusted."""
    result, p = ImputationCalibration(found, judge), float(found["p_value"])
    half, most = result.coverage(np.array([0.5, 0.9]))
    claim = (
        f"{len(result.ranks)} hidden entries: rmse {result.rmse:.3g} (feature means: {result.baseline_rmse:.3g}); 50 % and "
        f"90 % intervals hold {100 * half:.0f} and {100 * most:.0f} %."
    )
    findings = [
        Finding(GOOD, "imputations", f"{claim} The imputations are calibrated as far as these rows tell ({of_p(p)}).")
    ]
    if p < LEVEL:
        pattern = defect(result.ranks[result.tested], result.num_samples)
        word, advice = _WORDS[pattern]
        findings = [Finding(CAUTION, "imputations", f"{claim} The imputations are {word} ({of_p(p)}).", advice)]
    rows = found.sizes["data"]
    weak = round(share_bad_k(found["pareto_k"].values, found.attrs["num_proposals"]) * rows)
    if weak:
        claim = f"{share(weak, rows)} have unreliable weights."
        findings.append(Finding(CAUTION, "imputations", claim, "Refine the guide, or give more proposals."))
    return findings


_WIDER = "A wider or heavier-tailed likelihood, or a richer guide, may help."
_TIGHTER = "A tighter likelihood, or more training, may help."
_WORDS = {
    "narrow": ("too narrow", _WIDER),
    "shifted narrow": ("off to one side and too narrow", _WIDER),
    "wide": ("too wide", _TIGHTER),
    "shifted wide": ("off to one side and too wide", _TIGHTER),
    "shifted": ("off to one side", "More training, or a likelihood of another family, may help."),
    "uneven": ("of another shape than the truth", "A likelihood of another family may help."),
}


def draw(found: xr.Dataset, ax: Any = None) -> Any:
    """The coverage of the imputations' central intervals."""
    from pyrovae.plots import plot_coverage

    levels, result = np.linspace(0.05, 0.95, 19), ImputationCalibration(found, judge)
    coverage = {"imputations": result.coverage(levels)}
    return plot_coverage(levels, coverage, int(result.tested.sum()), of="hidden entries", ax=ax)


def _run(case: Case) -> xr.Dataset:
    return imputation_calibration(case.program, case.some, **case.options).dataset


IMPUTATION = Check("imputation", _run, judge, needs=("missing",), draw=draw, kind=ImputationCalibration)
