"""Networks: from tensors to tensors, for any number of leading batch axes."""

from pyrovae.networks.additive import Additive
from pyrovae.networks.base import Network, least_rows
from pyrovae.networks.compose import BatchAxes, Chain
from pyrovae.networks.convolutional import ConvDecoder, ConvEncoder
from pyrovae.networks.covariates import ConcatCovariates, FiLM
from pyrovae.networks.entries import Embed, check_covariates
from pyrovae.networks.mlp import MLP
from pyrovae.networks.sequence import GRU, EmbedSteps, Transformer

__all__ = [
    "GRU",
    "MLP",
    "Additive",
    "BatchAxes",
    "Chain",
    "ConcatCovariates",
    "ConvDecoder",
    "ConvEncoder",
    "Embed",
    "EmbedSteps",
    "FiLM",
    "Network",
    "Transformer",
    "check_covariates",
    "least_rows",
]
