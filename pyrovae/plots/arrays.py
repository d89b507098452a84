"""Arrays on their way into a figure: converted, checked, never written to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import torch

if TYPE_CHECKING:
    import numpy.typing as npt

    Values: TypeAlias = npt.ArrayLike | torch.Tensor


class Table(Protocol):
    """Columns by name: a dict of arrays, a DataFrame, a training history."""

    def __getitem__(self, name: str, /) -> Any:
        """One column; KeyError where there is none of that name."""


def to_numpy(name: str, values: Values) -> np.ndarray:
    """Values as a numpy array, from a tensor on any device too, with or without gradient.

    Args:
        name: the argument's name, for the message.
        values: numbers of any shape.

    Raises:
        TypeError: the values are no numbers.
        ValueError: there are none.

    >>> to_numpy("kl", torch.ones(3, requires_grad=True))
    array([1., 1., 1.], dtype=float32)
    """
    array = _from_tensor(values) if isinstance(values, torch.Tensor) else _from_any(name, values)
    if array.size == 0:
        raise ValueError(f"{name} is empty (shape {array.shape}): there is nothing to draw")
    return array


def _from_tensor(values: torch.Tensor) -> np.ndarray:
    tensor = values.detach().cpu()
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()


def _from_any(name: str, values: Any) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} has rows of different lengths: expected one rectangular array") from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} should hold numbers, got {type(values).__name__} of {array.dtype}")
    return array


def to_shape(name: str, values: Values, axes: Sequence[str], remedy: str = "") -> np.ndarray:
    """Values as a floating array with one axis a name.

    Args:
        name: the argument's name, for the message.
        values: the numbers.
        axes: what each axis means, e.g. ``("samples", "data")``.
        remedy: what to write instead, appended to the message.

    Raises:
        ValueError: the number of axes differs.

    >>> to_shape("kl", [1, 2], ("latent",))
    array([1., 2.])
    """
    array = to_numpy(name, values).astype(np.float64)
    if array.ndim != len(axes):
        wanted = f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"
        raise ValueError(f"{name} should have shape {wanted}, got {array.shape}{'; ' + remedy if remedy else ''}")
    return array


def finite(name: str, array: np.ndarray) -> np.ndarray:
    """The array itself, if every entry is finite.

    Raises:
        ValueError: entries are NaN or infinite.

    >>> finite("elpd", np.ones(2))
    array([1., 1.])
    """
    bad = int(array.size - np.isfinite(array).sum())
    if bad:
        raise ValueError(
            f"{name} holds {bad} NaN or infinite entries of {array.size}: leave those rows out or mend them first"
        )
    return array


def at_least(least: int, **numbers: int) -> int:
    """The one number given by name, if it is not below the least.

    Raises:
        ValueError: it is.

    >>> at_least(1, num_images=5)
    5
    """
    for name, number in numbers.items():
        if number < least:
            raise ValueError(f"{name} should be at least {least}, got {number}")
    return next(iter(numbers.values()))


def same_length(**arrays: np.ndarray | Sequence[Any] | None) -> None:
    """Check that all arguments that are given have as many entries on their first axis.

    Raises:
        ValueError: the lengths differ.

    >>> same_length(elpd=np.ones(2), se=np.ones(2), dse=None)
    """
    lengths = {name: len(array) for name, array in arrays.items() if array is not None}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"expected as many entries in each argument: {found}")


def named_columns(name: str, values: Values | Mapping[str, Values], rows: str) -> dict[str, np.ndarray]:
    """One column per quantity, each with its name.

    Args:
        name: the argument's name; the columns of a bare matrix are called ``name[0]``, ``name[1]``, ...
        values: ``(rows,)`` or ``(rows, *quantities)``, or such arrays by name.
        rows: what the first axis means.

    Raises:
        ValueError: an array has no axis, or lengths differ.

    >>> list(named_columns("ranks", {"z": np.zeros((5, 2)), "log_joint": np.zeros(5)}, "simulations"))
    ['z[0]', 'z[1]', 'log_joint']
    """
    sources = values if isinstance(values, Mapping) else {name: values}
    if not sources:
        raise ValueError(f"{name} is an empty mapping: there is nothing to draw")
    columns: dict[str, np.ndarray] = {}
    for key, source in sources.items():
        columns |= _columns(str(key), source, rows)
    same_length(**columns)
    return columns


def _columns(name: str, values: Values, rows: str) -> dict[str, np.ndarray]:
    array = to_numpy(name, values)
    if array.ndim == 0:
        raise ValueError(f"{name} should have shape ({rows}, ...), got one number")
    if array.ndim == 1:
        return {name: array}
    return {f"{name}[{', '.join(map(str, at))}]": array[:, *at] for at in np.ndindex(array.shape[1:])}


def column(table: Table, name: str) -> np.ndarray | None:
    """One column as floats, NaN where an entry is None; None where the table lacks it or holds nothing finite.

    Raises:
        TypeError: this is no table.
        ValueError: the column is not a vector.

    >>> column({"kl": [1, None]}, "kl"), column({"kl": [1, 2]}, "elbo")
    (array([ 1., nan]), None)
    """
    try:
        found = table[name]
    except KeyError:
        return None
    except (TypeError, IndexError) as error:
        kind = type(table).__name__
        raise TypeError(f"expected columns by name (a dict of arrays, a DataFrame, a History), got {kind}") from error
    values = to_shape(
        name, found if isinstance(found, torch.Tensor) else np.asarray(found, dtype=np.float64), ("rows",)
    )
    return values if np.isfinite(values).any() else None
