"""Latent structure against linear-Gaussian closed forms; collapse told from a hole in the prior."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from guided import GuidedPPCA, correlated, exact, mean_field
from oracles import PPCA, EnumeratedMixture
from programs import ragged_guide, ragged_guide_with, ragged_model, ragged_rows

import pyrovae as pvae
from pyrovae.checks import elbo_surgery, latent_structure, rate_distortion
from pyrovae.checks.structure import STRUCTURE


def linear(program):
    """The aggregate of a linear-Gaussian guide over the population: mean, covariance of means, guide covariance."""
    origin = program.proposal(torch.zeros(1, len(program.weight), dtype=torch.float64))
    units = program.proposal(torch.eye(len(program.weight), dtype=torch.float64))
    slope = (units.mean - origin.mean).T
    marginal = program.marginal()
    mean = origin.mean[0] + slope @ marginal.mean
    own = origin.covariance_matrix[0] if hasattr(origin, "covariance_matrix") else torch.diag(origin.variance[0])
    return mean.detach(), (slope @ marginal.covariance_matrix @ slope.T).detach(), own.detach()


def closed_forms(program):
    """Mutual information, marginal KL to N(0, I), and their sum, in nats."""
    mean, between, own = linear(program)
    total = between + own
    information = 0.5 * (torch.logdet(total) - torch.logdet(own)).item()
    marginal = 0.5 * (total.trace() + mean @ mean - len(mean) - torch.logdet(total)).item()
    return information, marginal


def scaled(factor, shift=0.0):
    """A guide whose means are the posterior's times a factor, moved by a shift: its aggregate misses the prior."""

    def defect(posterior):
        return dist.Normal(factor * posterior.loc + shift, posterior.variance.sqrt()).to_event(1)

    return defect


class Blind(PPCA):
    """A guide that ignores the data: N(shift, scale)."""

    shift, scale = 0.0, 1.0

    def proposal(self, x):
        return dist.Normal(torch.full((len(x), self.latent_dim), self.shift).double(), self.scale).to_event(1)


@pytest.mark.parametrize("defect", [exact, mean_field, scaled(1.0), scaled(0.5, 0.3)])
def test_surgery_equals_the_closed_form_below_the_cap(defect):
    program = correlated(defect)
    result = elbo_surgery(program, program.simulate(1500), num_samples=1, seed=0)
    information, marginal = closed_forms(program)
    assert not result.saturated
    assert abs(result.mutual_information - information) < 0.15
    assert result.mutual_information_upper > information - 0.15
    assert abs(result.marginal_kl - marginal) < 0.15
    assert result.marginal_kl_lower < marginal + 0.05


@pytest.mark.parametrize("latent", [10, 40])
def test_saturation_is_flagged_above_the_cap(latent):
    program = PPCA.random(latent=latent, data=50, noise=0.3, guide_scale=1.0)
    result = elbo_surgery(program, program.simulate(400), num_samples=2, seed=0)
    information, _ = closed_forms(program)
    assert information > math.log(400) + 3
    assert result.saturated
    assert result.mutual_information <= result.log_n + 1e-9
    said = result.summary()
    assert f"400 rows are too few, since at {result.own_share:.0%} of the draws (above 7%)" in said
    assert f"cannot exceed log 400 = {math.log(400):.2f} nats" in said


@pytest.mark.parametrize("noise", [0.05, 0.2, 1.0, 5.0, 30.0])
def test_unflagged_information_is_right_within_a_seventh_of_a_nat(noise):
    """Whatever the truth, either the estimate is within 0.15 nats (and its error), or it is flagged."""
    program = PPCA.random(latent=8, data=12, noise=noise, exact=True)
    result = elbo_surgery(program, program.simulate(800), num_samples=2, seed=0)
    information, _ = closed_forms(program)
    assert result.saturated or abs(result.mutual_information - information) < 0.15 + 3 * result.mcse
    assert result.saturated == (information > 4.2)


def test_mean_kl_is_information_plus_marginal_kl():
    """The KL is a closed form here and the other two are drawn, so that the identity can fail."""
    program = correlated(scaled(0.8, 0.2))
    x = program.simulate(500)
    result = elbo_surgery(program, x, num_samples=4, seed=0)
    q = program.proposal(x).base_dist
    by_hand = torch.distributions.kl_divergence(q, dist.Normal(torch.zeros(3).double(), 1.0)).sum(-1).mean().item()
    assert result.mean_kl == pytest.approx(by_hand, abs=1e-9)
    assert result.mutual_information + result.marginal_kl == pytest.approx(
        result.mean_kl, abs=5 * 1.5 / math.sqrt(500 * 4)
    )
    assert result.elbo == pytest.approx(result.reconstruction - by_hand, abs=1e-9)


def test_the_parts_add_up_exactly_where_all_come_from_the_same_draws():
    program = correlated(exact)
    result = elbo_surgery(program, program.simulate(200), num_samples=2, seed=0)
    assert result.mutual_information + result.marginal_kl == pytest.approx(result.mean_kl, abs=1e-9)


def test_entries_have_their_own_information_and_marginal_kl():
    program = correlated(scaled(0.8, 0.2))
    mean, between, own = linear(program)
    result = elbo_surgery(program, program.simulate(1000), num_samples=2, seed=0)
    total = (between + own).diagonal()
    information = 0.5 * (total / own.diagonal()).log()
    marginal = 0.5 * (total + mean**2 - 1 - total.log())
    np.testing.assert_allclose(result.entry_mutual_information["z"], information, atol=0.1)
    np.testing.assert_allclose(result.entry_marginal_kl["z"], marginal, atol=0.1)


@pytest.mark.parametrize("defect", [exact, mean_field])
def test_kl_and_posterior_means_of_each_entry(defect):
    program = correlated(defect)
    x = program.simulate(300)
    result = latent_structure(program, x, num_samples=2, seed=0)
    posterior = program.proposal(x)
    expected = posterior.mean.var(0).detach()
    marginal = dist.Normal(posterior.mean, posterior.variance.sqrt())
    kl = torch.distributions.kl_divergence(marginal, dist.Normal(torch.zeros(3).double(), 1.0)).mean(0).detach()
    np.testing.assert_allclose(result.mean_variance["z"], expected, rtol=1e-6)
    np.testing.assert_allclose(result.kl["z"], kl, rtol=1e-6)


def test_active_units_are_counted_both_ways():
    program = correlated(exact)
    with torch.no_grad():
        program.weight[:, 1] = 0
        program.weight[:, 2] *= 0.13
    result = latent_structure(program, program.simulate(800), seed=0)
    assert result.active()["z"].tolist() == [True, False, True]
    assert result.informative()["z"].tolist() == [True, False, False]
    assert (result.num_active, result.num_informative) == (2, 1)
    assert "Unused (KL < 0.01 nats): z[1]" in repr(result)
    assert result.verdict == "in use"


@pytest.mark.parametrize(
    ("estimate", "line", "words"),
    [
        (-0.07, ("mutual information (at most)", 0.05), "carry 0.00 nats (estimate -0.07 ± 0.06) about"),
        (-0.2, ("mutual information (at most)", 0.0), "carry 0.00 nats (estimate -0.20 ± 0.06) about"),
        (0.0, ("mutual information", 0.0), "carry 0.00 nats about"),
    ],
)
def test_a_mutual_information_is_never_told_to_be_below_zero(estimate, line, words):
    blind = Blind.random()
    found = latent_structure(blind, blind.simulate(100), seed=0).dataset
    found = found.assign(mutual_information=estimate, mcse=0.06)
    assert STRUCTURE.numbers(found)[0][:2] == (line[0], pytest.approx(line[1]))
    assert words in STRUCTURE.judge(found)[0].claim
    assert ("(an estimate; in truth it is not below 0)" in STRUCTURE.judge(found)[0].claim) is (estimate < 0)


def test_collapse_is_told_from_a_hole():
    """A guide that ignores the data collapses, however far from the prior; one that misses the prior has a hole."""
    x = PPCA.random().simulate(500)
    blind = Blind.random()
    assert latent_structure(blind, x, seed=0).verdict == "collapsed"
    blind.shift = 2.0
    far = latent_structure(blind, x, seed=0)
    assert far.verdict == "collapsed"
    assert far.kl["z"].min() > 1.9
    assert "off the prior, yet saying nothing" in far.summary()
    moved = correlated(scaled(1.0, 1.0))
    hole = latent_structure(moved, moved.simulate(500), seed=0)
    assert hole.verdict == "prior hole"
    assert "may decode badly" in hole.summary()
    _, marginal = closed_forms(moved)
    assert abs(hole.surgery.marginal_kl - marginal) < 0.25
    assert latent_structure(correlated(mean_field), moved.simulate(500), seed=0).verdict == "in use"


def test_a_hole_is_seen_under_saturation_by_the_normal_bound():
    """40 latents, 400 rows: mutual information is far above its cap, and the hole (a shift by 0.5) is still certain."""
    program = GuidedPPCA.with_defect(scaled(1.0, 0.5), latent=40, data=50, noise=0.3)
    result = latent_structure(program, program.simulate(400), num_samples=2, seed=0)
    assert result.surgery.saturated
    _, marginal = closed_forms(program)
    assert 0.8 * marginal < result.surgery.marginal_kl_lower < 1.1 * marginal
    assert result.verdict == "prior hole"
    fine = GuidedPPCA.with_defect(mean_field, latent=40, data=50, noise=0.3)
    assert latent_structure(fine, fine.simulate(400), num_samples=2, seed=0).verdict == "undecided"


def test_points_made_of_auxiliary_draws_have_the_density_of_these_draws():
    """The same guide three times: with a density, as a point made of one draw alike for all rows, and of one scaled by row."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.log(), 0.5), obs=x)

    def plain(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LogNormal(0.8 * x, 0.45))

    def alike(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(0.8 * x, 0.45), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u.exp(), log_density=-u))

    def by_row(x):
        with pyro.plate("data", len(x)):
            e = pyro.sample("e", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
            u = 0.8 * x + 0.45 * e
            pyro.sample("z", dist.Delta(u.exp(), log_density=-u - math.log(0.45)))

    x = 1.25**0.5 * torch.randn(300, generator=torch.Generator().manual_seed(0))
    known, found, unknown = (latent_structure((model, guide), x, seed=0) for guide in (plain, alike, by_row))
    for name in ("mutual_information", "mutual_information_upper", "marginal_kl", "reconstruction"):
        np.testing.assert_allclose(found.dataset[name], known.dataset[name], atol=1e-4)
    assert found.mutual_information == pytest.approx(0.5 * math.log(1 + 0.64 * 1.25 / 0.45**2), abs=0.15)
    assert (found.verdict, known.verdict, unknown.verdict) == ("in use", "in use", "undecided")
    assert found.num_active == known.num_active == 1
    assert np.isnan(found.kl["z"]).all()  # a point's entries have no density of their own
    assert "not finite" in unknown.summary()
    assert "nan" not in found.summary() + unknown.summary() + unknown.surgery.summary()


def test_two_latents_one_given_the_other():
    """z2 -> z1 -> x with an exact guide q(z1 | x) q(z2 | z1): only the first site's entries have a plain aggregate."""

    def model(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z1, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(2 * x / 3, math.sqrt(2 / 3)).to_event(1))
            pyro.sample("z2", dist.Normal(z1 / 2, math.sqrt(0.5)).to_event(1))

    x = math.sqrt(3) * torch.randn(800, 2, generator=torch.Generator().manual_seed(0))
    result = latent_structure((model, guide), x, num_samples=2, seed=0)
    assert result.surgery.mutual_information == pytest.approx(math.log(3), abs=0.15)
    assert np.isnan(result.surgery.entry_mutual_information["z2"]).all()
    assert np.isnan(result.surgery.entry_marginal_kl["z1"]).all()  # its prior depends on z2
    np.testing.assert_allclose(result.mean_variance["z2"], (2 / 3) ** 2 * 3 / 4, rtol=0.15)
    assert result.surgery.marginal_kl == pytest.approx(0, abs=0.15)


def test_discrete_latents_have_a_structure_too():
    result = latent_structure(EnumeratedMixture("sampled"), EnumeratedMixture().simulate(300), num_samples=8, seed=0)
    assert result.kl["y"] > 0.1
    assert 0 < result.surgery.mutual_information < result.surgery.log_n


def test_masked_entries_carry_nothing_and_follow_the_prior():
    """The exact guide on ragged rows: steps beyond a row's end count nowhere, as in evaluation."""
    x = ragged_rows(800)
    program = ragged_model, ragged_guide
    result = latent_structure(program, x, num_samples=2, seed=0)
    steps = torch.isfinite(x).double()
    kl = torch.where(steps.bool(), 0.5 * (0.5 - 1 + math.log(2) + (x / 2) ** 2), 0.0)
    np.testing.assert_allclose(result.kl["z"], kl.mean(0), atol=1e-6)
    assert result.mean_kl == pytest.approx(kl.sum(1).mean().item(), abs=1e-6)
    assert result.mean_kl == pytest.approx(pvae.elbo(program, x, num_samples=400, seed=0).kl.mean().item(), abs=0.03)
    # each entry alone: a row either tells it to within 1/2, or says nothing
    assert result.marginal_kl == pytest.approx(0.0, abs=0.15)
    assert result.mutual_information == pytest.approx(result.mean_kl, abs=0.15)
    assert result.verdict == "in use"
    everything = torch.where(steps.bool(), x, torch.zeros(()).double())
    shares = steps.mean(0).numpy()
    variance = (everything / 2).var(0).numpy()
    np.testing.assert_allclose(result.mean_variance["z"], variance, rtol=0.02)
    assert (np.diff(shares) < 0).all()


def test_masked_entries_stand_for_the_prior_under_every_rows_guide():
    """A guide that is the prior where it is not masked: no row tells any entry, whatever its length."""
    x = ragged_rows(200)
    result = latent_structure((ragged_model, ragged_guide_with(1.0, 0.0)), x, num_samples=2, seed=0)
    assert result.mutual_information == pytest.approx(0.0, abs=1e-9)
    assert result.marginal_kl == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(result.entry_mutual_information["z"], 0.0, atol=1e-9)


def test_rate_distortion_of_tempered_posteriors_has_slope_minus_beta():
    """At the best guide for each beta (a tempered posterior) the curve's slope is minus beta."""
    base = PPCA.random(latent=3, data=6)
    x = base.simulate(300)
    programs = {b: Tempered(base.weight.detach(), 0.5, base.mean.detach()) for b in (4.0, 0.98, 1.02, 0.25)}
    for beta, program in programs.items():
        program.beta = beta
    curve = rate_distortion(programs, x, num_samples=400, seed=0)
    assert curve.beta.tolist() == [0.25, 0.98, 1.02, 4.0]
    assert (np.diff(curve.rate) < 0).all()
    assert (np.diff(curve.distortion) > 0).all()
    assert (curve.distortion[1] - curve.distortion[2]) / (curve.rate[1] - curve.rate[2]) == pytest.approx(-1, rel=0.05)
    assert curve.elbo.argmax() in (1, 2)
    np.testing.assert_allclose(curve.elbo[1], base.log_evidence(x).mean(), atol=0.01)


class Tempered(PPCA):
    """The optimal guide at beta."""

    beta = 1.0

    def proposal(self, x):
        noise = self.beta * self.noise
        precision = torch.eye(self.latent_dim, dtype=self.weight.dtype) + self.weight.T @ self.weight / noise
        covariance = torch.linalg.inv(precision)
        return dist.MultivariateNormal((x - self.mean) @ self.weight @ covariance / noise, covariance)


def test_what_has_no_structure_is_refused():
    program = PPCA.random()
    with pytest.raises(ValueError, match="at least two rows"):
        elbo_surgery(program, program.simulate(1), seed=0)
    with pytest.raises(ValueError, match="at least one program"):
        rate_distortion({}, program.simulate(3))

    def model(x):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, scale), obs=x)

    def guide(x):
        pyro.sample("scale", dist.LogNormal(0.0, 1.0))

    with pytest.raises(ValueError, match=r"\['scale'\] lie outside"):
        elbo_surgery((model, guide), torch.zeros(3), seed=0)
