"""Every word builds a VAE that trains; words survive JSON; strange words are refused before anything is built."""

import inspect
import json

import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyrovae.conditionals import VampPrior
from pyrovae.presets import (
    ACTIVATIONS,
    LIKELIHOODS,
    LIMITS,
    NETWORKS,
    POSTERIORS,
    PRIORS,
    Words,
    build_vae,
    check_words,
    suggest,
)

IMAGE = (1, 8, 8)


def words_of(likelihood, **more):
    return {"likelihood": likelihood, "latent_dim": 3, "hidden": (16,), "components": 4, "seed": 0, **more} | (
        {"levels": 17} if LIKELIHOODS[likelihood].leveled else {}
    )


def data_for(likelihood, rows=12, shape=IMAGE):
    """Rows drawn from the model itself are in the support of its likelihood."""
    return build_vae(shape, **words_of(likelihood)).sample(rows)


def assert_trains(vae, x):
    """A finite loss, and a finite gradient that is not zero everywhere for each parameter."""
    with poutine.trace(param_only=True):
        loss = Trace_ELBO().differentiable_loss(vae.model, vae.guide, x)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.parameters())
    assert not pyro.get_param_store().keys()


def assert_same_again(vae):
    again = build_vae(**json.loads(json.dumps(vae.words)))
    assert again.words == vae.words
    shapes = [{name: (value.shape, value.dtype) for name, value in v.state_dict().items()} for v in (vae, again)]
    assert shapes[0] == shapes[1]
    assert repr(again) == repr(vae)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_likelihood_trains_decodes_and_survives_json(likelihood, network):
    torch.manual_seed(0)
    vae = build_vae(IMAGE, **words_of(likelihood, network=network))
    x = data_for(likelihood)
    assert vae.decode(vae.encode(x)).shape == x.shape
    assert_trains(vae, x)
    assert_same_again(vae)


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize("prior", PRIORS)
def test_every_prior_goes_with_every_posterior_of_its_space(prior, posterior):
    torch.manual_seed(0)
    words = words_of("binomial", prior=prior, posterior=posterior)
    if (prior == "uniform_direction") != (posterior == "spherical"):
        with pytest.raises(ValueError, match="live on the sphere, the others do not"):
            build_vae(IMAGE, **words)
        return
    vae = build_vae(IMAGE, **words)
    assert vae.sample(2).shape == (2, *IMAGE)
    assert_trains(vae, data_for("binomial"))
    assert_same_again(vae)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("network", "normalization"), [(n, norm) for n in NETWORKS for norm in NETWORKS[n]])
def test_every_network_trains(network, normalization, activation):
    more = {"network": network, "normalization": normalization, "activation": activation, "hidden": (8, 8)}
    vae = build_vae(IMAGE, **words_of("bernoulli", residual=True) | more)
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
def test_the_other_words_have_their_effect(more):
    """The first of the words is tested; the others go with it."""
    without_first = dict(list(more.items())[1:])
    plain, other = (build_vae(6, **words_of("normal", **words)) for words in (without_first, more))
    assert repr(plain) != repr(other) or plain.name != other.name
    assert_trains(other, torch.randn(5, 6))
    assert_same_again(other)


@pytest.mark.parametrize(
    ("scale", "learned", "values"), [(0.3, False, 1), ("learned", True, 1), ("network", False, 24)]
)
def test_a_scale_is_fixed_learned_or_from_the_network(scale, learned, values):
    vae = build_vae(6, **words_of("normal", scale=scale))
    spread = vae.likelihood(torch.randn(4, 3)).base_dist.scale.detach()
    assert ("unconstrained_scale" in dict(vae.likelihood.named_parameters())) == learned
    assert len(spread.unique()) == values
    if scale == 0.3:
        assert torch.equal(spread, torch.full((4, 6), 0.3))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_likelihood_starts_from_data(likelihood):
    torch.manual_seed(0)
    x = data_for(likelihood, rows=40).float()
    x[0, 0, 0, 0] = float("nan")
    vae = build_vae(IMAGE, **words_of(likelihood, prior="vamp", start=x))
    assert_trains(vae, x)
    assert_same_again(vae)


@pytest.mark.parametrize(
    ("likelihood", "preprocess", "value", "expected"),
    [("binomial", None, 16.0, 1.0), ("poisson", None, 7.0, 2.0794415), ("binomial", "log1p", 7.0, 2.0794415)],
)
def test_the_encoder_s_input_is_preprocessed(likelihood, preprocess, value, expected):
    vae = build_vae(6, **words_of(likelihood, preprocess=preprocess))
    assert torch.allclose(vae.posterior.preprocess(torch.full((2, 6), value)), torch.tensor(expected))


def test_the_defaults_are_said_twice_and_are_the_same():
    given = inspect.signature(build_vae).parameters
    for name, field in Words.__dataclass_fields__.items():
        if name not in ("event_shape", "likelihood"):
            assert given[name].default == field.default, name
    assert set(given) - set(Words.__dataclass_fields__) == {"start", "seed"}


def test_one_seed_gives_one_vae_and_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, second = (build_vae(IMAGE, **words_of("binomial", prior="mixture")) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert not torch.equal(
        first.prior().locs, build_vae(IMAGE, **words_of("binomial", prior="mixture") | {"seed": 1}).prior().locs
    )


def test_the_decoder_starts_at_the_data_s_mean():
    torch.manual_seed(0)
    x = torch.distributions.Binomial(16, torch.linspace(0.1, 0.9, 64).reshape(IMAGE)).sample((500,))
    vae = build_vae(IMAGE, **words_of("binomial", start=x))
    assert (vae.decode(torch.zeros(1, 3))[0] - x.mean(0)).abs().max() < 2.0
    plain = build_vae(IMAGE, **words_of("binomial"))
    assert (plain.decode(torch.zeros(1, 3))[0] - x.mean(0)).abs().max() > 4.0


def test_real_data_are_standardized_by_the_rows_given_and_missing_entries_are_zeros():
    torch.manual_seed(0)
    x = torch.randn(400, 6) * torch.tensor([1.0, 10, 100, 0.1, 1, 0]) + 5.0
    x[:100, 0] = float("nan")
    vae = build_vae(6, **words_of("normal", start=x))
    assert vae.words["preprocess"] == "standardize"
    standardized = vae.posterior.preprocess(x)
    assert standardized.nanmean(0).abs().max() < 1e-4
    assert (standardized[:, :5].square().nanmean(0) - 1).abs().max() < 1e-4
    assert (standardized[:, 5] == 0).all()
    assert vae.encode(x).isfinite().all()
    assert build_vae(6, **words_of("normal")).words["preprocess"] == "none"


def test_pseudo_inputs_are_rows_of_the_data():
    torch.manual_seed(0)
    x = torch.randint(0, 17, (9, 5)).float()
    for components in (4, 9, 20):
        vae = build_vae(5, **words_of("binomial", prior="vamp", start=x) | {"components": components})
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
    vae = build_vae(3, **words_of("normal", prior="vamp", start=x))
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
    ({"event_shape": "8"}, TypeError, "event_shape must be an integer or a list"),
    ({"event_shape": []}, TypeError, "event_shape must be an integer or a list"),
    ({"event_shape": [0]}, ValueError, "event_shape must be from 1 to"),
    ({"event_shape": [True]}, TypeError, "event_shape must be an integer, got True"),
    ({"event_shape": [2**12, 2**12]}, ValueError, "at most 4194304 entries"),
    ({"latent_dim": 0}, ValueError, "latent_dim must be from 1 to"),
    ({"latent_dim": 2.0}, TypeError, "latent_dim must be an integer, got 2.0"),
    ({"latent_dim": 10**9}, ValueError, "latent_dim must be from 1 to"),
    ({"hidden": 128}, TypeError, "hidden must be a list"),
    ({"hidden": [1] * 65}, TypeError, "hidden must be a list of at most 64 widths"),
    ({"hidden": [10**9]}, ValueError, "hidden must be from 1 to"),
    ({"hidden": ["x" * 10**6]}, TypeError, "hidden must be an integer"),
    ({"decoder_hidden": [None]}, TypeError, "decoder_hidden must be an integer"),
    ({"components": 10**9}, ValueError, "components must be from 1 to"),
    ({"levels": 5}, ValueError, "takes no levels"),
    ({"likelihood": "binomial"}, ValueError, "needs levels, such as 256"),
    ({"likelihood": "binomial", "levels": 1}, ValueError, "levels must be from 2 to"),
    ({"scale": -1.0}, ValueError, "scale must be a positive number"),
    ({"scale": True}, ValueError, "scale must be a positive number"),
    ({"scale": "learnt"}, ValueError, "scale must be a positive number"),
    ({"likelihood": "poisson", "scale": 1.0}, ValueError, "takes no scale"),
    ({"dropout": 1}, ValueError, r"dropout must be a probability in \[0, 1\)"),
    ({"dropout": "0"}, ValueError, "dropout must be a probability"),
    ({"residual": 1}, TypeError, "residual must be true or false"),
    ({"gated": None}, TypeError, "gated must be true or false"),
    ({"preprocess": "log"}, ValueError, "preprocess must be one of none, log1p"),
    ({"preprocess": "levels"}, ValueError, "preprocess='levels' is for likelihoods of levels"),
    ({"name": ""}, TypeError, "name must be a non-empty string"),
    ({"name": 3}, TypeError, "name must be a non-empty string"),
    ({"network": "convolutional"}, ValueError, "for images .*write network='mlp'"),
    (
        {"network": "convolutional", "event_shape": [1, 8, 8], "dropout": 0.1},
        ValueError,
        "dropout is for network='mlp'",
    ),
    ({"network": "convolutional", "event_shape": [1, 8, 8], "gated": True}, ValueError, "gated layers are for"),
    ({"encoder": "mlp"}, TypeError, "unknown word 'encoder'"),
    ({"latentdim": 3}, TypeError, "unknown word 'latentdim'; did you mean 'latent_dim'"),
]


@pytest.mark.parametrize(("change", "error", "message"), REFUSED)
def test_strange_words_are_refused(change, error, message):
    with pytest.raises(error, match=message) as caught:
        check_words({"event_shape": 8, "likelihood": "normal", **change})
    assert len(str(caught.value)) < 500


def test_the_decoder_mirrors_the_encoder():
    assert check_words({"event_shape": 8, "likelihood": "normal", "hidden": [9, 5]}).decoder_hidden == (5, 9)


@pytest.mark.parametrize("word", ["event_shape", "likelihood"])
def test_a_missing_word_is_named(word):
    with pytest.raises(TypeError, match=f"the word '{word}' is missing"):
        check_words({key: value for key, value in {"event_shape": 8, "likelihood": "normal"}.items() if key != word})


def test_the_limits_are_far_above_what_people_build():
    assert check_words({"event_shape": [3, 256, 256], "likelihood": "normal", "hidden": [4096] * 8, "latent_dim": 1024})
    assert LIMITS["width"] >= 4096


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
    suggestion = suggest(torch.tensor(x, dtype=torch.float32), *named)
    assert suggestion == expected
    assert "levels" in suggestion or not LIKELIHOODS[suggestion["likelihood"]].leveled


def test_data_without_a_finite_entry_have_no_suggestion():
    with pytest.raises(ValueError, match="some entries that are finite"):
        suggest(torch.full((2,), float("nan")))
