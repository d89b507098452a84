"""How commands end: errors become one message and an exit code, warnings become sentences."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
"""Exit codes: something went wrong on the way; the request itself was wrong; Ctrl-C. Success is 0."""
MENDABLE = (ValueError, TypeError, LookupError, FileNotFoundError, NotADirectoryError, NotImplementedError)
"""Errors that another request would not meet."""


def with_endings(command: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command so that errors that a user can mend end in one message and an exit code, without a traceback."""

    @functools.wraps(command)
    def wrapped(ctx: typer.Context, **options: Any) -> None:
        try:
            with _sentences(options.get("quiet", False)):
                command(**options)
        except KeyboardInterrupt:
            complain("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except (*MENDABLE, OSError, FloatingPointError, MemoryError, ImportError) as error:
            complain(_message(ctx, error))
            raise typer.Exit(BAD_INPUT if isinstance(error, MENDABLE) else FAILED) from None

    own = inspect.signature(command, eval_str=True)
    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    wrapped.__signature__ = own.replace(parameters=[context, *own.parameters.values()])  # type: ignore[attr-defined]
    return wrapped


def complain(message: str, color: str = "red", quiet: bool = False) -> None:
    """Print a message on the error stream: errors in red, warnings in yellow."""
    from rich.console import Console
    from rich.markup import escape

    Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet).print(
        f"[bold {color}]pyrovae:[/] {escape(message)}"
    )


def _message(ctx: typer.Context, error: Exception) -> str:
    """The error's first paragraph, behind the option that it is about."""
    text = str(error).split("\nTrace Shapes")[0].split("\n          ")[0].strip()  # Pyro adds the shapes of its sites
    argument = getattr(error, "argument", None)
    options = {p.name: next((o for o in p.opts if o.startswith("--")), str(p.name).upper()) for p in ctx.command.params}
    return f"{options[argument]}: {text}" if argument in options else text


@contextmanager
def _sentences(quiet: bool) -> Iterator[None]:
    """Print warnings for users as sentences, without the file and the line that they come from."""
    with warnings.catch_warnings():
        otherwise = warnings.showwarning

        def show(message: Any, category: type[Warning], *where: Any, **options: Any) -> None:
            if not issubclass(category, UserWarning):
                otherwise(message, category, *where, **options)
            else:
                complain(str(message), "yellow", quiet)

        warnings.showwarning = show
        yield
