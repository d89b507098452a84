"""What the commands on saved runs do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pyrovae import data as data_room
from pyrovae import plots, runs
from pyrovae.checkpoints import save_file_atomic
from pyrovae.cli.console import console, number, table
from pyrovae.data import Data
from pyrovae.evaluation import log_marginal
from pyrovae.models import VAE
from pyrovae.report.codes import reconstructed
from pyrovae.report.subject import data_of

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr


def evaluate(folder: Path, method: str, samples: int | None, rows: int | None, seed: int, quiet: bool) -> None:
    """Estimate log p(x) of a run's test rows; a table, and the estimates per datum as a CSV file in the run's folder."""
    run, vae = runs.Run.read(folder), load_vae(folder)
    test = data_of(run).test
    test = test if rows is None else test[:rows]
    kept = folder / f".evaluate-{method}.npz"
    result = log_marginal(vae, test, method, samples, seed=seed, progress=False if quiet else None, resume=kept)
    path = folder / f"evidence-{method}.csv"
    save_file_atomic(path, result.to_dataframe().to_csv().encode())
    kept.unlink(missing_ok=True)
    out = console(quiet)
    out.print(_evidence(run, test, result, method))
    out.print(f"per datum  {path}")


def _evidence(run: runs.Run, test: Data, result: xr.Dataset, method: str) -> Any:
    values = result["log_marginal"].values
    is_mass = result.attrs.get("measure") == "mass"  # the bits of a density depend on the data's unit
    bits = -values.mean() / (math.log(2) * test.event_shape.numel()) if is_mass else None
    cells = [
        f"{values.mean():.2f} ± {values.std(ddof=1) / math.sqrt(len(values)):.2f}",
        number(float(result["mcse"].mean()), ".3f"),
        number(float(result["elbo"].mean())),
        number(float(result["gap"].mean())),
        number(bits, ".3f"),
        f"{float((result['pareto_k'] > 0.7).mean()):.0%}",
    ]
    title = f"{test.name} ({test.variant}), {len(test)} test rows, {method}: nats per datum"
    return table(title, ["log p(x)", "mcse", "ELBO", "gap", "bits/dim", "k > 0.7"], [cells])


def sample(folder: Path, num_samples: int, out: Path | None, seed: int, quiet: bool) -> None:
    """Draw data from a run's model into an ``.npz`` file, and a figure beside it where the data are images."""
    vae = load_vae(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        drawn = vae.sample(num_samples)
    path = out or folder / "samples.npz"
    _write_arrays(path, {"x": drawn.numpy()})
    _say(quiet, "samples", path)
    if drawn.ndim == 4:
        save_axes(path.with_suffix(".png"), plots.plot_samples(drawn), quiet)


def reconstruct(folder: Path, rows: int, out: Path | None, quiet: bool) -> None:
    """Reconstruct a run's first test rows into an ``.npz`` file, and a figure beside it where the data are images."""
    run, vae = runs.Run.read(folder), load_vae(folder)
    x = data_of(run).test[:rows].dense().x
    again = reconstructed(vae, x)
    path = out or folder / "reconstructions.npz"
    _write_arrays(path, {"x": x.numpy(), "reconstruction": again.numpy()})
    _say(quiet, "reconstructions", path)
    if again.ndim == 4:
        save_axes(path.with_suffix(".png"), plots.plot_reconstructions(x, again), quiet)


def encode(folder: Path, source: str | None, out: Path | None, samples: int | None, seed: int, quiet: bool) -> None:
    """Encode the rows of a data set into an ``.npz`` or ``.parquet`` file: posterior means, or draws."""
    run, vae = runs.Run.read(folder), load_vae(folder)
    rows = data_of(run).test if source is None else data_room.load(source, validation=0, test=0)
    expected = (run.config["data"] or {}).get("event_shape", list(rows.event_shape))
    if list(rows.event_shape) != list(expected):
        raise ValueError(
            f"the run was trained on data of shape {tuple(expected)}, {source} has {tuple(rows.event_shape)}"
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        z = vae.encode(rows.dense().x, num_samples=samples).numpy()
    path = out or folder / "latents.npz"
    _WRITERS[_suffix(path)](path, z, rows)
    _say(quiet, "latents", path)


def info(folder: Path) -> None:
    """Say what is in a run: the words, the data, the settings, the results, the versions."""
    run = runs.Run.read(folder)
    out = console()
    for name in ("words", "data", "settings", "results", "versions"):
        found = run.config[name]
        if found:
            out.print(table(name, ["", ""], [(key, value) for key, value in found.items()]))
    if run.config["command"]:
        out.print("command  " + " ".join(run.config["command"]))


def load_vae(folder: Path) -> VAE:
    """The VAE of a run."""
    return runs.load(folder)


def _suffix(path: Path) -> str:
    if path.suffix not in _WRITERS:
        raise ValueError(f"the output must end in {' or '.join(_WRITERS)}, got {path}")
    return path.suffix


def _write_npz(path: Path, z: np.ndarray, rows: Data) -> None:
    labels = {} if rows.labels is None else {"labels": rows.labels.numpy()}
    _write_arrays(path, {"z": z, **labels})


def _write_parquet(path: Path, z: np.ndarray, rows: Data) -> None:
    import pandas as pd

    if z.ndim != 2:
        raise ValueError("a .parquet file holds one vector a row: leave --samples out, or write an .npz file")
    frame = pd.DataFrame(z, columns=[f"z{number}" for number in range(z.shape[1])])
    if rows.labels is not None:
        frame["label"] = rows.labels.numpy()
    save_file_atomic(path, frame.to_parquet)


_WRITERS = {".npz": _write_npz, ".parquet": _write_parquet}


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    import numpy as np

    named: dict[str, Any] = dict(arrays)
    save_file_atomic(path, lambda file: np.savez_compressed(file, **named))


def save_axes(path: Path, axes: Any, quiet: bool) -> None:
    """Write a figure, and say where."""
    save_file_atomic(path, lambda file: axes.figure.savefig(file, format="png", bbox_inches="tight"))
    _say(quiet, "figure", path)


def _say(quiet: bool, what: str, path: Path) -> None:
    console(quiet).print(f"{what}  {path}")
