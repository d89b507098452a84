"""Options that several commands share, and options generated from the fields of a spec."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from pyrovae.errors import refusal
from pyrovae.presets.options import Option, options_of
from pyrovae.presets.recipes import DEFAULTS, RECIPES

Command = TypeVar("Command", bound=Callable[..., None])
RunFolder = Annotated[Path, typer.Argument(help="Folder of a run.")]
Seed = Annotated[int, typer.Option(help="Seed of the draws.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Force = Annotated[bool, typer.Option("--force", help="Write over files that stand there.")]
Rows = Annotated[int | None, typer.Option(help="Only the first rows of the test set.", min=1)]
DataPath = Annotated[
    str | None, typer.Option("--data", help="Where the run's data lie now, if they are no longer where they were.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="The .npz file (.csv for samples of a table), and beside it a figure of images; by default in the run and its "
        "figures/."
    ),
]
Method = Annotated[
    str,
    typer.Option(
        help="auto, importance, refined, mixture or ais. auto is mixture, which searches for modes, where the program has one; "
        "importance and refined are cheaper, and lose modes that the guide misses without a word."
    ),
]
METHOD = "auto"
NumSamples = Annotated[
    int | None, typer.Option(help="Samples per row (by default 1000); for ais chains (by default 16).", min=1)
]
Steps = Annotated[
    int | None,
    typer.Option(
        help="Steps of the optimizer (by default 300), where there is one; for ais temperatures (100).", min=1
    ),
]


def estimator_of(method: str, steps: int | None) -> Any:
    """The estimator of a name, with so many steps of its optimizer or of its annealing."""
    from pyrovae.evaluation.estimators import as_estimator

    estimator: Any = as_estimator(method)
    if steps is None:
        return estimator
    field = next((name for name in ("num_steps", "num_temperatures") if hasattr(estimator, name)), None)
    if field is None:
        raise refusal(f"the method {method} takes no steps: leave them out", "steps")
    return replace(estimator, **{field: steps})


def with_options(specs: Mapping[str, type], without: Collection[str] = ()) -> Callable[[Command], Command]:
    """Put the fields of dataclasses in the place of a command's ``**options``, under their headings in the help text.

    What is not given arrives as None, so that a command can tell it from what is.
    """

    def decorate(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True)
        kept = [parameter for parameter in own.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
        made = [
            _parameter(name, option, heading)
            for heading, spec in specs.items()
            for name, option in options_of(spec).items()
            if name not in without
        ]
        command.__signature__ = own.replace(parameters=[*kept, *made])  # type: ignore[attr-defined]
        return command

    return decorate


def _parameter(name: str, option: Option, heading: str) -> inspect.Parameter:
    """The option as typer declares it: its meaning, the words allowed, and the default, by data set where they differ."""
    parser = {tuple[int, ...]: _integers, tuple[str, ...]: _words, float | str: _number_or_word}.get(option.kind)
    words = ", ".join(word for word in option.known if word is not None)
    meaning = option.help[0].upper() + option.help[1:] + (f": {words}" if words else "")
    defaults = {data: _shown(recipe.get(name, option.default)) for data, recipe in RECIPES.items()}
    defaults |= {data: words[name] for data, words in DEFAULTS.items() if name in words}
    default = defaults["files"]
    if len(set(defaults.values())) > 1:
        default = ", ".join(f"{value} for {data}" for data, value in defaults.items() if value)
    text = f"{meaning}; by default {default}." if default else f"{meaning}."
    declared: Any = typer.Option(help=text, parser=parser, rich_help_panel=heading, show_default=False)
    kind: Any = str if parser else option.kind
    annotation = Annotated[kind | None, declared]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    words = {MISSING: "what suits the data", None: "", False: "", True: "yes"}  # by identity: 1.0 equals True
    written = f"{value:g}" if isinstance(value, float) else str(value)
    return next((text for known, text in words.items() if value is known), written)


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise typer.BadParameter(f"expected integers with commas between them, as in 400,400; got {text!r}") from None


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _number_or_word(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
