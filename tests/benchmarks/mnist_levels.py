"""Dynamic MNIST: two stochastic layers against one with as many parameters, held-out log p(x) paired by row.

The lower layer is that of the one-layer model; above it a second one, inferred from the first, learns its prior. Training goes on
from its checkpoints: ``python tests/benchmarks/mnist_levels.py``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import torch
from paired import evidence, print_table

import pyrovae as pvae

IMAGE = (1, 28, 28)


def normal(of: int | tuple[int, ...], hidden: int, latents: int) -> torch.nn.Module:
    return pvae.Factorized(dist.Normal, pvae.MLP(of, (hidden, hidden)), latents)


def two(hidden: int, arguments: argparse.Namespace) -> pvae.HierarchicalVAE:
    lower, upper, above = arguments.lower, arguments.upper, arguments.above
    return pvae.HierarchicalVAE(
        priors=[normal(upper, above, lower), pvae.standard_normal(upper)],
        likelihood=pvae.Factorized(dist.Bernoulli, pvae.MLP(lower, (hidden, hidden)), IMAGE),
        posteriors=[normal(IMAGE, hidden, lower), normal(lower, above, upper)],
    )


def one(hidden: int, arguments: argparse.Namespace) -> pvae.VAE:
    likelihood = pvae.Factorized(dist.Bernoulli, pvae.MLP(arguments.lower, (hidden, hidden)), IMAGE)
    return pvae.VAE(pvae.standard_normal(arguments.lower), likelihood, normal(IMAGE, hidden, arguments.lower))


def size(vae: torch.nn.Module) -> int:
    return sum(p.numel() for p in vae.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    numbers = {"epochs": 20, "hidden": 300, "lower": 32, "upper": 16, "above": 128, "rows": 2000, "samples": 500}
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folder", type=Path, default=Path("build/mnist_levels"))
    arguments = parser.parse_args()
    data = pvae.data.load("mnist", "dynamic")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    test = data.test[: arguments.rows].drawn(0)
    wanted = size(two(arguments.hidden, arguments))
    widened = min(range(arguments.hidden, 2 * arguments.hidden), key=lambda h: abs(size(one(h, arguments)) - wanted))
    for seed in arguments.seeds:
        results = {}
        for name, build, hidden in (("two layers", two, arguments.hidden), ("one layer", one, widened)):
            kept = arguments.folder / f"{name} {arguments.epochs} {seed}.json"
            if not kept.exists():
                torch.manual_seed(seed)
                vae, started = build(hidden, arguments), time.process_time()
                beta = pvae.schedules.linear(0.0, 1.0, epochs=max(1, arguments.epochs // 5))
                options = {"checkpoint": arguments.folder / f"{name} {arguments.epochs} {seed}", "resume": True}
                history = pvae.fit(
                    vae, data.train, epochs=arguments.epochs, beta=beta, seed=seed, progress=False, **options
                )
                minutes = (time.process_time() - started) / 60
                kl = {name: history[name][-1] for name in history.columns if name.startswith("kl")}
                found = evidence(vae, test, arguments.samples)
                found["log_marginal"] = found["log_marginal"].tolist()
                kept.write_text(json.dumps({**found, "kl": kl, "size": size(vae), "minutes": minutes}))
            results[name] = json.loads(kept.read_text())
            results[name]["log_marginal"] = np.array(results[name]["log_marginal"])
            told = {key: results[name][key] for key in ("kl", "size", "minutes")}
            print(f"{name}, seed {seed}: {results[name]['log_marginal'].mean():.3f}, {told}", flush=True)
        print_table(f"dynamic MNIST, {len(test)} test rows, {arguments.epochs} epochs, seed {seed}", results)


if __name__ == "__main__":
    main()
