"""The commands and their options."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pyrovae.cli.console import console, endings, parsed, table

app = typer.Typer(
    name="pyrovae",
    help="Variational autoencoders as Pyro programs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

DataName = Annotated[str, typer.Argument(help="digits, mnist, freyfaces, or the path of a file or a folder of images.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


@app.command()
def train(
    data: DataName = "digits",
    variant: Annotated[str | None, typer.Option(help="Variant of the data, e.g. dynamic; see `pyrovae data`.")] = None,
    prior: Annotated[str | None, typer.Option(help="standard_normal, mixture, vamp, affine_flow, spline_flow.")] = None,
    likelihood: Annotated[str | None, typer.Option(help="bernoulli, binomial, poisson, normal, ...")] = None,
    posterior: Annotated[str | None, typer.Option(help="normal, full_normal, affine_flow, ...")] = None,
    network: Annotated[str | None, typer.Option(help="mlp or convolutional.")] = None,
    latent_dim: Annotated[int | None, typer.Option(help="Latent dimensions.")] = None,
    hidden: Annotated[
        str | None, typer.Option(help="Widths of the encoder, e.g. 400,400; the decoder mirrors it.")
    ] = None,
    levels: Annotated[
        int | None, typer.Option(help="Number of levels, for likelihoods on integers 0..levels-1.")
    ] = None,
    dropout: Annotated[float | None, typer.Option(help="Dropout probability.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes through the data.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows in a batch.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak of the learning rate's one cycle.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Decoupled weight decay.")] = None,
    clip_norm: Annotated[float | None, typer.Option(help="Clip the gradient's norm to this.")] = None,
    beta: Annotated[float, typer.Option(help="Weight of the divergence.")] = 1.0,
    beta_warm_up: Annotated[float, typer.Option(help="Epochs over which beta climbs from 0.")] = 0.0,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a better validation ELBO.")
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
    with endings():
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

        rows = [
            (found.name, ", ".join(found.variants), f"{found.rows:,}", found.event_shape, found.where)
            for found in available()
        ]
        console().print(table("data sets", ["name", "variants", "rows", "event shape", "where"], rows))


RunFolder = Annotated[Path, typer.Argument(help="Folder of a run.")]
Seed = Annotated[int, typer.Option(help="Seed of the draws.")]
Out = Annotated[Path | None, typer.Option(help="The file to write; by default in the run's folder.")]


@app.command()
def evaluate(
    run: RunFolder,
    method: Annotated[str, typer.Option(help="importance, refined or ais.")] = "importance",
    samples: Annotated[int | None, typer.Option(help="Samples (or chains) per datum.")] = None,
    rows: Annotated[int | None, typer.Option(help="Only the first rows of the test set.")] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Estimate the held-out log evidence of a run; stopped and started again, it goes on where it was."""
    with endings():
        from pyrovae.cli import commands

        commands.evaluate(run, method, samples, rows, seed, quiet)


@app.command()
def sample(
    run: RunFolder,
    num_samples: Annotated[int, typer.Option("--num-samples", "-n", help="How many.")] = 64,
    out: Out = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Draw data from a run's model."""
    with endings():
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
    with endings():
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
    with endings():
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
    samples: Annotated[int | None, typer.Option(help="Samples (or chains) per datum.")] = None,
    rows: Annotated[int | None, typer.Option(help="Only the first rows of the test set.")] = None,
    out: Annotated[Path, typer.Option(help="Name of the table and the figure.")] = Path("comparison"),
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Compare runs by held-out log evidence, paired row by row."""
    with endings():
        from pyrovae.cli import judgements

        judgements.compare(folders, method, samples, rows, out, seed, quiet)


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
    with endings():
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
    with endings():
        from pyrovae.cli import judgements

        judgements.diagnose(run, rows, seed, quiet)


def main() -> None:
    """The console script."""
    sys.exit(app())
