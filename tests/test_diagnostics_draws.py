"""Reference posteriors against closed forms, corrected draws, and guides beside references."""

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from guided import GuidedPPCA, correlated, exact, marginals, mean_field, shifted, tempered
from oracles import PPCA, BetaBernoulli, EnumeratedMixture, GammaPoisson
from programs import counts, counts_vae
from scipy import stats

from pyrovae.checks import Sampler, compare_posteriors, posterior_draws, reference_posterior
from pyrovae.checks.reference import ReferencePosterior
from pyrovae.limits import good_k

SHORT = Sampler(num_chains=8, num_warmup=120, num_samples=250, max_leapfrog=8)


@pytest.fixture(scope="module")
def chains():
    """Chains for ten rows of probabilistic PCA with correlated latents, and the exact posterior."""
    program = correlated(mean_field)
    x = program.simulate(10)
    return reference_posterior(program, x, sampler=SHORT, seed=0), program.posterior(x)


@pytest.mark.parametrize("case", ["independent", "autocorrelated", "stuck", "one chain", "odd"])
def test_rhat_and_ess_are_those_of_arviz_row_by_row(case):
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(1 if case == "one chain" else 4, 101 if case == "odd" else 400, 3, 2))
    if case == "autocorrelated":
        for t in range(1, draws.shape[1]):
            draws[:, t] += 0.9 * draws[:, t - 1]
    if case == "stuck":
        draws[0] += 2.0
    found = ReferencePosterior({"z": torch.as_tensor(draws)}, "hmc")
    if case == "one chain":  # which ArviZ refuses: its halves are compared
        draws = np.stack([draws[0, :200], draws[0, 200:]])
    rhat, ess = (
        np.array([[measure(draws[:, :, i, j]) for j in range(2)] for i in range(3)]) for measure in (az.rhat, az.ess)
    )
    np.testing.assert_allclose(found.rhat["z"], rhat, rtol=1e-9)
    np.testing.assert_allclose(found.ess["z"], ess, rtol=1e-9)
    np.testing.assert_allclose(found.max_rhat, rhat.max(1), rtol=1e-9)
    np.testing.assert_allclose(found.min_ess, ess.min(1), rtol=1e-9)
    assert (found.max_rhat > 1.05).all() == (case == "stuck")


def test_chains_recover_the_linear_gaussian_posterior(chains):
    reference, posterior = chains
    draws = reference.draws()["z"]
    assert draws.shape == (2000, 10, 3)
    assert reference.max_rhat.max() < 1.02
    assert reference.min_ess.min() > 500
    assert ((draws.mean(0) - posterior.mean) / posterior.variance.sqrt()).abs().max() < 0.15
    ratio = draws.var(0) / posterior.variance
    assert ratio.min() > 0.8
    assert ratio.max() < 1.25
    for row in range(3):
        close = torch.corrcoef(draws[:, row].T) - torch.corrcoef(posterior.sample((4000,))[:, row].T)
        assert close.abs().max() < 0.15
    assert "ReferencePosterior(hmc, 10 rows, 8 chains x 250 draws)" in repr(reference)


def test_chains_on_a_positive_latent_use_the_jacobian():
    program = GammaPoisson()
    x = program.simulate(4)
    draws = reference_posterior(program, x, sampler=SHORT, seed=0).draws()["rate"]
    gamma = program.posterior(x)
    # without the Jacobian the concentration is one less, and the means 5 to 10 % lower
    assert (draws.mean(0) / gamma.mean).mean().item() == pytest.approx(1, abs=0.02)
    quantiles = [
        stats.gamma(a, scale=1 / r).ppf([0.1, 0.5, 0.9]) for a, r in zip(gamma.concentration, gamma.rate, strict=True)
    ]
    np.testing.assert_allclose(np.quantile(draws, [0.1, 0.5, 0.9], axis=0).T, quantiles, rtol=0.12)


def test_nuts_agrees_and_takes_rows_one_by_one():
    program = BetaBernoulli()
    x = program.simulate(2)
    reference = reference_posterior(program, x, method="nuts", sampler=Sampler(2, 40, 80), seed=0)
    posterior = program.posterior(x)
    assert reference.values["p"].shape == (2, 80, 2)
    shift = (reference.draws()["p"].mean(0) - posterior.mean) / posterior.variance.sqrt()
    assert shift.abs().max() < 0.5
    assert reference.method == "nuts"


def test_nuts_draws_a_masked_latent_from_its_prior():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("u", dist.Normal(3.0, 0.5).mask(torch.zeros(len(x), dtype=torch.bool)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.8))
            pyro.sample("u", dist.Normal(3.0, 0.5).mask(torch.zeros(len(x), dtype=torch.bool)))

    torch.manual_seed(0)
    reference = reference_posterior(
        (model, guide), torch.tensor([1.0]), method="nuts", sampler=Sampler(2, 100, 250), seed=0
    )
    u = reference.draws()["u"]
    assert u.mean().item() == pytest.approx(3.0, abs=0.15)
    assert u.std().item() == pytest.approx(0.5, rel=0.25)


def test_nuts_leaves_the_networks_and_the_store_alone():
    vae = counts_vae()
    before = [p.detach().clone() for p in vae.parameters()]
    reference = reference_posterior(vae, counts(1), method="nuts", sampler=Sampler(2, 10, 10), seed=0)
    assert reference.values["z"].shape == (2, 10, 1, 2)
    assert all(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))
    assert not pyro.get_param_store().keys()


def test_two_modes_show_in_rhat():
    """The guide knows one mode of two; chains that start at the prior find the other, and R-hat says so."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 2.0))
            pyro.sample("x", dist.Normal(z**2, 0.3), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.clamp_min(0).sqrt(), 0.1))

    x = torch.tensor([4.0, 9.0])
    reference = reference_posterior((model, guide), x, sampler=SHORT, seed=0)
    assert reference.max_rhat.min() > 1.1
    assert "longer chains" in reference.summary()


def test_identical_draws_agree_and_defects_have_their_numbers(chains):
    reference, posterior = chains
    same = compare_posteriors(reference, reference)
    assert max(np.abs(same.shift["z"]).max(), same.wasserstein["z"].max(), same.correlation.max()) == 0
    torch.manual_seed(0)
    wide = posterior.loc + 2.0 * (posterior.sample((4000,)) - posterior.loc) + 0.5 * posterior.variance.sqrt()
    result = compare_posteriors({"z": wide}, {"z": posterior.sample((4000,))})
    np.testing.assert_allclose(result.shift["z"], 0.5, atol=0.15)
    np.testing.assert_allclose(result.sd_ratio["z"], 2.0, rtol=0.08)
    quantiles = stats.norm.ppf((np.arange(4000) + 0.5) / 4000)
    expected = stats.wasserstein_distance(2 * quantiles + 0.5, quantiles)
    np.testing.assert_allclose(result.wasserstein["z"], expected, atol=0.12)
    assert "width is off" in result.summary()


def test_lost_correlations_are_measured():
    program = correlated(marginals)
    x = program.simulate(5)
    torch.manual_seed(0)
    result = compare_posteriors({"z": program.proposal(x).sample((3000,))}, {"z": program.posterior(x).sample((3000,))})
    truth = program.posterior(x[:1]).covariance_matrix[0]
    truth = truth / truth.diagonal().sqrt() / truth.diagonal().sqrt()[:, None]
    expected = truth[~torch.eye(3, dtype=bool)].square().mean().sqrt().item()
    np.testing.assert_allclose(result.correlation[:, 0], expected, atol=0.1)
    assert "correlations differ" in repr(result)


def test_draws_of_other_rows_are_refused():
    with pytest.raises(ValueError, match="same sites and rows"):
        compare_posteriors({"z": torch.zeros(4, 3)}, {"z": torch.zeros(4, 2)})


@pytest.mark.parametrize(("defect", "factor"), [(tempered(1.5), 1.5), (shifted(0.5), 1.0)])
def test_resampled_draws_are_corrected(defect, factor):
    program = correlated(defect)
    x = program.simulate(40)
    posterior = program.posterior(x)
    for method, wanted in (("guide", factor), ("psis", 1.0)):
        draws = posterior_draws(program, x, method=method, num_samples=1000, num_proposals=4000, seed=0).values["z"]
        ratio = (draws.var(0) / posterior.variance).sqrt().mean().item()
        assert ratio == pytest.approx(wanted, rel=0.03)
    corrected = ((draws.mean(0) - posterior.mean) / posterior.variance.sqrt()).mean(0)
    assert corrected.abs().max() < 0.1


def test_auto_corrects_by_the_weights_where_nearly_all_draws_are_effective():
    """95 % of the draws are effective, and the guide's own means would be off by .05 standard deviations."""
    program = correlated(shifted(0.05))
    x = program.simulate(40)
    found = posterior_draws(program, x, method="auto", num_samples=1000, num_proposals=4000, seed=0)
    assert (found.ess > 0.9 * 4000).all()
    assert set(found.method.tolist()) == {"psis"}
    posterior = program.posterior(x)
    off = ((found.values["z"].mean(0) - posterior.mean) / posterior.variance.sqrt()).mean(0)
    assert off.abs().max() < 0.02


def test_auto_escalates_row_by_row():
    """Rows 0-9 have an exact guide, rows 10-19 one too wide, rows 20-24 one far off in a corner."""

    class Mixed(GuidedPPCA):
        def proposal(self, x):
            p = self.posterior(x)
            kind = x[:, -1:]
            tril = torch.where(kind[..., None] > 50, 0.3, torch.where(kind[..., None] > 5, 1.5, 1.0)) * p.scale_tril
            return dist.MultivariateNormal(p.loc + (kind > 50) * 2 * p.variance.sqrt(), scale_tril=tril)

    program = Mixed.random(latent=2, data=4)
    with torch.no_grad():
        program.weight[-1] = 0  # the last feature says nothing of z, and here it says which guide to use
    x = program.simulate(25)
    x[:10, -1], x[10:20, -1], x[20:, -1] = 0.0, 10.0, 100.0
    result = posterior_draws(program, x, num_samples=400, sampler=Sampler(8, 100, 100), seed=0)
    assert result.method.tolist() == ["guide"] * 10 + ["psis"] * 10 + ["hmc"] * 5
    posterior = program.posterior(x)
    shift = (result.values["z"].mean(0) - posterior.mean) / posterior.variance.sqrt()
    assert shift.abs().max() < 0.35
    assert np.isfinite(result.rhat[20:]).all()
    assert np.isnan(result.rhat[:20]).all()
    assert (result.pareto_k[20:] > good_k(1000)).all()
    assert "hmc: 5 of 25 rows (20 %)" in repr(result)


def test_unreliable_rows_are_named_with_the_remedy():
    program = correlated(tempered(0.3))
    result = posterior_draws(program, program.simulate(20), method="psis", seed=0)
    assert "method='auto' or 'hmc', or refine the guide" in result.summary()
    exact_result = posterior_draws(correlated(exact), program.simulate(20), method="psis", seed=0)
    assert "refine" not in exact_result.summary()
    np.testing.assert_allclose(exact_result.ess, 1000, rtol=1e-6)


def test_khat_is_that_of_the_exact_gaussian():
    """A single k-hat at 1,000 draws scatters by 0.13 around the exact 1 - lambda_min."""
    program = PPCA.random(latent=10, data=20, seed=2)
    result = posterior_draws(program, program.simulate(100), method="guide", num_proposals=2000, seed=0)
    assert program.exact_khat() > 0.5
    assert result.pareto_k.mean() == pytest.approx(program.exact_khat(), abs=0.12)
    assert result.pareto_k.std() < 0.15


def test_discrete_latents_are_resampled_but_not_chained():
    program = EnumeratedMixture("sampled")
    x = program.simulate(50)
    draws = posterior_draws(program, x, method="psis", num_samples=500, num_proposals=4000, seed=0)
    expected = (program.weights.log() + dist.Normal(program.means, 1.7**0.5).log_prob(x[:, None])).softmax(-1)
    shares = torch.stack([(draws.values["y"] == y).double().mean(0) for y in range(3)], -1)
    assert (shares - expected).abs().mean() < 0.02
    with pytest.raises(ValueError, match=r"sum out the discrete sites \['y'\]"):
        posterior_draws(program, x[:3], method="hmc", sampler=Sampler(2, 4, 4), num_samples=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"method": "mcmc"}, "method must be one of"), ({"num_samples": 2000}, "num_samples <= num_proposals")],
)
def test_bad_requests_are_refused(options, message):
    program = PPCA.random()
    with pytest.raises(ValueError, match=message):
        posterior_draws(program, program.simulate(3), **options)
    with pytest.raises(ValueError, match="method must be one of hmc, nuts"):
        reference_posterior(program, program.simulate(3), method="gibbs")
    with pytest.raises(ValueError, match="at least 4 samples"):
        Sampler(num_samples=3)


def test_covariates_travels_to_every_method():
    def model(x, covariates):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(covariates["mean"], 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, covariates):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x + covariates["mean"]) / 2, 1.0))

    mean = torch.tensor([-5.0, 0.0, 5.0])
    for method in ("guide", "psis", "hmc"):
        result = posterior_draws(
            (model, guide), torch.zeros(3), {"mean": mean}, method=method, sampler=Sampler(4, 50, 100), seed=0
        )
        np.testing.assert_allclose(result.values["z"].mean(0), mean / 2, atol=0.35)
