"""Simulation-based calibration: uniform for exact guides (5 seeds, p > 1e-4), and each defect is caught."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from guided import MissingPPCA, correlated, exact, marginals, mean_field, shifted, tempered
from oracles import PPCA, BetaBernoulli, EnumeratedMixture
from programs import ragged_guide, ragged_guide_with, ragged_model, ragged_rows
from pyro.infer import SVI, Trace_ELBO
from scipy import stats

import pyrovae as pvae
from pyrovae.checks import sbc
from pyrovae.checks.calibration import CALIBRATION, dataset_of
from pyrovae.checks.uniformity import central_coverage, defect, density_coverage, ranks_among, uniformity_p_value
from pyrovae.plots.calibration import ecdf_band

FALSE_ALARM = 1e-4


def test_ranks_are_counts_below_with_ties_at_random():
    rng = np.random.default_rng(0)
    assert ranks_among([2.5], [[1.0], [2.0], [3.0]], rng).tolist() == [2]
    ties = ranks_among(np.zeros(3000), np.zeros((4, 3000)), rng)
    assert uniformity_p_value(ties, 4) > FALSE_ALARM
    assert set(ties) == {0, 1, 2, 3, 4}


def test_p_values_of_uniform_ranks_are_uniform():
    ranks = np.random.default_rng(0).integers(0, 100, size=(500, 2000))
    p = uniformity_p_value(ranks, 99)
    assert p.shape == (2000,)
    for level in (0.01, 0.05, 0.2):
        assert (p < level).mean() < level + 5 * np.sqrt(level / 2000)
    assert (p < 0.05).mean() > 0.02


class WrongOnHoles(MissingPPCA):
    """Exact on complete rows, and ten times too narrow on rows that lack an entry."""

    def proposal(self, x):
        q = super().proposal(x)
        scale = torch.where(x.isnan().any(-1), 0.1, 1.0).to(q.scale_tril)
        return dist.MultivariateNormal(q.loc, scale_tril=q.scale_tril * scale[..., None, None])


@pytest.mark.parametrize(("program", "fine"), [(MissingPPCA, True), (WrongOnHoles, False)])
def test_rows_with_holes_are_simulated_wherever_they_stand(program, fine):
    program = program.random(latent=2, data=4, noise=0.5)
    x = program.simulate(1000)
    x[600:, 1] = torch.nan  # beyond as many rows as are simulated
    found = sbc(program, x, num_simulations=400, num_samples=49, seed=0)
    assert (found.p_value > FALSE_ALARM) == fine


@pytest.mark.parametrize("num_draws", [1, 7, 99])
def test_any_number_of_draws_is_served(num_draws):
    ranks = np.random.default_rng(1).integers(0, num_draws + 1, size=2000)
    assert uniformity_p_value(ranks, num_draws) > FALSE_ALARM
    assert uniformity_p_value(np.zeros(2000, dtype=int), num_draws) < FALSE_ALARM


def test_coverage_of_a_gaussian_too_narrow_is_that_of_the_closed_form():
    rng = np.random.default_rng(3)
    truth, draws = rng.normal(size=20_000), 0.7 * rng.normal(size=(199, 20_000))
    levels = np.array([0.5, 0.8, 0.95])
    expected = 2 * stats.norm.cdf(0.7 * stats.norm.ppf(0.5 + levels / 2)) - 1
    ranks = ranks_among(truth, draws, rng)
    np.testing.assert_allclose(central_coverage(ranks, 199, levels), expected, atol=0.02)
    by_density = ranks_among(-(truth**2), -(draws**2), rng)
    np.testing.assert_allclose(density_coverage(by_density, 199, levels), expected, atol=0.02)


@pytest.mark.parametrize("ranks", [np.array([3]), np.array(3), np.array([0, 100]), np.array([-1, 2])])
def test_bad_ranks_are_refused(ranks):
    with pytest.raises(ValueError, match="rank"):
        uniformity_p_value(ranks, 99)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("program", [PPCA.random(exact=True), correlated(exact)])
def test_exact_guides_are_calibrated(program, seed):
    result = sbc(program, num_simulations=1000, seed=seed)
    assert result.p_value > FALSE_ALARM
    assert result.ranks["z"].shape == (1000, 3)
    assert "No sign of miscalibration" in repr(result)


def test_conjugate_and_discrete_latents_are_calibrated():
    beta = sbc(BetaBernoulli(), torch.zeros(1, 8, dtype=torch.float64), num_simulations=1000, num_samples=49, seed=0)
    assert beta.p_value > FALSE_ALARM
    assert beta.ranks["p"].shape == (1000,)
    x = torch.zeros(1, dtype=torch.float64)
    assert sbc(ExactMixture("sampled"), x, num_simulations=1000, num_samples=49, seed=0).p_value > FALSE_ALARM


class ExactMixture(EnumeratedMixture):
    """The exact posterior of a class and a latent, one given the other."""

    def guide(self, x):
        with pyro.plate("data", len(x)):
            logits = self.weights.log() + dist.Normal(self.means, (1 + self.noise) ** 0.5).log_prob(x[:, None])
            y = pyro.sample("y", dist.Categorical(logits=logits))
            precision = 1 + 1 / self.noise
            pyro.sample("z", dist.Normal((self.means[y] + x / self.noise) / precision, precision**-0.5))


@pytest.mark.parametrize(
    ("defect", "words"),
    [
        (tempered(0.7**0.5), "too narrow"),
        (tempered(1.3), "too wide"),
        (shifted(0.1), "off to one side"),
        (mean_field, "too narrow"),
        (marginals, "full-covariance"),
    ],
)
def test_each_defect_is_caught(defect, words):
    result = sbc(correlated(defect), num_simulations=5000, seed=0)
    assert result.p_value < FALSE_ALARM
    assert words in result.summary()


@pytest.mark.parametrize(
    ("offset", "errors", "named"),
    [
        (0.0, 3.5, "narrow"),
        (0.3, 3.5, "shifted"),
        (0.3, 5.0, "shifted narrow"),
        (0.0, -3.5, "wide"),
        (0.0, 2.5, "uneven"),
    ],
)
def test_a_width_beside_a_shift_takes_four_errors_to_be_named(offset, errors, named):
    """Truths at the quantiles of a normal distribution whose variance is off by some standard errors of 1,000 of them."""
    count, variance = 1000, 1 + errors * (2 / 1000) ** 0.5
    truths = offset + variance**0.5 * stats.norm.ppf((np.arange(count) + 0.5) / count)
    assert defect(np.floor(100 * stats.norm.cdf(truths)).astype(int), 99) == named


def test_advice_is_not_repeated():
    ranks = np.random.default_rng(0).integers(0, 100, (2000, 2))
    ranks[:, 0] = np.minimum(ranks[:, 0] + 15, 99)
    ranks[:, 1] = np.where(ranks[:, 1] < 50, 0, 99)
    flat = np.arange(2000) % 100
    advice = CALIBRATION.result(dataset_of({"z": ranks}, flat, flat, {"z": np.ones(2)}, 99)).summary()
    assert advice.count("refine it per datum") == 1


@pytest.mark.parametrize(
    ("offset", "scale", "words"),
    [
        (0.3, 0.6, "off to one side, and the guide is too narrow"),
        (0.3, 1.6, "off to one side, and the guide is too wide"),
        (1.0, 1.0, "mean is off to one side. "),
        (0.0, 0.6, "the guide is too narrow"),
        (0.0, 1.6, "the guide is too wide"),
    ],
)
@pytest.mark.parametrize("num_draws", [19, 99])
def test_words_name_every_defect_and_no_other(offset, scale, words, num_draws):
    """A mere shift changes the width of the ranks as well, and is not called wide for it."""
    rng = np.random.default_rng(0)
    truth, draws = rng.normal(size=3000), offset + scale * rng.normal(size=(num_draws, 3000))
    ranks = (draws < truth).sum(0)
    log_joint = rng.integers(0, num_draws + 1, 3000)
    result = CALIBRATION.result(dataset_of({"z": ranks}, log_joint, ranks, {"z": np.ones(())}, num_draws))
    first = result.summary().splitlines()[0]
    assert words in first
    assert ("narrow" in first, "wide" in first, "side" in first) == (scale < 1, scale > 1, offset > 0)


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (164, "z: the 90% intervals hold 82% of the truths (p < 0.001)"),
        (167, "z: the 90% intervals hold 84% of the truths (p = 0.0"),
        (168, "No sign of miscalibration: no rank and no coverage of 90% intervals lies off at 1%"),
        (190, "No sign of miscalibration"),
        (191, "z: the 90% intervals hold 96% of the truths (p = 0.0"),
    ],
)
def test_a_coverage_that_lies_off_counts_where_the_ranks_alone_would_pass(held, words):
    """Of 200 simulations: two-sided binomial p-values on either side of the threshold of 1 %."""
    uniform = np.arange(200) % 100
    count = 200 - held
    found = dataset_of({"z": uniform}, uniform, uniform, {"z": np.ones(())}, 99)
    found["central_coverage"].loc[{"level": found["level"][17]}] = held / 200
    p = 2 * min(stats.binom.cdf(held, 200, 0.9), stats.binom.cdf(count, 200, 0.1))
    (finding,) = CALIBRATION.judge(found)
    assert words in finding.claim
    assert (finding.tone == "caution") == (p < 0.01) == ("not calibrated" in finding.claim)


def test_only_the_log_joint_sees_lost_correlations():
    result = sbc(correlated(marginals), num_simulations=5000, seed=0)
    assert result.adjusted("z").min() > FALSE_ALARM
    assert result.adjusted("log_joint") < 1e-20


def test_a_collapsed_latent_passes_and_its_kl_tells():
    program = correlated(exact)
    with torch.no_grad():
        program.weight[:, 1] = 0
    result = sbc(program, num_simulations=2000, seed=0)
    assert result.p_value > FALSE_ALARM
    assert result.kl["z"][1] == pytest.approx(0, abs=1e-12)
    assert result.kl["z"][[0, 2]].min() > 0.1
    assert "z[1]: KL below" in result.summary()


def test_latents_enumerated_by_the_model_are_summed_out():
    result = sbc(
        EnumeratedMixture("model"), torch.zeros(1, dtype=torch.float64), num_simulations=100, num_samples=9, seed=0
    )
    assert list(result.ranks) == ["z"]
    assert np.isnan(result.kl["z"])


def test_coverage_and_bands_come_with_the_ranks():
    result = sbc(PPCA.random(exact=True), num_simulations=1000, seed=0)
    coverage = result.coverage(np.array([0.5, 0.9]))
    assert coverage["z"].shape == (2, 3)
    np.testing.assert_allclose(coverage["joint"], [0.5, 0.9], atol=5 * np.sqrt(0.25 / 1000))
    levels = np.arange(99)
    lower, upper = ecdf_band(1000, (levels + 1) / 100, 0.9999)
    curve = (result.ranks["z"] <= levels[:, None, None]).mean(1)
    assert ((curve >= lower[:, None]) & (curve <= upper[:, None])).all()


def test_the_regions_of_the_joint_coverage_are_those_of_the_guides_density():
    """A guide off by one standard deviation: the truth's distance from it is noncentral chi-squared."""
    program = correlated(shifted(1.0))
    result = sbc(program, num_simulations=4000, seed=0)
    x = program.simulate(1)
    posterior = program.posterior(x)
    offset = posterior.variance.sqrt()
    noncentrality = (offset @ torch.linalg.inv(posterior.covariance_matrix[0]) * offset).sum().item()
    levels = np.array([0.3, 0.6, 0.9])
    expected = stats.ncx2(3, noncentrality).cdf(stats.chi2(3).ppf(levels))
    np.testing.assert_allclose(result.coverage(levels)["joint"], expected, atol=5 * np.sqrt(0.25 / 4000))


def test_ragged_rows_with_the_exact_guide_are_calibrated():
    """Steps beyond the end of a row are masked in both functions, which evaluation leaves out, too."""
    x = ragged_rows(64)
    result = sbc((ragged_model, ragged_guide), x, num_simulations=640, seed=0)
    assert result.p_value > FALSE_ALARM
    kl = 0.5 * (0.5 - 1 + math.log(2) + 0.25 * 2)  # of N(x / 2, 1/2) to N(0, 1), x with variance 2
    share = torch.isfinite(x).double().mean(0).numpy()
    np.testing.assert_allclose(result.kl["z"], kl * share, atol=0.06)
    narrow = sbc((ragged_model, ragged_guide_with(0.25)), x, num_simulations=640, seed=0)
    assert narrow.p_value < FALSE_ALARM


def test_a_flow_costs_no_more_draws_than_the_ranks_need(monkeypatch):
    """A flow has no mean in closed form: its entries' KL takes 500 draws per row, not 500 for each of the guide's."""
    vae = pvae.VAE(
        pvae.standard_normal(3),
        pvae.Factorized(dist.Normal, pvae.MLP(3, (8,)), 5, scale=1.0),
        pvae.AffineFlow(pvae.MLP(5, (8,)), 3, hidden=(8,)),
    )
    drawn = []
    sample = pvae.distributions.FlowDistribution.sample
    monkeypatch.setattr(
        pvae.distributions.FlowDistribution,
        "sample",
        lambda d, shape=(): drawn.append(math.prod((*shape, *d.batch_shape))) or sample(d, shape),
    )
    sbc(vae, num_simulations=50, num_samples=99, seed=0)
    assert sum(drawn) < 50 * (1000 + 3 * 99)


def test_a_seed_gives_one_result_and_leaves_the_generator_alone():
    program = PPCA.random()
    before = torch.get_rng_state()
    few = {"num_simulations": 50, "num_samples": 9, "seed": 3}
    first, second = sbc(program, **few), sbc((program.model, program.guide), **few)
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(first.ranks["z"], second.ranks["z"])
    svi = SVI(program.model, program.guide, pyro.optim.Adam({}), Trace_ELBO())
    np.testing.assert_array_equal(first.ranks["z"], sbc(svi, **few).ranks["z"])


def test_what_cannot_be_simulated_is_refused():
    with pytest.raises(ValueError, match="pass data"):
        sbc(BetaBernoulli(), num_simulations=10, num_samples=9)
    with pytest.raises(ValueError, match="at least 2 simulations"):
        sbc(PPCA.random(), num_simulations=1)


def test_covariates_are_used_in_turn_with_and_without_a_template():
    mean = torch.linspace(-3, 3, 7, dtype=torch.float64)

    def without(x=None, covariates=None, size=None):
        with pyro.plate("data", size or len(x)):
            z = pyro.sample("z", dist.Normal(covariates["mean"], 1.0))
            return pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def template(x, covariates):
        without(x, covariates)

    def guide(x, covariates, size=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x + covariates["mean"]) / 2, 0.5**0.5))

    few = {"num_simulations": 700, "num_samples": 49, "seed": 0}
    assert sbc((without, guide), covariates={"mean": mean}, **few).p_value > FALSE_ALARM
    x = torch.zeros(7, dtype=torch.float64)
    assert sbc((template, guide), x, {"mean": mean}, **few).p_value > FALSE_ALARM


def test_a_test_quantity_sees_what_no_marginal_sees():
    product = {"product": lambda latents, x: latents["z"][..., 0] * latents["z"][..., 1] * latents["z"][..., 2]}
    sums = {"sum": lambda latents, x: latents["z"].sum(-1) - 0.1 * x.sum(-1)}
    blind = sbc(correlated(marginals), num_simulations=5000, test_quantities=sums, seed=0)
    assert blind.p_values["z"].min() > FALSE_ALARM
    assert blind.p_values_quantities[0] < FALSE_ALARM
    assert blind.p_value < FALSE_ALARM
    assert "'sum': its ranks are not uniform" in blind.summary()
    fine = sbc(correlated(exact), num_simulations=2000, test_quantities=sums | product, seed=0)
    assert fine.p_values_quantities.shape == (2,)
    assert fine.p_value > FALSE_ALARM
    assert fine.dataset.attrs["num_tests"] == 6
    assert "quantity" not in sbc(correlated(exact), num_simulations=100, seed=0).dataset


def test_a_test_quantity_gives_one_number_for_each_draw_and_row():
    with pytest.raises(ValueError, match=r"'all' has shape .* expected \(draws, rows\)"):
        sbc(PPCA.random(exact=True), num_simulations=10, test_quantities={"all": lambda z, x: z["z"]}, seed=0)


def test_contraction_scores_and_recovery_are_those_of_the_closed_form():
    """The prior's variance is 1: what is left of it is the posterior's, and the means' is the rest."""
    program = correlated(exact)
    found = sbc(program, num_simulations=2000, seed=0)
    left = program.posterior(program.simulate(1)).variance[0].detach().numpy()
    np.testing.assert_allclose(found.contraction["z"], 1 - left, atol=0.05)
    np.testing.assert_allclose(found.recovery["z"], np.sqrt(1 - left), atol=0.05)
    assert found.z_score["z"].shape == found.truth["z"].shape == (2000, 3)
    np.testing.assert_allclose(found.z_score["z"].mean(0), 0.0, atol=5 / math.sqrt(2000))
    np.testing.assert_allclose(found.z_score["z"].std(0), 1.0, atol=0.1)
    off = sbc(correlated(shifted(0.5)), num_simulations=1000, seed=0)
    np.testing.assert_allclose(off.z_score["z"].mean(0), 0.5, atol=0.2)
    narrow = sbc(correlated(tempered(0.5)), num_simulations=1000, seed=0)
    np.testing.assert_allclose(narrow.z_score["z"].std(0), 2.0, atol=0.3)
    assert "z[0] " + f"{found.contraction['z'][0]:.2f}, {found.recovery['z'][0]:.2f}, " in found.summary()


@pytest.mark.parametrize(("guide", "inside"), [(exact, True), (tempered(0.7), False)])
def test_coverage_lies_in_its_band_under_an_exact_guide(guide, inside):
    result = sbc(correlated(guide), num_simulations=2000, seed=1)
    assert [one.tone for one in result.findings()] == ["good" if inside else "caution"] * 2
    found = result.dataset
    every = np.column_stack([found["central_coverage"], found["joint_coverage"]])
    low, high = (found[f"coverage_{edge}"].values[:, None] for edge in ("low", "high"))
    within = ((every >= low) & (every <= high)).all(0)
    assert within.all() == inside
    assert found.sizes["level"] == 19
    middle = found["level"].values[9]
    assert low[9] < middle < high[9]
    reach = (high[9, 0] - low[9, 0]) / 2 / np.sqrt(middle * (1 - middle) / 2000)
    assert 2.5 < reach < 3.6  # standard errors: for 19 levels of four curves together, where one alone has 1.96


def test_masked_latents_have_no_truth_to_recover():
    x = ragged_rows(64)
    found = sbc((ragged_model, ragged_guide), x, num_simulations=64, num_samples=49, seed=0)
    np.testing.assert_array_equal(np.isnan(found.truth["z"]), np.isnan(x.numpy()))
    assert np.isfinite(found.recovery["z"]).all()


@pytest.mark.parametrize(
    ("of", "label"),
    [
        ("ranks", "rank among 19 draws (share)"),
        ("coverage", "credible level (probability)"),
        ("recovery", "truth (sd of the prior)"),
        ("contraction", "contraction of the variance (share)"),
    ],
)
def test_each_figure_of_calibration(of, label):
    found = sbc(correlated(exact), num_simulations=100, num_samples=19, seed=0)
    ax = found.plot(of=of)
    assert ax.get_xlabel() == label
    assert "z[1]" in {text.get_text() for text in ax.get_legend().get_texts()}
    if of == "recovery":
        drawn = ax.collections[1].get_offsets()
        truth = found.truth["z"][:, 1]
        np.testing.assert_allclose(drawn[:, 0], (truth - truth.mean()) / truth.std())
    with pytest.raises(ValueError, match="of must be one of"):
        found.plot(of="rank")
