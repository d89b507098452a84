"""The likelihood of a table whose columns are of different kinds, and a network that reads its rows."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrovae.conditionals.base import Conditional, Net, Preprocess
from pyrovae.distributions.table import TableDistribution, TableSchema
from pyrovae.networks import Network
from pyrovae.networks.base import Covariates


class TableLikelihood(Conditional):
    r"""A conditional over rows of a table whose columns are of different kinds.

    .. math:: p(x \mid z) = \prod_j p_j\bigl(x_j;\ \theta_j(z)\bigr)

    Real columns are normal, positive ones log-normal, counts negative binomial, categories categorical. The likelihood
    starts at the columns' marginal distributions.

    Args:
        net: a network; an open one is closed with ``schema.num_parameters`` numbers. None for learned marginals.
        schema: the columns, as by ``TableSchema.from_frame(frame)``; the data are ``schema.encode(frame)``.
        preprocess: applied to the network's input.

    Reference: Nazabal et al. 2020, HI-VAE, doi:10.1016/j.patcog.2020.107501, arXiv:1807.03653.

    >>> import pandas as pd, pyrovae as pvae
    >>> schema = TableSchema.from_frame(pd.DataFrame({"age": [31.0, 45.0], "color": ["red", "blue"]}))
    >>> TableLikelihood(pvae.MLP(2, (16,)), schema=schema)(torch.zeros(7, 2)).event_shape
    torch.Size([2])
    """

    def __init__(self, net: Net = None, *, schema: TableSchema, preprocess: Preprocess = None) -> None:
        start = torch.tensor([number for column in schema.columns for number in column.offset])
        super().__init__(net, len(schema.columns), start=start, preprocess=preprocess)
        self.schema = schema
        if net is not None:
            self.offset.copy_(start)

    def distribution(self, raw: Tensor) -> TableDistribution:
        """The columns' distributions given their parameters, one after the other."""
        return TableDistribution(self.schema, raw)


class TableNetwork(Network):
    r"""A network that reads a row of a table: features of order one, zero where missing, and the mask.

    .. math:: y = f\bigl([m \odot \phi(x), m]\bigr)

    Args:
        net: a network with ``in_shape=schema.num_features``, open or closed.
        schema: the columns.

    Raises:
        ValueError: the network takes another number of features.

    >>> import pandas as pd, pyro.distributions as dist, pyrovae as pvae
    >>> schema = TableSchema.from_frame(pd.DataFrame({"age": [31.0, 45.0], "color": ["red", "blue"]}))
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
