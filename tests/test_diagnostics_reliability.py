"""Reliability per datum, its words, and which rows are typical."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from guided import correlated, exact, mean_field, shifted, tempered
from oracles import PPCA
from programs import counts, counts_vae

from pyrovae.checks import reliability, typicality
from pyrovae.checks.reliability import RELIABILITY, dataset_of
from pyrovae.checks.typicality import TYPICALITY
from pyrovae.evaluation import refine


def test_an_exact_guide_is_reliable_and_its_numbers_exact():
    program = correlated(exact)
    x = program.simulate(20)
    result = reliability(program, x, num_samples=100, seed=0)
    np.testing.assert_allclose(result.log_marginal, program.log_evidence(x), atol=1e-9)
    np.testing.assert_allclose(result.elbo, result.log_marginal, atol=1e-9)
    np.testing.assert_allclose(result.ess, 100, rtol=1e-9)
    np.testing.assert_allclose(result.mcse, 0, atol=1e-6)
    assert result.pareto_k.max() == 0
    assert set(result.advice) == {"fine"}
    assert repr(result).endswith("draws reweighted by importance can stand for the posterior.")


def test_kl_and_elbo_are_those_of_the_closed_form():
    program = PPCA.random()
    x = program.simulate(10)
    result = reliability(program, x, num_samples=4000, seed=0)
    np.testing.assert_allclose(result.elbo, program.elbo(x), atol=0.15)
    prior = dist.Normal(torch.zeros(3).double(), 1.0).to_event(1)
    kl = torch.distributions.kl_divergence(program.proposal(x), prior).detach()
    np.testing.assert_allclose(result.kl, kl, rtol=0.05)


@pytest.mark.parametrize(
    ("k", "mcse", "num_samples", "refined", "advice"),
    [
        (0.2, 0.01, 1000, False, "fine"),
        (0.2, 0.5, 1000, False, "more samples"),
        (0.65, 0.01, 100, False, "more samples"),
        (0.8, 0.01, 1000, False, "refine"),
        (np.nan, 0.01, 1000, False, "refine"),
        (np.inf, np.nan, 1000, False, "refine"),
        (0.8, 0.01, 1000, True, "richer guide"),
    ],
)
def test_each_row_gets_the_advice_that_fits(k, mcse, num_samples, refined, advice):
    result = RELIABILITY.result(dataset_of({"mcse": np.array([mcse]), "pareto_k": np.array([k])}, num_samples, refined))
    assert result.advice.tolist() == [advice]
    assert result.count(advice) == 1
    assert "1 of 1 rows (100 %)" in result.summary()
    assert "bad model" not in result.summary()


@pytest.mark.parametrize(
    ("num_samples", "words"),
    [
        (200, "above 0.1 nats, or k-hat is above 0.57, the limit for 200 samples, but not above 0.7)."),
        (5000, "0.1 nats)."),
    ],
)
def test_words_name_the_limit_for_so_many_samples(num_samples, words):
    result = RELIABILITY.result(dataset_of({"mcse": np.ones(1), "pareto_k": np.array([0.1])}, num_samples))
    assert result.summary().endswith(words)


def test_refinement_moves_the_advice():
    program = correlated(shifted(1.5))
    x = program.simulate(8)
    before = reliability(program, x, num_samples=1000, seed=0)
    assert before.count("refine") > 3
    after = reliability(refine(program, x, num_steps=60, learning_rate=0.1, seed=0), x, num_samples=1000, seed=0)
    assert after.refined
    assert after.count("fine") == 8
    stuck = reliability(refine(program, x, num_steps=1, learning_rate=1e-6, seed=0), x, num_samples=1000, seed=0)
    assert stuck.count("refine") == 0
    assert stuck.count("richer guide") > 3
    assert "a richer guide" in stuck.summary()


def test_typical_rows_pass_and_strange_ones_are_found():
    program = correlated(mean_field)
    typical = typicality(program, program.simulate(400), seed=0)
    assert typical.atypical.mean() < 0.05 + 3 * np.sqrt(0.05 / 400)
    assert "by chance" in repr(typical)
    strange = program.simulate(40)
    strange[:20] = program.mean.detach() + 4 * torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    result = typicality(program, strange, seed=0)
    assert result.atypical[:20].mean() > 0.9
    assert result.atypical[20:].mean() < 0.25
    assert "do not rely on the amortized guide" in result.summary()


def test_the_p_values_of_the_models_own_rows_are_uniform():
    """The test of the ELBO is two-sided: without its factor 2 half as many would be above any level."""
    program = correlated(mean_field)
    result = typicality(program, program.simulate(1000, seed=7), num_simulations=4000, seed=0)
    for p in result.p_values.values():
        for level in (0.1, 0.5):
            assert (p < level).mean() == pytest.approx(level, abs=5 * np.sqrt(level * (1 - level) / 1000))


@pytest.mark.parametrize(("count", "tone"), [(15, "good"), (19, "good"), (20, "caution")])
def test_more_rows_than_chance_explains_are_atypical(count, tone):
    """Of 200 rows at level 0.05: 10 by chance, and three standard errors are 9.5."""
    (finding,) = TYPICALITY.judge(xr.Dataset({"atypical": ("data", np.arange(200) < count)}, attrs={"level": 0.05}))
    assert finding.tone == tone
    assert bool(finding.advice) == (tone == "caution")


@pytest.mark.parametrize(("bad", "tone"), [(5, "good"), (6, "caution")])
def test_the_evidence_is_trusted_up_to_five_per_cent_of_bad_rows(bad, tone):
    k = np.where(np.arange(100) < bad, 0.71, 0.2)
    (finding,) = RELIABILITY.judge(dataset_of({"mcse": np.zeros(100), "pareto_k": k}, 10_000))
    assert finding.tone == tone
    assert ("can be trusted" in finding.claim) == (tone == "good")


def test_rows_too_typical_are_atypical_too():
    """A row at the mean has an ELBO that hardly any simulated row reaches."""
    program = PPCA.random(latent=2, data=40, noise=1.0, exact=True)
    rows = program.mean.detach().expand(3, 40).clone()
    assert typicality(program, rows, seed=0).p_values["elbo"].max() < 0.01


def test_typicality_of_vaes_covariates_and_missing_rows():
    vae = counts_vae()
    x = counts(30)
    x[0] = torch.nan
    assert typicality(vae, x, num_simulations=200, seed=0).p_value.shape == (30,)

    def model(x=None, covariates=None, size=None):
        with pyro.plate("data", size or len(x)):
            z = pyro.sample("z", dist.Normal(covariates["mean"], 1.0))
            return pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, covariates=None, size=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x + covariates["mean"]) / 2, 0.7))

    mean = torch.linspace(-30, 30, 50)
    x = mean + 2**0.5 * torch.randn(50, generator=torch.Generator().manual_seed(5))
    result = typicality((model, guide), x, num_simulations=500, covariates={"mean": mean}, seed=0)
    assert result.atypical.mean() < 0.15


def test_the_level_is_that_of_the_simulations():
    program = correlated(tempered(1.2))
    result = typicality(program, program.simulate(1000), num_simulations=1000, level=0.2, seed=0)
    assert 0.05 < result.atypical.mean() < 0.27
