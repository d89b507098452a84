"""Which feature moves with which latent, how far and which way, over rows and over refits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pyro.distributions import constraints
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.checks.calls import latent_work, seed_or_drawn
from pyrovae.checks.entries import array, entry_names, rows_second
from pyrovae.checks.findings import CAUTION, GOOD, Finding, Result, listed
from pyrovae.data import as_data
from pyrovae.errors import check_integer, refusal
from pyrovae.evaluation.impute import reweighted
from pyrovae.programs import latent_names
from pyrovae.programs.rows import MAX_BYTES, Block
from pyrovae.uses.agreement import SAME, matched, posterior_means
from pyrovae.uses.contrasts import Quantity, quantity_at

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Array = NDArray[np.float64]
SMALL = 0.01
"""The step of the central difference that stands for the derivative, in standard deviations of the latent."""
TOP = 3
"""So many features are named for each latent."""


class LatentEffects(Result):
    """What :func:`latent_effects` found, made by :func:`latent_effects`."""

    def to_frame(self) -> pd.DataFrame:
        """A line for each latent and feature, those that move most first within each latent."""
        columns = ["effect", "sd", "low", "high", "refit_sd", "same_sign"]
        frame = self.dataset[columns].to_dataframe().reset_index()
        frame["size"] = frame["effect"].abs()
        order = {name: number for number, name in enumerate(self.dataset["entry"].values)}
        frame["place"] = frame["entry"].map(order)
        return frame.sort_values(["place", "size"], ascending=[True, False]).drop(columns=["place", "size"])


def latent_effects(
    program: Any,
    data: Any,
    covariates: Mapping[str, Any] | None = None,
    *,
    quantity: Quantity = "mean",
    steps: Sequence[float] = (-2.0, -1.0, 1.0, 2.0),
    num_samples: int = 4,
    num_proposals: int = 200,
    seed: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> LatentEffects:
    r"""Which feature moves with which latent: slopes at the rows' own latents, and what finite steps do.

    .. math:: \mathrm{effect}_{jk} = \mathbb{E}_{i, z \mid x_i}\Bigl[\frac{\partial h_k}{\partial z_j}\Bigr] s_j, \qquad
        \mathrm{traversal}_{jk}(t) = \mathbb{E}\bigl[h_k(z + t s_j e_j) - h_k(z)\bigr]

    with s_j the standard deviation of latent j over all rows and draws; latents are drawn by smoothed weights. The other
    latents stay where they are. Of several refits each latent is matched to one of the first's, with its sign, by the
    posterior means on these rows, so that effects can be averaged. Under linear and additive decoders
    (``MLP(latent_dim, ())``, :class:`~pyrovae.networks.Additive`) an effect is the same wherever the others are.

    Args:
        program: anything with ``model`` and ``guide``, or a list of refits of one program.
        data: N rows.
        covariates: for each name, a tensor of N rows.
        quantity: as in :func:`contrast`.
        steps: of the traversals, in standard deviations of the latent.
        num_samples: draws per row.
        num_proposals: draws of the guide from which they are chosen.
        seed: of the draws; None takes one from torch's random state.
        max_bytes: refuse what needs more memory.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Returns:
        A result over ``entry`` (of the latents) and ``feature``: ``effect``, per standard deviation of the latent; ``sd`` of the
        slope over rows, with ``low`` and ``high``, its 2.5 and 97.5 % quantiles; ``refit_sd`` of the effect over refits and
        ``same_sign``, in how many of them it has the first's sign; ``traversal`` over ``step`` too; over ``entry``, ``matched``:
        in how many fits the latent is found, itself counted. ``to_frame()``, ``plot()``.

    Raises:
        ValueError: no latent on the real line, several data sites, global latents, or refits of other latents.

    Reference: Kunin et al. 2019, arXiv:1901.08168 (linear decoders); Higgins et al. 2017 (traversals).

    >>> import pyrovae as pvae
    >>> vae = pvae.build_vae(5, likelihood="normal", latent_dim=2, hidden=(8,))
    >>> latent_effects(vae, torch.randn(50, 5), seed=0).effect.shape
    (2, 5)
    """
    import xarray as xr

    check_integer("num_samples", num_samples)
    if not len(steps) or not np.isfinite(steps).all() or not np.all(steps):
        raise refusal(f"expected steps other than 0, got {tuple(steps)}", "steps")
    fits = list(program) if isinstance(program, list) else [program]
    rows, seed = as_data(data, covariates), seed_or_drawn(seed)
    plan: dict[str, Any] = {"seed": seed, "max_bytes": max_bytes, "progress": progress}
    slopes: list[Array] = []
    moved, found, means = [], [], []
    for fit in fits:
        own = posterior_means(fit, rows, num_samples=num_proposals, **plan)
        slope, traversal, names = _of_fit(fit, rows, quantity, steps, (num_samples, num_proposals), plan)
        means.append(own.sel(latent=names).values)
        if means[-1].shape != means[0].shape:
            raise refusal(
                f"refits have {means[0].shape[1]} and {means[-1].shape[1]} latents: compare equal ones", "program"
            )
        order, correlation = (
            matched(means[0], means[-1]) if len(slopes) else (np.arange(len(names)), np.ones(len(names)))
        )
        sign = np.where(correlation < 0, -1.0, 1.0)
        slopes.append(slope[:, order] * sign[:, None])
        back = [list(steps).index(-t) if -t in steps else None for t in steps]
        turned = np.stack(
            [traversal[order][:, b] if b is not None else np.full_like(slope[0], np.nan) for b in back], 1
        )
        moved.append(np.where(sign[:, None, None] < 0, turned, traversal[order]))
        found.append(np.abs(correlation) >= SAME)
    effects = np.stack([slope.mean(0) for slope in slopes])
    every = np.concatenate(slopes)
    low, high = np.quantile(every, [0.025, 0.975], axis=0)
    several = len(fits) > 1
    columns = {"effect": effects.mean(0), "sd": every.std(0), "low": low, "high": high}
    columns["refit_sd"] = effects.std(0, ddof=1) if several else np.full_like(low, np.nan)
    columns["same_sign"] = (np.sign(effects) == np.sign(effects[0])).sum(0)
    variables: dict[str, Any] = {name: (("entry", "feature"), value) for name, value in columns.items()}
    variables["traversal"] = (("entry", "step", "feature"), np.mean(moved, 0))
    variables["matched"] = ("entry", np.sum(found, 0))
    known = rows.columns if len(rows.columns or ()) == effects.shape[2] else range(effects.shape[2])
    coords = {"entry": names, "feature": list(known), "step": list(steps)}
    return LatentEffects(xr.Dataset(variables, coords, {"refits": len(fits)}), judge, draw)


def _of_fit(
    program: Any, rows: Any, quantity: Quantity, steps: Sequence[float], sizes: tuple[int, int], plan: Mapping[str, Any]
) -> tuple[Array, Array, list[str]]:
    """Slopes ``(rows, entries, features)``, mean traversals ``(entries, steps, features)``, and the names of the entries."""
    work = latent_work(program, rows, num_samples=sizes[1], **plan)
    trace = work.dry_run.model_trace
    sites = _real(trace, latent_names(work.dry_run.guide_trace))
    shapes = {name: tuple(trace.nodes[name]["fn"].event_shape) for name in sites}

    def positions(block: Block) -> dict[str, Tensor]:
        found = reweighted(block, sizes[0])
        drawn = {n: rows_second(found.latents[n], found.guide_trace.nodes[n]).movedim(1, 0) for n in sites}
        return {n: value.reshape(*value.shape[:2], -1) for n, value in drawn.items()}

    sds = {name: value.flatten(0, 1).std(0) for name, value in work.run(positions, "latents").items()}
    if any(len(sds[name]) != int(np.prod(shapes[name])) for name in sites):
        raise ValueError(f"the latents {sites} lie in plates inside 'data': their entries cannot be moved one by one")

    def task(block: Block) -> dict[str, Tensor]:
        latents = reweighted(block, sizes[0]).latents
        at, slope, moved = quantity_at(block.call, latents, sizes[0], quantity), [], []
        for name in sites:
            for entry, sd in enumerate(sds[name]):
                step = torch.zeros(len(sds[name])).to(latents[name])
                step[entry] = sd
                step = step.reshape(shapes[name])
                there = {
                    t: quantity_at(block.call, latents | {name: latents[name] + t * step}, sizes[0], quantity)
                    for t in (-SMALL, SMALL, *steps)
                }
                slope.append(((there[SMALL] - there[-SMALL]) / (2 * SMALL)).mean(0))
                moved.append(torch.stack([(there[t] - at).mean(0) for t in steps], 1))
        return {"slope": torch.stack(slope, 1), "moved": torch.stack(moved, 1)}

    found = work.run(task, "effects")
    names = [label for name in sites for label in entry_names(name, shapes[name])]
    return array(found["slope"]), array(found["moved"]).mean(0), names


def _real(trace: Trace, names: Sequence[str]) -> list[str]:
    """The latents that may be moved by any amount."""
    kept = []
    for name in names:
        support = trace.nodes[name]["fn"].support
        while (base := getattr(support, "base_constraint", None)) is not None:
            support = base
        if support is constraints.real:
            kept.append(name)
    if not kept:
        raise ValueError(
            f"none of the latents {list(names)} lies on the real line, so that none can be moved by a step"
        )
    return kept


def judge(found: xr.Dataset) -> list[Finding]:
    """For each latent the features that move most; a caution where a latent is not found in every refit."""
    findings, fits = [], found.attrs["refits"]
    for number, name in enumerate(found["entry"].values):
        effect = found["effect"].values[number]
        order = np.argsort(-np.abs(effect), kind="stable")[:TOP]
        words = [f"{found['feature'].values[k]} {effect[k]:+.2g}" for k in order]
        claim = f"{name} moves most, per standard deviation: {listed(words)}."
        held = int(found["matched"].values[number])
        if fits > 1:
            claim += f" The latent is found in {held} of {fits} fits."
        advice = "" if held == fits else "Do not interpret this latent alone: refits find another."
        findings.append(Finding(CAUTION if advice else GOOD, str(name), claim, advice))
    return findings


def draw(found: xr.Dataset, ax: Any = None) -> Any:
    """The heat map of all effects."""
    from pyrovae.plots import plot_effects

    labels: dict[str, Any] = {
        "latents": list(found["entry"].values),
        "features": list(map(str, found["feature"].values)),
    }
    return plot_effects(found["effect"].values, **labels, ax=ax)
