"""The contract of networks, over every class found by inspection."""

import copy
import importlib
import inspect
import itertools
import pickle
import pkgutil
import re

import pytest
import torch
from network_cases import CASES, OPEN
from torch.func import functional_call, vmap
from torch.fx.experimental.proxy_tensor import make_fx

import pyrovae
from pyrovae import networks
from pyrovae.networks import Network

ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
LEARNED = pytest.mark.parametrize(
    "case", [CASES[n] for n in CASES if n != "Plain"], ids=[n for n in CASES if n != "Plain"]
)
WITH_COVARIATES = pytest.mark.parametrize(
    "case", [case for case in CASES.values() if case.covariates], ids=[name for name in CASES if CASES[name].covariates]
)


def every_class():
    """The concrete subclasses of Network that the room holds."""
    modules = [importlib.import_module(f"pyrovae.networks.{m.name}") for m in pkgutil.iter_modules(networks.__path__)]
    found = {c for module in modules for _, c in inspect.getmembers(module, inspect.isclass) if issubclass(c, Network)}
    return sorted({c for c in found if not inspect.isabstract(c)}, key=lambda c: c.__name__)


def every_public_class():
    return [c for name in networks.__all__ if inspect.isclass(c := getattr(networks, name))]


def take(inputs, index):
    value, covariates = inputs
    return (None if value is None else value[index]), {name: entry[index] for name, entry in covariates.items()}


def doubled(inputs):
    def cast(x):
        return x.double() if x is not None and x.is_floating_point() else x

    return cast(inputs[0]), {name: cast(entry) for name, entry in inputs[1].items()}


def test_every_class_has_a_case():
    built = {type(case.build()) for case in CASES.values()}
    assert {c.__name__ for c in every_class()} == {c.__name__ for c in built}


def test_the_package_exports_what_the_room_does():
    classes = [c.__name__ for c in every_public_class()]
    on_top = [name for name in classes if name in pyrovae.__all__]
    assert set(classes) - set(on_top) == {"Network", "EmbedSteps"}  # the abstract one, and a part of `Tokens`
    assert {name for name in on_top if getattr(pyrovae, name) is not getattr(networks, name)} == set()


@ALL
@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (2, 1, 3)], ids=str)
def test_leading_axes_are_a_loop_over_rows(case, batch):
    net, inputs = case.build().double().eval(), doubled(case.inputs(*batch))
    output = net(*inputs)
    assert output.shape == (*batch, *net.out_shape)
    for index in itertools.product(*map(range, batch or (1,))):
        index = index if batch else ()
        torch.testing.assert_close(output[index], net(*take(inputs, index)), rtol=0, atol=1e-12)


@ALL
def test_an_empty_batch_is_one(case):
    net = case.build().eval()
    assert net(*case.inputs(0)).shape == (0, *net.out_shape)


@WITH_COVARIATES
def test_value_and_covariates_are_broadcast_over_batch_axes(case):
    net = case.build().double().eval()
    value, _ = doubled(case.inputs(4, 1))
    _, covariates = doubled(case.inputs(3))
    first, *others = covariates
    mixed = {first: covariates[first], **{name: doubled(case.inputs(4, 1))[1][name] for name in others}}
    output = net(value, mixed)
    rows = 1 if value is None and not others else 4
    assert output.shape == ((rows, 3, *net.out_shape) if value is not None or others else (3, *net.out_shape))
    for i in range(rows):
        for j in range(3):
            one = {name: mixed[name][j] if name == first else mixed[name][i, 0] for name in mixed}
            expected = net(None if value is None else value[i, 0], one)
            torch.testing.assert_close(output[i, j], expected, rtol=0, atol=1e-12)


@LEARNED
def test_gradients_reach_every_parameter(case):
    net = case.build().eval()
    net(*case.inputs(8)).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().amax() > 0, name


@ALL
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_casting_moves_every_part(case, dtype):
    net, (value, covariates) = case.build().eval(), case.inputs(4)
    expected = net(value, covariates)
    cast = {name: entry.to(dtype) if entry.is_floating_point() else entry for name, entry in covariates.items()}
    if value is not None and value.is_floating_point():
        value = value.to(dtype)
    output = net.to(dtype)(value, cast)
    assert output.dtype == dtype
    tolerance = 1e-5 if dtype is torch.float64 else 0.1
    torch.testing.assert_close(output.float(), expected, rtol=tolerance, atol=tolerance)


@ALL
def test_no_device_is_assumed_and_no_value_is_read(case):
    value, covariates = case.inputs(2, 3)
    net = case.build().to("meta")
    output = net(None if value is None else value.to("meta"), {name: e.to("meta") for name, e in covariates.items()})
    assert output.device.type == "meta"
    assert output.shape == (2, 3, *net.out_shape)


@ALL
def test_a_wrong_input_is_refused_with_the_remedy(case):
    net, (value, covariates) = case.build(), case.inputs(4)
    if net.in_shape == ():
        with pytest.raises(TypeError, match="expected a tensor"):
            net([1, 2], covariates)
        return
    if value is None:
        value = torch.zeros(4, 0)
    with pytest.raises(ValueError, match=r"expected an input of shape \(\*batch.*got \(4, .*in_shape="):
        net(torch.cat([value, value.new_zeros(*value.shape[:-1], 1)], -1), covariates)


@WITH_COVARIATES
def test_a_wrong_covariate_is_refused_with_the_remedy(case):
    net, (value, covariates) = case.build(), case.inputs(4)
    assert set(net.covariate_names) == set(covariates)
    for name, entry in covariates.items():
        with pytest.raises(ValueError, match=f"reads the covariate '{name}', got .*pass covariates="):
            net(value, {other: covariates[other] for other in covariates if other != name})
        if case.covariates[name]:
            with pytest.raises(ValueError, match=f"covariate '{name}' of .*expected an input of shape .*got"):
                net(value, {**covariates, name: entry[..., :-1]})
    with pytest.raises(ValueError, match="got no covariates: pass covariates="):
        net(value)


@WITH_COVARIATES
def test_batches_that_do_not_broadcast_are_refused(case):
    net, (value, covariates) = case.build(), case.inputs(4)
    other = case.inputs(3)[1]
    if value is None and len(covariates) == 1:
        return
    mixed = {**covariates, next(iter(covariates)): other[next(iter(covariates))]}
    with pytest.raises(ValueError, match=r"batch axes of value and covariates that broadcast, got .*\(3,\)"):
        net(value, mixed)


@ALL
def test_copies_compute_the_same_and_share_nothing(case):
    net, inputs = case.build().eval(), case.inputs(3)
    expected = net(*inputs)
    fresh = case.make().eval()
    fresh.load_state_dict(net.state_dict())
    for other in (fresh, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(other(*inputs), expected, rtol=0, atol=0)
        assert repr(other) == repr(net)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(1)
    torch.testing.assert_close(net(*inputs), expected, rtol=0, atol=0)


@LEARNED
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_gradients_can_be_traced_and_replayed(case, mode):
    net = case.build().train(mode)
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()

    def gradients(parameters, value, covariates):
        loss = functional_call(net, parameters, (value, covariates)).square().sum()
        return torch.autograd.grad(loss, list(parameters.values()))

    parameters = dict(net.named_parameters())
    traced = make_fx(gradients)(parameters, *case.inputs(2, 3))
    others = {name: (parameter.detach() * 1.1).requires_grad_() for name, parameter in parameters.items()}
    inputs = case.inputs(2, 3, seed=2)
    for replayed, expected in zip(traced(others, *inputs), gradients(others, *inputs), strict=True):
        torch.testing.assert_close(replayed, expected, rtol=1e-4, atol=1e-5)


@ALL
def test_vmap_is_one_more_leading_axis(case):
    net, inputs = case.build().double().eval(), doubled(case.inputs(4, 3))
    if any(isinstance(module, torch.nn.GRU) for module in net.modules()):
        pytest.skip("torch has no batching rule for its GRU")
    dims = (None if inputs[0] is None else 0, dict.fromkeys(inputs[1], 0))
    torch.testing.assert_close(vmap(net, in_dims=dims)(*inputs), net(*inputs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", OPEN.values(), ids=OPEN)
def test_closing_shares_the_trunk(make):
    trunk = make()
    first, second = trunk.close((2, 6, 5)), trunk.close((2, 6, 5))
    assert trunk.out_shape is None
    assert first.out_shape == (2, 6, 5)
    shared = {id(parameter) for parameter in trunk.parameters()}
    own = [{id(parameter) for parameter in net.parameters()} for net in (first, second)]
    assert shared <= own[0]
    assert own[0] & own[1] == shared
    assert own[0] - shared
    assert first.covariate_names == trunk.covariate_names
    assert first.in_shape == trunk.in_shape


@pytest.mark.parametrize("make", OPEN.values(), ids=OPEN)
def test_an_open_network_says_how_to_close_it(make):
    trunk = make()
    with pytest.raises(ValueError, match=r"is open, it has no output yet: write out_shape=..., or call its close"):
        trunk(torch.zeros(3, *trunk.in_shape), {"label": torch.zeros(3, dtype=torch.long)})


@ALL
def test_a_closed_network_closes_with_its_own_shape_alone(case):
    net = case.build()
    assert net.close(tuple(net.out_shape)) is net
    with pytest.raises(ValueError, match=re.escape("is closed: expected out_shape=(3, 1, 4)")):
        net.close((3, 1, 4))


@ALL
def test_names_that_are_not_read_are_left_alone(case):
    net, (value, covariates) = case.build().eval(), case.inputs(3)
    torch.testing.assert_close(net(value, {**covariates, "other": None}), net(value, covariates), rtol=0, atol=0)


@pytest.mark.parametrize("cls", every_class(), ids=lambda c: c.__name__)
def test_signatures_and_docstrings(cls):
    assert list(inspect.signature(cls.forward).parameters) == ["self", "x", "covariates"]
    for part in ("Args:", ">>> "):
        assert part in cls.__doc__, part
    for name, argument in inspect.signature(cls.__init__).parameters.items():
        if name != "self":
            assert argument.annotation is not inspect.Parameter.empty, name
            assert f"{name}: " in cls.__doc__, name
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        if not name.startswith("_") and method.__module__.startswith("pyrovae"):
            assert method.__doc__, name


@pytest.mark.parametrize("cls", every_public_class(), ids=lambda c: c.__name__)
def test_public_docstrings_hold_an_equation_and_the_errors(cls):
    for part in (":math:`", ".. math::"):
        if part in cls.__doc__:
            break
    else:
        pytest.fail("no equation")
    assert "Raises:" in cls.__doc__
