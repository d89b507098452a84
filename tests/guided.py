"""Probabilistic PCA under guides whose defects are known."""

import pyro.distributions as dist
import torch
from oracles import PPCA


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
