"""Small VAEs that several tests share."""

import pyro.distributions as dist
import torch
from torch import nn

import pyrovae as pvae


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
