"""Predictive draws of several models: those of their mixture, and how near draws come to what was observed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyrovae.errors import check_integer, refusal

Array = NDArray[np.float64]


def mixed_draws(
    draws: Mapping[str, Any], weights: Mapping[str, float], num_samples: int | None = None, seed: int | None = None
) -> Array:
    """Draws of a mixture of models, of the draws of each: as many of each as its weight says, in random order.

    A model's share of the draws differs from its weight by less than one draw, and is right on average.

    Args:
        draws: by model, ``(samples, *shape)``.
        weights: by model, not negative; they are divided by their sum.
        num_samples: draws of the mixture; by default as many as there can be without repeating one.
        seed: of the selection and the order.

    Raises:
        ValueError: a model with a weight has no draws, there are draws of another one, or shapes differ.

    >>> found = mixed_draws({"a": np.zeros((40, 2)), "b": np.ones((60, 2))}, {"a": 0.25, "b": 0.75}, seed=0)
    >>> found.shape, found.mean(0)
    ((80, 2), array([0.75, 0.75]))
    """
    names = [name for name, weight in weights.items() if weight > 0]
    if lacking := [name for name in names if name not in draws]:
        raise refusal(f"expected draws of every model with a weight, got none of {', '.join(lacking)}", "draws")
    if unknown := [name for name in draws if name not in weights]:
        raise refusal(f"expected draws of the models {', '.join(weights)}, got some of {', '.join(unknown)}", "draws")
    parts = {name: np.asarray(draws[name]) for name in names}
    if len({part.shape[1:] for part in parts.values()}) != 1 or not all(map(len, parts.values())):
        shapes = {name: part.shape for name, part in parts.items()}
        raise refusal(f"expected draws (samples, *shape) of one shape, got {shapes}", "draws")
    shares = np.cumsum([weights[name] for name in names])
    most = min(len(part) * shares[-1] / weights[name] for name, part in parts.items())
    size = max(int(most + 1e-9), 1) if num_samples is None else check_integer("num_samples", num_samples)
    rng = np.random.default_rng(seed)
    points = (
        np.arange(size) + rng.random()
    ) / size  # one offset for all: counts differ from their means by less than one
    chosen = np.minimum(np.searchsorted(shares / shares[-1], points, side="right"), len(names) - 1)
    found = [
        part[rng.choice(len(part), count, replace=count > len(part))]
        for part, count in zip(parts.values(), np.bincount(chosen, minlength=len(names)), strict=True)
    ]
    return np.asarray(rng.permutation(np.concatenate(found)))


def crps(draws: Any, x: Any) -> Array:
    r"""The continuous ranked probability score of draws, in the units of the data; the smaller, the better.

    .. math:: \mathrm{CRPS} = \mathbb{E}|X - x| - \tfrac12\, \mathbb{E}|X - X'|

    Unlike log densities it compares a mass with a density, and models of which there are draws alone. The estimate is
    unbiased for any number of draws.

    Args:
        draws: of shape (samples, \*shape), two or more.
        x: what was observed, of shape (\*shape); NaN is missing, and its score, too.

    Returns:
        One score for each entry, of shape (\*shape).

    Raises:
        ValueError: shapes do not go together, or there is one draw alone.

    Reference: Gneiting & Raftery 2007, doi:10.1198/016214506000001437.

    >>> crps(np.array([[0.0], [2.0]]), np.array([1.0]))
    array([0.])
    """
    values, seen = np.asarray(draws, dtype=np.float64), np.asarray(x, dtype=np.float64)
    if values.ndim < 1 or values.shape[1:] != seen.shape or len(values) < 2:
        raise refusal(
            f"expected two draws or more of each entry of x, {seen.shape}, got an array of {values.shape}", "draws"
        )
    count = len(values)
    place = (2.0 * np.arange(count) - count + 1).reshape(-1, *[1] * seen.ndim)
    spread = (place * np.sort(values, 0)).sum(0) / (count * (count - 1))  # half the mean distance of two draws
    return np.asarray(np.abs(values - seen).mean(0) - spread)
