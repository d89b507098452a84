"""Three models of users' own, with ``AmortizedGuide`` under mini-batches, against NUTS on the same data.

Item response with a difficulty of each item, a regression with a level and a slope of each group, and a count model with one
latent factor. Shown for each global latent: the difference of the posterior means in standard deviations of NUTS, and the
ratio of the standard deviations; for local ones the correlation of the means over rows.
``python tests/benchmarks/amortized_nuts.py --model items``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS

import pyrovae as pvae

ROWS = 200


def data_plate(x: torch.Tensor | None, size: int | None) -> Any:
    rows = size or 1 if x is None else len(x)
    return pyro.plate("data", size or rows, subsample=torch.arange(rows), dim=-1)


def items(x: torch.Tensor | None = None, size: int | None = None) -> torch.Tensor:
    """Persons of an ability answer ten items of a difficulty each."""
    difficulty = pyro.sample("difficulty", dist.Normal(torch.zeros(10), 1.0).to_event(1))
    spread = pyro.sample("spread", dist.LogNormal(0.0, 0.5))
    with data_plate(x, size):
        ability = pyro.sample("ability", dist.Normal(0.0, spread))
        logits = ability.unsqueeze(-1) - difficulty
        return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


TIMES = torch.linspace(-1, 1, 6)


def groups(x: torch.Tensor | None = None, size: int | None = None) -> torch.Tensor:
    """Six measurements of each group follow a line with a level and a slope of its own."""
    mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    spread = pyro.sample("spread", dist.LogNormal(torch.zeros(2), 0.7).to_event(1))
    noise = pyro.sample("noise", dist.LogNormal(-1.0, 0.7))
    with data_plate(x, size):
        line = pyro.sample("line", dist.Normal(mean, spread).to_event(1))
        loc = line[..., :1] + line[..., 1:] * TIMES
        return pyro.sample("x", dist.Normal(loc, noise.unsqueeze(-1)).to_event(1), obs=x)


def counts(x: torch.Tensor | None = None, size: int | None = None) -> torch.Tensor:
    """Eight counts share one factor; the first loading is positive."""
    level = pyro.sample("level", dist.Normal(torch.ones(8), 1.0).to_event(1))
    first = pyro.sample("first", dist.LogNormal(-0.5, 0.5))
    loadings = pyro.sample("loadings", dist.Normal(torch.zeros(7), 0.7).to_event(1))
    weights = torch.cat([first.unsqueeze(-1), loadings], -1)
    with data_plate(x, size):
        factor = pyro.sample("factor", dist.Normal(0.0, 1.0))
        rate = (level + factor.unsqueeze(-1) * weights).clamp(max=12.0).exp()
        return pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)


MODELS: dict[str, tuple[Callable, int, Any]] = {
    "items": (items, 10, None),
    "groups": (groups, 6, None),
    "counts": (counts, 8, torch.log1p),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, nargs="+", default=list(MODELS))
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--covariance", default="full")
    arguments = parser.parse_args()
    for name in arguments.model:
        model, columns, features = MODELS[name]
        pyro.set_rng_seed(1)
        x = model(size=ROWS).detach()
        guide = pvae.AmortizedGuide(model, pvae.MLP(columns, (32,)), arguments.covariance, features=features)
        rate = pvae.schedules.cosine(1e-2, 1e-4, epochs=arguments.epochs)
        pvae.fit(guide, x, epochs=arguments.epochs, batch_size=50, learning_rate=rate, seed=0, progress=False)
        with torch.no_grad():
            draws = [guide.guide(x) for _ in range(1000)]
        chains = MCMC(
            NUTS(model, jit_compile=False, max_tree_depth=6), arguments.samples, arguments.warmup, disable_progbar=True
        )
        chains.run(x)
        for site, values in chains.get_samples().items():
            own = torch.stack([draw[site] for draw in draws])
            shift = (own.mean(0) - values.mean(0)) / values.std(0)
            ratio = own.std(0) / values.std(0)
            if values.ndim > 1 and values.shape[1] == ROWS:
                means = torch.stack([own.mean(0).flatten(), values.mean(0).flatten()])
                print(
                    f"{name} {site}: correlation {float(torch.corrcoef(means)[0, 1]):.4f}, sd ratio {float(ratio.mean()):.2f}"
                )
            else:
                largest = float(shift.abs().max())
                print(
                    f"{name} {site}: largest shift {largest:.2f} sd, sd ratios {ratio.min():.2f} to {ratio.max():.2f}"
                )


if __name__ == "__main__":
    main()
