"""``pyrovae train``: from a data set's name to a trained VAE, a table and figures."""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pyrovae import data as data_room
from pyrovae import schedules
from pyrovae.cli.begun import keep_or_compare
from pyrovae.cli.console import console, named, number, say, table
from pyrovae.cli.defaults import OTHERWISE, RECIPES, Recipe
from pyrovae.data import Data
from pyrovae.graphs import VAE
from pyrovae.presets import LIKELIHOODS, build_vae, save, suggest
from pyrovae.programs.draws import Draws
from pyrovae.report import write_report
from pyrovae.report.figures import draw_figures
from pyrovae.report.findings import TEST_DRAWS, bound_means
from pyrovae.training import fit

if TYPE_CHECKING:
    from pyrovae.training import History

_UNKEPT = ("out", "resume", "quiet", "words", "report")
PRECISIONS = ("highest", "high", "medium")
"""Of torch: medium is bfloat16 products summed in float32, where the processor has them."""


@dataclass(frozen=True)
class Request:
    """What was asked for; None means the data set's recipe."""

    data: str = "digits"
    variant: str | None = None
    words: Mapping[str, Any] | None = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    clip_norm: float | None = None
    beta: float = 1.0
    beta_warm_up: float = 0.0
    patience: int | None = None
    seed: int = 0
    split_seed: int = 0
    device: str | None = None
    out: Path | None = None
    resume: bool = False
    matmul_precision: str = "medium"
    figures: bool = True
    report: bool = True
    quiet: bool = False


def train(request: Request) -> Path:
    """Train, save, evaluate on the test rows, draw and report; returns the run's folder."""
    rows = data_room.load(request.data, request.variant, seed=request.split_seed)
    if request.resume and request.out is None:
        raise ValueError("--resume needs --out, the folder of the run that was stopped")
    folder = request.out or _free_folder(request.data, rows.variant)
    if (folder / "config.json").exists() and not request.resume:
        raise ValueError(f"{folder} holds a run already: choose another --out, or --resume it")
    _require_writable(folder)
    keep_or_compare(folder, request, rows)
    recipe = RECIPES.get(request.data, OTHERWISE)
    start = _first_rows(rows.train, request.seed)
    words = {**recipe.words, **_suggested(start, rows, request), **(request.words or {})}
    vae = build_vae(rows.train.event_shape, **words, start=start, seed=request.seed)
    say(request.quiet, f"{named(rows)}: {len(rows.train)} rows to train on, {_words(vae)}")
    began = time.monotonic()
    history = _fit(vae, rows, request, recipe, folder)
    seconds = time.monotonic() - began
    results = {**_results(vae, rows, request.seed), **_ending(history, seconds)}
    figures = _figures(vae, rows, history, request)
    save(
        vae,
        folder,
        history=history,
        data=rows.train,
        figures=figures,
        seed=request.seed,
        command=["pyrovae", *sys.argv[1:]],
        settings=_settings(request, recipe),
        results=results,
        overwrite=request.resume,
    )
    console(request.quiet).print(_table(rows, history, results, seconds))
    _announce(folder, figures, request.quiet)
    if request.report:
        say(request.quiet, f"report   {write_report(folder, vae=vae, data=rows, seed=request.seed)}")
    return folder


def _announce(folder: Path, figures: Iterable[str], quiet: bool) -> None:
    say(quiet, f"run      {folder}\nweights  {folder / 'model.safetensors'}")
    for name in figures:
        say(quiet, f"figure   {folder / 'figures' / name}.png")


def _figures(vae: VAE, rows: Data, history: History, request: Request) -> dict[str, Any]:
    if not request.figures:
        return {}
    return draw_figures(vae, rows.test, history.to_dict(), history.best_epoch, request.seed)


def _settings(request: Request, recipe: Recipe) -> dict[str, Any]:
    """What was asked for, the rest as the recipe has it."""
    asked = {name: value for name, value in vars(request).items() if name not in _UNKEPT and value is not None}
    return {**{name: value for name, value in recipe._asdict().items() if name != "words"}, **asked}


def _suggested(start: torch.Tensor, rows: Data, request: Request) -> dict[str, Any]:
    """A likelihood for the data; of it the levels alone, where a likelihood on levels was asked for."""
    suggested = suggest(start, rows.name, rows.variant)
    asked = LIKELIHOODS.get((request.words or {}).get("likelihood", ""))
    if asked is not None and not asked.leveled:
        suggested.pop("levels", None)
    return suggested


def _fit(vae: VAE, rows: Data, request: Request, recipe: Recipe, folder: Path) -> History:
    settings = _settings(request, recipe)
    epochs, peak = settings["epochs"], settings["learning_rate"]
    warm_up = request.beta_warm_up
    with _matmul_precision(request.matmul_precision):
        return fit(
            vae,
            rows.train,
            epochs=epochs,
            batch_size=settings["batch_size"],
            learning_rate=schedules.one_cycle(peak, warm_up=recipe.warm_up, epochs=max(epochs, 1)),
            weight_decay=settings["weight_decay"],
            clip_norm=request.clip_norm,
            beta=schedules.linear(0.0, request.beta, epochs=warm_up) if warm_up else request.beta,
            validation=rows.validation,
            patience=request.patience,
            seed=request.seed,
            device=request.device,
            progress=False if request.quiet else None,
            checkpoint=folder / "checkpoints",
            resume=request.resume,
        )


@contextmanager
def _matmul_precision(precision: str) -> Iterator[None]:
    """Matrix products of single-precision training in this precision; results are computed in full precision."""
    if precision not in PRECISIONS:
        raise ValueError(f"--matmul-precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _require_writable(folder: Path) -> None:
    """Find out before training, not after it, that a folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"cannot write into {folder} ({error.strerror}): choose another --out") from error


def _first_rows(train: Data, seed: int) -> torch.Tensor:
    """Some training rows as training sees them, from which the decoder starts."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    return train[order[:5000]].drawn(seed).dense().x.to(torch.get_default_dtype())


def _free_folder(name: str, variant: str | None) -> Path:
    """The first of ``runs/digits-counts``, ``runs/digits-counts-2``, ... that does not exist."""
    stem = "-".join([Path(name).stem, *([variant.split("(")[0]] if variant else [])])
    number = 1
    while True:
        folder = Path("runs") / (stem if number == 1 else f"{stem}-{number}")
        if not folder.exists():
            return folder
        number += 1


def _results(vae: VAE, rows: Data, seed: int) -> dict[str, Any]:
    """Means over the test rows with their standard errors and 5 % and 95 % quantiles, in nats per datum at beta 1."""
    found = bound_means(vae, rows.test, seed)
    values = {name: mean.value for name, mean in found.items()}
    errors = {f"{name}_error": mean.error for name, mean in found.items()}
    ranges = {f"{name}_range": [mean.low, mean.high] for name, mean in found.items()}
    is_mass = Draws(vae, rows.test, num_samples=1, seed=seed, progress=False).measure == "mass"
    # of a density the bits depend on the data's unit
    bits = -values["elbo"] / (math.log(2) * rows.test.event_shape.numel()) if is_mass else None
    counts = {"test_rows": len(rows.test), "test_draws": TEST_DRAWS}
    return {**counts, **values, **errors, **ranges, "bits_per_dim": bits, "variant": rows.variant}


def _ending(history: History, seconds: float) -> dict[str, Any]:
    return {"ended": history.ended, "best_epoch": history.best_epoch, "training_seconds": round(seconds, 3)}


def _table(rows: Data, history: History, results: Mapping[str, Any], seconds: float) -> Any:
    cells = [
        f"{results['elbo']:.2f} ± {results['elbo_error']:.2f}",
        number(results["kl"]),
        number(results["reconstruction"]),
        number(results["bits_per_dim"], ".3f"),
        f"{seconds:.1f}",
    ]
    columns = ["ELBO", "KL", "reconstruction", "bits/dim", "seconds"]
    ended = "" if history.ended == "finished" else f" ({history.ended})"
    title = (
        f"{named(rows)}, {results['test_rows']} test rows after {len(history)} epochs{ended}: nats per datum at beta 1"
    )
    return table(title, columns, [cells])


def _words(vae: VAE) -> str:
    spec = vae.spec
    parameters = sum(parameter.numel() for parameter in vae.parameters())
    return (
        f"prior {spec.prior}, likelihood {spec.likelihood}, posterior {spec.posterior}, "
        f"{spec.latent_dim} latent dimensions, {parameters:,} parameters"
    )
