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
    """The states of all generators that training may draw from: those of torch, Python and NumPy, and the given, by name.

    >>> sorted(rng_state({"shuffle": torch.Generator().manual_seed(0)}))
    ['cuda', 'generators', 'numpy', 'python', 'torch']
    """
    own = {
        name: one.get_state() if isinstance(one, torch.Generator) else one.bit_generator.state
        for name, one in (generators or {}).items()
    }
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002  a user's transform may draw from it
        "generators": own,
    }


def set_rng_state(state: Mapping[str, Any], generators: Generators | None = None) -> None:
    """Set every generator to a state of :func:`rng_state`; a ValueError says which state does not fit.

    >>> state = rng_state()
    >>> first = torch.rand(())
    >>> set_rng_state(state)
    >>> bool(torch.rand(()) == first)
    True
    """
    generators = generators or {}
    try:
        saved, cuda = state["generators"], state["cuda"]
        if set(saved) != set(generators):
            raise ValueError(f"they are of the generators {sorted(saved)}, given are {sorted(generators)}")
        torch.set_rng_state(state["torch"])
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])  # noqa: NPY002
        for name, generator in generators.items():
            if isinstance(generator, torch.Generator):
                generator.set_state(saved[name])
            else:
                generator.bit_generator.state = saved[name]
        here = torch.cuda.device_count() if cuda else 0
        if len(cuda) == here:
            torch.cuda.set_rng_state_all(cuda)
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError) as error:
        raise ValueError(f"cannot set the random states: {error}") from error
    if len(cuda) != here:
        warnings.warn(
            f"the random states are of {len(cuda)} CUDA devices, here are {here}: those of the devices are left as they are, "
            "and the continuation will differ from an uninterrupted run",
            stacklevel=2,
        )
