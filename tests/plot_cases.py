"""One call of every figure on small generated data, and the pictures' comparison."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyrovae import plots


@dataclass(frozen=True)
class Case:
    function: Callable[..., Any]
    args: tuple = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    """Words that the axes' labels must hold, units among them."""
    legend: tuple[str, ...] = ()
    panels: int = 1
    stored: bool = True
    """Whether its picture is the same on every machine."""

    def draw(self, **more):
        return self.function(*self.args, **self.kwargs, **more)


def blobs(*lead: int, size: int = 8, channels: int | None = None) -> np.ndarray:
    """Images of one round spot each, somewhere else in every image."""
    rng = np.random.default_rng(4)
    at = rng.uniform(1, size - 2, (*lead, 2, 1, 1))
    y, x = np.mgrid[:size, :size]
    spots = np.exp(-((x - at[..., 0, :, :]) ** 2 + (y - at[..., 1, :, :]) ** 2) / 4)
    if channels is None:
        return spots
    return np.stack([spots ** (power + 1) for power in range(channels)], axis=len(lead))


def normal(*shape: int, seed: int = 0, loc: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(loc, scale, shape)


def uniform_ranks(num: int, count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 100, (num, count))


EPOCHS = np.arange(1.0, 21.0)
HISTORY = {
    "epoch": EPOCHS,
    "loss": 100 + 150 * np.exp(-EPOCHS),
    "elbo": -100 - 120 * np.exp(-EPOCHS),
    "validation_elbo": np.where(EPOCHS % 2 == 0, -104 - 120 * np.exp(-EPOCHS), np.nan),
    "kl": 20 - 15 * np.exp(-EPOCHS / 3),
    "reconstruction": -80 - 60 * np.exp(-EPOCHS),
    "beta": np.minimum(1, EPOCHS / 10),
}
GAPS = np.where(np.arange(8)[:, None] > 4, np.nan, blobs(4))

CASES = {
    "history": Case(
        plots.plot_history, (HISTORY,), {"best_epoch": 16},
        ("ELBO (nats)", "reconstruction\n(nats)", "KL (nats)", "beta", "epoch"),
        ("training", "validation", "objective (− loss)"), 4,
    ),
    "samples": Case(plots.plot_samples, (blobs(11),), {"num_columns": 4}),
    "samples_rgb": Case(plots.plot_samples, (blobs(6, channels=3),)),
    "reconstructions": Case(
        plots.plot_reconstructions, (blobs(5), blobs(5) ** 2), {}, ("original", "reconstruction")
    ),
    "imputation": Case(
        plots.plot_imputation, (GAPS, blobs(4), np.stack([blobs(4) ** 2, blobs(4) ** 0.5])), {"original": blobs(4)},
        ("original", "observed", "imputed mean", "draw 1", "draw 2"),
    ),
    "manifold": Case(
        plots.plot_manifold, (blobs(9, 9),), {}, ("first latent dimension", "second latent dimension", "−2.0", "0.0")
    ),
    "traversals": Case(
        plots.plot_traversals, (blobs(4, 5), np.array([0.1, 2.0, 0.0, 1.25]), np.array([-2.0, -1, 0, 1, 2])), {},
        ("z[1]  2.00", "z[2]  0.00", "−2", "value of the one dimension"),
    ),
    "interpolation": Case(
        plots.plot_interpolation, (blobs(2, 7),), {"names": ["linear", "spherical"]}, ("linear", "position t", "1")
    ),
    "latent": Case(
        plots.plot_latent, (normal(200, 2) + 3 * np.arange(200)[:, None] % 4, np.arange(200) % 4), {"title": "digit"},
        ("z[0]", "z[1]"), ("0", "1", "2", "3"),
    ),
    "latent_sd": Case(
        plots.plot_latent, (normal(40, 2), np.array(["a", "b"])[np.arange(40) % 2]), {"sd": np.exp(normal(40, 2, scale=0.3)) / 4},
        ("z[0]", "z[1]"), ("a", "b"),
    ),
    "latent_map": Case(
        plots.plot_latent, (normal(60, 5) * np.array([3, 1, 0.5, 0.5, 0.5]), np.linspace(0, 1, 60)), {},
        ("map of neighbors",), (), 1, stored=False,
    ),
    "latent_density": Case(
        plots.plot_latent_density, (normal(800, 2) * 0.7, normal(800, 2, seed=1)), {}, ("z[0]", "z[1]"),
        ("aggregate posterior", "prior"),
    ),
    "latent_density_marginals": Case(
        plots.plot_latent_density, (normal(500, 5) + np.arange(5), normal(500, 5, seed=1)), {"num_dims": 4}, ("density",),
        ("aggregate posterior", "prior"), 4,
    ),
    "kl_per_dimension": Case(
        plots.plot_kl_per_dimension, (np.array([0.02, 2.0, 1.0, 0.3, 0.05]), np.array([0.02, 1, 0.9, 0.4, 0.0])), {},
        ("mean KL (nats)", "latent dimension"), ("0.1 nats", "above 0.1 nats", "below"),
    ),
    "rate_distortion": Case(
        plots.plot_rate_distortion, (np.array([40.0, 25, 10, 2]), np.array([65.0, 75, 100, 150]), np.array([0.1, 1, 4, 16])),
        {"label": "standard normal"}, ("rate: KL (nats)", "(nats)"), ("standard normal",),
    ),
    "influence": Case(
        plots.plot_influence, (np.array([0.2, -1.0, 4.0, 0.5, -0.3]),), {"names": ("flow", "normal")},
        ("most influential", "(nats)", "flow less normal"), ("sum so far", "all rows"),
    ),
    "comparison": Case(
        plots.plot_comparison, (["flow", "normal", "VampPrior"], np.array([-90.0, -95, -91]), np.array([1.0, 1.1, 1.2])),
        {
            "dse": np.array([0.0, 0.4, 0.3]), "elbo": np.array([-93.0, -97, -96]),
            "refits": [np.array([-90.1, -90.4]), np.array([-95.0]), np.array([-91.0, -90.2])],
        },
        ("(nats)", "flow", "normal", "VampPrior"), ("difference ± dse", "ELBO", "refits"),
    ),
    "convergence": Case(
        plots.plot_convergence,
        (
            np.array([1.0, 10, 100, 1000]),
            {"encoder": np.array([-104, -102, -100.5, -100]), "refined": np.array([-101, -99.6, -99.4, -99.4])},
        ),
        {"errors": {"encoder": np.array([0.5, 0.3, 0.2, 0.1])}, "exact": -99.4},
        ("draws per datum", "(nats per datum)"), ("encoder", "refined", "exact"),
    ),
    "gaps": Case(
        plots.plot_gaps, ({"approximation": normal(100, loc=1, scale=0.3), "amortization": np.linspace(0, 2, 50) ** 3},), {},
        ("gap (nats)", "(%)"), ("approximation: mean 1.02", "amortization: mean 2.04"),
    ),
    "khat": Case(
        plots.plot_khat, (np.append(normal(199, loc=0.6, scale=0.15), np.inf), 1000), {}, ("Pareto k-hat", "(%)"),
        ("k-hat of a datum", "1 infinite", "0.67: unreliable above"),
    ),
    "khat_two": Case(
        plots.plot_khat, ({"encoder": normal(200, loc=0.8, scale=0.1), "refined": normal(100, loc=0.4, scale=0.1)},), {},
        ("Pareto k-hat",), ("encoder", "refined", "0.7: unreliable above"),
    ),
    "log_weights": Case(
        plots.plot_log_weights, (normal(400, 20, scale=2) - 90 + np.arange(20),), {},
        ("log weight − log p̂(x) (nats)", "density (per nat)"), ("all data", "one datum each", "log p̂(x)"),
    ),
    "sbc_ecdf": Case(
        plots.plot_sbc_ecdf,
        ({"z": uniform_ranks(500, 2), "log_joint": np.clip(normal(500, loc=50, scale=18), 0, 99).round()}, 99), {},
        ("rank among 99 draws", "(probability)"), ("joint 95% band", "z[0]", "z[1]", "log_joint"),
    ),
    "coverage": Case(
        plots.plot_coverage, (np.linspace(0.1, 0.9, 9), {"guide": np.linspace(0.1, 0.9, 9) ** 1.5}, 300), {},
        ("credible level (probability)", "coverage (share"), ("95% of 300 simulations", "calibrated", "guide"),
    ),
    "pit": Case(
        plots.plot_pit, (np.linspace(0.001, 0.999, 300) ** 1.3,), {}, ("probability integral transform (probability)",),
        ("joint 95% band", "pit"),
    ),
    "predictive": Case(
        plots.plot_predictive, (normal(500, loc=0.13, scale=0.01), 0.15), {"name": "mean intensity", "unit": "share"},
        ("mean intensity (share)", "number of draws"), ("replicated", "observed: 0.15"),
    ),
    "columns": Case(
        plots.plot_columns,
        (
            {"height [cm]": normal(200, loc=170, scale=10), "pet": np.repeat([0.0, 1, np.nan], [60, 30, 10])},
            {"height [cm]": normal(500, loc=160, scale=30), "pet": np.repeat([0.0, 1], [100, 300])},
        ),
        {"levels": {"pet": ("cat", "dog")}, "label": "prior draws"}, ("height [cm]", "pet", "share"),
        ("data", "prior draws"), 2,
    ),
    "volcano": Case(
        plots.plot_volcano, (normal(60), 3 * np.abs(normal(60)) - 2),
        {"called": 3 * np.abs(normal(60)) > 4, "names": [f"gene {j}" for j in range(60)], "delta": 0.5},
        ("difference (units of the quantity)", "log Bayes factor (nats)", "gene "), ("called changed", "not called"),
    ),
    "effects": Case(
        plots.plot_effects, (normal(3, 8),), {"features": list("abcdefgh")},
        ("z[0]", "a", "change per sd of the latent", "feature", "latent"),
    ),
    "posterior_comparison": Case(
        plots.plot_posterior_comparison, ({"guide": normal(300, 3) * 0.6, "NUTS": normal(300, 3, seed=1) + 0.1},), {},
        ("latent value", "z[0]", "z[2]"), ("guide", "NUTS"),
    ),
}  # fmt: skip


def axes_of(drawn) -> list:
    return list(np.ravel(np.asarray(drawn, dtype=object)))


def figure_of(drawn):
    return axes_of(drawn)[0].figure


def render(figure, dpi: float = 80, *, paper: str = "white") -> np.ndarray:
    """The figure's pixels ``(height, width, 3)`` from 0 to 255, without any text, since fonts differ between machines."""
    from matplotlib.legend import Legend
    from matplotlib.text import Text

    for artist in figure.findobj(lambda artist: isinstance(artist, Text | Legend)):
        artist.set_visible(False)
    return pixels(figure, dpi, paper)


def pixels(figure, dpi: float, paper: str) -> np.ndarray:
    from PIL import Image

    page = io.BytesIO()
    figure.savefig(page, dpi=dpi, format="png", facecolor=paper)
    return np.asarray(Image.open(page).convert("RGB"), dtype=np.float64)


def share_that_differs(first: np.ndarray, second: np.ndarray, level: float = 20.0, window: int = 5) -> float:
    """The share of windows of 5 x 5 pixels whose mean color differs by more than 20 of 255, however shifted by a pixel.

    Means over windows are blind to how edges are smoothed, and the shifts to how positions are rounded: both differ between
    matplotlib's versions. The windows overlap, so that a thin line lies in the middle of one and no shift loses it.
    """
    from scipy.ndimage import uniform_filter

    if first.shape != second.shape:
        return 1.0
    smooth = [uniform_filter(image, (window, window, 1), mode="nearest") for image in (first, second)]
    shifts = [(up, left) for up in (-1, 0, 1) for left in (-1, 0, 1)]
    apart = [np.abs(smooth[0] - np.roll(smooth[1], shift, (0, 1))).max(-1) for shift in shifts]
    return float((np.min(apart, axis=0) > level).mean())
