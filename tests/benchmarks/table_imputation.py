"""Mixed tables with 30 % of the entries missing at random: imputation error against the column mean and scikit-learn.

Numbers: root mean squared error in units of the column's standard deviation; the class column of wine and breast cancer is a
category, scored by the share of wrong labels (the column mean's is the most frequent label, ``IterativeImputer`` rounds).
Run by hand: ``python tests/benchmarks/table_imputation.py``.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import pandas as pd
import pyro.distributions as dist
import torch

import pyrovae as pvae
from pyrovae.evaluation import impute

LATENTS = 8


def tables() -> dict[str, tuple[pd.DataFrame, dict[str, str]]]:
    from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

    wine, cancer = load_wine(as_frame=True).frame, load_breast_cancer(as_frame=True).frame
    diabetes = load_diabetes(as_frame=True, scaled=False).frame
    positive = {name: "positive" for name in wine.columns if name != "target"}
    return {
        "wine": (wine.assign(target=wine.target.map("class {}".format)), positive),
        "breast cancer": (cancer.assign(target=cancer.target.map({0: "malignant", 1: "benign"})), {}),
        "diabetes": (
            diabetes.assign(sex=diabetes.sex.map({1.0: "a", 2.0: "b"}), age=diabetes.age.astype(int)),
            {
                "bmi": "positive",
                "bp": "positive",
                "target": "positive",
            },
        ),
    }


def hide(frame: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    hidden = np.random.default_rng(seed).random(frame.shape) < 0.3
    return frame.astype({c: "float64" for c in frame if frame[c].dtype.kind in "if"}).mask(hidden), hidden


def vae_imputation(schema: pvae.TableSchema, x: torch.Tensor, epochs: int, seed: int) -> tuple[np.ndarray, float]:
    torch.manual_seed(seed)
    net = pvae.conditionals.TableNetwork(pvae.MLP(schema.num_features, (64,), dropout=0.2), schema)
    vae = pvae.VAE(
        pvae.standard_normal(LATENTS),
        pvae.TableLikelihood(pvae.MLP(LATENTS, (64,)), schema=schema),
        pvae.Factorized(dist.Normal, net, event_shape=LATENTS),
    )
    pvae.fit(
        vae,
        x,
        epochs=epochs,
        batch_size=32,
        weight_decay=1e-2,
        validation=0.1,
        keep_best=True,
        seed=seed,
        progress=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = impute(vae, x, num_samples=200, num_proposals=1000, seed=seed, progress=False)
    draws = found.draws.numpy()
    center = draws.mean(0)
    for j in categories(schema):
        center[:, j] = [np.bincount(codes.astype(int)).argmax() for codes in draws[:, :, j].T]
    return center, float((found.pareto_k > 0.7).float().mean())


def categories(schema: pvae.TableSchema) -> list[int]:
    return [j for j, column in enumerate(schema.columns) if column.kind in ("category", "binary")]


def baselines(schema: pvae.TableSchema, coded: np.ndarray) -> dict[str, np.ndarray]:
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, SimpleImputer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {
            "column mean": SimpleImputer().fit_transform(coded),
            "IterativeImputer": IterativeImputer(max_iter=20, random_state=0).fit_transform(coded),
        }
    modes = SimpleImputer(strategy="most_frequent").fit_transform(coded)
    for j in categories(schema):
        found["column mean"][:, j] = modes[:, j]
        top = len(schema.columns[j].levels) - 1
        found["IterativeImputer"][:, j] = found["IterativeImputer"][:, j].round().clip(0, top)
    return found


def score(schema: pvae.TableSchema, truth: np.ndarray, found: np.ndarray, hidden: np.ndarray) -> tuple[float, float]:
    numbers = [j for j in range(truth.shape[1]) if j not in categories(schema)]
    error = ((found - truth) / truth.std(0))[:, numbers][hidden[:, numbers]]
    labels = categories(schema)
    wrong = (found != truth)[:, labels][hidden[:, labels]]
    return float(np.sqrt((error**2).mean())), float(wrong.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    print(
        f"{'table':15s} {'method':18s} {'rmse':>7s} {'sd':>6s} {'wrong labels':>13s} {'sd':>6s}   ({arguments.seeds} masks)"
    )
    for name, (frame, kinds) in tables().items():
        scores: dict[str, list] = {}
        unreliable: list[float] = []
        for seed in range(arguments.seeds):
            missing, hidden = hide(frame, seed)
            data = pvae.data.as_data(missing, kinds=kinds)
            schema = pvae.TableSchema.of(data)
            coded, truth = data.x.numpy(), data.matched(pvae.data.as_data(frame, kinds=kinds)).x.numpy()
            ours, bad = vae_imputation(schema, torch.as_tensor(coded, dtype=torch.float32), arguments.epochs, seed)
            unreliable.append(bad)
            for method, found in (baselines(schema, coded) | {"VAE": ours}).items():
                scores.setdefault(method, []).append(score(schema, truth, found, hidden))
        for method, values in scores.items():
            (rmse, wrong), (sd, wrong_sd) = np.mean(values, 0), np.std(values, 0)
            print(f"{name:15s} {method:18s} {rmse:7.3f} {sd:6.3f} {wrong:13.3f} {wrong_sd:6.3f}", flush=True)
        print(f"{name:15s} rows whose imputation weights have k > 0.7: {np.mean(unreliable):.0%}", flush=True)


if __name__ == "__main__":
    main()
