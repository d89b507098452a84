"""The kernel of torch's fused Adam, called alone, does what the optimizer's own step does, or is not called."""

import copy
import functools

import pytest
import torch
from torch import nn

from pyrovae.compiling.adam import fused_step

ADAM = functools.partial(torch.optim.Adam, lr=0.01, fused=True)
SAME = {
    "Adam": ADAM,
    "weight decay": functools.partial(ADAM, weight_decay=0.1),
    "AdamW": functools.partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1, betas=(0.8, 0.99), eps=1e-6, fused=True),
}


class Own(torch.optim.Adam):
    """A subclass, which may do anything."""


def hooked(parameters):
    optimizer = ADAM(parameters)
    optimizer.register_step_pre_hook(lambda *_: None)
    return optimizer


def grouped(parameters):
    return ADAM([{"params": [parameter]} for parameter in parameters])


LEFT = {
    "not fused": functools.partial(torch.optim.Adam, fused=False),
    "amsgrad": functools.partial(ADAM, amsgrad=True),
    "maximize": functools.partial(ADAM, maximize=True),
    "another optimizer": functools.partial(torch.optim.SGD, lr=0.1),
    "a subclass": functools.partial(Own, fused=True),
    "hooks": hooked,
    "groups": grouped,
}


def prepared(make):
    """A network and its optimizer after one step, with fresh gradients; the last parameter has none."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))
    optimizer = make(list(net.parameters()))
    for _ in range(2):
        optimizer.step()
        net.zero_grad()
        net(torch.randn(4, 7)).square().sum().backward()
        net[1].bias.grad = None
    return net, optimizer


@pytest.mark.parametrize("name", SAME)
def test_the_step_is_the_optimizer_s_to_the_bit(name):
    (net, optimizer), (twin, other) = prepared(SAME[name]), prepared(SAME[name])
    for _ in range(3):
        assert fused_step(optimizer)
        other.step()
    for one, two in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, two)
    one, two = optimizer.state_dict()["state"], other.state_dict()["state"]
    assert one.keys() == two.keys()
    assert all(torch.equal(one[n][key], two[n][key]) for n in one for key in one[n])


@pytest.mark.parametrize("name", LEFT)
def test_it_leaves_other_optimizers_alone(name):
    net, optimizer = prepared(LEFT[name])
    before = copy.deepcopy((net.state_dict(), optimizer.state_dict()["state"]))
    assert not fused_step(optimizer)
    assert all(torch.equal(tensor, before[0][key]) for key, tensor in net.state_dict().items())


def test_the_first_step_is_the_optimizer_s_own():
    net = nn.Linear(2, 1)
    optimizer = ADAM(net.parameters())
    net(torch.ones(3, 2)).sum().backward()
    assert not fused_step(optimizer)
    assert not optimizer.state
