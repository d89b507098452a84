"""Long evaluations by a compiled graph: the same numbers, and the program's own where the graph is not to be trusted."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pvae
from pyrovae.compiling import Function
from pyrovae.evaluation import compiled, log_weights
from pyrovae.evaluation.compiled import Weights


@pytest.fixture
def long(monkeypatch, pairs):
    """All work is long, and a graph is replayed where a library would be called; returns the calls of graphs."""
    calls, replayed = [], Function.__call__
    pairs(40)
    monkeypatch.setattr(compiled, "LONG", -1.0)
    monkeypatch.setattr("pyrovae.compiling.library.has_compiler", lambda: False)
    monkeypatch.setattr(Function, "is_built", lambda self, wait=False: True)
    monkeypatch.setattr(
        Function, "__call__", lambda self, inputs, wait=False: calls.append(len(inputs)) or replayed(self, inputs)
    )
    return calls


def vae():
    torch.manual_seed(0)
    return pvae.build_vae(5, likelihood="normal", latent_dim=2, hidden=(8,))


X = torch.linspace(-2, 2, 60).reshape(12, 5)


def by_program(program, x, **plan):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "LONG", float("inf"))
        return log_weights(program, x, seed=0, **plan)


def test_the_numbers_are_those_of_the_program(long):
    program = vae()
    found = log_weights(program, X, num_samples=64, seed=0)
    assert len(long) > 5
    torch.testing.assert_close(found, by_program(program, X, num_samples=64), rtol=1e-6, atol=1e-6)
    assert found.std(0).min() > 0.01  # noise is fresh, and not the trace's own
    assert len(found.unique(dim=0)) == 64
    evidence = pvae.log_marginal(program, X, method="importance", num_samples=64, seed=0)
    torch.testing.assert_close(torch.as_tensor(evidence.elbo.values), found.mean(0))


def test_short_work_runs_the_program_alone(long, monkeypatch):
    monkeypatch.setattr(compiled, "LONG", 45.0)
    log_weights(vae(), X, num_samples=64, seed=0)
    assert not long


def test_a_graph_that_differs_is_not_used(long, monkeypatch):
    program, right = vae(), Function.__call__

    def wrong(self, inputs, wait=False):
        return {name: value + (len(long) > 2) for name, value in right(self, inputs).items()}

    monkeypatch.setattr(Function, "__call__", wrong)
    found = log_weights(program, X, num_samples=64, seed=0)
    assert len(long) == 4  # the third call is not compared, the fourth is the last
    differs = (found - by_program(program, X, num_samples=64)).abs().amax(1) > 0.5
    assert differs.sum() <= 10


def branching(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        spread = 1.0 if float(x.sum()) > 0 else 2.0
        pyro.sample("x", dist.Normal(z, spread), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 1.0))


def shared_mean(x, size=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("data", size or len(x), subsample=torch.arange(len(x))):
        pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(mean, 1.0)), 1.0), obs=x)


def shared_guide(x, size=None):
    pyro.sample("mean", dist.Normal(0.3, 0.5))
    with pyro.plate("data", size or len(x), subsample=torch.arange(len(x))):
        pyro.sample("z", dist.Normal(x / 2, 1.0))


@pytest.mark.parametrize(
    "program", [(branching, guide), (shared_mean, shared_guide)], ids=["no graph", "rows share draws"]
)
def test_what_a_graph_cannot_do_is_left_to_the_program(long, program):
    x = torch.linspace(-2, 2, 12)
    found = log_weights(program, x, num_samples=64, seed=0)
    assert not long
    assert torch.equal(found, by_program(program, x, num_samples=64))


def test_a_work_of_many_tiles_knows_their_number(pairs):
    pairs(40)
    work = pvae.programs.rows.RowWork(vae(), X, num_samples=64, seed=0)
    weights = Weights(work)
    work.weigh = weights
    work.run(lambda block: {"n": block.log_weights().mean(0)})
    assert weights.done == weights.tiles > 5


def mixed_classes(x, covariates=None):
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.7])), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(2.0 * k - covariates["shift"], 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def guide_of_classes(x, covariates=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.8 * x, 0.5))


def cases():
    program, missing = vae(), X.clone()
    missing[5:, 1] = torch.nan  # in the second block only
    x = X[:, 0].contiguous()
    return {
        "missing entries": (program, missing, None),
        "classes and covariates": ((mixed_classes, guide_of_classes), x, {"shift": x.flip(0) / 3}),
    }


@pytest.fixture
def traced(monkeypatch, pairs):
    """Densities of every shape go by graphs at once; returns the graphs' calls."""
    calls, replayed = [], Function.__call__
    pairs(64)
    monkeypatch.setattr(compiled, "TRACED", 0.0)
    by_graph = lambda self, inputs, wait=False: calls.append(self) or replayed(self, inputs)  # noqa: E731
    monkeypatch.setattr(Function, "__call__", by_graph)
    return calls


METHODS = {
    "mixture": pvae.Mixture(num_steps=10, starts=8, candidates=6),
    "refined": pvae.evaluation.Refined(num_steps=20),
    "ais": pvae.evaluation.AIS(10),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", cases())
def test_densities_and_gradients_by_graphs_are_those_of_the_program(traced, monkeypatch, name, method):
    program, x, covariates = cases()[name]
    plan = {"method": METHODS[method], "num_samples": 20, "seed": 0, "progress": False}
    found = pvae.log_marginal(program, x, covariates, **plan)
    assert len(traced) > 2 * len(set(traced)) > 0
    traced.clear()
    monkeypatch.setattr(compiled, "TRACED", float("inf"))
    by_itself = pvae.log_marginal(program, x, covariates, **plan)
    assert not traced
    assert (found.log_marginal == by_itself.log_marginal).all()


def shifted(x, covariates=None):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(covariates["c"], 1.0)), 1.0), obs=x)


def numbered(x, index=None):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(index / 10.0 - 3.0, 1.0)), 1.0), obs=x)


def guide_of_shifted(x, covariates=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal((x + covariates["c"]) / 2, 0.8))


def unshifted(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)


@pytest.mark.parametrize("program", [(shifted, guide), (numbered, guide), (unshifted, guide_of_shifted)])
@pytest.mark.parametrize("method", ["refined", "mixture"])
def test_what_one_function_alone_reads_is_that_of_each_block(traced, monkeypatch, program, method):
    """Rows of several blocks, whose covariates a graph of the first block must not keep: no comparison hides it here."""
    monkeypatch.setattr(Function, "compared", lambda self, inputs, function, wait, always: self(inputs, wait))
    shift = torch.linspace(-3.0, 3.0, 61)
    mean = 0 * shift if program[0] is unshifted else shift
    x = mean + torch.linspace(-2, 2, 61).roll(7)
    covariates = None if program[0] is numbered else {"c": shift if program[0] is shifted else shift / 3}
    plan = {"method": METHODS[method] if method == "mixture" else pvae.evaluation.Refined(num_steps=100), "seed": 0}
    found = pvae.log_marginal(program, x, covariates, num_samples=200, **plan).log_marginal.values
    assert len(traced) > 2 * len(set(traced)) > 0
    right = dist.Normal(mean, 2**0.5).log_prob(x)
    spread = {"refined": 0.1, "mixture": 0.15}[method]
    torch.testing.assert_close(torch.as_tensor(found, dtype=torch.float32), right, rtol=0, atol=spread)


def test_a_density_that_a_graph_gets_wrong_is_the_programs(traced, monkeypatch):
    right = Function.__call__
    wrong = lambda self, inputs, wait: {n: value + 1.0 for n, value in right(self, inputs).items()}  # noqa: E731
    monkeypatch.setattr(Function, "__call__", wrong)
    plan = {"method": pvae.evaluation.Refined(num_steps=20), "num_samples": 20, "seed": 0}
    found = pvae.log_marginal(vae(), X, **plan)
    assert len(traced) == 1
    monkeypatch.setattr(compiled, "TRACED", float("inf"))
    assert (found.log_marginal == pvae.log_marginal(vae(), X, **plan).log_marginal).all()


def test_a_library_is_built_of_densities_where_much_lies_ahead(traced, monkeypatch):
    built = []
    monkeypatch.setattr(Function, "compile", lambda self, inputs: built.append(self))
    plan = {"method": pvae.evaluation.Refined(num_steps=20), "num_samples": 20, "seed": 0}
    pvae.log_marginal(vae(), X, **plan)
    assert not built
    monkeypatch.setattr(compiled, "LONG", 0.0)
    pvae.log_marginal(vae(), X, **plan)
    assert len(built) == len(set(built)) > 0
