"""A variational autoencoder: one latent, one data site."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from pyrovae.graphs.graph import Covariates, Graph


class VAE(Graph):
    r"""A variational autoencoder: one latent, one data site, and three conditional distributions.

    .. math::
        z_i \sim p(z \mid c_i), \qquad x_i \sim p(x \mid z_i, c_i), \qquad q(z_i \mid x_i, c_i)

    ``vae.model`` and ``vae.guide`` go straight into ``pyro.infer.SVI`` and everything else in Pyro.

    Args:
        prior: module with ``forward(covariates=None)`` returning the distribution of ``z``.
        likelihood: module with ``forward(z, covariates=None)`` returning the distribution of ``x``.
        posterior: module with ``forward(x, covariates=None)`` returning the guide's distribution of ``z``.
        name: the prefix of the parameters' names in Pyro; two VAEs inside one bigger model need two names.

    A conditional that reads covariates lists their names in an attribute ``covariate_names``; the name ``"mask"`` is
    provided by the program (True where ``x`` is observed).

    Raises:
        TypeError: a part is not a module, or its ``forward`` has other arguments.
        ValueError: the prior shares a posterior that is not this one.

    Reference: Kingma & Welling 2014, arXiv:1312.6114; Rezende, Mohamed & Wierstra 2014, arXiv:1401.4082.

    >>> import pyro.distributions as dist, pyrovae as pvae, torch
    >>> vae = VAE(
    ...     prior=pvae.standard_normal(2),
    ...     likelihood=pvae.Factorized(dist.Poisson, pvae.MLP(2, (16,)), event_shape=5),
    ...     posterior=pvae.Factorized(dist.Normal, pvae.MLP(5, (16,)), event_shape=2),
    ... )
    >>> vae.model(torch.zeros(3, 5)).shape, vae.guide(torch.zeros(3, 5)).shape
    (torch.Size([3, 5]), torch.Size([3, 2]))
    """

    model_parts = ("prior", "likelihood")
    guide_parts = ("posterior",)
    inputs: ClassVar = {"prior": (), "likelihood": ("z",), "posterior": ("x",)}
    prior: nn.Module
    likelihood: nn.Module
    posterior: nn.Module
    spec: Any
    """The ``presets.Spec`` of a VAE that ``build_vae`` made."""

    def __init__(self, prior: nn.Module, likelihood: nn.Module, posterior: nn.Module, name: str = "vae") -> None:
        super().__init__(name, prior=prior, likelihood=likelihood, posterior=posterior)

    def model(
        self,
        x: Tensor | None = None,
        covariates: Covariates | None = None,
        size: int | None = None,
        index: Tensor | None = None,
    ) -> Tensor:
        """The generative program: sites ``z`` and ``x`` inside the plate ``data``; without ``x`` it samples data.

        Args:
            x: data of shape ``(rows, *event_shape)``; NaN is missing.
            covariates: a tensor of ``rows`` rows for each name that the parts read.
            size: the number of rows of the whole data set, by default the rows of ``x`` or of the covariates (else 1).
            index: the numbers of the rows in the data set.

        Returns:
            The data, missing entries filled; shape ``(rows, *event_shape)``.

        Raises:
            ValueError: wrong shapes, values outside the support, missing or unread covariates.
        """
        with self.rows(self.model_parts, x, covariates, size, index) as rows:
            z = rows.sample("z", "prior")
            return rows.observe("x", "likelihood", z, value=rows.data)

    def guide(
        self,
        x: Tensor,
        covariates: Covariates | None = None,
        size: int | None = None,
        index: Tensor | None = None,
    ) -> Tensor:
        """The amortized guide: site ``z`` inside the plate ``data``; arguments as in :meth:`model`.

        Returns:
            A draw of the latents, of shape ``(rows, *latent_shape)``.
        """
        with self.rows(self.guide_parts, x, covariates, size, index) as rows:
            seen, mask = rows.seen(rows.data)
            return rows.sample("z", "posterior", seen, mask=mask)

    def check_parts(self) -> None:
        """Refuse a prior that shares a posterior which is not this one: a stale copy would not train."""
        if getattr(self.prior, "posterior", self.posterior) is not self.posterior:
            raise ValueError(
                "the prior shares a posterior that is not this VAE's posterior (a stale copy would not train): build the "
                "prior with the same module, or set vae.prior.posterior = vae.posterior"
            )
