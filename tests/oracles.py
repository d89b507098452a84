"""Programs whose evidence and posterior are known exactly; plain Pyro functions, bound to one small class each."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyrovae as pvae


class PPCA(nn.Module):
    """Probabilistic PCA, x = W z + mu + noise of variance s2, with a guide that may be exact, mean-field or wrong.

    ``guide_scale`` multiplies the guide's standard deviations, ``guide_shift`` moves its mean, ``exact`` uses the full
    posterior covariance instead of the best mean-field one. Rotating W by an orthogonal matrix leaves p(x) as it is.
    """

    def __init__(self, weight, noise, mean=None, exact=False, guide_scale=1.0, guide_shift=0.0):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.mean = nn.Parameter(torch.zeros(len(weight), dtype=weight.dtype) if mean is None else mean)
        self.noise, self.exact, self.guide_scale, self.guide_shift = float(noise), exact, guide_scale, guide_shift

    @classmethod
    def random(cls, latent=3, data=6, noise=0.5, seed=0, dtype=torch.float64, **guide):
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(data, latent, generator=generator, dtype=dtype)
        return cls(weight, noise, torch.randn(data, generator=generator, dtype=dtype), **guide)

    @property
    def latent_dim(self):
        return self.weight.shape[1]

    def model(self, x=None, size=None):
        rows = (1 if size is None else size) if x is None else len(x)
        like = self.weight
        with plate(x, rows, size):
            z = pyro.sample("z", dist.Normal(like.new_zeros(self.latent_dim), 1.0).to_event(1))
            loc = z @ self.weight.T + self.mean
            return pyro.sample("x", dist.Normal(loc, math.sqrt(self.noise)).to_event(1), obs=x)

    def guide(self, x, size=None):
        with plate(x, len(x), size):
            return pyro.sample("z", self.proposal(x))

    def precision(self):
        return self.weight.T @ self.weight / self.noise + torch.eye(self.latent_dim, dtype=self.weight.dtype)

    def posterior(self, x):
        """The exact posterior, a batch of multivariate normals."""
        covariance = torch.linalg.inv(self.precision())
        loc = (x - self.mean) @ self.weight @ covariance / self.noise
        return dist.MultivariateNormal(loc, covariance)

    def proposal(self, x):
        exact = self.posterior(x)
        if self.exact:
            return exact
        scale = self.guide_scale * self.precision().diagonal().rsqrt()
        return dist.Normal(exact.loc + self.guide_shift, scale).to_event(1)

    def marginal(self):
        eye = torch.eye(len(self.weight), dtype=self.weight.dtype)
        return dist.MultivariateNormal(self.mean, self.weight @ self.weight.T + self.noise * eye)

    def log_evidence(self, x):
        """The exact log p(x) of each row, in nats."""
        return self.marginal().log_prob(x).detach()

    def elbo(self, x):
        """The exact ELBO of each row under the guide: log p(x) less the divergence of the guide from the posterior."""
        q, p = self.proposal(x), self.posterior(x)
        if not self.exact:
            q = dist.MultivariateNormal(q.base_dist.loc, torch.diag_embed(q.base_dist.scale**2))
        return (self.log_evidence(x) - torch.distributions.kl_divergence(q, p)).detach()

    def approximation_gap(self):
        """What the best mean-field guide loses, in nats: half of (sum of log diagonal - log determinant)."""
        precision = self.precision()
        return 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)).item()

    def exact_khat(self):
        """The Pareto shape of the importance ratios with the mean-field guide: 1 - the least eigenvalue of p^-1 q."""
        precision = self.precision()
        scale = self.guide_scale * precision.diagonal().rsqrt()
        ratio = scale[:, None] * precision * scale
        return max(0.0, 1.0 - torch.linalg.eigvalsh(ratio).min().item())

    def simulate(self, rows, seed=1):
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(rows, self.latent_dim, generator=generator, dtype=self.weight.dtype)
        noise = torch.randn(rows, len(self.weight), generator=generator, dtype=self.weight.dtype)
        return (z @ self.weight.T + self.mean + math.sqrt(self.noise) * noise).detach()


class BetaBernoulli(nn.Module):
    """p ~ Beta(a, b) for each row, x a row of n coin flips; the guide is the posterior at tempered counts."""

    def __init__(self, a=2.0, b=3.0, guide_power=1.0, dtype=torch.float64):
        super().__init__()
        self.a, self.b, self.guide_power, self.dtype = a, b, guide_power, dtype

    def model(self, x, size=None):
        with plate(x, len(x), size):
            p = pyro.sample("p", dist.Beta(torch.tensor(self.a, dtype=self.dtype), self.b))
            pyro.sample("x", dist.Bernoulli(p[..., None].expand(*p.shape, x.shape[-1])).to_event(1), obs=x)

    def guide(self, x, size=None):
        with plate(x, len(x), size):
            pyro.sample("p", self.posterior(x, self.guide_power))

    def posterior(self, x, power=1.0):
        heads, flips = x.sum(-1), x.shape[-1]
        return dist.Beta(self.a + power * heads, self.b + power * (flips - heads))

    def log_evidence(self, x):
        heads, flips = x.sum(-1), x.shape[-1]
        a, b = (torch.tensor(v, dtype=self.dtype) for v in (self.a, self.b))
        return log_beta(a + heads, b + flips - heads) - log_beta(a, b)

    def simulate(self, rows, flips=8, seed=1):
        generator = torch.Generator().manual_seed(seed)
        p = torch.rand(rows, 1, generator=generator, dtype=self.dtype)
        return (torch.rand(rows, flips, generator=generator, dtype=self.dtype) < p).to(self.dtype)


class GammaPoisson(nn.Module):
    """rate ~ Gamma(a, b) for each row, x a row of n counts; the guide is log-normal with matched moments."""

    def __init__(self, a=2.0, b=0.5, guide_scale=1.2, dtype=torch.float64):
        super().__init__()
        self.a, self.b, self.guide_scale, self.dtype = a, b, guide_scale, dtype

    def model(self, x, size=None):
        with plate(x, len(x), size):
            rate = pyro.sample("rate", dist.Gamma(torch.tensor(self.a, dtype=self.dtype), self.b))
            pyro.sample("x", dist.Poisson(rate[..., None].expand(*rate.shape, x.shape[-1])).to_event(1), obs=x)

    def guide(self, x, size=None):
        exact = self.posterior(x)
        loc = torch.digamma(exact.concentration) - exact.rate.log()
        with plate(x, len(x), size):
            scale = self.guide_scale * torch.polygamma(1, exact.concentration).sqrt()
            pyro.sample("rate", dist.LogNormal(loc, scale))

    def posterior(self, x):
        return dist.Gamma(self.a + x.sum(-1), torch.tensor(self.b + x.shape[-1], dtype=self.dtype))

    def log_evidence(self, x):
        a, b, total, n = self.a, self.b, x.sum(-1), x.shape[-1]
        constant = a * math.log(b) - math.lgamma(a) - torch.lgamma(x + 1).sum(-1)
        return constant + torch.lgamma(a + total) - (a + total) * math.log(b + n)

    def simulate(self, rows, counts=5, seed=1):
        generator = torch.Generator().manual_seed(seed)
        rate = 6.0 * torch.rand(rows, 1, generator=generator, dtype=self.dtype) + 0.5
        return torch.poisson(rate.expand(rows, counts), generator=generator)


class EnumeratedMixture(nn.Module):
    """A class y and a latent z ~ N(m_y, 1) for each row, x ~ N(z, s2); y is summed out by enumeration.

    ``where`` is "model" (the guide has no y), "guide" (y in both, enumerated by the guide), or "sampled" (y drawn from
    the guide like any latent). The guide of z is N(x / 2, 1), given y it is shifted by m_y / 4.
    """

    def __init__(self, where="model", noise=0.7, dtype=torch.float64):
        super().__init__()
        self.where, self.noise = where, noise
        self.weights = torch.tensor([0.2, 0.5, 0.3], dtype=dtype)
        self.means = torch.tensor([-2.0, 0.5, 3.0], dtype=dtype)

    def model(self, x, size=None):
        with plate(x, len(x), size):
            infer = {"enumerate": "parallel"} if self.where == "model" else {}
            y = pyro.sample("y", dist.Categorical(self.weights), infer=infer)
            z = pyro.sample("z", dist.Normal(self.means[y], 1.0))
            pyro.sample("x", dist.Normal(z, math.sqrt(self.noise)), obs=x)

    def guide(self, x, size=None):
        with plate(x, len(x), size):
            loc = x / 2
            if self.where != "model":
                infer = {"enumerate": "parallel"} if self.where == "guide" else {}
                logits = -0.5 * (x[:, None] - self.means) ** 2 / (2.0 + self.noise)
                y = pyro.sample("y", dist.Categorical(logits=logits), infer=infer)
                loc = loc + self.means[y] / 4
            pyro.sample("z", dist.Normal(loc, 1.0))

    def log_evidence(self, x):
        components = dist.Normal(self.means, math.sqrt(1.0 + self.noise))
        return torch.logsumexp(self.weights.log() + components.log_prob(x[:, None]), -1)

    def simulate(self, rows, seed=1):
        generator = torch.Generator().manual_seed(seed)
        y = torch.multinomial(self.weights, rows, replacement=True, generator=generator)
        noise = torch.randn(rows, generator=generator, dtype=self.means.dtype)
        return self.means[y] + math.sqrt(1.0 + self.noise) * noise


def plate(x, rows, size=None):
    """The plate over data, as a subsample of ``size`` rows where that is more than the rows of x."""
    if size is None or x is None or size == rows:
        return pyro.plate("data", rows, dim=-1)
    return pyro.plate("data", size, subsample=torch.arange(rows), dim=-1)


def log_beta(a, b) -> Tensor:
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


def bound(*args, **options):
    """The ELBO's Dataset as tensors, to be compared with those of the oracles."""
    found = pvae.elbo(*args, **options)
    return SimpleNamespace(**{name: torch.from_numpy(found[name].values) for name in found.data_vars})


class Turned(nn.Module):
    """x = A R_k z + noise with one of several rotations R_k: as many modes as rotations, equally heavy, and a normal p(x).

    The guide is the best mean-field one around the first mode.
    """

    def __init__(self, modes, dims, noise=0.3, seed=0):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(2 * dims, dims, generator=self.generator, dtype=torch.float64) / math.sqrt(dims) * 2
        square = torch.randn(modes, dims, dims, generator=self.generator, dtype=torch.float64)
        self.turns = torch.linalg.qr(square).Q
        self.turns[0] = torch.eye(dims)
        self.noise, self.dims, self.modes = noise, dims, modes

    def model(self, x, size=None):
        with plate(x, len(x), size):
            z = pyro.sample("z", dist.Normal(self.weight.new_zeros(self.dims), 1.0).to_event(1))
            loc = torch.einsum("nd,kde,...e->...kn", self.weight, self.turns, z)
            classes = dist.Categorical(loc.new_ones(loc.shape[:-1]))
            pyro.sample("x", dist.MixtureSameFamily(classes, dist.Normal(loc, self.noise).to_event(1)), obs=x)

    def guide(self, x, size=None):
        precision = self.weight.T @ self.weight / self.noise**2 + torch.eye(self.dims)
        with plate(x, len(x), size):
            loc = x @ self.weight @ torch.linalg.inv(precision) / self.noise**2
            pyro.sample("z", dist.Normal(loc, precision.diagonal().rsqrt()).to_event(1))

    def log_evidence(self, x):
        covariance = self.weight @ self.weight.T + self.noise**2 * torch.eye(2 * self.dims)
        return dist.MultivariateNormal(torch.zeros(2 * self.dims).double(), covariance).log_prob(x)

    def simulate(self, rows):
        z = torch.randn(rows, self.dims, generator=self.generator, dtype=torch.float64)
        turn = self.turns[torch.randint(self.modes, (rows,), generator=self.generator)]
        noise = torch.randn(rows, 2 * self.dims, generator=self.generator, dtype=torch.float64)
        return torch.einsum("nd,rde,re->rn", self.weight, turn, z) + self.noise * noise
