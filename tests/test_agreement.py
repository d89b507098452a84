"""Latents over refits: matched by permutation and sign, whole spaces up to rotations, and which feature each latent moves."""

import numpy as np
import pytest
import torch
from oracles import PPCA

import pyrovae as pvae
from pyrovae.uses import agreement, latent_effects
from pyrovae.uses.agreement import judge, matched
from pyrovae.uses.effects import judge as judge_effects

WEIGHT = torch.tensor([[2.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, -1.0, 0.5], [0.0, 0.0, 1.0]], dtype=torch.float64)


def fits(*turns, noise=0.01):
    """Refits that differ by a matrix of the latents alone: the same p(x) for an orthogonal one."""
    programs = [PPCA(WEIGHT @ torch.as_tensor(turn, dtype=torch.float64), noise, exact=True) for turn in turns]
    return programs, programs[0].simulate(400)


SWAPPED = [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
ROTATION = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]


def test_a_permutation_with_signs_is_undone():
    programs, x = fits(np.eye(3), SWAPPED, np.eye(3))
    found = agreement(programs, x, seed=0)
    np.testing.assert_array_equal(found.matched["z"], [[1, 0, 2], [0, 1, 2]])
    np.testing.assert_allclose(found.correlation["z"], [[-1, 1, 1], [1, 1, 1]], atol=1e-6)
    np.testing.assert_array_equal(found.holds["z"], [3, 3, 3])
    np.testing.assert_allclose([found.cca, found.r2, found.neighbors], 1.0, atol=1e-6)
    assert [finding.tone for finding in found.findings()] == ["good", "good"]
    assert "z[0] in 3 of 3" in found.summary()
    weight = WEIGHT.numpy()
    spread = np.linalg.inv(np.eye(3) + weight.T @ weight / 0.01)
    means = programs[0].posterior(x).loc.detach().numpy()
    exact = 0.5 * (np.diag(spread) + (means**2).mean(0) - 1 - np.log(np.diag(spread)))
    np.testing.assert_allclose(found.kl["z"], np.tile(exact, (3, 1)), atol=0.02)  # of the latent that is matched


def test_a_rotation_leaves_neighbors_and_linear_maps_alone_and_no_single_latent():
    programs, x = fits(np.eye(3), ROTATION)
    found = agreement(programs, x, seed=0)
    np.testing.assert_allclose([found.cca, found.r2], 1.0, atol=1e-6)
    np.testing.assert_allclose(found.neighbors, 1.0, atol=1e-6)
    assert (found.holds["z"] < 2).any()
    assert [finding.tone for finding in found.findings()] == ["caution", "good"]
    expected = np.abs(
        np.corrcoef(programs[0].posterior(x).loc.T.detach(), programs[1].posterior(x).loc.T.detach())[:3, 3:]
    )
    assert np.abs(found.correlation["z"]).sum() == pytest.approx(best_sum(expected))


def best_sum(table):
    from itertools import permutations

    return max(sum(table[j, k] for j, k in enumerate(order)) for order in permutations(range(3)))


def test_programs_of_other_data_share_neighbors_by_chance_alone():
    """The latents of one are those entries of the data that the other does not read."""
    programs = [PPCA(weight.double(), 0.01, exact=True) for weight in torch.eye(6).split(3, 1)]
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)).double()
    found = agreement(programs, x, seed=0)
    assert found.chance == pytest.approx(10 / 499)
    assert found.neighbors == pytest.approx(found.chance, abs=0.01)
    assert found.r2 < 0.05
    assert [finding.tone for finding in found.findings()] == ["caution", "caution"]


def test_a_latent_that_carries_nothing_is_found_in_no_fit():
    weight = WEIGHT.clone()
    weight[:, 2] = 0.0
    program = PPCA(weight, 0.01, exact=True)
    found = agreement([program, program], program.simulate(100), seed=0)
    np.testing.assert_array_equal(found.holds["z"], [2, 2, 0])
    np.testing.assert_array_equal(found.matched["z"], [[0, 1, -1]])
    assert "z[2]" not in found.summary()
    np.testing.assert_array_equal(np.isnan(found.kl["z"]), [[False] * 3, [False, False, True]])


def test_more_latents_than_the_other_has_stay_unmatched():
    values = np.random.default_rng(0).normal(size=(50, 3))
    number, correlation = matched(values, -values[:, [2, 0]])
    np.testing.assert_array_equal(number, [1, -1, 0])
    np.testing.assert_allclose(correlation, [-1, 0, -1])


def numbers(correlation=0.9, r2=0.9):
    import xarray as xr

    holds = 1 + int(abs(correlation) >= 0.9)
    values = {"holds": ("latent", [holds]), "r2": ("refit", [r2]), "neighbors": ("refit", [0.5])}
    return xr.Dataset(values, {"latent": ["z"]}, {"refits": 2, "chance": 0.1})


@pytest.mark.parametrize(
    ("options", "tones"),
    [
        ({}, ["good", "good"]),
        ({"correlation": 0.89}, ["caution", "good"]),
        ({"r2": 0.89}, ["good", "open"]),
        ({"correlation": 0.89, "r2": 0.89}, ["caution", "caution"]),
    ],
)
def test_what_is_said_of_refits(options, tones):
    assert [finding.tone for finding in judge(numbers(**options))] == tones


@pytest.mark.parametrize(
    ("programs", "options", "message"),
    [(1, {}, "two refits"), (2, {"num_neighbors": 399}, "more than 400 rows"), (2, {"num_neighbors": 0}, "at least 1")],
)
def test_what_cannot_agree_is_refused(programs, options, message):
    made, x = fits(*[np.eye(3)] * programs)
    with pytest.raises(ValueError, match=message):
        agreement(made, x, **options)


def test_of_a_linear_decoder_the_effects_are_its_weights():
    (program,), x = fits(np.eye(3))
    found = latent_effects(program, x, seed=0)
    sd = (program.posterior(x).loc.var(0) + program.posterior(x).covariance_matrix[0].diagonal()).sqrt()
    expected = (WEIGHT * sd).T.detach()
    np.testing.assert_allclose(found.effect, expected, rtol=0.03, atol=1e-6)
    np.testing.assert_allclose(
        found.traversal, np.multiply.outer([-2, -1, 1, 2], found.effect).swapaxes(0, 1), atol=1e-6
    )
    np.testing.assert_allclose([found.low, found.high], [found.effect] * 2, atol=1e-6)
    assert np.isnan(found.refit_sd).all()


def test_refits_are_matched_before_effects_are_averaged():
    programs, x = fits(np.eye(3), SWAPPED)
    alone = latent_effects(programs[0], x, seed=0, steps=(-1.0, 1.0, 3.0))
    both = latent_effects(programs, x, seed=0, steps=(-1.0, 1.0, 3.0))
    np.testing.assert_allclose(both.effect, alone.effect, rtol=0.03, atol=1e-6)
    np.testing.assert_allclose(both.traversal[:, :2], alone.traversal[:, :2], rtol=0.03, atol=1e-6)
    assert np.isnan(both.traversal[0, 2]).all(), "a turned latent has no step of -3"
    assert np.isfinite(both.traversal[1:, 2]).all()
    np.testing.assert_array_equal(both.matched, [2, 2, 2])
    assert (both.refit_sd < 0.05).all()
    assert both.same_sign[np.abs(both.effect) > 0.1].min() == 2


def test_slopes_are_derivatives_and_traversals_finite_differences_at_the_rows():
    (program,), x = fits(np.eye(3), noise=1e-8)
    z = program.posterior(x).loc.detach().numpy()
    found = latent_effects(program, x, seed=0, quantity=lambda latents, _: torch.sin(latents["z"]), steps=(0.5, 2.0))
    sd = z.std(0)
    np.testing.assert_allclose(found.effect, np.diag(np.cos(z).mean(0) * sd), atol=1e-3)
    for number, step in enumerate((0.5, 2.0)):
        moved = (np.sin(z + step * sd) - np.sin(z)).mean(0)
        np.testing.assert_allclose(found.traversal[:, number], np.diag(moved), atol=1e-3)
    np.testing.assert_allclose(np.diag(found.sd), (np.cos(z) * sd).std(0), atol=2e-3)
    np.testing.assert_allclose(np.diag(found.high), np.quantile(np.cos(z), 0.975, axis=0) * sd, atol=5e-3)


def test_of_an_additive_decoder_an_input_does_the_same_wherever_the_others_are():
    torch.manual_seed(0)
    net = pvae.networks.Additive(2, 8, 4)
    moved = net(torch.tensor([[1.0, -2.0], [1.0, 5.0]])) - net(torch.tensor([[0.0, -2.0], [0.0, 5.0]]))
    torch.testing.assert_close(moved[0], moved[1])
    assert moved[0].abs().min() > 1e-3


def test_the_table_and_the_words_name_what_moves_most():
    import pandas as pd

    (program,), x = fits(np.eye(3))
    frame = pd.DataFrame(x.numpy(), columns=["a", "b", "c", "d"])
    found = latent_effects(program, frame, seed=0)
    first = found.to_frame().iloc[0]
    assert (first["entry"], first["feature"]) == ("z[0]", "a")
    assert "z[0] moves most, per standard deviation: a +" in found.summary()
    assert found.plot().get_ylabel() == "latent"


@pytest.mark.parametrize(("matched_in", "tone"), [(2, "good"), (1, "caution")])
def test_a_latent_that_a_refit_lacks_is_not_to_be_named(matched_in, tone):
    import xarray as xr

    values = {"effect": (("entry", "feature"), [[1.0]]), "matched": ("entry", [matched_in])}
    found = xr.Dataset(values, {"entry": ["z"], "feature": ["a"]}, {"refits": 2})
    assert [finding.tone for finding in judge_effects(found)] == [tone]


def test_what_has_no_effects_is_refused():
    from oracles import GammaPoisson

    with pytest.raises(ValueError, match="real line"):
        latent_effects(GammaPoisson(), GammaPoisson().simulate(20), seed=0)
    (program,), x = fits(np.eye(3))
    with pytest.raises(ValueError, match="steps other than 0"):
        latent_effects(program, x, steps=(0.0, 1.0))
