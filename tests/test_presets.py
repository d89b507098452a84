"""Every spec builds a VAE that trains; specs survive JSON; strange ones are refused before anything is built."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Trace_ELBO
from scipy.sparse import csr_matrix

import pyrovae as pvae
from pyrovae.conditionals import VampPrior
from pyrovae.data import Data, as_data
from pyrovae.presets import (
    ACTIVATIONS,
    LIKELIHOODS,
    NETWORKS,
    POSTERIORS,
    PRIORS,
    RECIPES,
    Spec,
    Training,
    build_vae,
    suggest,
)
from pyrovae.presets.options import options_of

IMAGE = (1, 8, 8)


def fields_of(likelihood, **more):
    return {"likelihood": likelihood, "latent_dim": 3, "hidden": (16,), "components": 4, "seed": 0, **more} | (
        {"levels": 17} if LIKELIHOODS[likelihood].leveled else {}
    )


def data_for(likelihood, rows=12, shape=IMAGE):
    """Rows drawn from the model itself are in the support of its likelihood."""
    return build_vae(shape, **fields_of(likelihood)).sample(rows)


def assert_trains(vae, x):
    """A finite loss, and a finite gradient that is not zero everywhere for each parameter."""
    with poutine.trace(param_only=True):
        loss = Trace_ELBO().differentiable_loss(vae.model, vae.guide, x)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.parameters())
    assert not pyro.get_param_store().keys()


def assert_same_again(vae):
    again = build_vae(Spec.from_json(json.loads(json.dumps(vae.spec.to_json()))))
    assert again.spec == vae.spec
    shapes = [{name: (value.shape, value.dtype) for name, value in v.state_dict().items()} for v in (vae, again)]
    assert shapes[0] == shapes[1]
    assert repr(again) == repr(vae)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("likelihood", [name for name in LIKELIHOODS if name != "table"])
def test_every_likelihood_trains_decodes_and_survives_json(likelihood, network):
    torch.manual_seed(0)
    vae = build_vae(IMAGE, **fields_of(likelihood, network=network, latent_dim=16 if network == "local" else 3))
    x = data_for(likelihood)
    assert vae.decode(vae.encode(x)).shape == x.shape
    assert_trains(vae, x)
    assert_same_again(vae)


MIXED = pd.DataFrame({"size": np.arange(12) + 0.5, "pet": ["cat", "dog", None] * 4, "visits": [0, 3, 1, 7] * 3})


def mixed():
    return as_data(MIXED, kinds={"visits": "count"})


@pytest.mark.parametrize("given", [np.asarray, pd.DataFrame, csr_matrix, as_data])
def test_training_data_of_any_kind_stand_for_their_shape_and_start(given):
    x = (torch.rand(40, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    vae = build_vae(given(x), latent_dim=2, seed=0)
    same = build_vae(6, likelihood="bernoulli", start=x, latent_dim=2, seed=0)
    assert vae.spec == same.spec
    assert all(torch.equal(a, b) for a, b in zip(vae.parameters(), same.parameters(), strict=True))


def test_a_table_of_kinds_trains_decodes_and_survives_json():
    vae = build_vae(mixed(), latent_dim=2, hidden=(8,), seed=0)
    assert vae.spec == build_vae(3, **suggest(mixed()), latent_dim=2, hidden=(8,), start=mixed(), seed=0).spec
    assert_trains(vae, mixed().x.float())
    assert_same_again(vae)
    again = mixed().to_frame(vae.reconstruct(mixed()))
    assert set(again["pet"]) <= {"cat", "dog"}


def test_a_table_is_saved_whole(tmp_path):
    vae = build_vae(3, **suggest(mixed()), latent_dim=2, hidden=(8,), seed=0)
    twin = pvae.load(pvae.save(vae, tmp_path, data=mixed()))
    assert twin.likelihood.schema == vae.likelihood.schema
    assert torch.equal(twin.encode(mixed()), vae.encode(mixed()))
    assert pvae.files.Run.read(tmp_path).config["data"]["kinds"] == dict(mixed().kinds)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"likelihood": "normal"}, "the likelihood normal takes no columns"),
        ({"columns": None}, "needs one entry of columns for each"),
        ({"event_shape": 2}, "needs one entry of columns for each"),
        ({"prior": "vamp"}, "another prior than vamp"),
        ({"columns": [{"kind": "raal"}] * 3}, "columns must be one of .* did you mean 'real'"),
    ],
)
def test_fields_that_do_not_go_with_a_table_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        build_vae(Spec.from_json({"event_shape": 3, **suggest(mixed()), **change}))


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize("prior", PRIORS)
def test_every_prior_goes_with_every_posterior_of_its_space(prior, posterior):
    torch.manual_seed(0)
    fields = fields_of("binomial", prior=prior, posterior=posterior)
    if (prior == "uniform_direction") != (posterior == "spherical"):
        with pytest.raises(ValueError, match="live on the sphere, the others do not"):
            build_vae(IMAGE, **fields)
        return
    vae = build_vae(IMAGE, **fields)
    assert vae.sample(2).shape == (2, *IMAGE)
    assert_trains(vae, data_for("binomial"))
    assert_same_again(vae)


@pytest.mark.parametrize(("latent_dim", "hidden"), [(3, (8, 8)), (8, (8,))])
def test_a_local_network_needs_as_many_latents_for_each_place(latent_dim, hidden):
    with pytest.raises(ValueError, match=r"a latent_dim that is a multiple of (4|16), got (3|8)$"):
        build_vae(IMAGE, **fields_of("bernoulli", network="local", latent_dim=latent_dim, hidden=hidden))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("network", "normalization"), [(n, norm) for n in NETWORKS for norm in NETWORKS[n]])
def test_every_network_trains(network, normalization, activation):
    more = {"network": network, "normalization": normalization, "activation": activation, "hidden": (8, 8)}
    more |= {"latent_dim": 4} if network == "local" else {}
    vae = build_vae(IMAGE, **fields_of("bernoulli", residual=True) | more)
    assert_trains(vae, data_for("bernoulli"))
    assert_same_again(vae)


@pytest.mark.parametrize(
    "more",
    [
        {"gated": True},
        {"residual": True, "hidden": (8, 8), "activation": "relu"},
        {"dropout": 0.3},
        {"decoder_hidden": (5, 6)},
        {"hidden": ()},
        {"name": "other"},
    ],
)
def test_the_other_fields_have_their_effect(more):
    """The first of the fields is tested; the others go with it."""
    without_first = dict(list(more.items())[1:])
    plain, other = (build_vae(6, **fields_of("normal", **fields)) for fields in (without_first, more))
    assert repr(plain) != repr(other) or plain.name != other.name
    assert_trains(other, torch.randn(5, 6))
    assert_same_again(other)


@pytest.mark.parametrize(
    ("scale", "learned", "values"), [(0.3, False, 1), ("learned", True, 1), ("network", False, 24)]
)
def test_a_scale_is_fixed_learned_or_from_the_network(scale, learned, values):
    vae = build_vae(6, **fields_of("normal", scale=scale))
    spread = vae.likelihood(torch.randn(4, 3)).base_dist.scale.detach()
    assert ("unconstrained_scale" in dict(vae.likelihood.named_parameters())) == learned
    assert len(spread.unique()) == values
    if scale == 0.3:
        assert torch.equal(spread, torch.full((4, 6), 0.3))


@pytest.mark.parametrize("likelihood", ["normal", "laplace", "student_t"])
def test_a_change_of_unit_shifts_the_elbo_by_its_jacobian(likelihood):
    """Columns of scales 1e-3 to 1e4 beside the same of scale one: 20.7 nats less, but for the rounding of single precision."""
    torch.manual_seed(0)
    x = (0.5 * torch.randn(100, 2) @ torch.randn(2, 4) + 0.3 * torch.randn(100, 4) + 2).double()
    units, found = 10.0 ** torch.tensor([-3.0, 0.0, 2.0, 4.0], dtype=torch.float64), []
    for rows in (x, x * units):
        vae = build_vae(4, likelihood=likelihood, latent_dim=2, hidden=(8,), start=rows, seed=0).double()
        pvae.fit(vae, rows, epochs=5, learning_rate=1e-2, seed=0, progress=False)
        found.append(pvae.elbo(vae, rows, num_samples=5, seed=0, progress=False).elbo.values)
    difference = found[0] - found[1] - units.log().sum().item()
    assert np.abs(difference).max() < 0.05


@pytest.mark.parametrize("likelihood", [name for name in LIKELIHOODS if name != "table"])
def test_every_likelihood_starts_from_data(likelihood):
    torch.manual_seed(0)
    x = data_for(likelihood, rows=40).float()
    x[0, 0, 0, 0] = float("nan")
    vae = build_vae(IMAGE, **fields_of(likelihood, prior="vamp", start=x))
    assert_trains(vae, x)
    assert_same_again(vae)


@pytest.mark.parametrize(
    ("likelihood", "preprocess", "value", "expected"),
    [("binomial", None, 16.0, 1.0), ("poisson", None, 7.0, 2.0794415), ("binomial", "log1p", 7.0, 2.0794415)],
)
def test_the_encoder_s_input_is_preprocessed(likelihood, preprocess, value, expected):
    vae = build_vae(6, **fields_of(likelihood, preprocess=preprocess))
    assert torch.allclose(vae.posterior.preprocess(torch.full((2, 6), value)), torch.tensor(expected))


def test_a_spec_and_its_fields_build_the_same_and_fields_change_a_spec():
    fields = {"likelihood": "binomial", "levels": 17, "hidden": (16,), "latent_dim": 3}
    spec = Spec(event_shape=IMAGE, **fields)
    first, second, other = build_vae(spec, seed=0), build_vae(IMAGE, **fields, seed=0), build_vae(spec, latent_dim=5)
    assert first.spec == second.spec == spec.resolved()
    assert repr(first) == repr(second)
    assert other.spec == dataclasses.replace(spec, latent_dim=5).resolved()
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.latent_dim = 4


def test_every_default_is_valid_and_every_recipe_names_fields():
    for option in options_of(Spec).values():
        assert option.help
        assert not option.known or option.default in (dataclasses.MISSING, *option.known)
    for recipe in RECIPES.values():
        assert set(recipe) <= set(options_of(Spec)) | set(options_of(Training))
    assert not set(options_of(Spec)) & set(options_of(Training))


def test_the_options_are_documented_by_their_only_text():
    for name, option in options_of(Spec).items():
        assert f"{name}: {option.help}." in Spec.__doc__


def test_a_spec_is_read_without_torch():
    code = """
import sys
from pyrovae.presets import RECIPES, Spec, Training
Spec(event_shape=8, likelihood="normal").resolved()
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_training_options_become_those_of_fit():
    plain = Training(epochs=4, learning_rate=0.1, beta=2.0).for_fit()
    assert (plain["epochs"], plain["beta"], plain["seed"]) == (4, 2.0, 0)
    assert repr(plain["learning_rate"]) == "one_cycle(0.1, warm_up=0.1, epochs=4)"
    assert repr(Training(beta=2.0, beta_warm_up=3).for_fit()["beta"]) == "linear(0.0, 2.0, epochs=3)"


def test_one_seed_gives_one_vae_and_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, second = (build_vae(IMAGE, **fields_of("binomial", prior="mixture")) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert not torch.equal(
        first.prior().locs, build_vae(IMAGE, **fields_of("binomial", prior="mixture") | {"seed": 1}).prior().locs
    )


def trained(rows, weights_seed, **options):
    vae = build_vae(3, likelihood="normal", latent_dim=1, hidden=(4,), start=rows, seed=weights_seed)
    history = pvae.fit(vae, rows, epochs=1, validation=0.25, progress=False, **options)
    return vae.state_dict(), history


def test_one_seed_covers_weights_split_and_training():
    rows = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    found = []
    for state in range(2):
        torch.manual_seed(state)
        found.append(trained(rows, 5, seed=5))
    (first, history), (second, _) = found
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert history.notes == []
    other, _ = trained(rows, 6, seed=5)
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


@pytest.mark.parametrize(("weights_seed", "seed", "noted"), [(None, 5, True), (5, 5, False), (None, None, False)])
def test_weights_of_the_global_state_are_noted_where_the_training_has_a_seed(weights_seed, seed, noted):
    """The first words of the history say so: otherwise two runs of one seed differ, and nobody knows why."""
    rows = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    _, history = trained(rows, weights_seed, seed=seed)
    for shown in (repr(history), history._repr_html_()):
        assert ("makes them reproducible" in shown) == ("build_vae(seed=5)" in shown) == noted


def test_the_decoder_starts_at_the_data_s_mean():
    torch.manual_seed(0)
    x = torch.distributions.Binomial(16, torch.linspace(0.1, 0.9, 64).reshape(IMAGE)).sample((500,))
    vae = build_vae(IMAGE, **fields_of("binomial", start=x))
    assert (vae.decode(torch.zeros(1, 3))[0] - x.mean(0)).abs().max() < 2.0
    plain = build_vae(IMAGE, **fields_of("binomial"))
    assert (plain.decode(torch.zeros(1, 3))[0] - x.mean(0)).abs().max() > 4.0


def test_real_data_are_standardized_by_the_rows_given_and_missing_entries_are_zeros():
    torch.manual_seed(0)
    x = torch.randn(400, 6) * torch.tensor([1.0, 10, 100, 0.1, 1, 0]) + 5.0
    x[:100, 0] = float("nan")
    vae = build_vae(6, **fields_of("normal", start=x))
    assert vae.spec.preprocess == "standardize"
    standardized = vae.posterior.preprocess(x)
    assert standardized.nanmean(0).abs().max() < 1e-4
    assert (standardized[:, :5].square().nanmean(0) - 1).abs().max() < 1e-4
    assert (standardized[:, 5] == 0).all()
    assert vae.encode(x).isfinite().all()
    untouched = build_vae(6, **fields_of("normal")).posterior.preprocess(x)
    assert torch.equal(untouched.nan_to_num(), x.nan_to_num())  # without rows to take moments of


def test_rows_whose_squares_overflow_are_refused_by_column():
    x = torch.randn(50, 3)
    x[7, 1] = 1.8e19  # its square is within single precision
    assert build_vae(3, likelihood="normal", start=x).decode(torch.zeros(1, 10)).isfinite().all()
    x[7, 1] = 1.9e19
    with pytest.raises(
        ValueError, match=r"column 1 holds 1.9e\+19, whose square overflows in single precision: scale"
    ) as caught:
        build_vae(3, likelihood="normal", start=x)
    assert caught.value.argument == "start"
    with pytest.raises(ValueError, match="column 'b' holds"):
        build_vae(3, likelihood="normal", start=pd.DataFrame(x.numpy(), columns=list("abc")))
    x[:, 1] = 1e-18 * torch.randn(50)
    assert build_vae(3, likelihood="normal", start=x).decode(torch.zeros(1, 10)).isfinite().all()
    with pytest.raises(ValueError, match=r"column 1 varies by .*e-2\d, whose square vanishes .*: scale"):
        build_vae(3, likelihood="normal", start=x * torch.tensor([1, 1e-5, 1]))


def test_pseudo_inputs_are_rows_of_the_data():
    torch.manual_seed(0)
    x = torch.randint(0, 17, (9, 5)).float()
    for components in (4, 9, 20):
        vae = build_vae(5, **fields_of("binomial", prior="vamp", start=x) | {"components": components})
        rows = {tuple(row.tolist()) for row in x}
        chosen = [tuple(row.tolist()) for row in vae.prior.pseudo_inputs.detach()]
        assert set(chosen) <= rows
        assert len(chosen) == components
        if components <= 9:
            assert len(set(chosen)) == components
    assert isinstance(vae.prior, VampPrior)
    assert vae.prior.bounds == (0.0, 16.0)


def test_pseudo_inputs_from_rows_with_missing_entries_are_filled():
    x = torch.tensor([[1.0, float("nan"), 3.0], [3.0, float("nan"), float("nan")]])
    vae = build_vae(3, **fields_of("normal", prior="vamp", start=x))
    assert vae.prior.pseudo_inputs.isfinite().all()
    assert set(vae.prior.pseudo_inputs[:, 2].tolist()) == {3.0}


REFUSED = [
    (
        {"likelihood": "binomal", "levels": 2},
        ValueError,
        "likelihood must be one of .*got 'binomal'; did you mean 'binom",
    ),
    ({"prior": ["vamp"]}, ValueError, "prior must be one of"),
    ({"posterior": None}, ValueError, "posterior must be one of"),
    ({"network": "cnn"}, ValueError, "network must be one of mlp, convolutional"),
    ({"activation": "swish"}, ValueError, "activation must be one of silu"),
    ({"normalization": "group"}, ValueError, "normalization must be one of None, layer, batch"),
    ({"event_shape": "8"}, TypeError, "event_shape must be a list of at most 64 integers"),
    ({"event_shape": []}, ValueError, "event_shape must have 1 to 8 axes"),
    ({"event_shape": [1] * 9}, ValueError, "event_shape must have 1 to 8 axes"),
    ({"event_shape": [0]}, ValueError, "event_shape must be from 1 to"),
    ({"event_shape": [True]}, TypeError, "event_shape must be an integer, got True"),
    ({"event_shape": True}, TypeError, "event_shape must be an integer, got True"),
    ({"event_shape": [2**12, 2**12]}, ValueError, "at most 4194304 entries"),
    ({"latent_dim": 0}, ValueError, "latent_dim must be from 1 to"),
    ({"latent_dim": 2.0}, TypeError, "latent_dim must be an integer, got 2.0"),
    ({"latent_dim": 10**9}, ValueError, "latent_dim must be from 1 to"),
    ({"hidden": 128}, TypeError, "hidden must be a list"),
    ({"hidden": [1] * 65}, TypeError, "hidden must be a list of at most 64 integers"),
    ({"hidden": [10**9]}, ValueError, "hidden must be from 1 to"),
    ({"hidden": ["x" * 10**6]}, TypeError, "hidden must be an integer"),
    ({"decoder_hidden": [None]}, TypeError, "decoder_hidden must be an integer"),
    ({"components": 10**9}, ValueError, "components must be from 1 to"),
    ({"levels": 5}, ValueError, "takes no levels"),
    ({"likelihood": "binomial"}, ValueError, "needs levels, such as 256"),
    ({"likelihood": "binomial", "levels": 1}, ValueError, "levels must be from 2 to"),
    ({"scale": -1.0}, ValueError, "scale must be a positive number"),
    ({"scale": True}, TypeError, "scale must be a positive number"),
    ({"scale": "learnt"}, ValueError, "scale must be a positive number"),
    ({"likelihood": "poisson", "scale": 1.0}, ValueError, "takes no scale"),
    ({"dropout": 1}, ValueError, r"dropout must be a probability in \[0, 1\)"),
    ({"dropout": -0.1}, ValueError, "dropout must be a probability"),
    ({"dropout": "0"}, TypeError, "dropout must be a probability"),
    ({"residual": 1}, TypeError, "residual must be true or false"),
    ({"gated": None}, TypeError, "gated must be true or false"),
    ({"preprocess": "log"}, ValueError, "preprocess must be one of None, none, log1p"),
    ({"preprocess": "levels"}, ValueError, "preprocess 'levels' is for likelihoods of levels"),
    ({"name": ""}, ValueError, "name must be a non-empty string"),
    ({"name": 3}, TypeError, "name must be a non-empty string"),
    ({"network": "convolutional"}, ValueError, "for images .*take network mlp"),
    ({"network": "convolutional", "event_shape": [1, 8, 8], "dropout": 0.1}, ValueError, "dropout is for network mlp"),
    ({"network": "convolutional", "event_shape": [1, 8, 8], "gated": True}, ValueError, "gated is for network mlp"),
    ({"prior": "uniform_direction"}, ValueError, "prior uniform_direction and the posterior spherical"),
    ({"posterior": "spherical"}, ValueError, "prior uniform_direction and the posterior spherical"),
    ({"encoder": "mlp"}, TypeError, "no field 'encoder'"),
    ({"latentdim": 3}, TypeError, "no field 'latentdim'; did you mean 'latent_dim'"),
]


@pytest.mark.parametrize(("change", "error", "message"), REFUSED)
def test_strange_specs_are_refused_and_the_argument_is_named(change, error, message):
    with pytest.raises(error, match=message) as caught:
        Spec.from_json({"event_shape": 8, "likelihood": "normal", **change})
    assert len(str(caught.value)) < 500
    assert caught.value.argument in ({*change} | {"levels"} if "binomial" in change.values() else {*change})


def test_the_limits_themselves_are_allowed():
    spec = Spec(event_shape=[2**22], likelihood="binomial", levels=2, latent_dim=2**12, hidden=[2**16] * 64)
    assert (spec.event_shape, spec.latent_dim, len(spec.hidden)) == ((2**22,), 2**12, 64)
    assert Spec(event_shape=[1] * 8, likelihood="normal", dropout=0, scale=1e-9, hidden=()).dropout == 0.0


def test_the_decoder_mirrors_the_encoder():
    spec = Spec(event_shape=8, likelihood="normal", hidden=[9, 5])
    assert spec.resolved().decoder_hidden == (5, 9)
    assert dataclasses.replace(spec, hidden=(7, 3)).resolved().decoder_hidden == (3, 7)
    assert dataclasses.replace(spec, decoder_hidden=()).resolved().decoder_hidden == ()


@pytest.mark.parametrize("field", ["event_shape", "likelihood"])
def test_a_missing_field_is_named(field):
    values = {"event_shape": 8, "likelihood": "normal"}
    del values[field]
    with pytest.raises(TypeError, match=f"the spec lacks {field}") as caught:
        Spec.from_json(values)
    assert caught.value.argument == field


@pytest.mark.parametrize(
    ("x", "named", "expected"),
    [
        ([0, 1, 1], (), {"likelihood": "bernoulli"}),
        ([0, 3, 1], (), {"likelihood": "negative_binomial"}),
        ([0, 0.3, 1], (), {"likelihood": "continuous_bernoulli"}),
        ([0, 0.3, 2], (), {"likelihood": "normal"}),
        ([0, -3, 2], (), {"likelihood": "normal"}),
        ([float("nan"), 3, 1], (), {"likelihood": "negative_binomial"}),
        ([0, 16], ("digits", "counts"), {"likelihood": "binomial", "levels": 17}),
        ([0, 1], ("mnist", "dynamic"), {"likelihood": "bernoulli"}),
        ([0, 0.5], ("mnist", "static(seed=3)"), {"likelihood": "bernoulli"}),
        ([0, 0.5], ("freyfaces", "grey"), {"likelihood": "continuous_bernoulli"}),
        ([0, 5], ("freyfaces", "uint8"), {"likelihood": "discretized_logistic", "levels": 256}),
        ([0, 16], ("mine.npy", "counts"), {"likelihood": "negative_binomial"}),
        ([0, 16], ("digits", None), {"likelihood": "negative_binomial"}),
    ],
)
def test_a_likelihood_is_suggested_that_holds_the_data(x, named, expected):
    data = Data(torch.tensor(x, dtype=torch.float32)[:, None], **dict(zip(("name", "variant"), named, strict=False)))
    suggestion = suggest(data)
    assert suggestion == expected
    assert "levels" in suggestion or not LIKELIHOODS[suggestion["likelihood"]].leveled


def test_data_without_a_finite_entry_have_no_suggestion():
    with pytest.raises(ValueError, match="some entries that are finite"):
        suggest(torch.full((2,), float("nan")))
