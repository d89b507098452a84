"""What the univariate families of this library share: named parameters that broadcast, expand and are checked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all


class Univariate(TorchDistribution, ABC):
    """A distribution of one number with named parameters (abstract).

    ``arg_constraints`` names what a network may give; ``given_constraints`` what is known beside it (a number of
    levels, a size factor, a measurement error) and is never read from a network.

    Args:
        parameters: by name, as tensors or numbers; they broadcast against each other.
        validate_args: check the parameters against their constraints.

    Raises:
        ValueError: a parameter violates its constraint, while validation is on.
    """

    given_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, parameters: dict[str, Tensor | float], validate_args: bool | None = None) -> None:
        tensors = broadcast_all(*parameters.values())
        self._parameter_names = tuple(parameters)
        for name, tensor in zip(parameters, tensors, strict=True):
            setattr(self, name, tensor)
        super().__init__(tensors[0].shape, validate_args=validate_args)
        if self._validate_args:
            self._check_given()

    def expand(self, batch_shape: Sequence[int], _instance: TorchDistribution | None = None) -> TorchDistribution:
        """The same distribution with its batch axes expanded to ``batch_shape``."""
        new = self._get_checked_instance(type(self), _instance)
        new._parameter_names = self._parameter_names
        for name in self._parameter_names:
            setattr(new, name, getattr(self, name).expand(batch_shape))
        super(Univariate, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @abstractmethod
    def log_prob(self, value: Tensor) -> Tensor:
        """The log density or log mass at ``value``, in nats."""

    def _checked(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return value

    def _check_given(self) -> None:
        for name, constraint in self.given_constraints.items():
            if not constraint.check(getattr(self, name)).all():
                raise ValueError(f"{type(self).__name__} needs {name}= in {constraint}, got {getattr(self, name)}")
