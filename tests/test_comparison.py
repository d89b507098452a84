"""Comparison by held-out evidence: numbers against numpy, weights against EM, refusals, and what the notes say."""

import math
import re

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import PPCA, BetaBernoulli, EnumeratedMixture
from scipy import stats

from pyrovae.arviz import to_compare_frame, to_elpd_data
from pyrovae.comparison import (
    Comparison,
    Pointwise,
    compare,
    crps,
    factor_analysis,
    probabilistic_pca,
    pseudo_bma_weights,
    stacking_weights,
)
from pyrovae.comparison.pointwise import Difference, averaged
from pyrovae.comparison.table import SHOWN
from pyrovae.data import as_data
from pyrovae.evaluation import AIS, Importance, Refined, log_marginal
from pyrovae.plots.style import ORANGE
from pyrovae.presets import build_vae, suggest


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def densities(rows=300, models=4, seed=0, level=0.0):
    generator = np.random.default_rng(seed)
    log_p = generator.normal(size=(rows, 1)) * 5 + generator.normal(size=(rows, models)) * 1.5
    return log_p + 0.3 * np.arange(models) + level


def expectation_maximization(log_p, steps=200_000):
    """An independent solver in log space, run until nothing moves."""
    log_w = np.full(log_p.shape[1], -math.log(log_p.shape[1]))
    for _ in range(steps):
        joint = log_p + log_w
        shares = joint - np.logaddexp.reduce(joint, axis=1, keepdims=True)
        new = np.logaddexp.reduce(shares, axis=0) - math.log(len(log_p))
        if np.abs(np.exp(new) - np.exp(log_w)).max() < 1e-13:
            break
        log_w = new
    return np.exp(log_w)


@pytest.mark.parametrize("level", [0.0, 3000.0, -3000.0])
@pytest.mark.parametrize("models", [2, 3, 5])
def test_stacking_is_the_maximum_that_em_finds(models, level):
    log_p = densities(models=models, seed=models, level=level)
    weights = stacking_weights(log_p)
    np.testing.assert_allclose(weights, expectation_maximization(log_p), atol=1e-6)
    assert weights.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(10))
def test_stacking_satisfies_the_conditions_of_a_maximum(seed):
    """With models of weight zero among them: the gradient is 1 where the weight is positive, at most 1 elsewhere."""
    generator = np.random.default_rng(seed)
    log_p = generator.normal(size=(200, 6)) * generator.uniform(0.1, 4) + generator.normal(size=6)
    weights = stacking_weights(log_p)
    p = np.exp(log_p - log_p.max(1, keepdims=True))
    gradient = (p / (p @ weights)[:, None]).mean(0)
    np.testing.assert_allclose(gradient[weights > 0], 1.0, atol=1e-8)
    assert gradient.max() < 1 + 1e-8


def test_identical_models_and_single_models_have_weights_too():
    log_p = densities(models=1)
    assert stacking_weights(log_p).tolist() == [1.0]
    twins = stacking_weights(np.hstack([log_p, log_p, log_p - 5.0]))
    assert twins[:2].sum() == pytest.approx(1.0)
    assert twins[2] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.filterwarnings("ignore")
def test_arviz_weights_become_equal_far_from_zero_and_ours_do_not():
    az = pytest.importorskip("arviz")
    if not az.__version__.startswith("0."):
        pytest.skip("for ArviZ 0.x")
    near, far = ({f"m{i}": column for i, column in enumerate(densities(level=level).T)} for level in (0.0, -3000.0))
    ours = [compare(models).frame["weight"].sort_index() for models in (near, far)]
    theirs = [az.compare(to_elpd_data(compare(models)))["weight"].sort_index() for models in (near, far)]
    np.testing.assert_allclose(ours[0], ours[1], atol=1e-9)
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-3)
    np.testing.assert_allclose(theirs[1], 0.25, atol=1e-3)
    assert np.abs(ours[1] - 0.25).max() > 0.1


def test_pseudo_bma_is_softmax_under_the_bootstrap():
    log_p = densities(models=3)
    weights = pseudo_bma_weights(log_p, num_draws=20_000)
    generator = np.random.default_rng(7)
    totals = np.stack([len(log_p) * generator.dirichlet(np.ones(len(log_p))) @ log_p for _ in range(4_000)])
    expected = np.exp(totals - np.logaddexp.reduce(totals, 1)[:, None])
    error = expected.std(0) / math.sqrt(4_000) + 1 / math.sqrt(20_000)
    assert (np.abs(weights - expected.mean(0)) < 5 * error).all()
    np.testing.assert_allclose(weights, pseudo_bma_weights(log_p - 3000.0, num_draws=20_000), atol=1e-9)


def test_the_table_is_numpys():
    log_p = densities(models=3)
    table = compare({"a": log_p[:, 0], "b": torch.tensor(log_p[:, 1]), "c": list(log_p[:, 2])}).frame
    totals = log_p.sum(0)
    order = np.argsort(-totals)
    assert list(table.index) == ["abc"[i] for i in order]
    best = log_p[:, order[0]]
    differences = log_p[:, order] - best[:, None]
    np.testing.assert_allclose(table["elpd"], totals[order], atol=1e-9)
    np.testing.assert_allclose(table["elpd_diff"], differences.sum(0), atol=1e-9)
    np.testing.assert_allclose(table["se"], math.sqrt(300) * log_p[:, order].std(0), atol=1e-9)
    np.testing.assert_allclose(table["dse"], math.sqrt(300) * differences.std(0), atol=1e-9)
    assert (table["elpd_diff"] <= 0).all()
    assert table["rank"].tolist() == [0, 1, 2]


def test_programs_are_evaluated_on_the_same_rows():
    right, wrong = PPCA.random(exact=True), PPCA.random(seed=5, exact=True)
    x = right.simulate(60)
    result = compare({"wrong": wrong, "right": right}, x, method="importance", num_samples=50, seed=0)
    assert list(result.frame.index) == ["right", "wrong"]
    for name, program in (("right", right), ("wrong", wrong)):
        assert result.frame.loc[name, "elpd"] == pytest.approx(program.log_evidence(x).sum().item(), abs=1e-6)
        assert result.frame.loc[name, "gap"] == pytest.approx(0.0, abs=1e-6)
    assert result.frame["k_converged"].all()
    assert result.notes == ()


def rotated_pair():
    """Two models with the same p(x): one guide fits its posterior well, the other's axes are turned against it."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(12, 4, generator=generator, dtype=torch.float64)).Q
    weight = basis * torch.tensor([9.0, 3.0, 1.0, 0.5], dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64)).Q
    return PPCA(weight, 0.1), PPCA(weight @ turn, 0.1)


def test_models_with_the_same_density_are_found_equal_and_the_elbo_is_not_trusted():
    straight, turned = rotated_pair()
    x = straight.simulate(100)
    torch.testing.assert_close(straight.log_evidence(x), turned.log_evidence(x), rtol=0, atol=1e-9)
    result = compare(
        {"straight": straight, "turned": turned}, x, method=Refined(num_steps=120), num_samples=200, seed=0
    )
    assert any("inside the estimators' error" in note for note in result.notes)
    assert not result.told_apart("straight", "turned")
    table = result.frame
    assert abs(table["elbo"].iloc[0] - table["elbo"].iloc[1]) > 100
    error = 2 * math.hypot(table["dse"].max(), *table["mcse"]) + 1e-3
    assert abs(table["elpd_diff"].iloc[1]) < error
    assert any("the ELBO is no guide here" in note for note in result.notes)


def test_an_unreliable_guide_is_noted():
    ppca = PPCA.random(8, 12, noise=0.03)
    x = ppca.simulate(40)
    result = compare({"a": ppca}, x, method="importance", num_samples=100, seed=0)
    said = " ".join(result.notes)
    assert "Pareto k too large" in said
    assert "still rise with the number of samples" in said
    assert not result.frame["k_converged"].iloc[0]
    assert result.frame["pct_bad_k"].iloc[0] > 50
    assert "above 0.50, the limit for 100 samples" in said
    assert said.count("search for modes (method 'mixture')") == 2


@pytest.mark.parametrize(
    ("estimator", "remedy"),
    [
        (Importance(), "search for modes (method 'mixture')"),
        (Refined(), "take more steps (num_steps of Refined) or samples, or anneal (method 'ais')"),
        (AIS(), "take more temperatures (num_temperatures of AIS) or chains"),
        (None, "search for modes (method 'mixture')"),
    ],
)
def test_notes_advise_what_has_not_been_done(estimator, remedy):
    point = Pointwise(
        np.zeros(10),
        pareto_k=np.full(10, 0.6),
        half=np.full(10, -1.0),
        estimator=None if estimator is None else repr(estimator),
        num_samples=200,
    )
    result = compare({"a": point})
    assert [note.endswith(f"'a': {remedy}") for note in result.notes[:1]] == [True]
    assert result.notes[1].endswith(f"still rise with the number of samples: {remedy}")


def pair(difference, mcse=0.0, half=0.0):
    """Two models whose rows differ by ``difference`` plus or minus 1, so that over 100 rows dse is 10 nats."""
    rows = np.tile([1.0, -1.0], 50)
    other = Pointwise(rows - difference, mcse=np.full(100, mcse), half=rows - difference - half)
    return compare({"best": np.zeros(100), "other": other})


@pytest.mark.parametrize(
    ("result", "apart", "lead"),
    [
        (pair(0.21), True, "best is ahead of other by 0.21 ± 0.10 nats per datum, paired over 100 rows."),
        (pair(0.19), False, "best and other are not told apart: 0.19 ± 0.10 nats per datum, paired over 100 rows."),
        (pair(0.21, mcse=0.04), True, "best is ahead of other by 0.21 ± 0.10 nats per datum, paired over 100 rows."),
        (
            pair(0.21, mcse=0.4),
            False,
            "best and other are not told apart: 0.21 ± 0.11 nats per datum, paired over 100 rows.",
        ),
        (
            pair(0.21, half=0.22),
            True,
            "The order of best and other lies inside the estimators' error: 0.21 ± 0.10 nats per datum, paired over 100 rows.",
        ),
        (pair(0.21, half=0.20), True, "best is ahead of other by 0.21 ± 0.10 nats per datum, paired over 100 rows."),
    ],
)
def test_two_models_are_told_apart_beyond_two_standard_errors_and_the_bias(result, apart, lead):
    assert any(note.startswith("not told apart from 'best'") for note in result.notes) is not apart
    assert result.lead() == lead


@pytest.mark.parametrize(("num_samples", "bad"), [(200, 100.0), (None, 0.0), (10_000, 0.0)])
def test_a_bad_pareto_shape_is_bad_for_its_number_of_samples(num_samples, bad):
    point = Pointwise(np.zeros(4), pareto_k=np.full(4, 0.6), num_samples=num_samples)
    assert point.bad_k == bad
    assert (point.pareto_k > 0.7).mean() == 0  # whoever wants another limit


def test_every_column_of_the_table_is_explained():
    frame = compare({"a": np.zeros(3)}).frame
    for name in frame.columns:
        assert re.search(rf"^\s*\* .*``{name}``.*:", Comparison.__doc__, re.MULTILINE), name


def test_refits_are_averaged_and_their_spread_is_shown():
    base = densities(rows=100, models=1)[:, 0]
    result = compare({"a": [base, base + 1.0, base + 2.0], "b": base + 0.5})
    table = result.frame
    assert table.loc["a", "elpd"] == pytest.approx(base.sum() + 100)
    assert table.loc["a", "refit_sd"] == pytest.approx(100.0)
    assert table.loc["a", "num_refits"] == 3
    assert "refit_sd" in repr(result)
    assert any("training matters more" in note for note in result.notes)


@pytest.mark.parametrize(("spread", "apart"), [(0.2, True), (2.0, False)])
def test_a_lead_that_one_refit_makes_is_no_lead(spread, apart):
    """Over rows the difference is certain: what is left is the mean of two refits, whose error is their half distance."""
    rows = np.zeros(200)
    lead = [Pointwise(rows + 1 - spread), Pointwise(rows + 1 + spread)]
    table = compare({"one": lead, "other": Pointwise(rows)})
    found = table.difference("one", "other")
    assert found.error == pytest.approx(200 * spread)
    assert table.told_apart("one", "other") == apart
    assert ("is ahead of" in table.lead()) == apart
    assert found.p_worse == pytest.approx(stats.norm.cdf(-1 / spread))


def test_averages_of_refits_carry_their_errors():
    one, two = (
        Pointwise(
            np.zeros(3), mcse=np.full(3, v), elbo=np.full(3, -v), pareto_k=np.full(3, v), half=np.full(3, -10 * v)
        )
        for v in (0.3, 0.4)
    )
    both = averaged([one, two])
    np.testing.assert_allclose(both.half, -3.5)
    assert both.bias == pytest.approx(3 * 3.5)
    np.testing.assert_allclose(both.mcse, 0.25)
    np.testing.assert_allclose(both.elbo, -0.35)
    np.testing.assert_allclose(both.pareto_k, 0.4)


def test_baselines_are_one_word():
    truth = PPCA.random(2, 6, exact=True)
    train, test = truth.simulate(2000, seed=1), truth.simulate(200, seed=2)
    models = {"pca": probabilistic_pca, "fa": factor_analysis, "mine": lambda train, x: np.zeros(len(x)) - 100.0}
    table = compare({"truth": truth, **models}, test, train=train, method="importance", num_samples=20, seed=0).frame
    assert table.loc["truth", "elpd_diff"] > -15
    assert table.loc["mine", "rank"] == 3
    exact = dist.MultivariateNormal(train.mean(0), train.T.cov()).log_prob(test).sum().item()
    assert table.loc["pca", "elpd"] == pytest.approx(exact, abs=15)


def test_a_baseline_is_scikit_learns_density():
    truth = PPCA.random(2, 6)
    train, test = truth.simulate(500, seed=1), truth.simulate(50, seed=2)
    pca = probabilistic_pca(train, test, num_components=2)
    eigenvalues, vectors = torch.linalg.eigh(train.T.cov())
    noise = eigenvalues[:4].mean()
    kept = vectors[:, 4:] * (eigenvalues[4:] - noise).sqrt()
    exact = dist.MultivariateNormal(train.mean(0), kept @ kept.T + noise * torch.eye(6, dtype=torch.float64))
    np.testing.assert_allclose(pca.log_p, exact.log_prob(test).numpy(), atol=1e-8)
    with pytest.raises(ValueError, match="no missing entries"):
        factor_analysis(train, torch.full((2, 6), torch.nan))


def results():
    ppca = PPCA.random(exact=True)
    x = ppca.simulate(20)
    return ppca, x, log_marginal(ppca, x, method="importance", num_samples=30, seed=0)


def test_results_of_log_marginal_are_taken_as_they_are():
    ppca, _, result = results()
    table = compare({"a": result}).frame
    assert table.loc["a", "elpd"] == pytest.approx(float(result["log_marginal"].sum()))
    assert table.loc["a", "num_samples"] == 30
    assert ppca.training


@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, x: log_marginal(p, x + 1.0, method="importance", num_samples=30, seed=0), "differ in rows"),
        (
            lambda p, x: log_marginal(p, x[:10], method="importance", num_samples=30, seed=0),
            "different numbers of rows",
        ),
        (lambda p, x: log_marginal(p, x, method="importance", num_samples=40, seed=0), "differ in num_samples"),
        (lambda p, x: log_marginal(p, x, method="refined", num_samples=30, seed=0), "differ in estimator"),
        (
            lambda p, x: log_marginal(p, as_data(x, variant="grey"), method="importance", num_samples=30, seed=0),
            "differ in variant",
        ),
        (lambda p, x: Pointwise(np.zeros(20), measure="mass"), "differ in measure"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, message, refit):
    """Whether it is another model's result or another refit of the same model, whichever comes first."""
    ppca, x, _ = results()
    first = log_marginal(ppca, as_data(x, variant="static"), method="importance", num_samples=30, seed=0)
    second = change(ppca, x)
    every = [{"a": [first, second]}, {"a": [second, first]}] if refit else [{"first": first, "second": second}]
    for models in every:
        with pytest.raises(ValueError, match=message):
            compare(models)


class Observer(torch.nn.Module):
    """A factor model of four columns that observes a function of its data."""

    def __init__(self, view, scale=1.0):
        super().__init__()
        self.view, self.scale = view, scale

    def model(self, x, covariates=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            seen = self.view(x)
            pyro.sample(
                "x", dist.Normal(z[..., None].expand(*z.shape, seen.shape[-1]), self.scale).to_event(1), obs=seen
            )

    def guide(self, x, covariates=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (lambda x: x[:, :2], "differ in entries: 'all' 80.0, 'other' 40.0. Log densities of different columns"),
        (lambda x: x / 10, "differ in magnitude: .* changes with the unit"),
        (lambda x: x.log(), "differ in magnitude"),
        (lambda x: x[:, [0, 1, 2, 2]], "differ in magnitude"),
        (lambda x: x[:, [3, 1, 2, 0]].double(), None),
    ],
)
def test_programs_that_observe_other_numbers_are_refused(view, message):
    x = torch.rand(20, 4, generator=torch.Generator().manual_seed(0)) + 0.5
    models = {"all": Observer(lambda x: x), "other": Observer(view)}
    if message is None:
        assert len(compare(models, x, method="importance", num_samples=5, seed=0).frame) == 2
        return
    with pytest.raises(ValueError, match=message):
        compare(models, x, method="importance", num_samples=5, seed=0)
    with pytest.raises(ValueError, match=message.replace("all", "pca").replace("80.0", "80")):
        compare(
            {"pca": probabilistic_pca, "other": models["other"]},
            x,
            train=x + 1,
            method="importance",
            num_samples=5,
            seed=0,
        )


class Counter(torch.nn.Module):
    """Counts as they are, or in other units, which a mass does not feel."""

    def __init__(self, family, unit=1.0):
        super().__init__()
        self.family, self.unit = family, unit

    def model(self, x):
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Beta(torch.ones(len(x)), 1.0))
            pyro.sample("x", self.family(rate), obs=x * self.unit)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.Beta(torch.ones(len(x)), 1.0))


def test_masses_on_different_supports_are_compared():
    x = torch.tensor([0.0, 1.0, 1.0, 3.0])
    models = {"poisson": Counter(dist.Poisson), "binomial": Counter(lambda p: dist.Binomial(5, p))}
    assert len(compare(models, x, method="importance", num_samples=5, seed=0).frame) == 2
    models["doubled"] = Counter(dist.Poisson, unit=2.0)
    assert len(compare(models, x, method="importance", num_samples=5, seed=0).frame) == 3


def test_masses_in_other_units_are_held_to_everything_else():
    one, other = (Pointwise(np.zeros(3), measure="mass", magnitude=m, estimator=e) for m, e in ((1.0, "a"), (2.0, "b")))
    with pytest.raises(ValueError, match="differ in estimator: 'one' a, 'other' b"):
        compare({"one": one, "other": other})


def test_missing_entries_do_not_count_as_observed_numbers():
    x = torch.rand(6, 4)
    x[1, 2] = float("nan")
    table = log_marginal(Observer(lambda x: x.nan_to_num(0.3)), x, method="importance", num_samples=30, seed=0)
    assert table.attrs["entries"] == 20
    complete = x[[0, 2, 3, 4, 5]]
    assert table.attrs["magnitude"] == pytest.approx(complete.sum().item(), rel=1e-6)


def test_densities_and_masses_of_programs_are_told_apart():
    coins, classes = BetaBernoulli(), EnumeratedMixture()
    x = coins.simulate(5)
    assert log_marginal(coins, x, method="importance", num_samples=5, seed=0).attrs["measure"] == "mass"
    assert (
        log_marginal(classes, classes.simulate(5), method="importance", num_samples=5, seed=0).attrs["measure"]
        == "density"
    )


def test_training_rows_are_refused_unless_asked_for():
    ppca, x, _ = results()
    with pytest.raises(ValueError, match="training rows"):
        compare({"a": ppca}, x, train=x.clone(), method="importance", num_samples=5)
    train = as_data(x)
    train = type(train)(train.x, split="train")
    with pytest.raises(ValueError, match="training rows"):
        compare({"a": ppca}, train, method="importance", num_samples=5)
    with pytest.raises(ValueError, match="training rows"):
        compare({"a": log_marginal(ppca, train, method="importance", num_samples=5, seed=0)})
    with pytest.raises(ValueError, match="training rows"):
        compare({"a": [log_marginal(ppca, rows, method="importance", num_samples=5, seed=0) for rows in (train, x)]})
    assert len(compare({"a": ppca}, train, in_sample=True, method="importance", num_samples=30).frame) == 1


def continuous(rows, seed):
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def coarse(rows, seed):
    """Rows of which there are only four kinds."""
    return torch.randint(2, (rows, 2), generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize(
    ("make", "refused"),
    [
        (lambda train: train[:50], 50),
        (lambda train: train[torch.randperm(200)], 200),
        (lambda train: train.flip(0).float(), 200),
        (lambda train: torch.cat([continuous(40, 1), train[:100]]), 100),
        (lambda train: torch.cat([continuous(200, 1), train[:3]]), 3),
        (lambda train: torch.cat([continuous(200, 1), train[:2]]), None),
        (lambda train: continuous(40, 1), None),
    ],
)
def test_a_share_of_training_rows_is_recognized(make, refused):
    train = continuous(200, 0)
    rows = make(train)
    models = {"a": lambda train, x: np.zeros(len(x))}
    if refused:
        with pytest.raises(ValueError, match=f"{refused} of {len(rows)} rows are training rows"):
            compare(models, rows, train=train)
    notes = compare(models, rows, train=train, in_sample=bool(refused)).notes
    few = [f"2 of {len(rows)} rows are among the training rows"] if len(rows) == 202 else []
    assert list(notes) == few


def test_rows_that_equal_training_rows_by_chance_are_accepted():
    models = {"a": lambda train, x: np.zeros(len(x))}
    notes = compare(models, coarse(50, 1), train=coarse(200, 0)).notes
    assert notes[-1] == "50 of 50 rows are among the training rows"
    mixed = torch.cat([coarse(100, 1), torch.rand(100, 2, dtype=torch.float64)])
    with pytest.raises(ValueError, match="training rows"):
        compare(models, coarse(100, 1), train=torch.cat([mixed[:110], torch.rand(90, 2, dtype=torch.float64)]))


@pytest.mark.parametrize("repeated", [0, 1])
def test_repeated_rows_are_noted(repeated):
    x = torch.cat([continuous(10, 0), continuous(10, 0)[:repeated]])
    notes = compare({"a": lambda train, x: np.zeros(len(x))}, x, train=continuous(5, 1)).notes
    assert [note.split(":")[0] for note in notes] == ["1 of 11 rows repeat another row"] * repeated


# ---------------------------------------------------------------------------------------------- decisions


def apart(difference, spread=0.0, mcse=0.0):
    """Two models of four rows: their difference in nats, with its standard error over rows and over draws."""
    rows = np.array([1.0, 1.0, -1.0, -1.0]) * spread / 2 + difference / 4
    return compare({"best": Pointwise(np.zeros(4)), "other": Pointwise(-rows, mcse=np.full(4, mcse / 2))})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"difference": 1.99, "spread": 1.0}, False),
        ({"difference": 2.01, "spread": 1.0}, True),
        ({"difference": 1.99, "mcse": 1.0}, False),
        ({"difference": 2.01, "mcse": 1.0}, True),
        ({"difference": 9.99, "spread": 3.0, "mcse": 4.0}, False),
        ({"difference": 10.01, "spread": 3.0, "mcse": 4.0}, True),
        ({"difference": 0.0}, False),
        ({"difference": 1e-9}, True),
    ],
)
def test_models_are_told_apart_by_two_standard_errors_over_rows_and_draws(settings, expected):
    result = apart(**settings)
    found = result.difference("best", "other")
    assert found.elpd_diff == pytest.approx(settings["difference"])
    assert found.error == pytest.approx(math.hypot(settings.get("spread", 0.0), settings.get("mcse", 0.0)))
    assert result.told_apart("best", "other") is result.told_apart("other", "best") is expected
    noted = any(
        note.startswith("not told apart from 'best' (difference within 2 standard errors") for note in result.notes
    )
    assert noted is not expected


def test_the_draws_of_both_models_count():
    one, other = (Pointwise(np.full(4, level), mcse=np.full(4, mcse / 2)) for level, mcse in ((0.0, 3.0), (-2.4, 4.0)))
    found = compare({"one": one, "other": other}).difference("one", "other")
    assert (found.mcse, found.told_apart) == (pytest.approx(5.0), False)


@pytest.mark.parametrize(("reach", "noted"), [(0.99, False), (1.01, True)])
@pytest.mark.parametrize("error", ["bias", "draws"])
def test_an_order_inside_the_estimators_error_is_noted(error, reach, noted):
    """Two models one nat apart whose estimates reach so far: by what is left of the bias, or by two errors of the draws."""
    half, mcse = (reach, 0.0) if error == "bias" else (0.0, reach / 2)
    below = Pointwise(np.full(4, -0.25), half=np.full(4, -(1 + half) / 4), mcse=np.full(4, mcse / 2))
    notes = compare({"above": Pointwise(np.zeros(4)), "below": below}).notes
    assert any("lies inside the estimators' error" in note for note in notes) is noted


@pytest.mark.parametrize(("rise", "converged"), [(0.049, True), (0.051, False)])
def test_estimates_that_rise_are_not_converged(rise, converged):
    result = compare({"a": Pointwise(np.zeros(10), half=np.full(10, -rise))})
    assert result.frame["k_converged"].item() is converged
    assert (result.notes == ()) is converged


@pytest.mark.parametrize(("bad", "noted"), [(5, False), (6, True)])
def test_many_bad_pareto_shapes_are_noted(bad, noted):
    shapes = np.where(np.arange(100) < bad, 0.8, 0.1)
    notes = compare({"a": Pointwise(np.zeros(100), pareto_k=shapes, num_samples=10_000)}).notes
    assert [note.startswith("Pareto k too large (above 0.70, the limit for 10,000 samples)") for note in notes] == [
        True
    ] * noted


@pytest.mark.parametrize(("spread", "noted"), [(0.9, False), (1.1, True)])
def test_refits_that_differ_more_than_the_rows_are_noted(spread, noted):
    rows = np.array([1.0, 1.0, -1.0, -1.0]) / 2  # a paired standard error of one nat
    refits = [Pointwise(rows + sign * spread / math.sqrt(2) / 4) for sign in (-1.0, 1.0)]
    result = compare({"a": refits, "b": Pointwise(np.full(4, 10.0))})
    assert result.frame.loc["a", "refit_sd"] == pytest.approx(spread)
    assert any("training matters more than the rows" in note for note in result.notes) is noted


def test_one_row_tells_nothing_apart():
    result = compare({"a": np.array([0.0]), "b": np.array([-50.0])})
    assert np.isnan(result.frame["se"]).all()
    assert np.isnan(result.frame["dse"]).all()
    assert not result.told_apart("a", "b")
    assert result.notes == ("one row has no standard error: nothing can be told apart",)
    assert result.lead() == "a and b are not told apart: 50.00 nats per datum, paired over 1 row."
    assert compare({"a": np.zeros(2), "b": np.array([-50.0, -50.0])}).notes == ()


def test_rows_of_density_zero_are_named():
    possible, impossible = np.array([0.0, -1.0, -2.0]), np.array([0.0, -np.inf, -np.inf])
    result = compare({"no": impossible, "yes": possible, "neither": impossible - 1.0})
    assert list(result.frame.index) == ["yes", "no", "neither"]
    assert result.frame["elpd"].tolist() == [-3.0, -np.inf, -np.inf]
    assert result.frame.loc["yes", "weight"] == pytest.approx(1.0, abs=1e-6)
    assert result.told_apart("yes", "no")
    assert not result.told_apart("no", "neither")
    assert result.lead() == "yes is ahead of no, which gives some of the 3 rows a density of zero."
    assert result.notes[0].startswith("'no' gives 2 rows, the first of them row 1, a density of zero")
    assert len(result.notes) == 2
    assert "-inf" in repr(result)
    assert "nan" not in repr(result)
    assert [label.get_text() for label in result.plot().get_yticklabels()] == ["yes"]


def test_weights_with_densities_of_zero():
    log_p = densities(rows=60, models=3)
    log_p[:20, 0] = log_p[20:30, 1] = log_p[58:] = -np.inf
    kept = log_p[:58]
    np.testing.assert_allclose(stacking_weights(log_p), expectation_maximization(kept), atol=1e-6)
    assert pseudo_bma_weights(log_p).tolist() == [0.0, 0.0, 1.0]
    log_p[40, 2] = -np.inf
    assert np.isnan(pseudo_bma_weights(log_p)).all()
    assert stacking_weights(np.full((3, 2), -np.inf)).tolist() == [0.5, 0.5]


def test_factor_analysis_does_not_depend_on_units():
    generator = np.random.default_rng(0)
    loading, units = generator.normal(size=(6, 2)), 10.0 ** np.linspace(-3, 4, 6)
    rows = generator.normal(size=(600, 2)) @ loading.T + generator.normal(size=(600, 6)) * 0.5
    plain = factor_analysis(rows[:500], rows[500:], num_components=2).log_p
    scaled = factor_analysis(rows[:500] * units, rows[500:] * units, num_components=2).log_p
    np.testing.assert_allclose(scaled, plain - np.log(units).sum(), atol=1e-6)
    covariance = loading @ loading.T + 0.25 * np.eye(6)
    exact = dist.MultivariateNormal(torch.zeros(6).double(), torch.as_tensor(covariance)).log_prob(
        torch.as_tensor(rows[500:])
    )
    assert plain.mean() == pytest.approx(exact.mean().item(), abs=0.1)


def test_factor_analysis_refuses_constant_columns():
    rows = torch.cat([torch.randn(50, 3), torch.full((50, 1), 0.1)], 1)
    with pytest.raises(ValueError, match=r"columns \[3\] are constant in the training rows"):
        factor_analysis(rows, rows)


def test_names_are_escaped_where_they_are_shown():
    page = compare({"<b>": np.zeros(3), "x": np.zeros(3)})._repr_html_()
    assert "<b>" not in page
    assert page.count("&lt;b&gt;") == 2


@pytest.mark.parametrize("baseline", [probabilistic_pca, factor_analysis])
def test_a_baseline_refuses_data_of_several_tables(baseline):
    x = torch.randn(20, 3)
    for data, got in (({"x": x, "c": x}, "a dict of 'x', 'c'"), ((x, x), "a tuple of 2")):
        with pytest.raises(ValueError, match=f"one table of numbers, got {got}"):
            baseline(data, data)


def test_models_without_names_are_refused():
    with pytest.raises(TypeError, match=r"expected models by name, got list; write compare\(\{'one': vae"):
        compare([PPCA.random(), PPCA.random()], PPCA.random().simulate(5))


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ({}, {}, "at least one model"),
        ({"a": []}, {}, "empty"),
        ({"a": np.zeros(3)}, {"weights": "equal"}, "weights must be one of"),
        ({"a": PPCA.random()}, {}, "held-out rows to evaluate it on"),
        ({"a": probabilistic_pca}, {}, "must be fitted"),
        ({"a": np.zeros((3, 2))}, {}, "must be a vector"),
        ({"a": np.array([0.0, np.inf])}, {}, "NaN or plus infinity in 1 row"),
        ({"a": np.array([0.0, np.nan])}, {}, "NaN or plus infinity in 1 row"),
    ],
)
def test_wrong_arguments_are_refused(models, options, message):
    with pytest.raises(ValueError, match=message):
        compare(models, **options)


def test_it_prints_and_goes_into_a_paper():
    log_p = densities(models=2)
    result = compare({"a_1": log_p[:, 0], "b": log_p[:, 1]})
    assert isinstance(result, Comparison)
    lines = repr(result).splitlines()
    assert lines[0].split() == ["model", *SHOWN]
    assert lines[1].startswith("b ")
    latex = result.to_latex()
    assert latex.count("\\\\") == 3
    assert r"a\_1" in latex
    assert r"elpd\_diff" in latex
    assert latex.startswith(r"\begin{tabular}{lrrrrrrrrrrrr}")
    assert "<table" in result._repr_html_()
    np.testing.assert_allclose(result.per_datum()["elpd"], result.frame["elpd"] / 300)


def test_it_is_drawn(tmp_path):
    import matplotlib.pyplot

    matplotlib.use("Agg")
    log_p = densities(models=2)
    axes = compare({"a": [log_p[:, 0], log_p[:, 0] - 1], "b": log_p[:, 1]}).plot()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "a"]
    ppca = PPCA.random()
    x = ppca.simulate(30)
    axes = compare({"program": ppca, "array": ppca.log_evidence(x) - 5}, x, method="importance", num_samples=10).plot()
    assert "ELBO" in axes.get_legend_handles_labels()[1]  # though the array has none
    log_p = log_p[:, 0]
    axes = compare({"once": log_p, "thrice": [log_p - 1, log_p - 2, log_p - 3]}).plot()
    refits = [line.get_xydata() for line in axes.lines if line.get_color() == ORANGE]
    assert [points[:, 1].tolist() for points in refits] == [[1 - 0.22] * 3]  # none for the model without refits
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize("convert", [to_elpd_data, to_compare_frame])
def test_what_is_no_comparison_is_refused_with_words(convert):
    with pytest.raises(TypeError, match=r"expected what pyrovae.compare returned, got Pointwise; write compare"):
        convert(Pointwise(np.zeros(3)))


@pytest.mark.filterwarnings("ignore")
def test_arviz_draws_it():
    az = pytest.importorskip("arviz")
    if not az.__version__.startswith("0."):
        pytest.skip("for ArviZ 0.x")
    import matplotlib.pyplot

    matplotlib.use("Agg")
    log_p = densities(models=3)
    result = compare({"a": log_p[:, 0], "b": log_p[:, 1], "c": log_p[:, 2]})
    assert az.plot_compare(to_compare_frame(result)) is not None
    theirs = az.compare(to_elpd_data(result))
    np.testing.assert_allclose(theirs["elpd_diff"], -result.frame["elpd_diff"], atol=1e-9)
    np.testing.assert_allclose(theirs["dse"], result.frame["dse"], atol=1e-9)
    matplotlib.pyplot.close("all")


def test_pyro_svi_objects_are_programs():
    ppca, x, _ = results()
    svi = pyro.infer.SVI(ppca.model, ppca.guide, pyro.optim.Adam({}), pyro.infer.Trace_ELBO())
    table = compare(
        {"svi": svi, "pair": (ppca.model, ppca.guide)}, x, method="importance", num_samples=30, seed=0
    ).frame
    assert table["elpd"].iloc[0] == pytest.approx(table["elpd"].iloc[1], abs=1e-6)


def test_tables_are_compared_on_the_same_kinds_alone():
    frame = pd.DataFrame({"a": np.random.default_rng(0).poisson(3.0, 40), "b": np.arange(40) + 0.5})
    runs = {}
    for name, kind in (("count", "count"), ("real", "real"), ("heavy", "student_t")):
        rows = as_data(frame, kinds={"a": kind, "b": "real"})
        vae = build_vae(2, **suggest(rows), latent_dim=1, hidden=(4,), seed=0)
        runs[name] = log_marginal(vae, rows, method="importance", num_samples=5, seed=0, progress=False)
    assert compare({name: runs[name] for name in ("real", "heavy")}).frame.shape[0] == 2
    with pytest.raises(ValueError, match="models differ in measure: 'count' density, and mass of a, 'real' density"):
        compare({name: runs[name] for name in ("count", "real")})


def test_a_density_and_a_mass_are_refused_before_they_are_evaluated(monkeypatch):
    monkeypatch.setattr("pyrovae.comparison.held_out.marginal_of", lambda *_, **__: pytest.fail("it was evaluated"))
    x = torch.arange(4.0)[:, None]
    models = {name: build_vae(1, likelihood=name, latent_dim=1, hidden=(4,), seed=0) for name in ("normal", "poisson")}
    with pytest.raises(ValueError, match="models differ in measure: 'normal' density, 'poisson' mass"):
        compare(models, x)


def test_of_equal_models_one_in_twenty_is_worse_with_a_reference_fixed_beforehand():
    """1,000 pairs whose log densities differ row by row and are equal in expectation; within two standard errors of 5 %."""
    generator = np.random.default_rng(0)
    shared = generator.normal(-90, 20, (1000, 400))
    pairs = shared[..., None] + generator.standard_t(5, (1000, 400, 2))
    p = np.array([Difference.between(Pointwise(one[:, 1]), Pointwise(one[:, 0])).p_worse for one in pairs])
    assert abs((p < 0.05).mean() - 0.05) < 2 * math.sqrt(0.05 * 0.95 / 1000)
    assert abs((p > 0.95).mean() - 0.05) < 2 * math.sqrt(0.05 * 0.95 / 1000)
    against_best = [np.nanmax(compare({"a": one[:, 0], "b": one[:, 1]}).frame["p_worse"]) for one in pairs[:20]]
    assert min(against_best) >= 0.5


def test_of_two_fixed_networks_of_equal_expected_density_one_in_twenty_is_worse():
    """Means as far off to either side of the truth; 1,000 held-out sets of 200 rows, within two standard errors of 5 %."""
    truth = PPCA.random(2, 6)
    off = 0.3 * torch.eye(6).double()[0]
    models = [PPCA(truth.weight.detach(), truth.noise, truth.mean.detach() + sign * off) for sign in (1, -1)]
    x = truth.simulate(200_000)
    log_p = [model.log_evidence(x).reshape(1000, 200).numpy() for model in models]
    pairs = zip(*log_p, strict=True)
    p = np.array([Difference.between(Pointwise(one), Pointwise(other)).p_worse for one, other in pairs])
    assert abs((p < 0.05).mean() - 0.05) < 2 * math.sqrt(0.05 * 0.95 / 1000)
    assert abs((p > 0.95).mean() - 0.05) < 2 * math.sqrt(0.05 * 0.95 / 1000)


def test_differences_are_from_the_reference():
    log_p = densities(models=3)
    models = dict(zip("abc", log_p.T, strict=True))
    result = compare(models, reference="a")
    assert result.reference == "a"
    expected = {name: column.sum() - log_p[:, 0].sum() for name, column in models.items()}
    assert result.frame["elpd_diff"].to_dict() == pytest.approx(expected)
    assert np.isnan(result.frame.loc["a", "p_worse"])
    assert result.frame["rank"].tolist() == compare(models).frame["rank"].tolist()
    score = result.difference("b", "a")
    assert result.frame.loc["b", "p_worse"] == pytest.approx(stats.norm.cdf(-score.elpd_diff / score.error))
    with pytest.raises(ValueError, match="reference"):
        compare(models, reference="d")


@pytest.mark.parametrize(
    ("rows", "difference", "reason"),
    [(99, 10.0, "N < 100"), (100, 4.1, ""), (100, 3.9, "|elpd_diff| < 4"), (100, -3.9, "|elpd_diff| < 4")],
)
def test_a_difference_that_cannot_be_judged_says_why(rows, difference, reason):
    log_p = np.random.default_rng(0).normal(size=rows)
    result = compare({"a": log_p, "b": log_p + difference / rows}, reference="a")
    assert result.frame["diag_diff"].to_dict() == {"a": "", "b": reason}


@pytest.mark.parametrize(("count", "reference", "noted"), [(11, None, False), (12, None, True), (12, "0", False)])
def test_the_best_of_many_is_noted(count, reference, noted):
    log_p = densities(models=count)
    result = compare({str(number): log_p[:, number] for number in range(count)}, reference=reference)
    assert any("by luck" in note for note in result.notes) == noted


def test_the_rows_that_decide_come_first():
    log_p = densities(models=2)
    result = compare({"a": log_p[:, 0], "b": log_p[:, 1]})
    rows = result.influence("a", "b")
    assert rows.sum() == pytest.approx(result.difference("a", "b").elpd_diff)
    np.testing.assert_array_equal(rows, (log_p[:, 0] - log_p[:, 1])[rows.index])
    assert (np.diff(rows.abs()) <= 0).all()
    drawn = result.plot_influence("a", "b").lines[0].get_ydata()
    assert drawn[1] == pytest.approx(rows.iloc[0])
    assert drawn[-1] == pytest.approx(rows.sum())


def doubtful(k=0.1, flagged=False, half=0.0, log_p=0.0):
    """Ten rows, of which the last three are as asked."""
    last = np.arange(10) > 6
    columns = {"pareto_k": np.where(last, k, 0.1), "flagged": last & flagged, "half": np.where(last, -half, 0.0)}
    return Pointwise(np.where(last, log_p, 0.0), num_samples=1000, **columns)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, ""),
        ({"k": 0.66}, ""),
        ({"k": 0.67}, "3 k-hat > 0.67"),
        ({"flagged": True}, "3 flagged"),
        ({"half": 0.16}, ""),
        ({"half": 0.17}, "rising"),
        ({"log_p": -np.inf, "half": np.inf}, "3 -inf"),
        ({"k": 0.67, "flagged": True, "half": 1.0}, "3 k-hat > 0.67, 3 flagged, rising"),
    ],
)
def test_an_estimate_that_is_not_to_be_believed_says_why(options, reason):
    result = compare({"a": doubtful(**options), "b": np.full(10, -3.0)})
    assert result.frame["diag_elpd"].to_dict() == {"a": reason, "b": ""}
    assert any("bound of 3 rows of 'a' lies above" in note for note in result.notes) == ("flagged" in reason)
    both = compare({"a": [doubtful(), doubtful(**options)]})  # refits are checked like everything else
    assert ("flagged" in both.frame.loc["a", "diag_elpd"]) == ("flagged" in reason)
    assert ("k-hat" in both.frame.loc["a", "diag_elpd"]) == ("k-hat" in reason)


def test_predictions_are_drawn_from_the_stacked_mixture():
    log_p = densities(models=3)
    log_p[:, 2] -= 50.0
    result = compare(dict(zip("abc", log_p.T, strict=True)))
    weight = result.frame["weight"]
    assert weight["c"] == 0.0
    draws = {"a": np.arange(3000.0).reshape(1000, 3), "b": -1.0 - np.arange(1500.0).reshape(500, 3)}
    drawn = result.weight_predictions(draws, seed=0)
    most = int(min(1000 / weight["a"], 500 / weight["b"]))  # of one model every draw is taken
    assert drawn.shape == (most, 3)
    known = {tuple(row) for part in draws.values() for row in part}
    assert len({tuple(row) for row in drawn} & known) == most  # whole draws, none of them twice
    assert abs((drawn[:, 0] >= 0).sum() - most * weight["a"]) < 1
    assert (np.diff(drawn[:100, 0] >= 0) != 0).any()  # in random order
    many = result.weight_predictions(draws, num_samples=5000, seed=0)
    assert abs((many[:, 0] < 0).mean() - weight["b"]) < 1 / 5000
    np.testing.assert_array_equal(drawn, result.weight_predictions(draws, seed=0))


@pytest.mark.parametrize(
    ("draws", "message"),
    [
        ({"a": np.zeros((4, 2))}, "got none of b"),
        ({"a": np.zeros((4, 2)), "b": np.zeros((4, 3))}, "draws .* of one shape"),
        ({"a": np.zeros((4, 2)), "b": np.zeros((0, 2))}, "draws .* of one shape"),
    ],
)
def test_draws_that_make_no_mixture_are_refused(draws, message):
    log_p = densities(models=2)
    with pytest.raises(ValueError, match=message):
        compare({"a": log_p[:, 0], "b": log_p[:, 1]}).weight_predictions(draws)


def test_the_score_of_draws_is_the_closed_form_and_unbiased():
    generator = np.random.default_rng(0)
    x = np.array([-1.5, 0.0, 2.0])
    expected = x * (2 * stats.norm.cdf(x) - 1) + 2 * stats.norm.pdf(x) - 1 / math.sqrt(math.pi)
    np.testing.assert_allclose(crps(generator.normal(size=(200_000, 3)), x), expected, atol=0.01)
    few = np.stack([crps(generator.normal(size=(2, 3)), x) for _ in range(20_000)])
    assert (np.abs(few.mean(0) - expected) < 5 * few.std(0) / math.sqrt(20_000)).all()
    draws = generator.normal(size=(7, 3))
    pairs = np.abs(draws[:, None] - draws[None]).sum((0, 1)) / (7 * 6)
    np.testing.assert_allclose(crps(draws, x), np.abs(draws - x).mean(0) - pairs / 2)
    assert np.isnan(crps(draws[:, :1], np.array([np.nan]))).all()
    for wrong in (draws[:1], draws[:, :2]):
        with pytest.raises(ValueError, match="two draws or more of each entry"):
            crps(wrong, x)


def test_one_model_and_models_that_forbid_other_rows_have_a_sentence():
    assert compare({"a": np.array([-1.0, -2.0])}).lead() == "a is compared with nothing."
    one, other = np.array([0.0, -np.inf, -1]), np.array([-np.inf, 0.0, -1])
    assert "each gives a density of zero to rows that the other allows" in compare({"a": one, "b": other}).lead()


def test_draws_of_a_model_that_is_not_compared_are_refused():
    table = compare({"a": np.array([0.0, -9]), "b": np.array([-9.0, 0])})
    draws = {name: np.zeros((10, 1)) for name in ("a", "b", "c")}
    with pytest.raises(ValueError, match=r"draws of the models a, b, got some of c"):
        table.weight_predictions(draws)


@pytest.mark.parametrize(
    ("method", "shown"), [(Importance(), "Importance x 5"), (Refined(num_steps=9), "Refined(family=")]
)
def test_an_estimator_is_printed_by_its_name_where_it_has_the_defaults(method, shown):
    found = Pointwise(np.array([-1.0, -2.0]), estimator=repr(method), num_samples=5)
    assert f"estimator: {shown}" in repr(compare({"a": found}))
