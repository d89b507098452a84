"""Dynamic MNIST under three priors at the published size: log p of all test rows by 5,000 draws from the guide.

Gated layers of 300 and 300 units, 40 latents, batches of 100, 50,000 training rows. Published after some hundreds of epochs
(Norouzi et al. 2020): standard normal -84.45, VampPrior of 500 -82.43, exemplars -82.09. The weights of the best validation ELBO
count. Training and evaluation go on from what their folder holds:
``python tests/benchmarks/mnist_ladder.py --prior normal --epochs 400``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import pyro.distributions as dist
import torch
from paired import evidence

import pyrovae as pvae

IMAGE, LATENTS = (1, 28, 28), 40


def build(prior: str, rows: torch.Tensor, hidden: int = 300) -> pvae.VAE:
    posterior = pvae.Factorized(dist.Normal, pvae.MLP(IMAGE, (hidden, hidden), gated=True), LATENTS)
    likelihood = pvae.Factorized(dist.Bernoulli, pvae.MLP(LATENTS, (hidden, hidden), gated=True), IMAGE)
    priors = {
        "normal": lambda: pvae.standard_normal(LATENTS),
        "vamp": lambda: pvae.VampPrior(posterior, rows[:500], bounds=(0.0, 1.0)),
        "exemplar": lambda: pvae.conditionals.ExemplarPrior(posterior, rows),
    }
    return pvae.VAE(priors[prior](), likelihood, posterior)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prior", choices=("normal", "vamp", "exemplar"), default="normal")
    for name, value in {"epochs": 400, "warmup": 50, "samples": 5000, "rows": 10000, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--minutes", type=float, default=90.0, help="of training in this call")
    parser.add_argument("--precision", choices=("bf16",))
    parser.add_argument("--folder", type=Path, default=Path("build/mnist_ladder"))
    arguments = parser.parse_args()
    data = pvae.data.load("mnist", "dynamic")
    torch.manual_seed(arguments.seed)
    train = data.train[:50000]
    vae = build(arguments.prior, train.dense().x.float())
    folder = arguments.folder / f"{arguments.prior} {arguments.epochs} {arguments.precision} {arguments.seed}"
    started, spent = time.monotonic(), time.process_time()

    def tell(history: pvae.training.History) -> bool:
        minutes = (time.process_time() - spent) / 60
        shown = f"epoch {len(history)}, {minutes:.1f} min of CPU: {history['elbo'][-1]:.3f}"
        print(f"{shown}, validation {history['validation_elbo'][-1]:.3f}", flush=True)
        return time.monotonic() - started > 60 * arguments.minutes

    history = pvae.fit(
        vae,
        train,
        batch_size=100,
        epochs=arguments.epochs,
        beta=pvae.schedules.linear(0.0, 1.0, epochs=arguments.warmup),
        validation=data.validation,
        callbacks=[tell],
        seed=arguments.seed,
        checkpoint=folder,
        resume=True,
        precision=arguments.precision,
        progress=False,
    )
    print(f"{history.engine}; {history.ended} after {len(history)} epochs", flush=True)
    if len(history) == arguments.epochs:
        evaluate(vae, data.test[: arguments.rows].drawn(0), folder, arguments)


def evaluate(vae: pvae.VAE, test: pvae.data.Data, folder: Path, arguments: argparse.Namespace) -> None:
    """The mean of log p over test rows; every 500 rows are kept in a file."""
    found: list[float] = []
    for start in range(0, len(test), 500):
        kept = folder / f"test {arguments.samples} {start}.json"
        if not kept.exists():
            kept.write_text(json.dumps(evidence(vae, test[start : start + 500], arguments.samples), default=list))
        found += json.loads(kept.read_text())["log_marginal"]
    log_p = torch.tensor(found, dtype=torch.float64)
    error = float(log_p.std()) / len(log_p) ** 0.5
    print(f"{arguments.prior}, {len(log_p)} test rows: {float(log_p.mean()):.3f} +- {error:.3f}")


if __name__ == "__main__":
    main()
