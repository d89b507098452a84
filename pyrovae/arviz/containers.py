"""The containers of ArviZ's two lines: ``InferenceData`` up to 0.x, ``xarray.DataTree`` from 1.0 on."""

from __future__ import annotations

import importlib
import importlib.metadata
import tempfile
import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import arviz
    import xarray as xr

    Container = arviz.InferenceData | xr.DataTree


def to_arviz(datasets: Mapping[str, xr.Dataset], attrs: Mapping[Any, Any] | None = None) -> Container:
    """Datasets wrapped once, in the container of the installed ArviZ.

    Args:
        datasets: group name -> dataset, as :func:`to_datasets` makes them.
        attrs: attributes of the container itself, strings or numbers.

    Returns:
        ``arviz.InferenceData`` on ArviZ 0.x, ``xarray.DataTree`` on 1.x. A group without variables is left out.

    Raises:
        ImportError: ArviZ is not installed.

    >>> import xarray as xr
    >>> idata = to_arviz({"observed_data": xr.Dataset({"x": ("data", [1.0, 2.0])}, coords={"data": [0, 1]})})
    >>> idata["observed_data"]["x"].values
    array([1., 2.])
    """
    import xarray as xr

    filled = {group: dataset for group, dataset in datasets.items() if dataset.data_vars}
    if is_old():
        return import_arviz().InferenceData(attrs=dict(attrs or {}), **filled)
    tree = xr.DataTree.from_dict(filled)
    tree.attrs.update(attrs or {})
    return tree


def datasets_of(idata: Container | Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """The groups of either container as plain datasets, the inverse of :func:`to_arviz`.

    Args:
        idata: an ``InferenceData``, a ``DataTree`` or a dict of datasets.

    Raises:
        TypeError: anything else.

    >>> import xarray as xr
    >>> sorted(datasets_of(to_arviz({"posterior": xr.Dataset({"z": ("draw", [1.0])})})))
    ['posterior']
    """
    import xarray as xr

    if isinstance(idata, xr.DataTree):
        return {name: child.to_dataset() for name, child in idata.children.items()}
    if not isinstance(idata, Mapping):
        raise TypeError(
            f"expected an InferenceData, a DataTree or a dict of datasets, but a {type(idata).__name__} came"
        )
    return {name: cast("xr.Dataset", idata[name]) for name in idata}


def split_chains(idata: Container | Mapping[str, xr.Dataset], num_chains: int) -> Container:
    """One chain of independent draws as several, in every group of draws but ``prior_sbc``.

    A guide's draws are independent, so that any number of chains describes them. One chain is plain; ArviZ 1.x asks for
    several in ``plot_rank``, and for equal numbers where two posteriors share a figure.

    Args:
        idata: an ``InferenceData``, a ``DataTree`` or a dict of datasets, with one chain.
        num_chains: divides the number of draws.

    Raises:
        ValueError: there is more than one chain already, or the draws do not divide.

    >>> import xarray as xr
    >>> z = xr.DataArray([[1.0, 2.0, 3.0, 4.0]], dims=["chain", "draw"], name="z")
    >>> split_chains({"posterior": z.to_dataset()}, 2)["posterior"]["z"].values
    array([[1., 2.],
           [3., 4.]])
    """
    import xarray as xr

    datasets = {}
    for group, dataset in datasets_of(idata).items():
        if group != "prior_sbc" and "draw" in dataset.dims:
            chains, draws = dataset.sizes["chain"], dataset.sizes["draw"]
            if chains != 1 or num_chains < 1 or draws % num_chains:
                raise ValueError(
                    f"{group} has {chains} chain(s) of {draws} draws, which do not make {num_chains} chains out of one: "
                    "give a number that divides the draws"
                )
            length = draws // num_chains
            parts = [
                dataset.isel(draw=slice(i * length, (i + 1) * length)).assign_coords(chain=[i], draw=range(length))
                for i in range(num_chains)
            ]
            how: Any = {"data_vars": "minimal", "coords": "minimal", "compat": "override", "join": "exact"}
            dataset = xr.concat(parts, "chain", **how)
        datasets[group] = dataset
    return to_arviz(datasets, attributes_of(idata))


def import_arviz() -> ModuleType:
    """ArviZ itself, without the two ways in which 0.23 makes trouble when it is imported.

    It announces its successor once a day, by a warning, and notes the day in a cache folder: where that folder cannot
    be written the import fails. Here the warning is left out, and a temporary folder takes its place if need be.

    Raises:
        ImportError: ArviZ is not installed.

    >>> import_arviz().__name__
    'arviz'
    """
    is_old()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing a major refactor", category=FutureWarning)
        try:
            return importlib.import_module("arviz")
        except OSError:
            import platformdirs

            find_folder = platformdirs.user_cache_dir
            with tempfile.TemporaryDirectory() as folder:
                platformdirs.user_cache_dir = lambda *_args, **_kwargs: folder
                try:
                    return importlib.import_module("arviz")
                finally:
                    platformdirs.user_cache_dir = find_folder


def is_old() -> bool:
    """Whether the installed ArviZ is of the line 0.x.

    Raises:
        ImportError: ArviZ is not installed.
    """
    try:
        return importlib.metadata.version("arviz").startswith("0.")
    except importlib.metadata.PackageNotFoundError:
        raise ImportError("ArviZ is not installed: pip install arviz") from None


def attributes_of(idata: Any) -> dict[str, Any]:
    """The attributes of a container; none for a plain dict of datasets."""
    return {} if isinstance(idata, dict) else dict(idata.attrs)
