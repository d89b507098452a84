"""Milliseconds per training step: `fit`, plain SVI with one fused optimizer, and plain SVI with `pyro.optim.Adam`.

python tests/benchmarks/step_time.py
"""

import functools
import statistics
import time

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO

import pyrovae as pvae

SIZES = {"digits 64-64-8, batch 64": (64, 64, 8, 64), "784-400-50, batch 128": (784, 400, 50, 128)}
STEPS, ROUNDS = 60, 5


def make(data_dim, hidden, latent_dim):
    torch.manual_seed(0)
    return pvae.VAE(
        pvae.standard_normal(latent_dim),
        pvae.Factorized(dist.Bernoulli, pvae.MLP(latent_dim, (hidden,)), event_shape=data_dim),
        pvae.Factorized(dist.Normal, pvae.MLP(data_dim, (hidden,)), event_shape=latent_dim),
    )


def by_fit(vae, x, batch_size):
    def run():
        pvae.fit(vae, x, steps=STEPS, batch_size=batch_size, seed=0)

    return run


def by_svi(vae, x, batch_size, optimizer):
    svi = SVI(vae.model, vae.guide, optimizer, Trace_ELBO())

    def run():
        order = torch.randperm(len(x))
        for start in range(0, STEPS * batch_size, batch_size):
            rows = order[torch.arange(start, start + batch_size) % len(x)]
            svi.step(x[rows], size=len(x))

    return run


def main():
    for name, (data_dim, hidden, latent_dim, batch_size) in SIZES.items():
        x = torch.bernoulli(torch.full((20 * batch_size, data_dim), 0.3))
        first, second, third = (make(data_dim, hidden, latent_dim) for _ in range(3))
        fused = pvae.training.TorchOptimizer(
            functools.partial(torch.optim.Adam, lr=1e-3, fused=True), second.parameters()
        )
        ways = {
            "fit (validation and history included)": by_fit(first, x, batch_size),
            "SVI, one fused Adam": by_svi(second, x, batch_size, fused),
            "SVI, pyro.optim.Adam": by_svi(third, x, batch_size, pyro.optim.Adam({"lr": 1e-3})),
        }
        times = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, run in ways.items():
                started = time.perf_counter()
                run()
                times[way].append(1e3 * (time.perf_counter() - started) / STEPS)
        print(name)
        for way, values in times.items():
            print(f"  {way:40}{statistics.median(values):8.2f} ms")


if __name__ == "__main__":
    main()
