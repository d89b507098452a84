"""The likelihood of a table whose columns are of different kinds, and the network of a posterior that reads its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pyrovae.conditionals.raw import Covariates, Raw
from pyrovae.distributions.table import TableDistribution, TableSchema
from pyrovae.networks import Network

if TYPE_CHECKING:
    pass


class TableLikelihood(nn.Module):
    r"""A conditional over rows of a table whose columns are of different kinds.

    .. math:: p(x \mid z) = \prod_j p_j\bigl(x_j;\ \theta_j(z)\bigr)

    Real columns are normal, positive ones log-normal, counts negative binomial, categories categorical. It starts at the
    columns' marginal distributions.

    Args:
        schema: the columns, as by ``TableSchema.from_frame(frame)``; the data are ``schema.encode(frame)``.
        net: a network; an open one is closed with ``schema.num_parameters`` numbers. None for learned marginals.

    Raises:
        ValueError: a closed network's shape differs.

    Reference: Nazabal et al. 2020, HI-VAE, doi:10.1016/j.patcog.2020.107501, arXiv:1807.03653.

    >>> import pandas as pd, pyrovae as pvae
    >>> schema = TableSchema.from_frame(pd.DataFrame({"age": [31.0, 45.0], "colour": ["red", "blue"]}))
    >>> TableLikelihood(schema, pvae.MLP(2, (16,)))(torch.zeros(7, 2)).event_shape
    torch.Size([2])
    """

    def __init__(self, schema: TableSchema, net: Network | None = None) -> None:
        super().__init__()
        self.schema = schema
        self.event_shape = torch.Size((len(schema.columns),))
        self.raw = Raw(net, (schema.num_parameters,))
        self.covariate_names = self.raw.covariate_names
        offset = torch.tensor([number for column in schema.columns for number in column.offset])
        self.register_buffer("offset", offset)

    def forward(self, value: Tensor | None = None, covariates: Covariates | None = None) -> TableDistribution:
        """The distribution given ``value`` of shape ``(*batch, *in_shape)``."""
        return TableDistribution(self.schema, self.raw(value, covariates) + self.offset)


class TableNetwork(Network):
    r"""A network of a table's row: features of order one, zero where missing, and what is missing.

    .. math:: y = f\bigl([m \odot \phi(x), m]\bigr)

    Args:
        schema: the columns.
        net: a network with ``in_shape=schema.num_features``, open or closed.

    Raises:
        ValueError: the network takes another number of features.

    >>> import pandas as pd, pyro.distributions as dist, pyrovae as pvae
    >>> schema = TableSchema.from_frame(pd.DataFrame({"age": [31.0, 45.0], "colour": ["red", "blue"]}))
    >>> net = TableNetwork(schema, pvae.MLP(schema.num_features, (16,)))
    >>> pvae.Factorized(dist.Normal, net, event_shape=4).covariate_names
    ('mask',)
    """

    def __init__(self, schema: TableSchema, net: Network) -> None:
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
        features = self.schema.features(x, covariates["mask"])
        return self.net(features, covariates) if self.net.covariate_names else self.net(features)

    def add_head(self, out_shape: torch.Size) -> Network:
        """The same around the network with a head; all parts are shared."""
        return TableNetwork(self.schema, self.net.close(out_shape))
