"""Frey Faces in bits a pixel on the same integers 0..255: a normal with learned noise against discretized logistics.

The normal is integrated over each level (its tails beyond 0 and 255 go to the ends), so that all are masses on integers. It
has one noise for all pixels, one for each pixel, or one predicted for each pixel and datum.
Run by hand: ``python tests/benchmarks/freyfaces_bits.py``.
"""

from __future__ import annotations

import argparse

import pyro.distributions as dist
import torch
from paired import evidence, print_table
from torch import nn

import pyrovae as pvae

LATENTS = 20
IMAGE = (1, 28, 20)


def decoder() -> pvae.networks.Network:
    return pvae.MLP(LATENTS, (200, 200))


def likelihoods() -> dict[str, nn.Module]:
    def factorized(family: type, **given: float | nn.Parameter) -> pvae.Factorized:
        return pvae.Factorized(family, decoder(), event_shape=IMAGE, levels=256, **given)

    shared, pixel = torch.full((1, 1, 1), 0.2), torch.full(IMAGE, 0.2)
    return {
        "normal, one learned noise": factorized(pvae.DiscretizedNormal, scale=nn.Parameter(shared)),
        "normal, noise for each pixel": factorized(pvae.DiscretizedNormal, scale=nn.Parameter(pixel)),
        "normal, predicted noise": factorized(pvae.DiscretizedNormal),
        "discretized logistic, one scale": factorized(pvae.DiscretizedLogistic, scale=nn.Parameter(shared / 2)),
        "discretized logistic, predicted scale": factorized(pvae.DiscretizedLogistic),
        "mixture of 3 discretized logistics": pvae.LogisticMixture(decoder(), IMAGE, num_components=3, levels=256),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--samples", type=int, default=500)
    arguments = parser.parse_args()
    data = pvae.data.load("freyfaces", variant="uint8", seed=0, validation=200, test=200)
    results = {}
    for name in likelihoods():
        torch.manual_seed(0)
        posterior = pvae.Factorized(
            dist.Normal, pvae.MLP(IMAGE, (200, 200)), event_shape=LATENTS, preprocess=lambda x: x / 127.5 - 1
        )
        vae = pvae.VAE(pvae.standard_normal(LATENTS), likelihoods()[name], posterior)
        pvae.fit(
            vae,
            data.train,
            epochs=arguments.epochs,
            batch_size=64,
            clip_norm=1000.0,
            beta=pvae.schedules.linear(0.0, 1.0, epochs=10),
            validation=data.validation,
            keep_best=True,
            seed=0,
            progress=False,
        )
        results[name] = evidence(vae, data.test, arguments.samples)
        print(f"{name}: {results[name]['log_marginal'].mean():.3f}", flush=True)
    sizes = "/".join(str(len(part)) for part in (data.train, data.validation, data.test))
    print_table(f"Frey Faces {sizes}, {arguments.epochs} epochs, K = {arguments.samples}", results, dims=560)


if __name__ == "__main__":
    main()
