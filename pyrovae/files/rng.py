"""The states of random number generators, read and set."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

Generators = Mapping[str, torch.Generator | np.random.Generator]


def rng_state(generators: Generators | None = None) -> dict[str, Any]:
    """The states of every generator that training may draw from, as a tree that `pack` takes.

    These are torch's global generator, those of the CUDA devices in use, Python's `random`, NumPy's legacy global
    generator, and the ones given.

    Args:
        generators: Generators of the caller's own, by name.

    Returns:
        A dict with the entries `torch`, `cuda`, `python`, `numpy` and `generators`.

    Example:
        >>> state = rng_state({"shuffle": torch.Generator().manual_seed(0)})
        >>> sorted(state)
        ['cuda', 'generators', 'numpy', 'python', 'torch']
    """
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002  a user's transform may draw from it
        "generators": {name: _get(generator) for name, generator in (generators or {}).items()},
    }


def set_rng_state(state: Mapping[str, Any], generators: Generators | None = None) -> None:
    """Set every generator to a state of `rng_state`.

    Args:
        state: The state.
        generators: The caller's own generators, under the names they had.

    Raises:
        ValueError: The names differ, or a state does not fit its generator.

    Example:
        >>> state = rng_state()
        >>> first = torch.rand(())
        >>> set_rng_state(state)
        >>> bool(torch.rand(()) == first)
        True
    """
    generators = generators or {}
    try:
        saved = state["generators"]
        if set(saved) != set(generators):
            raise ValueError(f"they are of the generators {sorted(saved)}, given are {sorted(generators)}")
        torch.set_rng_state(state["torch"])
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])  # noqa: NPY002
        for name, generator in generators.items():
            _set(generator, saved[name])
        cuda = state["cuda"]
        if len(cuda) == (torch.cuda.device_count() if cuda else 0):
            torch.cuda.set_rng_state_all(cuda)
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError) as error:
        raise ValueError(f"cannot set the random states: {error}") from error
    if cuda and len(cuda) != torch.cuda.device_count():
        warnings.warn(
            f"the random states are of {len(cuda)} CUDA devices, here are {torch.cuda.device_count()}: "
            "those of the devices are left as they are, and the continuation will differ from an uninterrupted run",
            stacklevel=2,
        )


def _get(generator: torch.Generator | np.random.Generator) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    return generator.bit_generator.state


def _set(generator: torch.Generator | np.random.Generator, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    else:
        generator.bit_generator.state = state
