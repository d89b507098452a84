"""What the latents of digits hold: probe, neighbors and clusters on held-out rows, beside PCA, factor analysis and the pixels.

VAEs of ten latents on scikit-learn's digits (binomial counts), under a standard normal prior and a mixture of ten normals.
The mean over seeds of each metric, with the mean of its standard errors over rows.

    python tests/benchmarks/representation.py --seeds 0 1 2
"""

from __future__ import annotations

import argparse

import torch
import xarray as xr

import pyrovae as pvae
from pyrovae.uses import representation_quality


def one(prior: str, seed: int, epochs: int) -> xr.Dataset:
    digits = pvae.data.load("digits")
    options = {"prior": prior, "components": 10, "latent_dim": 10, "hidden": (128, 128), "start": digits.train}
    vae = pvae.build_vae(digits.train, **options, seed=seed)
    pvae.fit(vae, digits.train, epochs=epochs, seed=seed, compile="trace", progress=False)
    return representation_quality(vae, digits.test, train=digits.train, seed=seed, progress=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for prior in ("standard_normal", "mixture"):
        found = xr.concat([one(prior, seed, arguments.epochs) for seed in arguments.seeds], "seed").mean("seed")
        error = (found["high"] - found["value"]) / 1.96
        print(f"\nprior {prior}, {len(arguments.seeds)} seeds")
        for metric in found["metric"].values:
            cells = [
                (str(r), *(float(v.sel(representation=r, metric=metric)) for v in (found["value"], error)))
                for r in found["representation"].values
            ]
            print(f"{metric:14}" + "".join(f"  {n} {v:.3f}±{e:.3f}" for n, v, e in cells if v == v), flush=True)


if __name__ == "__main__":
    main()
