"""A table of held-out evidence with paired standard errors, for the benchmarks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np

import pyrovae as pvae


def evidence(program: object, x: object, num_samples: int = 1000) -> dict:
    """log p(x) of each row, the mean ELBO and the share of unreliable rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the unreliable rows are counted in the table
        found = pvae.log_marginal(program, x, method="importance", num_samples=num_samples, seed=1, progress=False)
    return {
        "log_marginal": found.log_marginal.values,
        "elbo": float(found.elbo.mean()),
        "bad_k": float((found.pareto_k > 0.7).mean()),
    }


def averaged(refits: Sequence[dict]) -> dict:
    """The mean of refits row by row, and the standard deviation of their means: the spread between seeds."""
    rows = np.stack([refit["log_marginal"] for refit in refits])
    return {
        "log_marginal": rows.mean(0),
        "elbo": float(np.mean([refit["elbo"] for refit in refits])),
        "bad_k": float(np.mean([refit["bad_k"] for refit in refits])),
        "seed_sd": float(rows.mean(1).std(ddof=1)),
    }


def print_table(title: str, results: Mapping[str, dict], dims: int | None = None) -> None:
    """Rows ranked by held-out log p(x); differences to the best are paired over the same rows."""
    means = {name: result["log_marginal"].mean() for name, result in results.items()}
    ranked = sorted(results, key=means.get, reverse=True)
    best = results[ranked[0]]["log_marginal"]
    print(title)
    bits = f" {'bits/dim':>9s}" if dims else ""
    bits += f" {'seed sd':>8s}" if any("seed_sd" in result for result in results.values()) else ""
    print(f"{'model':38s} {'log p(x)':>10s} {'diff':>9s} {'se':>7s} {'elbo':>10s} {'k>0.7':>6s}{bits}")
    for name in ranked:
        result, difference = results[name], results[name]["log_marginal"] - best
        error = difference.std(ddof=1) / len(best) ** 0.5
        bits = f" {-means[name] / dims / np.log(2):9.3f}" if dims else ""
        bits += f" {result['seed_sd']:8.3f}" if "seed_sd" in result else ""
        print(
            f"{name:38s} {means[name]:10.3f} {difference.mean():9.3f} {error:7.3f} {result['elbo']:10.3f} "
            f"{result['bad_k']:6.0%}{bits}"
        )
