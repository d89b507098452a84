"""Labels that are recorded in a part of the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pyrovae.data import as_data
from pyrovae.distributions.known import PartlyKnown
from pyrovae.errors import check_integer
from pyrovae.graphs.graph import Covariates, Graph


class SemiSupervisedVAE(Graph):
    r"""A variational autoencoder with a label that is observed in some rows and a latent in the others (M2).

    .. math::
        p(y)\, p(z \mid y)\, p(x \mid z, y), \qquad q(y \mid x)\, q(z \mid x, y)

    Data are ``{"x": x, "y": y}``, NaN where a label is missing; labelled and unlabelled rows share batches. The latent
    ``label`` is summed out exactly where it is a category (``fit`` then takes ``TraceEnum_ELBO``), and is the recorded
    ``y`` where there is one. A labelled row's evidence is log p(x, y), an unlabelled one's log p(x). The ELBO does not
    train q(y | x) on labelled rows: ``fit(..., objective=SupervisedELBO(weight))`` adds its log probability there.
    Other parts read the label as the covariate ``"label"``: a category as its code (``Embed(10, 10)``).

    Args:
        labels: module with ``forward(covariates=None)`` returning the distribution of the label.
        prior: module with ``forward(covariates=None)`` returning the distribution of ``z``.
        likelihood: module with ``forward(z, covariates=None)`` returning the distribution of ``x``.
        classifier: module with ``forward(x, covariates=None)`` returning the guide's distribution of the label.
        posterior: module with ``forward(x, covariates=None)`` returning the guide's distribution of ``z``.
        name: the prefix of the parameters' names in Pyro.

    Reference: Kingma et al. 2014, Semi-supervised learning with deep generative models, arXiv:1406.5298. Their M1 + M2 is
    this class on draws ``vae.encode(x, num_samples=1)`` of another ``VAE``.

    >>> import pyro.distributions as dist, pyrovae as pvae, torch
    >>> def normal(of):
    ...     return pvae.ConcatCovariates(pvae.MLP(of + 4, (8,)), of, covariates={"label": pvae.Embed(3, 4)})
    >>> vae = SemiSupervisedVAE(
    ...     labels=pvae.Categories(event_shape=(), num_categories=3),
    ...     prior=pvae.standard_normal(2),
    ...     likelihood=pvae.Factorized(dist.Normal, normal(2), 5),
    ...     classifier=pvae.Categories(pvae.MLP(5, (8,)), (), num_categories=3),
    ...     posterior=pvae.Factorized(dist.Normal, normal(5), 2),
    ... )
    >>> data = {"x": torch.zeros(4, 5), "y": torch.tensor([0.0, 2.0, torch.nan, torch.nan])}
    >>> pvae.elbo(vae, data, seed=0).elbo.shape, vae.classify(data).shape
    ((4,), torch.Size([4, 3]))
    """

    model_parts = ("labels", "prior", "likelihood")
    guide_parts = ("classifier", "posterior")
    inputs: ClassVar = {"labels": (), "prior": (), "likelihood": ("z",), "classifier": ("x",), "posterior": ("x",)}
    provided = ("label",)
    labels: Any

    def __init__(
        self,
        labels: nn.Module,
        prior: nn.Module,
        likelihood: nn.Module,
        classifier: nn.Module,
        posterior: nn.Module,
        name: str = "ssvae",
    ) -> None:
        parts = {"prior": prior, "likelihood": likelihood, "classifier": classifier, "posterior": posterior}
        super().__init__(name, labels=labels, **parts)

    def model(
        self,
        x: Any = None,
        covariates: Covariates | None = None,
        size: int | None = None,
        index: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The generative program: sites ``label``, ``y``, ``z`` and ``x``; arguments as in :meth:`VAE.model`."""
        with self.rows(self.model_parts, x, covariates, size, index) as rows:
            of_label = rows.distribution("labels")
            label = rows.sum_out("label", of_label)
            y = rows.observe("y", PartlyKnown(of_label, label, torch.ones((), dtype=torch.bool)), value=rows.value("y"))
            z = rows.sample("z", "prior", label=label)
            return {"x": rows.observe("x", "likelihood", z, value=rows.value("x"), label=label), "y": y}

    def guide(
        self,
        x: Any,
        covariates: Covariates | None = None,
        size: int | None = None,
        index: Tensor | None = None,
    ) -> Tensor:
        """The guide: sites ``label``, from q(y | x) where it is not recorded, and ``z``; returns a draw of the latter."""
        with self.rows(self.guide_parts, x, covariates, size, index) as rows:
            (seen, mask), y = rows.seen(rows.value("x")), rows.value("y")
            known = ~y.isnan().reshape(len(y), -1).any(1)
            label = rows.sum_out("label", PartlyKnown(rows.distribution("classifier", seen, mask=mask), y, known))
            return rows.sample("z", "posterior", seen, mask=mask, label=label)

    def classify(self, data: Any, covariates: Any = None, *, batch_size: int = 1024) -> Tensor:
        """The guide's probabilities q(y | x) of the label, of shape ``(N, categories)``, whether it is recorded or not.

        Args:
            data: N rows, ``{"x": x, "y": y}`` or x alone.
            covariates: for each name, N rows.
            batch_size: rows at a time.

        Raises:
            ValueError: the labels are no categories.
        """

        def probabilities(found: Any) -> Tensor:
            if not hasattr(found, "probs"):
                raise ValueError(
                    f"the classifier returns {type(found).__name__}, and no probabilities of categories: draw the labels by "
                    "predict(data, num_samples=100)"
                )
            return found.probs  # type: ignore[no-any-return]

        return self._classified(probabilities, data, covariates, batch_size)

    def predict(self, data: Any, covariates: Any = None, *, num_samples: int = 100, batch_size: int = 1024) -> Tensor:
        """Draws of the label from q(y | x), of shape ``(num_samples, N, *event_shape)``, whether it is recorded or not.

        Args:
            data: N rows, ``{"x": x, "y": y}`` or x alone.
            covariates: for each name, N rows.
            num_samples: draws per row.
            batch_size: rows at a time.
        """
        shape = (check_integer("num_samples", num_samples),)
        return self._classified(lambda found: found.sample(shape), data, covariates, batch_size, dim=1)

    def _classified(
        self, what: Callable[[Any], Tensor], data: Any, covariates: Any, batch_size: int, dim: int = 0
    ) -> Tensor:
        def part(x: Any, own: Covariates | None) -> Tensor:
            with self.rows(("classifier",), x["x"] if isinstance(x, Mapping) else x, own) as rows:
                seen, mask = rows.seen(rows.data)
                return what(rows.distribution("classifier", seen, mask=mask))

        return self._over(part, as_data(data, covariates), batch_size, dim)  # type: ignore[no-any-return]
