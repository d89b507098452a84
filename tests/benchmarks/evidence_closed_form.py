"""Bias and error of every estimator of log p(x) where it is known: probabilistic PCA with a mean-field guide.

Ten latents, twenty entries; the guide is the best mean-field one, whose importance ratios have an exact Pareto shape of
0.81. Then two models with the same p(x), one of whose guides is turned against its posterior's axes.
Run: python tests/benchmarks/evidence_closed_form.py
"""

import sys
import time
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from oracles import PPCA, BetaBernoulli, EnumeratedMixture, GammaPoisson

import pyrovae as pvae
from pyrovae.evaluation import AIS, Refined, bdmc, log_marginal
from pyrovae.evaluation.ais import from_prior

ESTIMATORS = [
    ("auto", 100),
    ("auto", 1000),
    ("importance", 100),
    ("importance", 1000),
    ("importance", 5000),
    (Refined("normal"), 1000),
    (Refined(), 100),
    (Refined(), 1000),
    (AIS(50), 16),
    (AIS(200), 16),
    (AIS(200, start=from_prior), 16),
    (AIS(50, start=Refined()), 16),
]


def label(method):
    if isinstance(method, str):
        return method
    if isinstance(method, Refined):
        return f"refined {method.family}"
    start = f"refined {method.start.family}" if isinstance(method.start, Refined) else method.start.__name__[5:]
    return f"AIS T={method.num_temperatures} from {start}"


def table(name, program, x, estimators):
    exact = program.log_evidence(x).detach()
    print(f"\n{name}, {len(x)} rows; nats per row")
    print(
        f"{'estimator':28}{'samples':>8}{'bias':>9}{'+-':>8}{'rmse':>8}{'mcse':>8}{'k-hat':>7}{'% bad':>7}{'seconds':>9}"
    )
    for method, samples in estimators:
        start = time.perf_counter()
        result = log_marginal(program, x, method=method, num_samples=samples, seed=0, progress=False)
        seconds = time.perf_counter() - start
        error = torch.as_tensor(result["log_marginal"].values) - exact
        k = torch.as_tensor(result["pareto_k"].values)
        shapes = f"{k.median():7.2f}{100 * (k > 0.7).double().mean():7.1f}" if samples >= 25 else " " * 14
        mcse = float((result["mcse"] ** 2).mean()) ** 0.5
        print(
            f"{label(method):28}{samples:8}{error.mean():9.4f}{error.std() / len(x) ** 0.5:8.4f}"
            f"{error.square().mean().sqrt():8.4f}{mcse:8.4f}{shapes}{seconds:9.2f}",
            flush=True,
        )
    bound = torch.as_tensor(result["elbo"].values) - exact
    print(f"{'ELBO':28}{100:8}{bound.mean():9.4f}{bound.std() / len(x) ** 0.5:8.4f}")


def same_density(rows=1000):
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(20, 5, generator=generator, dtype=torch.float64)).Q
    weight = basis * torch.tensor([12.0, 6.0, 3.0, 1.0, 0.5], dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64)).Q
    straight, turned = PPCA(weight, 0.05), PPCA(weight @ turn, 0.05)
    x = straight.simulate(rows)
    difference = (straight.log_evidence(x) - turned.log_evidence(x)).abs().max()
    print(f"\nTwo models with the same p(x) (largest difference {difference:.1e} nats a row), {rows} rows")
    for method, samples in (("auto", 1000), ("importance", 1000), ("refined", 1000)):
        print(f"\n{method}, K = {samples}")
        print(pvae.compare({"straight": straight, "turned": turned}, x, method=method, num_samples=samples, seed=0))
    print(f"exact elpd of both: {straight.log_evidence(x).sum():.2f}")


def main():
    warnings.simplefilter("ignore")
    ppca = PPCA.random(10, 20, noise=1.0, seed=0)
    print(f"exact Pareto shape {ppca.exact_khat():.2f}, approximation gap {ppca.approximation_gap():.3f}")
    table("probabilistic PCA", ppca, ppca.simulate(200), ESTIMATORS)
    few = [("auto", 1000), ("importance", 1000), (Refined(), 1000), (AIS(50), 16)]
    for name, program in (
        ("Beta-Bernoulli", BetaBernoulli(guide_power=0.6)),
        ("Gamma-Poisson", GammaPoisson()),
        ("mixture, class enumerated by the model", EnumeratedMixture("model")),
        ("mixture, class enumerated by the guide", EnumeratedMixture("guide")),
    ):
        table(name, program, program.simulate(200), few)
    print("\n", bdmc(ppca, 100, estimator=AIS(200), seed=0, progress=False))
    same_density()


if __name__ == "__main__":
    main()
