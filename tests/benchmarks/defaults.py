"""`fit(vae, x)` without options beside a hand-written loop of as many steps, tuned over its learning rate.

Run by hand: `python tests/benchmarks/defaults.py [digits] [mnist] [table]`. Both train the same networks from the same
seed on the same number of steps; the loop is `SVI` with Adam and one cycle of each peak in `PEAKS`, and the likelihood
started at the data. Test ELBO in nats per datum; the shortfall is that of the defaults behind the best loop.
"""

import math
import sys
import time
import warnings

import numpy as np
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO

import pyrovae as pvae

PEAKS = (1e-3, 3e-3, 1e-2, 2e-2)


def digits():
    data = pvae.data.load("digits")
    shape = (1, 8, 8)

    def vae():
        likelihood = pvae.Factorized(dist.Binomial, pvae.MLP(10, (128,)), shape, total_count=16)
        return pvae.VAE(pvae.standard_normal(10), likelihood, pvae.Factorized(dist.Normal, pvae.MLP(shape, (128,)), 10))

    return data.train.x.float(), data.test.x.float(), vae, {"epochs": 50}


def mnist():
    data = pvae.data.load("mnist")
    train, test = (part.drawn(0).dense().x.float() for part in (data.train, data.test[:2000]))
    shape = tuple(train.shape[1:])

    def vae():
        likelihood = pvae.Factorized(dist.Bernoulli, pvae.MLP(20, (200, 200)), shape)
        return pvae.VAE(
            pvae.standard_normal(20), likelihood, pvae.Factorized(dist.Normal, pvae.MLP(shape, (200, 200)), 20)
        )

    return train, test, vae, {"epochs": 5}


def table():
    """Eight columns in units from 0.1 to 10 with heavy tails; scales and degrees of freedom are learned numbers."""
    rng = np.random.default_rng(0)
    scale, mixing = 10.0 ** np.linspace(-1, 1, 8), rng.normal(size=(8, 3))
    x = rng.normal(size=8) + rng.normal(size=(2000, 3)) @ mixing.T + 0.5 * rng.standard_t(2.5, size=(2000, 8))
    x = torch.as_tensor(scale * x, dtype=torch.float32)

    def vae():
        own = {"scale": torch.nn.Parameter(torch.ones(8)), "df": torch.nn.Parameter(torch.full((8,), 5.0))}
        likelihood = pvae.Factorized(dist.StudentT, pvae.MLP(3, (64,)), 8, **own)
        return pvae.VAE(pvae.standard_normal(3), likelihood, pvae.Factorized(dist.Normal, pvae.MLP(8, (64,)), 3))

    return x[:1500], x[1500:], vae, {"epochs": 50}


def by_hand(vae, x, steps, peak, batch_size=128):
    """Pyro's loop, with all that a careful user adds: a start at the data, a warm-up and a cosine."""
    vae.likelihood.initialize(x[:5000])
    adam = lambda parameters: torch.optim.Adam(parameters, lr=peak, fused=True)  # noqa: E731
    optimizer = pvae.training.TorchOptimizer(adam, vae.parameters())
    svi, rate = SVI(vae.model, vae.guide, optimizer, Trace_ELBO()), pvae.schedules.one_cycle(peak, steps=steps)
    step, per_epoch = 0, math.ceil(len(x) / batch_size)
    while step < steps:
        for rows in torch.randperm(len(x)).split(batch_size):
            optimizer.set_learning_rate(rate(pvae.schedules.Progress.at(step, per_epoch)))
            svi.step(x[rows], size=len(x))
            step += 1


def main(names):
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in names or ("digits", "table", "mnist"):
        train, test, make, options = {"digits": digits, "mnist": mnist, "table": table}[name]()
        scores = {}
        for label in ("defaults", *PEAKS):
            torch.manual_seed(0)
            vae, began = make(), time.process_time()
            if label == "defaults":
                history = pvae.fit(vae, train, **options, seed=0, progress=False)
                steps = history["step"][-1]
            else:
                by_hand(vae, train, steps, label)
            scores[label] = float(pvae.elbo(vae, test, num_samples=20, seed=0, progress=False).elbo.mean())
            seconds = time.process_time() - began
            print(f"{name}: {label!s:8} {steps:5} steps, test ELBO {scores[label]:8.2f}, {seconds:5.1f} s", flush=True)
        best = max(value for label, value in scores.items() if label != "defaults")
        print(f"{name}: the defaults are {best - scores['defaults']:+.2f} nats behind the best loop", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
