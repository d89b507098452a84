"""A VAE as a scikit-learn transformer and density."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted, check_random_state, validate_data

from pyrovae.evaluation import log_marginal
from pyrovae.presets import build_vae
from pyrovae.schedules import default_epochs
from pyrovae.training import fit

EXPECTED_FAILED_CHECKS = {
    "check_methods_subset_invariance": "score_samples is a Monte Carlo estimate, whose draws belong to the place of a row",
    "check_methods_sample_order_invariance": "the same",
}
"""What ``sklearn.utils.estimator_checks.check_estimator`` asks in vain: give it as ``expected_failed_checks``."""

MOST_EPOCHS = 200
"""Beyond it a search over a grid takes twice as long, for no more held-out evidence on small tables."""

MEAN_DRAWS = 1000
"""Draws of a guide without a mean in closed form over which it is taken."""


class VAETransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    r"""A VAE as a step of a scikit-learn pipeline: rows to posterior means of latents, and a density with evidence.

    .. math:: \mathrm{transform}(x) = \mathbb{E}_{q(z \mid x)}[z], \qquad \mathrm{score\_samples}(x) = \log \hat p(x)

    ``score`` is the mean log p(x), so that a grid search chooses by held-out evidence. It computes in double precision and
    prints nothing. NaN is a missing entry; an encoder that was trained on complete rows alone knows little of rows with missing
    entries, whose latents and densities are then far off, with a warning. ``vae_`` is the VAE, for everything else of this
    library: ``pyrovae.log_marginal(step.vae_, x)`` searches the latents of each row, and needs no such encoder.

    Args:
        latent_dim: the number of latents.
        likelihood: a word of :func:`pyrovae.build_vae`; ``"normal"`` has one learned noise per column.
        prior: a word for the prior.
        posterior: a word for the posterior.
        hidden: widths of the encoder's layers, mirrored by the decoder; or the width of one.
        levels: the number of levels, for likelihoods of integers from 0 to levels - 1.
        epochs: passes through the rows; by default those of :func:`pyrovae.fit`, at most 200.
        batch_size: rows in a batch.
        learning_rate: a number; by default one cycle.
        beta: the weight of the divergence.
        num_samples: draws per row for ``score_samples``.
        random_state: the one seed, of weights, order, noise and draws.

    Raises:
        ValueError: rows of other columns than those of ``fit``, or outside the support of the likelihood.

    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> x = np.random.default_rng(0).normal(size=(60, 4))
    >>> step = VAETransformer(latent_dim=2, hidden=(8,), epochs=2, random_state=0)
    >>> make_pipeline(StandardScaler(), step).fit_transform(x).shape
    (60, 2)
    >>> step.get_feature_names_out().tolist(), step.sample(3).shape
    (['vaetransformer0', 'vaetransformer1'], (3, 4))
    """

    def __init__(
        self,
        latent_dim: int = 2,
        *,
        likelihood: str = "normal",
        prior: str = "standard_normal",
        posterior: str = "normal",
        hidden: int | Sequence[int] = (64,),
        levels: int | None = None,
        epochs: int | None = None,
        batch_size: int = 128,
        learning_rate: float | None = None,
        beta: float = 1.0,
        num_samples: int = 100,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.latent_dim = latent_dim
        self.likelihood = likelihood
        self.prior = prior
        self.posterior = posterior
        self.hidden = hidden
        self.levels = levels
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.beta = beta
        self.num_samples = num_samples
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> VAETransformer:
        """Train a VAE on rows, ``(rows, columns)``; ``y`` is not looked at."""
        x = self._rows(X, reset=True)
        self.seed_ = int(check_random_state(self.random_state).randint(2**31 - 1))
        hidden = (self.hidden,) if isinstance(self.hidden, int | np.integer) else tuple(self.hidden)
        words: dict[str, Any] = {"likelihood": self.likelihood, "prior": self.prior, "posterior": self.posterior}
        words |= {"latent_dim": self.latent_dim, "hidden": hidden, "levels": self.levels}
        self.vae_ = build_vae(x.shape[1], start=x, seed=self.seed_, **words).double()
        self.is_complete_ = not x.isnan().any()
        most = min(MOST_EPOCHS, default_epochs(math.ceil(len(x) / self.batch_size)))
        epochs = most if self.epochs is None else self.epochs
        options: dict[str, Any] = {"epochs": epochs, "batch_size": self.batch_size, "beta": self.beta}
        options |= {"learning_rate": self.learning_rate, "progress": False}
        self.history_ = fit(self.vae_, x, seed=self.seed_, **options).to_dict()
        return self

    def transform(self, X: Any) -> NDArray[np.float64]:
        """The means of the guide, ``(rows, latent_dim)``; of a flow, which has none in closed form, over a thousand draws."""
        check_is_fitted(self)
        rows = self._rows(X)
        try:
            return self.vae_.encode(rows).numpy()
        except NotImplementedError:
            with torch.random.fork_rng():
                torch.manual_seed(self.seed_)
                return self.vae_.encode(rows, num_samples=MEAN_DRAWS).mean(0).numpy()

    def inverse_transform(self, Z: Any) -> NDArray[np.float64]:
        """The means of the data given latents ``(rows, latent_dim)``."""
        check_is_fitted(self)
        z = torch.tensor(check_array(Z), dtype=torch.float64)
        if z.shape[1] != self.latent_dim:
            raise ValueError(f"expected latents of shape (rows, {self.latent_dim}), got {tuple(z.shape)}")
        return self.vae_.decode(z).numpy()

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """An estimate of log p(x) of each row, in nats, by importance sampling, which a search over a grid can afford."""
        check_is_fitted(self)
        options: dict[str, Any] = {"num_samples": self.num_samples, "seed": self.seed_, "progress": False}
        return log_marginal(self.vae_, self._rows(X), method="importance", **options)["log_marginal"].values

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of log p(x), in nats; ``y`` is not looked at."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1) -> NDArray[np.float64]:
        """Rows drawn from the model, ``(n_samples, columns)``, the same at each call."""
        check_is_fitted(self)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed_)
            return self.vae_.sample(n_samples).numpy()

    def _rows(self, X: Any, reset: bool = False) -> torch.Tensor:
        options: dict[str, Any] = {"dtype": np.float64, "ensure_all_finite": "allow-nan", "reset": reset}
        x = torch.tensor(validate_data(self, X, ensure_min_samples=2 if reset else 1, **options))
        if not reset and self.is_complete_ and x.isnan().any():
            warnings.warn(
                "entries are missing, and the encoder was trained on complete rows alone: latents and densities of these rows "
                "are far off; train on rows with missing entries, too, or use pyrovae.log_marginal(step.vae_, x)",
                UserWarning,
                stacklevel=3,
            )
        return x

    @property
    def _n_features_out(self) -> int:
        return self.latent_dim

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags
