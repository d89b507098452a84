"""Power-scaling of prior and likelihood: the closed form of a linear Gaussian model row by row, and ArviZ's own."""

import math
import warnings

import numpy as np
import pytest
import torch
from oracles import PPCA
from scipy import stats

import pyrovae as pvae
from pyrovae.checks import power_scaling
from pyrovae.checks.sensitivity import cumulative_distance, judge

REACH = stats.norm.isf(1 / 40_000)
"""Standard deviations that the outermost of 40,000 draws lies off."""


def program(**guide):
    return PPCA.random(2, 4, noise=4.0, seed=1, **guide)


def scaled(ppca, x, prior=1.0, likelihood=1.0):
    """Means and standard deviations of the posterior with both raised to powers."""
    weight, noise = ppca.weight.detach().numpy(), ppca.noise
    covariance = np.linalg.inv(prior * np.eye(2) + likelihood * weight.T @ weight / noise)
    means = likelihood * (x - ppca.mean).detach().numpy() @ weight @ covariance / noise
    return means, np.sqrt(np.diag(covariance))


@pytest.mark.parametrize("guide", [{"exact": True}, {"guide_scale": 1.3, "guide_shift": 0.2}])
def test_the_closed_form_row_by_row_whatever_the_guide(guide):
    ppca = program(**guide)
    x = ppca.simulate(6) * torch.tensor([0.2, 0.5, 1.0, 2.0, 3.0, 4.0]).double()[:, None]
    found = power_scaling(ppca, x, num_samples=40_000, seed=0)
    mean, sd = scaled(ppca, x)
    slope = math.log(2) * (mean @ np.linalg.inv(ppca.precision().detach().numpy())) / sd
    np.testing.assert_allclose(found.prior_shift["z"], -slope, atol=0.03)
    np.testing.assert_allclose(found.likelihood_shift["z"], slope, atol=0.03)
    assert (found.pareto_k < 0.7).all()
    if not guide.get("exact"):  # whose draws reach further: the distance is over their range
        return
    values = torch.linspace(-REACH, REACH, 20_001).double()[:, None, None].expand(-1, 6, 2)
    grid = values * torch.as_tensor(sd) + torch.as_tensor(mean)
    for kind in ("prior", "likelihood"):
        powers = (1, 1.01, 1 / 1.01)
        base, *others = (normal_weights(*scaled(ppca, x, **{kind: power}), mean, sd, values) for power in powers)
        pairs = [
            [cumulative_distance(grid[..., [j]], base[..., j], other[..., j])[:, 0] for j in range(2)]
            for other in others
        ]
        expected = sum(torch.stack(pair, 1) for pair in pairs) / (2 * math.log2(1.01))
        np.testing.assert_allclose(getattr(found, kind)["z"], expected, rtol=0.1)


def normal_weights(mean, sd, center, width, values):
    """The masses that a normal gives to a grid of its base."""
    grid = values.numpy() * width + center
    density = np.exp(-0.5 * ((grid - mean) / sd) ** 2)
    return torch.as_tensor(density / density.sum(0))


def test_of_a_row_and_an_exact_guide_arviz_says_the_same():
    import arviz as az

    ppca = program(exact=True)
    x = 3 * ppca.simulate(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        groups = ("posterior", "log_likelihood", "log_prior")
        idata = pvae.from_pyro_svi(ppca, x, num_samples=8000, groups=groups, seed=0, progress=False)
    found = power_scaling(ppca, x, num_samples=8000, seed=1)
    for row in range(2):
        one = idata.sel(data=[row])
        for kind in ("prior", "likelihood"):
            if hasattr(az, "psens"):
                expected = az.psens(one, component=kind)["z"].values.reshape(-1)
            else:
                expected = az.psense(one, group_var_names=None)["z"].values.reshape(-1)
            np.testing.assert_allclose(getattr(found, kind)["z"][row], expected, rtol=0.1, atol=0.01)
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(torch.as_tensor(idata["posterior"]["z"].values)).sum(-1)
    np.testing.assert_allclose(idata["log_prior"]["z"].values, log_prior)


def test_the_distance_of_equal_weights_is_zero_and_of_separate_ones_is_known():
    """Two points, all weight on one or the other: P jumps at the first, Q at the second, so that the distance is one."""
    values = torch.tensor([0.0, 1.0]).double()[:, None, None]
    first, second = torch.tensor([[1.0], [0.0]]).double(), torch.tensor([[0.0], [1.0]]).double()
    assert cumulative_distance(values, first, first).item() == 0.0
    assert cumulative_distance(values, first, second).item() == pytest.approx(1.0)


def numbers(prior=0.06, likelihood=0.06, k=0.1, torn=2):
    import xarray as xr

    rows = np.arange(20)[:, None]
    values = {"prior": np.where(rows < torn, prior, 0.0), "likelihood": np.where(rows < torn, likelihood, 0.0)}
    made = {name: (("data", "latent"), value) for name, value in values.items()}
    return xr.Dataset(made | {"pareto_k": ("data", np.where(rows[:, 0] < 2, k, 0.1))}, attrs={"num_samples": 1000})


@pytest.mark.parametrize(
    ("options", "tones", "words"),
    [
        ({}, ["open"], "Prior and data both move a latent in 2 of 20"),
        ({"torn": 1}, ["good"], "both move a latent in 1 of 20"),
        (
            {"prior": 0.05},
            ["good"],
            "both move a latent in 0 of 20 rows (0 %); the prior alone, the data saying little, in 0",
        ),
        ({"likelihood": 0.05}, ["good"], "in 0 of 20 rows (0 %); the prior alone, the data saying little, in 2 of 20"),
        ({"k": 0.68, "torn": 0}, ["good", "caution"], "in 0 of 20"),
    ],
)
def test_what_is_said(options, tones, words):
    findings = judge(numbers(**options))
    assert [finding.tone for finding in findings] == tones
    assert words in findings[0].claim


def test_figure_and_refusal():
    ppca = program(exact=True)
    found = power_scaling(ppca, ppca.simulate(5), num_samples=100, seed=0)
    assert "sensitive to the prior" in found.plot().get_title(loc="left")
    with pytest.raises(ValueError, match="delta between 0 and 1"):
        power_scaling(ppca, ppca.simulate(5), delta=0.0)
