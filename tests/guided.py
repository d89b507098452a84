"""Probabilistic PCA under guides whose defects are known."""

import math

import pyro
import pyro.distributions as dist
import torch
from oracles import PPCA, plate

from pyrovae.missing import fill_zeros, observed


class GuidedPPCA(PPCA):
    """The exact model; the guide is ``defect(exact posterior)``."""

    defect = None

    def proposal(self, x):
        return self.defect(self.posterior(x)).expand((len(x),))

    @classmethod
    def with_defect(cls, defect, **settings):
        program = cls.random(**settings)
        program.defect = defect
        return program


def exact(posterior):
    return posterior


def tempered(factor):
    """The posterior with its standard deviations times a factor."""
    return lambda p: dist.MultivariateNormal(p.loc, scale_tril=factor * p.scale_tril)


def shifted(sds):
    """The posterior moved by so many of its standard deviations."""
    return lambda p: dist.MultivariateNormal(p.loc + sds * p.variance.sqrt(), p.covariance_matrix)


def mean_field(posterior):
    """The best independent normals."""
    return dist.Normal(posterior.loc, posterior.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt()).to_event(1)


def marginals(posterior):
    """The right marginals without their correlations."""
    return dist.Normal(posterior.loc, posterior.variance.sqrt()).to_event(1)


def correlated_weight(latent=3, data=6, seed=0):
    """Columns that nearly repeat each other, so that the latents are correlated given the data."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(data, 1, generator=generator, dtype=torch.float64)
    return 0.5 * common + 0.4 * torch.randn(data, latent, generator=generator, dtype=torch.float64)


def correlated(defect, **settings):
    """Two columns of W nearly repeat each other: posterior correlations near -0.7."""
    program = GuidedPPCA(correlated_weight(), 0.3, **settings)
    program.defect = defect
    return program


class MissingPPCA(PPCA):
    """Probabilistic PCA that takes missing entries, with the exact posterior given the observed ones."""

    def model(self, x=None, size=None):
        rows = (1 if size is None else size) if x is None else len(x)
        with plate(x, rows, size):
            z = pyro.sample("z", dist.Normal(self.weight.new_zeros(self.latent_dim), 1.0).to_event(1))
            likelihood = dist.Normal(z @ self.weight.T + self.mean, math.sqrt(self.noise)).to_event(1)
            if x is None:
                return pyro.sample("x", likelihood)
            likelihood, filled = observed(likelihood, x)
            return pyro.sample("x", likelihood, obs=filled)

    def proposal(self, x):
        _, mask = fill_zeros(x)
        weight = self.weight * mask[..., None]
        precision = torch.eye(self.latent_dim).double() + weight.mT @ self.weight / self.noise
        covariance = torch.linalg.inv(precision)
        centered = torch.where(mask, x - self.mean, 0.0)
        return dist.MultivariateNormal(
            (covariance @ (centered @ self.weight / self.noise)[..., None])[..., 0], covariance
        )
