"""The commands and their options."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pyrovae.cli.console import console, endings, parsed, say, table
from pyrovae.cli.defaults import by_data

app = typer.Typer(
    name="pyrovae",
    help="Variational autoencoders as Pyro programs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

WORDS = {
    "prior": "standard_normal (default), mixture, vamp, affine_flow, spline_flow, uniform_direction (with spherical)",
    "likelihood": "bernoulli, continuous_bernoulli, beta, binomial, beta_binomial, discretized_logistic, "
    "discretized_normal, logistic_mixture, categories, poisson, negative_binomial, zero_inflated_poisson, "
    "zero_inflated_negative_binomial, gamma, log_normal, normal, laplace, student_t",
    "posterior": "normal (default), full_normal, low_rank_normal, affine_flow, spline_flow, spherical",
    "network": "mlp (default), convolutional",
}
"""All words of the presets, which are not loaded for the sake of a help text."""

DataName = Annotated[str, typer.Argument(help="digits, mnist, freyfaces, or the path of a file or a folder of images.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


@app.command()
def train(
    data: DataName = "digits",
    variant: Annotated[
        str | None,
        typer.Option(help="Variant of the data, e.g. dynamic, by default the first that `pyrovae data` lists."),
    ] = None,
    prior: Annotated[str | None, typer.Option(help=f"{WORDS['prior']}.")] = None,
    likelihood: Annotated[
        str | None, typer.Option(help=f"{WORDS['likelihood']}; by default what suits the data.")
    ] = None,
    posterior: Annotated[str | None, typer.Option(help=f"{WORDS['posterior']}.")] = None,
    network: Annotated[str | None, typer.Option(help=f"{WORDS['network']}.")] = None,
    latent_dim: Annotated[int | None, typer.Option(help=f"Latent dimensions; {by_data('latent_dim')}.")] = None,
    hidden: Annotated[
        str | None, typer.Option(help=f"Widths of the encoder, which the decoder mirrors; {by_data('hidden')}.")
    ] = None,
    levels: Annotated[
        int | None,
        typer.Option(help="Number of levels, for likelihoods on integers 0..levels-1; by default the data's."),
    ] = None,
    dropout: Annotated[float | None, typer.Option(help="Dropout probability; by default 0.")] = None,
    epochs: Annotated[int | None, typer.Option(help=f"Passes through the data; {by_data('epochs')}.")] = None,
    batch_size: Annotated[int | None, typer.Option(help=f"Rows in a batch; {by_data('batch_size')}.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help=f"Peak of the learning rate's one cycle; {by_data('learning_rate')}.")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Decoupled weight decay; by default 0.")] = None,
    clip_norm: Annotated[
        float | None, typer.Option(help="Clip the gradient's norm to this; by default it is not.")
    ] = None,
    beta: Annotated[float, typer.Option(help="Weight of the divergence.")] = 1.0,
    beta_warm_up: Annotated[float, typer.Option(help="Epochs over which beta climbs from 0.")] = 0.0,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a better validation ELBO; by default never.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of first weights, order and noise.")] = 0,
    split_seed: Annotated[
        int,
        typer.Option(
            help="Seed of the split into training, validation and test rows, and of data drawn once; runs that differ "
            "in --seed alone can be compared."
        ),
    ] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...")] = None,
    matmul_precision: Annotated[
        str, typer.Option(help="Of training's matrix products: highest, high, or medium (bfloat16, faster).")
    ] = "medium",
    out: Annotated[Path | None, typer.Option(help="Folder of the run; by default a new one under runs/.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")] = False,
    figures: Annotated[bool, typer.Option(help="Draw figures.")] = True,
    report: Annotated[bool, typer.Option(help="Write report.html into the run's folder.")] = True,
    quiet: Quiet = False,
) -> None:
    """Train a VAE; with no argument on the embedded digits."""
    with endings(quiet):
        from pyrovae.cli.train import Request
        from pyrovae.cli.train import train as run

        words = {
            "prior": prior,
            "likelihood": likelihood,
            "posterior": posterior,
            "network": network,
            "latent_dim": latent_dim,
            "hidden": parsed("--hidden", hidden),
            "levels": levels,
            "dropout": dropout,
        }
        run(
            Request(
                data=data,
                variant=variant,
                words={name: word for name, word in words.items() if word is not None},
                epochs=epochs,
                batch_size=batch_size,
                learning_rate=learning_rate,
                weight_decay=weight_decay,
                clip_norm=clip_norm,
                beta=beta,
                beta_warm_up=beta_warm_up,
                patience=patience,
                seed=seed,
                split_seed=split_seed,
                device=device,
                matmul_precision=matmul_precision,
                out=out,
                resume=resume,
                figures=figures,
                report=report,
                quiet=quiet,
            )
        )


@app.command("data")
def list_data() -> None:
    """List the named data sets, their variants, and where they lie."""
    with endings():
        from pyrovae.data import available

        found = available()
        rows = [(each.name, ", ".join(each.variants), f"{each.rows:,}", each.event_shape) for each in found]
        console().print(table("data sets", ["name", "variants", "rows", "event shape"], rows))
        for each in found:
            say(False, f"{each.name}: {each.where}")


RunFolder = Annotated[Path, typer.Argument(help="Folder of a run.")]
Seed = Annotated[int, typer.Option(help="Seed of the draws.")]
Out = Annotated[
    Path | None,
    typer.Option(
        help="The .npz file to write, a figure of images beside it; by default in the run's folder and figures/."
    ),
]
Samples = Annotated[int | None, typer.Option(help="Samples per datum, by default 1000; for ais chains, by default 16.")]
Steps = Annotated[
    int | None,
    typer.Option(help="For refined, steps of the optimizer (by default 300); for ais, temperatures (by default 100)."),
]


@app.command()
def evaluate(
    run: RunFolder,
    method: Annotated[str, typer.Option(help="importance, refined or ais.")] = "importance",
    samples: Samples = None,
    steps: Steps = None,
    rows: Annotated[int | None, typer.Option(help="Only the first rows of the test set.")] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Estimate the held-out log evidence of a run; stopped and started again, it goes on where it was."""
    with endings(quiet):
        from pyrovae.cli import commands

        commands.evaluate(run, method, samples, steps, rows, seed, quiet)


@app.command()
def sample(
    run: RunFolder,
    num_samples: Annotated[int, typer.Option("--num-samples", "-n", help="How many.")] = 64,
    out: Out = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Draw data from a run's model."""
    with endings(quiet):
        from pyrovae.cli import commands

        commands.sample(run, num_samples, out, seed, quiet)


@app.command()
def reconstruct(
    run: RunFolder,
    rows: Annotated[int, typer.Option(help="How many test rows.")] = 10,
    out: Out = None,
    quiet: Quiet = False,
) -> None:
    """Reconstruct test rows of a run's data."""
    with endings(quiet):
        from pyrovae.cli import commands

        commands.reconstruct(run, rows, out, quiet)


@app.command()
def encode(
    run: RunFolder,
    data: Annotated[str | None, typer.Argument(help="A data set or file; by default the run's test rows.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="An .npz or .parquet file; by default latents.npz in the run.")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Draws per datum instead of the posterior's mean.")] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Encode rows into latents."""
    with endings(quiet):
        from pyrovae.cli import commands

        commands.encode(run, data, out, samples, seed, quiet)


@app.command()
def info(run: RunFolder) -> None:
    """Say what is in a run."""
    with endings():
        from pyrovae.cli import commands

        commands.info(run)


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Folders of runs on the same data.")],
    method: Annotated[str, typer.Option(help="importance, refined or ais.")] = "importance",
    samples: Samples = None,
    steps: Steps = None,
    rows: Annotated[int | None, typer.Option(help="Only the first rows of the test set.")] = None,
    out: Annotated[
        Path, typer.Option(help="Path of the table (.csv) and the figure (.png), without its ending.")
    ] = Path("comparison"),
    force: Annotated[bool, typer.Option("--force", help="Write over a table and a figure that stand there.")] = False,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Compare runs by held-out log evidence, paired row by row."""
    with endings(quiet):
        from pyrovae.cli import commands, judgements

        estimator = commands.estimator_of(method, steps)
        judgements.compare(folders, estimator, samples, rows, out, force, seed, quiet)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folder of a run, or of several to compare.")],
    out: Annotated[
        Path | None, typer.Option(help="The page; by default report.html in the run, or comparison.html for several.")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(help="Test rows for log p(x); by default as many as seconds allow.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Write one page of HTML on a run, or on several compared: what it is, what came of it, how far to trust it."""
    with endings(quiet):
        from pyrovae.cli import judgements

        judgements.report(folders, out, rows, open_, seed, quiet)


@app.command()
def diagnose(
    run: RunFolder,
    rows: Annotated[int | None, typer.Option(help="Only the first rows of the test set.")] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Check a run's posterior: reliability, calibration, collapse, predictive checks; in words, for ArviZ, in figures."""
    with endings(quiet):
        from pyrovae.cli import judgements

        judgements.diagnose(run, rows, seed, quiet)


def main() -> None:
    """The console script."""
    sys.exit(app())
