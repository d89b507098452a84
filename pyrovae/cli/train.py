"""``pyrovae train``: from a data set's name to a trained VAE, a table, figures and a page."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import pyrovae as pvae
from pyrovae.cli.begun import keep, remembered
from pyrovae.cli.endings import INTERRUPTED, complain
from pyrovae.cli.options import Quiet, with_options
from pyrovae.cli.output import kinds_table, named, number, say, show
from pyrovae.errors import counted, refusal
from pyrovae.presets.options import options_of, to_plain
from pyrovae.presets.recipes import RECIPES, TABLE_STEPS, Reading, Training, image_epochs
from pyrovae.presets.spec import Spec
from pyrovae.presets.tables import KINDS_OF, LIKELIHOODS

if TYPE_CHECKING:
    from pyrovae.data import Data

LINES = 20
"""About so many lines tell of the epochs where no bar can be shown."""

FROM_DATA = ("event_shape", "columns", "covariate_columns")
"""Fields of the spec that the data give."""


@with_options({"The table": Reading, "The VAE": Spec, "Its training": Training}, without=FROM_DATA)
def train(
    data: Annotated[
        str | None,
        typer.Argument(help="digits (the default), mnist, freyfaces, or the path of a file or a folder of images."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; by default a new one under runs/.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out, with the options of its start.")
    ] = False,
    figures: Annotated[bool, typer.Option(help="Draw figures.")] = True,
    report: Annotated[bool, typer.Option(help="Write report.html into the run's folder.")] = True,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Train a VAE; with no argument on the embedded digits."""
    from pyrovae.files import locked, require_no_run
    from pyrovae.presets.build import are_images
    from pyrovae.report.pictures import draw_figures

    given = given_options({"data": data, **options}, out, resume)
    reading = Reading(**{name: given[name] for name in options_of(Reading) if name in given})
    if _is_table(given["data"]) and (kind := KINDS_OF.get(given.get("likelihood", ""))):
        given["likelihood"], reading = "table", replace(reading, kinds=(*reading.kinds, f"*={kind}"))
    rows, reading = _read(given, reading, quiet)
    chosen = {**recipe_of(given["data"], rows), **given}
    if rows.kinds:
        latents = min(10, max(2, len(rows.kinds) // 2))
        epochs = max(50, math.ceil(TABLE_STEPS * chosen["batch_size"] / len(rows.train)))
        chosen = {"latent_dim": latents, "epochs": epochs, **chosen}
    if "epochs" not in chosen:
        size = chosen.get("batch_size", Training.batch_size)
        chosen["epochs"] = (
            image_epochs(rows.event_shape.numel(), len(rows.train), size)
            if are_images(rows) and given["data"] not in RECIPES
            else pvae.schedules.default_epochs(math.ceil(len(rows.train) / size))
        )
    training = Training(**{name: chosen[name] for name in options_of(Training) if name in chosen})
    spec = asked_for(chosen, rows.train, training.seed)
    settings = {**to_plain(training), **to_plain(reading), "data": chosen["data"], "variant": rows.variant}
    with locked(out or _free_folder(chosen["data"], rows.variant)) as folder:
        require_no_run(folder, overwrite=resume)
        keep(folder, {**spec.to_json(), **settings})
        vae = pvae.build_vae(spec, start=rows.train, seed=training.seed)
        say(quiet, f"{named(rows)}: {counted(len(rows.train), 'row')} to train on, {_described(vae)}")
        history = _fit(vae, rows, training, folder, resume, quiet)
        if not len(history):
            raise KeyboardInterrupt  # before the end of an epoch: the checkpoint is all that there is
        seconds = {"training_seconds": round(history["seconds"][-1], 3)}  # those before an interruption too
        results = seconds | _results(vae, rows, history, training.seed)
        drawn = draw_figures(vae, rows.test, history.to_dict(), history.best_epoch, training.seed) if figures else {}
        pvae.save(
            vae,
            folder,
            history=history,
            data=rows.train,
            figures=drawn,
            seed=training.seed,
            command=["pyrovae", *sys.argv[1:]],
            settings=settings,
            results=results,
            overwrite=resume,
        )
        _show(quiet, rows, history, results)
        say(quiet, "\n".join([f"run      {folder}", *(f"figure   {folder}/figures/{name}.png" for name in drawn)]))
        if report:
            bars = False if quiet else None
            page = pvae.write_report(folder, vae=vae, data=rows, seed=training.seed, progress=bars)
            say(quiet, f"report   {page}")
    if history.ended == "interrupted":
        complain(f"interrupted after {len(history)} epochs: --out {folder} --resume goes on from there", "yellow")
        raise typer.Exit(INTERRUPTED)


def given_options(options: Mapping[str, Any], out: Path | None, resume: bool) -> dict[str, Any]:
    """The options that are given, the data always, and those that a resumed training was begun with."""
    given = {name: value for name, value in options.items() if value is not None}
    if resume:
        if out is None:
            raise refusal("give --out, the folder of the run that was stopped", "resume")
        given = remembered(out, given)
    return {"data": "digits", **given}


def recipe_of(data: str, rows: Data) -> Mapping[str, Any]:
    """What differs from the defaults for rows, by the name or the path that they were read from."""
    from pyrovae.presets.build import are_images

    kind = "images" if are_images(rows) else "tables" if _is_table(data) else "files"
    return RECIPES.get(data, RECIPES[kind])


def _is_table(path: str) -> bool:
    from pyrovae.data.locate import is_table

    return is_table(path)


def _read(given: Mapping[str, Any], reading: Reading, quiet: bool) -> tuple[Data, Reading]:
    """The rows, and how they were read: columns of one value are left out; the kinds of a table's columns are printed."""
    asked = reading.for_load(_is_table(given["data"]) and given.get("likelihood", "table") == "table")
    rows = pvae.data.load(given["data"], given.get("variant"), seed=given.get("split_seed", 0), **asked)
    if constant := tuple(name for name, kind in rows.kinds.items() if kind == "constant"):
        if len(constant) == len(rows.kinds):
            raise refusal("every column holds one value or none, so there is nothing to model: give other rows", "data")
        say(quiet, f"note: left out, since they hold one value or none: {', '.join(constant)}")
        return _read(given, replace(reading, drop=(*reading.drop, *constant)), quiet)
    for note in rows.notes:
        say(quiet, f"note: {note}")
    if not rows.parts:
        raise refusal(
            f"{counted(len(rows), 'row')} cannot be split into training, validation and test rows: give 10 or more",
            "data",
        )
    if rows.kinds:
        roles = {"weight": f"weights ({reading.weights})"} if reading.weights else {}
        roles |= {getattr(reading, role): role for role in ("labels", "time", "groups") if getattr(reading, role)}
        title = "columns: --kinds column=kind,... corrects a guess, --drop leaves out"
        show(quiet, title, *kinds_table(rows, roles))
    return rows, reading


def asked_for(chosen: Mapping[str, Any], rows: Data, seed: int) -> Spec:
    """The spec that was asked for, with a likelihood that suits the data where none was."""
    from pyrovae.presets import suggest
    from pyrovae.presets.build import beside

    suggested = beside(suggest(rows, seed), chosen)
    likelihood = LIKELIHOODS.get(chosen.get("likelihood", suggested["likelihood"]))
    if likelihood is not None and not likelihood.leveled:
        suggested.pop("levels", None)
    if chosen.get("likelihood", "table") != "table":
        suggested.pop("columns", None)
    fields = {name: chosen[name] for name in options_of(Spec) if name in chosen}
    return Spec.from_json({**suggested, **fields, "event_shape": tuple(rows.event_shape)}).resolved()


def _free_folder(name: str, variant: str | None) -> Path:
    """The first of ``runs/digits-counts``, ``runs/digits-counts-2``, ... that does not exist."""
    stem = "-".join([Path(name).stem, *([variant.split("(")[0]] if variant else [])])
    count = 1
    while (folder := Path("runs") / (stem if count == 1 else f"{stem}-{count}")).exists():
        count += 1
    return folder


def _fit(
    vae: pvae.VAE, rows: Data, training: Training, folder: Path, resume: bool, quiet: bool
) -> pvae.training.History:
    """Train; matrix products in single precision may be less precise meanwhile, results are not."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(training.matmul_precision)
    try:
        return pvae.fit(
            vae,
            rows.train,
            **training.for_fit(),
            validation=rows.validation,
            progress=False if quiet else None if sys.stderr.isatty() else _teller(training.epochs or 1),
            checkpoint=folder / "checkpoints",
            resume=resume,
        )
    finally:
        torch.set_float32_matmul_precision(before)


def _teller(epochs: int) -> Callable[[pvae.training.History], None]:
    """Print a line for some of the epochs, where no bar is shown."""

    def tell(history: pvae.training.History) -> None:
        last, every = history.rows[-1], max(1, epochs // LINES)
        if last["epoch"] % every == 0 or last["epoch"] in (1, epochs):
            elbo, validation = (number(last.get(name)) for name in ("elbo", "validation_elbo"))
            say(False, f"epoch {last['epoch']} of {epochs}: ELBO {elbo}, validation {validation} nats per datum")

    return tell


def _results(vae: pvae.VAE, rows: Data, history: pvae.training.History, seed: int) -> dict[str, Any]:
    """Means over the test rows with their standard errors and 5 % and 95 % quantiles, in nats per datum at beta 1."""
    from pyrovae.programs.rows import RowWork
    from pyrovae.report.evidence import TEST_DRAWS, bound_means

    results: dict[str, Any] = {"ended": history.ended, "best_epoch": history.best_epoch, "variant": rows.variant}
    results |= {"test_rows": len(rows.test), "test_draws": TEST_DRAWS}
    for name, mean in bound_means(vae, rows.test, seed).items():
        results |= {name: mean.value, f"{name}_error": mean.error, f"{name}_range": [mean.low, mean.high]}
    is_mass = RowWork(vae, rows.test, seed=seed, progress=False).dry_run.measure == "mass"
    # the bits of a density depend on the data's unit
    bits = -results["elbo"] / (math.log(2) * rows.test.event_shape.numel()) if is_mass else None
    return {**results, "bits_per_dim": bits}


def _show(quiet: bool, rows: Data, history: pvae.training.History, results: Mapping[str, Any]) -> None:
    from pyrovae.presets.build import are_images, levels_of

    cells = {
        "ELBO": f"{results['elbo']:.2f} ± {number(results['elbo_error'])}",
        "KL": number(results["kl"]),
        "reconstruction": number(results["reconstruction"]),
        "bits/dim": number(results["bits_per_dim"], ".3f"),
        "seconds": f"{results['training_seconds']:.1f}",
    }
    ended = "" if history.ended == "finished" else f" ({history.ended})"
    if history.best_epoch not in (None, len(history)):
        ended += f", with the weights of epoch {history.best_epoch}, the best in validation"
    after = f"{counted(results['test_rows'], 'test row')} after {counted(len(history), 'epoch')}{ended}"
    title = f"{named(rows)}, {after}: nats per datum at beta 1"
    show(quiet, title, list(cells), [list(cells.values())])
    levels = levels_of(rows)
    if are_images(rows) and (results["bits_per_dim"] or 0) > math.log2(levels):
        equal = f"note: bits/dim exceed {math.log2(levels):g}, what equal probabilities of all {levels:,} levels need: "
        say(quiet, equal + why_not_learned(history))


def why_not_learned(history: pvae.training.History) -> str:
    """Why a training did not learn, as its own curve tells, and what to try."""
    from pyrovae.checks.training import late_rise

    rise = late_rise({"validation_elbo": history["elbo"], "learning_rate": history["learning_rate"]})
    if rise is None or rise.is_rising:
        so_far = "one epoch tells no more" if rise is None else "the ELBO still rose at its end"
        return f"training was too short ({so_far}); try more epochs (--epochs)"
    return "training failed; try a smaller learning rate (--learning-rate 1e-3)"


def _described(vae: pvae.VAE) -> str:
    parameters = sum(parameter.numel() for parameter in vae.parameters())
    return (
        f"prior {vae.spec.prior}, likelihood {vae.spec.likelihood}, posterior {vae.spec.posterior}, "
        f"{vae.spec.latent_dim} latent dimensions, {parameters:,} parameters"
    )
