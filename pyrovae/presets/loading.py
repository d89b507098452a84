"""A trained VAE out of a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, nn

from pyrovae.files import DamagedError, load_state, load_tree
from pyrovae.files.config import CONFIG, DTYPES, MODEL, check_file, read_config
from pyrovae.presets.budget import Budget
from pyrovae.presets.build import build_vae
from pyrovae.presets.spec import Spec

if TYPE_CHECKING:
    from pyrovae.graphs import VAE

Module = TypeVar("Module", bound=nn.Module)


def load(folder: str | os.PathLike[str], into: Module | None = None) -> VAE | Module:
    """Load a trained VAE from a folder of `save`.

    Args:
        folder: The run's folder.
        into: A module built as the saved one was, for a composition of one's own; filled and returned.

    Returns:
        The VAE, on the CPU in the dtype it was saved in; or ``into``.

    Raises:
        FileNotFoundError: There is no run in the folder, or a file of it is missing.
        DamagedError: A file is truncated, altered or foreign.
        NewerFormatError: It was written by a later version.
        ValueError: The run is a composition and ``into`` is not given, or does not fit.

    Example:
        >>> import tempfile
        >>> import pyrovae as pvae
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     linear = pvae.load(pvae.save(nn.Linear(2, 1), folder), into=nn.Linear(2, 1))
        >>> linear
        Linear(in_features=2, out_features=1, bias=True)
    """
    folder = Path(folder)
    config = read_config(folder)
    check_file(folder, MODEL, config["files"])
    state = load_tree(folder / MODEL, "model")
    if not isinstance(state, dict):
        raise DamagedError(f"{folder / MODEL} holds no weights by name")
    module = _rebuild(config, folder, state) if into is None else into
    load_state(module, state, str(folder))
    return module


def _rebuild(config: Mapping[str, Any], folder: Path, state: Mapping[str, Any]) -> VAE:
    if config["spec"] is None:
        raise ValueError(
            f"{str(folder)!r} holds a composition of one's own ({str(config.get('class'))[:100]}), and no code is loaded: "
            "build it as it was built, then write pyrovae.load(folder, into=vae)"
        )
    if config["dtype"] not in DTYPES:
        raise DamagedError(f"{folder / CONFIG} has the dtype {config['dtype'][:50]!r}; known are {', '.join(DTYPES)}")
    size = sum(value.nbytes for value in state.values() if isinstance(value, Tensor))
    try:
        spec = Spec.from_json(config["spec"])
        with Budget(8 * size + 2**26):
            return build_vae(spec, seed=0).to(DTYPES[config["dtype"]])
    except (TypeError, ValueError, MemoryError) as error:
        raise DamagedError(f"no VAE can be built of the spec in {folder / CONFIG}: {error}") from error
