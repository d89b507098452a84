"""A whole VAE from a few words that fit into a JSON file: the builder behind the command line and saved runs.

Words are looked up in tables here and nowhere else; a program of one's own is composed of classes instead.
"""

from pyrovae.presets.build import Standardize, build_vae, suggest
from pyrovae.presets.loading import load
from pyrovae.presets.saving import save
from pyrovae.presets.tables import ACTIVATIONS, LIKELIHOODS, NETWORKS, POSTERIORS, PRIORS
from pyrovae.presets.words import LIMITS, Words, check_words

__all__ = [
    "ACTIVATIONS",
    "LIKELIHOODS",
    "LIMITS",
    "NETWORKS",
    "POSTERIORS",
    "PRIORS",
    "Standardize",
    "Words",
    "build_vae",
    "check_words",
    "load",
    "save",
    "suggest",
]
