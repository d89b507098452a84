"""Beta from outside the program agrees with a beta-ELBO written by hand, in value and in gradient."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal
from torch.distributions import kl_divergence

from pyrovae import beta, fit, register

BETAS = [0.0, 0.25, 1.0, 4.0]


class Linear(torch.nn.Module):
    """x ~ N(W z, 1), z ~ N(0, 1), q = N(V x, s): every term can be written by hand."""

    def __init__(self, size=None):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.W = torch.nn.Parameter(torch.randn(3, 2, generator=generator, dtype=torch.float64))
        self.V = torch.nn.Parameter(torch.randn(2, 3, generator=generator, dtype=torch.float64))
        self.log_s = torch.nn.Parameter(torch.randn(2, generator=generator, dtype=torch.float64))
        self.size = size

    def prior(self):
        return dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1)

    def likelihood(self, z):
        return dist.Normal(z @ self.W.T, 1.0).to_event(1)

    def posterior(self, x):
        return dist.Normal(x @ self.V.T, self.log_s.exp()).to_event(1)

    def plate(self, x):
        return pyro.plate("data", self.size or len(x), subsample=torch.arange(len(x)), dim=-1)

    def model(self, x):
        register(linear=self)
        with self.plate(x):
            pyro.sample("x", self.likelihood(pyro.sample("z", self.prior())), obs=x)

    def guide(self, x):
        register(linear=self)
        with self.plate(x):
            pyro.sample("z", self.posterior(x))


@pytest.fixture
def x():
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def by_hand(program, x, weight, analytic):
    """The negative beta-ELBO and its gradients, with the noise that Pyro draws under the same seed."""
    torch.manual_seed(7)
    q, p = program.posterior(x), program.prior()
    z = q.rsample()
    divergence = kl_divergence(q, p) if analytic else q.log_prob(z) - p.log_prob(z)
    scale = (program.size or len(x)) / len(x)
    loss = -scale * (program.likelihood(z).log_prob(x) - weight * divergence).sum()
    return loss, torch.autograd.grad(loss, list(program.parameters()))


@pytest.mark.parametrize("size", [None, 50])
@pytest.mark.parametrize("analytic", [False, True])
@pytest.mark.parametrize("weight", BETAS)
@pytest.mark.parametrize("tensor", [False, True])
def test_values_and_gradients_agree_with_the_beta_elbo_by_hand(x, weight, analytic, size, tensor):
    program = Linear(size)
    expected, gradients = by_hand(program, x, weight, analytic)
    elbo = TraceMeanField_ELBO() if analytic else Trace_ELBO()
    scale = torch.tensor(weight, dtype=torch.float64) if tensor else weight
    torch.manual_seed(7)
    loss = elbo.loss_and_grads(beta(program.model, scale), beta(program.guide, scale), x)
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    for parameter, gradient in zip(program.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-12)


def test_a_tensor_is_read_when_the_program_runs(x):
    program, weight = Linear(), torch.tensor(1.0)
    model = beta(program.model, weight)
    weight.fill_(0.5)
    assert poutine.trace(model).get_trace(x).nodes["z"]["scale"] == 0.5


def two_sites():
    with pyro.plate("data", 4):
        z1 = pyro.sample("z1", dist.Normal(0.0, 1.0))
        z2 = pyro.sample("z2", dist.Normal(z1, 1.0))
        pyro.sample("x", dist.Normal(z2, 1.0), obs=torch.zeros(4))


def test_sites_are_scaled_by_name_and_data_and_globals_are_not():
    def model():
        pyro.sample("w", dist.Normal(0.0, 1.0))
        two_sites()

    scales = {
        n: s["scale"] for n, s in poutine.trace(beta(model, {"z2": 0.3})).get_trace().nodes.items() if "scale" in s
    }
    assert scales["z2"] == 0.3
    assert scales["z1"] == scales["x"] == scales["w"] == 1.0
    scales = {n: s["scale"] for n, s in poutine.trace(beta(model, 0.5)).get_trace().nodes.items() if "scale" in s}
    assert scales["z1"] == scales["z2"] == 0.5
    assert scales["x"] == scales["w"] == 1.0


@pytest.mark.parametrize("weight", BETAS)
def test_guide_side_enumeration_keeps_its_meaning(weight):
    """With the discrete latent summed out, the loss is the exact beta-ELBO."""
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    means = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    x = torch.tensor([0.1, 1.2], dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            k = pyro.sample("k", dist.Categorical(logits=torch.zeros(3, dtype=torch.float64)))
            pyro.sample("x", dist.Normal(means[k], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("k", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})

    q = torch.softmax(logits, 0)
    log_p = dist.Normal(means, 1.0).log_prob(x[:, None])
    expected = -(q * (log_p - weight * (q.log() + torch.log(torch.tensor(3.0, dtype=torch.float64))))).sum()
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    loss = elbo.differentiable_loss(beta(model, weight), beta(guide, weight), x)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], torch.autograd.grad(expected, logits)[0])


def test_a_misspelt_name_is_refused_by_fit(x):
    program = Linear()
    with pytest.raises(ValueError, match="beta names 'zz', which is no latent site per datum; there are: z"):
        fit((program.model, program.guide), x, epochs=1, beta={"zz": 0.5}, progress=False)


def test_a_name_outside_the_plate_is_refused_since_beta_never_scales_it():
    def model():
        pyro.sample("w", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="beta names 'w', which lies outside the plate 'data'"):
        beta(model, {"w": 0.5})()


class Labeled(Linear):
    """z and a class y, which is observed in some calls and a latent in others."""

    def model(self, x, y=None):
        register(linear=self)
        with self.plate(x):
            y = pyro.sample("y", dist.Normal(x.new_zeros(()), 1.0), obs=y)
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z + y[:, None]), obs=x)

    def guide(self, x, y=None):
        register(linear=self)
        with self.plate(x):
            if y is None:
                pyro.sample("y", dist.Normal(x[:, 0], 1.0))
            pyro.sample("z", self.posterior(x))


@pytest.mark.parametrize("names", [("y",), ("y", "z")])
def test_a_named_latent_may_be_observed_in_some_calls(x, names):
    program, y = Labeled(), torch.zeros(5, dtype=torch.float64)
    weights = dict.fromkeys(names, 0.1)
    svi = SVI(beta(program.model, weights), beta(program.guide, weights), pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    assert svi.step(x) != svi.step(x, y)
    scale = {"z": 0.1 if "z" in names else 1.0, "y": 1.0}
    trace = poutine.trace(beta(program.model, weights)).get_trace(x, y)
    assert {name: trace.nodes[name]["scale"] for name in scale} == scale


class Auxiliary(Linear):
    """The guide's z is a function of a draw of its own."""

    def guide(self, x):
        register(linear=self)
        with self.plate(x):
            a = pyro.sample("a", self.posterior(x), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(a, event_dim=1))


@pytest.mark.parametrize("weight", [0.1, {"z": 0.1, "a": 0.1}, torch.tensor(0.1, dtype=torch.float64)])
def test_beta_weights_an_auxiliary_draw_like_the_latent_made_of_it(x, weight):
    program = Auxiliary()
    expected, gradients = by_hand(program, x, 0.1, analytic=False)
    torch.manual_seed(7)
    loss = Trace_ELBO().loss_and_grads(beta(program.model, weight), beta(program.guide, weight), x)
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    for parameter, gradient in zip(program.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weight", [{"z": 0.1}, {"a": 0.1}, {"z": 0.1, "a": 0.2}, {"z": torch.tensor(0.1)}])
def test_a_latent_and_the_auxiliary_draw_that_holds_its_density_take_one_beta(x, weight):
    program = Auxiliary()
    with pytest.raises(ValueError, match=r"'z'.* auxiliary draw 'a'.*name both"):
        beta(program.guide, weight)(x)
    beta(program.model, weight)(x)


def test_auxiliary_draws_of_other_latents_do_not_matter(x):
    def guide():
        with pyro.plate("data", 4):
            for name in ("z1", "z2"):
                a = pyro.sample(f"a{name}", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
                pyro.sample(name, dist.Delta(a))

    nodes = poutine.trace(beta(guide, {"z2": 0.3, "az2": 0.3})).get_trace().nodes
    assert {n: s["scale"] for n, s in nodes.items() if n[0] in "az"} == {"az1": 1.0, "z1": 1.0, "az2": 0.3, "z2": 0.3}


def test_a_guide_that_draws_the_rows_jointly_takes_no_beta():
    """Its density lies outside of the plate, where beta does not reach, and the prior's inside."""
    guide = AutoMultivariateNormal(two_sites)
    guide()
    poutine.trace(beta(guide, 1.0)).get_trace()
    with pytest.raises(ValueError, match=r"'z1'.* auxiliary draw '_AutoMultivariateNormal_latent'.*outside"):
        beta(guide, 0.5)()


@pytest.mark.parametrize("weight", [0.5, {"z": 0.1, "a": 0.1}])
def test_fit_trains_guides_with_auxiliary_draws_under_beta(x, weight):
    program = Auxiliary()
    before = program.V.detach().clone()
    fit((program.model, program.guide), x, epochs=1, beta=weight, progress=False)
    assert not torch.equal(before, program.V)


def test_fit_passes_on_that_an_auxiliary_draw_is_not_named(x):
    program = Auxiliary()
    with pytest.raises(ValueError, match="name both"):
        fit((program.model, program.guide), x, epochs=1, beta={"z": 0.1}, progress=False)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (-0.1, ValueError, "at least 0, got -0.1"),
        (float("nan"), ValueError, "finite"),
        (float("inf"), ValueError, "finite"),
        ("1", TypeError, "must be a number"),
        (True, TypeError, "must be a number"),
        (torch.ones(2), ValueError, "0-dim"),
        ({"z": -1.0}, ValueError, "at least 0"),
    ],
)
def test_bad_betas_are_refused(bad, error, message):
    with pytest.raises(error, match=message):
        beta(two_sites, bad)
