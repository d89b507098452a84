"""Calibration and k-hat on closed forms: SBC of exact and defective guides, k-hat beside its exact value."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from guided import correlated, exact, marginals, mean_field, shifted, tempered
from oracles import PPCA

from pyrovae.checks import reliability, sbc

DEFECTS = {
    "variance x 0.7": tempered(0.7**0.5),
    "shift of 0.1 sd": shifted(0.1),
    "optimal mean-field": mean_field,
    "right marginals, no correlations": marginals,
}


def calibration():
    print("SBC of probabilistic PCA (L = 3, D = 6), exact guide, 2,000 simulations x 99 draws")
    for seed in range(5):
        start = time.perf_counter()
        p = sbc(correlated(exact), num_simulations=2000, seed=seed).p_value
        print(f"  seed {seed}: p = {p:.3f} (Bonferroni), {time.perf_counter() - start:.2f} s")
    wide = PPCA.random(latent=10, data=20, exact=True)
    start = time.perf_counter()
    print(f"  L = 10, D = 20: p = {sbc(wide).p_value:.3f}, {time.perf_counter() - start:.2f} s")
    print("defects, 5,000 simulations: smallest adjusted p of z, adjusted p of log p(x, z)")
    for name, defect in DEFECTS.items():
        result = sbc(correlated(defect), num_simulations=5000, seed=0)
        print(f"  {name:<34} {result.adjusted('z').min():9.1e} {float(result.adjusted('log_joint')):9.1e}")
    program = correlated(exact)
    with torch.no_grad():
        program.weight[:, 1] = 0
    result = sbc(program, num_simulations=5000, seed=0)
    print(f"  {'a collapsed latent':<34} {result.adjusted('z').min():9.1e}           KL {result.kl['z'].round(3)}")


def khat():
    print("k-hat of optimal mean-field guides (D = 2 L), 200 rows x 4,000 draws")
    for latent in (2, 5, 10):
        for seed in (0, 1):
            program = PPCA.random(latent=latent, data=2 * latent, seed=seed)
            k = reliability(program, program.simulate(200), num_samples=4000).pareto_k
            exact_k = program.exact_khat()
            print(f"  L = {latent:2d}: exact {exact_k:.2f}, mean {np.mean(k):.2f}, sd of a row {np.std(k):.2f}")


def main():
    torch.set_num_threads(1)
    calibration()
    khat()


if __name__ == "__main__":
    main()
