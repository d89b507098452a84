"""The folder of checkpoints, and the states that go into one: generators, modules, optimizers, schedules, signals."""

import os
import random
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import pyro.optim
import pytest
import torch
from torch import nn, optim
from torch.optim import lr_scheduler

from pyrovae.files import (
    CheckpointStore,
    DamagedError,
    NewerFormatError,
    StopRequest,
    different_parts,
    load_optimizer_state,
    load_state,
    load_weights,
    optimizer_state,
    parts_of,
    rng_state,
    save_state,
    set_rng_state,
)


def filled(folder, *steps, **options):
    store = CheckpointStore(folder, **options)
    for step in steps:
        store.save({"step": step}, step)
    return store


def names(store):
    return [int(path.stem[-12:]) for path in store.paths]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_few_are_kept(tmp_path, keep):
    store = filled(tmp_path, 1, 2, 30, 400, 5000, keep=keep)
    assert names(store) == [1, 2, 30, 400, 5000][-keep:]
    assert store.load_latest()[0] == {"step": 5000}


def test_other_files_in_the_folder_are_left_alone(tmp_path):
    mine = ["model.safetensors", "checkpoint-1.safetensors", "checkpoint-000000000001.safetensors.bak", "notes.txt"]
    for name in mine:
        (tmp_path / name).write_text("mine")
    store = filled(tmp_path, 1, 2, 3)
    assert store.load_latest()[0] == {"step": 3}
    assert all((tmp_path / name).read_text() == "mine" for name in mine)


def test_no_folder_and_an_empty_one_hold_no_checkpoint(tmp_path):
    assert CheckpointStore(tmp_path / "none").load_latest() is None
    assert CheckpointStore(tmp_path).load_latest() is None
    assert not (tmp_path / "none").exists()


def damage(path, how):
    raw = bytearray(path.read_bytes())
    if how == "flip":
        raw[-1] ^= 1
    path.write_bytes({"flip": raw, "truncate": raw[:-7], "empty": b"", "zeros": bytes(len(raw))}[how])


@pytest.mark.parametrize("again", [15, 30])
@pytest.mark.parametrize("how", ["flip", "truncate", "empty", "zeros"])
def test_a_damaged_newest_falls_back_to_the_one_before_and_says_so(tmp_path, how, again):
    tree = {"w": torch.ones(5)}
    store = CheckpointStore(tmp_path)
    store.save(tree, 10)
    damage(store.save(tree, 20), how)
    with pytest.warns(UserWarning, match=r"checkpoint-000000000020.*Going on from the one before, .*0010.safetensors"):
        loaded, path = store.load_latest()
    assert torch.equal(loaded["w"], tree["w"])
    assert path.name == "checkpoint-000000000010.safetensors"
    store.save(tree, again)  # the damaged one must neither outlive this nor push out a whole one
    assert names(store) == [10, again]
    assert store.load_latest()[1].name == f"checkpoint-{again:012d}.safetensors"


def test_a_damaged_one_that_is_written_anew_stays(tmp_path):
    store = filled(tmp_path, 10, 20)
    damage(store.paths[-1], "flip")
    with pytest.warns(UserWarning, match="Going on"):
        store.load_latest()
    store.save({"step": 20}, 20)
    assert names(store) == [10, 20]
    assert store.load_latest()[0] == {"step": 20}


def test_where_none_is_whole_it_does_not_start_afresh_unasked(tmp_path):
    store = filled(tmp_path, 10, 20)
    for path in store.paths:
        damage(path, "truncate")
    with pytest.raises(
        DamagedError, match=r"no checkpoint in .* is whole: .*0020.*0010.*Remove them, or choose another"
    ):
        store.load_latest()
    assert names(store) == [10, 20]


def test_a_newer_format_is_refused_and_not_passed_over(tmp_path, monkeypatch):
    store = filled(tmp_path, 10)
    monkeypatch.setattr("pyrovae.files.state.VERSION", 2)
    store.save({}, 20)
    monkeypatch.undo()
    with pytest.raises(NewerFormatError, match=r"format version 2, this pyrovae reads up to 1: upgrade"):
        store.load_latest()
    assert names(store) == [10, 20]


def test_a_fresh_training_refuses_a_folder_with_checkpoints(tmp_path):
    CheckpointStore(tmp_path).require_empty()
    with pytest.raises(ValueError, match=r"holds checkpoints already, the newest .*0007.*resume goes on"):
        filled(tmp_path, 7).require_empty()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0}, "keep of at least 1, got 0"),
        ({"every_steps": 0}, "positive every_steps, got 0"),
        ({"every_minutes": float("nan")}, "positive every_minutes, got nan"),
    ],
)
def test_bad_settings_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        CheckpointStore(tmp_path, **options)


@pytest.mark.parametrize("step", [-1, 10**12])
def test_a_step_out_of_range_is_refused(tmp_path, step):
    with pytest.raises(ValueError, match="expected a step from 0"):
        CheckpointStore(tmp_path).save({}, step)


def test_checkpoints_are_due_by_steps_or_by_minutes_since_the_last_save_or_load(tmp_path):
    now = [0.0]
    store = CheckpointStore(tmp_path, every_steps=100, every_minutes=2.0, clock=lambda: now[0])
    assert [store.due(step) for step in (0, 99, 100, 150)] == [False, False, True, True]
    now[0] = 119.0
    assert not store.due(50)
    now[0] = 120.0
    assert store.due(50)
    store.save({}, 50)
    assert [store.due(step) for step in (51, 149, 150)] == [False, False, True]
    again = CheckpointStore(tmp_path, every_steps=100, every_minutes=None, clock=lambda: now[0])
    again.load_latest()
    assert [again.due(step) for step in (100, 149, 150)] == [False, False, True]


# Generators


def draws(generator, numpy_generator):
    return [
        torch.randn(3).tolist(),
        torch.rand(3, generator=generator).tolist(),
        random.random(),
        random.gauss(0, 1),
        np.random.normal(),  # noqa: NPY002
        numpy_generator.normal(),
        numpy_generator.integers(10, dtype=np.int32),
    ]


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_every_generator_goes_on_from_where_it_was_saved(tmp_path, kind):
    before = rng_state()
    own = {"shuffle": torch.Generator().manual_seed(3), "noise": np.random.Generator(kind(4))}
    torch.manual_seed(1)
    random.seed(2)
    np.random.seed(5)  # noqa: NPY002
    draws(*own.values())  # leaves half a pair of normals and half a word behind in some generators
    path = save_state(tmp_path / "rng.safetensors", rng_state(own))
    expected = [draws(*own.values()) for _ in range(3)]
    fresh = {"shuffle": torch.Generator(), "noise": np.random.Generator(kind(0))}
    set_rng_state(load_state(path), fresh)
    assert [draws(*fresh.values()) for _ in range(3)] == expected
    set_rng_state(before)


def test_reading_the_states_draws_nothing():
    first = rng_state()
    second = rng_state()
    assert torch.equal(first["torch"], second["torch"])
    assert first["python"] == second["python"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"torch": torch.zeros(5, dtype=torch.uint8)}, "cannot set the random states"),
        ({"torch": "x"}, "cannot set the random states"),
        ({"python": (3, (1, 2), None)}, "cannot set the random states"),
        ({"numpy": {"bit_generator": "MT19937", "state": {"key": np.zeros(3), "pos": 0}}}, "cannot set"),
        ({"generators": {"shuffle": 1}}, r"of the generators \['shuffle'\], given are \[\]"),
        ({"generators": None}, "cannot set the random states"),
    ],
)
def test_states_that_do_not_fit_are_refused(change, message):
    before = rng_state()
    with pytest.raises(ValueError, match=message):
        set_rng_state({**before, **change})
    set_rng_state(before)


def test_states_of_absent_devices_are_passed_over_with_a_warning():
    count = torch.cuda.device_count() + 1
    with pytest.warns(UserWarning, match=rf"{count} CUDA devices, here are {count - 1}"):
        set_rng_state({**rng_state(), "cuda": [torch.zeros(16, dtype=torch.uint8)] * count})


# Modules


def test_a_module_is_filled_bit_for_bit():
    torch.manual_seed(0)
    source, target = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2))
    source(torch.randn(9, 3))
    load_weights(target, source.state_dict())
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": torch.ones(1, 2)}, "bias is missing there"),
        ({"weight": torch.ones(1, 2), "bias": torch.ones(1), "scale": torch.ones(1)}, "scale is missing here"),
        ({"weight": torch.ones(2, 1), "bias": torch.ones(1)}, r"weight has shape \(2, 1\) there, \(1, 2\) here"),
        (
            {"weight": torch.ones(1, 2), "bias": torch.ones(1).double()},
            "bias is torch.float64 there, torch.float32 here",
        ),
        ({"weight": torch.ones(1, 2), "bias": [1.0]}, "bias is no tensor there"),
        (
            {f"{i}": 1 for i in range(9)},
            "weight is missing there; bias is missing there; 0 is missing here, and 8 more",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(state, message):
    module = nn.Linear(2, 1)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(ValueError, match=f"run 7 does not fit this Linear: .*{message}.*Build the module"):
        load_weights(module, state, "run 7")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


# Optimizers and schedules: three steps, a file, three more, against six in one go


def problem(channels_last=False):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 2))
    return module.to(memory_format=torch.channels_last) if channels_last else module


def advance(module, optimizer, steps, schedule=None):
    def closure():
        optimizer.zero_grad()
        loss = module(torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(len(losses)))).pow(2).sum()
        loss.backward()
        return loss

    losses = []
    for _ in range(steps):
        losses.append(optimizer.step(closure).item())
        if schedule is not None:
            schedule.step(*([losses[-1]] if isinstance(schedule, lr_scheduler.ReduceLROnPlateau) else []))
    return losses


OPTIMIZERS = {
    "Adam": lambda p: optim.Adam(p, 0.01),
    "Adam amsgrad": lambda p: optim.Adam(p, 0.01, amsgrad=True),
    "Adam fused": lambda p: optim.Adam(p, 0.01, fused=True),
    "Adam foreach": lambda p: optim.Adam(p, 0.01, foreach=True),
    "Adam tensor lr": lambda p: optim.Adam(p, torch.tensor(0.01)),
    "AdamW fused": lambda p: optim.AdamW(p, 0.01, fused=True),
    "Adamax": lambda p: optim.Adamax(p, 0.01),
    "NAdam": lambda p: optim.NAdam(p, 0.01),
    "RAdam": lambda p: optim.RAdam(p, 0.01),
    "SGD momentum": lambda p: optim.SGD(p, 0.001, momentum=0.9),
    "SGD fused": lambda p: optim.SGD(p, 0.001, momentum=0.9, fused=True),
    "RMSprop": lambda p: optim.RMSprop(p, 0.001, momentum=0.9, centered=True),
    "Adagrad": lambda p: optim.Adagrad(p, 0.01),
    "Adadelta": lambda p: optim.Adadelta(p),
    "ASGD": lambda p: optim.ASGD(p, 0.001),
    "Rprop": lambda p: optim.Rprop(p, 0.001),
    "Adafactor": lambda p: optim.Adafactor(p),
    "LBFGS": lambda p: optim.LBFGS(p, 0.01, max_iter=3),
    "ClippedAdam": lambda p: pyro.optim.clipped_adam.ClippedAdam(p, 0.01, lrd=0.9),
    "AdagradRMSProp": lambda p: pyro.optim.adagrad_rmsprop.AdagradRMSProp(p),
    "groups": lambda p: optim.Adam([{"params": p[:2], "lr": 0.1}, {"params": p[2:], "betas": (0.5, 0.9)}], 0.01),
}


def resumed(path, make_optimizer, make_schedule=None, channels_last=False):
    """Weights and learning rates after three steps, a file, and three more in another module and optimizer."""
    module = problem(channels_last)
    optimizer = make_optimizer(list(module.parameters()))
    schedule = make_schedule(optimizer) if make_schedule else None
    advance(module, optimizer, 3, schedule)
    names = dict(module.named_parameters())
    tree = {"module": module.state_dict(), "optimizer": optimizer_state(optimizer, names)}
    save_state(path, {**tree, "schedule": schedule.state_dict() if schedule else None})
    saved = load_state(path)
    module = problem(channels_last)
    optimizer = make_optimizer(list(module.parameters()))
    schedule = make_schedule(optimizer) if make_schedule else None
    load_weights(module, saved["module"])
    load_optimizer_state(optimizer, saved["optimizer"], dict(module.named_parameters()))
    if schedule:
        schedule.load_state_dict(saved["schedule"])
    losses = advance(module, optimizer, 3, schedule)
    return losses, module.state_dict(), [group.get("lr") for group in optimizer.param_groups]


def uninterrupted(make_optimizer, make_schedule=None, channels_last=False):
    module = problem(channels_last)
    optimizer = make_optimizer(list(module.parameters()))
    schedule = make_schedule(optimizer) if make_schedule else None
    advance(module, optimizer, 3, schedule)
    return (
        advance(module, optimizer, 3, schedule),
        module.state_dict(),
        [group.get("lr") for group in optimizer.param_groups],
    )


def assert_resumes(tmp_path, *arguments):
    left, right = resumed(tmp_path / "state.safetensors", *arguments), uninterrupted(*arguments)
    assert left[0] == right[0]
    assert len(set(left[0])) == 3
    assert all(torch.equal(left[1][name], value) for name, value in right[1].items())
    assert left[2] == right[2]


@pytest.mark.parametrize(
    ("name", "channels_last"),
    [(name, last) for name in OPTIMIZERS for last in (False, True) if (name, last) != ("LBFGS", True)],  # torch fails
)
def test_every_optimizer_resumes_bit_for_bit(tmp_path, name, channels_last):
    assert_resumes(tmp_path, OPTIMIZERS[name], None, channels_last)


SCHEDULES = {
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 4]),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=10),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=2, cycle_momentum=False),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o), lr_scheduler.ExponentialLR(o, 0.9)], [4]
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_resumes_bit_for_bit(tmp_path, name):
    assert_resumes(tmp_path, OPTIMIZERS["Adam"], SCHEDULES[name])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_state_in_is_state_out(tmp_path, name, dtype):
    """What a filled optimizer would save is what it was filled from, every moment in its dtype."""
    optimizers = []
    for _ in range(2):
        module = problem().to(dtype)
        optimizers.append((OPTIMIZERS[name](list(module.parameters())), dict(module.named_parameters())))
    for step in range(2):
        for parameter in optimizers[0][1].values():
            parameter.grad = torch.randn_like(parameter) + step
        optimizers[0][0].step(lambda: torch.tensor(1.0))
    path = save_state(tmp_path / "state.safetensors", optimizer_state(*optimizers[0]))
    load_optimizer_state(optimizers[1][0], load_state(path), optimizers[1][1])
    again = save_state(tmp_path / "again.safetensors", optimizer_state(*optimizers[1]))
    assert again.read_bytes() == path.read_bytes()
    assert b'"moments/0.weight/' in path.read_bytes()


class WideMomentum(optim.SGD):
    """Keeps its sums in double precision, a state of its own beside the parameters', and a count beside both."""

    def __init__(self, params):
        super().__init__(params, 0.1)
        self.calls = 0

    def step(self, closure=None):
        self.calls += 1
        self.state["all"] = {"total": torch.tensor(float(self.calls))}
        for parameter in self.param_groups[0]["params"]:
            entry = self.state[parameter]
            entry["total"] = entry.get("total", torch.zeros_like(parameter, dtype=torch.float64)) + 0.1

    def state_dict(self):
        return {**super().state_dict(), "calls": self.calls}

    def load_state_dict(self, state_dict):
        self.calls = state_dict["calls"]
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "calls"})


def test_what_an_optimizer_of_one_s_own_keeps_comes_back_too():
    weight = nn.Parameter(torch.zeros(2))
    one, other = WideMomentum([weight]), WideMomentum([weight])
    one.step()
    load_optimizer_state(other, optimizer_state(one, {"w": weight}), {"w": weight})
    assert other.calls == 1
    assert other.state["all"]["total"] == 1.0
    assert other.state[weight]["total"].dtype == torch.float64
    assert other.state[weight]["total"].tolist() == [0.1, 0.1]


def test_moments_follow_their_names_and_not_the_order_of_the_parameters():
    names = {"a": nn.Parameter(torch.zeros(2)), "b": nn.Parameter(torch.zeros(2))}
    optimizer = optim.SGD([names["b"], names["a"]], 0.1, momentum=0.9)
    for name, gradient in (("a", 1.0), ("b", 2.0)):
        names[name].grad = torch.full((2,), gradient)
    optimizer.step()
    state = optimizer_state(optimizer, names)
    assert {name: entry["momentum_buffer"].tolist() for name, entry in state["moments"].items()} == {
        "a": [1.0, 1.0],
        "b": [2.0, 2.0],
    }
    assert state["groups"][0]["params"] == ["b", "a"]
    assert state["groups"][0]["momentum"] == 0.9


def adam(size, name="w"):
    weight = nn.Parameter(torch.zeros(size))
    optimizer = optim.Adam([weight])
    weight.grad = torch.ones(size)
    optimizer.step()
    return optimizer, {name: weight}


GROUP = {"params": ["w"]}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (optimizer_state(*adam(5)), r"exp_avg of w has shape \(5,\) there, the parameter \(2,\) here"),
        (optimizer_state(*adam(2, "v")), r"its groups train \[\['v'\]\] there, \[\['w'\]\] here"),
        (
            {"moments": {}, "groups": [{"params": ["w", "v"]}], "others": {}},
            r"\[\['w', 'v'\]\] there, \[\['w'\]\] here",
        ),
        ({"moments": {}, "groups": [GROUP] * 2, "others": {}}, r"\[\['w'\], \['w'\]\] there, \[\['w'\]\] here"),
        ({"moments": {}, "groups": [GROUP]}, "others"),
        ({"moments": {}}, "groups"),
        ({"moments": [], "groups": [GROUP], "others": {}}, "no attribute"),
        ([], "list indices"),
    ],
)
def test_an_optimizer_state_of_another_model_is_refused_since_torch_would_read_beyond_its_memory(state, message):
    optimizer, names = adam(2)
    before = optimizer_state(optimizer, names)["moments"]["w"]["exp_avg"].clone()
    with pytest.raises(ValueError, match=f"the saved state does not fit this Adam: .*{message}.*Resume with the model"):
        load_optimizer_state(optimizer, state, names)
    assert torch.equal(optimizer_state(optimizer, names)["moments"]["w"]["exp_avg"], before)


# Parts


def test_parts_are_the_children_without_addresses_in_memory():
    activation = nn.ModuleDict({"f": nn.Softplus()})
    activation["f"].extra_repr = lambda: f"f={object()}"
    assert parts_of(activation) == {"f": "Softplus(f=<object object>)"}
    assert parts_of(nn.Linear(2, 1)) == {"Linear": "Linear(in_features=2, out_features=1, bias=True)"}


@pytest.mark.parametrize(
    ("there", "here", "message"),
    [
        ({"a": "X(1)", "b": "Y"}, {"b": "Y", "a": "X(1)"}, ""),
        ({"a": "X(\n  1\n  2\n)"}, {"a": "X(\n  1\n  3\n)"}, "a has '2' there, '3' here"),
        ({"a": "X(\n  1\n)"}, {"a": "X(\n  1\n  2\n)"}, "a has ')' there, '2' here"),
        ({"a": "X"}, {}, "a has 'X' there, 'nothing' here"),
        ({}, {"a": "X"}, "a has 'nothing' there, 'X' here"),
    ],
)
def test_the_first_difference_of_two_modules_is_named(there, here, message):
    assert different_parts(there, here) == message


# Signals


@pytest.fixture(autouse=True)
def python_s_own_handler():
    """A shell that starts the tests in the background has Ctrl-C ignored; here it interrupts."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_is_a_request_and_the_handlers_come_back(number):
    former = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.signal == number
    assert former == {n: signal.getsignal(n) for n in former}


def test_without_a_signal_the_handlers_come_back_too():
    with pytest.raises(ZeroDivisionError), StopRequest():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_second_ctrl_c_interrupts_at_once():
    with StopRequest():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_sigterm_ends_the_process():
    code = (
        "import signal; from pyrovae.files import StopRequest\n"
        "with StopRequest():\n    signal.raise_signal(15)\n    signal.raise_signal(15)\nprint('never')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert (result.returncode, result.stdout) == (-signal.SIGTERM, b"")


def test_outside_the_main_thread_it_does_nothing():
    seen = []

    def work():
        with StopRequest() as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def test_saving_warns_of_nothing(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filled(tmp_path, 1, 2).load_latest()
    assert not caught
