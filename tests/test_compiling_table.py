"""What traces, with the loss and the gradients of the program itself, and what does not, with the reason and its place."""

import pyro
import pytest
import torch
from catalogue import CASES
from pyro.infer import Trace_ELBO
from random_programs import random_program
from traceable import BLOCKED, TRACES, Made

from pyrovae.compiling import UntraceableError, trace
from pyrovae.data import Batch
from pyrovae.programs import Program, dry_run
from pyrovae.training.engine import Buffers
from pyrovae.training.loss import Loss


@pytest.fixture(autouse=True)
def empty_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def loss_of(made):
    program, index = Program.of(made.program), torch.arange(len(made.x))
    with pyro.validation_enabled(False):
        found = dry_run(*program.on(made.x, made.covariates, len(made.x), index))
    return Loss(program, made.objective or Trace_ELBO(), found, len(made.x)).train()


def traced(made):
    """The graph of a program, and its eager counterpart: each gives loss and gradients for a seed."""
    loss, buffers = loss_of(made), None
    buffers = Buffers(loss.announced.modules.values())
    buffers.keep()
    parameters, index = list(loss.announced.trained.values()), torch.arange(len(made.x))

    def of(x):
        return loss(Batch(index, x, made.covariates))

    def restored():
        buffers.restore(torch.tensor(True))

    try:
        graph = trace(of, [made.x], [made.x.flip(0)], parameters, buffers.settle)
    finally:
        restored()

    def replayed(seed):
        torch.manual_seed(seed)
        with torch.no_grad():
            value, *gradients = graph.module.forward(*graph.captured, made.x)
        found = {id(p): g for p, g in zip(graph.parameters, gradients, strict=True)}
        state = {name: tensor.clone() for name, tensor in loss.state_dict().items()}
        restored()
        return value, [found.get(id(parameter)) for parameter in parameters], state, torch.rand(())

    def eager(seed):
        torch.manual_seed(seed)
        with pyro.validation_enabled(False):
            value = of(made.x)
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
        buffers.settle()
        state = {name: tensor.clone() for name, tensor in loss.state_dict().items()}
        restored()
        return value.detach(), gradients, state, torch.rand(())

    return replayed, eager


def compare(made, tolerance=1e-5):
    """Hold a graph to its program, for two seeds: loss, gradients, buffers, and how much noise was drawn."""
    replayed, eager = traced(made)
    for seed in (5, 6):
        (value, gradients, state, after), (expected, others, other_state, other_after) = replayed(seed), eager(seed)
        torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)
        assert torch.equal(after, other_after)  # as many random numbers were drawn
        for gradient, other in zip(gradients, others, strict=True):
            assert (gradient is None) == (other is None)
            if gradient is not None:
                torch.testing.assert_close(gradient, other, rtol=tolerance, atol=tolerance * float(other.abs().max()))
        for tensor, other in zip(state.values(), other_state.values(), strict=True):
            torch.testing.assert_close(tensor, other)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", TRACES)
def test_the_graph_gives_the_loss_and_the_gradients_of_the_program(name):
    torch.manual_seed(0)
    compare(TRACES[name]())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_in_double_precision_the_graph_of_each_conditional_agrees_to_twelve_digits(name):
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        made = TRACES[name]()
        assert {p.dtype for p in made.program.parameters()} == {torch.float64}
        compare(made, 1e-12)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("seed", range(24))
def test_random_programs_have_graphs_that_give_their_numbers(seed):
    torch.manual_seed(seed)
    program, x, objective = random_program(seed)
    compare(Made(program, x, None, objective))


@pytest.mark.parametrize("name", BLOCKED)
def test_a_program_without_a_graph_is_refused_with_the_reason_and_its_place(name):
    torch.manual_seed(0)
    make, words = BLOCKED[name]
    made = make()
    with pytest.raises(UntraceableError, match=words):
        traced(made)
