"""The diagnostics on a VAE trained on digits: the report, k-hat before and after refinement, the guide beside HMC and NUTS."""

import time

import pyro.distributions as dist
import torch

import pyrovae as pvae
from pyrovae.checks import Sampler, compare_posteriors, diagnose, posterior_draws, reference_posterior, reliability
from pyrovae.evaluation import refine


def trained(epochs=60):
    digits = pvae.data.load("digits")
    torch.manual_seed(0)
    vae = pvae.VAE(
        prior=pvae.standard_normal(8),
        likelihood=pvae.Factorized(dist.Binomial, pvae.MLP(8, (64, 64)), event_shape=(1, 8, 8), total_count=16),
        posterior=pvae.Factorized(dist.Normal, pvae.MLP((1, 8, 8), (64, 64)), event_shape=8),
    )
    start = time.perf_counter()
    pvae.fit(vae, digits.train, epochs=epochs, seed=0, progress=False)
    print(f"trained {epochs} epochs in {time.perf_counter() - start:.0f} s")
    return vae, digits


def timed(name, task):
    start = time.perf_counter()
    result = task()
    print(f"\n{name}: {time.perf_counter() - start:.1f} s\n{result}")
    return result


def main():
    torch.set_num_threads(1)
    vae, digits = trained()
    rows = digits.test[:200]
    timed("diagnose, 200 test rows", lambda: diagnose(vae, rows, train=digits.train, num_simulations=1000))
    before = reliability(vae, rows)
    for family in ("normal", "full"):
        start = time.perf_counter()
        after = reliability(refine(vae, rows, family=family, seed=0, progress=False), rows)
        shares = [100 * (~(r.pareto_k <= 0.7)).mean() for r in (before, after)]
        print(
            f"k-hat above 0.7: {shares[0]:.0f} % before, {shares[1]:.0f} % after refine(family={family!r}), "
            f"{time.perf_counter() - start:.1f} s for 200 rows"
        )
    reference = timed("HMC, 20 rows", lambda: reference_posterior(vae, rows[:20], seed=0))
    guide = posterior_draws(vae, rows[:20], method="guide", num_samples=1000)
    corrected = posterior_draws(vae, rows[:20], method="psis", num_samples=1000, num_proposals=4000)
    print("\nguide beside HMC:", compare_posteriors(guide, reference))
    print("reweighted beside HMC:", compare_posteriors(corrected, reference))
    timed("auto, 20 rows", lambda: posterior_draws(vae, rows[:20]))
    nuts = timed(
        "NUTS, 2 rows", lambda: reference_posterior(vae, rows[:2], method="nuts", sampler=Sampler(2, 150, 250))
    )
    print("HMC beside NUTS:", compare_posteriors({n: v[:, :2] for n, v in reference.draws().items()}, nuts))


if __name__ == "__main__":
    main()
