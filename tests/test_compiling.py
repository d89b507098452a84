"""Graphs of loss and gradients: the numbers of the program itself, or none."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import Choosing, counts, counts_vae
from pyro.infer import TraceMeanField_ELBO
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyrovae as pvae
from pyrovae.compiling import Graph, UntraceableError, trace
from pyrovae.training.traced import Traced


@pytest.fixture(autouse=True)
def empty_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def trained(make, x, level, **options):
    """Weights, history and the engine's name after a training from one seed."""
    torch.manual_seed(0)
    pyro.clear_param_store()
    program = make()
    settings = {"epochs": 3, "batch_size": 16, "seed": 3, "progress": False, **options}
    history = pvae.fit(program, x() if callable(x) else x, compile=level, **settings)
    tensors = program.state_dict() if isinstance(program, nn.Module) else pyro.get_param_store()._params
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in history.rows]
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}, rows, history


def assert_same(one, other):
    """To the bit: weights, buffers and every column of the history."""
    assert one[0].keys() == other[0].keys()
    for name, tensor in one[0].items():
        assert torch.equal(tensor, other[0][name]), name
    assert str(one[1]) == str(other[1])  # NaN is NaN


def normal_vae(**settings):
    return pvae.VAE(
        pvae.standard_normal(2),
        pvae.Factorized(dist.Normal, pvae.MLP(2, (8,), **settings), event_shape=5),
        pvae.Factorized(dist.Normal, pvae.MLP(5, (8,), **settings), event_shape=2),
    )


def missing():
    x = torch.randn(72, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x.masked_fill(torch.rand(72, 5, generator=torch.Generator().manual_seed(1)) < 0.3, math.nan)


def grey():
    levels = torch.rand(72, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return pvae.data.Data(levels, variant="dynamic", transform=pvae.data.Binarize())


def bernoulli_vae():
    likelihood = pvae.Factorized(dist.Bernoulli, pvae.MLP(2, (8,)), event_shape=5)
    return pvae.VAE(pvae.standard_normal(2), likelihood, pvae.Factorized(dist.Normal, pvae.MLP(5, (8,)), event_shape=2))


def loader():
    return DataLoader(TensorDataset(counts(72).double()), batch_size=16, shuffle=False)


class Averaged(nn.Module):
    """A likelihood that updates the mean of its inputs in evaluation, too."""

    covariate_names = ()

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 5)
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, z, covariates=None):
        with torch.no_grad():
            self.mean.mul_(0.9).add_(0.1 * z.reshape(-1, 2).mean(0))
        return dist.Normal(self.layer(z - self.mean), 1.0).to_event(1)


def averaged_vae():
    posterior = pvae.Factorized(dist.Normal, pvae.MLP(5, (8,)), event_shape=2)
    return pvae.VAE(pvae.standard_normal(2), Averaged(), posterior)


rates = pvae.schedules
COUNTS = counts(72).double()
SAME = {
    "plain, an incomplete last batch": (counts_vae, COUNTS, {}),
    "one batch of all rows": (counts_vae, COUNTS, {"batch_size": 72}),
    "dropout": (functools.partial(counts_vae, dropout=0.3), COUNTS, {}),
    "batch norm": (functools.partial(counts_vae, normalization=nn.BatchNorm1d), COUNTS, {}),
    "a buffer that is written to in evaluation, too": (averaged_vae, COUNTS, {}),
    "missing entries": (normal_vae, missing, {}),
    "dynamic binarization": (bernoulli_vae, grey, {}),
    "a transform by a function": (
        counts_vae,
        COUNTS,
        {"transform": lambda x, generator: x + torch.rand(x.shape).round()},
    ),
    "a loader": (counts_vae, loader, {}),
    "beta by a schedule": (counts_vae, COUNTS, {"beta": rates.linear(0.0, 1.0, epochs=3)}),
    "beta by site": (counts_vae, COUNTS, {"beta": {"z": rates.linear(0.0, 1.0, epochs=3)}}),
    "one cycle, clipped": (counts_vae, COUNTS, {"learning_rate": rates.one_cycle(0.05, epochs=3), "clip_norm": 0.5}),
    "capacity": (counts_vae, COUNTS, {"objective": pvae.CapacityELBO(rates.linear(0.0, 2.0, epochs=3), gamma=10.0)}),
    "weight decay": (counts_vae, COUNTS, {"weight_decay": 0.1}),
    "momentum": (counts_vae, COUNTS, {"optimizer": functools.partial(torch.optim.SGD, lr=1e-3, momentum=0.9)}),
    "scheduled": (counts_vae, COUNTS, {"scheduler": functools.partial(torch.optim.lr_scheduler.StepLR, step_size=4)}),
    "validation and the best": (counts_vae, COUNTS, {"validation": 0.25, "keep_best": True}),
    "closed-form divergence": (counts_vae, COUNTS, {"objective": TraceMeanField_ELBO()}),
    "importance weighted": (counts_vae, COUNTS, {"objective": pvae.ImportanceWeightedELBO(4)}),
    "doubly reparameterized": (counts_vae, COUNTS, {"objective": pvae.ImportanceWeightedELBO(4, "dreg")}),
    "free bits": (counts_vae, COUNTS, {"objective": pvae.FreeBitsELBO(0.1)}),
}


@pytest.mark.parametrize("name", SAME)
def test_in_double_precision_every_number_is_that_of_the_eager_engine(name):
    make, x, options = SAME[name]
    program = lambda: make().double()  # noqa: E731
    eager, traced = (trained(program, x, level, **options) for level in (False, "trace"))
    assert traced[2].engine == "traced"
    assert_same(eager, traced)


def test_the_graph_is_compared_in_the_first_step_after_a_resumption_too(tmp_path, monkeypatch):
    compared, expected = [], Traced.expected
    monkeypatch.setattr(
        Traced, "expected", lambda e, state, *rest: compared.append(state.step) or expected(e, state, *rest)
    )
    settings = {"learning_rate": 0.01, "checkpoint": tmp_path / "run"}
    trained(counts_vae, COUNTS, "trace", **settings, steps=7, epochs=None)
    assert compared == [0, 2, 4, 6]  # the steps have doubled, and the last one
    trained(counts_vae, COUNTS, "trace", **settings, resume=True)
    assert compared == [0, 2, 4, 6, 7, 14]


def test_in_single_precision_the_numbers_are_as_close_as_rounding():
    eager, traced = (trained(counts_vae, COUNTS.float(), level, epochs=20) for level in (False, "trace"))
    for name, tensor in eager[0].items():
        torch.testing.assert_close(traced[0][name], tensor, rtol=1e-3, atol=1e-4)
    assert traced[1][-1]["loss"] == pytest.approx(eager[1][-1]["loss"], rel=1e-4)


# What falls back, and what is refused


def branching(x):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 2.0 if z > 0 else 1.0), obs=x)


def level_guide(x):
    pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.0, dtype=torch.float64)), 1.0))


def test_a_program_that_cannot_be_traced_trains_eagerly_and_the_line_is_named():
    x, options = torch.randn(20, dtype=torch.float64), {"batch_size": 20}
    eager = trained(lambda: (branching, level_guide), x, False, **options)
    with pytest.warns(
        UserWarning, match=r"without a graph: .*reads a number from a tensor at test_compiling\.py:\d+ \(pyro.sample"
    ):
        traced = trained(lambda: (branching, level_guide), x, "trace", **options)
    assert_same(eager, traced)
    assert traced[2].engine.startswith("eager: the program reads a number from a tensor at test_compiling.py")


class Tempered(nn.Module):
    """A program with a Python number in it, which a callback may change."""

    def __init__(self):
        super().__init__()
        self.loc, self.scale = nn.Parameter(torch.zeros(5, dtype=torch.float64)), 1.0

    def model(self, x):
        pvae.register(tempered=self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(self.loc + z[..., None], self.scale).to_event(1), obs=x)

    def guide(self, x):
        pvae.register(tempered=self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.mean(-1), 0.5))


@pytest.mark.parametrize(("epoch", "agreed"), [(1, 2), (2, 4), (3, 8)])
def test_a_number_that_a_callback_changes_is_found_before_the_next_step(epoch, agreed):
    def run(level):
        program = Tempered()

        def change(history):
            program.scale = 1.5 if len(history) >= epoch else 1.0

        return trained(lambda: program, COUNTS[:64], level, epochs=5, callbacks=[change])

    eager = run(False)
    with pytest.warns(
        UserWarning, match=rf"at step {4 * epoch} the program gives .* since step {agreed} at the earliest"
    ):
        traced = run("trace")
    assert_same(eager, traced)


@pytest.mark.parametrize(
    ("change", "epochs", "told"), [(9, 5, r"at step 8 .* since step 4"), (20, 6, r"at step 23 .* since step 16")]
)
def test_a_number_that_the_learning_rate_s_schedule_changes_is_found_at_the_next_audit(change, epochs, told):
    """Without callbacks steps 0, 1, 2, 4, 8, ... and the last one are compared; an epoch's numbers are asked for at its start."""
    program = Tempered()

    def schedule(progress):
        program.scale = 1.0 if progress.step < change else 1.5
        return 1e-3

    with pytest.warns(UserWarning, match=told + " at the earliest, and steps after it"):
        trained(lambda: program, COUNTS[:64], "trace", epochs=epochs, learning_rate=schedule)


def test_what_a_callback_changes_for_evaluation_alone_is_in_the_history_at_once():
    def run(level):
        program = counts_vae().double()
        decoder, shift = program.likelihood.net, [0.0]
        decoder.register_forward_hook(lambda net, given, found: found + (0.0 if net.training else shift[0]))

        def change(history):
            shift[0] = 1.0 if len(history) >= 5 else 0.0

        return trained(lambda: program, COUNTS[:64], level, epochs=7, callbacks=[change])[1]

    columns = [[row["elbo"] for row in run(level)] for level in (False, "trace")]
    assert columns[1] == pytest.approx(columns[0], rel=1e-9)


@pytest.mark.parametrize("level", [False, "trace"])
def test_programs_in_sixteen_bits_train(level):
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    history = trained(lambda: normal_vae().bfloat16(), x.bfloat16(), level, epochs=2)[2]
    assert math.isfinite(history["loss"][-1])
    assert history.engine == ("traced" if level else "eager")


def test_a_part_that_is_swapped_is_refused_as_by_the_eager_engine():
    vae = counts_vae().double()

    def swap(history):
        vae.posterior.net.head.bias = nn.Parameter(vae.posterior.net.head.bias.detach().clone())

    with pytest.raises(ValueError, match=r"another tensor in the place of the parameter \S+head\.bias"):
        trained(lambda: vae, COUNTS, "trace", callbacks=[swap])


def test_weights_that_a_callback_sets_are_those_that_go_on():
    def halve(program, history):
        for parameter in program.parameters():
            parameter.data = parameter.data * 0.5

    runs = []
    for level in (False, "trace"):
        vae = counts_vae().double()
        runs.append(trained(lambda vae=vae: vae, COUNTS, level, callbacks=[functools.partial(halve, vae)]))
    assert_same(*runs)
    assert runs[1][2].engine == "traced"


@pytest.mark.parametrize("rows", [(3,), (3, 20), (3, 20, 40)])
def test_bad_batches_are_skipped_as_by_the_eager_engine(rows):
    x = COUNTS.clone()
    x[list(rows)] = 1e300  # finite, and its square is not
    make = lambda: normal_vae(normalization=nn.BatchNorm1d).double()  # noqa: E731
    eager, traced = (trained(make, x, level) for level in (False, "trace"))
    assert sum(row["skipped"] for row in traced[1]) > 0
    assert_same(eager, traced)


def test_draws_that_torch_refuses_are_skipped_and_explained():
    program = Choosing()

    def spoil(history):
        if len(history) == 2:
            program.net.weight.data[1, 1] = math.nan

    with pytest.raises(FloatingPointError, match=r"3 steps.*'choosing.net.weight' is not finite"):
        trained(lambda: program, COUNTS.float(), "trace", max_skipped=2, callbacks=[spoil], epochs=9)


def test_a_graph_that_fails_where_the_program_does_not_is_given_up(monkeypatch):
    def fail(self, inputs):
        raise RuntimeError("no such operation")

    monkeypatch.setattr(Graph, "__call__", fail)
    with pytest.warns(UserWarning, match="its graph fails where the program does not \\(no such operation\\)"):
        traced = trained(lambda: counts_vae().double(), COUNTS, "trace")
    assert_same(trained(lambda: counts_vae().double(), COUNTS, False), traced)


def test_what_depends_on_no_tensor_is_computed_once():
    weight, shift = torch.randn(3, requires_grad=True), torch.tensor([1.0, 2.0, 3.0])

    def loss(x):
        fixed = torch.arange(3.0).exp() + torch.ones_like(x).cumsum(0)
        return (weight * x * fixed + torch.rand(3) * shift).sum()

    graph = trace(loss, [torch.ones(3)], [torch.zeros(3)], [weight])
    operations = graph.forward.__self__.code
    assert "cumsum" not in operations
    assert "exp" not in operations.replace("expand", "")
    assert "cumsum" in graph.module.code
    for x in torch.randn(2, 3):
        shift += 1.0  # a tensor that the program holds may change, and noise is drawn anew
        torch.manual_seed(0)
        expected = loss(x)
        (gradient,) = torch.autograd.grad(expected, weight)
        for _ in range(2):
            torch.manual_seed(0)
            value, found = graph([x])
            assert torch.equal(value, expected)
            assert torch.equal(found, gradient)
            found.zero_()  # results are the caller's, who may write to them


def reshaped(x):
    held = torch.arange(6.0).view(2, 3).t().reshape(-1)
    return held.add_(1).sum()


def halves(x):
    base = torch.zeros(4)
    left, right = base.chunk(2)
    left.add_(1.0)
    right.add_(x.sum())
    return base.sum()


def rows(x):
    base = torch.zeros(3, 2)
    for number, row in enumerate(base):
        row.add_(number + x.mean())
    return base.square().sum()


def given(x):
    one, other = torch.zeros(3), torch.zeros(3)
    torch.mul(x, 2, out=one)
    torch.mul(x, 3, out=other)
    return (one - other).sum()


def together(x):
    one, other = torch.zeros(3), torch.zeros(3)
    torch._foreach_add_([one, other], [x, 2 * x])
    return (one * other).sum()


def twice(x):
    flat = x.expand(2, 3).t().reshape(-1)
    flat += 1.0
    return flat.prod() + x.expand(2, 3).t().reshape(-1).sum()


@pytest.mark.parametrize("written", [reshaped, halves, rows, given, together, twice])
def test_a_tensor_that_the_program_writes_to_begins_anew_in_each_step(written):
    weight = torch.randn(3, requires_grad=True)
    graph = trace(lambda x: (weight * x).sum() * written(x), [torch.ones(3)], [torch.zeros(3)], [weight])
    for x in torch.randn(3, 3):
        assert torch.equal(graph([x])[0], (weight * x).sum() * written(x))


def test_an_operation_of_one_s_own_is_not_torch_s_of_the_same_name():
    with torch.library._scoped_library("of_tests", "FRAGMENT") as library:
        library.define("square(Tensor x) -> Tensor")
        library.impl("square", lambda x: x**3, "CompositeExplicitAutograd")
        library.define("noise(int n) -> Tensor")
        library.impl("noise", lambda n: torch.rand(n), "CompositeExplicitAutograd")
        own, x = torch.ops.of_tests, torch.tensor([2.0, 3.0])
        graph = trace(lambda x: own.square(x).sum(), [x], [x.flip(0)], [])
        assert graph([x])[0] == 35.0
        noise = trace(lambda x: own.noise(2).sum(), [x], [x.flip(0)], [])
        assert noise([x])[0] != noise([x])[0]


def test_a_graph_holds_the_tensors_of_the_program_once():
    data, weight = torch.randn(100, 3), torch.randn(3, requires_grad=True)
    graph = trace(lambda x: (data * weight * x).sum(), [torch.ones(3)], [torch.zeros(3)], [weight])
    replayed = graph.forward.__self__
    assert {tensor.data_ptr() for tensor in replayed.state_dict().values()} <= {data.data_ptr(), weight.data_ptr()}


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_a_binding_with_other_defaults_gives_the_numbers_of_the_operation(reduction):
    loss = functools.partial(torch.nn.functional.binary_cross_entropy_with_logits, reduction=reduction)
    x, seen = torch.randn(3, 2), torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    graph = trace(lambda x: loss(x, seen), [x], [x.flip(0)], [])
    assert "torch.binary_cross_entropy_with_logits" in graph.module.code
    assert torch.equal(graph([x])[0], loss(x, seen))


def test_one_hot_is_traced_where_the_number_of_classes_is_given():
    one_hot, x = torch.nn.functional.one_hot, torch.tensor([[0, 2, 1]])
    graph = trace(lambda x: torch.nn.functional.one_hot(x, 4), [x], [x.flip(1)], [])
    assert torch.equal(graph([x + 1])[0], one_hot(x + 1, 4))
    assert torch.nn.functional.one_hot is one_hot
    with pytest.raises(RuntimeError, match="out of bounds"):
        graph([x + 2])
    with pytest.raises(UntraceableError, match="reads a number"):
        trace(lambda x: torch.nn.functional.one_hot(x), [x], [x.flip(1)], [])


def test_a_generator_of_the_program_s_own_is_no_stream_of_a_graph():
    own = torch.Generator().manual_seed(0)
    with pytest.raises(UntraceableError, match="a generator of the program's own"):
        trace(lambda x: (x + torch.randn(3, generator=own)).sum(), [torch.ones(3)], [torch.zeros(3)], [])


def test_why_a_training_with_a_transform_is_not_compiled_is_told():
    with pytest.warns(UserWarning, match="replayed, not compiled: batches come from a loader, a transform"):
        _, _, history = trained(lambda: counts_vae().double(), COUNTS, "compile", transform=lambda x, generator: x + 0)
    assert history.engine.startswith("traced, not compiled: batches come from")


class Sizes(torch.utils.data.Sampler):
    """Batches of 1, 2, 3, ... rows."""

    def __init__(self, most):
        self.most = most

    def __iter__(self):
        return iter([list(range(size)) for size in range(2, self.most + 2)])

    def __len__(self):
        return self.most


@pytest.mark.parametrize(("shapes", "engine"), [(8, "traced"), (9, "eager: batches have more than 8 shapes")])
def test_a_loader_of_many_shapes_is_not_traced_for_each(shapes, engine):
    rows = TensorDataset(COUNTS)

    def run(level):
        loader = DataLoader(rows, batch_sampler=Sizes(shapes))
        return trained(lambda: counts_vae().double(), lambda: loader, level, epochs=1)

    eager = run(False)
    if engine == "traced":
        traced = run("trace")
    else:
        with pytest.warns(UserWarning, match="more than 8 shapes"):
            traced = run("trace")
    assert traced[2].engine == engine
    assert_same(eager, traced)


def test_an_unknown_level_is_refused():
    with pytest.raises(ValueError, match="compile must be one of"):
        pvae.fit(counts_vae(), COUNTS, compile="fast")
