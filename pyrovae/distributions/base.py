"""Base classes: parameters that expand, broadcast and are checked, and marginals over observed entries."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from pyrovae.distributions.precise import check_exact

Number = Tensor | float


class Parametric(TorchDistribution):
    """A distribution whose tensors all expand with its batch axes (abstract).

    A subclass names in ``axes`` its tensors, each with the number of its axes that are no batch axes.
    """

    axes: Mapping[str, int] = {}
    _mask: Tensor | None = None
    """True for the entries that count, of shape ``(*batch, *event_shape)``; None where all do."""

    def expand(self, batch_shape: Sequence[int], _instance: TorchDistribution | None = None) -> Any:
        """The same distribution with its batch axes expanded to ``batch_shape``."""
        new = copy.copy(self)
        new._batch_shape = torch.Size(batch_shape)
        for name, axes in {**self.axes, "_mask": len(self.event_shape)}.items():
            tensor = getattr(self, name)
            if tensor is not None:
                setattr(new, name, tensor.expand(new._batch_shape + tensor.shape[tensor.ndim - axes :]))
        return new

    def _checked(self, value: Tensor) -> Tensor:
        if self._validate_args:
            if self.support.is_discrete:
                check_exact(value, "the value")
            self._validate_sample(value)
        return value


class Maskable(Parametric):
    """A joint distribution that knows its marginal over the observed entries (abstract)."""

    def mask_entries(self, mask: Tensor) -> Any:
        """The marginal over the observed entries.

        Args:
            mask: True where observed, of shape ``(*batch, *event_shape)``.
        """
        new = self.expand(torch.broadcast_shapes(self.batch_shape, mask.shape[: mask.ndim - self.event_dim]))
        new._mask = mask
        return new


class Univariate(Parametric, ABC):
    """A distribution of one number with named parameters (abstract).

    ``arg_constraints`` lists the parameters that a network may give; ``given_constraints`` lists those that are known
    (a number of levels, a size factor, a measurement error) and never read from a network.

    Args:
        parameters: by name, as tensors or numbers; they broadcast against each other.
        validate_args: check the parameters against their constraints.

    Raises:
        ValueError: a parameter violates its constraint, while validation is on.
    """

    given_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, parameters: dict[str, Number], validate_args: bool | None = None) -> None:
        tensors = broadcast_all(*parameters.values())
        self.axes = dict.fromkeys(parameters, 0)
        for name, tensor in zip(parameters, tensors, strict=True):
            setattr(self, name, tensor)
        super().__init__(tensors[0].shape, validate_args=validate_args)
        if self._validate_args:
            self._check_given()

    @abstractmethod
    def log_prob(self, value: Tensor) -> Tensor:
        """The log density or log mass at ``value``, in nats."""

    def _check_given(self) -> None:
        for name, constraint in self.given_constraints.items():
            value = getattr(self, name)
            wrong = value[~constraint.check(value)]
            if wrong.numel():
                raise ValueError(
                    f"{type(self).__name__} needs {name}= in {constraint}, got {wrong[0]:g} in {wrong.numel()} of "
                    f"{value.numel()} entries"
                )
