"""Figures: wrong input is refused, and the message says what to write instead."""

from __future__ import annotations

import numpy as np
import pytest
from plot_cases import GAPS, blobs

from pyrovae import plots


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape)


REFUSALS = {
    "no images": (lambda: plots.plot_samples(zeros(0, 8, 8)), "images is empty"),
    "flat images": (lambda: plots.plot_samples(zeros(5, 64)), "flat images of 64 pixels: say image_shape="),
    "wrong image_shape": (lambda: plots.plot_samples(zeros(5, 64), image_shape=(9, 9)), r"image_shape=\(9, 9\), got \(5, 64\)"),
    "image_shape of one": (lambda: plots.plot_samples(zeros(5, 64), image_shape=(64,)), "channels, height, width"),
    "one image": (lambda: plots.plot_samples(zeros(64), image_shape=(8, 8)), r"got \(64,\)"),
    "channels last": (lambda: plots.plot_samples(zeros(5, 8, 8, 3)), "the channels come before height and width"),
    "two channels": (lambda: plots.plot_samples(zeros(5, 2, 8, 8)), "1 or 3 channels"),
    "words": (lambda: plots.plot_samples(["a"]), "images should hold numbers"),
    "ragged": (lambda: plots.plot_samples([[1.0], [1.0, 2.0]]), "different lengths"),
    "all missing": (lambda: plots.plot_samples(np.full((2, 4, 4), np.nan)), "every pixel is missing"),
    "infinite pixel": (lambda: plots.plot_samples(np.full((2, 4, 4), np.inf)), "infinite intensities"),
    "limits": (lambda: plots.plot_samples(zeros(2, 4, 4), vmin=1, vmax=0), "vmin should be below vmax"),
    "no columns": (lambda: plots.plot_samples(zeros(2, 4, 4), num_columns=0), "num_columns must be at least 1"),
    "other shapes": (lambda: plots.plot_reconstructions(zeros(2, 4, 4), zeros(2, 5, 5)), "images of one shape"),
    "other numbers": (lambda: plots.plot_reconstructions(zeros(2, 4, 4), zeros(3, 4, 4)), "reconstructions has 3"),
    "nothing missing": (lambda: plots.plot_imputation(zeros(2, 4, 4), zeros(2, 4, 4)), "no missing pixel"),
    "draws without draws": (lambda: plots.plot_imputation(GAPS, blobs(4), blobs(4)), "draws should have shape|flat images"),
    "manifold not square": (lambda: plots.plot_manifold(zeros(3, 4, 8, 8)), "pass the latents as grid="),
    "manifold of three": (lambda: plots.plot_manifold(zeros(3, 4, 8, 8), zeros(3, 4, 3)), "write plot_traversals"),
    "manifold, other grid": (lambda: plots.plot_manifold(zeros(3, 3, 8, 8), zeros(4, 3, 2)), r"grid has \(4, 3\)"),
    "traversal kl": (lambda: plots.plot_traversals(zeros(3, 5, 8, 8), [1.0]), "images has 3, kl has 1"),
    "traversal nan": (lambda: plots.plot_traversals(zeros(2, 5, 8, 8), [1.0, np.nan]), "kl holds 1 NaN or infinite"),
    "traversal rows": (lambda: plots.plot_traversals(zeros(2, 5, 8, 8), [1.0, 2.0], max_rows=0), "max_rows must be at least 1"),
    "traversal values": (lambda: plots.plot_traversals(zeros(1, 5, 8, 8), [1.0], [1, 2]), "values has 2 entries"),
    "interpolation names": (lambda: plots.plot_interpolation(zeros(2, 5, 8, 8), names=["a"]), "names has 1"),
    "path ends": (lambda: plots.linear_path([0.0], [0.0, 1.0]), "one shape"),
    "path of one": (lambda: plots.spherical_path([0.0], [1.0], num=1), "num must be at least 2"),
    "path of numbers": (lambda: plots.linear_path(0.0, 1.0), r"\(\*batch, latent_dim\)"),
    "grid of one": (lambda: plots.latent_grid(1), "num must be at least 2"),
    "grid mass": (lambda: plots.latent_grid(5, prob=1.0), "prob should lie between 0 and 1"),
    "grid limits": (lambda: plots.latent_grid(5, limits=(1, -1)), "limits should be"),
    "traversal of a batch": (lambda: plots.traversal_grid(zeros(5, 2)), r"write z.mean\(0\)"),
    "history of numbers": (lambda: plots.plot_history([1.0, 2.0]), "expected columns by name"),
    "history of nothing": (lambda: plots.plot_history({"loss": [np.nan]}), "none of the columns"),
    "history lengths": (lambda: plots.plot_history({"epoch": [1, 2], "elbo": [1.0]}), "axis has 2, training has 1"),
    "history matrix": (lambda: plots.plot_history({"elbo": [[1.0]]}), r"elbo should have shape \(rows,\)"),
    "latent of one": (lambda: plots.plot_latent(zeros(5, 1)), "write plot_latent_density"),
    "latent nan": (lambda: plots.plot_latent(np.full((5, 2), np.nan)), "z holds 10 NaN"),
    "latent labels": (lambda: plots.plot_latent(zeros(5, 2), [1, 2]), "z has 5, labels has 2"),
    "latent classes": (lambda: plots.plot_latent(zeros(60, 2), np.arange(60)), "60 classes"),
    "latent matrix of labels": (lambda: plots.plot_latent(zeros(5, 2), zeros(5, 2)), r"labels should have shape \(data,\)"),
    "density dims": (lambda: plots.plot_latent_density(zeros(5, 2), zeros(5, 3)), "z has 2 latent dimensions, prior has 3"),
    "density panels": (lambda: plots.plot_latent_density(zeros(5, 3), zeros(5, 3), num_dims=0), "num_dims must be at least 1"),
    "kl of images": (lambda: plots.plot_kl_per_dimension(zeros(2, 2, 2)), r"\(latent_dim,\) or \(data, latent_dim\)"),
    "kl names": (lambda: plots.plot_kl_per_dimension([1.0, 2.0], names=["a"]), "kl has 2, names has 1"),
    "rate": (lambda: plots.plot_rate_distortion([1.0], [1.0, 2.0]), "rate has 1, distortion has 2"),
    "comparison": (lambda: plots.plot_comparison(["a"], [1.0, 2.0], [1.0, 2.0]), "names has 1, elpd has 2"),
    "comparison nan": (lambda: plots.plot_comparison(["a"], [np.nan], [1.0]), "elpd holds 1 NaN"),
    "convergence draws": (lambda: plots.plot_convergence([0, 1], {"a": [1.0, 2.0]}), "num_samples should be above 0"),
    "convergence none": (lambda: plots.plot_convergence([1], {}), "estimates is an empty mapping"),
    "convergence errors": (lambda: plots.plot_convergence([1], {"a": [1.0]}, {"b": [1.0]}), "errors name b"),
    "khat nan": (lambda: plots.plot_khat([0.1, np.nan]), "pareto_k holds 1 NaN of 2"),
    "khat none": (lambda: plots.plot_khat({}), "pareto_k is an empty mapping"),
    "khat draws": (lambda: plots.plot_khat([0.1], 1), "num_samples must be at least 2"),
    "weights of one": (lambda: plots.plot_log_weights(zeros(1, 5)), "2 or more samples"),
    "weights nan": (lambda: plots.plot_log_weights([0.0, np.nan]), "NaN or plus infinity"),
    "weights zero": (lambda: plots.plot_log_weights(np.full((5, 2), -np.inf)), "2 data have no weight above zero"),
    "ranks above": (lambda: plots.plot_sbc_ecdf([5, 100], 99), "whole ranks from 0 to num_draws=99, got values from 5 to 100"),
    "ranks of halves": (lambda: plots.plot_sbc_ecdf([0.5, 1], 99), "whole ranks"),
    "ranks none": (lambda: plots.plot_sbc_ecdf({}, 99), "ranks is an empty mapping"),
    "ranks of a number": (lambda: plots.plot_sbc_ecdf(3, 99), "got one number"),
    "ranks lengths": (lambda: plots.plot_sbc_ecdf({"a": [1], "b": [1, 2]}, 9), "a has 1, b has 2"),
    "no draws": (lambda: plots.plot_sbc_ecdf([0], 0), "num_draws must be at least 1"),
    "band": (lambda: plots.plot_sbc_ecdf([0], 9, prob=1.0), "prob should lie between 0 and 1"),
    "pit": (lambda: plots.plot_pit([0.5, 1.5]), "probabilities from 0 to 1, got 0.5 to 1.5"),
    "pit nan": (lambda: plots.plot_pit([0.5, np.nan]), "probabilities from 0 to 1"),
    "coverage": (lambda: plots.plot_coverage([0.5], [0.5, 0.6]), "levels has 1, coverage has 2"),
    "coverage percent": (lambda: plots.plot_coverage([50, 90], [0.5, 0.6]), "levels should hold probabilities"),
    "coverage of none": (lambda: plots.plot_coverage([0.5], [0.5], 0), "num_simulations must be at least 1"),
    "predictive": (lambda: plots.plot_predictive([[1.0]], 1.0), r"replicated should have shape \(draws,\)"),
    "predictive data": (lambda: plots.plot_predictive([1.0, 2.0], [1.0, 2.0]), "observed should be one number"),
    "posterior": (lambda: plots.plot_posterior_comparison({}), "draws is an empty mapping"),
    "posterior dims": (lambda: plots.plot_posterior_comparison({"a": zeros(5, 2), "b": zeros(5, 3)}), "a has 2, b has 3"),
    "posterior prob": (lambda: plots.plot_posterior_comparison({"a": zeros(5, 2)}, prob=94), "prob should lie"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_wrong_input_is_refused_with_a_remedy(name):
    act, message = REFUSALS[name]
    with pytest.raises((ValueError, TypeError), match=message):
        act()
