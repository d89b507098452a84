"""Is the difference real: two groups of rows by feature, with the uncertainty of latents, units and weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrovae.checks.calls import local_work, seed_or_drawn
from pyrovae.checks.entries import array, rows_second, unwrap
from pyrovae.checks.findings import CAUTION, GOOD, Finding, Result
from pyrovae.data import Data, as_data
from pyrovae.data.splits import keys_of_rows
from pyrovae.errors import check_integer, check_word, counted, refusal
from pyrovae.evaluation.impute import reweighted
from pyrovae.limits import good_k, share_bad_k, too_many_bad_k
from pyrovae.programs.call import Call
from pyrovae.programs.rows import MAX_BYTES, Block, mixed
from pyrovae.programs.simulate import replicate
from pyrovae.programs.sites import data_sites, frame_of, sites_of
from pyrovae.uses.estimands import ESTIMANDS, Drawn, beyond, joined

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Array = NDArray[np.float64]
Units = NDArray[np.int64]
Quantity: TypeAlias = "str | Callable[[Mapping[str, Tensor], Any], Tensor]"
"""A word, or a function of the latents by site ``(draws, rows, ...)`` and of the likelihood, to ``(draws, rows, features)``."""
MEANS: Mapping[str, Callable[[Tensor], Tensor]] = {"mean": lambda mean: mean, "log_mean": torch.log}
RESIDUALS: Mapping[str, Callable[[Array, Array], Array]] = {
    "mean": lambda seen, expected: seen - expected,
    "log_mean": lambda seen, expected: (seen - expected) / np.maximum(expected, 1e-300),  # to first order
}
"""What the mean of a unit's data lies above the model's, on the scale of the quantity."""
DRAWS = 4000
"""Draws of the difference, for all refits together; as many pairs of prior draws."""
FALSE = 0.05
"""The share of false discoveries that is expected among the features called changed."""
FEW_UNITS = 3
"""With fewer units in a group, their spread is hardly known."""


class Contrast(Result):
    """What :func:`contrast` found, made by :func:`contrast`."""

    def to_frame(self) -> pd.DataFrame:
        """A line for each feature, those most surely changed first."""
        frame = self.dataset.to_dataframe()
        return frame.sort_values("p_changed", ascending=False, kind="stable")

    def changed(self, fdr: float = FALSE) -> list[str]:
        """The features called changed at an expected false discovery rate, the surest first."""
        frame = self.to_frame()
        return list(frame.index[frame["fdr"] <= fdr])


def contrast(
    program: Any,
    rows_a: Any,
    rows_b: Any,
    *,
    delta: float,
    quantity: Quantity = "mean",
    groups: str | tuple[Sequence[Any], Sequence[Any]] | None = None,
    estimand: str = "mean",
    under: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    level: float = 0.95,
    num_samples: int = 100,
    num_proposals: int = 1000,
    seed: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> Contrast:
    r"""Contrasts two groups of rows feature by feature: how far apart, which way, and how sure.

    .. math:: D = \mathbb{E}_{\mathrm{units\ of\ } A}[h(z)] - \mathbb{E}_{\mathrm{units\ of\ } B}[h(z)] \ (\text{"mean"}), \qquad
        D = h(z_a) - h(z_b),\ a \in A,\ b \in B \text{ at random} \ (\text{"population"})

    Latents are drawn from the guide and chosen by Pareto-smoothed weights. The difference of means has three sources of
    uncertainty: of the latents given each row; of the units, which are a sample (Welch's t of their means); and, where several
    refits are given, of the weights. Without ``groups`` every row counts as a unit of its own; where rows of one donor are alike
    that is wrong, and most of what it calls changed is false. The random pair tells how often two rows differ.

    A fit smooths away a part of what donors differ by. With ``groups`` the means of units are therefore those of the model plus
    what the units' data lie above it on average, as in a test of pseudobulk totals; so for ``"log_mean"``, and for ``"mean"``
    under the rows' own covariates; elsewhere (a function of your own, random pairs) they are the model's alone. A few units
    hardly tell the spread of one feature. With ``groups`` and twenty features or more P(\|D\| > delta) is therefore taken with
    spreads that are moderated by each other (Smyth 2004), and under a prior of D that all features tell, a mixture of normal
    distributions around 0 (Stephens 2017): under the flat prior of the intervals, which are of each feature by itself, features
    that do not differ and lie off by chance would be called changed.

    The expected false discovery rate of a feature is the mean of P(\|D\| <= delta) over it and all surer features. The Bayes
    factor divides the odds of \|D\| > delta by those of two rows of the prior.

    Args:
        program: anything with ``model`` and ``guide``, or a list of refits of one program, whose draws are joined.
        rows_a: the rows of one group, with their covariates (``as_data(x, covariates)``).
        rows_b: the rows of the other.
        delta: the smallest difference that matters, in units of the quantity.
        quantity: ``"mean"``, the mean of each feature given the latents; ``"log_mean"``, its logarithm; or a function
            ``f(latents, likelihood)`` that returns ``(draws, rows, features)``.
        groups: the unit of each row, such as its donor: the name of a label of the rows, or labels of both groups.
        estimand: ``"mean"`` or ``"population"``.
        under: covariates under which the quantity is taken, given the latents found under the rows' own: by name, one value
            for all rows; or a list of such dicts, over which the quantity is averaged.
        level: the content of the intervals.
        num_samples: draws of the latents per row and refit.
        num_proposals: draws of the guide from which they are chosen.
        seed: of all draws; None takes one from torch's random state.
        max_bytes: refuse what needs more memory.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Returns:
        A result over ``feature``: ``difference`` (mean of D), ``sd``, ``low`` and ``high``, ``p_positive`` = P(D > 0),
        ``p_changed`` = P(\|D\| > delta), ``log_bayes_factor`` (nats), ``fdr``, and ``holds``: in how many fits, each by itself,
        the feature is called changed (a share of 5 % false) and lies on the same side; ``to_frame()``, ``changed(fdr)``,
        ``plot()``.

    Raises:
        ValueError: several data sites, global latents, one unit on a side, or arguments out of range.

    Reference: Boyeau et al. 2019, doi:10.1101/794289 (pairs); Welch 1947, doi:10.1093/biomet/34.1-2.28; Newton et al. 2004,
    doi:10.1093/biostatistics/5.2.155 (expected false discoveries); Smyth 2004, doi:10.2202/1544-6115.1027; Stephens 2017,
    doi:10.1093/biostatistics/kxw041.

    >>> import pyrovae as pvae
    >>> vae = pvae.build_vae(5, likelihood="normal", latent_dim=2, hidden=(8,))
    >>> found = contrast(vae, torch.zeros(20, 5), torch.ones(20, 5), delta=0.1, seed=0)
    >>> found.to_frame().shape
    (5, 9)
    """
    import xarray as xr

    check_word("estimand", estimand, ESTIMANDS)
    check_integer("num_samples", num_samples)
    if not delta > 0 or not 0 < level < 1:
        raise refusal(f"expected delta > 0 and a level between 0 and 1, got {delta} and {level}", "delta")
    refits = list(program) if isinstance(program, list) else [program]
    sides = [as_data(rows) for rows in (rows_a, rows_b)]
    units = [_units(rows, groups, number) for number, rows in enumerate(sides)]
    if estimand == "mean" and groups is not None and min(len(set(found)) for found in units) < 2:
        raise refusal(
            "one side has one unit, from which no spread between units can be known: give rows of two units or more, or leave "
            "groups out, for a contrast of these rows alone",
            "groups",
        )
    settings = [{}] if under is None else [under] if isinstance(under, Mapping) else list(under)
    rectified = groups is not None and (quantity == "log_mean" or (quantity == "mean" and under is None))
    seed, every = seed_or_drawn(seed), -(-DRAWS // len(refits))
    rng = np.random.default_rng(seed)
    plan: dict[str, Any] = {"num_samples": num_proposals, "max_bytes": max_bytes, "progress": progress}
    drawn: list[Drawn] = []
    prior, ks = [], []
    for number, refit in enumerate(refits):
        values: list[Array] = []
        rest: list[Array | None] = []
        for side, rows in enumerate(sides):
            work = local_work(refit, rows, seed=mixed(seed, number, side), **plan)
            num_prior = -(-DRAWS // len(rows))

            def task(block: Block, num_prior: int = num_prior) -> dict[str, Tensor]:
                return _of_block(block, num_samples, num_prior, quantity, settings, rectified)

            found = work.run(task, "contrast")
            values.append(array(found["quantity"]))
            rest.append(_of_units(found, units[side], quantity) if "seen" in found else None)
            prior.append(array(found["prior"]).reshape(-1, values[-1].shape[-1]))
            ks.append(array(found["pareto_k"]))
        drawn.append(ESTIMANDS[estimand](values, units, rest, every, rng, groups is not None))
    first, second = (rng.permutation(np.concatenate(prior[side::2]))[:DRAWS] for side in range(2))
    size = min(len(first), len(second))
    differences = first[:size] - second[:size]
    columns = summarized(joined(drawn), differences, delta, level)
    alone = [summarized(one, differences, delta, level) for one in drawn]
    sides_of = [np.sign(one["difference"]) == np.sign(columns["difference"]) for one in alone]
    columns["holds"] = sum((one["fdr"] <= FALSE) & same for one, same in zip(alone, sides_of, strict=True)) + 0
    names = sides[0].columns if columns["sd"].shape == (len(sides[0].columns or ()),) else range(len(columns["sd"]))
    attributes = {"delta": delta, "estimand": estimand, "level": level, "refits": len(refits)}
    attributes |= {"num_proposals": num_proposals, "bad_k": share_bad_k(np.concatenate(ks), num_proposals)}
    attributes |= {f"units_{name}": len(set(found)) for name, found in zip("ab", units, strict=True)}
    variables = {name: ("feature", value) for name, value in columns.items()}
    return Contrast(xr.Dataset(variables, {"feature": list(names)}, attributes), judge, draw)


def _units(rows: Data, groups: Any, side: int) -> Units:
    """The number of each row's unit."""
    own = groups if groups is None or isinstance(groups, str) else groups[side]
    if own is not None and not isinstance(own, str) and len(own) != len(rows):
        raise refusal(f"expected a unit for each of {len(rows)} rows of {'ab'[side]}, got {len(own)}", "groups")
    keys = keys_of_rows(rows, own, None)
    return np.arange(len(rows), dtype=np.int64) if keys is None else keys.numpy()


def _of_block(
    block: Block,
    num_samples: int,
    num_prior: int,
    quantity: Quantity,
    settings: Sequence[Mapping[str, Any]],
    rectified: bool,
) -> dict[str, Tensor]:
    """The quantity at draws of the posterior and of the prior of some rows, rows first, averaged over the settings.

    If rectified, also what was seen and the model's mean of it, entry by entry, 0 for missing ones.
    """
    found, drawn = reweighted(block, num_samples), {}
    for name, latents, size in (("quantity", found.latents, num_samples), ("prior", {}, num_prior)):
        each = [quantity_at(_under(block, one), latents, size, quantity) for one in settings]
        drawn[name] = torch.stack(each).mean(0).movedim(1, 0).float()
    if rectified and isinstance(block.batch.x, Tensor):
        seen = block.batch.x.reshape(len(block.batch.x), -1)
        mean = quantity_at(block.call, found.latents, num_samples, "mean").mean(0)
        drawn |= {"seen": seen.nan_to_num(), "expected": torch.where(seen.isnan(), 0.0, mean), "count": ~seen.isnan()}
    return {**drawn, "pareto_k": found.smoothed.k}


def _under(block: Block, given: Mapping[str, Any]) -> Call:
    """The program on the rows of a block with some covariates set to one value."""
    if not given:
        return block.call
    own = dict(block.batch.covariates or {})
    for name, value in given.items():
        check_word("under", name, own)
        own[name] = torch.as_tensor(value).to(own[name]).expand_as(own[name])
    return block.work.call(replace(block.batch, covariates=own))


def quantity_at(call: Call, latents: Mapping[str, Tensor], num_samples: int, quantity: Quantity) -> Tensor:
    """A quantity at given latents, of shape ``(draws, rows, features)``; latents that are not given are drawn from the prior.

    Args:
        call: the program on some rows.
        latents: by site, in the shapes of a trace with as many particles.
        num_samples: the number of draws.
        quantity: as in :func:`contrast`.
    """
    names = [s["name"] for s in data_sites(call.traces(None)[0])]
    if len(names) != 1:
        raise ValueError(f"expected a program with one data site, got {names}")
    trace = replicate(call, latents, num_samples)
    site = trace.nodes[names[0]]
    if isinstance(quantity, str):
        of_mean = MEANS[check_word("quantity", quantity, MEANS)]
        try:
            value = of_mean(site["fn"].mean)
        except NotImplementedError:
            family = type(unwrap(site["fn"])).__name__
            raise refusal(
                f"{family} has no mean: give a function of the latents and the likelihood", "quantity"
            ) from None
        value = rows_second(value.expand(site["value"].shape), site)
        return value.reshape(*value.shape[:2], -1)
    local = [s for s in sites_of(trace) if s["name"] not in names and frame_of(s)]
    value = torch.as_tensor(quantity({s["name"]: rows_second(s["value"], s) for s in local}, site["fn"]))
    expected = (num_samples, len(call.rows))
    if value.shape[:2] != expected:
        raise refusal(
            f"the quantity has shape {tuple(value.shape)}, expected (draws, rows, features), here ({expected[0]}, "
            f"{expected[1]}, features)",
            "quantity",
        )
    return value.reshape(*expected, -1)


def _of_units(found: Mapping[str, Tensor], unit: Units, quantity: Any) -> Array:
    """By how much the data of each unit lie above the model on average, ``(units, features)``."""
    sums = {}
    for name in ("seen", "expected", "count"):
        sums[name] = np.zeros((unit.max() + 1, found[name].shape[1]))
        np.add.at(sums[name], unit, array(found[name]))
    count = np.maximum(sums["count"], 1)
    return RESIDUALS[quantity](sums["seen"] / count, sums["expected"] / count)


def summarized(found: Drawn, prior: Array, delta: float, level: float) -> dict[str, Array]:
    """Draws of the difference, and those of two rows of the prior ``(draws, features)``, as the columns of a contrast."""
    drawn = found.difference
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    changed = (np.abs(drawn) > delta).mean(0) if found.estimate is None else beyond(found.estimate, delta)
    order = np.argsort(-changed, kind="stable")
    fdr = np.empty_like(changed)
    fdr[order] = np.cumsum(1 - changed[order]) / (1 + np.arange(len(order)))
    return {
        "difference": drawn.mean(0),
        "sd": drawn.std(0, ddof=1),
        "low": low,
        "high": high,
        "p_positive": (drawn > 0).mean(0),
        "p_changed": changed,
        "log_bayes_factor": _log_odds(drawn, delta) - _log_odds(prior, delta),
        "fdr": fdr,
    }


def _log_odds(drawn: Array, delta: float) -> Array:
    """The log odds of a difference above delta, half a draw added on each side."""
    over = (np.abs(drawn) > delta).sum(0)
    odds: Array = np.log(over + 0.5) - np.log(len(drawn) - over + 0.5)
    return odds


def judge(found: xr.Dataset) -> list[Finding]:
    """How many features changed, and what stands against believing it."""
    called, size = int((found["fdr"] <= FALSE).sum()), found.sizes["feature"]
    claim = (
        f"{called} of {size} features differ by more than {found.attrs['delta']:g}, at an expected share of {FALSE:.0%} false "
        f"discoveries ({found.attrs['units_a']} and {counted(found.attrs['units_b'], 'unit')}, "
        f"{counted(found.attrs['refits'], 'fit')})."
    )
    if (fits := found.attrs["refits"]) > 1:
        held = int(((found["fdr"] <= FALSE) & (found["holds"] == fits)).sum())
        claim += f" Of these {held} hold in {fits} of {fits} refits, each by itself."
    findings = [Finding(GOOD, "contrast", claim)]
    if found.attrs["estimand"] == "mean" and min(found.attrs["units_a"], found.attrs["units_b"]) < FEW_UNITS:
        claim = (
            f"A group has fewer than {FEW_UNITS} units, so that their spread is hardly known: the contrast is of these."
        )
        findings.append(Finding(CAUTION, "units", claim, "Collect more units (donors, batches)."))
    if too_many_bad_k(found.attrs["bad_k"]):
        claim = f"{found.attrs['bad_k']:.0%} of the rows have k-hat above {good_k(found.attrs['num_proposals']):.2f}."
        findings.append(
            Finding(CAUTION, "draws", claim, "Refine the guide or contrast draws of a refined one (`refine`).")
        )
    return findings


def draw(found: xr.Dataset, ax: Any = None) -> Any:
    """The volcano: how far each feature differs, and how sure that is."""
    from pyrovae.plots import plot_volcano

    called = found["fdr"].values <= FALSE
    names = list(map(str, found["feature"].values))
    values = (found["difference"].values, found["log_bayes_factor"].values)
    return plot_volcano(*values, called=called, names=names, delta=found.attrs["delta"], ax=ax)
