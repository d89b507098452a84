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
    """Numbers of any shape as an array, from a tensor on any device too, with or without gradient.

    >>> to_numpy("kl", torch.ones(3, requires_grad=True))
    array([1., 1., 1.], dtype=float32)
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} has rows of different lengths: expected one rectangular array") from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} should hold numbers, got {type(values).__name__} of {array.dtype}")
    if array.size == 0:
        raise ValueError(f"{name} is empty (shape {array.shape}): there is nothing to draw")
    return array


def to_shape(name: str, values: Values, *axes: str) -> np.ndarray:
    """Numbers as a floating array with one axis for each of the names.

    >>> to_shape("kl", [1, 2], "latent")
    array([1., 2.])
    """
    array = to_numpy(name, values).astype(np.float64)
    if array.ndim != len(axes):
        wanted = f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"
        raise ValueError(f"{name} should have shape {wanted}, got {array.shape}")
    return array


def to_finite(name: str, values: Values, *axes: str) -> np.ndarray:
    """As :func:`to_shape`, without NaN or infinity; of any shape where no axis is named."""
    array = to_shape(name, values, *axes) if axes else to_numpy(name, values).astype(np.float64)
    bad = int(array.size - np.isfinite(array).sum())
    if bad:
        raise ValueError(
            f"{name} holds {bad} NaN or infinite entries of {array.size}: leave those rows out or mend them first"
        )
    return array


def check_probabilities(name: str, values: np.ndarray) -> None:
    """Refuse numbers outside [0, 1], and NaN."""
    if not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(f"{name} should hold probabilities from 0 to 1, got {values.min():g} to {values.max():g}")


def check_mass(name: str, value: float) -> None:
    """Refuse a probability that is not between 0 and 1, both excluded."""
    if not 0 < value < 1:
        raise ValueError(f"{name} should lie between 0 and 1, got {value}")


def same_length(**arrays: np.ndarray | Sequence[Any] | None) -> None:
    """Refuse arrays that differ in the size of their first axis; None is not looked at."""
    lengths = {name: len(array) for name, array in arrays.items() if array is not None}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"expected as many entries in each argument: {found}")


def names_of(names: Sequence[str] | None, form: str = "z[{}]", **arrays: np.ndarray) -> list[str]:
    """The names given for the entries of some arrays, as many in each; by default ``z[0]``, ``z[1]``, ...

    >>> names_of(None, kl=np.ones(2))
    ['z[0]', 'z[1]']
    """
    same_length(**arrays, names=names)
    return [form.format(index) for index in range(len(next(iter(arrays.values()))))] if names is None else list(names)


def by_name(name: str, values: Values | Mapping[str, Values], *axes: str) -> dict[str, np.ndarray]:
    """Arrays by name, at least one; a bare array has the empty name.

    >>> by_name("pareto_k", [0.1, 0.9], "data")
    {'': array([0.1, 0.9])}
    """
    sources = values if isinstance(values, Mapping) else {"": values}
    if not sources:
        raise ValueError(f"{name} is an empty mapping: there is nothing to draw")
    return {str(key): to_shape(f"{name}[{key!r}]" if key else name, found, *axes) for key, found in sources.items()}


def named_columns(name: str, values: Values | Mapping[str, Values], rows: str) -> dict[str, np.ndarray]:
    """One column for each quantity in arrays ``(rows, *quantities)``; those of a bare array are called ``name[0]``, ...

    >>> list(named_columns("ranks", {"z": np.zeros((5, 2)), "log_joint": np.zeros(5)}, "simulations"))
    ['z[0]', 'z[1]', 'log_joint']
    """
    sources = values if isinstance(values, Mapping) else {name: values}
    if not sources:
        raise ValueError(f"{name} is an empty mapping: there is nothing to draw")
    columns: dict[str, np.ndarray] = {}
    for key, source in sources.items():
        array = to_numpy(str(key), source)
        if array.ndim == 0:
            raise ValueError(f"{key} should have shape ({rows}, ...), got one number")
        for at in np.ndindex(array.shape[1:]):
            columns[f"{key}[{', '.join(map(str, at))}]" if at else str(key)] = array[:, *at]
    same_length(**columns)
    return columns


def column(table: Table, name: str) -> np.ndarray | None:
    """One column as floats, NaN where an entry is None; None where the table lacks it or holds nothing finite.

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
    values = to_shape(name, found if isinstance(found, torch.Tensor) else np.asarray(found, dtype=np.float64), "rows")
    return values if np.isfinite(values).any() else None
