"""Tables whose columns are of different kinds: the schema, and the distribution of a row."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.distributions.base import Maskable
from pyrovae.distributions.columns import Bounded, Column, Count, HeavyTailed, Positive, Real
from pyrovae.distributions.leveled import Binary, Category, Leveled, Ordered
from pyrovae.errors import check_word, refusal

KINDS: Mapping[str, type[Column]] = {
    cls.kind: cls for cls in (Real, HeavyTailed, Positive, Bounded, Count, Binary, Category, Ordered)
}
"""The kinds of columns by their words."""


def fit_column(name: str, word: str, values: Tensor, levels: tuple[str, ...] = ()) -> Column:
    """The column of a kind that describes values.

    Args:
        name: the column's name.
        word: a word of ``KINDS``; ``"bounded:0:10"`` gives bounds too.
        values: ``(rows,)``; NaN is missing.
        levels: the names behind codes.

    Raises:
        ValueError: an unknown word, a constant or empty column, or a value outside the kind.

    >>> fit_column("age", "real", torch.tensor([30.0, 50.0])).units
    (40.0, 10.0)
    """
    kind, *bounds = word.split(":")
    if bounds and not (kind == "bounded" and re.fullmatch(r"bounded:[-+.\de]+:[-+.\de]+", word)):
        raise refusal(f"bounds are written bounded:0:10, got {word!r} for {name!r}", "kinds")
    values = values.double()
    seen = values[~values.isnan()]
    if not len(seen) or kind == "constant":
        raise refusal(f"column {name!r} is empty or constant, and has no distribution: drop it", "kinds")
    return KINDS[check_word("kinds", kind, KINDS)].fit(name, seen, levels or tuple(map(float, bounds)))


class Group(NamedTuple):
    """The columns of one kind, which are computed together."""

    kind: type[Column]
    places: Tensor  # of the columns in the row
    units: Tensor  # (columns, units of one), in double precision
    num_located: int  # of one column
    num_shared: int


@dataclass(frozen=True)
class TableSchema:
    """The columns of a table: their kinds, levels and units.

    Args:
        columns: one :class:`~pyrovae.distributions.columns.Column` each, in the data's order.

    >>> import pandas as pd
    >>> from pyrovae.data import as_data
    >>> frame = pd.DataFrame({"age": [31.5, 45.0, None], "color": ["red", "blue", "red"], "visits": [0, 2, 5]})
    >>> data = as_data(frame, kinds={"visits": "count"})
    >>> [column.kind for column in TableSchema.of(data).columns]
    ['real', 'binary', 'count']
    >>> data.x.tolist()
    [[31.5, 1.0, 0.0], [45.0, 0.0, 2.0], [nan, 1.0, 5.0]]
    """

    columns: tuple[Column, ...]

    @classmethod
    def of(cls, data: Any) -> TableSchema:
        """The schema of a table that knows its kinds, with the units of its rows.

        Args:
            data: ``Data`` with ``kinds``, as by ``as_data(frame, kinds={})``.

        Raises:
            ValueError: the kinds are not known, or a column is constant or does not fit its kind.
        """
        if not data.kinds:
            raise ValueError("the kinds of the columns are not known: write pyrovae.data.as_data(frame, kinds={})")
        columns = zip(data.columns, data.dense().x.unbind(-1), strict=True)
        return cls(tuple(fit_column(n, data.kinds[n], values, data.levels.get(n, ())) for n, values in columns))

    def to_json(self) -> list[dict[str, Any]]:
        """The columns as JSON holds them."""
        return [column.to_json() for column in self.columns]

    @classmethod
    def from_json(cls, columns: Iterable[Mapping[str, Any]]) -> TableSchema:
        """The schema of :meth:`to_json`, whoever wrote it.

        Raises:
            TypeError: a field is unknown, missing, or of the wrong kind.
            ValueError: an unknown kind.
        """
        found = []
        for values in columns:
            fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
            kind = KINDS[check_word("columns", fields.pop("kind", None), KINDS)]
            parts = [part for v in fields.values() for part in (v if isinstance(v, tuple) else (v,))]
            if not all(isinstance(n, str) or (isinstance(n, int | float) and math.isfinite(n)) for n in parts):
                raise refusal(f"a column holds finite numbers and text, got {values!r:.200}", "columns", TypeError)
            found.append(kind(**fields))
        return cls(tuple(found))

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The columns by kind, those of levels also by their number."""
        members: dict[Any, list[int]] = {}
        for place, column in enumerate(self.columns):
            members.setdefault((type(column), len(column.units)), []).append(place)
        found = []
        for (kind, _), places in members.items():
            first, units = self.columns[places[0]], [self.columns[place].units for place in places]
            sizes = (first.num_located, len(first.start) - first.num_located)
            found.append(Group(kind, torch.tensor(places), torch.tensor(units, dtype=torch.float64), *sizes))
        return tuple(found)

    @cached_property
    def order(self) -> Tensor:
        """Where each column stands when the groups follow each other."""
        return torch.cat([group.places for group in self.groups]).argsort()

    @property
    def num_located(self) -> int:
        """How many numbers a likelihood's network gives for one row: group by group, column by column."""
        return sum(column.num_located for column in self.columns)

    @property
    def num_features(self) -> int:
        """How many numbers a posterior's network reads of one row: features, and one indicator of presence per column."""
        return sum(column.num_features + 1 for column in self.columns)

    def start(self) -> tuple[Tensor, Tensor]:
        """Where the numbers of a network and those that rows share start: at the data's marginal distributions."""
        starts = [(g, [self.columns[place].start for place in g.places.tolist()]) for g in self.groups]
        located = [number for g, columns in starts for start in columns for number in start[: g.num_located]]
        shared = [number for g, columns in starts for start in columns for number in start[g.num_located :]]
        return torch.tensor(located), torch.tensor(shared)

    def features(self, x: Tensor, mask: Tensor) -> Tensor:
        """The features that a posterior reads, of order one and zero where missing, and the mask: ``(*batch, num_features)``.

        Args:
            x: coded data of shape ``(*batch, columns)``, any finite value where missing.
            mask: True where observed, of the same shape.
        """
        filled, parts = torch.where(mask, x, self.interior(x)), []
        for group in self.groups:
            places = group.places.to(x.device)
            found = group.kind.features(filled[..., places], group.units.to(x))
            parts.append(torch.where(mask[..., places].unsqueeze(-1), found, 0.0).flatten(-2))
        return torch.cat([*parts, mask.to(x.dtype)], -1)

    def interior(self, like: Tensor) -> Tensor:
        """A value inside each column's range."""
        return torch.tensor([column.interior for column in self.columns], dtype=like.dtype, device=like.device)


class ColumnSupport(constraints.Constraint):
    """Each entry of a row in the range of its own column.

    Args:
        schema: the columns.
    """

    event_dim = 1

    def __init__(self, schema: TableSchema) -> None:
        self.schema, self.interior = schema, schema.interior
        self.is_discrete = all(column.is_mass for column in schema.columns)
        super().__init__()

    @property
    def measure(self) -> str:
        """Whether the columns have densities or masses; by name where some have one and some the other."""
        masses = [column.name for column in self.schema.columns if column.is_mass]
        if masses and len(masses) < len(self.schema.columns):
            return f"density, and mass of {', '.join(masses)}"
        return "mass" if masses else "density"

    def check(self, value: Tensor) -> Tensor:
        """Whether each row lies in the support."""
        inside = [
            group.kind.inside(value[..., group.places.to(value.device)], group.units.to(value)).all(-1)
            for group in self.schema.groups
        ]
        return torch.stack(inside, -1).all(-1)


class TableDistribution(Maskable):
    r"""Independent columns of different kinds.

    .. math:: p(x) = \prod_j p_j(x_j)

    A density in the columns of numbers, a mass in those of counts and levels, in the columns' own units.

    Args:
        schema: the columns.
        located: the numbers that depend on the latents, of shape ``(*batch, num_located)``.
        shared: those that all rows share, a vector.
        mask: True for the entries that count, of shape ``(*batch, columns)``; None for all.

    Reference: Nazabal et al. 2020, HI-VAE, doi:10.1016/j.patcog.2020.107501, arXiv:1807.03653.

    >>> from pyrovae.distributions.columns import Real
    >>> TableDistribution(TableSchema((Real("a", 0.0, 1.0),)), torch.zeros(5, 1), torch.zeros(1)).event_shape
    torch.Size([1])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    axes: Mapping[str, int] = {"located": 1}

    def __init__(self, schema: TableSchema, located: Tensor, shared: Tensor, mask: Tensor | None = None) -> None:
        self.schema, self.located, self.shared, self._mask = schema, located, shared, mask
        super().__init__(located.shape[:-1], torch.Size((len(schema.columns),)), validate_args=False)

    @property
    def support(self) -> ColumnSupport:
        """Each entry in the range of its own column."""
        return ColumnSupport(self.schema)

    def _raw(self) -> Iterator[tuple[Group, Tensor]]:
        """The unconstrained parameters of the columns of each kind, of shape ``(*batch, columns of the kind, numbers)``."""
        groups = self.schema.groups
        located = self.located.split([len(g.places) * g.num_located for g in groups], -1)
        shared = self.shared.split([len(g.places) * g.num_shared for g in groups], -1)
        for group, one, other in zip(groups, located, shared, strict=True):
            one = one.unflatten(-1, (len(group.places), group.num_located))
            other = other.reshape(len(group.places), group.num_shared).expand(*one.shape[:-1], -1)
            yield group, torch.cat([one, other], -1)

    def groups(self) -> Iterator[tuple[Group, dist.TorchDistribution]]:
        """The distributions of the columns of each kind together, of batch shape ``(*batch, columns of the kind)``."""
        return ((group, group.kind.distribution(raw, group.units.to(raw))) for group, raw in self._raw())

    def column(self, name: str) -> dist.TorchDistribution:
        """The distribution of one column, of batch shape ``batch``.

        Args:
            name: the column's name.
        """
        place = [column.name for column in self.schema.columns].index(name)
        group, raw = next((group, raw) for group, raw in self._raw() if place in group.places)
        at = group.places.tolist().index(place)
        return group.kind.distribution(raw[..., at, :], group.units[at].to(raw))

    def probabilities(self) -> dict[str, Tensor]:
        """The probabilities of the levels of each column that has some, by its name: ``(*batch, levels)``."""
        found = {}
        for column in self.schema.columns:
            if isinstance(column, Leveled):
                levels = torch.arange(len(column.levels), dtype=self.located.dtype, device=self.located.device)
                own = self.column(column.name)
                masses = [own.log_prob(level.expand(self.batch_shape)) for level in levels]
                found[column.name] = torch.stack(masses, -1).exp()
        return found

    @property
    def mean(self) -> Tensor:
        """The mean of a number, the most probable code of levels: shape ``(*batch, columns)``."""
        return self._joined(group.kind.center(distribution) for group, distribution in self.groups())

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density in nats, in the columns' own units, of shape ``batch``."""
        return self.entry_log_prob(value).sum(-1)

    def entry_log_prob(self, value: Tensor) -> Tensor:
        """The log density of each column, zero where it is masked, of shape ``(*batch, columns)``."""
        if self._mask is not None:
            value = torch.where(self._mask, value, self.schema.interior(value))
        terms = self._joined(
            distribution.log_prob(value[..., group.places.to(value.device)]) for group, distribution in self.groups()
        )
        return terms if self._mask is None else torch.where(self._mask, terms, 0.0)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Coded rows of shape ``(*sample_shape, *batch, columns)``."""
        shape = torch.Size(sample_shape)
        return self._joined(distribution.sample(shape).to(self.located.dtype) for _, distribution in self.groups())

    def _joined(self, parts: Iterator[Tensor]) -> Tensor:
        """The numbers of all groups, one per column, in the order of the columns."""
        return torch.cat(list(parts), -1)[..., self.schema.order.to(self.located.device)]
