"""Figures of latent space: where the data lie in it, and which dimensions are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae.plots.arrays import names_of, same_length, to_finite, to_numpy, to_shape
from pyrovae.plots.style import BLUE, CLASSES, MARKERS, VERMILLION, both_papers, finding, ink, legend, one_panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyrovae.plots.arrays import Values

MOST_CLASSES = 48
"""So many classes can be told apart by colors and markers."""
_LEAST_MAPPED, _MOST_MAPPED = 20, 1000
"""So many data are on a map of neighbors: fewer have no neighborhoods, and its time grows faster than their number."""


def plot_latent(
    z: Values, labels: Any = None, *, sd: Values | None = None, title: str | None = None, ax: Axes | None = None
) -> Axes:
    r"""Each datum's latent as a point, colored by label.

    Two dimensions are drawn as they are. Of more, a map is drawn that keeps neighbors together (t-SNE, of at most 1,000
    data, evenly chosen): near points are near in latent space; its axes, far distances and sizes of groups mean nothing.
    Fewer than 20 data are drawn by the two dimensions in which they differ most.
    With ``sd`` those are neighbors whose posteriors are near, by the Wasserstein distance of normals,

    .. math:: W_2^2 = \lVert \mu - \mu' \rVert^2 + \lVert \sigma - \sigma' \rVert^2.

    Args:
        z: latents, usually posterior means, ``(data, latent_dim)`` with at least 2 dimensions.
        labels: one for each datum: integers or strings (a legend) or real numbers (a color bar).
        sd: the posteriors' standard deviations, of the shape of ``z``: an ellipse of one standard deviation around each
            point, or larger dots on a map where the posterior is wider.
        title: of the legend or color bar.
        ax: where to draw.

    Raises:
        ValueError: there is one dimension only, an entry is not finite, or the number of labels differs.

    References:
        L. van der Maaten and G. Hinton, "Visualizing data using t-SNE" (2008), JMLR 9, 2579-2605.

    >>> plot_latent(np.eye(4)[:, :2], ["a", "a", "b", "b"]).get_legend_handles_labels()[1]
    ['a', 'b']
    """
    points, kinds = to_finite("z", z, "data", "latent_dim"), _plain(labels)
    spread = None if sd is None else to_finite("sd", sd, "data", "latent_dim")
    num, dims = points.shape
    same_length(z=points, labels=kinds, sd=spread)
    if dims < 2:
        raise ValueError("z has one latent dimension: write plot_latent_density(z, prior_draws)")
    is_map = dims > 2 and num >= _LEAST_MAPPED
    pair = [0, 1]
    if not is_map:
        pair = sorted(np.argsort(points.var(0), kind="stable")[-2:].tolist())
        points, spread = points[:, pair], None if spread is None else spread[:, pair]
    kept = np.unique(np.linspace(0, num - 1, min(num, _MOST_MAPPED)).astype(int)) if is_map else np.arange(num)
    kinds, spread = (None if values is None else values[kept] for values in (kinds, spread))
    places = points[kept] if spread is None else np.hstack([points[kept], spread])
    flat = _map_of_neighbors(places) if is_map else points
    ax = one_panel(ax, 5.4, 4.2)
    sizes = np.full(len(kept), np.clip(16000 / len(kept), 5, 36))
    if spread is not None and is_map:
        width = np.sqrt((spread**2).mean(1))
        sizes *= np.clip(width / np.median(width), 0.4, 2.5) ** 2
    _scatter(ax, flat, kinds, sizes, None if is_map else spread, title or "label")
    ax.set(xlabel=f"z[{pair[0]}]", ylabel=f"z[{pair[1]}]")
    if is_map:
        ax.set(xlabel="map of neighbors (t-SNE, no unit)", ylabel="", xticks=[], yticks=[])
        data = f"{num:,} data" if len(kept) == num else f"{len(kept):,} of {num:,} data"
        finding(
            ax, f"{data} by their {dims} dimensions" + ("" if spread is None else "; larger dots: wider posteriors")
        )
    elif spread is not None:
        finding(ax, "ellipses: one standard deviation of the posterior")
    ax.set_aspect("equal", adjustable="datalim")
    return ax


def _map_of_neighbors(points: np.ndarray) -> np.ndarray:
    if not np.ptp(points, axis=0).any():  # a collapsed posterior
        return points[:, :2]
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(points) - 1) / 3)
    return TSNE(2, init="pca", perplexity=perplexity, random_state=0).fit_transform(points)


def _scatter(
    ax: Axes, points: np.ndarray, labels: np.ndarray | None, sizes: np.ndarray, sd: np.ndarray | None, title: str
) -> None:
    """The points, and ellipses of one standard deviation around them, in the color of their class or value."""
    from matplotlib.collections import EllipseCollection

    groups: dict[str, Any] = {"": np.ones(len(points), bool)}
    if labels is not None and labels.dtype.kind != "f":
        groups = {str(value): labels == value for value in np.unique(labels)}
    if len(groups) > MOST_CLASSES:
        raise ValueError(
            f"labels hold {len(groups)} classes, more than can be told apart: pass real numbers for a color bar"
        )
    is_real = labels is not None and labels.dtype.kind == "f"
    for index, (name, own) in enumerate(groups.items()):
        tint: Any = (
            {"c": labels, "cmap": both_papers("viridis")} if is_real else {"color": CLASSES[index % len(CLASSES)]}
        )
        look = {
            "s": sizes[own],
            "marker": MARKERS[index // len(CLASSES)],
            "label": name,
            "rasterized": len(points) > 2000,
        }
        dots = ax.scatter(points[own, 0], points[own, 1], linewidths=0, alpha=0.75, **look, **tint)
        if sd is not None:
            shape: dict[str, Any] = {"angles": 0.0, "units": "xy", "linewidths": 0, "alpha": 0.12}
            shape |= {"offsets": points[own], "offset_transform": ax.transData}
            shape["facecolors"] = dots.to_rgba(labels) if labels is not None and is_real else tint["color"]
            ax.add_collection(EllipseCollection(2 * sd[own, 0], 2 * sd[own, 1], **shape))
    if is_real:
        ax.figure.colorbar(dots, ax=ax, label=title)
    elif labels is not None:
        legend(ax, outside=True, title=title)


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
