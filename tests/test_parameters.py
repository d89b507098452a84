"""Modules announce their parameters by messages: every SVI trains them, and the global store stays empty."""

import copy
import functools
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO

from pyrovae import register


def regression(module):
    def model(x, y):
        register(regression=module)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("y", dist.Normal(module(x)[:, 0], 0.1), obs=y)

    return model


def no_guide(x, y):
    pass


def test_plain_svi_trains_and_the_store_stays_empty():
    module = torch.nn.Linear(2, 1)
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    y = x @ torch.tensor([2.0, -1.0]) + 0.5
    svi = SVI(regression(module), no_guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    assert len(pyro.get_param_store()) == 0
    for _ in range(400):
        svi.step(x, y)
    assert len(pyro.get_param_store()) == 0
    torch.testing.assert_close(module.weight.detach(), torch.tensor([[2.0, -1.0]]), atol=0.02, rtol=0)


def test_frozen_parameters_are_not_announced():
    module = torch.nn.Linear(2, 1)
    module.bias.requires_grad_(False)
    trace = poutine.trace(lambda: register(a=module)).get_trace()
    assert trace.param_nodes == ["a.weight"]


def test_the_announced_value_is_detached_and_leads_back_to_the_parameter():
    module = torch.nn.Linear(2, 1)
    site = poutine.trace(lambda: register(a=module)).get_trace().nodes["a.weight"]
    assert not site["value"].requires_grad
    assert site["value"].unconstrained() is module.weight


def test_a_module_that_was_announced_still_pickles_and_copies():
    module = torch.nn.Linear(2, 1)
    poutine.trace(lambda: register(module)).get_trace()
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(twin.weight, module.weight)


def test_one_name_for_two_tensors_is_refused():
    def model():
        register(a=torch.nn.Linear(2, 1))
        register(a=torch.nn.Linear(2, 1))

    with pytest.raises(ValueError, match=r"'a.weight' is already announced for another tensor.*different names"):
        poutine.trace(model).get_trace()


def test_the_clash_is_seen_across_model_and_guide():
    first, second = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    svi = SVI(
        functools.partial(register, a=first), functools.partial(register, a=second), pyro.optim.Adam({}), Trace_ELBO()
    )
    with pytest.raises(ValueError, match="already announced"):
        svi.step()


def test_the_same_module_twice_is_fine():
    module = torch.nn.Linear(2, 1)

    def model():
        register(a=module)
        register(a=module)

    assert poutine.trace(model).get_trace().param_nodes == ["a.weight", "a.bias"]


def test_positional_modules_are_named_after_their_class():
    first, second = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)

    def model():
        register(first, second)
        register(first)

    names = poutine.trace(model).get_trace().param_nodes
    assert names == ["Linear.weight", "Linear.bias", "Linear_2.weight", "Linear_2.bias"]


def test_outside_of_a_program_nothing_happens():
    assert register(torch.nn.Linear(2, 1)) is None


def test_only_modules_are_taken():
    with pytest.raises(TypeError, match="takes torch modules, got Tensor"):
        register(torch.zeros(2))
