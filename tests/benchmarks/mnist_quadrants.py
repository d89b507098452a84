"""MNIST quadrants: log p of the hidden pixels given 1, 2 or 3 quadrants, beside the conditional VAE of Pyro's examples.

Pixels are binarized once. Theirs (after Sohn, Lee & Yan 2015): a network first guesses the hidden pixels; prior and recognition
network read the image that the guess or the truth completes; pixels depend on the 200 latents alone. Ours: a ``VAE`` whose prior,
likelihood and posterior read the seen pixels. Both are trained by ``fit`` for as many passes, the best validation value is kept.
The table is paired over test rows: ``python tests/benchmarks/mnist_quadrants.py``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from paired import print_table
from torch import Tensor, nn

import pyrovae as pvae
from pyrovae.data import as_data


def hidden_pixels(quadrants: int) -> Tensor:
    """True at hidden pixels; the lower left quadrant is seen first, then the upper left, then the upper right."""
    hidden = torch.ones(28, 28, dtype=torch.bool)
    hidden[14:, :14] = False
    if quadrants > 1:
        hidden[:, :14] = False
    if quadrants > 2:
        hidden[:14] = False
    return hidden.flatten()


def layers(of: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(of, 500), nn.ReLU(), nn.Linear(500, 500), nn.ReLU(), nn.Linear(500, out))


class Example(nn.Module):
    """The conditional VAE of Pyro's examples, as a model and a guide."""

    def __init__(self, hidden: Tensor, latents: int = 200) -> None:
        super().__init__()
        self.hidden = hidden
        self.guess, self.generation = layers(784, 784), layers(latents, 784)
        self.prior, self.recognition = layers(784, 2 * latents), layers(784, 2 * latents)

    def learn_guess(self, seen: Tensor, x: Tensor, epochs: int) -> None:
        optimizer = torch.optim.Adam(self.guess.parameters(), 1e-3)
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(128):
                optimizer.zero_grad()
                guess = self.guess(seen[rows])[:, self.hidden]
                loss = nn.functional.binary_cross_entropy_with_logits(guess, x[rows], reduction="sum") / len(rows)
                loss.backward()
                optimizer.step()
        self.guess.requires_grad_(False)

    def normal(self, net: nn.Module, seen: Tensor, hidden: Tensor) -> Any:
        image = seen.clone()
        image[..., self.hidden] = hidden
        loc, log_sd = net(image).chunk(2, -1)
        return dist.Normal(loc, log_sd.exp()).to_event(1)

    def model(self, x: Tensor | None = None, covariates: Any = None, size: int | None = None) -> Any:
        pvae.register(generation=self.generation, prior=self.prior, guess=self.guess)
        seen = covariates["seen"]
        with pyro.plate("data", size or len(seen), subsample=torch.arange(len(seen))):
            guess = self.guess(seen)[..., self.hidden].sigmoid()
            z = pyro.sample("z", self.normal(self.prior, seen, guess))
            return pyro.sample("x", dist.Bernoulli(logits=self.generation(z)[..., self.hidden]).to_event(1), obs=x)

    def guide(self, x: Tensor, covariates: Any = None, size: int | None = None) -> None:
        pvae.register(recognition=self.recognition)
        with pyro.plate("data", size or len(x), subsample=torch.arange(len(x))):
            pyro.sample("z", self.normal(self.recognition, covariates["seen"], x))


def ours(hidden: int, latents: int, width: int) -> pvae.VAE:
    """Features of the seen pixels beside the latents, and in the prior."""

    def reading(of: int | None) -> pvae.networks.Network:
        covariates = {"seen": pvae.MLP(784, (width,), out_shape=width // 2)}
        return pvae.ConcatCovariates(pvae.MLP((of or 0) + width // 2, (width,)), of, covariates=covariates)

    return pvae.VAE(
        pvae.Factorized(dist.Normal, reading(None), latents),
        pvae.Factorized(dist.Bernoulli, reading(latents), hidden),
        pvae.Factorized(dist.Normal, reading(hidden), latents),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    numbers = {"epochs": 10, "latents": 32, "width": 400, "rows": 1000, "samples": 500, "seed": 0}
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--quadrants", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--folder", type=Path, default=Path("build/mnist_quadrants"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    data = pvae.data.load("mnist", "static", seed=0)
    parts = {name: getattr(data, name).dense().x.float().flatten(1) for name in ("train", "validation", "test")}
    for quadrants in arguments.quadrants:
        hidden = hidden_pixels(quadrants)
        rows = {n: as_data(x[:, hidden], {"seen": x.masked_fill(hidden, 0.0)}) for n, x in parts.items()}
        results = {}
        for name in ("VAE with covariates", "Pyro's example"):
            kept = arguments.folder / f"{name} {quadrants} {arguments.epochs} {arguments.seed}.json"
            if not kept.exists():
                torch.manual_seed(arguments.seed)
                started = time.process_time()
                if name == "Pyro's example":
                    program: Any = Example(hidden)
                    program.learn_guess(rows["train"].covariates["seen"], rows["train"].x, arguments.epochs)
                    options: dict[str, Any] = {"learning_rate": 1e-3, "start_at_data": False}
                else:
                    program, options = ours(int(hidden.sum()), arguments.latents, arguments.width), {}
                held_out = {"validation": rows["validation"], "keep_best": True}
                options |= {"seed": arguments.seed, "progress": False, **held_out}
                pvae.fit(program, rows["train"], epochs=arguments.epochs, **options)
                minutes = (time.process_time() - started) / 60
                some = rows["test"][: arguments.rows]
                plan = {"method": "importance", "num_samples": arguments.samples, "seed": 1, "progress": False}
                found = pvae.log_marginal(program, some, **plan)
                bad = float((found.pareto_k > 0.7).mean())
                told = {"elbo": float(found.elbo.mean()), "bad_k": bad, "minutes": minutes}
                kept.write_text(json.dumps({"log_marginal": found.log_marginal.values.tolist(), **told}))
            results[name] = json.loads(kept.read_text())
            results[name]["log_marginal"] = np.array(results[name]["log_marginal"])
            print(
                f"{name}, {quadrants}: {results[name]['log_marginal'].mean():.2f}, {results[name]['minutes']:.1f} min",
                flush=True,
            )
        print_table(f"{quadrants} quadrants seen, {arguments.rows} test rows, K = {arguments.samples}", results)


if __name__ == "__main__":
    main()
