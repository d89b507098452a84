"""Figures: that each shows the right numbers, read back from its artists."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plot_cases import GAPS, HISTORY, blobs, figure_of, normal, pixels

from pyrovae import plots
from pyrovae.plots.calibration import ecdf_band
from pyrovae.plots.posterior import mass_levels

# Images ------------------------------------------------------------------------------------------------------------------


def picture(ax) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (blobs(6, 1), None),
        (blobs(6), None),
        (blobs(6).reshape(6, 64), (8, 8)),
        (blobs(6).reshape(6, 64), (1, 8, 8)),
        (blobs(6).astype(np.float32), None),
        (torch.tensor(blobs(6)), None),
    ],
)
def test_every_layout_of_images_draws_the_same(images, shape):
    drawn = picture(plots.plot_samples(images[:, 0] if images.ndim == 4 else images, image_shape=shape))
    expected = blobs(6, 1)[:, 0] if getattr(images, "ndim", 0) == 4 else blobs(6)
    assert drawn.shape == (17, 26, 4)
    assert np.allclose(drawn[9:, 9:17, 0], expected[4], atol=1 / 255)
    assert (drawn[8, :, 3] == 0).all()


def test_channels_first_images_of_one_and_three_channels():
    grey, rgb = blobs(2)[:, None], blobs(2, channels=3)
    assert np.allclose(picture(plots.plot_samples(grey)), picture(plots.plot_samples(grey[:, 0])))
    assert np.allclose(picture(plots.plot_samples(rgb))[:8, 9:, :3], rgb[1].transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("images", "limits", "white"),
    [
        (np.array([0, 4, 8, 16]), {}, [0, 0.25, 0.5, 1]),
        (np.array([0, 4, 8, 16], dtype=np.uint8), {"vmax": 32}, [0, 0.125, 0.25, 0.5]),
        (np.array([0.0, 0.2, 0.4, 0.5]), {}, [0, 0.2, 0.4, 0.5]),
        (np.array([0.0, 4, 8, 16]), {}, [0, 0.25, 0.5, 1]),
        (np.array([-1.0, 0, 0.5, 1]), {}, [0, 0.5, 0.75, 1]),
        (np.array([0.0, 0.2, 0.4, 0.6]), {"vmin": 0.2, "vmax": 0.4}, [0, 0, 1, 1]),
        (np.array([False, True, True, False]), {}, [0, 1, 1, 0]),
        (torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.bfloat16), {}, [0, 0.25, 0.5, 1]),
        (np.array([0, 0, 0, 0]), {}, [0, 0, 0, 0]),
    ],
)
def test_intensities_are_scaled_once(images, limits, white):
    drawn = picture(plots.plot_samples(images.reshape(1, 2, 2), **limits))
    assert np.allclose(drawn[..., 0].ravel(), white, atol=1 / 255)


def test_missing_pixels_are_sky_blue_in_grey_and_in_color():
    grey, rgb = blobs(1, size=4), blobs(1, size=4, channels=3)
    grey[0, 1, 2], rgb[0, 0, 1, 2] = np.nan, np.nan
    for images in (grey, rgb):
        drawn = picture(plots.plot_samples(images))
        assert np.allclose(drawn[1, 2], (86 / 255, 180 / 255, 233 / 255, 1), atol=1e-3)
        assert not np.allclose(drawn[1, 1, :3], (86 / 255, 180 / 255, 233 / 255), atol=1e-3)


def test_originals_lie_above_reconstructions_on_one_scale():
    drawn = picture(plots.plot_reconstructions(np.full((3, 2, 2), 16), np.full((3, 2, 2), 4.0), num_images=2))
    assert drawn.shape == (5, 5, 4)
    assert np.allclose(drawn[:2, :2, 0], 1)
    assert np.allclose(drawn[3:, 3:, 0], 0.25, atol=1 / 255)


def test_imputation_shows_what_there_is():
    rows = [text.get_text() for text in plots.plot_imputation(GAPS, blobs(4)).get_yticklabels()]
    assert rows == ["observed", "imputed mean"]


def test_the_manifold_asks_a_function_for_its_own_grid():
    asked = []

    def decode(z):
        asked.append(z)
        return z.sum(-1)[..., None, None].expand(*z.shape[:-1], 2, 2)

    drawn = picture(plots.plot_manifold(decode, plots.latent_grid(5, limits=(-1, 1))))
    assert asked[0].shape == (5, 5, 2)
    assert drawn[0, 0, 0] == pytest.approx(0.5, abs=0.01)  # top left is (-1, 1), of sum 0 between -2 and 2
    assert drawn[0, -1, 0] == 1
    assert drawn[-1, 0, 0] == 0


def test_traversals_are_ordered_by_kl_and_cut():
    images = np.arange(4.0)[:, None, None, None] * np.ones((4, 3, 2, 2))
    ax = plots.plot_traversals(images, torch.tensor([0.1, 3.0, 2.0, 0.0]), names=list("abcd"), max_rows=2)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["b  3.00", "c  2.00"]
    assert ax.get_title(loc="left") == "2 of 4 dimensions, by KL (nats)"
    assert np.allclose(picture(ax)[[0, -1], 0, 0], [1 / 3, 2 / 3], atol=1 / 255)


# Paths -------------------------------------------------------------------------------------------------------------------


def test_paths_start_and_end_where_told_for_any_batch():
    start, end = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)), torch.ones(2, 3, 5)
    for path in (plots.linear_path, plots.spherical_path):
        made = path(start, end, num=7)
        assert made.shape == (2, 3, 7, 5)
        assert torch.allclose(made[..., 0, :], start, atol=1e-6)
        assert torch.allclose(made[..., -1, :], end, atol=1e-6)


def test_the_spherical_path_keeps_length_and_turns_evenly():
    start, end = torch.tensor([3.0, 0, 0], dtype=torch.float64), torch.tensor([0, 3.0, 0], dtype=torch.float64)
    made = plots.spherical_path(start, end, num=4)
    angles = torch.rad2deg(torch.atan2(made[:, 1], made[:, 0]))
    assert torch.allclose(made.norm(dim=-1), torch.full((4,), 3.0, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(angles, torch.tensor([0, 30, 60, 90.0], dtype=torch.float64), atol=1e-10)
    assert plots.linear_path(start, end, num=3)[1].norm() < 2.2


@pytest.mark.parametrize("end", [[2.0, 2.0], [-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]])
def test_the_spherical_path_is_straight_where_no_arc_is_defined(end):
    assert torch.allclose(plots.spherical_path([1.0, 1.0], end), plots.linear_path([1.0, 1.0], end))


def test_the_grid_holds_normal_quantiles_and_opens_upwards():
    grid = plots.latent_grid(3, prob=0.5)
    assert torch.allclose(grid[:, 0, 1], torch.tensor([0.67449, 0, -0.67449]), atol=1e-4)
    assert torch.allclose(grid[0, :, 0], torch.tensor([-0.67449, 0, 0.67449]), atol=1e-4)


def test_traversals_move_one_dimension_at_a_time():
    grid = plots.traversal_grid([5.0, 6.0, 7.0], values=(-1, 1))
    assert grid.shape == (3, 2, 3)
    assert (grid != torch.tensor([5.0, 6.0, 7.0])).sum(-1).tolist() == [[1, 1]] * 3
    assert grid[2, 0].tolist() == [5, 6, -1]


# History -----------------------------------------------------------------------------------------------------------------


class Columns:
    """A table that knows its columns by name alone, as a training history does."""

    def __init__(self, columns):
        self.columns = columns

    def __getitem__(self, name):
        return self.columns[name]


def test_history_takes_dicts_frames_and_histories_alike():
    pandas = pytest.importorskip("pandas")
    as_lists = {name: [None if value != value else value for value in values] for name, values in HISTORY.items()}
    tables = [HISTORY, pandas.DataFrame(HISTORY), Columns(as_lists)]
    drawn = [pixels(figure_of(plots.plot_history(table, best_epoch=16)), 60, "white") for table in tables]
    assert np.array_equal(drawn[0], drawn[1])
    assert np.array_equal(drawn[0], drawn[2])


def test_history_leaves_out_what_is_missing():
    axes = plots.plot_history(HISTORY)
    validation = next(line for line in axes[0].lines if line.get_label() == "validation")
    assert validation.get_xdata().tolist() == list(range(2, 21, 2))
    only = plots.plot_history({"loss": [3.0, 2.0], "kl": [None, None]})
    assert len(only) == 1
    assert only[0].get_xlabel() == "row"
    assert only[0].lines[0].get_ydata().tolist() == [-3, -2]


def test_history_shows_beta_by_site():
    axes = plots.plot_history({"elbo": [-2.0, -1.0], "beta": [{"z1": 0.5, "z2": 1.0}, {"z1": 1.0, "z2": 1.0}]})
    assert [text.get_text() for text in axes[1].get_legend().get_texts()] == ["z1", "z2"]
    assert axes[1].lines[0].get_ydata().tolist() == [0.5, 1.0]


def test_history_says_when_the_start_is_off_the_axis():
    far = plots.plot_history({"elbo": np.append(-900.0, np.linspace(-105, -100, 30))})[0]
    near = plots.plot_history({"elbo": np.append(-106.0, np.linspace(-105, -100, 30))})[0]
    assert far.get_title(loc="left") == "starts at −900, off the axis"
    assert far.get_ylim()[0] > -110
    assert near.get_title(loc="left") == ""
    assert near.get_ylim()[0] < -106


def test_one_row_of_history_is_a_dot():
    assert plots.plot_history({"elbo": [-3.0]})[0].lines[0].get_marker() == "o"


# Latents -----------------------------------------------------------------------------------------------------------------


def test_a_map_of_more_dimensions_keeps_neighbors_together():
    from sklearn.manifold import trustworthiness

    z = normal(150, 6) + 6 * np.eye(6)[np.arange(150) % 3]
    ax = plots.plot_latent(z, np.arange(150) % 3)
    points, order = (
        np.concatenate([dots.get_offsets() for dots in ax.collections]),
        np.argsort(np.arange(150) % 3, kind="stable"),
    )
    assert trustworthiness(z[order], points) > 0.85  # of random points about 0.5
    apart = np.linalg.norm(points[:, None] - points, axis=-1) + np.diag(np.full(150, np.inf))
    assert (apart.argmin(1) // 50 == np.arange(150) // 50).all()
    assert ax.get_title(loc="left") == "150 data by their 6 dimensions"


def test_a_map_of_many_data_is_of_some_of_them(monkeypatch):
    monkeypatch.setattr("pyrovae.plots.latent._MOST_MAPPED", 20)
    ax = plots.plot_latent(normal(90, 3), np.linspace(0, 1, 90), sd=np.ones((90, 3)))
    assert ax.collections[0].get_offsets().shape == (20, 2)
    assert ax.get_title(loc="left") == "20 of 90 data by their 3 dimensions; larger dots: wider posteriors"


def test_collapsed_posteriors_are_drawn_in_one_place():
    assert (plots.plot_latent(np.ones((25, 4))).collections[0].get_offsets() == 1).all()


@pytest.mark.parametrize("num", [1, 19])
def test_few_data_are_drawn_by_the_dimensions_in_which_they_differ_most(num):
    z = normal(num, 4) * np.array([0.1, 3.0, 0.2, 2.0])
    ax = plots.plot_latent(z, sd=np.ones((num, 4)))
    pair = [1, 3] if num > 1 else [2, 3]
    np.testing.assert_array_equal(ax.collections[0].get_offsets(), z[:, pair])
    assert (ax.get_xlabel(), ax.get_ylabel()) == tuple(f"z[{dim}]" for dim in pair)


def test_the_posteriors_width_is_drawn():
    sd = np.array([[1.0, 2.0], [0.5, 0.5]])
    _, ellipses = plots.plot_latent(np.eye(2), sd=sd).collections
    assert np.allclose(ellipses.get_widths(), 2 * sd[:, 0])
    assert np.allclose(ellipses.get_heights(), 2 * sd[:, 1])
    wide = np.where(np.arange(25)[:, None] == 4, 2.0, np.ones((25, 3)))
    sizes = plots.plot_latent(normal(25, 3), sd=wide).collections[0].get_sizes()
    assert sizes[4] == pytest.approx(4 * sizes[0])


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (np.array([3, 1, 3, 1]), ["1", "3"]),
        (torch.tensor([3, 1, 3, 1]), ["1", "3"]),
        (["b", "a", "b", "a"], ["a", "b"]),
        (np.array([True, False, True, False]), ["False", "True"]),
    ],
)
def test_labels_of_any_kind_make_a_legend(labels, names):
    ax = plots.plot_latent(np.eye(4)[:, :2], labels)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == names
    assert ax.collections[0].get_offsets().shape == (2, 2)


def test_real_labels_make_a_color_bar():
    figure = plots.plot_latent(np.eye(4)[:, :2], [0.1, 0.2, 0.3, 0.4], title="intensity").figure
    assert [axes.get_ylabel() for axes in figure.axes] == ["z[1]", "intensity"]


def test_contours_hold_the_mass_they_say():
    step = 0.05
    x, y = np.meshgrid(np.arange(-5, 5, step), np.arange(-5, 5, step))
    density = np.exp(-(x**2 + y**2) / 2) / (2 * np.pi)
    low, high = mass_levels(density, (0.9, 0.5))
    assert np.sqrt(-2 * np.log(2 * np.pi * high)) == pytest.approx(np.sqrt(2 * np.log(2)), abs=0.01)
    assert np.sqrt(-2 * np.log(2 * np.pi * low)) == pytest.approx(np.sqrt(2 * np.log(10)), abs=0.01)


def test_marginals_come_in_the_order_of_kolmogorovs_distance():
    from scipy.stats import ks_2samp

    z, prior = normal(400, 4) + np.array([0.0, 2, 1, 0.5]), normal(300, 4, seed=1)
    axes = plots.plot_latent_density(z, prior, num_dims=3, names=list("abcd"))
    distances = [ks_2samp(z[:, dim], prior[:, dim]).statistic for dim in (1, 2, 3)]
    expected = [f"{name}\ndistance {value:.2f}" for name, value in zip("bcd", distances, strict=True)]
    assert [panel.get_title(loc="left") for panel in axes] == expected


def test_collapsed_posteriors_have_a_density_figure():
    plots.plot_latent_density(np.zeros((50, 2)), normal(50, 2))
    assert plots.plot_latent_density(np.zeros((50, 1)), normal(50, 1)).shape == (1,)


def test_active_dimensions_are_counted_both_ways():
    kl, variance = np.array([[0.0, 2.0, 0.4], [0.1, 1.0, 0.2]]), np.array([0.005, 0.8, 0.009])
    ax = plots.plot_kl_per_dimension(kl, variance)
    assert ax.get_title(loc="left") == "2 of 3 dimensions above 0.1 nats,\n1 by variance of the mean > 0.01"
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "2", "0"]
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([1.5, 0.3, 0.05])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["0.1 nats", "above 0.1 nats", "below"]


# Evidence ----------------------------------------------------------------------------------------------------------------


def test_families_share_one_set_of_lines_of_equal_elbo():
    ax = plots.plot_rate_distortion([10.0, 20], [90.0, 80], label="one")
    plots.plot_rate_distortion([12.0, 30], [70.0, 60], label="two", ax=ax)
    series = [line for line in ax.lines if not line.get_label().startswith("_")]
    lines = [line for line in ax.lines if line not in series]
    totals = [sum(point) for line in lines for point in line.get_xydata()]
    assert [line.get_label() for line in series] == ["one", "two"]
    assert series[0].get_color() != series[1].get_color()
    assert len(set(np.round(totals, 6))) == len(lines)
    printed = {-float(text.get_text().replace("−", "-")) for text in ax.texts}
    assert printed == set(np.round(totals, 6))


def test_rate_and_distortion_are_joined_in_the_order_of_beta():
    ax = plots.plot_rate_distortion([1.0, 30, 10], [100.0, 60, 80], [4, 0.5, 1])
    assert ax.lines[0].get_xdata().tolist() == [30, 10, 1]
    assert [text.get_text() for text in ax.texts if text.get_text().startswith("β")] == ["β 4", "β 0.5", "β 1"]


def test_models_are_ranked_best_on_top():
    ax = plots.plot_comparison(["worse", "best", "mid"], [-9.0, -1.0, -5.0], [1.0, 3.0, 1.0], dse=[2.0, np.nan, 1.0])
    assert [text.get_text() for text in ax.get_yticklabels()] == ["best", "mid", "worse"]
    assert ax.yaxis_inverted()
    assert ax.containers[0].lines[0].get_xdata().tolist() == [-8, 0, -4]
    bars = ax.containers[0].lines[2][0].get_segments()
    assert [bar[:, 0].tolist() for bar in bars] == [[-10, -6], [0, 0], [-5, -3]]  # no error of the best one
    assert ax.get_title(loc="left") == "best: elpd −1.00 ± 3.00 nats"


def test_differences_that_are_given_are_drawn_and_divided_by_the_rows():
    drawn = plots.plot_comparison(
        ["a", "b"], [-1.0, -2.0], [1.0, 1.0], elpd_diff=[0.0, -0.7], dse=[0.0, 1.0], elbo=[-3.0, -6.0], num_data=10
    )
    assert drawn.containers[0].lines[0].get_xdata() == pytest.approx([0, -0.07])
    assert drawn.containers[1].lines[0].get_xdata() == pytest.approx([-0.2, -0.5])
    assert drawn.get_xlabel() == "held-out elpd less the best (nats per datum, 10 rows)"
    assert drawn.get_title(loc="left") == "a: elpd −0.10 ± 0.10 nats per datum"


def test_refits_are_drawn_where_there_are_several():
    ax = plots.plot_comparison(["a", "b", "c"], [-1.0, -2.0, -3.0], [1.0] * 3, refits=[[-1.0], [-1.5, -2.5], [-3.0]])
    drawn = [c.lines[0].get_xdata().tolist() for c in ax.containers if c.get_label() == "refits"]
    assert drawn == [[-0.5, -1.5]]


def test_khat_counts_what_lies_above():
    values = np.array([0.1, 0.68, 0.75, np.inf])
    assert (
        plots.plot_khat(values, 1000).get_title(loc="left") == "75% of 4 data above 0.67, the limit for 1,000 samples"
    )
    assert plots.plot_khat(values, 5000).get_title(loc="left") == "50% of 4 data above 0.7"
    both = plots.plot_khat({"before": values, "after": values / 10})
    assert both.get_title(loc="left") == "before: 50% above 0.7\nafter: 25% above 0.7"
    assert plots.plot_khat([np.inf, np.inf]).get_title(loc="left") == "100% of 2 data above 0.7"


def test_coverage_says_what_was_counted():
    ax = plots.plot_coverage([0.5, 0.9], [0.4, 0.8], 500, of="hidden entries")
    assert ax.get_ylabel() == "coverage (share of hidden entries)"
    assert "95% of 500 hidden entries" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_log_weights_are_centerd_at_the_evidence():
    weights = normal(500, 3, scale=0.5) - np.array([100.0, 900.0, 10.0])
    ax = plots.plot_log_weights(weights)
    shifted = np.exp(weights - weights.max(0))
    gap = (np.log(shifted.mean(0)) + weights.max(0) - weights.mean(0)).mean()
    effective = np.median(shifted.sum(0) ** 2 / (shifted**2).sum(0))
    assert f"ELBO, {gap:.2f} nats below" in [text.get_text() for text in ax.get_legend().get_texts()]
    assert ax.get_title(loc="left") == f"median effective draws: {effective:,.0f} of 500"


def test_weights_of_zero_make_the_bound_minus_infinity():
    ax = plots.plot_log_weights(np.array([0.0, 0.0, -np.inf, 0.0]))
    assert ax.get_title(loc="left") == "median effective draws: 3 of 4; ELBO: minus infinity"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["all data", "log p̂(x)"]


# Calibration -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num", "draws", "curves"), [(300, 99, 1), (200, 9, 1), (500, 999, 1), (300, 99, 4)])
def test_the_band_holds_uniform_ranks_as_often_as_it_says(num, draws, curves):
    """The false alarms of 2,000 repetitions are binomial: outside 95 % by 1.6 % has a chance of 1 in 1,000 here."""
    positions = np.unique(np.linspace(0, draws - 1, min(draws, 50)).round())
    lower, upper = ecdf_band(num, (positions + 1) / (draws + 1), 0.95, curves)
    ranks = np.random.default_rng(7).integers(0, draws + 1, (2000, curves, num))
    shares = (np.sort(ranks, axis=-1)[..., None, :] <= positions[:, None]).mean(-1)
    held = ((shares >= lower) & (shares <= upper)).all((-1, -2)).mean()
    assert 0.934 < held < 0.975


def sbc_words(ranks, **more):
    return plots.plot_sbc_ecdf(ranks, 99, **more).get_title(loc="left")


def test_ranks_outside_the_band_are_counted():
    rng = np.random.default_rng(2)
    good, bad = rng.integers(0, 100, 800), np.clip(rng.normal(50, 20, 800), 0, 99).round()
    assert sbc_words(good) == "all 1 inside the joint 95% band"
    assert sbc_words({"z": good, "log_joint": bad}) == "1 of 2 outside the joint 95% band"
    many = plots.plot_sbc_ecdf({"z": rng.integers(0, 100, (800, 4, 5)), "log_joint": bad}, 99, prob=0.99)
    names = [text.get_text() for text in many.get_legend().get_texts()]
    assert names == ["joint 99% band", "log_joint", "20 inside"]
    assert len(many.lines) == 22  # 21 quantities and the zero line
    few = plots.plot_sbc_ecdf({"log_joint": bad, "z": rng.integers(0, 100, (800, 10))}, 99)  # those of ten latents
    assert len({line.get_color() for line in few.lines if not line.get_label().startswith("_")}) == 11
    worse = plots.plot_sbc_ecdf({"z": np.tile(bad[:, None], 14)}, 99)
    names = [text.get_text() for text in worse.get_legend().get_texts()]
    assert names == ["joint 95% band", *(f"z[{index}]" for index in range(12)), "2 more outside"]


def test_curves_are_exact_differences():
    ax = plots.plot_sbc_ecdf(np.array([0, 1, 1, 3]), 3)
    assert ax.lines[1].get_xdata().tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert ax.lines[1].get_ydata().tolist() == [0, 0, 0.25, 0, 0]


def test_pit_sees_a_distribution_too_wide():
    uniform = np.linspace(0.001, 0.999, 400)
    assert plots.plot_pit(uniform).get_title(loc="left").startswith("all 1 inside")
    assert plots.plot_pit(0.5 + 0.5 * (uniform - 0.5)).get_title(loc="left").startswith("1 of 1 outside")


def test_coverage_of_many_quantities_is_one_bundle():
    ax = plots.plot_coverage(np.linspace(0.1, 0.9, 5), np.linspace(0.1, 0.9, 5)[:, None] * np.ones(20))
    assert ax.get_title(loc="left") == "20 quantities, a line each"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["calibrated"]


@pytest.mark.parametrize(
    ("observed", "said"),
    [
        (2.5, "p = 0.5 of 4 draws"),
        (9.0, "p < 0.25 of 4 draws"),
        (0.0, "p = 1 of 4 draws"),
        (4.0, "p = 0.25 of 4 draws"),
    ],
)
def test_the_predictive_p_value_counts_draws_at_least_as_large(observed, said):
    assert plots.plot_predictive([1.0, 2.0, 3.0, 4.0], observed).get_title(loc="left") == said


def test_the_forest_shows_quantiles():
    draws = np.linspace(0, 100, 101)[:, None] * np.array([1.0, 2.0])
    ax = plots.plot_posterior_comparison({"guide": draws}, prob=0.9)
    wide, half = (np.array(lines.get_segments())[:, :, 0] for lines in ax.collections[:2])
    assert np.allclose(wide, [[5, 95], [10, 190]])
    assert np.allclose(half, [[25, 75], [50, 150]])
    assert np.allclose(ax.lines[0].get_xdata(), [50, 100])


def test_columns_of_few_whole_numbers_have_a_bar_each():
    """Shares of 0, 1 and 2, whatever the draws beyond; a column of levels has the names of its levels."""
    axes = plots.plot_columns({"visits": [0, 1, 1, 2]}, {"visits": [0, 0, 2, 2]})
    data, drawn = axes[0].patches
    assert data.get_data().values.tolist() == [0.25, 0.5, 0.25]
    assert drawn.get_data().values.tolist() == [0.5, 0, 0.5]
    assert data.get_data().edges.tolist() == [-0.5, 0.5, 1.5, 2.5]
    levels = plots.plot_columns({"pet": [0, 1]}, {"pet": [1, 1]}, levels={"pet": ["cat", "dog"]})
    assert [label.get_text() for label in levels[0].get_xticklabels()] == ["cat", "dog"]


def test_columns_beyond_the_most_are_left_out():
    columns = {f"c{number}": np.arange(5.0) for number in range(5)}
    assert len(plots.plot_columns(columns, columns, max_columns=2)) == 2


def test_a_map_of_neighbors_parts_posteriors_of_unequal_width():
    """Rows whose means agree and whose standard deviations do not: neighbors on the map are of the same group."""
    group = np.arange(60) % 2
    drawn = plots.plot_latent(0.01 * normal(60, 3), sd=np.where(group, 2.0, 0.1)[:, None] * np.ones((60, 3)))
    points = np.asarray(drawn.collections[0].get_offsets())
    distances = ((points[:, None] - points) ** 2).sum(-1) + np.diag(np.full(60, np.inf))
    assert (group[distances.argmin(1)] == group).all()
