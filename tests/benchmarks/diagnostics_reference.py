"""Reference posteriors: batched HMC on linear-Gaussian rows against the closed form, and beside Pyro's NUTS."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from oracles import PPCA

from pyrovae.checks import Sampler, reference_posterior


def against_closed_form(rows, latent, sampler, method="hmc"):
    program = PPCA.random(latent=latent, data=2 * latent)
    x = program.simulate(rows)
    start = time.perf_counter()
    reference = reference_posterior(program, x, method=method, sampler=sampler)
    seconds = time.perf_counter() - start
    draws, posterior = reference.draws()["z"], program.posterior(x)
    shift = ((draws.mean(0) - posterior.mean) / posterior.variance.sqrt()).abs().max().item()
    ratio = (draws.var(0) / posterior.variance).detach()
    print(
        f"  {method:<4} {rows:4d} rows, L = {latent:2d}: mean within {shift:.2f} sd, variance ratio {ratio.min():.2f} to "
        f"{ratio.max():.2f}, R-hat max {reference.max_rhat.max():.3f} (share above 1.01: "
        f"{(reference.max_rhat > 1.01).mean():.2f}), ESS min {reference.min_ess.min():.0f}, {seconds / rows:.3f} s a row"
    )


def main():
    torch.set_num_threads(1)
    print("linear-Gaussian rows; defaults: 8 chains, 200 warm-up, 500 draws")
    against_closed_form(20, 5, Sampler())
    against_closed_form(20, 5, Sampler(num_samples=1000))
    against_closed_form(400, 5, Sampler())
    against_closed_form(400, 5, Sampler(num_samples=2000))
    against_closed_form(20, 10, Sampler())
    against_closed_form(3, 5, Sampler(num_chains=4, num_warmup=300, num_samples=500), "nuts")


if __name__ == "__main__":
    main()
