"""Everything in Pyro works on a VAE's model and guide."""

import copy
import pickle

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import scipy.sparse
import torch
from programs import binary_images, convolutional_vae, counts, counts_vae, moved, snapshot
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger
from torch import nn

import pyrovae as pvae
from pyrovae.graphs import Graph


def svi_of(model, guide, lr=1e-2, loss=None):
    return SVI(model, guide, pyro.optim.Adam({"lr": lr}), loss or Trace_ELBO())


def test_three_vaes_and_a_deep_copy_train_apart_in_one_process():
    torch.manual_seed(0)
    vaes = [counts_vae() for _ in range(3)]
    vaes.append(copy.deepcopy(vaes[0]))
    x = counts()
    assert len(pyro.get_param_store()) == 0
    for number, vae in enumerate(vaes):
        before = [snapshot(other) for other in vaes]
        svi = svi_of(vae.model, vae.guide)
        losses = [svi.step(x) for _ in range(100)]
        assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 10
        for other, (start, module) in enumerate(zip(before, vaes, strict=True)):
            distances = moved(start, module)
            assert (min(distances) > 0) if other == number else (max(distances) == 0)
    assert len(pyro.get_param_store()) == 0


class Second(Messenger):
    """Renames sites, so that two programs stand side by side in one."""

    def _pyro_sample(self, msg):
        msg["name"] = f"second_{msg['name']}"


def scoped(fn):
    return Second()(fn)


def test_two_vaes_inside_one_bigger_model_both_train():
    torch.manual_seed(0)
    first, second = counts_vae(name="first"), counts_vae(name="second")

    def model(x):
        first.model(x)
        scoped(second.model)(x)

    def guide(x):
        first.guide(x)
        scoped(second.guide)(x)

    starts = [snapshot(first), snapshot(second)]
    svi = svi_of(model, guide)
    for _ in range(5):
        svi.step(counts())
    assert min(moved(starts[0], first) + moved(starts[1], second)) > 0


def test_two_vaes_of_one_name_inside_one_model_are_refused():
    first, second = counts_vae(), counts_vae()

    def model(x):
        first.model(x)
        scoped(second.model)(x)

    def guide(x):
        first.guide(x)
        scoped(second.guide)(x)

    with pytest.raises(ValueError, match=r"already announced.*VAE\(..., name='vae2'\)"):
        svi_of(model, guide).step(counts())


def test_frozen_parameters_do_not_move():
    torch.manual_seed(0)
    vae = counts_vae()
    vae.likelihood.requires_grad_(False)
    likelihood, posterior = snapshot(vae.likelihood), snapshot(vae.posterior)
    svi = svi_of(vae.model, vae.guide)
    for _ in range(5):
        svi.step(counts())
    assert max(moved(likelihood, vae.likelihood)) == 0
    assert min(moved(posterior, vae.posterior)) > 0


def test_a_trained_vae_pickles_copies_and_compares_equal():
    torch.manual_seed(0)
    vae = counts_vae()
    svi = svi_of(vae.model, vae.guide)
    svi.step(counts())
    for twin in (pickle.loads(pickle.dumps(vae)), copy.deepcopy(vae)):
        assert twin.state_dict().keys() == vae.state_dict().keys()
        assert all(
            torch.equal(a, b) for a, b in zip(twin.state_dict().values(), vae.state_dict().values(), strict=True)
        )
        assert torch.equal(twin.encode(counts()), vae.encode(counts()))


def test_parts_compose_into_a_users_model_and_the_regression_is_recovered():
    """y = w . z + noise, with a global latent weight, on the parts of a VAE under plain SVI."""
    torch.manual_seed(0)
    loadings = torch.tensor([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0], [1.0, -1.0]])
    truth = torch.tensor([1.5, -2.0])
    z = torch.randn(400, 2)
    x, y = z @ loadings.T + 0.1 * torch.randn(400, 4), z @ truth + 0.1 * torch.randn(400)
    vae = pvae.VAE(
        prior=pvae.standard_normal(2),
        likelihood=pvae.Factorized(dist.Normal, pvae.MLP(2, (), (1, 4)), event_shape=4, scale=0.1),
        posterior=pvae.Factorized(dist.Normal, pvae.MLP(4, ()), event_shape=2),
    )
    with torch.no_grad():  # the decoder is the one that simulated, so that z and its weights are identified
        vae.likelihood.net.head.weight.copy_(loadings)
        vae.likelihood.net.head.bias.zero_()
    vae.likelihood.requires_grad_(False)

    def model(x, y):
        pvae.register(vae.prior, vae.likelihood)
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 5.0).to_event(1))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", vae.prior())
            pyro.sample("x", vae.likelihood(z), obs=x)
            pyro.sample("y", dist.Normal(z @ w, 0.1), obs=y)

    guide_w = nn.ParameterDict({"loc": torch.zeros(2), "log_scale": torch.full((2,), -3.0)})

    def guide(x, y):
        pvae.register(w=guide_w)
        pyro.sample("w", dist.Normal(guide_w["loc"], guide_w["log_scale"].exp()).to_event(1))
        vae.guide(x)

    svi = svi_of(model, guide, lr=0.02)
    for _ in range(600):
        svi.step(x, y)
    torch.testing.assert_close(guide_w["loc"].detach(), truth, atol=0.05, rtol=0)


@pytest.mark.parametrize("make", [counts_vae, convolutional_vae], ids=["counts", "convolutional"])
@pytest.mark.parametrize("parallel", [False, True])
def test_predictive(make, parallel):
    torch.manual_seed(0)
    vae = make().eval()
    x = counts(6) if make is counts_vae else binary_images(6)
    prior = Predictive(vae.model, num_samples=7, parallel=parallel)(size=4)
    assert prior["x"].shape == (7, 4, *x.shape[1:])
    replicated = Predictive(poutine.uncondition(vae.model), guide=vae.guide, num_samples=7, parallel=parallel)(x)
    assert replicated["x"].shape == (7, *x.shape)
    assert not torch.equal(replicated["x"][0], x)


@pytest.mark.parametrize("make", [counts_vae, convolutional_vae], ids=["counts", "convolutional"])
def test_trace_condition_and_replay(make):
    torch.manual_seed(0)
    vae = make().eval()
    x = counts(3) if make is counts_vae else binary_images(3)
    guide_trace = poutine.trace(vae.guide).get_trace(x)
    replayed = poutine.trace(poutine.replay(vae.model, trace=guide_trace)).get_trace(x)
    assert torch.equal(replayed.nodes["z"]["value"], guide_trace.nodes["z"]["value"])
    assert replayed.nodes["x"]["is_observed"]
    z = torch.zeros_like(guide_trace.nodes["z"]["value"])
    conditioned = poutine.trace(poutine.condition(vae.model, data={"z": z})).get_trace(x)
    assert torch.equal(conditioned.nodes["z"]["value"], z)
    expected = vae.likelihood(z).log_prob(x)
    conditioned.compute_log_prob()
    torch.testing.assert_close(conditioned.nodes["x"]["log_prob"], expected)


def test_nuts_on_a_few_rows_with_frozen_networks_finds_the_exact_posterior():
    torch.manual_seed(0)
    vae = pvae.VAE(
        prior=pvae.standard_normal(1),
        likelihood=pvae.Factorized(dist.Normal, pvae.MLP(1, (), (1, 1)), event_shape=1, scale=1.0),
        posterior=pvae.Factorized(dist.Normal, pvae.MLP(1, ()), event_shape=1),
    )
    with torch.no_grad():
        vae.likelihood.net.head.weight.fill_(1.0)
        vae.likelihood.net.head.bias.zero_()
    vae.requires_grad_(False)
    x = torch.tensor([[2.0], [-1.0]])
    mcmc = MCMC(NUTS(vae.model), num_samples=300, warmup_steps=200, disable_progbar=True)
    mcmc.run(x)
    draws = mcmc.get_samples()["z"]
    torch.testing.assert_close(draws.mean(0), x / 2, atol=0.2, rtol=0)
    torch.testing.assert_close(draws.var(0), torch.full((2, 1), 0.5), atol=0.2, rtol=0)


def test_nuts_runs_on_a_convolutional_vae_with_batch_norm():
    torch.manual_seed(0)
    vae = convolutional_vae().eval().requires_grad_(False)
    mcmc = MCMC(NUTS(vae.model), num_samples=10, warmup_steps=10, disable_progbar=True)
    mcmc.run(binary_images(3))
    draws = mcmc.get_samples()["z"]
    assert draws.shape == (10, 3, 3)
    assert draws.isfinite().all()


@pytest.mark.parametrize("make", [counts_vae, convolutional_vae], ids=["counts", "convolutional"])
@pytest.mark.parametrize("loss", [Trace_ELBO, TraceMeanField_ELBO])
def test_vectorized_particles_train_and_agree_with_the_loop(make, loss):
    torch.manual_seed(0)
    vae = make().eval()
    x = counts(8) if make is counts_vae else binary_images(8)
    svi = svi_of(vae.model, vae.guide, loss=loss(num_particles=3, vectorize_particles=True, max_plate_nesting=2))
    before = snapshot(vae)
    svi.step(x)
    assert min(moved(before, vae)) > 0
    many = loss(num_particles=4000, vectorize_particles=True, max_plate_nesting=2)
    loop = loss(num_particles=400)
    with torch.no_grad():
        first, second = many.loss(vae.model, vae.guide, x), loop.loss(vae.model, vae.guide, x)
    assert first == pytest.approx(second, rel=0.02)


@pytest.mark.parametrize("make", [counts_vae, convolutional_vae], ids=["counts", "convolutional"])
def test_render_model(make):
    vae = make()
    x = counts(4) if make is counts_vae else binary_images(4)
    graph = pyro.render_model(vae.model, model_args=(x,), render_distributions=True)
    assert "z -> x" in graph.source
    assert "data" in graph.source


def test_without_data_the_model_samples_it():
    vae = counts_vae()
    assert vae.model().shape == (1, 5)
    assert vae.model(size=7).shape == (7, 5)
    assert vae.sample(3).shape == (3, 5)


def test_the_plate_scales_a_batch_to_the_whole_data_set():
    vae, x = counts_vae(), counts(4)
    trace = poutine.trace(vae.model).get_trace(x, size=40)
    assert trace.nodes["z"]["scale"] == trace.nodes["x"]["scale"] == 10
    assert poutine.trace(vae.guide).get_trace(x, size=40).nodes["z"]["scale"] == 10
    assert trace.nodes["x"]["cond_indep_stack"][0].full_size == 40


def test_encode_decode_reconstruct_sample_shapes_modes_and_batches():
    torch.manual_seed(0)
    vae, x = convolutional_vae().train(), binary_images(10)
    means = vae.encode(x)
    assert means.shape == (10, 3)
    assert not means.requires_grad
    assert vae.encode(x, num_samples=4).shape == (4, 10, 3)
    assert vae.decode(means).shape == vae.reconstruct(x).shape == vae.reconstruct(x, num_samples=2).shape == x.shape
    assert all(module.training for module in vae.modules())
    torch.testing.assert_close(vae.encode(x, batch_size=3), means)
    assert set(vae.sample(6).unique().tolist()) <= {0.0, 1.0}


def test_float64_from_end_to_end():
    vae = counts_vae().double()
    assert vae.model(counts()).dtype == torch.float64
    assert vae.guide(counts()).dtype == torch.float64
    assert vae.encode(counts()).dtype == torch.float64


class Conditional(nn.Module):
    """A likelihood of one's own that reads a size factor from the covariates."""

    covariate_names = ("size",)

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 5)

    def forward(self, z, covariates=None):
        return dist.Poisson(self.net(z).exp() * covariates["size"][..., None]).to_event(1)


def conditional_vae():
    return pvae.VAE(
        pvae.standard_normal(2), Conditional(), pvae.Factorized(dist.Normal, pvae.MLP(5, (8,)), event_shape=2)
    )


def test_covariates_reaches_the_part_that_names_it():
    torch.manual_seed(0)
    vae, x = conditional_vae(), counts(6)
    size = torch.linspace(1, 2, 6)
    assert vae.covariate_names == ("size",)
    trace = poutine.trace(vae.model).get_trace(x, covariates={"size": size})
    z = trace.nodes["z"]["value"]
    rate = trace.nodes["x"]["fn"].base_dist.base_dist.rate
    torch.testing.assert_close(rate, vae.likelihood.net(z).exp() * size[:, None])
    assert vae.guide(x, covariates={"size": size}).shape == (6, 2)
    assert vae.sample(6, covariates={"size": size}).shape == (6, 5)


@pytest.mark.parametrize("by", ["position", "keyword"])
def test_covariates_go_through_plain_svi(by):
    torch.manual_seed(0)
    vae, x, covariates = conditional_vae(), counts(6), {"size": torch.ones(6)}
    before = snapshot(vae)
    svi = svi_of(pvae.beta(vae.model, 0.5), pvae.beta(vae.guide, 0.5))
    svi.step(x, covariates) if by == "position" else svi.step(x, covariates=covariates)
    assert min(moved(before, vae)) > 0


def test_a_graph_encodes_and_decodes_every_kind_of_data():
    torch.manual_seed(0)
    vae, x = counts_vae(), counts(7)
    means = vae.encode(x)
    frame = pd.DataFrame(x.numpy(), columns=list("abcde"))
    for other in (x.numpy(), scipy.sparse.csr_matrix(x.numpy()), frame, pvae.data.as_data(x), x.tolist()):
        torch.testing.assert_close(vae.encode(other), means)
        torch.testing.assert_close(vae.reconstruct(other), vae.reconstruct(x))
    torch.testing.assert_close(vae.decode(means.numpy()), vae.decode(means))


class TwoLevels(Graph):
    """Two stacked latents, the deeper one above."""

    model_parts = ("top", "bottom", "likelihood")
    guide_parts = ("first", "second")

    def model(self, x=None, covariates=None, size=None, index=None):
        with self.rows(self.model_parts, x, covariates, size, index) as rows:
            z1 = rows.sample("z1", "bottom", rows.sample("z2", "top"))
            return rows.observe("x", "likelihood", z1, value=rows.data)

    def guide(self, x, covariates=None, size=None, index=None):
        with self.rows(self.guide_parts, x, covariates, size, index) as rows:
            seen, mask = rows.seen(rows.data)
            rows.sample("z2", "second", rows.sample("z1", "first", seen, mask=mask))


def test_another_graph_is_a_short_class_that_everything_serves():
    torch.manual_seed(0)

    def normal(size, shape):
        return pvae.Factorized(dist.Normal, pvae.MLP(size, (8,)), shape)

    graph = TwoLevels(
        "levels",
        top=pvae.standard_normal(2),
        bottom=normal(2, 3),
        likelihood=pvae.Factorized(dist.Poisson, pvae.MLP(3, (8,)), 5),
        first=pvae.Factorized(dist.Normal, pvae.MLP(5, (8,)), 3, preprocess=torch.log1p),
        second=normal(3, 2),
    )
    x = counts(20)
    before = snapshot(graph)
    svi_of(graph.model, graph.guide).step(x)
    assert min(moved(before, graph)) > 0
    latents = graph.encode(x)
    assert {name: tuple(value.shape) for name, value in latents.items()} == {"z1": (20, 3), "z2": (20, 2)}
    torch.testing.assert_close(latents["z1"], graph.eval().first(x, covariates={"mask": x == x}).mean)
    torch.testing.assert_close(graph.decode(latents), graph.likelihood(latents["z1"]).mean)
    assert graph.sample(4).shape == (4, 5)
    assert pvae.elbo(graph, x, num_samples=3).sizes["data"] == 20


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda v, x: v.model(x), ValueError, r"covariates lack 'size': pass covariates=\{'size': tensor\}"),
        (
            lambda v, x: v.guide(x, covariates={"label": x}),
            ValueError,
            "no part reads 'label' from the covariates; it is read for: size",
        ),
        (lambda v, x: v.model(x, covariates=torch.ones(6)), TypeError, "must be a mapping"),
        (
            lambda v, x: v.model(x, covariates={"size": torch.ones(5)}),
            ValueError,
            r"covariates\['size'\] has 5 rows, expected 6",
        ),
        (lambda v, x: v.model(x, covariates={"size": torch.tensor(1.0)}), ValueError, "one row a datum, got a number"),
        (lambda v, x: v.sample(3, covariates={"size": torch.ones(6)}), ValueError, "has 6 rows, expected 3"),
    ],
)
def test_bad_covariates_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(conditional_vae(), counts(6))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda v: v.model(torch.zeros(3, 4)), ValueError, r"x must have shape \(rows, 5\).*got \(3, 4\)"),
        (lambda v: v.model(torch.zeros(3, 1, 5)), ValueError, r"one axis of rows before.*got \(3, 1, 5\)"),
        (lambda v: v.model(torch.zeros(5)), ValueError, r"one axis of rows before.*got \(5,\)"),
        (lambda v: v.guide(torch.zeros(3, 4)), ValueError, r"expected an input of shape \(\*batch, 5\), got \(3, 4\)"),
        (lambda v: v.model(torch.zeros(0, 5)), ValueError, "no rows"),
        (lambda v: v.guide(torch.zeros(0, 5)), ValueError, "no rows"),
        (
            lambda v: v.model(np.zeros((3, 5))),
            TypeError,
            r"must be a torch tensor here, got ndarray: write torch.as_tensor\(x\)",
        ),
        (
            lambda v: v.model(torch.full((3, 5), -1.0)),
            ValueError,
            r"outside the support of Poisson.*3 of 3 rows.*e.g. -1: .*counts",
        ),
        (lambda v: v.model(torch.full((3, 5), 0.5)), ValueError, "this likelihood is for counts"),
        (lambda v: v.model(torch.full((3, 5), float("inf"))), ValueError, "infinite values in 3 of 3 rows.*NaN"),
        (lambda v: v.model(torch.zeros(3, 5), size=2), ValueError, "whole data set, got 2 for a batch of 3"),
        (lambda v: v.sample(0), ValueError, "num_samples must be at least 1, got 0"),
        (lambda v: v.encode(torch.zeros(3, 5), batch_size=0), ValueError, "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(counts_vae())


def test_grey_pixels_under_a_bernoulli_are_refused_with_the_remedy():
    with pytest.raises(
        ValueError, match=r"outside the support of Bernoulli.*grey values.*binarize.*discretized logistic"
    ):
        convolutional_vae().eval().model(torch.full((2, 1, 8, 8), 0.5))


class NoContext(nn.Module):
    def forward(self):
        return dist.Normal(0.0, 1.0)


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ({"prior": dist.Normal(0.0, 1.0)}, TypeError, "prior must be a torch module.*got Normal"),
        ({"prior": NoContext()}, TypeError, r"NoContext cannot be a prior: write def forward\(self, covariates=None\)"),
        (
            {"likelihood": NoContext()},
            TypeError,
            r"cannot be a likelihood: write def forward\(self, z, covariates=None\)",
        ),
        ({"name": ""}, TypeError, "name must be a non-empty string"),
    ],
)
def test_bad_parts_are_refused(parts, error, message):
    good = counts_vae()
    with pytest.raises(error, match=message):
        pvae.VAE(**{"prior": good.prior, "likelihood": good.likelihood, "posterior": good.posterior, **parts})


class Plain(nn.Module):
    """A part that returns a distribution of torch, which ``pyro.sample`` cannot take."""

    def forward(self, z=None, covariates=None):
        return torch.distributions.Normal(torch.zeros(2), 1.0)


@pytest.mark.parametrize("role", ["prior", "likelihood"])
def test_a_distribution_of_torch_is_refused_by_the_part_s_name(role):
    good = counts_vae()
    parts = {"prior": good.prior, "likelihood": good.likelihood, "posterior": good.posterior, role: Plain()}
    with pytest.raises(
        TypeError, match=f"the {role}'s forward must return a distribution of pyro.distributions, got torch"
    ):
        pvae.VAE(**parts).model(counts(4))


class SharesPosterior(nn.Module):
    """A prior that mixes the posterior at pseudo-inputs."""

    def __init__(self, posterior):
        super().__init__()
        self.posterior = posterior
        self.pseudo_inputs = nn.Parameter(torch.rand(4, 5))

    def forward(self, covariates=None):
        components = self.posterior(self.pseudo_inputs)
        return dist.MixtureSameFamily(dist.Categorical(logits=torch.zeros(4)), components)


def test_a_prior_that_shares_the_posterior_trains_and_a_stale_copy_is_refused():
    torch.manual_seed(0)
    good = counts_vae()
    posterior = pvae.Factorized(dist.Normal, pvae.MLP(5, (8,)), event_shape=2)
    vae = pvae.VAE(SharesPosterior(posterior), good.likelihood, posterior)
    before = snapshot(vae)
    svi_of(vae.model, vae.guide).step(counts())
    assert min(moved(before, vae)) > 0
    vae.posterior = copy.deepcopy(posterior)
    with pytest.raises(ValueError, match=r"stale copy.*vae.prior.posterior = vae.posterior"):
        svi_of(vae.model, vae.guide).step(counts())
    with pytest.raises(ValueError, match="stale copy"):
        pvae.VAE(SharesPosterior(posterior), good.likelihood, copy.deepcopy(posterior))


# Covariates at the door


def cells(entry, width=4):
    """A VAE whose posterior reads one covariate, ``batch``."""
    net = pvae.ConcatCovariates(pvae.MLP(5 + width, (8,)), 5, covariates={"batch": entry})
    likelihood = pvae.ConcatCovariates(pvae.MLP(2 + width, (8,)), 2, covariates={"batch": entry})
    return pvae.VAE(
        pvae.standard_normal(2),
        pvae.Factorized(dist.Normal, likelihood, 5, scale=1.0),
        pvae.Factorized(dist.Normal, net, 2),
    )


UNSEEN = torch.arange(60) % 3
UNSEEN[41] = -1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: pvae.log_marginal(cells(pvae.Embed(3, 4)), torch.randn(60, 5), {"batch": UNSEEN}),
            "the code -1 in row 41",
        ),
        (lambda: cells(pvae.Embed(3, 4)).encode(torch.randn(60, 5), {"batch": UNSEEN}), "the code -1 in row 41"),
        (lambda: cells(pvae.Embed(3, 4)).decode(torch.randn(60, 2), {"batch": UNSEEN}), "the code -1 in row 41"),
        (lambda: cells(pvae.Embed(3, 4)).sample(60, {"batch": UNSEEN}), "the code -1 in row 41"),
        (
            lambda: pvae.log_marginal(cells((), 1), torch.randn(60, 5), {"batch": torch.zeros(60, 1)}),
            r"shape \(60, 1\), expected \(\) .*: write batch\[:, 0\]",
        ),
        (
            lambda: cells(pvae.Embed(3, 4)).encode(torch.randn(4, 5), {"batch": list("acca")}),
            "the levels a, c, Embed knows 0, 1, 2: give a pandas.Categorical",
        ),
    ],
)
def test_covariates_are_checked_by_row_before_anything_runs(call, message):
    with pytest.raises(ValueError, match=f"covariate 'batch' has {message}"):
        call()


def test_named_levels_are_read_as_they_were_trained():
    vae, x = cells(pvae.Embed(["a", "b", "c"], 4)), torch.randn(3, 5)
    text = pd.Categorical(["c", "a", "c"], categories=["a", "b", "c"])
    assert torch.equal(vae.encode(x, {"batch": text}), vae.encode(x, {"batch": torch.tensor([2, 0, 2])}))


@pytest.mark.parametrize("item", [lambda x, y: {"data": x}, lambda x, y: {"data": x, "labels": y}])
def test_a_dataset_of_dicts_without_the_key_x_is_told_what_to_yield(item):
    class Items(torch.utils.data.Dataset):
        def __len__(self):
            return 60

        def __getitem__(self, number):
            return item(torch.randn(5), number % 3)

    vae = pvae.VAE(
        pvae.standard_normal(2),
        pvae.Factorized(dist.Normal, pvae.MLP(2, (8,)), 5),
        pvae.Factorized(dist.Normal, pvae.MLP(5, (8,)), 2),
    )
    with pytest.raises(TypeError, match=r"x must be one tensor, got a dict with the keys 'data'.*under the key 'x'"):
        pvae.fit(vae, Items(), epochs=1, seed=0)
