"""The likelihood of a table whose columns are of different kinds, and a network that reads its rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyrovae.conditionals.base import Conditional, Net, Preprocess
from pyrovae.distributions.columns import Column
from pyrovae.distributions.table import TableDistribution, TableSchema
from pyrovae.errors import refusal
from pyrovae.networks import Network
from pyrovae.networks.base import Covariates, check_input

RATE = 10.0
"""The learning rate of the numbers that all rows share, such as a column's noise, in units of the network's."""


class TableLikelihood(Conditional):
    r"""A conditional over rows of a table whose columns are of different kinds.

    .. math:: p(x \mid z) = \prod_j p_j\bigl(x_j;\ \theta_j(z), \phi_j\bigr)

    Locations, rates and log odds depend on z; noise, dispersions and cutpoints are one for each column. Everything is in
    the units of the columns, so that a change of unit changes the evidence by its Jacobian alone, and starts at the
    columns' marginal distributions.

    Args:
        net: a network; an open one is closed with ``schema.num_located`` numbers. None for learned marginals.
        schema: the columns, as by ``TableSchema.of(data)``, with ``data = as_data(frame, kinds={})``.
        preprocess: applied to the network's input.

    Reference: Nazabal et al. 2020, HI-VAE, doi:10.1016/j.patcog.2020.107501, arXiv:1807.03653.

    >>> import pandas as pd, pyrovae as pvae
    >>> data = pvae.data.as_data(pd.DataFrame({"age": [31.5, 45.0], "color": ["red", "blue"]}), kinds={})
    >>> TableLikelihood(pvae.MLP(2, (16,)), schema=TableSchema.of(data))(torch.zeros(7, 2)).event_shape
    torch.Size([2])
    """

    shared_start: Tensor

    def __init__(self, net: Net = None, *, schema: TableSchema, preprocess: Preprocess = None) -> None:
        located, shared = schema.start()
        super().__init__(net, len(schema.columns), start=located, preprocess=preprocess)
        self.schema = schema
        if net is not None:
            self.offset.copy_(located)
        self.register_buffer("shared_start", shared)
        self.shared = nn.Parameter(torch.zeros_like(shared))

    def initialize(self, x: Tensor, steps: int = 100) -> None:
        """Nothing: the schema holds the start."""

    def distribution(self, raw: Tensor) -> TableDistribution:
        """The columns' distributions given the numbers that depend on the latents."""
        return TableDistribution(self.schema, raw, self.shared_start + RATE * self.shared)


class TableNetwork(Network):
    r"""A network that reads a row of a table: features of order one, zero where missing, and the mask.

    .. math:: y = f\bigl([m \odot \phi(x), m]\bigr)

    Args:
        net: a network with ``in_shape=schema.num_features``, open or closed.
        schema: the columns.

    Raises:
        ValueError: the network takes another number of features.

    >>> import pandas as pd, pyro.distributions as dist, pyrovae as pvae
    >>> data = pvae.data.as_data(pd.DataFrame({"age": [31.5, 45.0], "color": ["red", "blue"]}), kinds={})
    >>> schema = TableSchema.of(data)
    >>> net = TableNetwork(pvae.MLP(schema.num_features, (16,)), schema)
    >>> pvae.Factorized(dist.Normal, net, event_shape=4).covariate_names
    ('mask',)
    """

    def __init__(self, net: Network, schema: TableSchema) -> None:
        if tuple(net.in_shape) != (schema.num_features,):
            raise ValueError(
                f"the network takes in_shape={tuple(net.in_shape)}, but this table has {schema.num_features} features: "
                "write in_shape=schema.num_features"
            )
        super().__init__(len(schema.columns), net.out_shape, ("mask", *net.covariate_names))
        self.schema, self.net = schema, net

    def forward(self, x: Tensor | None, covariates: Covariates | None = None) -> Tensor:
        """The output of shape ``(*batch, *out_shape)``.

        Raises:
            ValueError: the covariates lack the mask.
        """
        if x is None or covariates is None or "mask" not in covariates:
            raise ValueError(
                "covariates have no 'mask': a VAE provides it; elsewhere pass covariates={'mask': ~x.isnan()}"
            )
        return self.net(self.schema.features(x, covariates["mask"]), covariates)

    def add_head(self, out_shape: torch.Size) -> Network:
        """The same around the network with a head; all parts are shared."""
        return TableNetwork(self.net.close(out_shape), self.schema)


class ColumnFeatures(Network):
    """The features of one column, as an entry of ``ConcatCovariates`` or ``FiLM``: indicators of levels, standardized numbers.

    Args:
        column: the column; its codes or numbers are a covariate of one number per row.

    >>> from pyrovae.distributions import Category
    >>> ColumnFeatures(Category("color", ("blue", "red", "green"), (0.5, 0.25, 0.25)))(torch.tensor([1]))
    tensor([[-0.5000,  0.7500, -0.2500]])
    """

    like: Tensor

    def __init__(self, column: Column) -> None:
        super().__init__((), column.num_features)
        self.column = column
        self.register_buffer("like", torch.empty(0), persistent=False)

    def forward(self, x: Tensor | None, covariates: Covariates | None = None) -> Tensor:
        """Return the features ``(*batch, num_features)`` of values ``(*batch,)``."""
        value = check_input(self, x)[0].to(self.like.dtype)
        units = torch.tensor([self.column.units], dtype=value.dtype, device=value.device)
        return self.column.features(value.unsqueeze(-1), units).flatten(-2)

    def check_codes(self, values: Tensor, what: str, levels: Sequence[str] | None = None) -> None:
        """Refuse values outside the column's range, by their row, and other levels."""
        wrong = ~self.column.inside(values, torch.tensor(self.column.units, device=values.device))
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise refusal(
                f"{what} holds {values[row].item():g} in row {row}, which is not {self.column.kind}", "covariates"
            )
        own = getattr(self.column, "levels", None)
        if levels is not None and own is not None and tuple(levels) != own:
            raise refusal(f"{what} has the levels {', '.join(levels)}, expected {', '.join(own)}", "covariates")

    def extra_repr(self) -> str:
        """The column."""
        return f"{self.column!r}"
