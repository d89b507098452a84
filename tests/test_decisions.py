"""Numbers that people act on, each held to a law that one wrong line would break: errors, ranks and p-values."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from behavior_programs import CORRELATED, Plain, gaussian, many_rows

import pyrovae as pvae


def test_the_error_of_a_gap_holds_the_errors_of_both_of_its_parts():
    """Under an exact guide log p(x) and the guide's own bound have none, so that all of it is the refined bound's."""
    program, x = many_rows(20)
    options = {"method": "importance", "num_samples": 50, "num_steps": 2, "seed": 0, "progress": False}
    found = pvae.inference_gaps(program, x, **options)
    assert found.log_marginal_error.max() < 1e-6
    assert found.refined_elbo_error.min() > 1e-3
    np.testing.assert_allclose(found.approximation_error, found.refined_elbo_error, rtol=1e-6)
    np.testing.assert_allclose(found.amortization_error, found.refined_elbo_error, rtol=1e-6)


def test_the_error_of_the_evidence_is_in_the_approximation_gap_alone():
    program, x = many_rows(20)
    wide = (program.model, lambda x, size=None: wider(program, x, 1.5))
    options = {"method": "importance", "num_samples": 50, "num_steps": 2, "seed": 0, "progress": False}
    found = pvae.inference_gaps(wide, x, **options)
    assert found.log_marginal_error.min() > 1e-3
    both = np.hypot(found.log_marginal_error, found.refined_elbo_error)
    np.testing.assert_allclose(found.approximation_error, both, rtol=1e-6)
    bounds = np.hypot(found.elbo_error, found.refined_elbo_error)
    np.testing.assert_allclose(found.amortization_error, bounds, rtol=1e-6)


def wider(program, x, factor):
    with pyro.plate("data", len(x)):
        q = program.posterior(x)
        pyro.sample("z", dist.MultivariateNormal(q.loc, scale_tril=factor * q.scale_tril))


def test_the_joint_coverage_is_that_of_the_guides_own_density():
    """A guide with the right marginals and no correlation: its circles hold another share than the posterior's ellipses."""
    law = gaussian([[4.0, 3.6], [3.6, 4.0], [0.1, -0.1]], 1.0)
    program = Plain(law)
    covariance = program.scale_tril @ program.scale_tril.T
    sd = covariance.diagonal().sqrt()

    def guide(x, size=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(program.posterior(x).loc, sd).to_event(1))

    found = pvae.sbc((program.model, guide), num_simulations=2000, seed=0)
    correlation = (covariance / sd / sd[:, None]).detach().numpy()
    truths = np.random.default_rng(0).multivariate_normal(np.zeros(2), correlation, size=200_000)
    levels = np.array([0.5, 0.9])
    inside = [((truths**2).sum(1) < -2 * math.log(1 - level)).mean() for level in levels]
    shape = np.linalg.inv(correlation)
    circles = np.random.default_rng(1).normal(size=(200_000, 2))
    quantiles = np.quantile(np.einsum("bi,ij,bj->b", circles, shape, circles), levels)
    ellipses = [(np.einsum("bi,ij,bj->b", truths, shape, truths) < q).mean() for q in quantiles]
    assert abs(correlation[0, 1]) > 0.8
    assert np.abs(np.subtract(inside, ellipses)).max() > 0.1  # the two are told apart
    np.testing.assert_allclose(found.coverage(levels)["joint"], inside, atol=5 * math.sqrt(0.25 / 2000))


def test_p_values_of_typical_rows_are_uniform():
    """Two-sided for the ELBO, which is low for odd rows and high for rows that are too good; one-sided for the distance."""
    law = gaussian(CORRELATED, 1.0)
    program = Plain(law)
    found = pvae.checks.typicality(program, law.simulate(1500), num_simulations=3000, num_samples=4, seed=0)
    for name, p in found.p_values.items():
        for level in (0.1, 0.3):
            share = (p < level).mean()
            assert abs(share - level) < 5 * math.sqrt(level * (1 - level) / 1500 + 1 / 3000), (name, level, share)


def test_rows_that_are_too_good_are_atypical_as_well():
    law = gaussian(CORRELATED, 1.0)
    program = Plain(law)
    center = torch.zeros(4, 3, dtype=torch.float64)
    found = pvae.checks.typicality(program, center, num_simulations=2000, num_samples=4, seed=0)
    assert (found.p_values["elbo"] < 0.02).all()
    assert (found.p_values["posterior mean"] > 0.9).all()
