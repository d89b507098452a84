"""Digits are integers 0..16: eight likelihoods on that support, their held-out evidence in one table.

All are masses on integers, so that their evidence may be compared; those on 0, 1, 2, ... also spend mass above 16.
Run by hand: ``python tests/benchmarks/digits_likelihoods.py``.
"""

from __future__ import annotations

import argparse

import pyro.distributions as dist
import torch
from paired import evidence, print_table
from torch import nn

import pyrovae as pvae

LATENTS = 8
IMAGE = (1, 8, 8)


def decoder() -> pvae.networks.Network:
    return pvae.MLP(LATENTS, (128, 128))


def likelihoods() -> dict[str, nn.Module]:
    def factorized(family: type, **given: float) -> pvae.Factorized:
        return pvae.Factorized(family, decoder(), event_shape=IMAGE, **given)

    return {
        "binomial": factorized(dist.Binomial, total_count=16),
        "beta-binomial": factorized(pvae.MeanBetaBinomial, total_count=16),
        "Poisson": factorized(dist.Poisson),
        "negative binomial": factorized(pvae.SizedNegativeBinomial),
        "zero-inflated Poisson": factorized(pvae.distributions.ZeroInflatedSizedPoisson),
        "categorical": pvae.Categories(decoder(), IMAGE, num_categories=17),
        "discretized logistic": factorized(pvae.DiscretizedLogistic, levels=17),
        "discretized normal": factorized(pvae.DiscretizedNormal, levels=17),
        "mixture of 3 discretized logistics": pvae.LogisticMixture(decoder(), IMAGE, num_components=3, levels=17),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--samples", type=int, default=1000)
    arguments = parser.parse_args()
    data = pvae.data.load("digits")
    results = {}
    for name in likelihoods():
        torch.manual_seed(0)
        likelihood = likelihoods()[name]
        posterior = pvae.Factorized(
            dist.Normal, pvae.MLP(IMAGE, (128, 128)), event_shape=LATENTS, preprocess=lambda x: x / 8 - 1
        )
        vae = pvae.VAE(pvae.standard_normal(LATENTS), likelihood, posterior)
        history = pvae.fit(
            vae,
            data.train,
            epochs=arguments.epochs,
            batch_size=64,
            clip_norm=100.0,
            validation=data.validation,
            keep_best=True,
            seed=0,
            progress=False,
        )
        results[name] = evidence(vae, data.test, arguments.samples)
        print(f"{name}: {results[name]['log_marginal'].mean():.3f} ({history['seconds'][-1]:.1f})", flush=True)
    print_table(f"digits, {len(data.test)} test rows, {arguments.epochs} epochs, K = {arguments.samples}", results)


if __name__ == "__main__":
    main()
