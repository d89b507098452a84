"""Mutual information, surgery and leave-one-feature-out elpd against linear-Gaussian closed forms."""

import math
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from guided import GuidedPPCA, exact, tempered
from oracles import PPCA

from pyrovae.checks import elbo_surgery, leave_one_feature_out, predictive_check


def information():
    print("mutual information of the exact guide, 2,000 rows (cap 7.60 nats)")
    print("  latent  truth  estimate  upper  own share  saturated  KL - MI - marginal KL  seconds")
    for latent, noise in ((1, 1.0), (3, 5.0), (3, 1.0), (5, 1.0), (8, 1.0), (10, 0.5), (20, 0.5)):
        program = PPCA.random(latent=latent, data=2 * latent, noise=noise, exact=True)
        truth = 0.5 * torch.logdet(program.precision()).item()
        start = time.perf_counter()
        s = elbo_surgery(program, program.simulate(2000), num_samples=2)
        identity = s.kl - s.mutual_information - s.marginal_kl
        print(
            f"  {latent:6d} {truth:6.2f} {s.mutual_information:9.2f} {s.mutual_information_upper:6.2f} {s.own_share:10.3f} "
            f"{s.saturated!s:>10} {identity:22.4f} {time.perf_counter() - start:8.1f}"
        )


def surgery():
    print("surgery of factorized guides off the prior (3 latents, 1,000 rows): estimate (truth)")
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from test_diagnostics_structure import closed_forms, correlated, scaled

    for factor, shift in ((1.0, 0.0), (0.8, 0.2), (0.5, 0.3), (1.0, 1.0)):
        program = correlated(scaled(factor, shift))
        truth = closed_forms(program)
        s = elbo_surgery(program, program.simulate(1000))
        error = s.kl - s.mutual_information - s.marginal_kl
        print(
            f"  means x {factor} + {shift}: MI {s.mutual_information:.2f} ({truth[0]:.2f}), marginal KL {s.marginal_kl:.2f} "
            f"({truth[1]:.2f}), at least {s.marginal_kl_lower:.2f}; identity off by {error:+.4f}"
        )


def left_out():
    print("leave-one-feature-out elpd per entry against the closed form (150 rows, L = 2, D = 8, 1,000 draws)")
    for name, defect in (("exact guide", exact), ("1.3 times too wide", tempered(1.3)), ("0.8 times", tempered(0.8))):
        program = GuidedPPCA.with_defect(defect, latent=2, data=8, noise=1.0)
        x = program.simulate(150)
        precision = torch.linalg.inv(program.marginal().covariance_matrix.detach())
        shift = (x - program.mean.detach()) @ precision / precision.diagonal()
        truth = torch.distributions.Normal(x - shift, precision.diagonal().rsqrt()).log_prob(x).numpy()
        for corrected in (True, False):
            start = time.perf_counter()
            r = leave_one_feature_out(program, x, corrected=corrected)
            error = r.elpd - truth
            print(
                f"  {name:<20} {'corrected' if corrected else 'naive':<10} rmse {np.sqrt((error**2).mean()):.3f} bias "
                f"{error.mean():+.3f}, k-hat > 0.67 in {100 * r.share_bad_k:.0f} %, PIT p = {r.p_value:.1e}, "
                f"{time.perf_counter() - start:.1f} s"
            )


def p_values():
    program = GuidedPPCA.with_defect(exact, latent=2, data=8, noise=1.0)
    p = [
        predictive_check(program, program.simulate(100, seed=s), kind="prior", num_samples=99).p_values
        for s in range(40)
    ]
    found = np.array([list(row.values()) for row in p])
    print(f"prior predictive p-values of the true model, 40 data sets: share below 0.1 {np.mean(found < 0.1):.3f}")


def main():
    torch.set_num_threads(1)
    print(f"log 2000 = {math.log(2000):.2f}")
    information()
    surgery()
    left_out()
    p_values()


if __name__ == "__main__":
    main()
