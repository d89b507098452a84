"""One conditional distribution over independent entries, for any univariate Pyro family."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae.distributions.links import Link, link
from pyrovae.missing import observed
from pyrovae.networks import Network

Covariates = Mapping[str, Tensor]


class FromCovariate(NamedTuple):
    """A distribution's parameter that is read from the covariates, by name.

    The entry has one row a datum: shape ``(data,)`` to be shared by all entries of the datum, or ``(data, *event_shape)``.

    Args:
        name: the name in ``covariates={name: tensor}``.
        transform: applied to the entry first, e.g. ``torch.exp``.

    >>> FromCovariate("total")
    FromCovariate(name='total', transform=None)
    """

    name: str
    transform: Callable[[Tensor], Tensor] | None = None

    def read(self, covariates: Covariates | None, event_dim: int) -> Tensor:
        """The entry, with axes of size one added so that it broadcasts against ``(*batch, *event_shape)``."""
        if covariates is None or self.name not in covariates:
            raise ValueError(
                f"covariates have no {self.name!r}: pass covariates={{{self.name!r}: tensor}} with one row a datum"
            )
        value = covariates[self.name]
        if value.ndim == 1:
            value = value.reshape(value.shape + (1,) * event_dim)
        return value if self.transform is None else self.transform(value)


def _shape(size: int | Sequence[int]) -> torch.Size:
    return torch.Size((size,) if isinstance(size, int) else size)


def _event_dim(constraint: constraints.Constraint) -> int:
    try:
        return constraint.event_dim
    except NotImplementedError:  # a constraint that depends on other parameters
        return 0


class Factorized(nn.Module):
    r"""A distribution over independent entries whose parameters are fixed, learned, or computed by a network.

    .. math:: p(y \mid v, c) = \prod_j \mathrm{family}\bigl(y_j;\ \theta_j(v, c)\bigr)

    One class for three roles: with no network a prior, with a network a likelihood or a posterior. The parameters that
    are not given are read from the network's output, of shape ``(*batch, n_params, *event_shape)``, in the order of
    :meth:`parameters_of`, each through a link onto its constraint that is finite for every finite input.

    Args:
        family: a univariate distribution class of ``pyro.distributions``.
        net: a :class:`~pyrovae.networks.Network`; an open one is closed here with a head of the right size.
        event_shape: the shape of one datum (or one latent); an integer for a vector.
        preprocess: applied to the network's input, e.g. ``torch.log1p`` for counts. Missing entries are zero after it.
        **given: values for parameters of the family: a number or a tensor is fixed; an ``nn.Parameter`` is learned, from
            this (constrained) value on; ``FromCovariate(name)`` is read from the covariates. Each broadcasts against
            ``event_shape``.

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

    offset: Tensor
    net: Network | None

    def __init__(
        self,
        family: type[dist.Distribution],
        net: Network | None = None,
        event_shape: int | Sequence[int] | None = None,
        *,
        preprocess: Callable[[Tensor], Tensor] | None = None,
        **given: float | Tensor | nn.Parameter | FromCovariate,
    ) -> None:
        super().__init__()
        if not (isinstance(family, type) and issubclass(family, TorchDistributionMixin)):
            raise TypeError(
                f"family must be a distribution class of pyro.distributions, such as dist.Normal, got {family!r}; its "
                "parameters are read from the network, or given by name (scale=1.0)"
            )
        if event_shape is None:
            raise ValueError(
                f"{family.__name__} needs event_shape=, the shape of one datum, e.g. event_shape=(1, 28, 28)"
            )
        self.family: Any = family
        self.event_shape = _shape(event_shape)
        self.preprocess = preprocess
        self._check_given(given)
        self.read = tuple(name for name in self.parameters_of(family) if not _is_given(name, given))
        self.links = self._links(given)
        self._sources = {name: self._keep(name, value) for name, value in given.items()}
        self.net = self._close(net)
        if net is not None:
            self.register_buffer("offset", torch.zeros(len(self.read), *self.event_shape))
        own = [source.name for source in self._sources.values() if isinstance(source, FromCovariate)]
        mask = ["mask"] if preprocess is not None else []
        self.covariate_names = tuple(dict.fromkeys([*own, *mask, *(net.covariate_names if net is not None else ())]))

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
                f"{family.__name__} is not univariate (its {joint[0]!r} has axes of its own), so its entries cannot be "
                "factorized: use a conditional of pyrovae.distributions made for it, or a module that returns it"
            )
        return tuple(name for name in names if not _has_logits(name, names))

    def forward(self, value: Tensor | None = None, covariates: Covariates | None = None) -> dist.TorchDistribution:
        """The distribution given ``value`` of shape ``(*batch, *in_shape)``; its batch shape is ``batch``.

        Raises:
            ValueError: the covariates lack a name that a parameter is read from, or shapes do not fit.
        """
        event_dim = len(self.event_shape)
        parameters = {name: self._parameter(name, covariates) for name in self._sources}
        if self.net is not None:
            raw = self._raw(value, covariates)
            parameters |= {
                n: self.links[n].forward(r) for n, r in zip(self.read, raw.unbind(-1 - event_dim), strict=True)
            }
        base = self.family(**parameters)
        base = base.expand(torch.broadcast_shapes(base.batch_shape, self.event_shape))
        return base.to_event(event_dim)

    def initialize(self, x: Tensor, steps: int = 100) -> None:
        r"""Start the network's output at the fit of one constant distribution to data: at the data's mean, for most families.

        .. math:: r_0 = \arg\max_r \sum_i \log p(x_i;\ \mathrm{link}(r)),

        by ``steps`` Adam steps of 0.1 from zero. Locations, scales and rates start at the data's moments and, where their
        unit is the data's, move in steps of 0.1 standard deviations; no entry moves further than about ``steps / 10``.

        Args:
            x: data of shape ``(rows, *event_shape)``; NaN is missing.
            steps: number of steps.

        Raises:
            ValueError: there is no network, a parameter is read from the covariates, or the data does not fit.
        """
        if self.net is None or any(isinstance(source, FromCovariate) for source in self._sources.values()):
            raise ValueError(
                "only a conditional with a network and no parameter from the covariates can be initialized from data"
            )
        x = x.to(self.offset)
        start, unit = self._moments(x)
        raw = torch.zeros_like(self.offset, requires_grad=True)
        optimizer = torch.optim.Adam([raw], lr=0.1)
        fixed = {name: self._parameter(name, None).detach() for name in self._sources}
        for _ in range(steps):
            parts = zip(self.read, (start + unit * raw).unbind(0), strict=True)
            family = self.family(**fixed, **{name: self.links[name].forward(part) for name, part in parts})
            constant, filled = observed(family.expand(self.event_shape).to_event(len(self.event_shape)), x)
            loss = -constant.log_prob(filled).sum() / max(len(x), 1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.offset.copy_((start + unit * raw).detach())

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """For each raw number where to start, and the size of its steps: zero and one where no moment says."""
        start, unit = torch.zeros_like(self.offset), torch.ones_like(self.offset)
        support: Any = self.family.support
        mean, sd = _mean_and_sd(x.log() if support is constraints.positive else x)
        of_location = support in (constraints.real, constraints.positive) and "loc" in self.family.arg_constraints
        starts = {"loc": mean, "scale": sd} if of_location else {}
        if support is constraints.nonnegative_integer and "rate" in self.read:
            starts = {"rate": mean.clamp_min(0.01)}
        for i, name in enumerate(self.read):
            if name in starts:
                start[i] = self.links[name].inverse(starts[name])
                unit[i] = 1.0 if name == "rate" else sd.clamp(0.01, 1.0) if name == "scale" else sd
        return start, unit

    def extra_repr(self) -> str:
        """The family, the datum's shape and where the parameters come from."""
        sources = [f"{n}={'covariates' if isinstance(s, FromCovariate) else s}" for n, s in self._sources.items()]
        return ", ".join(
            [self.family.__name__, f"event_shape={tuple(self.event_shape)}", f"read={self.read}", *sources]
        )

    def _raw(self, value: Tensor | None, covariates: Covariates | None) -> Tensor:
        preprocess: Any = self.preprocess
        if preprocess is not None and value is not None:
            value = preprocess(value)
            if covariates is not None and "mask" in covariates:
                value = torch.where(covariates["mask"], value, value.new_zeros(()))
        net: Any = self.net
        return (net(value, covariates) if net.covariate_names else net(value)) + self.offset

    def _parameter(self, name: str, covariates: Covariates | None) -> Tensor:
        source = self._sources[name]
        if isinstance(source, FromCovariate):
            return source.read(covariates, len(self.event_shape))
        if source == "learned":
            return self.links[name].forward(getattr(self, f"unconstrained_{name}"))
        return getattr(self, f"fixed_{name}")

    def _keep(self, name: str, value: float | Tensor | nn.Parameter | FromCovariate) -> str | FromCovariate:
        if isinstance(value, FromCovariate):
            return value
        if not isinstance(value, (int, float, Tensor)):
            raise TypeError(f"{name}= takes a number, a tensor, an nn.Parameter or FromCovariate(name); got {value!r}")
        tensor = torch.as_tensor(value, dtype=torch.get_default_dtype() if not _is_double(value) else None)
        self._check_shape(name, tensor)
        if not isinstance(value, nn.Parameter):
            self.register_buffer(f"fixed_{name}", tensor.detach().clone())
            return "fixed"
        raw = self.links[name].inverse(value.detach())
        if not raw.isfinite().all():
            raise ValueError(
                f"{name}= starts outside the interior of {self.family.arg_constraints[name]}: got {value.detach()}"
            )
        self.register_parameter(f"unconstrained_{name}", nn.Parameter(raw, requires_grad=value.requires_grad))
        return "learned"

    def _links(self, given: Mapping[str, Any]) -> dict[str, Link]:
        learned = [name for name, value in given.items() if isinstance(value, nn.Parameter)]
        found = {}
        for name in (*self.read, *learned):
            try:
                found[name] = link(self.family.arg_constraints[name])
            except ValueError as error:
                raise ValueError(
                    f"{self.family.__name__}'s parameter {name!r} must be given, {name}=...: {error}"
                ) from None
        return found

    def _check_given(self, given: Mapping[str, Any]) -> None:
        arguments = inspect.signature(self.family.__init__).parameters
        unknown = [name for name in given if name not in arguments or name in ("self", "validate_args")]
        if unknown:
            takes = [name for name in arguments if name not in ("self", "validate_args")]
            raise TypeError(f"{self.family.__name__} has no parameter {unknown[0]!r}; it takes {', '.join(takes)}")
        known = set(self.parameters_of(self.family))
        for name, argument in arguments.items():
            required = argument.default is inspect.Parameter.empty and argument.kind is not argument.VAR_KEYWORD
            if name not in ("self", *known, *given) and required and argument.kind is not argument.VAR_POSITIONAL:
                raise ValueError(f"{self.family.__name__} also needs {name}=..., which no network can give")

    def _check_shape(self, name: str, tensor: Tensor) -> None:
        try:
            fits = torch.broadcast_shapes(tensor.shape, self.event_shape) == self.event_shape
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(
                f"{name}= has shape {tuple(tensor.shape)}, which does not broadcast to event_shape {tuple(self.event_shape)}: "
                "give a number, or one value for each entry"
            )

    def _close(self, net: Network | None) -> Network | None:
        name = self.family.__name__
        if net is None:
            if self.read:
                raise ValueError(
                    f"{name} has no value for {', '.join(self.read)}: give {self.read[0]}=... or a network"
                )
            return None
        if not isinstance(net, Network):
            raise TypeError(
                f"net= takes a pyrovae Network, got {type(net).__name__}: write BatchAxes(module, in_shape, out_shape)"
            )
        if not self.read:
            raise ValueError(f"every parameter of {name} is given, so its network would be unused: leave net= out")
        wanted = torch.Size((len(self.read), *self.event_shape))
        if net.out_shape is None:
            return net.close(wanted)
        if net.out_shape != wanted:
            raise ValueError(_size_message(name, self.read, net.out_shape, wanted))
        return net


def standard_normal(latent_dim: int) -> Factorized:
    r"""The standard normal prior :math:`p(z) = \mathcal{N}(z; 0, I)` on ``latent_dim`` dimensions.

    >>> standard_normal(10)().event_shape
    torch.Size([10])
    """
    if not isinstance(latent_dim, int) or latent_dim < 1:
        raise ValueError(f"latent_dim must be a positive integer, got {latent_dim!r}")
    return Factorized(dist.Normal, event_shape=latent_dim, loc=0.0, scale=1.0)


def _size_message(name: str, read: tuple[str, ...], came: torch.Size, wanted: torch.Size) -> str:
    return (
        f"{name} reads {', '.join(read)} from its network: expected out_shape={tuple(wanted)} (n_params, *event_shape), "
        f"got {tuple(came)}; write out_shape={tuple(wanted)}, or leave out_shape out and it is added"
    )


def _has_logits(name: str, names: Mapping[str, Any]) -> bool:
    return (name == "probs" and "logits" in names) or f"{name}_logits" in names


def _is_given(name: str, given: Mapping[str, Any]) -> bool:
    twins = {"logits": "probs", "probs": "logits"}
    twin = twins.get(name) or (name.removesuffix("_logits") if name.endswith("_logits") else None)
    return name in given or twin in given


def _is_double(value: float | Tensor) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _mean_and_sd(x: Tensor) -> tuple[Tensor, Tensor]:
    """By entry, missing ones left out; a constant entry gets a hundredth of the spread of all."""
    known = ~x.isnan()
    count = known.sum(0).clamp_min(1)
    mean = torch.where(known, x, 0).sum(0) / count
    sd = (torch.where(known, x - mean, 0).square().sum(0) / count).sqrt()
    return mean, sd.clamp_min(0.01 * float(sd.mean()) or 0.01)
