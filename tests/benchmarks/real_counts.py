"""Real single-cell counts: 700 cells and 765 genes of blood, likelihoods ranked by held-out evidence, beside scvi-tools.

The file is one that scanpy's package ships, ``scanpy/datasets/10x_pbmc68k_reduced.h5ad`` (give it, or a wheel of scanpy:
``pip download scanpy --no-deps``). It holds logarithms of scaled counts: each count is expm1 of an entry divided by its cell's
smallest positive one, an integer to rounding. The size factor is the cell's total over all genes, ``obs/n_counts``, in units
of the mean. 500 cells train (of these 50 choose the epoch), 200 are held out. Where scvi-tools is installed too (an environment
of its own is best), its models with the same size factor, trained by its defaults on the same 500 cells, are scored by the same
estimator on the same 200 cells: they become a program, whose encoder is the guide.
Run: OMP_NUM_THREADS=1 nice python tests/benchmarks/real_counts.py PATH [--seeds 3] [--epochs 200]
"""

from __future__ import annotations

import argparse
import io
import logging
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import scipy.sparse
import torch
from paired import averaged, evidence, print_table
from simulated_counts import likelihoods, program
from torch import nn

import pyrovae as pvae

LATENTS, TRAIN = 10, 500
MEMBER = "scanpy/datasets/10x_pbmc68k_reduced.h5ad"


def counts(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Counts ``(cells, genes)`` and size factors, from the file or from scanpy's wheel."""
    import h5py

    held = io.BytesIO(zipfile.ZipFile(path).read(MEMBER)) if path.suffix == ".whl" else path
    with h5py.File(held) as file:
        parts = tuple(file["raw.X" if "raw.X" in file else "raw/X"][name][:] for name in ("data", "indices", "indptr"))
        totals = file["obs"]["n_counts"][:]
    scaled = np.expm1(scipy.sparse.csr_array(parts).toarray().astype(np.float64))
    found = scaled / np.where(scaled > 0, scaled, np.inf).min(1, keepdims=True)
    off = np.abs(found - found.round())[scaled > 0]
    print(
        f"{len(found)} cells, {found.shape[1]} genes, {np.mean(found == 0):.0%} zeros, largest count {found.max():.0f}"
    )
    print(
        f"distance from an integer: median {np.median(off):.4f}, 99 % below {np.quantile(off, 0.99):.4f}, largest {off.max():.3f}"
    )
    return found.round().astype(np.float32), (totals / totals.mean()).astype(np.float32)


def rows(x: np.ndarray, size: np.ndarray) -> dict[str, Any]:
    return {"counts": scipy.sparse.csr_array(x), "size": torch.as_tensor(size)}


def fitted(likelihood: Any, x: np.ndarray, size: np.ndarray, epochs: int, seed: int) -> pvae.VAE:
    torch.manual_seed(seed)
    genes = x.shape[1]
    posterior = pvae.Factorized(dist.Normal, pvae.MLP(genes, (128,)), event_shape=LATENTS, preprocess=torch.log1p)
    vae = pvae.VAE(pvae.standard_normal(LATENTS), likelihood(), posterior)
    plan = {"epochs": epochs, "batch_size": 64, "learning_rate": 1e-3, "seed": seed, "progress": False}
    pvae.fit(program(vae), rows(x[:-50], size[:-50]), validation=rows(x[-50:], size[-50:]), **plan)
    return vae


class Scvi(nn.Module):
    """A trained model of scvi-tools as a program: its decoder with the size factor, and its encoder as the guide."""

    def __init__(self, module: nn.Module, family: str) -> None:
        super().__init__()
        self.module, self.family = module.eval(), family

    def model(self, given: dict, size: int | None = None) -> torch.Tensor:
        cells = len(given["counts"])
        pvae.register(self)
        with pyro.plate("data", size or cells, subsample=torch.arange(cells), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENTS), 1.0).to_event(1))
            flat = z.reshape(-1, LATENTS)
            log_size = given["size"].log().expand(z.shape[:-1]).reshape(-1, 1)
            batch = torch.zeros(len(flat), 1, dtype=torch.long)
            found = self.module.generative(flat, log_size, batch, size_factor=log_size)["px"]
            rate, theta = (v.reshape(*z.shape[:-1], -1) for v in (found.mu, found.theta.expand_as(found.mu)))
            options = (rate.clamp_min(1e-8), theta)
            if self.family == "zinb":
                gate = torch.sigmoid(found.zi_logits).reshape(rate.shape)
                law = dist.ZeroInflatedDistribution(pvae.SizedNegativeBinomial(*options), gate=gate)
            else:
                law = pvae.SizedNegativeBinomial(*options)
            return pyro.sample("x", law.to_event(1), obs=given["counts"])

    def guide(self, given: dict, size: int | None = None) -> torch.Tensor:
        cells = len(given["counts"])
        pvae.register(self)
        with pyro.plate("data", size or cells, subsample=torch.arange(cells), dim=-1):
            q, _ = self.module.z_encoder(torch.log1p(given["counts"]), torch.zeros(cells, 1, dtype=torch.long))
            return pyro.sample("z", dist.Normal(q.loc, q.scale).to_event(1))


def by_scvi(family: str, early: bool, x: np.ndarray, size: np.ndarray, seed: int) -> Scvi:
    import anndata
    import scvi

    scvi.settings.seed, scvi.settings.verbosity = seed, logging.ERROR
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    cells = anndata.AnnData(x, obs={"size": size})
    scvi.model.SCVI.setup_anndata(cells, size_factor_key="size")
    model = scvi.model.SCVI(cells, n_latent=LATENTS, gene_likelihood=family)
    options = (
        {"early_stopping": True, "train_size": 0.9, "plan_kwargs": {"n_epochs_kl_warmup": 50}}
        if early
        else {"train_size": 1.0}
    )
    model.train(accelerator="cpu", enable_progress_bar=False, logger=False, **options)
    return Scvi(model.module, family)


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--seeds", type=int, default=3, help="at least 2")
    parser.add_argument("--epochs", type=int, default=200)
    words = parser.parse_args()
    x, size = counts(words.path)
    order = np.random.default_rng(0).permutation(len(x))
    x, size = x[order], size[order]
    held = rows(x[TRAIN:], size[TRAIN:])
    jobs: dict[str, Any] = {
        name: lambda seed, one=one: program(fitted(one, x[:TRAIN], size[:TRAIN], words.epochs, seed))
        for name, one in likelihoods(x.shape[1], LATENTS).items()
    }
    try:
        import scvi

        print(f"scvi-tools {scvi.__version__}")
    except ImportError:
        print("scvi-tools is not installed here: its rows are left out")
    else:
        for family, early in (("nb", False), ("nb", True), ("zinb", True)):
            name = f"scvi-tools, {family}{', early stopping' if early else ', 400 epochs'}"
            jobs[name] = lambda seed, own=(family, early): by_scvi(*own, x[:TRAIN], size[:TRAIN], seed)
    refits: dict[str, list[dict]] = {name: [] for name in jobs}
    for seed in range(words.seeds):
        for name, job in jobs.items():
            refits[name].append(evidence(job(seed), held))
            print(f"{name}, seed {seed}: {refits[name][-1]['log_marginal'].mean():.2f}", flush=True)
    results = {name: averaged(found) for name, found in refits.items()}
    print_table(f"{len(x) - TRAIN} held-out cells, {words.seeds} seeds, K = 1000", results)


if __name__ == "__main__":
    main()
