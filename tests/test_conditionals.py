"""The base class of the conditionals: what a subclass of one method gets from it."""

import inspect

import pyro
import pyro.distributions as dist
import pytest
import torch
from catalogue import CASES, schema
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import pyrovae as pvae
from pyrovae import conditionals
from pyrovae import distributions as parts
from pyrovae.missing import observed


class Waiting(conditionals.Conditional):
    """All that a new conditional has to write."""

    def distribution(self, raw):
        return dist.Exponential(raw.exp()).to_event(len(self.event_shape))


def public_conditionals():
    found = [getattr(conditionals, name) for name in conditionals.__all__]
    return [c for c in found if inspect.isclass(c) and issubclass(c, conditionals.Conditional)]


def test_one_method_makes_a_prior_a_likelihood_and_a_posterior():
    torch.manual_seed(0)
    vae = pvae.VAE(Waiting(event_shape=2), Waiting(pvae.MLP(2, (8,)), (3, 1)), Waiting(pvae.MLP((3, 1), (8,)), 2))
    x = torch.rand(6, 3, 1)
    x[0, 1] = float("nan")
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO()).step(x)
    assert all((p != before[name]).any() for name, p in vae.named_parameters())
    assert vae.sample(5).shape == (5, 3, 1)


def test_the_network_is_closed_with_the_shape_of_the_start():
    likelihood = conditionals.GaussianMixture(pvae.MLP(3, (8,)), 4, num_components=5)
    assert likelihood.net.out_shape == (5, 9)
    with pytest.raises(ValueError, match=r"write out_shape=\(5, 9\)"):
        conditionals.GaussianMixture(pvae.MLP(3, (8,), 9), 4, num_components=5)
    with pytest.raises(TypeError, match=r"Waiting's net= expected a pyrovae Network, got Linear: write BatchAxes"):
        Waiting(nn.Linear(3, 4), 4)
    with pytest.raises(ValueError, match="Waiting needs event_shape="):
        Waiting(pvae.MLP(3, (8,)))


def test_missing_entries_are_zero_behind_the_preprocessing():
    posterior = Waiting(pvae.MLP(3, (8,)), 2, preprocess=lambda x: x + 1)
    assert posterior.covariate_names == ("mask",)
    x, mask = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[True, False, True]])
    seen = posterior.net(torch.tensor([[2.0, 0.0, 3.0]])).exp()
    assert torch.equal(posterior(x, covariates={"mask": mask}).base_dist.rate, seen)
    assert not torch.equal(posterior(x).base_dist.rate, seen)


@pytest.mark.parametrize("kind", public_conditionals(), ids=lambda kind: kind.__name__)
def test_network_and_event_shape_come_first(kind):
    """A family comes before them, a schema holds the event's shape, and a distribution without parameters has no network."""
    names = [n for n in inspect.signature(kind.__init__).parameters if n not in ("self", "family")]
    wanted = {"TableLikelihood": ["net"], "UniformDirection": ["event_shape"]}.get(
        kind.__name__, ["net", "event_shape"]
    )
    positional = [
        n
        for n, p in inspect.signature(kind.__init__).parameters.items()
        if p.kind is p.POSITIONAL_OR_KEYWORD and n in names
    ]
    assert positional == wanted


@pytest.mark.parametrize("with_network", [True, False])
def test_every_conditional_starts_at_the_data(with_network):
    torch.manual_seed(0)
    x = torch.multinomial(torch.tensor([0.6, 0.3, 0.1]), 3000, replacement=True).float().unsqueeze(-1)
    net = pvae.MLP(2, (4,)) if with_network else None
    likelihood = conditionals.Categories(net, 1, num_categories=3)
    if with_network:
        with torch.no_grad():
            for parameter in likelihood.parameters():
                parameter.zero_()
    before = [None if p.grad is None else p.grad.clone() for p in likelihood.parameters()]
    likelihood.initialize(x)
    shares = torch.stack([(x == k).float().mean() for k in range(3)])
    found = likelihood(*([torch.zeros(2)] if with_network else [])).base_dist.probs[0]
    assert torch.allclose(found, shares, atol=0.01)
    assert [p.grad for p in likelihood.parameters()] == before


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: conditionals.UniformDirection(3), "no network and nothing to learn"),
        (lambda: pvae.standard_normal(3), "no network and nothing to learn"),
        (
            lambda: conditionals.Multinomials(pvae.MLP(2, ()), 3, total_count=pvae.FromCovariate("total")),
            "reads 'total' from the covariates",
        ),
    ],
)
def test_what_has_nothing_to_start_is_refused(build, message):
    with pytest.raises(ValueError, match=f"cannot be initialized from data: it.* {message}"):
        build().initialize(torch.ones(4, 3))


NO_KNOWN_POINT = {"VampPrior"}


@pytest.mark.parametrize("case", [c for c in CASES if c.name not in NO_KNOWN_POINT], ids=repr)
def test_no_tensor_stays_behind_on_another_device(case):
    """The device of no data refuses to meet tensors of the CPU."""
    module = case.module(torch.float32).to("meta")
    names = getattr(module, "covariate_names", ())
    covariates = {n: v.float().to("meta").expand(4, *v.shape) for n, v in case.covariates.items() if n in names} or None
    values = (case.value(4, dtype=torch.float32).to("meta"),) if case.reads_value else ()
    x = case.points(4).float().to("meta")
    with pyro.validation_enabled(False):
        d = module(*values, covariates=covariates)
        d = d if d.batch_shape else d.expand((4,))
        distribution, filled = observed(d, x)
        assert d.log_prob(x).device == distribution.log_prob(filled).device == x.device


def test_what_a_posterior_sees_of_a_table_follows_its_rows():
    x = torch.empty(5, 4, device="meta")
    assert schema().features(x, x.isnan()).device == x.device


@pytest.mark.parametrize("name", ["Spherical", "UniformDirection", "SplineFlow posterior", "FullNormal"])
def test_a_draw_and_its_density_are_traced(name):
    """Nothing between the network and the density reads a number out of a tensor."""
    case = next(c for c in CASES if c.name == name)
    module, value = case.module(), case.value(3) if case.reads_value else torch.zeros(3)

    def density(v):
        d = module(v) if case.reads_value else module()
        return d.log_prob(d.rsample((2,)))

    with pyro.validation_enabled(False), torch.no_grad():
        torch.manual_seed(0)
        wanted = density(value)
        traced = make_fx(density)(value)
        torch.manual_seed(0)
        assert torch.allclose(traced(value), wanted)


def size_model(transform=None):
    size = pvae.FromCovariate("size", transform=transform)
    likelihood = pvae.Factorized(parts.SizedNegativeBinomial, pvae.MLP(2, (8,)), event_shape=4, size_factor=size)
    posterior = pvae.Factorized(dist.Normal, pvae.MLP(4, (8,)), event_shape=2, preprocess=torch.log1p)
    return pvae.VAE(pvae.standard_normal(2), likelihood, posterior)


@pytest.mark.parametrize(
    ("transform", "value", "message"),
    [
        (None, 0.0, r"covariates\['size'\] must be positive, got 0 in 1 of 60 rows \(25\): drop these rows"),
        (None, float("nan"), r"must be positive, got nan in 1 of 60 rows \(25\)"),
        (torch.log, 1.0, r"must be positive after its transform, got 0 in 1 of 60 rows \(25\)"),
    ],
)
def test_an_impossible_covariate_is_refused_by_name_and_row(transform, value, message):
    size = torch.full((60,), 2.0)
    size_model(transform).model(torch.ones(60, 4), covariates={"size": size})
    size[25] = value
    with pytest.raises(ValueError, match=message) as refused:
        size_model(transform).model(torch.ones(60, 4), covariates={"size": size})
    assert refused.value.argument == "covariates"


def test_an_impossible_total_is_refused_by_name_and_row():
    likelihood = conditionals.Multinomials(pvae.MLP(2, ()), 3, total_count=pvae.FromCovariate("total"))
    likelihood(torch.zeros(2, 2), covariates={"total": torch.tensor([0.0, 4.0])})
    with pytest.raises(
        ValueError, match=r"covariates\['total'\] must be a whole number of at least 0, got 0.5 in 1 of 2 rows \(1\)"
    ):
        likelihood(torch.zeros(2, 2), covariates={"total": torch.tensor([1.0, 0.5])})


def test_a_given_value_outside_its_range_is_named_shortly():
    with pytest.raises(ValueError, match=r"^SizedPoisson needs size_factor= in .*, got 0 in 2 of 5000 entries$"):
        parts.SizedPoisson(torch.ones(5000), torch.ones(5000).index_fill(0, torch.tensor([3, 9]), 0.0))


@pytest.mark.parametrize("net", [None, 3], ids=["prior", "posterior"])
@pytest.mark.parametrize("kind", [conditionals.AffineFlow, conditionals.SplineFlow])
def test_a_flow_forgets_a_density_that_has_changed(kind, net):
    torch.manual_seed(0)
    flow = kind(None if net is None else pvae.MLP(net, (8,)), event_shape=2, hidden=(8,)).double()
    d = flow(*([] if net is None else [torch.randn(4, net, dtype=torch.float64)]))
    weights = list(flow.maps.parameters())

    draw = d.sample((5,))
    gradients = torch.autograd.grad(d.log_prob(draw).sum(), weights)
    wanted = torch.autograd.grad(d.log_prob(draw.clone()).sum(), weights)
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(gradients, wanted, strict=True))

    draw = d.rsample((5,))
    assert d.log_prob(draw) is d.log_prob(draw)
    with torch.no_grad():
        for weight in weights:
            weight.add_(0.05)
    assert torch.allclose(d.log_prob(draw), d.log_prob(draw.clone()), atol=1e-9)

    with torch.no_grad():
        draw = d.sample((5,))
        assert d.log_prob(draw) is d.log_prob(draw)
        draw += 0.1
        assert torch.allclose(d.log_prob(draw), d.log_prob(draw.clone()), atol=1e-9)
    with torch.inference_mode():
        draw = d.sample((5,))
        assert d.log_prob(draw).shape[0] == 5
