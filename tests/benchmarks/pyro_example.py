"""The variational autoencoder as Pyro's documentation teaches it: two networks, `pyro.module`, `pyro.optim.Adam`, plain SVI.

One hidden layer each way, a normal guide, Bernoulli pixels with probabilities from a sigmoid, one Adam for each parameter
tensor in the global store, validation as Pyro sets it. It knows nothing of pyrovae, and stands here as the pace to beat.

    python tests/benchmarks/pyro_example.py
"""

import time

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn


class Encoder(nn.Module):
    """From a datum to the mean and the standard deviation of its latents."""

    def __init__(self, data_dim: int, hidden: int, latent_dim: int) -> None:
        super().__init__()
        self.first = nn.Linear(data_dim, hidden)
        self.mean, self.log_sd = nn.Linear(hidden, latent_dim), nn.Linear(hidden, latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = nn.functional.softplus(self.first(x))
        return self.mean(features), self.log_sd(features).exp()


class Decoder(nn.Module):
    """From latents to the probability of each pixel."""

    def __init__(self, latent_dim: int, hidden: int, data_dim: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(latent_dim, hidden), nn.Linear(hidden, data_dim)

    def forward(self, z: Tensor) -> Tensor:
        return self.last(nn.functional.softplus(self.first(z))).sigmoid()


class Example(nn.Module):
    """Model and guide, whose networks are announced by `pyro.module`."""

    def __init__(self, data_dim: int, hidden: int, latent_dim: int) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(data_dim, hidden, latent_dim), Decoder(latent_dim, hidden, data_dim)
        self.latent_dim = latent_dim

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), self.latent_dim), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(self.decoder(z), validate_args=False).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(*self.encoder(x)).to_event(1))


def train(x: Tensor, batch_size: int, epochs: int, hidden: int, latent_dim: int) -> list[float]:
    """The loss per row of each epoch."""
    pyro.clear_param_store()
    example = Example(x.shape[1], hidden, latent_dim)
    svi = SVI(example.model, example.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    losses = []
    for _ in range(epochs):
        batches = torch.randperm(len(x)).split(batch_size)
        losses.append(sum(svi.step(x[rows]) for rows in batches) / len(x))
    return losses


def main() -> None:
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((1280, 64), 0.3))
    started = time.perf_counter()
    losses = train(x, batch_size=64, epochs=10, hidden=64, latent_dim=8)
    print(
        f"{1e3 * (time.perf_counter() - started) / 200:.2f} ms a step; loss a row {losses[0]:.2f} to {losses[-1]:.2f}"
    )


if __name__ == "__main__":
    main()
