"""A table of held-out evidence with paired standard errors, for the benchmarks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np

import pyrovae as pvae


def evidence(program: object, x: object, num_samples: int = 1000) -> dict:
    """log p(x) of each row, the mean ELBO and the share of unreliable rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the unreliable rows are counted in the table
        found = pvae.log_marginal(program, x, num_samples=num_samples, seed=1, progress=False)
    return {
        "log_marginal": found.log_marginal.values,
        "elbo": float(found.elbo.mean()),
        "bad_k": float((found.pareto_k > 0.7).mean()),
    }


def print_table(title: str, results: Mapping[str, dict], dims: int | None = None) -> None:
    """Rows ranked by held-out log p(x); differences to the best are paired over the same rows."""
    means = {name: result["log_marginal"].mean() for name, result in results.items()}
    ranked = sorted(results, key=means.get, reverse=True)
    best = results[ranked[0]]["log_marginal"]
    print(title)
    bits = f" {'bits/dim':>9s}" if dims else ""
    print(f"{'model':38s} {'log p(x)':>10s} {'diff':>9s} {'se':>7s} {'elbo':>10s} {'k>0.7':>6s}{bits}")
    for name in ranked:
        result, difference = results[name], results[name]["log_marginal"] - best
        error = difference.std(ddof=1) / len(best) ** 0.5
        bits = f" {-means[name] / dims / np.log(2):9.3f}" if dims else ""
        print(
            f"{name:38s} {means[name]:10.3f} {difference.mean():9.3f} {error:7.3f} {result['elbo']:10.3f} "
            f"{result['bad_k']:6.0%}{bits}"
        )
