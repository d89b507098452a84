"""Rows for a program whose modules know a table's columns: columns by name, levels as the program codes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyrovae.data import Data, as_data
from pyrovae.data.frames import is_from
from pyrovae.data.kinds import kind_words
from pyrovae.data.matching import match
from pyrovae.distributions.columns import Bounded, Column
from pyrovae.distributions.leveled import Leveled
from pyrovae.distributions.table import TableSchema
from pyrovae.programs.program import Program


def rows_for(program: Any, data: Any, covariates: Mapping[str, Any] | None = None, variant: str | None = None) -> Data:
    """Return data as a program's table codes them; for a program without a table, and for rows without names, as they are.

    A DataFrame of raw values is read with the kinds of the program's columns. Columns are matched by name, levels by their
    names, and an unseen level is refused by column and row.

    Args:
        program: see :meth:`Program.of`.
        data: of any kind that :func:`pyrovae.data.as_data` takes.
        covariates: for each name, N rows.
        variant: as in ``as_data``.
    """
    schema = _schema(program)
    if schema is None:
        return as_data(data, covariates, variant)
    kinds = {column.name: _word(column) for column in schema.columns}
    is_raw = is_from(data, "pandas", "DataFrame") or is_from(data, "polars", "DataFrame")
    levels = {column.name: column.levels for column in schema.columns if isinstance(column, Leveled)}
    rows = as_data(data, covariates, variant, kinds=kind_words(kinds, levels) if is_raw else None)
    names = tuple(kinds)
    if not rows.columns or not isinstance(rows.x, Tensor):
        return rows
    known = Data(torch.zeros(1, len(names)), columns=names, levels=levels, kinds=kinds)
    found = match(known, replace(rows, covariates=None))
    return replace(found, covariates=rows.covariates, levels={**rows.levels, **levels}, parts=rows.parts)


def _word(column: Column) -> str:
    return f"bounded:{column.lower}:{column.upper}" if isinstance(column, Bounded) else column.kind


def _schema(program: Any) -> TableSchema | None:
    """The one table that a program's modules describe, or None."""
    modules = (module for owner in Program.of(program).owners for module in owner.modules())
    found = {s.columns: s for module in modules if isinstance(s := getattr(module, "schema", None), TableSchema)}
    return next(iter(found.values())) if len(found) == 1 else None
