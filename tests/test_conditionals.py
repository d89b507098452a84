"""The base class of the conditionals: what a subclass of one method gets from it."""

import inspect

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pvae
from pyrovae import conditionals


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
