"""Training state in files: atomic, bit for bit, never a pickle.

A checkpoint is one safetensors file. Its tensors are the state's tensors, its header holds the rest of the state as
JSON and a checksum over every byte. Reading one runs no code and believes nothing that was not checked.
"""

from __future__ import annotations

from pyrovae.files.atomic import DamagedError, read_json, remove_leftovers, save_file_atomic, write_json_atomic
from pyrovae.files.container import NewerFormatError, read_header, read_tensors, write_tensors
from pyrovae.files.packing import check_packable, pack, unpack
from pyrovae.files.rng import rng_state, set_rng_state
from pyrovae.files.run import Run
from pyrovae.files.states import load_optimizer_state, load_state
from pyrovae.files.store import CheckpointStore, load_tree, save_tree
from pyrovae.files.termination import StopRequest

__all__ = [
    "CheckpointStore",
    "DamagedError",
    "NewerFormatError",
    "Run",
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
