"""Loadings, rotations, scores and item bias beside closed forms, scikit-learn's rotation and brute force."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

import pyrovae as pvae
from pyrovae.uses import factor_loadings, item_bias, rotate

RNG = np.random.default_rng(0)
SIMPLE = np.array([[0.8, 0.0], [0.7, 0.0], [0.6, 0.0], [0.0, 0.7], [0.0, 0.6], [0.0, 0.5]])


def linear_vae(weights, kinds, noise=0.5, groups=None, shifts=None):
    """A table's VAE whose decoder is set by hand: slopes ``(columns, latents)``, the noise of numbers, shifts of one group."""
    columns, latents = weights.shape
    frame = pd.DataFrame(RNG.normal(3.0, 2.0, (40, columns)), columns=[f"c{j}" for j in range(columns)])
    for j, kind in enumerate(kinds):
        if kind == "ordinal":
            frame[f"c{j}"] = np.arange(40) % 5
        elif kind in ("binary", "category"):
            frame[f"c{j}"] = np.arange(40) % (2 + (kind == "category"))
        elif kind == "positive":
            frame[f"c{j}"] = frame[f"c{j}"].abs() + 0.1
    covariates = None if groups is None else {"group": np.array(groups)[np.arange(40) % 2]}
    data = pvae.data.as_data(frame, covariates, kinds={f"c{j}": kind for j, kind in enumerate(kinds)})
    vae = pvae.build_vae(data, latent_dim=latents, hidden=(4,), decoder_hidden=(), seed=0)
    order = vae.likelihood.schema.order.argsort()
    (head,) = [module for module in vae.likelihood.net.modules() if isinstance(module, torch.nn.Linear)]
    with torch.no_grad():
        head.weight.zero_()
        head.weight[:, :latents] = torch.tensor(weights)[order]
        if shifts is not None:  # the indicators of two levels differ by 1 each between the groups
            head.weight[:, latents + 1] = torch.tensor(shifts)[order]
        for group, (raw, own) in _shared(vae.likelihood):
            if group.kind.kind in ("real", "positive"):
                raw.copy_(torch.full_like(raw, (math.log(math.expm1(noise)) - float(own[0])) / 10.0))
    return vae


def _shared(likelihood):
    sizes = [len(group.places) * group.num_shared for group in likelihood.schema.groups]
    parts = zip(likelihood.shared.split(sizes), likelihood.shared_start.split(sizes), strict=True)
    return zip(likelihood.schema.groups, parts, strict=True)


@pytest.mark.parametrize("latents", [2, 3, 5])
def test_varimax_is_scikit_learns(latents):
    from sklearn.decomposition._factor_analysis import _ortho_rotation

    rng = np.random.default_rng(latents)
    simple = np.eye(latents)[np.arange(12) % latents] + 0.2 * rng.normal(size=(12, latents))  # one optimum, not several
    loadings = simple @ np.linalg.qr(rng.normal(size=(latents, latents)))[0]
    weighted = loadings / np.linalg.norm(loadings, axis=1, keepdims=True)
    rotated, transform = rotate(loadings)
    own = rotated / np.linalg.norm(loadings, axis=1, keepdims=True)
    theirs = _ortho_rotation(weighted, tol=1e-12, max_iter=5000).T
    assert _criterion(own) == pytest.approx(_criterion(theirs), rel=1e-6)
    np.testing.assert_allclose(rotated @ transform, loadings, atol=1e-12)
    np.testing.assert_allclose(transform @ transform.T, np.eye(latents), atol=1e-12)


def _criterion(loadings):
    return np.var(loadings**2, axis=0).sum()


def test_varimax_in_two_dimensions_is_the_best_of_all_angles():
    loadings = RNG.normal(size=(9, 2))
    weighted = loadings / np.linalg.norm(loadings, axis=1, keepdims=True)
    angles = np.linspace(0, math.pi / 2, 20001)
    turns = [np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]) for a in angles]
    best = max(_criterion(weighted @ turn) for turn in turns)
    own = rotate(loadings)[0] / np.linalg.norm(loadings, axis=1, keepdims=True)
    assert _criterion(own) == pytest.approx(best, rel=1e-7)


def test_varimax_leaves_a_stationary_point_that_is_not_the_best():
    rotated = np.abs(rotate([[0.6, 0.6], [0.5, 0.5], [0.6, -0.6], [0.5, -0.5]])[0])
    np.testing.assert_allclose(np.sort(rotated, axis=1)[:, 0], 0.0, atol=1e-6)


def test_promax_finds_correlated_factors_and_implies_the_same_correlations():
    correlations = np.array([[1.0, 0.4], [0.4, 1.0]])
    turn = np.linalg.qr(RNG.normal(size=(2, 2)))[0]
    loadings = SIMPLE @ np.linalg.cholesky(correlations) @ turn
    rotated, transform = rotate(loadings, "promax")
    found = transform @ transform.T
    np.testing.assert_allclose(np.diag(found), 1.0, atol=1e-10)
    np.testing.assert_allclose(rotated @ transform, loadings, atol=1e-10)
    assert abs(found[0, 1]) == pytest.approx(0.4, abs=0.06)
    order = (-np.abs(rotated[0])).argsort()
    np.testing.assert_allclose(np.abs(rotated[:, order]), SIMPLE, atol=0.06)
    assert np.abs(np.abs(rotate(loadings)[0]).min(1)).max() > 0.1  # orthogonal factors leave cross-loadings here


def test_loadings_are_the_closed_form_of_each_kind():
    weights = 2.0 * SIMPLE[[0, 1, 2, 3, 4, 5]]
    kinds = ["real", "ordinal", "positive", "ordinal", "binary", "real"]
    vae = linear_vae(weights, kinds, noise=0.5)
    found = factor_loadings(vae, rotation="none")
    noise = np.array([0.25, math.pi**2 / 3, 0.25, math.pi**2 / 3, math.pi**2 / 3, 0.25])
    wanted = weights / np.sqrt((weights**2).sum(1) + noise)[:, None]
    np.testing.assert_allclose(np.abs(found.loadings), wanted, atol=1e-5)
    assert found.loadings.index.tolist() == [f"c{j}" for j in range(6)]
    np.testing.assert_allclose(found.communalities, (wanted**2).sum(1), atol=1e-5)
    assert found.errors.isna().all(axis=None)


def test_loadings_imply_the_correlations_of_simulated_columns():
    vae = linear_vae(1.5 * SIMPLE, ["real"] * 6, noise=0.8)
    found = factor_loadings(vae).loadings.to_numpy()
    torch.manual_seed(0)
    x = vae.sample(20_000).double().numpy()
    implied = found @ found.T
    np.fill_diagonal(implied, 1.0)
    np.testing.assert_allclose(np.corrcoef(x.T), implied, atol=0.03)


def test_the_largest_factor_is_first_positive_and_named():
    found = factor_loadings(linear_vae(-SIMPLE[:, ::-1].copy(), ["ordinal"] * 6), names=["big", "small"])
    assert found.loadings.columns.tolist() == ["big", "small"]
    assert (found.loadings.sum() > 0).all()
    assert (found.loadings["big"] ** 2).sum() > (found.loadings["small"] ** 2).sum()
    z = RNG.normal(size=(1000, 2))
    np.testing.assert_allclose(found.correlations, np.eye(2), atol=1e-6)
    scores = found.scores(z[None].repeat(2, 0))["score"].values
    np.testing.assert_allclose(scores @ found.loadings.to_numpy().T, z @ _slopes(found), atol=1e-5)


def _slopes(found):
    return (found.loadings.to_numpy() @ found.transform).T


def test_refits_are_matched_by_order_and_sign_before_their_spread_is_taken():
    kinds = ["ordinal"] * 6
    turned = [SIMPLE, -SIMPLE[:, ::-1], SIMPLE * [1, -1], 1.1 * SIMPLE]
    found = factor_loadings([linear_vae(np.array(weights), kinds) for weights in turned])

    def standardized(weights):
        return np.abs(weights) / np.sqrt((weights**2).sum(1) + math.pi**2 / 3)[:, None]

    wanted = np.std([standardized(weights) for weights in (SIMPLE, SIMPLE, 1.1 * SIMPLE)], axis=0, ddof=1)
    np.testing.assert_allclose(found.errors, wanted, atol=1e-5)
    one = factor_loadings([linear_vae(SIMPLE, kinds)] * 2)
    assert one.errors.isna().all(axis=None)  # one refit has no spread


def test_reliability_is_the_closed_form_of_a_gaussian_model():
    rows, samples = 20_000, 50
    loadings, noise = np.array([0.8, 0.7, 0.6]), np.array([0.36, 0.51, 0.64])
    z = RNG.normal(size=rows)
    x = z[:, None] * loadings + RNG.normal(size=(rows, 3)) * np.sqrt(noise)
    precision = 1 + (loadings**2 / noise).sum()
    draws = (x / noise) @ loadings / precision + RNG.normal(size=(samples, rows)) / math.sqrt(precision)
    found = factor_loadings(linear_vae(loadings[:, None].copy(), ["ordinal"] * 3)).scores(draws[..., None])
    assert float(found["reliability"][0]) == pytest.approx(1 - 1 / precision, abs=0.01)
    assert float(found["sd"].mean()) == pytest.approx(1 / math.sqrt(precision), rel=0.01)


def test_item_bias_is_what_the_factors_do_not_explain():
    impact, bias = np.array([0.5, -0.25]), np.array([0.0, 0.6, 0.0, 0.0, 0.0, -0.4, 0.0, 0.0])
    weights = np.concatenate([2 * SIMPLE, [[0.9, 0.4], [0.3, 0.8]]])
    shifts = weights @ impact + bias
    kinds = ["ordinal"] * 7 + ["real"]
    vae = linear_vae(weights, kinds, groups=["a", "b"], shifts=shifts)
    frame, found = item_bias(vae, {"group": [0]}, {"group": [1]}, rotation="none")
    noise = np.array([math.pi**2 / 3] * 7 + [0.25])
    np.testing.assert_allclose(frame["bias"], bias / np.sqrt((weights**2).sum(1) + noise), atol=1e-4)
    np.testing.assert_allclose(np.sort(np.abs(found)), np.sort(np.abs(impact)), atol=1e-4)
    np.testing.assert_allclose(item_bias(vae, {"group": [1]}, {"group": [0]})[0]["bias"], -frame["bias"], atol=1e-4)
    assert frame["se"].isna().all()
    other = linear_vae(weights, kinds, groups=["a", "b"], shifts=weights @ impact + 1.5 * bias)
    errors = item_bias([vae, vae, other], {"group": [0]}, {"group": [1]})[0]["se"]
    np.testing.assert_allclose(errors, 0.5 * np.abs(frame["bias"]) / math.sqrt(2), atol=1e-4)


def test_what_has_no_loadings_is_refused():
    with pytest.raises(TypeError, match="expected a VAE with a likelihood of a table, got VAE"):
        factor_loadings(pvae.build_vae(3, likelihood="normal", latent_dim=1))
    with pytest.raises(ValueError, match="real, positive, binary, ordinal; 'c1' is of another kind"):
        factor_loadings(linear_category())
    frame = pd.DataFrame(RNG.normal(size=(20, 3)), columns=list("abc"))
    curved = pvae.build_vae(pvae.data.as_data(frame, kinds={}), latent_dim=2, hidden=(8,), seed=0)
    with pytest.raises(ValueError, match="build the VAE with decoder_hidden="):
        factor_loadings(curved)
    vae = linear_vae(SIMPLE, ["ordinal"] * 6)
    with pytest.raises(ValueError, match="expected 2 names, one for each factor, got 1"):
        factor_loadings(vae, names=["one"])
    with pytest.raises(ValueError, match="varimax"):
        factor_loadings(vae, rotation="varimx")
    with pytest.raises(ValueError, match=r"expected draws of shape \(samples, rows, 2\), got \(5, 2\)"):
        factor_loadings(vae).scores(np.zeros((5, 2)))


def linear_category():
    frame = pd.DataFrame({"c0": RNG.normal(size=30), "c1": ["a", "b", "c"] * 10})
    return pvae.build_vae(pvae.data.as_data(frame, kinds={}), latent_dim=1, hidden=(), seed=0)
