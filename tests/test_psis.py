"""Pareto smoothing against an independent implementation, ArviZ 0.23's psislw, and on rows without a usual tail."""

import math

import numpy as np
import pytest
import torch

from pyrovae.evaluation.psis import good_k, pareto_k, psis

ROWS = 60
KINDS = ["normal", "light", "heavy", "heavier", "huge", "uniform", "shifted", "minus infinity", "tied", "few"]


def log_weights(kind, samples=400):
    generator = torch.Generator().manual_seed(KINDS.index(kind))
    normal = torch.randn(samples, ROWS, generator=generator, dtype=torch.float64)
    uniform = torch.rand(samples, ROWS, generator=generator, dtype=torch.float64)
    scale = torch.linspace(0.1, 4.0, ROWS, dtype=torch.float64)
    return {
        "normal": normal,
        "light": 1e-3 * normal,
        "heavy": -scale * uniform.log(),
        "heavier": scale * normal * 10,
        "huge": scale * normal * 1000,
        "uniform": uniform.log(),
        "shifted": normal - 5000.0,
        "minus infinity": torch.where(uniform < 0.3, -torch.inf, normal),
        "tied": (normal * 3).round() / 3,
        "few": torch.where(uniform < 0.98, -torch.inf, normal),
    }[kind]


def arviz(lw, reff=1.0):
    az = pytest.importorskip("arviz")
    if not hasattr(az, "psislw"):
        pytest.skip("ArviZ 1.x has no psislw")
    with np.errstate(all="ignore"):
        smoothed, k = az.psislw(lw.T.numpy(), reff=reff)
    return torch.as_tensor(k), torch.as_tensor(smoothed).T


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("samples", [30, 101, 400, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_arviz(kind, samples):
    lw = log_weights(kind, samples)
    expected_k, expected = arviz(lw)
    result = psis(lw)
    torch.testing.assert_close(result.k, expected_k, rtol=0, atol=1e-10)
    # ties may be put in either order: the sets of weights are equal
    order = {"rtol": 1e-10, "atol": 1e-10, "equal_nan": True}
    torch.testing.assert_close(result.log_weights.sort(0).values, expected.sort(0).values, **order)
    if kind != "tied":
        torch.testing.assert_close(result.log_weights, expected, **order)
    torch.testing.assert_close(pareto_k(lw), result.k, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore")
def test_the_relative_efficiency_is_passed_on():
    lw = log_weights("heavy")
    torch.testing.assert_close(psis(lw, reff=0.4).k, arviz(lw, reff=0.4)[0], rtol=0, atol=1e-10)
    assert not torch.equal(psis(lw, reff=0.4).k, psis(lw).k)


def test_one_row_is_a_vector():
    lw = log_weights("heavy")
    whole, one = psis(lw), psis(lw[:, 3])
    torch.testing.assert_close(one.k, whole.k[3])
    torch.testing.assert_close(one.log_weights, whole.log_weights[:, 3])
    assert pareto_k(lw[:, 3]) == one.k


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_weights_are_perfect(dtype):
    """An exact guide, up to rounding: ArviZ says infinity here."""
    lw = torch.full((200, 4), -1234.5, dtype=dtype)
    lw[::2] *= 1 + 2 * torch.finfo(dtype).eps
    result = psis(lw)
    torch.testing.assert_close(result.k, torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(result.ess, torch.full((4,), 200.0, dtype=torch.float64), rtol=1e-3, atol=0)


def test_degenerate_rows_do_not_disturb_the_others():
    lw = log_weights("normal")
    clean = psis(lw)
    lw = lw.clone()
    lw[5, 0], lw[5, 1], lw[:, 2] = torch.nan, torch.inf, -torch.inf
    result = psis(lw)
    assert result.k[0].isnan()
    assert result.k[1:3].tolist() == [math.inf, math.inf]
    assert result.log_weights[:, :3].isnan().all()
    torch.testing.assert_close(result.k[3:], clean.k[3:], rtol=0, atol=0)
    torch.testing.assert_close(result.log_weights[:, 3:], clean.log_weights[:, 3:], rtol=0, atol=1e-12)


def test_too_few_samples_say_nothing():
    assert psis(log_weights("normal", 12)).k.tolist() == [math.inf] * ROWS


def test_weights_sum_to_one_and_bound_the_effective_size():
    result = psis(log_weights("heavy"))
    torch.testing.assert_close(result.log_weights.exp().sum(0), torch.ones(ROWS, dtype=torch.float64))
    assert ((result.ess >= 1) & (result.ess <= 400)).all()


def test_a_known_tail_is_recovered():
    """Weights u^-k have a Pareto tail of shape k: averages over 200 rows lie within 5 standard errors of it."""
    generator = torch.Generator().manual_seed(0)
    for k in (0.2, 0.5, 0.9):
        lw = -k * torch.rand(4000, 200, generator=generator, dtype=torch.float64).log()
        tail = math.ceil(3 * math.sqrt(4000))
        estimate = psis(lw).k
        expected = (tail * k + 5) / (tail + 10)
        assert abs(estimate.mean() - expected) < 5 * (1 + k) / math.sqrt(tail * 200) + 0.02


def test_the_threshold_depends_on_the_sample_size():
    assert good_k(100) == 0.5
    assert good_k(10**6) == 0.7


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3, 4)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        psis(torch.zeros(shape))
