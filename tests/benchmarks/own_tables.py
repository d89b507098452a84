"""A mixed table of a known latent model, trained from the command line with no option: evidence, imputation, coverage.

800 rows of two latents: columns of reals (scales 1e-3 and 1e5), of a positive number, a count, a truth value, a category and
grades from 1 to 5, 15 % of all entries missing at random. Beside the command line's run stand the model of the same family
built by hand with the true number of latents and the true kinds (the better of two trainings by validation), the mean or
mode, and scikit-learn's ``IterativeImputer``, as it is and over random forests. Evidence is in nats per row of 1,000 fresh rows.

Hidden entries are pooled over the seeds: the coverage of central 90 % intervals (numbers) and of the smallest sets of levels
that hold 90 % (levels), the randomized probability integral transform, and the expected calibration error of the
probabilities of levels in ten bins. What each seed found is written to the folder, so that a later run goes on.

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
    return pvae.log_marginal(vae, rows, method="importance", num_samples=100, seed=0, progress=False)[
        "log_marginal"
    ].values


def imputed(
    vae: pvae.VAE, data: pvae.data.Data, truth: np.ndarray, hidden: np.ndarray, seed: int
) -> tuple[dict[str, float], dict[str, list]]:
    """The errors of means and modes; and for each hidden entry whether it is covered, its PIT, and levels' probabilities."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pvae.impute(vae, data, num_samples=200, num_proposals=300, seed=0, progress=False)
    draws = found.draws.double().numpy()
    center, rng = draws.mean(0), np.random.default_rng(seed)
    entries: dict[str, list] = {"covered": [], "in set": [], "pit": [], "probability": [], "is level": []}
    for j, name in enumerate(data.columns):
        at = hidden[:, j]
        own, true = draws[:, at, j], truth[at, j]
        below, equal = (own < true).sum(0), (own == true).sum(0)
        entries["pit"] += list((below + rng.random(len(true)) * (equal + 1)) / (len(own) + 1))
        if name in NUMBERS:
            low, high = np.quantile(own, [0.05, 0.95], axis=0, method="inverted_cdf" if name == "visits" else "linear")
            entries["covered"] += list((low <= true) & (true <= high))
            continue
        shares = np.stack([(own == k).mean(0) for k in range(len(data.levels[name]))])
        center[at, j] = shares.argmax(0)
        order = (-shares).argsort(0)
        before = np.take_along_axis(shares, order, 0).cumsum(0) - np.take_along_axis(shares, order, 0)
        place = (order == true).argmax(0)
        entries["in set"] += list(before[place, np.arange(len(true))] < 0.9 - 1e-9)
        entries["probability"] += list(shares.T.ravel())
        entries["is level"] += list((true[:, None] == np.arange(len(shares))).ravel())
    return score(center, truth, hidden, data), {k: [round(float(v), 4) for v in vs] for k, vs in entries.items()}


def calibration(entries: list[dict[str, list]]) -> dict[str, float]:
    """Coverage, uniformity and calibration of the entries of all seeds; a standard error of a share counts entries once."""
    from scipy.stats import kstest

    pooled = {name: np.concatenate([np.asarray(one[name], float) for one in entries]) for name in entries[0]}
    share, hit = pooled["probability"], pooled["is level"]
    bins = np.minimum((share * 10).astype(int), 9)
    gaps = [abs((share - hit)[bins == k].sum()) for k in range(10)]
    uniform = kstest(pooled["pit"], "uniform")
    deciles = np.histogram(pooled["pit"], 10, (0, 1))[0] / len(pooled["pit"])
    print("deciles of the PIT:", " ".join(f"{decile:.3f}" for decile in deciles))
    return {
        "numbers covered": pooled["covered"].mean(),
        "levels in sets": pooled["in set"].mean(),
        "PIT, largest gap": uniform.statistic,
        "its p-value": uniform.pvalue,
        "calibration error": sum(gaps) / len(share),
        "entries": len(pooled["pit"]),
    }


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
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, SimpleImputer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mean = SimpleImputer().fit_transform(coded)
        scale = np.nanstd(coded, 0)
        iterative = IterativeImputer(max_iter=20, random_state=0).fit_transform(coded / scale) * scale
        forest = IterativeImputer(
            RandomForestRegressor(50, min_samples_leaf=3, random_state=0), max_iter=5, random_state=0
        )
        forests = forest.fit_transform(coded / scale) * scale
    modes = SimpleImputer(strategy="most_frequent").fit_transform(coded)
    for j, name in enumerate(data.columns):
        if name in LEVELS:
            mean[:, j] = modes[:, j]
            for found in (iterative, forests):
                found[:, j] = found[:, j].round().clip(0, len(data.levels[name]) - 1)
    return {"mean or mode": mean, "IterativeImputer": iterative, "over forests": forests}


def one(seed: int, folder: Path) -> dict[str, object]:
    frame, hidden = simulate(800, seed)
    folder.mkdir(parents=True, exist_ok=True)
    path, run, kept_as = (
        folder / f"{word}-{seed}{end}" for word, end in (("table", ".csv"), ("run", ""), ("seed", ".json"))
    )
    if kept_as.exists():
        return json.loads(kept_as.read_text())
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
    entries: dict[str, object] = {}
    for name, model, rows in (("command line", vae, data), ("model by hand", other, hand)):
        result[name], entries[name] = imputed(model, rows, truth, hidden, seed)
    for name, found in baselines(data.x.double().numpy(), data).items():
        result[name] = score(found, truth, hidden, data)
    kept_as.write_text(json.dumps({**result, "entries": entries}))
    return {**result, "entries": entries}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--folder", type=Path, default=Path("build/own_tables"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for seed in arguments.seeds:
        results.append(one(seed, arguments.folder))
        print(json.dumps({name: value for name, value in results[-1].items() if name != "entries"}), flush=True)
    differences = [float(str(result["difference"])) for result in results]
    print(f"evidence less that of the model by hand: {np.mean(differences):.3f} nats per row over {len(results)} seeds")
    for name in ("command line", "model by hand", "mean or mode", "IterativeImputer", "over forests"):
        cells = {key: np.mean([result[name][key] for result in results]) for key in results[0][name]}  # type: ignore[index]
        print(f"{name:18s}", {key: round(float(value), 3) for key, value in cells.items()})
    for name in ("command line", "model by hand"):
        found = calibration([result["entries"][name] for result in results])  # type: ignore[index]
        print(f"{name:18s}", {key: round(float(value), 3) for key, value in found.items()})


if __name__ == "__main__":
    main()
