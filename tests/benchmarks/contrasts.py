"""False discoveries of `uses.contrast`: on data drawn from the fitted model, and without an effect with 4 donors a side.

A VAE of counts with two latents is fitted to counts that a decoder made. Then 100 data sets are drawn from the fitted model:
pairs of rows (the estimand is the pair), and two sides of 40 rows around a center each, of prior variance 1/2 within and
between, so that each row is one of the prior (the estimand is the difference of the two centers' means). A feature is changed
where the true log fold is above delta. Reported are the share of false ones among those called at an expected 5 %, its
standard error over data sets, and power. Without an effect: donors differ, sides do not.

``donors`` takes counts that no VAE made: negative binomial, 200 genes, 4 donors a side with 60 cells each, log rates that differ
between genes, between cells along two programs of genes, between donors gene by gene (sd .25), and in 20 genes between the sides
(.9 up or down); sizes are lognormal. Reported are false discoveries and power of a VAE with donors as units and with cells,
of two-sided t-tests of the donors' log pseudobulk rates with Benjamini and Hochberg's rule, and, where scvi-tools is installed
(an environment of its own is best), of its own function on its own model, each at 5 %, ours and theirs at the same delta.
Run: OMP_NUM_THREADS=1 nice python tests/benchmarks/contrasts.py [quick], or contrasts.py donors [SETS]
"""

import logging
import sys
import warnings

import numpy as np
import pyro.distributions as dist
import torch
from scipy import stats

import pyrovae as pvae
from pyrovae.uses import contrast

FEATURES, DELTA = 60, 0.5


def fitted(seed):
    """A VAE of counts, fitted to counts of a two-dimensional decoder."""
    generator = torch.Generator().manual_seed(seed)
    weight = 0.5 * torch.randn(2, FEATURES, generator=generator)
    rates = (torch.randn(2000, 2, generator=generator) @ weight + 1.0).exp()
    x = torch.poisson(rates, generator=generator)
    torch.manual_seed(seed)
    likelihood = pvae.Factorized(dist.Poisson, pvae.MLP(2, (32,)), FEATURES)
    vae = pvae.VAE(pvae.standard_normal(2), likelihood, pvae.FullNormal(pvae.MLP(FEATURES, (64,)), 2))
    pvae.fit(vae, x, epochs=40, batch_size=100, learning_rate=3e-3, seed=seed, progress=False)
    return vae.eval()


def log_rate(vae, z):
    with torch.no_grad():
        return vae.likelihood(z).mean.log()


def counts(vae, z):
    with torch.no_grad():
        return vae.likelihood(z).sample()


def judged(found, truth):
    called, changed = found.fdr <= 0.05, np.abs(truth) > DELTA
    false = (called & ~changed).sum() / max(called.sum(), 1)
    return false, (called & changed).sum() / max(changed.sum(), 1), called.sum()


def report(name, rows):
    false, power, called = np.array(rows).T
    error = false.std(ddof=1) / len(false) ** 0.5
    print(
        f"{name:38} false discoveries {false.mean():.4f} +- {error:.4f} (target .05), power {power.mean():.2f}, "
        f"called {called.mean():.1f} of {FEATURES}, {len(rows)} data sets",
        flush=True,
    )


GENES, CHANGED, DONORS, CELLS, FOLD = 200, 20, 4, 60, 0.9


def of_donors(seed):
    """Counts (cells, genes), sizes, donors, sides and the true log folds."""
    random = np.random.default_rng(seed)
    side, donor = np.repeat([0, 1], DONORS * CELLS), np.repeat(np.arange(2 * DONORS), CELLS)
    fold = np.where(np.arange(GENES) < CHANGED, FOLD * random.choice([-1, 1], GENES), 0.0)
    state = random.normal(size=(len(side), 2)) @ random.normal(0, 0.3, (2, GENES))
    rate = (
        random.normal(0.0, 1.0, GENES)
        + state
        + random.normal(0, 0.25, (2 * DONORS, GENES))[donor]
        + np.outer(side, fold)
    )
    size, theta = random.lognormal(0.0, 0.3, len(side)), random.gamma(4.0, 0.5, GENES) + 0.3
    counts = random.poisson(random.gamma(theta, size[:, None] * np.exp(rate) / theta))
    return counts.astype(np.float32), size.astype(np.float32), donor, side, fold


def by_vae(counts, size, donor, side, seed):
    """Genes called changed with donors as units, and with cells."""
    torch.manual_seed(seed)
    own = {"dispersion": torch.nn.Parameter(torch.ones(GENES)), "size_factor": pvae.FromCovariate("size")}
    likelihood = pvae.Factorized(pvae.SizedNegativeBinomial, pvae.MLP(10, (64,)), GENES, **own)
    posterior = pvae.Factorized(dist.Normal, pvae.MLP(GENES, (64,)), 10, preprocess=torch.log1p)
    vae = pvae.VAE(pvae.standard_normal(10), likelihood, posterior)
    rows = pvae.data.as_data(torch.as_tensor(counts), {"size": torch.as_tensor(size)})
    options = {"epochs": 150, "batch_size": 64, "learning_rate": 2e-3, "compile": "trace"}
    pvae.fit(vae, rows, **options, seed=seed, progress=False)
    first, second = (rows[torch.as_tensor(np.flatnonzero(side == number))] for number in (1, 0))
    options = {"delta": 0.25, "quantity": "log_mean", "under": {"size": 1.0}, "num_samples": 20, "num_proposals": 200}
    units = donor[side == 1], donor[side == 0]
    found = [contrast(vae, first, second, groups=g, seed=seed, progress=False, **options) for g in (units, None)]
    return {"contrast, donors": found[0].fdr <= 0.05, "contrast, cells": found[1].fdr <= 0.05}


def by_pseudobulk(counts, size, donor, side):
    """Genes called changed by t-tests of the donors' log rates, at 5 % by Benjamini and Hochberg."""
    log_rate = np.log([(counts[donor == d].sum(0) + 0.5) / size[donor == d].sum() for d in range(2 * DONORS)])
    p = stats.ttest_ind(log_rate[DONORS:], log_rate[:DONORS]).pvalue
    return {"pseudobulk t-tests": stats.false_discovery_control(p) <= 0.05}


def by_scvi(counts, size, side, seed):
    """Genes called changed by scvi-tools; nothing where it is not installed."""
    try:
        import anndata
        import scvi
    except ImportError:
        return {}
    scvi.settings.seed, scvi.settings.verbosity = seed, logging.ERROR
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    cells = anndata.AnnData(counts, obs={"size": size, "side": np.array(["a", "b"])[side]})
    scvi.model.SCVI.setup_anndata(cells, size_factor_key="size")
    model = scvi.model.SCVI(cells, gene_likelihood="nb")
    model.train(accelerator="cpu", enable_progress_bar=False, logger=False, max_epochs=150)
    plan = {"groupby": "side", "group1": "b", "group2": "a", "mode": "change", "delta": 0.25 / np.log(2)}
    found = model.differential_expression(**plan, fdr_target=0.05, silent=True).reindex(cells.var_names)
    return {f"scvi-tools {scvi.__version__}": found["is_de_fdr_0.05"].to_numpy(dtype=bool)}


def beside_others(sets):
    results = {}
    for seed in range(sets):
        counts, size, donor, side, fold = of_donors(seed)
        calls = by_pseudobulk(counts, size, donor, side) | by_vae(counts, size, donor, side, seed)
        calls |= by_scvi(counts, size, side, seed)
        for name, called in calls.items():
            false = (called & (fold == 0)).sum() / max(called.sum(), 1)
            results.setdefault(name, []).append([false, (called & (fold != 0)).sum() / CHANGED, called.sum()])
            mean, error = np.mean(results[name], 0), np.std(results[name], 0, ddof=1 if seed else 0) / (seed + 1) ** 0.5
            told = ", ".join(f"{m:.3f} +- {e:.3f}" for m, e in zip(mean, error, strict=True))
            print(f"{seed + 1} sets, {name:20} false, power, called: {told}", flush=True)


def main(quick):
    sets = 20 if quick else 100
    vae = fitted(0)
    options = {"delta": DELTA, "quantity": "log_mean", "num_samples": 100, "num_proposals": 500, "progress": False}
    pairs, sides, rates = [], [], {True: [], False: []}
    for seed in range(sets):
        torch.manual_seed(1000 + seed)
        z = torch.randn(2, 2)
        x = counts(vae, z)
        truth = log_rate(vae, z).numpy()
        pairs.append(
            judged(contrast(vae, x[:1], x[1:], estimand="population", seed=seed, **options), truth[0] - truth[1])
        )
        center = torch.randn(2, 1, 2) * 0.5**0.5
        x = counts(vae, center + 0.5**0.5 * torch.randn(2, 40, 2))
        many = log_rate(vae, center + 0.5**0.5 * torch.randn(2, 4000, 2)).mean(1).numpy()
        sides.append(judged(contrast(vae, x[0], x[1], seed=seed, **options), many[0] - many[1]))
        donors = torch.randn(8, 1, 2) * 0.5**0.5
        x = counts(vae, donors + 0.5**0.5 * torch.randn(8, 20, 2)).flatten(0, 1)
        labels = np.repeat(np.arange(4), 20)
        for known, groups in ((True, (labels, labels)), (False, None)):
            found = contrast(vae, *x.chunk(2), groups=groups, seed=seed, **options)
            rates[known].append([((found.low > 0) | (found.high < 0)).mean(), (found.fdr <= 0.05).mean()])
        told = [" ".join(f"{number:.3f}" for number in one) for one in (pairs[-1], sides[-1])]
        print(f"set {seed}, false, power, called: pair {told[0]}; sides {told[1]}", flush=True)
        if seed % 10 == 9:
            report("pairs of rows", pairs)
            report("two sides of 40 rows", sides)
            for known, found in rates.items():
                wrong, called = np.mean(found, 0)
                error = np.std(found, 0, ddof=1)[0] / len(found) ** 0.5
                name = f"no effect, 4 donors a side, {'with' if known else 'without'} groups"
                print(f"{name}: intervals without 0 {wrong:.3f} +- {error:.3f}, called {called:.3f}", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if "donors" in sys.argv[1:]:
        beside_others(int(next(iter(sys.argv[2:]), 5)))
    else:
        main("quick" in sys.argv[1:])
