"""Loss, state and engine: what one step computes, what a bad step leaves alone, and that noise hangs on the step's number."""

import copy
import functools
import math
from concurrent.futures import ThreadPoolExecutor

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import PPCA
from programs import Choosing, convolutional_vae, counts, counts_vae
from pyro.infer import Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch import nn

import pyrovae as pvae
from pyrovae.data import Batch
from pyrovae.programs import Program, dry_run
from pyrovae.training.engine import Eager, Plan, State
from pyrovae.training.loss import Loss
from pyrovae.training.optimizer import TorchOptimizer
from pyrovae.training.rows import noise_seed


@pytest.fixture(autouse=True)
def empty_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def loss_of(program, x, num_rows=None, objective=None, numbers=None, checked=()):
    program = Program.of(program)
    size = num_rows or len(x)
    found = dry_run(*program.on(x, None, size, torch.arange(len(x))))
    return Loss(program, objective or Trace_ELBO(), found, size, numbers, checked)


def batch_of(x):
    return Batch(torch.arange(len(x)), x, None)


def value_and_gradient(loss, x):
    torch.manual_seed(3)
    value = loss(batch_of(x))
    tensors = list(loss.announced.trained.values())
    gradients = torch.autograd.grad(value, tensors, allow_unused=True)
    return value, torch.cat([g.flatten() for g in gradients if g is not None])


def registered(program):
    """The functions of an oracle, which announces no module by itself."""

    def model(x, size=None):
        pvae.register(program=program)
        return program.model(x, size)

    def guide(x, size=None):
        pvae.register(program=program)
        return program.guide(x, size)

    return model, guide


def normal_rows(x, size=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("data", size or len(x), subsample=torch.arange(len(x))), pyro.poutine.mask(mask=x > -0.5):
        z = pyro.sample("z", dist.Normal(mean, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def auxiliary_guide(x, size=None):
    loc = pyro.param("loc", torch.tensor(0.3))
    pyro.sample("mean", dist.Delta(loc))
    with pyro.plate("data", size or len(x), subsample=torch.arange(len(x))):
        draw = pyro.sample("draw", dist.Normal(loc * x, 0.5), infer={"is_auxiliary": True})
        with pyro.poutine.mask(mask=x > -0.5):
            pyro.sample("z", dist.Delta(2.0 * draw, log_density=-math.log(2.0)))


def rates(x, size=None):
    with pyro.plate("data", size or len(x), subsample=torch.arange(len(x))):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        pyro.sample("x", dist.Poisson(rate), obs=x)


def rate_guide(x, size=None):
    loc = pyro.param("loc", torch.tensor(0.3))
    with pyro.plate("data", size or len(x), subsample=torch.arange(len(x))):
        pyro.sample("rate", dist.LogNormal(loc * x.log1p(), 0.4))


def signs(x, size=None):
    with pyro.plate("data", size or len(x), subsample=torch.arange(len(x))):
        z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def sign_guide(x, size=None):
    slope = pyro.param("slope", torch.tensor(0.3))
    with pyro.plate("data", size or len(x), subsample=torch.arange(len(x))):
        pyro.sample("z", dist.Bernoulli(logits=slope * x))


SUMMED = {
    "vae": lambda: (counts_vae(), counts(16)),
    "missing": lambda: (counts_vae(), counts(16).masked_fill(torch.rand(16, 5) < 0.3, math.nan)),
    "exact guide": lambda: (registered(PPCA.random(dtype=torch.float32)), torch.randn(16, 6)),
    "a positive latent": lambda: ((rates, rate_guide), torch.arange(16.0)),
    "masks, auxiliary draws, a global point": lambda: ((normal_rows, auxiliary_guide), torch.randn(16)),
    "autoguide of all": lambda: ((normal_rows, AutoNormal(normal_rows)), torch.randn(16)),
    "joint autoguide": lambda: ((normal_rows, AutoMultivariateNormal(normal_rows)), torch.randn(16)),
}


@pytest.mark.parametrize("name", SUMMED)
@pytest.mark.parametrize("numbers", [{}, {"beta": 0.3}])
def test_the_plain_sum_is_the_elbo_of_pyro_with_its_gradient(name, numbers):
    torch.manual_seed(0)
    if numbers and name == "joint autoguide":
        pytest.skip("beta refuses draws outside the plate")
    program, x = SUMMED[name]()
    loss = loss_of(program, x, None if name.endswith("autoguide") or "of all" in name else 40, numbers=numbers)
    assert loss.summed
    ours = value_and_gradient(loss, x)
    loss.summed = False
    for one, other in zip(ours, value_and_gradient(loss, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    program, args, kwargs, size = loss.arguments(batch_of(x))
    torch.manual_seed(3)
    assert ours[0].item() == pytest.approx(Trace_ELBO().loss(program.model, program.guide, *args, **kwargs) / size)


def test_a_guide_without_reparameterized_draws_trains_by_its_score():
    x = torch.randn(8)
    loss = loss_of((signs, sign_guide), x, 20)
    assert not loss.summed
    value, gradient = value_and_gradient(loss, x)
    torch.manual_seed(3)
    expected = Trace_ELBO(max_plate_nesting=1).loss_and_grads(signs, sign_guide, x, size=20) / 20
    assert value.item() == pytest.approx(expected)
    torch.testing.assert_close(gradient, pyro.get_param_store()._params["slope"].grad[None] / 20)


def test_a_draw_without_a_derivative_that_appears_later_is_left_to_the_objective():
    discrete = False

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5) if discrete else dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        p = pyro.param("p", torch.tensor(0.4))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(p) if discrete else dist.Normal(p, 1.0))

    x = torch.randn(8)
    loss = loss_of((model, guide), x)
    assert loss.summed
    discrete = True
    _, gradient = value_and_gradient(loss, x)
    assert gradient.abs() > 0
    loss.summed = False
    torch.manual_seed(3)
    guide(x)  # the attempt at the plain sum has drawn once
    state = torch.get_rng_state()
    torch.manual_seed(3)
    torch.set_rng_state(state)
    (expected,) = torch.autograd.grad(loss(batch_of(x)), list(loss.announced.trained.values()))
    torch.testing.assert_close(gradient, expected[None])


def test_an_objective_that_gives_gradients_alone_is_a_loss_too():
    torch.manual_seed(0)
    vae, x = counts_vae(), counts(16)
    loss = loss_of(vae, x, 40, TraceGraph_ELBO())
    assert not loss.differentiable
    value, gradient = value_and_gradient(loss, x)
    assert all(parameter.grad is None for parameter in vae.parameters())
    torch.manual_seed(3)
    assert value.item() == pytest.approx(TraceGraph_ELBO().loss_and_grads(vae.model, vae.guide, x, size=40) / 40)
    plain = torch.cat([tensor.grad.flatten() for tensor in loss.announced.trained.values()]) / 40
    torch.testing.assert_close(gradient, plain)


def test_the_objective_of_the_caller_is_left_as_it_was():
    schedule = pvae.schedules.linear(0.0, 2.0, epochs=2)
    for objective in (Trace_ELBO(), TraceMeanField_ELBO(), pvae.CapacityELBO(schedule, gamma=10.0)):
        before = copy.copy(vars(objective))
        pvae.fit(counts_vae(), counts(), epochs=2, objective=objective, seed=0)
        assert vars(objective) == before


# States and engines


def engine_of(vae, max_skipped=10, make=None, **optimizer):
    """An engine for 64 rows of counts and a state; ``make`` is the torch optimizer, by default the fused Adam of fit."""
    x = counts(64)
    loss = loss_of(vae, x[:16], len(x))
    loss.train()
    make = make or functools.partial(torch.optim.Adam, lr=0.01, fused=True)
    state = State(
        loss.announced.tensors, TorchOptimizer(make, loss.announced.trained.values(), **optimizer), 7, torch.zeros(())
    )
    return Eager(loss, max_skipped), state


def gather(bad=()):
    """Rows by number; those in ``bad`` are infinite."""
    x = counts(64)
    x[list(bad)] = math.inf
    return lambda index: Batch(index, x[index], None)


def plan(steps, rows=16):
    return Plan(torch.stack([torch.arange(rows) + rows * (step % (64 // rows)) for step in range(steps)]), {})


def everything(state):
    tensors = {name: tensor.detach().clone() for name, tensor in state.weights.items()}
    moments = state.optimizer.torch_optimizer.state_dict()["state"]
    return tensors | {
        f"{n}.{key}": torch.as_tensor(v).clone() for n, entry in moments.items() for key, v in entry.items()
    }


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Averaging(nn.Module):
    """A layer that replaces its buffer by a new tensor in each pass, and a counter that it changes in place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(5))
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
            self.passes += 1
        return x - self.mean.detach()


def averaging_vae():
    torch.manual_seed(0)
    posterior = pvae.Factorized(
        dist.Normal, pvae.BatchAxes(nn.Sequential(Averaging(), nn.Linear(5, 4), nn.Unflatten(-1, (2, 2))), 5, (2, 2)), 2
    )
    return pvae.VAE(pvae.standard_normal(2), counts_vae().likelihood, posterior)


def normalized_vae():
    torch.manual_seed(0)
    return counts_vae(normalization=nn.BatchNorm1d)


OPTIMIZERS = {
    "fused Adam": (None, {}),
    "clipped": (None, {"clip_norm": 0.1}),
    "fused AdamW": (functools.partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1, fused=True), {}),
    "momentum, not fused": (functools.partial(torch.optim.SGD, lr=1e-3, momentum=0.9), {}),
    "scheduled": (None, {"scheduler": functools.partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5)}),
}


@pytest.mark.parametrize("vae", [averaging_vae, normalized_vae])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_bad_step_changes_neither_weights_nor_moments_nor_buffers(vae, name):
    make, options = OPTIMIZERS[name]
    engine, state = engine_of(vae(), make=make, **options)
    engine.run(state, plan(1), gather())
    before, rate = everything(state), state.optimizer.torch_optimizer.param_groups[0]["lr"]
    assert any("running_mean" in name or name.endswith(".mean") for name in before)
    _, outcomes = engine.run(state, plan(3), gather(bad=(0, 17, 40)))
    assert not outcomes.taken.any()
    assert same(everything(state), before)
    assert state.optimizer.torch_optimizer.param_groups[0]["lr"] == rate
    assert (state.step, int(state.bad)) == (4, 3)
    _, outcomes = engine.run(state, plan(1), gather())
    assert outcomes.taken.all()
    assert not same(everything(state), before)
    assert int(state.bad) == 0


def test_a_bad_first_step_leaves_training_as_if_it_began_with_the_second():
    results = []
    for bad in ((3,), (3, 20)):
        engine, state = engine_of(normalized_vae())
        engine.run(state, plan(3), gather(bad))
        results.append(everything(state))
    other, later = engine_of(normalized_vae())
    later.step = 1
    other.run(later, Plan(plan(3).rows[1:], {}), gather())
    assert same(everything(later), results[0])
    assert not same(results[0], results[1])


def test_a_buffer_that_a_module_replaces_stays_the_tensor_of_the_state():
    vae = averaging_vae()
    engine, state = engine_of(vae)
    engine.run(state, plan(2), gather())
    layer = next(part for part in vae.modules() if isinstance(part, Averaging))
    saved = next(tensor for name, tensor in state.weights.items() if name.endswith("mean"))
    assert layer.mean is saved
    expected = 0.9 * 0.1 * counts(64)[:16].mean(0) + 0.1 * counts(64)[16:32].mean(0)
    torch.testing.assert_close(saved, expected)
    assert int(layer.passes) == 2


@pytest.mark.parametrize("max_skipped", [0, 2])
def test_after_too_many_bad_steps_nothing_moves_any_more(max_skipped):
    engine, state = engine_of(counts_vae(), max_skipped)
    before = everything(state)
    bad = plan(4).rows[: max_skipped + 1, 0].tolist()  # in the first steps of an epoch of four
    engine.run(state, Plan(plan(4).rows[: max_skipped + 1], {}), gather(bad))
    assert int(state.bad) == max_skipped + 1
    _, outcomes = engine.run(state, plan(4), gather())
    assert outcomes.taken.all()  # finite, and yet not taken
    assert same({name: value for name, value in everything(state).items() if name in before}, before)
    more, other = engine_of(counts_vae(), max_skipped + 1)
    before = everything(other)
    more.run(other, Plan(plan(4).rows[: max_skipped + 1], {}), gather(bad))
    more.run(other, plan(1), gather())
    assert int(other.bad) == 0
    assert not same({name: value for name, value in everything(other).items() if name in before}, before)


def test_steps_do_not_depend_on_how_they_are_cut_into_chunks():
    results = []
    for lengths in ([6], [1, 5], [2, 2, 2]):
        torch.manual_seed(0)
        engine, state = engine_of(counts_vae(dropout=0.3))
        losses = []
        for length in lengths:
            index = torch.stack([plan(6).rows[state.step + number] for number in range(length)])
            losses.append(engine.run(state, Plan(index, {}), gather())[1].loss)
        results.append((everything(state), torch.cat(losses)))
    for weights, losses in results[1:]:
        assert same(weights, results[0][0])
        assert torch.equal(losses, results[0][1])


def test_noise_hangs_on_seed_step_purpose_and_rank():
    seeds = {
        noise_seed(seed, purpose, number, rank)
        for seed in (0, 1, 2**70)
        for purpose in ("step", "order")
        for number in range(50)
        for rank in (0, 1)
    }
    assert len(seeds) == 3 * 2 * 50 * 2
    losses = []
    for rank in (0, 1):
        torch.manual_seed(0)
        engine, state = engine_of(counts_vae())
        engine.rank = rank
        losses.append(engine.run(state, plan(1), gather())[1].loss)
    assert not torch.equal(*losses)


def test_an_incomplete_batch_is_padded_in_the_plan_and_counted_without():
    vae, x = counts_vae(), counts(10)
    seen = []
    vae.posterior.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])) if module.training else None)
    pvae.fit(vae, x, epochs=1, batch_size=4, seed=0)
    assert seen == [4, 4, 2]


def test_schedules_are_tables_of_the_steps():
    vae = counts_vae()
    engine, state = engine_of(vae)
    rates = []
    update = state.optimizer.update
    state.optimizer.update = lambda *args: (
        rates.append(state.optimizer.torch_optimizer.param_groups[0]["lr"]),
        update(*args),
    )
    engine.run(state, plan(3)._replace(numbers={"learning_rate": torch.tensor([0.3, 0.2, 0.1]).double()}), gather())
    assert rates == pytest.approx([0.3, 0.2, 0.1])


# Gradients whose squares overflow


def optimizer_of(scale, dtype=torch.float32, clip_norm=None):
    weight, bias = nn.Parameter(torch.ones(3, 2, dtype=dtype)), nn.Parameter(torch.ones(2, dtype=dtype))
    weight.grad, bias.grad = torch.full_like(weight, scale), torch.full_like(bias, -scale)
    adam = functools.partial(torch.optim.Adam, lr=0.1, fused=True)
    return TorchOptimizer(adam, [weight, bias], clip_norm=clip_norm), weight


@pytest.mark.parametrize("scale", [1.0, 1e15, 1e18, 1e20, 1e38])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_finite_gradients_have_a_finite_norm_and_move_the_weights(scale, clip_norm):
    optimizer, weight = optimizer_of(scale, clip_norm=clip_norm)
    norm = optimizer.gradient_norm()
    assert float(norm) == pytest.approx(scale * math.sqrt(8))
    for _ in range(2):
        optimizer.update(norm, torch.tensor(False))
        moments = optimizer.torch_optimizer.state[weight]
        assert moments["exp_avg_sq"].isfinite().all()
        weight.grad = torch.full_like(weight, scale)
    torch.testing.assert_close(weight.detach(), torch.full((3, 2), 0.9), rtol=0.15, atol=0)


@pytest.mark.parametrize(("scale", "is_scaled"), [(1e17, False), (1e18, True)])
def test_only_gradients_that_cannot_be_squared_are_scaled_down(scale, is_scaled):
    optimizer, weight = optimizer_of(scale)
    optimizer.update(optimizer.gradient_norm(), torch.tensor(False))
    first = optimizer.torch_optimizer.state[weight]["exp_avg"]
    assert (float(first[0, 0]) < 0.09 * scale) == is_scaled


def test_columns_of_large_units_train():
    torch.manual_seed(0)
    x = 1e6 * torch.randn(200, 5)
    vae = pvae.VAE(
        pvae.standard_normal(2),
        pvae.Factorized(dist.Normal, pvae.MLP(2, (8,)), event_shape=5),
        pvae.Factorized(dist.Normal, pvae.MLP(5, (8,)), event_shape=2),
    )
    history = pvae.fit(vae, x, epochs=3, seed=0, clip_norm=1.0)
    assert sum(history["skipped"]) == 0
    assert math.isfinite(history["gradient_norm"][-1])


def test_buffers_of_images_are_put_back_too():
    torch.manual_seed(0)
    vae = convolutional_vae()
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    x = torch.bernoulli(torch.full((16, 1, 8, 8), 0.5))
    vae.posterior.net.register_forward_hook(lambda m, _, out: out * math.nan if m.training else out)
    with pytest.raises(FloatingPointError, match="No step was taken: 3 steps"):
        pvae.fit(vae, x, epochs=3, seed=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in vae.state_dict().items())


def test_draws_that_torch_refuses_are_steps_that_are_not_finite():
    program = Choosing()

    def spoil(history):
        program.net.weight.data[1, 1] = math.nan
        spoiled.append({name: tensor.clone().nan_to_num(7.0) for name, tensor in program.state_dict().items()})

    spoiled = []
    with pytest.raises(FloatingPointError, match=r"3 steps.*'choosing.net.weight' is not finite"):
        pvae.fit(program, counts(64), batch_size=16, epochs=3, max_skipped=2, callbacks=[spoil], seed=0)
    assert all(torch.equal(tensor.nan_to_num(7.0), spoiled[0][name]) for name, tensor in program.state_dict().items())


@pytest.mark.parametrize("level", [False, "trace"])
def test_a_parameter_that_a_callback_replaces_is_refused(level):
    """Values that are changed in place are trained on."""
    program = counts_vae()
    linear = next(module for module in program.likelihood.modules() if isinstance(module, nn.Linear))
    given = {"batch_size": 32, "epochs": 3, "seed": 0, "compile": level, "progress": False}

    def change(history):
        linear.bias.data.fill_(0.5)

    assert len(pvae.fit(program, counts(64), callbacks=[change], **given)) == 3

    def replace(history):
        linear.bias = nn.Parameter(torch.zeros_like(linear.bias))

    with pytest.raises(ValueError, match=r"a callback has put another tensor in the place of the parameter \S+bias"):
        pvae.fit(program, counts(64), callbacks=[replace], **given)


def test_threads_that_train_take_turns():
    """Each ends as it would have ended alone."""

    def train(program):
        pvae.fit(program, counts(64), batch_size=32, epochs=2, seed=0, compile="trace", progress=False)
        return program.state_dict()

    programs = [counts_vae(name=f"vae{number}") for number in range(2)]
    others = copy.deepcopy(programs)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(train, programs))
    for weights, other in zip(found, others, strict=True):
        assert all(torch.equal(tensor, weights[name]) for name, tensor in train(other).items())


def test_an_error_of_the_program_s_own_is_raised_and_leaves_buffers_alone():
    vae, calls = normalized_vae(), []

    def fail(module, args):
        calls.append(module.training)
        if calls.count(True) == 3:
            raise RuntimeError("no more")

    vae.likelihood.register_forward_pre_hook(fail)
    buffers = lambda: {name: tensor.clone() for name, tensor in vae.named_buffers()}  # noqa: E731
    seen = []
    with pytest.raises(RuntimeError, match="no more"):
        pvae.fit(vae, counts(64), batch_size=32, epochs=9, callbacks=[lambda history: seen.append(buffers())], seed=0)
    assert len(seen) == 1
    assert all(torch.equal(tensor, seen[0][name]) for name, tensor in buffers().items())
