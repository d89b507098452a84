"""Rows of one table brought into the order of another: by the names of columns, covariates and levels, never by place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyrovae.data.kinds import wrong_values
from pyrovae.data.rows import Rows, SparseRows, first_row, leaves, map_tree

if TYPE_CHECKING:
    from pyrovae.data.table import Data

Levels = tuple[str, ...]


def match(reference: Data, other: Data) -> Data:
    """Return ``other`` in the order of ``reference``: the function behind :meth:`Data.matched`."""
    parts = [path for _, path in leaves(reference.x)]
    if parts != [path for _, path in leaves(other.x)]:
        came = ", ".join(path for _, path in leaves(other.x))
        raise ValueError(f"expected data with the parts {', '.join(parts)}, got {came}; give the same dict or tuple")
    own, theirs = reference.names(), other.names()

    def leaf(rows: Rows, path: str, like: Rows) -> Rows:
        wanted, came = own[path], theirs[path]
        if wanted and came and wanted != came:
            rows = _columns(rows, name_order(wanted, came, f"the columns of {path}"))
        _check_shape(rows, like, path)
        coded = [number for number, name in enumerate(wanted or ()) if name in reference.levels]
        if coded and isinstance(rows, Tensor):
            rows = rows.clone()
            for number in coded:
                codes, (known, given, what) = rows[:, number], _levels(reference, other, (wanted or ())[number])
                if given is None and came and reference.kinds:  # a table whose numbers are the levels themselves
                    values, codes = codes.unique(return_inverse=True)
                    codes = torch.where(rows[:, number].isnan(), rows[:, number], codes.to(rows.dtype))
                    given = tuple(level_name(value) for value in values.tolist() if value == value) or None
                rows[:, number] = recoded(codes, known, given, what)
        for number, name in enumerate(wanted or ()):
            if name in reference.kinds and isinstance(rows, Tensor):
                wrong = torch.from_numpy(wrong_values(reference.kinds[name], rows[:, number].numpy()))
                if wrong.any():
                    row, kind = first_row(wrong), reference.kinds[name].partition(":")[0]
                    raise ValueError(
                        f"{name!r} holds {rows[row, number].item():g} in row {row}, which a column of kind {kind} cannot: "
                        "correct it, or leave it empty"
                    )
        return rows

    x = map_tree(leaf, other.x, reference.x)
    covariates = {name: _covariate(reference, other, name) for name in reference.covariates or ()}
    levels = {**other.levels, **reference.levels}
    return replace(
        other,
        x=x,
        columns=reference.columns or other.columns,
        covariates=covariates or None,
        levels=levels,
        kinds=reference.kinds,
    )


def _covariate(reference: Data, other: Data, name: str) -> Tensor:
    came, like = (other.covariates or {}).get(name), (reference.covariates or {})[name]
    if came is None:
        raise ValueError(
            f"expected the covariate {name!r}, which the training rows have, got {list(other.covariates or ())}; write "
            f"pyrovae.data.as_data(x, {{{name!r}: values}})"
        )
    _check_shape(came, like, f"covariates[{name!r}]")
    wanted, theirs, what = _levels(reference, other, name)
    if wanted is None and theirs is not None:
        raise ValueError(f"expected {what} to be numbers, as in the training rows, got the levels {list(theirs)}")
    return came if wanted is None else recoded(came, wanted, theirs, what)


def _levels(reference: Data, other: Data, name: str) -> tuple[Any, Levels | None, str]:
    return reference.levels.get(name), other.levels.get(name), repr(name)


def _check_shape(rows: Rows, like: Rows, path: str) -> None:
    if rows.shape[1:] != like.shape[1:]:
        raise ValueError(
            f"expected rows of shape {tuple(like.shape[1:])} in {path}, as the training rows have, got "
            f"{tuple(rows.shape[1:])}; reshape them"
        )


def name_order(wanted: Sequence[Any], came: Sequence[Any], what: str) -> list[int]:
    """Return where each wanted name stands among those that came; refuse other names, and names that are there twice."""
    place, known = {name: number for number, name in enumerate(came)}, set(wanted)
    lacking, other = [n for n in wanted if n not in place], [n for n in came if n not in known]
    if lacking or other or len(place) < len(came) or len(wanted) != len(came):
        wrong = [f"lacking {some(lacking)}"] * bool(lacking) + [f"others {some(other)}"] * bool(other)
        raise ValueError(
            f"expected {what} to have the same names, each once, got {len(came)} for {len(wanted)}"
            f"{': ' if wrong else ', some twice'}{' and '.join(wrong)}; rename or select them"
        )
    return [place[name] for name in wanted]


def some(names: Sequence[Any]) -> str:
    """The first names of many, for messages."""
    return ", ".join(repr(name) for name in names[:5]) + (", ..." if len(names) > 5 else "")


def level_name(value: Any) -> str:
    """The name of a level that is a value: that of a whole number has no decimals."""
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _columns(rows: Rows, order: list[int]) -> Rows:
    return rows[:, order] if isinstance(rows, Tensor) else rows.columns(order) if isinstance(rows, SparseRows) else rows


def recoded(codes: Tensor, wanted: Levels, came: Levels | None, what: str) -> Tensor:
    """Return codes ``(rows,)`` of the levels that came (None: of those wanted) as codes of the levels wanted.

    NaN, a missing entry, stays. A code that is none of the levels is refused by its row.

    >>> recoded(torch.tensor([0, 1, 1]), ("a", "b", "c"), ("c", "a"), "batch")
    tensor([2, 0, 0])
    """
    known = wanted if came is None else came
    missing = codes.isnan()
    whole = codes.masked_fill(missing, 0).long()
    inside = missing | ((whole == codes) & (whole >= 0) & (whole < len(known)))
    places = torch.tensor([wanted.index(name) if name in wanted else -1 for name in known], device=codes.device)
    result = places[whole.clamp(0, len(known) - 1)]
    wrong = ~inside | ((result < 0) & ~missing)
    if bool(wrong.any()):
        row = first_row(wrong)
        named = f"level {known[int(whole[row])]!r}" if inside[row] else f"code {codes[row].item():g}"
        raise ValueError(
            f"{what} has the {named} in row {row}, expected one of {some(wanted)}, coded 0..{len(wanted) - 1}: drop the "
            "row, or train anew on rows with it"
        )
    return torch.where(missing, codes, result.to(codes.dtype))
