"""HI-VAE's tables with its own masks: the error of imputation by kind, beside the mean or mode and ``IterativeImputer``.

Numbers: root mean squared error over the range of the column; categories: share of wrong levels; ordinals: mean distance of
ranks over the number of levels. Kinds are guessed but for categories and ordinals, which the table's own list of types names.

    PYROVAE_DATA=../shared/data python tests/benchmarks/hivae_tables.py --tables wine:20 wine:50 defaultCredit:20

Reference: Nazabal et al. 2020, HI-VAE, doi:10.1016/j.patcog.2020.107501, arXiv:1807.03653.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import pyrovae as pvae
from pyrovae.presets import suggest

STEPS, BATCH = 4000, 128


def table(name: str, percent: str) -> tuple[pd.DataFrame, np.ndarray, dict[str, str]]:
    """The complete table, which entries are hidden, and the kinds that the list of types names."""
    folder = Path(os.environ["PYROVAE_DATA"]) / "uci" / name
    types = pd.read_csv(folder / "data_types.csv")["type"]
    frame = pd.read_csv(folder / "data.csv.gz", header=None, names=[f"c{number}" for number in range(len(types))])
    hidden = np.zeros(frame.shape, dtype=bool)
    rows, columns = pd.read_csv(folder / f"Missing{percent}_1.csv.gz", header=None).to_numpy().T
    hidden[rows - 1, columns - 1] = True
    words = {"cat": "category", "ordinal": "ordinal"}
    return frame, hidden, {c: words[t] for c, t in zip(frame, types, strict=True) if t in words}


def by_vae(data: pvae.data.Data, latent_dim: int, seed: int) -> np.ndarray:
    vae = pvae.build_vae(
        len(data.columns), **suggest(data), latent_dim=latent_dim, hidden=(128,), start=data, seed=seed
    )
    epochs = math.ceil(STEPS * BATCH / len(data))
    schedule = pvae.schedules.one_cycle(5e-3, epochs=epochs)
    pvae.fit(vae, data, epochs=epochs, batch_size=BATCH, learning_rate=schedule, seed=seed, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        draws = pvae.impute(vae, data, num_samples=50, num_proposals=100, seed=seed, progress=False).draws.double()
    found = draws.mean(0).numpy()
    for j, name in enumerate(data.columns):
        if name in data.levels:
            codes = draws[:, :, j].long()
            shares = torch.stack([(codes == k).double().mean(0) for k in range(len(data.levels[name]))])
            found[:, j] = shares.argmax(0).numpy()
            if data.kinds[name] == "ordinal":  # the median has the least distance
                found[:, j] = codes.median(0).values.numpy()
    return found


def baselines(data: pvae.data.Data) -> dict[str, np.ndarray]:
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, SimpleImputer

    coded = data.x.double().numpy()
    scale = np.nanstd(coded, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mean = SimpleImputer().fit_transform(coded)
        iterative = IterativeImputer(max_iter=20, random_state=0).fit_transform(coded / scale) * scale
    modes = SimpleImputer(strategy="most_frequent").fit_transform(coded)
    for j, name in enumerate(data.columns):
        if name in data.levels:
            mean[:, j] = modes[:, j]
            iterative[:, j] = iterative[:, j].round().clip(0, len(data.levels[name]) - 1)
    return {"mean or mode": mean, "IterativeImputer": iterative}


def score(found: np.ndarray, truth: np.ndarray, hidden: np.ndarray, data: pvae.data.Data) -> dict[str, float]:
    errors: dict[str, list[float]] = {}
    for j, name in enumerate(data.columns):
        own, true = found[hidden[:, j], j], truth[hidden[:, j], j]
        if name not in data.levels:
            value = np.sqrt(np.mean((own - true) ** 2)) / np.ptp(truth[:, j])
        elif data.kinds[name] == "ordinal":
            value = np.abs(own - true).mean() / len(data.levels[name])
        else:
            value = (own != true).mean()
        kind = "category" if data.kinds[name] == "binary" else data.kinds[name]
        errors.setdefault(kind, []).append(float(value))
    every = [value for values in errors.values() for value in values]
    return {"all": np.mean(every), **{kind: float(np.mean(values)) for kind, values in sorted(errors.items())}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", nargs="+", default=["wine:20", "wine:50", "defaultCredit:20"])
    parser.add_argument("--latent-dim", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for word in arguments.tables:
        frame, hidden, kinds = table(*word.split(":"))
        full = pvae.data.as_data(frame.astype("float64"), kinds=kinds)
        truth = full.x.double().numpy()
        data = dataclasses.replace(full, x=full.x.masked_fill(torch.from_numpy(hidden), torch.nan))
        print(word, {kind: list(data.kinds.values()).count(kind) for kind in dict.fromkeys(data.kinds.values())})
        found = {"VAE": by_vae(data, arguments.latent_dim, arguments.seed), **baselines(data)}
        for method, values in found.items():
            cells = {kind: round(float(value), 4) for kind, value in score(values, truth, hidden, data).items()}
            print(f"{word:18s} {method:18s} {cells}", flush=True)


if __name__ == "__main__":
    main()
