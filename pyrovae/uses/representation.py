"""How much of known labels a representation of the rows holds, with intervals, beside classical representations."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrovae.checks.calls import latent_work
from pyrovae.checks.entries import entry_means, sampled_traces
from pyrovae.conditionals import GaussianMixture
from pyrovae.data import Data, as_data
from pyrovae.errors import check_integer, refusal
from pyrovae.programs.rows import MAX_BYTES, Block

if TYPE_CHECKING:
    import xarray as xr

Array: TypeAlias = NDArray[Any]
METRICS = ("linear probe", "k-NN", "ARI", "NMI", "prior ARI", "prior NMI", "batch mixing")
FOLDS, BOOTSTRAPS = 5, 200


def representation_quality(
    program: Any,
    data: Any,
    covariates: Mapping[str, Any] | None = None,
    *,
    labels: Any = None,
    batch: Any = None,
    train: Any = None,
    num_neighbors: int = 10,
    num_samples: int = 16,
    seed: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> xr.Dataset:
    r"""How much of known labels the posterior means hold, beside principal components and factors of as many dimensions.

    A *linear probe* (logistic regression) and the vote of nearest neighbors predict the labels, in five folds. *ARI* and *NMI*
    compare the labels with as many clusters of k-means, *prior ARI* and *NMI* with the components of a mixture prior, each row
    in its likeliest at the posterior mean. *Batch mixing* is the share of neighbors from other batches, over the share at random:

    .. math:: \frac1N \sum_i \frac{\#\{j \in \mathrm{nn}_k(i) : b_j \ne b_i\} / k}{\#\{j : b_j \ne b_i\} / (N - 1)}

    which is 1 where batches are mixed and 0 where they lie apart.

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``.
        data: data of N rows, best such that nothing was trained on.
        covariates: for each name, a tensor of N rows.
        labels: one class per row; by default the data's own.
        batch: one batch per row, or the name of a covariate or label that holds it; None leaves the mixing out.
        train: rows to which the classical representations are fitted; by default the N rows.
        num_neighbors: k.
        num_samples: draws per row for posterior means that have no closed form.
        seed: of folds, clusters and draws; None takes one from torch's random state.
        max_bytes: refuse what needs more memory.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Returns:
        A Dataset over ``representation`` (``"latents"``; where the data are one tensor without missing entries ``"PCA"``,
        ``"factor analysis"`` and ``"data"``, and ``"UMAP"`` where ``umap-learn`` is installed) and ``metric``: ``value`` with
        its 95 % interval ``low`` to ``high`` over bootstrapped rows, and ``behind``, by how much it lies below the latents on
        the same rows, with its standard error ``behind_error``.

    Raises:
        ValueError: no labels, fewer than two classes, a class of fewer than five rows, or global latents.

    Reference: Hubert & Arabie 1985, doi:10.1007/BF01908075 (ARI); Büttner et al. 2019, doi:10.1038/s41592-018-0254-1 (mixing).

    >>> import pyrovae as pvae
    >>> vae = pvae.build_vae(3, likelihood="normal", latent_dim=2, hidden=(4,), seed=0)
    >>> x = torch.randn(40, 3) + 4 * torch.arange(40)[:, None] % 8
    >>> found = representation_quality(vae, x, labels=torch.arange(40) % 2, seed=0)
    >>> found.sizes["representation"] >= 4, found.sizes["metric"]
    (True, 7)
    """
    import xarray as xr

    rows = as_data(data, covariates)
    y, own = _codes(rows, rows.label if labels is None else labels, "labels"), _codes(rows, batch, "batch")
    if y is None:
        raise refusal("expected labels, one class per row: give labels", "labels")
    if len(np.unique(y)) < 2 or np.bincount(y).min() < FOLDS:
        raise refusal(f"expected two or more classes of {FOLDS} or more rows, got counts {np.bincount(y)}", "labels")
    check_integer("num_neighbors", num_neighbors, most=len(rows) - 1)
    seed = int(torch.randint(2**31, ())) if seed is None else seed
    work = latent_work(program, rows, num_samples=num_samples, seed=seed, max_bytes=max_bytes, progress=progress)
    latents = work.run(_means, "representation_quality")["means"].numpy()
    clusters = _prior_clusters(program, latents)
    found = {
        name: _metrics(z, y, own, clusters if name == "latents" else None, num_neighbors, seed)
        for name, z in _representations(latents, rows, train, seed)
    }
    values = np.array(list(found.values()))  # representation, metric, resample; the first is of all rows
    error, behind = values[..., 1:].std(-1), values[:1] - values
    variables = {"value": values[..., 0], "low": values[..., 0] - 1.96 * error, "high": values[..., 0] + 1.96 * error}
    variables |= {"behind": behind[..., 0], "behind_error": behind[..., 1:].std(-1)}
    dims, where = ("representation", "metric"), {"representation": list(found), "metric": list(METRICS)}
    attributes = {"num_data": len(rows), "num_latents": latents.shape[1], "num_neighbors": num_neighbors}
    return xr.Dataset({name: (dims, value) for name, value in variables.items()}, where, attributes)


def _codes(rows: Data, given: Any, argument: str) -> Array | None:
    """One code per row of labels or batches; a name is that of a covariate or label."""
    if isinstance(given, str):
        tables = {**(rows.labels or {}), **(rows.covariates or {})}
        if given not in tables:
            raise refusal(f"there is no covariate or label {given!r} among {', '.join(tables) or 'none'}", argument)
        given = tables[given]
    if given is None:
        return None
    values = np.asarray(given)
    if values.shape != (len(rows),):
        raise refusal(f"expected one of {argument} per row, {len(rows)} in all, got {values.shape}", argument)
    if np.issubdtype(values.dtype, np.floating) and np.isnan(values).any():
        raise refusal(f"{argument} hold {np.isnan(values).sum()} NaN: leave these rows out", argument)
    found = np.unique(values, return_inverse=True)[1]
    if argument == "batch" and not found.any():
        raise refusal("expected two or more batches, got one: leave out batch", argument)
    return found


def _means(block: Block) -> dict[str, Tensor]:
    """Of each row the posterior means of all latent entries side by side, zero where they are masked."""
    means = []
    for tile in block.tiles():
        found = entry_means(sampled_traces(tile)[1], masked=True).values()
        means.append(torch.cat([m.flatten(2) if m.ndim > 2 else m[..., None] for m in found], 2).double())
    return {"means": torch.cat(means).mean(0)}


def _prior_clusters(program: Any, latents: Array) -> Array | None:
    """The likeliest component of a mixture prior at each row's posterior mean; None where the prior is no mixture."""
    prior = getattr(program, "prior", None)
    if not isinstance(prior, GaussianMixture):
        return None
    with torch.no_grad():
        mixture = prior()
    z = torch.from_numpy(latents).to(mixture.locs)
    components = torch.distributions.Normal(mixture.locs, mixture.scales).log_prob(z[:, None]).sum(-1)
    return (mixture.logits + components).argmax(-1).numpy()


def _representations(latents: Array, rows: Data, train: Any, seed: int) -> Iterator[tuple[str, Array]]:
    """The latents and what stands beside them, by name."""
    from sklearn.decomposition import PCA, FactorAnalysis

    yield "latents", latents
    both = [rows, rows if train is None else as_data(train)]
    if not all(isinstance(part.event_shape, torch.Size) and part.complete for part in both):
        return
    x, fitted_to = (part.dense().x.reshape(len(part), -1).double().numpy() for part in both)
    size = min(latents.shape[1], x.shape[1], len(fitted_to))
    yield "PCA", PCA(size, random_state=seed).fit(fitted_to).transform(x)
    yield "factor analysis", FactorAnalysis(size, random_state=seed).fit(fitted_to).transform(x)
    if importlib.util.find_spec("umap") is not None:
        umap = importlib.import_module("umap").UMAP(n_components=min(size, 10), random_state=seed, n_jobs=1)
        yield "UMAP", umap.fit(fitted_to).transform(x)
    yield "data", x


def _metrics(z: Array, y: Array, batch: Array | None, clusters: Array | None, k: int, seed: int) -> Array:
    """Each metric for all rows and for resampled rows, ``(metric, 1 + resamples)``; NaN where it does not apply."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

    z = (z - z.mean(0)) / np.where(z.std(0) > 0, z.std(0).max(), 1.0)  # one scale, which keeps distances
    generator = np.random.default_rng(seed)
    some = [np.arange(len(y)), *generator.integers(len(y), size=(BOOTSTRAPS, len(y)))]
    found = np.full((len(METRICS), len(some)), np.nan)
    for row, model in enumerate((_probe(), KNeighborsClassifier(k))):
        right = _predicted(model, z, y, seed) == y
        found[row] = [right[index].mean() for index in some]
    own = KMeans(len(np.unique(y)), n_init=4, random_state=seed % 2**32).fit_predict(z)
    for row, groups in ((2, own), (4, clusters)):
        if groups is not None:
            found[row] = [adjusted_rand_score(y[index], groups[index]) for index in some]
            found[row + 1] = [normalized_mutual_info_score(y[index], groups[index]) for index in some]
    if batch is not None:
        neighbors = NearestNeighbors(n_neighbors=k).fit(z).kneighbors(return_distance=False)
        other = (batch[neighbors] != batch[:, None]).mean(1)
        expected = (len(batch) - np.bincount(batch)[batch]) / (len(batch) - 1)
        found[-1] = [(other[index] / np.maximum(expected[index], 1e-12)).mean() for index in some]
    return found


def _probe() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))


def _predicted(model: Any, z: Array, y: Array, seed: int) -> Array:
    """Each row's class as predicted from the other folds."""
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    return cross_val_predict(model, z, y, cv=StratifiedKFold(FOLDS, shuffle=True, random_state=seed % 2**32))
