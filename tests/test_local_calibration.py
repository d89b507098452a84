"""Local calibration: false alarms under an exact guide, power on a width and a lost correlation, rows outside."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import PPCA

from pyrovae.checks import local_calibration
from pyrovae.checks.local import judge

WEIGHT = torch.tensor([[1.0, 0.8], [0.9, 1.0], [0.3, -0.4]], dtype=torch.float64)


class Narrow(PPCA):
    """The guide's variances are .7 of the exact ones, everywhere or for rows with a positive first entry alone."""

    def __init__(self, weight, noise, where="everywhere"):
        super().__init__(weight, noise, exact=True)
        self.where = where

    def proposal(self, x):
        exact = self.posterior(x)
        narrow = torch.full_like(x[..., 0], 0.7) if self.where == "everywhere" else torch.where(x[..., 0] > 0, 0.4, 1.0)
        return dist.MultivariateNormal(exact.loc, narrow.to(x)[..., None, None] * exact.covariance_matrix)


def p_values(program, trainings, rows=1, simulations=500, **options):
    found = []
    for seed in range(trainings):
        x = program.simulate(rows, seed=1000 + seed)
        plan = {"num_simulations": simulations, "num_null": 99, "num_samples": 200, "seed": seed, "progress": False}
        found.append(local_calibration(program, x, **plan, **options).p_value)
    return np.concatenate(found)


def test_an_exact_guide_is_called_off_in_one_row_of_twenty():
    """60 trainings of one row each, which are independent: within two standard errors of 5 %."""
    p = p_values(PPCA(WEIGHT, 0.5, exact=True), 60, simulations=200)
    assert abs((p < 0.05).mean() - 0.05) < 2 * math.sqrt(0.05 * 0.95 / 60)
    assert 0.35 < p.mean() < 0.65


@pytest.mark.parametrize(
    ("program", "simulations"),
    [(Narrow(WEIGHT, 0.5), 2000), (PPCA(WEIGHT, 0.5), 2000)],
    ids=["variance x .7", "correlation"],
)
def test_a_wrong_guide_is_found_at_most_rows(program, simulations):
    """At the default number of simulations; of 1,000, a variance of .7 is found at 80 % of the rows."""
    p = p_values(program, 4, rows=10, simulations=simulations)
    assert (p < 0.05).mean() > 0.8


def test_the_rows_where_the_guide_is_off_are_told_from_those_where_it_is_right():
    program = Narrow(WEIGHT, 0.5, "positive")
    x = program.simulate(400)
    far = x[x[:, 0].abs() > 1.0][:60]
    found = local_calibration(program, far, num_simulations=4000, num_samples=300, seed=0)
    wrong = far[:, 0].numpy() > 0
    assert (found.p_value[wrong] < 0.05).mean() > 0.9
    assert np.median(found.statistic[wrong]) > 4 * np.median(found.statistic[~wrong])


def test_rows_that_the_model_does_not_simulate_are_outside():
    program = PPCA(WEIGHT, 0.5, exact=True)
    x = torch.cat([program.simulate(20), torch.tensor([[9.0, -9.0, 9.0]]).double()])
    found = local_calibration(program, x, num_simulations=300, num_null=20, num_samples=100, seed=0)
    assert found.distance_p[-1] == pytest.approx(1 / 301)
    assert (found.distance_p[:20] < 0.01).sum() <= 1
    assert [finding.about for finding in found.findings()][-1] == "rows outside"
    assert "rows below 0.05" in found.plot().get_title(loc="left")


def test_the_null_is_fitted_once_whatever_the_number_of_rows(monkeypatch):
    """One ridge regression of the class and of all permuted classes, side by side."""
    from sklearn.linear_model import Ridge

    fitted, fit = [], Ridge.fit
    monkeypatch.setattr(Ridge, "fit", lambda self, x, y: fitted.append(y.shape) or fit(self, x, y))
    program = PPCA(WEIGHT, 0.5, exact=True)
    local_calibration(program, program.simulate(30), num_simulations=100, num_null=20, num_samples=50, seed=0)
    assert fitted == [(200, 21)]


def numbers(off, rows=40, p=0.049, distance=0.5):
    import xarray as xr

    values = np.where(np.arange(rows) < off, p, 0.5)
    return xr.Dataset({"p_value": ("data", values), "distance_p": ("data", np.full(rows, distance))})


@pytest.mark.parametrize(
    ("found", "tones"),
    [
        (numbers(4), ["good"]),
        (numbers(5), ["caution"]),
        (numbers(5, p=0.05), ["good"]),
        (numbers(1, rows=1), ["good"]),
        (numbers(2, rows=2), ["caution"]),
        (numbers(5, distance=0.01), ["caution"]),
        (numbers(5, distance=0.0099), ["good", "open"]),
    ],
)
def test_what_is_said(found, tones):
    assert [finding.tone for finding in judge(found)] == tones


def test_what_cannot_be_tested_is_refused():
    program = PPCA(WEIGHT, 0.5, exact=True)
    with pytest.raises(ValueError, match="num_simulations must be at least 20"):
        local_calibration(program, program.simulate(2), num_simulations=5)

    def weighed(x=None, size=None):
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.factor("penalty", -z.square().sum(-1))
            return pyro.sample("x", dist.Normal(z @ WEIGHT.T, 1.0).to_event(1), obs=x)

    with pytest.raises(ValueError, match="penalty"):
        local_calibration((weighed, program.guide), program.simulate(2))
