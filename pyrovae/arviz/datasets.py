"""Groups of named arrays to xarray datasets under the rules that ArviZ's functions rely on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae import __version__

if TYPE_CHECKING:
    import xarray as xr

    Coords = Mapping[str, Any]
    Dims = Mapping[str, Sequence[str | None]]

SAMPLE = ("chain", "draw")
GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "posterior": SAMPLE,
        "sample_stats": SAMPLE,
        "log_likelihood": SAMPLE,
        "posterior_predictive": SAMPLE,
        "predictions": SAMPLE,
        "prior": SAMPLE,
        "sample_stats_prior": SAMPLE,
        "prior_predictive": SAMPLE,
        "observed_data": (),
        "constant_data": (),
        "predictions_constant_data": (),
        "amortized_diagnostics": ("data",),
        "prior_sbc": SAMPLE,
    }
)
"""The groups that hold arrays, each with its leading dimensions, which no caller has to name."""

_PLATES = MappingProxyType({"predictions": "new_data", "predictions_constant_data": "new_data", "prior_sbc": "draw"})
_KINDS = "biufUM"


def to_datasets(
    groups: Mapping[str, Mapping[str, Any] | xr.Dataset],
    *,
    coords: Coords | None = None,
    dims: Dims | None = None,
    attrs: Mapping[str, str | int | float] | None = None,
) -> dict[str, xr.Dataset]:
    """Named arrays, group by group, as datasets whose every dimension has a name and a coordinate.

    Sample groups are led by ``chain`` and ``draw``, ``amortized_diagnostics`` by ``data``; what follows is named by
    ``dims``, else ``<variable>_dim_0``, ``<variable>_dim_1``, and so on. The groups of new rows (``predictions``,
    ``predictions_constant_data``) say ``new_data`` where ``dims`` says ``data``. The draws of ``prior_sbc`` are its
    simulated rows, and its values normalised ranks, as ArviZ's ``plot_ecdf_pit`` expects.

    Args:
        groups: group name -> variable name -> array of shape ``(*leading, *shape)``, or a ready dataset. The index and
            the columns of a DataFrame become the coordinates of its dimensions, in every group.
        coords: dimension -> its labels; by default the integers from 0.
        dims: variable -> names of the dimensions after the leading ones; None stands for the default name. A variable
            of ``log_likelihood`` may have fewer, since event dimensions are summed there.
        attrs: attributes of every dataset, strings or numbers.

    Returns:
        group name -> dataset; no array is copied that need not be.

    Raises:
        ValueError: an unknown group, shapes or labels that disagree, a variable named like a dimension, an attribute
            that is neither string nor number.
        TypeError: an array of objects, or of complex numbers.

    References:
        the InferenceData schema, https://python.arviz.org/en/stable/schema/schema.html

    >>> groups = {"posterior": {"z": np.zeros((1, 4, 3, 2))}, "observed_data": {"x": np.zeros((3, 5))}}
    >>> sets = to_datasets(groups, dims={"z": ["data", "latent_dim"], "x": ["data"]})
    >>> {name: dict(dataset.sizes) for name, dataset in sets.items()}  # doctest: +NORMALIZE_WHITESPACE
    {'posterior': {'chain': 1, 'draw': 4, 'data': 3, 'latent_dim': 2},
     'observed_data': {'data': 3, 'x_dim_0': 5}}
    """
    import xarray as xr

    dims = dims or {}
    labels = {dim: as_coordinate(values) for dim, values in (coords or {}).items()}
    for group, variables in groups.items():
        _known(group, variables)
        for name, value in variables.items():
            for dim, index in _frame_labels(group, str(name), value, dims).items():
                labels.setdefault(dim, index)
    attributes = {**_standard_attributes(), **_attributes(attrs or {})}
    built = {}
    for group, variables in groups.items():
        if not isinstance(variables, xr.Dataset):
            variables = _unlabelled(group, variables, dims)
        built[group] = _label(group, variables, labels).assign_attrs({**attributes, **_attributes(variables.attrs)})
    return built


def as_coordinate(values: Any) -> np.ndarray:
    """Labels of one dimension as a one-dimensional array that netCDF and zarr can hold.

    Args:
        values: a sequence of numbers, strings or dates, a pandas index included; anything else is turned into strings.

    Raises:
        ValueError: the labels are not one-dimensional.

    >>> as_coordinate(["a", None])
    array(['a', 'None'], dtype='<U4')
    """
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"the labels of a dimension form a list, but these have shape {array.shape}")
    if array.dtype.kind == "S":
        return array.astype(str)
    return array if array.dtype.kind in _KINDS else np.array([str(value) for value in values])


def estimate_bytes(groups: Mapping[str, Mapping[str, Sequence[int]]], itemsize: int = 4) -> dict[str, int]:
    """The bytes that arrays of these shapes will take, by group, before any is made.

    Args:
        groups: group name -> variable name -> shape.
        itemsize: bytes of one entry; 4 in single precision.

    >>> estimate_bytes({"posterior": {"z": (1, 200, 10_000, 50)}})
    {'posterior': 400000000}
    """
    return {group: sum(math.prod(shape) for shape in shapes.values()) * itemsize for group, shapes in groups.items()}


def check_bytes(sizes: Mapping[str, int], max_bytes: int) -> None:
    """Refuse groups that would not fit, before any array is made.

    Args:
        sizes: group name -> bytes, from :func:`estimate_bytes`.
        max_bytes: the limit.

    Raises:
        ValueError: the groups together take more; the message says which, and what to do.

    >>> check_bytes(estimate_bytes({"posterior": {"z": (1, 200, 100, 50)}}), max_bytes=2**30)
    """
    total = sum(sizes.values())
    if total <= max_bytes:
        return
    parts = ", ".join(f"{group} {_gib(size)}" for group, size in sorted(sizes.items(), key=lambda item: -item[1]))
    raise ValueError(
        f"the groups asked for take {_gib(total)} ({parts}), above max_bytes = {_gib(max_bytes)}. Try one of the "
        f"following: fewer rows or draws ({max_bytes / total:.0%} of them fit); fewer groups, by groups=; streaming to "
        'disk, by store="posterior.zarr"; a larger max_bytes'
    )


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.3g} GiB"


def _known(group: str, variables: Any) -> None:
    import xarray as xr

    if group not in GROUPS and not isinstance(variables, xr.Dataset):
        raise ValueError(
            f"arrays came for an unknown group {group!r}; the groups are: {', '.join(GROUPS)}. A group of your own is "
            "given as an xarray.Dataset"
        )


def _frame_labels(group: str, name: str, value: Any, dims: Dims) -> dict[str, np.ndarray]:
    import pandas as pd

    if not isinstance(value, pd.DataFrame | pd.Series):
        return {}
    names = _dim_names(group, name, value.shape, dims)
    return {dim: as_coordinate(axis) for dim, axis in zip(names, value.axes, strict=True)}


def _unlabelled(group: str, variables: Mapping[str, Any], dims: Dims) -> xr.Dataset:
    import xarray as xr

    arrays = {name: _as_array(group, name, value) for name, value in variables.items()}
    names = {name: _dim_names(group, name, array.shape, dims) for name, array in arrays.items()}
    clashes = set(names) & {"chain", "draw", "data", *(dim for given in names.values() for dim in given)}
    if clashes:
        raise ValueError(
            f"{group} holds variables named like dimensions, {sorted(clashes)}: rename the sites, or, by dims, the "
            "dimensions"
        )
    return xr.Dataset({name: (names[name], array) for name, array in arrays.items()})


def _as_array(group: str, name: str, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype == np.float16:  # netCDF has no half precision
        return array.astype(np.float32)
    if array.dtype.kind in "TS" or (array.dtype.kind == "O" and all(isinstance(item, str) for item in array.flat)):
        return array.astype(str)
    if array.dtype.kind not in _KINDS:
        raise TypeError(
            f"{group} variable {name!r} has dtype {array.dtype}, which netCDF and zarr cannot hold: give numbers, "
            "strings or dates"
        )
    return array


def _dim_names(group: str, name: str, shape: Sequence[int], dims: Dims) -> list[str]:
    leading = GROUPS[group]
    plate = _PLATES.get(group, "data")
    given = [plate if dim == "data" else dim for dim in dims.get(name, ())]
    given = [dim for dim in given if dim not in leading]
    num_named = len(shape) - len(leading)
    if group == "log_likelihood":
        given = given[: max(num_named, 0)]
    if num_named < len(given):
        raise ValueError(
            f"{group} variable {name!r} has shape {tuple(shape)}, but its dimensions are {(*leading, *given)}: give an "
            "array with one axis for each, or fewer names in dims"
        )
    names, num_default = list(leading), 0
    for dim in [*given, *[None] * (num_named - len(given))]:
        names.append(dim or f"{name}_dim_{num_default}")
        num_default += dim is None
    if len(set(names)) < len(names):
        raise ValueError(f"{group} variable {name!r} has a dimension twice: {names}; give each its own name in dims")
    return names


def _label(group: str, dataset: xr.Dataset, labels: Mapping[str, np.ndarray]) -> xr.Dataset:
    bare = {str(dim): size for dim, size in dataset.sizes.items() if dim not in dataset.coords}
    return dataset.assign_coords({dim: _labels_of(group, dim, size, labels) for dim, size in bare.items()})


def _labels_of(group: str, dim: str, size: int, labels: Mapping[str, np.ndarray]) -> np.ndarray:
    found = labels.get(dim)
    if found is None:
        return np.arange(size)
    if len(found) != size:
        raise ValueError(f"coords[{dim!r}] has {len(found)} labels, but {group} has {size} entries along it")
    return found


def _attributes(attrs: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value.item() if isinstance(value, np.generic) else value for name, value in attrs.items()}
    for name, value in given.items():
        if not isinstance(value, str | int | float):
            raise ValueError(
                f"attribute {name!r} is {value!r}: files hold strings and numbers; leave it out, or write it as one"
            )
    return {name: int(value) if isinstance(value, bool) else value for name, value in given.items()}


def _standard_attributes() -> dict[str, str]:
    return {
        "created_at": datetime.now(UTC).isoformat(),
        "creation_library": "pyrovae",
        "creation_library_version": __version__,
    }
