"""Figures: functions of arrays that return axes.

Each takes ``ax=`` and otherwise makes a new figure, which a notebook shows by itself and which elsewhere belongs
to the caller: ``ax.figure.savefig("figure.png")``. No setting of matplotlib is changed. For a dark page draw under
``matplotlib.rc_context(plots.DARK)``; ``plots.NEUTRAL`` gives one figure for light and dark pages.
For axes of your own write ``matplotlib.rcParams.update(plots.STYLE)``.
"""

from __future__ import annotations

from pyrovae.plots.calibration import plot_coverage, plot_pit, plot_predictive, plot_sbc_ecdf
from pyrovae.plots.columns import plot_columns
from pyrovae.plots.decoded import plot_interpolation, plot_manifold, plot_traversals
from pyrovae.plots.effects import plot_effects, plot_volcano
from pyrovae.plots.evaluation import plot_comparison, plot_convergence, plot_gaps, plot_influence, plot_rate_distortion
from pyrovae.plots.images import plot_imputation, plot_reconstructions, plot_samples
from pyrovae.plots.latent import plot_kl_per_dimension, plot_latent
from pyrovae.plots.paths import latent_grid, linear_path, spherical_path, traversal_grid
from pyrovae.plots.posterior import plot_latent_density, plot_posterior_comparison
from pyrovae.plots.reliability import plot_khat, plot_log_weights
from pyrovae.plots.style import DARK, NEUTRAL, SERIES, STYLE
from pyrovae.plots.training import plot_history

__all__ = [
    "DARK",
    "NEUTRAL",
    "SERIES",
    "STYLE",
    "latent_grid",
    "linear_path",
    "plot_columns",
    "plot_comparison",
    "plot_convergence",
    "plot_coverage",
    "plot_effects",
    "plot_gaps",
    "plot_history",
    "plot_imputation",
    "plot_influence",
    "plot_interpolation",
    "plot_khat",
    "plot_kl_per_dimension",
    "plot_latent",
    "plot_latent_density",
    "plot_log_weights",
    "plot_manifold",
    "plot_pit",
    "plot_posterior_comparison",
    "plot_predictive",
    "plot_rate_distortion",
    "plot_reconstructions",
    "plot_samples",
    "plot_sbc_ecdf",
    "plot_traversals",
    "plot_volcano",
    "spherical_path",
    "traversal_grid",
]
