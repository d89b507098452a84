"""Resuming: what is compared and said, and programs whose modules and parameters hide from a look at their closures."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import counts, counts_vae
from torch import nn

import pyrovae as pvae


@pytest.fixture(autouse=True)
def empty_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


# What is compared


def scaled(x, generator):
    return x


def other_transform(x, generator):
    return x


def covariate_vae(dropout=0.0, floor=0.0):
    torch.manual_seed(0)
    return pvae.VAE(
        pvae.standard_normal(2),
        pvae.Factorized(
            pvae.SizedPoisson, pvae.MLP(2, (8,), dropout=dropout), event_shape=5, size_factor=pvae.FromCovariate("size")
        ),
        pvae.Factorized(dist.Normal, pvae.MLP(5, (8,)), event_shape=2, preprocess=torch.log1p),
    )


def run(folder, epochs=2, resume=False, vae=None, data=None, **changes):
    x, size = counts(48), torch.linspace(1, 2, 48)
    settings = {
        "batch_size": 16,
        "beta": 0.5,
        "learning_rate": 1e-3,
        "clip_norm": 5.0,
        "objective": pvae.FreeBitsELBO(0.1),
        "validation": 0.25,
        "transform": scaled,
        "seed": 3,
        "checkpoint": folder,
    }
    data = pvae.data.as_data(x, {"size": size}) if data is None else data
    vae = covariate_vae() if vae is None else vae
    return pvae.fit(vae, data, epochs=epochs, resume=resume, **{**settings, **changes})


def with_covariates(**changes):
    size = torch.linspace(1, 2, 48)
    size[0] = changes.get("first", 1.0)
    x = counts(48)
    x[0, 0] += changes.get("added", 0.0)
    return pvae.data.as_data(x, {"size": size})


DIFFERENT = {
    "beta": ({"beta": 0.4}, "beta=0.5, this run has 0.4"),
    "beta by site": ({"beta": {"z": 0.5}}, "beta=0.5, this run has {'z': 0.5}"),
    "learning_rate": ({"learning_rate": 1e-2}, "learning_rate=0.001, this run has 0.01"),
    "schedule": (
        {"learning_rate": pvae.schedules.constant(1e-3)},
        r"learning_rate=0.001, this run has 'constant\(0.001\)'",
    ),
    "clip_norm": ({"clip_norm": 1.0}, "clip_norm=5.0, this run has 1.0"),
    "batch_size": ({"batch_size": 12}, "batch_size=16, this run has 12"),
    "seed": ({"seed": 4}, "seed=3, this run has 4"),
    "weight_decay": ({"weight_decay": 0.1}, "optimizer=.*'Adam'.*this run has .*'AdamW'"),
    "optimizer": (
        {"optimizer": functools.partial(torch.optim.Adam, fused=True, betas=(0.5, 0.9))},
        r"optimizer=.*\[0.9, 0.999\].*this run has .*\[0.5, 0.9\]",
    ),
    "objective's number": ({"objective": pvae.FreeBitsELBO(0.2)}, "'free_nats': 0.1.*this run has.*'free_nats': 0.2"),
    "objective": ({"objective": None}, "objective=.*'FreeBitsELBO'.*this run has.*'Trace_ELBO'"),
    "transform": ({"transform": other_transform}, "transform='.*scaled', this run has '.*other_transform'"),
    "validation": ({"validation": 0.5}, "other data"),
    "covariates": ({"data": with_covariates(first=1.5)}, r"other data \(rows, columns or covariates\)"),
    "rows": ({"data": with_covariates(added=1.0)}, r"other data \(rows, columns or covariates\)"),
    "dropout": ({"vae": covariate_vae(dropout=0.5)}, "the program's part likelihood has .*[Dd]ropout"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    run(folder)
    return folder


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_resumed_run_with_another_setting_is_refused_and_told_which(saved, name):
    changes, message = DIFFERENT[name]
    if "vae" in changes:
        changes = {"vae": covariate_vae(dropout=0.5)}
    with pytest.raises(ValueError, match=f"was saved with .*{message}.*resume with the same settings"):
        run(saved, epochs=3, resume=True, **changes)


def test_the_same_settings_go_on_and_functions_are_named_in_a_note(saved):
    history = run(saved, epochs=2, resume=True)
    assert len(history) == 2
    assert len(history.notes) == 1
    assert "transform is known to a checkpoint by its name alone" in history.notes[0]
    assert run(saved, epochs=2, resume=True, learning_rate=1e-3).notes == history.notes


@pytest.mark.parametrize(
    ("first", "then", "goes_on"),
    [
        (pvae.schedules.one_cycle(0.01, epochs=2), pvae.schedules.one_cycle(0.01, epochs=3), True),
        (pvae.schedules.one_cycle(0.01, epochs=2), pvae.schedules.one_cycle(0.02, epochs=3), False),
        (pvae.schedules.one_cycle(0.01, epochs=1), pvae.schedules.one_cycle(0.01, epochs=3), False),
        (pvae.schedules.cosine(0.01, 0.0, steps=6), pvae.schedules.cosine(0.01, 0.0, steps=9), True),
        (lambda progress: 0.01, lambda progress: 0.02, True),
    ],
)
def test_a_schedule_over_the_whole_training_may_go_on_to_more_epochs(tmp_path, first, then, goes_on):
    settings = {"validation": None, "seed": 0, "batch_size": 16, "checkpoint": tmp_path}
    pvae.fit(counts_vae(), counts(48), epochs=2, learning_rate=first, **settings)
    if goes_on:
        history = pvae.fit(counts_vae(), counts(48), epochs=3, learning_rate=then, resume=True, **settings)
        assert len(history) == 3
        assert any("learning_rate" in note for note in history.notes) == (not isinstance(then, pvae.schedules.Schedule))
    else:
        with pytest.raises(ValueError, match="learning_rate='one_cycle"):
            pvae.fit(counts_vae(), counts(48), epochs=3, learning_rate=then, resume=True, **settings)


def test_fewer_steps_than_were_saved_are_refused(tmp_path):
    pvae.fit(counts_vae(), counts(48), epochs=3, batch_size=16, seed=0, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="has 9 steps, more than the 6 asked for: ask for at least 3 epochs"):
        pvae.fit(counts_vae(), counts(48), epochs=2, batch_size=16, seed=0, checkpoint=tmp_path, resume=True)


def test_without_a_seed_the_noise_of_the_checkpoint_goes_on(tmp_path):
    results = []
    for interrupted in (False, True):
        torch.manual_seed(0)
        vae, folder = counts_vae(dropout=0.2), tmp_path / str(interrupted)
        settings = {"batch_size": 16, "checkpoint": folder, "learning_rate": 1e-3}  # not a cycle over all epochs
        torch.manual_seed(1)
        if interrupted:
            pvae.fit(vae, counts(48), epochs=1, **settings)
            vae = counts_vae(dropout=0.2)
        history = pvae.fit(vae, counts(48), epochs=3, resume=interrupted, **settings)
        results.append((history["loss"], [p.detach() for p in vae.parameters()]))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


# Modules that hide


class Moments(nn.Module):
    """A layer with a buffer that it replaces in each pass."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(5))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return x - self.mean


def in_a_dict():
    parts = {
        "encoder": nn.Sequential(Moments(), nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 2)),
        "decoder": nn.Linear(2, 5),
    }

    def model(x, covariates=None):
        pvae.register(decoder=parts["decoder"])
        offset = pyro.param("offset", torch.zeros(5))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            loc = parts["decoder"](z) + offset + covariates["shift"][:, None]
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x, covariates=None):
        pvae.register(encoder=parts["encoder"])
        spread = pyro.param("spread", torch.tensor(0.7), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(parts["encoder"](x), spread).to_event(1))

    return (model, guide), list(parts.values())


def in_a_partial():
    (model, guide), modules = in_a_dict()
    return (functools.partial(model), functools.partial(guide)), modules


def in_pyro_modules():
    encoder = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    held = {"decoder": nn.Linear(2, 5)}

    def model(x, covariates=None):
        decoder = pyro.module("decoder", held["decoder"])
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z) + covariates["shift"][:, None], 1.0).to_event(1), obs=x)

    def guide(x, covariates=None):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), 0.7).to_event(1))

    return (model, guide), [encoder, held["decoder"]]


def tensors_of(modules):
    found = {f"{number}.{name}": t for number, module in enumerate(modules) for name, t in module.state_dict().items()}
    store = {name: tensor.detach() for name, tensor in pyro.get_param_store()._params.items()}
    return {name: tensor.clone() for name, tensor in {**found, **store}.items()}


def fit_hidden(make, folder, epochs, resume=False, **options):
    pyro.clear_param_store()
    torch.manual_seed(0)
    program, modules = make()
    x = counts(64).log1p()
    data = pvae.data.as_data(x, {"shift": torch.linspace(-1, 1, 64)})
    settings = {"batch_size": 16, "learning_rate": 0.01, "seed": 0, "checkpoint": folder, "validation": 0.25}
    history = pvae.fit(program, data, epochs=epochs, resume=resume, **settings, **options)
    return history, tensors_of(modules), modules


@pytest.mark.parametrize("make", [in_a_dict, in_a_partial, in_pyro_modules])
def test_modules_that_hide_are_trained_saved_and_resumed_to_the_last_bit(make, tmp_path):
    torch.manual_seed(0)
    start = tensors_of(make()[1])
    whole, expected, _ = fit_hidden(make, tmp_path / "whole", 4)
    moved = [name for name, tensor in expected.items() if name not in start or not torch.equal(tensor, start[name])]
    assert len(moved) == len(expected)
    fit_hidden(make, tmp_path / "cut", 2)
    resumed, tensors, _ = fit_hidden(make, tmp_path / "cut", 4, resume=True)
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, expected[name]), name
    for column in ("loss", "elbo", "validation_elbo", "gradient_norm"):
        assert resumed[column] == whole[column]


@pytest.mark.parametrize("make", [in_a_dict, in_pyro_modules])
def test_modules_that_hide_are_evaluated_in_eval_mode_and_kept_as_best(make, tmp_path):
    modes = []

    def look(history):
        modes.append([part.training for module in modules for part in module.modules()])

    pyro.clear_param_store()
    torch.manual_seed(0)
    program, modules = make()
    seen = set()
    hook = modules[0].register_forward_pre_hook(lambda module, args: seen.add((module.training, len(args[0]))))
    data = pvae.data.as_data(counts(64).log1p(), {"shift": torch.linspace(-1, 1, 64)})
    rate = lambda progress: 0.02 if progress.epoch < 4 else 3.0  # noqa: E731  destroys the weights after a while
    history = pvae.fit(
        program,
        data,
        epochs=8,
        batch_size=16,
        learning_rate=rate,
        seed=0,
        validation=0.25,
        keep_best=True,
        callbacks=[look],
    )
    hook.remove()
    assert all(all(mode) for mode in modes)  # train mode again between chunks
    assert {training for training, rows in seen if rows == 48} == {False}  # the history's columns: all training rows
    best = max(elbo for elbo in history["validation_elbo"] if math.isfinite(elbo))
    assert history["validation_elbo"][-1] < best - 1
    again = pvae.fit(program, data, steps=1, batch_size=16, learning_rate=1e-12, seed=0, validation=0.25)
    assert again["validation_elbo"][0] == pytest.approx(best, abs=0.05)
