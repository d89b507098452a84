"""``pyrovae train``: from a data set's name to a trained VAE, a table and figures."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pyrovae import data as data_room
from pyrovae import schedules
from pyrovae.cli.console import console, number, table
from pyrovae.cli.defaults import OTHERWISE, RECIPES, Recipe
from pyrovae.cli.figures import write_figures
from pyrovae.data import Data
from pyrovae.evaluation import bound
from pyrovae.models import VAE
from pyrovae.presets import build_vae, suggest
from pyrovae.training import fit

if TYPE_CHECKING:
    from pyrovae.training import History

TEST_DRAWS = 10


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
    device: str | None = None
    out: Path | None = None
    resume: bool = False
    figures: bool = True
    quiet: bool = False


def train(request: Request) -> Path:
    """Train, save, evaluate on the test rows and draw; returns the run's folder."""
    from pyrovae import runs

    out = console(request.quiet)
    rows = data_room.load(request.data, request.variant, seed=request.seed)
    folder = request.out or _free_folder(request.data, rows.variant)
    recipe = RECIPES.get(request.data, OTHERWISE)
    start = _first_rows(rows.train, request.seed)
    words = {**recipe.words, **suggest(start, rows.name, rows.variant), **(request.words or {})}
    vae = build_vae(rows.train.event_shape, **words, start=start, seed=request.seed)
    out.print(f"[bold]{rows.name}[/] ({rows.variant}): {len(rows.train)} rows to train on, {_words(vae)}")
    runs.check_free(folder, resume=request.resume)
    began = time.monotonic()
    history = _fit(vae, rows, request, recipe, folder)
    seconds = time.monotonic() - began
    runs.save_run(folder, vae, history=history, data=rows, seed=request.seed)
    paths = write_figures(folder / "figures", vae, rows.test, history, request.seed) if request.figures else []
    out.print(_result(vae, rows, history, seconds, request.seed))
    out.print(f"run      {folder}\nweights  {folder / 'model.safetensors'}")
    for path in paths:
        out.print(f"figure   {path}")
    return folder


def _fit(vae: VAE, rows: Data, request: Request, recipe: Recipe, folder: Path) -> History:
    epochs = request.epochs or recipe.epochs
    peak = request.learning_rate or recipe.learning_rate
    decay = recipe.weight_decay if request.weight_decay is None else request.weight_decay
    warm_up = request.beta_warm_up
    return fit(
        vae,
        rows.train,
        epochs=epochs,
        batch_size=request.batch_size or recipe.batch_size,
        learning_rate=schedules.one_cycle(peak, warm_up=recipe.warm_up, epochs=epochs),
        weight_decay=decay,
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


def _result(vae: VAE, rows: Data, history: History, seconds: float, seed: int) -> Any:
    test = bound(vae, rows.test, num_samples=TEST_DRAWS, seed=seed, progress=False)
    elbo, kl, reconstruction = (float(part.mean()) for part in (test.elbo, test.kl, test.reconstruction))
    error = float(test.elbo.std() / math.sqrt(len(test.elbo)))
    cells = [
        f"test ({len(rows.test)} rows)",
        f"{elbo:.2f} ± {error:.2f}",
        number(kl),
        number(reconstruction),
        number(-elbo / (math.log(2) * rows.test.event_shape.numel()), ".3f"),
        f"{seconds:.1f}",
        rows.variant,
    ]
    columns = ["", "ELBO", "KL", "reconstruction", "bits/dim", "seconds", "variant"]
    ended = "" if history.ended == "finished" else f", {history.ended}"
    return table(f"{rows.name}: nats per datum at beta 1, {len(history)} epochs{ended}", columns, [cells])


def _words(vae: VAE) -> str:
    words = vae.words
    parameters = sum(parameter.numel() for parameter in vae.parameters())
    return (
        f"prior {words['prior']}, likelihood {words['likelihood']}, posterior {words['posterior']}, "
        f"{words['latent_dim']} latent dimensions, {parameters:,} parameters"
    )
