"""One digit of MNIST against the rest: a model of one digit, scored on all test images, ROC-AUC times 100.

All methods see grey images of one norm (with --raw the others see them as they are, too). The score is minus the ELBO of a VAE
with a normal likelihood of one learned noise. The norm, the likelihood and the size were fixed on validation images of the
digits 2, 3, 5 and 8 against the other digits, no test image among them. Beside it stand PCA's reconstruction error with 90 % of
the variance, and a mixture of ten normals and a one-class SVM on 32 whitened principal components. Deep SVDD (Ruff et al. 2018)
states 94.8.

    PYROVAE_DATA=... python tests/benchmarks/one_digit.py --seeds 0 --digits 0 1 2 3 4 5 6 7 8 9
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.svm import OneClassSVM

import pyrovae as pvae

SAMPLES = 10
OPTIONS = {"likelihood": "normal", "latent_dim": 16, "hidden": (200,)}


def unit(x: np.ndarray) -> np.ndarray:
    """Images of one norm, that of a usual one: a thin digit is else close to every model, for want of ink."""
    return 9.0 * x / np.linalg.norm(x, axis=1, keepdims=True)


def vae(a: np.ndarray, b: np.ndarray, seed: int, epochs: int) -> np.ndarray:
    train, test = (torch.from_numpy(part).float().reshape(-1, 1, 28, 28) for part in (a, b))
    model = pvae.build_vae((1, 28, 28), **OPTIONS, start=train, seed=seed)
    pvae.fit(model, train, epochs=epochs, batch_size=64, seed=seed, compile="trace", progress=False)
    options = {"score": "elbo", "num_samples": SAMPLES, "seed": seed, "progress": False}
    return pvae.uses.anomaly_scores(model, test, **options)["score"].values


def baselines(train: np.ndarray, test: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    full = PCA(0.9, random_state=seed).fit(train)
    small = PCA(32, whiten=True, random_state=seed).fit(train)
    a, b = small.transform(train), small.transform(test)
    return {
        "PCA": ((test - full.inverse_transform(full.transform(test))) ** 2).sum(1),
        "GMM": -GaussianMixture(10, reg_covar=1e-3, random_state=seed).fit(a).score_samples(b),
        "OCSVM": -OneClassSVM(nu=0.1, gamma="scale").fit(a).score_samples(b),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--raw", action="store_true", help="the others without the norm, too")
    parser.add_argument("--folder", type=Path, default=Path("build/one_digit"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    data = pvae.data.load("mnist", "grey")
    found: list[dict[str, float]] = []
    for seed in arguments.seeds:
        for digit in arguments.digits:
            path = arguments.folder / f"{digit}-{seed}-{arguments.epochs}.json"
            if not path.exists():
                train, y = data.train[data.train.label == digit], (data.test.label != digit).numpy()
                flat = [part.dense().x.reshape(len(part), -1).double().numpy() for part in (train, data.test)]
                scaled = [unit(part) for part in flat]
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    scores = {"VAE": vae(*scaled, seed, arguments.epochs), **baselines(*scaled, seed)}
                    if arguments.raw:
                        scores |= {f"{name}, raw": score for name, score in baselines(*flat, seed).items()}
                path.write_text(json.dumps({m: 100 * roc_auc_score(y, s) for m, s in scores.items()}))
            found.append(json.loads(path.read_text()))
            print(digit, seed, {name: round(value, 2) for name, value in found[-1].items()}, flush=True)
    means = {name: np.mean([one[name] for one in found]) for name in found[0]}
    print(f"mean of {len(found)}:", {name: round(float(value), 2) for name, value in means.items()}, "Deep SVDD 94.8")


if __name__ == "__main__":
    main()
