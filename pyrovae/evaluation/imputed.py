"""Imputations: the draws of missing entries, and what they say of each entry in the units of its column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from pyrovae.data import Data
from pyrovae.errors import counted, refusal

if TYPE_CHECKING:
    import pandas as pd


MOST_SHOWN = 20
"""The missing entries of so many rows are listed in a notebook."""


class Holes(NamedTuple):
    """The missing entries of one column.

    Attributes:
        name: the name of the column.
        place: its number among the entries of a datum.
        rows: the numbers of the rows that lack it, ``(cells,)``.
        draws: the draws of their entries, ``(samples, cells)``.
        levels: the names of the column's levels; none for a column of numbers.
    """

    name: str
    place: int
    rows: Tensor
    draws: Tensor
    levels: tuple[str, ...]

    @property
    def estimate(self) -> Tensor:
        """One value for each cell: the mean of the draws; of levels their mode."""
        return self.draws.mode(0).values if self.levels else self.draws.mean(0)


@dataclass(frozen=True, eq=False)
class Imputation:
    """The result of :func:`pyrovae.impute`.

    Attributes:
        draws: the data with missing entries drawn, ``(samples, data, *event_shape)``, on the CPU; a dict for a dict of data.
        pareto_k: the Pareto shape of each datum's weights, ``(data,)``: above 0.7 its draws are unreliable.
        ess: the effective number of the proposals among which the draws were chosen, ``(data,)``.
        data: the data with the entries missing.
    """

    draws: Any
    pareto_k: Tensor
    ess: Tensor
    data: Data

    def holes(self) -> Iterator[Holes]:
        """The missing entries, column by column."""
        x, levels = self.data.dense().x, self.data.levels
        draws, missing = self.draws.reshape(len(self.draws), len(x), -1), x.isnan().reshape(len(x), -1)
        names = self.data.columns or [f"[{', '.join(map(str, entry))}]" for entry in np.ndindex(*x.shape[1:])]
        for place in missing.any(0).nonzero()[:, 0].tolist():
            rows, name = missing[:, place].nonzero()[:, 0], str(names[place])
            yield Holes(name, place, rows, draws[:, rows, place].double(), tuple(levels.get(name, ())))

    def completed(self) -> Data:
        """The data with each missing entry at one value: the mean of its draws, or their mode where they are levels.

        Standard errors from a table that is completed once are too small: see :func:`pyrovae.uses.multiple_imputation`.
        """
        if isinstance(self.draws, Mapping):
            return replace(self.data, x={**self.data.x, **{n: part.completed().x for n, part in self.sites().items()}})
        x = self.data.dense().x.clone()
        for hole in self.holes():
            x.view(len(x), -1)[hole.rows, hole.place] = hole.estimate.to(x)
        return replace(self.data, x=x)

    def to_frame(self, level: float = 0.9, draws: bool = False) -> pd.DataFrame:
        """One line for each missing entry, in the units of its column.

        Args:
            level: the content of the central intervals.
            draws: whether the draws follow, one column each.

        Returns:
            A frame indexed by ``row`` and ``column``, with ``estimate`` (the mean of the draws; of levels the mode), ``sd``,
            ``low`` and ``high`` (the interval; none for levels), ``probability`` (of the mode, for levels), and ``pareto_k``
            of the row's weights.

        Raises:
            ValueError: a level outside (0, 1).
        """
        import pandas as pd

        if not 0 < level < 1:
            raise refusal(f"level is the content of the intervals, between 0 and 1, got {level}", "level")
        if isinstance(self.draws, Mapping):
            return pd.concat({n: part.to_frame(level, draws) for n, part in self.sites().items()}, names=["site"])
        labels = np.arange(len(self.data)) if self.data.row_names is None else np.asarray(self.data.row_names)
        parts = []
        for hole in self.holes():
            values, names = hole.draws.numpy(), np.array(hole.levels, dtype=object)
            part: dict[str, Any] = {"estimate": hole.estimate.numpy(), "sd": np.nan, "low": np.nan, "high": np.nan}
            if hole.levels:
                part["probability"] = (values == part["estimate"]).mean(0)
                part["estimate"], values = names[part["estimate"].astype(int)], names[values.astype(int)]
            else:
                part["low"], part["high"] = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
                part |= {"sd": values.std(0), "probability": np.nan}
            part["pareto_k"] = self.pareto_k[hole.rows].double().numpy()
            part |= {f"draw {number}": drawn for number, drawn in enumerate(values)} if draws else {}
            index = pd.MultiIndex.from_product([labels[hole.rows.numpy()], [hole.name]], names=["row", "column"])
            parts.append(pd.DataFrame(part, index))
        return pd.concat(parts) if parts else pd.DataFrame(columns=["estimate", "sd", "low", "high", "probability"])

    def sites(self) -> dict[str, Imputation]:
        """The imputation of each site of a dict of data, by its name."""
        found = {}
        for name, draws in self.draws.items():
            columns = None if self.data.columns is None else self.data.columns[name]
            data = replace(self.data, x=self.data.x[name], columns=columns)
            found[name] = replace(self, draws=draws, data=data)
        return found

    def __repr__(self) -> str:
        missing = sum(int(leaf.isnan().sum()) for leaf in tree_leaves(self.data.dense().x) if leaf.is_floating_point())
        return f"Imputation({missing:,} missing entries in {counted(len(self.data), 'row')}, {self.num_samples} draws each)"

    def _repr_html_(self) -> str:
        first = replace(
            self, data=self.data[:MOST_SHOWN], draws=tree_map(lambda draws: draws[:, :MOST_SHOWN], self.draws)
        )
        frame = first.to_frame().dropna(axis=1, how="all")
        return f"<p>{self}; those of the first {MOST_SHOWN} rows:</p>" + frame.to_html(float_format="{:.4g}".format)

    @property
    def num_samples(self) -> int:
        """The number of draws of each missing entry."""
        return len(next(iter(self.draws.values())) if isinstance(self.draws, Mapping) else self.draws)

    def plot_columns(self, max_columns: int = 12, ax: Any = None) -> Any:
        """Draw the observed entries of each column with holes beside the draws of its missing ones; returns the axes.

        Args:
            max_columns: at most so many columns are drawn.
            ax: divided into the panels, if given.
        """
        from pyrovae.plots import plot_columns

        holes = list(self.holes())
        x = self.data.dense().x.reshape(len(self.data), -1)
        observed = {hole.name: x[:, hole.place] for hole in holes}
        drawn = {hole.name: hole.draws.flatten() for hole in holes}
        return plot_columns(observed, drawn, levels=self.data.levels, label="imputed", max_columns=max_columns, ax=ax)

    def plot(self, ax: Any = None) -> Any:
        """Draw the Pareto shapes of the rows; returns the axes.

        Args:
            ax: where to draw; by default a new figure.
        """
        from pyrovae.plots import plot_khat

        return plot_khat(self.pareto_k, ax=ax)
