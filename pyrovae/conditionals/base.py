"""The base class of conditionals: values and covariates in, a Pyro distribution out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.errors import refusal
from pyrovae.missing import is_complete, observed
from pyrovae.networks import Network
from pyrovae.networks.base import Covariates, Shape, as_shape, check_network

Net = Network | None
EventShape = Shape | None
Preprocess = Callable[[Tensor], Tensor] | None


class Conditional(nn.Module, ABC):
    r"""A module whose ``forward`` returns a Pyro distribution, made of the unconstrained numbers of a network (abstract).

    .. math:: p(y \mid v, c) = p(y;\ r), \qquad r = f(v, c) + r_0

    The same class serves as a prior, a likelihood or a posterior. Without a network r is one learned tensor. A subclass
    writes :meth:`distribution`; where r has another shape than the event, or a learned r starts elsewhere than at zero,
    its ``__init__`` passes ``start``. The base class is a convenience: any ``nn.Module`` with
    ``forward(*values, covariates=None)`` is a conditional, and lists the covariates that it reads in ``covariate_names``.

    Args:
        net: a :class:`~pyrovae.networks.Network` f; an open one is closed with the shape of r. None for a learned r.
        event_shape: shape of one datum or of one latent; an integer for a vector.
        start: the value at which a learned r starts, by default zeros of ``event_shape``; its shape is that of r. A tensor
            without entries says that the distribution has no r.
        preprocess: applied to the network's input, e.g. ``torch.log1p`` for counts. Missing entries are zero after it.
        covariate_names: the covariates that :meth:`forward` reads in addition to those of the network.

    Raises:
        TypeError: ``net`` is a bare module.
        ValueError: there is no event shape, or a closed network has another output shape.

    >>> class Exponential(Conditional):
    ...     def distribution(self, raw):
    ...         return dist.Exponential(raw.exp()).to_event(len(self.event_shape))
    >>> from pyrovae import MLP
    >>> Exponential(MLP(3, (8,)), event_shape=(2, 5))(torch.zeros(7, 3)).event_shape
    torch.Size([2, 5])
    >>> Exponential(event_shape=4)().mean.tolist()
    [1.0, 1.0, 1.0, 1.0]
    """

    net: Network | None
    offset: Tensor
    value: Tensor

    def __init__(
        self,
        net: Net = None,
        event_shape: EventShape = None,
        *,
        start: Tensor | None = None,
        preprocess: Preprocess = None,
        covariate_names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.event_shape = as_event_shape(event_shape, type(self).__name__)
        self.preprocess = preprocess
        start = torch.zeros(self.event_shape) if start is None else start
        self.net = None
        names = [*covariate_names, *(["mask"] if preprocess is not None else [])]
        if net is not None:
            check_network(f"{type(self).__name__}'s net=", net)
            self.net = net.close(start.shape)
            self.register_buffer("offset", torch.zeros_like(start))
            names += net.covariate_names
        elif start.numel():
            self.value = nn.Parameter(start)
        else:
            self.register_buffer("value", start, persistent=False)
        self.covariate_names = tuple(dict.fromkeys(names))
        self._made_with = None if net is not None and net.out_shape is not None else self._squares()

    @property
    def untrained(self) -> bool:
        """Whether its numbers are those that it was made with; a network that came with a head may have been trained."""
        return self._squares() == self._made_with

    def _squares(self) -> list[float]:
        """Sums of squares of these numbers: a copy in double precision keeps them, a step of training does not."""
        tensors = [self.value] if self.net is None else [self.offset, *self.net.parameters()]
        return [float(tensor.detach().double().square().sum()) for tensor in tensors]

    @abstractmethod
    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """The distribution given its unconstrained numbers ``(*batch, *raw_shape)``; its batch shape is ``batch``."""

    def forward(self, value: Tensor | None = None, covariates: Covariates | None = None) -> dist.TorchDistribution:
        """The distribution given ``value`` of shape ``(*batch, *in_shape)``; its batch shape is ``batch``.

        Raises:
            ValueError: the covariates lack a name, or a shape does not fit.
        """
        return self.distribution(self.raw(value, covariates))

    def raw(self, value: Tensor | None = None, covariates: Covariates | None = None) -> Tensor:
        """The unconstrained numbers: the network's output ``(*batch, *raw_shape)``, or the learned tensor."""
        if self.net is None:
            return self.value
        if self.preprocess is not None and value is not None:
            value = self.preprocess(value)
            if covariates is not None and "mask" in covariates and not is_complete():
                value = torch.where(covariates["mask"], value, value.new_zeros(()))
        return self.net(value, covariates) + self.offset

    def initialize(self, x: Tensor, steps: int = 100) -> None:
        r"""Start the unconstrained numbers at the fit of one constant distribution to data.

        .. math:: r_0 = \arg\max_r \sum_i \log p(x_i;\ r),

        by ``steps`` Adam steps of size 0.1 in units of :meth:`moments`. For most families the start is the data's mean. No
        entry moves further than about ``steps / 10`` units.

        Args:
            x: data of shape ``(rows, *event_shape)``; NaN is missing. Rows whose squares overflow are left out.
            steps: number of steps.

        Raises:
            ValueError: the distribution has no unconstrained numbers, reads a covariate itself, or the data does not fit.
        """
        target = self.value if self.net is None else self.offset
        read = [
            name for name in self.covariate_names if name not in ("mask", *getattr(self.net, "covariate_names", ()))
        ]
        if read or not target.numel():
            because = f"it reads {read[0]!r} from the covariates" if read else "it has no network and nothing to learn"
            raise ValueError(f"{type(self).__name__} cannot be initialized from data: {because}")
        x = squarable(x, target)
        center, unit = self.moments(x)
        raw = torch.zeros_like(target, requires_grad=True)
        optimizer = torch.optim.Adam([raw], lr=0.1)
        constant, _ = observed(self.distribution(center), x)
        values, times = (x, None) if _entries(constant).event_shape else tally(x)
        for _ in range(steps):
            constant, filled = observed(self.distribution(center + unit * raw), values)
            terms = constant.log_prob(filled) if times is None else times * _entries(constant).log_prob(filled)
            (raw.grad,) = torch.autograd.grad(-terms.sum() / max(len(x), 1), raw)
            optimizer.step()
        with torch.no_grad():
            target.copy_(center + unit * raw)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Where :meth:`initialize` starts each unconstrained number, and the unit of its steps.

        Args:
            x: data of shape ``(rows, *event_shape)``; NaN is missing.
        """
        start = (self.value if self.net is None else self.offset).detach().clone()
        return start, torch.ones_like(start)

    def extra_repr(self) -> str:
        """The event's shape."""
        return f"event_shape={tuple(self.event_shape)}"


def tally(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """The different values of each entry, and in how many rows each stands; the rows and None where few values repeat.

    An entry with fewer values than another has its largest once more, in no row. The missing ones are one value, NaN.

    >>> tally(torch.tensor([2.0, 0.0, 2.0, 2.0, 2.0, 0.0, 2.0, 2.0])[:, None])
    (tensor([[0.],
            [2.]]), tensor([[2.],
            [6.]]))
    """
    rows = x.reshape(len(x), -1).nan_to_num(torch.inf).sort(0).values
    number = torch.cat([torch.zeros_like(rows[:1]), rows[1:] != rows[:-1]]).cumsum(0).long()
    size = int(number.max()) + 1 if rows.numel() else len(x)
    if 4 * size > len(x):
        return x, None
    values = rows[-1].expand(size, -1).scatter(0, number, rows)
    times = torch.zeros_like(values).scatter_add(0, number, torch.ones_like(rows))
    values = values.masked_fill(values.isinf(), torch.nan)
    return values.reshape(-1, *x.shape[1:]), times.reshape(-1, *x.shape[1:])


def _entries(distribution: dist.TorchDistribution) -> dist.TorchDistribution:
    """The distribution before its entries were declared one event; without an event where they are independent."""
    while isinstance(distribution, torch.distributions.Independent):
        distribution = distribution.base_dist
    return distribution


def squarable(x: Tensor, like: Tensor) -> Tensor:
    """The rows whose squares are finite, in the dtype of a tensor: one row of 1e30 would spoil the start for all.

    Raises:
        ValueError: there are rows, and none of them.

    >>> squarable(torch.tensor([[1.0], [1e30]]), torch.zeros(1))
    tensor([[1.]])
    """
    x = x.to(like)
    kept = x[~x.square().isinf().reshape(len(x), -1).any(1)]
    if len(x) and not len(kept):
        largest = f"{float(x.abs().nan_to_num().max()):.3g}"
        words = f"every row holds a number such as {largest}, whose square overflows in {x.dtype}: scale the data"
        raise refusal(words, "data")
    return kept


def as_event_shape(event_shape: EventShape, owner: str) -> torch.Size:
    """An event shape as a ``torch.Size``.

    Raises:
        ValueError: it is None.

    >>> as_event_shape(3, "Factorized")
    torch.Size([3])
    """
    if event_shape is None:
        raise refusal(
            f"{owner} needs event_shape=, the shape of one datum or one latent, e.g. event_shape=10 or (1, 28, 28)",
            "event_shape",
        )
    return as_shape(event_shape, "event_shape")


def as_length(event_shape: EventShape, owner: str, least: int = 1) -> int:
    """The length of an event that must be a vector.

    Raises:
        ValueError: it is no vector, or has fewer than ``least`` entries.

    >>> as_length((3,), "Spherical")
    3
    """
    shape = as_event_shape(event_shape, owner)
    if len(shape) != 1 or shape[0] < least:
        raise refusal(
            f"{owner} is a distribution over vectors of {least} or more entries, got event_shape={tuple(shape)}: "
            f"flatten the data and write event_shape={max(shape.numel(), least)}",
            "event_shape",
        )
    return shape[0]
