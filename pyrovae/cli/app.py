"""The list of commands."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated

import typer

import pyrovae
from pyrovae.cli.endings import with_endings

COMMANDS = (
    "train",
    "data",
    "choose",
    "evaluate",
    "compare",
    "diagnose",
    "report",
    "sample",
    "reconstruct",
    "encode",
    "impute",
    "detect",
    "compress",
    "decompress",
    "augment",
    "quality",
    "info",
)
"""Each is a function in the file of its name; its docstring is its help."""

app = typer.Typer(
    name="pyrovae",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pyrovae {pyrovae.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Variational autoencoders as Pyro programs."""


for _name in COMMANDS:
    app.command(_name)(with_endings(getattr(import_module(f"pyrovae.cli.{_name}"), _name)))


def main() -> None:
    """The console script."""
    sys.exit(app())
