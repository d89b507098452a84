"""What is trained, as named tensors: a module's parameters and buffers, or the parameters that a pair of functions announces."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Weights:
    """Copies and restores the tensors behind a program.

    Args:
        module: the module, if the program is one: all its parameters and buffers are taken.
        parameters: else the parameters that the program announced, by name.
    """

    def __init__(self, module: nn.Module | None, parameters: dict[str, nn.Parameter]) -> None:
        self.module = module
        self.parameters = parameters

    def tensors(self) -> dict[str, Tensor]:
        """The live tensors by name."""
        if self.module is None:
            return {name: parameter.detach() for name, parameter in self.parameters.items()}
        return dict(self.module.state_dict())

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
