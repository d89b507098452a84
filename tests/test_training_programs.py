"""`fit` on programs of a user's own: which of them batches suit, and what is refused before a weight moves."""

import math

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import scipy.sparse
import torch
from programs import counts, counts_vae, moved, snapshot
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal, init_to_value
from torch import nn

import pyrovae as pvae


@pytest.fixture(autouse=True)
def empty_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def means(y):
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 10.0))
        pyro.sample("y", dist.Normal(z, 0.1), obs=y)


def test_a_guide_with_parameters_for_each_row_trains_on_rows_in_their_order():
    y = torch.linspace(-5, 5, 1100)
    guide, rate = AutoNormal(means), pvae.schedules.one_cycle(0.05, epochs=700)
    history = pvae.fit((means, guide), y, epochs=700, batch_size=1100, learning_rate=rate, seed=0)
    assert (guide.locs.z - y).abs().max() < 0.1
    exact = dist.Normal(0.0, math.sqrt(100.01)).log_prob(y).mean().item()
    assert history["elbo"][-1] == pytest.approx(exact, abs=0.2)


def test_a_guide_with_parameters_for_each_row_is_refused_in_batches():
    with pytest.raises(ValueError, match="AutoNormal holds parameters for each row of a batch"):
        pvae.fit((means, AutoNormal(means)), torch.linspace(-5, 5, 40), epochs=1, batch_size=20)


def test_validation_rows_are_refused_where_the_guide_knows_the_training_rows_alone():
    with pytest.raises(ValueError, match="a guide with parameters for each row knows the training rows alone"):
        pvae.fit((means, AutoNormal(means)), torch.linspace(-5, 5, 40), epochs=1, validation=0.2)


def one_mean(x):
    theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(theta, 1.0), obs=x)


def one_mean_sized(x, size=None):
    theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
    with pyro.plate("data", size or len(x), subsample=x):
        pyro.sample("x", dist.Normal(theta, 1.0), obs=x)


def test_a_latent_outside_the_plate_sees_all_rows_or_is_refused():
    torch.manual_seed(0)
    x = 1 + torch.randn(640)
    with pytest.raises(ValueError, match=r"the latent 'theta' lies outside the plate 'data'.*128 rows at a time"):
        pvae.fit((one_mean, AutoNormal(one_mean)), x, epochs=1)
    exact = (1 + len(x)) ** -0.5
    for model, batch_size, epochs in ((one_mean, 640, 800), (one_mean_sized, 128, 160)):
        pyro.clear_param_store()  # which holds the numbers of the other AutoNormal
        guide = AutoNormal(model, init_scale=0.05)
        rate = pvae.schedules.one_cycle(0.05, epochs=epochs)
        pvae.fit((model, guide), x, epochs=epochs, batch_size=batch_size, learning_rate=rate, seed=0)
        assert guide.scales.theta.item() == pytest.approx(exact, rel=0.15)


class Subsampling(nn.Module):
    """Its plate draws rows of its own, or scales the rows it is given to a size that it knows."""

    def __init__(self, **plate):
        super().__init__()
        self.slope, self.plate = nn.Parameter(torch.tensor(0.3)), plate

    def rows(self, x, chosen):
        pvae.register(program=self)
        return pyro.plate(
            "data", self.plate.get("size", len(x)), **({"subsample": chosen} if chosen is not None else self.plate)
        )

    def model(self, x, chosen=None):
        with self.rows(x, chosen) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x if chosen is not None else x[rows])

    def guide(self, x, chosen=None):
        with self.rows(x, chosen) as rows:
            pyro.sample("z", dist.Normal(self.slope * (x if chosen is not None else x[rows]), 0.7))


def test_a_program_that_draws_its_own_batch_is_refused():
    with pytest.raises(ValueError, match=r"the plate 'data' holds 20 rows of a batch of 100: do not subsample"):
        pvae.fit(Subsampling(subsample_size=20), torch.randn(100), epochs=1)
    with pytest.raises(ValueError, match=r"the plate 'data' holds 20 rows of the 100 given"):
        pvae.log_weights(Subsampling(subsample_size=20), torch.randn(100), num_samples=3)
    x = torch.randn(100), torch.arange(100)
    program = Subsampling(size=100)
    assert pvae.elbo(program, x).sizes["data"] == 100


def test_the_loss_is_per_row_where_the_program_scales_a_batch_by_itself():
    torch.manual_seed(0)
    x = torch.randn(100)
    histories = {}
    for batch_size in (10, 100):
        program = Subsampling(size=100)
        data = (x, torch.arange(100))
        histories[batch_size] = pvae.fit(program, data, epochs=1, batch_size=batch_size, learning_rate=1e-6, seed=0)
    for column in ("loss", "elbo"):
        assert histories[10][column][0] == pytest.approx(histories[100][column][0], abs=0.15), column
    assert histories[10]["gradient_norm"][0] < 3 * histories[100]["gradient_norm"][0]


def proportions(x):
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(weights), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(3.0 * k, 1.0), obs=x)


def test_an_autoguide_on_a_simplex_trains():
    torch.manual_seed(0)
    x = 3.0 * torch.randint(0, 2, (200,)) + torch.randn(200)
    guide = AutoNormal(poutine.block(proportions, hide=["k"]))
    objective = TraceEnum_ELBO()
    pvae.fit((proportions, guide), x, epochs=300, batch_size=200, learning_rate=0.05, objective=objective, seed=0)
    assert guide.median()["weights"][2] < 0.05


def improper(x):
    theta = pyro.sample("theta", dist.ImproperUniform(constraints.real, (), ()))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(theta, 1.0), obs=x)


def test_an_improper_prior_trains():
    torch.manual_seed(0)
    x = 2 + torch.randn(100)
    guide = AutoNormal(improper, init_loc_fn=init_to_value(values={"theta": torch.tensor(0.0)}))
    pvae.fit((improper, guide), x, epochs=300, batch_size=100, learning_rate=0.05, seed=0)
    assert guide.locs.theta.item() == pytest.approx(x.mean().item(), abs=0.05)


def test_a_point_estimate_trains_and_the_history_says_why_its_elbo_is_missing():
    torch.manual_seed(0)
    x = 1 + torch.randn(50)
    guide = AutoDelta(one_mean)
    with pytest.warns(UserWarning, match="the history's ELBO columns stay empty: .*point"):
        history = pvae.fit((one_mean, guide), x, epochs=300, batch_size=50, learning_rate=0.05, seed=0)
    assert history["elbo"][-1] is None
    assert guide.median()["theta"].item() == pytest.approx(x.sum().item() / 51, abs=0.01)
    with pytest.raises(ValueError, match="point"):
        pvae.fit((one_mean, guide), x, epochs=1, batch_size=50, validation=x)


def test_a_float64_program_without_a_module_keeps_its_dtype():
    x = torch.randn(20, 3, dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            weights = pyro.param("weights", torch.ones(2, 3, dtype=torch.float64))
            pyro.sample("x", dist.Normal(z @ weights, 1.0).to_event(1), obs=x)

    def guide(x):
        weights = pyro.param("inverse", torch.ones(3, 2, dtype=torch.float64))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ weights, 1.0).to_event(1))

    history = pvae.fit((model, guide), x, epochs=2, batch_size=10, seed=0)
    weights = pvae.log_weights((model, guide), x, num_samples=400, seed=0)
    error = float(weights.var(0).sum().sqrt()) / len(x)  # of one draw for each row, as the history takes them
    assert history["elbo"][-1] == pytest.approx(weights.mean().item(), abs=4 * error)
    assert pyro.param("weights").dtype == pyro.param("inverse").dtype == torch.float64


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"beta": {}}, ValueError, "beta names no site"),
        ({"callbacks": [3]}, TypeError, "callbacks must be functions of the history, got 3"),
        ({"learning_rate": "fast"}, TypeError, "learning_rate must be a number or a schedule, got 'fast'"),
    ],
)
def test_more_bad_settings_are_refused_and_nothing_moves(settings, error, message):
    vae = counts_vae()
    before = snapshot(vae)
    with pytest.raises(error, match=message):
        pvae.fit(vae, counts(), epochs=1, **settings)
    assert max(moved(before, vae)) == 0


def test_validation_rows_without_their_covariates_are_named():
    vae = pvae.VAE(
        pvae.standard_normal(2),
        pvae.Factorized(pvae.SizedPoisson, pvae.MLP(2, (8,)), event_shape=5, size_factor=pvae.FromCovariate("size")),
        pvae.Factorized(dist.Normal, pvae.MLP(5, (8,)), event_shape=2),
    )
    size = torch.ones(64)
    with pytest.raises(ValueError, match=r"expected the covariate 'size'.*as_data\(x, \{'size': values\}\)"):
        pvae.fit(vae, counts(), covariates={"size": size}, validation=counts(8), epochs=1)
    pvae.fit(
        vae, counts(), covariates={"size": size}, validation=pvae.data.as_data(counts(8), {"size": size[:8]}), epochs=1
    )


def linear(x):
    weights = pyro.param("weights", lambda: torch.ones(2, 3))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ weights, 1.0).to_event(1), obs=x)


def linear_guide(x):
    weights = pyro.param("inverse", lambda: torch.ones(3, 2))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x @ weights, 1.0).to_event(1))


@pytest.mark.parametrize(
    "kind", [np.asarray, pd.DataFrame, scipy.sparse.csr_array, torch.as_tensor, lambda x: torch.as_tensor(x).long()]
)
def test_rows_take_the_dtype_of_the_parameters_that_a_program_announces(kind):
    x = np.random.default_rng(0).normal(size=(20, 3))
    assert len(pvae.fit((linear, linear_guide), kind(x), epochs=2, seed=0)) == 2
    assert pvae.elbo((linear, linear_guide), kind(x)).sizes["data"] == 20
    assert len(pvae.fit((linear, AutoNormal(linear)), kind(x), epochs=1, seed=0)) == 1


def mixture(x, size=None):
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    centers = pyro.sample("centers", dist.Normal(torch.zeros(2), 10.0).to_event(1))
    with pyro.plate("data", size or len(x), subsample=x):
        k = pyro.sample("k", dist.Categorical(weights), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(centers[k], 1.0), obs=x)


def test_an_autoguide_of_global_latents_trains_in_batches():
    torch.manual_seed(0)
    x = 6.0 * torch.randint(0, 2, (300,)) + torch.randn(300)
    start = {"weights": torch.tensor([0.5, 0.5]), "centers": torch.tensor([1.0, 5.0])}
    guide = AutoNormal(poutine.block(mixture, hide=["k"]), init_loc_fn=init_to_value(values=start))
    pvae.fit((mixture, guide), x, epochs=60, batch_size=100, learning_rate=0.05, objective=TraceEnum_ELBO(), seed=0)
    torch.testing.assert_close(guide.median()["centers"], torch.tensor([0.0, 6.0]), atol=0.4, rtol=0)


def test_an_autoguide_that_looks_its_rows_up_trains_in_batches():
    torch.manual_seed(0)
    y, rows = torch.linspace(-5, 5, 300), 300

    def model(y, index):
        with pyro.plate("data", rows, subsample=index):
            z = pyro.sample("z", dist.Normal(0.0, 10.0))
            pyro.sample("y", dist.Normal(z, 0.3), obs=y)

    guide = AutoNormal(model, create_plates=lambda y, index: pyro.plate("data", rows, subsample=index))
    data = (y, torch.arange(rows))
    rate = pvae.schedules.one_cycle(0.1, epochs=250)
    pvae.fit((model, guide), data, epochs=250, batch_size=100, learning_rate=rate, seed=0)
    assert (guide.locs.z - y).abs().max() < 0.5


def test_a_program_that_scales_its_batch_by_hand_trains():
    torch.manual_seed(0)
    x = 1 + torch.randn(640)

    def model(x):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        with poutine.scale(scale=640 / len(x)), pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(theta, 1.0), obs=x)

    guide, rate = AutoNormal(model, init_scale=0.05), pvae.schedules.one_cycle(0.05, epochs=160)
    pvae.fit((model, guide), x, epochs=160, batch_size=128, learning_rate=rate, seed=0)
    assert guide.scales.theta.item() == pytest.approx(641**-0.5, rel=0.15)
