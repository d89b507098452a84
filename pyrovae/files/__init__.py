"""States and runs on disk: atomic, equal to the last bit, never a pickle.

A state is one safetensors file: its tensors named by their path, the rest as JSON in the header, one checksum over all.
Reading one runs no code and believes nothing that was not checked. A folder has one writer at a time.
"""

from __future__ import annotations

from pyrovae.files.atomic import DamagedError, NewerFormatError, read_json, save_file_atomic, write_json_atomic
from pyrovae.files.lock import InUseError, locked
from pyrovae.files.modules import different_parts, load_optimizer_state, load_weights, optimizer_state, parts_of
from pyrovae.files.rng import rng_state, set_rng_state
from pyrovae.files.run import Run, replaced_run, require_no_run
from pyrovae.files.state import check_state, load_state, save_state
from pyrovae.files.store import CheckpointStore
from pyrovae.files.termination import StopRequest

__all__ = [
    "CheckpointStore",
    "DamagedError",
    "InUseError",
    "NewerFormatError",
    "Run",
    "StopRequest",
    "check_state",
    "different_parts",
    "load_optimizer_state",
    "load_state",
    "load_weights",
    "locked",
    "optimizer_state",
    "parts_of",
    "read_json",
    "replaced_run",
    "require_no_run",
    "rng_state",
    "save_file_atomic",
    "save_state",
    "set_rng_state",
    "write_json_atomic",
]
