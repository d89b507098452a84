"""Every public function of a program and data, on every kind of program: the right number, or a refusal that names why.

The functions are found by inspection, the kinds in `behavior_programs`. A pair of both is right by default: its law below
must hold. What a function cannot do for a kind it must refuse, in words that `REFUSALS` asks for. What is wrong today stands in
`FAULTS`, and each entry fails as soon as it is mended. Each call must also leave the world as it was.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
import math
import pkgutil
import re
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import scipy.sparse
import torch
from behavior_graphs import make_graphs
from behavior_programs import ROWS, Kind, make, many_rows
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import pyrovae as pvae


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """The width of an interval over resampled rows is none of what is looked at here."""
    monkeypatch.setattr("pyrovae.uses.representation.BOOTSTRAPS", 5)


pytestmark = pytest.mark.filterwarnings("ignore:importance-sampling", "ignore:Pareto k")
KINDS = make() | make_graphs()
ALARM = 1e-4
"""A p-value below it is a failure: the share of false alarms, at fixed seeds."""


def public_functions() -> dict[str, Callable]:
    """Functions of a program and covariates: those of `pyrovae.__all__` and of each room's own."""
    rooms = [importlib.import_module(m.name) for m in pkgutil.iter_modules(pvae.__path__, "pyrovae.") if m.ispkg]
    found = {}
    for room in (pvae, *rooms):
        for name in getattr(room, "__all__", None) or [n for n in vars(room) if not n.startswith("_")]:
            function = getattr(room, name)
            if inspect.isfunction(function) and _takes_a_program(function):
                found[function.__name__] = function
    return found


def _takes_a_program(function: Callable) -> bool:
    names = list(inspect.signature(function).parameters)
    return names[:1] in (["program"], ["programs"], ["models"]) and "covariates" in names


FILES = ("compress", "decompress")
"""Functions of rows of integers and of their files: `test_compression.py` asks these for each kind."""
FUNCTIONS = {name: function for name, function in public_functions().items() if name not in FILES}


class World:
    """What a call must leave as it was; ``changes`` lists what it did not."""

    def __init__(self, kind: Kind) -> None:
        self.parts = {f"module {i} {n}": p for i, m in enumerate(kind.modules) for n, p in m.named_modules()}
        for number, part in enumerate(self.parts.values()):
            part.training = number % 4 != 1  # a mixture of modes, every dropout active
        self.before = self._look()

    def _look(self) -> dict[str, Any]:
        parts = self.parts.items()
        return {
            "torch's random state": torch.get_rng_state(),
            "numpy's random state": str(np.random.get_state()),  # noqa: NPY002
            "gradients enabled": torch.is_grad_enabled(),
            "validation of distributions": torch.distributions.Distribution._validate_args,
            "the global parameter store": sorted(pyro.get_param_store().keys()),
            **{f"mode of {name}": part.training for name, part in parts},
            **{f"gradient of {n} {k}": p.grad is not None for n, part in parts for k, p in _own(part).items()},
            **{f"values of {n} {k}": p.detach().clone() for n, part in parts for k, p in _own(part).items()},
        }

    def changes(self) -> list[str]:
        """What differs now; values are put back, so that one call's fault does not become another's."""
        after = self._look()
        for name, part in self.parts.items():
            for key, tensor in _own(part).items():
                tensor.data.copy_(self.before[f"values of {name} {key}"])
        return [name for name, value in self.before.items() if not _same(value, after.get(name))]


def _own(part: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict(part.named_parameters(recurse=False)) | dict(part.named_buffers(recurse=False))


def _same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


# ---------------------------------------------------------------------------------------------------------------------------
# Laws: what is true of each function's result where the guide is the exact posterior.


def close(found: Any, expected: Any, tolerance: float) -> None:
    torch.testing.assert_close(_tensor(found), _tensor(expected), rtol=0, atol=float(tolerance))


def within(found: Any, expected: Any, error: Any, sds: float = 5.0, floor: float = 1e-3) -> None:
    """Every number lies within so many of its standard errors."""
    distance = (_tensor(found) - _tensor(expected)).abs() / (sds * _tensor(error) + floor)
    assert bool((distance <= 1).all()), f"off by {float(distance.max() * sds):.1f} standard errors"


def _tensor(value: Any) -> torch.Tensor:
    return torch.as_tensor(
        np.asarray(value.detach() if isinstance(value, torch.Tensor) else value), dtype=torch.float64
    )


def log_weights(f: Callable, kind: Kind) -> None:
    if kind.has_globals:
        w = f(kind.program, kind.data, kind.covariates, num_samples=2000, seed=0)
        within(w.logsumexp(0) - math.log(2000), kind.log_evidence, w.exp().std(0) / w.exp().mean(0) / 2000**0.5)
        return
    w = f(kind.program, kind.data, kind.covariates, num_samples=3, seed=0)
    close(w, kind.log_evidence.expand(3, ROWS), kind.tolerance)


def joint_log_weights(f: Callable, kind: Kind) -> None:
    close(
        f(kind.program, kind.data, kind.covariates, num_samples=3, seed=0), kind.joint.expand(3), ROWS * kind.tolerance
    )


def elbo(f: Callable, kind: Kind) -> None:
    found = f(kind.program, kind.data, kind.covariates, num_samples=500, seed=0)
    within(found.elbo, kind.elbo, found.elbo_error, floor=kind.tolerance)
    within(found.kl, kind.kl, found.kl_error)
    within(found.reconstruction, kind.elbo + kind.kl, found.reconstruction_error)


SHORT = pvae.evaluation.Mixture(components=2, starts=8, candidates=8, num_steps=8, fallback="importance")
"""The default estimator of evidence with a short search, which is enough for posteriors of one mode."""


def log_marginal(f: Callable, kind: Kind) -> None:
    options = {"method": SHORT, "num_samples": 200, "seed": 0, "progress": False}
    found = f(kind.program, kind.data, kind.covariates, **options)
    within(found.log_marginal, kind.log_evidence, found.mcse, floor=kind.tolerance)
    within(found.elbo, kind.elbo, 0.2 if kind.has_globals else 0.0, floor=kind.tolerance)


def log_conditional(f: Callable, kind: Kind) -> None:
    """Of a row given all of it nothing is left; an entry given the others has the density of dense algebra."""
    options = {"method": "importance", "num_samples": 200, "seed": 0, "progress": False}
    masks = tree_map(lambda x: torch.ones(x.shape, dtype=torch.bool), kind.data)
    nothing = f(kind.program, kind.data, kind.covariates, given=masks, **options)
    within(nothing.log_conditional, torch.zeros(ROWS), nothing.mcse, floor=kind.tolerance)
    if not kind.missing or kind.left_out is None:
        return
    masks[:, 0] = False
    found, counts = f(kind.program, kind.data, kind.covariates, given=masks, **options), ~kind.left_out[:, 0].isnan()
    within(_tensor(found.log_conditional)[counts], kind.left_out[counts, 0], _tensor(found.mcse)[counts], floor=1e-3)


def refine(f: Callable, kind: Kind) -> None:
    guide = f(kind.program, kind.data, kind.covariates, num_steps=60, learning_rate=0.2, seed=0, progress=False)
    w = pvae.log_weights(guide, kind.data, kind.covariates, num_samples=400, seed=1)
    within(w.logsumexp(0) - math.log(400), kind.log_evidence, w.exp().std(0) / w.exp().mean(0) / 20, floor=0.02)
    within(w.mean(), kind.log_evidence.mean(), 0.0, floor=0.1)


def inference_gaps(f: Callable, kind: Kind) -> None:
    """Both parts add up to the gap, which is zero here, whether the refined guide has converged or not."""
    options = {"method": "importance", "num_samples": 100, "num_steps": 15, "seed": 0, "progress": False}
    found = f(kind.program, kind.data, kind.covariates, family="full", **options)
    close(found.log_marginal, kind.log_evidence, kind.tolerance)
    close(found.elbo, kind.elbo, kind.tolerance)
    close(found.approximation + found.amortization, torch.zeros(ROWS), kind.tolerance)
    assert (found.approximation > -0.3).all()


def reliability(f: Callable, kind: Kind) -> None:
    found = f(kind.program, kind.data, kind.covariates, num_samples=100, seed=0, progress=False)
    is_reliable(found, kind)


def is_reliable(found: Any, kind: Kind) -> None:
    close(found.log_marginal, kind.log_evidence, kind.tolerance)
    close(found.elbo, kind.elbo, kind.tolerance)
    close(found.ess / found.num_samples, torch.ones(ROWS), 1e-3)
    within(found.kl, kind.kl, 2.0 / found.num_samples**0.5)


def posterior_draws(f: Callable, kind: Kind) -> None:
    options = {"num_samples": 1000, "num_proposals": 1000, "sampler": pvae.checks.Sampler(4, 20, 20, 2)}
    found = f(kind.program, kind.data, kind.covariates, **options, seed=0, progress=False)
    assert set(found.method) == {"guide"}
    has_moments(found.values, kind, 1000)


def has_moments(draws: dict[str, torch.Tensor], kind: Kind, effective: float, summed_out: tuple[str, ...] = ()) -> None:
    """By site (samples, data, *event): means and standard deviations of the latents that count."""
    for name, mean in kind.means.items():
        if name in summed_out:
            continue
        counts, sd = ~mean.isnan(), kind.sds[name]
        values = _tensor(draws[name])
        within(values.mean(0)[counts], mean[counts], sd[counts] / effective**0.5)
        within(values.std(0)[counts] / sd[counts], 1.0, 1 / effective**0.5)


def reference_posterior(f: Callable, kind: Kind) -> None:
    sampler = pvae.checks.Sampler(num_chains=16, num_warmup=30, num_samples=40, max_leapfrog=3)
    found = f(kind.program, kind.data, kind.covariates, sampler=sampler, seed=0, progress=False)
    has_moments(found.draws(), kind, 150, summed_out=("label",))


def impute(f: Callable, kind: Kind) -> None:
    """Complete data come back; a hidden entry is drawn from its exact conditional."""
    rows = kind.data
    complete = f(kind.program, rows, kind.covariates, num_samples=3, num_proposals=100, seed=0, progress=False).draws
    for drawn, leaf in zip(tree_leaves(complete), tree_leaves(rows), strict=True):
        assert drawn.shape == (3, *leaf.shape)
        seen = ~leaf.isnan()
        assert torch.equal(drawn[:, seen], leaf[seen].expand(3, -1).to(drawn))
    if not kind.missing:
        return
    hidden = tree_map(torch.clone, rows)
    site = hidden if isinstance(hidden, torch.Tensor) else hidden["x"]
    known = site[:, 0].clone()
    counts = ~known.isnan()
    site[:, 0] = torch.nan
    draws = f(kind.program, hidden, kind.covariates, num_samples=1000, num_proposals=4000, seed=0, progress=False).draws
    found = _tensor(draws if isinstance(draws, torch.Tensor) else draws["x"])[:, :, 0]
    standardized = ((_tensor(known) - found.mean(0)) / found.std(0))[counts]
    conditional = torch.distributions.Normal(0.0, 1.0).log_prob(standardized) - found.std(0)[counts].log()
    within(conditional, kind.left_out[counts, 0], 0.1)


def imputation_calibration(f: Callable, kind: Kind) -> None:
    found = f(kind.program, kind.data, kind.covariates, hidden=0.3, num_samples=49, num_proposals=500, seed=0)
    assert found.p_value > ALARM
    assert len(found.ranks) > 3


def sbc(f: Callable, kind: Kind) -> None:
    found = f(kind.program, kind.data, kind.covariates, num_simulations=300, num_samples=49, seed=0)
    is_calibrated(found, kind)


def is_calibrated(found: Any, kind: Kind) -> None:
    assert found.p_value > ALARM, found.p_values
    assert set(kind.means) <= set(found.ranks)


def bdmc(f: Callable, kind: Kind) -> None:
    """Under an exact guide every chain's weight is the evidence of the row that was simulated."""
    covariates = kind.covariates
    found = f(kind.program, ROWS, covariates, estimator=pvae.AIS(3), num_chains=2, seed=0, progress=False)
    close(found.lower, found.upper, max(1e-6, 10 * kind.tolerance))
    assert found.lower.isfinite().all()


def typicality(f: Callable, kind: Kind) -> None:
    found = f(kind.program, kind.data, kind.covariates, num_simulations=300, num_samples=8, seed=0)
    is_typical(found, kind)


def is_typical(found: Any, kind: Kind) -> None:
    assert found.p_value.shape == (ROWS,)
    assert found.atypical.sum() <= 4, found.p_value
    assert found.p_value.min() > 0.0


def latent_structure(f: Callable, kind: Kind) -> None:
    is_structured(f(kind.program, kind.data, kind.covariates, num_samples=100, seed=0), kind)


def is_structured(found: Any, kind: Kind, floor: float = 0.05) -> None:
    of_surgery(found.surgery, kind, floor)
    assert set(found.kl) == set(kind.means)
    if all(np.isfinite(v).all() for v in found.kl.values()) and kind.name not in JOINT:
        within(sum(values.sum() for values in found.kl.values()), kind.kl.mean(), 0.0, floor=floor)


JOINT = (
    "flow",
    "needs data",
    "covariates",
    "factor",
    "dict",
    "tuple",
    "hidden",
    "enumerated",
    "hierarchy",
    "state_space",
    "missingness",
)
"""Kinds whose guide's entries are joint: the divergences of their marginals do not add up."""


def of_surgery(found: Any, kind: Kind, floor: float = 0.05) -> None:
    within(found.kl, kind.kl.mean(), 0.0, floor=floor)
    within(found.reconstruction, (kind.elbo + kind.kl).mean(), 0.0, floor=2 * floor)
    within(found.mutual_information + found.marginal_kl, found.kl, 0.0, floor=2 * floor)


def elbo_surgery(f: Callable, kind: Kind) -> None:
    of_surgery(f(kind.program, kind.data, kind.covariates, num_samples=100, seed=0), kind)


def rate_distortion(f: Callable, kind: Kind) -> None:
    found = f({1.0: kind.program}, kind.data, kind.covariates, num_samples=200, seed=0)
    within(found.rate, kind.kl.mean(), 0.01, floor=0.02)
    within(found.elbo, kind.elbo.mean(), 0.01 if kind.has_globals else 0.0, floor=kind.tolerance)


def predictive_check(f: Callable, kind: Kind) -> None:
    for which in ("posterior", "prior"):
        found = f(kind.program, kind.data, kind.covariates, kind=which, num_samples=200, seed=0)
        is_reproduced(found, kind)


def is_reproduced(found: Any, kind: Kind) -> None:
    assert min(found.p_values.values()) > 0.01
    assert len(found.p_values) >= 5


def prior_predictive(f: Callable, kind: Kind) -> None:
    """The draws lack what the data lack, and their ranks among the data are those of draws of the same model."""
    found = f(kind.program, kind.data, kind.covariates, num_samples=50, seed=0)
    assert np.isfinite(found.x).sum() * 50 == np.isfinite(found.drawn).sum()
    for column, drawn in zip(found.x.T, np.moveaxis(found.drawn, 2, 0), strict=True):
        known = column[np.isfinite(column)]
        if len(known):
            rank = np.mean([(drawn[np.isfinite(drawn)] < value).mean() for value in known])
            assert 0.1 < rank + 0.5 * np.mean([(drawn == value).mean() for value in known]) < 0.9


def marginal_pit(f: Callable, kind: Kind) -> None:
    found = f(kind.program, kind.data, kind.covariates, num_samples=99, seed=0)
    assert found.p_value > ALARM
    counts = tree_leaves(kind.data) if kind.left_out is None else [kind.left_out]  # NaN where missing, and where masked
    assert np.isfinite(found.pit).sum() == sum(int(leaf.isfinite().sum()) for leaf in counts)
    assert 0.3 < np.nanmean(found.pit) < 0.7


def leave_one_feature_out(f: Callable, kind: Kind) -> None:
    """Right wherever its own k-hat calls the weights reliable."""
    found = f(kind.program, kind.data, kind.covariates, num_samples=4000, seed=0)
    expected = kind.left_out if kind.left_out is not None else kind.log_evidence
    counts = ~expected.isnan() & (_tensor(found.pareto_k) < 0.6)
    assert counts.sum() >= 0.5 * (~expected.isnan()).sum()
    within(_tensor(found.elpd)[counts], expected[counts], 0.05)


def diagnose(f: Callable, kind: Kind) -> None:
    """Each part obeys the law of its own function, or the report says why it was left out."""
    found = f(kind.program, kind.data, kind.covariates, num_samples=100, num_simulations=200, seed=0, progress=False)
    laws = {
        "reliability": (reliability, is_reliable),
        "structure": (latent_structure, lambda part, of: is_structured(part, of, 0.4)),
        "calibration": (sbc, is_calibrated),
        "typicality": (typicality, is_typical),
        "predictive": (predictive_check, is_reproduced),
    }
    for name, (function, law) in laws.items():
        part = getattr(found, name)
        words = refusal(function.__name__, kind.name)
        if words is None or (name, kind.name) == ("predictive", "factor"):  # which the posterior's check can do
            assert part is not None, found.skipped[name]
            law(part, kind)
        else:
            assert part is None, f"{name} was done, though {function.__name__} must refuse"
            assert _mentions(found.skipped[name], words), found.skipped[name]


def compare(f: Callable, kind: Kind) -> None:
    known = kind.log_evidence.numpy() - 1.0
    models = {"program": kind.program, "known": known}
    options = {"method": "importance", "num_samples": 200, "seed": 0, "progress": False}
    found = f(models, kind.data, kind.covariates, **options)
    frame = found.frame
    tolerance = 1.0 if kind.has_globals else ROWS * kind.tolerance
    close(frame.loc["program", "elpd"], kind.log_evidence.sum(), tolerance)
    close(frame.loc["known", "elpd_diff"], -ROWS, tolerance)


def latent_effects(f: Callable, kind: Kind) -> None:
    """Decoders are linear here, but for one class each: a step of one sd moves what the slope says, and two twice as far."""
    found = f(kind.program, kind.data, kind.covariates, num_samples=2, num_proposals=20, seed=0)
    assert found.effect.shape[0] > 0
    if kind.name != "enumerated":
        within(found.traversal[:, 2], found.effect, 0.0, floor=2e-3)
        within(found.traversal[:, 0], -2 * found.effect, 0.0, floor=4e-3)


def agreement(f: Callable, kind: Kind) -> None:
    """A program agrees with itself, latent by latent."""
    found = f([kind.program] * 2, kind.data, kind.covariates, num_neighbors=3, num_samples=5, seed=0)
    assert set(found.holds) == set(kind.means)
    close(found.cca, torch.ones(1), 1e-6)
    close(found.neighbors, torch.ones(1), 1e-6)


def power_scaling(f: Callable, kind: Kind) -> None:
    """What the prior pulls one way the likelihood pulls the other, at the first order."""
    found = f(kind.program, kind.data, kind.covariates, num_samples=1000, seed=0)
    assert set(found.prior) == set(kind.means)
    assert (found.pareto_k < 0.6).all()
    if kind.name not in ("factor", "enumerated", "semi_supervised"):  # a third term; posteriors that are not symmetric
        for name, shift in found.prior_shift.items():
            within(shift, -found.likelihood_shift[name], 0.06)


def local_calibration(f: Callable, kind: Kind) -> None:
    """An exact guide is not told from the posterior at half of the rows."""
    options = {"num_simulations": 100, "num_null": 40, "num_samples": 50}
    found = f(kind.program, kind.data, kind.covariates, **options, seed=0, progress=False)
    assert found.p_value.shape == (ROWS,)
    assert np.median(found.p_value) > 1 / 41


def from_pyro_svi(f: Callable, kind: Kind) -> None:
    groups = ("posterior", "sample_stats", "amortized_diagnostics", "observed_data")
    found = f(kind.program, kind.data, kind.covariates, num_samples=300, groups=groups, seed=0, progress=False)
    weights = _tensor(found["sample_stats"]["log_weight"].values)[0]
    if not kind.has_globals:
        close(weights, kind.log_evidence.expand(300, ROWS), kind.tolerance)
    within(weights.mean(0), kind.elbo, 0.05 if kind.has_globals else 0.0, floor=kind.tolerance)
    has_moments({n: found["posterior"][n].values[0] for n in kind.means}, kind, 300)


def fit(f: Callable, kind: Kind) -> None:
    """With a vanishing learning rate the loss is minus the evidence, which an exact guide meets without any noise."""
    found = f(
        kind.program,
        kind.data,
        kind.covariates,
        epochs=2,
        batch_size=ROWS,
        learning_rate=1e-12,
        start_at_data=False,
        seed=0,
        progress=False,
        **kind.fit_options,
    )
    if kind.name != "hidden":  # whose dropout is active in training
        close(found["loss"], [-float(kind.joint) / ROWS] * 2, max(1e-6, kind.tolerance))
    within(found["elbo"], [float(kind.elbo.mean())] * 2, 0.2 if kind.has_globals else 0.0, floor=1e-5)


def anomaly_scores(f: Callable, kind: Kind) -> None:
    """The score is minus the evidence, or minus the bound."""
    for score, expected in {"evidence": kind.log_evidence, "elbo": kind.elbo}.items():
        found = f(kind.program, kind.data, kind.covariates, score=score, num_samples=400, seed=0, progress=False)
        within(-found.score, expected, found.error, floor=kind.tolerance)


def detect(f: Callable, kind: Kind) -> None:
    """Beside itself a row's p-value is its rank by evidence; rows as strange count or not, as rounding has it."""
    if kind.has_globals:
        return  # whose noise is shared by all rows; the law of `anomaly_scores` covers the scores
    known = pvae.data.as_data(kind.data, kind.covariates)
    found = f(kind.program, kind.data, kind.covariates, calibration=known, num_samples=200, seed=0, progress=False)
    ahead = kind.log_evidence[:, None] - kind.log_evidence
    p = torch.as_tensor(found.dataset.p_value.values) * (ROWS + 1)
    assert (p >= 1 + (ahead > kind.tolerance).sum(1) - 1e-9).all()
    assert (p <= 1 + (ahead >= -kind.tolerance).sum(1) + 1e-9).all()


def representation_quality(f: Callable, kind: Kind) -> None:
    """Labels that tell the upper half of a posterior mean are learned, though rows are few."""
    means = torch.cat([mean.reshape(ROWS, -1).double() for mean in kind.means.values()], 1)
    column = torch.where(means.isnan().any(0), 0.0, means.nan_to_num().var(0)).argmax()
    labels = means[:, column].argsort().argsort() >= ROWS // 2
    options = {"labels": labels, "num_neighbors": 3, "num_samples": 400}
    found = f(kind.program, kind.data, kind.covariates, **options, seed=0, progress=False)
    assert float(found.value.sel(representation="latents", metric="linear probe")) > 0.6


LAWS: dict[str, Callable[[Callable, Kind], None]] = {
    law.__name__: law
    for law in (
        agreement,
        anomaly_scores,
        bdmc,
        compare,
        detect,
        diagnose,
        elbo,
        elbo_surgery,
        fit,
        from_pyro_svi,
        imputation_calibration,
        impute,
        inference_gaps,
        joint_log_weights,
        latent_effects,
        latent_structure,
        leave_one_feature_out,
        local_calibration,
        log_conditional,
        log_marginal,
        log_weights,
        marginal_pit,
        posterior_draws,
        power_scaling,
        predictive_check,
        prior_predictive,
        rate_distortion,
        reference_posterior,
        refine,
        reliability,
        representation_quality,
        sbc,
        typicality,
    )
}

NO_MISSING = r"missing|NaN"
ONE_SITE = r"one data site"
SEVERAL = [name for name, kind in KINDS.items() if not isinstance(kind.data, torch.Tensor)]
AND_A_MASK = ["missingness"]
"""Kinds that observe the mask of their data beside them."""
GLOBAL_REFUSERS = (
    *(
        "agreement",
        "bdmc",
        "diagnose",
        "elbo_surgery",
        "imputation_calibration",
        "impute",
        "inference_gaps",
        "latent_effects",
        "latent_structure",
        "local_calibration",
    ),
    *("posterior_draws", "power_scaling", "reference_posterior", "refine"),
    *("reliability", "representation_quality", "typicality"),
)
REFUSALS: dict[tuple[str, str], str] = {
    **dict.fromkeys([("bdmc", k) for k in ("needs data", "padded", "hidden")], r"without (them|data)"),
    **{(f, k): r"'mu'" for f in GLOBAL_REFUSERS for k, kind in KINDS.items() if kind.has_globals},
    **{
        (f, "factor"): r"penalty"
        for f in (
            *("bdmc", "local_calibration", "marginal_pit", "predictive_check", "prior_predictive", "sbc", "typicality"),
        )
    },
    **{("latent_effects", k): ONE_SITE for k in SEVERAL + AND_A_MASK},
    **{(f, k): ONE_SITE for f in ["leave_one_feature_out", "marginal_pit", "prior_predictive"] for k in AND_A_MASK},
    ("imputation_calibration", "tuple"): ONE_SITE,
    ("impute", "tuple"): ONE_SITE,
    ("log_conditional", "missingness"): r"which entries are missing",
    ("imputation_calibration", "sentence"): r"after a missing one",
    ("leave_one_feature_out", "sentence"): r"not a product over its entries",
    ("leave_one_feature_out", "semi_supervised"): r"'x' depends on 'y'",
    ("latent_effects", "sentence"): r"has no mean",
    **{
        ("imputation_calibration", k): NO_MISSING
        for k in ("needs data", "covariates", "factor", "masked", "enumerated", "hidden", "dict")
    },
}
"""What a function cannot do for a kind, and what its refusal must name."""

NOT_ASKED = {
    ("imputation_calibration", "padded"): "NaN in its data means the end of a row, not an entry to impute",
}
"""Pairs that mean nothing."""

SOMEBODY_ELSE = "the refusal is an error of Pyro's or torch's that names nothing of the caller's"
IGNORED = "rows are simulated as if the factor were not there"
FAULTS: dict[tuple[str, str], str] = {}
"""What is wrong today. An entry is struck out by whoever mends it: until then the test of its pair must fail."""


def refusal(function: str, kind: str) -> str | None:
    """What the refusal of a pair must name; None where there must be a number."""
    return REFUSALS.get((function, kind))


def _mentions(text: str, words: str) -> bool:
    return re.search(words, text) is not None


@dataclass(frozen=True)
class Ran:
    """How a pair's law came out, and what the call did not leave as it was."""

    error: Exception | None
    changes: list[str]


@functools.cache
def ran(function: str, kind: str) -> Ran:
    world, error = World(KINDS[kind]), None
    try:
        LAWS[function](FUNCTIONS[function], KINDS[kind])
    except Exception as caught:  # judged by the tests
        error = caught
    return Ran(error, world.changes())


def pairs(faults: dict[tuple[str, str], str]) -> list[Any]:
    """All pairs; those at fault must fail."""
    found = []
    for pair in itertools.product(sorted(LAWS), KINDS):
        marks = [pytest.mark.xfail(strict=True, reason=faults[pair])] if pair in faults else []
        if pair not in NOT_ASKED:
            found.append(pytest.param(*pair, marks=marks, id=" ".join(pair)))
    return found


@pytest.mark.parametrize(("function", "kind"), pairs(FAULTS))
def test_the_right_number_or_a_refusal_that_names_why(function, kind):
    words, error = refusal(function, kind), ran(function, kind).error
    if words is None:
        if error is not None:
            raise error
        return
    assert error is not None, f"{function} of {kind!r} refuses no longer: strike its entry out of REFUSALS"
    assert isinstance(error, ValueError | TypeError), repr(error)
    assert _mentions(str(error), words), str(error)


MOVED: dict[tuple[str, str], str] = {}
"""Calls that leave something else than they found."""


@pytest.mark.parametrize(("function", "kind"), pairs(MOVED))
def test_a_seeded_call_leaves_everything_as_it_was(function, kind):
    changes = [c for c in ran(function, kind).changes if function != "fit" or not c.startswith("values of")]
    assert not changes


CONVERSIONS: dict[str, Callable[[torch.Tensor], Any]] = {
    "array": lambda x: x.numpy(),
    "frame": lambda x: pd.DataFrame(x.numpy(), columns=["a", "b", "c"]),
    "sparse": lambda x: scipy.sparse.csr_array(x.numpy()),
    "Data": lambda x: pvae.data.as_data(x),
}
SLOW = {"diagnose", "inference_gaps", "reference_posterior", "refine"}
"""Their data go through the same door, and each takes a second."""


@pytest.mark.parametrize("conversion", CONVERSIONS)
@pytest.mark.parametrize("function", sorted(set(LAWS) - SLOW - {"bdmc"}))
def test_every_kind_of_data_gives_the_right_number(function, conversion):
    kind = KINDS["vae"]
    convert = CONVERSIONS[conversion]

    def called(program: Any, data: Any, covariates: Any = None, **options: Any) -> Any:
        return FUNCTIONS[function](program, convert(data), covariates, **options)

    LAWS[function](called, kind)


FEW: dict[str, dict[str, Any]] = {
    "detect": {"calibration": torch.ones(20, 3)},
    "diagnose": {"num_samples": 50, "num_simulations": 50},
    "fit": {"epochs": 1},
    "compare": {"method": "importance"},
    "inference_gaps": {"num_steps": 2, "method": "importance"},
    "log_conditional": {"given": torch.tensor([True, False, False]), "method": "importance"},
    "log_marginal": {"method": SHORT},
    "posterior_draws": {"sampler": pvae.checks.Sampler(2, 2, 4, 1)},
    "reference_posterior": {"sampler": pvae.checks.Sampler(2, 2, 4, 1)},
    "refine": {"num_steps": 2},
    "representation_quality": {"labels": torch.arange(160) % 2},
}
"""Little work, for calls that must end in an error."""
REFUSING = sorted(set(FUNCTIONS) - {"bdmc", "sbc"})


@functools.cache
def refusal_of_a_row(function: str) -> str:
    """The words on 160 rows of counts, of which number 150 holds a negative one."""
    torch.manual_seed(0)
    likelihood = pvae.Factorized(pyro.distributions.Poisson, pvae.MLP(2, (4,)), 3)
    posterior = pvae.Factorized(pyro.distributions.Normal, pvae.MLP(3, (4,)), 2)
    vae = pvae.VAE(pvae.standard_normal(2), likelihood, posterior)
    x = torch.poisson(torch.full((160, 3), 3.0))
    x[150, 1] = -2.0
    first = {"agreement": [vae, vae], "rate_distortion": {1.0: vae}, "compare": {"program": vae}}.get(function, vae)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        FUNCTIONS[function](first, x, seed=0, **FEW.get(function, {}))
    return str(caught.value)


@pytest.mark.parametrize("function", REFUSING)
def test_a_row_outside_the_support_is_refused(function):
    assert re.match("x .*support of Poisson.* e.g. -2: .*counts", refusal_of_a_row(function))


@pytest.mark.parametrize("function", REFUSING)
def test_a_row_outside_the_support_is_named_by_its_number_in_the_data(function):
    assert re.search(r"\b1 of 160 rows \(150\)", refusal_of_a_row(function))


BOUND = 3 * 2**20
"""Bytes; on these rows each tensor of the work is up to half as large, and there are ten and more of them."""
MANY, ROWS_THEN = {"num_samples": 250}, 256
LOADS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("elbo", "joint_log_weights"), MANY),
    **{name: {**MANY, "method": "importance"} for name in ("compare", "log_marginal")},
    **dict.fromkeys(("log_weights", "marginal_pit", "predictive_check", "rate_distortion"), MANY),
    **dict.fromkeys(("leave_one_feature_out", "reliability"), MANY),
    **{name: {"num_samples": 4} for name in ("elbo_surgery", "latent_structure")},
    "agreement": MANY,
    "log_conditional": {**MANY, "method": "importance", "given": torch.tensor(True)},
    "power_scaling": MANY,
    "local_calibration": {"num_simulations": 256, "num_samples": 250},
    "anomaly_scores": MANY,
    "detect": {**MANY, "calibration": many_rows(ROWS_THEN)[1]},
    "representation_quality": {**MANY, "labels": torch.arange(ROWS_THEN) % 2},
    "bdmc": {"num_chains": 50, "estimator": pvae.AIS(2)},
    "diagnose": {"num_samples": 250, "num_simulations": 256},
    "prior_predictive": MANY,
    "from_pyro_svi": {"num_samples": 50},
    "imputation_calibration": {"num_proposals": 250},
    "latent_effects": {"num_proposals": 250},
    "inference_gaps": {"num_samples": 250, "num_steps": 1, "method": "importance"},
    "impute": {"num_proposals": 250},
    "posterior_draws": {"num_samples": 100, "num_proposals": 250},
    "reference_posterior": {"sampler": pvae.checks.Sampler(16, 4, 8, 2)},
    "refine": {"num_steps": 1, "num_particles": 250},
    "sbc": {},
    "typicality": {"num_samples": 250},
}
"""Work that takes many times the bound if it is done at once. `fit` is bounded by its batches."""
BOUNDED = {"agreement", "bdmc", "compare", "elbo", "from_pyro_svi", "impute", "inference_gaps", "joint_log_weights"}
BOUNDED |= {"local_calibration", "log_conditional", "power_scaling"}
BOUNDED |= {"anomaly_scores", "detect", "log_marginal", "log_weights", "refine", "representation_quality"}
BOUNDED |= {
    "diagnose",
    "elbo_surgery",
    "imputation_calibration",
    "latent_effects",
    "latent_structure",
    "leave_one_feature_out",
    "marginal_pit",
}
BOUNDED |= {
    "posterior_draws",
    "predictive_check",
    "prior_predictive",
    "rate_distortion",
    "reference_posterior",
    "reliability",
    "sbc",
    "typicality",
}
UNBOUNDED = dict.fromkeys(set(LOADS) - BOUNDED, "takes no max_bytes, or holds more")
"""Functions that know no bound, or do not keep it."""


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(f, marks=[pytest.mark.xfail(strict=True, reason=UNBOUNDED[f])] if f in UNBOUNDED else [])
        for f in sorted(LOADS)
    ],
)
def test_memory_stays_within_the_bound(function):
    """What tensors hold at once, results included, is at most a quarter above `max_bytes`."""
    call = FUNCTIONS[function]
    assert "max_bytes" in inspect.signature(call).parameters
    program, x = many_rows(ROWS_THEN)
    if function == "imputation_calibration":  # which the program above cannot take
        program, x = pvae.VAE(pvae.standard_normal(2), *normal_parts()), x.float()
    first = {"agreement": [program, program], "rate_distortion": {1.0: program}, "compare": {"program": program}}.get(
        function, program
    )
    options = dict(LOADS[function], seed=0, max_bytes=BOUND)
    given = (first, ROWS_THEN) if function == "bdmc" else (first, x)
    with Held() as held:
        call(*given, **options)
    assert held.most <= 1.25 * BOUND, f"{held.most / BOUND:.1f} times the bound"


def normal_parts() -> tuple[Any, Any]:
    """A likelihood of three entries and a posterior of two latents."""
    family = pyro.distributions.Normal
    return pvae.Factorized(family, pvae.MLP(2, (4,)), 3, scale=1.0), pvae.Factorized(family, pvae.MLP(3, (4,)), 2)


class Held(TorchDispatchMode):
    """How many bytes the tensors made inside hold at once, at most: a storage counts from its first use until it dies."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and not leaf.is_meta:  # which has no numbers
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def test_the_count_of_bytes_sees_what_is_held():
    with Held() as held:
        kept = torch.ones(1000, dtype=torch.float64)
        for _ in range(5):
            kept = kept + 1
    assert held.most == 16_000
    assert held.now == 8_000


SIMULATING = ("bdmc", "sbc")
"""Functions that make their own data."""
KNOWN_AS = {"x": "data", "chunk_size": "max_bytes or batch_size", "context": "covariates", "num_draws": "num_samples"}
"""Names that mean what others mean by another name."""
SIGNATURES: dict[str, str] = {}
"""Functions whose signature is not the common one yet."""


def complaints(function: str) -> list[str]:
    parameters = inspect.signature(FUNCTIONS[function]).parameters
    names, found = list(parameters), []
    if function not in SIMULATING and names[1:3] != ["data", "covariates"]:
        found.append(f"begins with {names[:3]}")
    if parameters["covariates"].default is not None:
        found.append("covariates have a default other than None")
    positional = [n for n in names[3:] if parameters[n].kind is not inspect.Parameter.KEYWORD_ONLY]
    found += [f"{n} goes by position" for n in positional]
    found += [f"{n} is called {KNOWN_AS[n]} elsewhere" for n in names if n in KNOWN_AS]
    if "seed" not in names or parameters["seed"].default is not None:
        found.append("seed=None is missing")
    return found


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(f, marks=[pytest.mark.xfail(strict=True, reason=SIGNATURES[f])] if f in SIGNATURES else [])
        for f in sorted(FUNCTIONS)
    ],
)
def test_one_signature(function):
    assert not complaints(function)


def test_every_function_of_a_program_has_a_law():
    assert set(FUNCTIONS) == set(LAWS)
    assert set(LOADS) == set(LAWS) - {"fit"}


def test_every_graph_is_among_the_kinds():
    graphs = {value for value in vars(pvae.graphs).values() if inspect.isclass(value) and "guide" in vars(value)}
    assert graphs <= {type(kind.program) for kind in KINDS.values()}


def test_the_tables_name_pairs_that_there_are():
    known = set(itertools.product(LAWS, KINDS))
    for table in (REFUSALS, NOT_ASKED, FAULTS):
        assert set(table) <= known
