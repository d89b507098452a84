"""`as_data`: tensors, arrays, tables, sparse matrices, and trees of them, as `Data`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.data.rows import LazyRows, Rows, SparseRows, map_tree
from pyrovae.data.table import Data

if TYPE_CHECKING:
    import pandas as pd

_WIDER = {"uint16": np.int32, "uint32": np.int64, "uint64": np.float64, "longdouble": np.float64}
"""Dtypes that torch lacks or hardly supports, and those that hold their values."""


def as_data(
    x: Any, covariates: Mapping[str, Any] | None = None, variant: str | None = None, *, labels: Any = None
) -> Data:
    """Rows of any common kind as `Data`; tensors and arrays are shared where possible, not copied.

    Args:
        x: A tensor, a numpy array (a masked entry becomes NaN), lists of numbers, a pandas DataFrame (its columns are
            kept), a scipy sparse matrix (kept sparse, made dense batch by batch), `Data`, or a dict or tuple of these.
            NaN is a missing entry.
        covariates: For each name, an array of as many rows; no missing entries. Labels never become covariates by themselves.
        variant: What kind of numbers these are ("grey", "counts", ...), printed beside every result.
        labels: One label a row, for figures and scores.

    Raises:
        TypeError: If something is no array of numbers.
        ValueError: If data is empty, ragged, infinite, without rows, or of different lengths.

    >>> as_data([[1.0, 2.0], [3.0, float("nan")]], covariates={"batch": [0, 1]}, variant="counts")
    Data('data', variant='counts', split='all', rows=2, event_shape=(2,), covariates=('batch',))
    """
    if not isinstance(x, Data):
        x = Data(map_tree(_checked_rows, x), columns=_columns(x))
    given = {
        "covariates": None if covariates is None else _covariates(covariates),
        "variant": variant,
        "labels": None if labels is None else _dense(labels, "labels"),
    }
    given = {name: value for name, value in given.items() if value is not None}
    return replace(x, **given) if given else x


def _covariates(covariates: Mapping[str, Any]) -> dict[str, Tensor]:
    if _is_from(covariates, "pandas", "DataFrame"):
        covariates = {str(name): column for name, column in covariates.items()}
    if not isinstance(covariates, Mapping):
        raise TypeError(
            f"expected covariates to be a dict from names to arrays, got {type(covariates).__name__}; write "
            "covariates={'label': labels}"
        )
    converted = {name: _dense(value, f"covariates[{name!r}]") for name, value in covariates.items()}
    for name, value in converted.items():
        if value.is_floating_point() and bool(value.isnan().any()):
            raise ValueError(
                f"expected covariates[{name!r}] without missing entries, got NaN in row {_first(value.isnan())}; only x "
                "may be missing: drop those rows, or impute them"
            )
    return converted


def _dense(value: Any, path: str) -> Tensor:
    rows = _checked_rows(value, path)
    return rows.take(slice(None)) if isinstance(rows, LazyRows) else rows


def _checked_rows(value: Any, path: str) -> Rows:
    rows = as_rows(value, path)
    if len(rows.shape) == 0:
        raise ValueError(f"expected {path} to be an array of rows, got a single number; write [value] for one row")
    stored = torch.from_numpy(rows.matrix.data) if isinstance(rows, SparseRows) else rows
    if isinstance(stored, Tensor) and stored.is_floating_point():
        _check_finite(stored, path, isinstance(rows, SparseRows))
    return rows


def _check_finite(stored: Tensor, path: str, is_sparse: bool) -> None:
    infinite = stored.isinf()
    if bool(infinite.any()):
        where = "" if is_sparse else f", the first in row {_first(infinite)}"
        expected, remedy = (
            "finite or NaN (missing)",
            "write NaN where a value is missing, or clip or transform the data",
        )
        if path.startswith("covariates"):  # where nothing may be missing
            expected, remedy = "finite", "clip or transform it"
        raise ValueError(
            f"expected {path} to be {expected}, got {int(infinite.sum())} infinite entries{where}; {remedy}"
        )


def _first(wrong: Tensor) -> int:
    return int(wrong.reshape(len(wrong), -1).any(1).nonzero()[0])


def as_rows(value: Any, path: str) -> Rows:
    """One array, table or sparse matrix as a tensor or compact rows.

    Args:
        value: The array.
        path: What it is called in messages.

    Raises:
        TypeError: If it holds no numbers.
        ValueError: If its rows are ragged.
    """
    if isinstance(value, LazyRows):
        return value
    if isinstance(value, Tensor):
        return _from_tensor(value, path)
    if "scipy.sparse" in sys.modules and sys.modules["scipy.sparse"].issparse(value):
        return _from_sparse(value, path)
    if _is_from(value, "pandas", "DataFrame"):
        return _from_numpy(_frame_values(value, path), path)
    if _is_from(value, "pandas", "Series"):
        return _from_numpy(_frame_values(value.to_frame(), path)[:, 0], path)
    return _from_numpy(_array(value, path), path)


def _from_tensor(value: Tensor, path: str) -> Rows:
    if value.is_complex() or value.is_quantized:
        raise _no_numbers(path, value.dtype)
    if value.layout == torch.strided:
        return value.detach()
    import scipy.sparse

    csr = value.detach().cpu().to_sparse_csr()
    parts = (csr.values().numpy(), csr.col_indices().numpy(), csr.crow_indices().numpy())
    return SparseRows(scipy.sparse.csr_array(parts, shape=tuple(value.shape)))


def _from_sparse(matrix: Any, path: str) -> SparseRows:
    if matrix.ndim != 2:
        raise ValueError(
            f"expected {path} to be a sparse matrix of rows, got {matrix.ndim} axes; reshape it to (1, -1)"
        )
    rows = matrix.tocsr()
    return SparseRows(rows.astype(_native(rows.dtype, path), copy=False))


def _array(value: Any, path: str) -> np.ndarray:
    if value is None or isinstance(value, str | bytes | torch.utils.data.Dataset | torch.utils.data.DataLoader):
        came = "None" if value is None else f"{type(value).__name__} {value!r}"
        raise TypeError(
            f"expected {path} to be an array of numbers, got {came:.80}; write "
            "pyrovae.data.load(name_or_path) for named data and files, pyrovae.data.loader_batches(loader) for loaders"
        )
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


def _from_numpy(array: np.ndarray, path: str) -> Tensor:
    array = array.astype(_native(array.dtype, path), copy=False)
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    return torch.from_numpy(array)


def _native(dtype: np.dtype, path: str) -> np.dtype:
    """The dtype in which torch holds such numbers."""
    if dtype.kind not in "biuf":
        raise _no_numbers(path, dtype)
    return np.dtype(_WIDER.get(dtype.name, dtype.newbyteorder("=")) if dtype.itemsize <= 8 else np.float64)


def _no_numbers(path: str, dtype: np.dtype | torch.dtype) -> TypeError:
    return TypeError(
        f"expected {path} to hold numbers, got dtype {dtype}; write array.astype('float32'), and code categories as "
        "numbers (one-hot, say)"
    )


def _frame_values(frame: pd.DataFrame, path: str) -> np.ndarray:
    """The values of a table: whole numbers where all are, else float64 with NaN for what is missing."""
    if frame.empty:
        return np.empty(frame.shape)
    wrong = [str(name) for name, dtype in frame.dtypes.items() if not _is_number(dtype)]
    if wrong:
        raise TypeError(
            f"expected {path} to hold columns of numbers, got others: {', '.join(map(repr, wrong[:5]))}; drop them, "
            "code them by pandas.get_dummies, or give them as labels or covariates"
        )
    if frame.isna().any(axis=None) or any(dtype.kind == "f" for dtype in frame.dtypes):
        return frame.to_numpy(dtype=np.float64, na_value=np.nan)
    return frame.to_numpy(dtype=np.result_type(*(np.dtype(dtype.kind + str(dtype.itemsize)) for dtype in frame.dtypes)))


def _is_number(dtype: Any) -> bool:
    from pandas.api import types

    return types.is_bool_dtype(dtype) or (types.is_numeric_dtype(dtype) and not types.is_complex_dtype(dtype))


def _columns(x: Any) -> tuple[str, ...] | None:
    return tuple(str(name) for name in x.columns) if _is_from(x, "pandas", "DataFrame") else None


def _is_from(value: Any, module: str, name: str) -> bool:
    """Whether a value is of a class of a heavy module, which is not imported to find out."""
    return module in sys.modules and isinstance(value, getattr(sys.modules[module], name))
