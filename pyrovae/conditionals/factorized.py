"""One conditional distribution over independent entries, for any univariate Pyro family."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.distributions.util import is_validation_enabled
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae.conditionals.base import Conditional, EventShape, Net, Preprocess, as_event_shape, squarable
from pyrovae.distributions.links import Link, link
from pyrovae.distributions.precise import precise
from pyrovae.errors import check_integer, refusal
from pyrovae.missing import rows_text
from pyrovae.networks.base import Covariates


class FromCovariate(NamedTuple):
    """A distribution's parameter that is read from the covariates, by name.

    The covariate has one row per datum: shape ``(data,)`` to be shared by all entries of the datum, or
    ``(data, *event_shape)``.

    Args:
        name: the name in ``covariates={name: tensor}``.
        transform: applied to the covariate first, e.g. ``torch.exp``.

    >>> FromCovariate("total")
    FromCovariate(name='total', transform=None)
    """

    name: str
    transform: Callable[[Tensor], Tensor] | None = None

    def read(self, covariates: Covariates | None, event_dim: int, constraint: Any = constraints.real) -> Tensor:
        """The covariate, with axes of size one added so that it broadcasts against ``(*batch, *event_shape)``.

        Args:
            covariates: tensors by name.
            event_dim: the number of axes of a datum.
            constraint: of the parameter; checked while Pyro's validation is on.

        Raises:
            ValueError: the name is missing, or a value violates the constraint.
        """
        if covariates is None or self.name not in covariates:
            raise refusal(
                f"covariates have no {self.name!r}: pass covariates={{{self.name!r}: tensor}} with one row per datum",
                "covariates",
            )
        value = covariates[self.name]
        if value.ndim == 1:
            value = value.reshape(value.shape + (1,) * event_dim)
        value = value if self.transform is None else self.transform(value)
        if is_validation_enabled() and not constraints.is_dependent(constraint):
            self._check(value, ~constraint.check(value), constraint)
        return value

    def _check(self, value: Tensor, wrong: Tensor, constraint: constraints.Constraint) -> None:
        if wrong.any():
            after = "" if self.transform is None else " after its transform"
            empty = ", or give an empty row a small size" if constraint is constraints.positive else ""
            raise refusal(
                f"covariates[{self.name!r}] must be {_WORDS.get(constraint, constraint)}{after}, got {value[wrong][0]:g} in "
                f"{rows_text(wrong)}: drop these rows, or correct the value{empty}",
                "covariates",
            )


_WORDS = {
    constraints.real: "a number",
    constraints.positive: "positive",
    constraints.nonnegative: "at least 0",
    constraints.nonnegative_integer: "a whole number of at least 0",
}
_LINES = (constraints.real, constraints.positive)
"""The supports on which a location and a scale follow the data's unit."""
Given = float | Tensor | nn.Parameter | FromCovariate


class Factorized(Conditional):
    r"""A distribution over independent entries whose parameters are fixed, learned, or computed by a network.

    .. math:: p(y \mid v, c) = \prod_j \mathrm{family}\bigl(y_j;\ \theta_j(v, c)\bigr)

    One class for three roles: without a network a prior, with a network a likelihood or a posterior. The parameters that
    are not given are read from the network's output, of shape ``(*batch, n_params, *event_shape)``, in the order of
    :meth:`parameters_of`, each through a link onto its constraint that is finite for every finite input.

    Args:
        family: a univariate distribution class of ``pyro.distributions``.
        net: a :class:`~pyrovae.networks.Network`; an open one is closed here with a head of the right size.
        event_shape: the shape of one datum (or one latent); an integer for a vector.
        preprocess: applied to the network's input, e.g. ``torch.log1p`` for counts. Missing entries are zero after it.
        **given: values for parameters of the family: a number or a tensor is fixed; an ``nn.Parameter`` is learned, from
            this (constrained) value on; ``FromCovariate(name)`` is read from the covariates. Each broadcasts against
            ``event_shape`` and follows the dtype of the module.

    Raises:
        TypeError: ``net`` is a bare module, or an unknown parameter is given.
        ValueError: the family is not univariate, a parameter has no source, or a shape does not fit.

    >>> import pyro.distributions as dist, pyrovae as pvae, torch
    >>> likelihood = Factorized(dist.Binomial, pvae.MLP(10, (32,)), event_shape=(1, 8, 8), total_count=16)
    >>> likelihood(torch.zeros(5, 10)).batch_shape, likelihood(torch.zeros(5, 10)).event_shape
    (torch.Size([5]), torch.Size([1, 8, 8]))
    >>> Factorized(dist.Laplace, event_shape=3, loc=0.0, scale=1.0)().event_shape
    torch.Size([3])
    """

    center: Tensor
    unit: Tensor
    unconstrained_scale: Tensor

    def __init__(
        self,
        family: type[dist.Distribution],
        net: Net = None,
        event_shape: EventShape = None,
        *,
        preprocess: Preprocess = None,
        **given: Given,
    ) -> None:
        if not (isinstance(family, type) and issubclass(family, TorchDistributionMixin)):
            raise TypeError(
                f"family must be a distribution class of pyro.distributions, such as dist.Normal, got {family!r}; its "
                "parameters are read from the network, or given by name (scale=1.0)"
            )
        name = family.__name__
        shape = as_event_shape(event_shape, name)
        _check_given(family, given)
        read = tuple(parameter for parameter in self.parameters_of(family) if not _is_given(parameter, given))
        if net is None and read:
            raise ValueError(f"{name} has no value for {', '.join(read)}: give {read[0]}=... or a network")
        if net is not None and not read:
            raise ValueError(f"every parameter of {name} is given, so its network would be unused: leave net= out")
        own = [value.name for value in given.values() if isinstance(value, FromCovariate)]
        super().__init__(net, shape, start=torch.zeros(len(read), *shape), preprocess=preprocess, covariate_names=own)
        self.family: Any = family
        fixed = {name: value for name, value in given.items() if not isinstance(value, nn.Parameter | FromCovariate)}
        self._precise = precise(family, fixed.get("total_count"))
        self.read = read
        is_located = {"loc", "scale"} <= {*family.arg_constraints} and family.support in _LINES
        self.located = net is not None and "loc" in read and is_located
        if self.located:
            self.register_buffer("center", torch.zeros(shape))
            self.register_buffer("unit", torch.ones(shape))
        learned = [parameter for parameter, value in given.items() if isinstance(value, nn.Parameter)]
        self.links = {parameter: _link(family, parameter) for parameter in (*read, *learned)}
        self.given = {parameter: self._keep(parameter, value) for parameter, value in given.items()}

    @staticmethod
    def parameters_of(family: type[dist.Distribution]) -> tuple[str, ...]:
        """The family's parameters, in the order in which a network gives them; logits are preferred over probabilities.

        >>> import pyro.distributions as dist
        >>> Factorized.parameters_of(dist.StudentT)
        ('df', 'loc', 'scale')
        """
        names = getattr(family, "arg_constraints", None)
        if not isinstance(names, Mapping) or not names:
            raise ValueError(f"{family.__name__} lists no parameters (arg_constraints): write a module that returns it")
        joint = [name for name, constraint in names.items() if _event_dim(constraint) > 0]
        if joint:
            raise ValueError(
                f"{family.__name__} is not univariate (its parameter {joint[0]!r} is a vector or a matrix), so its "
                "entries cannot be factorized: use a conditional of pyrovae.conditionals made for it, or a module that returns it"
            )
        return tuple(name for name in names if not _has_logits(name, names))

    def forward(self, value: Tensor | None = None, covariates: Covariates | None = None) -> dist.TorchDistribution:
        """The distribution given ``value`` of shape ``(*batch, *in_shape)``; its batch shape is ``batch``.

        Raises:
            ValueError: the covariates lack a name that a parameter is read from, or shapes do not fit.
        """
        return self.distribution(self.raw(value, covariates), covariates)

    def distribution(self, raw: Tensor, covariates: Covariates | None = None) -> dist.TorchDistribution:
        """The distribution given the unconstrained parameters ``(*batch, n_params, *event_shape)``."""
        event_dim = len(self.event_shape)
        parameters = {name: self._given(name, covariates).to(raw.dtype) for name in self.given}
        for name, part in zip(self.read, raw.unbind(-1 - event_dim), strict=True):
            parameters[name] = self.links[name].forward(part)
        if self.located:
            parameters["loc"] = torch.addcmul(self.center, self.unit, parameters["loc"])
            if self._has_own_scale():
                parameters["scale"] = self.unit * parameters["scale"]
        base = self._precise(**parameters)
        batch_shape = base.batch_shape
        if batch_shape[len(batch_shape) - event_dim :] != self.event_shape:
            base = base.expand(torch.broadcast_shapes(batch_shape, self.event_shape))
        return base.to_event(event_dim)

    def initialize(self, x: Tensor, steps: int = 100) -> None:
        """Start at the fit of one constant distribution to data, and measure location and scale in the data's units.

        The network's locations are from then on in units of each entry's standard deviation, around its mean (of logarithms,
        on the positive numbers), and so are scales of each entry: a change of the data's unit changes the log density by its
        Jacobian alone. One learned scale for all entries starts at their pooled standard deviation.

        Args:
            x: data of shape ``(rows, *event_shape)``; NaN is missing.
            steps: number of steps.
        """
        if self.located:
            values = squarable(x, self.center)
            mean, sd = _mean_and_sd(values.log() if self.family.support is constraints.positive else values)
            self.center.copy_(mean)
            self.unit.copy_(sd)
            if self.given.get("scale") == "learned":
                start = torch.ones_like(self.unconstrained_scale)
                start = start if self._has_own_scale() else start * sd.square().mean().sqrt()
                self.unconstrained_scale.data.copy_(self.links["scale"].inverse(start))
        super().initialize(x, steps)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Where :meth:`initialize` starts: locations, scales and rates at the data's moments, the others at zero.

        Args:
            x: data of shape ``(rows, *event_shape)``; NaN is missing.
        """
        start, unit = torch.zeros_like(self.offset), torch.ones_like(self.offset)
        starts = {"scale": unit[0]} if self.located else {}
        if self.family.support is constraints.nonnegative_integer:
            starts = {"rate": _mean_and_sd(x)[0].clamp_min(0.01)}
        for i, name in enumerate(self.read):
            if name in starts:
                start[i] = self.links[name].inverse(starts[name])
        return start, unit

    def _has_own_scale(self) -> bool:
        """Whether each entry has a scale: from the network, or learned for each."""
        source = self.given.get("scale")
        return source is None or (source == "learned" and self.unconstrained_scale.shape == self.event_shape)

    def extra_repr(self) -> str:
        """The family, the datum's shape and where the parameters come from."""
        given = [f"{n}={'covariates' if isinstance(s, FromCovariate) else s}" for n, s in self.given.items()]
        return ", ".join([self.family.__name__, super().extra_repr(), f"read={self.read}", *given])

    def _given(self, name: str, covariates: Covariates | None) -> Tensor:
        source = self.given[name]
        if isinstance(source, FromCovariate):
            known = {**self.family.arg_constraints, **getattr(self.family, "given_constraints", {})}
            value = source.read(covariates, len(self.event_shape), known.get(name, constraints.real))
            _check_broadcast(f"covariates[{source.name!r}] of each row", value.shape[1:], self.event_shape)
            return value
        if source == "learned":
            value = self.links[name].forward(getattr(self, f"unconstrained_{name}"))
        else:
            value = getattr(self, f"fixed_{name}")
        alone = not self.read and name in self.family.arg_constraints  # nothing else brings the event's shape
        return value.expand(self.event_shape) if alone else value

    def _keep(self, name: str, value: Given) -> str | FromCovariate:
        """Register a given parameter and return its source: ``fixed``, ``learned`` or the covariate."""
        if isinstance(value, FromCovariate):
            return value
        if not isinstance(value, (int, float, Tensor)):
            raise TypeError(f"{name}= takes a number, a tensor, an nn.Parameter or FromCovariate(name); got {value!r}")
        is_floating = isinstance(value, Tensor) and value.is_floating_point()
        tensor = torch.as_tensor(value, dtype=None if is_floating else torch.get_default_dtype())
        _check_broadcast(f"{name}=", tensor.shape, self.event_shape)
        if not isinstance(value, nn.Parameter):
            self.register_buffer(f"fixed_{name}", tensor.detach().clone())
            return "fixed"
        raw = self.links[name].inverse(value.detach())
        if not raw.isfinite().all():
            constraint = self.family.arg_constraints[name]
            raise ValueError(f"{name}= starts outside the interior of {constraint}: got {value.detach()}")
        self.register_parameter(f"unconstrained_{name}", nn.Parameter(raw, requires_grad=value.requires_grad))
        return "learned"


def standard_normal(latent_dim: int) -> Factorized:
    r"""The standard normal prior :math:`p(z) = \mathcal{N}(z; 0, I)` on ``latent_dim`` dimensions.

    >>> standard_normal(10)().event_shape
    torch.Size([10])
    """
    return Factorized(dist.Normal, event_shape=check_integer("latent_dim", latent_dim), loc=0.0, scale=1.0)


def _check_given(family: type[dist.Distribution], given: Mapping[str, Any]) -> None:
    arguments = inspect.signature(family.__init__).parameters
    takes = [name for name in arguments if name not in ("self", "validate_args")]
    unknown = [name for name in given if name not in takes]
    if unknown:
        raise TypeError(f"{family.__name__} has no parameter {unknown[0]!r}; it takes {', '.join(takes)}")
    known = {*Factorized.parameters_of(family), *given}
    for name in takes:
        argument = arguments[name]
        variadic = argument.kind in (argument.VAR_KEYWORD, argument.VAR_POSITIONAL)
        if name not in known and argument.default is argument.empty and not variadic:
            raise ValueError(f"{family.__name__} also needs {name}=..., which no network can give")


def _check_broadcast(name: str, shape: torch.Size, event_shape: torch.Size) -> None:
    try:
        fits = torch.broadcast_shapes(shape, event_shape) == event_shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} has shape {tuple(shape)}, which does not broadcast to event_shape {tuple(event_shape)}: "
            "give a number, or one value for each entry"
        )


def _link(family: type[dist.Distribution], parameter: str) -> Link:
    try:
        return link(family.arg_constraints[parameter])
    except ValueError as error:
        raise ValueError(
            f"{family.__name__}'s parameter {parameter!r} must be given, {parameter}=...: {error}"
        ) from None


def _event_dim(constraint: constraints.Constraint) -> int:
    try:
        return constraint.event_dim
    except NotImplementedError:  # a constraint that depends on other parameters
        return 0


def _has_logits(name: str, names: Mapping[str, Any]) -> bool:
    return (name == "probs" and "logits" in names) or f"{name}_logits" in names


def _is_given(name: str, given: Mapping[str, Any]) -> bool:
    twins = {"logits": "probs", "probs": "logits"}
    twin = twins.get(name) or (name.removesuffix("_logits") if name.endswith("_logits") else None)
    return name in given or twin in given


def _mean_and_sd(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation by entry, NaN left out.

    A constant entry of a vector gets a hundredth of the spread of all. In an image, whose entries have one unit, so do all
    entries of less spread.
    """
    known = ~x.isnan()
    count = known.sum(0).clamp_min(1)
    mean = torch.where(known, x, 0).sum(0) / count
    sd = (torch.where(known, x - mean, 0).square().sum(0) / count).sqrt()
    least = 0.01 * float(sd.mean()) or 0.01
    return mean, sd.clamp_min(least) if x.ndim > 2 else torch.where(sd > 1e-6 * mean.abs(), sd, least)
