"""Tipping points against the tilted normal, whose mean is known."""

import math
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from pyrovae.data import as_data
from pyrovae.evaluation.imputed import Imputation
from pyrovae.uses import tipping_points


def normal_draws(mean=1.0, sd=0.5, draws=200_000):
    """Three of five entries of column a are missing, all with the same normal; column b is complete."""
    x = torch.tensor([[0.0, 1.0], [2.0, 2.0], [torch.nan, 3.0], [torch.nan, 4.0], [torch.nan, 5.0]]).double()
    torch.manual_seed(0)
    drawn = x.expand(draws, 5, 2).clone()
    drawn[:, 2:, 0] = mean + sd * torch.randn(draws, 3).double()
    nothing = torch.zeros(5)
    return Imputation(drawn, nothing, nothing, replace(as_data(x), columns=("a", "b")))


def test_a_tilted_normal_moves_by_the_strength_times_its_variance_over_the_columns_sd():
    found = tipping_points(normal_draws(), strengths=(-1, 0.5)).dataset
    assert found.strength.values.tolist() == [-1.0, 0.0, 0.5]
    assert found.column.values.tolist() == ["a"]
    exact = 1.0 + np.array([-1.0, 0.0, 0.5]) * 0.25  # the observed entries 0 and 2 have standard deviation 1
    np.testing.assert_allclose(found.missing_mean.values[:, 0], exact, atol=0.005)
    np.testing.assert_allclose(found["mean"].values[:, 0], (2 + 3 * exact) / 5, atol=0.003)
    np.testing.assert_allclose(found.ess.values[:, 0] / 200_000, np.exp(-np.array([1, 0, 0.25]) * 0.25), rtol=0.02)


def test_the_crossing_is_the_strength_nearest_to_zero():
    found = tipping_points(normal_draws())
    mean = (2 + 3 * 1.0) / 5
    assert found.crossing(mean)["a"] == pytest.approx(0.0, abs=0.02)
    assert found.crossing(mean + 3 / 5 * 0.25 * 0.4)["a"] == pytest.approx(0.4, abs=0.02)
    assert math.isnan(found.crossing(3.0)["a"])


def test_the_figure_leaves_out_means_of_few_effective_draws():
    found = tipping_points(normal_draws(sd=2.0, draws=200), strengths=(-2, 1))
    assert found.dataset.ess.values[0, 0] < 20 < found.dataset.ess.values[1, 0]
    y = found.plot().lines[0].get_ydata()
    assert np.isnan(y[0])
    assert y[1] == 0
    plt.close("all")
    assert found.to_frame().shape == (3, 1)


def test_complete_columns_and_several_sites_are_refused():
    whole = normal_draws(draws=3)
    complete = replace(whole, data=replace(whole.data, x=whole.draws[0]))
    with pytest.raises(ValueError, match="no entry of a column of numbers is missing"):
        tipping_points(complete)
    with pytest.raises(ValueError, match="takes the imputation of one data site"):
        tipping_points(replace(whole, draws={"x": whole.draws}))
