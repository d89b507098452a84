"""`fit(vae, x)` without options beside a hand-written loop of as many steps, and beside the best of a small grid.

Run by hand: `python tests/benchmarks/defaults.py [digits] [mnist] [table]`. Both train the same networks from the same
seed on the same number of steps; the loop is `SVI` with Adam and one cycle of each peak in `PEAKS`, and the likelihood
started at the data. Test ELBO in nats per datum; the shortfall is that of the defaults behind the best loop.

`python tests/benchmarks/defaults.py grid [NAME ...]` trains on 60 % of the rows of 12 data sets: by the defaults, by the
defaults with a tenth of these rows as `validation`, and by each peak of `GRID` over each share of the default epochs in
`LENGTHS`. The grid's best is chosen on 20 % of the rows and reported on the last 20 %, as the defaults are.
"""

import functools
import gzip
import itertools
import json
import math
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO

import pyrovae as pvae

PEAKS = (1e-3, 3e-3, 1e-2, 2e-2)
GRID, LENGTHS = (1e-3, 3e-3, 1e-2), (0.2, 1.0, 2.0)


def digits():
    data = pvae.data.load("digits")
    shape = (1, 8, 8)

    def vae():
        likelihood = pvae.Factorized(dist.Binomial, pvae.MLP(10, (128,)), shape, total_count=16)
        return pvae.VAE(pvae.standard_normal(10), likelihood, pvae.Factorized(dist.Normal, pvae.MLP(shape, (128,)), 10))

    return data.train.x.float(), data.test.x.float(), vae, {"epochs": 50}


def mnist():
    data = pvae.data.load("mnist")
    train, test = (part.drawn(0).dense().x.float() for part in (data.train, data.test[:2000]))
    shape = tuple(train.shape[1:])

    def vae():
        likelihood = pvae.Factorized(dist.Bernoulli, pvae.MLP(20, (200, 200)), shape)
        return pvae.VAE(
            pvae.standard_normal(20), likelihood, pvae.Factorized(dist.Normal, pvae.MLP(shape, (200, 200)), 20)
        )

    return train, test, vae, {"epochs": 5}


def table():
    """Eight columns in units from 0.1 to 10 with heavy tails; scales and degrees of freedom are learned numbers."""
    rng = np.random.default_rng(0)
    scale, mixing = 10.0 ** np.linspace(-1, 1, 8), rng.normal(size=(8, 3))
    x = rng.normal(size=8) + rng.normal(size=(2000, 3)) @ mixing.T + 0.5 * rng.standard_t(2.5, size=(2000, 8))
    x = torch.as_tensor(scale * x, dtype=torch.float32)

    def vae():
        own = {"scale": torch.nn.Parameter(torch.ones(8)), "df": torch.nn.Parameter(torch.full((8,), 5.0))}
        likelihood = pvae.Factorized(dist.StudentT, pvae.MLP(3, (64,)), 8, **own)
        return pvae.VAE(pvae.standard_normal(3), likelihood, pvae.Factorized(dist.Normal, pvae.MLP(8, (64,)), 3))

    return x[:1500], x[1500:], vae, {"epochs": 50}


def by_hand(vae, x, steps, peak, batch_size=128):
    """Pyro's loop, with all that a careful user adds: a start at the data, a warm-up and a cosine."""
    vae.likelihood.initialize(x[:5000])
    adam = lambda parameters: torch.optim.Adam(parameters, lr=peak, fused=True)  # noqa: E731
    optimizer = pvae.training.TorchOptimizer(adam, vae.parameters())
    svi, rate = SVI(vae.model, vae.guide, optimizer, Trace_ELBO()), pvae.schedules.one_cycle(peak, steps=steps)
    step, per_epoch = 0, math.ceil(len(x) / batch_size)
    while step < steps:
        for rows in torch.randperm(len(x)).split(batch_size):
            optimizer.set_learning_rate(rate(pvae.schedules.Progress.at(step, per_epoch)))
            svi.step(x[rows], size=len(x))
            step += 1


def shared(*path):
    return Path(os.environ["PYROVAE_DATA"]).joinpath(*path)


def odds(name):
    from scipy.io import loadmat

    return loadmat(shared("odds", f"{name}.mat"))["X"].astype(float)


def scikit(name):
    from sklearn import datasets

    return getattr(datasets, f"load_{name}")().data


def wine_quality():
    return np.genfromtxt(shared("uci", "wine", "data.csv.gz"), delimiter=",")[:, :12]


def chords():
    """Time steps of chorales: which of 88 notes sound."""
    with gzip.open(shared("jsb", "jsb-chorales-quarter.json.gz")) as file:
        steps = [step for song in json.load(file)["train"] for step in song]
    return np.stack([np.isin(np.arange(21, 109), step) for step in steps]).astype(float)


def image(name, variant):
    return pvae.data.load(name, variant, validation=0, test=1).train.dense().x.double().numpy()


SETS = {
    **{name: (lambda name=name: scikit(name), "student_t") for name in ("iris", "wine", "breast_cancer", "diabetes")},
    **{name: (lambda name=name: odds(name), "student_t") for name in ("cardio", "ionosphere", "pima", "letter")},
    "wine quality": (wine_quality, "student_t"),
    "chords": (chords, "bernoulli"),
    "digits": (lambda: image("digits", "counts"), "binomial"),
    "freyfaces": (lambda: image("freyfaces", "uint8"), "discretized_logistic"),
}
LEVELS = {"binomial": 17, "discretized_logistic": 256}


def scores_of(likelihood, train, others, **options):
    """Test ELBOs of other rows after one training."""
    levels = {"levels": LEVELS[likelihood]} if likelihood in LEVELS else {}
    shape = tuple(train.shape[1:])
    vae = pvae.build_vae(shape, likelihood=likelihood, latent_dim=5, hidden=(64,), start=train, seed=0, **levels)
    pvae.fit(vae, train, seed=0, progress=False, compile="trace", **options)
    return [float(pvae.elbo(vae, some, num_samples=20, seed=0, progress=False).elbo.mean()) for some in others]


def grid(names):
    """Print for each data set the test ELBO of the defaults, and that of the grid's best on the validation rows."""
    for name in names or SETS:
        read, likelihood = SETS[name]
        x = read()
        x = torch.as_tensor(x[np.random.default_rng(0).permutation(len(x))[:3000]], dtype=torch.float32)
        if likelihood in ("student_t", "normal"):  # rounded and repeated values would let a density grow without bound
            x = x[:, x.std(0) > 0]
            x = (x - x.mean(0)) / x.std(0)
            x += 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        train, held_out, test = x.split([len(x) - 2 * (len(x) // 5), len(x) // 5, len(x) // 5])
        epochs = pvae.schedules.default_epochs(math.ceil(len(train) / 128))

        score = functools.partial(scores_of, likelihood, train, (held_out, test))
        default, guarded, cells = score(), score(validation=0.1), {}
        for peak, share in itertools.product(GRID, LENGTHS):
            length = max(1, round(share * epochs))
            rate = pvae.schedules.one_cycle(peak, epochs=length)
            cells[peak, length] = score(epochs=length, learning_rate=rate)
        best = max(cells, key=lambda cell: cells[cell][0])
        print(
            f"{name:14} {len(train):5} rows: defaults ({epochs} epochs) {default[1]:8.2f}, grid's best (peak {best[0]:g}, "
            f"{best[1]} epochs) {cells[best][1]:8.2f}, defaults ahead by {default[1] - cells[best][1]:+.2f} nats "
            f"(validation {default[0] - cells[best][0]:+.2f}), with validation=0.1 by {guarded[1] - cells[best][1]:+.2f}",
            flush=True,
        )


def main(names):
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    if names[:1] == ["grid"]:
        grid(names[1:])
        return
    for name in names or ("digits", "table", "mnist"):
        train, test, make, options = {"digits": digits, "mnist": mnist, "table": table}[name]()
        scores = {}
        for label in ("defaults", *PEAKS):
            torch.manual_seed(0)
            vae, began = make(), time.process_time()
            if label == "defaults":
                history = pvae.fit(vae, train, **options, seed=0, progress=False)
                steps = history["step"][-1]
            else:
                by_hand(vae, train, steps, label)
            scores[label] = float(pvae.elbo(vae, test, num_samples=20, seed=0, progress=False).elbo.mean())
            seconds = time.process_time() - began
            print(f"{name}: {label!s:8} {steps:5} steps, test ELBO {scores[label]:8.2f}, {seconds:5.1f} s", flush=True)
        best = max(value for label, value in scores.items() if label != "defaults")
        print(f"{name}: the defaults are {best - scores['defaults']:+.2f} nats behind the best loop", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
