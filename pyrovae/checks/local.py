"""Is the guide right for this row: a classifier test of local calibration, its null fitted once for all rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pyrovae.checks.calls import Covariates, latent_work, seed_or_drawn
from pyrovae.checks.entries import array, rows_second, sampled_traces
from pyrovae.checks.findings import CAUTION, GOOD, OPEN, Finding, Result, share
from pyrovae.data import as_data
from pyrovae.errors import check_integer
from pyrovae.programs import latent_names
from pyrovae.programs.dry_run import listening
from pyrovae.programs.masks import counted
from pyrovae.programs.program import Program
from pyrovae.programs.rows import MAX_BYTES, Block, mixed
from pyrovae.programs.simulate import simulate
from pyrovae.programs.sites import data_axis

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float64]
LEVEL = 0.05
"""The p-value below which the guide is called off at a row; so many rows are by chance alone."""
OUTSIDE = 0.01
"""The share of simulated rows that lie further out than a row, below which it is called outside of what the model simulates."""
MOMENT_DRAWS = 100
"""Draws of the guide from which its mean and width at a simulated row are taken."""
RIDGE = 1.0
"""The penalty of the classifier, whose features are standardized."""


class LocalCalibration(Result):
    """What :func:`local_calibration` found, made by :func:`local_calibration`."""


def local_calibration(
    program: Any,
    data: Any,
    covariates: Covariates | None = None,
    *,
    num_simulations: int = 2000,
    num_null: int = 100,
    num_samples: int = 1000,
    seed: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> LocalCalibration:
    r"""Tests for each row whether the guide's draws can be told from the posterior's there.

    .. math:: z^*, x \sim p(z, x) \ \text{(class 0)}, \quad z \sim q(z \mid x) \ \text{(class 1)}, \qquad
        t(x_i) = \frac1S \sum_s \bigl(\hat d(z_s, x_i) - \tfrac12\bigr)^2, \quad z_s \sim q(z \mid x_i)

    A classifier d is trained once on simulated rows, and again on permuted classes for the null, all for every row to be
    tested. It is a ridge regression on products of the latents, standardized by the guide, with the guide's means: it sees
    shifts, widths and correlations, and how they change with the guide's means; not other shapes. Where the guide is off for
    some rows, its linear terms may call others off too. One training serves all rows, so that their p-values are not
    independent. Where the model does not simulate rows like this one, the test says nothing: a row is outside if its
    Mahalanobis distance exceeds that of 99 % of the simulated rows.

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``; local latents only.
        data: the rows to be tested, N of them.
        covariates: for each name, a tensor of N rows; simulated rows take them in turn.
        num_simulations: rows simulated from the model.
        num_null: classifiers on permuted classes, which bound the p-value from below by 1 / (num_null + 1).
        num_samples: draws of the guide for each row to be tested.
        seed: of simulations and draws; None takes one from torch's random state.
        max_bytes: refuse what needs more memory.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Returns:
        A result over ``data``: ``statistic``, ``p_value``, ``null_mean`` (the statistic's mean under the null), and
        ``distance_p``, the share of simulated rows that lie further out.

    Raises:
        ValueError: global latents, latents that are no numbers, a model that cannot be simulated.

    Reference: Linhart, Gramfort & Rodrigues 2023, arXiv:2306.03580 (LC2ST).

    >>> import pyrovae as pvae
    >>> vae = pvae.build_vae(5, likelihood="normal", latent_dim=2, hidden=(8,))
    >>> local_calibration(vae, torch.zeros(3, 5), num_simulations=200, seed=0).p_value.shape
    (3,)
    """
    import xarray as xr

    check_integer("num_simulations", num_simulations, 20)
    check_integer("num_null", num_null, 1)
    seed, program, rows = seed_or_drawn(seed), Program.of(program), as_data(data, covariates)
    plan: dict[str, Any] = {"max_bytes": max_bytes, "progress": progress}
    work = latent_work(program, rows, num_samples=num_samples, seed=mixed(seed, 1), **plan)
    repeated = {n: v[torch.arange(num_simulations) % len(v)] for n, v in (rows.covariates or {}).items()} or None
    with torch.random.fork_rng(), listening(program):
        torch.manual_seed(seed)
        truth = simulate(program.model, num_simulations, work.first(len(rows)).x, repeated)
    simulated = latent_work(program, truth.x, repeated, num_samples=1 + MOMENT_DRAWS, seed=mixed(seed, 2), **plan)
    sites = {name: simulated.dry_run.guide_trace.nodes[name] for name in latent_names(simulated.dry_run.guide_trace)}
    parts = [truth.latents[name].movedim(data_axis(site), 0) for name, site in sites.items()]
    actual = torch.cat([part.reshape(num_simulations, -1).double() for part in parts], -1)

    def of_simulated(block: Block) -> dict[str, Tensor]:
        """The first draw is the guide's own in the test; the others alone tell mean and width, as they do for the truth."""
        drawn = _draws(block)
        own, known = _standardized(drawn[:1], drawn[1:]), _standardized(actual[block.batch.index][None], drawn[1:])
        return {"mean": drawn[1:].mean(0), "drawn": own[0], "known": known[0]}

    found = {name: array(value) for name, value in simulated.run(of_simulated, "simulations").items()}
    test = _Null.fitted(found, num_null, np.random.default_rng(seed))

    def of_row(block: Block) -> dict[str, Tensor]:
        drawn = _draws(block)
        standardized = _standardized(drawn, drawn).unbind(1)
        each = [test.statistics(array(z), array(m)) for z, m in zip(standardized, drawn.mean(0), strict=True)]
        return {"statistics": torch.as_tensor(np.stack(each))}

    found = {name: array(value) for name, value in work.run(of_row, "local_calibration").items()}
    statistic, null = found["statistics"][:, 0], found["statistics"][:, 1:]
    variables = {
        "statistic": ("data", statistic),
        "p_value": ("data", (1 + (null >= statistic[:, None]).sum(1)) / (1 + num_null)),
        "null_mean": ("data", null.mean(1)),
        "distance_p": ("data", _further(_table(truth.x), _table(work.first(len(rows)).x))),
    }
    return LocalCalibration(xr.Dataset(variables, attrs={"num_simulations": num_simulations}), judge, draw)


def _flat(value: Tensor) -> Tensor:
    """(draws, rows, *rest) -> (draws, rows, entries)."""
    return value.reshape(*value.shape[:2], -1).double()


def _draws(block: Block) -> Tensor:
    """The guide's draws for the rows of a block, all latents side by side, (draws, rows, entries)."""
    parts = []
    for tile in block.tiles():
        trace = sampled_traces(tile)[1]
        values = []
        for name in latent_names(trace):
            site, mask = trace.nodes[name], counted(trace.nodes[name])
            value = site["value"] if mask is None else torch.where(mask, site["value"], 0.0)
            values.append(_flat(rows_second(value, site)).cpu())
        parts.append(torch.cat(values, -1))
    return torch.cat(parts)


def _standardized(value: Tensor, drawn: Tensor) -> Tensor:
    """In units of the guide's draws at each row; 0 where the guide masks an entry."""
    mean, sd = drawn.mean(0), drawn.std(0)
    return torch.where(sd > 0, (value - mean) / sd.clamp_min(1e-300), 0.0)


class _Null:
    """The classifier, and those of permuted classes: weights of features, side by side."""

    def __init__(self, model: Any, center: Array, scale: Array, summary: tuple[Array, Array], crossed: bool) -> None:
        self.model, self.center, self.scale, self.summary, self.crossed = model, center, scale, summary, crossed

    @classmethod
    def fitted(cls, found: dict[str, Array], num_null: int, rng: np.random.Generator) -> _Null:
        """Trained on standardized truths and draws; in the null, the two of each row change places at random."""
        from sklearn.linear_model import Ridge

        mean = found["mean"]
        summary = mean.mean(0), np.maximum(mean.std(0), 1e-12)
        size = mean.shape[1]
        crossed = (size + 1) * size * (size + 3) / 2 < len(mean) / 4
        both = np.stack([found["known"], found["drawn"]])
        scaled = (mean - summary[0]) / summary[1]
        design = np.concatenate([_features(z, scaled, crossed) for z in both])
        center, scale = design.mean(0), np.maximum(design.std(0), 1e-12)
        turned = rng.random((len(mean), num_null)) < 0.5
        classes = np.column_stack([np.zeros(len(mean)), turned]), np.column_stack([np.ones(len(mean)), ~turned])
        model = Ridge(alpha=RIDGE).fit((design - center) / scale, np.concatenate(classes).astype(float))
        return cls(model, center, scale, summary, crossed)

    def statistics(self, z: Array, mean: Array) -> Array:
        """Of one row: how far the classifier, and those of the null, are from a half at its draws (draws, entries)."""
        scaled = np.broadcast_to((mean - self.summary[0]) / self.summary[1], z.shape)
        design = (_features(z, scaled, self.crossed) - self.center) / self.scale
        return np.asarray(((self.model.predict(design) - 0.5) ** 2).mean(0))


def _features(z: Array, mean: Array, crossed: bool) -> Array:
    """Latents and their products, with the guide's means: all products, or each latent's with its own mean."""
    size = z.shape[1]
    first, second = np.triu_indices(size)
    own = np.concatenate([z, z[:, first] * z[:, second], mean], 1)  # the mean alone: an offset of each row
    if crossed:
        return np.concatenate([own, *(own * mean[:, [j]] for j in range(size))], 1)
    return np.concatenate([own, z * mean, z**2 * mean], 1)


def _table(x: Any) -> Array:
    """All data of each row side by side; a missing entry is NaN."""
    return np.concatenate([array(leaf.reshape(len(leaf), -1).double()) for leaf in tree_leaves(x)], 1)


def _further(simulated: Array, rows: Array) -> Array:
    """The share of simulated rows at least as far out as each row, by the Mahalanobis distance of the entries."""
    from sklearn.covariance import LedoitWolf

    center, scale = np.nanmean(simulated, 0), np.maximum(np.nanstd(simulated, 0), 1e-12)
    fitted, scaled = (np.nan_to_num((values - center) / scale) for values in (simulated, rows))
    law = LedoitWolf(assume_centered=True).fit(fitted)
    own, other = law.mahalanobis(fitted), law.mahalanobis(scaled)
    return np.asarray((1 + (own >= other[:, None]).sum(1)) / (1 + len(own)))


def judge(found: xr.Dataset) -> list[Finding]:
    """At how many rows the guide is off, and how many rows the model does not simulate."""
    rows, outside = found.sizes["data"], found["distance_p"].values < OUTSIDE
    off = (found["p_value"].values < LEVEL) & ~outside
    claim = (
        f"The guide is told from the posterior at {share(int(off.sum()), rows)} (p < {LEVEL:g} each; by chance {LEVEL:.0%}, "
        "together, since all rows share one classifier)."
    )
    many = off.sum() > max(1, 2 * LEVEL * rows)
    advice = (
        "Do not read intervals of these rows off the guide: refine it there, or use `posterior_draws`." if many else ""
    )
    findings = [Finding(CAUTION if many else GOOD, "local calibration", claim, advice)]
    if outside.any():
        claim = (
            f"{share(int(outside.sum()), rows)} lie outside of what the model simulates: the test says nothing there."
        )
        findings.append(Finding(OPEN, "rows outside", claim, "Look at them (`typicality`)."))
    return findings


def draw(found: xr.Dataset, ax: Any = None) -> Any:
    """The p-value of each row in ascending order, beside the line of a calibrated guide."""
    from pyrovae.plots.style import BLUE, VERMILLION, finding, ink, legend, one_panel

    ax = one_panel(ax)
    order = np.argsort(found["p_value"].values, kind="stable")
    p, outside = found["p_value"].values[order], found["distance_p"].values[order] < OUTSIDE
    at = (np.arange(len(p)) + 0.5) / len(p)
    for which, tint, label in ((~outside, BLUE, "row"), (outside, VERMILLION, "row outside of the simulations")):
        ax.scatter(at[which], p[which], s=12, color=tint, linewidths=0, label=label)
    ax.plot([0, 1], [0, 1], color=ink(ax), linestyle=":", linewidth=1, label="calibrated")
    ax.set(xlabel="rows in the order of p (share)", ylabel="p-value")
    finding(ax, f"{(found['p_value'].values < LEVEL).mean():.0%} of {len(p)} rows below {LEVEL:g}")
    legend(ax)
    return ax
