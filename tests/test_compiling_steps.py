"""Compiled steps: the numbers of the eager engine up to rounding, kept on disk, and given up where they cannot be had."""

import functools
import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import counts, counts_vae
from test_compiling import Tempered, bernoulli_vae, branching, grey, level_guide, normal_vae, trained
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import pyrovae as pvae
from pyrovae.compiling import Library, step
from pyrovae.compiling.build import sum_apart
from pyrovae.training import compiled as engines
from pyrovae.training import levels, validation
from pyrovae.training.compiled import Call
from pyrovae.training.traced import Traced

COUNTS = counts(72).double()
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-3}


@pytest.fixture(autouse=True)
def empty_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """One folder for this file, so that two tests of one program build one library."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("libraries")
        patch.setenv("PYROVAE_CACHE", str(folder))
        yield folder


def assert_close(one, other, tolerance):
    for name, tensor in one[0].items():
        torch.testing.assert_close(other[0][name], tensor, rtol=tolerance, atol=tolerance)
    for row, found in zip(one[1], other[1], strict=True):
        assert {name: found[name] for name in ("epoch", "step", "skipped", "beta", "learning_rate")} == {
            name: row[name] for name in ("epoch", "step", "skipped", "beta", "learning_rate")
        }
        for name in ("loss", "gradient_norm", "elbo", "kl", "reconstruction"):
            assert found[name] == pytest.approx(row[name], rel=tolerance, nan_ok=True)


def whole_batches():
    """Steps of one shape alone, so that there is one library to build."""
    return grey()[:64]


def spoiled():
    x = torch.randn(72, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[7] = 1e300  # finite, and its square is not
    return x


def two_groups(parameters):
    """Of unlike settings. The bias before a batch norm has a gradient of rounding errors alone, which Adam would make a step of
    wherever they are not far below ``eps``."""
    some = [
        {"params": parameters[:3], "betas": (0.8, 0.99), "rate": 3.0},
        {"params": parameters[3:], "weight_decay": 0.2},
    ]
    return torch.optim.AdamW(some, lr=0.02, weight_decay=0.1, eps=1e-6, fused=True)


def test_with_everything_on_the_numbers_are_those_of_the_eager_engine():
    """Batch norm, dropout, schedules, clipping, weight decay, two groups of parameters, a bad and a short batch.

    A triangular matrix is solved for by torch's dispatcher, since a library cannot call it by itself.
    """
    settings = {
        "learning_rate": pvae.schedules.one_cycle(0.02, epochs=4),
        "beta": pvae.schedules.linear(0.0, 1.0, epochs=4),
        "clip_norm": 1.0,
        "optimizer": two_groups,
        "epochs": 4,
        "start_at_data": False,
    }

    def make():
        net = functools.partial(pvae.MLP, normalization=nn.BatchNorm1d, dropout=0.2)
        likelihood = pvae.Factorized(dist.Normal, net(2, (8,)), event_shape=5)
        return pvae.VAE(pvae.standard_normal(2), likelihood, pvae.FullNormal(net(5, (8,)), event_shape=2)).double()

    eager, compiled = (trained(make, spoiled, level, **settings) for level in (False, "compile"))
    assert compiled[2].engine == "compiled from step 1"
    assert sum(row["skipped"] for row in eager[1]) == 4
    assert_close(eager, compiled, 1e-9)


def test_compiled_steps_wait_until_the_optimizer_has_its_moments(monkeypatch):
    """A plain Adam makes them in the first step that counts; here the very first step is skipped."""
    asked = []
    monkeypatch.setattr(Call, "is_built", lambda call, waits: asked.append(call.has_moments()))
    settings = {"optimizer": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True), "start_at_data": False}
    found = trained(lambda: normal_vae().double(), spoiled, "compile", **settings, batch_size=24, epochs=2)
    assert [row["skipped"] for row in found[1]] == [1, 1]
    assert asked
    assert all(asked)


def test_rows_are_drawn_afresh_inside_a_compiled_step_and_the_library_is_found_again(cache, monkeypatch):
    settings = {"epochs": 3, "learning_rate": 0.01}
    before = {path.name for path in cache.iterdir()}
    eager, compiled = (
        trained(lambda: bernoulli_vae().double(), whole_batches, level, **settings) for level in (False, "compile")
    )
    assert_close(eager, compiled, 1e-10)
    assert ".so" in {path.suffix for path in cache.iterdir() if path.name not in before}
    monkeypatch.setattr(Library, "start", lambda self: pytest.fail("it is there already"))
    again = trained(lambda: bernoulli_vae().double(), whole_batches, "compile", **settings)
    assert str(again[1]) == str(compiled[1])
    monkeypatch.setattr(Call, "run", refuse)
    with pytest.warns(UserWarning, match="steps are replayed, not compiled: probability tensor"):
        replayed = trained(lambda: bernoulli_vae().double(), whole_batches, "compile", **settings)
    assert str(replayed[1]) == str(eager[1])


def test_a_compiled_training_that_is_resumed_ends_as_if_it_had_not_stopped(tmp_path, monkeypatch):
    """The first step after the resumption is compiled, too. The history's columns are compiled here for few epochs as well.

    The libraries of both are then taken from disk by ``"auto"``.
    """
    monkeypatch.setattr(validation, "MANY", 3)
    settings = {"epochs": 3, "learning_rate": 0.01}
    make = lambda: bernoulli_vae().double()  # noqa: E731
    whole = trained(make, whole_batches, "compile", **settings)
    stop = [lambda history: True]
    trained(make, whole_batches, "compile", **settings, checkpoint=tmp_path / "run", checkpoint_steps=3, callbacks=stop)
    resumed = trained(make, whole_batches, "compile", **settings, checkpoint=tmp_path / "run", resume=True)
    assert resumed[2].engine == "compiled from step 4"
    assert str(resumed[1]) == str(whole[1])
    assert all(torch.equal(tensor, resumed[0][name]) for name, tensor in whole[0].items())
    for owner, name, value in ((levels, "FEW_STEPS", 1), (levels, "cores", lambda: 2), (engines, "LOADING", 0.0)):
        monkeypatch.setattr(owner, name, value)
    columns = []
    close = lambda self: columns.extend(terms.call for terms in self.graphs.functions.values())  # noqa: E731
    monkeypatch.setattr(validation.Evaluation, "close", close)
    monkeypatch.setattr(Library, "start", lambda self: pytest.fail("it is there already"))
    found = trained(make, whole_batches, "auto", **settings)
    assert found[2].engine.startswith("compiled from step ")
    assert_close(whole, found, 1e-10)
    assert len(columns) == 1
    assert columns[0] is not None


def refuse(self, state, plan, rank):
    """As torch does where it is to draw from NaN."""
    raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")


def test_a_damaged_library_is_built_anew(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("PYROVAE_CACHE", str(tmp_path))
    built = []

    def start(self):
        built.append(self.path)
        raise OSError("no space left")

    monkeypatch.setattr(Library, "start", start)
    make = lambda: counts_vae().double()  # noqa: E731
    with pytest.warns(UserWarning, match="replayed, not compiled: no space left"):
        trained(make, COUNTS, "compile")
    built[0].write_bytes(b"no library")
    with pytest.warns(UserWarning, match="replayed, not compiled"):
        traced = trained(make, COUNTS, "compile")
    assert not built[0].exists()
    assert traced[2].engine.startswith("traced, not compiled: ")


@pytest.mark.parametrize(
    ("code", "words"),
    [("import os; os.kill(os.getpid(), 9)", "ended with code -9"), ("raise SystemExit(1)", "^no space$")],
)
def test_a_compiler_that_is_killed_is_not_told_by_its_last_line(code, words, tmp_path):
    library = Library("", [], 1)
    library.work = tmp_path / "work"
    library.work.mkdir()
    (library.work / "log").write_text("a warning\nno space\n")
    library.process = subprocess.Popen([sys.executable, "-c", code])
    with pytest.raises(RuntimeError, match=words):
        library.finish(wait=True)


def test_an_empty_cxx_names_no_compiler(tmp_path, monkeypatch):
    given = {}
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("PYROVAE_CACHE", str(tmp_path))
    monkeypatch.setattr("pyrovae.compiling.library.subprocess.Popen", lambda *args, env, **rest: given.update(env))
    Library("", [], 1).start()
    assert given
    assert "CXX" not in given


def test_without_a_compiler_steps_are_replayed_and_that_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PYROVAE_CACHE", str(tmp_path))
    make = lambda: counts_vae().double()  # noqa: E731
    eager = trained(make, COUNTS, False)
    with pytest.warns(UserWarning, match=r"replayed, not compiled: no C\+\+ compiler was found \(g\+\+, clang"):
        traced = trained(make, COUNTS, "compile")
    assert str(eager[1]) == str(traced[1])
    assert traced[2].engine.startswith("traced, not compiled: no C++ compiler")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optimizer": functools.partial(torch.optim.SGD, lr=1e-3)}, "compiled for Adam and AdamW"),
        ({"optimizer": functools.partial(torch.optim.Adam, lr=1e-3, amsgrad=True)}, "no further options"),
        ({"scheduler": functools.partial(torch.optim.lr_scheduler.StepLR, step_size=4)}, "a scheduler of torch"),
    ],
)
def test_other_optimizers_run_on_the_gradients_of_the_graph(options, words):
    with pytest.warns(UserWarning, match=words):
        traced = trained(lambda: counts_vae().double(), COUNTS, "compile", **options)
    assert str(traced[1]) == str(trained(lambda: counts_vae().double(), COUNTS, False, **options)[1])


def test_a_number_that_a_callback_changes_is_found_before_a_compiled_step_counts():
    def run(level):
        program = Tempered()

        def change(history):
            program.scale = 1.5 if len(history) >= 2 else 1.0

        return trained(lambda: program, COUNTS[:64], level, epochs=4, callbacks=[change])

    eager = run(False)
    with pytest.warns(UserWarning, match="at step 8 the program gives .* since step 4 at the earliest"):
        compiled = run("compile")
    assert_close(eager, compiled, 1e-10)
    assert compiled[2].engine.startswith("eager: at step 8")


def test_vectors_hold_the_small_tensors_of_a_group_together_and_each_large_one_apart(monkeypatch):
    shapes, groups = [[3], [200], [2, 8], [5, 60], [7]], [0, 0, 1, 1, 0]
    monkeypatch.setattr(step, "LARGE", 200)
    flat, tensors = step.Flat(shapes, groups), [torch.randn(shape) for shape in shapes]
    assert flat.parts == [[0, 4], [1], [2], [3]]
    assert flat.groups == [0, 0, 1, 1]
    assert all(torch.equal(a, b) for a, b in zip(flat.views(flat.joined(tensors)), tensors, strict=True))
    assert [len(vector) for vector in flat.joined(tensors)] == [len(vector) for vector in flat.zeros(torch.float32)]


def test_sums_leave_the_products():
    x, weights, bias = torch.randn(5, 3).double(), torch.randn(3, 4).double(), torch.randn(4).double()
    module = make_fx(lambda x, w, b: (torch.addmm(b, x, w), x @ w + 2 * b, torch.addmm(b, x, w, beta=2)))(
        x, weights, bias
    )
    expected = module(x, weights, bias)
    sum_apart(module)
    left = [node.target for node in module.graph.nodes if node.op == "call_function"]
    assert left.count(torch.ops.aten.addmm.default) == 1  # the one with options
    assert torch.ops.aten.add.Tensor not in left
    for found, value in zip(module(x, weights, bias), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-14, atol=1e-14)


# What is chosen


@pytest.mark.parametrize(
    ("steps", "cores", "engine"),
    [
        (11, 4, "eager: fewer than 10 steps on batches of one shape are not worth a graph"),
        (12, 4, "traced, not compiled: "),
        (12, 1, "traced"),
    ],
)
def test_auto_replays_where_it_pays(steps, cores, engine, monkeypatch):
    monkeypatch.setattr(levels, "FEW_STEPS", 10)
    monkeypatch.setattr(levels, "cores", lambda: cores)
    found = trained(lambda: counts_vae().double(), COUNTS, "auto", steps=steps, epochs=None)
    assert found[2].engine.startswith(engine)
    assert (found[2].engine == engine) == (cores == 1 or steps == 11)


@pytest.mark.parametrize(("few", "shapes"), [(3, {16, 8}), (4, {16})])
def test_auto_runs_the_program_on_incomplete_batches_that_are_few(few, shapes, monkeypatch):
    """Three epochs of 72 rows in batches of 16: 12 steps on whole batches, 3 on batches of 8."""
    monkeypatch.setattr(levels, "FEW_STEPS", few)
    monkeypatch.setattr(levels, "cores", lambda: 1)
    traced = set()
    graph = Traced.graph
    monkeypatch.setattr(
        Traced, "graph", lambda self, inputs, *given: traced.add(len(inputs[0])) or graph(self, inputs, *given)
    )
    make = lambda: counts_vae().double()  # noqa: E731
    found = trained(make, COUNTS, "auto")
    assert traced == shapes
    assert str(found[1]) == str(trained(make, COUNTS, False)[1])


@pytest.mark.parametrize(("many", "traced"), [(3, True), (4, False)])
def test_auto_traces_the_columns_of_many_epochs(many, traced, monkeypatch):
    monkeypatch.setattr(levels, "FEW_STEPS", 1)
    monkeypatch.setattr(levels, "cores", lambda: 1)
    monkeypatch.setattr(validation, "MANY", many)
    ends = []
    monkeypatch.setattr(validation.Evaluation, "close", lambda self: ends.append(bool(self.graphs.functions)))
    trained(lambda: counts_vae().double(), COUNTS, "auto")
    assert ends == [traced]


def test_a_short_training_runs_the_program_and_the_terms_of_its_history(monkeypatch):
    """Below the least number of steps nothing is traced, neither a step nor the ELBO columns."""
    monkeypatch.setattr("pyrovae.compiling.function.Function", None)
    monkeypatch.setattr("pyrovae.training.traced.trace", None)
    assert trained(counts_vae, COUNTS, "auto", steps=levels.FEW_STEPS - 1, epochs=None)[2].engine == (
        f"eager: fewer than {levels.FEW_STEPS} steps on batches of one shape are not worth a graph"
    )


@pytest.mark.parametrize("total_count", [16, 10**6])
def test_the_terms_of_a_binomial_are_traced(total_count, monkeypatch):
    """Whether its counts are small is not asked inside of a graph, where no number can be read."""
    ends = []
    monkeypatch.setattr(
        validation.Evaluation, "close", lambda self: ends.append((self.traced, len(self.graphs.functions)))
    )

    def make():
        vae = counts_vae()
        vae.likelihood = pvae.Factorized(dist.Binomial, pvae.MLP(2, (16,)), event_shape=5, total_count=total_count)
        return vae

    runs = [trained(make, counts(40).clamp(max=16), level)[1] for level in (False, "trace")]
    assert ends == [(False, 0), (True, 1)]
    assert [row["elbo"] for row in runs[1]] == pytest.approx([row["elbo"] for row in runs[0]], rel=1e-5)


def test_auto_runs_what_cannot_be_traced_without_a_warning(monkeypatch):
    monkeypatch.setattr(levels, "FEW_STEPS", 1)
    monkeypatch.setattr(levels, "cores", lambda: 2)
    found = trained(lambda: (branching, level_guide), COUNTS[:20, 0], "auto", batch_size=20)
    assert found[2].engine.startswith("eager: the program reads a number from a tensor at test_compiling.py")


@pytest.mark.parametrize(("left", "is_built"), [(0.0, True), (1e9, False)])
def test_auto_compiles_beside_the_training_where_enough_steps_are_left(left, is_built, monkeypatch, tmp_path):
    monkeypatch.setenv("PYROVAE_CACHE", str(tmp_path))
    monkeypatch.setattr(levels, "FEW_STEPS", 1)
    monkeypatch.setattr(levels, "cores", lambda: 2)
    monkeypatch.setattr(engines, "LOADING", 0.0)
    monkeypatch.setattr(engines, "BUILDING", left)
    begun = []
    monkeypatch.setattr(Library, "start", lambda self: begun.append(self.path))
    make = lambda: counts_vae().double()  # noqa: E731
    found = trained(make, COUNTS, "auto")
    assert bool(begun) == is_built
    assert str(found[1]) == str(trained(make, COUNTS, False)[1])
    assert "not have paid" in found[2].engine
