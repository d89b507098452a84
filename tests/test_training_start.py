"""Where training starts and how fast it learns where nothing else is asked for."""

import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import pyrovae as pvae
from pyrovae.training.start import OWN_RATE, single_numbers


def counts(rows=64, rate=7.0):
    return torch.poisson(torch.full((rows, 3), rate), generator=torch.Generator().manual_seed(0))


def make(**given):
    torch.manual_seed(1)
    likelihood = pvae.Factorized(dist.Poisson, pvae.MLP(2, (4,)), 3)
    return pvae.VAE(pvae.standard_normal(2), likelihood, pvae.Factorized(dist.Normal, pvae.MLP(3, (4,)), 2), **given)


def plain(vae):
    """The same by hand: a pair of functions, missing entries left out."""

    def model(x, size=None):
        pvae.register(decoder=vae.likelihood)
        with pyro.plate("data", size or len(x), subsample=x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([len(x), 2]).to_event(1))
            pyro.sample("x", vae.likelihood(z), obs=x)

    return model, vae.guide


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("as_program", [lambda vae: vae, plain])
@pytest.mark.parametrize("as_rows", [lambda x: x, TensorDataset])
def test_likelihoods_start_at_the_data(missing, as_program, as_rows):
    x, vae, wanted = counts(), make(), make()
    if missing and as_program is not plain:
        x[:5, 0] = torch.nan
    wanted.likelihood.initialize(x)
    pvae.fit(as_program(vae), as_rows(x), steps=1, seed=0, progress=False)
    torch.testing.assert_close(vae.likelihood.offset, wanted.likelihood.offset, rtol=1e-3, atol=1e-3)


def trained(vae):
    pvae.fit(vae, counts(), steps=2, start_at_data=False, seed=0, progress=False)


def loaded(vae):
    other = make()
    trained(other)
    vae.load_state_dict(other.state_dict())


def started(vae):
    vae.likelihood.initialize(counts(rate=2.0))


def closed(vae):
    net = pvae.MLP(2, (4,), out_shape=(1, 3))
    vae.likelihood = pvae.Factorized(dist.Poisson, net, 3)


def frozen(vae):
    vae.likelihood.requires_grad_(False)


@pytest.mark.parametrize("before", [trained, loaded, started, closed, frozen])
def test_what_was_trained_loaded_started_or_frozen_stays(before):
    vae = make()
    assert vae.likelihood.untrained
    before(vae)
    assert vae.likelihood.untrained is (before is frozen)
    offset = vae.likelihood.offset.clone()
    pvae.fit(vae, counts(rate=50.0), steps=1, seed=0, progress=False)
    assert torch.equal(vae.likelihood.offset, offset)


@pytest.mark.parametrize("copied", [lambda v: v.double(), lambda v: __import__("copy").deepcopy(v)])
def test_a_copy_of_an_untrained_conditional_is_untrained(copied):
    assert copied(make()).likelihood.untrained


def test_a_likelihood_of_a_covariate_is_left_as_it_is():
    vae = make()
    vae.likelihood = pvae.Factorized(pvae.SizedPoisson, pvae.MLP(2, (4,)), 3, size_factor=pvae.FromCovariate("size"))
    fit = pvae.fit(vae, counts(), {"size": torch.full((64,), 2.0)}, steps=1, seed=0, progress=False)
    assert fit.ended == "finished"
    assert not vae.likelihood.offset.any()


def test_single_numbers_learn_at_a_rate_of_their_own():
    """By name, or because they have no axis; weights and the numbers of a network do not."""
    torch.manual_seed(0)
    own = {"scale": nn.Parameter(torch.ones(3))}
    likelihood = pvae.Factorized(dist.Normal, pvae.MLP(2, (4,)), 3, **own)
    vae = pvae.VAE(pvae.standard_normal(2), likelihood, make().posterior)
    parameters = dict(vae.named_parameters()) | {"log_sd": torch.zeros((), requires_grad=True)}
    fast = [name for name, parameter in parameters.items() if id(parameter) in single_numbers(parameters)]
    assert fast == ["likelihood.unconstrained_scale", "log_sd"]
    x, first = torch.randn(64, 3), 0.05 * pvae.schedules.default_rate(1).values[0]
    for options, rate in (({}, OWN_RATE * first), ({"learning_rate": 1e-3}, 1e-3)):
        before = likelihood.unconstrained_scale.detach().clone()
        pvae.fit(vae, x, steps=1, **options, seed=0, progress=False)
        moved = (likelihood.unconstrained_scale.detach() - before).abs()
        torch.testing.assert_close(moved, torch.full((3,), rate), rtol=1e-3, atol=0)


@pytest.mark.parametrize(("steps", "peak"), [(100, 0.02), (250, 0.02), (4000, 0.005), (100_000, 0.001), (10**7, 0.001)])
def test_the_peak_of_the_rate_falls_with_the_steps(steps, peak):
    assert pvae.schedules.default_rate(steps).values == (peak,)


@pytest.mark.parametrize(("per_epoch", "epochs"), [(1, 500), (10, 500), (11, 455), (99, 51), (100, 50), (1000, 50)])
def test_a_small_data_set_is_passed_through_more_often(per_epoch, epochs):
    assert pvae.schedules.default_epochs(per_epoch) == epochs


@pytest.mark.parametrize(("keep", "kept"), [(None, True), (True, True), (False, False)])
def test_the_best_weights_are_kept_wherever_there_are_validation_rows(keep, kept):
    vae, seen = make(), []
    options = {"validation": counts(16), "learning_rate": 0.3, "epochs": 40, "keep_best": keep, "seed": 0}
    remember = lambda _: seen.append([p.detach().clone() for p in vae.parameters()])  # noqa: E731
    history = pvae.fit(vae, counts(32), **options, callbacks=[remember], progress=False)
    best = int(torch.tensor(history["validation_elbo"]).argmax())
    assert best < 39
    assert history.best_epoch == (best + 1 if kept else None)
    assert all(map(torch.equal, vae.parameters(), seen[best if kept else -1]))


def test_the_default_is_one_cycle_over_all_steps():
    history = pvae.fit(make(), counts(), epochs=10, batch_size=16, seed=0, progress=False)
    rate = pvae.schedules.default_rate(40)
    at = pvae.schedules.Progress.at
    assert history["learning_rate"] == [rate(at(4 * epoch + 3, 4)) for epoch in range(10)]


@pytest.mark.parametrize(
    ("steps", "decay"),
    [(100, 0.99), (2000, 0.99), (2001, 1 - 20 / 2001), (5000, 0.996), (20_000, 0.999), (10**6, 0.999)],
)
def test_squared_gradients_are_averaged_over_a_twentieth_of_the_steps(steps, decay):
    assert pvae.schedules.default_decay(steps) == pytest.approx(decay, abs=1e-12)


@pytest.mark.parametrize(("options", "decay"), [({}, 0.99), ({"learning_rate": 1e-3}, 0.999)])
def test_the_memory_of_the_default_optimizer(options, decay, monkeypatch):
    made = []

    class Watched(torch.optim.Adam):
        def __init__(self, *args, **given):
            super().__init__(*args, **given)
            made.append(self.defaults["betas"])

    monkeypatch.setattr(sys.modules["pyrovae.training.fit"], "Adam", Watched)
    pvae.fit(make(), counts(), steps=2, **options, seed=0, progress=False)
    assert made == [(0.9, decay)]
