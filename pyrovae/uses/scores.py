"""How strange a row is under a program: its evidence, bound, typicality or likelihood ratio, with the Monte Carlo error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from pyrovae.data import Data, as_data, batches
from pyrovae.errors import check_integer, check_word, refusal
from pyrovae.evaluation import elbo, log_marginal
from pyrovae.programs.rows import MAX_BYTES, RowWork, mixed
from pyrovae.programs.simulate import simulate

if TYPE_CHECKING:
    import xarray as xr

Array: TypeAlias = NDArray[np.float64]
Score: TypeAlias = str | Callable[[Any, Data], Any]
SCORES = ("evidence", "elbo", "typicality", "likelihood_ratio")
SIMULATIONS = 1000
"""Rows simulated from the model for the typical score, where no others are given."""


def anomaly_scores(
    program: Any,
    data: Any,
    covariates: Mapping[str, Any] | None = None,
    *,
    score: Score = "evidence",
    background: Any = None,
    reference: Any = None,
    window: int = 1,
    num_samples: int | None = None,
    seed: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> xr.Dataset:
    r"""How strange each row is under a program, in nats, with the Monte Carlo error: the larger, the stranger.

    .. math:: s = -\log p(x), \qquad s = -\mathrm{ELBO}(x), \qquad s = |{-\log p(x)} - H|, \qquad
        s = \log p_{\mathrm{background}}(x) - \log p(x)

    with H the mean of :math:`-\log p` over rows that the program models (``reference``). A density may be larger on rows of
    another kind than on those it was trained on: simple images are the known case. Typicality calls strange a density that
    is too large as well; a likelihood ratio takes out what a background model explains as well. The evidence is by importance
    sampling from the guide, cheap and alike for all rows: a score orders rows, and is held against that of calibration rows.

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``.
        data: data of N rows; NaN is a missing entry.
        covariates: for each name, a tensor of N rows.
        score: ``"evidence"``, ``"elbo"``, ``"typicality"``, ``"likelihood_ratio"``, or a function ``(program, rows)`` of a
            program and :class:`~pyrovae.data.Data` that returns one number per row.
        background: for the ratio, a program of what is common to usual and strange rows. Train it on usual rows alone, such
            as copies with random entries; a background that was trained on strange rows has seen what it is asked for.
        reference: for typicality, held-out rows; by default 1,000 rows simulated from the model.
        window: consecutive rows that are scored together, by the mean of their log densities; rows that do not fill the
            last window are left out.
        num_samples: draws per row; by default 1,000 for the evidence and 100 for the ELBO.
        seed: of the draws; None takes one from torch's random state.
        max_bytes: refuse what needs more memory.
        progress: True shows bars, False none; by default there are some on a terminal.

    Returns:
        A Dataset over ``data`` (of windows, where these have several rows): ``score`` and ``error``, its Monte Carlo standard
        error, NaN where it is not known. ``first`` is the number of the first row. The attribute ``notes`` holds what to know
        before believing them, and for typicality ``typical`` is H.

    Raises:
        ValueError: an unknown score, a ratio without a background, or a function that returns other than one number per row.

    Reference: Nalisnick et al. 2019, arXiv:1906.02994 (typicality); Ren et al. 2019, arXiv:1906.02845 (the ratio).

    >>> import pyrovae as pvae
    >>> vae = pvae.build_vae(3, likelihood="normal", latent_dim=1, hidden=(4,), seed=0)
    >>> x = torch.stack([torch.zeros(3), torch.full((3,), 9.0)])
    >>> anomaly_scores(vae, x, num_samples=50, seed=0).score.values.round() > 20
    array([False,  True])
    """
    import xarray as xr

    if not callable(score):
        check_word("score", score, SCORES)
    if (background is None) == (score == "likelihood_ratio"):
        need = "needs the program of a background" if background is None else "takes no background"
        raise refusal(f"the score {score!r:.50} {need}", "background")
    rows = as_data(data, covariates)
    count = len(rows) // check_integer("window", window, most=len(rows))
    seed = int(torch.randint(2**31, ())) if seed is None else seed
    plan: dict[str, Any] = {"num_samples": num_samples, "max_bytes": max_bytes, "progress": progress}
    found, attributes = _surprise(program, rows, score, {**plan, "seed": seed})
    if score == "likelihood_ratio":
        other, _ = _surprise(background, rows, "evidence", {**plan, "seed": mixed(seed, 1) % 2**31})
        found = np.stack([found[0] - other[0], np.hypot(found[1], other[1])])
    values, errors = found[:, : count * window].reshape(2, count, window)
    values, errors = values.mean(1), np.sqrt((errors**2).sum(1)) / window
    if score == "typicality":
        usual = simulated(program, rows, seed) if reference is None else as_data(reference)
        typical = float(_surprise(program, usual, "evidence", {**plan, "seed": mixed(seed, 2) % 2**31})[0][0].mean())
        values, attributes = np.abs(values - typical), {**attributes, "typical": typical}
    variables = {
        "score": ("data", values, {"units": "nats", "long_name": "strangeness"}),
        "error": ("data", errors, {"units": "nats", "long_name": "Monte-Carlo standard error of score"}),
        "first": ("data", window * np.arange(count), {"long_name": "number of the first row"}),
    }
    attributes |= {"kind": score if isinstance(score, str) else getattr(score, "__name__", "own"), "window": window}
    return xr.Dataset(variables, {"data": range(count)}, {**attributes, "seed": str(seed)})


def _surprise(program: Any, rows: Data, score: Score, plan: Mapping[str, Any]) -> tuple[Array, dict[str, Any]]:
    """Minus the log density of each row, or another score, above its error; and notes."""
    if callable(score):
        values = np.asarray(score(program, rows), dtype=float)
        if values.shape != (len(rows),) or np.isnan(values).any():
            message = f"expected one number per row from the score, {len(rows)} in all, got an array of {values.shape}"
            raise refusal(message + (" with NaN" if np.isnan(values).any() else ""), "score")
        return np.stack([values, np.full(len(rows), np.nan)]), {}
    if score == "elbo":
        found = elbo(program, rows, **{**plan, "num_samples": plan["num_samples"] or 100})
        return np.stack([-found["elbo"].values, found["elbo_error"].values]), {}
    found = log_marginal(program, rows, method="importance", **plan)
    notes = {"notes": found.attrs["notes"]} if "notes" in found.attrs else {}
    return np.stack([-found["log_marginal"].values, found["mcse"].values]), notes


def simulated(program: Any, rows: Data, seed: int) -> Data:
    """Rows simulated from the model, with the covariates and the missing entries of these rows in turn."""
    work = RowWork(program, rows[torch.arange(SIMULATIONS) % len(rows)], seed=seed)
    template = next(iter(batches(work.data, SIMULATIONS, shuffle=False, **work.place)))
    with work.evaluating(mixed(seed, 3)):
        made = simulate(work.program.model, SIMULATIONS, template.x, work.data.covariates)
    return as_data(made.x, work.data.covariates)
