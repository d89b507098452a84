"""Time of pareto_k and psis on 10,000 x 1,000 log-weights against ArviZ 0.23, both on as many threads as torch has.

ArviZ runs on one thread, so compare with OMP_NUM_THREADS=1. Run: python tests/benchmarks/psis.py
"""

import time

import arviz as az
import torch

from pyrovae.evaluation.psis import pareto_k, psis


def best(function, repeats=3):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def main(rows=10_000, samples=1_000):
    torch.manual_seed(0)
    lw = 2 * torch.randn(samples, rows, dtype=torch.float64) - 100
    array = lw.T.contiguous().numpy()
    az.psislw(array[:10])
    reference = best(lambda: az.psislw(array), repeats=2)
    print(f"{rows} x {samples}, {torch.get_num_threads()} thread(s)")
    print(f"{'':24}{'seconds':>9}{'times faster':>14}")
    for name, function in (("pareto_k", pareto_k), ("psis", psis)):
        seconds = best(lambda function=function: function(lw))
        print(f"{name:24}{seconds:9.3f}{reference / seconds:14.1f}")
    print(f"{'arviz.psislw':24}{reference:9.3f}{1:14.1f}")
    expected = torch.as_tensor(az.psislw(array)[1])
    print(f"largest difference of k: {(pareto_k(lw) - expected).abs().max():.1e}")


if __name__ == "__main__":
    main()
