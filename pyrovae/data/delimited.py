"""Tables of text, CSV and its kin, read strictly: nothing is dropped unseen, and the notes hold what was assumed."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pyrovae.data.locate import read_bytes, readable
from pyrovae.errors import counted

if TYPE_CHECKING:
    import pandas as pd

SEPARATORS = ("\t", ";", "|", ",", " ")
_NUMBER = re.compile(r"[-+]?(\d+[.,]?\d*|[.,]\d+)([eE][-+]?\d+)?")
_CODE = re.compile(r"0\d+")
"""Numbers with leading zeros, as in 01234, are codes, which stay text."""
_MISSING = ("", "NA", "NaN", "nan", "null", "NULL", "None", "N/A")
_CODES = frozenset(int(digit * length) for digit in "789" for length in range(1, 6)) | {1}
"""Numbers that stand for missing answers where they lie apart from the others: 9, 99, -1, -999, ..."""
SAMPLE_ROWS, SAMPLE_SIZE = 200, 2_000_000


class Dialect(NamedTuple):
    """How a file is written."""

    separator: str
    decimal: str
    names: list[str]  # numbers where the first line holds data
    has_names: bool
    start: int  # lines before the first row of data

    def __str__(self) -> str:
        named = {"\t": "tab", " ": "space"}.get(self.separator, self.separator)
        shown = ", ".join(self.names[:8]) + (", ..." if len(self.names) > 8 else "")
        first = f"names in the first line: {shown}" if self.has_names else "no names: the first line holds data"
        return f"separator {named}{', decimal comma' if self.decimal == ',' else ''}, {first}"


def read_delimited(
    path: Path, header: bool | None = None, missing: Sequence[str] = ()
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the table in a file, and what was assumed when it was read.

    Args:
        path: the file.
        header: whether the first line holds names.
        missing: how missing entries are written, beside empty cells, NA and the like.

    Raises:
        ValueError: a line has more or fewer fields than the first, a column with values has no name, or it cannot be told
            whether the first line holds names.
    """
    import pandas as pd

    text, encoding = _decoded(path)
    dialect = _dialect(text, header)
    notes = [str(dialect), *([] if encoding == "utf-8" else [f"encoding {encoding}"])]
    names = dialect.names + [""] * _ends_in_separators(text, dialect)
    if dialect.has_names and not any(row for _, row in _rows(text, dialect.separator, dialect.start)):
        raise ValueError(f"its first line is taken for names ({', '.join(names)[:80]}), and no row follows")
    first = itertools.islice(_rows(text, dialect.separator, dialect.start), SAMPLE_ROWS)
    codes = {j for _, row in first for j, field in enumerate(row[: len(names)]) if _CODE.fullmatch(field)}
    with readable(path):
        frame = pd.read_csv(
            _from_line(text, dialect.start),
            sep=dialect.separator,
            decimal=dialect.decimal,
            header=None,
            names=range(len(names)),  # the columns by number: names may be empty or there twice
            index_col=False,
            skipinitialspace=True,
            low_memory=False,
            na_values=list(missing),
            dtype=dict.fromkeys(codes, str),
        )
    if names[0] == "" and len(frame) and frame[0].notna().all() and frame[0].is_unique:
        frame, names = frame.set_index(0).rename_axis(None), names[1:]
        notes.append("the first column, which has no name, is taken for the names of the rows")
    full = frame.notna().any(axis=1).to_numpy().nonzero()[0]
    if len(full) and (blank := len(frame) - full[-1] - 1):
        notes.append(
            f"{counted(blank, 'row')} without a value at the end: delete the lines, unless they stand for rows"
        )
    unnamed = [number for number, name in zip(frame.columns, names, strict=True) if not name]
    values = [number for number in unnamed if frame[number].notna().any()]
    if values:
        raise ValueError(
            f"column {values[0] + 1} has values and no name: write a name for each column in the first line, "
            "and delete lines above the names"
        )
    if unnamed:
        notes.append("columns without a name and without values are left out")
    frame = frame.drop(columns=unnamed).set_axis([name for name in names if name], axis=1)
    return frame, (*notes, *_looks(frame))


def row_lines(path: Path, header: bool | None = None) -> list[int]:
    """The line of the file that each row of its table ends in, counted from 1."""
    text, _ = _decoded(path)
    dialect = _dialect(text, header)
    return [line for line, row in _rows(text, dialect.separator, dialect.start) if row]


def _looks(frame: pd.DataFrame) -> list[str]:
    """What looks like codes for missing values, and rows that are there twice."""
    codes: dict[float, dict[str, int]] = {}
    for number, (name, column) in enumerate(frame.items()):
        values = np.unique(column.dropna().astype(float)) if column.dtype.kind in "iuf" else np.zeros(0)
        for code, rest in ((values[-1], values[:-1]), (values[0], values[1:])) if len(values) > 2 else ():
            apart = min(abs(code - rest[0]), abs(code - rest[-1])) >= max(rest[-1] - rest[0], 3)
            if abs(code) in _CODES and (apart or (code < 0 and rest[0] >= 0)):
                codes.setdefault(code, {})[str(name)] = int((frame.iloc[:, number] == code).sum())
    notes = []
    for code, times in codes.items():
        name, *others = times
        also = f", and {len(others)} other column{'s' * (len(others) > 1)} too" if others else ""
        found = f"{name} holds {code:g} in {counted(times[name], 'row')}{also}"
        notes.append(f"{found}: if it stands for a missing entry, --missing {code:g} says so")
    fractions = [column.dtype.kind == "f" and bool((column % 1 > 0).any()) for _, column in frame.items()]
    repeated = int(frame.dropna(how="all").duplicated().sum()) if any(fractions) else 0
    if repeated:
        repeat = f"{counted(repeated, 'row')} {'repeats' if repeated == 1 else 'repeat'} another"
        notes.append(f"{repeat}: a test row may be a training row (--groups keeps rows together)")
    return notes


def _decoded(path: Path) -> tuple[str, str]:
    """The text of a file, and its encoding; lines that end as on an old Mac (Excel's "Macintosh" format) end as others."""
    text, encoding = _text(read_bytes(path))
    return (text if "\n" in text else text.replace("\r", "\n")), encoding


def _text(content: bytes) -> tuple[str, str]:
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if content.startswith(mark):
            return content.decode(encoding), encoding
    if b"\0" in content:
        raise ValueError("it holds zero bytes, which text does not")
    try:
        return content.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        return content.decode("cp1252"), "cp1252 (Windows)"


def _from_line(text: str, start: int) -> io.StringIO:
    """The text from a line on."""
    lines = io.StringIO(text)
    for _ in range(start):
        lines.readline()
    return lines


def _rows(text: str, separator: str, start: int) -> Iterator[tuple[int, list[str]]]:
    """The fields of each row, and the number of its last line; none in a blank line."""
    reader = csv.reader(_from_line(text, start), delimiter=separator, skipinitialspace=True)
    try:
        for row in reader:
            yield start + reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"line {start + reader.line_num}: {error}") from None


def _dialect(text: str, header: bool | None) -> Dialect:
    announced = re.match(r"\s*\"?sep=(.)\"?\s*\n", text)  # as Excel writes it
    start = int(announced is not None)

    head = text[:SAMPLE_SIZE]
    if len(text) > SAMPLE_SIZE:
        head = head[: head.rfind("\n") + 1] or text

    def sample(separator: str) -> list[tuple[int, list[str]]]:
        return list(itertools.islice((found for found in _rows(head, separator, start) if found[1]), SAMPLE_ROWS))

    separator = announced[1] if announced else next((found for found in SEPARATORS if _splits(sample, found)), ",")
    found = sample(separator)
    if not found:
        raise ValueError("it is empty")
    (line, first), rows = found[0], [row for _, row in found]
    fields = [field.strip() for row in rows for field in row]
    has_commas = any(re.fullmatch(r"[-+]?\d+,\d+", field) for field in fields)
    has_points = any(re.fullmatch(r"[-+]?\d+\.\d+", field) for field in fields)
    decimal = "," if separator != "," and has_commas and not has_points else "."
    names = [field.strip() for field in first]
    has_names = _holds_names(names, rows[1:]) if header is None else header
    if has_names:
        names[0] = names[0].lstrip("# ")
        below = rows[1:]
        if separator in "\t " and below and all(len(row) == len(names) + 1 and row[-1] for row in below):
            names = ["", *names]  # as R writes a table: the names of the rows have none
        return Dialect(separator, decimal, names, True, line)
    width = len(first) - all(row[-1] == "" for row in rows)
    return Dialect(separator, decimal, [str(number) for number in range(width)], False, start)


def _splits(sample: Callable[[str], list[tuple[int, list[str]]]], separator: str) -> bool:
    """Whether a separator cuts all lines into the same number of fields, two or more (numbers, where it is a space)."""
    try:
        rows = [row for _, row in sample(separator)]
    except ValueError:  # a field that is too long
        return False
    if not rows:
        return False
    below = rows[1:] or rows
    widths = {len(row) - all(row[-1] == "" for row in below) for row in below}
    numbers = separator != " " or all(_NUMBER.fullmatch(field) for row in rows[1:] for field in row if field)
    return len(widths) == 1 and min(widths) > 1 and len(rows[0]) > 1 and numbers


def _holds_names(first: Sequence[str], below: Sequence[Sequence[str]]) -> bool:
    """Whether a first line holds names: text above numbers, or numbers that are names, such as years."""
    columns = [[row[j].strip() for row in below if len(row) > j] for j in range(len(first))]
    numbers = [field for field in first if _NUMBER.fullmatch(field)]
    texts = [j for j, field in enumerate(first) if field not in _MISSING and not _NUMBER.fullmatch(field)]
    for j in texts:
        values = [field for field in columns[j] if field not in _MISSING]
        if values and all(_NUMBER.fullmatch(field) for field in values):
            return True
    if not numbers:  # text above text: names, unless all of it recurs
        return not below or not all(field in column for field, column in zip(first, columns, strict=True))
    if _are_years(numbers) and not all(_are_years([field for field in row if field]) for row in below):
        return True
    is_counted = numbers == [str(number) for number in range(len(numbers))]  # pandas' names of columns without names
    if is_counted and not texts and (first[0] == "" or len(numbers) >= 4):
        return True
    is_whole = all(re.fullmatch(r"\d+", number) for number in numbers)
    if not texts or not is_whole or len(set(numbers)) < len(numbers) or any(first[j] in columns[j] for j in texts):
        return False
    raise ValueError(
        f"its first line, {', '.join(first)[:80]}, may hold names or data: say which by header (True or False), or write "
        "names that are no numbers"
    )


def _are_years(fields: Sequence[str]) -> bool:
    years = [int(field) for field in fields if re.fullmatch(r"(18|19|20)\d\d", field)]
    return len(years) == len(fields) > 1 and all(a < b for a, b in itertools.pairwise(years))


def _ends_in_separators(text: str, dialect: Dialect) -> bool:
    """Whether lines end in a separator; lines with other numbers of fields than there are columns are refused."""
    ends, blank, width = False, 0, len(dialect.names)
    for line, row in _rows(text, dialect.separator, dialect.start):
        if not row:
            blank = blank or line
        elif blank and width == len(row) == 1:
            raise ValueError(f"line {blank} is blank: write NaN where a value is missing")
        elif len(row) == width + 1 and row[-1] == "":
            ends = True
        elif len(row) != width:
            raise ValueError(
                f"line {line} has {len(row)} fields, and the first line has {width} (separator {dialect.separator!r}): "
                "write one field for each column, quoted where it holds a separator, below one line of names; a first line "
                "sep=; says another separator than the comma"
            )
    return ends
