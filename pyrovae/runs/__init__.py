"""A trained VAE in a folder: saved whole, loaded without trusting a byte of it.

A run holds ``config.json`` (the words of the VAE, the data's variant, seed, versions, the command, checksums),
``model.safetensors``, ``history.csv`` and ``figures/``. Reading one runs no code: there is no pickle in it.
"""

from pyrovae.runs.loading import load
from pyrovae.runs.reading import Run
from pyrovae.runs.saving import save

__all__ = ["Run", "load", "save"]
