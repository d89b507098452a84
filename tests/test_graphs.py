"""Graphs beside the VAE, each against a closed form."""

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pvae
from pyrovae.graphs import HierarchicalVAE

EXACT = {"rtol": 0, "atol": 1e-9}


class Linear(nn.Module):
    """A normal whose mean is affine in one value, with one covariance."""

    def __init__(self, weight, shift, covariance):
        super().__init__()
        self.weight, self.shift = nn.Parameter(weight), nn.Parameter(shift)
        self.register_buffer("tril", torch.linalg.cholesky(covariance))

    def forward(self, value=None, covariates=None):
        loc = self.shift if value is None else value @ self.weight.T + self.shift
        return dist.MultivariateNormal(loc, scale_tril=self.tril)


def conditional(joint, given, of):
    """The affine normal of some coordinates given others, of a joint covariance with mean zero."""
    cross, own = joint[of][:, given], joint[given][:, given]
    weight = cross @ torch.linalg.inv(own)
    return Linear(weight, torch.zeros(len(of)).double(), joint[of][:, of] - weight @ cross.T)


def stacked():
    """z2 -> z1 -> x, all linear and normal, with the exact guide q(z1 | x) q(z2 | z1); and the covariance of x."""
    torch.manual_seed(0)
    top, down, out = torch.eye(2).double(), torch.randn(3, 2).double(), torch.randn(4, 3).double()
    z1 = down @ down.T + 0.5 * torch.eye(3).double()
    x = out @ z1 @ out.T + 0.3 * torch.eye(4).double()
    joint = torch.zeros(9, 9).double()
    joint[:2, :2], joint[2:5, 2:5], joint[5:, 5:] = top, z1, x
    joint[2:5, :2], joint[5:, 2:5], joint[5:, :2] = down, out @ z1, out @ down
    joint = torch.tril(joint) + torch.tril(joint, -1).T
    zeros = torch.zeros(4).double()
    vae = HierarchicalVAE(
        priors=[
            Linear(down, zeros[:3], 0.5 * torch.eye(3).double()),
            Linear(torch.zeros(2, 1).double(), zeros[:2], top),
        ],
        likelihood=Linear(out, zeros, 0.3 * torch.eye(4).double()),
        posteriors=[conditional(joint, [5, 6, 7, 8], [2, 3, 4]), conditional(joint, [2, 3, 4], [0, 1])],
    )
    return vae, dist.MultivariateNormal(zeros, x)


def test_two_linear_layers_with_the_exact_guide_have_the_evidence_in_every_weight():
    vae, marginal = stacked()
    x = marginal.sample((7,))
    weights = pvae.log_weights(vae, x, num_samples=5, seed=0)
    torch.testing.assert_close(weights, marginal.log_prob(x).expand(5, 7), **EXACT)
    torch.testing.assert_close(
        pvae.log_weights(vae, x + 1, num_samples=1, seed=0)[0], marginal.log_prob(x + 1), **EXACT
    )


def test_simulated_rows_have_the_covariance_of_the_closed_form():
    vae, marginal = stacked()
    torch.manual_seed(1)
    x = vae.sample(40_000)
    assert (torch.cov(x.T) - marginal.covariance_matrix).abs().max() < 0.05 * marginal.covariance_matrix.abs().max()


def test_it_trains_and_reconstructs():
    vae, marginal = stacked()
    torch.manual_seed(2)
    x = marginal.sample((64,))
    for part in vae.parameters():
        nn.init.normal_(part, std=0.3)
    before = pvae.elbo(vae, x, num_samples=20, seed=0).mean()
    pvae.fit(vae, x, epochs=60, batch_size=32, learning_rate=0.02, seed=0)
    assert pvae.elbo(vae, x, num_samples=20, seed=0).mean() > before + 1
    assert vae.reconstruct(x).shape == x.shape


def test_layers_must_pair_up():
    vae, _ = stacked()
    with pytest.raises(ValueError, match="2 priors and 1 posteriors"):
        HierarchicalVAE([vae.prior1, vae.prior2], vae.likelihood, [vae.posterior1])
