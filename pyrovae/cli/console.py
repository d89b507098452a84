"""What the commands print, and how they end."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from pyrovae.data import Data

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
"""Exit codes: something went wrong on the way; the request itself was wrong; Ctrl-C. Success is 0."""
_OPTIONS = {
    r"method='(\w+)' or '(\w+)'": r"--method \1 or \2",
    r"method='(\w+)'": r"--method \1",
    r"num_(steps|temperatures) of (Refined|AIS)": "--steps",
    r"resume=True": "--resume",
}
"""What the library calls an argument, and what it is here."""


def console(quiet: bool = False) -> Console:
    """The console for results; silent when asked."""
    from rich.console import Console

    return Console(quiet=quiet, highlight=False)


def say(quiet: bool, text: str) -> None:
    """Print text as it is: in whole lines, however long a path is, and without markup."""
    console(quiet).print(text, soft_wrap=True, markup=False)


@contextmanager
def endings(quiet: bool = False) -> Iterator[None]:
    """Turn errors that a user can mend into one message and an exit code, without a traceback; warnings into sentences."""
    import typer

    try:
        with _sentences(quiet):
            yield
    except KeyboardInterrupt:
        _complain("interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except (ValueError, TypeError, LookupError, FileNotFoundError, NotADirectoryError, NotImplementedError) as error:
        _complain(str(error))
        raise typer.Exit(BAD_INPUT) from None
    except (OSError, FloatingPointError, MemoryError, ImportError) as error:
        _complain(str(error))
        raise typer.Exit(FAILED) from None


@contextmanager
def _sentences(quiet: bool) -> Iterator[None]:
    """Warnings for users as sentences, without the file and the line that they come from."""
    with warnings.catch_warnings():
        otherwise = warnings.showwarning

        def show(message: Any, category: type[Warning], *where: Any, **options: Any) -> None:
            if not issubclass(category, UserWarning):
                otherwise(message, category, *where, **options)
            elif not quiet:
                _complain(str(message), "yellow")

        warnings.showwarning = show
        yield


def _complain(message: str, color: str = "red") -> None:
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold {color}]pyrovae:[/] {_plain(message)}")


def _plain(message: str) -> str:
    from rich.markup import escape

    return escape(in_options(message.split("\nTrace Shapes")[0].split("\n          ")[0].strip()))


def in_options(text: str) -> str:
    """Advice of the library in the words of the command line.

    >>> in_options("refine (method='refined' or 'ais')")
    'refine (--method refined or ais)'
    """
    for theirs, ours in _OPTIONS.items():
        text = re.sub(theirs, ours, text)
    return text


def named(data: Data) -> str:
    """The data's name with its variant, if it has one."""
    return str(data.name) if data.variant is None else f"{data.name} ({data.variant})"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    """A table whose numbers are aligned to the right."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title=Text(title), title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        made.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
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


def require_free(paths: Sequence[Path], force: bool) -> None:
    """Refuse to write over files, unless asked to.

    Raises:
        ValueError: one is there.
    """
    taken = [str(path) for path in paths if path.exists()]
    if taken and not force:
        raise ValueError(f"{' and '.join(taken)} would be overwritten: choose another --out, or say --force")
