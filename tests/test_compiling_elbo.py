"""``CompiledELBO``: plain SVI with the numbers of the objective inside it."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import counts, counts_vae
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, config_enumerate
from pyro.infer.autoguide import AutoNormal
from torch import nn

from pyrovae.compiling import CompiledELBO
from pyrovae.training import TorchOptimizer

COUNTS = counts(40).double()


@pytest.fixture(autouse=True)
def empty_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def levels(x):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample(
            "x", dist.Normal(z, pyro.param("s", torch.tensor(1.0), constraint=dist.constraints.positive)), obs=x
        )


@config_enumerate
def mixture(x):
    weights = pyro.param("weights", torch.ones(3) / 3, constraint=dist.constraints.simplex)
    loc = pyro.param("loc", torch.linspace(-1.0, 1.0, 3))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc[pyro.sample("k", dist.Categorical(weights))], 1.0), obs=x)


def vae():
    torch.manual_seed(0)
    made = counts_vae(normalization=nn.BatchNorm1d, dropout=0.2).double()
    adam = functools.partial(torch.optim.Adam, lr=0.01, fused=True)
    return made.model, made.guide, TorchOptimizer(adam, made.parameters()), COUNTS, made


def of_functions(model, guide):
    return model, guide, pyro.optim.Adam({"lr": 0.05}), torch.linspace(-1.0, 1.0, 20), None


PROGRAMS = {
    "a VAE with batch norm and dropout": (vae, Trace_ELBO),
    "by gradients alone": (vae, TraceGraph_ELBO),
    "an autoguide and the global store": (lambda: of_functions(levels, AutoNormal(levels)), Trace_ELBO),
    "enumeration": (lambda: of_functions(mixture, lambda x: None), lambda: TraceEnum_ELBO(max_plate_nesting=1)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_plain_svi_trains_as_under_the_objective_itself(name):
    make, objective = PROGRAMS[name]
    runs = []
    for elbo in (objective(), CompiledELBO(objective())):
        pyro.clear_param_store()
        model, guide, optimizer, x, module = make()
        svi = SVI(model, guide, optimizer, elbo)
        torch.manual_seed(1)
        losses = [svi.step(x) for _ in range(10)] + [svi.step(x[:7]) for _ in range(3)]
        tensors = module.state_dict() if module else pyro.get_param_store()._params
        runs.append((losses, {key: tensor.detach().clone() for key, tensor in tensors.items()}))
    assert elbo.blocked is None
    assert sum(len(one.graphs) for known in elbo.known.values() for one in known) == 2
    tolerance = 1e-12 if x.dtype == torch.float64 else 1e-4
    assert runs[0][0] == pytest.approx(runs[1][0], rel=tolerance)
    for key, tensor in runs[0][1].items():
        torch.testing.assert_close(runs[1][1][key], tensor, rtol=tolerance, atol=tolerance)


def test_the_differentiable_loss_has_the_objective_s_derivative():
    program, elbo = counts_vae().double(), CompiledELBO()
    found = []
    for objective in (elbo, elbo, Trace_ELBO()):
        torch.manual_seed(1)
        loss = objective.differentiable_loss(program.model, program.guide, COUNTS)
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(2 * loss, list(program.parameters()))]))
    assert len(elbo.known) == 1
    torch.testing.assert_close(found[1], found[2], rtol=1e-12, atol=1e-12)


def test_gradients_are_added_to_those_that_are_there():
    program, elbo = counts_vae().double(), CompiledELBO()
    for _ in range(2):
        elbo.loss_and_grads(program.model, program.guide, COUNTS)
    for parameter in program.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.manual_seed(1)
    elbo.loss_and_grads(program.model, program.guide, COUNTS)
    found = [parameter.grad - 1 for parameter in program.parameters()]
    torch.manual_seed(1)
    loss = Trace_ELBO().differentiable_loss(program.model, program.guide, COUNTS)
    for gradient, expected in zip(found, torch.autograd.grad(loss, list(program.parameters())), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9)


def test_eval_mode_is_another_graph():
    program, elbo = counts_vae(dropout=0.5).double(), CompiledELBO()
    svi = SVI(program.model, program.guide, pyro.optim.Adam({"lr": 0.0}), elbo)
    for _ in range(3):
        svi.step(COUNTS)
    program.eval()
    losses = []
    for objective in (elbo, Trace_ELBO()):
        torch.manual_seed(1)
        losses.append(SVI(program.model, program.guide, pyro.optim.Adam({"lr": 0.0}), objective).step(COUNTS))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert elbo.blocked is None


def test_a_program_that_branches_is_run_and_the_line_is_named():
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 2.0 if z > 0 else 1.0), obs=x)

    elbo = CompiledELBO()
    svi = SVI(model, AutoNormal(model), pyro.optim.Adam({"lr": 0.01}), elbo)
    svi.step(COUNTS[:, 0])
    with pytest.warns(UserWarning, match=r"run without a graph: .* at test_compiling_elbo\.py:\d+ \(pyro.sample"):
        svi.step(COUNTS[:, 0])
    assert svi.step(COUNTS[:, 0]) > 0


def steps(svi, arguments):
    for args in arguments:
        svi.step(*args)


@pytest.mark.parametrize("calls", [3, 6])
def test_a_number_that_changes_is_found_at_the_next_comparison(calls):
    scale = [1.0]

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, scale[0]), obs=x)

    elbo = CompiledELBO()
    svi = SVI(model, AutoNormal(model), pyro.optim.Adam({"lr": 0.01}), elbo)
    for _ in range(calls):
        svi.step(COUNTS[:, 0])
    scale[0] = 2.0
    with pytest.warns(UserWarning, match=rf"at call {5 if calls == 3 else 9} it gives a loss of .* it has changed"):
        steps(svi, [(COUNTS[:, 0],)] * 6)


def test_numbers_among_the_arguments_do_not_make_a_graph_each():
    def model(x, weight):
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=weight):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    elbo = CompiledELBO()
    svi = SVI(model, AutoNormal(model), pyro.optim.Adam({"lr": 0.01}), elbo)
    for weight in range(1, 6):
        svi.step(COUNTS[:, 0], torch.tensor(weight / 5))
    assert sum(len(one.graphs) for known in elbo.known.values() for one in known) == 1
    with pytest.warns(UserWarning, match="more than 8 kinds of arguments"):
        steps(svi, [(COUNTS[:, 0], weight / 20) for weight in range(1, 12)])


def linear(x):
    weight = pyro.param("weight", torch.full((2, 5), 0.1, dtype=torch.float64))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ weight, 1.0).to_event(1), obs=x)


def encoded_by(encoder):
    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), 0.5).to_event(1))

    return guide


def freeze(encoder):
    encoder.requires_grad_(False)


def alternate(encoder):
    encoder.requires_grad_(not encoder.weight.requires_grad)


def replace(encoder):
    encoder.weight = nn.Parameter(encoder.weight.detach() / 2)


def clear(encoder):
    pyro.clear_param_store()


@pytest.mark.parametrize("change", [freeze, alternate, replace, clear])
def test_what_the_caller_does_to_parameters_between_steps_counts(change):
    runs = []
    for elbo in (Trace_ELBO(), CompiledELBO()):
        pyro.clear_param_store()
        torch.manual_seed(0)
        encoder, losses = nn.Linear(5, 2).double().eval(), []
        svi = SVI(linear, encoded_by(encoder), pyro.optim.Adam({"lr": 0.05}), elbo)
        for number in range(8):
            losses.append(svi.step(COUNTS))
            if number == 2 or (number > 2 and change is alternate):
                change(encoder)
        runs.append((losses, encoder.weight.detach()))
    assert elbo.blocked is None
    assert runs[0][0] == pytest.approx(runs[1][0], rel=1e-10)
    torch.testing.assert_close(runs[0][1], runs[1][1], rtol=1e-10, atol=1e-10)


def test_parameters_that_no_site_announces_have_their_gradient_too():
    encoder, decoder, elbo = nn.Linear(5, 2).double(), nn.Linear(2, 5).double(), CompiledELBO()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    found, guide = [], encoded_by(encoder)
    for objective in (elbo, elbo, Trace_ELBO()):
        decoder.zero_grad()
        torch.manual_seed(1)
        objective.differentiable_loss(model, guide, COUNTS).backward()
        found.append(decoder.weight.grad)
    assert elbo.blocked is None
    torch.testing.assert_close(found[1], found[2], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda: COUNTS.clone().requires_grad_(), "an argument requires a gradient"),
        (lambda: COUNTS.numpy(), "an argument is a ndarray, whose numbers may change"),
    ],
)
def test_arguments_that_a_graph_does_not_see_are_told(given, words):
    guide, elbo, x = encoded_by(nn.Linear(5, 2).double()), CompiledELBO(), given()
    functions = [lambda x, f=f: f(torch.as_tensor(x)) for f in (linear, guide)]
    elbo.differentiable_loss(*functions, x)
    with pytest.warns(UserWarning, match=words):
        loss = elbo.differentiable_loss(*functions, x)
    loss.backward()
    assert not isinstance(x, torch.Tensor) or x.grad is not None


def test_a_second_derivative_is_refused():
    encoder, elbo = nn.Linear(5, 2).double(), CompiledELBO()
    guide = encoded_by(encoder)
    for _ in range(2):
        loss = elbo.differentiable_loss(linear, guide, COUNTS)
    (slope,) = torch.autograd.grad(loss, encoder.weight, create_graph=True)
    with pytest.raises(RuntimeError, match=r"does not require grad|differentiate twice"):
        slope.square().sum().backward()
