"""Log masses and densities in single precision where their textbook forms lose all digits."""

from __future__ import annotations

import warnings

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from scipy.special import expit, gammaln
from torch import nn

import pyrovae as pvae
from pyrovae import distributions as parts
from pyrovae.distributions.precise import precise

LARGEST = 2.0**24


def near(mean, sd):
    """Whole numbers within twelve standard deviations of the mean, as float32 tells them apart."""
    return torch.arange(max(0.0, mean - 12 * sd) // 1, min(LARGEST, mean + 12 * sd), max(1.0, sd // 200))


def negative_binomial(values, mean, theta):
    return scipy.stats.nbinom(theta, theta / (theta + mean)).logpmf(values)


def with_zeros(values, log_mass, gate_logits):
    gate = expit(gate_logits)
    return np.where(values == 0, np.logaddexp(np.log(gate), np.log1p(-gate) + log_mass), np.log1p(-gate) + log_mass)


def beta_binomial(k, n, a, b):
    return scipy.stats.betabinom(n, a, b).logpmf(k)


def multinomial_pair(values, n, p):
    return scipy.stats.binom(int(n), p).logpmf(values)


def constant(family, **parameters):
    """The family as ``Factorized`` makes it, of one entry whose parameters are fixed."""
    return pvae.Factorized(family, event_shape=(), **parameters)()


RATES = [1e4, 1e5, 1e6, 1.2e7]
COUNTS = {
    "SizedPoisson": (lambda m: parts.SizedPoisson(torch.tensor(m / 2), torch.tensor(2.0)), 0),
    "SizedNegativeBinomial": (lambda m: parts.SizedNegativeBinomial(torch.tensor(m), torch.tensor(1e9)), 1e9),
    "ZeroInflatedSizedPoisson": (
        lambda m: parts.ZeroInflatedSizedPoisson(torch.tensor(m), torch.tensor(-2.0)),
        "zeros",
    ),
    "Poisson": (lambda m: constant(dist.Poisson, rate=m), 0),
    "ZeroInflatedPoisson": (lambda m: constant(dist.ZeroInflatedPoisson, rate=m, gate_logits=-2.0), "zeros"),
    "GammaPoisson": (lambda m: constant(dist.GammaPoisson, concentration=2.0**20, rate=2.0**20 / m), 2.0**20),
    "NegativeBinomial": (
        lambda m: constant(dist.NegativeBinomial, total_count=2.0**20, logits=float(np.log(m / 2.0**20))),
        2.0**20,
    ),
}


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("name", COUNTS)
def test_large_counts_against_scipy(name, rate):
    build, theta = COUNTS[name]
    family = build(rate)
    mean = float(np.float32(rate))
    if name == "NegativeBinomial":  # the mean of the logits that single precision holds
        mean = 2.0**20 * float(np.exp(np.float64(np.float32(np.log(rate / 2.0**20)))))
    if name == "GammaPoisson":
        mean = 2.0**20 / float(np.float32(2.0**20 / rate))
    values = near(mean, mean**0.5)
    k = values.double().numpy()
    if theta in (0, "zeros"):
        wanted = scipy.stats.poisson(mean).logpmf(k)
        wanted = with_zeros(k, wanted, -2.0) if theta else wanted
    else:
        wanted = negative_binomial(k, mean, theta)
    found = family.log_prob(values)
    assert found.dtype == torch.float32
    assert (np.abs(found.double().numpy() - wanted) < 1e-6 * np.abs(wanted) + 2e-6).all()


def test_masses_of_large_counts_sum_to_one():
    values = torch.arange(1e7 - 4e4, 1e7 + 4e4)
    for family in (
        parts.SizedPoisson(torch.tensor(1e7)),
        parts.SizedNegativeBinomial(torch.tensor(1e7), torch.tensor(1e9)),
        constant(dist.Poisson, rate=1e7),
    ):
        assert family.log_prob(values).double().exp().sum() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("total", [1024, 1025, 65535, 10**6, int(LARGEST)])
@pytest.mark.parametrize("logits", [-3.0, 0.0])
def test_binomials_of_many_trials_against_scipy(total, logits):
    p = float(expit(logits))
    values = near(total * p, (total * p * (1 - p)) ** 0.5)
    wanted = scipy.stats.binom(total, p).logpmf(values.double().numpy())
    found = constant(dist.Binomial, total_count=total, logits=logits).log_prob(values).double().numpy()
    error = np.abs(found - wanted)[wanted > -60]
    assert (error < (1e-3 if total == 1024 else 1e-5)).all()


def test_a_binomial_of_few_trials_is_pyros_own():
    assert precise(dist.Binomial, 1024).log_prob is dist.Binomial.log_prob
    assert precise(dist.Binomial, torch.tensor([2.0, 1025.0])).log_prob is not dist.Binomial.log_prob
    assert precise(dist.Binomial).log_prob is not dist.Binomial.log_prob
    assert precise(dist.Normal) is dist.Normal
    learned = pvae.Factorized(dist.Binomial, event_shape=(), total_count=16, logits=nn.Parameter(torch.zeros(())))
    assert type(learned()) is precise(dist.Binomial, 16)
    read = pvae.Factorized(dist.Binomial, event_shape=(), total_count=pvae.FromCovariate("n"), logits=0.0)
    assert type(read(covariates={"n": torch.tensor([16.0])})) is precise(dist.Binomial)


@pytest.mark.parametrize("concentration", [1.0, 50.0, 1e3, 1e9])
def test_beta_binomials_of_sixteen_bits(concentration):
    total = 65535
    own = parts.MeanBetaBinomial(torch.tensor(0.5), torch.tensor(concentration), total)
    levels = torch.arange(total + 1.0)
    found = own.log_prob(levels).double()
    assert found.exp().sum() == pytest.approx(1.0, abs=1e-5)
    if concentration < 1e9:  # scipy's loses digits there
        p = float(expit(np.float64(0.5)))
        wanted = beta_binomial(levels.numpy(), total, concentration * p + 1e-6, concentration * (1 - p) + 1e-6)
        assert (np.abs(found.numpy() - wanted) < 1e-6 * np.abs(wanted) + 1e-5).all()
        pyros = constant(
            dist.BetaBinomial,
            concentration1=concentration * p,
            concentration0=concentration * (1 - p),
            total_count=total,
        )
        assert np.abs(pyros.log_prob(levels).double().numpy() - wanted)[wanted > -1e3].max() < 1e-3


def test_multinomials_of_many_counts():
    total, p = 1e7, float(expit(np.float64(np.float32(0.3))))
    first = near(total * p, (total * p * (1 - p)) ** 0.5)
    values = torch.stack([first, total - first], -1)
    found = parts.TotalMultinomial(torch.tensor([0.3, 0.0]), torch.tensor(total)).log_prob(values)
    wanted = multinomial_pair(first.double().numpy(), total, p)
    assert np.abs(found.double().numpy() - wanted)[wanted > -60].max() < 1e-5


@pytest.mark.parametrize(
    "family",
    [
        parts.SizedPoisson(torch.tensor([1e-7, 1e-3, 1.0])),
        parts.SizedNegativeBinomial(torch.tensor([1e-7, 1e-3, 1.0]), torch.tensor(1e-6)),
        parts.ZeroInflatedSizedPoisson(torch.tensor([1e-7, 1e-3, 1.0]), torch.tensor(30.0)),
        parts.MeanBetaBinomial(torch.tensor([-40.0, 0.0, 40.0]), torch.tensor([1e-6, 1.0, 1e9]), 0.0),
        parts.TotalMultinomial(torch.tensor([[100.0, -100.0], [0.0, 0.0], [1.0, 0.0]]), torch.zeros(3)),
        precise(dist.Binomial)(torch.tensor(0.0), logits=torch.tensor([-40.0, 0.0, 40.0])),
    ],
    ids=lambda family: type(family).__name__,
)
def test_a_log_mass_is_never_positive(family):
    value = torch.zeros(3, 2) if family.event_shape else torch.zeros(3)
    assert (family.log_prob(value) <= 0).all()


def test_integers_that_single_precision_cannot_tell_apart_are_refused():
    poisson = parts.SizedPoisson(torch.tensor(1.6e7))
    assert poisson.log_prob(torch.tensor(LARGEST)).isfinite()
    beyond = torch.tensor(LARGEST + 2)
    families = [poisson, constant(dist.Poisson, rate=1.6e7)]
    for family in families:
        with pytest.raises(ValueError, match=r"16777218.*cannot tell integers beyond 16777216 apart.*vae.double\(\)"):
            family.log_prob(beyond)
    assert parts.SizedPoisson(torch.tensor(1.6e7).double()).log_prob(beyond.double()).isfinite()
    with pytest.raises(ValueError, match="total_count holds 16777218"):
        parts.TotalMultinomial(torch.zeros(2), beyond).log_prob(torch.zeros(2))


@pytest.mark.parametrize("family", [dist.Poisson, parts.SizedNegativeBinomial], ids=lambda f: f.__name__)
def test_data_that_single_precision_cannot_tell_apart_are_refused_at_the_door(family):
    vae = pvae.VAE(
        pvae.standard_normal(1),
        pvae.Factorized(family, pvae.MLP(1, (4,)), event_shape=2),
        pvae.Factorized(dist.Normal, pvae.MLP(2, (4,)), event_shape=1, preprocess=torch.log1p),
    )
    x = torch.full((3, 2), LARGEST)
    vae.model(x)
    x[1, 0] = LARGEST + 2
    with pytest.raises(ValueError, match="x holds 16777218, but"):
        vae.model(x)
    vae.double().model(x.double())


@pytest.mark.parametrize("df", [0.5, 4.0, 1e3, 1e5, 1e8, 1e15, 1e30])
def test_student_t_at_any_number_of_degrees_of_freedom(df):
    values = torch.linspace(-6, 6, 25)
    wanted = scipy.stats.norm.logpdf(values.numpy()) if df > 1e12 else scipy.stats.t(df).logpdf(values.double().numpy())
    measured = parts.MeasuredStudentT(torch.tensor(df), torch.tensor(0.0), torch.tensor(0.6), torch.tensor(0.8))
    for family in (constant(dist.StudentT, df=df, loc=0.0, scale=1.0), measured):
        assert np.abs(family.log_prob(values).double().numpy() - wanted).max() < 1e-5


def test_student_t_passes_gradients_at_large_degrees_of_freedom():
    df = torch.tensor([5.0, 1e4, 1e8], requires_grad=True)
    precise(dist.StudentT)(df, 0.0, 1.0).log_prob(torch.tensor(1.5)).sum().backward()
    wide = df.detach().double().requires_grad_()
    dist.StudentT(wide[:2], 0.0, 1.0).log_prob(torch.tensor(1.5, dtype=torch.float64)).sum().backward()
    assert torch.allclose(df.grad[:2].double(), wide.grad[:2], rtol=0.02, atol=1e-9)
    assert df.grad[2].abs() < 1e-7


@pytest.mark.parametrize("concentration", [2.0, 1e4, 1e6])
def test_gammas_and_betas_of_large_concentration(concentration):
    sd = concentration**0.5
    values = torch.tensor([concentration + s * sd for s in (-1.0, 0.0, 1.5)]).clamp(min=0.5)
    x = values.double().numpy()
    found = {
        "gamma": constant(dist.Gamma, concentration=concentration, rate=1.0).log_prob(values),
        "chi2": constant(dist.Chi2, df=2 * concentration).log_prob(2 * values),
        "inverse gamma": constant(dist.InverseGamma, concentration=concentration, rate=1.0).log_prob(1 / values),
    }
    log_gamma = concentration * np.log(x) - np.log(x) - x - gammaln(concentration)
    shares = (1 / values).double().numpy()
    wanted = {
        "gamma": log_gamma,
        "chi2": log_gamma - np.log(2),
        "inverse gamma": -(concentration + 1) * np.log(shares) - 1 / shares - gammaln(concentration),
    }
    for name, value in found.items():
        assert np.abs(value.double().numpy() - wanted[name]).max() < 2e-5, name
    y = torch.tensor([0.5, 0.5 + 0.3 / sd])
    beta = constant(dist.Beta, concentration1=concentration, concentration0=concentration)
    assert (
        np.abs(beta.log_prob(y).numpy() - scipy.stats.beta(concentration, concentration).logpdf(y.double())).max()
        < 2e-5
    )
    dirichlet = parts.InteriorDirichlet(torch.full((2,), concentration))
    assert torch.allclose(dirichlet.log_prob(torch.stack([y, 1 - y], -1)), beta.log_prob(y), atol=2e-5)


@pytest.mark.parametrize("family", [parts.DiscretizedLogistic, parts.DiscretizedNormal])
@pytest.mark.parametrize("levels", [2**16, 2**20])
def test_many_levels_keep_their_masses(family, levels):
    loc, scale, k = torch.tensor(0.3), torch.tensor(10.0 / levels), torch.arange(float(levels))
    single = family(loc, scale, levels).log_prob(k).double()
    double = family(loc.double(), scale.double(), levels).log_prob(k.double())
    likely = double > -50
    assert (single - double)[likely].abs().max() < 1e-4
    assert single.exp().sum() == pytest.approx(1.0, abs=1e-6)


def test_precise_families_are_pyros_in_everything_else():
    torch.manual_seed(0)
    posterior = pvae.Factorized(dist.Gamma, pvae.MLP(2, (4,)), event_shape=3)
    q = posterior(torch.randn(5, 2))
    assert isinstance(q.base_dist, dist.Gamma)
    assert type(q.base_dist).__name__ == "Gamma"
    p = dist.Gamma(torch.ones(5, 3), 1.0).to_event(1)
    assert torch.distributions.kl_divergence(q, p).shape == (5,)
    assert q.expand((4, 5)).rsample().shape == (4, 5, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        q.log_prob(q.rsample()).sum().backward()
    assert all(w.grad.isfinite().all() for w in posterior.parameters())


def test_a_fixed_parameter_in_double_precision_follows_the_module():
    scale = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    likelihood = pvae.Factorized(dist.Normal, pvae.MLP(2, (4,)), event_shape=3, scale=scale)
    d = likelihood(torch.zeros(5, 2))
    assert d.sample().dtype == d.log_prob(torch.zeros(3)).dtype == torch.float32
    assert torch.equal(likelihood.double()(torch.zeros(5, 2).double()).base_dist.scale[0], scale)  # no digit is lost
    prior = pvae.Factorized(dist.Normal, event_shape=3, loc=torch.zeros(3, dtype=torch.float64), scale=1.0)
    posterior = pvae.Factorized(dist.Normal, pvae.MLP(3, (4,)), 3)
    vae = pvae.VAE(prior, pvae.Factorized(dist.Normal, pvae.MLP(3, (4,)), 3, scale=scale), posterior)
    assert pvae.fit(vae, torch.randn(8, 3), steps=2, seed=0, progress=False)["loss"][-1] < float("inf")
    learned = pvae.Factorized(dist.Normal, event_shape=3, loc=0.0, scale=nn.Parameter(scale))
    assert learned().sample().dtype == torch.float32
