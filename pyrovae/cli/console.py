"""What the commands print, and how they end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
"""Exit codes: something went wrong on the way; the request itself was wrong; Ctrl-C. Success is 0."""


def console(quiet: bool = False) -> Console:
    """The console for results; silent when asked."""
    from rich.console import Console

    return Console(quiet=quiet, highlight=False)


@contextmanager
def endings() -> Iterator[None]:
    """Turn errors that a user can mend into one message and an exit code, without a traceback."""
    import typer

    try:
        yield
    except KeyboardInterrupt:
        _say("interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except (ValueError, TypeError, LookupError, FileNotFoundError, NotADirectoryError, NotImplementedError) as error:
        _say(str(error))
        raise typer.Exit(BAD_INPUT) from None
    except (OSError, FloatingPointError, MemoryError, ImportError) as error:
        _say(str(error))
        raise typer.Exit(FAILED) from None


def _say(message: str) -> None:
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]pyrovae:[/] {_plain(message)}")


def _plain(message: str) -> str:
    from rich.markup import escape

    return escape(message.split("\nTrace Shapes")[0].split("\n          ")[0].strip())


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    """A table whose numbers are aligned to the right."""
    from rich.table import Table

    made = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        made.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    return made


def number(value: float | None, form: str = ".2f") -> str:
    """A number as text; a dash where there is none."""
    return "-" if value is None else format(value, form)


def parsed(name: str, text: str | None, kind: Callable[[str], Any] = int) -> tuple | None:
    """A comma-separated option, ``400,400`` say, as a tuple.

    >>> parsed("--hidden", "400,400")
    (400, 400)
    """
    if text is None:
        return None
    try:
        return tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError(f"{name} takes numbers with commas between them, as in {name} 400,400; got {text!r}") from None


def is_terminal() -> bool:
    """Whether progress has somewhere to go."""
    return sys.stderr.isatty()
