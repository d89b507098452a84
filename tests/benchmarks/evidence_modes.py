"""Evidence where it is known and has several modes: rows that an estimator loses in silence, alarms on right rows, coverage.

Toys of two and five equally heavy modes in 2, 10 and 40 dimensions, whose p(x) is a normal; then VAEs of digits with two
latents, their p(x) by quadrature on a grid. An alarm is a Pareto shape above the limit, or a flag. ``quick`` takes fewer rows.
Run: OMP_NUM_THREADS=1 nice python tests/benchmarks/evidence_modes.py [quick]
"""

import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from oracles import Turned

import pyrovae as pvae
from pyrovae.evaluation import log_marginal
from pyrovae.limits import good_k

METHODS = ("refined", "mixture")


def report(name, method, found, exact, seconds):
    error, mcse = found["log_marginal"].values - exact, found["mcse"].values
    alarm = (found["pareto_k"].values > good_k(found.attrs["num_samples"])) | found["flagged"].values
    low, right = (error < -0.1) & (error < -5 * mcse), np.abs(error) < 0.02
    covered = np.abs(error) < 1.96 * mcse
    print(
        f"{name:26}{method:9}{len(error):5} rows, worst {error.min():+7.2f}, rmse {np.sqrt((error**2).mean()):.4f}, low by .1 "
        f"and 5 mcse {low.sum():4}, of these without an alarm {(low & ~alarm).sum():4}; alarms on right rows "
        f"{alarm[right].mean() if right.any() else 0:5.1%}; covered without an alarm {covered[~alarm].mean():5.1%}; "
        f"{1000 * seconds / len(error):.0f} ms a row",
        flush=True,
    )


def measure(name, program, x, exact):
    for method in METHODS:
        start = time.process_time()
        found = log_marginal(program, x, method=method, num_samples=1000, seed=1, progress=False)
        report(name, method, found, exact, time.process_time() - start)


def digits_vae(train, seed):
    torch.manual_seed(seed)
    posterior = pvae.Factorized(dist.Normal, pvae.MLP((1, 8, 8), (128,)), 2)
    likelihood = pvae.Factorized(dist.Binomial, pvae.MLP(2, (128,)), (1, 8, 8), total_count=16)
    vae = pvae.VAE(pvae.standard_normal(2), likelihood, posterior)
    vae.likelihood.initialize(train)
    rate = pvae.schedules.one_cycle(5e-3, epochs=60)
    pvae.fit(vae, train, epochs=60, batch_size=64, seed=seed, progress=False, learning_rate=rate)
    return vae.eval()


def quadrature(vae, x, points=1201, reach=9.0):
    """log p(x) on a grid over the latents."""
    line = torch.linspace(-reach, reach, points)
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    counts, total = x.flatten(1).double(), torch.full(x.shape, -torch.inf).flatten(1)[:, 0].double()
    constant = (torch.lgamma(torch.tensor(17.0)) - torch.lgamma(counts + 1) - torch.lgamma(17 - counts)).sum(1)
    with torch.no_grad(), pyro.validation_enabled(False):
        for z in grid.split(8192):
            logits = vae.likelihood(z).base_dist.logits.flatten(1).double()
            softplus = torch.nn.functional.softplus
            log_lik = -counts @ softplus(-logits).T - (16 - counts) @ softplus(logits).T
            log_prior = vae.prior().log_prob(z).double()
            total = torch.logaddexp(total, (log_lik + log_prior).logsumexp(1))
    return (total + constant + 2 * torch.log((line[1] - line[0]).double())).numpy()


def main(quick):
    warnings.simplefilter("ignore")
    for modes in (2, 5):
        for dims in (2, 10, 40):
            program = Turned(modes, dims)
            x = program.simulate(32 if quick else 200)
            measure(f"{modes} modes, {dims} dimensions", program, x, program.log_evidence(x).numpy())
    digits = pvae.data.load("digits")
    train, x = digits.train.x.float(), digits.test.x.float()[: 60 if quick else None]
    for seed in range(1 if quick else 5):
        vae = digits_vae(train, seed)
        measure(f"digits, seed {seed}", vae, x, quadrature(vae, x, 601 if quick else 1201))


if __name__ == "__main__":
    main("quick" in sys.argv[1:])
