"""Digits: an exemplar prior, a VampPrior and the standard normal, held-out log p(x) paired by row, means of refits.

The exemplar prior sums over all training rows in evaluation. ``python tests/benchmarks/digits_priors.py``.
"""

from __future__ import annotations

import argparse

import pyro.distributions as dist
import torch
from paired import averaged, evidence, print_table

import pyrovae as pvae
from pyrovae.conditionals import ExemplarPrior

LATENTS, IMAGE = 8, (1, 8, 8)
PRIORS = {
    "standard normal": lambda posterior, rows: pvae.standard_normal(LATENTS),
    "VampPrior (100)": lambda posterior, rows: pvae.VampPrior(posterior, rows[:100], bounds=(0.0, 16.0)),
    "exemplars, 10 nearest in training": ExemplarPrior,
}


def fitted(prior: str, data: pvae.data.Data, epochs: int, seed: int) -> pvae.VAE:
    torch.manual_seed(seed)
    likelihood = pvae.Factorized(dist.BetaBinomial, pvae.MLP(LATENTS, (128, 128)), IMAGE, total_count=16)
    posterior = pvae.Factorized(dist.Normal, pvae.MLP(IMAGE, (128, 128)), LATENTS, preprocess=lambda x: x / 8 - 1)
    vae = pvae.VAE(PRIORS[prior](posterior, data.train.dense().x.float()), likelihood, posterior)
    held_out = {"validation": data.validation, "keep_best": True}
    pvae.fit(vae, data.train, epochs=epochs, batch_size=64, seed=seed, progress=False, **held_out)
    return vae


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments = parser.parse_args()
    data = pvae.data.load("digits")
    refits: dict[str, list[dict]] = {prior: [] for prior in PRIORS}
    for seed in arguments.seeds:
        for prior, found in refits.items():
            found.append(evidence(fitted(prior, data, arguments.epochs, seed), data.test, arguments.samples))
            print(f"{prior}, seed {seed}: {found[-1]['log_marginal'].mean():.3f}", flush=True)
    results = {prior: averaged(found) for prior, found in refits.items()}
    print_table(f"digits, {len(data.test)} test rows, {arguments.epochs} epochs, K = {arguments.samples}", results, 64)


if __name__ == "__main__":
    main()
