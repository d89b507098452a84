"""Choosing among models: the number of latents that made the data, halving, resumption, refusals."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from oracles import PPCA

import pyrovae as pvae
from pyrovae.comparison import Comparison, Pointwise
from pyrovae.uses import Choice, choose
from pyrovae.uses.choosing import _rungs


def linear(latent_dim):
    """Linear networks without hidden layers: probabilistic PCA with a mean-field guide."""
    likelihood = pvae.Factorized(dist.Normal, pvae.MLP(latent_dim, ()), 8)
    return pvae.VAE(
        pvae.standard_normal(latent_dim), likelihood, pvae.Factorized(dist.Normal, pvae.MLP(8, ()), latent_dim)
    )


def test_the_number_of_latents_that_made_the_data_is_chosen():
    x = PPCA.random(2, 8, noise=0.1, seed=3, dtype=torch.float32).simulate(300)
    options = {"learning_rate": 3e-2, "batch_size": 60}
    found = choose(
        linear, x, {"latent_dim": [1, 2, 3, 4, 5]}, budget=500, refits=2, fit_options=options, progress=False
    )
    assert found.chosen == {"latent_dim": 2}
    assert len(found.comparison.frame) == 4
    assert found.trials["stayed"].sum() == 4
    assert "latent_dim=2" in repr(found)


@pytest.mark.parametrize(
    ("count", "expected"), [(4, []), (5, [(4, 20)]), (16, [(8, 3), (4, 6)]), (31, [(16, 1), (8, 2), (4, 4)])]
)
def test_each_rung_gets_an_equal_share_of_the_budget(count, expected):
    assert _rungs(count, 100) == expected


def results(spread, refits=2):
    generator = np.random.default_rng(0)
    log_p = generator.normal(size=200)
    shifts = np.linspace(-spread, spread, refits)
    models = {"small": [Pointwise(log_p + shift) for shift in shifts]}
    models["large"] = [Pointwise(log_p + 0.1 + shift) for shift in shifts]
    return Choice({}, "", None, Comparison.of(models, "stacking"), ("small", "large"))


@pytest.mark.parametrize(("spread", "apart"), [(0.035, True), (0.036, False)])
def test_two_finalists_are_told_apart_beyond_two_errors_of_rows_and_refits(spread, apart):
    """The difference is 20 without an error over rows; the means of two refits that lie d apart have variance d^2 / 4 each."""
    assert (2 * np.sqrt(2 * (400 * spread) ** 2 / 4) < 20) == apart
    assert results(spread).told_apart("small", "large") == apart


def test_a_stopped_search_goes_on(tmp_path):
    x, made = torch.randn(60, 8), []

    def make(latent_dim):
        made.append(latent_dim)
        if len(made) == 3:
            raise KeyboardInterrupt
        return linear(latent_dim)

    plan = {"budget": 16, "refits": 2, "num_samples": 20, "progress": False, "resume": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        choose(make, x, {"latent_dim": [1, 2]}, **plan)
    resumed = choose(make, x, {"latent_dim": [1, 2]}, **plan)
    assert made == [1, 1, 2, 2, 2]
    whole = choose(linear, x, {"latent_dim": [1, 2]}, **{**plan, "resume": None})
    np.testing.assert_array_equal(resumed.comparison.frame["elpd"], whole.comparison.frame["elpd"])
    assert resumed.name == whole.name


@pytest.mark.parametrize(
    ("grid", "budget", "message"), [({}, 10, "grid is empty"), ({"latent_dim": [1, 2]}, 3, "no epoch each")]
)
def test_what_cannot_be_chosen_is_refused(grid, budget, message):
    with pytest.raises(ValueError, match=message):
        choose(linear, torch.randn(20, 8), grid, budget=budget, progress=False)
