"""Choosing among models: the number of latents that made the data, halving, resumption, refusals."""

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from oracles import PPCA

import pyrovae as pvae
from pyrovae.checks.training import Rise
from pyrovae.comparison import Comparison, Pointwise
from pyrovae.evaluation import Mixture
from pyrovae.uses import Choice, choose, choosing
from pyrovae.uses.choosing import _places, _rungs


def linear(latent_dim):
    """Linear networks without hidden layers: probabilistic PCA with a mean-field guide."""
    likelihood = pvae.Factorized(dist.Normal, pvae.MLP(latent_dim, ()), 8)
    return pvae.VAE(
        pvae.standard_normal(latent_dim), likelihood, pvae.Factorized(dist.Normal, pvae.MLP(8, ()), latent_dim)
    )


def test_the_number_of_latents_that_made_the_data_is_chosen():
    x = PPCA.random(2, 8, noise=0.1, seed=3, dtype=torch.float32).simulate(300)
    options = {"fit_options": {"learning_rate": 3e-2, "batch_size": 60}, "method": "importance", "progress": False}
    found = choose(linear, x, {"latent_dim": [1, 2, 3, 4, 5]}, budget=500, refits=2, **options)
    assert found.chosen == {"latent_dim": 2}
    assert len(found.comparison.frame) == 4
    assert found.trials["stayed"].sum() == 4
    by_stay = found.trials.groupby("stayed")["log_p"]
    assert by_stay.min()[True] >= by_stay.max()[False]
    assert "latent_dim=2" in repr(found)


@pytest.mark.parametrize(
    ("count", "expected"), [(4, []), (5, [(4, 20)]), (16, [(8, 3), (4, 6)]), (31, [(16, 1), (8, 2), (4, 4)])]
)
def test_each_rung_gets_an_equal_share_of_the_budget(count, expected):
    assert _rungs(count, 100) == expected


def results(spread, refits=2, mcse=0.0):
    generator = np.random.default_rng(0)
    log_p = generator.normal(size=200)
    shifts = np.linspace(-spread, spread, refits)
    models = {"small": [Pointwise(log_p + shift, mcse=np.full(200, mcse)) for shift in shifts]}
    models["large"] = [Pointwise(log_p + 0.1 + shift) for shift in shifts]
    options = {"small": {"latent_dim": 2, "prior": "a"}, "large": {"latent_dim": 8, "prior": "a"}}
    return Choice({}, "small", pd.DataFrame(), Comparison.of(models, "stacking"), options)


@pytest.mark.parametrize(("spread", "apart"), [(0.035, True), (0.036, False)])
def test_two_finalists_are_told_apart_beyond_two_errors_of_rows_and_refits(spread, apart):
    """The difference is 20 without an error over rows; the means of two refits that lie d apart have variance d^2 / 4 each."""
    assert (2 * np.sqrt(2 * (400 * spread) ** 2 / 4) < 20) == apart
    assert results(spread).told_apart("small", "large") == apart
    assert results(spread, mcse=0.1).error("small", "small") == 0.0


def test_the_figure_is_evidence_against_latent_size_with_error_bars():
    found = results(0.036)
    ax = found.plot()
    (bars,) = ax.containers
    middle, _, (lines,) = bars.lines
    np.testing.assert_allclose(middle.get_xdata().astype(float), [2, 8])
    frame = found.comparison.frame.loc[["small", "large"], "elpd"] / 200
    np.testing.assert_allclose(middle.get_ydata().astype(float), frame)
    ends = [segment[:, 1] for segment in lines.get_segments()]
    np.testing.assert_allclose(np.ptp(ends, axis=1), [4 * found.error("small", "large") / 200, 0.0], atol=1e-12)
    assert ends[0][1] > frame["large"]  # not told apart: the bar reaches the line of the best
    assert ax.get_xlabel() == "latent_dim"
    assert [text.get_text() for text in ax.get_xticklabels()] == ["2", "8"]
    assert ax.get_title(loc="left") == "chosen: small"


@pytest.mark.parametrize(
    ("models", "axis", "series"),
    [
        (
            {"a": {"n": 1, "p": "x"}, "b": {"n": 3, "p": "x"}, "c": {"n": 1, "p": "y"}},
            "n",
            {"p=x": ["a", "b"], "p=y": ["c"]},
        ),
        ({"a": {"n": 1}, "b": {"n": 3}}, "n", {"": ["a", "b"]}),
        ({"a": {"p": "x"}, "b": {"p": "y"}}, "", {"": ["a", "b"]}),
        ({"a": {"n": 1, "p": "x"}, "b": {"n": 1, "p": "y"}}, "", {"": ["a", "b"]}),
        ({"a": {"f": True, "s": 0.5}, "b": {"f": False, "s": 2}}, "s", {"f=True": ["a"], "f=False": ["b"]}),
    ],
)
def test_the_axis_is_the_first_option_of_several_numbers(models, axis, series):
    at, label, found, ticks = _places(models)
    assert (label, found) == (axis, series)
    expected = {name: one[axis] for name, one in models.items()} if axis else {"a": 0, "b": 1}
    assert at == expected
    assert list(ticks) == sorted(set(expected.values()))


def test_beta_is_chosen_by_the_evidence_and_not_by_the_loss_that_it_defines():
    """At beta 0 the loss is the lowest, since nothing holds the guide to the prior; the first of the grid would win a tie."""
    x = PPCA.random(2, 8, noise=0.1, seed=3, dtype=torch.float32).simulate(200)

    def make(beta):
        vae = linear(2)
        return pvae.beta(vae.model, beta), pvae.beta(vae.guide, beta)

    losses = [
        pvae.fit(make(beta), x, epochs=30, learning_rate=3e-2, seed=0, progress=False)["loss"][-1] for beta in (0, 1)
    ]
    assert losses[0] < losses[1]
    options = {"budget": 120, "refits": 2, "fit_options": {"learning_rate": 3e-2, "batch_size": 60}, "progress": False}
    options["method"] = "importance"
    found = choose(make, x, {"beta": [0.0, 1.0]}, **options)
    assert found.chosen == {"beta": 1.0}
    same = {**options, "fit_options": {"learning_rate": 1e-12, "start_at_data": False}}
    untrained = choose(make, x, {"beta": [0.0, 1.0]}, **same)
    np.testing.assert_array_equal(*untrained.comparison.frame["elpd"].to_numpy().reshape(2, 1))


FEW = Mixture(starts=4, candidates=4, components=1, num_steps=4)
BRIEF = {"budget": 16, "refits": 2, "num_samples": 20, "method": FEW, "progress": False}


def test_a_stopped_search_goes_on(tmp_path, monkeypatch):
    x, trained = torch.randn(60, 8), []
    plan = {**BRIEF, "resume": tmp_path}

    def stopped(program, *given, **options):
        trained.append(program.prior.event_shape[0])
        if len(trained) == 3:
            raise KeyboardInterrupt
        return pvae.fit(program, *given, **options)

    monkeypatch.setattr("pyrovae.uses.choosing.fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        choose(linear, x, {"latent_dim": [1, 2]}, **plan)
    resumed = choose(linear, x, {"latent_dim": [1, 2]}, **plan)
    assert trained == [1, 1, 2, 2, 2]
    whole = choose(linear, x, {"latent_dim": [1, 2]}, **{**plan, "resume": None})
    np.testing.assert_array_equal(resumed.comparison.frame["elpd"], whole.comparison.frame["elpd"])
    assert resumed.name == whole.name


def test_another_program_of_the_same_name_is_not_resumed(tmp_path):
    def wide(latent_dim):
        vae = linear(latent_dim)
        likelihood = pvae.Factorized(dist.Normal, pvae.MLP(latent_dim, ()), 8, scale=3.0)
        return pvae.VAE(vae.prior, likelihood, vae.posterior)

    x = torch.randn(60, 8)
    found = [choose(make, x, {"latent_dim": [1, 2]}, resume=tmp_path, **BRIEF) for make in (linear, wide)]
    elpd = [one.comparison.frame["elpd"].sort_index() for one in found]
    assert (elpd[0] - elpd[1]).abs().min() > 1


@pytest.mark.parametrize(("more", "short"), [((0.3, 0.3), True), ((0.3, 0.0), False), ((0.05, 0.05), False)])
def test_trainings_that_were_too_short_are_said_with_their_epochs(monkeypatch, more, short):
    """By most of the refits, where a rise of .1 nats is worth more epochs."""
    rises = iter([Rise(0.0, each, 0.1) for each in more] * 2)
    monkeypatch.setattr(choosing, "late_rise", lambda history: next(rises) if history["validation_elbo"][0] else None)
    found = choose(linear, torch.randn(60, 8), {"latent_dim": [1, 2]}, **BRIEF)
    assert found.epochs == 2
    assert "each refit had 2 epochs" in repr(found)
    assert found.rising == ({"latent_dim=1": pytest.approx(0.3), "latent_dim=2": pytest.approx(0.3)} if short else {})
    assert ("latent_dim=1 by about 0.3, latent_dim=2 by about 0.3; models" in repr(found)) == short


def test_a_damaged_file_is_done_again_and_the_rest_is_kept(tmp_path, monkeypatch):
    x, trained = torch.randn(60, 8), []
    whole = choose(linear, x, {"latent_dim": [1, 2]}, resume=tmp_path, **BRIEF)
    damaged = sorted(tmp_path.glob("*.npz"))[0]
    damaged.write_bytes(damaged.read_bytes()[:100])

    def counting(program, *given, **options):
        trained.append(program)
        return pvae.fit(program, *given, **options)

    monkeypatch.setattr("pyrovae.uses.choosing.fit", counting)
    again = choose(linear, x, {"latent_dim": [1, 2]}, resume=tmp_path, **BRIEF)
    assert len(trained) == 1
    np.testing.assert_array_equal(again.comparison.frame["elpd"], whole.comparison.frame["elpd"])
    assert again.rising == whole.rising


@pytest.mark.parametrize(
    ("grid", "budget", "message"), [({}, 10, "grid is empty"), ({"latent_dim": [1, 2]}, 3, "no epoch each")]
)
def test_what_cannot_be_chosen_is_refused(grid, budget, message):
    with pytest.raises(ValueError, match=message):
        choose(linear, torch.randn(20, 8), grid, budget=budget, progress=False)
