"""What is asked for beside the program and its data."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyrovae.checks import SBC
from pyrovae.data import Data


@dataclass(frozen=True)
class Request:
    """The wishes of one call of :func:`pyrovae.arviz.from_pyro_svi`.

    Args:
        groups: the names of the groups.
        coords: dimension -> labels.
        dims: variable -> names of dimensions.
        max_bytes: the most that may lie in memory.
        store: where a zarr store is written; None keeps all in memory.
        seed: of all draws; None takes torch's random state.
        new_covariates: of rows that are predicted, or None.
        sbc: the ranks that go into ``prior_sbc``, or None.
        vectorize: False runs the program once for each draw.
    """

    groups: frozenset[str]
    coords: Mapping[str, Any]
    dims: Mapping[str, Sequence[str]]
    max_bytes: int
    store: str | os.PathLike | None
    seed: int | None
    new_covariates: Mapping[str, Any] | None = None
    sbc: SBC | None = None
    vectorize: bool = True

    def attributes(self, rows: Data) -> dict[str, str | int]:
        """What the result says about where it came from."""
        attrs: dict[str, str | int] = {
            "inference_library": "pyro-ppl",
            "inference_library_version": importlib.metadata.version("pyro-ppl"),
            "data_name": rows.name,
            "data_split": rows.split,
        }
        if rows.variant is not None:
            attrs["data_variant"] = rows.variant
        if self.seed is not None:
            attrs["seed"] = self.seed
        return attrs
