"""Contrasts of two groups of rows: closed forms, Welch's interval, donors as units, covariates set, false discoveries counted."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import PPCA
from scipy import stats

import pyrovae as pvae
from pyrovae.uses import contrast
from pyrovae.uses.contrasts import judge, summarized
from pyrovae.uses.estimands import ESTIMANDS, Drawn, Estimate, beyond, joined, moderated


def rows(program, count=2, seed=1):
    x = program.simulate(count, seed=seed)
    return x[: count // 2], x[count // 2 :]


def exact(program, x):
    """Mean and covariance of the decoded mean of one row."""
    posterior = program.posterior(x)
    mean = posterior.loc @ program.weight.T + program.mean
    return mean.detach(), (program.weight @ posterior.covariance_matrix @ program.weight.T).detach()


@pytest.mark.parametrize("estimand", ["mean", "population"])
@pytest.mark.parametrize("guide", [{"exact": True}, {"guide_scale": 1.5, "guide_shift": 0.1}])
def test_one_row_a_side_has_the_closed_form_whatever_the_guide(estimand, guide):
    program = PPCA.random(2, 5, noise=0.5, seed=2, **guide)
    a, b = rows(program)
    (mean_a, cov_a), (mean_b, cov_b) = exact(program, a), exact(program, b)
    mean, sd = (mean_a - mean_b)[0].numpy(), (cov_a + cov_b)[0].diagonal().sqrt().numpy()
    options = {"num_samples": 4000, "num_proposals": 8000, "estimand": estimand}
    found = contrast(program, a, b, delta=0.6, seed=0, **options)
    np.testing.assert_allclose(found.difference, mean, atol=float(5 * sd.max() / 4000**0.5))
    np.testing.assert_allclose(found.sd, sd, rtol=0.08)
    law = stats.norm(mean, sd)
    np.testing.assert_allclose(found.p_changed, law.cdf(-0.6) + law.sf(0.6), atol=0.04)
    np.testing.assert_allclose(found.p_positive, law.sf(0), atol=0.04)
    np.testing.assert_allclose([found.low, found.high], law.interval(0.95), atol=0.15 * sd.max())
    prior = stats.norm(0, np.sqrt(2 * (program.weight @ program.weight.T).diagonal().detach().numpy()))
    odds = law.cdf(-0.6) + law.sf(0.6), 2 * prior.sf(0.6)
    factor = [np.log(p / (1 - p)) for p in odds]
    sure = (odds[0] > 0.1) & (odds[0] < 0.9)
    assert sure.any()
    np.testing.assert_allclose(found.log_bayes_factor[sure], (factor[0] - factor[1])[sure], atol=0.3)


def donors(seed, sides=2, count=4, cells=15, size=150, noise=1e-3):
    """A program whose latents are known from the data, and rows of donors that differ, without an effect of the side."""
    program = PPCA(torch.eye(size, dtype=torch.float64), noise, exact=True)
    generator = torch.Generator().manual_seed(seed)
    center = torch.randn(sides * count, 1, size, generator=generator, dtype=torch.float64) * 0.5
    x = center + 0.5 * torch.randn(sides * count, cells, size, generator=generator, dtype=torch.float64)
    labels = np.repeat(np.arange(count), cells)
    return program, *x.flatten(0, 1).chunk(sides), labels


def test_with_donors_as_units_the_interval_is_welchs():
    program, a, b, labels = donors(0, size=20)
    options = {"quantity": lambda latents, _: latents["z"], "groups": (labels, labels), "num_proposals": 200}
    found = contrast(program, a, b, delta=1.0, seed=0, **options)
    means = [(x / (1 + 1e-3)).reshape(4, 15, -1).mean(1).numpy() for x in (a, b)]
    expected = stats.ttest_ind(*means, equal_var=False).confidence_interval()
    np.testing.assert_allclose(found.difference, means[0].mean(0) - means[1].mean(0), atol=0.05)
    np.testing.assert_allclose(found.low, expected.low, atol=0.12)
    np.testing.assert_allclose(found.high, expected.high, atol=0.12)


def test_without_an_effect_one_in_twenty_is_called_with_donors_as_units_and_most_without():
    """Of 450 features without an effect, 4 donors a side: within three standard errors of Welch's own level here, 4.0 %."""
    wrong = {True: [], False: []}
    for seed in range(3):
        program, a, b, labels = donors(seed)
        for known in wrong:
            options = {"quantity": lambda latents, _: latents["z"], "num_samples": 20, "num_proposals": 60}
            groups = (labels, labels) if known else None
            found = contrast(program, a, b, delta=0.5, seed=seed, groups=groups, **options)
            wrong[known].append((found.low > 0) | (found.high < 0))
    rates = {known: np.concatenate(parts).mean() for known, parts in wrong.items()}
    assert abs(rates[True] - 0.04) < 3 * math.sqrt(0.04 * 0.96 / 450)
    assert rates[False] > 0.4


@pytest.mark.parametrize("quantity", ["mean", "log_mean"])
def test_what_the_model_smooths_away_of_units_enters_by_their_data(quantity):
    """The decoder says the same of every row, so that all that donors differ by lies in their data: Welch's interval of these."""
    middle = torch.full((20,), 5.0, dtype=torch.float64)
    program = PPCA(torch.zeros(20, 2, dtype=torch.float64), 1.0, mean=middle, exact=True)
    _, a, b, labels = donors(0, size=20)
    a, b = a + 5.0, b + 5.0
    options = {"quantity": quantity, "delta": 0.05, "num_samples": 5, "num_proposals": 50, "seed": 0}
    found = contrast(program, a, b, groups=(labels, labels), **options)
    means = [x.reshape(4, 15, -1).mean(1).numpy() for x in (a, b)]
    means = [(one - 5.0) / 5.0 for one in means] if quantity == "log_mean" else means
    expected = stats.ttest_ind(*means, equal_var=False).confidence_interval()
    np.testing.assert_allclose(found.difference, means[0].mean(0) - means[1].mean(0), atol=0.05)
    scale = 0.2 if quantity == "log_mean" else 1.0
    np.testing.assert_allclose(found.low, expected.low, atol=0.12 * scale)
    np.testing.assert_allclose(found.high, expected.high, atol=0.12 * scale)
    alone = contrast(program, a, b, **options)  # rows as units: of the model alone
    assert abs(alone.sd).max() < 1e-9


def test_a_pair_of_the_population_takes_every_unit_equally_often():
    """Two units of 1 and 9 rows at 0 and 1: a random row of a random unit is at 1/2 on average, a random row at .9."""
    program = PPCA(torch.eye(1, dtype=torch.float64), 1e-6, exact=True)
    a, b = torch.tensor([[0.0]] + [[1.0]] * 9).double(), torch.zeros(10, 1).double()
    options = {"delta": 0.5, "estimand": "population", "num_proposals": 100, "seed": 0}
    grouped = contrast(program, a, b, groups=([0] + [1] * 9, range(10)), **options)
    assert grouped.p_changed == pytest.approx(0.5, abs=0.04)
    assert contrast(program, a, b, **options).p_changed == pytest.approx(0.9, abs=0.03)


def test_one_unit_has_no_spread():
    program, a, b, labels = donors(0, count=2, size=2)
    options = {"delta": 0.5, "num_proposals": 50, "seed": 0}
    one = np.zeros(len(a), dtype=int)
    for groups in ((one, labels), (labels, one)):
        with pytest.raises(ValueError, match="one side has one unit"):
            contrast(program, a, b, groups=groups, **options)
    assert contrast(program, a, b, groups=(one, labels), estimand="population", **options).p_changed.shape == (2,)
    assert contrast(program, a, b, groups=(labels, labels), **options).p_changed.shape == (2,)


class Shifted(PPCA):
    """The mean moves by one for each step of a covariate."""

    def model(self, x=None, covariates=None, size=None):
        shift = covariates["batch"][..., None]
        with pyro.plate("data", len(shift), dim=-1):
            z = pyro.sample("z", dist.Normal(self.weight.new_zeros(self.latent_dim), 1.0).to_event(1))
            loc = z @ self.weight.T + shift
            return pyro.sample("x", dist.Normal(loc, math.sqrt(self.noise)).to_event(1), obs=x)

    def guide(self, x, covariates=None, size=None):
        return super().guide(x - covariates["batch"][..., None])


def test_covariates_can_be_set_and_averaged_over():
    program = Shifted(torch.ones(1, 1, dtype=torch.float64), 1e-4, exact=True)
    x, zeros = torch.randn(6, 1).double(), torch.zeros(6).double()
    a, b = pvae.data.as_data(x, {"batch": zeros}), pvae.data.as_data(x + 1, {"batch": zeros + 1})
    options = {"delta": 0.1, "num_samples": 50, "num_proposals": 200, "seed": 0}
    assert contrast(program, a, b, **options).difference == pytest.approx(-1.0, abs=0.05)
    assert contrast(program, a, b, under={"batch": 0.0}, **options).difference == pytest.approx(0.0, abs=0.05)
    square = {"quantity": lambda latents, likelihood: likelihood.mean**2, **options}
    averaged = contrast(program, a[:1], b[1:2], under=[{"batch": 0.0}, {"batch": 2.0}], **square)
    expected = [(z**2 + (z + 2) ** 2) / 2 for z in x[:2, 0].tolist()]
    assert averaged.difference == pytest.approx(expected[0] - expected[1], abs=0.1)
    with pytest.raises(ValueError, match="under must be one of batch"):
        contrast(program, a, b, under={"batches": 0.0}, **options)


def test_refits_add_their_spread():
    weight = torch.ones(1, 1, dtype=torch.float64)
    fits = [PPCA(scale * weight, 1e-4, exact=True) for scale in (1.0, 1.0)]
    a, b = torch.full((5, 1), 1.0).double(), torch.zeros(5, 1).double()
    options = {"delta": 0.1, "num_samples": 50, "num_proposals": 200, "seed": 0}
    options["quantity"] = lambda latents, _: latents["z"]
    alone = contrast(fits[0], a, b, **options)
    fits[1].weight.data *= 2
    both = contrast(fits, a, b, **options)
    assert alone.difference == pytest.approx(1.0, abs=0.01)
    assert both.difference == pytest.approx(0.75, abs=0.01)
    assert both.sd == pytest.approx(0.25, abs=0.01)
    assert both.refits == 2
    assert (alone.holds, both.holds) == (1, 2)
    assert "Of these 1 hold in 2 of 2 refits" in both.summary()
    assert "refits" not in alone.summary()


@pytest.mark.parametrize(("scale", "holds"), [(-3.0, 2), (100.0, 2)])
def test_a_feature_holds_in_the_fits_that_call_it_on_the_same_side(scale, holds):
    """Of three fits the third has the effect on the other side, or next to none of it."""
    fits = [PPCA(one * torch.ones(1, 1, dtype=torch.float64), 1e-4, exact=True) for one in (1.0, 1.0, scale)]
    a, b = torch.full((5, 1), 1.0).double(), torch.zeros(5, 1).double()
    options = {"delta": 0.1, "num_samples": 50, "num_proposals": 200, "seed": 0}
    found = contrast(fits, a, b, quantity=lambda latents, _: latents["z"], **options)
    assert found.holds == holds


def test_the_expected_false_discoveries_are_the_mean_over_all_surer_features():
    drawn = np.zeros((10, 3))
    drawn[:9, 1], drawn[:5, 2], drawn[:, 0] = 2.0, -2.0, 2.0
    found = summarized(Drawn(drawn), np.tile([0.0, 2.0], (3, 5)).T, 1.0, 0.9)
    np.testing.assert_allclose(found["p_changed"], [1.0, 0.9, 0.5])
    np.testing.assert_allclose(found["fdr"], [0.0, 0.05, 0.2])
    np.testing.assert_allclose(found["log_bayes_factor"], np.log([10.5 / 0.5, 9.5 / 1.5, 1.0]))


def dataset(units=3, bad_k=0.05, fdr=0.05, estimand="mean"):
    import xarray as xr

    attributes = {"delta": 0.5, "units_a": units, "units_b": 9, "refits": 1, "estimand": estimand, "bad_k": bad_k}
    return xr.Dataset({"fdr": ("feature", [fdr, 0.9])}, attrs=attributes | {"num_proposals": 1000})


@pytest.mark.parametrize(
    ("options", "about"),
    [
        ({}, ["contrast"]),
        ({"units": 2}, ["contrast", "units"]),
        ({"units": 2, "estimand": "population"}, ["contrast"]),
        ({"bad_k": 0.051}, ["contrast", "draws"]),
    ],
)
def test_what_stands_against_a_contrast(options, about):
    assert [finding.about for finding in judge(dataset(**options))] == about


@pytest.mark.parametrize(("fdr", "called"), [(0.05, "1 of 2"), (0.0501, "0 of 2")])
def test_features_are_called_up_to_five_percent_of_false_ones(fdr, called):
    assert judge(dataset(fdr=fdr))[0].claim.startswith(called)


def test_names_table_and_figure():
    import pandas as pd

    program = PPCA.random(2, 3, noise=0.01, seed=2, exact=True)
    frame = pd.DataFrame(program.simulate(8).numpy(), columns=["a", "b", "c"])
    found = contrast(program, frame[:4], frame[4:], delta=0.5, num_proposals=100, seed=0)
    assert set(found.to_frame().index) == {"a", "b", "c"}
    assert set(found.changed(1.0)) == {"a", "b", "c"}
    assert "features called changed" in found.plot().get_title(loc="left")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delta": 0.0}, "delta > 0"),
        ({"delta": math.nan}, "delta > 0"),
        ({"estimand": "median"}, "estimand must be one of mean, population"),
        ({"quantity": "median"}, "quantity must be one of mean, log_mean"),
        ({"groups": ([0], [1])}, "expected a unit for each of 3 rows of a, got 1"),
        ({"groups": "donor"}, "the name of a label, and the rows have none"),
        ({"quantity": lambda latents, _: latents["z"][0]}, "expected .draws, rows, features."),
    ],
)
def test_what_cannot_be_contrasted_is_refused(options, message):
    program = PPCA.random(2, 3, exact=True)
    a, b = rows(program, 6)
    with pytest.raises(ValueError, match=message):
        contrast(program, a, b, **{"delta": 0.5, "num_samples": 5, "num_proposals": 20, **options})


@pytest.mark.parametrize(("prior", "spread"), [(6.0, 2.0), (np.inf, 0.5)])
def test_moderated_variances_know_how_much_variances_differ(prior, spread):
    """Variances of 20,000 features from a scaled inverse chi-squared distribution, or all equal; three degrees of freedom."""
    generator = np.random.default_rng(0)
    true = np.full(20_000, spread) if np.isinf(prior) else prior * spread / generator.chisquare(prior, 20_000)
    seen = true * generator.chisquare(3, 20_000) / 3
    found, df = moderated(seen, 3)
    if np.isinf(prior):
        assert df > 100
        np.testing.assert_allclose(found, spread, rtol=0.2)
    else:
        assert df == pytest.approx(3 + prior, rel=0.1)
        np.testing.assert_allclose(found, (prior * spread + 3 * seen) / (prior + 3), rtol=0.1)


def test_under_the_estimated_prior_the_probability_is_that_of_the_normal_posterior():
    generator = np.random.default_rng(0)
    true = generator.normal(size=5000)
    loc = true + 0.5 * generator.normal(size=5000)
    found = beyond(Estimate(loc, np.full(5000, 0.5), np.full(5000, 1e6)), 0.4)
    posterior = stats.norm(0.8 * loc, 0.2**0.5)
    assert np.abs(found - posterior.sf(0.4) - posterior.cdf(-0.4)).max() < 0.03


@pytest.mark.parametrize("changed", [0, 20])
def test_of_few_units_at_most_a_twentieth_of_the_calls_is_false(changed):
    """Two hundred features of normal units, four a side, as a contrast takes them; the flat prior calls a quarter falsely."""
    false = {True: [], False: []}
    for seed in range(25):
        generator = np.random.default_rng(seed)
        truth = np.where(np.arange(200) < changed, 0.9 * generator.choice([-1, 1], 200), 0.0)
        sides = [generator.normal(truth * side, 0.27, (4, 200)) for side in (1, 0)]
        for known in false:
            values = [side[:, None].repeat(2, 1) for side in sides]
            drawn = ESTIMANDS["mean"](values, [np.arange(4)] * 2, [None, None], 500, generator, known)
            called = summarized(drawn, np.ones((2, 200)), 0.25, 0.95)["fdr"] <= 0.05
            false[known].append((called & (truth == 0)).sum() / max(called.sum(), 1))
            assert not known or not changed or (called & (truth != 0)).sum() > 12
    assert np.mean(false[True]) < 0.05 + 3 * np.std(false[True]) / 25**0.5
    assert np.mean(false[False]) > 0.2


@pytest.mark.parametrize(("features", "shares"), [(19, False), (20, True)])
def test_twenty_features_tell_of_each_other(features, shares):
    generator = np.random.default_rng(0)
    values = [generator.normal(size=(4, 2, features)) for _ in range(2)]
    given = values, [np.arange(4)] * 2, [None, None], 10, generator
    assert (ESTIMANDS["mean"](*given, True).estimate is not None) == shares
    assert ESTIMANDS["mean"](*given, False).estimate is None
    fits = [ESTIMANDS["mean"](*given, True)] * 2
    both = joined([fits[0], fits[1]._replace(estimate=None)])
    assert both.estimate is None
    assert both.difference.shape == (20, features)


def test_a_constant_feature_and_one_that_is_no_number_tell_the_others_nothing():
    rng = np.random.default_rng(0)
    variance = rng.chisquare(3, 200) / 3
    alone, df = moderated(variance, 3)
    for constant in (0.0, 1e-18):
        found, same = moderated(np.append(variance, constant), 3)
        assert same == pytest.approx(df)
        np.testing.assert_allclose(found[:-1], alone)
    loc = np.append(np.zeros(30), 3.0)
    estimate = Estimate(loc, np.full(31, 0.3), np.full(31, 20.0))
    wrong = Estimate(np.append(loc, np.nan), np.append(estimate.scale, np.inf), np.append(estimate.df, 20.0))
    found = beyond(wrong, 0.5)
    np.testing.assert_allclose(found[:-1], beyond(estimate, 0.5))
    assert np.isnan(found[-1])
