"""Conformal p-values of a VAE's evidence: the share of false alarms at alpha = .05, and what contamination costs in power.

Each split draws its calibration rows and its usual and strange test rows anew from rows that the VAE was not trained on; p <= .05
is counted. With clean calibration rows the expected share of false alarms is floor(.05 (n + 1)) / (n + 1) exactly. With
contaminated rows it is smaller. Usual rows of the simulated table are a linear map and a tanh of three latents with noise,
strange ones have their first four columns from another row; of MNIST (dynamic) the digit 4 is strange.

    PYROVAE_DATA=... python tests/benchmarks/conformal.py --splits 20
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np
import torch

import pyrovae as pvae
from pyrovae.uses import anomaly_scores, conformal_p_values

ALPHA = 0.05
CONTAMINATIONS = (0.0, 0.01, 0.05)
Pools = tuple[np.ndarray, np.ndarray]


def table(seed: int, contamination: float) -> Pools:
    """Scores of 6,000 usual and 3,000 strange fresh rows under a VAE of 2,000 rows, some of them strange."""
    rng = np.random.default_rng(seed)
    weights, second = np.random.default_rng(7).normal(size=(3, 12)), np.random.default_rng(8).normal(size=(3, 12))

    def rows(count: int) -> np.ndarray:
        z = rng.normal(size=(count, 3))
        return z @ weights + 2 * np.tanh(z @ second) + 0.5 * rng.normal(size=(count, 12))

    def strange(count: int) -> np.ndarray:
        x, other = rows(count), rows(count)
        x[:, :4] = other[:, :4]
        return x

    bad = round(2000 * contamination)
    train = torch.from_numpy(np.concatenate([rows(2000 - bad), strange(bad)])).float()
    vae = pvae.build_vae(12, likelihood="normal", latent_dim=3, hidden=(64,), start=train, seed=seed)
    pvae.fit(vae, train, epochs=60, batch_size=100, seed=seed, compile="trace", progress=False)
    return scored(vae, torch.from_numpy(rows(6000)).float(), torch.from_numpy(strange(3000)).float(), 200)


def mnist(seed: int, contamination: float) -> Pools:
    """Scores of the test digits but 4 (with 2,000 held-out training digits) and of 4, under a VAE of 10,000 others."""
    data = pvae.data.load("mnist", "dynamic", seed=seed)
    train, held = data.train[torch.arange(10_000)].drawn(seed), data.test
    more = data.train[torch.arange(10_000, 13_000)].drawn(seed)
    is_four, bad = train.label == 4, round(9000 * contamination)
    kept = torch.cat([(~is_four).nonzero()[: 9000 - bad, 0], is_four.nonzero()[:bad, 0]])
    train = train[kept]
    vae = pvae.build_vae(train, latent_dim=20, hidden=(200,), start=train, seed=seed)
    pvae.fit(vae, train, epochs=12, batch_size=128, seed=seed, compile="trace", progress=False)
    usual = torch.cat([held[held.label != 4].x[:3000], more[more.label != 4].x])
    return scored(vae, usual, held[held.label == 4].x, 50)


def scored(vae: pvae.VAE, usual: torch.Tensor, strange: torch.Tensor, num_samples: int) -> Pools:
    options = {"num_samples": num_samples, "progress": False}
    return tuple(anomaly_scores(vae, x, seed=n, **options)["score"].values for n, x in enumerate((usual, strange)))


def splits(
    pools: Pools, calibration: int, contamination: float, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each split the share of false alarms among usual rows, and of alarms among strange ones."""
    found = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        usual, strange = (rng.permutation(pool) for pool in pools)
        bad = round(calibration * contamination)
        known = np.concatenate([usual[: calibration - bad], strange[:bad]])
        parts = usual[calibration - bad :], strange[bad:]
        found.append([(conformal_p_values(part, known) <= ALPHA).mean() for part in parts])
    return tuple(np.array(found).T)


def report(name: str, make: Callable[[int, float], Pools], calibration: int, count: int) -> None:
    expected = math.floor(ALPHA * (calibration + 1)) / (calibration + 1)
    print(f"{name}: n = {calibration}, {count} splits, expected {expected:.4f}")
    for train_share in (0.0, 0.05):
        pools = make(0, train_share)
        for share in CONTAMINATIONS:
            false, power = splits(pools, calibration, share, count, 0)
            se = false.std(ddof=1) / count**0.5
            words = f"{(false.mean() - expected) / se:+.1f} se" if share == 0 else f"limit {ALPHA + 2 * se:.4f}"
            print(
                f"  training rows {train_share:.0%}, calibration rows {share:.0%} strange: false alarms {false.mean():.4f} ± "
                f"{se:.4f} ({words}), power {power.mean():.3f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--calibration", type=int, default=1000)
    arguments = parser.parse_args()
    for name, make in {"simulated table": table, "MNIST (dynamic), 4 is strange": mnist}.items():
        report(name, make, arguments.calibration, arguments.splits)


if __name__ == "__main__":
    main()
