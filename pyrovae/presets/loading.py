"""A trained VAE out of a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, nn

from pyrovae.errors import refusal
from pyrovae.files import DamagedError, different_parts, load_state, load_weights, parts_of
from pyrovae.files.config import CONFIG, DTYPES, STATE, check_file, read_config
from pyrovae.presets.budget import Budget
from pyrovae.presets.build import build_vae
from pyrovae.presets.spec import Spec

if TYPE_CHECKING:
    from pyrovae.graphs import VAE

Module = TypeVar("Module", bound=nn.Module)


def load(folder: str | os.PathLike[str], into: Module | None = None) -> VAE | Module:
    """Load a trained VAE from a folder of ``save``. Nothing is written, so the folder may be read-only.

    Args:
        folder: the run's folder.
        into: a module built as the saved one was, for a composition of one's own; filled and returned.

    Returns:
        The VAE, on the CPU in the dtype it was saved in; or ``into``.

    Raises:
        FileNotFoundError: there is no run in the folder, or a file of it is missing.
        DamagedError: a file is truncated, altered or foreign.
        NewerFormatError: a later version wrote it.
        ValueError: the run is a composition and ``into`` is not given, or a part of ``into`` is not the one that was saved.

    >>> import tempfile
    >>> import pyrovae as pvae
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pvae.load(pvae.save(nn.Linear(2, 1), folder), into=nn.Linear(2, 1))
    Linear(in_features=2, out_features=1, bias=True)
    """
    folder = Path(folder)
    config = read_config(folder)
    state = load_state(check_file(folder, STATE, config["files"]), "weights")
    if not isinstance(state, dict):
        raise DamagedError(f"{folder / STATE} holds no weights by name")
    if into is not None and (difference := different_parts(config["parts"], parts_of(into))):
        raise refusal(
            f"{str(folder)!r} was saved from other parts than this {type(into).__name__} has: {difference}. Build it as the "
            "saved one was built",
            "into",
        )
    size = sum(value.nbytes for value in state.values() if isinstance(value, Tensor))
    module = into if into is not None else _rebuild(config, size, folder)
    load_weights(module, state, str(folder))
    return module


def _rebuild(config: Mapping[str, Any], size: int, folder: Path) -> VAE:
    """The VAE of a run's spec, if it takes not far more memory than the weights beside it."""
    if config["spec"] is None:
        raise refusal(
            f"{str(folder)!r} holds a composition of one's own ({config['class'][:100]}), and no code is loaded: build it as "
            "it was built, then write pyrovae.load(folder, into=vae)",
            "into",
        )
    if config["dtype"] not in DTYPES:
        raise DamagedError(f"{folder / CONFIG} has the dtype {config['dtype'][:50]!r}; known are {', '.join(DTYPES)}")
    try:
        checked = Spec.from_json(config["spec"])
        with Budget(8 * size + 2**26):
            return build_vae(checked, seed=0).to(DTYPES[config["dtype"]])
    except (TypeError, ValueError, MemoryError) as error:
        raise DamagedError(f"no VAE can be built of the spec in {folder / CONFIG}: {error}") from error
