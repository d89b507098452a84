"""Generated rows: a prior fitted to the latents of the data, and how good draws are beside what training rows reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyro.distributions as dist
import torch
from torch import nn

from pyrovae.conditionals import Point
from pyrovae.data import as_data
from pyrovae.errors import check_integer, refusal
from pyrovae.graphs import VAE
from pyrovae.graphs.graph import Graph
from pyrovae.training import fit

if TYPE_CHECKING:
    import xarray as xr

Found = tuple[float, float, float]
"""A value, its standard error, and its bias by the finite numbers of rows (NaN where there is none, or it is not known)."""
GROUPS = 10
"""Groups of rows that are left out in turn for a standard error."""
PARTITIONS = 8
"""Partitions of the rows into quarters, over which errors are averaged."""


def fit_prior(
    vae: VAE, data: Any, covariates: Any = None, *, prior: nn.Module, seed: int | None = None, **options: Any
) -> VAE:
    r"""Fits a prior to the latents of the data after the training: the VAE with it draws where the data lie.

    .. math:: \max_{\theta} \sum_i \log p_\theta(z_i), \qquad z_i \sim q(z \mid x_i)

    by :func:`pyrovae.fit`. Likelihood and posterior stay as they are, so that the ELBO rises by what the prior gains. An
    autoencoder (:class:`~pyrovae.conditionals.Point`) has no other prior; its latents, which may lie anywhere, are
    standardized first, and ``prior`` is that of the standardized ones.

    Args:
        vae: a trained VAE; its parts are shared.
        data: N rows, best those of the training.
        covariates: for each name, N rows.
        prior: a conditional without a network, as ``conditionals.GaussianMixture(event_shape=10, num_components=30)`` or
            ``conditionals.SplineFlow(event_shape=10)``; it is trained in place.
        seed: of the draws and of the training; None takes one from torch's random state.
        options: of :func:`pyrovae.fit`, as ``epochs``.

    Raises:
        TypeError: anything but a VAE.

    Reference: Ghosh et al. 2020, arXiv:1903.12436; Dai & Wipf 2019, arXiv:1903.05789.

    >>> import pyrovae as pvae
    >>> vae = pvae.build_vae(5, likelihood="poisson", latent_dim=2, hidden=(8,))
    >>> prior = pvae.conditionals.GaussianMixture(event_shape=2, num_components=3)
    >>> fit_prior(vae, torch.ones(40, 5), prior=prior, epochs=2, seed=0).sample(4).shape
    torch.Size([4, 5])
    """
    if not isinstance(vae, VAE):
        raise refusal(f"expected a VAE, whose prior can be exchanged, got {type(vae).__name__}", "vae", TypeError)
    seed = int(torch.randint(2**31, ())) if seed is None else seed
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        latents = vae.encode(data, covariates, num_samples=1)[0]
    is_point = isinstance(vae.posterior, Point)
    center, unit = latents.mean(0), latents.std(0) + 1e-12
    fit(_Density("prior", prior=prior), (latents - center) / unit if is_point else latents, seed=seed, **options)
    return VAE(_Moved(prior, center, unit) if is_point else prior, vae.likelihood, vae.posterior, name=vae.name)


class _Moved(nn.Module):
    """A prior of standardized latents as one of the latents themselves."""

    def __init__(self, prior: nn.Module, center: torch.Tensor, unit: torch.Tensor) -> None:
        super().__init__()
        self.prior = prior
        self.register_buffer("center", center)
        self.register_buffer("unit", unit)

    def forward(self, covariates: Any = None) -> dist.TransformedDistribution:
        move = dist.transforms.AffineTransform(self.center, self.unit, event_dim=1)
        return dist.TransformedDistribution(self.prior(), [move])


class _Density(Graph):
    """The latents as data: no latent is left."""

    model_parts = ("prior",)
    guide_parts = ()
    inputs: ClassVar = {"prior": ()}

    def model(self, x: Any = None, covariates: Any = None, size: int | None = None, index: Any = None) -> Any:
        with self.rows(self.model_parts, x, covariates, size, index) as rows:
            return rows.observe("x", "prior", value=rows.data)

    def guide(self, x: Any, covariates: Any = None, size: int | None = None, index: Any = None) -> None:
        pass


def generation_quality(
    samples: Any,
    test: Any,
    train: Any,
    *,
    features: Callable[[torch.Tensor], Any] | None = None,
    name: str | None = None,
    neighbors: int = 5,
    seed: int = 0,
) -> xr.Dataset:
    r"""Compares generated rows with test rows, and training rows with test rows by the same numbers: the floor.

    * ``frechet``: :math:`\lVert m - m' \rVert^2 + \mathrm{tr}(S + S' - 2 (S S')^{1/2})` of means and covariances of features.
    * ``kernel``: the squared maximum mean discrepancy by the kernel :math:`(a \cdot b / d + 1)^3`, without bias: 0 on average
      where the laws are equal.
    * ``precision``: the share of generated rows that lie within the reach of a test row, its distance to its k-th neighbor;
      ``recall``: the share of test rows within the reach of a generated row; ``density``: how many test rows reach a generated
      row, over k; ``coverage``: the share of test rows that have a generated row within their reach.
    * ``two_sample``: the accuracy of a forest that tells generated from test rows, on rows that a tree did not see: one half
      where they cannot be told apart.
    * ``memorized``: the share of generated rows that lie nearer to some training row than to any test row. Its floor is that of
      test rows, each against the training rows and the other test rows: one half where both are as many.

    Features are centered at the training rows and divided by one number, so that their variances are one on average there.

    Features decide what counts: ``name`` stands beside the numbers, and says which network gave them and how accurate it is.
    Numbers of other features, or of another number of rows, are not comparable.

    Args:
        samples: generated rows.
        test: rows that trained nothing.
        train: the rows that trained the generator.
        features: from rows to vectors; by default the rows themselves, as vectors.
        name: of the features, such as ``"a classifier of digits, 98.3 % accurate"``.
        neighbors: k.
        seed: of the rows that are taken, as many of each set as the smallest has, and of the forest.

    Returns:
        Over ``metric``: ``value``, ``error`` (a standard error; for ``two_sample`` about a quarter too small, since it takes the
        hits of a forest as independent), ``bias`` (by the finite number of rows, estimated from halves),
        and ``floor`` with ``floor_error``, those of training rows in the place of the generated ones.

    Raises:
        ValueError: fewer than 50 rows of a set, rows of unequal shape, or training rows that are all the same.

    Reference: Heusel et al. 2017, arXiv:1706.08500; Binkowski et al. 2018, arXiv:1801.01401; Chong & Forsyth 2020,
    arXiv:1911.07023 (bias); Kynkaanniemi et al. 2019, arXiv:1904.06991; Naeem et al. 2020, arXiv:2002.09797; Lopez-Paz & Oquab
    2017, arXiv:1610.06545; Meehan et al. 2020, arXiv:2004.05675.

    >>> found = generation_quality(torch.randn(60, 3), torch.randn(60, 3), torch.randn(80, 3))
    >>> found.sizes["metric"], found.attrs["rows"], found.attrs["features"]
    (8, 60, 'the rows themselves')
    """
    import xarray as xr

    sets = [_features(rows, features) for rows in (samples, test, train)]
    count = min(map(len, sets))
    if count < 50 or len({part.shape[1:] for part in sets}) > 1:
        shapes = ", ".join(str(part.shape) for part in sets)
        raise refusal(f"expected 50 or more rows of one shape in each set, got features of {shapes}", "samples")
    if not all(np.isfinite(part).all() for part in sets):
        raise refusal(
            "expected features without NaN and infinity: fill missing entries first, or give features", "samples"
        )
    check_integer("neighbors", neighbors, most=count - 1)
    center, unit = sets[2].mean(0), np.sqrt(sets[2].var(0).mean())
    if not unit > 0:
        raise refusal("the features of all training rows are the same, so that there is no unit of distances", "train")
    sets = [(part - center) / unit for part in sets]
    random = np.random.default_rng(seed)
    fake, real, seen = (part[random.permutation(len(part))[:count]] for part in sets)
    found = _metrics(fake, real, neighbors, seed) | {"memorized": _memorized(fake, real, sets[2])}
    floor = _metrics(seen, real, neighbors, seed) | {"memorized": _memorized(real, real, sets[2])}
    columns = {"value": 0, "error": 1, "bias": 2}
    variables = {n: ("metric", [numbers[at] for numbers in found.values()]) for n, at in columns.items()}
    variables |= {
        n: ("metric", [numbers[at] for numbers in floor.values()]) for n, at in {"floor": 0, "floor_error": 1}.items()
    }
    name = name or (
        "the rows themselves" if features is None else getattr(features, "__name__", type(features).__name__)
    )
    return xr.Dataset(variables, {"metric": list(found)}, {"rows": count, "neighbors": neighbors, "features": name})


def label_features(
    data: Any, labels: Any = None, *, hidden: Sequence[int] = (64, 32), seed: int = 0
) -> tuple[Callable[[torch.Tensor], np.ndarray], str]:
    """The last hidden layer of a classifier of labels, as features, and their name with its accuracy.

    Both are for :func:`generation_quality`. A fifth of the rows is left out of the training, for the accuracy.

    Args:
        data: N rows of one tensor without missing entries.
        labels: one class per row; by default the data's own.
        hidden: widths of the hidden layers, whose last one is the number of features.
        seed: of the rows left out and of the classifier.

    Raises:
        ValueError: no labels, or another number of them than rows.

    >>> x = torch.randn(100, 3) + 9 * (torch.arange(100) % 2)[:, None]
    >>> features, name = label_features(x, torch.arange(100) % 2)
    >>> features(x).shape, name
    ((100, 32), 'a classifier of 2 labels, 100.0 % accurate')
    """
    from sklearn.neural_network import MLPClassifier

    rows = as_data(data)
    y = rows.label if labels is None else labels
    if y is None or len(y) != len(rows):
        raise refusal(f"expected a label for each of {len(rows)} rows, got {'none' if y is None else len(y)}", "labels")
    x, y = rows.dense().x.reshape(len(rows), -1).double().numpy(), np.asarray(y)
    center, unit = x.mean(0), np.sqrt(x.var(0).mean()) or 1.0
    order = np.random.default_rng(seed).permutation(len(x))
    kept, left = order[len(x) // 5 :], order[: len(x) // 5]
    net = MLPClassifier(tuple(hidden), max_iter=400, tol=1e-3, random_state=seed)
    net.fit((x[kept] - center) / unit, y[kept])

    def features(rows: torch.Tensor) -> np.ndarray:
        values = (rows.reshape(len(rows), -1).double().numpy() - center) / unit
        for weight, bias in zip(net.coefs_[:-1], net.intercepts_[:-1], strict=True):
            values = np.maximum(values @ weight + bias, 0)
        return values

    accuracy = 100 * net.score((x[left] - center) / unit, y[left])
    return features, f"a classifier of {len(net.classes_)} labels, {accuracy:.1f} % accurate"


def frechet_distance(one: np.ndarray, other: np.ndarray) -> float:
    """The Frechet distance of two normals that have the moments of two sets of vectors ``(rows, d)``.

    Args:
        one: the vectors of one set.
        other: those of the other.

    >>> frechet_distance(np.array([[0.0], [2.0]]), np.array([[3.0], [5.0]]))
    9.0
    """
    (first, root), (second, covariance) = ((x.mean(0), np.atleast_2d(np.cov(x.T))) for x in (one, other))
    values, vectors = np.linalg.eigh(root)
    half = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(half @ covariance @ half).clip(0)).sum()
    return float(((first - second) ** 2).sum() + np.trace(root) + np.trace(covariance) - 2 * cross)


def kernel_distance(one: np.ndarray, other: np.ndarray) -> float:
    """The squared maximum mean discrepancy of two sets of vectors ``(rows, d)``, by a cubic kernel and without bias.

    Args:
        one: the vectors of one set.
        other: those of the other.

    >>> kernel_distance(np.zeros((2, 1)), np.ones((2, 1)))
    7.0
    """
    kernel = lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3  # noqa: E731
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kernel(one, one), kernel(other, other))]
    return float(sum(within) - 2 * kernel(one, other).mean())


def _features(rows: Any, features: Callable[[torch.Tensor], Any] | None) -> np.ndarray:
    x = as_data(rows).dense().x
    with torch.no_grad():
        found = torch.as_tensor(x if features is None else features(x))
    return found.reshape(len(x), -1).double().cpu().numpy()


def _metrics(fake: np.ndarray, real: np.ndarray, k: int, seed: int) -> dict[str, Found]:
    return {
        "frechet": _with_error(frechet_distance, fake, real),
        "kernel": (*_with_error(kernel_distance, fake, real)[:2], 0.0),
        **_reach(fake, real, k, seed),
        "two_sample": _two_sample(fake, real, seed),
    }


def _with_error(distance: Callable[[np.ndarray, np.ndarray], float], fake: np.ndarray, real: np.ndarray) -> Found:
    """A distance, its error by leaving out groups of rows, and its bias, which falls as one over the number of rows."""
    whole, group = distance(fake, real), np.arange(len(fake)) % GROUPS
    without = np.array([distance(fake[group != g], real[group != g]) for g in range(GROUPS)])
    error = np.sqrt((GROUPS - 1) / GROUPS * ((without - without.mean()) ** 2).sum())
    halves = [distance(fake[part::2], real[part::2]) for part in (0, 1)]
    return whole, float(error), float(np.mean(halves)) - whole


def _distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return torch.cdist(torch.from_numpy(one), torch.from_numpy(other)).numpy()


def _reach(fake: np.ndarray, real: np.ndarray, k: int, seed: int = 0) -> dict[str, Found]:
    """Numbers of neighbors; their errors are those of quarters of both sets, halved: a jackknife does not fit neighbors."""
    random, variances = np.random.default_rng(seed), []
    for _ in range(PARTITIONS):
        orders = [random.permutation(len(rows)) for rows in (fake, real)]
        quarters = [_within(fake[orders[0][part::4]], real[orders[1][part::4]], k) for part in range(4)]
        variances.append(np.var(quarters, 0, ddof=1) / 4)
    values, errors = _within(fake, real, k), np.sqrt(np.mean(variances, 0))
    names = ("precision", "recall", "density", "coverage")
    return {
        name: (float(value), float(error), float("nan"))
        for name, value, error in zip(names, values, errors, strict=True)
    }


def _within(fake: np.ndarray, real: np.ndarray, k: int) -> np.ndarray:
    """Precision, recall, density and coverage."""
    k = min(k, len(real) - 1)
    reach_real, reach_fake = (np.partition(_distances(x, x), k, axis=1)[:, k] for x in (real, fake))
    between = _distances(fake, real)
    inside = between <= reach_real
    recalled = (between <= reach_fake[:, None]).any(0)
    return np.array([inside.any(1).mean(), recalled.mean(), inside.sum(1).mean() / k, inside.any(0).mean()])


def _mean(values: np.ndarray) -> Found:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))), float("nan")


def _two_sample(fake: np.ndarray, real: np.ndarray, seed: int) -> Found:
    """A forest judges each row by the trees that were not fitted to it."""
    from sklearn.ensemble import RandomForestClassifier

    labels = np.repeat([1, 0], [len(fake), len(real)])
    forest = RandomForestClassifier(200, oob_score=True, random_state=seed).fit(np.concatenate([fake, real]), labels)
    return _mean((forest.oob_decision_function_[:, 1] > 0.5) == (labels == 1))


def _memorized(rows: np.ndarray, real: np.ndarray, seen: np.ndarray) -> Found:
    to_seen, to_real = _distances(rows, seen).min(1), _distances(rows, real)
    if rows is real:
        np.fill_diagonal(to_real, np.inf)
    return _mean(to_seen < to_real.min(1))
