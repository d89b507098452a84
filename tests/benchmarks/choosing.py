"""How many latents: `uses.choose` on simulated rows, and its budget beside exhaustive search.

Simulated are 2, 5 or 10 latents in 20 columns: linear (1,000 rows, weights of standard normals, signal of variance 1 in each
column, noise of .5 sd) or nonlinear (2,000 rows, a random network with one layer of 50 tanh units, noise of .25 sd). The
likelihood is a normal with one learned scale, the guide a full normal, networks have no hidden layer or one of 64 units.
Counted are the choices of the number that made the rows; beside it stand the active units (variance over rows of the guide's
mean above .01) of the chosen model, fitted anew. ``exhaustive`` trains every model of the grid as often and as long as the
finalists are, and tells the choice and the epochs. ``tables`` chooses for the wines of scikit-learn (13 measurements in units of
their spread), the digits, and simulated single-cell counts of 100 genes with four latents.
Run: OMP_NUM_THREADS=1 nice python tests/benchmarks/choosing.py linear|nonlinear|exhaustive|tables [--seeds 0 1] [--latents 2 5]
"""

from __future__ import annotations

import argparse
import warnings
from collections import defaultdict

import pyro.distributions as dist
import torch
from simulated_counts import GENES, likelihoods, simulate
from sklearn.datasets import load_wine

import pyrovae as pvae
from pyrovae.uses import choose

COLUMNS = 20
NOISE = {"linear": 0.5, "nonlinear": 0.25}
ROWS = {"linear": 1000, "nonlinear": 2000}
HIDDEN = {"linear": (), "nonlinear": (64,)}
GRID = [1, 2, 3, 5, 6, 8, 10, 12]
BUDGET, REFITS = {"linear": 800, "nonlinear": 3200}, 2
FINAL = {
    kind: budget // 16 for kind, budget in BUDGET.items()
}  # the finalists' epochs, and those of an exhaustive search


def simulated(kind: str, latents: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 * latents + seed)
    z = torch.randn(ROWS[kind], latents, generator=generator)
    if kind == "nonlinear":
        z = torch.tanh(z @ torch.randn(latents, 50, generator=generator) / latents**0.5)
    x = z @ torch.randn(z.shape[1], COLUMNS, generator=generator) / z.shape[1] ** 0.5
    return x + NOISE[kind] * torch.randn(len(x), COLUMNS, generator=generator)


def make(kind: str, latent_dim: int) -> pvae.VAE:
    scale = torch.nn.Parameter(torch.ones(()))
    likelihood = pvae.Factorized(dist.Normal, pvae.MLP(latent_dim, HIDDEN[kind]), COLUMNS, scale=scale)
    posterior = pvae.FullNormal(pvae.MLP(COLUMNS, HIDDEN[kind]), latent_dim)
    return pvae.VAE(pvae.standard_normal(latent_dim), likelihood, posterior)


def active_units(kind: str, latent_dim: int, x: torch.Tensor, options: dict) -> int:
    torch.manual_seed(99)
    vae = make(kind, latent_dim)
    pvae.fit(vae, x, epochs=FINAL[kind], seed=99, progress=False, **options)
    return int((vae.encode(x).var(0) > 0.01).sum())


def of_wine(latent_dim: int) -> pvae.VAE:
    likelihood = pvae.Factorized(dist.Normal, pvae.MLP(latent_dim, (16,)), 13)
    return pvae.VAE(pvae.standard_normal(latent_dim), likelihood, pvae.FullNormal(pvae.MLP(13, (16,)), latent_dim))


def of_digits(latent_dim: int) -> pvae.VAE:
    likelihood = pvae.Factorized(dist.Binomial, pvae.MLP(latent_dim, (64,)), (1, 8, 8), total_count=16)
    posterior = pvae.FullNormal(pvae.MLP((1, 8, 8), (64,)), latent_dim)
    return pvae.VAE(pvae.standard_normal(latent_dim), likelihood, posterior)


def of_counts(latent_dim: int) -> pvae.VAE:
    posterior = pvae.FullNormal(pvae.MLP(GENES, (64,)), latent_dim, preprocess=torch.log1p)
    likelihood = likelihoods(GENES, latent_dim)["negative binomial"]()
    return pvae.VAE(pvae.standard_normal(latent_dim), likelihood, posterior)


def tables(seeds: list[int]) -> None:
    wine = torch.as_tensor(load_wine().data, dtype=torch.float32)
    cells = simulate(1000)
    given: dict[str, tuple] = {
        "wine": (of_wine, (wine - wine.mean(0)) / wine.std(0), None, [1, 2, 3, 5, 8], 1200, 20),
        "counts": (of_counts, cells["counts"], {"size_factor": cells["size"]}, [1, 2, 4, 6, 8], 600, 50),
        "digits": (of_digits, pvae.data.load("digits").train.x.float(), None, [2, 5, 10, 20, 30], 600, 50),
    }
    for seed in seeds:
        for name, (made, x, covariates, grid, budget, batch) in given.items():
            plan = {"budget": budget, "refits": REFITS, "seed": seed, "progress": False}
            plan["fit_options"] = {"batch_size": batch, "compile": "trace"}
            found = choose(made, x, {"latent_dim": grid}, covariates, **plan)
            frame = found.comparison.per_datum()
            errors = [found.error(one, frame.index[0]) / frame["num_data"].iloc[0] for one in frame.index]
            told = zip(frame.index, frame["elpd"], errors, strict=True)
            lines = [f"{one.partition('=')[2]}: {value:.2f} ({error:.2f})" for one, value, error in told]
            print(
                f"{name}, seed {seed}: {found.name}; finalists, and errors from the best: {', '.join(lines)}",
                flush=True,
            )


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("linear", "nonlinear", "exhaustive", "tables"))
    parser.add_argument("--seeds", type=int, nargs="+", default=range(10))
    parser.add_argument("--latents", type=int, nargs="+", default=[2, 5, 10])
    words = parser.parse_args()
    if words.what == "tables":
        tables(list(words.seeds))
        return
    kind = "linear" if words.what == "exhaustive" else words.what
    options = {"batch_size": ROWS[kind] // 20, "compile": "trace"}
    right, counted = defaultdict(int), defaultdict(int)
    for done, seed in enumerate(words.seeds, 1):
        for latents in words.latents:
            x = simulated(kind, latents, seed)
            grid, budget = {"latent_dim": GRID}, BUDGET[kind]
            if words.what == "exhaustive":  # nothing is halved
                pvae.uses.choosing.FINALISTS, budget = len(GRID), 2 * len(GRID) * REFITS * FINAL[kind]
            plan = {"budget": budget, "refits": REFITS, "seed": seed, "fit_options": options, "progress": False}
            found = choose(lambda latent_dim: make(kind, latent_dim), x, grid, **plan)
            chosen = found.chosen["latent_dim"]
            active = active_units(kind, chosen, x, options)
            right[latents] += chosen == latents
            counted[latents] += active == latents
            frame = found.comparison.per_datum()
            told = ", ".join(f"{name.partition('=')[2]}: {value:.3f}" for name, value in frame["elpd"].items())
            print(
                f"{words.what} {latents:2}, seed {seed}: chosen {chosen:2}, active {active:2}; finalists {told}; so far "
                f"{right[latents]} and {counted[latents]} of {done} right; budget {budget} epochs",
                flush=True,
            )


if __name__ == "__main__":
    main()
