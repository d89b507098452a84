"""Refined guides that converge or say so, of low rank, and of directions; annealing from several starts, by its own schedule."""

import math
from importlib import import_module

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import PPCA, Turned, bound, plate

from pyrovae.distributions import PowerSpherical, UniformSphere
from pyrovae.evaluation import AIS, Mixture, Refined, ais, bdmc, inference_gaps, log_marginal, log_weights, refine
from pyrovae.evaluation.fitting import _at_rest, family_for


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def far(off, scale):
    """A guide so many posterior standard deviations away, and overconfident."""
    near = PPCA.random()
    return PPCA.random(guide_shift=off * near.precision().diagonal().rsqrt().detach(), guide_scale=scale)


def errors(found, exact):
    return torch.as_tensor(found["log_marginal"].values) - exact


def test_a_guide_that_is_far_off_is_optimized_until_it_converges():
    program = far(10.0, 0.3)
    x = program.simulate(8)
    guide = refine(program, x, seed=0)
    assert guide.converged.all()
    assert guide.notes == ""
    assert (program.log_evidence(x) - bound(guide, x, num_samples=100, seed=1).elbo).abs().max() < 0.1
    found = log_marginal(program, x, method=Refined(guide=guide), num_samples=50, seed=0)
    assert found["converged"].all()
    assert "notes" not in found.attrs


def test_rows_that_have_not_converged_are_named(monkeypatch):
    monkeypatch.setattr(import_module("pyrovae.evaluation.fitting"), "ROUNDS", 0)
    program = far(torch.tensor([10.0] * 6 + [0.0] * 6)[:, None], 0.3)
    x = program.simulate(12)
    guide = refine(program, x, seed=0)
    assert guide.converged.tolist() == [False] * 6 + [True] * 6
    assert "6 of 12 rows has not converged" in guide.notes
    assert "not_converged=6" in repr(guide)
    assert guide.select_rows(torch.tensor([3, 8])).converged.tolist() == [False, True]
    found = log_marginal(program, x, method="refined", num_samples=50, seed=0)
    assert found["converged"].values.tolist() == guide.converged.tolist()
    assert "not converged" in found.attrs["notes"]
    gaps = inference_gaps(program, x, num_steps=40, num_samples=20, seed=0)
    assert "not converged" in gaps.attrs["notes"]


@pytest.mark.parametrize(
    ("shift", "log_scale", "rest"), [(0.44, 0.0, True), (0.45, 0.0, False), (0.0, 0.63, True), (0.0, 0.64, False)]
)
def test_a_tenth_of_a_nat_is_what_one_more_step_may_promise(shift, log_scale, rest):
    """The gain of a Newton step is half the squared slope along a shift, and a quarter along a log scale."""
    slopes = torch.tensor([[shift]]), torch.tensor([[log_scale]])
    assert _at_rest([(10 * g, 10 * g**2) for g in slopes], 10).item() == rest


def test_a_slope_within_its_own_noise_is_none():
    draws = 3.0 * torch.randn(38, 200, 4)
    noise = [(draws.sum(0), draws.square().sum(0))] * 2
    assert _at_rest(noise, 38).double().mean() > 0.95
    moved = draws + 3.0
    assert not _at_rest([(moved.sum(0), moved.square().sum(0))] * 2, 38).any()


class Common(torch.nn.Module):
    """z ~ N(0, D + F F'), x ~ N(z, s2): the posterior, too, is a diagonal and as many common directions."""

    def __init__(self, size=12, rank=2, noise=5.0):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.factor = 1.5 * torch.randn(size, rank, generator=generator, dtype=torch.float64)
        self.diagonal = 0.3 + torch.rand(size, generator=generator, dtype=torch.float64)
        self.noise = noise

    def prior(self, more=0.0):
        loc = torch.zeros_like(self.diagonal)
        return dist.LowRankMultivariateNormal(loc, self.factor, self.diagonal + more)

    def model(self, x, size=None):
        with plate(x, len(x), size):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", dist.Normal(z, math.sqrt(self.noise)).to_event(1), obs=x)

    def guide(self, x, size=None):
        with plate(x, len(x), size):
            pyro.sample("z", dist.Normal(0.3 * x, 0.7).to_event(1))

    def covariance(self):
        precision = torch.linalg.inv(self.prior().covariance_matrix)
        return torch.linalg.inv(precision + torch.eye(len(precision)) / self.noise)


def test_a_covariance_of_low_rank_is_found():
    program = Common()
    x = program.prior(program.noise).sample((8,))
    exact = program.prior(program.noise).log_prob(x)
    guide = refine(program, x, family="low_rank", seed=0)
    assert guide.gaussian.factor.shape == (8, 12, 10)
    elbo = bound(guide, x, num_samples=200, seed=1).elbo
    assert (exact - elbo).mean() < 0.1
    normal = bound(refine(program, x, family="normal", seed=0), x, num_samples=200, seed=1).elbo
    precision = torch.linalg.inv(program.covariance())
    gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    assert gap > 1.0
    assert abs((exact - normal).mean() - gap) < 0.1
    factor, scale = guide.gaussian.factor, guide.gaussian.tril
    covariance = factor @ factor.mT + torch.diag_embed(scale.square())
    torch.testing.assert_close(covariance.mean(0), program.covariance(), rtol=0, atol=0.05)
    assert (log_weights(guide, x, num_samples=200, seed=1).logsumexp(0) - math.log(200) - exact).abs().max() < 0.1
    found = log_marginal(program, x, method=AIS(10, start=Refined(guide=guide)), seed=0)
    assert (errors(found, exact).abs() < 5 * torch.as_tensor(found["mcse"].values) + 0.01).all()


def test_the_family_follows_from_the_number_of_coordinates():
    assert [family_for("auto", size) for size in (200, 201)] == ["full", "low_rank"]
    assert family_for("full", 201) == "full"
    program = Common(size=201, rank=1)
    x = program.prior(program.noise).sample((3,))
    exact = program.prior(program.noise).log_prob(x)
    found = log_marginal(program, x, method=Refined(num_steps=100), num_samples=200, seed=0)
    assert (errors(found, exact).abs() < 2.0).all()
    with pytest.raises(ValueError, match=r"full covariances of 201 .*family='low_rank'"):
        refine(program, x, family="full", max_bytes=2**22)


class Angle:
    """z ~ VonMises(1, 1.5), x ~ VonMises(z, k)."""

    def __init__(self, k):
        self.k = k

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.VonMises(torch.ones(()).double(), 1.5))
            pyro.sample("x", dist.VonMises(z, self.k), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.VonMises(x, 2.0))

    def log_evidence(self, x):
        joint = torch.hypot(1.5 * math.cos(1.0) + self.k * x.cos(), 1.5 * math.sin(1.0) + self.k * x.sin())
        bessel = torch.special.i0(torch.tensor([1.5, self.k]).double())
        return torch.special.i0(joint).log() - math.log(2 * math.pi) - bessel.log().sum()


class Globe:
    """z uniform on the sphere, x ~ N(2 z, s2) in space."""

    s2 = 0.5

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", UniformSphere(torch.zeros(3).double()))
            pyro.sample("x", dist.Normal(2 * z, math.sqrt(self.s2)).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            loc = x / x.norm(dim=-1, keepdim=True)
            pyro.sample("z", PowerSpherical(loc, x.new_full((len(x),), 3.0)))

    def log_evidence(self, x):
        k = 2 * x.norm(dim=-1) / self.s2
        normal = -1.5 * math.log(2 * math.pi * self.s2) - (x.square().sum(-1) + 4) / (2 * self.s2)
        return normal + (k.sinh() / k).log()


@pytest.mark.parametrize("name", ["angle", "sharp angle", "globe"])
def test_directions_are_refined_and_annealed(name):
    program = {"angle": Angle(1.0), "sharp angle": Angle(20.0), "globe": Globe()}[name]
    x = 2 * torch.randn(10, 3).double() if name == "globe" else math.pi * (2 * torch.rand(10).double() - 1)
    exact = program.log_evidence(x)
    quick = Mixture(starts=8, num_steps=40)
    for method, samples in ((Refined(num_steps=100), 1000), (AIS(20), 64), (quick, 1000)):
        found = log_marginal(program, x, method=method, num_samples=samples, seed=0)
        assert (errors(found, exact).abs() < 5 * torch.as_tensor(found["mcse"].values) + 0.01).all()
        assert (found["mcse"] < 0.25).all()
    guide = refine(program, x, num_steps=100, seed=0)
    ours = log_weights(guide, x, num_samples=1000, seed=1).logsumexp(0) - math.log(1000)
    assert (ours - exact).abs().max() < 0.2


def test_temperatures_lose_equally_much_of_the_effective_sample_size():
    """From N(0, 1) to N(0, 1/100): at beta the log ratio is -99/2 u^2 with u^2 of variance 2 / (1 + 99 beta)^2."""
    grid = ais.Schedule(100).grid[:, None]
    betas = ais.evenly_spread(grid, 99 / math.sqrt(2) / (1 + 99 * grid))
    assert betas[0] == 0
    assert betas[-1] == 1
    assert (betas.diff(dim=0) > 0).all()

    def losses(betas):
        return betas.diff(dim=0) * 99 / math.sqrt(2) / (1 + 99 * (betas[1:] + betas[:-1]) / 2)

    assert losses(grid).max() / losses(grid).mean() > 2.0
    assert losses(betas).max() / losses(betas).mean() < 1.5


def test_chains_from_several_starts_reach_the_mode_that_the_guide_misses():
    program = Turned(2, 2)
    x = program.simulate(10)
    exact = program.log_evidence(x)
    lost = errors(log_marginal(program, x, method=AIS(40), seed=0), exact)
    both = log_marginal(program, x, method=AIS(40, start=(ais.from_guide, ais.from_prior)), num_samples=64, seed=0)
    error, mcse = errors(both, exact), torch.as_tensor(both["mcse"].values)
    assert (lost < -0.5).sum() >= 5
    assert (error.abs() < 5 * mcse + 0.05).all()
    assert error.mean().abs() < 0.1


def test_the_sandwich_closes_around_the_evidence_from_several_starts():
    program = PPCA.random(guide_shift=0.5)
    found = bdmc(program, 20, estimator=AIS(40, start=(ais.from_guide, ais.from_prior)), seed=0)
    assert -0.05 < found.gap < 0.3
