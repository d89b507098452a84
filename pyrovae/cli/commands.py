"""What the commands on saved runs do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pyrovae import data as data_room
from pyrovae import plots
from pyrovae.cli.console import console, in_options, named, number, say, table
from pyrovae.data import Data
from pyrovae.evaluation import AIS, Estimator, Refined, log_marginal
from pyrovae.evaluation.estimators import as_estimator
from pyrovae.files import Run, save_file_atomic
from pyrovae.graphs import VAE
from pyrovae.limits import FEWEST_SAMPLES, good_k, share_bad_k
from pyrovae.presets import load
from pyrovae.report.codes import reconstructed
from pyrovae.report.evaluated import write_evaluated
from pyrovae.report.subject import data_of

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr


def evaluate(
    folder: Path, method: str, samples: int | None, steps: int | None, rows: int | None, seed: int, quiet: bool
) -> None:
    """Estimate log p(x) of a run's test rows; a table, and the estimates per datum as a CSV file in the run's folder."""
    run, vae = Run.read(folder), load_vae(folder)
    test = data_of(run).test
    test = test if rows is None else test[:rows]
    kept = folder / f".evaluate-{method}.npz"
    estimator = estimator_of(method, steps)
    result = log_marginal(
        vae, test, method=estimator, num_samples=samples, seed=seed, progress=False if quiet else None, resume=kept
    )
    path = write_evaluated(run, result, method)
    kept.unlink(missing_ok=True)
    console(quiet).print(_evidence(test, result, method))
    if "notes" in result.attrs:
        say(quiet, f"note: {in_options(result.attrs['notes'])}")
    say(quiet, f"per datum  {path}")


def estimator_of(method: str, steps: int | None) -> Estimator:
    """The estimator of a name, with so many steps of its optimizer or of its annealing.

    Raises:
        ValueError: an unknown name, one that takes no steps, or no steps.
    """
    estimator = as_estimator(method)
    if steps is None:
        return estimator
    if steps < 1:
        raise ValueError(f"--steps must be at least 1, got {steps}")
    if isinstance(estimator, Refined):
        return replace(estimator, num_steps=steps)
    if isinstance(estimator, AIS):
        return replace(estimator, num_temperatures=steps)
    raise ValueError(f"--steps goes with --method refined or ais, {method} takes none: leave it out")


def _evidence(test: Data, result: xr.Dataset, method: str) -> Any:
    values = result["log_marginal"].values
    is_mass = result.attrs.get("measure") == "mass"  # the bits of a density depend on the data's unit
    bits = -values.mean() / (math.log(2) * test.event_shape.numel()) if is_mass else None
    limit = good_k(result.attrs["num_samples"])
    has_tail = result.attrs["num_samples"] >= FEWEST_SAMPLES  # or there is no k-hat
    cells = [
        f"{values.mean():.2f} ± {values.std(ddof=1) / math.sqrt(len(values)):.2f}",
        number(float(result["mcse"].mean()), ".3f"),
        number(float(result["elbo"].mean())),
        number(float(result["gap"].mean())),
        number(bits, ".3f"),
        f"{share_bad_k(result['pareto_k'], result.attrs['num_samples']):.0%}" if has_tail else "",
    ]
    title = f"{named(test)}, {len(test)} test rows, {method}: nats per datum"
    return table(
        title, ["log p(x)", "mcse", "ELBO", "gap", "bits/dim", f"k > {limit:.2f}" if has_tail else "k-hat"], [cells]
    )


def sample(folder: Path, num_samples: int, out: Path | None, seed: int, quiet: bool) -> None:
    """Draw data from a run's model into an ``.npz`` file, and a figure where the data are images."""
    vae = load_vae(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        drawn = vae.sample(num_samples)
    path = out or folder / "samples.npz"
    _write_arrays(path, {"x": drawn.numpy()})
    say(quiet, f"samples  {path}")
    if drawn.ndim == 4:
        save_axes(_picture(folder, out, "drawn"), plots.plot_samples(drawn), quiet)


def reconstruct(folder: Path, rows: int, out: Path | None, quiet: bool) -> None:
    """Reconstruct a run's first test rows into an ``.npz`` file, and a figure where the data are images."""
    run, vae = Run.read(folder), load_vae(folder)
    x = data_of(run).test[:rows].dense().x
    again = reconstructed(vae, x)
    path = out or folder / "reconstructions.npz"
    _write_arrays(path, {"x": x.numpy(), "reconstruction": again.numpy()})
    say(quiet, f"reconstructions  {path}")
    if again.ndim == 4:
        save_axes(_picture(folder, out, "reconstructed"), plots.plot_reconstructions(x, again), quiet)


def _picture(folder: Path, out: Path | None, name: str) -> Path:
    """Beside the file that was asked for; else among the run's figures, under a name that training does not write."""
    return folder / "figures" / f"{name}.png" if out is None else out.with_suffix(".png")


def encode(folder: Path, source: str | None, out: Path | None, samples: int | None, seed: int, quiet: bool) -> None:
    """Encode the rows of a data set into an ``.npz`` or ``.parquet`` file: posterior means, or draws."""
    run, vae = Run.read(folder), load_vae(folder)
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
    say(quiet, f"latents  {path}")


def info(folder: Path) -> None:
    """Say what is in a run: the spec, the data, the settings, the results, the versions."""
    run = Run.read(folder)
    out = console()
    for name in ("spec", "data", "settings", "results", "versions"):
        found = run.config[name]
        if found:
            out.print(table(name, ["", ""], [(key, _told(key, value)) for key, value in found.items()]))
    if run.config["command"]:
        say(False, "command  " + " ".join(run.config["command"]))


_UNITS = {
    **dict.fromkeys(("elbo", "kl", "reconstruction"), " nats per datum"),
    "bits_per_dim": " bits",
    "training_seconds": " s",
}


def _told(key: str, value: Any) -> str:
    """A value of a run, rounded, with its unit."""
    unit = _UNITS.get(key.removesuffix("_error").removesuffix("_range"), "")
    return f"{_rounded(value, '.2f' if 'nats' in unit else '.4g')}{unit if isinstance(value, float | list) else ''}"


def _rounded(value: Any, form: str) -> str:
    if isinstance(value, list):
        return " to ".join(_rounded(v, form) for v in value) if form == ".2f" else ", ".join(map(str, value))
    return format(value, form) if isinstance(value, float) else str(value)


def load_vae(folder: Path) -> VAE:
    """The VAE of a run."""
    return load(folder)


def _suffix(path: Path) -> str:
    if path.suffix not in _WRITERS:
        raise ValueError(f"the output must end in {' or '.join(_WRITERS)}, got {path}")
    return path.suffix


def _write_npz(path: Path, z: np.ndarray, rows: Data) -> None:
    labels = {} if rows.label is None else {"labels": rows.label.numpy()}
    _write_arrays(path, {"z": z, **labels})


def _write_parquet(path: Path, z: np.ndarray, rows: Data) -> None:
    import pandas as pd

    if z.ndim != 2:
        raise ValueError("a .parquet file holds one vector a row: leave --samples out, or write an .npz file")
    frame = pd.DataFrame(z, columns=[f"z{number}" for number in range(z.shape[1])])
    if rows.label is not None:
        frame["label"] = rows.label.numpy()
    save_file_atomic(path, frame.to_parquet)


_WRITERS = {".npz": _write_npz, ".parquet": _write_parquet}


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    import numpy as np

    named: dict[str, Any] = dict(arrays)
    save_file_atomic(path, lambda file: np.savez_compressed(file, **named))


def save_axes(path: Path, axes: Any, quiet: bool) -> None:
    """Write a figure, and say where."""
    save_file_atomic(path, lambda file: axes.figure.savefig(file, format="png", bbox_inches="tight"))
    say(quiet, f"figure  {path}")
