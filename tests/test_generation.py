"""Quality of generated rows against closed forms and slow computations; augmentation."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import linalg
from test_cli import invoke

import pyrovae as pvae
from pyrovae.uses import augment, fit_prior, generation_quality, label_features
from pyrovae.uses.generation import _reach, frechet_distance, kernel_distance


@pytest.fixture(scope="module")
def untrained():
    """A VAE whose posterior lies away from its prior, and rows."""
    vae = pvae.build_vae(5, likelihood="normal", latent_dim=2, hidden=(8,), seed=0)
    with torch.no_grad():
        vae.posterior.offset[0] += torch.tensor([3.0, -2.0])
    return vae, torch.randn(400, 5, generator=torch.Generator().manual_seed(0))


def test_a_prior_of_one_normal_is_fitted_at_the_moments_of_the_latents(untrained):
    vae, x = untrained
    prior = pvae.conditionals.GaussianMixture(event_shape=2, num_components=1)
    fitted = fit_prior(vae, x, prior=prior, epochs=300, learning_rate=0.02, seed=0, progress=False)
    torch.manual_seed(0)
    latents = vae.encode(x, num_samples=1)[0]
    np.testing.assert_allclose(fitted.prior().mean.detach(), latents.mean(0), atol=0.05)
    np.testing.assert_allclose(fitted.prior().variance.sqrt().detach(), latents.std(0), rtol=0.05)
    assert fitted.posterior is vae.posterior
    assert fitted.likelihood is vae.likelihood


@pytest.mark.parametrize("kind", ["GaussianMixture", "AffineFlow"])
def test_a_prior_fitted_to_the_latents_raises_the_elbo_and_nothing_else_moves(untrained, kind):
    vae, x = untrained
    torch.manual_seed(0)
    given = {"num_components": 4} if kind == "GaussianMixture" else {"transforms": 2, "hidden": (16,)}
    prior = getattr(pvae.conditionals, kind)(event_shape=2, **given)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    fitted = fit_prior(vae, x, prior=prior, epochs=100, learning_rate=0.02, seed=0, progress=False)
    old, new = (pvae.elbo(m, x, num_samples=20, seed=0, progress=False) for m in (vae, fitted))
    assert float((new["elbo"] - old["elbo"]).mean()) > 4
    np.testing.assert_allclose(new["reconstruction"], old["reconstruction"])
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    assert (fitted.sample(500).mean(0) - fitted.decode(vae.encode(x)).mean(0)).abs().max() < 0.5


@pytest.mark.parametrize("kind", ["GaussianMixture", "AffineFlow"])
def test_the_latents_of_an_autoencoder_may_lie_anywhere(kind, untrained):
    posterior = pvae.conditionals.Point(pvae.MLP(5, (8,)), 2, preprocess=lambda x: 100 * x)
    with torch.no_grad():
        posterior.offset += torch.tensor([500.0, -70.0])
    vae = pvae.VAE(pvae.standard_normal(2), untrained[0].likelihood, posterior)
    given = {"num_components": 3} if kind == "GaussianMixture" else {"transforms": 1, "hidden": (8,)}
    prior = getattr(pvae.conditionals, kind)(event_shape=2, **given)
    fitted = fit_prior(vae, untrained[1], prior=prior, epochs=40, learning_rate=0.02, seed=0, progress=False)
    latents = vae.encode(untrained[1])
    torch.manual_seed(0)
    drawn = fitted.prior().sample((2000,))
    unit = latents.std(0)
    np.testing.assert_allclose((drawn.mean(0) - latents.mean(0)) / unit, 0, atol=0.2)
    np.testing.assert_allclose(drawn.std(0) / unit, 1, atol=0.2)
    assert fitted.sample(3).shape == (3, 5)


def test_a_program_whose_prior_cannot_be_exchanged_is_refused():
    with pytest.raises(TypeError, match="expected a VAE, whose prior can be exchanged, got tuple") as caught:
        fit_prior((print, print), torch.zeros(3, 2), prior=pvae.standard_normal(2))
    assert caught.value.argument == "vae"


def test_the_frechet_distance_of_two_normals():
    rng = np.random.default_rng(0)
    mean, factor = np.array([1.0, -2.0, 0.5]), np.tril(rng.normal(size=(3, 3))) + 2 * np.eye(3)
    one, other = rng.normal(size=(200_000, 3)), rng.normal(size=(200_000, 3)) @ factor.T + mean
    covariance = factor @ factor.T
    exact = mean @ mean + np.trace(np.eye(3) + covariance - 2 * linalg.sqrtm(covariance).real)
    assert frechet_distance(one, other) == pytest.approx(exact, rel=0.02)
    slow = [np.cov(x.T) for x in (one, other)]
    trace = np.trace(slow[0] + slow[1] - 2 * linalg.sqrtm(slow[0] @ slow[1]).real)
    difference = one.mean(0) - other.mean(0)
    assert frechet_distance(one, other) == pytest.approx(difference @ difference + trace, rel=1e-8)


def test_the_kernel_distance_is_zero_on_average_and_as_slow_sums_have_it():
    rng = np.random.default_rng(0)
    found = [kernel_distance(*rng.normal(size=(2, 60, 4))) for _ in range(300)]
    assert abs(np.mean(found)) < 4 * np.std(found) / 300**0.5
    a, b = rng.normal(size=(5, 2)), rng.normal(size=(4, 2)) + 1
    k = lambda x, y: (x @ y / 2 + 1) ** 3  # noqa: E731
    within = [np.mean([k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in (a, b)]
    assert kernel_distance(a, b) == pytest.approx(sum(within) - 2 * np.mean([k(x, y) for x in a for y in b]))


def slow_reach(fake, real, k):
    """Precision, recall, density and coverage by loops."""
    far = lambda x, s: sorted(np.linalg.norm(x - y) for y in s)  # noqa: E731
    reach = {name: [far(x, s)[k] for x in s] for name, s in (("real", real), ("fake", fake))}
    hits = np.array([[np.linalg.norm(f - r) <= reach["real"][j] for j, r in enumerate(real)] for f in fake])
    back = [any(np.linalg.norm(f - r) <= reach["fake"][i] for i, f in enumerate(fake)) for r in real]
    return hits.any(1).mean(), np.mean(back), hits.sum() / k / len(fake), hits.any(0).mean()


def values(found):
    return dict(zip(found["metric"].values.tolist(), found["value"].values.tolist(), strict=True))


def test_neighbors_as_loops_count_them():
    rng = np.random.default_rng(1)
    fake, real, train = rng.normal(size=(60, 2)) * 0.5, rng.normal(size=(60, 2)), rng.normal(size=(60, 2))
    found = values(generation_quality(fake, real, train, neighbors=3))
    names = ("precision", "recall", "density", "coverage")
    assert [found[name] for name in names] == pytest.approx(slow_reach(fake, real, 3))
    assert found["precision"] > 0.9 > found["recall"]
    nearer = [min(np.linalg.norm(f - train, axis=1)) < min(np.linalg.norm(f - real, axis=1)) for f in fake]
    assert found["memorized"] == pytest.approx(np.mean(nearer))


def test_errors_are_those_of_new_draws_of_both_sets():
    """Beside the spread over 40 pairs of sets, whose own error is a ninth."""
    rng, names = np.random.default_rng(2), ["precision", "recall", "density", "coverage"]
    found = [_reach(rng.normal(size=(100, 2)), rng.normal(size=(100, 2)), 5) for _ in range(40)]
    value, error, _ = np.array([[one[name] for name in names] for one in found]).transpose(2, 0, 1)
    ratio = np.sqrt((error**2).mean(0)) / value.std(0)
    assert ((ratio > 0.65) & (ratio < 2.0)).all(), ratio  # of one set alone the last is .6


def test_rows_of_the_same_law_reach_the_floor_and_others_do_not():
    rng = np.random.default_rng(2)
    same, test, train = rng.normal(size=(3, 500, 3))
    found = generation_quality(same, test, train)
    for metric in ("frechet", "kernel", "precision", "recall", "density", "coverage", "two_sample", "memorized"):
        one = found.sel(metric=metric)
        assert abs(one["value"] - one["floor"]) < 5 * np.hypot(one["error"], one["floor_error"]) + 0.01, metric
    assert abs(float(found["value"].sel(metric="two_sample")) - 0.5) < 0.06
    assert float(found["bias"].sel(metric="frechet")) > 0
    corrected = float((found["value"] - found["bias"]).sel(metric="frechet"))
    assert abs(corrected) < float(found["value"].sel(metric="frechet"))
    shifted = values(generation_quality(same + 1, test, train))
    assert shifted["frechet"] > 2
    assert shifted["kernel"] > 1
    assert shifted["two_sample"] > 0.7


def test_copies_of_training_rows_are_memorized():
    rng = np.random.default_rng(3)
    test, train = rng.normal(size=(2, 200, 3))
    assert values(generation_quality(train + 1e-3, test, train))["memorized"] > 0.95


def test_features_are_named_and_rows_are_counted():
    x = torch.randn(90, 1, 2, 2)
    found = generation_quality(x[:60], x, x, features=lambda rows: rows.mean((1, 2)), name="row means, 71 % accurate")
    assert (found.attrs["features"], found.attrs["rows"]) == ("row means, 71 % accurate", 60)
    with pytest.raises(ValueError, match="50 or more rows"):
        generation_quality(x[:49], x, x)
    with pytest.raises(ValueError, match="one shape"):
        generation_quality(x[:, :, 0], x, x)
    assert generation_quality(x[:60], x, x, neighbors=59).attrs["neighbors"] == 59
    with pytest.raises(ValueError, match="neighbors must be from 1 to 59"):
        generation_quality(x[:60], x, x, neighbors=60)
    with pytest.raises(ValueError, match="no unit of distances") as caught:
        generation_quality(x, x, torch.ones_like(x))
    assert caught.value.argument == "train"


def test_augmented_rows_are_draws_near_each_row():
    vae = pvae.build_vae(3, likelihood="normal", latent_dim=1, hidden=(4,), scale=0.01, seed=0)
    x = torch.randn(500, 3)
    rows, labels = augment(vae, x, torch.arange(500), factor=3, seed=0)
    assert torch.equal(rows[:500], x)
    assert torch.equal(labels, torch.arange(500).repeat(4))
    again = augment(vae, x, torch.arange(500), factor=3, seed=0)[0]
    assert torch.equal(rows, again)
    q = vae.posterior(x)
    z = q.mean[None] + q.base_dist.scale[None] * torch.randn(4000, 500, 1, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mean = vae.likelihood(z).mean.mean(0)
    drawn = rows[500:].reshape(3, 500, 3)
    spread = (drawn - mean).std()
    assert abs(float((drawn - mean).mean())) < 5 * float(spread) / (1500**0.5)
    means = augment(vae, x, torch.arange(500), factor=1, draw=False, seed=0)[0][500:]
    assert float((means - rows[500:1000]).abs().mean()) < 1


def test_features_of_labels_tell_them_apart_and_are_named_with_the_accuracy_on_rows_left_out():
    rng = np.random.default_rng(0)
    y = np.arange(300) % 3
    x = torch.from_numpy(100 + 30 * rng.normal(size=(300, 2, 2)))
    features, name = label_features(x + 300 * torch.eye(4)[y].reshape(300, 2, 2), y)
    assert name == "a classifier of 3 labels, 100.0 % accurate"
    vectors = features(x + 300 * torch.eye(4)[y].reshape(300, 2, 2))
    assert vectors.shape == (300, 32)
    within = np.mean([vectors[y == k].var(0).sum() for k in range(3)])
    assert within < 0.3 * vectors.var(0).sum()
    by_chance = label_features(x, rng.integers(2, size=300))[1]  # of 60 rows
    assert 25 < float(by_chance.split()[-3]) < 75
    with pytest.raises(ValueError, match="a label for each of 300 rows, got none") as caught:
        label_features(x)
    assert caught.value.argument == "labels"


def test_labels_may_be_words():
    vae, words = pvae.build_vae(3, likelihood="poisson", latent_dim=1, hidden=(4,)), ["a", "b"]
    assert augment(vae, torch.ones(2, 3), words, factor=2)[1].tolist() == 3 * words
    assert torch.equal(augment(vae, torch.ones(2, 3), [4, 5], factor=1)[1], torch.tensor([4, 5, 4, 5]))


def test_means_of_integers_are_no_integers_and_their_draws_are():
    vae = pvae.build_vae(3, likelihood="bernoulli", latent_dim=1, hidden=(4,), seed=0)
    x = torch.tensor([[0, 1, 1], [1, 0, 0]], dtype=torch.uint8)
    drawn, means = (augment(vae, x, torch.arange(2), factor=50, draw=draw, seed=0)[0] for draw in (True, False))
    assert drawn.dtype == torch.uint8
    assert means.dtype == torch.float32
    assert 0.1 < float(means[2:].min()) < float(means[2:].max()) < 0.9
    torch.testing.assert_close(drawn[2:].float().mean(), means[2:].mean(), rtol=0, atol=0.15)
    assert torch.equal(means[:2], x.float())


def test_what_cannot_be_augmented_is_refused():
    vae = pvae.build_vae(3, likelihood="poisson", latent_dim=1, hidden=(4,))
    with pytest.raises(ValueError, match="one label for each of 5 rows"):
        augment(vae, torch.ones(5, 3), torch.arange(4))
    with pytest.raises(ValueError, match="factor must be at least 1"):
        augment(vae, torch.ones(5, 3), torch.arange(5), factor=0)
    with pytest.raises(TypeError, match="expected a graph"):
        augment((print, print), torch.ones(5, 3), torch.arange(5))


def test_a_run_is_judged_and_its_rows_are_augmented(tmp_path, monkeypatch):
    monkeypatch.setattr("pyrovae.uses.representation.BOOTSTRAPS", 5)
    folder = tmp_path / "run"
    train = ["train", "--epochs", 1, "--hidden", 8, "--latent-dim", 2, "--no-figures", "--no-report", "--out", folder]
    assert invoke(*train).exit_code == 0
    done = invoke("quality", folder)
    assert done.exit_code == 0, done.output
    table = pd.read_csv(folder / "quality.csv").set_index(["representation", "metric"])
    assert "floor), beside 359 test rows; a classifier of 10 labels, 9" in done.output
    assert table.loc[("draws", "two_sample"), "value"] > 0.9  # of a model of one epoch
    low, value, high = table.loc[("latents", "linear probe"), ["low", "value", "high"]]
    assert low < value < high < 1
    assert f"{value:.3f} ± {(high - low) / 2:.3f}" in done.output
    done = invoke("augment", folder, "--factor", 2, "--out", tmp_path / "more.npz")
    assert done.exit_code == 0, done.output
    rows = pvae.data.load("digits", "counts", seed=0).train
    with np.load(tmp_path / "more.npz") as found:
        assert np.array_equal(found["x"][: len(rows)], rows.x.numpy())
        assert np.array_equal(found["labels"], np.tile(rows.label.numpy(), 3))
    assert "is there already" in invoke("augment", folder, "--out", tmp_path / "more.npz").output
    for command in ("quality", "augment"):
        assert "--out: the output must end in" in invoke(command, folder, "--out", tmp_path / "x.txt").output
