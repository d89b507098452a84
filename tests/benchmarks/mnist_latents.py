"""Static MNIST: four priors and four posteriors, one training budget, held-out evidence on the same 10,000 rows.

Each model is trained in turn and its evidence kept in a file, so that a stopped run goes on and several processes can
share the work: ``python tests/benchmarks/mnist_latents.py --epochs 12 --only standard``. Without ``--only`` all models are
run; the table of whatever is finished is printed at the end.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import torch

import pyrovae as pvae

LATENTS = 20
IMAGE = (1, 28, 28)


def network(shape: int | tuple[int, ...]) -> pvae.networks.Network:
    return pvae.MLP(shape, (300, 300))


def mean_field() -> torch.nn.Module:
    return pvae.Factorized(dist.Normal, network(IMAGE), event_shape=LATENTS)


def models(rows: torch.Tensor) -> dict[str, tuple]:
    """For each name a function of the posterior that gives the prior, and one that gives the posterior."""
    standard = lambda posterior: pvae.standard_normal(LATENTS)  # noqa: E731
    return {
        "standard": (standard, mean_field),
        "prior: mixture of 50": (
            lambda posterior: pvae.GaussianMixture(event_shape=LATENTS, num_components=50),
            mean_field,
        ),
        "prior: VampPrior, 500": (lambda posterior: pvae.VampPrior(posterior, rows[:500], bounds=(0, 1)), mean_field),
        "prior: affine flow": (lambda posterior: pvae.AffineFlow(event_shape=LATENTS), mean_field),
        "prior: spline flow": (lambda posterior: pvae.SplineFlow(event_shape=LATENTS), mean_field),
        "posterior: full covariance": (standard, lambda: pvae.FullNormal(network(IMAGE), LATENTS)),
        "posterior: affine flow (IAF)": (standard, lambda: pvae.AffineFlow(network(IMAGE), LATENTS)),
        "posterior: spline flow": (standard, lambda: pvae.SplineFlow(network(IMAGE), LATENTS)),
    }


def run(name: str, data: pvae.data.Data, arguments: argparse.Namespace) -> dict[str, object]:
    torch.manual_seed(arguments.seed)
    prior, posterior = models(data.train.x)[name]
    q = posterior()
    likelihood = pvae.Factorized(dist.Bernoulli, network(LATENTS), event_shape=IMAGE)
    likelihood.initialize(data.train.x[:5000])
    vae = pvae.VAE(prior(q), likelihood, q)
    started = time.perf_counter()
    steps = arguments.epochs * -(-len(data.train.x) // 128)
    history = pvae.fit(
        vae,
        data.train,
        epochs=arguments.epochs,
        batch_size=128,
        learning_rate=1e-3,
        scheduler=lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps),
        beta=pvae.schedules.linear(0.0, 1.0, epochs=2),
        clip_norm=100.0,
        seed=arguments.seed,
        progress=False,
    )
    seconds = time.perf_counter() - started
    test = data.test[: arguments.rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the unreliable rows are counted in the table
        found = pvae.log_marginal(vae, test, method="importance", num_samples=arguments.samples, seed=1, progress=False)
    return {
        "log_marginal": found.log_marginal.values.tolist(),
        "elbo": float(found.elbo.mean()),
        "bad_k": float((found.pareto_k > 0.7).mean()),
        "seconds": seconds,
        "train": float(history["elbo"][-1]),
        "parameters": sum(p.numel() for p in vae.parameters()),
    }


def table(folder: Path) -> None:
    results = {name: json.loads((folder / f"{slug(name)}.json").read_text()) for name in finished(folder)}
    base = np.array(results["standard"]["log_marginal"]) if "standard" in results else None
    print(
        f"{'model':30s} {'log p(x)':>9s} {'diff':>7s} {'se':>6s} {'elbo':>9s} {'k>0.7':>6s} {'train':>9s} {'s':>6s} {'size':>7s}"
    )
    for name, result in results.items():
        values = np.array(result["log_marginal"])
        difference = values - base if base is not None else values * np.nan
        error = difference.std(ddof=1) / len(values) ** 0.5
        print(
            f"{name:30s} {values.mean():9.3f} {difference.mean():7.3f} {error:6.3f} {result['elbo']:9.3f} "
            f"{result['bad_k']:6.0%} {result['train']:9.3f} {result['seconds']:6.0f} {result['parameters']:7d}"
        )


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


def finished(folder: Path) -> list[str]:
    return [name for name in models(torch.zeros(500, *IMAGE)) if (folder / f"{slug(name)}.json").exists()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="parts of models' names")
    parser.add_argument("--out", type=Path, default=Path("runs/mnist_latents"))
    arguments = parser.parse_args()
    data = pvae.data.load("mnist", variant="static", seed=0)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in models(data.train.x[:500]):
        wanted = not arguments.only or any(part in name for part in arguments.only)
        if wanted and name not in finished(arguments.out):
            result = run(name, data, arguments)
            (arguments.out / f"{slug(name)}.json").write_text(json.dumps(result))
            print(f"{name}: {np.mean(result['log_marginal']):.3f}", flush=True)
    print(f"static MNIST (seed 0), {arguments.epochs} epochs, K = {arguments.samples}, {arguments.rows} test rows")
    table(arguments.out)


if __name__ == "__main__":
    main()
