"""Whole files or none: netCDF and zarr, written beside their place and moved there once they are complete."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrovae.arviz.containers import attributes_of, datasets_of, to_arviz

if TYPE_CHECKING:
    import xarray as xr

    from pyrovae.arviz.containers import Container

_CHUNK_BYTES = 2**26
_FORMAT = 2  # zarr's third format has no settled strings


def to_netcdf(idata: Container | Mapping[str, xr.Dataset], path: str | os.PathLike) -> Path:
    """Write every group to one netCDF file, which appears complete or not at all.

    Nothing is compressed: draws of continuous latents shrink by a twentieth, and it costs seconds.

    Args:
        idata: an ``InferenceData``, a ``DataTree`` or a dict of datasets.
        path: the file; one that is there is replaced.

    Returns:
        the path.

    Raises:
        ValueError: the folder does not exist, or the path is a folder.
        ImportError: h5netcdf or h5py is missing.

    >>> import xarray as xr
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = to_netcdf({"posterior": xr.Dataset({"z": ("draw", [1.0])})}, folder.name + "/posterior.nc")
    >>> from_netcdf(path)["posterior"]["z"].values
    array([1.])
    >>> folder.cleanup()
    """
    import xarray as xr

    _need("h5netcdf", "h5py")
    target = Path(path)
    if target.is_dir():
        raise ValueError(f"{target} is a folder: give the name of a file, such as {target / 'posterior.nc'}")
    with _complete(target) as partial:
        xr.Dataset(attrs=attributes_of(idata)).to_netcdf(partial, mode="w", engine="h5netcdf")
        for group, dataset in datasets_of(idata).items():
            dataset.drop_encoding().to_netcdf(partial, mode="a", group=group, engine="h5netcdf")
    return target


def from_netcdf(path: str | os.PathLike) -> Container:
    """Read a file of :func:`to_netcdf`, or of ArviZ, whole into memory; the file is closed.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is none.
        ImportError: h5netcdf or h5py is missing.

    >>> from_netcdf("missing.nc")
    Traceback (most recent call last):
    FileNotFoundError: missing.nc is not a file
    """
    import xarray as xr

    _need("h5netcdf", "h5py")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is not a file")
    with xr.open_datatree(path, engine="h5netcdf") as tree:
        return to_arviz({name: data.load() for name, data in datasets_of(tree).items()}, tree.attrs)


def to_zarr(idata: Container | Mapping[str, xr.Dataset], path: str | os.PathLike, *, overwrite: bool = False) -> Path:
    """Write every group to one zarr store, which appears complete or not at all.

    Args:
        idata: an ``InferenceData``, a ``DataTree`` or a dict of datasets.
        path: the store, a folder.
        overwrite: replace a store that is there.

    Returns:
        the path.

    Raises:
        ValueError: the folder above does not exist, or the path exists and must not or cannot be replaced.
        ImportError: zarr is missing.

    >>> import xarray as xr
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = to_zarr({"posterior": xr.Dataset({"z": ("draw", [1.0])})}, folder.name + "/posterior.zarr")
    >>> from_zarr(path)["posterior"]["z"].values
    array([1.])
    >>> folder.cleanup()
    """
    with zarr_stream(path, attrs=attributes_of(idata), overwrite=overwrite) as stream:
        stream.append(datasets_of(idata))
    return Path(path)


def from_zarr(path: str | os.PathLike) -> Container:
    """Open a zarr store; values are read when they are looked at.

    Args:
        path: the store, a folder.

    Raises:
        FileNotFoundError: there is none.
        ImportError: zarr is missing.

    >>> from_zarr("missing.zarr")
    Traceback (most recent call last):
    FileNotFoundError: missing.zarr is not a zarr store
    """
    import xarray as xr

    _need("zarr")
    if not _is_zarr(Path(path)):
        raise FileNotFoundError(f"{path} is not a zarr store")
    tree = xr.open_datatree(path, engine="zarr")
    return to_arviz(datasets_of(tree), tree.attrs)


@contextmanager
def zarr_stream(
    path: str | os.PathLike,
    *,
    append_dim: str = "data",
    attrs: Mapping[str, str | int | float] | None = None,
    overwrite: bool = False,
) -> Iterator[ZarrStream]:
    """A zarr store that grows block by block, and appears at its path once every block is there.

    Blocks of one size make whole chunks; the last may be smaller. What lacks the dimension along which the store grows
    (a global latent, the numbers of the draws) is taken from the first block.

    Args:
        path: the store, a folder.
        append_dim: the dimension along which blocks follow each other.
        attrs: attributes of the store, strings or numbers.
        overwrite: replace a store that is there.

    Yields:
        a :class:`ZarrStream`, whose ``append`` takes one block.

    Raises:
        ValueError: the folder above does not exist, or the path exists and must not or cannot be replaced.
        ImportError: zarr is missing.

    >>> import xarray as xr
    >>> folder = tempfile.TemporaryDirectory()
    >>> with zarr_stream(folder.name + "/posterior.zarr") as stream:
    ...     for row in range(3):
    ...         stream.append({"posterior": xr.Dataset({"z": ("data", [float(row)])}, coords={"data": [row]})})
    >>> from_zarr(folder.name + "/posterior.zarr")["posterior"]["z"].values
    array([0., 1., 2.])
    >>> folder.cleanup()
    """
    import xarray as xr

    _need("zarr")
    target = Path(path)
    if target.exists() and not overwrite:
        raise ValueError(f"{target} exists: give another path, or overwrite=True")
    if target.exists() and not _is_zarr(target):
        raise ValueError(f"{target} exists and is no zarr store, so it is left alone: give another path")
    with _complete(target) as partial:
        xr.Dataset(attrs=attrs).to_zarr(partial, mode="w", zarr_format=_FORMAT, consolidated=False)
        yield ZarrStream(partial, append_dim)
        importlib.import_module("zarr").consolidate_metadata(str(partial), zarr_format=_FORMAT)
        if target.exists():
            target.replace(partial.with_name("replaced"))


@dataclass
class ZarrStream:
    """The store that :func:`zarr_stream` opened, to which blocks are appended.

    Args:
        store: the folder.
        append_dim: the dimension along which blocks follow each other.
        types: the dtypes of the first block's variables, by group.
    """

    store: Path
    append_dim: str
    types: dict[str, dict[str, str]] = field(default_factory=dict)

    def append(self, datasets: Mapping[str, xr.Dataset]) -> None:
        """Write one block of every group behind the blocks before it.

        Args:
            datasets: group name -> dataset of this block's rows.

        Raises:
            ValueError: groups, variables or types differ from those of the first block.
        """
        dtypes = {g: {str(name): str(data.dtype) for name, data in ds.variables.items()} for g, ds in datasets.items()}
        if self.types and dtypes != self.types:
            raise ValueError(
                f"every block has the variables and types of the first, {self.types}, but this one has {dtypes}"
            )
        for group, dataset in datasets.items():
            block = dataset.drop_encoding()
            if not self.types:
                chunks = {name: {"chunks": self._chunks(data)} for name, data in block.data_vars.items() if data.size}
                options: dict[str, Any] = {"mode": "a", "zarr_format": _FORMAT, "encoding": chunks}
            elif self.append_dim in block.dims:
                block = block.drop_vars([n for n, data in block.variables.items() if self.append_dim not in data.dims])
                options = {"append_dim": self.append_dim}
            else:
                continue
            block.to_zarr(self.store, group=group, consolidated=False, **options)
        self.types = dtypes

    def _chunks(self, data: xr.DataArray) -> tuple[int, ...]:
        pieces = -(-data.nbytes // _CHUNK_BYTES)
        return tuple(-(-size // pieces) if dim == self.append_dim else size for dim, size in data.sizes.items())


@contextmanager
def _complete(target: Path) -> Iterator[Path]:
    """A place beside the target, which is moved there at the end, unless an error comes first."""
    if not target.parent.is_dir():
        raise ValueError(f"the folder {target.parent} does not exist: create it first")
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        partial = Path(folder) / target.name
        yield partial
        partial.replace(target)


def _is_zarr(path: Path) -> bool:
    return any((path / name).is_file() for name in (".zgroup", "zarr.json"))


def _need(*packages: str) -> None:
    try:
        for package in packages:
            importlib.import_module(package)
    except ImportError as error:
        kind = "zarr stores need" if packages == ("zarr",) else "netCDF files need"
        raise ImportError(f"{kind} {' and '.join(packages)}: pip install {' '.join(packages)}") from error
