"""Draws of a model before any fit, beside the columns of the data."""

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import pyrovae as pvae
from pyrovae.checks import prior_predictive
from pyrovae.checks.prior import dataset_of, judge_columns
from pyrovae.missing import observed


def normals(loc, scale):
    """Rows around a location, the entries independent: the prior predictive distribution is known."""
    loc, scale = torch.as_tensor(loc), torch.as_tensor(scale)

    def model(x=None, size=None):
        rows = len(x) if size is None else size
        with pyro.plate("data", rows):
            pyro.sample("z", dist.Normal(torch.zeros(rows), 1.0))
            likelihood = dist.Normal(loc, scale).expand([rows, len(loc)]).to_event(1)
            if x is None:
                return pyro.sample("x", likelihood)
            likelihood, filled = observed(likelihood, x)
            return pyro.sample("x", likelihood, obs=filled)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    return model, guide


def test_quantiles_are_those_of_the_model_and_of_the_data_in_their_units():
    frame = pd.DataFrame({"height [cm]": np.linspace(150, 190, 200), "share": np.linspace(0, 1, 200)})
    found = prior_predictive(normals([170.0, 0.5], [10.0, 0.2]), frame, num_samples=50, seed=0)
    assert found.dataset["column"].values.tolist() == ["height [cm]", "share"]
    expected = 170 + 10 * stats.norm.ppf([0.05, 0.5, 0.95])
    np.testing.assert_allclose(found.predicted[0], expected, atol=0.7)
    np.testing.assert_allclose(found.observed[0], np.quantile(frame["height [cm]"], [0.05, 0.5, 0.95]), atol=1e-3)
    table = found.to_frame()
    assert table.loc["height [cm]", "draws, 0.5"] == found.predicted[0, 1]
    assert "cover all 2 columns" in found.summary()
    assert [axes.get_xlabel() for axes in found.plot()] == ["height [cm]", "share"]


def test_draws_lack_what_the_data_lack():
    x = torch.randn(40, 2)
    x[:10, 1] = torch.nan
    found = prior_predictive(normals([0.0, 0.0], [1.0, 1.0]), x, num_samples=3, seed=0)
    assert np.isnan(found.drawn[:10, :, 1]).all()
    assert np.isfinite(found.drawn[10:]).all()


def test_weights_stay_and_the_start_at_the_data_shows():
    frame = pd.DataFrame({"income": np.random.default_rng(0).normal(3e4, 5e3, 300)})
    data = pvae.data.as_data(frame)
    far = pvae.build_vae(1, likelihood="normal", latent_dim=1, hidden=(4,), seed=0)
    before = {name: value.clone() for name, value in far.state_dict().items()}
    assert "elsewhere in income" in prior_predictive(far, data, seed=0).summary()
    assert all(torch.equal(before[name], value) for name, value in far.state_dict().items())


@pytest.mark.parametrize(
    ("loc", "scale", "words"),
    [
        (0.0, 9.9, "cover all 1 columns"),
        (0.0, 10.2, "too wide in a"),
        (0.0, 0.102, "cover all 1 columns"),
        (0.0, 0.098, "too narrow in a"),
        (3.2, 1.0, "cover all 1 columns"),
        (3.4, 1.0, "elsewhere in a"),
    ],
)
def test_ranges_are_judged_by_their_width_and_place(loc, scale, words):
    """A normal column against the quantiles of another: the threshold of the place is where 90 % ranges of 1.645 sd end."""
    grid = stats.norm.ppf((np.arange(999) + 0.5) / 999)
    found = dataset_of(grid[:, None], loc + scale * grid[:, None, None], ["a"], {})
    (finding,) = judge_columns(found)
    assert words in finding.claim
    assert (finding.tone == "good") == words.startswith("cover")
    assert bool(finding.advice) == (finding.tone == "caution")


@pytest.mark.parametrize(("count", "tone"), [(25, "good"), (24, "caution")])
def test_shares_of_levels_are_judged_by_their_distance(count, tone):
    """Three quarters of the data are cats, and so many in a hundred of the draws."""
    x, drawn = np.repeat([0.0, 1.0], [75, 25])[:, None], np.repeat([0.0, 1.0], [count, 100 - count])[:, None, None]
    found = dataset_of(x, drawn, ["pet"], {"pet": ["cat", "dog"]})
    assert found["distance"].item() == pytest.approx((75 - count) / 100)
    (finding,) = judge_columns(found)
    assert finding.tone == tone
    assert ("levels of pet" in finding.claim) == (tone == "caution")
