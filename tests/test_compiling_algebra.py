"""Rewriting of replayed graphs: the same numbers to the bit, by fewer calls; what is written to stays as it is."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pvae
from pyrovae.compiling import trace
from pyrovae.compiling.products import denormals_as_zero

ROWS, COLUMNS = 6, 4


def calls(graph):
    """The names of the operations of the replayed graph, in order."""
    nodes = graph.forward.__self__.graph.nodes
    return [getattr(node.target, "__name__", str(node.target)) for node in nodes if node.op.startswith("call")]


def traced(function, *shapes, dtype=torch.float32):
    inputs = [torch.randn(*shape, dtype=dtype).abs() + 0.5 for shape in shapes]
    graph = trace(function, inputs, [tensor.flip(0) for tensor in inputs], [])
    (found,) = graph(inputs)
    assert_same(found, function(*inputs))
    return calls(graph)


def assert_same(one, other):
    """The same bits, signs of zeros included, in the same layout."""
    assert one.stride() == other.stride()
    kinds = {torch.float32: torch.int32, torch.float64: torch.int64}
    kind = kinds.get(one.dtype, one.dtype)
    assert torch.equal(one.view(kind), other.view(kind))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x, y: x + -y, ["sub"]),
        (lambda x, y: -x + y, ["sub"]),
        (lambda x, y: x - -y, ["add"]),
        (lambda x, y: x + y * -1, ["sub"]),
        (lambda x, y: x + -y / x * 3.0, ["div", "mul", "add"]),
        (lambda x, y: x * (y * -(x / y)) + x, ["div", "mul", "mul", "sub"]),
        (lambda x, y: -(x - y) * 3.0, ["sub", "mul"]),
        (lambda x, y: -(x * 3.0) + y, ["mul", "add"]),
        (lambda x, y: -(torch.ones(ROWS, COLUMNS) * 2 / x) * y, ["div", "mul"]),
        (lambda x, y: (x**2 + y) * 2.0, ["mul", "add", "mul"]),
        (lambda x, y: torch.add(x, -y, alpha=2), ["neg", "add"]),
    ],
)
def test_signs_move_to_where_they_vanish(function, expected):
    for dtype in (torch.float32, torch.float64):
        assert traced(function, (ROWS, COLUMNS), (ROWS, COLUMNS), dtype=dtype) == expected


def test_what_is_repeated_is_computed_before_it_is_repeated():
    def normal(x, scale):
        scale = scale.expand(ROWS, COLUMNS)
        return x / (2 * scale**2) - scale.log()

    assert traced(normal, (ROWS, COLUMNS), (COLUMNS,)) == ["mul", "mul", "div", "log", "sub"]
    assert traced(lambda x, y: x.expand(ROWS, COLUMNS) * y.expand(ROWS, COLUMNS), (COLUMNS,), (1, COLUMNS))[-1] == "mul"


def test_axes_of_length_one_are_left_out():
    assert traced(lambda x: x.sum([0], keepdim=True).view(COLUMNS) * 2, (ROWS, COLUMNS)) == ["sum", "mul"]
    assert traced(lambda x: torch.stack([x], -2).view(ROWS, COLUMNS) * 2, (ROWS, COLUMNS)) == ["mul"]


def test_what_is_written_to_stays():
    def moving(x, mean):
        before = -mean
        mean.mul_(0.5).add_(x.mean(0) * -1)
        return x + before + -mean

    x, mean = torch.randn(ROWS, COLUMNS), torch.randn(COLUMNS)
    graph = trace(lambda x: moving(x, mean.clone()), [x], [x.flip(0)], [])
    assert torch.equal(graph([x])[0], moving(x, mean.clone()))
    buffer = mean.clone()
    graph = trace(lambda x: moving(x, buffer), [x], [x.flip(0)], [])
    buffer.copy_(mean)
    found, other = graph([x])[0], mean.clone()
    assert torch.equal(found, moving(x, other))
    assert torch.equal(buffer, other)


def test_numbers_of_other_types_are_left_alone():
    assert traced(lambda x: (x > 1) * -1 + x, (ROWS, COLUMNS))[-1] == "add"
    assert traced(lambda x: x.half() * 3.1 - -x, (ROWS, COLUMNS))
    assert traced(lambda x: (x * 3).long() * -1, (ROWS, COLUMNS))


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: -x + y.t(),
        lambda x, y: (-(x / y.t())).contiguous() + x,
        lambda x, y: -y.t() * x.t() - x,
        lambda x, y: x[:1].expand(4, 4).log(),
        lambda x, y: x[:, :1].expand(4, 4).log() * 2,
        lambda x, y: x[:1].expand(4, 4) * y.t(),
        lambda x, y: (-(x - x) / y).atan2(-y),
        lambda x, y: (-x - x) / y + (x * 0 * -y),
        lambda x, y: (-(x * 0)).sum(0) / -y,
        lambda x, y: -x / 0,
        lambda x, y: -x * 0,
        lambda x, y: -x * True,
    ],
)
def test_layouts_and_signs_of_zeros_stay(function):
    traced(function, (4, 4), (4, 4))


def test_gradients_keep_the_layout_of_their_parameters():
    """Adam's fused kernel goes through memory: it would read a gradient of another layout wrongly, or beyond its end."""
    fixed = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))

    def trained(level, mean):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(8, 8))

        def model(x):
            pyro.module("model", nn.ParameterDict({"w": weight}))
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z + mean(weight), 1.0), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x, 1.0))

        x = torch.randn(64, generator=torch.Generator().manual_seed(1))
        history = pvae.fit((model, guide), x, epochs=5, batch_size=16, seed=0, compile=level, progress=False)
        assert history.engine.startswith("eager" if level is False else "traced")
        return weight.detach()

    for mean in (
        lambda w: ((w.t() - w) * fixed).sum() * 0.01,
        lambda w: (-w).sum() * 0.01,
        lambda w: (w * 0.02).sum(),
        lambda w: (w * -fixed.t()).sum(0).mean(),
    ):
        pyro.clear_param_store()
        expected = trained(False, mean)
        pyro.clear_param_store()
        assert torch.equal(trained("trace", mean), expected)
    pyro.clear_param_store()


def test_random_expressions_keep_every_bit():
    """A few hundred expressions of signs, numbers, sums and repeated vectors, with their gradients."""
    generator = torch.Generator().manual_seed(0)

    def pick(*choices):
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    def expression(depth):
        if not depth:
            return pick("x", "y", "v.expand(6, 4)", "w", "-x", "-v", "-w")
        one, other = expression(depth - 1), expression(depth - 1)
        return pick(
            f"({one} + {other})",
            f"({one} - {other})",
            f"(-({one}))",
            f"({one} * {other})",
            f"({one} / {pick(3.7, -2, 'y.abs().add(1)')})",
            f"({one} * {pick(-1, 2, -0.3, 1.7)})",
            f"(({one}) ** 2)",
            f"(({one}) * x).sum(0, keepdim=True)",
            f"(({one}) * x).sum(-1, keepdim=True)",
            f"({one} - {pick(0.9, -1.1)})",
        )

    for _ in range(200):
        text = expression(3)
        v, w = (nn.Parameter(torch.randn(*shape, generator=generator)) for shape in ((4,), (6, 4)))
        function = eval(f"lambda x, y: ({text} + 0 * x).sum()", {"v": v, "w": w})
        inputs = [torch.randn(6, 4, generator=generator) for _ in range(2)]
        graph = trace(function, inputs, [tensor.flip(0) for tensor in inputs], [v, w])
        loss, *gradients = graph(inputs)
        expected = function(*inputs)
        assert_same(loss, expected.detach())
        used = torch.autograd.grad(expected, [v, w], allow_unused=True) if expected.requires_grad else []
        for found, right in zip(gradients, [g for g in used if g is not None], strict=True):
            assert_same(found, right)


@pytest.fixture(params=[torch.float32, torch.float64])
def default_dtype(request):
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("default_dtype")
def test_the_smallest_numbers_are_zero_inside_alone():
    tiny = torch.tensor(1e-39, dtype=torch.float32)
    with denormals_as_zero():
        assert tiny / 2 == 0
        with denormals_as_zero():
            pass
        assert tiny / 2 == 0
    assert tiny / 2 > 0
    torch.set_flush_denormal(True)
    try:
        with denormals_as_zero():
            pass
        assert tiny / 2 == 0
    finally:
        torch.set_flush_denormal(False)
