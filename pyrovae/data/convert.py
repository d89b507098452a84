"""`as_data`: tensors, arrays, tables, sparse matrices, and trees of them, as `Data`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.data.frames import aligned, coded, column_names, frame_values, is_from, own_columns, row_names
from pyrovae.data.rows import LazyRows, Rows, SparseRows, first_row, leaves, map_tree, stored, take
from pyrovae.data.table import Data

Levels = dict[str, tuple[str, ...]]

_WIDER = {"uint16": np.int32, "uint32": np.int64, "uint64": np.float64, "longdouble": np.float64}
"""Dtypes that torch lacks or hardly supports, and those that hold their values."""


def as_data(
    x: Any,
    covariates: Any = None,
    variant: str | None = None,
    *,
    labels: Any = None,
    kinds: Mapping[str, str] | None = None,
) -> Data:
    """Return rows of any common kind as ``Data``; tensors and arrays are shared where possible, not copied.

    The rows of tables are matched by their index, in ``covariates`` and ``labels`` too: another order is put right, other
    names are refused.

    Args:
        x: a tensor, a numpy array (a masked entry becomes NaN), lists of numbers, a pandas or polars DataFrame, a scipy
            sparse matrix (kept sparse, made dense batch by batch), an AnnData (its ``X``; columns of ``obs`` with levels
            are the labels), ``Data``, or a dict or tuple of these. NaN is a missing entry.
        covariates: for each name, an array of as many rows, without missing entries; a DataFrame; or the names of columns
            of ``x`` (of ``obs``), which are taken out of the data. Text becomes codes, whose levels are kept.
        variant: what kind of numbers these are ("grey", "counts", ...), printed beside every result; by default ``"uint16"``
            for images ``(rows, channels, height, width)`` of that dtype, whose levels are 0 to 65535.
        labels: one label a row, for figures and scores; a dict or DataFrame of these; or the name of a column of ``x``.
            Labels never become covariates by themselves.
        kinds: the kinds of some columns of a table (real, positive, student_t, bounded, count, binary, category, ordinal), by
            name or pattern, as in ``{"q*": "ordinal"}``; those of the others, of all for ``{}``, are guessed, or are that of
            the entry ``"*"``. Levels become codes 0, 1, ... By default columns are numbers, and text is refused, since most
            likelihoods would take its codes for numbers.

    Raises:
        TypeError: something is no array of numbers.
        ValueError: data are empty, ragged, infinite, without rows, or of different lengths or names; or covariates come
            twice.

    >>> as_data([[1.0, 2.0], [3.0, float("nan")]], covariates={"batch": ["b", "a"]}, variant="counts")
    Data('data', variant='counts', split='all', rows=2, event_shape=(2,), covariates=('batch',))
    """
    levels: Levels = {}
    own_kinds = None if kinds is None else dict(kinds)
    if not isinstance(x, Data):
        if variant is None and str(getattr(x, "dtype", "")).endswith("uint16") and x.ndim == 4:
            variant = "uint16"  # images, whose dtype torch does not keep
        x = map_tree(lambda value, _: value.to_pandas() if is_from(value, "polars", "DataFrame") else value, x)
        x, covariates, labels = own_columns(x, covariates, labels)
        names = next((own for value, _ in leaves(x) if (own := row_names(value)) is not None), None)
        columns = map_tree(lambda value, _: column_names(value), x)
        x = map_tree(lambda value, path: _checked_rows(aligned(value, names, path), path, levels, own_kinds), x)
        x = Data(x, columns=columns if any(name for name, _ in leaves(columns)) else None, row_names=names)
    elif covariates is not None and x.covariates:
        raise ValueError(f"expected covariates once, got {list(x.covariates)} with the data and others beside it")
    given: dict[str, Any] = {} if variant is None else {"variant": variant}
    if own_kinds:
        given["kinds"] = {**x.kinds, **own_kinds}
    if covariates is not None:
        given["covariates"] = as_covariates(covariates, x.row_names, levels)
    if labels is not None:
        given["labels"] = _labels(labels, x.row_names, levels)
    return replace(x, **given, levels={**x.levels, **levels}) if given or levels else x


def as_covariates(covariates: Any, names: Any = None, levels: Levels | None = None) -> dict[str, Tensor]:
    """Return covariates as tensors by name; text becomes codes.

    Args:
        covariates: a dict of arrays, or a DataFrame.
        names: the pandas index of the data's rows, by which those of tables are matched; or None.
        levels: a dict that gets the levels of the codes.

    Raises:
        TypeError: they are no mapping from names.
        ValueError: an entry is missing or infinite, or rows have other names.

    >>> as_covariates({"batch": ["b", "a"]})
    {'batch': tensor([1, 0])}
    """
    if not isinstance(covariates, Mapping) and not is_from(covariates, "pandas", "DataFrame"):
        raise TypeError(
            f"expected covariates to be a dict from names to arrays, got {type(covariates).__name__}; write "
            "covariates={'label': labels}"
        )
    converted = {}
    for name, value in covariates.items():
        path = f"covariates[{name!r}]"
        tensor, own = _column(aligned(value, names, path), path)
        missing = tensor < 0 if own else tensor.isnan()
        if bool(missing.any()):
            raise ValueError(
                f"expected {path} without missing entries, got NaN in row {first_row(missing)}; only x may be missing: "
                "drop those rows, or impute them"
            )
        converted[str(name)] = tensor
        if own and levels is not None:
            levels[str(name)] = own
    return converted


def _labels(labels: Any, names: Any, levels: Levels) -> dict[str, Tensor]:
    """Labels by name; text becomes codes, -1 where missing."""
    if is_from(labels, "pandas", "DataFrame"):
        labels = {str(name): column for name, column in labels.items()}
    found = {}
    for name, value in (labels if isinstance(labels, Mapping) else {"label": labels}).items():
        path = f"labels[{name!r}]"
        found[name], own = _column(aligned(value, names, path), path)
        levels.update({name: own} if own else {})
    return found


def _column(value: Any, path: str) -> tuple[Tensor, tuple[str, ...] | None]:
    """A covariate or label as a tensor, and the names of its levels if it is text or a category."""
    if not is_from(value, "pandas", "Series", "DataFrame") and not isinstance(value, Tensor | LazyRows):
        value = value if is_from(value, "pandas", "Categorical") else _array(value, path)
        if value.dtype.kind in "UO":  # text, or a pandas.Categorical
            import pandas as pd

            value = pd.Series(value)
    own = None
    if is_from(value, "pandas", "Series"):
        if value.dtype.kind in "mM":
            raise _no_numbers(path, value.dtype)
        value, own = coded(value)
    return take(_checked_rows(value, path), slice(None)), own


def _checked_rows(value: Any, path: str, levels: Levels | None = None, kinds: dict[str, str] | None = None) -> Rows:
    rows = as_rows(value, path, levels, kinds)
    if len(rows.shape) == 0:
        raise ValueError(f"expected {path} to be an array of rows, got a single number; write [value] for one row")
    infinite = sum(int(part.isinf().sum()) for part in stored(rows)) if rows.dtype.is_floating_point else 0
    if infinite:
        first = f", the first in row {first_row(rows.isinf())}" if isinstance(rows, Tensor) else ""
        if path.startswith("covariates"):  # where nothing may be missing
            raise ValueError(
                f"expected {path} to be finite, got {infinite} infinite entries{first}; clip or transform it"
            )
        raise ValueError(
            f"expected {path} to be finite or NaN (missing), got {infinite} infinite entries{first}; write NaN where a value "
            "is missing, or clip or transform the data"
        )
    return rows


def as_rows(value: Any, path: str, levels: Levels | None = None, kinds: dict[str, str] | None = None) -> Rows:
    """Return one array, table or sparse matrix as a tensor or compact rows; the rest as in :func:`frame_values`."""
    levels = {} if levels is None else levels
    if isinstance(value, LazyRows):
        return value
    if is_from(value, "anndata", "AnnData"):
        value = (value.to_memory() if value.isbacked else value).X
    if isinstance(value, Tensor):
        return _from_tensor(value, path)
    if is_from(value, "pandas", "DataFrame"):
        value = frame_values(value, path, levels, kinds)
    elif is_from(value, "pandas", "Series"):
        value = frame_values(value.to_frame(), path, levels, kinds)[:, 0]
    if "scipy.sparse" in sys.modules and sys.modules["scipy.sparse"].issparse(value):
        if value.ndim != 2:
            raise ValueError(
                f"expected {path} to be a sparse matrix of rows, got {value.ndim} axes; reshape it to (1, -1)"
            )
        rows = value.tocsr()
        return SparseRows(rows.astype(_native(rows.dtype, path), copy=False))
    array = _array(value, path)
    array = array.astype(_native(array.dtype, path), copy=False)
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    return torch.from_numpy(array)


def _from_tensor(value: Tensor, path: str) -> Rows:
    if value.is_complex() or value.is_quantized:
        raise _no_numbers(path, value.dtype)
    if value.layout == torch.strided:
        return value.detach().to(torch.int32 if value.dtype == torch.uint16 else value.dtype)
    import scipy.sparse

    csr = value.detach().cpu().to_sparse_csr()
    parts = (csr.values().numpy(), csr.col_indices().numpy(), csr.crow_indices().numpy())
    return SparseRows(scipy.sparse.csr_array(parts, shape=tuple(value.shape)))


def _array(value: Any, path: str) -> np.ndarray:
    if value is None or isinstance(value, str | bytes | torch.utils.data.Dataset | torch.utils.data.DataLoader):
        came = "None" if value is None else f"{type(value).__name__} {value!r}"
        remedy = "pyrovae.data.load(name_or_path) for named data and files"
        if isinstance(value, torch.utils.data.Dataset | torch.utils.data.DataLoader):
            rows = "value" if isinstance(value, torch.utils.data.Dataset) else "value.dataset"
            remedy = (
                f"torch.stack([row[0] for row in {rows}]), its rows in memory: only fit trains from a Dataset or loader"
            )
        raise TypeError(f"expected {path} to be an array of numbers, got {came:.80}; write {remedy}")
    if isinstance(value, np.ma.MaskedArray):
        return np.ma.filled(value.astype(np.result_type(value.dtype, np.float32)), np.nan)
    if isinstance(value, list) and value and all(isinstance(row, Tensor) for row in value):
        value = [row.detach().cpu().numpy() for row in value]
    try:
        return np.asarray(value)
    except ValueError:
        raise ValueError(
            f"expected the rows of {path} to have one shape, got ragged rows; pad them (NaN is missing), or give a "
            "dict of arrays"
        ) from None


def _native(dtype: np.dtype, path: str) -> np.dtype:
    """The dtype in which torch holds such numbers."""
    if dtype.kind not in "biuf":
        raise _no_numbers(path, dtype)
    return np.dtype(_WIDER.get(dtype.name, dtype.newbyteorder("=")) if dtype.itemsize <= 8 else np.float64)


def _no_numbers(path: str, dtype: Any) -> TypeError:
    return TypeError(
        f"expected {path} to hold numbers, got dtype {dtype}; write array.astype('float32'), and code categories as "
        "numbers (one-hot, say)"
    )
