"""Comparison by held-out evidence: numbers against numpy, weights against EM, refusals, and what the notes say."""

import math
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import PPCA, BetaBernoulli, EnumeratedMixture

from pyrovae.arviz import to_compare_frame, to_elpd_data
from pyrovae.comparison import (
    Comparison,
    Pointwise,
    compare,
    factor_analysis,
    probabilistic_pca,
    pseudo_bma_weights,
    stacking_weights,
)
from pyrovae.comparison.pointwise import averaged
from pyrovae.comparison.table import SHOWN
from pyrovae.data import as_data
from pyrovae.evaluation import AIS, Importance, Refined, log_marginal
from pyrovae.plots.style import ORANGE


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
    result = compare({"wrong": wrong, "right": right}, x, num_samples=50, seed=0)
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
    table = result.frame
    assert abs(table["elbo"].iloc[0] - table["elbo"].iloc[1]) > 100
    error = 2 * math.hypot(table["dse"].max(), *table["mcse"]) + 1e-3
    assert abs(table["elpd_diff"].iloc[1]) < error
    assert any("the ELBO is no guide here" in note for note in result.notes)


def test_an_unreliable_guide_is_warned_of():
    ppca = PPCA.random(8, 12, noise=0.03)
    x = ppca.simulate(40)
    result = compare({"a": ppca}, x, num_samples=100, seed=0)
    said = " ".join(result.notes)
    assert "Pareto k too large" in said
    assert "still rise with the number of samples" in said
    assert not result.frame["k_converged"].iloc[0]
    assert result.frame["pct_bad_k"].iloc[0] > 50
    assert "above 0.50, the limit for 100 samples" in said
    assert said.count("refine (method='refined' or 'ais')") == 2


@pytest.mark.parametrize(
    ("estimator", "remedy"),
    [
        (Importance(), "refine (method='refined' or 'ais')"),
        (Refined(), "take more steps (num_steps of Refined) or samples, or anneal (method='ais')"),
        (AIS(), "take more temperatures (num_temperatures of AIS) or chains"),
        (None, "refine (method='refined' or 'ais')"),
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
            "best and other are not told apart: 0.21 ± 0.10 nats per datum, paired over 100 rows.",
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


def test_averages_of_refits_carry_their_errors():
    one, two = (
        Pointwise(np.zeros(3), mcse=np.full(3, v), elbo=np.full(3, -v), pareto_k=np.full(3, v)) for v in (0.3, 0.4)
    )
    both = averaged([one, two])
    np.testing.assert_allclose(both.mcse, 0.25)
    np.testing.assert_allclose(both.elbo, -0.35)
    np.testing.assert_allclose(both.pareto_k, 0.4)


def test_baselines_are_one_word():
    truth = PPCA.random(2, 6, exact=True)
    train, test = truth.simulate(2000, seed=1), truth.simulate(200, seed=2)
    models = {"pca": probabilistic_pca, "fa": factor_analysis, "mine": lambda train, x: np.zeros(len(x)) - 100.0}
    table = compare({"truth": truth, **models}, test, train=train, num_samples=20, seed=0).frame
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
    return ppca, x, log_marginal(ppca, x, num_samples=30, seed=0)


def test_results_of_log_marginal_are_taken_as_they_are():
    ppca, _, result = results()
    table = compare({"a": result}).frame
    assert table.loc["a", "elpd"] == pytest.approx(float(result["log_marginal"].sum()))
    assert table.loc["a", "num_samples"] == 30
    assert ppca.training


@pytest.mark.filterwarnings("ignore:importance-sampling")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, x: log_marginal(p, x + 1.0, num_samples=30, seed=0), "differ in rows"),
        (lambda p, x: log_marginal(p, x[:10], num_samples=30, seed=0), "different numbers of rows"),
        (lambda p, x: log_marginal(p, x, num_samples=40, seed=0), "differ in num_samples"),
        (lambda p, x: log_marginal(p, x, method="refined", num_samples=30, seed=0), "differ in estimator"),
        (lambda p, x: log_marginal(p, as_data(x, variant="grey"), num_samples=30, seed=0), "differ in variant"),
        (lambda p, x: Pointwise(np.zeros(20), measure="mass"), "differ in measure"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, message):
    ppca, x, _ = results()
    first = log_marginal(ppca, as_data(x, variant="static"), num_samples=30, seed=0)
    with pytest.raises(ValueError, match=message):
        compare({"first": first, "second": change(ppca, x)})


def test_densities_and_masses_of_programs_are_told_apart():
    coins, classes = BetaBernoulli(), EnumeratedMixture()
    x = coins.simulate(5)
    assert log_marginal(coins, x, num_samples=5, seed=0).attrs["measure"] == "mass"
    assert log_marginal(classes, classes.simulate(5), num_samples=5, seed=0).attrs["measure"] == "density"


def test_training_rows_are_refused_unless_asked_for():
    ppca, x, _ = results()
    with pytest.raises(ValueError, match="training rows"):
        compare({"a": ppca}, x, train=x.clone(), num_samples=5)
    train = as_data(x)
    train = type(train)(train.x, split="train")
    with pytest.raises(ValueError, match="training rows"):
        compare({"a": ppca}, train, num_samples=5)
    with pytest.raises(ValueError, match="training rows"):
        compare({"a": log_marginal(ppca, train, num_samples=5, seed=0)})
    assert len(compare({"a": ppca}, train, in_sample=True, num_samples=30).frame) == 1


def test_models_without_names_are_refused():
    with pytest.raises(TypeError, match=r"expected models by name, got list; write compare\(\{'one': vae"):
        compare([PPCA.random(), PPCA.random()], PPCA.random().simulate(5))


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ({}, {}, "at least one model"),
        ({"a": []}, {}, "empty"),
        ({"a": np.zeros(3)}, {"weights": "equal"}, "weights must be one of"),
        ({"a": PPCA.random()}, {}, "pass x"),
        ({"a": probabilistic_pca}, {}, "must be fitted"),
        ({"a": np.zeros((3, 2))}, {}, "must be a vector"),
        ({"a": np.array([0.0, np.nan])}, {}, "NaN in 1 rows"),
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
    assert latex.startswith(r"\begin{tabular}{lrrrrrrrrrrr}")
    assert "<table" in result._repr_html_()
    np.testing.assert_allclose(result.per_datum()["elpd"], result.frame["elpd"] / 300)


def test_it_is_drawn(tmp_path):
    import matplotlib

    matplotlib.use("Agg")
    log_p = densities(models=2)
    axes = compare({"a": [log_p[:, 0], log_p[:, 0] - 1], "b": log_p[:, 1]}).plot()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "a"]
    ppca = PPCA.random()
    x = ppca.simulate(30)
    axes = compare({"program": ppca, "array": ppca.log_evidence(x) - 5}, x, num_samples=10).plot()
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
    import matplotlib

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
    table = compare({"svi": svi, "pair": (ppca.model, ppca.guide)}, x, num_samples=30, seed=0).frame
    assert table["elpd"].iloc[0] == pytest.approx(table["elpd"].iloc[1], abs=1e-6)
