"""Tables as numbers: pandas and AnnData, matched by the names of their rows, with the levels of their categories."""

from __future__ import annotations

import fnmatch
import re
import sys
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae.data.kinds import LEVELED, guess_kind, is_number
from pyrovae.data.matching import level_name, name_order, some
from pyrovae.errors import refusal

if TYPE_CHECKING:
    import pandas as pd

_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_DATE = re.compile(
    rf"\d{{1,4}}[-/.]\d{{1,2}}[-/.]\d{{1,4}}([ T].*)?|\d{{1,2}}[-. ]*{_MONTH}[-., ]*\d{{2,4}}|{_MONTH} \d{{1,2}},? \d{{4}}",
    re.IGNORECASE,
)
_TIME = re.compile(r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?( ?[ap]m)?", re.IGNORECASE)
_DRESSED = re.compile(r"[-+(]?[$€£¥]? ?[-+]?\d[\d.,' ]*\d? ?[%$€£¥]?\)?")
_ID = re.compile(r"(.*[ _.])?(id|uuid|index|row|no|nr|case|subject|participant|respondent)", re.IGNORECASE)
_REPEATED_ID = re.compile(r"(.*[ _.])?(id|uuid|case|subject|participant|respondent)", re.IGNORECASE)
MOST_LEVELS, ROWS_EACH = 20, 5
"""Text of more levels than this, and of fewer rows for each of them on average, is ids or free text."""


def is_from(value: Any, module: str, *names: str) -> bool:
    """Whether a value is of one of these classes of a heavy module, which is not imported to find out."""
    return module in sys.modules and isinstance(value, tuple(getattr(sys.modules[module], name) for name in names))


def row_names(value: Any) -> Any:
    """The pandas index of a table's rows, or None for what has none."""
    if is_from(value, "pandas", "DataFrame", "Series"):
        return value.index
    return value.obs_names if is_from(value, "anndata", "AnnData") else None


def column_names(value: Any) -> tuple[str, ...] | None:
    """The names of a table's columns, or None for what has none."""
    if is_from(value, "anndata", "AnnData"):
        return tuple(map(str, value.var_names))
    return tuple(map(str, value.columns)) if is_from(value, "pandas", "DataFrame") else None


def aligned(value: Any, names: Any, path: str) -> Any:
    """Return a table with its rows in the order of these names (a pandas index); an array, or without names, as it is."""
    own = row_names(value)
    if own is None or names is None or own.equals(names):
        return value
    order = name_order(list(names), list(own), f"the rows of {path}")
    return value.iloc[order] if hasattr(value, "iloc") else value[order]


def own_columns(x: Any, covariates: Any, labels: Any) -> tuple[Any, Any, Any]:
    """Return data, covariates and labels, where columns of the data are named as such: these are taken out of the data.

    An AnnData's labels are by default the columns of its ``obs`` that have levels.
    """
    by_name = isinstance(covariates, list | tuple) and all(isinstance(name, str) for name in covariates)
    names = [*(covariates if by_name else ()), *([labels] if isinstance(labels, str) else [])]
    is_cells = is_from(x, "anndata", "AnnData")
    table = x.obs if is_cells else x
    if names and not is_from(table, "pandas", "DataFrame"):
        raise ValueError(f"expected a table for columns by name, got {type(x).__name__} and the names {names}")
    absent = [name for name in names if name not in table.columns]
    if absent:
        shown = ", ".join(map(repr, table.columns[:20]))
        raise ValueError(f"expected a column {absent[0]!r} in the table, got: {shown}; correct its name")
    if is_cells and labels is None:
        labels = table[[name for name in table.columns if _has_levels(table[name])]]
    elif isinstance(labels, str):
        labels = table[[labels]]
    return (
        (x if is_cells or not names else x.drop(columns=names)),
        table[list(covariates)] if by_name else covariates,
        labels,
    )


def _has_levels(column: pd.Series) -> bool:
    return column.dtype.name in ("category", "bool", "object", "string") and column.nunique() <= max(
        10, len(column) // 2
    )


def _spread(kinds: dict[str, str], names: list[str], path: str) -> str | None:
    """Put the columns in the place of the patterns that match them; returns the kind of all other columns, or None."""
    default = kinds.pop("*", None)
    for pattern in [name for name in kinds if name not in names and fnmatch.filter(names, name)]:
        kind = kinds.pop(pattern)
        kinds.update({name: kind for name in fnmatch.filter(names, pattern) if name not in kinds})
    if absent := [name for name in kinds if name not in names]:
        raise refusal(f"expected a column {absent[0]!r} in {path}, got: {some(names)}; correct its name", "kinds")
    return default


def frame_values(
    frame: pd.DataFrame, path: str, levels: dict[str, tuple[str, ...]], kinds: dict[str, str] | None
) -> Any:
    """Return the numbers of a table: integers where all are, else float64 with NaN for what is missing; or a sparse matrix.

    Dates, ids and free text are refused: the TypeError says what to do with each.

    Args:
        frame: the table.
        path: the expression that leads to it, for messages.
        levels: gets the names of the levels of columns that become codes.
        kinds: the kinds of some columns, by name or pattern (``"q*"``), under ``"*"`` that of all others; gets the others,
            guessed where there is no such entry. None refuses columns of text.
    """
    import pandas as pd

    names = list(map(str, frame.columns))
    if len(set(names)) < len(names):
        raise ValueError(
            f"expected each column of {path} once, got {next(n for n in names if names.count(n) > 1)!r} twice: rename one"
        )
    asked = {} if kinds is None else kinds
    default = _spread(asked, names, path)
    if frame.empty:
        return np.empty(frame.shape)
    if all(isinstance(dtype, pd.SparseDtype) for dtype in frame.dtypes):
        return frame.sparse.to_coo().tocsr()
    columns, wrong, originals = [], [], list(frame.items())
    for name, (_, column) in zip(names, originals, strict=True):
        column = column.sparse.to_dense() if isinstance(column.dtype, pd.SparseDtype) else column
        is_odd = not is_number(column.dtype) or _ID.fullmatch(name)
        kind = asked.get(name, "").partition(":")[0]
        if (
            kind
            and kind not in LEVELED
            and column.dtype.kind in "OU"
            and (numbers := _plain_numbers(column)) is not None
        ):
            column = numbers
        is_asked = kind in LEVELED or bool(kind and is_number(column.dtype))
        why = _not_numbers(column) if is_odd and not (is_asked and column.dtype.kind not in "mM") else None
        if why is None and (kinds is not None or not is_number(column.dtype)):
            if kinds is not None and kinds.get(name, "").startswith("ordinal"):
                column, kinds[name] = _in_order(column, kinds[name]), "ordinal"
            numbers, own = coded(column)
            if kinds is not None:
                if name not in kinds:
                    guessed = guess_kind(column if own else pd.Series(numbers))
                    kinds[name] = guessed if default is None or guessed == "constant" else default
                if own and (kind := kinds[name]) not in LEVELED:
                    why = f"the levels {some(own)}, which are not {kind}: give it another kind"
                elif not own and kinds[name] in LEVELED:
                    numbers, own = factorized(pd.Series(numbers))
            elif own:
                why = f"the levels {some(own)}: give it as a covariate or a label, or write kinds={{}}, which codes it"
            column = pd.Series(numbers, frame.index)
            if own is not None:
                column = column.where(column >= 0)
                levels.update({name: own} if own else {})
        wrong += [] if why is None else [f"{name!r} ({why})"]
        columns.append(column)
    if wrong:
        raise TypeError(
            f"expected {path} to hold columns of numbers, got {'; '.join(wrong[:5])}; or drop them (--drop, drop=)"
        )
    if any(column is not own for column, (_, own) in zip(columns, originals, strict=True)):
        frame = pd.concat(columns, axis=1)
    if frame.isna().any(axis=None) or any(dtype.kind == "f" for dtype in frame.dtypes):
        return frame.to_numpy(dtype=np.float64, na_value=np.nan)
    return frame.to_numpy(dtype=np.result_type(*(np.dtype(dtype.kind + str(dtype.itemsize)) for dtype in frame.dtypes)))


def _in_order(column: pd.Series, word: str) -> pd.Series:
    """A column with its levels in the order that the kind names, as in ``ordinal:low:mid:high``; numbers have theirs."""
    import pandas as pd

    levels = word.split(":")[1:]
    if not levels:
        if is_number(column.dtype) or column.dtype.name == "category" or not _numeric(column.dropna()).isna().any():
            return column
        shown = ":".join(sorted(column.dropna().astype(str).unique())[:5])
        raise refusal(
            f"the levels of {column.name!r} are text, whose order is not known: write ordinal:{shown} in order", "kinds"
        )
    text = column.dropna().map(level_name)
    unknown = ~text.isin(levels)
    if unknown.any() or len(set(levels)) < len(levels):
        got = (
            f"{text[unknown].iloc[0]!r} in row {column.index.get_loc(unknown.idxmax())}"
            if unknown.any()
            else some(levels)
        )
        raise refusal(f"expected each level of {column.name!r} once in {word}, got {got}", "kinds")
    return pd.Series(pd.Categorical(text.reindex(column.index), levels, ordered=True), column.index, name=column.name)


def time_ranks(times: pd.Series) -> pd.Series:
    """The rank of each row's time, a number or a date; NaN where there is none."""
    if not is_number(times.dtype) and times.dtype.kind not in "mM":
        numbers = _plain_numbers(times)
        times = _dates(times) if numbers is None else numbers
    return times.rank(method="dense") - 1


def _dates(column: pd.Series) -> pd.Series:
    """Text as dates, which are written in one way: the day comes first in 31.12.2024, and elsewhere where it must."""
    import pandas as pd

    seen, found = column.dropna(), []
    text = seen.astype(str)
    is_dotted = text.str.match(r"\d+\.\d+\.").all()
    orders = (False,) if text.str.match(r"\d{4}").all() else (True,) if is_dotted else (False, True)
    for day_first in orders:
        with warnings.catch_warnings(), suppress(ValueError, TypeError, Warning):
            warnings.simplefilter("error")  # a format that is guessed anew for each entry
            found.append(pd.to_datetime(column, dayfirst=day_first, utc=True))
    if len(found) == 1 or (len(found) == 2 and found[0].rank().equals(found[1].rank())):
        return found[0]
    what = f"{column.name or 'time'!r}{f', which holds {seen.iloc[0]!r}' if len(seen) else ''}"
    wrong = "dates whose day and month can be told apart" if found else "numbers or dates written in one way"
    raise refusal(f"expected {wrong}, got {what}: write the year first, as in 2024-12-31", "time")


def _not_numbers(column: pd.Series) -> str | None:
    """Why a column, of text or with a name as ids have it, is neither numbers nor categories, and what to do; or None."""
    dtype, values = column.dtype, column.dropna()
    if dtype.kind in "mM":
        return "dates: write (column - start).dt.days, say, or split rows by them (--time, time=)"
    groups = (
        "make it the index, keep the rows of one id together (--groups, groups=), or name its kind "
        f"(--kinds {column.name}=category, kinds=)"
    )
    if dtype.kind in "iu" and len(values) >= 10 and values.is_unique:
        return "ids: make it the index, or leave it out"
    is_whole = is_number(dtype) and _REPEATED_ID.fullmatch(str(column.name)) and bool((values % 1 == 0).all())
    if is_whole and values.nunique() > MOST_LEVELS:
        return f"ids, {values.nunique()} distinct in {len(values)} rows: {groups}"
    if is_number(dtype) or dtype.name == "category" or not len(values):
        return None
    text = values.astype(str)
    if all(_DATE.fullmatch(value) for value in text.iloc[:20]):
        return "dates: write (pandas.to_datetime(column) - start).dt.days, say, or split rows by them (--time, time=)"
    if all(_TIME.fullmatch(value) for value in text.iloc[:20]):
        return "times: write minutes since midnight, or hours as in 13.5"
    distinct, numeric = text.nunique(), _numeric(values)
    is_id = distinct > max(MOST_LEVELS // 2, len(values) // 2) or distinct > max(MOST_LEVELS, len(values) // ROWS_EACH)
    has_codes = _are_codes(text)
    dressed = not has_codes and bool(text[numeric.isna()].map(lambda value: bool(_DRESSED.fullmatch(value))).all())
    plain = "write plain numbers, as in 1234.5, without units, % and separators of thousands"
    if numeric.isna().any() and numeric.notna().mean() > 0.5:
        place = int(np.flatnonzero(column.notna())[np.flatnonzero(numeric.isna())[0]])
        remedy = plain if dressed else "leave a missing entry empty, or say how it is written (--missing, missing=)"
        if place == 0 and numeric.isna().sum() == 1:
            remedy = f"delete a second line of names or units; {remedy}"
        return f"text among numbers, {text[numeric.isna()].iloc[0]!r} in row {place}: {remedy}"
    if numeric.isna().any() and dressed:
        return f"numbers such as {text[numeric.isna()].iloc[0]!r}: {plain}"
    alike = text.groupby(text.str.strip().str.casefold()).nunique()
    if numeric.isna().any() and not is_id and (alike > 1).any():
        first = text[text.str.strip().str.casefold() == alike[alike > 1].index[0]].unique()
        return f"levels that differ in case or spaces alone, {first[0]!r} and {first[1]!r}: write one of them"
    if numeric.isna().any() and is_id:
        what = "codes with leading zeros" if has_codes else "ids or free text"
        return f"{what}, {distinct} distinct in {len(values)} rows: {groups}"
    return None


def _numeric(column: pd.Series) -> pd.Series:
    """The numbers of a column, NaN where it holds other text, and everywhere where one is a code, as in 01234."""
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce")
    return numbers if is_number(column.dtype) or not _are_codes(column) else pd.Series(np.nan, column.index)


def _are_codes(column: pd.Series) -> bool:
    return bool(column.astype(str).str.fullmatch(r"0\d+").any())


def _plain_numbers(column: pd.Series) -> pd.Series | None:
    """A column of text as numbers, leading zeros or not; None where one of them is none."""
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce")
    return numbers if numbers.notna().equals(column.notna()) else None


def coded(column: pd.Series) -> tuple[Any, tuple[str, ...] | None]:
    """Return a column's numbers; or the codes of its categories, -1 where missing, and the names of their levels.

    Args:
        column: numbers, categories, or text, whose levels are sorted.

    >>> import pandas as pd
    >>> coded(pd.Series(["b", None, "a"]))
    (array([ 1, -1,  0]), ('a', 'b'))
    """
    if column.dtype.name == "category":
        return column.cat.codes.to_numpy(dtype=np.int64), tuple(map(str, column.cat.categories))
    if is_number(column.dtype) or not _numeric(column.dropna()).isna().any():
        numbers = _numeric(column)
        return numbers.to_numpy(np.float64, na_value=np.nan) if numbers.isna().any() else numbers.to_numpy(), None
    return factorized(column)


def factorized(column: pd.Series) -> tuple[Any, tuple[str, ...]]:
    """Return the codes of a column's distinct values in their order, -1 where missing, and their names.

    >>> import pandas as pd
    >>> factorized(pd.Series([2.0, None, 1.0]))
    (array([ 1, -1,  0]), ('1', '2'))
    """
    import pandas as pd

    codes, values = pd.factorize(column, sort=True)
    return codes, tuple(map(level_name, values))
