"""The named entries of covariates: checked, cast, and encoded by networks of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pyrovae.networks.base import Covariates, Network, Shape, as_shape, check_input, closed_already, networks_of

Entry = Shape | Network


class Embed(Network):
    r"""A learned vector for each category, :math:`y = E_c`.

    Args:
        num_categories: number of categories; their codes are ``0 .. num_categories - 1``, in a tensor of any dtype.
        out_shape: shape of the vector; an integer for its length.

    Raises:
        ValueError: the number of categories is not positive.

    >>> Embed(10, 4)(torch.tensor([3, 1])).shape
    torch.Size([2, 4])
    """

    def __init__(self, num_categories: int, out_shape: Shape) -> None:
        super().__init__((), as_shape(out_shape, "out_shape"))
        if not isinstance(num_categories, int) or num_categories < 1:
            raise ValueError(f"num_categories must be a positive integer, got {num_categories!r}")
        self.table = nn.Parameter(torch.randn(num_categories, *self.closed_shape))

    def forward(self, x: Tensor | None, covariates: Covariates | None = None) -> Tensor:
        """The vectors ``(*batch, *out_shape)`` of codes ``(*batch,)``."""
        codes, batch_shape = check_input(self, x)
        return nn.functional.embedding(codes.long(), self.table.flatten(1)).reshape(batch_shape + self.closed_shape)

    def add_head(self, out_shape: torch.Size) -> Network:
        """Refused: it is closed."""
        raise closed_already(self)

    def extra_repr(self) -> str:
        """The number of categories and the vector's shape."""
        return f"{len(self.table)} categories -> {tuple(self.closed_shape)}"


class Plain(Network):
    r"""An entry as it is, :math:`y = x`, cast to this module's dtype: counts, masks and one-hot codes may be integers.

    Args:
        shape: shape of one entry; an integer for a vector.

    >>> Plain(3).double()(torch.ones(2, 3, dtype=torch.bool)).dtype
    torch.float64
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape, as_shape(shape, "covariates entry's shape"))
        self.like: Tensor
        self.register_buffer("like", torch.empty(0), persistent=False)

    def forward(self, x: Tensor | None, covariates: Covariates | None = None) -> Tensor:
        """The entry ``(*batch, *shape)``, cast."""
        return check_input(self, x)[0].to(self.like.dtype)

    def add_head(self, out_shape: torch.Size) -> Network:
        """Refused: it is closed."""
        raise closed_already(self)


class Entries(nn.Module):
    """The entries of the covariates that one network reads, each through a network of its own.

    Args:
        who: name of the network that reads them, for messages.
        covariates: for each name the shape of one entry, or a closed network of the entry such as ``Embed(10, 4)``.

    Raises:
        ValueError: there is no name, or an entry's network is open.

    >>> entries = Entries("FiLM", {"label": Embed(10, 4), "position": (2, 3)})
    >>> entries.own_names, entries.size
    (('label', 'position'), 10)
    """

    def __init__(self, who: str, covariates: Mapping[str, Entry]) -> None:
        super().__init__()
        if not isinstance(covariates, Mapping) or not covariates:
            remedy = "write covariates={'label': 10}, say, or leave this network out"
            raise ValueError(f"{who} expected covariates={{name: shape or network}}, got {covariates!r}: {remedy}")
        self.who = who
        self.own_names = tuple(covariates)
        self.encoders = nn.ModuleList(e if isinstance(e, Network) else Plain(e) for e in covariates.values())
        for name, encoder in self.items():
            if encoder.out_shape is None:
                raise ValueError(
                    f"{who} expected a closed network for {name!r}, got an open one: write out_shape=... there"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """The names that are read, those that the entries' networks read included."""
        return (*self.own_names, *[name for encoder in networks_of(self.encoders) for name in encoder.covariate_names])

    @property
    def shapes(self) -> tuple[torch.Size, ...]:
        """The shape of each encoded entry."""
        return tuple(encoder.closed_shape for encoder in networks_of(self.encoders))

    @property
    def size(self) -> int:
        """The number of values in all encoded entries."""
        return sum(math.prod(shape) for shape in self.shapes)

    def items(self) -> list[tuple[str, Network]]:
        """Each name and its network."""
        return list(zip(self.own_names, networks_of(self.encoders), strict=True))

    def forward(self, covariates: Covariates | None) -> list[Tensor]:
        """The encoded entries, each ``(*batch, *shape)``."""
        return [self._encode(name, encoder, covariates) for name, encoder in self.items()]

    def _encode(self, name: str, encoder: Network, covariates: Covariates | None) -> Tensor:
        if covariates is None or name not in covariates:
            came = "no covariates" if covariates is None else f"the names {sorted(covariates)}"
            raise ValueError(
                f"{self.who} reads {name!r} from the covariates, got {came}: pass covariates={{{name!r}: tensor}}"
            )
        try:
            return encoder(covariates[name], covariates)
        except (TypeError, ValueError) as error:
            remedy = "; a category's code needs Embed(num_categories, dim)" if isinstance(encoder, Plain) else ""
            raise type(error)(f"covariates {name!r} of {self.who}: {error}{remedy}") from None


def broadcast_batch(who: str, batch_shapes: Sequence[torch.Size]) -> torch.Size:
    """The batch axes that value and covariates have together.

    Raises:
        ValueError: they do not broadcast.

    >>> broadcast_batch("FiLM", [torch.Size([7, 1]), torch.Size([5])])
    torch.Size([7, 5])
    """
    try:
        return torch.broadcast_shapes(*batch_shapes)
    except RuntimeError:
        came = " and ".join(str(tuple(shape)) for shape in batch_shapes)
        raise ValueError(
            f"{who} expected batch axes of value and covariates that broadcast, got {came}: "
            "give the covariates one row for each row of the value"
        ) from None
