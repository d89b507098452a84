"""Every estimator of log p(x) on a VAE of binarized MNIST, and the sandwich on data that it simulates.

Trains a VAE (784-400-400-40) first, or loads it from --keep. Needs MNIST under PYROVAE_DATA.
Run: python tests/benchmarks/evidence_mnist.py [--epochs 20] [--rows 200] [--keep FILE] [--only importance,refined,ais,bdmc,all]
"""

import argparse
import resource
import time
import warnings
from pathlib import Path

import pyro.distributions as dist
import torch
from safetensors.torch import load_file, save_file

import pyrovae as pvae
from pyrovae.evaluation import AIS, Refined, bdmc, log_marginal, refine
from pyrovae.evaluation.ais import from_guide, from_prior


def build():
    torch.manual_seed(0)
    return pvae.VAE(
        prior=pvae.standard_normal(40),
        likelihood=pvae.Factorized(dist.Bernoulli, pvae.MLP(40, (400, 400)), event_shape=(1, 28, 28)),
        posterior=pvae.Factorized(dist.Normal, pvae.MLP((1, 28, 28), (400, 400)), event_shape=40),
    )


def trained(digits, epochs, keep):
    vae = build()
    if keep and Path(keep).exists():
        vae.load_state_dict(load_file(keep))
        return vae
    start = time.perf_counter()
    pvae.fit(vae, digits.train, epochs=epochs, batch_size=128, learning_rate=1e-3, seed=1)
    print(f"trained {epochs} epochs in {time.perf_counter() - start:.0f} s")
    if keep:
        save_file({name: value.contiguous() for name, value in vae.state_dict().items()}, keep)
    return vae


def row(name, vae, x, method, samples):
    start = time.perf_counter()
    result = log_marginal(vae, x, method=method, num_samples=samples, seed=0, progress=False)
    seconds = time.perf_counter() - start
    k = result["pareto_k"].values
    known = samples >= 25
    print(
        f"{name:34}{float(result['log_marginal'].mean()):10.3f}{float((result['mcse'] ** 2).mean()) ** 0.5:8.3f}"
        + (f"{float(sorted(k)[len(k) // 2]):8.2f}{100 * float((k > 0.7).mean()):8.1f}" if known else " " * 16)
        + f"{seconds:9.1f}",
        flush=True,
    )
    return result


def estimators(vae, x, wanted):
    print(f"\n{len(x)} test rows, {torch.get_num_threads()} thread(s); nats per row")
    print(f"{'estimator':34}{'log p(x)':>10}{'mcse':>8}{'k-hat':>8}{'% > 0.7':>8}{'seconds':>9}")
    if "importance" in wanted:
        for samples in (10, 100, 1000, 5000):
            result = row(f"importance, K = {samples}", vae, x, "importance", samples)
        print(f"{'ELBO (5000 draws)':34}{float(result['elbo'].mean()):10.3f}")
    if "refined" in wanted:
        row("refined mean-field, K = 1000", vae, x, Refined("normal"), 1000)
    guide = refined_once(vae, x) if {"refined", "ais"} & set(wanted) else None
    if "refined" in wanted:
        for samples in (100, 1000):
            row(f"refined full covariance, K = {samples}", vae, x, Refined(guide=guide), samples)
    if "ais" in wanted:
        steps = (("refined guide", 50, Refined(guide=guide)), ("guide", 100, from_guide), ("prior", 100, from_prior))
        for name, temperatures, start in steps:
            row(f"AIS from the {name}, T = {temperatures}", vae, x, AIS(temperatures, start=start), 8)


def refined_once(vae, x):
    start = time.perf_counter()
    guide = refine(vae, x, seed=0, progress=False)
    print(f"{'(refining, full covariance)':68}{time.perf_counter() - start:9.1f}", flush=True)
    return guide


def sandwich(vae):
    for name, estimator in (("refined guide", AIS(100, start=Refined())), ("guide", AIS(100))):
        start = time.perf_counter()
        result = bdmc(vae, 100, estimator=estimator, num_chains=8, seed=0, progress=False)
        print(f"BDMC from the {name}, T = 100: {result}  {time.perf_counter() - start:.0f} s", flush=True)


def matrix_rate(batch=8192):
    """Operations a second of the decoder's widest product, at the batch that evaluation uses."""
    left, right = torch.randn(batch, 400), torch.randn(400, 784)
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - start)
    return 2 * batch * 400 * 784 / best


def whole_test_set(vae, x, samples=5000):
    """The time of all rows, against the arithmetic of the decoder at the machine's matrix rate."""
    operations = 2 * (40 * 400 + 400 * 400 + 400 * 784) * len(x) * samples
    rate = matrix_rate()
    start = time.perf_counter()
    result = log_marginal(vae, x, method="importance", num_samples=samples, seed=0)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\n{len(x)} rows x {samples}: {float(result['log_marginal'].mean()):.3f} nats a row")
    print(
        f"{seconds:.0f} s; floor {operations / rate:.0f} s at {rate / 1e9:.0f} GFLOP/s; ratio {seconds * rate / operations:.2f}"
    )
    print(f"peak memory {peak:.2f} GiB")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--keep")
    parser.add_argument("--only", default="importance,refined,ais,bdmc")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "importance-sampling estimates")
    digits = pvae.data.load("mnist", "static")
    vae = trained(digits, options.epochs, options.keep)
    wanted = options.only.split(",")
    estimators(vae, digits.test[: options.rows], wanted)
    if "bdmc" in wanted:
        sandwich(vae)
    if "all" in wanted:
        whole_test_set(vae, digits.test[: options.rows], options.samples)


if __name__ == "__main__":
    main()
