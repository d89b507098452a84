"""Training state in files: atomic, bit for bit, never a pickle.

A checkpoint is one safetensors file. Its tensors are the state's tensors, its header holds the rest of the state as
JSON and a checksum over every byte. Reading one runs no code and believes nothing that was not checked.
"""

from __future__ import annotations

from pyrovae.checkpoints.container import NewerFormatError, read_header, read_tensors, write_tensors
from pyrovae.checkpoints.files import DamagedError, read_json, remove_leftovers, save_file_atomic, write_json_atomic
from pyrovae.checkpoints.packing import check_packable, pack, unpack
from pyrovae.checkpoints.rng import rng_state, set_rng_state
from pyrovae.checkpoints.states import load_optimizer_state, load_state
from pyrovae.checkpoints.store import CheckpointStore, load_tree, save_tree
from pyrovae.checkpoints.termination import StopRequest

__all__ = [
    "CheckpointStore",
    "DamagedError",
    "NewerFormatError",
    "StopRequest",
    "check_packable",
    "load_optimizer_state",
    "load_state",
    "load_tree",
    "pack",
    "read_header",
    "read_json",
    "read_tensors",
    "remove_leftovers",
    "rng_state",
    "save_file_atomic",
    "save_tree",
    "set_rng_state",
    "unpack",
    "write_json_atomic",
    "write_tensors",
]
