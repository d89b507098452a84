"""Anomalies of nine ODDS tables: a VAE's evidence beside what people use instead, on the same splits.

Each repetition splits the rows at random, 60 % to train on (anomalies among them, labels unseen) and 40 % to score. Columns are
standardized by the training rows. All methods have one configuration for all tables; that of the VAE was chosen on other tables
with planted anomalies. ROC-AUC and average precision, then mean ranks with Friedman's test, and the published ROC-AUC beside.

    PYROVAE_DATA=... python tests/benchmarks/odds.py --repetitions 10 --folder build/odds
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.io import loadmat
from scipy.stats import friedmanchisquare, rankdata
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.svm import OneClassSVM

import pyrovae as pvae

TABLES = ("wbc", "glass", "ionosphere", "pima", "vowels", "letter", "cardio", "optdigits", "shuttle")
STEPS, BATCH, RATE, HIDDEN = 2500, 64, 1e-2, (32,)
MOST_LATENTS = 10
SVM_ROWS = 5000
"""The one-class SVM trains on so many rows at most: its time grows with their square."""


def read(name: str) -> tuple[np.ndarray, np.ndarray]:
    found = loadmat(Path(os.environ["PYROVAE_DATA"]) / "odds" / f"{name}.mat")
    return found["X"].astype(float), found["y"].ravel().astype(int)


def split(x: np.ndarray, y: np.ndarray, repetition: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    order = np.random.default_rng(repetition).permutation(len(x))
    cut = int(0.6 * len(x))
    train, test = x[order[:cut]], x[order[cut:]]
    scale = train.std(0)
    scale[scale == 0] = 1.0
    return (train - train.mean(0)) / scale, (test - train.mean(0)) / scale, y[order[cut:]]


def vae(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    rows, columns = torch.from_numpy(train).float(), train.shape[1]
    latents = min(MOST_LATENTS, max(2, columns // 2))
    options = {"likelihood": "student_t", "latent_dim": latents, "hidden": HIDDEN, "start": rows, "seed": seed}
    model = pvae.build_vae(columns, **options)
    epochs = STEPS / -(-len(rows) // BATCH)
    rate = pvae.schedules.one_cycle(RATE, epochs=epochs)
    options = {"steps": STEPS, "batch_size": BATCH, "learning_rate": rate, "compile": "trace", "progress": False}
    pvae.fit(model, rows, seed=seed, **options)
    options = {"score": "evidence", "num_samples": 100, "seed": seed, "progress": False}
    return pvae.uses.anomaly_scores(model, torch.from_numpy(test).float(), **options)["score"].values


def pca(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Squared coordinates over their variances, summed over all components, as PyOD has it."""
    fitted = PCA(random_state=seed).fit(train)
    kept = fitted.explained_variance_ > 1e-9 * fitted.explained_variance_[0]
    return (fitted.transform(test)[:, kept] ** 2 / fitted.explained_variance_[kept]).sum(1)


def knn(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    return NearestNeighbors(n_neighbors=5).fit(train).kneighbors(test)[0][:, -1]


def one_class_svm(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    some = np.random.default_rng(seed).permutation(len(train))[:SVM_ROWS]
    return -OneClassSVM(nu=0.1, gamma="scale").fit(train[some]).score_samples(test)


METHODS = {
    "VAE evidence": vae,
    "IForest": lambda a, b, seed: -IsolationForest(n_estimators=100, random_state=seed).fit(a).score_samples(b),
    "LOF": lambda a, b, seed: -LocalOutlierFactor(n_neighbors=20, novelty=True).fit(a).score_samples(b),
    "OCSVM": one_class_svm,
    "GMM": lambda a, b, seed: -GaussianMixture(5, reg_covar=1e-4, random_state=seed).fit(a).score_samples(b),
    "KNN": knn,
    "PCA": pca,
}


def run(folder: Path, repetitions: int, tables: list[str]) -> Iterator[dict]:
    """The scores of each repetition and table, from the folder where they are there already."""
    folder.mkdir(parents=True, exist_ok=True)
    for repetition in range(repetitions):
        for name in tables:
            path = folder / f"{name}-{repetition}.json"
            if not path.exists():
                train, test, y = split(*read(name), repetition)
                found = {"table": name, "repetition": repetition, "auc": {}, "ap": {}}
                for method, score in METHODS.items():
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        values = score(train, test, repetition)
                    found["auc"][method] = roc_auc_score(y, values)
                    found["ap"][method] = average_precision_score(y, values)
                path.write_text(json.dumps(found))
                print(name, repetition, *(f"{m} {v:.3f}" for m, v in found["auc"].items()), flush=True)
            yield json.loads(path.read_text())


def table(results: list[dict], which: str, published: dict[str, dict[str, str]]) -> None:
    names = list(dict.fromkeys(result["table"] for result in results))
    known = ["AutoEncoder", "PCA", "KNN", "IForest", "LOF", "GMM", "best"] if which == "auc" else []
    print(f"\n{which}, mean of repetitions" + (" | published: " + ", ".join(known) if known else ""))
    print(f"{'':12}" + "".join(f"{method:>14}" for method in METHODS))
    means = []
    for name in names:
        own = [result[which] for result in results if result["table"] == name]
        values = np.array([[one[method] for method in METHODS] for one in own])
        means.append(values.mean(0))
        beside = " | " + " ".join(published[name][k] for k in known) if known else ""
        error = values.std(0, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.full(len(METHODS), np.nan)
        cells = "".join(f"{mean:8.3f}±{se:.3f}" for mean, se in zip(means[-1], error, strict=True))
        print(f"{name:12}{cells} ({len(values)}){beside}")
    stacked = np.array(means)
    print(f"{'mean':12}" + "".join(f"{value:14.3f}" for value in stacked.mean(0)))
    if known:
        of = {k: np.mean([float(published[name][k]) for name in names]) for k in known}
        print("published means: " + ", ".join(f"{k} {value:.3f}" for k, value in of.items()))
    ranks = np.array([rankdata(-row) for row in stacked])
    print(f"{'mean rank':12}" + "".join(f"{value:14.2f}" for value in ranks.mean(0)))
    if len(names) > 2:
        print(f"Friedman's test over {len(names)} tables: p = {friedmanchisquare(*stacked.T).pvalue:.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--tables", nargs="*", default=list(TABLES))
    parser.add_argument("--folder", type=Path, default=Path("build/odds"))
    arguments = parser.parse_args()
    results = list(run(arguments.folder, arguments.repetitions, arguments.tables))
    path = Path(os.environ["PYROVAE_DATA"]) / "odds" / "published_auc.csv"
    published = {line["Data"]: line for line in csv.DictReader(path.open())}
    table(results, "auc", published)
    table(results, "ap", published)


if __name__ == "__main__":
    main()
