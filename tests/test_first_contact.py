"""What a newcomer meets first: numbers of plain Pyro programs, and errors that say which row, which name and what to write."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from PIL import Image
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO, config_enumerate
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

import pyrovae as pvae
from pyrovae.cli.app import app
from pyrovae.cli.train import why_not_learned
from pyrovae.presets import suggest
from pyrovae.presets.recipes import IMAGE_ENTRIES, IMAGE_STEPS, image_epochs
from pyrovae.programs.simulate import simulate


class Returns(nn.Module):
    """A part that returns a distribution made by a function of its net's output."""

    def __init__(self, make, size=5):
        super().__init__()
        self.net, self.make = nn.Linear(2, size), make

    def forward(self, z, covariates=None):
        return self.make(self.net(z))


def vae(likelihood, size=5):
    posterior = pvae.Factorized(dist.Normal, pvae.MLP(size, (8,)), 2)
    return pvae.VAE(pvae.standard_normal(2), likelihood, posterior)


def counts_of(family):
    """A program without a latent that matters: each row is scored by the family itself."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", family, obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    return model, guide


@pytest.mark.parametrize(
    ("family", "exact", "mean", "sd"),
    [
        (dist.Binomial(10**6, torch.tensor(0.5)), scipy.stats.binom(10**6, 0.5), 5e5, 500.0),
        (dist.Poisson(torch.tensor(1e6)), scipy.stats.poisson(1e6), 1e6, 1000.0),
    ],
)
def test_the_masses_of_large_counts_under_plain_distributions_sum_to_one(family, exact, mean, sd):
    x = torch.arange(mean - 8 * sd, mean + 8 * sd)
    mass = torch.as_tensor(pvae.elbo(counts_of(family), x, num_samples=1, seed=0, progress=False).elbo.values)
    assert float(mass.exp().sum()) == pytest.approx(1.0, abs=1e-4)
    torch.testing.assert_close(mass, torch.as_tensor(exact.logpmf(x)), rtol=0, atol=1e-4)
    assert float(family.log_prob(x).double().exp().sum()) != pytest.approx(1.0, abs=1e-3)  # what Pyro's own sum to


@pytest.mark.parametrize(("largest", "refused"), [(2.0**24, False), (2.0**24 + 2, True)])
@pytest.mark.parametrize("family", [dist.Poisson, pvae.SizedNegativeBinomial])
def test_counts_that_single_precision_cannot_tell_apart_are_refused_before_training(family, largest, refused):
    x = torch.full((20, 5), largest)
    program = vae(pvae.Factorized(family, pvae.MLP(2, (8,)), 5))
    before = [p.clone() for p in program.parameters()]
    if not refused:
        pvae.fit(program, x, steps=1, seed=0, progress=False)
        return
    with pytest.raises(ValueError, match=r"holds 16777218, but .* give data and model in double precision"):
        pvae.fit(program, x, steps=1, seed=0, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, program.parameters(), strict=True))


@pytest.mark.parametrize("task", ["fit", "elbo", "decode", "sample"])
def test_an_empty_row_is_named_in_one_sentence(task):
    size = torch.ones(30)
    size[25] = 0
    likelihood = pvae.Factorized(
        pvae.SizedNegativeBinomial, pvae.MLP(2, (8,)), 5, size_factor=pvae.FromCovariate("size")
    )
    program, x, given = vae(likelihood), torch.ones(30, 5), {"covariates": {"size": size}}
    calls = {
        "fit": lambda: pvae.fit(program, x, **given, epochs=1, batch_size=10, seed=0, progress=False),
        "elbo": lambda: pvae.elbo(program, x, **given, seed=0, progress=False),
        "decode": lambda: program.decode(torch.zeros(30, 2), **given),
        "sample": lambda: program.sample(30, **given),
    }
    with pytest.raises(ValueError, match=r"\['size'\] must be positive, got 0 in .*25") as caught:
        calls[task]()
    assert "\n" not in str(caught.value)
    assert caught.value.argument == "covariates"


def test_an_error_of_the_users_program_keeps_the_table_of_shapes():
    def broken(x):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine\nTrace Shapes"):
        pvae.elbo((broken, broken), torch.zeros(3, 2), progress=False)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda raw: dist.Normal(raw, 1.0), r"write \.to_event\(1\) in its forward"),
        (lambda raw: dist.Normal(raw[..., :3], 1.0).to_event(1), "must have shape .rows, 3. for this likelihood"),
    ],
)
def test_a_likelihood_without_to_event_is_told_from_one_of_another_shape(make, said):
    with pytest.raises(ValueError, match=said):
        pvae.fit(vae(Returns(make)), torch.randn(20, 5), epochs=1, progress=False)


@pytest.mark.parametrize("rows", [lambda size: size, lambda size: 1])
def test_a_model_that_forgets_the_size_without_data_is_told_and_not_simulated(rows):
    def model(x=None, size=None):
        with pyro.plate("data", rows(size) if x is None else len(x)) as index:
            z = pyro.sample("z", dist.Normal(torch.zeros(len(index), 1), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x, size=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5).to_event(1))

    x = torch.randn(40, 1, generator=torch.Generator().manual_seed(0)) * 2**0.5
    checks = ("reliability", "calibration", "typicality", "predictive")
    report = pvae.diagnose(
        (model, guide), x, checks=checks, num_samples=100, num_simulations=50, seed=0, progress=False
    )
    if rows(7) == 7:
        assert report.skipped == {}
        return
    assert set(report.skipped) == {"calibration", "typicality", "predictive"}
    assert all("draws another number of rows: where x is None write pyro.plate" in t for t in report.skipped.values())


def summed_out(extra):
    """A mixture whose label is summed out, with or without a continuous latent beside it."""

    @config_enumerate
    def model(x=None, size=None):
        with pyro.plate("data", size if x is None else len(x)):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.7])))
            z = pyro.sample("z", dist.Normal(0.0, 1e-3)) if extra else 0.0
            return pyro.sample("x", dist.Normal(4.0 * k + z, 1.0), obs=x)

    def guide(x, size=None):
        with pyro.plate("data", len(x)):
            if extra:
                pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1e-3))

    return model, guide


def test_a_program_whose_latents_are_all_summed_out_is_evaluated_exactly_by_every_method():
    x = torch.linspace(-2, 6, 30)
    exact = torch.stack([torch.tensor(0.3).log() + dist.Normal(0.0, 1.0).log_prob(x)] * 2)
    exact = exact.logaddexp(torch.tensor(0.7).log() + dist.Normal(4.0, 1.0).log_prob(x))[0].double()
    for method in ("importance", "refined", "mixture"):
        found = pvae.log_marginal(summed_out(False), x, method=method, num_samples=20, seed=0, progress=False)
        torch.testing.assert_close(torch.as_tensor(found.log_marginal.values), exact, rtol=0, atol=1e-5)
    refined = pvae.log_marginal(summed_out(True), x, method="refined", num_samples=50, seed=0, progress=False)
    assert refined.attrs["estimator"] != found.attrs["estimator"]
    report = pvae.diagnose(
        summed_out(False), x, checks=("reliability", "structure"), num_samples=20, seed=0, progress=False
    )
    assert set(report.skipped) == {"structure"}
    assert report.skipped["structure"].startswith("the guide draws no latent")


def with_global():
    """Normal rows around a global mean, whose posterior under the prior's data is far from the point that is fixed."""

    def model(x=None, size=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("data", size if x is None else len(x)) as index:
            z = pyro.sample("z", dist.Normal(torch.zeros(len(index), 1), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z + mu, 1.0).to_event(1), obs=x)

    def guide(x, size=None):
        mu = pyro.sample("mu", dist.Normal(3.0, 0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x - mu) / 2, 0.5**0.5).to_event(1))

    return model, guide


def test_a_global_that_is_fixed_by_condition_leaves_every_check_of_the_rows():
    x = 3.0 + 2**0.5 * torch.randn(60, 1, generator=torch.Generator().manual_seed(0))
    fixed = tuple(poutine.condition(part, {"mu": torch.tensor(3.0)}) for part in with_global())
    report = pvae.diagnose(fixed, x, num_samples=100, num_simulations=100, seed=0, progress=False)
    assert report.skipped == {}
    assert {finding.tone for finding in report.findings()} == {"good"}
    draws = simulate(fixed[0], 2000, x)  # called without data, and on data whose observations are released
    released = simulate(lambda x: fixed[0](x), 2000, x)
    for made in (draws, released):
        assert set(made.latents) == {"z"}
        assert float(made.x.mean()) == pytest.approx(3.0, abs=0.15)


def columns(axis):
    """A program that counts axes from the left (0) or from the right (-1)."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            loc = z[..., 0] + z[..., 1] if axis else z[:, 0] + z[:, 1]
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))

    return model, guide


def test_a_program_that_does_not_broadcast_is_told_how_to_run():
    x = torch.randn(7)
    with pytest.raises(ValueError, match=r"count axes from the right, .* or give vectorize=False") as caught:
        pvae.elbo(columns(0), x, num_samples=3, seed=0, progress=False)
    assert caught.value.argument == "vectorize"
    assert "\n" not in str(caught.value)
    one_by_one = pvae.elbo(columns(0), x, num_samples=3000, vectorize=False, seed=0, progress=False).elbo.mean()
    at_once = pvae.elbo(columns(-1), x, num_samples=3000, seed=1, progress=False).elbo.mean()
    assert float(one_by_one) == pytest.approx(float(at_once), abs=0.2)


@pytest.mark.parametrize("family", [dist.Normal, dist.Laplace, dist.StudentT])
def test_rows_whose_squares_overflow_do_not_spoil_a_start_by_hand(family):
    x = 3.0 + torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    wild = torch.cat([x, torch.full((1, 5), 1e30)])
    parts = [pvae.Factorized(family, pvae.MLP(2, (8,)), 5) for _ in range(2)]
    for part, rows in zip(parts, (x, wild), strict=True):
        part.initialize(rows)
    for name in ("offset", "center", "unit"):
        torch.testing.assert_close(getattr(parts[0], name), getattr(parts[1], name))


def test_data_whose_squares_all_overflow_are_refused_in_one_sentence():
    program = vae(pvae.Factorized(dist.Normal, pvae.MLP(2, (8,)), 5))
    x = 1e25 * torch.arange(1.0, 101.0).reshape(20, 5)
    with pytest.raises(
        ValueError, match=r"every row holds a number such as 1e\+27, whose square overflows .*: scale"
    ) as caught:
        pvae.fit(program, x, epochs=1, seed=0, progress=False)
    assert caught.value.argument == "data"
    x[3] = torch.arange(5.0)
    program.likelihood.initialize(x)


@pytest.mark.parametrize(
    ("rows", "said"), [(1, "there is no other row: give more rows"), (129, "write drop_last=True")]
)
def test_batch_norm_and_one_row(rows, said):
    program = vae(pvae.Factorized(dist.Normal, pvae.MLP(2, (8,), normalization=nn.BatchNorm1d), 5))
    with pytest.raises(ValueError, match=said):
        pvae.fit(program, torch.randn(rows, 5), epochs=1, seed=0, progress=False)


class Ladder(pvae.HierarchicalVAE):
    """The same levels with a guide that draws from the top."""

    def guide(self, x, covariates=None, size=None, index=None):
        with self.rows(self.guide_parts, x, covariates, size, index) as rows:
            top = rows.sample("z2", "posterior2", rows.data)
            return rows.sample("z1", "posterior1", top)


@pytest.mark.parametrize(("graph", "refused"), [(pvae.HierarchicalVAE, True), (Ladder, False)])
@pytest.mark.parametrize("objective", [TraceMeanField_ELBO, Trace_ELBO, lambda: pvae.FreeBitsELBO(0.0)])
def test_a_closed_form_divergence_is_refused_where_the_guide_is_bottom_up(graph, refused, objective):
    def normal(of, shape):
        return pvae.Factorized(dist.Normal, pvae.MLP(of, (4,)), shape)

    posteriors = [normal(5, 5), normal(5, 2)] if refused else [normal(2, 5), normal(5, 2)]
    vae = graph([normal(2, 5), pvae.standard_normal(2)], normal(5, 5), posteriors)
    if refused and objective is TraceMeanField_ELBO:
        with pytest.raises(ValueError, match=r"draws 'z1' before .* use Trace_ELBO") as caught:
            pvae.fit(vae, torch.randn(8, 5), steps=1, objective=objective(), progress=False)
        assert caught.value.argument == "objective"
    else:
        pvae.fit(vae, torch.randn(8, 5), steps=1, objective=objective(), progress=False)


def picture(mode, number, size=(20, 18)):
    """Random levels in a mode of Pillow."""
    rng = np.random.default_rng(number)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 2**16, size[::-1]).astype(np.uint16))
    return Image.fromarray(rng.integers(0, 256, (*size[::-1], 4)).astype(np.uint8), "RGBA").convert(mode)


@pytest.mark.parametrize(
    ("modes", "shape", "levels", "note", "likelihood"),
    [
        (["RGB"] * 4, (3, 18, 20), 256, None, "logistic_mixture"),
        (["L"] * 4, (1, 18, 20), 256, None, "discretized_logistic"),
        (
            ["RGBA", "RGB", "RGBA", "RGB"],
            (3, 18, 20),
            256,
            "2 of 4 images have a channel of transparency",
            "logistic_mixture",
        ),
        (["LA"] * 4, (1, 18, 20), 256, "4 of 4 images have a channel of transparency", "discretized_logistic"),
        (["L", "RGB", "RGB", "RGB"], (3, 18, 20), 256, "1 of 4 images are grey", "logistic_mixture"),
        (["I;16"] * 4, (1, 18, 20), 2**16, "16 bits", "discretized_logistic"),
    ],
)
def test_a_folder_of_images_gets_a_likelihood_on_its_levels(modes, shape, levels, note, likelihood, tmp_path):
    for number, mode in enumerate(modes):
        picture(mode, number).save(tmp_path / f"{number}.png")
    data = pvae.data.load(tmp_path)
    assert data.event_shape == shape
    assert [note in text for text in data.notes] == [True] * len(data.notes) if note else data.notes == ()
    expected = {"likelihood": likelihood, "levels": levels, "network": "local", "hidden": (16, 64), "latent_dim": 100}
    assert suggest(data) == expected
    exact = picture(modes[0], 0)
    pixels = np.asarray(exact if modes[0] == "I;16" else exact.convert("L" if shape[0] == 1 else "RGB")).astype(int)
    np.testing.assert_array_equal(
        data.dense().x[0].numpy(), pixels[None] if shape[0] == 1 else pixels.transpose(2, 0, 1)
    )


@pytest.mark.parametrize(("size", "network"), [(15, None), (16, "local")])
def test_small_images_keep_dense_layers(size, network, tmp_path):
    picture("L", 0, (size, size)).save(tmp_path / "a.png")
    assert suggest(pvae.data.load(tmp_path)).get("network") == network


@pytest.mark.parametrize(("rows", "batch_size"), [(20, 32), (160, 32), (160, 8), (10_000, 32), (100_000, 128)])
@pytest.mark.parametrize("size", [16, 28, 32, 64, 128, 512])
def test_the_default_training_on_images_has_a_bounded_cost(size, rows, batch_size):
    entries = 3 * size**2
    epochs, per_epoch = image_epochs(entries, rows, batch_size), -(-rows // batch_size)
    read = epochs * rows * entries
    assert 1 <= epochs <= 500
    one_epoch_more = IMAGE_ENTRIES + rows * entries
    assert read <= one_epoch_more or epochs * per_epoch < IMAGE_STEPS + per_epoch
    assert epochs in (500, pvae.schedules.default_epochs(per_epoch)) or read >= IMAGE_ENTRIES


@pytest.mark.parametrize("size", [16, 28, 32, 64, 128])
def test_the_suggested_networks_cost_the_same_for_each_entry_of_an_image(size):
    levels = torch.randint(256, (4, 3, size, size), dtype=torch.uint8)
    vae = pvae.build_vae(levels, seed=0)
    with FlopCounterMode(display=False) as counter:
        vae.likelihood.raw(vae.encode(levels[:1].float()))
    assert 500 < counter.get_total_flops() / levels[0].numel() < 6000


@pytest.mark.parametrize(
    ("given", "network", "latents"),
    [
        ({}, "local", 256),
        ({"prior": "mixture"}, "local", 256),
        ({"latent_dim": 7}, "convolutional", 7),
        ({"hidden": (8, 8)}, "convolutional", 64),
        ({"posterior": "full_normal", "latent_dim": 5}, "convolutional", 5),
        ({"network": "mlp", "latent_dim": 5}, "mlp", 5),
    ],
)
def test_latents_keep_their_places_where_nothing_else_is_asked_for(given, network, latents):
    levels = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    spec = pvae.build_vae(levels, seed=0, **given).spec
    assert (spec.network, spec.latent_dim) == (network, latents)


def test_a_local_code_moves_with_the_image():
    """Two places of latents, eight pixels, further: inside the image the codes are those of before, and so is what is decoded."""
    x = torch.randint(256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0)).float()
    vae = pvae.build_vae(
        (3, 64, 64), likelihood="logistic_mixture", levels=256, network="local", hidden=(4, 8), latent_dim=512
    )
    codes, moved = (vae.encode(rows).unflatten(-1, (2, 16, 16)) for rows in (x, x.roll(8, -1)))
    torch.testing.assert_close(codes[..., 2:-4], moved[..., 4:-2], rtol=1e-4, atol=1e-5)
    raw = vae.likelihood.net(codes.flatten(1))[..., 12:-28]
    shifted = vae.likelihood.net(codes.roll(2, -1).flatten(1))[..., 20:-20]
    torch.testing.assert_close(raw, shifted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("posterior", "latents", "said"), [("full_normal", 64, "posterior normal"), ("normal", 65, "multiple of 64")]
)
def test_a_local_code_of_another_size_or_kind_is_refused(posterior, latents, said):
    options = {"likelihood": "logistic_mixture", "levels": 256, "network": "local", "hidden": (4, 8)}
    with pytest.raises(ValueError, match=said):
        pvae.build_vae((3, 32, 32), posterior=posterior, latent_dim=latents, **options)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((12, 18, 20), (1, 18, 20)),
        ((12, 18, 20, 1), (1, 18, 20)),
        ((12, 18, 20, 3), (3, 18, 20)),
        ((12, 18, 20, 4), (3, 18, 20)),
        ((12, 3, 18, 20), (3, 18, 20)),
        ((12, 18, 20, 5), (18, 20, 5)),
    ],
)
def test_an_array_of_images_has_its_channels_first(shape, expected, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", images=array)
    for name in ("a.npy", "a.npz"):
        data = pvae.data.load(tmp_path / name)
        assert data.event_shape == expected
        moved = expected != shape[1:]
        assert bool(data.notes) is moved
        if moved:
            pixels = array if array.ndim == 4 else array[..., None]
            np.testing.assert_array_equal(data.dense().x.numpy(), pixels[..., :3].transpose(0, 3, 1, 2))


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_arrays_of_images_are_levels_of_their_depth(depth, tmp_path):
    array = np.random.default_rng(0).integers(0, np.iinfo(depth).max + 1, (12, 1, 16, 16)).astype(depth)
    np.save(tmp_path / "a.npy", array)
    np.save(tmp_path / "b.npy", array[:, 0])
    found = [pvae.data.load(tmp_path / name) for name in ("a.npy", "b.npy")]
    for data in (*found, found[0].train, pvae.data.as_data(array), pvae.data.as_data(torch.from_numpy(array))):
        suggested = pvae.presets.suggest(data)
        assert suggested["likelihood"] == "discretized_logistic"
        assert suggested["levels"] == np.iinfo(depth).max + 1
    assert [data.variant for data in found] == [np.dtype(depth).name] * 2
    np.testing.assert_array_equal(found[1].dense().x.numpy(), array)
    own = pvae.data.load(tmp_path / "a.npy", "mine")
    assert (own.variant, bool(own.notes)) == ("mine", depth is np.uint16)


def test_images_of_two_depths_are_refused(tmp_path):
    for number, mode in enumerate(("L", "I;16")):
        picture(mode, number).save(tmp_path / f"{number}.png")
    with pytest.raises(ValueError, match=r"one depth, got mode L in .*0\.png and I;16 in .*1\.png"):
        pvae.data.load(tmp_path)


def test_a_folder_of_images_trains_without_an_option(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(12):
        picture("RGBA", number).save(tmp_path / "images" / f"{number}.png")
    words = ["--epochs", "1", "--no-figures", "--no-report", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, ["train", str(tmp_path / "images"), *words])
    assert done.exit_code == 0, done.output
    assert "12 of 12 images have a channel of transparency" in " ".join(done.output.split())
    spec = pvae.load(tmp_path / "run").spec
    assert (spec.likelihood, spec.network, spec.hidden, spec.latent_dim) == (
        "logistic_mixture",
        "local",
        (16, 64),
        100,
    )
    assert "bits/dim" in done.output


def test_an_array_of_images_trains_as_a_folder_does(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (12, 18, 20, 3)).astype(np.uint8))
    words = ["--epochs", "1", "--no-figures", "--no-report", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, ["train", str(tmp_path / "a.npy"), *words])
    assert done.exit_code == 0, done.output
    assert "is read as images of (rows, height, width, channels)" in " ".join(done.output.split())
    spec = pvae.load(tmp_path / "run").spec
    assert (spec.event_shape, spec.network, spec.hidden, spec.latent_dim) == (
        (3, 18, 20),
        "local",
        (16, 64),
        100,
    )


def test_a_table_of_constant_columns_is_refused_by_name(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n" + "0,1\n" * 9)
    done = CliRunner().invoke(app, ["train", str(tmp_path / "t.csv"), "--out", str(tmp_path / "run")])
    assert done.exit_code == 2
    assert "every column holds one value or none" in " ".join(done.output.split())


@pytest.mark.parametrize("wrap", [lambda rows: rows, DataLoader])
def test_evaluation_from_a_dataset_is_told_to_stack_its_rows(wrap):
    rows, program = TensorDataset(torch.randn(20, 5)), vae(pvae.Factorized(dist.Normal, pvae.MLP(2, (8,)), 5))
    for call in (
        lambda: pvae.elbo(program, wrap(rows), progress=False),
        lambda: pvae.fit(program, rows, validation=wrap(rows), epochs=1, progress=False),
    ):
        with pytest.raises(TypeError, match=r"write torch\.stack\(\[row\[0\] for row in value.*only fit trains from"):
            call()
    stacked = torch.stack([row[0] for row in rows])
    assert pvae.elbo(program, stacked, seed=0, progress=False).sizes["data"] == 20


@pytest.mark.parametrize(
    ("elbo", "words"),
    [
        ([-9.0], "training was too short (one epoch tells no more); try more epochs"),
        ([-9.0, -8.0, -7.0], "training was too short (the ELBO still rose at its end); try more epochs"),
        ([-9.0, -9.0, -9.0], "training failed; try a smaller learning rate"),
    ],
)
def test_images_that_were_not_learned_are_told_apart_by_the_curve(elbo, words):
    history = pvae.training.History([{"elbo": value, "learning_rate": 1e-3} for value in elbo])
    assert why_not_learned(history).startswith(words)
