"""`fit`: what it learns, what it refuses, and that a bad step, an interruption or a kill loses nothing."""

import functools
import math
import os
import signal

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import scipy.sparse
import torch
from oracles import PPCA
from programs import convolutional_vae, counts, counts_vae, moved, snapshot
from pyro.infer import (
    SVI,
    JitTrace_ELBO,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
)
from torch.utils.data import DataLoader, TensorDataset

import pyrovae as pvae
from pyrovae.training import TorchOptimizer


def equal(first, second):
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def without_seconds(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


def test_one_seed_gives_one_result_and_leaves_the_global_generator_alone():
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        vae = counts_vae(dropout=0.2)
        state = torch.get_rng_state()
        history = pvae.fit(vae, counts(200), epochs=3, batch_size=32, seed=5, validation=0.2)
        assert torch.equal(torch.get_rng_state(), state)
        results.append((vae, without_seconds(history)))
    assert equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def test_the_history_adds_up():
    torch.manual_seed(0)
    vae = counts_vae()
    options = {"validation": counts(50, seed=1), "keep_best": False}
    history = pvae.fit(vae, counts(200), epochs=4, seed=0, variant="counts", **options)
    for row in history:
        assert row["elbo"] == pytest.approx(row["reconstruction"] - row["kl"])
        assert row["validation_elbo"] == pytest.approx(row["validation_reconstruction"] - row["validation_kl"])
    frame = history.to_frame()
    assert list(frame.columns[:4]) == ["epoch", "step", "loss", "beta"]
    assert frame["step"].tolist() == [2, 4, 6, 8]
    assert "variant='counts'" in repr(history)
    assert "4 epochs (finished)" in history._repr_html_()
    assert history._repr_html_().count("<tr>") == 2  # the first epoch and the last, beside the names
    history.best_epoch = 2
    assert history._repr_html_().count("<tr>") == 3
    assert pvae.training.History()._repr_html_() == "<p>History(no epochs, not started)</p>"


@pytest.mark.parametrize("batch_size", [10, 100])
def test_the_loss_is_per_row_whatever_the_batch(batch_size):
    """With a frozen likelihood that ignores its latent and a guide at the prior, the loss is -log p(x) per row."""
    x = torch.zeros(100, 5)
    vae = counts_vae()
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.zero_()
    vae.posterior.net.head.bias.data[2:] = math.log(math.expm1(1.0))
    rate = torch.nn.functional.softplus(torch.tensor(0.0)) + 1e-6
    history = pvae.fit(vae, x, epochs=1, batch_size=batch_size, learning_rate=1e-12, seed=0)
    assert history["loss"][0] == pytest.approx(5 * rate.item(), rel=1e-3)
    assert history["elbo"][0] == pytest.approx(-5 * rate.item(), rel=1e-3)


def test_gradients_are_per_row():
    """The norm that clipping sees does not depend on the batch size."""
    norms = []
    for rows in (500, 5000):
        torch.manual_seed(0)
        vae = counts_vae()
        history = pvae.fit(vae, counts(50).repeat(rows // 50, 1), steps=1, batch_size=rows, seed=0)
        norms.append(history["gradient_norm"][0])
    assert norms[1] == pytest.approx(norms[0], rel=0.2)


@pytest.fixture(scope="module")
def ppca():
    return PPCA.random(latent=2, data=6, noise=0.25, seed=0)


def linear_vae(ppca, posterior):
    """Probabilistic PCA's model with its true weights, frozen."""
    D, L = ppca.weight.shape
    likelihood = pvae.Factorized(
        dist.Normal, pvae.MLP(L, (), (1, D)), event_shape=D, scale=math.sqrt(ppca.noise)
    ).double()
    with torch.no_grad():
        likelihood.net.head.weight.copy_(ppca.weight)
        likelihood.net.head.bias.copy_(ppca.mean)
    return pvae.VAE(pvae.standard_normal(L), likelihood.requires_grad_(False), posterior).double()


class Exact(torch.nn.Module):
    """The closed-form posterior of probabilistic PCA."""

    def __init__(self, ppca):
        super().__init__()
        self.ppca = ppca.requires_grad_(False)

    def forward(self, x, covariates=None):
        return self.ppca.posterior(x)


def test_the_exact_posterior_as_guide_gives_the_exact_evidence_in_every_weight(ppca):
    torch.manual_seed(0)
    x = ppca.marginal().sample((20,)).detach()
    vae = linear_vae(ppca, Exact(ppca))
    weights = pvae.log_weights(vae, x, num_samples=50, seed=0)
    assert weights.shape == (50, 20)
    assert (weights - ppca.log_evidence(x)).abs().max() < 1e-9


def test_a_trained_mean_field_guide_reaches_the_optimal_mean_field_elbo(ppca):
    torch.manual_seed(0)
    D, L = ppca.weight.shape
    x = ppca.marginal().sample((2000,)).detach()
    vae = linear_vae(ppca, pvae.Factorized(dist.Normal, pvae.MLP(D, ()), event_shape=L))
    schedule = pvae.schedules.linear(0.02, 0.0, steps=1500)
    pvae.fit(vae, x, steps=1500, batch_size=500, learning_rate=schedule, objective=TraceMeanField_ELBO(), seed=0)
    best = (ppca.log_evidence(x) - ppca.approximation_gap()).mean().detach()
    reached = pvae.fit(vae, x, steps=1, batch_size=2000, learning_rate=1e-12, seed=1)
    with torch.no_grad():
        elbo = -TraceMeanField_ELBO(num_particles=200, vectorize_particles=True, max_plate_nesting=2).loss(
            vae.model, vae.guide, x
        ) / len(x)
    assert elbo == pytest.approx(best.item(), abs=0.02)
    assert reached["elbo"][0] == pytest.approx(best.item(), abs=0.2)


class FullGaussian(torch.nn.Module):
    """A linear guide with one full covariance, written here because a test of tempering must not rest on the library."""

    def __init__(self, data_dim, latent_dim):
        super().__init__()
        self.mean = torch.nn.Linear(data_dim, latent_dim)
        self.raw = torch.nn.Parameter(torch.eye(latent_dim))

    @property
    def scale_tril(self):
        return torch.tril(self.raw, -1) + torch.diag(self.raw.diagonal().exp())

    def forward(self, x, covariates=None):
        return dist.MultivariateNormal(self.mean(x), scale_tril=self.scale_tril)


def test_at_beta_4_the_guide_is_the_tempered_posterior(ppca):
    torch.manual_seed(0)
    D, L = ppca.weight.shape
    posterior = FullGaussian(D, L)
    vae = linear_vae(ppca, posterior)
    schedule = pvae.schedules.linear(0.02, 0.0, steps=1500)
    pvae.fit(
        vae,
        ppca.marginal().sample((2000,)).detach(),
        steps=1500,
        batch_size=500,
        learning_rate=schedule,
        beta=4.0,
        seed=0,
    )
    expected = torch.linalg.inv(
        torch.eye(L, dtype=torch.float64) + ppca.weight.T @ ppca.weight / (4.0 * ppca.noise)
    ).detach()
    covariance = (posterior.scale_tril @ posterior.scale_tril.T).detach()
    assert (covariance - expected).norm() / expected.norm() < 0.05


def plain_pair():
    """A pair of functions around a global Pyro parameter, as in Pyro's tutorials."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        a = pyro.param("a", torch.tensor(0.1))
        s = pyro.param("s", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(a * x, s))

    return model, guide


def test_a_plain_pair_of_functions_trains():
    pyro.clear_param_store()
    x = torch.randn(500, generator=torch.Generator().manual_seed(0)) * math.sqrt(2.0)
    history = pvae.fit(plain_pair(), x, epochs=60, batch_size=100, learning_rate=0.02, seed=0, validation=0.2)
    assert pyro.param("a").item() == pytest.approx(0.5, abs=0.05)
    assert pyro.param("s").item() == pytest.approx(math.sqrt(0.5), abs=0.05)
    assert history["validation_elbo"][-1] > history["validation_elbo"][0]
    pyro.clear_param_store()


def test_an_svi_object_trains():
    torch.manual_seed(0)
    vae = counts_vae()
    before = snapshot(vae)
    pvae.fit(SVI(vae.model, vae.guide, pyro.optim.Adam({}), Trace_ELBO()), counts(), epochs=1, seed=0)
    assert min(moved(before, vae)) > 0


@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
@pytest.mark.parametrize(
    "objective",
    [
        Trace_ELBO(num_particles=2),
        Trace_ELBO(num_particles=3, vectorize_particles=True),
        TraceGraph_ELBO(),
        TraceMeanField_ELBO(),
        TraceEnum_ELBO(),
        pvae.CapacityELBO(capacity=1.0, gamma=10.0),
        pvae.CapacityELBO(capacity=pvae.schedules.linear(0.0, 2.0, epochs=2), gamma=10.0),
        pvae.FreeBitsELBO(0.1),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_objectives_train(objective):
    torch.manual_seed(0)
    vae = counts_vae()
    before = snapshot(vae)
    history = pvae.fit(
        vae, counts(), epochs=20, batch_size=32, objective=objective, seed=0, learning_rate=0.01, start_at_data=False
    )
    assert min(moved(before, vae)) > 0
    assert history["elbo"][-1] > history["elbo"][0]


def test_capacity_holds_the_divergence_at_its_target():
    torch.manual_seed(0)
    vae = counts_vae()
    objective = pvae.CapacityELBO(capacity=0.7, gamma=200.0)
    history = pvae.fit(vae, counts(500), epochs=80, objective=objective, learning_rate=0.01, seed=0)
    assert history["kl"][-1] == pytest.approx(0.7, abs=0.1)


def test_free_bits_keep_every_dimension_at_its_floor():
    torch.manual_seed(0)
    vae = counts_vae(latent_dim=4)
    pvae.fit(vae, counts(500), epochs=60, objective=pvae.FreeBitsELBO(0.5), learning_rate=0.01, seed=0)
    q = vae.posterior(counts(500), covariates={"mask": torch.ones(500, 5, dtype=torch.bool)}).base_dist
    per_dimension = torch.distributions.kl_divergence(q, dist.Normal(0.0, 1.0)).mean(0)
    assert (per_dimension > 0.4).all()


@pytest.mark.parametrize(
    ("objective", "settings", "error", "message"),
    [
        (JitTrace_ELBO(), {}, ValueError, "JitTrace_ELBO cannot trace.*Trace_ELBO"),
        (ReweightedWakeSleep(), {}, ValueError, "ReweightedWakeSleep has no single loss"),
        (TraceTailAdaptive_ELBO(), {}, ValueError, "TraceTailAdaptive_ELBO has no single loss"),
        (RenyiELBO(), {"beta": 0.5, "batch_size": 64}, ValueError, "ImportanceWeightedELBO"),
        (RenyiELBO(), {"batch_size": 8}, ValueError, "ImportanceWeightedELBO"),
        (Trace_ELBO, {}, TypeError, "takes an instance of an ELBO"),
        ("elbo", {}, TypeError, "takes an instance of an ELBO"),
    ],
)
def test_objectives_that_would_be_wrong_are_refused(objective, settings, error, message):
    with pytest.raises(error, match=message):
        pvae.fit(counts_vae(), counts(), epochs=1, objective=objective, **settings)


def test_the_mean_field_objective_warns_where_no_closed_form_exists():
    vae = counts_vae()
    vae.prior = pvae.Factorized(dist.StudentT, event_shape=2, df=4.0, loc=0.0, scale=1.0)
    with pytest.warns(UserWarning, match="'z' has no closed-form divergence between Normal and StudentT"):
        pvae.fit(vae, counts(), epochs=1, objective=TraceMeanField_ELBO(), seed=0)


def test_a_schedule_that_ends_below_its_target_is_said():
    with pytest.warns(
        UserWarning, match=r"ended at beta = 0.5 before linear\(0.0, 1.0, epochs=4\) reached its target 1"
    ):
        pvae.fit(counts_vae(), counts(), epochs=2, beta=pvae.schedules.linear(0.0, 1.0, epochs=4), seed=0)


def test_beta_follows_its_schedule_and_any_callable_is_one():
    history = pvae.fit(counts_vae(), counts(), epochs=3, beta=lambda progress: 0.1 * progress.step, seed=0)
    assert history["beta"] == pytest.approx([0.0, 0.1, 0.2])
    history = pvae.fit(counts_vae(), counts(), epochs=1, beta={"z": 0.3}, seed=0)
    assert history["beta"] == pytest.approx([0.3])


@pytest.mark.parametrize(
    "rows",
    [
        lambda x: x.numpy(),
        lambda x: pd.DataFrame(x.numpy(), columns=list("abcde")),
        lambda x: scipy.sparse.csr_array(x.numpy()),
        lambda x: x.to(torch.int64),
        lambda x: DataLoader(TensorDataset(x, torch.zeros(len(x), dtype=torch.long)), batch_size=16),
        lambda x: TensorDataset(x),
    ],
    ids=["array", "frame", "csr", "integers", "loader", "dataset"],
)
def test_every_kind_of_data_goes_straight_into_fit(rows):
    torch.manual_seed(0)
    vae = counts_vae()
    before = snapshot(vae)
    history = pvae.fit(vae, rows(counts(64)), epochs=2, batch_size=16, seed=0)
    assert history["step"] == [4, 8]
    assert min(moved(before, vae)) > 0


def test_a_transform_redraws_each_batch_and_is_asked_once_for_it():
    """Its noise may be NumPy's, which no seed of a step repeats: a graph and its program must be given the same batch."""
    seen = {False: [], "trace": []}

    def transform(x, generator, level):
        seen[level].append(torch.poisson(x, generator=generator) + int(np.random.randint(2)))  # noqa: NPY002
        return seen[level][-1]

    for level in seen:
        given = {"transform": functools.partial(transform, level=level), "compile": level}
        history = pvae.fit(counts_vae(), torch.full((10, 5), 3.0), epochs=2, batch_size=10, seed=0, **given)
        assert history.engine == ("traced" if level else "eager")
        assert not torch.equal(seen[level][-1], seen[level][-2])
    assert len(seen[False]) == len(seen["trace"])


@pytest.mark.parametrize(("hidden", "threads"), [(16, 1), (1024, 2)])
def test_small_networks_train_on_one_thread_and_give_the_others_back(hidden, threads):
    torch.manual_seed(0)
    vae, seen, before = pvae.build_vae(counts(64), hidden=[hidden, hidden]), [], torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        pvae.fit(vae, counts(64), steps=1, seed=0, callbacks=[lambda history: seen.append(torch.get_num_threads())])
        assert seen == [threads]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_function_in_place_of_the_bar_is_told_of_each_epoch():
    torch.manual_seed(0)
    told = []
    tell = lambda history: told.append((history.rows[-1]["epoch"], len(history))) or True  # noqa: E731  it ends nothing
    pvae.fit(counts_vae(), counts(64), epochs=3, batch_size=32, seed=0, progress=tell)
    assert told == [(1, 1), (2, 2), (3, 3)]


def test_early_stopping_keeps_the_best_weights():
    torch.manual_seed(0)
    vae, validation = counts_vae(), counts(40, seed=1)
    rate = lambda progress: 0.01 if progress.epoch < 10 else 1.0  # noqa: E731  destroys the weights after a while
    history = pvae.fit(
        vae, counts(64), epochs=200, learning_rate=rate, validation=validation, patience=3, seed=0, clip_norm=1.0
    )
    assert history.ended == "early stopping"
    best = int(np.argmax(history["validation_elbo"]))
    assert history.best_epoch == best + 1
    assert len(history) == best + 4
    again = pvae.fit(vae, counts(64), steps=1, learning_rate=1e-12, validation=validation, seed=0)
    assert again["validation_elbo"][0] == pytest.approx(history["validation_elbo"][best], rel=1e-4)


def test_a_callback_can_stop():
    history = pvae.fit(counts_vae(), counts(), epochs=50, callbacks=[lambda history: len(history) == 3], seed=0)
    assert (len(history), history.ended) == (3, "stopped by a callback")


def poison(module, step):
    """The module gives NaN from this step on: a skipped step takes its count back."""
    module.register_buffer("count", torch.zeros(()))

    def hook(module, args, output):
        if not module.training:
            return output
        module.count.add_(1)
        return torch.where(module.count == step, math.nan, output)

    return module.register_forward_hook(hook)


@pytest.mark.parametrize(("validation_on", "level"), [(True, False), (False, False), (True, "trace")])
def test_a_step_that_is_not_finite_touches_neither_weights_nor_buffers(validation_on, level):
    torch.manual_seed(0)
    vae = convolutional_vae()
    poisoned = poison(vae.posterior.net, 1)
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    x = torch.bernoulli(torch.full((16, 1, 8, 8), 0.5))
    settings = {"batch_size": 16, "seed": 0, "compile": level}
    with pyro.validation_enabled(validation_on), pytest.raises(FloatingPointError, match=r"No step was taken: 2 steps"):
        pvae.fit(vae, x, steps=2, **settings, start_at_data=False)
    for name, tensor in vae.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    poisoned.remove()
    assert pvae.fit(vae, x, steps=1, **settings)["skipped"] == [0]


@pytest.mark.parametrize("level", [False, "trace"])
def test_training_that_ends_on_skipped_steps_says_so(level):
    torch.manual_seed(0)
    vae = convolutional_vae()
    x = torch.bernoulli(torch.full((16, 1, 8, 8), 0.5))
    poison(vae.posterior.net, 2)
    with pytest.warns(UserWarning, match="training ended on skipped steps: 1 steps in a row"):
        history = pvae.fit(vae, x, steps=2, batch_size=16, seed=0, compile=level)
    assert history["skipped"] == [0, 1]


@pytest.mark.parametrize("validation_on", [True, False])
def test_too_many_bad_steps_name_the_site_the_rows_and_the_parameter(validation_on):
    torch.manual_seed(0)
    vae = counts_vae()
    vae.likelihood.net.head.weight.data[0, 0] = math.nan
    before = snapshot(vae)
    with (
        pyro.validation_enabled(validation_on),
        pytest.raises(FloatingPointError, match=r"(?s)4 steps in a row.*site 'x'.*64 of 64 rows.*'vae.likelihood"),
    ):
        pvae.fit(vae, counts(64), epochs=20, max_skipped=3, seed=0)
    after = snapshot(vae)
    assert all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in zip(before, after, strict=True))


def test_ctrl_c_returns_the_history_so_far():
    torch.manual_seed(0)

    def interrupt(history):
        if len(history) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    history = pvae.fit(counts_vae(), counts(), epochs=1000, callbacks=[interrupt], seed=0)
    assert history.ended == "interrupted"
    assert 2 <= len(history) <= 3
    assert signal.getsignal(signal.SIGINT) is before


def test_modes_are_restored_and_frozen_parts_stay_in_eval_mode():
    vae = convolutional_vae()
    vae.likelihood.requires_grad_(False)
    vae.train()
    before = {name: tensor.clone() for name, tensor in vae.likelihood.state_dict().items()}
    pvae.fit(vae, torch.bernoulli(torch.full((16, 1, 8, 8), 0.5)), epochs=2, seed=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in vae.likelihood.state_dict().items())
    assert vae.training


def test_the_default_is_one_fused_optimizer_and_any_torch_optimizer_will_do():
    optimizer = functools.partial(torch.optim.SGD, lr=1e-3, momentum=0.9)
    scheduler = functools.partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5)
    history = pvae.fit(counts_vae(), counts(), epochs=3, optimizer=optimizer, scheduler=scheduler, seed=0)
    assert history["learning_rate"] == pytest.approx([5e-4, 2.5e-4, 1.25e-4])


def test_the_optimizer_serves_plain_svi():
    torch.manual_seed(0)
    vae = counts_vae()
    optimizer = TorchOptimizer(functools.partial(torch.optim.Adam, lr=1e-2), vae.parameters(), clip_norm=10.0)
    svi = SVI(vae.model, vae.guide, optimizer, Trace_ELBO())
    losses = [svi.step(counts()) for _ in range(100)]
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    vae.posterior = counts_vae().posterior
    with pytest.raises(ValueError, match=r"not built with.*Build a new optimizer"):
        svi.step(counts())


def test_data_without_one_observed_entry_are_refused():
    vae = counts_vae()
    before = snapshot(vae)
    with pytest.raises(ValueError, match=r"NaN \(missing\) in every entry of 64 rows"):
        pvae.fit(vae, torch.full((64, 5), math.nan), epochs=1)
    assert max(moved(before, vae)) == 0
    one = torch.full((64, 5), math.nan)
    one[63, 4] = 1.0
    assert len(pvae.fit(vae, one, epochs=1, seed=0)) == 1


def real_vae(scale=None):
    given = {} if scale is None else {"scale": scale}
    return pvae.VAE(
        pvae.standard_normal(2),
        pvae.Factorized(dist.Normal, pvae.MLP(2, (8,)), event_shape=5, **given),
        pvae.Factorized(dist.Normal, pvae.MLP(5, (8,)), event_shape=2),
    )


def with_atoms(share):
    x = torch.randn(100, 5, generator=torch.Generator().manual_seed(0))
    x[: round(100 * share), 3] = 0.25
    return x


def test_a_density_on_repeated_values_is_warned_of():
    with pytest.warns(UserWarning, match=r"1 of 5 columns of 'x'.*\(column 3: 40%\), and Normal is a density"):
        pvae.fit(real_vae(), with_atoms(0.4), epochs=1, batch_size=100, seed=0)
    missing = with_atoms(0.0)
    missing[:60] = math.nan
    for vae, x in ((real_vae(), with_atoms(0.1)), (real_vae(1.0), with_atoms(0.4)), (real_vae(), missing)):
        pvae.fit(vae, x, epochs=1, batch_size=100, seed=0)  # warnings are errors here
    pvae.fit(counts_vae(), torch.zeros(64, 5), epochs=1, seed=0)


def test_weight_decay_and_clipping_act():
    torch.manual_seed(0)
    vae = counts_vae()
    before = [parameter.norm().item() for parameter in vae.parameters() if parameter.ndim == 2]
    pvae.fit(vae, counts(), steps=100, learning_rate=0.01, weight_decay=5.0, clip_norm=1e-9, seed=0)
    after = [parameter.norm().item() for parameter in vae.parameters() if parameter.ndim == 2]
    assert all(b < 0.2 * a for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
        ({"epochs": 1, "steps": 1}, ValueError, "not both"),
        ({"steps": 2.5}, TypeError, "steps must be an integer, got 2.5"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": 2.0}, TypeError, "batch_size"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate must be positive"),
        ({"learning_rate": math.nan}, ValueError, "learning_rate must be positive"),
        ({"clip_norm": 0.0}, ValueError, "clip_norm must be positive"),
        ({"beta": -1.0}, ValueError, "beta must be finite and at least 0"),
        ({"beta": "1"}, TypeError, "beta must be a number"),
        ({"beta": {"y": 1.0, "z": -1.0}}, ValueError, "at least 0"),
        ({"beta": {"y": 0.5}}, ValueError, "beta names 'y', which is no latent site per datum; there are: z"),
        ({"beta": lambda progress: -1.0}, ValueError, "the schedule"),
        ({"patience": 3}, ValueError, "patience needs validation"),
        ({"keep_best": True}, ValueError, "keep_best needs validation"),
        ({"validation": 1.5}, ValueError, "fraction in"),
        ({"validation": torch.zeros(0, 5)}, ValueError, "at least one row"),
        ({"validation": torch.zeros(4, 3)}, ValueError, r"expected rows of shape \(5,\) in x"),
        ({"optimizer": pyro.optim.Adam({})}, TypeError, "functools.partial"),
        ({"optimizer": "adam"}, TypeError, "functools.partial"),
        ({"covariates": {"c": torch.zeros(64)}}, ValueError, "no part reads 'c'"),
        ({"covariates": {"c": torch.zeros(3)}}, ValueError, "64 rows"),
        ({"covariates": "c"}, TypeError, "expected covariates to be a dict"),
        ({"resume": True}, ValueError, "resume needs checkpoint"),
        ({"max_skipped": -1}, ValueError, "max_skipped"),
        ({"optimizer": torch.optim.SGD, "weight_decay": 0.1}, ValueError, "weight_decay is for the default"),
    ],
)
def test_bad_settings_are_refused_and_nothing_moves(settings, error, message):
    vae = counts_vae()
    before = snapshot(vae)
    with pytest.raises(error, match=message):
        pvae.fit(vae, counts(), **settings)
    assert max(moved(before, vae)) == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"device 'cuda' was asked for, and torch sees no GPU"):
        pvae.fit(counts_vae(), counts(), device="cuda")


def without_to_event():
    good = counts_vae()

    def model(x, size=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", good.prior())
            pyro.sample("x", dist.Poisson(good.likelihood(z).mean), obs=x)

    return model, good.guide


def on_a_simplex():
    good = counts_vae()
    return pvae.VAE(pvae.conditionals.SimplexDirichlet(event_shape=2), good.likelihood, good.posterior)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (without_to_event, r"(?s)invalid log_prob shape.*to_event"),
        (on_a_simplex, "on the whole space in the guide and on the simplex"),
    ],
)
def test_densities_of_different_shapes_or_spaces_are_refused(make, message):
    program, x = make(), counts(5)  # as many rows as columns: Pyro's plates see nothing wrong
    with pytest.raises(ValueError, match=message):
        pvae.fit(program, x, steps=1)
    with pytest.raises(ValueError, match=message):
        pvae.elbo(program, x, num_samples=2)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (torch.zeros(0, 5), ValueError, "at least one row"),
        (torch.zeros(4, 3), ValueError, r"x must have shape \(rows, 5\)"),
        (torch.full((4, 5), math.inf), ValueError, "finite"),
        (np.array([["a"] * 5]), TypeError, "numbers"),
        (torch.full((4, 5), -1.0), ValueError, "outside the support of Poisson"),
        ("no data", TypeError, "expected"),
        (None, TypeError, "expected"),
    ],
    ids=["empty", "shape", "infinite", "text", "support", "string", "none"],
)
def test_bad_data_is_refused_and_nothing_moves(rows, error, message):
    vae = counts_vae()
    before = snapshot(vae)
    with pytest.raises(error, match=message):
        pvae.fit(vae, rows, epochs=1)
    assert max(moved(before, vae)) == 0


@pytest.mark.parametrize("beta", [1.0, 0.5])
@pytest.mark.parametrize("particles", [1, 2])
def test_covariates_trains_and_matters(beta, particles):
    """Counts scaled by a known size: the rate per unit of size is found, whatever the objective's handlers."""
    generator = torch.Generator().manual_seed(0)
    size = torch.linspace(1, 20, 400)
    x = torch.poisson(3.0 * size[:, None].expand(400, 5), generator=generator)
    torch.manual_seed(0)
    vae = pvae.VAE(
        pvae.standard_normal(1),
        SizedPoisson(),
        pvae.Factorized(dist.Normal, pvae.MLP(5, (4,)), event_shape=1, preprocess=torch.log1p),
    )
    objective = Trace_ELBO(num_particles=particles, vectorize_particles=True)
    history = pvae.fit(
        vae,
        x,
        covariates={"size": size},
        epochs=60,
        learning_rate=0.05,
        beta=beta,
        objective=objective,
        seed=0,
        validation=0.2,
    )
    assert history["validation_elbo"][-1] > history["validation_elbo"][0]
    rate = vae.decode(torch.zeros(1, 1), covariates={"size": torch.ones(1)})
    torch.testing.assert_close(rate, torch.full((1, 5), 3.0), rtol=0.1, atol=0)


class SizedPoisson(torch.nn.Module):
    covariate_names = ("size",)

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(1, 5)

    def forward(self, z, covariates=None):
        return dist.Poisson(self.net(z).exp() * covariates["size"][..., None]).to_event(1)


def test_a_program_whose_first_parameter_is_a_number_trains():
    likelihood = pvae.Factorized(
        dist.Normal, pvae.MLP(1, ()), event_shape=5, scale=torch.nn.Parameter(torch.tensor(1.0))
    )
    vae = pvae.VAE(pvae.standard_normal(1), likelihood, pvae.Factorized(dist.Normal, pvae.MLP(5, ()), event_shape=1))
    assert next(vae.parameters()).ndim == 0
    assert len(pvae.fit(vae, counts(), epochs=2, seed=0)) == 2


def test_a_loader_gives_covariates_by_name():
    size = torch.linspace(1, 2, 32)
    loader = DataLoader(TensorDataset(counts(32), size), batch_size=8)
    vae = pvae.VAE(pvae.standard_normal(2), counts_vae().likelihood, SizedPosterior())
    assert len(pvae.fit(vae, loader, covariates=["size"], epochs=2, seed=0)) == 2


class SizedPosterior(torch.nn.Module):
    covariate_names = ("size",)

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(6, 2)

    def forward(self, x, covariates=None):
        return dist.Normal(self.net(torch.cat([x, covariates["size"][:, None]], -1)), 1.0).to_event(1)


def test_one_row_trains():
    assert len(pvae.fit(counts_vae(), counts(1), epochs=2, seed=0)) == 2


def test_a_program_without_a_data_plate_or_without_parameters_is_refused():
    def nothing(x):
        pass

    def normal(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"no site lies inside a plate named 'data': put .*`with pyro.plate"):
        pvae.fit((nothing, nothing), torch.zeros(4))
    with pytest.raises(ValueError, match=r"announces no parameter.*register"):
        pvae.fit((normal, nothing), torch.zeros(4))


def test_missing_entries_train():
    torch.manual_seed(0)
    x = counts(200)
    x[torch.rand_like(x) < 0.3] = math.nan
    x[0] = math.nan
    history = pvae.fit(counts_vae(), x, epochs=20, learning_rate=0.01, seed=0)
    assert history["elbo"][-1] > history["elbo"][0]
    assert sum(history["skipped"]) == 0


@pytest.mark.parametrize("stop_after", [5, 12, 20])
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_last_bit(tmp_path, stop_after):
    """Batch norm, dropout, a per-batch transform, clipping, schedules, validation and early stopping all on."""

    def run(interrupt_at=None, **settings):
        def transform(x, generator):
            nonlocal interrupt_at
            if interrupt_at is not None and (interrupt_at := interrupt_at - 1) == 0:
                signal.raise_signal(signal.SIGINT)
            return torch.poisson(x + 0.1, generator=generator)

        torch.manual_seed(0)
        vae = counts_vae(dropout=0.1, normalization=torch.nn.BatchNorm1d)
        history = pvae.fit(
            vae,
            counts(90),
            batch_size=16,
            transform=transform,
            beta=pvae.schedules.linear(0.0, 1.0, epochs=2),
            learning_rate=pvae.schedules.cosine(0.01, 0.001, epochs=4),
            clip_norm=5.0,
            validation=counts(20, seed=1),
            patience=50,
            steps=24,
            seed=0,
            **settings,
        )
        return vae, history

    whole, history = run()
    _, cut = run(stop_after, checkpoint=tmp_path)
    assert cut.ended == "interrupted"
    resumed, rest = run(checkpoint=tmp_path, resume=True)
    assert equal(whole, resumed)
    assert without_seconds(rest) == without_seconds(history)


def test_a_folder_with_checkpoints_is_not_overwritten(tmp_path):
    pvae.fit(counts_vae(), counts(), epochs=1, seed=0, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"holds checkpoints already.*resume goes on"):
        pvae.fit(counts_vae(), counts(), epochs=1, seed=0, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="saved with batch_size=128, this run has 16"):
        pvae.fit(counts_vae(), counts(), epochs=1, seed=0, checkpoint=tmp_path, resume=True, batch_size=16)
