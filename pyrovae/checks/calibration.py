"""Simulation-based calibration of an amortized guide: truths that the model made, ranked among the guide's draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.checks.calls import Covariates, latent_work, seed_or_drawn
from pyrovae.checks.entries import along_latent, array, by_kind, entry_kl, rows_second, sampled_traces
from pyrovae.checks.findings import CAUTION, GOOD, Case, Check, Finding, Line, Result, listed, of_p, some_rows
from pyrovae.checks.recovery import (
    SURE,
    coverage_p_values,
    covered,
    draw_contraction,
    draw_coverage,
    draw_recovery,
    finding,
    moments,
    recovered,
)
from pyrovae.checks.uniformity import central_coverage, defect, density_coverage, uniformity_p_value
from pyrovae.data import as_data
from pyrovae.errors import check_word, refusal
from pyrovae.programs import Program, latent_names, log_terms
from pyrovae.programs.dry_run import listening
from pyrovae.programs.masks import counted
from pyrovae.programs.rows import MAX_BYTES, Block, RowWork, Tile, mixed
from pyrovae.programs.simulate import Simulated, Substitute, simulate
from pyrovae.programs.sites import data_axis

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float64]
Quantity = Callable[[Mapping[str, Tensor], Any], Tensor]
"""A function of the latents by site and of the rows, for each draw and row a number."""
LEVEL = 0.01
"""The Bonferroni-adjusted p-value below which ranks are called not uniform, and a coverage is called off."""
COLLAPSED_KL = 0.01
"""Nats below which a latent carries nothing, so that its ranks are uniform whatever the guide does."""


class SBC(Result):
    """What :func:`sbc` found, made by :func:`sbc`."""

    def adjusted(self, name: str) -> Array:
        """The Bonferroni-adjusted p-values of the entries of one latent site, or of ``"log_joint"``."""
        p = self.p_values_log_joint if name == "log_joint" else self.p_values[name]
        return np.minimum(1.0, self.num_tests * np.asarray(p))

    def coverage(self, levels: Array) -> dict[str, Array]:
        """Expected coverage at each level: of each latent's central intervals, and of the guide's density regions.

        Returns:
            By site ``(num_levels, *event_shape)``, and under ``"joint"`` ``(num_levels,)``.
        """
        central = {name: central_coverage(ranks, self.num_samples, levels) for name, ranks in self.ranks.items()}
        return {**central, "joint": density_coverage(self.log_q_ranks, self.num_samples, levels)}

    def plot(self, ax: Any = None, of: str = "ranks") -> Any:
        """Draw one of the figures; returns the axes.

        Args:
            ax: where to draw; by default a new figure.
            of: ``"ranks"`` (their distribution functions), ``"coverage"`` (against the credible level), ``"recovery"``
                (posterior means against the truths) or ``"contraction"`` (z-scores against contraction).
        """
        return FIGURES[check_word("of", of, FIGURES)](self.dataset, ax)


def sbc(
    program: Any,
    data: Any = None,
    covariates: Covariates | None = None,
    *,
    num_simulations: int = 2000,
    num_samples: int = 99,
    test_quantities: Mapping[str, Quantity] | None = None,
    seed: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> SBC:
    r"""Ranks simulated latents, and log p(x, z), among the guide's draws; an exact guide makes them uniform.

    .. math:: z^*, x \sim p(z, x), \qquad z_s \sim q(z \mid x), \qquad
        r = \#\{s : f(z_s, x) < f(z^*, x)\} \sim \mathrm{Uniform}\{0, \ldots, S\}

    for every entry of z and for f = log p(x, z), which alone sees lost correlations between latents. No refit is
    needed: the guide is amortized. A latent that carries nothing passes; the KL beside its ranks tells. A masked entry,
    on which neither model nor guide says anything, gets a rank at random.

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``. The latents of the rows
            are ranked; global ones are held at one draw of the guide.
        data: rows whose shapes and missing entries are used (not their values), in turn, or some chosen at random where there
            are more than simulations; needed where the model cannot be called without data, or has global latents.
        covariates: for each name, a tensor of rows, used in turn.
        num_simulations: rows simulated from the model.
        num_samples: guide draws per row.
        test_quantities: what else is to be ranked, by name: ``f(latents, x)`` of the latents by site ``(draws, rows, ...)`` and
            the simulated rows returns ``(draws, rows)``. What one wants to conclude from the posterior belongs here.
        seed: of the simulations and the draws; None takes one from torch's random state.
        max_bytes: refuse what needs more memory.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Returns:
        A result over ``simulation`` and ``latent``: ``ranks`` from 0 to ``num_samples``, ``log_joint_ranks`` and
        ``log_q_ranks`` (of log p(x, z) and log q(z | x)), ``kl`` (nats per entry, averaged over simulations), ``p_values``
        and ``p_values_log_joint`` of each alone, and ``p_value``, the smallest times ``num_tests``. ``truth``,
        ``posterior_mean``, ``posterior_sd`` and ``z_score`` = (mean - truth) / sd of each simulation; over ``latent`` alone
        ``contraction``, 1 - E[sd^2] / Var[truth], and ``recovery``, the correlation of truths and means; and over ``level``
        ``central_coverage`` of each latent, ``joint_coverage``, and the band ``coverage_low`` to ``coverage_high`` that all
        of them stay inside with probability .95. ``plot(of="ranks" | "coverage" | "recovery" | "contraction")``.

    Raises:
        ValueError: fewer than two simulations or draws; the model cannot be simulated.

    Reference: Talts et al. 2018, arXiv:1804.06788; Modrák et al. 2023, arXiv:2211.02383 (log p(x, z) among the
    test quantities); Schad, Betancourt & Vasishth 2021, arXiv:1904.12765 (contraction and z-scores).

    >>> import pyrovae as pvae, torch
    >>> vae = pvae.build_vae(5, likelihood="normal", latent_dim=2, hidden=(8,))
    >>> sbc(vae, num_simulations=100, num_samples=19, seed=0).ranks["z"].shape
    (100, 2)
    """
    if num_simulations < 2 or num_samples < 2:
        raise ValueError(f"expected at least 2 simulations and 2 draws, got {num_simulations} and {num_samples}")
    seed, template, program = seed_or_drawn(seed), None, Program.of(program)
    plan: dict[str, Any] = {"num_samples": num_samples, "max_bytes": max_bytes, "progress": progress}
    if data is not None:
        rows = some_rows(as_data(data, covariates), num_simulations, seed)
        known = RowWork(program, rows, seed=seed, **plan)
        if drawn := known.global_draws(None):
            program = Program(*(poutine.condition(fn, data=drawn) for fn in (program.model, program.guide)))
        template, covariates = known.first(len(rows)).x, rows.covariates
    repeated = None
    if covariates is not None:
        repeated = {n: v[torch.arange(num_simulations) % len(v)] for n, v in covariates.items()}
    with torch.random.fork_rng(), listening(program):
        torch.manual_seed(seed)
        truth = simulate(program.model, num_simulations, template, covariates)
    work = latent_work(program, truth.x, repeated, seed=mixed(seed, 0, 0, 1), **plan)
    rng = np.random.default_rng(seed)
    found = {
        name: array(values)
        for name, values in work.run(lambda block: _ranked(block, truth, rng, test_quantities or {}), "sbc").items()
    }
    parts = by_kind(found)
    kl = {name: values.mean(0) for name, values in parts["kl"].items()}
    more = parts.get("quantity", {})
    made = dataset_of(parts["ranks"], found["log_joint"], found["log_q"], kl, num_samples, more, parts)
    return SBC(made, judge, draw)


def _ranked(
    block: Block, truth: Simulated, rng: np.random.Generator, more: Mapping[str, Quantity]
) -> dict[str, Tensor]:
    """The ranks of some simulated rows among the guide's draws for them, and the KL of each entry."""
    fixed_at, sites = {}, block.work.dry_run.guide_trace.nodes
    for name, value in truth.latents.items():
        if name not in sites:  # which only the model has, and sums out
            continue
        site = sites[name]
        rows = value.index_select(data_axis(site), block.batch.index.to(value.device))
        lacking = block.call.nesting - (rows.ndim - len(site["fn"].event_shape))
        fixed_at[name] = rows.reshape(1, *[1] * lacking, *rows.shape)
    fixed = block.call.using(guide=Substitute(fixed_at)(block.call.program.guide))
    exact = sampled_traces(Tile(fixed, slice(0, 1)))
    values = _quantities(*exact, more, block.batch.x)
    counts = {name: [np.zeros(v.shape[1:], int), np.zeros(v.shape[1:], int)] for name, v in values.items()}
    sums = {name: [np.zeros(v.shape[1:]), np.zeros(v.shape[1:])] for name, v in values.items()}
    kl: dict[str, Tensor] = {}
    for tile in block.tiles():
        model_trace, guide_trace = sampled_traces(tile)
        kl = kl or entry_kl(model_trace, guide_trace)  # of the first draws, which suffice for a mean over simulations
        for name, drawn in _quantities(model_trace, guide_trace, more, block.batch.x).items():
            counts[name][0] += (drawn < values[name]).sum(0)
            counts[name][1] += (drawn == values[name]).sum(0)
            sums[name][0] += (drawn - values[name]).sum(0)
            sums[name][1] += ((drawn - values[name]) ** 2).sum(0)
    columns = {f"kl {name}": value for name, value in kl.items()}
    for name, (below, ties) in counts.items():
        ranks = below + rng.integers(0, ties + 1)
        site, seen = exact[1].nodes.get(name), np.ones((), bool)
        if site is not None and (mask := counted(site)) is not None:
            seen = array(rows_second(mask.expand(site["value"].shape), site)[0])
            ranks = np.where(seen, ranks, rng.integers(0, block.work.num_samples + 1, ranks.shape))
        if site is not None:
            own = moments(values[name][0], sums[name][0], sums[name][1], block.work.num_samples)
            columns |= {f"{kind} {name}": torch.as_tensor(np.where(seen, v, np.nan)) for kind, v in own.items()}
        columns[name if site is None else f"ranks {name}"] = torch.as_tensor(ranks)
    return columns


def _quantities(model_trace: Trace, guide_trace: Trace, more: Mapping[str, Quantity], x: Any) -> dict[str, Array]:
    """What is ranked, ``(draws, rows, ...)``: every latent, log p(x, z) and log q(z | x), and what was asked for."""
    terms = log_terms(model_trace, guide_trace)
    sites = {name: guide_trace.nodes[name] for name in latent_names(guide_trace)}
    latents = {name: rows_second(site["value"], site) for name, site in sites.items()}
    values = {name: array(value) for name, value in latents.items()}
    for name, quantity in more.items():
        value = torch.as_tensor(quantity(latents, x))
        if value.shape != terms.log_guide.shape:
            expected = tuple(terms.log_guide.shape)
            raise refusal(
                f"the test quantity {name!r} has shape {tuple(value.shape)}, expected (draws, rows), here {expected}",
                "test_quantities",
            )
        values[f"quantity {name}"] = array(value)
    return {**values, "log_joint": array(terms.reconstruction + terms.log_prior), "log_q": array(terms.log_guide)}


def dataset_of(
    ranks: dict[str, Any],
    log_joint_ranks: Any,
    log_q_ranks: Any,
    kl: dict[str, Any],
    num_samples: int,
    quantities: Mapping[str, Any] | None = None,
    parts: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Ranks, by latent site ``(num_simulations, *event_shape)``, and the KL of each entry, with the p-values of uniform ranks.

    With truth, mean and sd of the draws by site among the ``parts``, there is recovery, too.
    """
    import xarray as xr

    along = along_latent(ranks, "simulation")
    p = uniformity_p_value(along.values, num_samples)
    p_joint = uniformity_p_value(log_joint_ranks, num_samples)
    more, p_more = dict(quantities or {}), np.ones(0)
    if more:
        more_ranks = np.stack([np.asarray(one) for one in more.values()], 1)
        p_more = np.asarray(uniformity_p_value(more_ranks, num_samples))
    tests = p.size + 1 + len(more)
    variables = {
        "ranks": along,
        "log_joint_ranks": ("simulation", log_joint_ranks),
        "log_q_ranks": ("simulation", log_q_ranks),
        "kl": along_latent(kl),
        "p_values": ("latent", p),
        "p_values_log_joint": float(p_joint),
        "p_value": min(1.0, tests * min(float(p.min()), float(p_joint), *p_more.tolist())),
    }
    if more:
        variables |= {"quantity": list(more), "quantity_ranks": (("simulation", "quantity"), more_ranks)}
        variables["p_values_quantities"] = ("quantity", p_more)
    variables |= covered(along.values, np.asarray(log_q_ranks), num_samples) | (recovered(parts) if parts else {})
    attributes = {"num_samples": num_samples, "num_simulations": len(along), "num_tests": tests}
    return xr.Dataset(variables, attrs=attributes)


def judge(found: xr.Dataset) -> list[Finding]:
    """Whether ranks are uniform and coverage is right, what is wrong with those that are not, and which latents cannot tell."""
    samples, tests = found.attrs["num_samples"], found.attrs["num_tests"]
    names = found["latent"].values
    patterns: dict[str, list[str]] = {}
    for j in np.flatnonzero(found["p_values"].values * tests < LEVEL):
        patterns.setdefault(defect(found["ranks"].values[:, j], samples), []).append(names[j])
    words = [f"{listed(entries)}: {_DEFECTS[pattern][0]}." for pattern, entries in patterns.items()]
    steps = {step for pattern in patterns for step in _DEFECTS[pattern][1]}
    if float(found["p_values_log_joint"]) * tests < LEVEL:
        words.append("log p(x, z): its ranks are not uniform either." if words else _LOST_CORRELATIONS)
        steps = steps or {_FULL}
    if "quantity" in found:
        wrong = found["quantity"].values[found["p_values_quantities"].values * tests < LEVEL]
        words += [f"The test quantity {str(name)!r}: its ranks are not uniform." for name in wrong]
        steps = steps or ({_RICHER} if len(wrong) else set())
    inside, p = found["central_coverage"].sel(level=SURE, method="nearest").values, coverage_p_values(found)
    for j in np.flatnonzero((p * len(p) < LEVEL) & (found["p_values"].values * tests >= LEVEL)):
        claim = f"{names[j]}: the {SURE:.0%} intervals hold {inside[j]:.0%} of the truths ({of_p(len(p) * p[j])})."
        words, steps = [*words, claim], steps or set(_DEFECTS["narrow" if inside[j] < SURE else "wide"][1])
    empty = names[found["kl"].values < COLLAPSED_KL]
    test = (
        f"Simulation-based calibration on {found.attrs['num_simulations']:,} simulated rows: "
        f"{of_p(float(found['p_value']))}."
    )
    follows = (
        f" {listed(empty)}: KL below {COLLAPSED_KL} nats; the guide follows the prior there, and ranks pass whatever the data."
        if len(empty)
        else ""
    )
    more = [finding(found, not words)] if "contraction" in found else []
    if not words:
        claim = (
            f"No sign of miscalibration: no rank and no coverage of {SURE:.0%} intervals lies off at {LEVEL:.0%}, "
            "corrected for the number of tests."
        )
        return [Finding(GOOD, "calibration", f"{claim} {test}{follows}"), *more]
    advice = (
        f"Do not read posterior intervals off the guide alone: {', '.join(s for s in _STEPS if s in steps)}, or correct its "
        "draws (`posterior_draws(method='psis')`)."
    )
    claim = f"{' '.join(words)} The guide is not calibrated. {test}{follows}"
    return [Finding(CAUTION, "calibration", claim, advice), *more]


_TRAIN, _REFINE = "train the guide further (the model may stay frozen)", "refine it per datum"
_RICHER, _FULL = "use a richer guide, such as a flow or a mixture", "use a full-covariance guide or a flow"
_STEPS = (_TRAIN, _REFINE, _RICHER, _FULL)
_OFF = "the guide's mean is off to one side"
_NARROW = "the guide is too narrow (truths fall in its tails)"
_DEFECTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "shifted": (_OFF, (_TRAIN, _REFINE)),
    "narrow": (_NARROW, (_REFINE, _RICHER)),
    "shifted narrow": (f"{_OFF}, and {_NARROW}", (_REFINE, _RICHER)),
    "shifted wide": (f"{_OFF}, and the guide is too wide", (_TRAIN, _REFINE)),
    "wide": ("the guide is too wide (truths fall near its middle)", (_TRAIN, _REFINE)),
    "uneven": ("the guide has another shape than the posterior", (_RICHER,)),
}
_LOST_CORRELATIONS = (
    "log p(x, z): not uniform though every latent alone is; the guide loses the correlations between latents."
)


def numbers(found: xr.Dataset) -> list[Line]:
    """The p-value of all ranks."""
    return [Line("SBC p-value (Bonferroni)", float(found["p_value"]))]


def draw(found: xr.Dataset, ax: Any = None) -> Any:
    """The distribution functions of all ranks, with the band that they stay inside if the guide is calibrated."""
    from pyrovae.plots import plot_sbc_ecdf

    ranks = dict(zip(found["latent"].values, found["ranks"].values.T, strict=True))
    if "quantity" in found:
        ranks |= dict(zip(found["quantity"].values, found["quantity_ranks"].values.T, strict=True))
    return plot_sbc_ecdf({"log p(x, z)": found["log_joint_ranks"].values, **ranks}, found.attrs["num_samples"], ax=ax)


FIGURES: Mapping[str, Callable[[Any, Any], Any]] = {
    "ranks": draw,
    "coverage": draw_coverage,
    "recovery": draw_recovery,
    "contraction": draw_contraction,
}


def _run(case: Case) -> xr.Dataset:
    return sbc(case.program, case.some, num_simulations=case.num_simulations, **case.options).dataset


CALIBRATION = Check("calibration", _run, judge, numbers=numbers, draw=draw, kind=SBC)
