"""Local calibration (LC2ST) of guides that are exact, or wrong in a known way: false alarms, power, and time.

Probabilistic PCA, two latents and three columns of noise .5, so that the posterior is known. The guide is exact, has .7 of the
posterior's variances, or its marginals without their correlation. All at the default 2,000 simulations and 100 permutations.
False alarms are counted twice: over independent trainings of one row each, whose share has a binomial error, and over rows that
share one training, as a user has them. Time is that of one thread's processor for a call on 200 rows.
Run: OMP_NUM_THREADS=1 nice python tests/benchmarks/local_calibration.py [--trainings 200]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from oracles import PPCA

from pyrovae.checks import local_calibration

WEIGHT = torch.tensor([[1.0, 0.8], [0.9, 1.0], [0.3, -0.4]], dtype=torch.float64)
NOISE, LEVEL = 0.5, 0.05


class Narrow(PPCA):
    """The guide has .7 of the posterior's variances."""

    def proposal(self, x):
        posterior = self.posterior(x)
        return dist.MultivariateNormal(posterior.loc, 0.7 * posterior.covariance_matrix)


class Uncorrelated(PPCA):
    """The guide has the posterior's marginals, and no correlation."""

    def proposal(self, x):
        posterior = self.posterior(x)
        return dist.Normal(posterior.loc, posterior.variance.sqrt()).to_event(1)


def p_values(program: PPCA, trainings: int, rows: int, first: int = 0) -> np.ndarray:
    found = []
    for seed in range(first, first + trainings):
        x = program.simulate(rows, seed=10_000 + seed)
        found.append(local_calibration(program, x, seed=seed, progress=False).p_value)
    return np.concatenate(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainings", type=int, default=200)
    words = parser.parse_args()
    exact = PPCA(WEIGHT, NOISE, exact=True)
    correlation = exact.posterior(torch.zeros(1, 3).double()).covariance_matrix[0].detach()
    print(f"posterior correlation {correlation[0, 1] / correlation.diagonal().prod() ** 0.5:.2f}", flush=True)
    for name, program in (("variance x .7", Narrow(WEIGHT, NOISE)), ("no correlation", Uncorrelated(WEIGHT, NOISE))):
        p = p_values(program, 10, 20)
        by_training = (p < LEVEL).reshape(10, 20).mean(1)
        print(
            f"{name}: found at {by_training.mean():.3f} +- {by_training.std(ddof=1) / 10**0.5:.3f} of 200 rows",
            flush=True,
        )
    start, many = time.process_time(), max(words.trainings // 4, 2)
    shares = np.array([(p_values(exact, 1, 200, first=seed) < LEVEL).mean() for seed in range(many)])
    seconds = (time.process_time() - start) / many
    print(
        f"exact, 200 rows of one training: {shares.mean():.3f} +- {shares.std(ddof=1) / many**0.5:.3f} of the rows called off "
        f"over {many} trainings, none in {(shares == 0).mean():.0%} of them, at most {shares.max():.2f}; {seconds:.2f} s a call, "
        f"{seconds / 200:.4f} s a row",
        flush=True,
    )
    called, done = 0, 0
    for first in range(0, words.trainings, 20):
        called += int((p_values(exact, 20, 1, first=1000 + first) < LEVEL).sum())
        done += 20
        error = (LEVEL * (1 - LEVEL) / done) ** 0.5
        print(
            f"exact, one row each of {done} trainings: {called / done:.3f} called off (.05 +- {2 * error:.3f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
