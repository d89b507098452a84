"""``pyrovae choose``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

import pyrovae as pvae
from pyrovae.cli.options import METHOD, Method, Quiet, Seed
from pyrovae.cli.output import named, save_axes, say
from pyrovae.cli.train import asked_for, recipe_of
from pyrovae.errors import refusal


def choose(
    data: Annotated[str, typer.Argument(help="digits, mnist, freyfaces, or the path of a file.")] = "digits",
    latent_dim: Annotated[
        str, typer.Option(help="Numbers of latents, the simplest first: 2,5,10, or 2..32 for 2, 4, 8, 16, 32.")
    ] = "2..16",
    prior: Annotated[str, typer.Option(help="Priors, the simplest first.")] = "standard_normal",
    likelihood: Annotated[str | None, typer.Option(help="Likelihoods; by default what suits the data.")] = None,
    budget: Annotated[int, typer.Option(help="Epochs of training, all trainings together.", min=1)] = 600,
    refits: Annotated[int, typer.Option(help="Trainings of each finalist.", min=1)] = 3,
    method: Method = METHOD,
    out: Annotated[Path, typer.Option(help="Folder of the trainings; the same command goes on from there.")] = Path(
        "choice"
    ),
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Choose latents, prior and likelihood by held-out log evidence; stopped and started again, it goes on where it was."""
    from pyrovae.files import save_file_atomic
    from pyrovae.uses import choose as choose_among

    rows = pvae.data.load(data)
    begun = {"data": data, **recipe_of(data, rows)}
    grid: dict[str, list[Any]] = {"latent_dim": _parsed(latent_dim, _number), "prior": _parsed(prior, str)}
    if likelihood is not None:
        grid["likelihood"] = _parsed(likelihood, str)
    spec = asked_for({**begun, **{name: values[0] for name, values in grid.items()}}, rows.train, seed)
    specs = {str(one): replace(spec, **one) for one in _options(grid)}

    def make(**options: Any) -> Any:
        return pvae.build_vae(specs[str(options)], start=rows.train)

    fit_options = {name: begun[name] for name in ("batch_size", "learning_rate") if name in begun}
    plan: dict[str, Any] = {"budget": budget, "refits": refits, "method": method, "fit_options": fit_options}
    found = choose_among(make, rows.train, grid, **plan, resume=out, seed=seed, progress=False if quiet else None)
    say(quiet, f"{named(rows)}: {found!r}")
    say(quiet, f"table  {save_file_atomic(out / 'choice.csv', found.comparison.frame.to_csv().encode())}")
    save_axes(out / "choice.png", found.plot(), quiet)


def _options(grid: dict[str, list[Any]]) -> list[dict[str, Any]]:
    options: list[dict[str, Any]] = [{}]
    for name, values in grid.items():
        options = [{**one, name: value} for one in options for value in values]
    return options


def _parsed(text: str, of: Callable[[str], Any]) -> list[Any]:
    """The words between commas; ``2..32`` doubles from the first number to the last."""
    first, dots, last = text.partition("..")
    if not dots:
        return [of(word.strip()) for word in text.split(",")]
    low, high = of(first), of(last)
    return [low * 2**power for power in range(64) if low * 2**power <= high]


def _number(word: str) -> int:
    if not word.strip().isdigit() or int(word) < 1:
        raise refusal(f"expected numbers of latents such as 2,5,10 or 2..32, got {word!r}", "latent_dim")
    return int(word)
