"""Figures of latent space: where the data lie in it, and which dimensions are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae.plots.arrays import names_of, same_length, to_finite, to_numpy, to_shape
from pyrovae.plots.style import BLUE, VERMILLION, both_papers, color, finding, ink, legend, marker, one_panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyrovae.plots.arrays import Values


def plot_latent(z: Values, labels: Any = None, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    r"""Each datum's latent as a point, colored by label.

    Where there are more than two dimensions the two main principal components are drawn, with their share of the
    variance.

    Args:
        z: latents, usually posterior means, ``(data, latent_dim)`` with at least 2 dimensions.
        labels: one a datum: integers or strings (a legend) or real numbers (a color bar).
        title: of the legend or color bar.
        ax: where to draw.

    Raises:
        ValueError: there is one dimension only, an entry is not finite, or the number of labels differs.

    >>> plot_latent(np.eye(4), ["a", "a", "b", "b"]).get_legend_handles_labels()[1]
    ['a', 'b']
    """
    points = to_finite("z", z, "data", "latent_dim")
    if points.shape[1] < 2:
        raise ValueError("z has one latent dimension: write plot_latent_density(z, prior_draws)")
    flat, names = _two_dimensions(points)
    kinds = _plain(labels)
    same_length(z=flat, labels=kinds)
    ax = one_panel(ax, 5.4, 4.2)
    look: dict[str, Any] = {"s": float(np.clip(16000 / len(flat), 5, 36)), "linewidths": 0, "alpha": 0.75}
    look["rasterized"] = len(flat) > 2000
    if kinds is None:
        ax.scatter(*flat.T, color=BLUE, **look)
    elif kinds.dtype.kind == "f":
        dots = ax.scatter(flat[:, 0], flat[:, 1], c=kinds, cmap=both_papers("viridis"), **look)
        ax.figure.colorbar(dots, ax=ax, label=title or "label")
    else:
        classes = np.unique(kinds)
        if len(classes) > 48:
            raise ValueError(
                f"labels hold {len(classes)} classes, more than can be told apart: pass real numbers for a color bar"
            )
        for index, value in enumerate(classes):
            look |= {"color": color(index), "marker": marker(index), "label": str(value)}
            ax.scatter(*flat[kinds == value].T, **look)
        legend(ax, outside=True, title=title or "label")
    ax.set(xlabel=names[0], ylabel=names[1])
    ax.set_aspect("equal", adjustable="datalim")
    return ax


def _two_dimensions(points: np.ndarray) -> tuple[np.ndarray, list[str]]:
    if points.shape[1] == 2:
        return points, ["z[0]", "z[1]"]
    if len(points) < 2:
        raise ValueError("z has one datum: principal components need at least two")
    from sklearn.decomposition import PCA

    pca = PCA(2, svd_solver="full")
    flat = pca.fit_transform(points)
    return flat, [f"PC {i + 1} ({share:.0%} of variance)" for i, share in enumerate(pca.explained_variance_ratio_)]


def _plain(labels: Any) -> np.ndarray | None:
    """Labels as an array of integers, floats or strings; tensors included."""
    if labels is None:
        return None
    try:
        array = to_numpy("labels", labels)
    except TypeError:
        array = np.asarray(labels).astype(str)
    if array.ndim != 1:
        raise ValueError(f"labels should have shape (data,), got {array.shape}")
    return array


def plot_kl_per_dimension(
    kl: Values,
    mean_variance: Values | None = None,
    *,
    threshold: float = 0.1,
    variance_threshold: float = 0.01,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""How many nats each latent dimension carries, the most used first, and how many carry more than a threshold.

    .. math:: \frac{1}{N} \sum_i \mathrm{KL}\bigl(q(z_d \mid x_i)\,\|\,p(z_d)\bigr)

    Args:
        kl: in nats: ``(latent_dim,)``, or ``(data, latent_dim)`` to be averaged.
        mean_variance: the variance over data of each dimension's posterior mean, ``(latent_dim,)``: the count of active
            units by that older rule is printed too, since the two often differ.
        threshold: in nats; a dimension above it is counted, and in another color.
        variance_threshold: for ``mean_variance``.
        names: of the dimensions; by default their index.
        ax: where to draw.

    Raises:
        ValueError: a shape is none of these, lengths differ, or an entry is not finite.

    References:
        Y. Burda, R. Grosse and R. Salakhutdinov, "Importance weighted autoencoders" (2016), arXiv:1509.00519.

    >>> plot_kl_per_dimension([2.0, 0.01, 1.0]).get_title(loc="left")
    '2 of 3 dimensions above 0.1 nats'
    """
    rates = to_finite("kl", kl)
    if rates.ndim not in (1, 2):
        raise ValueError(f"kl should have shape (latent_dim,) or (data, latent_dim), got {rates.shape}")
    rates = rates.mean(0) if rates.ndim == 2 else rates
    labels = names_of(names, "{}", kl=rates)
    order = np.argsort(-rates, kind="stable")
    above, at = rates[order] > threshold, np.arange(len(rates))
    words = f"{above.sum()} of {len(above)} dimensions above {threshold:g} nats"
    if mean_variance is not None:
        variances = to_shape("mean_variance", mean_variance, "latent_dim")
        same_length(kl=rates, mean_variance=variances)
        words += f",\n{(variances > variance_threshold).sum()} by variance of the mean > {variance_threshold:g}"
    ax = one_panel(ax, float(np.clip(0.22 * len(rates), 4.5, 10)), 3.0)
    ax.axhline(threshold, color=ink(ax), linewidth=1, linestyle="--", label=f"{threshold:g} nats")
    high, low = rates[order][above], rates[order][~above]
    ax.bar(at[above], high, color=BLUE, label=f"above {threshold:g} nats" if len(high) else None)
    ax.bar(at[~above], low, color=VERMILLION, hatch="//", label="below" if len(low) else None)
    shown = at[:: -(-len(rates) // 32)]
    rotation = 90 if max(map(len, labels)) > 3 else 0
    ax.set_xticks(shown, [labels[order[i]] for i in shown], fontsize="small", rotation=rotation)
    ax.set(xlabel="latent dimension, ordered by KL", ylabel="mean KL (nats)")
    ax.grid(visible=False, axis="x")
    finding(ax, words)
    legend(ax)
    return ax
