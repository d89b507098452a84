"""Graphs beside the VAE, each against a closed form."""

import copy
import math
import warnings

import behavior_graphs
import behavior_programs
import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import bound
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from torch import nn
from torch.distributions.transforms import SigmoidTransform

import pyrovae as pvae
from pyrovae.distributions.path import MarkovPath
from pyrovae.graphs import (
    AmortizedGuide,
    HierarchicalVAE,
    MissingnessModel,
    MultimodalVAE,
    SemiSupervisedVAE,
    SentenceVAE,
    StateSpaceVAE,
    random_subsets,
)
from pyrovae.programs import announcements_off, log_terms, paired_traces

EXACT = {"rtol": 0, "atol": 1e-9}


class Linear(nn.Module):
    """A normal whose mean is affine in one value, with one covariance."""

    def __init__(self, weight, shift, covariance):
        super().__init__()
        self.weight, self.shift = nn.Parameter(weight), nn.Parameter(shift)
        self.register_buffer("tril", torch.linalg.cholesky(covariance))

    def forward(self, value=None, covariates=None):
        loc = self.shift if value is None else value @ self.weight.T + self.shift
        return dist.MultivariateNormal(loc, scale_tril=self.tril)


def conditional(joint, given, of):
    """The affine normal of some coordinates given others, of a joint covariance with mean zero."""
    cross, own = joint[of][:, given], joint[given][:, given]
    weight = cross @ torch.linalg.inv(own)
    return Linear(weight, torch.zeros(len(of)).double(), joint[of][:, of] - weight @ cross.T)


def stacked():
    """z2 -> z1 -> x, all linear and normal, with the exact guide q(z1 | x) q(z2 | z1); and the covariance of x."""
    torch.manual_seed(0)
    top, down, out = torch.eye(2).double(), torch.randn(3, 2).double(), torch.randn(4, 3).double()
    z1 = down @ down.T + 0.5 * torch.eye(3).double()
    x = out @ z1 @ out.T + 0.3 * torch.eye(4).double()
    joint = torch.zeros(9, 9).double()
    joint[:2, :2], joint[2:5, 2:5], joint[5:, 5:] = top, z1, x
    joint[2:5, :2], joint[5:, 2:5], joint[5:, :2] = down, out @ z1, out @ down
    joint = torch.tril(joint) + torch.tril(joint, -1).T
    zeros = torch.zeros(4).double()
    vae = HierarchicalVAE(
        priors=[
            Linear(down, zeros[:3], 0.5 * torch.eye(3).double()),
            Linear(torch.zeros(2, 1).double(), zeros[:2], top),
        ],
        likelihood=Linear(out, zeros, 0.3 * torch.eye(4).double()),
        posteriors=[conditional(joint, [5, 6, 7, 8], [2, 3, 4]), conditional(joint, [2, 3, 4], [0, 1])],
    )
    return vae, dist.MultivariateNormal(zeros, x)


class Joined(nn.Module):
    """A part that is given another value of the graph beside its own, joined in front."""

    def __init__(self, other, part):
        super().__init__()
        self.covariate_names, self.part = (other,), part

    def forward(self, value, covariates=None):
        other = covariates[self.covariate_names[0]]
        rows = torch.broadcast_shapes(value.shape[:-1], other.shape[:-1])
        return self.part(torch.cat([other.expand(*rows, -1), value.expand(*rows, -1)], -1))


@pytest.mark.parametrize("is_ladder", [False, True])
def test_layers_drawn_from_the_top_down_and_a_skip_path_have_the_evidence_in_every_weight(is_ladder):
    torch.manual_seed(1)
    root = torch.randn(9, 9).double() + 2 * torch.eye(9)
    joint, x = root @ root.T, [5, 6, 7, 8]  # of z2, z1 and x
    nets = [pvae.MLP(4, (), out_shape=4).double() for _ in range(2 * is_ladder)]
    first, second = [*(torch.as_tensor(net.head.weight.detach()) for net in nets), *[torch.eye(4).double()] * 2][:2]
    for net in nets:
        nn.init.zeros_(net.head.bias)
    maps = torch.block_diag(torch.eye(5).double(), torch.cat([torch.eye(4).double(), first, second @ first]))
    seen = maps @ joint @ maps.T  # of z2, z1, x and the features of both levels
    vae = HierarchicalVAE(
        priors=[
            conditional(joint, [0, 1], [2, 3, 4]),
            Linear(torch.zeros(2, 1).double(), torch.zeros(2).double(), joint[:2, :2]),
        ],
        likelihood=Joined("z2", conditional(joint, [0, 1, 2, 3, 4], x)),
        posteriors=[
            Joined("z2", conditional(seen, [0, 1, 9, 10, 11, 12], [2, 3, 4])),
            conditional(seen, [13, 14, 15, 16], [0, 1]),
        ],
        features=nets,
    )
    marginal = dist.MultivariateNormal(torch.zeros(4).double(), joint[5:, 5:])
    rows = marginal.sample((7,))
    weights = pvae.log_weights(vae, rows, num_samples=5, seed=0)
    torch.testing.assert_close(weights, marginal.log_prob(rows).expand(5, 7), rtol=0, atol=1e-7)
    history = pvae.fit(
        vae,
        rows,
        epochs=1,
        batch_size=7,
        learning_rate=1e-9,
        seed=0,
        progress=False,
        objective=pvae.FreeBitsELBO({"z2": 1e3}),
    )
    assert {"kl/z1", "kl/z2"} <= set(history.columns)
    vae.reconstruct(rows)
    vae.sample(3)


def test_two_linear_layers_with_the_exact_guide_have_the_evidence_in_every_weight():
    vae, marginal = stacked()
    x = marginal.sample((7,))
    weights = pvae.log_weights(vae, x, num_samples=5, seed=0)
    torch.testing.assert_close(weights, marginal.log_prob(x).expand(5, 7), **EXACT)
    torch.testing.assert_close(
        pvae.log_weights(vae, x + 1, num_samples=1, seed=0)[0], marginal.log_prob(x + 1), **EXACT
    )


def test_simulated_rows_have_the_covariance_of_the_closed_form():
    vae, marginal = stacked()
    torch.manual_seed(1)
    x = vae.sample(40_000)
    assert (torch.cov(x.T) - marginal.covariance_matrix).abs().max() < 0.05 * marginal.covariance_matrix.abs().max()


def test_it_trains_and_reconstructs():
    vae, marginal = stacked()
    torch.manual_seed(2)
    x = marginal.sample((64,))
    for part in vae.parameters():
        nn.init.normal_(part, std=0.3)
    before = pvae.elbo(vae, x, num_samples=20, seed=0).elbo.mean()
    pvae.fit(vae, x, epochs=60, batch_size=32, learning_rate=0.02, seed=0)
    assert pvae.elbo(vae, x, num_samples=20, seed=0).elbo.mean() > before + 1
    assert vae.reconstruct(x).shape == x.shape


def test_layers_must_pair_up():
    vae, _ = stacked()
    with pytest.raises(ValueError, match="2 priors and 1 posteriors"):
        HierarchicalVAE([vae.prior1, vae.prior2], vae.likelihood, [vae.posterior1])
    posteriors = [vae.posterior1, vae.posterior2]
    with pytest.raises(ValueError, match="2 posteriors and 1 networks of features"):
        HierarchicalVAE([vae.prior1, vae.prior2], vae.likelihood, posteriors, [pvae.MLP(4, (), 4)])


def labelled():
    kind = behavior_graphs.semi_supervised("semi_supervised")
    recorded = ~kind.data["y"].isnan()
    return kind.program, kind.data, recorded


def with_label(data, label):
    return {"x": data["x"], "y": torch.full_like(data["y"], label)}


def test_the_elbo_without_labels_is_the_sum_over_labels_where_the_classifier_is_their_softmax():
    vae, data, _ = labelled()
    each = torch.stack([bound(vae, with_label(data, label), seed=0).elbo for label in range(3)])
    torch.testing.assert_close(bound(vae, with_label(data, torch.nan), seed=0).elbo, each.logsumexp(0), **EXACT)
    torch.testing.assert_close(vae.classify(data["x"]), each.softmax(0).T, **EXACT)


def test_the_supervised_bound_adds_the_classifiers_log_probability_of_recorded_labels():
    vae, data, recorded = labelled()
    plain, supervised = TraceEnum_ELBO(max_plate_nesting=1), pvae.SupervisedELBO(3.0, max_plate_nesting=1)
    loss = supervised.differentiable_loss(vae.model, vae.guide, data)
    chosen = vae.classifier(data["x"]).log_prob(data["y"].nan_to_num())[recorded].sum()
    torch.testing.assert_close(loss, plain.differentiable_loss(vae.model, vae.guide, data) - 3 * chosen, **EXACT)
    gradient = torch.autograd.grad(loss, vae.classifier.shifts)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(-3 * chosen, vae.classifier.shifts)[0], **EXACT)
    twice = supervised.differentiable_loss(vae.model, vae.guide, data, size=2 * len(recorded))
    torch.testing.assert_close(twice, 2 * loss, **EXACT)
    with pytest.raises(ValueError, match="weight must be finite and at least 0, got -1"):
        pvae.SupervisedELBO(-1.0)


def test_a_continuous_label_is_part_of_the_data_where_it_is_recorded():
    """y ~ N(0, 1), z ~ N(0, 1), x = (y + z, y) + noise."""
    noise = 0.5 * torch.eye(2).double()
    joint = torch.tensor([[1.0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 2, 1], [1, 0, 1, 1]]).double()  # of y, z, x
    joint[2:, 2:] += noise

    vae = SemiSupervisedVAE(
        labels=pvae.standard_normal(1),
        prior=pvae.standard_normal(1),
        likelihood=Joined("label", conditional(joint, [0, 1], [2, 3])),
        classifier=conditional(joint, [2, 3], [0]),
        posterior=Joined("label", conditional(joint, [0, 2, 3], [1])),
    ).double()
    whole = dist.MultivariateNormal(torch.zeros(3).double(), joint[[0, 2, 3]][:, [0, 2, 3]])
    draws = whole.sample((6,))
    data = {"x": draws[:, 1:], "y": draws[:, :1].clone()}
    data["y"][::2] = torch.nan
    x = dist.MultivariateNormal(torch.zeros(2).double(), joint[2:, 2:])
    expected = torch.where(data["y"].isnan()[:, 0], x.log_prob(data["x"]), whole.log_prob(draws))
    torch.testing.assert_close(pvae.log_weights(vae, data, num_samples=3, seed=0), expected.expand(3, 6), **EXACT)
    torch.testing.assert_close(vae.encode(data)["label"][1::2], data["y"][1::2], **EXACT)
    assert vae.sample(5)["y"].shape == (5, 1)
    torch.manual_seed(0)
    drawn = vae.predict(data, num_samples=4000)
    exact = conditional(joint, [2, 3], [0])(data["x"])
    assert ((drawn.mean(0) - exact.mean).abs() < 5 * (exact.variance / 4000).sqrt()).all()
    with pytest.raises(ValueError, match="no probabilities of categories: draw the labels by predict"):
        vae.classify(data)


def test_reconstructions_of_several_draws_take_the_label_that_is_found_most_often():
    kind = behavior_graphs.semi_supervised("semi_supervised")
    found = kind.program.reconstruct(kind.data, num_samples=3)
    known = ~kind.data["y"].isnan()
    assert torch.equal(found["y"][known].double(), kind.data["y"][known])
    assert found["x"].shape == kind.data["x"].shape


def test_a_modality_may_be_one_number_or_one_category():
    prior = pvae.standard_normal(2)
    parts = {"label": pvae.Categories(pvae.MLP(2, (4,)), (), num_categories=3)}
    parts["count"] = pvae.Factorized(dist.Poisson, pvae.MLP(2, (4,)), ())

    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = pvae.Factorized(dist.Normal, pvae.MLP(1, (4,)), 2)

        def forward(self, x, covariates=None):
            return self.part(x.unsqueeze(-1))

    vae = MultimodalVAE(prior, parts, pvae.Experts({name: Reader() for name in parts}, prior))
    data = {"label": torch.arange(24) % 2 * 2.0, "count": torch.full((24,), 5.0)}
    data["label"][0] = torch.nan
    pvae.fit(vae, data, epochs=1, learning_rate=1e-6, seed=0, progress=False)
    found = vae.decode(torch.zeros(1, 2))
    torch.testing.assert_close(found["count"], torch.tensor([5.0]), rtol=0.3, atol=0)  # likelihoods start at the data
    assert vae.likelihood_label.offset.argmin() == 1


def two_views(combine, **options):
    torch.manual_seed(0)
    experts = {v: pvae.Factorized(dist.Normal, pvae.MLP(3, (4,)), 2) for v in ("a", "b")}
    prior = pvae.standard_normal(2)
    posterior = pvae.Experts(experts, prior, combine=combine, **options)
    likelihoods = {v: pvae.Factorized(dist.Normal, pvae.MLP(2, (4,)), 3) for v in ("a", "b")}
    data = {v: torch.randn(4, 3).double() for v in ("a", "b")}
    data["a"][1], data["b"][2], data["a"][3], data["b"][3] = (torch.nan,) * 4
    return MultimodalVAE(prior, likelihoods, posterior).double(), data


def views_of(data):
    return {v: (x.nan_to_num(), ~x.isnan()) for v, x in data.items()}


def test_a_row_without_any_view_has_the_prior_and_no_evidence():
    for combine in ("product", "mixture", "mixture of products"):
        vae, data = two_views(combine)
        assert bound(vae, data, num_samples=3, seed=0).elbo[3].abs() < 1e-9
        assert vae.encode(data)[3].abs().max() < 1e-9


def test_an_expert_sees_only_the_rows_that_have_its_view():
    vae, data = two_views("product")
    fed = []
    vae.posterior.experts["a"].register_forward_hook(lambda module, args, output: fed.append(args[0]))
    found = vae.posterior(views_of(data))
    torch.testing.assert_close(fed[0], data["a"][[0, 0, 2, 0]])  # and in the places of rows without it: one that has it
    alone = vae.posterior(views_of({"a": data["a"] * torch.nan, "b": data["b"]}))
    torch.testing.assert_close(found.mean[1], alone.mean[1], **EXACT)
    changed = vae.posterior(views_of({"a": data["a"] + torch.tensor([[0.0], [0.0], [1.0], [0.0]]), "b": data["b"]}))
    assert (changed.mean != found.mean).any(1).tolist() == [False, False, True, False]


def test_a_mixture_of_products_is_the_mean_of_the_products_over_the_present_subsets():
    vae, data = two_views("mixture of products", weighted=True)
    vae.posterior.log_weights.data[0] = 0.7
    z, views = torch.randn(50, 1, 2).double(), views_of(data)
    experts = {v: vae.posterior.experts[v](x).base_dist for v, (x, _) in views.items()}

    def product(*names):
        weight = {"a": torch.tensor(0.7, dtype=torch.float64).exp(), "b": 1.0}
        precision = 1 + sum(weight[v] * experts[v].scale ** -2 for v in names)
        pull = sum(weight[v] * experts[v].loc * (1 + experts[v].scale ** -2) for v in names)
        return dist.Normal(pull / precision, precision**-0.5).to_event(1).log_prob(z)

    both = torch.stack([product("a"), product("b"), product("a", "b")]).logsumexp(0) - torch.tensor(3.0).double().log()
    found = vae.posterior(views).log_prob(z)
    torch.testing.assert_close(found[:, 0], both[:, 0], **EXACT)
    torch.testing.assert_close(found[:, 1], product("b")[:, 1], **EXACT)
    torch.testing.assert_close(found[:, 2], product("a")[:, 2], **EXACT)
    single = two_views("mixture")[0].posterior(views).log_prob(z)
    vae.posterior.log_weights.data[0] = 0.0
    experts = {v: vae.posterior.experts[v](x).base_dist for v, (x, _) in views.items()}
    plain = {v: 1 + experts[v].scale ** -2 for v in experts}
    parts = [dist.Normal(experts[v].loc, plain[v] ** -0.5).to_event(1).log_prob(z) for v in "ab"]
    torch.testing.assert_close(
        single[:, 0], torch.stack(parts).logsumexp(0)[:, 0] - torch.tensor(2.0).log(), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("combine", ["mixture", "mixture of products"])
def test_in_training_the_draws_of_a_row_are_shared_out_among_its_experts(combine):
    """The bound is that of quadrature, and its variance what is left within the components."""
    likelihoods = {"a": LinearView(1.0, 0.2), "b": LinearView(-1.0, 0.3)}
    prior = pvae.standard_normal(1)
    experts = {v: OneView(part) for v, part in likelihoods.items()}
    vae = MultimodalVAE(prior, likelihoods, pvae.Experts(experts, prior, combine=combine)).double()
    draws = 4000
    x = {"a": torch.ones(draws + 2, 1).double(), "b": torch.full((draws + 2, 1), 0.5).double()}
    x["a"][-1], x["b"][-2:] = torch.nan, torch.nan  # all rows are alike but for one with one view, and one without any
    grid = torch.linspace(-6, 6, 4001).double()[:, None]
    precisions, means = [1 + 1 / 0.2, 1 + 1 / 0.3], [1 / 0.2 / (1 + 1 / 0.2), -0.5 / 0.3 / (1 + 1 / 0.3)]
    parts = [dist.Normal(m, p**-0.5) for m, p in zip(means, precisions, strict=True)]
    total = sum(precisions) - 1
    pull = sum(p * m for p, m in zip(precisions, means, strict=True))
    parts += [dist.Normal(pull / total, total**-0.5)] if combine != "mixture" else []
    masses = torch.stack([part.log_prob(grid[:, 0]).exp() for part in parts]) * (12 / 4000)
    log_q = masses.mean(0).log() - torch.tensor(12 / 4000).double().log()
    terms = [part(grid).log_prob(x[v][0]) for v, part in likelihoods.items()]
    term = dist.Normal(0.0, 1.0).log_prob(grid[:, 0]) + sum(terms) - log_q
    bounds = (masses * term).sum(1)
    within = (masses * (term - bounds[:, None]) ** 2).sum(1)
    torch.manual_seed(0)
    count, traces = len(parts), paired_traces(vae.train(), (x,), num_particles=len(parts))
    weight = log_terms(*traces).log_weights  # (particles, rows)
    assert weight[:, -1].abs().max() < 1e-9
    one_view = dist.Normal(0 * x["a"][0], 1.2**0.5).log_prob(x["a"][0])
    torch.testing.assert_close(weight[:, -2], one_view.expand(count), **EXACT)
    bound = weight[:, :draws].mean(0)
    assert abs(bound.mean() - bounds.mean()) < 5 * (within.mean() / count / draws) ** 0.5
    assert float(bound.var() * count / within.mean()) == pytest.approx(1.0, abs=0.07)  # 1.10 and 1.33 if independent


class LinearView(nn.Module):
    """x ~ N(weight z, variance)."""

    def __init__(self, weight, variance):
        super().__init__()
        self.weight, self.variance = weight, variance

    def forward(self, z, covariates=None):
        return dist.Normal(self.weight * z, self.variance**0.5).to_event(1)


class OneView(nn.Module):
    """The exact posterior of one linear view, as an expert: its mean, and what it adds to the precision of N(0, 1)."""

    def __init__(self, view):
        super().__init__()
        self.view = view

    def forward(self, x, covariates=None):
        added = self.view.weight**2 / self.view.variance
        return dist.Normal(x * self.view.weight / self.view.variance / (1 + added), added**-0.5).to_event(1)


def halves_of_digits(train):
    """What ten epochs of ``fit`` without options make of the two halves of digits: the mean KL of a row."""
    torch.manual_seed(0)
    prior = pvae.standard_normal(8)
    experts = {h: pvae.Factorized(dist.Normal, pvae.MLP(32, (64,)), 8, preprocess=lambda x: x / 16) for h in "ab"}
    likelihoods = {h: pvae.Factorized(dist.BetaBinomial, pvae.MLP(8, (64,)), 32, total_count=16) for h in "ab"}
    vae = MultimodalVAE(prior, likelihoods, pvae.Experts(experts, prior))
    rows = {"a": train[:, :32], "b": train[:, 32:]}
    return pvae.fit(vae, rows, epochs=10, transform=random_subsets, seed=0, progress=False)["kl"][-1]


def test_a_default_fit_uses_latents_that_say_little_at_first_and_none_where_there_is_nothing_to_say():
    """Where a likelihood starts at the constants of the data, an expert whose mean fades with its precision collapses here."""
    train = pvae.data.load("digits").train.dense().x.flatten(1)
    assert halves_of_digits(train) > 2
    order = torch.rand(train.shape, generator=torch.Generator().manual_seed(0)).argsort(0)
    assert halves_of_digits(train.gather(0, order)) < 0.3  # the same pixels, of unrelated digits


def test_experts_are_normals_of_known_modalities():
    with pytest.raises(ValueError, match="combine must be one of product, mixture"):
        pvae.Experts({"a": pvae.standard_normal(2)}, pvae.standard_normal(2), combine="sum")
    flow = pvae.Experts({"a": pvae.FullNormal(pvae.MLP(3, ()), 2)}, pvae.standard_normal(2))
    with pytest.raises(TypeError, match="the expert 'a' returns CholeskyNormal"):
        flow({"a": (torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool))})
    vae, data = two_views("product")
    with pytest.raises(TypeError, match="MultimodalVAE takes a dict of data with 'a' among its keys, got Tensor"):
        pvae.elbo(vae, data["a"])
    with pytest.raises(ValueError, match="the data have no 'b', only 'a'"):
        vae.guide({"a": data["a"]})
    with pytest.raises(ValueError, match="there is an expert 'b', and no such view, only 'a'"):
        vae.posterior({"a": views_of(data)["a"]})
    other = pvae.Experts({"a": pvae.Factorized(dist.Normal, pvae.MLP(3, ()), 4)}, pvae.standard_normal(2))
    with pytest.raises(ValueError, match="the expert 'a' returns vectors of length 4, and the prior those of length 2"):
        other({"a": (torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool))})
    with pytest.raises(ValueError, match="private latents of some of the modalities"):
        MultimodalVAE(vae.prior, {"a": vae.likelihood_a}, vae.posterior, private={"c": (vae.prior, vae.posterior)})


def test_the_conditional_evidence_of_two_views_is_the_closed_form_in_one_call():
    kind = behavior_graphs.multimodal("multimodal")
    v, options = kind.data, {"method": "importance", "num_samples": 3, "seed": 0, "progress": False}
    found = pvae.log_conditional(kind.program, v, given="w", **options)
    weight = torch.cat([kind.program.likelihood_x.weight, torch.zeros(3, 1)], 1), kind.program.likelihood_w.weight
    cov = torch.cat(weight) @ torch.cat(weight).T + torch.tensor([1.0] * 3 + [0.5] * 3).double().diag()
    mean = cov[:3, 3:] @ torch.linalg.inv(cov[3:, 3:]) @ v["w"][0]
    left = cov[:3, :3] - cov[:3, 3:] @ torch.linalg.inv(cov[3:, 3:]) @ cov[3:, :3]
    expected = dist.MultivariateNormal(mean, (left + left.T) / 2).log_prob(v["x"][0])
    assert abs(float(found.log_conditional[0]) - float(expected.detach())) < 1e-9
    assert abs(float(found.log_conditional[1])) < 1e-9  # a row without x: nothing is left to explain
    masks = {"x": torch.zeros(3, dtype=torch.bool), "w": torch.ones(3, dtype=torch.bool)}
    again = pvae.log_conditional(kind.program, v, given=masks, **options)
    assert again.equals(found)
    both = pvae.log_conditional(kind.program, v, given=("x", "w"), **options)
    assert abs(both.log_conditional).max() == 0
    assert (found.mcse**2 >= 0).all()
    with pytest.raises(ValueError, match=r"given names \['y'\]; the data sites or columns are 'x', 'w'"):
        pvae.log_conditional(kind.program, v, given="y")
    with pytest.raises(ValueError, match=r"given must have a mask for each of the data's parts"):
        pvae.log_conditional(kind.program, v, given=masks["x"])
    with pytest.raises(
        ValueError, match=r"given must be a boolean mask of x\['x'\], of shape \(16, 3\) or \(3,\), got"
    ):
        pvae.log_conditional(kind.program, v, given={**masks, "x": torch.zeros(2, dtype=torch.bool)})


def only(data, *names):
    return {name: x if name in names else torch.full_like(x, torch.nan) for name, x in data.items()}


@pytest.fixture(scope="module")
def learned_views():
    """Two known linear views of one latent, whose experts are trained: the graph, held-out rows and the law of both views."""
    first = torch.tensor([[1.0, 0.5], [-1.0, 0.5], [0.0, 1.0]]).double()
    second = torch.tensor([[0.7, 0.0], [0.0, -1.2], [0.0, 0.0]]).double()
    law = behavior_graphs.Gaussian(torch.eye(2).double(), torch.cat([first, second]), 0.3 * torch.eye(6).double())
    torch.manual_seed(0)
    x, prior = law.simulate(2300), pvae.standard_normal(2)
    noise = 0.3 * torch.eye(3).double()
    likelihoods = {"a": behavior_graphs.LinearPart(first, noise), "b": behavior_graphs.LinearPart(second, noise)}
    experts = {view: pvae.Factorized(dist.Normal, pvae.MLP(3, ()), 2) for view in "ab"}
    vae = MultimodalVAE(prior, likelihoods, pvae.Experts(experts, prior)).double()
    vae.likelihood_a.requires_grad_(False)
    vae.likelihood_b.requires_grad_(False)
    rows = {"a": x[:, :3], "b": x[:, 3:]}
    train = {view: part[:2000] for view, part in rows.items()}
    pvae.fit(vae, train, epochs=30, batch_size=100, transform=random_subsets, seed=0, progress=False)
    return vae, {view: part[2000:] for view, part in rows.items()}, law


def test_experts_trained_on_random_subsets_give_the_conditional_evidence_of_the_closed_form(learned_views):
    """Experts trained on complete rows alone miss it by .2 to .5 nats on average: they only learn their product."""
    vae, rows, law = learned_views
    found = {
        views: pvae.log_marginal(vae, only(rows, *views), method="importance", num_samples=50, seed=0, progress=False)
        for views in ("ab", "a", "b")
    }
    exact = {
        views: law.rows(torch.cat(list(only(rows, *views).values()), 1))["log_evidence"].numpy() for views in found
    }
    assert all(float(found[views].gap.mean()) < 0.05 for views in found)  # each subset has its posterior
    given = found["ab"].log_marginal.values - found["b"].log_marginal.values
    assert abs(given - (exact["ab"] - exact["b"])).max() < 0.3
    assert abs((given - (exact["ab"] - exact["b"])).mean()) < 0.01
    gain = (given - found["a"].log_marginal.values).mean()  # on rows of the model: their mutual information
    assert gain == pytest.approx((exact["ab"] - exact["b"] - exact["a"]).mean(), abs=0.02)
    assert gain > 0.5


def test_random_subsets_leave_half_of_the_rows_and_a_modality_in_each():
    rows = {"a": torch.zeros(20_000, 2), "b": torch.zeros(20_000, 1, 3), "c": torch.zeros(20_000)}
    rows["c"][:10_000] = torch.nan
    kept = random_subsets(rows, torch.Generator().manual_seed(0))
    seen = torch.stack([~x.reshape(20_000, -1).isnan().any(1) for x in kept.values()], 1)
    assert seen.any(1).all()
    assert not seen[:10_000, 2].any()
    complete = seen[10_000:].all(1).double().mean()
    assert complete == pytest.approx(0.5 + 0.5 / 8, abs=0.02)
    assert seen[:, 0].double().mean() == pytest.approx(0.5 + 0.5 * (5 / 8 + 13 / 24) / 2, abs=0.02)
    alone = random_subsets({"a": torch.zeros(50), "b": torch.full((50,), torch.nan)})
    assert not alone["a"].isnan().any()


def log_normal(x, size=None):
    """The kind "global" on another scale: z is log-normal, and mu the logit of a share."""
    share = pyro.sample("share", dist.TransformedDistribution(dist.Normal(0 * x[0], 2.0), [SigmoidTransform()]))
    with pyro.plate("data", size or len(x), subsample=torch.arange(len(x))):
        z = pyro.sample("z", dist.LogNormal(share.logit(), 1.0))
        pyro.sample("x", dist.Normal(z.log(), 1.0), obs=x)


class GivenShare(behavior_graphs.GivenMean):
    covariate_names = ("share",)

    def forward(self, x, covariates=None):
        return super().forward(x, {"mu": covariates["share"].logit()})


def test_an_amortized_guide_counts_the_jacobians_of_local_and_global_latents():
    kind = behavior_graphs.amortized("amortized")
    guide = AmortizedGuide(log_normal, {"z": GivenShare()}, kind.program.family)
    both = pvae.evaluation.joint_log_weights(guide, kind.data, num_samples=5, seed=0)
    torch.testing.assert_close(both, kind.joint.expand(5), rtol=0, atol=1e-8)
    half = len(kind.data) // 2
    batch = pvae.fit(guide, kind.data, epochs=1, batch_size=half, learning_rate=1e-12, seed=0, progress=False)
    assert abs(batch["loss"][0] + float(kind.joint) / len(kind.data)) < 0.5  # of half of the rows, twice


def test_the_predictive_evidence_with_a_global_mean_is_the_closed_form():
    kind = behavior_graphs.amortized("amortized")
    new = torch.linspace(0, 3, 6).double()
    found = pvae.log_marginal(
        kind.program, new, method="importance", num_samples=400_000, seed=0, progress=False
    ).log_marginal.values
    q = kind.program.guide(new) and kind.program.global_posterior(covariates=None)
    expected = dist.Normal(q.mean, (2 + q.variance).sqrt()).log_prob(new)
    assert abs(found - expected.detach().numpy()).max() < 1e-3


class Layer(nn.Module):
    """A decoder's last layer as a latent of all rows: w ~ N(0, I), z ~ N(0, 1), x ~ N(w . features(c) + z, 1)."""

    def __init__(self):
        super().__init__()
        self.body = pvae.MLP(1, (), out_shape=2, activation=nn.Tanh).requires_grad_(False)

    def features(self, c):
        return torch.tanh(self.body(c))

    def model(self, x=None, covariates=None, size=None):
        pvae.register(layer=self)
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        rows = len(covariates["c"])
        with pyro.plate("data", size or rows, subsample=torch.arange(rows)):
            z = pyro.sample("z", dist.Normal(0 * w[..., 0], 1.0))
            return pyro.sample("x", dist.Normal((self.features(covariates["c"]) * w).sum(-1) + z, 1.0), obs=x)


def test_a_last_layer_with_a_prior_trains_by_the_same_fit_and_has_both_evidences_of_the_closed_form():
    torch.manual_seed(0)
    layer, c = Layer(), torch.linspace(-2, 2, 60)[:, None]
    design = layer.features(c)
    x = design @ torch.tensor([1.5, -0.5]) + 2**0.5 * torch.randn(60)

    class Given(nn.Module):
        """z given x and w is exact; what is learned is the layer."""

        covariate_names = ("w", "c")

        def forward(self, x, covariates=None):
            mean = (layer.features(covariates["c"]) * covariates["w"]).sum(-1)
            return dist.Normal(((x - mean) / 2).unsqueeze(-1), 0.5**0.5).to_event(1)

    guide = AmortizedGuide(layer.model, Given(), "full")
    rate = pvae.schedules.cosine(5e-2, 1e-4, epochs=150)
    pvae.fit(guide, x, {"c": c}, epochs=150, batch_size=60, learning_rate=rate, seed=0, progress=False)
    precision = torch.eye(2) + design.T @ design / 2
    mean = torch.linalg.solve(precision, design.T @ x / 2)
    q = guide.global_posterior(covariates=None)
    assert (precision.diagonal().sqrt() * (q.mean - mean)).abs().max() < 0.25  # of a posterior sd
    together = dist.MultivariateNormal(0 * x, design @ design.T + 2 * torch.eye(60)).log_prob(x)
    joint = pvae.evaluation.joint_log_weights(guide, x, {"c": c}, num_samples=2000, seed=0)
    assert float(joint.logsumexp(0)) - math.log(2000) == pytest.approx(float(together), abs=0.03)
    assert (
        float(together) - 0.2 < float(joint.mean()) < float(together)
    )  # the bound: q has all but reached the posterior
    new, held_out = torch.tensor([[0.3], [5.0]]), torch.tensor([1.0, 2.0])
    g, s = layer.features(new), q.scale_tril @ q.scale_tril.T
    expected = dist.Normal(g @ q.mean, (2 + (g @ s * g).sum(-1)).sqrt()).log_prob(held_out)
    options = {"num_samples": 5000, "seed": 0, "progress": False}
    found = pvae.log_marginal(guide, held_out, {"c": new}, **options)
    error = (torch.as_tensor(found.log_marginal.values) - expected.detach()).abs()  # without a divergence of w
    assert (error < 4 * torch.as_tensor(found.mcse.values) + 1e-3).all()


class Sums(nn.Module):
    def forward(self, x):
        return x.cumsum(1)


def test_a_smoother_reads_sequences_of_any_length_by_a_module_that_is_no_network():
    torch.manual_seed(0)
    combine = pvae.Factorized(dist.Normal, pvae.MLP(2 + 4, ()), 2)
    smoother = pvae.conditionals.Smoother(Sums(), combine)
    for steps in (3, 7):
        x, z = torch.randn(5, steps, 3), torch.randn(5, steps, 2)
        seen = {"mask": torch.ones_like(x, dtype=torch.bool)}
        path = smoother(x, torch.zeros(2), lambda z, times: dist.Normal(z, 1.0).to_event(1), seen)
        ahead = torch.stack([torch.cat([x[:, t:].sum(1), torch.full((5, 1), steps - t)], 1) for t in range(steps)], 1)
        before = torch.cat([torch.zeros(5, 1, 2), z[:, :-1]], 1)
        torch.testing.assert_close(path.log_prob(z), combine(torch.cat([before, ahead], -1)).log_prob(z).sum(-1))


class GivenBias(nn.Module):
    """z given x and the decoder's bias b is exact, where x ~ N(z + b, 1) and z ~ N(0, 1)."""

    covariate_names = ("vae.likelihood.net.head.bias",)

    def forward(self, x, covariates=None):
        return dist.Normal((x - covariates[self.covariate_names[0]]) / 2, 0.5**0.5).to_event(1)


def test_a_last_layer_of_a_vae_is_lifted_to_a_global_latent_and_has_both_evidences_of_the_closed_form():
    torch.manual_seed(0)
    likelihood = pvae.Factorized(dist.Normal, pvae.MLP(1, ()), 1, scale=1.0)
    vae = pvae.VAE(pvae.standard_normal(1), likelihood, pvae.Factorized(dist.Normal, pvae.MLP(1, ()), 1))
    likelihood.requires_grad_(False).net.head.bias.requires_grad_(True)
    nn.init.ones_(likelihood.net.head.weight), nn.init.zeros_(likelihood.net.head.bias)
    x = 1.5 + 2**0.5 * torch.randn(40, 1)
    prior = {"vae.likelihood.net.head.bias": dist.Normal(torch.zeros(1), 1.0).to_event(1)}
    guide = AmortizedGuide(poutine.lift(vae.model, prior=prior), GivenBias())
    rate = pvae.schedules.cosine(5e-2, 1e-4, epochs=200)
    options = {"learning_rate": rate, "compile": "trace", "start_at_data": False}
    history = pvae.fit(guide, x, epochs=200, batch_size=20, seed=0, progress=False, **options)
    assert (history.engine, likelihood.net.head.bias.item()) == ("traced", 0.0)
    posterior = guide.global_posterior(covariates=None)
    loc, scale = posterior.mean.detach(), posterior.stddev.detach()
    assert abs((loc - x.sum() / 2 / (1 + 40 / 2)).item()) < 0.2 * scale.item()
    assert scale.item() == pytest.approx((1 / (1 + 40 / 2)) ** 0.5, rel=0.05)
    together = dist.MultivariateNormal(torch.zeros(40), torch.ones(40, 40) + 2 * torch.eye(40)).log_prob(x[:, 0])
    joint = pvae.evaluation.joint_log_weights(guide, x, num_samples=100, vectorize=False, seed=0)
    assert float(joint.logsumexp(0)) - math.log(100) == pytest.approx(float(together), abs=0.05)
    new = torch.tensor([[0.0], [3.0]])
    found = pvae.log_marginal(guide, new, num_samples=400, vectorize=False, seed=0, progress=False)
    expected = dist.Normal(loc, (2 + scale**2).sqrt()).log_prob(new)[:, 0]
    error = (torch.as_tensor(found.log_marginal.values) - expected).abs()
    assert (error < 4 * torch.as_tensor(found.mcse.values) + 1e-3).all()


def test_a_network_computes_with_a_lifted_weight_inside_the_program_alone():
    torch.manual_seed(0)
    likelihood = pvae.Factorized(dist.Poisson, pvae.MLP(2, (4,)), 6)
    vae = pvae.VAE(pvae.standard_normal(2), likelihood, pvae.Factorized(dist.Normal, pvae.MLP(6, (4,)), 2))
    x, z = torch.ones(3, 6), torch.randn(3, 2)
    other, name = copy.deepcopy(vae), "likelihood.net.head.weight"
    weight = vae.get_parameter(name)
    value = torch.randn_like(weight)
    with torch.no_grad():
        other.get_parameter(name).copy_(value)
    lifted = poutine.lift(vae.model, prior={f"vae.{name}": dist.Normal(torch.zeros_like(weight), 1.0).to_event(2)})

    def density(model, **given):
        return (
            poutine.trace(poutine.condition(model, {"z": z, **given})).get_trace(x).log_prob_sum(lambda n, _: n == "x")
        )

    before = density(vae.model)
    with announcements_off():
        assert density(lifted, **{f"vae.{name}": value}) == density(other.model) != before
    with pytest.raises(ValueError, match="shape"):
        poutine.trace(lifted).get_trace(x[:, :2])
    assert vae.likelihood.net.head.weight is weight
    assert density(vae.model) == before


def items(x=None, size=None):
    """Persons of an ability answer items of a difficulty each."""
    with pyro.plate("items", 4, dim=-2):
        difficulty = pyro.sample("difficulty", dist.Normal(0.0, 1.0))
    spread = pyro.sample("spread", dist.LogNormal(0.0, 0.5))
    with pyro.plate("data", size or len(x), subsample=None if x is None else torch.arange(len(x)), dim=-1):
        ability = pyro.sample("ability", dist.Normal(0.0, spread))
        logits = ability.unsqueeze(-1) - difficulty.mT.unsqueeze(-2)
        return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


@pytest.mark.parametrize("covariance", ["diagonal", "full", "low_rank", pvae.AffineFlow])
def test_global_latents_may_have_plates(covariance):
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((20, 4), 0.5))
    guide = AmortizedGuide(items, pvae.MLP(4, (4,)), covariance)
    history = pvae.fit(guide, x, epochs=2, batch_size=10, seed=0, progress=False)
    assert history["loss"][-1] == history["loss"][-1]
    if isinstance(covariance, str):
        assert (guide.global_posterior().variance.sqrt() - 0.1).abs().max() < 0.1
    trace = poutine.trace(guide.guide).get_trace(x)
    assert {n: tuple(trace.nodes[n]["value"].shape) for n in ("difficulty", "spread", "ability")} == {
        "difficulty": (4, 1),
        "spread": (),
        "ability": (20,),
    }
    assert pvae.evaluation.joint_log_weights(guide, x, num_samples=3, seed=0).isfinite().all()


def test_what_an_amortized_guide_cannot_draw_is_refused_by_name():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(torch.ones(2)))
            with pyro.plate("inner", 2):
                pyro.sample("w", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    x = torch.zeros(3)
    with pytest.raises(ValueError, match="the latent 'k' is discrete"):
        AmortizedGuide(model, pvae.MLP(1, ())).guide(x)
    with pytest.raises(ValueError, match="'w' lies in the plate 'inner' inside 'data'"):
        AmortizedGuide(poutine.block(model, hide=["k"]), pvae.MLP(1, ())).guide(x)
    with pytest.raises(ValueError, match=r"an encoder for each local latent \['z'\], got \['y'\]"):
        AmortizedGuide(behavior_graphs.GlobalMean(x).model, {"y": pvae.MLP(1, ())}).guide(x)
    with pytest.raises(ValueError, match="covariance must be one of diagonal, full, low_rank"):
        AmortizedGuide(model, pvae.MLP(1, ()), "dense")


def test_a_forecast_follows_the_kalman_filter():
    kind = behavior_graphs.state_space("state_space")
    vae, x = kind.program, kind.data[3:4, :3]  # four steps are seen in row 3; the last is held back
    torch.manual_seed(0)
    found = vae.forecast(x, 1, num_samples=40_000)[:, 0, 0, 0]
    smoothed = vae.encode(x)[0, -1]
    forth, emission = vae.dynamics.transition.weight, vae.emission.weight
    expected = float((emission @ forth @ smoothed).detach())
    assert abs(float(found.mean()) - expected) < 5 * float(found.std()) / 200
    shorter = torch.cat([x, torch.full((1, 2, 1), torch.nan)], 1)  # than the longest: its own end counts
    found = vae.forecast(shorter, 1, num_samples=40_000)[:, 0, 0, 0]
    assert abs(float(found.mean()) - expected) < 5 * float(found.std()) / 200
    longer = torch.cat([x, torch.full((1, 4, 1), torch.nan)], 1)
    torch.testing.assert_close(bound(vae, longer, seed=0).elbo, bound(vae, x, seed=0).elbo, **EXACT)


def test_forecasts_are_scored_by_the_closed_form_at_each_horizon():
    """Where forecasts are right, the mean score of a normal of standard deviation s is s / sqrt(pi)."""
    kind = behavior_graphs.state_space("state_space")
    vae = kind.program
    torch.manual_seed(0)
    x = vae.sample(2000)
    x[::2, 3:] = torch.nan  # every second sequence is shorter
    found = vae.forecast_scores(x, 2)
    assert (abs(found.coverage - 0.9) < 4 * found.coverage_error).all()
    torch.manual_seed(1)
    seen = x[:1, :1], x[1:2, :2]  # what is left of a shorter and of a longer one
    spread = torch.stack([vae.forecast(rows, 2, num_samples=2000).std(0).squeeze(-1) for rows in seen])
    expected = spread.mean(0)[0] / torch.pi**0.5
    assert (abs(found.crps.values - expected.numpy()) < 4 * found.crps_error.values + 0.02).all()
    assert found.crps[1] > found.crps[0]
    wide = vae.forecast_scores(x, 2, level=0.5)
    assert (abs(wide.coverage - 0.5) < 4 * wide.coverage_error).all()
    with pytest.raises(ValueError, match="a sequence of 3 steps is too short to forecast 3"):
        vae.forecast_scores(x, 3)
    with pytest.raises(ValueError, match="level is the probability of an interval"):
        vae.forecast_scores(x, 2, level=1.0)


def test_controls_reach_the_transition_step_by_step():
    class Gap(nn.Module):
        covariate_names = ("gap",)

        def forward(self, z, covariates=None):
            return dist.Normal(z, covariates["gap"].sqrt()).to_event(1)

    gap = torch.tensor([[[1.0], [2.0], [0.5]], [[3.0], [1.0], [1.0]]])
    dynamics = pvae.conditionals.Dynamics(Gap(), 1)
    path = dynamics(3, {"gap": gap})
    times = gap[..., 0].cumsum(1)
    walks = dist.MultivariateNormal(torch.zeros(2, 3), torch.minimum(times.unsqueeze(-1), times.unsqueeze(-2)))
    z = torch.randn(5, 2, 3, 1)
    torch.testing.assert_close(path.log_prob(z), walks.log_prob(z[..., 0]), rtol=1e-5, atol=1e-5)
    draws = path.rsample((20_000,))[..., 0]
    assert (draws.var(0) / times - 1).abs().max() < 0.06


def test_the_posterior_hears_controls_in_the_order_of_the_data_and_reads_them_step_by_step():
    class Shifted(nn.Module):
        covariate_names = ("u",)

        def forward(self, value, covariates=None):
            return dist.Normal(value[..., :1] + covariates["u"], 1.0).to_event(1)

    class Hears(nn.Module):
        def forward(self, features):
            self.heard = features
            return features[..., :1]

    x, u = torch.randn(2, 3, 1), torch.randn(2, 3, 1)
    smoother = pvae.conditionals.Smoother(Hears(), Shifted(), covariates=("u",))
    emission = pvae.Factorized(dist.Normal, pvae.MLP(1, (4,)), 1)
    vae = StateSpaceVAE(pvae.conditionals.Dynamics(Shifted(), 1), emission, smoother, num_steps=3)
    found = pvae.elbo(vae, x, {"u": u}, num_samples=2, seed=0)
    assert abs(found.kl).max() < 1e-6  # each state follows the transition, controls included
    torch.testing.assert_close(smoother.net.heard[..., -1:].flip(1), u)
    torch.testing.assert_close(smoother.net.heard[..., :1].flip(1), x)
    longer = torch.cat([u, u[:, :2]], 1)
    assert vae.forecast(x, 2, {"u": longer}, num_samples=4).shape == (4, 2, 2, 1)
    with pytest.raises(
        ValueError, match=r"expected \(2, 5, ...\), a row for each step.*a forecast needs the steps ahead"
    ):
        vae.forecast(x, 2, {"u": u})
    with pytest.raises(ValueError, match=r"covariates\['u'\] has the shape \(2,\), expected \(2, 3, ...\)"):
        vae.encode(x, {"u": u[:, 0, 0]})


def self_masked():
    """z ~ N(0, 1), x = (z, -z) + noise, high values hidden; the guide is exact given the entries that are seen."""
    weight = torch.tensor([[1.0], [-1.0]]).double()

    class Posterior(nn.Module):
        covariate_names = ("mask",)

        def forward(self, x, covariates=None):
            seen = covariates["mask"] * weight[:, 0] / 0.5
            variance = 1 / (1 + (seen * weight[:, 0]).sum(-1, keepdim=True))
            return dist.Normal(variance * (seen * x).sum(-1, keepdim=True), variance.sqrt()).to_event(1)

    likelihood = behavior_graphs.LinearPart(weight, 0.5 * torch.eye(2).double())
    vae = pvae.VAE(pvae.standard_normal(1), likelihood, Posterior()).double()
    graph = MissingnessModel(vae, pvae.conditionals.SelfMasking(2, sign=-1)).double()
    graph.mechanism.slope.data.fill_(2.0)
    covariance = weight @ weight.T + 0.5 * torch.eye(2).double()
    return graph, dist.MultivariateNormal(torch.zeros(2).double(), covariance)


def test_self_masking_has_the_evidence_and_the_imputations_of_quadrature():
    graph, marginal = self_masked()
    x = torch.tensor([[0.3, -0.4], [torch.nan, -1.0], [torch.nan, 1.5]]).double()
    hidden = torch.linspace(-9, 9, 4001).double()
    both = torch.stack([hidden.expand(3, -1), x[:, 1:].expand(-1, 4001)], -1)
    seen = graph.mechanism(both).base_dist.probs.detach()
    density = marginal.log_prob(both).exp() * (1 - seen[..., 0]) * seen[..., 1]
    complete = marginal.log_prob(x[0]) + graph.mechanism(x[0]).base_dist.probs.log().sum()
    weights = pvae.log_weights(graph, x[:1], num_samples=5, seed=0)
    torch.testing.assert_close(weights[:, 0], complete.detach().expand(5), **EXACT)
    found = pvae.log_marginal(graph, x[1:], method="importance", num_samples=20_000, seed=0, progress=False)
    evidence = density.sum(1) * (18 / 4000)
    error = (torch.as_tensor(found.log_marginal.values) - evidence[1:].log()).abs()
    assert (error < 4 * torch.as_tensor(found.mcse.values)).all()
    mean = (density * hidden).sum(1) / density.sum(1)
    drawn = pvae.impute(graph, x, num_samples=4000, num_proposals=4000, seed=0, progress=False).draws
    assert (drawn[:, 1:, 0].mean(0) - mean[1:]).abs().max() < 5 / 4000**0.5
    ignoring = pvae.impute(graph.graph, x, num_samples=4000, num_proposals=4000, seed=0, progress=False).draws
    assert (ignoring[:, 1:, 0].mean(0) < mean[1:] - 0.3).all()  # high values are hidden


def test_replicates_of_a_model_of_missingness_lack_the_entries_that_it_hides():
    """High values are hidden, so that the mean of those seen lies below the model's; replicates are hidden alike."""
    graph, _ = self_masked()
    torch.manual_seed(0)
    x = graph.sample(400)
    assert x.nanmean() < -0.4
    for kind in ("prior", "posterior"):
        found = pvae.predictive_check(graph, x, kind=kind, num_samples=100, seed=0)
        assert found.p_values["mean"] > 0.01
        assert abs(found.replicated["mean"].mean() - float(x.nanmean())) < 0.1
    alone = pvae.predictive_check(graph.graph, x, kind="prior", num_samples=100, seed=0)
    assert alone.p_values["mean"] < 0.05


def test_one_of_several_data_sites_has_the_mechanism_and_the_others_are_missing_at_random():
    graph, _ = self_masked()

    class OfViews(nn.Module):
        def forward(self, views, covariates=None):
            seen, mask = views["a"]
            return graph.graph.posterior(seen, covariates={"mask": mask})

    parts = {"a": graph.graph.likelihood, "b": pvae.Factorized(dist.Poisson, pvae.MLP(1, (4,)), 2)}
    both = MultimodalVAE(pvae.standard_normal(1), parts, OfViews()).double()
    program = MissingnessModel(both, graph.mechanism, site="a")
    x = torch.tensor([[0.3, -0.4], [torch.nan, -1.0], [torch.nan, torch.nan]]).double()
    data = {"a": x, "b": torch.full((3, 2), torch.nan).double()}
    options = {"method": "importance", "num_samples": 20_000, "progress": False}
    found = pvae.log_marginal(program, data, seed=0, **options)
    alone = pvae.log_marginal(graph, x, seed=1, **options)
    error = (found.mcse**2 + alone.mcse**2) ** 0.5
    assert (abs(found.log_marginal - alone.log_marginal) < 4 * error + 1e-9).all()
    drawn = pvae.impute(program, data, num_samples=3, seed=0, progress=False).draws
    assert drawn["a"].isfinite().all()
    assert drawn["b"].isfinite().all()
    simulated = program.sample(50)
    assert simulated["a"].isnan().any()
    assert not simulated["b"].isnan().any()
    from pyrovae.report.pictures import graph_pictures

    found = graph_pictures(program, pvae.data.as_data(simulated), 0)["tipping"]
    assert "the mechanism (SelfMasking, its sign given) is an assumption" in found.caption
    assert len(found.table[1]) == 2
    assert set(pvae.predictive_check(program, simulated, num_samples=20, seed=0).observed) >= {"mean of a", "mean of b"}


def test_mechanisms_of_another_shape_or_site_are_refused():
    graph, _ = self_masked()
    for mechanism, site, words in (
        (pvae.conditionals.SelfMasking(3), "x", r"SelfMasking\(\(3,\)\) got data of shape \(4, 2\)"),
        (graph.mechanism, "y", "the graph observes no site 'y'"),
    ):
        program = MissingnessModel(graph.graph, mechanism, site=site).double()
        with pytest.raises(ValueError, match=words):
            program.model(torch.zeros(4, 2).double())
    with pytest.raises(ValueError, match=words):
        program.guide(torch.zeros(4, 2).double())


def test_missingness_is_of_independent_entries():
    graph, _ = self_masked()
    joint = pvae.VAE(pvae.standard_normal(1), pvae.FullNormal(pvae.MLP(1, ()), 2), graph.graph.posterior).double()
    with pytest.raises(ValueError, match="is joint over them: give the graph a likelihood of independent entries"):
        MissingnessModel(joint, pvae.conditionals.SelfMasking(2)).double().guide(torch.zeros(3, 2).double())


def two_levels():
    torch.manual_seed(0)
    family = dist.Normal
    vae = HierarchicalVAE(
        priors=[pvae.Factorized(family, pvae.MLP(2, (4,)), 3), pvae.standard_normal(2)],
        likelihood=pvae.Factorized(family, pvae.MLP(3, (4,)), 5),
        posteriors=[pvae.Factorized(family, pvae.MLP(5, (4,)), 3), pvae.Factorized(family, pvae.MLP(3, (4,)), 2)],
    )
    return vae, torch.randn(40, 5)


def test_the_history_tells_the_divergence_of_each_level():
    vae, x = two_levels()
    history = pvae.fit(vae, x, epochs=2, validation=0.25, seed=0, progress=False)
    for prefix in ("", "validation_"):
        levels = [history[f"{prefix}kl/{site}"] for site in ("z1", "z2")]
        assert [sum(pair) for pair in zip(*levels, strict=True)] == pytest.approx(history[f"{prefix}kl"], abs=1e-6)
    assert list(history.to_frame().columns[-4:]) == ["kl/z2", "kl/z1", "validation_kl/z2", "validation_kl/z1"]
    single = pvae.VAE(pvae.standard_normal(3), vae.likelihood, vae.posterior1)
    assert "kl/z" not in pvae.fit(single, x, epochs=1, progress=False).columns


def test_free_bits_by_level():
    vae, x = two_levels()

    def loss(floors):
        torch.manual_seed(0)
        return pvae.FreeBitsELBO(floors).differentiable_loss(vae.model, vae.guide, x)

    torch.testing.assert_close(loss({"z1": 5.0, "z2": 5.0}), loss(5.0))
    torch.testing.assert_close(loss({"z2": 0.0}), loss(0.0))
    torch.testing.assert_close(loss({"z1": 5.0}) + loss({"z2": 5.0}), loss(5.0) + loss(0.0))
    elbo = float(pvae.elbo(vae, x, num_samples=4000, seed=0).elbo.sum())
    several = pvae.FreeBitsELBO(0.0, num_particles=4000, vectorize_particles=True, max_plate_nesting=1)
    assert abs(float(several.differentiable_loss(vae.model, vae.guide, x).detach()) + elbo) < 1.0
    with pytest.raises(NotImplementedError, match="the guide draws 'z1' before latents on which its prior depends"):
        pvae.elbo(vae, x, exact_kl=True)
    with pytest.raises(ValueError, match="free_nats names 'z3', which is no latent"):
        loss({"z3": 1.0})
    with pytest.raises(ValueError, match="free_nats must be finite and at least 0, got -1"):
        pvae.FreeBitsELBO({"z1": -1.0})


def test_counterfactual_draws_keep_the_latents_and_change_the_covariates():
    """x = z + 2 c + noise, the posterior of z given x and c."""
    kind = behavior_programs.make()["covariates"]

    class Shifted(nn.Module):
        covariate_names = ("c",)

        def __init__(self, of):
            super().__init__()
            self.of, self.weight = of, nn.Parameter(torch.zeros(()).double())

        def forward(self, value, covariates=None):
            c = covariates["c"][:, None]
            return kind.program.likelihood(value, c) if self.of == "x" else kind.program.posterior(value - c)

    vae = pvae.VAE(pvae.standard_normal(2), Shifted("x"), Shifted("z")).double()
    c = kind.covariates["c"]
    torch.manual_seed(0)
    found = vae.counterfactual(kind.data, {"c": c}, {"c": c + 3}, num_samples=2000)
    expected = kind.means["z"] @ kind.program.weight.T + (c + 3)[:, None]
    assert found.shape == (2000, *kind.data.shape)
    assert ((found.mean(0) - expected).abs() < 5 * found.std(0) / 2000**0.5).all()
    assert (found.std(0) > 1).all()  # draws, not means


def test_the_information_of_the_latents_about_a_covariate_is_that_of_the_closed_form():
    generator = torch.Generator().manual_seed(0)
    c = torch.randint(2, (2000,), generator=generator)
    number = torch.randn(2000, generator=generator)
    noise = torch.randn(2000, 3, generator=generator)
    grid = torch.linspace(-8, 8, 4001).double()
    one, two = (dist.Normal(mean, 1.0).log_prob(grid) for mean in (-1.0, 1.0))
    both = torch.logaddexp(one, two) - torch.tensor(2.0).log()
    exact = float((one.exp() * (one - both)).sum() * 16 / 4000)
    z = {"z1": noise[:, :2] + torch.stack([2.0 * c - 1, 0 * number], 1), "z2": noise[:, 2] + number}
    other = {"level": torch.randint(3, (2000,), generator=generator), "constant": torch.zeros(2000, 2, 2)}
    found = pvae.checks.covariate_information(z, {"c": c, "number": number, **other})
    assert found.covariate.values.tolist() == ["c", "number", "level"]
    information, error = found.information.values, found.mcse.values
    assert abs(information[0] - exact) < 4 * error[0]
    assert 0.8 * 0.5 * math.log(2) < information[1] < 0.5 * math.log(2) + 3 * error[1]  # ten groups lose some of it
    assert abs(information[2]) < 0.005
    tones = [finding.tone for finding in pvae.checks.covariates.judge(found)]
    assert tones == ["open", "open", "good"]
    image = c[:, None, None] * torch.eye(2) + 0.1 * torch.randn(2000, 2, 2, generator=generator)
    seen = pvae.checks.covariate_information(z, {"image": image, "one-hot": torch.nn.functional.one_hot(c)})
    assert (abs(seen.information - exact) < 4 * seen.mcse).sel(covariate="one-hot")
    assert 0.8 * exact < seen.information.sel(covariate="image") < exact + 4 * seen.mcse.sel(covariate="image")
    nothing = pvae.checks.covariate_information(noise, {"image": image})
    assert abs(float(nothing.information[0])) < 0.005
    with pytest.raises(ValueError, match="expected a covariate that varies in groups of ten rows or more, got none"):
        pvae.checks.covariate_information(z, {"constant": other["constant"]})
    with pytest.raises(ValueError, match=r"covariates\['c'\] has 5 rows, expected 2000"):
        pvae.checks.covariate_information(z, {"c": c[:5]})
    kind = behavior_programs.make()["covariates"]
    many = {"x": kind.data.repeat(20, 1), "c": kind.covariates["c"].repeat(20)}
    report = pvae.diagnose(kind.program, many["x"], {"c": many["c"]}, checks=["covariates"], seed=0, progress=False)
    assert str(report.findings()[0]).startswith("The latents ")
    assert "MI(z; c), at least" in str(report)


def test_an_autoencoder_is_a_point_posterior_at_beta_zero_and_has_no_evidence():
    torch.manual_seed(0)
    x = torch.randn(60, 1) * torch.tensor([[1.0, -1.0, 0.5]]) + 0.1 * torch.randn(60, 3)
    posterior = pvae.conditionals.Point(pvae.MLP(3, ()), 1)
    likelihood = pvae.Factorized(dist.Normal, pvae.MLP(1, ()), 3, scale=1.0)
    vae = pvae.VAE(pvae.standard_normal(1), likelihood, posterior)
    with pytest.warns(UserWarning, match="the history's ELBO columns stay empty: the guide is a point estimate"):
        pvae.fit(vae, x, epochs=150, batch_size=60, learning_rate=0.05, beta=0.0, seed=0, progress=False)
    assert (vae.reconstruct(x) - x).square().mean() < 0.02
    for refused in (pvae.elbo, lambda vae, x: pvae.compare({"autoencoder": vae, "known": torch.zeros(60)}, x)):
        with pytest.raises(ValueError, match=r"point estimate \(Delta\) at \['z'\]: it has no density"):
            refused(vae, x)


def test_an_exemplar_prior_leaves_each_row_out_in_training_and_sums_over_all_afterwards():
    torch.manual_seed(0)
    rows = torch.randn(8, 3).double()
    posterior = pvae.Factorized(dist.Normal, pvae.MLP(3, (4,)), 2)
    prior = pvae.conditionals.ExemplarPrior(posterior, rows, num_neighbors=7).double()
    prior.exemplars = rows
    z, index, means = torch.randn(5, 3, 2).double(), torch.tensor([6, 0, 3]), posterior(rows).mean
    kernels = dist.Normal(means, prior.log_scale.exp()).to_event(1).log_prob(z.unsqueeze(-2))
    own = torch.nn.functional.one_hot(index, 8).bool()
    expected = kernels.masked_fill(own, -torch.inf).logsumexp(-1) - torch.tensor(7.0).double().log()
    torch.testing.assert_close(prior(covariates={"index": index}).log_prob(z), expected, **EXACT)
    few = pvae.conditionals.ExemplarPrior(posterior, rows, num_neighbors=2).double()
    few.exemplars = rows
    assert (few(covariates={"index": index}).log_prob(z) <= expected + 1e-9).all()
    every = kernels.logsumexp(-1) - torch.tensor(8.0).double().log()
    torch.testing.assert_close(prior.eval()(covariates={"index": index}).log_prob(z), every, **EXACT)
    with torch.no_grad():
        posterior.net.head.bias.add_(0.3)
    moved = dist.Normal(posterior(rows).mean, prior.log_scale.exp()).to_event(1).log_prob(z.unsqueeze(-2))
    torch.testing.assert_close(prior().log_prob(z), moved.logsumexp(-1) - torch.tensor(8.0).double().log(), **EXACT)


def test_an_exemplar_prior_trains_by_the_numbers_of_the_rows():
    torch.manual_seed(0)
    x = torch.cat([torch.randn(40, 3) - 4, torch.randn(40, 3) + 4])
    posterior = pvae.Factorized(dist.Normal, pvae.MLP(3, (8,)), 2)
    prior = pvae.conditionals.ExemplarPrior(posterior, x, num_neighbors=5)
    vae = pvae.VAE(prior, pvae.Factorized(dist.Normal, pvae.MLP(2, (8,)), 3), posterior)
    before = float(pvae.elbo(vae, x, seed=0).elbo.mean())
    options = {"learning_rate": 0.02, "start_at_data": False}
    history = pvae.fit(vae, x, epochs=20, batch_size=20, **options, seed=0, progress=False)
    assert float(pvae.elbo(vae, x, seed=0).elbo.mean()) > before + 2
    assert history["loss"][-1] < history["loss"][0] - 2
    assert vae.sample(7).shape == (7, 3)
    with pytest.raises(ValueError, match="the prior has 80 exemplars and the training 72 rows"):
        pvae.fit(vae, x, validation=0.1, epochs=1, progress=False)
    with pytest.raises(ValueError, match="two or more complete rows"):
        pvae.conditionals.ExemplarPrior(posterior, torch.full((4, 3), torch.nan))


def test_a_weight_counts_a_row_so_often_in_training_and_not_in_evaluation():
    torch.manual_seed(0)
    vae = pvae.VAE(
        pvae.standard_normal(2),
        pvae.Factorized(dist.Normal, pvae.MLP(2, (4,)), 3),
        pvae.Factorized(dist.Normal, pvae.MLP(3, (4,)), 2),
    )
    x, weight = torch.randn(4, 3), torch.tensor([2.0, 0.5, 1.0, 0.5])
    trace = pyro.poutine.trace(vae.model).get_trace(x, covariates={"weight": weight})
    latent, data = (trace.nodes[name]["fn"].log_prob(trace.nodes[name]["value"]) for name in ("z", "x"))
    assert torch.allclose(trace.log_prob_sum(), (weight * (latent + data)).sum(), atol=1e-4)
    plain = pvae.elbo(vae, x, num_samples=3, seed=0, progress=False)
    weighed = pvae.elbo(vae, x, {"weight": weight}, num_samples=3, seed=0, progress=False)
    assert plain["elbo"].equals(weighed["elbo"])
    pvae.fit(vae, x, {"weight": weight}, epochs=1, seed=0, progress=False)


def test_sequential_monte_carlo_is_importance_sampling_without_resampling():
    kind = behavior_graphs.state_space("state_space")
    smc = pvae.evaluation.SMC(num_particles=3, threshold=0.0)
    found = pvae.log_marginal(kind.program, kind.data, method=smc, num_samples=4, seed=0, progress=False)
    torch.testing.assert_close(torch.as_tensor(found.log_marginal.values), kind.log_evidence, **EXACT)


class Blind(nn.Module):
    """The transition itself, whatever the sequence: the proposal of the bootstrap filter."""

    def __init__(self):
        super().__init__()
        self.like = nn.Parameter(torch.zeros(()).double())

    def forward(self, x, start, transition, covariates=None):
        return MarkovPath(lambda z, times: transition(z, times), start, x.shape[1], x.shape[:1])


def test_sequential_monte_carlo_meets_the_kalman_filter_and_beats_importance_sampling():
    """Twelve steps of the kind's dynamics, proposed blindly: weights of whole paths spread, those of steps do not."""
    kind = behavior_graphs.state_space("state_space")
    blind = StateSpaceVAE(kind.program.dynamics, kind.program.emission, Blind(), num_steps=12).double()
    torch.manual_seed(3)
    x = blind.sample(5)
    x[0, 9:] = torch.nan
    exact = behavior_graphs.state_space("state_space", steps=12).program
    expected = pvae.log_marginal(
        exact, x, method="importance", num_samples=1, seed=0, progress=False
    ).log_marginal.values
    smc = pvae.evaluation.SMC(num_particles=50)
    found = pvae.log_marginal(blind, x, method=smc, num_samples=100, seed=1, progress=False)
    assert (abs(found.log_marginal.values - expected) < 4 * found.mcse.values).all()
    plain = pvae.log_marginal(blind, x, method="importance", num_samples=5000, seed=1, progress=False)
    assert (found.mcse.values < plain.mcse.values).all()
    with pytest.raises(ValueError, match="a graph with a path of states"):
        pvae.log_marginal(stacked()[0], x[:, 0, :1].expand(5, 4), method=smc, num_samples=2)


def with_c(of, shape, family=dist.Normal, also=(), **options):
    """A conditional of a value and the covariate c, and of the label where it is named."""
    entries = {"c": pvae.Embed(3, 2)} | ({"label": pvae.Embed(2, 2)} if also else {})
    net = pvae.ConcatCovariates(pvae.MLP(of + 2 * len(entries), (4,)), of, covariates=entries)
    if family is dist.Categorical:
        return pvae.Categories(net, shape, **options)
    return pvae.Factorized(family, net, shape, **options)


def regression(x, covariates=None, size=None):
    level = pyro.sample("level", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", size or len(x), subsample=torch.arange(len(x))):
        own = (level * torch.nn.functional.one_hot(covariates["c"], 3)).sum(-1)
        z = pyro.sample("z", dist.LogNormal(own, 1.0))
        pyro.sample("x", dist.Normal(z.log().unsqueeze(-1), 1.0).expand([*z.shape, 4]).to_event(1), obs=x)


def graphs_with_covariates():
    torch.manual_seed(0)
    x, y = torch.randn(12, 4), (torch.arange(12) % 2).float()
    x[::5, 0], y[::3] = torch.nan, torch.nan
    z, likelihood, posterior = pvae.standard_normal(2), with_c(2, 4), with_c(4, 2)
    labelled = {"also": ("label",)}
    missing = torch.where(torch.arange(12)[:, None] % 4 == 0, torch.nan, torch.randn(12, 3))
    vae = pvae.VAE(z, likelihood, posterior)
    steps, gap = torch.randn(12, 5, 4), torch.rand(12, 5, 1) + 0.5
    steps[1, 3:] = torch.nan
    move = pvae.ConcatCovariates(pvae.MLP(3, (4,)), 2, covariates={"gap": 1})
    path = pvae.conditionals.Dynamics(pvae.Factorized(dist.Normal, move, 2), 2)
    combine = pvae.Factorized(dist.Normal, pvae.MLP(8, (4,)), 2)
    smoother = pvae.conditionals.Smoother(pvae.GRU((5, 5), 6, (5, 6)), combine)
    emission = pvae.Factorized(dist.Normal, pvae.MLP(2, (4,)), 4)
    experts = pvae.Experts({"a": posterior, "b": with_c(3, 2)}, z)
    c = {"c": torch.arange(12) % 3}
    classifier = with_c(4, (), dist.Categorical, num_categories=2)
    label = pvae.Categories(event_shape=(), num_categories=2)
    semi = SemiSupervisedVAE(label, z, with_c(2, 4, **labelled), classifier, with_c(4, 2, **labelled))
    return {
        "hierarchical": (HierarchicalVAE([with_c(2, 2), z], likelihood, [posterior, with_c(2, 2)]), x, c),
        "semi-supervised": (semi, {"x": x, "y": y}, c),
        "multimodal": (MultimodalVAE(z, {"a": likelihood, "b": with_c(2, 3)}, experts), {"a": x, "b": missing}, c),
        "state space": (StateSpaceVAE(path, emission, smoother, num_steps=5), steps, {"gap": gap}),
        "missingness": (MissingnessModel(vae, pvae.conditionals.SelfMasking(4)), x, c),
        "amortized": (AmortizedGuide(regression, pvae.MLP(4, (4,))), x.nan_to_num(), c),
    }


@pytest.mark.parametrize("name", graphs_with_covariates())
def test_covariates_and_missing_entries_go_through_every_graph(name):
    graph, data, covariates = graphs_with_covariates()[name]
    history = pvae.fit(graph, data, covariates, epochs=2, batch_size=5, seed=0, progress=False)
    assert history.ended == "finished"
    found = pvae.log_marginal(graph, data, covariates, method="importance", num_samples=20, seed=0, progress=False)
    assert bool(found.log_marginal.notnull().all())
    bound = pvae.elbo(graph, data, covariates, num_samples=200, seed=0)
    other = {n: v.flip(0) for n, v in covariates.items()}
    changed = pvae.elbo(graph, data, other, num_samples=200, seed=0)
    assert not bool((abs(bound.elbo - changed.elbo) < 1e-9).all())
    exported = pvae.from_pyro_svi(graph, data, covariates, num_samples=5, seed=0, progress=False)
    assert "posterior" in exported
    options = {"method": "importance", "num_samples": 20, "seed": 0}
    table = pvae.compare({"graph": graph, "known": found.log_marginal.values - 1}, data, covariates, **options)
    assert len(table.frame) == 2
    if name == "amortized":
        return
    draws = pvae.impute(graph, data, covariates, num_samples=4, num_proposals=20, seed=0, progress=False).draws
    drawn = draws if isinstance(draws, dict) else {"x": draws}
    assert all(bool(values.isfinite().all()) for values in drawn.values())
    assert pvae.sbc(graph, data, covariates, num_simulations=10, num_samples=9, seed=0, progress=False).p_value > 0
    graph.encode(data, covariates)
    graph.counterfactual(data, covariates, other, num_samples=2)


@pytest.mark.parametrize("name", ["multimodal", "state space"])
def test_missing_modalities_and_ragged_sequences_are_replayed_as_they_are_run(name):
    losses = []
    for level in (False, "trace"):
        program, data, covariates = graphs_with_covariates()[name]
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a program that cannot be traced warns
            history = pvae.fit(program, data, covariates, epochs=2, batch_size=4, seed=0, progress=False, compile=level)
        losses.append(torch.tensor(history["loss"]))
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)


def small_sentence(make_net, word_dropout=0.0):
    torch.manual_seed(0)
    vocabulary = pvae.data.Vocabulary(("", "a", "b"))
    read = pvae.Chain(pvae.networks.EmbedSteps(3, 4, 3), pvae.GRU((4, 3), 5))
    likelihood = pvae.conditionals.Tokens(make_net(), 3, latent_dim=2, word_dropout=word_dropout)
    return SentenceVAE(
        pvae.standard_normal(2), likelihood, pvae.Factorized(dist.Normal, read, 2, scale=1.2), vocabulary
    ).double()


def every_sequence(steps):
    """All sequences of tokens 0, 1, 2 that end with their first 0."""
    codes = torch.cartesian_prod(*[torch.arange(3.0)] * steps).double()
    ended = (codes == 0).cumsum(1)[:, :-1] > 0
    return codes[~(ended & (codes[:, 1:] != 0)).any(1)]


DECODERS = {
    "recurrent": lambda: pvae.GRU((4, 5), 6, per_step=True),
    "attention": lambda: pvae.Transformer((4, 5), 8, layers=1, heads=2, per_step=True, causal=True),
}


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_masses_of_all_sequences_sum_to_one_at_each_latent_and_in_evidence(decoder):
    vae = small_sentence(DECODERS[decoder])
    x, z = every_sequence(4), torch.tensor([[0.3, -1.2], [2.0, 0.5]]).double().unsqueeze(1)
    assert len(x) == 1 + 2 + 4 + 8 + 16
    torch.testing.assert_close(vae.likelihood(z).log_prob(x).logsumexp(-1), torch.zeros(2).double(), **EXACT)
    grid = torch.cartesian_prod(*[torch.linspace(-7, 7, 71).double()] * 2)
    weight = vae.prior().log_prob(grid) + 2 * torch.tensor(0.2).double().log()
    exact = (weight.unsqueeze(1) + vae.likelihood(grid.unsqueeze(1)).log_prob(x)).logsumexp(0)
    found = pvae.log_marginal(vae, x, method="importance", num_samples=20_000, seed=0, progress=False)
    assert (abs(found.log_marginal.values - exact.detach().numpy()) < 5 * found.mcse.values).all()


def test_a_tail_that_is_missing_sums_over_all_ways_to_go_on():
    vae, x = small_sentence(DECODERS["recurrent"]), every_sequence(4)
    z = torch.tensor([0.3, -1.2]).double()
    cut = torch.tensor([1.0, 2.0, torch.nan, torch.nan]).double()
    seen = vae.likelihood(z).mask_entries(~cut.isnan()).log_prob(cut.nan_to_num())
    begun = (x[:, :2] == cut[:2]).all(1)
    torch.testing.assert_close(seen, vae.likelihood(z).log_prob(x[begun]).logsumexp(0), **EXACT)
    assert vae.likelihood(z).log_prob(torch.tensor([0.0, 1.0, 0.0, 0.0]).double()) == -torch.inf
    with pytest.raises(ValueError, match="only the last tokens of a sequence may be missing"):
        pvae.elbo(vae, cut.flip(0)[None])


def test_sentences_are_drawn_read_and_joined_by_a_line():
    vae = small_sentence(DECODERS["recurrent"])
    torch.manual_seed(0)
    x, draws = every_sequence(4), vae.likelihood(torch.zeros(2).double()).sample((20_000,))
    share = (draws.unsqueeze(1) == x).all(-1).double().mean(0)
    expected = vae.likelihood(torch.zeros(2).double()).log_prob(x).exp()
    assert share.sum() == pytest.approx(1)
    assert ((share - expected).abs() < 5 * (expected / 20_000).sqrt()).all()
    greedy = vae.likelihood(torch.zeros(3, 2).double()).greedy()
    assert (vae.likelihood(torch.zeros(2).double()).log_prob(greedy) > expected.log().mean()).all()
    noise = -(-torch.rand(20_000, 4, 3).double().log()).log()  # Gumbel's: each sequence is a draw
    share = (vae.likelihood(torch.zeros(20_000, 2).double()).greedy(noise).unsqueeze(1) == x).all(-1).double().mean(0)
    assert ((share - expected).abs() < 5 * (expected / 20_000).sqrt()).all()
    assert len({*vae.interpolate("ab", "ab", 5, draw=True)}) == 1  # one noise for all points
    assert len({vae.interpolate("ab", "ab", 1, draw=True)[0] for _ in range(20)}) > 1
    assert len(vae.generate(4)) == 4
    between = vae.interpolate("ab", "bba", 3)
    z = vae.encode(vae.vocabulary.encode(["ab", "bba"], 4)).mean(0, keepdim=True)
    assert between[1] == vae.vocabulary.decode(vae.likelihood(z).greedy())[0]
    with pytest.raises(
        NotImplementedError, match=r"ask for draws, encode\(..., num_samples=\) or decode\(..., draw=True\)"
    ):
        vae.decode(z)


def test_a_line_between_sentences_takes_one_row_of_covariates():
    net = pvae.ConcatCovariates(pvae.GRU((4, 7), 6, per_step=True), (4, 5), covariates={"c": pvae.Embed(2, 2)})
    vae = small_sentence(lambda: net)
    z = vae.encode(vae.vocabulary.encode(["ab", "bba"], 4))
    ends = vae.likelihood(z, covariates={"c": torch.tensor([1, 1])}).greedy()
    between = vae.interpolate("ab", "bba", 3, {"c": [1]})
    assert between[::2] == vae.vocabulary.decode(ends)


def test_word_dropout_hides_tokens_in_training_only():
    z, x = torch.zeros(2).double(), torch.tensor([1.0, 2.0, 1.0, 0.0]).double()
    plain, hiding = (small_sentence(DECODERS["recurrent"], share) for share in (0.0, 1.0))
    torch.testing.assert_close(hiding.eval().likelihood(z).log_prob(x), plain.likelihood(z).log_prob(x), **EXACT)
    first = hiding.train().likelihood(z).logits(x)
    torch.testing.assert_close(first, hiding.likelihood(z).logits(x.flip(0)), **EXACT)  # no token is seen
    assert (first - plain.likelihood(z).logits(x)).abs().max() > 1e-3


@pytest.mark.parametrize(
    "net",
    [
        pvae.GRU((4, 5), 6, per_step=True, bidirectional=True),
        pvae.Transformer((4, 5), 8, layers=1, heads=2, per_step=True),
    ],
)
def test_a_decoder_that_looks_ahead_is_refused(net):
    with pytest.raises(ValueError, match="looks ahead: a token would be given to its own distribution"):
        small_sentence(lambda: net)


def test_tokens_refuse_sizes_and_shares():
    net = pvae.GRU((4, 5), 6, per_step=True)
    with pytest.raises(ValueError, match="room for a latent of length 5"):
        pvae.conditionals.Tokens(net, 3, latent_dim=5)
    with pytest.raises(ValueError, match="word_dropout is a share of the tokens, between 0 and 1, got"):
        pvae.conditionals.Tokens(net, 3, latent_dim=2, word_dropout=1.1)


def number_labels():
    """A number y that x does not tell: q(y | x) is N(0, 1)."""
    joined = pvae.ConcatCovariates(pvae.MLP(2, (4,)), 1, covariates={"label": 1})
    normal = pvae.Factorized(dist.Normal, joined, 1)
    return SemiSupervisedVAE(pvae.standard_normal(1), pvae.standard_normal(1), normal, FixedNormal(), normal)


class FixedNormal(nn.Module):
    def forward(self, x, covariates=None):
        return dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1)


def test_the_page_of_a_graph_shows_its_labels_its_sites_by_name_and_what_is_assumed():
    from pyrovae.report.pictures import graph_pictures, history_picture, view_pictures
    from pyrovae.report.views import views

    labels = behavior_graphs.semi_supervised("semi_supervised")
    data = {"x": labels.data["x"], "y": labels.data["y"]}  # the sites come in the other order
    seen = views(labels.program, pvae.data.as_data(data), 0)
    torch.testing.assert_close(seen.data["x"].rows, data["x"], equal_nan=True)
    assert {"columns-x", "columns-y"} <= set(view_pictures(seen))
    found = graph_pictures(labels.program, pvae.data.as_data(data), 0)["labels"]
    known = ~data["y"].isnan()
    right = (labels.program.classify(data).argmax(1) == data["y"])[known].double().mean()
    assert f"{float(right):.1%} of {int(known.sum())} recorded test labels" in found.caption
    assert found.draw().lines[0].get_xdata().tolist() == [0, 1]
    pictures = graph_pictures(
        number_labels(), pvae.data.as_data({"x": torch.zeros(200, 1), "y": torch.randn(200, 1)}), 0
    )
    inside = float(pictures["labels"].caption.split(" hold ")[1].split("%")[0])
    assert 80 < inside < 97
    assert pictures["labels"].draw().lines[1].get_ydata()[4] == pytest.approx(0.5, abs=0.12)
    assert not graph_pictures(
        labels.program, pvae.data.as_data({**data, "y": torch.full_like(data["y"], torch.nan)}), 0
    )
    hidden = behavior_graphs.missingness("missingness")
    assert list(views(hidden.program, pvae.data.as_data(hidden.data), 0).data) == ["x"]  # and not its mask
    tipping = graph_pictures(hidden.program, pvae.data.as_data(hidden.data), 0)["tipping"]
    assert "the mechanism (SelfMasking, its sign open) is an assumption" in tipping.caption
    assert len(tipping.draw().lines) == 4  # three columns and the line at zero
    heads, lines = tipping.table
    assert heads[1] == "b = -1"
    assert [len(line) for line in lines] == [len(heads)] * 3
    means = pvae.impute(hidden.program, hidden.data, num_samples=500, num_proposals=2000, seed=0, progress=False)
    assumed = [float(line[heads.index("as assumed")]) for line in lines]
    assert assumed == pytest.approx(means.draws.mean(0).mean(0).tolist(), rel=0.02, abs=0.005)
    history = {"epoch": [1, 2], "elbo": [-3.0, -2.0], "kl/z1": [0.1, 0.25], "kl/z2": [None, 1.0]}
    assert "KL of each latent at the end: z1 0.25, z2 1.00 nats" in history_picture(history).caption
    assert not graph_pictures(behavior_graphs.hierarchy("hierarchy").program, pvae.data.as_data(data), 0)
    plt.close("all")


def test_the_means_of_exemplars_follow_weights_that_a_fused_optimizer_moves():
    x = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))

    def columns(level):
        torch.manual_seed(0)
        posterior = pvae.Factorized(dist.Normal, pvae.MLP(3, (4,)), 2)
        prior = pvae.conditionals.ExemplarPrior(posterior, x)
        vae = pvae.VAE(prior, pvae.Factorized(dist.Normal, pvae.MLP(2, (4,)), 3), posterior)
        options = {"epochs": 8, "batch_size": 24, "seed": 0, "compile": level, "progress": False}
        return pvae.fit(vae, x, validation=x + 0.5, **options)

    found = columns("trace")
    assert found.engine == "traced"  # the program, which forgets the means at each step, is not run
    assert found["validation_elbo"] == columns(False)["validation_elbo"]
