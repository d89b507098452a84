"""Densities against scipy's in double precision, and special functions where the textbook form loses its digits."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from pyrovae import distributions as parts
from pyrovae.distributions.special import digamma_difference, log1mexp, log_gamma_ratio, log_ndtr, log_normal_interval

COUNTS = np.arange(60.0)
REALS = np.linspace(-8, 8, 60)


def tensor(*values):
    return torch.tensor(values if len(values) > 1 else values[0], dtype=torch.float64)


def zero_inflated(log_mass, gate):
    return np.where(COUNTS == 0, np.log(gate + (1 - gate) * np.exp(log_mass)), np.log1p(-gate) + log_mass)


NEGATIVE_BINOMIAL = scipy.stats.nbinom(2.5, 2.5 / (2.5 + 6.0)).logpmf(COUNTS)
EDGES = (np.arange(17) * 2 - 1) / 15 - 1  # of 16 levels on [-1, 1]
ORACLES = {
    "poisson": (parts.SizedPoisson(tensor(3.0), tensor(2.0)), COUNTS, scipy.stats.poisson(6.0).logpmf(COUNTS)),
    "negative binomial": (
        parts.SizedNegativeBinomial(tensor(3.0), tensor(2.5), tensor(2.0)),
        COUNTS,
        NEGATIVE_BINOMIAL,
    ),
    "zero-inflated poisson": (
        parts.ZeroInflatedSizedPoisson(tensor(3.0), tensor(0.4), tensor(2.0)),
        COUNTS,
        zero_inflated(scipy.stats.poisson(6.0).logpmf(COUNTS), scipy.special.expit(0.4)),
    ),
    "zero-inflated negative binomial": (
        parts.ZeroInflatedSizedNegativeBinomial(tensor(3.0), tensor(2.5), tensor(0.4), tensor(2.0)),
        COUNTS,
        zero_inflated(NEGATIVE_BINOMIAL, scipy.special.expit(0.4)),
    ),
    "beta-binomial": (
        parts.MeanBetaBinomial(tensor(0.0), tensor(3.0), tensor(59.0)),
        COUNTS,
        scipy.stats.betabinom(59, 1.5 + 1e-6, 1.5 + 1e-6).logpmf(COUNTS),
    ),
    "measured normal": (
        parts.MeasuredNormal(tensor(0.3), tensor(0.6), tensor(0.8)),
        REALS,
        scipy.stats.norm(0.3, 1.0).logpdf(REALS),
    ),
    "measured student": (
        parts.MeasuredStudentT(tensor(4.0), tensor(0.3), tensor(0.6), tensor(0.8)),
        REALS,
        scipy.stats.t(4.0, 0.3, 1.0).logpdf(REALS),
    ),
    "discretized logistic": (
        parts.DiscretizedLogistic(tensor(0.2), tensor(0.3), tensor(16.0)),
        COUNTS[1:15],
        np.log(np.diff(scipy.stats.logistic(0.2, 0.3).cdf(EDGES)))[1:15],
    ),
    "discretized normal": (
        parts.DiscretizedNormal(tensor(0.2), tensor(0.3), tensor(16.0)),
        COUNTS[1:15],
        np.log(np.diff(scipy.stats.norm(0.2, 0.3).cdf(EDGES)))[1:15],
    ),
}


@pytest.mark.parametrize("name", ORACLES)
def test_univariate_families_against_scipy(name):
    family, values, wanted = ORACLES[name]
    assert np.abs(family.log_prob(torch.as_tensor(values)).numpy() - wanted).max() < 1e-10


def test_joint_distributions_against_scipy():
    torch.manual_seed(0)
    d = 4
    factor = torch.randn(d, d, dtype=torch.float64).tril(-1) + torch.diag(tensor(0.5, 1.0, 2.0, 0.7))
    loc, values = torch.randn(d, dtype=torch.float64), torch.randn(7, d, dtype=torch.float64)
    full = parts.CholeskyNormal(loc, factor)
    low = parts.LowRankNormal(loc, factor[:, :2], tensor(0.5, 1.0, 2.0, 0.7))
    for normal in (full, low):
        wanted = scipy.stats.multivariate_normal(loc.numpy(), normal.covariance_matrix.numpy()).logpdf(values.numpy())
        assert np.abs(normal.log_prob(values).numpy() - wanted).max() < 1e-10
    shares = values.softmax(-1)
    concentration = tensor(0.5, 1.0, 2.0, 0.7)
    wanted = scipy.stats.dirichlet(concentration.numpy()).logpdf((shares / shares.sum(-1, keepdim=True)).T.numpy())
    assert np.abs(parts.InteriorDirichlet(concentration).log_prob(shares).numpy() - wanted).max() < 1e-10
    counts = torch.tensor([[1.0, 0, 2, 3], [6, 0, 0, 0], [0, 2, 2, 2]], dtype=torch.float64)
    multinomial = parts.TotalMultinomial(loc, torch.full((), 6.0, dtype=torch.float64))
    wanted = scipy.stats.multinomial(6, loc.softmax(-1).numpy()).logpmf(counts.numpy())
    assert np.abs(multinomial.log_prob(counts).numpy() - wanted).max() < 1e-10


def test_power_spherical_cosine_is_a_scaled_beta():
    """In d dimensions half of one plus the cosine to the mean is Beta((d - 1) / 2 + k, (d - 1) / 2)."""
    d, k = 5, 7.0
    direction = parts.PowerSpherical(torch.eye(d, dtype=torch.float64)[0], tensor(k))
    cosines = torch.linspace(-0.99, 0.99, 50, dtype=torch.float64)
    points = torch.zeros(50, d, dtype=torch.float64)
    points[:, 0], points[:, 1] = cosines, (1 - cosines**2).sqrt()
    area = 2 * np.pi ** ((d - 1) / 2) / scipy.special.gamma((d - 1) / 2) * (1 - cosines.numpy() ** 2) ** ((d - 3) / 2)
    wanted = scipy.stats.beta((d - 1) / 2 + k, (d - 1) / 2, loc=-1, scale=2).logpdf(cosines.numpy()) - np.log(area)
    assert np.abs(direction.log_prob(points).numpy() - wanted).max() < 1e-10
    torch.manual_seed(0)
    draws = direction.rsample((4000,))
    p = scipy.stats.kstest(
        draws[:, 0].numpy(), scipy.stats.beta((d - 1) / 2 + k, (d - 1) / 2, loc=-1, scale=2).cdf
    ).pvalue
    assert p > 1e-4


def test_discretized_logistic_where_differences_of_cdfs_are_zero():
    """Far in the tail the mass is exp(-distance) times (1 - exp(-width)), which a difference of sigmoids rounds to 0."""
    family = parts.DiscretizedLogistic(tensor(-1.0), tensor(0.001), tensor(256.0))
    value = tensor(200.0)
    lower = (2 * 200 - 1) / 255 / 0.001
    wanted = -lower + np.log(-np.expm1(-2 / 255 / 0.001))
    assert abs(family.log_prob(value).item() - wanted) < 1e-9 * abs(wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", [parts.DiscretizedLogistic, parts.DiscretizedNormal])
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 0.1, 10.0, 1e4])
def test_masses_sum_to_one_at_every_scale(family, scale, dtype):
    loc = torch.tensor([-1e4, -0.7, 0.0, 0.3, 1e4], dtype=dtype)
    masses = family(loc, torch.tensor(scale, dtype=dtype)).log_prob(torch.arange(256.0, dtype=dtype).unsqueeze(-1))
    assert masses.exp().sum(0).allclose(torch.ones(5, dtype=dtype), atol=1e-3 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("concentration", [1e-4, 1.0, 1e3, 1e6])
def test_beta_binomial_masses_sum_to_one_in_single_precision(concentration):
    family = parts.MeanBetaBinomial(torch.tensor([-3.0, 0.0, 2.0]), torch.tensor(concentration), 255.0)
    total = family.log_prob(torch.arange(256.0).unsqueeze(-1)).exp().sum(0)
    assert total.allclose(torch.ones(3), atol=1e-3)


@pytest.mark.parametrize("dispersion", [1e-3, 1.0, 1e3, 1e6])
def test_negative_binomial_masses_sum_to_one_in_single_precision(dispersion):
    family = parts.SizedNegativeBinomial(torch.tensor([0.1, 5.0]), torch.tensor(dispersion))
    total = family.log_prob(torch.arange(30_000.0).unsqueeze(-1)).exp().sum(0)
    assert total.allclose(torch.ones(2), atol=1e-3 if dispersion > 0.1 else 0.05)


def test_log_gamma_ratio_and_digamma_difference_against_exact_products():
    a = torch.tensor([1e-3, 0.5, 29.0, 31.0, 1e4, 1e8], dtype=torch.float64)
    n = 7
    terms = a.unsqueeze(-1) + torch.arange(n, dtype=torch.float64)
    assert torch.allclose(
        log_gamma_ratio(a, torch.tensor(7.0, dtype=torch.float64)), terms.log().sum(-1), rtol=1e-13, atol=0
    )
    wanted = (1 / terms).sum(-1)
    assert torch.allclose(digamma_difference(a, torch.tensor(7.0, dtype=torch.float64)), wanted, rtol=1e-11, atol=0)


def test_gamma_functions_join_smoothly_at_the_switch():
    b = torch.tensor([0.0, 0.3, 12.0], dtype=torch.float64)
    below, above = torch.tensor(30.0, dtype=torch.float64), torch.tensor(30.0 + 1e-9, dtype=torch.float64)
    assert torch.allclose(log_gamma_ratio(below, b), log_gamma_ratio(above, b), atol=1e-8, rtol=0)
    assert torch.allclose(digamma_difference(below, b), digamma_difference(above, b), atol=1e-9, rtol=0)


def test_log_ndtr_against_scipy_and_its_gradient():
    x = torch.tensor([-1e5, -40.0, -5.0, -1.0, -0.999, 0.0, 3.0, 8.0], dtype=torch.float64, requires_grad=True)
    log_ndtr(x).sum().backward()
    values = x.detach().numpy()
    wanted = scipy.special.log_ndtr(values)
    assert np.abs(log_ndtr(x).detach().numpy() / wanted - 1).max() < 1e-12
    slope = np.exp(scipy.stats.norm.logpdf(values) - wanted)
    assert np.allclose(x.grad.numpy()[1:], slope[1:], rtol=1e-9)
    assert abs(x.grad[0].item() / 1e5 - 1) < 1e-9


@pytest.mark.parametrize("width", [1e-6, 0.01, 0.2, 0.3, 1.0, 20.0])
@pytest.mark.parametrize("middle", [0.0, -0.4, 0.9, -1.3, 3.0, -30.0])
def test_log_normal_interval_against_quadrature(middle, width):
    m, w = tensor(middle), tensor(width)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    points = middle + width / 2 * nodes
    wanted = scipy.special.logsumexp(scipy.stats.norm.logpdf(points), b=weights * width / 2)
    assert abs(log_normal_interval(m - w / 2, m + w / 2, w).item() - wanted) < 1e-8


def test_log1mexp_at_both_ends():
    x = torch.tensor([1e-12, 0.69, 0.71, 40.0], dtype=torch.float64)
    values = x.numpy()
    wanted = np.where(values > 1, np.log1p(-np.exp(-values)), np.log(-np.expm1(-values)))
    assert np.abs(log1mexp(x).numpy() / wanted - 1).max() < 1e-12


def test_families_check_what_is_given():
    with pytest.raises(ValueError, match="size_factor"):
        parts.SizedPoisson(torch.tensor(1.0), torch.tensor(-1.0))
    with pytest.raises(ValueError, match="levels"):
        parts.DiscretizedLogistic(torch.tensor(0.0), torch.tensor(1.0), levels=1)
    with pytest.raises(ValueError, match="error"):
        parts.MeasuredNormal(torch.tensor(0.0), torch.tensor(1.0), torch.tensor(float("nan")))
    with pytest.raises(ValueError, match="support"):
        parts.DiscretizedLogistic(torch.tensor(0.0), torch.tensor(1.0), levels=4).log_prob(torch.tensor(4.0))
