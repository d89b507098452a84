"""A mixed table of a known latent model, trained from the command line with no option: evidence, imputation, coverage.

800 rows of two latents: columns of reals (scales 1e-3 and 1e5), of a positive number, a count, a truth value, a category and
grades from 1 to 5, 15 % of all entries missing at random. Beside the command line's run stand the model of the same family
built by hand with the true number of latents and the true kinds (the better of two trainings by validation), the mean or
mode, and scikit-learn's ``IterativeImputer``. Evidence is in nats per row of 1,000 fresh rows.

    python tests/benchmarks/own_tables.py --seeds 0 1 2 --folder build/own_tables
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyro.distributions as dist
import torch
from typer.testing import CliRunner

import pyrovae as pvae
from pyrovae.cli import app

NUMBERS, LEVELS = ("length", "distance", "income", "visits"), ("smoker", "color", "grade")
KINDS = {"length": "real", "distance": "real", "income": "positive", "visits": "count"} | {
    "smoker": "binary",
    "color": "category",
    "grade": "ordinal",
}
MISSING, FRESH = 0.15, 1000


def simulate(rows: int, seed: int, model: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Complete rows of the latent model, and which entries are hidden."""
    weights = np.random.default_rng(1000 + model).normal(size=(2, 10))
    rng = np.random.default_rng(seed)
    eta = rng.normal(size=(rows, 2)) @ weights
    colors = eta[:, 5:8] + rng.gumbel(size=(rows, 3))
    grades = 1 + np.digitize(1.5 * eta[:, 8] + rng.logistic(size=rows), [-2.0, -0.7, 0.7, 2.0])
    frame = pd.DataFrame(
        {
            "length": 1e-3 * (3 + eta[:, 0] + 0.5 * rng.normal(size=rows)),
            "distance": 1e5 * (np.tanh(eta[:, 1]) + 0.3 * rng.normal(size=rows)),
            "income": np.exp(9 + 0.6 * eta[:, 2] + 0.3 * rng.normal(size=rows)),
            "visits": rng.poisson(np.exp(np.minimum(1.2 + 0.5 * eta[:, 3], 6))),
            "smoker": (rng.random(rows) < 1 / (1 + np.exp(-2 * eta[:, 4]))).astype(int),
            "color": np.array(["red", "green", "blue"])[colors.argmax(1)],
            "grade": grades,
        }
    )
    return frame, rng.random(frame.shape) < MISSING


def by_hand(data: pvae.data.Data, seed: int) -> pvae.VAE:
    """The better of two trainings of the true kinds with the true number of latents, by the validation ELBO."""
    found = []
    for rate, decay in ((1e-2, 1e-2), (5e-3, 1e-1)):
        schema = pvae.TableSchema.of(data.train)
        torch.manual_seed(seed)
        net = pvae.conditionals.TableNetwork(pvae.MLP(schema.num_features, (32,)), schema)
        vae = pvae.VAE(
            pvae.standard_normal(2),
            pvae.TableLikelihood(pvae.MLP(2, (32,)), schema=schema),
            pvae.Factorized(dist.Normal, net, event_shape=2),
        )
        schedule = pvae.schedules.one_cycle(rate, epochs=250)
        options = {"validation": data.validation, "keep_best": True, "weight_decay": decay, "progress": False}
        history = pvae.fit(vae, data.train, epochs=250, batch_size=64, learning_rate=schedule, seed=seed, **options)
        found.append((max(history["validation_elbo"]), vae))
    return max(found, key=lambda pair: pair[0])[1]


def evidence(vae: pvae.VAE, rows: pvae.data.Data) -> np.ndarray:
    return pvae.log_marginal(vae, rows, num_samples=100, seed=0, progress=False)["log_marginal"].values


def imputed(vae: pvae.VAE, data: pvae.data.Data, truth: np.ndarray, hidden: np.ndarray) -> dict[str, float]:
    """Error of means and modes, coverage of 90 % intervals, and calibration of probabilities, on the hidden entries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        draws = (
            pvae.impute(vae, data, num_samples=200, num_proposals=300, seed=0, progress=False).draws.double().numpy()
        )
    center = draws.mean(0)
    result = {}
    covered = []
    for j, name in enumerate(data.columns):
        at = hidden[:, j]
        own, true = draws[:, at, j], truth[at, j]
        if data.kinds[name] in ("real", "positive", "count"):
            low, high = np.quantile(own, [0.05, 0.95], axis=0, method="inverted_cdf" if name == "visits" else "linear")
            covered.append((low <= true) & (true <= high))
        else:
            center[:, j] = [np.bincount(codes.astype(int)).argmax() for codes in draws[:, :, j].T]
    result["coverage"] = float(np.concatenate(covered).mean())
    return result | score(center, truth, hidden, data)


def score(found: np.ndarray, truth: np.ndarray, hidden: np.ndarray, data: pvae.data.Data) -> dict[str, float]:
    errors: dict[str, list[float]] = {"nrmse": [], "wrong": []}
    for j, name in enumerate(data.columns):
        at = hidden[:, j]
        if name in NUMBERS:
            errors["nrmse"].append(np.sqrt(np.mean((found[at, j] - truth[at, j]) ** 2)) / truth[:, j].std())
        else:
            errors["wrong"].append(float((found[at, j] != truth[at, j]).mean()))
    return {name: float(np.mean(values)) for name, values in errors.items()}


def baselines(coded: np.ndarray, data: pvae.data.Data) -> dict[str, np.ndarray]:
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, SimpleImputer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mean = SimpleImputer().fit_transform(coded)
        scale = np.nanstd(coded, 0)
        iterative = IterativeImputer(max_iter=20, random_state=0).fit_transform(coded / scale) * scale
    modes = SimpleImputer(strategy="most_frequent").fit_transform(coded)
    for j, name in enumerate(data.columns):
        if name in LEVELS:
            mean[:, j] = modes[:, j]
            iterative[:, j] = iterative[:, j].round().clip(0, len(data.levels[name]) - 1)
    return {"mean or mode": mean, "IterativeImputer": iterative}


def one(seed: int, folder: Path) -> dict[str, object]:
    frame, hidden = simulate(800, seed)
    folder.mkdir(parents=True, exist_ok=True)
    path, run = folder / f"table-{seed}.csv", folder / f"run-{seed}"
    frame.astype(object).mask(hidden).to_csv(path, index=False)
    if not (run / "config.json").exists():
        words = ["train", str(path), "--out", str(run), "--seed", str(seed), "--no-report", "--no-figures", "-q"]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
    kept = pvae.files.Run.read(run).config["data"]
    data = pvae.data.load(path, seed=kept["seed"], kinds=kept["kinds"])
    hand = pvae.data.load(path, seed=kept["seed"], kinds=KINDS)
    vae, other = pvae.load(run), by_hand(hand, seed)
    fresh, mask = simulate(FRESH, 10_000 + seed)
    fresh = fresh.astype(object).mask(mask)
    ours = evidence(vae, data.train.matched(pvae.data.as_data(fresh, kinds=kept["kinds"])))
    theirs = evidence(other, hand.train.matched(pvae.data.as_data(fresh, kinds=KINDS)))
    truth = data.matched(pvae.data.as_data(frame, kinds=kept["kinds"])).x.double().numpy()
    result: dict[str, object] = {"seed": seed, "kinds": kept["kinds"]}
    result |= {"evidence": float(ours.mean()), "by hand": float(theirs.mean())}
    result |= {"difference": float((ours - theirs).mean()), "error": float((ours - theirs).std() / math.sqrt(FRESH))}
    result["command line"] = imputed(vae, data, truth, hidden)
    result["model by hand"] = imputed(other, hand, truth, hidden)
    for name, found in baselines(data.x.double().numpy(), data).items():
        result[name] = score(found, truth, hidden, data)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--folder", type=Path, default=Path("build/own_tables"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for seed in arguments.seeds:
        results.append(one(seed, arguments.folder))
        print(json.dumps(results[-1]), flush=True)
    differences = [float(str(result["difference"])) for result in results]
    print(f"evidence less that of the model by hand: {np.mean(differences):.3f} nats per row over {len(results)} seeds")
    for name in ("command line", "model by hand", "mean or mode", "IterativeImputer"):
        cells = {key: np.mean([result[name][key] for result in results]) for key in results[0][name]}  # type: ignore[index]
        print(f"{name:18s}", {key: round(float(value), 3) for key, value in cells.items()})


if __name__ == "__main__":
    main()
