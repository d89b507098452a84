"""What `fit` finds out before the first step, or at the batch where it happens: rows, covariates, guides, units, devices."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import counts, counts_vae, moved, snapshot
from pyro.infer.autoguide import AutoDelta, AutoNormal
from torch import nn
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

import pyrovae as pvae


@pytest.fixture(autouse=True)
def empty_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


# Values outside their support


def with_bad(x, row=-1, value=-1.0):
    x = x.clone()
    x[row, 0] = value
    return x


class Rates(nn.Module):
    """A plain pair whose only latent is a rate for each row; the model knows no support by itself."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(5, 1)

    def model(self, x):
        pvae.register(rates=self)
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
            pyro.sample("x", dist.Poisson(rate[..., None].expand(*rate.shape, 5)).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.LogNormal(self.net(x.clamp(0).log1p())[..., 0], 0.5))


class Logged(Rates):
    """Its data site does not show the rows as they are, so that all rows go through the model."""

    def model(self, x):
        pvae.register(rates=self)
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
            pyro.sample("x", dist.Exponential(rate[..., None].expand(*rate.shape, 5)).to_event(1), obs=x + 0.5)


@pytest.mark.parametrize("make", [counts_vae, Rates, Logged])
@pytest.mark.parametrize("row", [0, 5000])
def test_a_value_outside_its_support_in_any_row_is_refused_before_the_first_step(make, row):
    program, x = make(), counts(5001)
    before = snapshot(program)
    with pytest.raises(
        ValueError, match=rf"outside the support of (Poisson|Exponential).* in (at least )?1 of 5001 rows \({row}\)"
    ):
        pvae.fit(program, with_bad(x, row), epochs=1, seed=0)
    assert max(moved(before, program)) == 0
    fit = pvae.fit(program, with_bad(x, row, 0.0), steps=1, seed=0)
    assert fit["skipped"] == [0]


def test_a_support_with_a_bound_for_each_row_is_checked_row_by_row():
    trials = torch.arange(1.0, 301.0)

    def likelihood(z, covariates=None):
        total = covariates["trials"][..., None].expand(*z.shape[:-1], 5)
        return dist.Binomial(total, logits=z[..., :1].expand(total.shape)).to_event(1)

    class Trials(nn.Module):
        covariate_names = ("trials",)
        forward = staticmethod(likelihood)

    vae = pvae.VAE(pvae.standard_normal(2), Trials(), counts_vae().posterior)
    x = trials[:, None].expand(300, 5).clone()
    covariates = {"trials": trials}
    assert len(pvae.fit(vae, x, covariates=covariates, epochs=1, seed=0)) == 1
    x[250, 2] += 1
    with pytest.raises(ValueError, match=r"outside the support of Binomial.* in (at least )?1 of 300 rows \(250\)"):
        pvae.fit(vae, x, covariates=covariates, epochs=1, seed=0)


def test_validation_rows_are_checked_too():
    with pytest.raises(ValueError, match=r"validation: .*outside the support of Poisson.*in 1 of 64 rows"):
        pvae.fit(counts_vae(), counts(), validation=with_bad(counts()), epochs=1, seed=0)


@pytest.mark.parametrize("make", [counts_vae, Rates])
def test_a_loader_s_batch_is_checked_when_it_comes(make):
    program = make()
    loader = DataLoader(TensorDataset(with_bad(counts(64), 40)), batch_size=16)
    with pytest.raises(ValueError, match=r"step 2, rows counted within its batch: x holds .* in 1 of 16 rows \(8\)"):
        pvae.fit(program, loader, epochs=1, seed=0)
    fresh = make()
    fresh.load_state_dict(make().state_dict())
    assert all(parameter.isfinite().all() for parameter in program.parameters())


def test_a_transform_s_values_are_checked_when_they_come():
    calls = []

    def transform(x, generator):
        calls.append(len(x))
        return x - 100.0 if len(calls) > 8 else x

    vae = counts_vae()
    with pytest.raises(ValueError, match=r"step \d+: x holds values outside the support .* in at least 16 of 64 rows"):
        pvae.fit(vae, counts(64), batch_size=16, transform=transform, epochs=5, seed=0)
    assert all(parameter.isfinite().all() for parameter in vae.parameters())


def test_a_step_outside_the_support_moves_nothing():
    """A Bernoulli has a finite log density of 255: only the comparison with its support sees it."""
    vae = pvae.VAE(
        pvae.standard_normal(2),
        pvae.Factorized(dist.Bernoulli, pvae.MLP(2, (8,)), event_shape=5),
        pvae.Factorized(dist.Normal, pvae.MLP(5, (8,)), event_shape=2),
    )
    x = torch.ones(16, 5)
    good = [x.clone() for _ in range(2)]
    pvae.fit(vae, DataLoader(TensorDataset(torch.cat(good)), batch_size=16), epochs=1, seed=0)
    after_two = snapshot(vae)
    torch.manual_seed(0)
    for parameter, value in zip(vae.parameters(), after_two, strict=True):
        assert torch.equal(parameter, value)
    with pytest.raises(ValueError, match=r"step 0, .*outside the support of Bernoulli|x holds values outside"):
        pvae.fit(vae, DataLoader(TensorDataset(255 * x), batch_size=16), epochs=1, seed=0)
    assert max(moved(after_two, vae)) == 0


def test_a_code_that_is_no_category_is_refused_in_any_row():
    net = pvae.FiLM(pvae.MLP(2, (8,)), {"batch": pvae.Embed(3, 4)})
    vae = pvae.VAE(pvae.standard_normal(2), pvae.Factorized(dist.Poisson, net, event_shape=5), counts_vae().posterior)
    codes = torch.arange(300) % 3
    assert len(pvae.fit(vae, counts(300), covariates={"batch": codes}, epochs=1, seed=0)) == 1
    codes[299] = 3
    with pytest.raises(ValueError, match="covariate 'batch' has the code 3 in row 299"):
        pvae.fit(vae, counts(300), covariates={"batch": codes}, epochs=1, seed=0)


# Validation


def gamma_vae():
    torch.manual_seed(0)
    return pvae.VAE(
        pvae.standard_normal(2),
        pvae.Factorized(dist.Gamma, pvae.MLP(2, (8,)), event_shape=3),
        pvae.Factorized(dist.Normal, pvae.MLP(3, (8,)), event_shape=2),
    )


def test_a_validation_elbo_that_is_not_finite_is_said_and_never_the_best():
    x = torch.rand(64, 3, generator=torch.Generator().manual_seed(0)) + 0.1
    zero = with_bad(x[:20], 7, 0.0)
    with pytest.warns(UserWarning, match=r"validation ELBO of epoch 1 is not finite, in 1 of 20 rows \(7\)") as caught:
        history = pvae.fit(gamma_vae(), x, validation=zero, epochs=4, keep_best=True, seed=0)
    assert len(caught) == 1
    assert not any(math.isfinite(elbo) for elbo in history["validation_elbo"])
    assert history.best_epoch is None
    assert pvae.fit(gamma_vae(), x, validation=x[:20], epochs=4, keep_best=True, seed=0).best_epoch is not None


# History


class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(4))

    def forward(self, z, covariates=None):
        return dist.Normal(self.loc + 0 * z, 1.0).to_event(1)


class Unmoved(nn.Module):
    def forward(self, x, covariates=None):
        return dist.Normal(torch.zeros(*x.shape[:-1], 1), 1.0).to_event(1)


@pytest.mark.parametrize("seed", range(3))
def test_the_history_s_loss_is_a_mean_over_rows(seed):
    """The guide is exact and the weights stand still: -log p(x) over 129 rows, whatever batch the outlier is in."""
    torch.manual_seed(0)
    x = torch.randn(129, 4)
    x[50] = 1000.0
    expected = -float(dist.Normal(0.0, 1.0).log_prob(x).sum(1).mean())
    vae = pvae.VAE(pvae.standard_normal(1), Fixed(), Unmoved())
    row = pvae.fit(vae, x, epochs=1, batch_size=43 if seed else 128, learning_rate=1e-12, seed=seed).rows[0]
    assert row["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_scheduler_of_torch_steers_the_default_optimizer():
    scheduler = functools.partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5)
    for rate in (None, 1e-2):
        history = pvae.fit(counts_vae(), counts(), epochs=3, learning_rate=rate, scheduler=scheduler, seed=0)
        assert history["learning_rate"] == pytest.approx([(rate or 1e-3) * 0.5**power for power in (1, 2, 3)])


# Batches that are too small, loaders that keep to a part


@pytest.mark.parametrize(("rows", "drop_last", "refused"), [(33, False, True), (33, True, False), (34, False, False)])
def test_one_row_under_batch_norm_is_refused_before_the_first_step(rows, drop_last, refused):
    vae = counts_vae(normalization=nn.BatchNorm1d)
    before = snapshot(vae)
    if refused:
        with pytest.raises(ValueError, match=r"33 rows leave one at the end of an epoch: write drop_last=True"):
            pvae.fit(vae, counts(rows), batch_size=16, drop_last=drop_last, epochs=1, seed=0)
        assert max(moved(before, vae)) == 0
        pvae.fit(counts_vae(), counts(rows), batch_size=16, epochs=1, seed=0)  # without batch norm one row is fine
    else:
        pvae.fit(vae, counts(rows), batch_size=16, drop_last=drop_last, epochs=1, seed=0)


def test_a_frozen_batch_norm_takes_one_row():
    vae = counts_vae(normalization=nn.BatchNorm1d)
    vae.likelihood.requires_grad_(False)
    vae.posterior.requires_grad_(False)
    vae.prior = pvae.Factorized(dist.Normal, event_shape=2, loc=nn.Parameter(torch.zeros(2)), scale=1.0)
    assert len(pvae.fit(vae, counts(33), batch_size=16, epochs=1, seed=0)) == 1


def one_mean(x, size=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    with pyro.plate("data", size or len(x), subsample=torch.arange(len(x)), dim=-1):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


def test_a_sampler_of_a_part_sets_the_size_of_the_data():
    torch.manual_seed(0)
    rows = TensorDataset(torch.randn(60) + 1)
    loader = DataLoader(rows, batch_size=10, sampler=SubsetRandomSampler(range(20)))
    guide = AutoNormal(one_mean, init_scale=0.1)
    rate = pvae.schedules.one_cycle(0.05, steps=1500)
    pvae.fit((one_mean, guide), loader, steps=1500, learning_rate=rate, seed=0)
    assert guide.scales.mean.item() == pytest.approx(20.01**-0.5, rel=0.15)


@pytest.mark.parametrize("ignoring", ["model", "guide"])
def test_a_program_that_takes_size_and_ignores_it_is_refused_by_name(ignoring):
    def rows(x, size, name):
        return pyro.plate("data", len(x) if name == ignoring else size, subsample=torch.arange(len(x)))

    def model(x, size=None):
        with rows(x, size, "model"):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x, size=None):
        with rows(x, size, "guide"):
            pyro.sample("z", dist.Normal(pyro.param("slope", lambda: torch.tensor(0.4)) * x, 0.7))

    with pytest.raises(ValueError, match=f"the {ignoring} takes size.* stands for 8 rows where size=32 was handed in"):
        pvae.fit((model, guide), torch.linspace(-1, 1, 32), batch_size=8, steps=2)
    assert len(pvae.fit((model, guide), torch.linspace(-1, 1, 32), steps=2)) == 2  # a batch of all rows


# Parameters for each row


class Looked(nn.Module):
    """One location for each of 40 rows, looked up by the numbers of the rows, or by their place in the batch."""

    def __init__(self, by_index, names=True):
        super().__init__()
        self.by_index = by_index
        self.loc, self.other = nn.Parameter(torch.zeros(40)), nn.Linear(1, 20)

    def rows(self, y, size, index):
        pvae.register(looked=self)
        return pyro.plate("data", size or len(y), subsample=torch.arange(len(y)) if index is None else index)

    def model(self, y, size=None, index=None):
        with self.rows(y, size, index):
            z = pyro.sample("z", dist.Normal(0.0, 10.0))
            pyro.sample("y", dist.Normal(z, 0.1), obs=y)

    def guide(self, y, size=None, index=None):
        with self.rows(y, size, index):
            loc = self.loc[index] if self.by_index else self.loc[: len(y)]
            pyro.sample("z", dist.Normal(loc + 0 * self.other(y[:, None]).relu().sum(-1), 0.1))


class Unnamed(Looked):
    """The same, without index: its first rows would train for all."""

    def model(self, y, size=None):
        super().model(y, size)

    def guide(self, y, size=None):
        super().guide(y, size)


def test_a_guide_that_looks_its_rows_up_by_index_trains_in_batches():
    y = torch.linspace(-5, 5, 40)
    program, rate = Looked(by_index=True), pvae.schedules.one_cycle(0.1, epochs=300)
    history = pvae.fit(program, y, epochs=300, batch_size=20, learning_rate=rate, seed=0)
    assert (program.loc - y).abs().max() < 0.3
    exact = dist.Normal(0.0, math.sqrt(100.01)).log_prob(y).mean().item()
    assert history["elbo"][-1] == pytest.approx(exact, abs=0.5)  # the columns look the right rows up, too
    with pytest.raises(ValueError, match="validation rows have no parameters in the guide"):
        pvae.fit(program, y, epochs=1, batch_size=20, validation=y[:3], seed=0)


@pytest.mark.parametrize(
    "make", [functools.partial(Looked, by_index=False), functools.partial(Unnamed, by_index=False)]
)
def test_a_guide_that_takes_its_rows_by_their_place_is_refused_in_batches(make):
    y = torch.linspace(-5, 5, 40)
    with pytest.raises(ValueError, match=r"guide holds parameters for each row of a batch.*take index"):
        pvae.fit(make(), y, epochs=1, batch_size=20, seed=0)
    assert len(pvae.fit(make(), y, epochs=1, batch_size=40, seed=0)) == 1


def test_points_for_each_row_are_refused_in_batches():
    def means(y):
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Normal(0.0, 10.0))
            pyro.sample("y", dist.Normal(z, 0.1), obs=y)

    with pytest.raises(ValueError, match="AutoDelta holds parameters for each row of a batch"):
        pvae.fit((means, AutoDelta(means)), torch.linspace(-5, 5, 40), epochs=1, batch_size=20, seed=0)


def test_an_embedding_with_as_many_levels_as_rows_is_no_parameter_for_each_row():
    table = nn.Embedding(64, 2)

    def model(x, level):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x, level):
        pvae.register(table=table)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(table(level.long()), 0.5).to_event(1))

    data = torch.randn(64, 2), torch.arange(64) // 2 * 2
    assert len(pvae.fit((model, guide), data, epochs=1, batch_size=32, seed=0)) == 1


@pytest.mark.parametrize("width", [16, 64])
def test_layers_as_wide_as_a_batch_or_the_data_are_no_parameters_for_each_row(width):
    vae = pvae.VAE(
        pvae.standard_normal(2),
        counts_vae().likelihood,
        pvae.Factorized(dist.Normal, pvae.MLP(5, (width,), activation=nn.ReLU), event_shape=2),
    )
    assert len(pvae.fit(vae, counts(64), epochs=1, batch_size=16, seed=0)) == 1


# Devices and objectives


@pytest.mark.parametrize(
    ("settings", "argument", "message"),
    [
        ({"device": "gpu"}, "device", "device 'gpu' was asked for, and torch sees no GPU"),
        ({"device": "mps"}, "device", "device 'mps' was asked for"),
        ({"clip_norm": -1.0}, "clip_norm", "clip_norm must be positive"),
        ({"epochs": 0}, "epochs", "at least 1"),
        ({"patience": 2}, "patience", "needs validation"),
        ({"learning_rate": 0.0}, "learning_rate", "positive and finite"),
        ({"beta": {"y": 2.0}}, "beta", "no latent site"),
        ({"batch_size": 0}, "batch_size", "at least 1"),
        ({"resume": True}, "resume", "needs checkpoint"),
    ],
)
def test_an_error_names_its_argument(settings, argument, message):
    with pytest.raises(ValueError, match=message) as caught:
        pvae.fit(counts_vae(), counts(), **settings)
    assert caught.value.argument == argument


def test_sites_that_one_of_the_two_functions_lacks_are_said_before_the_first_step():
    vae = counts_vae()

    def model(x):
        pvae.register(vae=vae)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.sum(-1) + w, 1.0), obs=x[:, 0])

    with (
        pytest.warns(UserWarning, match="ELBO columns"),
        pytest.warns(UserWarning, match="Found vars in model but not"),
    ):
        pvae.fit((model, vae.guide), counts(), steps=1, seed=0)
