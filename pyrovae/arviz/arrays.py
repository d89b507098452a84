"""Groups of named arrays as xarray datasets, under the rules that ArviZ's functions rely on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae import __version__
from pyrovae.errors import refusal

if TYPE_CHECKING:
    import xarray as xr

SAMPLE = ("chain", "draw")
GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "posterior": SAMPLE,
        "sample_stats": SAMPLE,
        "log_likelihood": SAMPLE,
        "log_prior": SAMPLE,
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

_ROWS = MappingProxyType({"predictions": "new_data", "predictions_constant_data": "new_data", "prior_sbc": "draw"})
"""The dimension of the rows in the groups whose rows are not those of the data."""
_KINDS = "biufUM"


def to_datasets(
    groups: Mapping[str, Mapping[str, Any] | xr.Dataset],
    *,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str | None]] | None = None,
    attrs: Mapping[str, str | int | float] | None = None,
) -> dict[str, xr.Dataset]:
    """Named arrays, group by group, as datasets whose every dimension has a name and a coordinate.

    Sample groups are led by ``chain`` and ``draw``, ``amortized_diagnostics`` by ``data``; what follows is named by
    ``dims``, else ``<variable>_dim_0``, ``<variable>_dim_1``, and so on. The groups of new rows (``predictions``,
    ``predictions_constant_data``) say ``new_data`` where ``dims`` says ``data``. The draws of ``prior_sbc`` are its
    simulated rows, and its values normalized ranks, as ArviZ's ``plot_ecdf_pit`` expects.

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

    labels = {dim: as_coordinate(values) for dim, values in (coords or {}).items()}
    datasets: dict[str, xr.Dataset] = {}
    for group, variables in groups.items():
        if isinstance(variables, xr.Dataset):
            datasets[group] = variables
            continue
        if group not in GROUPS:
            raise refusal(
                f"arrays came for an unknown group {group!r}; the groups are: {', '.join(GROUPS)}. Give another group as "
                "an xarray.Dataset",
                "groups",
            )
        named = {}
        for name, value in variables.items():
            names = _dim_names(group, str(name), np.shape(value), (dims or {}).get(name, ()))
            for dim, axis in zip(names, getattr(value, "axes", ()), strict=False):  # of a DataFrame
                labels.setdefault(dim, as_coordinate(axis))
            named[name] = (names, _as_array(group, str(name), value))
        clashes = set(named) & {"chain", "draw", "data", *(dim for names, _ in named.values() for dim in names)}
        if clashes:
            raise refusal(
                f"{group} holds variables named like dimensions, {sorted(clashes)}: rename the sites, or, by dims, the "
                "dimensions",
                "dims",
            )
        datasets[group] = xr.Dataset(named)
    return {group: _finished(group, dataset, labels, attrs or {}) for group, dataset in datasets.items()}


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
        raise refusal(f"the labels of a dimension form a list, but these have shape {array.shape}", "coords")
    if array.dtype.kind == "S":
        return array.astype(str)
    return array if array.dtype.kind in _KINDS else np.array([str(value) for value in values])


def check_bytes(sizes: Mapping[str, int], max_bytes: int) -> None:
    """Refuse groups that would not fit, before any array is made.

    Args:
        sizes: group name -> bytes.
        max_bytes: the limit.

    Raises:
        ValueError: the groups together take more; the message says which, and what to do.

    >>> check_bytes({"posterior": 4 * 200 * 100 * 50}, max_bytes=2**30)
    """
    total, gib = sum(sizes.values()), 2**30
    if total > max_bytes:
        largest = sorted(sizes.items(), key=lambda item: -item[1])
        parts = ", ".join(f"{group} {size / gib:.3g} GiB" for group, size in largest)
        raise refusal(
            f"the groups asked for take {total / gib:.3g} GiB ({parts}), above max_bytes = {max_bytes / gib:.3g} GiB. Try "
            f"one of the following: fewer rows or draws ({max_bytes / total:.0%} of them fit); fewer groups, by groups=; "
            'streaming to disk, by store="posterior.zarr"; a larger max_bytes',
            "max_bytes",
        )


def _dim_names(group: str, name: str, shape: Sequence[int], given: Sequence[str | None]) -> list[str]:
    leading = GROUPS[group]
    rows = [_ROWS.get(group, "data") if dim == "data" else dim for dim in given]
    wanted = [dim for dim in rows if dim not in leading]
    number = len(shape) - len(leading)
    if group in ("log_likelihood", "log_prior"):
        wanted = wanted[: max(number, 0)]
    if number < len(wanted):
        raise refusal(
            f"{group} variable {name!r} has shape {tuple(shape)}, but its dimensions are {(*leading, *wanted)}: give an "
            "array with one axis for each, or fewer names in dims",
            "dims",
        )
    names, num_default = list(leading), 0
    for dim in [*wanted, *[None] * (number - len(wanted))]:
        names.append(dim or f"{name}_dim_{num_default}")
        num_default += dim is None
    if len(set(names)) < len(names):
        raise refusal(
            f"{group} variable {name!r} has a dimension twice: {names}; give each another name in dims", "dims"
        )
    return names


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


def _finished(
    group: str, dataset: xr.Dataset, labels: Mapping[str, np.ndarray], attrs: Mapping[str, Any]
) -> xr.Dataset:
    """The dataset with a coordinate for every dimension, and with its attributes."""
    bare = {str(dim): size for dim, size in dataset.sizes.items() if dim not in dataset.coords}
    for dim, size in bare.items():
        if dim in labels and len(labels[dim]) != size:
            raise refusal(
                f"coords[{dim!r}] has {len(labels[dim])} labels, but {group} has {size} entries along it", "coords"
            )
    standard = {
        "created_at": datetime.now(UTC).isoformat(),
        "creation_library": "pyrovae",
        "creation_library_version": __version__,
    }
    dataset = dataset.assign_coords({dim: labels.get(dim, np.arange(size)) for dim, size in bare.items()})
    return dataset.assign_attrs({name: _plain(name, v) for name, v in {**standard, **attrs, **dataset.attrs}.items()})


def _plain(name: Any, value: Any) -> str | int | float:
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, str | int | float):
        raise refusal(
            f"attribute {name!r} is {value!r}: files hold strings and numbers; leave it out, or write it as one",
            "attrs",
        )
    return int(value) if isinstance(value, bool) else value
