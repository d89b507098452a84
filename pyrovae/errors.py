"""Errors about arguments, and the checks that many doors share: every room may use them."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

Error = TypeVar("Error", bound=Exception)
PACKAGE = Path(__file__).parent


def refusal(message: str, argument: str | None = None, kind: type[Error] = ValueError) -> Error:  # type: ignore[assignment]
    """Return the error to raise; its attribute ``argument`` names the public keyword at fault.

    A reader of Python sees the message alone. The command line looks the keyword up among its own options and names the
    option before the message, so that no text is rewritten.

    Args:
        message: what was expected, what came and what to do.
        argument: the keyword of the public function that was called.
        kind: the class of the error.

    >>> error = refusal("epochs must be at least 1, got 0", argument="epochs")
    >>> error, error.argument
    (ValueError('epochs must be at least 1, got 0'), 'epochs')
    """
    error = kind(message)
    error.argument = argument  # type: ignore[attr-defined]
    return error


def counted(number: int, noun: str) -> str:
    """A number of things as messages and pages write it.

    >>> counted(1, "test row"), counted(2000, "row")
    ('1 test row', '2,000 rows')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def check_seed(seed: Any) -> Any:
    """Return the seed if it is a non-negative integer, or None.

    >>> check_seed(-1)
    Traceback (most recent call last):
    ValueError: seed must be from 0 to 9223372036854775807, got -1
    """
    return None if seed is None else check_integer("seed", seed, 0, 2**63 - 1)


def check_positive(argument: str, value: Any, *, or_zero: bool = False) -> float:
    """Return the value if it is a finite number above 0.

    Args:
        argument: the keyword that the value was given for.
        value: what was given.
        or_zero: whether 0 is allowed.

    Raises:
        TypeError: it is no number.
        ValueError: it is out of range.

    >>> check_positive("learning_rate", 0.0)
    Traceback (most recent call last):
    ValueError: learning_rate must be a finite number above 0, got 0.0
    """
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise refusal(f"{argument} must be a number, got {value!r:.100}", argument, TypeError)
    if not (0 < float(value) < math.inf or (or_zero and value == 0)):
        raise refusal(
            f"{argument} must be a finite number {'of at least' if or_zero else 'above'} 0, got {value}", argument
        )
    return float(value)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Raise the library's own errors as they are, without the table of shapes that Pyro's traces add to their text.

    Errors of a user's program, and of Pyro and torch, keep the table.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        own: BaseException = error
        while (cause := own.__cause__) is not None and type(cause) is type(own) and str(own).startswith(str(cause)):
            own = cause
        last = own.__traceback__
        while last is not None and last.tb_next is not None:
            last = last.tb_next
        if own is error or last is None or not Path(last.tb_frame.f_code.co_filename).is_relative_to(PACKAGE):
            raise
        raise own from own.__cause__


def check_word(argument: str, value: Any, known: Iterable[Any]) -> Any:
    """Return the value if it is one of the known words (or None, where None is among them).

    Args:
        argument: the keyword that the value was given for.
        value: what was given.
        known: the words that are allowed.

    Raises:
        ValueError: it is another; the message lists the words and proposes the closest.

    >>> check_word("method", "refine", ["importance", "refined"])
    Traceback (most recent call last):
    ValueError: method must be one of importance, refined, got 'refine'; did you mean 'refined'?
    """
    words = list(known)
    if isinstance(value, str | None) and value in words:
        return value
    message = f"{argument} must be one of {', '.join(map(str, words))}, got {value!r:.100}{did_you_mean(value, words)}"
    raise refusal(message, argument)


def did_you_mean(value: Any, known: Iterable[Any]) -> str:
    """The end of a message that proposes the closest known word; empty if none is close.

    Args:
        value: what was given.
        known: the words that are allowed.

    >>> did_you_mean("latentdim", ["latent_dim", "hidden"])
    "; did you mean 'latent_dim'?"
    """
    near = difflib.get_close_matches(str(value)[:100], [str(word) for word in known], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def check_integer(argument: str, value: Any, least: int = 1, most: float = math.inf) -> int:
    """Return the value if it is an integer in the range.

    Args:
        argument: the keyword that the value was given for.
        value: what was given.
        least: the smallest that is allowed.
        most: the largest that is allowed.

    Raises:
        TypeError: it is no integer (True and 2.0 are none).
        ValueError: it is out of range.

    >>> check_integer("num_samples", 0)
    Traceback (most recent call last):
    ValueError: num_samples must be at least 1, got 0
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise refusal(f"{argument} must be an integer, got {value!r:.100}", argument, TypeError)
    number = int(value)
    if not least <= number <= most:
        span = f"at least {least}" if most == math.inf else f"from {least} to {most}"
        raise refusal(f"{argument} must be {span}, got {number}", argument)
    return number
