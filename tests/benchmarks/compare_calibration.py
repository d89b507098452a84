"""Is `p_worse` of `compare` calibrated? A thousand sets of held-out rows, of which several models expect the same.

A VAE of five columns is trained once, and stays. The other models are the same with columns mirrored, and the rows are drawn
from all of them alike, so that by symmetry each has the same expected log density. Evidence is by importance sampling. Told are
the share of sets in which the second model has p_worse < .05 beside the first as a fixed reference, and the range of p_worse
beside the best of four: ``python tests/benchmarks/compare_calibration.py [--sets 1000] [--rows 200]``.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np
import torch

import pyrovae as pvae
from pyrovae.comparison import Pointwise

MIRRORS = torch.tensor([[1, 1, 1, 1, 1], [-1, -1, 1, 1, 1], [1, 1, -1, -1, -1], [-1, -1, -1, -1, -1]]).float()


def mirrored(vae: pvae.VAE, mirror: torch.Tensor) -> tuple[Any, Any]:
    """Model and guide of the same VAE, for rows with some columns mirrored."""
    return (lambda x: vae.model(x * mirror)), (lambda x: vae.guide(x * mirror))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    curve = torch.randn(2000, 1) @ torch.linspace(0.5, 1.5, 5)[None]
    vae = pvae.build_vae(5, likelihood="normal", latent_dim=1, hidden=(16,), seed=arguments.seed)
    pvae.fit(vae, 0.5 + curve.tanh() + torch.randn(2000, 5), epochs=100, seed=arguments.seed, progress=False)
    total = arguments.sets * arguments.rows
    x = vae.sample(total) * MIRRORS[torch.randint(4, (total,))]
    plan = {"method": "importance", "num_samples": 64, "seed": arguments.seed, "progress": False}
    evidence = [pvae.log_marginal(mirrored(vae, mirror), x, **plan) for mirror in MIRRORS]
    fixed, best = [], []
    for number in range(arguments.sets):
        rows = slice(number * arguments.rows, (number + 1) * arguments.rows)
        parts = {
            str(k): Pointwise(one.log_marginal.values[rows], mcse=one.mcse.values[rows])
            for k, one in enumerate(evidence)
        }
        two = {name: parts[name] for name in ("0", "1")}
        fixed.append(pvae.compare(two, reference="0").frame.loc["1", "p_worse"])
        best.extend(pvae.compare(parts).frame["p_worse"].dropna())
    share = np.mean(np.array(fixed) < 0.05)
    differences = evidence[0].log_marginal.values - evidence[1].log_marginal.values
    error, half = math.sqrt(share * (1 - share) / arguments.sets), np.mean(np.array(fixed) < 0.5)
    print(
        f"beside a fixed reference p_worse < .05 in {share:.3f} +- {error:.3f} of {arguments.sets} sets, < .5 in {half:.3f}"
    )
    print(f"beside the best of four p_worse lies between {min(best):.3f} and {max(best):.3f}")
    error, spread = differences.std() / math.sqrt(total), differences.std()
    print(f"mean difference of a row {differences.mean():.4f} +- {error:.4f} nats, spread {spread:.2f}")


if __name__ == "__main__":
    main()
