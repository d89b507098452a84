"""What is trained, as named tensors: the parameters and buffers behind a program."""

from __future__ import annotations

import torch
from torch import Tensor


class Weights:
    """Copies and restores the tensors behind a program.

    Args:
        tensors: the live tensors by name, see :class:`pyrovae.programs.Announced`.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.live = tensors

    def tensors(self) -> dict[str, Tensor]:
        """The live tensors by name, without their graph."""
        return {name: tensor.detach() for name, tensor in self.live.items()}

    def copy(self) -> dict[str, Tensor]:
        """Copies of the tensors by name."""
        return {name: tensor.clone() for name, tensor in self.tensors().items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Write copies back.

        Raises:
            ValueError: names, shapes or dtypes differ from those of the program.
        """
        live = self.tensors()
        different = sorted(live.keys() ^ tensors.keys()) or [n for n in live if not _alike(live[n], tensors[n])]
        if different:
            raise ValueError(
                f"these weights are of another program: {different[:3]} differ; build the program they were saved from, "
                "in its dtype"
            )
        with torch.no_grad():
            for name, tensor in live.items():
                tensor.copy_(tensors[name])


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype
