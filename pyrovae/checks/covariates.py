"""How far the latents depend on the covariates: what a change of covariates in the decoder leaves out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrovae.checks.calls import latent_work
from pyrovae.checks.entries import rows_second, sampled_traces
from pyrovae.checks.findings import GOOD, OPEN, Case, Check, Finding, Line
from pyrovae.errors import refusal
from pyrovae.limits import ERRORS
from pyrovae.programs import latent_names
from pyrovae.programs.masks import counted
from pyrovae.programs.rows import Block

if TYPE_CHECKING:
    import xarray as xr

Array: TypeAlias = NDArray[Any]
FOLDS, SMALLEST, MOST_LEVELS, ROWS_PER_GROUP = 5, 10, 50, 50
"""Folds; the fewest rows of a level, below which levels are joined; the most levels; rows in a group of a number's values."""
PENALTIES = (1e-3, 1e-1, 10.0)


def covariate_information(latents: Any, covariates: Mapping[str, Any], *, seed: int = 0) -> xr.Dataset:
    r"""How many nats the latents hold about each covariate, at least; 0 where they do not depend on it.

    .. math:: I(z; c) \ge \frac1N \sum_i \log \frac{r(c_i \mid z_i)}{p(c_i)}

    r is a logistic regression on the latents and their squares, of other rows in five folds; its penalty is the best of three,
    or it is left out where none of them beats the shares of the levels, p. Numbers are cut into at most ten groups of
    equally many rows, vectors and images into at most ten clusters of like ones (k-means), which only loses information.

    Under ``vae.counterfactual`` the latents stay as they are: where they depend on the covariate, what changes in the data is
    an association, not an effect of the covariate.

    Args:
        latents: draws of the guide ``(N, ...)``, such as ``vae.encode(x, covariates, num_samples=1)[0]``, or a dict of them.
        covariates: for each name, N categories, numbers, vectors or images.
        seed: of the folds and the clusters.

    Returns:
        A Dataset over ``covariate``: ``information`` in nats, its standard error ``mcse`` over rows, and the ``entropy`` of the
        levels or groups, which it cannot exceed.

    Raises:
        ValueError: fewer than 20 rows, other numbers of rows, or no covariate that varies.

    Reference: Barber & Agakov 2003, The IM algorithm (the bound).

    >>> c = torch.arange(200) % 2
    >>> found = covariate_information(torch.randn(200, 2) + 4 * c[:, None], {"c": c})
    >>> bool(found.information.sel(covariate="c") > 0.5)
    True
    """
    import xarray as xr

    parts = latents.values() if isinstance(latents, Mapping) else [latents]
    z = np.concatenate([np.asarray(part, dtype=float).reshape(len(part), -1) for part in parts], 1)
    if len(z) < 2 * SMALLEST:
        raise refusal(f"expected {2 * SMALLEST} or more rows, got {len(z)}", "latents")
    groups = dict(_groups(covariates, len(z), seed))
    if not groups:
        raise refusal("expected a covariate that varies in groups of ten rows or more, got none", "covariates")
    columns = (z - z.mean(0)) / np.maximum(z.std(0), 1e-12)
    found = {name: _gain(np.hstack([columns, columns**2]), codes, seed) for name, codes in groups.items()}
    values = {
        "information": [gain.mean() for gain, _ in found.values()],
        "mcse": [gain.std(ddof=1) / len(z) ** 0.5 for gain, _ in found.values()],
        "entropy": [entropy for _, entropy in found.values()],
    }
    variables = {name: ("covariate", np.array(value), {"units": "nats"}) for name, value in values.items()}
    return xr.Dataset(variables, {"covariate": list(found)}, {"num_data": len(z)})


def _groups(covariates: Mapping[str, Any], rows: int, seed: int) -> Iterator[tuple[str, Array]]:
    """The codes of the levels of each covariate, of groups of a number, or of clusters; rare levels are one."""
    count = int(np.clip(rows // ROWS_PER_GROUP, 2, 10))
    for name, given in covariates.items():
        value = np.asarray(given.cpu() if isinstance(given, Tensor) else given)
        if len(value) != rows:
            raise refusal(f"covariates[{name!r}] has {len(value)} rows, expected {rows}", "covariates")
        value = _clusters(value.reshape(rows, -1), count, seed) if value.size != rows else value.reshape(rows)
        codes = np.unique(value, return_inverse=True)[1]
        if codes.max() >= (MOST_LEVELS if value.dtype.kind in "iubOSU" else FOLDS * 2):
            codes = np.searchsorted(np.quantile(value, np.arange(1, count) / count), value, side="right")
        rare = np.bincount(codes)[codes] < SMALLEST
        codes = np.unique(np.where(rare, -1, codes), return_inverse=True)[1]
        if codes.max() > 0 and np.bincount(codes).min() >= FOLDS:
            yield name, codes


def _clusters(value: Array, count: int, seed: int) -> Array:
    """Which of at most so many clusters each row is in."""
    from sklearn.cluster import KMeans

    different = len(np.unique(value, axis=0))
    return KMeans(min(count, different), n_init=3, random_state=seed).fit_predict(value)  # type: ignore[no-any-return]


def _gain(columns: Array, codes: Array, seed: int) -> tuple[Array, float]:
    """By row, the log probability of its own level under the best of some regressions, over the level's share; the entropy."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    shares = np.bincount(codes) / len(codes)
    gains = np.zeros((1 + len(PENALTIES), len(codes)))
    for fitted, held_out in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(columns, codes):
        for number, penalty in enumerate(PENALTIES, 1):
            model = LogisticRegression(C=penalty, max_iter=500).fit(columns[fitted], codes[fitted])
            log_prob = model.predict_log_proba(columns[held_out])[np.arange(len(held_out)), codes[held_out]]
            gains[number, held_out] = log_prob - np.log(shares[codes[held_out]])
    return gains[gains.mean(1).argmax()], float(-(shares * np.log(shares)).sum())


def _draws(block: Block) -> dict[str, Tensor]:
    """One draw of all latents of each row side by side, zero where they are masked."""
    guide_trace = sampled_traces(next(iter(block.tiles())))[1]
    columns = []
    for name in latent_names(guide_trace):
        site = guide_trace.nodes[name]
        mask = counted(site)
        value = site["value"] if mask is None else torch.where(mask, site["value"], 0)
        rows = rows_second(value, site)[0]
        columns.append(rows.reshape(len(rows), -1))
    return {"latents": torch.cat([column.double() for column in columns], 1)}


def _run(case: Case) -> xr.Dataset:
    work = latent_work(case.program, case.some, num_samples=1, **case.options)
    latents = work.run(_draws, "covariates")["latents"]
    read = {name: value for name, value in (case.some.covariates or {}).items() if name != "weight"}
    return covariate_information(latents, read, seed=case.seed)


def judge(found: xr.Dataset) -> list[Finding]:
    """Which covariates the latents depend on, beyond two standard errors."""
    findings = []
    for name in found["covariate"].values:
        here = found.sel(covariate=name)
        nats, error, most = (float(here[key]) for key in ("information", "mcse", "entropy"))
        words = f"{nats:.2f} (se {error:.2f}) of {most:.2f} nats about the covariate {str(name)!r}"
        if nats > ERRORS * error and nats > 0:
            claim = f"The latents hold at least {words}: the two depend on each other."
            advice = "A counterfactual, which keeps the latents, then shows an association and not an effect."
            findings.append(Finding(OPEN, "covariates", claim, advice))
        else:
            findings.append(
                Finding(GOOD, "covariates", f"The latents were found to hold {words}: no dependence is seen.")
            )
    return findings


def numbers(found: xr.Dataset) -> list[Line]:
    """The information about each covariate."""
    values, errors = found["information"].values, found["mcse"].values
    names = found["covariate"].values
    return [
        Line(f"MI(z; {n}), at least", float(v), float(e), "nats") for n, v, e in zip(names, values, errors, strict=True)
    ]


COVARIATES = Check("covariates", _run, judge, needs=("covariates",), numbers=numbers)
