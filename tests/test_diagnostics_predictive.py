"""Predictive checks, leave-one-feature-out and imputations, against closed forms of probabilistic PCA."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from guided import GuidedPPCA, MissingPPCA, correlated, exact, mean_field, tempered
from oracles import PPCA, EnumeratedMixture
from programs import counts, counts_vae
from scipy import stats
from torch import nn

import pyrovae as pvae
from pyrovae.checks import (
    imputation,
    imputation_calibration,
    leave_one_feature_out,
    marginal_pit,
    pit,
    predictive,
    predictive_check,
    typicality,
)

FALSE_ALARM = 1e-4


def left_out(program, x):
    """The closed-form distribution of each entry given the others of its row."""
    precision = torch.linalg.inv(program.marginal().covariance_matrix.detach())
    shift = (x - program.mean.detach()) @ precision / precision.diagonal()
    return dist.Normal(x - shift, precision.diagonal().rsqrt())


def test_rows_with_holes_are_as_typical_as_complete_ones():
    """The model's own rows, of which one in fifty lacks 4 of 8 entries: their ELBO is held against that of rows like them."""
    program = MissingPPCA.random(latent=2, data=8, noise=1.0)
    x, holes = program.simulate(1500, seed=5), torch.zeros(1500, 8, dtype=torch.bool)
    holes[-15:, :4] = holes[-30:-15, 4:] = True
    found = typicality(program, torch.where(holes, torch.nan, x), seed=0)
    assert found.atypical[-30:].sum() <= stats.binom.ppf(1 - FALSE_ALARM, 30, 0.05)
    assert found.atypical[:-30].sum() <= stats.binom.ppf(1 - FALSE_ALARM, 1470, 0.05)
    moved = typicality(program, torch.where(holes, torch.nan, x + 3.0), seed=0)
    assert moved.atypical[-30:].mean() > 0.5


@pytest.mark.parametrize("kind", ["posterior", "prior"])
def test_replicates_have_the_moments_of_the_model(kind):
    program = correlated(exact)
    x = program.simulate(400, seed=3)
    check = predictive_check(program, x, kind=kind, num_samples=299, seed=0)
    assert min(check.p_values.values()) > 0.005
    assert "reproduces all" in repr(check)
    variance = program.marginal().variance.mean() + program.mean.var(correction=0)
    assert check.replicated["sd"].mean() == pytest.approx(variance.sqrt().item(), rel=0.05)


def test_replicates_are_draws_and_not_the_data():
    program = correlated(exact)
    x = program.simulate(50)
    sets = []
    predictive_check(program, x, statistics={"keep": lambda s: sets.append(s) or 0.0}, num_samples=200, seed=0)
    replicated = np.stack(sets[1:])
    expected = (program.posterior(x).loc @ program.weight.T + program.mean).detach()
    np.testing.assert_allclose(replicated.mean(0), expected, atol=5 * 1.1 / math.sqrt(200))
    assert not np.isclose(replicated[0], x.numpy()).any()


def test_a_model_of_other_data_is_caught_and_named():
    program = correlated(exact)
    check = predictive_check(program, 2 * program.simulate(200), kind="prior", seed=0)
    assert check.p_values["sd"] < 0.01
    assert "sd " in check.summary()
    assert "share of zeros" not in check.summary()


def test_zeros_beyond_the_poisson_are_seen():
    vae, generator = counts_vae(), torch.Generator().manual_seed(0)
    nn.init.zeros_(vae.likelihood.net.head.weight)  # the same Poisson for every row, whatever its latents
    x = torch.poisson(torch.full((300, 5), 2.0), generator=generator)
    vae.likelihood.initialize(x)
    assert predictive_check(vae, x, seed=0).p_values["share of zeros"] > 0.02
    x[torch.rand(x.shape, generator=generator) < 0.5] = 0
    vae.likelihood.initialize(x)
    assert predictive_check(vae, x, seed=0).p_values["share of zeros"] < 0.02


def test_replicates_are_missing_where_the_data_are():
    vae = counts_vae()
    x = counts(40)
    x[:, 0] = torch.nan
    seen = []
    predictive_check(vae, x, statistics={"keep": lambda s: seen.append(np.isnan(s)) or 0.0}, num_samples=5, seed=0)
    assert all((s == np.isnan(x.numpy())).all() for s in seen)


def test_p_values_are_two_sided_and_never_zero():
    replicated = {"above": np.arange(99.0), "below": np.arange(99.0), "equal": np.ones(99), "middle": np.arange(99.0)}
    found = predictive.dataset_of({"above": 200.0, "below": -1.0, "equal": 1.0, "middle": 49.0}, replicated, "prior")
    assert found["p_values"].values == pytest.approx([0.02, 0.02, 1.0, 1.0])


def test_marginal_pit_is_uniform_for_the_model_and_matches_the_closed_form():
    program = correlated(exact)
    x = program.simulate(600)
    result = marginal_pit(program, x, seed=0)
    assert result.p_value > FALSE_ALARM
    marginal = program.marginal()
    expected = dist.Normal(marginal.mean, marginal.variance.sqrt()).cdf(x).detach()
    np.testing.assert_allclose(result.pit, expected, atol=5 * 0.5 / math.sqrt(199) + 0.005)
    wide = marginal_pit(program, program.mean.detach() + 1.5 * (x - program.mean.detach()), seed=0)
    assert wide.p_value < FALSE_ALARM
    assert "too narrow" in wide.summary()


def test_the_scores_of_a_feature_are_the_closed_forms_of_its_marginal():
    program = MissingPPCA.random(latent=2, data=4, noise=0.5)
    x = program.simulate(10)
    x[-1, :3] = torch.nan
    marginal = program.marginal()
    scale, at = marginal.variance.sqrt().detach(), (x - marginal.mean.detach())
    law = dist.Normal(0.0, 1.0, validate_args=False)
    expected = scale * (at / scale * (2 * law.cdf(at / scale) - 1) + 2 * law.log_prob(at / scale).exp() - math.pi**-0.5)
    found = marginal_pit(program, x, num_samples=20_000, seed=0)
    np.testing.assert_allclose(found.crps, expected, atol=0.05 * float(scale.max()))  # equal where NaN, too
    np.testing.assert_allclose(found.log_score, law.log_prob(at / scale) - scale.log(), atol=0.1)
    tiled = marginal_pit(program, x, num_samples=20_000, seed=0, max_bytes=2**22)
    np.testing.assert_allclose(tiled.crps, found.crps, rtol=1e-9)
    np.testing.assert_allclose(tiled.log_score, found.log_score, rtol=1e-9)


def test_pit_of_counts_is_randomized():
    vae = counts_vae()
    with torch.no_grad():
        x = vae.sample(500)
    found = marginal_pit(vae, x, seed=0)
    assert found.p_value > FALSE_ALARM
    assert (found.log_score < 0).all()  # a mass
    off = marginal_pit(vae, x + 5, seed=0)
    assert off.crps.mean() > found.crps.mean()
    assert off.log_score.mean() < found.log_score.mean()


@pytest.mark.parametrize("corrected", [True, False])
def test_left_out_features_equal_the_closed_form_with_the_exact_guide(corrected):
    program = PPCA.random(latent=2, data=8, noise=1.0, exact=True)
    x = program.simulate(100)
    result = leave_one_feature_out(program, x, num_samples=2000, corrected=corrected, seed=0)
    predictive = left_out(program, x)
    error = result.elpd - predictive.log_prob(x).numpy()
    assert np.sqrt((error**2).mean()) < 0.08
    assert abs(error.mean()) < 0.02
    np.testing.assert_allclose(result.pit, predictive.cdf(x), atol=0.15)
    assert result.p_value > FALSE_ALARM
    assert result.total == pytest.approx(predictive.log_prob(x).sum().item(), abs=15)


def test_the_correction_removes_the_bias_of_a_guide_too_wide():
    program = GuidedPPCA.with_defect(tempered(1.3), latent=2, data=8, noise=1.0)
    x = program.simulate(150)
    exact_elpd = left_out(program, x).log_prob(x).numpy()
    right, naive = (leave_one_feature_out(program, x, num_samples=1000, corrected=c, seed=0) for c in (True, False))
    assert abs((right.elpd - exact_elpd).mean()) < 0.02
    assert (naive.elpd - exact_elpd).mean() < -0.1
    assert "Not corrected for the guide" in repr(naive)


def test_missing_entries_are_not_scored_and_condition_nothing():
    program = MissingPPCA.random(latent=2, data=6, noise=1.0)
    x = program.simulate(40)
    partial = x.clone()
    partial[:, 0] = torch.nan
    result = leave_one_feature_out(program, partial, num_samples=1000, seed=0)
    assert np.isnan(result.elpd[:, 0]).all()
    assert np.isnan(result.p_values[0])
    smaller = PPCA(program.weight.detach()[1:], 1.0, program.mean.detach()[1:])
    expected = left_out(smaller, x[:, 1:]).log_prob(x[:, 1:]).numpy()
    reliable = result.pareto_k[:, 1:] < 0.5
    assert reliable.mean() > 0.5
    assert np.sqrt(((result.elpd[:, 1:] - expected)[reliable] ** 2).mean()) < 0.1


def test_unreliable_entries_are_named_with_the_remedy():
    program = correlated(mean_field)
    result = leave_one_feature_out(program, program.simulate(50), seed=0)
    assert result.share_bad_k > 0.2
    assert "Refine the guide" in result.summary()


class AsThePrior(nn.Module):
    """A guide that has not seen the rows."""

    def forward(self, x, covariates=None):
        return dist.Normal(torch.zeros_like(x[..., :1]), 1.0).to_event(1)


def test_the_columns_of_a_table_are_left_out_one_by_one():
    """Against the ratio of the evidence of the row and of the row without the entry, each estimated for itself."""
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"a": generator.normal(size=12), "n": generator.poisson(3.0, 12), "b": list("uvuuvvuvuvuu")})
    frame.loc[2, "a"] = np.nan
    data = pvae.data.as_data(frame, kinds={"a": "real", "n": "count"})
    built = pvae.build_vae(data, latent_dim=1, hidden=(4,), seed=3)
    vae = pvae.VAE(built.prior, built.likelihood, AsThePrior())  # whose weights are bounded
    found = leave_one_feature_out(vae, data, num_samples=4000, seed=0)
    whole = pvae.log_marginal(vae, data, method="importance", num_samples=4000, seed=1)["log_marginal"].values
    for column in range(3):
        x = data.x.clone()
        x[:, column] = torch.nan
        others = pvae.log_marginal(vae, replace(data, x=x), method="importance", num_samples=4000, seed=2)[
            "log_marginal"
        ].values
        seen = ~data.x[:, column].isnan().numpy()
        np.testing.assert_allclose(found.elpd[seen, column], (whole - others)[seen], atol=0.05)
    assert np.isnan(found.elpd).sum() == 1


def test_joint_likelihoods_are_refused():
    with pytest.raises(ValueError, match="factorized likelihood"):
        leave_one_feature_out((_joint, _prior), torch.zeros(4, 2), num_samples=50)


def two_sites(width, after=0.0):
    """Data sites a and b around one latent; b has a standard deviation given the latent, and may depend on a."""

    def model(x=None, size=None):
        a, b = (None, None) if x is None else (x["a"], x["b"])
        with pyro.plate("data", size if x is None else len(a)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            a = pyro.sample("a", dist.Normal(z, 1.0), obs=a)
            return {"a": a, "b": pyro.sample("b", dist.Normal(z + after * a, width), obs=b)}

    def guide(x, size=None):
        with pyro.plate("data", len(x["a"])):
            pyro.sample("z", dist.Normal((x["a"] + x["b"]) / 3, 3**-0.5))

    return model, guide


def test_each_of_several_data_sites_is_held_against_its_own_replicates():
    z, *noise = torch.randn(3, 200, generator=torch.Generator().manual_seed(0))
    x = {"a": z + noise[0], "b": z + noise[1]}
    for width in (1.0, 3.0):
        found = predictive_check(two_sites(width), x, kind="prior", num_samples=200, seed=0)
        assert (found.p_values["sd of b"] < 0.05) is (width == 3.0)
        assert found.p_values["sd of a"] > 0.01
    left_out = leave_one_feature_out(two_sites(1.0), x, num_samples=500, seed=0)
    exact = dist.Normal(x["a"] / 2, 1.5**0.5).log_prob(x["b"])  # b given a
    assert abs(left_out.dataset["elpd"].sel(entry="b").values - exact.numpy()).mean() < 0.06


def test_data_sites_that_depend_on_each_other_cannot_be_left_out():
    x = {"a": torch.randn(20), "b": torch.randn(20)}
    with pytest.raises(ValueError, match="'b' depends on 'a' given the latents"):
        leave_one_feature_out(two_sites(1.0, after=0.5), x, num_samples=50, seed=0)


def test_a_row_without_entries_has_no_mean():
    x = torch.full((4, 2), torch.nan)
    x[:2] = torch.tensor([[0.0, 2.0], [4.0, 6.0]])
    assert predictive.STATISTICS["sd of row means"](x.numpy()) == 2.0


def test_a_single_feature_is_predicted_from_the_prior():
    """With one entry a row nothing is left to predict it from: elpd is log p(x), also with a class summed out."""
    program = EnumeratedMixture("model")
    x = program.simulate(50)
    result = leave_one_feature_out(program, x, num_samples=2000, seed=0)
    assert result.elpd.shape == (50,)
    assert abs(result.elpd - program.log_evidence(x).numpy()).mean() < 0.15


def _prior(x):
    with pyro.plate("data", len(x)):
        return pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))


def _joint(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.MultivariateNormal(z, torch.eye(2)), obs=x)


def test_imputations_of_the_exact_model_are_calibrated():
    program = MissingPPCA.random(latent=2, data=6, noise=1.0)
    result = imputation_calibration(program, program.simulate(300), hidden=0.2, num_proposals=200, seed=0)
    assert result.p_value > FALSE_ALARM
    np.testing.assert_allclose(result.coverage(np.array([0.5, 0.9])), [0.5, 0.9], atol=0.1)
    assert result.rmse < result.baseline_rmse
    assert len(result.ranks) == pytest.approx(360, abs=90)


def test_imputations_too_narrow_are_caught():
    truth = MissingPPCA.random(latent=2, data=6, noise=1.0)
    narrow = MissingPPCA(truth.weight.detach(), 0.3, truth.mean.detach())
    result = imputation_calibration(narrow, truth.simulate(300), hidden=0.2, num_proposals=200, seed=0)
    assert result.p_value < FALSE_ALARM
    assert "too narrow" in repr(result)


@pytest.mark.parametrize(
    ("truth", "words"),
    [
        (stats.norm(0.5, 1.0), "1 off in location."),
        (stats.norm(0.0, 1.5), "1 too narrow."),
        (stats.norm(0.0, 0.7), "1 too wide."),
        (stats.norm(0.5, 1.6), "1 off in location and too narrow."),
        (stats.norm(0.5, 0.6), "1 off in location and too wide."),
    ],
)
def test_a_shift_is_told_from_a_width(truth, words):
    """Predictions by a standard normal."""
    rows = truth.rvs(size=(800, 1), random_state=np.random.default_rng(0))
    (finding,) = pit.judge(pit.dataset_of(stats.norm.cdf(rows)))
    assert words in finding.claim
    assert finding.tone == "caution"


def test_the_entry_that_is_tested_is_any_hidden_one_of_its_row():
    """The first hidden entries of the rows are calibrated and the second ones are not: half of the tested ones are wrong."""
    rng = np.random.default_rng(0)
    ranks = np.stack([rng.integers(0, 100, 400), np.full(400, 99)], 1).ravel()
    columns = {"ranks": ranks, "row": np.repeat(np.arange(400), 2)}
    found = imputation.dataset_of(columns, np.zeros(400), 99, 1000, seed=0)
    tested = found["tested"].values.reshape(400, 2)
    assert (tested.sum(1) == 1).all()
    assert tested[:, 1].mean() == pytest.approx(0.5, abs=0.1)
    assert found["p_value"] < FALSE_ALARM
    first = {"ranks": ranks[::2], "row": np.arange(400)}
    assert imputation.dataset_of(first, np.zeros(400), 99, 1000, seed=0)["p_value"] > FALSE_ALARM


@pytest.mark.parametrize(
    ("sd", "shift", "word"), [(1.6, 0.0, "too narrow"), (0.6, 0.0, "too wide"), (1.0, 0.4, "off to one side")]
)
def test_imputations_are_too_narrow_too_wide_or_off(sd, shift, word):
    """Truths of another law among imputations by a standard normal."""
    rng = np.random.default_rng(0)
    truth, draws = shift + sd * rng.normal(size=1000), rng.normal(size=(99, 1000))
    columns = {"ranks": (draws < truth).sum(0), "row": np.arange(1000), "error": -truth, "baseline": -truth}
    (finding,) = imputation.judge(imputation.dataset_of(columns, np.zeros(1000), 99, 1000, seed=0))
    assert f"The imputations are {word} (" in finding.claim


@pytest.mark.parametrize(("below", "tone"), [(4, "good"), (3, "caution")])
def test_a_statistic_is_not_reproduced_below_a_bonferroni_level(below, tone):
    """Two statistics: p = 2 (3 + below) / 500 times two is held against 0.05 (replicates: 499)."""
    replicated = {"a": np.arange(499.0), "b": np.arange(499.0)}
    found = predictive.dataset_of({"a": 200.0, "b": below + 1.5}, replicated, "prior")
    (finding,) = predictive.judge(found)
    assert float(found["p_values"][1]) == pytest.approx(2 * (3 + below) / 500)
    assert finding.tone == tone


def test_pit_tests_have_the_right_level():
    uniform = np.random.default_rng(0).random((400, 300))
    p = pit.dataset_of(uniform)["p_values"].values
    assert (p < 0.05).mean() < 0.05 + 5 * math.sqrt(0.05 / 300)
    assert stats.kstest(uniform[:, 0], "uniform").pvalue > 0.001
    assert pit.dataset_of(uniform**1.5)["p_value"] < FALSE_ALARM


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, x: predictive_check(p, x, kind="both"), "one of posterior, prior"),
        (lambda p, x: imputation_calibration(p, x, hidden=1.0), "between 0 and 1"),
        (lambda p, x: imputation_calibration(p, x, hidden=1e-9), "hides none"),
    ],
)
def test_bad_requests_are_refused(call, message):
    def model(x):
        return _joint(x["x"] if isinstance(x, dict) else x)

    def guide(x):
        return _prior(x["x"] if isinstance(x, dict) else x)

    with pytest.raises(ValueError, match=message):
        call((model, guide), torch.zeros(4, 2))


def test_one_row_is_not_judged_by_its_features():
    vae = pvae.build_vae(3, likelihood="normal", latent_dim=1, hidden=(4,))
    found = leave_one_feature_out(vae, torch.zeros(1, 3), num_samples=50, seed=0).findings()
    assert found[-1].tone == "open"
    assert "nan" not in found[0].claim
