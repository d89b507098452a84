"""Univariate Pyro families, each with the values that a network cannot give and points of its support."""

from typing import NamedTuple

import pyro.distributions as dist
import torch


class Case(NamedTuple):
    """A family, its given values, and the points over which its density sums or integrates to one."""

    family: type
    given: dict = {}  # noqa: RUF012
    domain: str = "real"  # real, positive, unit, counts, or a tuple of integers
    limit: float = 1e4  # raw network outputs up to this size are valid

    def __repr__(self):
        return self.family.__name__


CASES = [
    Case(dist.Normal),
    Case(dist.Laplace),
    Case(dist.Logistic),
    Case(dist.Gumbel),
    Case(dist.SoftLaplace),
    Case(dist.AsymmetricLaplace),
    Case(dist.SkewLogistic),
    Case(dist.StudentT, {"df": 5.0}),
    Case(dist.LogNormal, {}, "positive"),
    Case(dist.Gamma, {}, "positive"),
    Case(dist.InverseGamma, {"concentration": 4.0}, "positive"),
    Case(dist.Exponential, {}, "positive"),
    Case(dist.HalfNormal, {}, "positive"),
    Case(dist.Weibull, {"concentration": 1.7}, "positive"),
    Case(dist.Chi2, {}, "positive"),
    Case(dist.Beta, {}, "unit"),
    Case(dist.Kumaraswamy, {"concentration1": 1.5}, "unit"),
    Case(dist.ContinuousBernoulli, {}, "unit"),
    Case(dist.Bernoulli, {}, (0, 1)),
    Case(dist.Binomial, {"total_count": 16}, tuple(range(17))),
    Case(dist.BetaBinomial, {"total_count": 16}, tuple(range(17))),
    Case(dist.Poisson, {}, "counts"),
    Case(dist.Geometric, {}, "counts"),
    Case(dist.NegativeBinomial, {}, "counts"),
    Case(dist.GammaPoisson, {}, "counts"),
    Case(dist.ZeroInflatedPoisson, {}, "counts"),
    Case(dist.ZeroInflatedNegativeBinomial, {}, "counts", 10.0),  # Pyro refuses logits whose sigmoid rounds to one
]


def total_mass(log_prob, domain):
    """The integral or sum of exp(log_prob(points)) over the domain, in double precision."""
    if isinstance(domain, tuple):
        return log_prob(torch.tensor(domain, dtype=torch.float64)).exp().sum(0)
    if domain == "counts":
        return log_prob(torch.arange(4000, dtype=torch.float64)).exp().sum(0)
    u = torch.linspace(-1, 1, 200_003, dtype=torch.float64)[1:-1]
    transforms = {
        "real": (torch.atanh(u) * 8, 8 / (1 - u**2)),
        "positive": ((1 + u) ** 4 / (1 - u), (4 * (1 + u) ** 3 * (1 - u) + (1 + u) ** 4) / (1 - u) ** 2),
        "unit": (torch.sigmoid(30 * u), 30 * torch.sigmoid(30 * u) * torch.sigmoid(-30 * u)),
    }
    points, jacobian = transforms[domain]
    return torch.trapezoid((log_prob(points).exp().nan_to_num() * jacobian[:, None]).T, u)
