"""What ``pyrovae train`` does with each data set when it is told nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Recipe(NamedTuple):
    """Words for the VAE and settings for its training."""

    words: Mapping[str, Any]
    epochs: int
    batch_size: int
    learning_rate: float
    warm_up: float = 0.1
    """Share of training over which the learning rate climbs to its peak, before a cosine takes it to zero."""
    weight_decay: float = 0.0


RECIPES: Mapping[str, Recipe] = {
    "digits": Recipe({"latent_dim": 10, "hidden": (128, 128)}, epochs=60, batch_size=64, learning_rate=3e-3),
    "mnist": Recipe(
        {"latent_dim": 40, "hidden": (400, 400), "normalization": "batch"},
        epochs=55,
        batch_size=256,
        learning_rate=4e-3,
    ),
    "freyfaces": Recipe({"latent_dim": 20, "hidden": (256, 256)}, epochs=200, batch_size=64, learning_rate=1e-3),
}
OTHERWISE = Recipe({"latent_dim": 10, "hidden": (128, 128)}, epochs=50, batch_size=128, learning_rate=1e-3)
"""For files of one's own."""


def by_data(name: str) -> str:
    """What a word or a setting is for each data set, for a help text.

    >>> by_data("epochs")
    'by default 60 for digits, 55 for mnist, 200 for freyfaces, 50 for files'
    """
    found = {
        data: {**recipe._asdict(), **recipe.words}[name] for data, recipe in {**RECIPES, "files": OTHERWISE}.items()
    }
    said = {data: ",".join(map(str, value)) if isinstance(value, tuple) else value for data, value in found.items()}
    return f"by default {', '.join(f'{value} for {data}' for data, value in said.items())}"
