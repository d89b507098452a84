"""Evidence of programs with masked latents, factors, supports that vary and unusual plates, against exact values."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import bound
from pyro import poutine
from pyro.infer.autoguide import AutoNormal

import pyrovae as pvae
from pyrovae.evaluation import AIS, Refined, log_marginal, log_weights, refine
from pyrovae.evaluation.ais import from_prior
from pyrovae.evaluation.gaussian import Gaussian
from pyrovae.evaluation.hmc import at, transition
from pyrovae.missing import observed

FEW = {"num_steps": 200}
METHODS = {
    "normal": Refined("normal", **FEW),
    "full": Refined("full", **FEW),
    "ais": AIS(40),
    "prior": AIS(100, start=from_prior),
    "ais of refined": AIS(10, start=Refined("full", **FEW)),
}
pytestmark = pytest.mark.filterwarnings("ignore:importance-sampling")


@pytest.fixture(autouse=True)
def _seeded():
    pyro.set_rng_seed(0)
    pyro.clear_param_store()


def assert_unbiased(found, exact, heavy=0.0):
    """The mean over rows of p-hat / p is 1: |z| < 5; and no row is far off.

    Where the weights' tails are heavy (a Gaussian on a bounded latent, k-hat .7) their mean is seldom reached: over ten
    seeds and 300 draws the mean over rows lies between .985 and 1.05, and at .997 with 20,000 draws.
    """
    log_p = torch.as_tensor(found["log_marginal"].values)
    error = torch.as_tensor(found["mcse"].values).square().mean().sqrt() / math.sqrt(len(exact))
    assert abs((log_p - exact).exp().mean() - 1) < 5 * error + 1e-3 + heavy
    assert (log_p - exact).abs().max() < 1.0


def about_half(x):
    return x.reshape(len(x), -1)[:, 0] > 0


class Masked:
    """z ~ N(0, 1), x ~ N(z, 1), and a u beside them that is masked in some rows: no part of p(x) where it is.

    The other rows observe it: y ~ N(log u, 1), u ~ LogNormal(0, 1).
    """

    def __init__(self, offset=0.3, guide_masks=True, inner=False):
        self.offset, self.guide_masks, self.inner = offset, guide_masks, inner

    def latent(self, name, fn, mask):
        if self.inner:
            return pyro.sample(name, fn.mask(mask))
        with poutine.mask(mask=mask):
            return pyro.sample(name, fn)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            u = self.latent("u", dist.LogNormal(x.new_zeros(len(x)), 1.0), about_half(x))
            with poutine.mask(mask=about_half(x)):
                pyro.sample("y", dist.Normal(u.log(), 1.0), obs=x[:, 1])
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0] / 2, 0.9))
            mask = about_half(x) | (not self.guide_masks)
            self.latent("u", dist.LogNormal(x[:, 1] / 2 + self.offset, 0.8), mask)

    def log_evidence(self, x):
        one, other = dist.Normal(0.0, math.sqrt(2.0)).log_prob(x).T
        return one + torch.where(about_half(x), other, 0.0)


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_latent_that_is_masked_in_some_rows(method, inner):
    program, x = Masked(inner=inner), torch.randn(20, 2, dtype=torch.float64)
    found = log_marginal(program, x, method=METHODS[method], num_samples=200, seed=0)
    assert_unbiased(found, program.log_evidence(x))


def test_annealing_keeps_what_is_masked_as_it_was_drawn():
    """A guide far off the prior where neither counts costs nothing."""
    program, x = Masked(), torch.randn(20, 2, dtype=torch.float64)
    near = log_marginal(program, x, method=AIS(5), seed=0)
    program.guide = _far_where_masked(program.guide)
    far = log_marginal(program, x, method=AIS(5), seed=0)
    torch.testing.assert_close(far["log_marginal"].values, near["log_marginal"].values, rtol=0, atol=1e-9)


def _far_where_masked(guide):
    def moved(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0] / 2, 0.9))
            loc = torch.where(about_half(x), x[:, 1] / 2 + 0.3, 20.0)
            with poutine.mask(mask=about_half(x)):
                pyro.sample("u", dist.LogNormal(loc, 0.8))

    return moved


@pytest.mark.parametrize("family", ["normal", "full"])
def test_a_guide_that_forgets_the_mask_is_mended_by_refining(family):
    program, x = Masked(guide_masks=False), torch.randn(20, 2, dtype=torch.float64)
    found = log_marginal(program, x, method=Refined(family, **FEW), num_samples=200, seed=0)
    assert_unbiased(found, program.log_evidence(x))
    assert_unbiased(log_marginal(program, x, method=AIS(100), seed=0), program.log_evidence(x))


@pytest.mark.parametrize("family", ["normal", "full"])
def test_a_refined_guide_of_masked_latents_as_a_program(family):
    """Its density is that of what counts, with the program's model as with its own: the exact posterior here."""
    program, x = Masked(), torch.randn(20, 2, dtype=torch.float64)
    guide = refine(program, x, family=family, num_steps=400, seed=0)
    exact = program.log_evidence(x)
    for pair in (guide, (program.model, guide)):
        assert (log_weights(pair, x, num_samples=50, seed=1) - exact).abs().max() < 0.1
    found = log_marginal(program, x, method=Refined(guide=guide), num_samples=100, seed=0)
    assert_unbiased(found, exact)
    svi = pyro.infer.SVI(program.model, guide, pyro.optim.Adam({}), pyro.infer.Trace_ELBO())
    assert abs(svi.evaluate_loss(x) + exact.sum()) < 0.5


class Walk:
    """A random walk observed with noise, each row for a time of its own; the rest is padding."""

    steps = 4

    def lengths(self, x):
        return (~x.isnan()).sum(-1)

    def model(self, x):
        filled, previous = x.nan_to_num(), 0.0
        with pyro.plate("data", len(x)):
            for t in range(self.steps):
                with poutine.mask(mask=t < self.lengths(x)):
                    previous = pyro.sample(f"z{t}", dist.Normal(previous + x.new_zeros(()), 1.0))
                    pyro.sample(f"x{t}", dist.Normal(previous, 1.0), obs=filled[:, t])

    def guide(self, x):
        filled = x.nan_to_num()
        with pyro.plate("data", len(x)):
            for t in range(self.steps):
                with poutine.mask(mask=t < self.lengths(x)):
                    pyro.sample(f"z{t}", dist.Normal(filled[:, t] * 0.6, 0.8))

    def log_evidence(self, x):
        times = torch.arange(1.0, self.steps + 1, dtype=x.dtype)
        covariance = torch.minimum(times[:, None], times) + torch.eye(self.steps, dtype=x.dtype)
        return torch.stack([_gaussian(row, covariance) for row in x])


def _gaussian(row, covariance):
    seen = ~row.isnan()
    covariance = covariance[seen][:, seen]
    return dist.MultivariateNormal(row.new_zeros(len(covariance)), covariance).log_prob(row[seen])


def ragged(rows=24):
    x = torch.randn(rows, Walk.steps, dtype=torch.float64).cumsum(-1)
    lengths = 1 + torch.arange(rows) % Walk.steps
    return x.where(torch.arange(Walk.steps) < lengths[:, None], torch.nan)


@pytest.mark.parametrize("method", ["full", "ais", "prior", "ais of refined"])
def test_sequences_of_different_lengths(method):
    walk, x = Walk(), ragged()
    samples = 200 if method == "full" else 32
    assert_unbiased(log_marginal(walk, x, method=METHODS[method], num_samples=samples, seed=0), walk.log_evidence(x))


def test_the_best_independent_normals_of_sequences_are_a_bound():
    walk, x = Walk(), ragged()
    guide = refine(walk, x, family="normal", seed=0)
    elbo = bound(guide, x, num_samples=400, seed=1).elbo
    gap = walk.log_evidence(x) - elbo
    assert (gap > -0.05).all()
    assert gap[::4].abs().max() < 0.02  # a single step: one latent counts
    assert gap.max() < 1.0


def test_what_nothing_counts_in_may_depend_on_the_mask():
    def model(x):
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=about_half(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)), poutine.mask(mask=about_half(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    x = torch.randn(6, dtype=torch.float64)
    for method in ("refined", "ais"):
        with pytest.raises(ValueError, match="'z' is masked, and what is not masked depends on it"):
            log_marginal((model, guide), x, method=method)


def flat_model(x):
    """A flat prior by a mask, and the prior proper as a factor."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 5.0).mask(False))
        pyro.factor("prior", dist.Normal(1.0, 1.0).log_prob(z))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def flat_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal((x + 1) / 2, 0.9))


@pytest.mark.parametrize("method", ["normal", "full", "ais"])
def test_a_mask_in_the_model_alone_is_a_flat_prior(method):
    x = torch.randn(10, dtype=torch.float64)
    found = log_marginal((flat_model, flat_guide), x, method=METHODS[method], num_samples=200, seed=0)
    assert_unbiased(found, dist.Normal(1.0, math.sqrt(2.0)).log_prob(x))
    with pytest.raises(ValueError, match="have no prior to start at"):
        log_marginal((flat_model, flat_guide), x, method=AIS(start=from_prior), seed=0)


def observed_partly(x):
    """Pyro's own way of missing entries: the missing ones are latents, masked where the data are observed."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x.nan_to_num(), obs_mask=~x.isnan())


def observed_partly_guide(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.nan_to_num() / 2, 0.9))
        with poutine.mask(mask=x.isnan()):
            pyro.sample("x_unobserved", dist.Normal(z, 1.2))


@pytest.mark.parametrize("method", ["full", "ais"])
def test_entries_that_pyro_makes_latent(method):
    x = torch.randn(12, dtype=torch.float64)
    x[::3] = torch.nan
    found = log_marginal((observed_partly, observed_partly_guide), x, method=METHODS[method], num_samples=200, seed=0)
    exact = dist.Normal(0.0, math.sqrt(2.0)).log_prob(x.nan_to_num()).where(~x.isnan(), 0.0)
    assert_unbiased(found, exact)


def test_masks_on_entries_of_an_event_and_inner_plates():
    """Coordinates of one event, and of a plate inside the data plate, with a positive latent."""

    def latents(x, scale, observe=False):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.LogNormal(x.new_zeros(len(x), 1, 2), scale).mask(x[:, None, :2] > 0).to_event(1))
            if observe:
                pyro.sample("x", dist.Normal(x.new_zeros(len(x), 1, 3), 1.0).to_event(1), obs=x[:, None])
            with pyro.plate("entries", 3, dim=-1), poutine.mask(mask=x > 0):
                pyro.sample("s", dist.LogNormal(x.new_zeros(()), scale))

    x = torch.randn(6, 3, dtype=torch.float64)
    exact = dist.Normal(0.0, 1.0).log_prob(x).sum(-1)
    program = (lambda x: latents(x, 1.0, observe=True), lambda x: latents(x, 0.7))
    for method in ("normal", "full", "ais"):
        assert_unbiased(log_marginal(program, x, method=METHODS[method], num_samples=100, seed=0), exact)
    for family in ("normal", "full"):
        guide = refine(program, x, family=family, num_steps=400, seed=0)
        assert (log_weights((program[0], guide), x, num_samples=20, seed=0) - exact).abs().max() < 0.1


def test_chains_draw_what_is_masked_from_its_prior():
    program, x = Masked(), torch.randn(4, 2, dtype=torch.float64)
    reference = pvae.reference_posterior(program, x, seed=0, sampler=pvae.checks.reference.Sampler(num_samples=400))
    logs = reference.draws()["u"].log()[:, ~about_half(x)]
    assert logs.numel()
    assert reference.max_rhat.max() < 1.05
    torch.testing.assert_close(logs.mean(0), torch.zeros_like(logs[0]), rtol=0, atol=0.2)
    torch.testing.assert_close(logs.std(0), torch.ones_like(logs[0]), rtol=0, atol=0.2)


def with_factor(x):
    """z ~ N(0, I) reweighted by exp(-|z|^2 / 2), x ~ N(z, 1) entry by entry."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.factor("f", -0.5 * z.square().sum(-1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def with_factor_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 3, 0.7).to_event(1))


@pytest.mark.parametrize("method", METHODS)
def test_factors_of_the_model_count(method):
    """The unnormalized prior is half of N(0, 1/2) in two dimensions."""
    x = torch.randn(10, 2, dtype=torch.float64)
    exact = dist.Normal(0.0, math.sqrt(1.5)).log_prob(x).sum(-1) - math.log(2)
    assert_unbiased(
        log_marginal((with_factor, with_factor_guide), x, method=METHODS[method], num_samples=100, seed=0), exact
    )


def test_a_latent_that_the_guide_lacks_is_named():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            w = pyro.sample("w", dist.Normal(z, 1.0))
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    with pytest.raises(ValueError, match=r"latents \['w'\], which the guide lacks"):
        refine((model, guide), torch.zeros(4))


def positive(prior):
    """A positive latent, x ~ N(z, 1) in single precision, and a log-normal guide."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LogNormal(-0.3 * torch.ones(len(x)), 0.6))

    return model, guide


def by_quadrature(prior, x):
    log_z = torch.linspace(-40.0, 4.0, 20_001, dtype=torch.float64)[:, None]
    z = log_z.exp()
    joint = prior.log_prob(z) + dist.Normal(z, 1.0).log_prob(x.double()) + log_z
    return joint.logsumexp(0) + math.log(44 / 20_000)


GAMMAS = [dist.Gamma(2.0, 2.0), dist.Gamma(0.7, 1.0)]


@pytest.mark.parametrize("prior", GAMMAS, ids=["vanishing at zero", "unbounded at zero"])
def test_chains_that_leave_the_support_in_floats_are_refused_a_step(prior):
    x = torch.randn(30)
    found = log_marginal(positive(prior), x, method=AIS(100), num_samples=64, seed=0)
    assert_unbiased(found, by_quadrature(prior, x))


def test_rows_outside_the_support_are_still_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(2.0, 2.0))
            pyro.sample("x", dist.Poisson(z), obs=x)

    _, guide = positive(GAMMAS[0])
    for method in ("ais", "refined"):
        with pytest.raises(ValueError, match="support"):
            log_marginal((model, guide), torch.tensor([1.0, -1.0]), method=method, seed=0)


class Bowl:
    """Twice -u^2 / 2, but infinite or no number on the right of 1."""

    def __init__(self, value):
        self.value = value

    def __call__(self, u):
        inside = -0.5 * u.square().sum(-1)
        return inside, torch.where(u[..., 0] > 1, inside * self.value, inside)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_transition_never_goes_where_the_density_is_not_finite(value):
    mass = Gaussian(torch.zeros(3, 1), torch.ones(3, 1))
    state = at(Bowl(value), torch.zeros(500, 3, 1))
    for _ in range(20):
        state, acceptance = transition(Bowl(value), state, 1.0, torch.full((3,), 0.5), 2, mass)
    assert (state.u <= 1).all()
    assert 0.5 < acceptance.mean() < 1
    normal = torch.distributions.Normal(0.0, 1.0)
    density = normal.log_prob(torch.tensor(1.0)).exp() / normal.cdf(torch.tensor(1.0))
    assert abs(state.u.mean() + density) < 5 * state.u.std() / math.sqrt(1500)


def bounded(x, covariates=None):
    """b ~ Uniform(0, c) with c of each row, x ~ N(b, 0.3)."""
    c = x["c"] if covariates is None else covariates["c"]
    with pyro.plate("data", len(c)):
        b = pyro.sample("b", dist.Uniform(0 * c, c))
        pyro.sample("x", dist.Normal(b, 0.3), obs=x["x"] if covariates is None else x)


def bounded_guide(x, covariates=None):
    c = x["c"] if covariates is None else covariates["c"]
    with pyro.plate("data", len(c)):
        pyro.sample("b", dist.Uniform(0 * c, c))


@pytest.mark.parametrize("at_once", [64, 200, 4096])
@pytest.mark.parametrize("in_covariates", [False, True])
def test_a_support_that_differs_between_rows(at_once, in_covariates, pairs):
    pairs(at_once)
    c = torch.where(torch.arange(128) < 64, 1.0, 3.0).double()
    x = c * torch.rand(128).double() + 0.3 * torch.randn(128).double()
    data = (x, {"c": c}) if in_covariates else ({"x": x, "c": c}, None)
    noise = dist.Normal(torch.zeros(()).double(), 0.3)
    exact = (noise.cdf(x) - noise.cdf(x - c)).log() - c.log()
    guide = refine((bounded, bounded_guide), *data, num_steps=100, seed=0)
    for program in (guide, (bounded, guide)):
        found = log_marginal(program, data[0], method="importance", num_samples=300, covariates=data[1], seed=1)
        assert_unbiased(found, exact, heavy=0.015)


def test_a_support_that_depends_on_another_latent_is_refused():
    def latents(x):
        a = pyro.sample("a", dist.Gamma(x.new_tensor(2.0), 1.0))
        return pyro.sample("b", dist.Uniform(0 * a, a))

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(latents(x), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            latents(x)

    for method in ("refined", "ais"):
        with pytest.raises(ValueError, match="support of latent 'b' depends on another latent"):
            log_marginal((model, guide), torch.randn(4), method=method, seed=0)


MEANS = torch.tensor([-3.0, 3.0])


def clusters(x, dim=-1):
    """k in two clusters, z ~ N(0, 1); the entries of x lie at N(mean_k + z, 1/2), and a factor that changes nothing."""
    with pyro.plate("data", len(x), dim=dim):
        k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.7])), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("nothing", 0.0 * z)
        loc = MEANS[k] + z
        if dim == -1:
            fn, filled = observed(dist.Normal(loc[..., None], 0.5).expand([*loc.shape, x.shape[1]]).to_event(1), x)
            pyro.sample("x", fn, obs=filled)
        else:
            with pyro.plate("entries", x.shape[1], dim=-1), poutine.mask(mask=~x.isnan()):
                pyro.sample("x", dist.Normal(loc, 0.5), obs=x.nan_to_num())


def clusters_guide(x, dim=-1):
    with pyro.plate("data", len(x), dim=dim):
        pyro.sample("z", dist.Normal(torch.zeros([len(x)] + [1] * (-1 - dim)), 1.0))


@pytest.mark.parametrize("dim", [-1, -2])
def test_imputation_draws_the_classes_that_the_model_sums_out(dim):
    """Given 2.5 the class is certain; z | 2.5 ~ N(-0.4, 0.2), and the other entry N(2.6, 0.2 + 0.25)."""
    x = torch.tensor([[2.5, torch.nan], [torch.nan, torch.nan], [-2.0, -4.0]])
    program = (partial(clusters, dim=dim), partial(clusters_guide, dim=dim))
    draws = pvae.impute(program, x, num_samples=2000, num_proposals=4000, seed=0).draws
    assert draws.shape == (2000, 3, 2)
    assert (draws[:, 0, 0] == 2.5).all()
    assert torch.equal(draws[:, 2], x[2].expand(2000, 2))
    assert draws[:, 0, 1].mean().item() == pytest.approx(2.6, abs=0.1)
    assert draws[:, 0, 1].std().item() == pytest.approx(math.sqrt(0.45), abs=0.1)
    free = draws[:, 1]
    assert (free > 0).float().mean(0).tolist() == pytest.approx([0.7, 0.7], abs=0.06)
    assert free[:, 0].std().item() == pytest.approx(math.sqrt(1.25 + 9 * 4 * 0.21), abs=0.15)


def test_imputation_with_the_rows_right_of_a_plate():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("entries", x.shape[1], dim=-2), poutine.mask(mask=~x.T.isnan()):
                pyro.sample("x", dist.Normal(z, 0.1), obs=x.T.nan_to_num())

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.nanmean(1), 0.1))

    x = torch.tensor([[1.0, torch.nan, 1.0], [-2.0, -2.0, torch.nan]])
    means = pvae.impute((model, guide), x, num_samples=200, seed=0).draws.mean(0)
    torch.testing.assert_close(means, torch.tensor([[1.0, 1.0, 1.0], [-2.0, -2.0, -2.0]]), rtol=0, atol=0.05)


def test_imputation_says_what_the_data_site_must_hold():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0] / 2, 1.0))

    with pytest.raises(ValueError, match="observes all of x"):
        pvae.impute((model, guide), torch.zeros(3, 2), num_samples=5, seed=0)


def normal_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_a_guide_with_parameters_for_each_row_takes_all_rows_at_once():
    x = torch.randn(600)
    guide = AutoNormal(normal_model)
    guide(x)
    whole = bound((normal_model, guide), x, num_samples=400, seed=0).elbo
    loc, sd = guide.locs.z.detach(), guide.scales.z.detach()
    variance = sd.square()
    prior = -0.5 * (loc.square() + variance)
    likelihood = -0.5 * ((x - loc).square() + variance) - 0.5 * math.log(2 * math.pi)
    exact = prior + likelihood + 0.5 + sd.log()
    assert (whole - exact).abs().max() < 0.3
    assert log_marginal((normal_model, guide), x, method="importance", num_samples=20, seed=0).sizes["data"] == 600
    with pytest.raises(ValueError, match="more than max_bytes=1000: write max_bytes="):
        pvae.elbo((normal_model, guide), x, max_bytes=1000)
    assert pvae.from_pyro_svi((normal_model, guide), x, num_samples=5)["posterior"].sizes["data"] == 600


def test_a_program_that_never_runs_keeps_its_own_error():
    def broken(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(7), 1.0))

    with pytest.raises(ValueError, match="Shape mismatch") as error:
        pvae.elbo((normal_model, broken), torch.randn(300))
    assert "parameters for each row" not in str(error.value)


def test_a_masked_class_of_a_masked_latent_does_not_count():
    """Summed out, it leaves rounding errors alone."""

    def model(x):
        filled = x.nan_to_num()
        with pyro.plate("data", len(x)):
            for t in range(2):
                with poutine.mask(mask=~x[:, t].isnan()):
                    z = pyro.sample(f"z{t}", dist.Normal(x.new_zeros(()), 1.0))
                    logits = torch.stack([z, 0.3 * z, -z], -1)
                    k = pyro.sample(f"k{t}", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
                    pyro.sample(f"x{t}", dist.Normal(k.to(x.dtype), 1.0), obs=filled[:, t])

    def guide(x):
        with pyro.plate("data", len(x)):
            for t in range(2):
                with poutine.mask(mask=~x[:, t].isnan()):
                    pyro.sample(f"z{t}", dist.Normal(x.new_zeros(()), 1.0))

    x = torch.randn(12, 2, dtype=torch.float64) + 1
    x[::2, 1] = torch.nan
    z = torch.linspace(-8, 8, 2001, dtype=torch.float64)[:, None, None]
    classes = torch.stack([z, 0.3 * z, -z], -1).log_softmax(-1)
    seen = dist.Normal(torch.arange(3.0).double(), 1.0).log_prob(x.nan_to_num()[..., None])
    each = ((classes + seen).logsumexp(-1) + dist.Normal(0.0, 1.0).log_prob(z)).logsumexp(0) + math.log(16 / 2000)
    exact = each.where(~x.isnan(), 0.0).sum(-1)
    for method in ("full", "ais", "prior"):
        assert_unbiased(log_marginal((model, guide), x, method=METHODS[method], num_samples=100, seed=0), exact)


def entries(x):
    """x_ij ~ N(z_ij, 1), z_ij ~ N(a_i, 1), a_i ~ N(0, 1); missing entries and their latents are masked."""
    seen, filled = ~x.isnan(), x.nan_to_num()
    with pyro.plate("data", len(x), dim=-2):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("columns", 2, dim=-1), poutine.mask(mask=seen):
            z = pyro.sample("z", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=filled)


def entries_guide(x):
    seen, filled = ~x.isnan(), x.nan_to_num()
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("a", dist.Normal(0.4 * filled.sum(-1, keepdim=True), 0.9))
        with pyro.plate("columns", 2, dim=-1), poutine.mask(mask=seen):
            pyro.sample("z", dist.Normal(0.5 * filled, 0.1 + 0.7 * seen))


def test_draws_and_imputations_of_what_is_masked_come_from_the_prior_given_the_rest():
    x = torch.tensor([[3.0, math.nan], [math.nan, math.nan], [1.0, 2.0]])
    z = pvae.posterior_draws((entries, entries_guide), x, method="psis", num_samples=3000, num_proposals=3000, seed=0)
    z = z.values["z"]  # a given x_00 = 3: N(1, 2/3), so that z_01: N(1, 5/3)
    torch.testing.assert_close(z[:, 0, 1].mean(), torch.tensor(1.0), atol=0.15, rtol=0)
    torch.testing.assert_close(z[:, 0, 1].std(), torch.tensor((5 / 3) ** 0.5), atol=0.15, rtol=0)
    torch.testing.assert_close(z[:, 1].std(0), torch.tensor([2**0.5] * 2), atol=0.15, rtol=0)
    correlation = torch.corrcoef(z[:, 1].T)[0, 1]
    torch.testing.assert_close(correlation, torch.tensor(0.5), atol=0.1, rtol=0)
    made = pvae.impute((entries, entries_guide), x, num_samples=3000, num_proposals=3000, seed=0).draws
    torch.testing.assert_close(made[:, 0, 1].mean(), torch.tensor(1.0), atol=0.2, rtol=0)
    torch.testing.assert_close(made[:, 0, 1].std(), torch.tensor((8 / 3) ** 0.5), atol=0.2, rtol=0)
