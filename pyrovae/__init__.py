"""Variational autoencoders as Pyro programs.

One class per graphical model, one argument per distribution, one handler per objective. Importing this package loads
nothing but the table below; each name pulls in its room when it is first touched.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pyrovae import data, plots, schedules
    from pyrovae.diagnostics import SBC, sbc
    from pyrovae.distributions import Factorized, FromContext, standard_normal
    from pyrovae.handlers import beta
    from pyrovae.models import VAE
    from pyrovae.networks import (
        GRU,
        MLP,
        BatchAxes,
        Chain,
        ConcatContext,
        ConvDecoder,
        ConvEncoder,
        Embed,
        FiLM,
        Network,
        Transformer,
    )
    from pyrovae.objectives import CapacityELBO, FreeBitsELBO
    from pyrovae.parameters import register
    from pyrovae.training import History, fit

_ROOMS = {
    "data": (),
    "schedules": (),
    "diagnostics": (
        "SBC",
        "sbc",
    ),
    "distributions": ("Factorized", "FromContext", "standard_normal"),
    "handlers": ("beta",),
    "models": ("VAE",),
    "networks": (
        "GRU",
        "MLP",
        "BatchAxes",
        "Chain",
        "ConcatContext",
        "ConvDecoder",
        "ConvEncoder",
        "Embed",
        "FiLM",
        "Network",
        "Transformer",
    ),
    "objectives": ("CapacityELBO", "FreeBitsELBO"),
    "parameters": ("register",),
    "plots": (),
    "training": ("History", "fit"),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}
_ROOM_NAMES = ("data", "plots", "schedules")

__all__ = [
    "GRU",
    "MLP",
    "SBC",
    "VAE",
    "BatchAxes",
    "CapacityELBO",
    "Chain",
    "ConcatContext",
    "ConvDecoder",
    "ConvEncoder",
    "Embed",
    "Factorized",
    "FiLM",
    "FreeBitsELBO",
    "FromContext",
    "History",
    "Network",
    "Transformer",
    "beta",
    "data",
    "fit",
    "plots",
    "register",
    "sbc",
    "schedules",
    "standard_normal",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"pyrovae.{_HOME[name]}"), name)
    if name in _ROOM_NAMES:
        return importlib.import_module(f"pyrovae.{name}")
    raise AttributeError(f"module 'pyrovae' has no attribute {name!r}; its public names are: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
