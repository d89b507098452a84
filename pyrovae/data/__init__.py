"""Data: named sets, files, tables and arrays as frozen `Data`, and its mini-batches."""

from pyrovae.data.batching import Batches, batches, epoch_order, map_batches
from pyrovae.data.convert import as_covariates, as_data
from pyrovae.data.images import ImageRows
from pyrovae.data.loaders import LoaderBatches, loader_batches
from pyrovae.data.loading import Listing, available, load
from pyrovae.data.rows import LazyRows, SparseRows
from pyrovae.data.sequences import load_text, padded
from pyrovae.data.splits import split
from pyrovae.data.table import Batch, Data
from pyrovae.data.text import Vocabulary
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
    "Vocabulary",
    "as_covariates",
    "as_data",
    "available",
    "batches",
    "epoch_order",
    "load",
    "load_text",
    "loader_batches",
    "map_batches",
    "padded",
    "split",
]
