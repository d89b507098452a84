"""Log weights, the ELBO and its parts: exact values, one noise for all parts, memory by argument, seeds, modes."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import PPCA, BetaBernoulli, EnumeratedMixture, GammaPoisson, bound
from torch import nn

import pyrovae as pvae
from pyrovae.evaluation import elbo, joint_log_weights, log_marginal, log_weights
from pyrovae.programs import beta

EXACT = {"rtol": 0, "atol": 1e-9}


@pytest.fixture(autouse=True)
def _seeded():
    pyro.set_rng_seed(0)


@pytest.mark.parametrize("at_once", [1, 7, 50, 10_000])
def test_pieces_of_any_size_give_all_weights(at_once, pairs):
    pairs(at_once)
    ppca = PPCA.random(exact=True)
    x = ppca.simulate(11)
    weights = log_weights(ppca, x, num_samples=9)
    assert weights.dtype is torch.float64
    torch.testing.assert_close(weights, ppca.log_evidence(x).expand(9, 11), **EXACT)


def test_the_program_never_sees_more_draws_than_allowed(pairs):
    pairs(64)
    ppca, largest = PPCA.random(), []

    def model(x, size=None):
        value = ppca.model(x, size)
        largest.append(value.shape[:-1].numel())
        return value

    def guide(x, size=None):
        value = ppca.guide(x, size)
        largest.append(value.shape[:-1].numel())

    log_weights((model, guide), ppca.simulate(40), num_samples=100)
    assert max(largest) == 64


@pytest.mark.parametrize("num_samples", [1, 50])
def test_the_parts_sum_to_the_bound_exactly(num_samples, pairs):
    pairs(100)
    ppca = PPCA.random()
    x = ppca.simulate(13)
    options = {"num_samples": num_samples, "seed": 4}
    whole = bound(ppca, x, **options)
    torch.testing.assert_close(whole.elbo, log_weights(ppca, x, **options).mean(0), **EXACT)
    assert torch.equal(whole.elbo, whole.reconstruction - whole.kl)
    assert whole.elbo_error.isnan().all() == (num_samples == 1)


def test_bounds_and_errors_are_those_of_the_closed_form():
    """200 rows: standardized errors have mean 0 and variance 1."""
    ppca = PPCA.random()
    x = ppca.simulate(200)
    result = bound(ppca, x, num_samples=300, seed=0)
    z = (result.elbo - ppca.elbo(x)) / result.elbo_error
    assert abs(z.mean()) < 5 / math.sqrt(200)
    assert 0.7 < z.std() < 1.3


def test_the_divergence_in_closed_form():
    ppca = PPCA.random()
    x = ppca.simulate(5)
    q = ppca.proposal(x)
    exact = torch.distributions.kl_divergence(q, dist.Normal(torch.zeros_like(q.mean), 1.0).to_event(1))
    torch.testing.assert_close(bound(ppca, x, num_samples=3, exact_kl=True).kl, exact.detach(), **EXACT)
    result = bound(ppca, x, num_samples=300, seed=1)
    assert ((result.kl - exact).abs() < 5 * result.kl_error).all()
    with pytest.raises(NotImplementedError, match="at site 'rate' has no closed form"):
        elbo(GammaPoisson(), torch.ones(3, 2, dtype=torch.float64), exact_kl=True)


@pytest.mark.parametrize("where", ["model", "guide"])
def test_enumeration_is_summed_out_in_the_bound(where):
    mixture = EnumeratedMixture(where)
    x = mixture.simulate(20)
    result = bound(mixture, x, num_samples=200, seed=0)
    torch.testing.assert_close(result.elbo, result.reconstruction - result.kl, **EXACT)
    assert (result.elbo < mixture.log_evidence(x)).all()
    if where == "model":
        sampled = bound(EnumeratedMixture("sampled"), x, num_samples=200, seed=0)
        assert result.elbo.mean() > sampled.elbo.mean() - 1.0


def test_scales_and_beta_change_nothing():
    ppca = PPCA.random()
    x = ppca.simulate(6)
    plain = log_weights(ppca, x, num_samples=4, seed=1)
    tempered = log_weights((beta(ppca.model, 0.2), beta(ppca.guide, 0.2)), x, num_samples=4, seed=1)
    assert torch.equal(plain, tempered)


def test_a_seed_fixes_the_draws_and_leaves_the_state(pairs):
    pairs(40)
    ppca = PPCA.random()
    x = ppca.simulate(30)
    before = torch.get_rng_state()
    one, two = (log_weights(ppca, x, num_samples=4, seed=7) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(one, log_weights(ppca, x, num_samples=4, seed=8))
    torch.manual_seed(3)
    free = log_weights(ppca, x, num_samples=4)
    assert not torch.equal(free, log_weights(ppca, x, num_samples=4))
    torch.manual_seed(3)
    assert torch.equal(free, log_weights(ppca, x, num_samples=4))


def test_batches_of_rows_do_not_share_their_noise(pairs):
    """The same datum in every row: its weights must differ between batches."""
    pairs(16)
    ppca = PPCA.random()
    x = ppca.simulate(1).expand(64, -1)
    weights = log_weights(ppca, x, num_samples=2, seed=0)
    assert len(weights.unique()) == weights.numel()


def test_without_broadcasting():
    ppca, shapes = PPCA.random(exact=True), set()

    def model(x):
        shapes.add(ppca.model(x).shape)

    x = ppca.simulate(5)
    weights = log_weights((model, ppca.guide), x, num_samples=6, vectorize=False)
    torch.testing.assert_close(weights, ppca.log_evidence(x).expand(6, 5), **EXACT)
    assert {shape[:-1] for shape in shapes} == {
        torch.Size([2]),
        torch.Size([4]),
        torch.Size([5]),
    }  # a few rows to look at, then all


def one_draw_at_a_time(ppca):
    """A guide that cannot broadcast over draws."""

    def guide(x):
        assert ppca.guide(x).ndim == 2

    return ppca.model, guide


@pytest.mark.parametrize("exact_kl", [False, True])
def test_bounds_without_broadcasting(exact_kl):
    ppca = PPCA.random()
    x, options = ppca.simulate(5), {"exact_kl": exact_kl, "seed": 0}
    with pytest.raises(AssertionError):
        elbo(one_draw_at_a_time(ppca), x, num_samples=2, **options)
    one = bound(one_draw_at_a_time(ppca), x, num_samples=300, vectorize=False, **options)
    exact = bound(ppca, x, num_samples=3000, **options)
    for name in ("elbo", "kl", "reconstruction"):
        error = getattr(exact, f"{name}_error") * math.sqrt(11)
        assert ((getattr(one, name) - getattr(exact, name)).abs() < 5 * error + 1e-9).all()


class Hierarchy(nn.Module):
    """A common mean for all rows."""

    def model(self, x):
        mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 2.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Normal((mu + x) / 2, math.sqrt(0.5)))


@pytest.mark.parametrize("vectorize", [True, False])
def test_rows_share_each_draw_of_a_global_latent(vectorize, pairs):
    """With the exact conditional guide a row's weight is p(x | mu): it gives mu back up to its sign around x."""
    x = torch.tensor([0.0, 1.0, 3.0, -2.0] * 10, dtype=torch.float64)
    program, axes = Hierarchy(), []
    pairs(30)

    def guide(x):
        axes.append(program.guide(x).ndim)

    weights = log_weights((program.model, guide), x, num_samples=12, vectorize=vectorize)
    assert max(axes) == (2 if vectorize else 1)
    constant = -0.5 * math.log(2 * math.pi * 2)
    squares = -4 * (weights - constant)  # (x - mu)^2
    mu = (1 - (squares[:, 1] - squares[:, 0])) / 2
    torch.testing.assert_close(squares, (x - mu[:, None]) ** 2, rtol=0, atol=1e-6)


def test_the_joint_weights_are_unbiased_for_the_whole_data_set():
    x = torch.tensor([0.5, 1.0, -0.3], dtype=torch.float64)
    exact = dist.MultivariateNormal(x.new_zeros(3), 4.0 + 2.0 * torch.eye(3, dtype=torch.float64)).log_prob(x)
    for size, vectorize in ((20_000, True), (500, False)):
        weights = joint_log_weights(Hierarchy(), x, num_samples=size, vectorize=vectorize, seed=0).exp()
        assert abs(weights.mean() - exact.exp()) < 5 * weights.std() / math.sqrt(size)


def digits_vae(dropout=0.5):
    return pvae.VAE(
        prior=pvae.standard_normal(2),
        likelihood=pvae.Factorized(dist.Normal, pvae.MLP(2, (8,), dropout=dropout), event_shape=5),
        posterior=pvae.Factorized(dist.Normal, pvae.MLP(5, (8,), dropout=dropout), event_shape=2),
    )


def test_a_vae_is_evaluated_in_eval_mode_in_its_own_precision():
    vae = digits_vae()
    x = torch.randn(6, 5, dtype=torch.float64).numpy()
    one, two = (bound(vae, x, num_samples=3, seed=0).elbo for _ in range(2))
    assert torch.equal(one, two)
    assert all(module.training for module in vae.modules())
    assert one.dtype is torch.float64
    assert all(parameter.grad is None for parameter in vae.parameters())


def test_missing_entries_do_not_count():
    vae = digits_vae()
    x = torch.randn(4, 5)
    x[0, 2:], x[1] = torch.nan, torch.nan
    result = bound(vae, x, num_samples=2000, seed=0)
    assert result.elbo.isfinite().all()
    assert result.reconstruction[1] == 0.0


def test_covariates_goes_to_those_who_take_it():
    vae = digits_vae()
    with pytest.raises(ValueError, match="no part reads"):
        elbo(vae, torch.zeros(3, 5), covariates={"label": torch.zeros(3)})
    with pytest.raises(ValueError, match="takes an argument named covariates"):
        elbo(PPCA.random(), torch.zeros(3, 6).double(), covariates={"label": torch.zeros(3)})


def test_other_kinds_of_rows():
    coins = BetaBernoulli()
    x = coins.simulate(6)
    expected = log_weights(coins, x, num_samples=2, seed=0)
    for same in (x.numpy(), x.tolist(), pvae.data.as_data(x)):
        actual = log_weights(coins, same, num_samples=2, seed=0)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_a_program_that_takes_no_missing_entries_says_so_of_a_row_with_one():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    x = torch.tensor([0.0, 1.0, 2.0, torch.nan])
    with pytest.raises(
        ValueError, match=r"x holds NaN in 1 of 4 rows \(3\), which the program does not take for missing"
    ):
        log_marginal((model, guide), x, num_samples=5, seed=0)


@pytest.mark.parametrize("row", [1, 70])
@pytest.mark.parametrize("evaluate", [elbo, partial(log_marginal, method="importance"), log_weights, pvae.impute])
def test_rows_outside_the_support_are_refused_wherever_they_stand(evaluate, row, pairs):
    pairs(256)
    vae = pvae.VAE(
        pvae.standard_normal(2),
        pvae.Factorized(dist.Bernoulli, pvae.MLP(2, (4,)), 5),
        pvae.Factorized(dist.Normal, pvae.MLP(5, (4,)), 2),
    )
    x = torch.zeros(100, 5)
    evaluate(vae, x, num_samples=3, seed=0)
    x[row, 2] = 0.5
    with pytest.raises(ValueError, match=r"outside the support of Bernoulli"):
        evaluate(vae, x, num_samples=3, seed=0)


@pytest.mark.parametrize("options", [{"num_samples": 0}, {"max_bytes": 0}])
def test_sizes_are_checked(options):
    with pytest.raises(ValueError, match="at least 1"):
        log_weights(BetaBernoulli(), torch.ones(2, 2).double(), **options)


def mixture_prior(x):
    """Two normals as the prior of one latent, near enough for one mode of the posterior; x normal around it."""
    means = torch.tensor([[-0.5], [0.7]], dtype=torch.float64)
    components = dist.Normal(means, 1.0).to_event(1)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.3, 0.7]).double()), components))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def one_normal(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x * 0.5 + 0.3, 1.0).to_event(1))


@pytest.mark.filterwarnings("ignore:importance-sampling")
@pytest.mark.parametrize("method", ["refined", "ais"])
def test_a_latent_under_a_mixture_can_be_refined_and_annealed(method):
    x = torch.linspace(-2.0, 3.0, 6, dtype=torch.float64)[:, None]
    found = log_marginal((mixture_prior, one_normal), x, method=method, num_samples=200, seed=0, progress=False)
    scores = dist.Normal(torch.tensor([-0.5, 0.7]).double(), math.sqrt(2.0)).log_prob(x)
    exact = (scores + torch.tensor([0.3, 0.7]).double().log()).logsumexp(-1)
    estimate, error = (torch.as_tensor(found[name].values) for name in ("log_marginal", "mcse"))
    assert ((estimate - exact).abs() < 5 * error + 0.01).all()
