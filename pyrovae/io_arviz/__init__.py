"""Named arrays to ArviZ and back, on both of its lines: ``InferenceData`` (0.x) and ``xarray.DataTree`` (1.x).

Numpy and xarray only: nothing here imports torch, and ArviZ itself is imported where a container has to be built.
"""

from pyrovae.io_arviz.comparison import compare_frame, elpd_data
from pyrovae.io_arviz.containers import datasets_of, import_arviz, split_chains, to_arviz
from pyrovae.io_arviz.datasets import GROUPS, as_coordinate, check_bytes, estimate_bytes, to_datasets
from pyrovae.io_arviz.files import ZarrStream, from_netcdf, from_zarr, to_netcdf, to_zarr, zarr_stream

__all__ = [
    "GROUPS",
    "ZarrStream",
    "as_coordinate",
    "check_bytes",
    "compare_frame",
    "datasets_of",
    "elpd_data",
    "estimate_bytes",
    "from_netcdf",
    "from_zarr",
    "import_arviz",
    "split_chains",
    "to_arviz",
    "to_datasets",
    "to_netcdf",
    "to_zarr",
    "zarr_stream",
]
