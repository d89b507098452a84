"""A guide beside its reference posterior in one ArviZ forest: a VAE trained on digits, 20 test rows.

python tests/benchmarks/arviz_forest.py [--method nuts] [--out arviz_forest.png]
"""

import argparse
import time
import warnings

import numpy as np
import pyro.distributions as dist

import pyrovae as pvae
from pyrovae.arviz import datasets_of, import_arviz, split_chains, to_arviz, to_datasets
from pyrovae.checks import Sampler, reference_posterior


def trained(data, epochs):
    vae = pvae.VAE(
        pvae.standard_normal(2),
        pvae.Factorized(dist.Binomial, pvae.MLP(2, (128,)), event_shape=(1, 8, 8), total_count=16),
        pvae.Factorized(dist.Normal, pvae.MLP((1, 8, 8), (128,)), event_shape=2),
    )
    pvae.fit(vae, data.train, epochs=epochs, seed=0, progress=False)
    return vae


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=["hmc", "nuts"], default="nuts")
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--out", default="arviz_forest.png")
    options = parser.parse_args()
    data = pvae.data.load("digits")
    vae, rows = trained(data, options.epochs), data.test[: options.rows]
    sampler, start = Sampler(num_chains=4, num_warmup=200, num_samples=200), time.perf_counter()
    reference = reference_posterior(vae, rows, method=options.method, sampler=sampler)
    print(
        f"{options.method}: {(time.perf_counter() - start) / len(rows):.2f} s a row, R-hat {reference.max_rhat.max():.3f}"
    )
    dims = {"z": ["latent_dim"]}
    guide = pvae.from_pyro_svi(vae, rows, num_samples=800, dims=dims, seed=0, progress=False)
    chains = to_arviz(to_datasets({"posterior": reference.values}, dims={"z": ["data", "latent_dim"]}))
    compare(guide, chains)
    draw({"guide": split_chains(guide, 4), options.method: chains}, options.out)


def compare(guide, chains):
    """How far the guide's means lie from the reference's, in its sd, and the ratio of sds."""
    ours, theirs = (datasets_of(idata)["posterior"]["z"] for idata in (guide, chains))
    over = ["chain", "draw"]
    shift = np.abs(ours.mean(over) - theirs.mean(over)) / theirs.std(over)
    ratio = ours.std(over) / theirs.std(over)
    print(f"means apart by {float(shift.median()):.2f} sd (median), {float(shift.max()):.2f} (largest)")
    print(
        f"sd of the guide over the reference's: {float(ratio.median()):.2f} (median), {float(ratio.min()):.2f} (least)"
    )


def draw(posteriors, path):
    import matplotlib

    matplotlib.use("Agg")
    az = import_arviz()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ's own, about newer matplotlib
        if az.__version__.startswith("0."):
            axes = az.plot_forest(
                list(posteriors.values()), model_names=list(posteriors), var_names=["z"], combined=True
            )
            axes[0].figure.savefig(path, dpi=80, bbox_inches="tight")
        else:
            az.plot_forest(posteriors, var_names=["z"]).savefig(path)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
