"""Small VAEs that several tests share."""

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyrovae as pvae
from pyrovae.programs import concatenate, log_terms, paired_traces


def counts_vae(latent_dim=2, name="vae", **settings):
    """A Poisson VAE on vectors of five counts."""
    return pvae.VAE(
        prior=pvae.standard_normal(latent_dim),
        likelihood=pvae.Factorized(dist.Poisson, pvae.MLP(latent_dim, (16,), **settings), event_shape=5),
        posterior=pvae.Factorized(
            dist.Normal, pvae.MLP(5, (16,), **settings), event_shape=latent_dim, preprocess=torch.log1p
        ),
        name=name,
    )


def convolutional_vae():
    """A Bernoulli VAE on 1 x 8 x 8 images whose encoder convolves and normalizes over the batch."""
    encoder = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(64, 6),
        nn.Unflatten(1, (2, 3)),
    )
    decoder = nn.Sequential(
        nn.Linear(3, 64),
        nn.Unflatten(1, (4, 4, 4)),
        nn.BatchNorm2d(4),
        nn.SiLU(),
        nn.ConvTranspose2d(4, 1, 2, stride=2),
        nn.Unflatten(1, (1, 1)),
    )
    return pvae.VAE(
        prior=pvae.standard_normal(3),
        likelihood=pvae.Factorized(dist.Bernoulli, pvae.BatchAxes(decoder, 3, (1, 1, 8, 8)), event_shape=(1, 8, 8)),
        posterior=pvae.Factorized(dist.Normal, pvae.BatchAxes(encoder, (1, 8, 8), (2, 3)), event_shape=3),
    )


def counts(rows=64, seed=0):
    """Counts that a two-dimensional latent explains."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, 2, generator=generator)
    loadings = torch.randn(2, 5, generator=generator)
    return torch.poisson(torch.exp(z @ loadings * 0.5 + 1.0), generator=generator)


def binary_images(rows=16, seed=0):
    """Random binary images of shape (1, 8, 8)."""
    return torch.bernoulli(torch.full((rows, 1, 8, 8), 0.4), generator=torch.Generator().manual_seed(seed))


def snapshot(module):
    """Copies of a module's parameters."""
    return [parameter.detach().clone() for parameter in module.parameters()]


def moved(before, module):
    """How far each parameter has moved."""
    return [float((a - b).detach().abs().max()) for a, b in zip(before, module.parameters(), strict=True)]


def ragged_rows(rows, steps=4, seed=0):
    """Rows of 1 to ``steps`` standard normals with noise of variance 1; NaN beyond the end of a row."""
    generator = torch.Generator().manual_seed(seed)
    x = 2**0.5 * torch.randn(rows, steps, generator=generator, dtype=torch.float64)
    lengths = torch.arange(rows) % steps + 1
    return torch.where(torch.arange(steps) < lengths[:, None], x, torch.nan)


def ragged_model(x):
    """A standard normal latent for each step, masked beyond the end of a row, and the step with noise of variance 1."""
    inside = x.isfinite()
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).mask(inside).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).mask(inside).to_event(1), obs=x.nan_to_num())


def ragged_guide_with(variance, weight=0.5):
    """N(weight x, variance) for each step, masked as the model is; (1/2, 1/2) is exact."""

    def guide(x):
        with pyro.plate("data", len(x)):
            normal = dist.Normal(weight * x.nan_to_num(), variance**0.5)
            pyro.sample("z", normal.mask(x.isfinite()).to_event(1))

    return guide


ragged_guide = ragged_guide_with(0.5)


def particle_terms(program, args, kwargs=None, num_particles=1, vectorize=True, nesting=None):
    """The log densities per datum of fresh draws, in one vectorized run or one run for each particle."""
    runs = [num_particles] if vectorize else [None] * num_particles
    return concatenate([log_terms(*paired_traces(program, args, kwargs, number, nesting)) for number in runs])


class Choosing(nn.Module):
    """Its guide draws a class: torch refuses to draw from NaN, where Pyro's validation is off."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(5, 3)

    def model(self, x):
        pvae.register(choosing=self)
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.ones(3) / 3))
            pyro.sample("x", dist.Poisson(1.0 + k[:, None].expand(len(x), 5)).to_event(1), obs=x)

    def guide(self, x):
        pvae.register(choosing=self)
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(logits=self.net(x)))
