"""Networks: from tensors to tensors, for any number of leading batch axes."""

from pyrovae.networks.base import Network
from pyrovae.networks.batch_axes import BatchAxes
from pyrovae.networks.chain import Chain
from pyrovae.networks.convolutional import ConvDecoder, ConvEncoder
from pyrovae.networks.covariates import ConcatCovariates, FiLM
from pyrovae.networks.entries import Embed
from pyrovae.networks.mlp import MLP
from pyrovae.networks.sequence import GRU, Transformer

__all__ = [
    "GRU",
    "MLP",
    "BatchAxes",
    "Chain",
    "ConcatCovariates",
    "ConvDecoder",
    "ConvEncoder",
    "Embed",
    "FiLM",
    "Network",
    "Transformer",
]
