"""Data: named sets, files and arrays as frozen `Data`, and its mini-batches."""

from pyrovae.data.batching import Batch, Batches, LoaderBatches, batches, epoch_order, loader_batches
from pyrovae.data.convert import as_data
from pyrovae.data.rows import LazyRows, SparseRows
from pyrovae.data.table import Data, split

__all__ = [
    "Batch",
    "Batches",
    "Data",
    "LazyRows",
    "LoaderBatches",
    "SparseRows",
    "as_data",
    "batches",
    "epoch_order",
    "loader_batches",
    "split",
]
