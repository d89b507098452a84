"""Data: named sets, files and arrays as frozen `Data`, and its mini-batches."""

from pyrovae.data.batching import Batch, Batches, LoaderBatches, batches, epoch_order, loader_batches
from pyrovae.data.convert import as_data
from pyrovae.data.images import ImageRows
from pyrovae.data.loading import Listing, available, load
from pyrovae.data.rows import LazyRows, SparseRows
from pyrovae.data.table import Data, split
from pyrovae.data.transforms import Binarize

__all__ = [
    "Batch",
    "Batches",
    "Binarize",
    "Data",
    "ImageRows",
    "LazyRows",
    "Listing",
    "LoaderBatches",
    "SparseRows",
    "as_data",
    "available",
    "batches",
    "epoch_order",
    "load",
    "loader_batches",
    "split",
]
