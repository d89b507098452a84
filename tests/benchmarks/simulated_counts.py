"""A simulated single-cell table: known means, dispersions and library sizes, given as a sparse CSR matrix.

Latent cell types move the genes' rates, library sizes scale them, and counts are negative binomial. The right likelihood
recovers rates and dispersions, and the wrong ones lose by held-out evidence.
Run by hand: ``python tests/benchmarks/simulated_counts.py`` (three refits each, since training moves the
evidence by about as much as zero inflation does).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import pyro.distributions as dist
import scipy.sparse
import torch
from paired import averaged, evidence, print_table
from torch import nn

import pyrovae as pvae

GENES, LATENTS = 100, 4


def simulate(cells: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    programs = random.normal(0, 0.7, (LATENTS, GENES))
    base = random.normal(-0.5, 1.0, GENES)
    dispersion = random.gamma(4.0, 0.5, GENES) + 0.3
    size = random.lognormal(0.0, 0.5, cells)
    rate = np.exp(base + random.normal(size=(cells, LATENTS)) @ programs)
    mean = size[:, None] * rate
    counts = random.poisson(random.gamma(dispersion, mean / dispersion))
    return {
        "counts": counts.astype(np.float32),
        "size": size.astype(np.float32),
        "rate": rate,
        "dispersion": dispersion,
    }


def likelihoods(genes: int = GENES, latents: int = LATENTS) -> dict[str, Callable[[], nn.Module]]:
    size = pvae.FromCovariate("size_factor")

    def factorized(family: type, dispersed: bool, **given: object) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            own = {"dispersion": nn.Parameter(torch.ones(genes))} if dispersed else {}
            return pvae.Factorized(family, pvae.MLP(latents, (64,)), event_shape=genes, **own, **given)

        return make

    return {
        "negative binomial": factorized(pvae.SizedNegativeBinomial, True, size_factor=size),
        "zero-inflated negative binomial": factorized(
            pvae.distributions.ZeroInflatedSizedNegativeBinomial, True, size_factor=size
        ),
        "negative binomial without sizes": factorized(pvae.SizedNegativeBinomial, True),
        "Poisson": factorized(pvae.SizedPoisson, False, size_factor=size),
        "zero-inflated Poisson": factorized(pvae.distributions.ZeroInflatedSizedPoisson, False, size_factor=size),
    }


def program(vae: pvae.VAE) -> tuple[Callable, Callable]:
    """The VAE on rows of a dict: the sparse counts beside the library sizes, which become covariates where they are read."""

    def covariates(rows: dict) -> dict | None:
        return {"size_factor": rows["size"]} if "size_factor" in vae.covariate_names else None

    def model(rows: dict, size: int | None = None) -> torch.Tensor:
        return vae.model(rows["counts"], covariates(rows), size)

    def guide(rows: dict, size: int | None = None) -> torch.Tensor:
        return vae.guide(rows["counts"], covariates(rows), size)

    return model, guide


def train(likelihood: Callable[[], nn.Module], rows: dict, epochs: int, seed: int) -> pvae.VAE:
    torch.manual_seed(seed)
    posterior = pvae.Factorized(dist.Normal, pvae.MLP(GENES, (64,)), event_shape=LATENTS, preprocess=torch.log1p)
    vae = pvae.VAE(pvae.standard_normal(LATENTS), likelihood(), posterior)
    pvae.fit(program(vae), rows, epochs=epochs, batch_size=128, learning_rate=2e-3, seed=seed, progress=False)
    return vae


def recovery(vae: pvae.VAE, truth: dict, covariates: dict, rows: slice) -> str:
    x, own = torch.as_tensor(truth["counts"][rows]), {name: value[rows] for name, value in covariates.items()}
    mean = vae.decode(vae.encode(x, own), own).numpy() / truth["size"][rows, None]
    rates = np.corrcoef(np.log(mean).ravel(), np.log(truth["rate"][rows]).ravel())[0, 1]
    with torch.no_grad():
        found = vae.likelihood(torch.zeros(1, LATENTS), covariates={"size_factor": torch.ones(1)}).base_dist.dispersion[
            0
        ]
    ratio = np.log(found.numpy() / truth["dispersion"])
    genes = np.corrcoef(np.log(found.numpy()), np.log(truth["dispersion"]))[0, 1]
    return (
        f"held-out log rates: correlation {rates:.3f}; dispersions: correlation of logs {genes:.3f}, "
        f"median log ratio {np.median(ratio):+.3f}, median absolute {np.median(np.abs(ratio)):.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--cells", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=3, help="at least 2")
    arguments = parser.parse_args()
    truth = simulate(arguments.cells + 1000)
    rows, held = slice(0, arguments.cells), slice(arguments.cells, None)
    sparse, size = scipy.sparse.csr_array(truth["counts"]), torch.as_tensor(truth["size"])
    print(f"{arguments.cells} cells, {GENES} genes, {np.mean(truth['counts'] == 0):.0%} zeros")
    results = {}
    for name, likelihood in likelihoods().items():
        refits = []
        for seed in range(arguments.seeds):
            vae = train(likelihood, {"counts": sparse[rows], "size": size[rows]}, arguments.epochs, seed)
            refits.append(evidence(program(vae), {"counts": sparse[held], "size": size[held]}))
            print(f"{name}, seed {seed}: {refits[-1]['log_marginal'].mean():.3f}", flush=True)
            if name == "negative binomial":
                print(recovery(vae, truth, {"size_factor": size}, held))
        results[name] = averaged(refits)
    print_table(f"1,000 held-out cells, {arguments.epochs} epochs, {arguments.seeds} seeds, K = 1000", results)


if __name__ == "__main__":
    main()
