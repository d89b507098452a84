"""False discoveries of `uses.contrast`: on data drawn from the fitted model, and without an effect with 4 donors a side.

A VAE of counts with two latents is fitted to counts that a decoder made. Then 100 data sets are drawn from the fitted model:
pairs of rows (the estimand is the pair), and two sides of 40 rows around a center each, of prior variance 1/2 within and
between, so that each row is one of the prior (the estimand is the difference of the two centers' means). A feature is changed
where the true log fold is above delta. Reported are the share of false ones among those called at an expected 5 %, its
standard error over data sets, and power. Without an effect: donors differ, sides do not.
Run: OMP_NUM_THREADS=1 nice python tests/benchmarks/contrasts.py [quick]
"""

import sys
import warnings

import numpy as np
import pyro.distributions as dist
import torch

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


def main(quick):
    warnings.simplefilter("ignore")
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
    main("quick" in sys.argv[1:])
