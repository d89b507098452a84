"""Distributions that are joint over their entries: divergences in closed form, marginals over observed entries, priors."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from catalogue import CASES
from torch.distributions import kl_divergence

import pyrovae as pvae
from pyrovae import conditionals
from pyrovae import distributions as parts

DOUBLE = torch.float64


def case(name):
    return next(c for c in CASES if c.name == name)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def factor(*batch, d=3, seed=0):
    raw = randn(*batch, d, d, seed=seed)
    return raw.tril(-1) + torch.diag_embed(0.5 + raw.diagonal(dim1=-2, dim2=-1).abs())


def full(seed=0, d=3):
    return parts.CholeskyNormal(randn(2, d, seed=seed), factor(2, d=d, seed=seed + 1))


def low_rank(seed=0, d=3):
    return parts.LowRankNormal(
        randn(2, d, seed=seed), randn(2, d, 2, seed=seed + 1), randn(2, d, seed=seed + 2).abs() + 0.3
    )


def diagonal(seed=0, d=3):
    return dist.Normal(randn(2, d, seed=seed), randn(2, d, seed=seed + 1).abs() + 0.5).to_event(1)


def logistic_normal(seed=0):
    return parts.AdditiveLogisticNormal(randn(2, 2, seed=seed), randn(2, 2, seed=seed + 1).abs() + 0.3)


def power(seed=0):
    return parts.PowerSpherical(
        torch.nn.functional.normalize(randn(2, 3, seed=seed), dim=-1), torch.tensor([0.5, 40.0], dtype=DOUBLE)
    )


KL_PAIRS = {
    "full, full": (full(0), full(5)),
    "full, diagonal": (full(0), diagonal(5)),
    "diagonal, full": (diagonal(0), full(5)),
    "low rank, diagonal": (low_rank(0), diagonal(5)),
    "low rank, low rank": (low_rank(0), low_rank(5)),
    "logistic-normal": (logistic_normal(0), logistic_normal(5)),
    "dirichlet": (
        parts.InteriorDirichlet(torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.7, 4.0]], dtype=DOUBLE)),
        parts.InteriorDirichlet(torch.tensor([1.0, 1.0, 2.0], dtype=DOUBLE)).expand((2,)),
    ),
    "power spherical, uniform": (power(), parts.UniformSphere(torch.zeros(2, 3, dtype=DOUBLE))),
    "one-hot": (
        dist.OneHotCategorical(logits=randn(2, 3)),
        dist.OneHotCategorical(logits=randn(2, 3, seed=1)),
    ),
}


@pytest.mark.parametrize("pair", KL_PAIRS)
def test_closed_form_divergences_against_monte_carlo(pair):
    """|z| < 5 for two divergences each: 2e-5 in all."""
    q, p = KL_PAIRS[pair]
    torch.manual_seed(0)
    draws = q.sample((60_000,))
    terms = q.log_prob(draws) - p.log_prob(draws)
    found = kl_divergence(q, p)
    assert found.shape == (2,)
    z = (terms.mean(0) - found) / (terms.std(0) / 60_000**0.5)
    assert (z.abs() < 5).all()


@pytest.mark.parametrize("d", [full(), low_rank(), power()], ids=["full", "low rank", "power"])
def test_entropies_against_monte_carlo(d):
    torch.manual_seed(0)
    terms = -d.log_prob(d.sample((60_000,)))
    assert ((terms.mean(0) - d.entropy()).abs() < 5 * terms.std(0) / 60_000**0.5).all()


def test_divergence_of_an_unrelated_pair_is_refused():
    with pytest.raises(NotImplementedError):
        kl_divergence(full(), dist.Laplace(torch.zeros(2, 3), 1.0).to_event(1))


@pytest.mark.parametrize("d", [full(), low_rank()], ids=["full", "low rank"])
def test_normal_marginals_are_the_normal_of_the_observed_block(d):
    value = randn(2, 3, seed=9)
    for pattern in itertools.product([True, False], repeat=3):
        mask = torch.tensor([pattern, pattern[::-1]])
        found = d.mask_entries(mask).log_prob(torch.where(mask, value, 77.0))
        for row in range(2):
            kept = mask[row]
            block = d.covariance_matrix[row][kept][:, kept]
            wanted = (
                torch.distributions.MultivariateNormal(d.mean[row][kept], block).log_prob(value[row][kept])
                if kept.any()
                else torch.zeros((), dtype=DOUBLE)
            )
            assert abs(found[row] - wanted) < 1e-10


@pytest.mark.parametrize(
    "name", ["Multinomials", "LogisticMixture coupled", "LogisticMixture uncoupled", "GaussianMixture"]
)
def test_marginals_are_sums_over_the_missing_entries(name):
    tested = case(name)
    points, log_weights = tested.grid()
    distribution = tested.distribution(tested.module(), 1)
    joint = distribution.log_prob(points.unsqueeze(1))[:, 0] + log_weights
    size = points[0].numel()
    flat = points.reshape(len(points), size)
    for pattern in itertools.product([True, False], repeat=size):
        mask = torch.tensor(pattern)
        if name == "LogisticMixture coupled" and any(b and not a for a, b in itertools.pairwise(pattern)):
            with pytest.raises(ValueError, match="coupled=False"):
                distribution.mask_entries(mask.reshape(1, *points.shape[1:]))
            continue
        marginal = distribution.mask_entries(mask.reshape(1, *points.shape[1:]))
        likely = joint.argmax() if name != "GaussianMixture" else len(points) // 3
        point = flat[likely]
        same = (flat[:, mask] == point[mask]).all(-1)
        step = log_weights[0] / size * mask.sum()  # of the observed entries, which are not summed
        wanted = joint[same].logsumexp(0) - step
        filled = torch.where(mask, point, flat[0]).reshape(points.shape[1:])
        assert abs(marginal.log_prob(filled)[0] - wanted) < 1e-6


def test_multinomial_of_another_total_has_mass_zero():
    d = parts.TotalMultinomial(torch.zeros(2), torch.tensor(3.0))
    assert d.log_prob(torch.tensor([2.0, 2.0])) == -torch.inf
    assert d.log_prob(torch.tensor([1.0, 1.0])) == -torch.inf
    assert d.mask_entries(torch.tensor([True, False])).log_prob(torch.tensor([2.0, 0.0])).isfinite()


def test_expanded_full_normal_keeps_its_factor_and_its_draws_covariance():
    d = parts.CholeskyNormal(randn(3), factor()).expand((50_000,))
    torch.manual_seed(0)
    draws = d.rsample()
    assert d.scale_tril.shape == (3, 3)
    assert torch.allclose(draws.T.cov(), d.covariance_matrix[0], atol=0.06)
    assert d.log_prob(draws).shape == (50_000,)


def test_vamp_prior_is_the_mean_of_posteriors_and_shares_the_weights():
    posterior = pvae.Factorized(dist.Normal, pvae.MLP(3, (8,)), event_shape=2)
    inputs = torch.randn(5, 3)
    prior = conditionals.VampPrior(posterior, inputs)
    z = torch.randn(7, 2)
    wanted = torch.stack([posterior(u).log_prob(z) for u in inputs]).logsumexp(0) - torch.log(torch.tensor(5.0))
    assert torch.allclose(prior().log_prob(z), wanted, atol=1e-5)
    prior().log_prob(z).sum().backward()
    assert all(p.grad is not None for p in posterior.parameters())
    likelihood = pvae.Factorized(dist.Normal, pvae.MLP(2, (8,)), event_shape=3)
    vae = pvae.VAE(prior, likelihood, posterior)
    assert prior.posterior is vae.posterior
    vae.posterior = pvae.Factorized(dist.Normal, pvae.MLP(3, (8,)), event_shape=2)
    with pytest.raises(ValueError, match="stale copy"):
        vae.model(torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("inputs", "bounds", "message"),
    [
        (torch.full((2, 3), float("nan")), (0, 1), "without missing"),
        (torch.full((2, 3), 2.0), (0, 1), "outside bounds"),
        (torch.zeros(3), (0, 1), "finite rows"),
    ],
)
def test_vamp_prior_refuses_bad_pseudo_inputs(inputs, bounds, message):
    posterior = pvae.Factorized(dist.Normal, pvae.MLP(3, (8,)), event_shape=2)
    with pytest.raises(ValueError, match=message):
        conditionals.VampPrior(posterior, inputs, bounds=bounds)


def test_vamp_prior_keeps_counts_in_bounds_and_refuses_covariates():
    posterior = pvae.Factorized(dist.Normal, pvae.MLP(3, (8,)), event_shape=2, preprocess=torch.log1p)
    prior = conditionals.VampPrior(posterior, torch.zeros(4, 3), bounds=(0, float("inf")))
    with torch.no_grad():
        prior.pseudo_inputs.fill_(-5.0)
    assert prior().log_prob(torch.zeros(2)).isfinite()
    net = pvae.ConcatCovariates(pvae.MLP(4, (8,)), 3, covariates={"size": 1})
    with pytest.raises(ValueError, match="size"):
        conditionals.VampPrior(pvae.Factorized(dist.Normal, net, event_shape=2), torch.zeros(4, 3))


@pytest.mark.parametrize("kind", [conditionals.AffineFlow, conditionals.SplineFlow])
@pytest.mark.parametrize("inverse", [True, False])
def test_flow_remembers_its_latest_draw_and_inverts_the_others(kind, inverse):
    torch.manual_seed(0)
    flow = kind(pvae.MLP(3, (8,)), event_shape=4, inverse=inverse).double()
    distribution = flow(randn(6, 3))
    draw = distribution.rsample((5,))
    remembered = distribution.log_prob(draw)
    inverted = distribution.log_prob(draw.clone())
    assert torch.allclose(remembered, inverted, atol=1e-8)
    parameters = list(flow.parameters())
    remembered_gradients = torch.autograd.grad(remembered.sum(), parameters, retain_graph=True)
    inverted_gradients = torch.autograd.grad(inverted.sum(), parameters)
    for a, b in zip(remembered_gradients, inverted_gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


ZUKO = """
import torch, pyro, pickle, sys
import pyrovae as pvae
from pyrovae import conditionals
from pyrovae import distributions as parts
D = torch.distributions.Distribution
before = (D._validate_args, D.__dict__["arg_constraints"], torch.distributions.transforms._InverseTransform.__name__)
assert "zuko" not in sys.modules
if sys.argv[1] == "build":
    flow = conditionals.SplineFlow(event_shape=2)
    pickle.dump(flow, open(sys.argv[2], "wb"))
else:
    flow = pickle.load(open(sys.argv[2], "rb"))
assert "zuko" in sys.modules
after = (D._validate_args, D.__dict__["arg_constraints"], torch.distributions.transforms._InverseTransform.__name__)
assert before[0] == after[0] == True
assert before[1] is after[1] and before[2] == after[2]
flow().log_prob(flow().rsample((3,)))
try:
    pyro.distributions.Normal(0.0, torch.tensor(-1.0))
except ValueError:
    print("validated")
"""


def test_zuko_leaves_validation_as_it_was_when_built_and_when_unpickled(tmp_path):
    for mode in ("build", "unpickle"):
        command = [sys.executable, "-W", "ignore", "-c", ZUKO, mode, str(tmp_path / "flow.pkl")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == "validated", done.stderr


LATENTS = {
    "normal": (lambda: pvae.standard_normal(2), lambda net: conditionals.FullNormal(net, 2)),
    "low rank": (lambda: pvae.standard_normal(2), lambda net: conditionals.LowRank(net, 2, rank=1)),
    "mixture": (
        lambda: conditionals.GaussianMixture(event_shape=2, num_components=3),
        lambda net: conditionals.GaussianMixture(net, 2, num_components=2),
    ),
    "affine flow": (lambda: conditionals.AffineFlow(event_shape=2), lambda net: conditionals.AffineFlow(net, 2)),
    "spline flow": (lambda: conditionals.SplineFlow(event_shape=2), lambda net: conditionals.SplineFlow(net, 2)),
    "sphere": (lambda: conditionals.UniformDirection(2), lambda net: conditionals.Spherical(net, 2)),
    "logistic-normal": (
        lambda: conditionals.SimplexNormal(event_shape=2),
        lambda net: conditionals.SimplexNormal(net, 2),
    ),
    "dirichlet": (
        lambda: conditionals.SimplexDirichlet(event_shape=2),
        lambda net: conditionals.SimplexDirichlet(net, 2),
    ),
    "gamma": (
        lambda: pvae.Factorized(dist.Gamma, event_shape=2, concentration=2.0, rate=1.0),
        lambda net: pvae.Factorized(dist.LogNormal, net, event_shape=2),
    ),
    "relaxed": (lambda: conditionals.RelaxedOneHot(event_shape=2), lambda net: conditionals.RelaxedOneHot(net, 2)),
    "one-hot": (lambda: conditionals.OneHot(event_shape=2), lambda net: conditionals.OneHot(net, 2)),
}
CLOSED = {"normal", "low rank", "sphere", "logistic-normal", "dirichlet"}


def vae_of(name):
    prior, posterior = LATENTS[name]
    likelihood = pvae.Factorized(dist.Normal, pvae.MLP(2, (8,)), event_shape=3)
    return pvae.VAE(prior(), likelihood, posterior(pvae.MLP(3, (8,))))


@pytest.mark.parametrize("name", LATENTS)
def test_every_latent_trains_in_a_vae_under_plain_svi(name):
    torch.manual_seed(0)
    vae = vae_of(name)
    x = torch.randn(16, 3)
    x[0, 1] = float("nan")
    losses = [
        pyro.infer.Trace_ELBO(),
        pyro.infer.Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    ]
    for loss in losses:
        before = {n: p.detach().clone() for n, p in vae.named_parameters()}
        value = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss).step(x)
        assert value == value
        assert all((p != before[n]).any() for n, p in vae.named_parameters())


@pytest.mark.parametrize("name", sorted(CLOSED))
def test_closed_form_divergence_is_used_by_trace_mean_field(name):
    """With the closed form the loss of a likelihood without z has no variance, and equals the sampled one on average."""
    torch.manual_seed(0)
    vae = vae_of(name)
    with torch.no_grad():
        for parameter in vae.likelihood.parameters():
            parameter.zero_()
    x = torch.randn(8, 3)
    exact = [pyro.infer.TraceMeanField_ELBO().loss(vae.model, vae.guide, x) for _ in range(3)]
    sampled = torch.tensor([pyro.infer.Trace_ELBO().loss(vae.model, vae.guide, x) for _ in range(400)])
    assert max(exact) - min(exact) < 1e-3
    assert abs(sampled.mean() - exact[0]) < 5 * sampled.std() / 20 + 1e-4


def test_enumerated_one_hot_latent_is_summed_exactly():
    torch.manual_seed(0)
    vae = vae_of("one-hot")
    x = torch.randn(6, 3)
    guide = pyro.infer.config_enumerate(vae.guide)
    loss = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)
    with torch.no_grad():
        found = -loss.loss(vae.model, guide, x)
        q, wanted = vae.posterior(x), 0.0
        for z in torch.eye(2):
            terms = vae.prior().log_prob(z) + vae.likelihood(z.expand(6, 2)).log_prob(x) - q.log_prob(z)
            wanted = wanted + (q.log_prob(z).exp() * terms).sum()
    assert abs(found - wanted.item()) < 1e-3


def test_straight_through_one_hot_has_gradients():
    posterior = conditionals.OneHot(pvae.MLP(3, (8,)), 4, family=dist.OneHotCategoricalStraightThrough)
    posterior(torch.randn(5, 3)).rsample()[:, 0].sum().backward()
    assert all(p.grad is not None for p in posterior.parameters())


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (
            lambda: conditionals.FullNormal(pvae.MLP(3, (8,)), (2, 2)),
            ValueError,
            "flatten the data and write event_shape=4",
        ),
        (lambda: conditionals.FullNormal(pvae.MLP(3, (8,))), ValueError, "needs event_shape="),
        (lambda: conditionals.FullNormal(torch.nn.Linear(3, 5), 2), TypeError, "BatchAxes"),
        (lambda: conditionals.FullNormal(pvae.MLP(3, (8,), 4), 2), ValueError, r"write out_shape=\(5,\)"),
        (lambda: conditionals.LowRank(pvae.MLP(3, (8,)), 2, rank=0), ValueError, "rank must be at least 1"),
        (lambda: conditionals.GaussianMixture(event_shape=2, num_components=0), ValueError, "num_components"),
        (lambda: conditionals.Spherical(event_shape=1), ValueError, "2 or more"),
        (lambda: conditionals.SimplexNormal(event_shape=1), ValueError, "2 or more"),
        (lambda: conditionals.RelaxedOneHot(event_shape=3, temperature=0.0), ValueError, "temperature"),
        (lambda: conditionals.Categories(event_shape=3, num_categories=1), ValueError, "num_categories"),
        (lambda: conditionals.LogisticMixture(event_shape=(1, 2), num_components=0), ValueError, "num_components"),
        (lambda: conditionals.Multinomials(pvae.MLP(3, (8,)), 4), TypeError, "total_count"),
        (lambda: conditionals.SplineFlow(event_shape=2, transforms=0), ValueError, "transforms"),
        (lambda: conditionals.UniformDirection((2, 2)), ValueError, "vectors"),
    ],
)
def test_bad_arguments_are_refused_with_the_remedy(build, error, message):
    with pytest.raises(error, match=message):
        build()


PRIORS = {
    "normal": lambda net: pvae.Factorized(dist.Normal, net, event_shape=2),
    "full normal": lambda net: conditionals.FullNormal(net, 2),
    "mixture": lambda net: conditionals.GaussianMixture(net, 2, num_components=3),
    "spline flow": lambda net: conditionals.SplineFlow(net, 2, inverse=False),
    "sphere": lambda net: conditionals.Spherical(net, 2),
    "simplex": lambda net: conditionals.SimplexNormal(net, 2),
    "one-hot": lambda net: conditionals.OneHot(net, 2),
}


@pytest.mark.parametrize("name", PRIORS)
def test_every_conditional_is_a_prior_given_covariates_too(name):
    torch.manual_seed(0)
    prior = PRIORS[name](pvae.ConcatCovariates(pvae.MLP(3, (8,)), None, covariates={"c": 3}))
    assert prior.covariate_names == ("c",)
    covariates = {"c": torch.randn(5, 3)}
    d = prior(covariates=covariates)
    assert d.batch_shape == (5,)
    z = d.sample()
    rows = [prior(covariates={"c": c}).log_prob(value) for c, value in zip(covariates["c"], z, strict=True)]
    assert torch.allclose(d.log_prob(z), torch.stack(rows), atol=1e-4)
    likelihood = pvae.Factorized(dist.Normal, pvae.MLP(2, (8,)), event_shape=3)
    vae = pvae.VAE(prior, likelihood, PRIORS[name](pvae.MLP(3, (8,))))
    pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO()).step(
        torch.randn(5, 3), covariates
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_the_catalogue_follows_its_module_to_the_gpu(case):
    module = case.module(torch.float32).cuda()
    names = getattr(module, "covariate_names", ())
    covariates = {n: v.float().cuda().expand(4, *v.shape) for n, v in case.covariates.items() if n in names} or None
    value = (case.value(4, dtype=torch.float32).cuda(),) if case.reads_value else ()
    d = module(*value, covariates=covariates)
    found = d.log_prob(case.points(4).float().cuda())
    assert found.is_cuda
    assert d.sample().is_cuda
    assert torch.allclose(
        found.cpu(),
        case.distribution(case.module(torch.float32), 4, dtype=torch.float32).log_prob(case.points(4).float()),
        atol=1e-3,
    )
