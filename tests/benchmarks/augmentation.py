"""Whether draws of a VAE near labeled digits help a classifier: 10, 30 and 100 labeled digits a class, with and without.

The VAE is trained once, on the rows without their labels; each split draws its labeled rows anew. Beside it stand small shifts of
the images, which need no model. Run: python tests/benchmarks/augmentation.py [--splits 20] [--factor 5]
"""

import argparse

import numpy as np
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

import pyrovae as pvae
from pyrovae.uses import augment

CLASSIFIERS = {
    "logistic": lambda: LogisticRegression(C=1.0, max_iter=2000),
    "kernel machine": lambda: SVC(C=10.0),
}


def labeled(labels, count, random):
    return torch.cat(
        [torch.from_numpy(random.permutation(np.flatnonzero(labels == digit))[:count]) for digit in range(10)]
    )


def shifted(x, labels):
    """Each image, and the four that are one pixel to a side."""
    moved = [torch.roll(x, shift, axis) for axis in (2, 3) for shift in (-1, 1)]
    return torch.cat([x, *moved]), labels.repeat(5)


def interval(values):
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):6.2f} ± {half:.2f}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--factor", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=150)
    options = parser.parse_args()
    data = pvae.data.load("digits", "counts", seed=0)
    order = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(0))
    x, labels = data.x[order], data.label[order]
    pool, pool_labels, test, test_labels = x[:1200], labels[:1200], x[1200:], labels[1200:]
    vae = pvae.build_vae(pool, likelihood="beta_binomial", levels=17, latent_dim=10, hidden=(128, 128), seed=0)
    pvae.fit(vae, pool, epochs=options.epochs, seed=0, progress=False)
    print(f"accuracy in %, mean of {options.splits} splits with 95 % intervals; gains are of the same splits")
    for count in (10, 30, 100):
        for name, make in CLASSIFIERS.items():
            found = {"without": [], "with draws": [], "with shifts": []}
            for split in range(options.splits):
                chosen = labeled(pool_labels.numpy(), count, np.random.default_rng(split))
                own, known = pool[chosen], pool_labels[chosen]
                sets = (own, known), augment(vae, own, known, options.factor, seed=split), shifted(own, known)
                for column, (rows, marks) in zip(found.values(), sets, strict=True):
                    fitted = make().fit(rows.flatten(1).numpy() / 16, marks.numpy())
                    column.append(100 * fitted.score(test.flatten(1).numpy() / 16, test_labels.numpy()))
            gains = {n: np.subtract(v, found["without"]) for n, v in found.items() if n != "without"}
            cells = [f"{n} {interval(v)}" for n, v in found.items()] + [
                f"gain {n} {interval(v)}" for n, v in gains.items()
            ]
            print(f"{count:4} a class, {name}: " + "; ".join(cells), flush=True)


if __name__ == "__main__":
    main()
