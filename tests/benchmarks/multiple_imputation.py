"""Intervals of a regression coefficient on imputed tables: how often they cover, over simulated data sets.

The truth is y = 1 + x + w / 2 + noise; x is missing more often where y is large, w at random. The coefficient of x is
estimated by least squares on the rows without holes, on a table that is completed once (by means, and by draws), and on
tables by ``multiple_imputation`` joined by ``pool``.
Run by hand: ``python tests/benchmarks/multiple_imputation.py`` (some minutes on one thread).
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from scipy import stats
from torch import nn

import pyrovae as pvae
from pyrovae.uses import multiple_imputation, pool

ROWS, COLUMNS, LATENTS = 200, 3, 1
TRUTH = 1.0


def simulate(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The complete table of x, w and y, and the table with holes."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=ROWS)
    w = 0.6 * x + 0.8 * rng.normal(size=ROWS)
    y = 1 + TRUTH * x + 0.5 * w + rng.normal(size=ROWS)
    table = np.stack([x, w, y], 1)
    holes = np.zeros(table.shape, dtype=bool)
    holes[:, 0] = rng.random(ROWS) < 1 / (1 + np.exp(-(y - 1.5)))
    holes[:, 1] = rng.random(ROWS) < 0.15
    complete = torch.as_tensor(table, dtype=torch.float32)
    return complete, torch.where(torch.as_tensor(holes), torch.nan, complete)


def build(seed: int) -> pvae.VAE:
    """Factor analysis with one factor, in which the truth lies: three loadings and three noises for three columns."""
    torch.manual_seed(seed)
    encoder = pvae.ConcatCovariates(pvae.MLP(2 * COLUMNS, (32,)), COLUMNS, {"mask": COLUMNS})
    return pvae.VAE(
        pvae.standard_normal(LATENTS),
        pvae.Factorized(dist.Normal, pvae.MLP(LATENTS, ()), COLUMNS, scale=nn.Parameter(torch.ones(COLUMNS))),
        pvae.Factorized(dist.Normal, encoder, LATENTS),
    )


def train(vae: pvae.VAE, rows: Any, seed: int, steps: int, rate: float) -> pvae.VAE:
    pvae.fit(
        vae,
        rows[torch.arange(ROWS).repeat(10)],  # an epoch of ten steps costs less than ten epochs
        steps=steps,
        batch_size=ROWS,
        learning_rate=pvae.schedules.cosine(rate, rate / 50, steps=steps),
        compile="trace",
        seed=seed,
        progress=False,
    )
    return vae


def regression(table: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Least squares of y on x and w: estimates and standard errors."""
    values = table.double().numpy()
    design = np.column_stack([np.ones(len(values)), values[:, :2]])
    estimate, *_ = np.linalg.lstsq(design, values[:, 2], rcond=None)
    residual = values[:, 2] - design @ estimate
    variance = residual @ residual / (len(values) - 3) * np.linalg.inv(design.T @ design).diagonal()
    return estimate, np.sqrt(variance)


def interval(table: torch.Tensor) -> tuple[float, float, float]:
    estimate, se = regression(table)
    half = stats.t.ppf(0.975, len(table) - 3) * se[1]
    return estimate[1], estimate[1] - half, estimate[1] + half


def intervals(seed: int, num_tables: int, steps: int) -> dict[str, tuple[float, float, float]]:
    complete, holed = simulate(seed)
    vae = train(build(seed), holed, seed, 2 * steps, 0.1)
    once = pvae.impute(vae, holed, num_samples=100, num_proposals=200, seed=seed, progress=False)

    def refit(rows: Any, own: int) -> pvae.VAE:
        return train(copy.deepcopy(vae), rows, own, steps, 0.03)

    tables = multiple_imputation(refit, holed, num_tables=num_tables, num_proposals=200, seed=seed, progress=False)
    joined = pool([regression(table.x) for table in tables], df=ROWS - 3).iloc[1]
    return {
        "complete table": interval(complete),
        "rows without holes": interval(holed[~holed.isnan().any(1)]),
        "completed once, means": interval(once.completed().x),
        "completed once, draws": interval(once.draws[0]),
        "multiple imputation": (joined.estimate, joined.low, joined.high),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="seed of the first, to share the work between processes")
    parser.add_argument("--tables", type=int, default=10)
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found: dict[str, list[tuple[float, float, float]]] = {}
    began = time.process_time()
    for count, seed in enumerate(range(arguments.first, arguments.first + arguments.datasets), 1):
        for name, values in intervals(seed, arguments.tables, arguments.steps).items():
            found.setdefault(name, []).append(values)
        if count % 10 == 0 or count == arguments.datasets:
            print(f"{count} data sets from {arguments.first} on, {time.process_time() - began:.0f} s of processor time")
            print(f"{'':24s} {'bias':>7s} {'sd':>6s} {'width':>6s} {'covered':>8s}")
            for name, values in found.items():
                estimate, low, high = np.array(values).T
                covered = ((low <= TRUTH) & (high >= TRUTH)).mean()
                print(
                    f"{name:24s} {estimate.mean() - TRUTH:7.3f} {estimate.std():6.3f} {(high - low).mean():6.3f} {covered:8.0%}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
