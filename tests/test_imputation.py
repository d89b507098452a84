"""Imputations cell by cell, multiple imputation, and Rubin's rules."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from guided import MissingPPCA
from scipy import stats

import pyrovae as pvae
from pyrovae.data import as_data
from pyrovae.evaluation import Imputation
from pyrovae.uses import multiple_imputation, pool

NAN = float("nan")


def table():
    frame = pd.DataFrame(
        {"size": [1.5, NAN, 2.5, 3.75], "pet": ["cat", "dog", None, None]}, index=["ann", "bob", "cy", "di"]
    )
    return as_data(frame, kinds={"size": "real", "pet": "category"})


def imputation():
    """Four draws of the three holes: sizes 1 to 4 for bob, dogs for cy but once, as many cats as dogs for di."""
    data = table()
    draws = data.x.expand(4, 4, 2).clone()
    draws[:, 1, 0] = torch.arange(1.0, 5.0).to(draws)
    draws[:, 2, 1] = torch.tensor([1, 1, 0, 1]).to(draws)
    draws[:, 3, 1] = torch.tensor([0, 1, 0, 1]).to(draws)
    return Imputation(draws, torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.ones(4), data)


def test_numbers_have_means_and_intervals_in_their_units():
    cell = imputation().to_frame(level=0.5).loc[("bob", "size")]
    assert cell.estimate == 2.5
    assert (cell.low, cell.high) == tuple(np.quantile([1, 2, 3, 4], [0.25, 0.75]))
    assert cell.sd == pytest.approx(np.std([1, 2, 3, 4]))
    assert cell.pareto_k == pytest.approx(0.2)
    assert np.isnan(cell.probability)


def test_levels_have_modes_by_name_with_their_probability():
    frame = imputation().to_frame(draws=True)
    assert list(frame.index) == [("bob", "size"), ("cy", "pet"), ("di", "pet")]
    cell = frame.loc[("cy", "pet")]
    assert (cell.estimate, cell.probability) == ("dog", 0.75)
    assert cell[["sd", "low", "high"]].isna().all()
    assert list(cell[[f"draw {number}" for number in range(4)]]) == ["dog", "dog", "cat", "dog"]


def test_a_table_completed_once_holds_the_estimates():
    done = imputation().completed()
    assert done.complete
    assert done.to_frame().loc["bob", "size"] == 2.5
    assert done.to_frame().loc["cy", "pet"] == "dog"
    assert done.x[0].tolist() == table().x[0].tolist()


def test_complete_data_have_no_cells():
    data = as_data(torch.ones(3, 2))
    done = Imputation(torch.ones(5, 3, 2), torch.ones(3), torch.ones(3), data)
    assert len(done.to_frame()) == 0
    assert "0 missing entries in 3 rows" in done._repr_html_()


def test_a_notebook_shows_what_was_put_into_the_holes():
    assert repr(imputation()) == "Imputation(3 missing entries in 4 rows, 4 draws each)"
    shown = imputation()._repr_html_()
    assert all(words in shown for words in ("bob", "<td>2.5</td>", "<td>dog</td>"))


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_level_is_a_share(level):
    with pytest.raises(ValueError, match="between 0 and 1"):
        imputation().to_frame(level=level)


def test_intervals_are_those_of_the_exact_conditional():
    program = MissingPPCA.random(latent=2, data=4, noise=0.5)
    x = program.simulate(3)
    x[:, 1] = torch.nan
    frame = pvae.impute(program, x, num_samples=20_000, num_proposals=4000, seed=0).to_frame(level=0.8)
    joint, rest = program.marginal(), [0, 2, 3]
    weights = torch.linalg.solve(joint.covariance_matrix[rest][:, rest], joint.covariance_matrix[rest, 1])
    mean = (joint.mean[1] + (x[:, rest] - joint.mean[rest]) @ weights).detach().numpy()
    sd = (joint.covariance_matrix[1, 1] - joint.covariance_matrix[1, rest] @ weights).sqrt().item()
    np.testing.assert_allclose(frame.estimate.astype(float), mean, atol=0.05)
    np.testing.assert_allclose(frame.sd, sd, rtol=0.05)
    np.testing.assert_allclose(frame.high - frame.low, 2 * stats.norm.ppf(0.9) * sd, rtol=0.05)


def mean_program(mean):
    """Rows around a mean, with a standard deviation of 0.1; the latent says nothing."""

    def model(x, size=None):
        likelihood, filled = pvae.missing.observed(dist.Normal(mean, 0.1).expand([len(x), 1]).to_event(1), x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", likelihood, obs=filled)

    def guide(x, size=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    return model, guide


def test_tables_spread_with_the_weights_too():
    """The variance of an entry between tables: that of its noise, and that of the mean of rows drawn with replacement."""
    x = torch.cat([torch.linspace(-1, 1, 9), torch.tensor([NAN])])[:, None]
    seeds = []

    def refit(rows, seed):
        seeds.append(seed)
        assert len(rows) == len(x)
        return mean_program(rows.x.nanmean())

    tables = multiple_imputation(refit, x, num_tables=300, num_proposals=25, seed=0, progress=False)
    assert len(set(seeds)) == 300
    assert all(torch.equal(t.x[:9], x[:9]) for t in tables)
    values = torch.stack([t.x[9, 0] for t in tables])
    assert values.var().item() == pytest.approx(0.1**2 + x[:9].var(correction=0).item() / 9, rel=0.35)
    again = multiple_imputation(refit, x, num_tables=2, num_proposals=25, seed=0, progress=False)
    assert torch.equal(again[1].x, tables[1].x)


def test_refits_take_the_rows_of_training_where_they_are_others():
    train, sizes = torch.randn(30, 1), []

    def refit(rows, seed):
        sizes.append(len(rows))
        return mean_program(rows.x.mean())

    (one,) = multiple_imputation(refit, torch.tensor([[NAN], [2.0]]), train=train, num_tables=1, seed=0, progress=False)
    assert sizes == [30]
    assert one.x[1] == 2.0


def test_refits_draw_whole_groups_where_there_are_groups():
    """Ten patients of three rows each, alike within a patient: the mean of a refit spreads as that of ten numbers."""
    levels = torch.arange(10.0)
    train = as_data(levels.repeat_interleave(3)[:, None], labels={"patient": [f"p{n // 3}" for n in range(30)]})
    means = []

    def refit(rows, seed):
        counts = rows.x[:, 0].long().bincount(minlength=10)
        assert len(rows) == 30
        assert (counts % 3 == 0).all()
        means.append(rows.x.mean().item())
        return mean_program(rows.x.mean())

    options = {"num_proposals": 25, "seed": 0, "progress": False}
    for groups, number in (("patient", 300), (train.labels["patient"], 20)):
        multiple_imputation(refit, torch.tensor([[NAN]]), train=train, groups=groups, num_tables=number, **options)
    assert means[:20] == means[300:]
    assert np.var(means[:300]) == pytest.approx(levels.var(correction=0).item() / 10, rel=0.3)


def test_pooled_numbers_are_those_of_the_formulas():
    """Rubin 1987 and Barnard & Rubin 1999, written out for one coefficient of five tables of 48 degrees of freedom."""
    q, se, m, complete = [0.8, 1.1, 0.9, 1.3, 1.0], [0.20, 0.22, 0.21, 0.19, 0.23], 5, 48
    within, between = sum(s**2 for s in se) / m, sum((v - 1.02) ** 2 for v in q) / (m - 1)
    total = within + 1.2 * between
    share = 1.2 * between / total
    old, observed = (m - 1) / share**2, (complete + 1) / (complete + 3) * complete * (1 - share)
    df = old * observed / (old + observed)
    riv = 1.2 * between / within
    half = stats.t.ppf(0.95, df) * math.sqrt(total)
    expected = [1.02, math.sqrt(total), df, 1.02 - half, 1.02 + half, (riv + 2 / (df + 3)) / (1 + riv), riv]
    fits = [{"x": v} for v in q], [{"x": s} for s in se]
    found = pool(list(zip(*fits, strict=True)), df=complete, level=0.9).loc["x"]
    np.testing.assert_allclose(found, expected)
    results = [
        SimpleNamespace(params=pd.Series({"x": v}), bse=pd.Series({"x": s}), df_resid=48.0)
        for v, s in zip(q, se, strict=True)
    ]
    np.testing.assert_allclose(pool(results, level=0.9).loc["x"], expected)


def test_tables_that_agree_lose_nothing():
    found = pool([([2.0, -1.0], [0.5, 0.1])] * 4, df=20)
    assert found.riv.tolist() == [0, 0]
    np.testing.assert_allclose(found.se, [0.5, 0.1])
    np.testing.assert_allclose(found.df, 20 * 21 / 23)
    assert np.isinf(pool([([2.0], [0.5])] * 4).df).all()


@pytest.mark.parametrize(
    ("fits", "words"),
    [
        ([([1.0], [0.5])], "at least 2 completed tables, got 1"),
        ([([1.0], [0.5]), ([1.0, 2.0], [0.5, 0.5])], "the same coefficients"),
        ([([1.0], [0.5]), ([1.0], [0.0])], "positive standard errors"),
        ([([1.0], [0.5]), ([1.0], [-0.5])], "positive standard errors"),
    ],
)
def test_what_cannot_be_pooled_is_refused(fits, words):
    with pytest.raises(ValueError, match=words):
        pool(fits)


def test_columns_are_drawn_in_their_units():
    axes = imputation().plot_columns()
    assert [panel.get_xlabel() for panel in axes] == ["size", "pet"]
    assert [label.get_text() for label in axes[1].get_xticklabels()] == ["cat", "dog"]


def test_calibration_by_column_is_in_its_units():
    program = MissingPPCA.random(latent=2, data=4, noise=0.5, exact=True)
    data = as_data(pd.DataFrame(program.simulate(300).numpy(), columns=list("abcd")))
    found = pvae.checks.imputation_calibration(program, data, hidden=0.2, num_proposals=400, seed=0)
    table = found.to_frame()
    assert set(table.index) == set("abcd")
    assert table["hidden"].sum() == len(found.ranks)
    for name, part in table.iterrows():
        here = found.dataset["column"].values == name
        assert part["rmse"] == pytest.approx(np.sqrt((found.error[here] ** 2).mean()))
        assert part["rmse"] < part["rmse of the mean"]
        assert 0.75 < part["coverage"] <= 1.0
        assert part["p_value"] > 1e-4
    assert table["wrong"].isna().all()


def test_levels_that_modes_miss_are_counted():
    found = pvae.checks.imputation.dataset_of(
        {
            "ranks": np.array([0, 1, 2, 3]),
            "row": np.arange(4),
            "error": np.zeros(4),
            "baseline": np.zeros(4),
            "column": np.array(["pet", "pet", "size", "size"]),
            "wrong": np.array([1.0, 0.0, np.nan, np.nan]),
        },
        np.zeros(4),
        *(5, 100, 0),
    )
    table = pvae.checks.ImputationCalibration(found, None).to_frame()
    assert table["wrong"].tolist()[0] == 0.5
    assert table["rmse"].isna().tolist() == [True, False]
