"""The scikit-learn transformer: scikit-learn's own checks, pipelines, grid search, one seed, silence."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import pyrovae as pvae
from pyrovae.sklearn import VAETransformer
from pyrovae.sklearn.transformer import EXPECTED_FAILED_CHECKS

QUICK = {"hidden": (8,), "epochs": 2, "num_samples": 10, "random_state": 0}


def rows(count=150, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 2)) @ np.random.default_rng(1).normal(size=(2, 5)) + 0.2 * rng.normal(
        size=(count, 5)
    )


def test_scikit_learns_checks_pass_but_for_those_that_are_stated():
    done = check_estimator(
        VAETransformer(**QUICK), expected_failed_checks=EXPECTED_FAILED_CHECKS, on_fail=None, on_skip=None
    )
    status = {}
    for check in done:
        status.setdefault(check["status"], set()).add(check["check_name"])
    assert status.get("failed") is None
    assert status["xfail"] == set(EXPECTED_FAILED_CHECKS)
    assert len(status["passed"]) > 25


def test_the_means_of_a_row_do_not_depend_on_its_neighbors():
    """What the two checks that are expected to fail would ask of ``transform``."""
    x, step = rows(), VAETransformer(**QUICK).fit(rows())
    whole, order = step.transform(x), np.random.default_rng(0).permutation(150)
    np.testing.assert_allclose(np.concatenate([step.transform(x[i : i + 1]) for i in range(9)]), whole[:9], atol=1e-9)
    np.testing.assert_allclose(step.transform(x[order]), whole[order], atol=1e-9)


def test_it_is_the_library_s_own_vae():
    x, step = rows(), VAETransformer(**QUICK).fit(rows())
    np.testing.assert_array_equal(step.transform(x), step.vae_.encode(torch.from_numpy(x)).numpy())
    np.testing.assert_array_equal(step.inverse_transform(step.transform(x)), step.vae_.reconstruct(torch.from_numpy(x)))
    evidence = pvae.log_marginal(step.vae_, x, method="importance", num_samples=10, seed=step.seed_)[
        "log_marginal"
    ].values
    np.testing.assert_array_equal(step.score_samples(x), evidence)
    assert step.score(x) == evidence.mean()
    assert step.transform(x).dtype == np.float64


def test_one_seed_gives_the_same_numbers_and_another_others():
    state, x = torch.get_rng_state(), rows()
    one, again, other = (VAETransformer(**{**QUICK, "random_state": seed}).fit(x) for seed in (3, 3, 4))
    for method in ("transform", "score_samples"):
        np.testing.assert_array_equal(getattr(one, method)(x), getattr(again, method)(x))
    np.testing.assert_array_equal(one.sample(4), again.sample(4))
    assert not np.allclose(one.transform(x), other.transform(x))
    assert torch.equal(state, torch.get_rng_state())


def test_a_grid_search_chooses_by_held_out_evidence_in_silence(capfd):
    pipeline = make_pipeline(StandardScaler(), VAETransformer(hidden=(), epochs=60, learning_rate=0.03, random_state=0))
    search = GridSearchCV(pipeline, {"vaetransformer__latent_dim": [1, 2]}, cv=2).fit(rows(200))
    assert search.best_params_ == {"vaetransformer__latent_dim": 2}
    assert search.transform(rows(10)).shape == (10, 2)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("count", "batch_size", "epochs"), [(40, 40, 200), (1000, 5, 50)])
def test_small_tables_are_passed_through_two_hundred_times_by_default(count, batch_size, epochs, monkeypatch):
    asked = []
    monkeypatch.setattr("pyrovae.sklearn.transformer.fit", lambda *args, **options: asked.append(options["epochs"]))
    with pytest.raises(AttributeError):
        VAETransformer(hidden=(4,), batch_size=batch_size).fit(rows(count))
    assert asked == [epochs]


def test_one_width_is_one_hidden_layer():
    one, same = (VAETransformer(**{**QUICK, "hidden": hidden}).fit(rows()) for hidden in (8, (8,)))
    np.testing.assert_array_equal(one.transform(rows()), same.transform(rows()))


def test_it_survives_a_pickle_and_takes_missing_entries():
    x = rows()
    x[0, 0] = np.nan
    step = VAETransformer(**QUICK).fit(x)
    copy = pickle.loads(pickle.dumps(step))
    np.testing.assert_array_equal(copy.score_samples(x), step.score_samples(x))
    assert np.isfinite(step.transform(x)).all()


def test_missing_entries_that_the_encoder_has_not_seen_are_warned_of():
    x = rows()
    step = VAETransformer(**QUICK).fit(x)
    x[0, 0] = np.nan
    for method in (step.transform, step.score_samples):
        with pytest.warns(UserWarning, match="trained on complete rows alone"):
            method(x)


def test_latents_of_another_number_are_refused_and_so_are_no_epochs():
    step = VAETransformer(**QUICK).fit(rows())
    with pytest.raises(ValueError, match=r"expected latents of shape \(rows, 2\), got \(2, 5\)"):
        step.inverse_transform(np.zeros((2, 5)))
    with pytest.raises(ValueError, match="epochs"):
        VAETransformer(**{**QUICK, "epochs": 0}).fit(rows())


def test_counts_have_a_likelihood_of_counts():
    x = np.random.default_rng(0).poisson(3.0, size=(80, 4))
    assert (VAETransformer(likelihood="poisson", **QUICK).fit(x).sample(30) % 1 == 0).all()
    with pytest.raises(ValueError, match="support of Poisson"):
        VAETransformer(likelihood="poisson", **QUICK).fit(x - 5)


def test_importing_the_package_and_its_room_does_not_load_scikit_learn():
    code = "import sys, pyrovae as p; p.sklearn; print('sklearn' in sys.modules, p.sklearn.VAETransformer.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "VAETransformer"]


def test_a_flow_is_transformed_to_the_mean_of_its_draws():
    x = rows(30)
    step = VAETransformer(latent_dim=2, posterior="affine_flow", hidden=(8,), epochs=2, random_state=0).fit(x)
    found = step.transform(x)
    np.testing.assert_array_equal(found, step.transform(x))
    draws = step.vae_.encode(torch.from_numpy(x), num_samples=4000).numpy()
    assert (np.abs(found - draws.mean(0)) < 6 * draws.std(0) / np.sqrt(800)).all()
