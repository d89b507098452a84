"""Log densities per datum: exact on closed forms, whatever plates, masks, scales and enumeration a program has."""

import functools
import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import PPCA, BetaBernoulli, EnumeratedMixture, GammaPoisson, bound
from programs import particle_terms
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoLaplaceApproximation, AutoMultivariateNormal, AutoNormal
from pyro.ops.indexing import Vindex
from torch import nn

import pyrovae as pvae
from pyrovae.programs import (
    Program,
    beta,
    dry_run,
    eval_mode,
    log_terms,
    paired_traces,
    plate_nesting,
    register,
    site_log_prob,
)

EXACT = {"rtol": 0, "atol": 1e-9}


@pytest.fixture(autouse=True)
def _seeded():
    pyro.set_rng_seed(0)
    pyro.clear_param_store()


@pytest.mark.parametrize("vectorize", [True, False])
def test_with_the_exact_guide_every_weight_is_the_evidence(vectorize):
    ppca = PPCA.random(exact=True)
    x = ppca.simulate(7)
    terms = particle_terms(ppca, (x,), num_particles=5, vectorize=vectorize)
    assert terms.log_weights.shape == (5, 7)
    torch.testing.assert_close(terms.log_weights, ppca.log_evidence(x).expand(5, 7), **EXACT)


@pytest.mark.parametrize("program", [BetaBernoulli(), PPCA.random(exact=True)])
def test_conjugate_pairs_have_constant_weights(program):
    x = program.simulate(6)
    log_weights = particle_terms(program, (x,), num_particles=4).log_weights
    torch.testing.assert_close(log_weights, program.log_evidence(x).expand(4, 6), **EXACT)


def test_terms_are_the_densities_written_by_hand():
    ppca = PPCA.random(guide_scale=1.3)
    x = ppca.simulate(4)
    model_trace, guide_trace = paired_traces(ppca, (x,), num_particles=3)
    terms = log_terms(model_trace, guide_trace)
    z = guide_trace.nodes["z"]["value"]
    assert z.shape == (3, 4, 3)
    torch.testing.assert_close(terms.log_prior, dist.Normal(0.0, 1.0).log_prob(z).sum(-1), **EXACT)
    torch.testing.assert_close(terms.log_guide, ppca.proposal(x).log_prob(z), **EXACT)
    loc = z @ ppca.weight.T + ppca.mean
    torch.testing.assert_close(terms.reconstruction, dist.Normal(loc, math.sqrt(0.5)).log_prob(x).sum(-1), **EXACT)
    torch.testing.assert_close(terms.log_weights, terms.reconstruction - terms.kl, **EXACT)
    torch.testing.assert_close(terms.sites["log_prior"]["z"], terms.log_prior)


@pytest.mark.parametrize("scaled", ["beta", "subsample", "poutine"])
def test_no_scale_reaches_the_weights(scaled):
    ppca = PPCA.random(exact=True)
    x = ppca.simulate(5)
    handlers = {
        "beta": partial(beta, beta=0.3),
        "subsample": lambda fn: fn,
        "poutine": partial(poutine.scale, scale=9.0),
    }
    pair = tuple(handlers[scaled](fn) for fn in (ppca.model, ppca.guide))
    traces = paired_traces(pair, (x,), {"size": 100} if scaled == "subsample" else {}, num_particles=2)
    assert traces[0].nodes["z"]["scale"] != 1.0
    torch.testing.assert_close(log_terms(*traces).log_weights, ppca.log_evidence(x).expand(2, 5), **EXACT)


def test_memoised_log_probs_are_used_with_their_mask():
    mask = torch.tensor([True, False])
    trace = poutine.trace(
        poutine.mask(lambda: pyro.sample("z", dist.Normal(torch.zeros(2), 1.0)), mask=mask)
    ).get_trace()
    fresh = site_log_prob(trace.nodes["z"])
    trace.compute_log_prob()
    torch.testing.assert_close(site_log_prob(trace.nodes["z"]), fresh)
    assert fresh[1] == 0
    assert fresh[0] != 0


def test_masked_entries_and_rows_do_not_count():
    ppca = PPCA.random(latent=2, data=4)
    x = ppca.simulate(5)
    mask = torch.rand(5, 4) < 0.6
    rows = torch.tensor([True, True, False, True, True])

    def model(x):
        with pyro.plate("data", 5):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            entries = dist.Normal(z @ ppca.weight.T + ppca.mean, math.sqrt(0.5)).mask(mask)
            with poutine.mask(mask=rows):
                pyro.sample("x", entries.to_event(1), obs=x)

    model_trace, guide_trace = paired_traces((model, ppca.guide), (x,), num_particles=3)
    z = guide_trace.nodes["z"]["value"]
    entries = dist.Normal(z @ ppca.weight.T + ppca.mean, math.sqrt(0.5)).log_prob(x)
    expected = (entries * mask).sum(-1) * rows
    torch.testing.assert_close(log_terms(model_trace, guide_trace).reconstruction, expected, **EXACT)


@pytest.mark.parametrize("data_dim", [-1, -2])
def test_extra_plates_inside_the_data_plate_are_summed(data_dim):
    """Views of a row lie in a plate of their own; the data plate is found by its name, at either dim."""
    x = torch.randn(4, 3, dtype=torch.float64)  # (data, views)

    def model(x):
        data, views = pyro.plate("data", 4, dim=data_dim), pyro.plate("views", 3, dim=-3 - data_dim)
        with data:
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0))
            with views:
                # the log density is left unexpanded over the particles' and the views' axes where it can be
                pyro.sample("x", dist.Normal(z, 1.0), obs=x if data_dim == -2 else x.T)
                pyro.sample("penalty", dist.Unit(torch.tensor(-0.5, dtype=torch.float64)), obs=torch.empty(0))

    def guide(x):
        with pyro.plate("data", 4, dim=data_dim):
            loc = x.sum(-1) / 4
            pyro.sample("z", dist.Normal(loc if data_dim == -1 else loc[:, None], 0.5))

    log_weights = particle_terms((model, guide), (x,), num_particles=6).log_weights
    exact = dist.MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double() + 1.0).log_prob(x) - 1.5
    torch.testing.assert_close(log_weights, exact.expand(6, 4), **EXACT)


def test_global_latents_are_kept_apart():
    x = torch.randn(5, dtype=torch.float64)

    def model(x):
        mu = pyro.sample("mu", dist.Normal(torch.tensor(0.0, dtype=torch.float64), 2.0))
        with pyro.plate("data", 5):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        mu = pyro.sample("mu", dist.Normal(torch.tensor(0.3, dtype=torch.float64), 0.7))
        with pyro.plate("data", 5):
            pyro.sample("z", dist.Normal((mu + x) / 2, math.sqrt(0.5)))

    model_trace, guide_trace = paired_traces((model, guide), (x,), num_particles=3)
    terms = log_terms(model_trace, guide_trace)
    mu = guide_trace.nodes["mu"]["value"].reshape(3)
    exact = dist.Normal(mu[:, None], math.sqrt(2.0)).log_prob(x)
    torch.testing.assert_close(terms.log_weights, exact, **EXACT)
    prior, guide_ = (dist.Normal(torch.tensor(v, dtype=torch.float64), s) for v, s in ((0.0, 2.0), (0.3, 0.7)))
    torch.testing.assert_close(terms.outside, prior.log_prob(mu) - guide_.log_prob(mu), **EXACT)


@pytest.mark.parametrize("where", ["model", "guide", "sampled"])
def test_enumerated_sites_are_summed_out(where):
    mixture = EnumeratedMixture(where)
    x = mixture.simulate(4)
    terms = particle_terms(mixture, (x,), num_particles=40_000)
    estimate = terms.log_weights.exp().mean(0)
    error = terms.log_weights.exp().std(0) / 200
    z = (estimate - mixture.log_evidence(x).exp()) / error
    assert z.abs().max() < 5
    torch.testing.assert_close(terms.reconstruction + terms.log_prior - terms.log_guide, terms.log_weights, **EXACT)


def test_summing_out_is_the_sum_written_by_hand():
    mixture = EnumeratedMixture("model")
    x = mixture.simulate(3)
    model_trace, guide_trace = paired_traces(mixture, (x,), num_particles=2)
    z = guide_trace.nodes["z"]["value"]
    joint = mixture.weights.log() + dist.Normal(mixture.means, 1.0).log_prob(z[..., None])
    reconstruction = dist.Normal(z, math.sqrt(0.7)).log_prob(x)
    terms = log_terms(model_trace, guide_trace)
    expected = joint.logsumexp(-1) + reconstruction - dist.Normal(x / 2, 1.0).log_prob(z)
    torch.testing.assert_close(terms.log_weights, expected, **EXACT)
    torch.testing.assert_close(terms.reconstruction, reconstruction, **EXACT)


def test_discrete_sites_inside_a_plate_are_summed_before_the_plate_is_multiplied():
    """A mixture for each pixel, with a class for each row around it: 2 * 3^4 combinations for each of 2 rows."""
    x = torch.randn(4, 2, dtype=torch.float64)
    outer, inner = (
        torch.tensor([0.3, 0.7], dtype=torch.float64),
        torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]], dtype=torch.float64),
    )
    means = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    enumerate_ = {"enumerate": "parallel"}

    def model(x):
        with pyro.plate("data", 2, dim=-1):
            y = pyro.sample("y", dist.Categorical(outer), infer=enumerate_)
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0))
            with pyro.plate("pixels", 4, dim=-2):
                k = pyro.sample("k", dist.Categorical(inner[y]), infer=enumerate_)
                pyro.sample("x", dist.Normal(means[k] + z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 2, dim=-1):
            pyro.sample("z", dist.Normal(x.mean(0), 1.0))

    model_trace, guide_trace = paired_traces((model, guide), (x,), num_particles=3)
    z = guide_trace.nodes["z"]["value"].reshape(3, 2)
    entry = dist.Normal(means + z[:, None, :, None], 1.0).log_prob(x[None, :, :, None])  # (3, pixels, data, k)
    pixels = torch.stack([(entry + inner[y].log()).logsumexp(-1).sum(1) for y in (0, 1)], -1)
    expected = (pixels + outer.log()).logsumexp(-1) + dist.Normal(0.0, 1.0).log_prob(z)
    expected = expected - dist.Normal(x.mean(0), 1.0).log_prob(z)
    torch.testing.assert_close(log_terms(model_trace, guide_trace).log_weights, expected, **EXACT)


class Chain:
    """A hidden Markov chain of discrete states, enumerated by the model or by the guide; c shifts every row if it is there.

    z_t depends on the ``history`` states before it (states before the first are 0), y_t ~ N(2 z_t + c, 1).
    """

    def __init__(self, steps, states=2, history=1, where="model", continuous=False, lengths=None):
        generator = torch.Generator().manual_seed(steps + 10 * states + 100 * history)
        weights = torch.rand(*[states] * (history + 1), generator=generator, dtype=torch.float64) ** 2 + 0.05
        self.transition = weights / weights.sum(-1, keepdim=True)
        self.y = 3 * torch.rand(4, steps, generator=generator, dtype=torch.float64)
        self.steps, self.states, self.history, self.where = steps, states, history, where
        self.continuous, self.lengths = continuous, lengths

    def model(self, y):
        with pyro.plate("data", len(y)):
            shift = pyro.sample("c", dist.Normal(y.new_zeros(()), 1.0)) if self.continuous else 0.0
            for t, z in self._states({"enumerate": "parallel"} if self.where == "model" else {}):
                with poutine.mask(mask=self._seen(t)):
                    pyro.sample(f"y{t}", dist.Normal(2.0 * z + shift, 1.0), obs=y[:, t])

    def guide(self, y):
        with pyro.plate("data", len(y)):
            if self.continuous:
                pyro.sample("c", dist.Normal(y.mean(-1) / 2, 0.8))
            if self.where == "guide":
                list(self._states({"enumerate": "parallel"}))

    def _states(self, infer):
        past = [torch.tensor(0)] * self.history
        for t in pyro.markov(range(self.steps), history=self.history):
            with poutine.mask(mask=self._seen(t)):
                z = pyro.sample(f"z{t}", dist.Categorical(Vindex(self.transition)[tuple(past)]), infer=infer)
            past = [*past[1:], z]
            yield t, z

    def _seen(self, t):
        return torch.ones(4, dtype=torch.bool) if self.lengths is None else t < self.lengths

    def log_evidence(self, y, shift=0.0):
        """The forward algorithm on ``history`` states at once; shift of shape (..., data)."""
        shift = torch.as_tensor(shift, dtype=torch.float64)
        means = 2.0 * torch.arange(self.states, dtype=torch.float64)
        alpha = torch.full([self.states] * self.history, -math.inf, dtype=torch.float64)
        alpha[(0,) * self.history] = 0.0
        alpha = alpha.expand(*shift.shape, *[1] * (not shift.ndim), *alpha.shape)
        first = -self.history - 1
        for t in range(self.steps):
            emission = dist.Normal(means + shift[..., None], 1.0).log_prob(y[:, t, None])
            emission = emission * self._seen(t)[:, None]
            emission = emission.reshape(*emission.shape[:-1], *[1] * self.history, self.states)
            alpha = (alpha[..., None] + self.transition.log() + emission).logsumexp(first)
        return alpha.flatten(-self.history).logsumexp(-1)


@pytest.mark.parametrize("where", ["model", "guide"])
@pytest.mark.parametrize("history", [1, 2])
@pytest.mark.parametrize("states", [2, 3])
@pytest.mark.parametrize("steps", [2, 3, 5, 12])
def test_markov_chains_are_summed_by_site_though_their_axes_are_reused(steps, states, history, where):
    chain = Chain(steps, states, history, where)
    expected = chain.log_evidence(chain.y)
    program = (chain.model, chain.guide)
    for log_weights in (
        particle_terms(program, (chain.y,), num_particles=2).log_weights,
        particle_terms(program, (chain.y,), num_particles=2, vectorize=False).log_weights,
        pvae.log_weights(program, chain.y, num_samples=2),
    ):
        torch.testing.assert_close(log_weights, expected.expand(2, 4), **EXACT)
    torch.testing.assert_close(bound(program, chain.y, num_samples=1).elbo, expected, **EXACT)
    marginal = pvae.log_marginal(program, chain.y, method="importance", num_samples=20, progress=False)
    torch.testing.assert_close(torch.as_tensor(marginal["log_marginal"].values), expected, **EXACT)


@pytest.mark.parametrize("where", ["model", "guide"])
@pytest.mark.parametrize("history", [1, 2])
def test_markov_chains_beside_a_continuous_latent_are_summed_for_each_draw(history, where):
    chain = Chain(5, 3, history, where, continuous=True)
    model_trace, guide_trace = paired_traces((chain.model, chain.guide), (chain.y,), num_particles=6)
    c = guide_trace.nodes["c"]["value"].reshape(6, 4)
    log_q = dist.Normal(chain.y.mean(-1) / 2, 0.8).log_prob(c)
    expected = chain.log_evidence(chain.y, c) + dist.Normal(0.0, 1.0).log_prob(c) - log_q
    terms = log_terms(model_trace, guide_trace)
    torch.testing.assert_close(terms.log_weights, expected, **EXACT)
    posterior = terms.reconstruction + terms.log_prior - terms.log_guide
    torch.testing.assert_close(posterior, expected, **EXACT)


def test_the_reconstruction_of_a_chain_is_its_expectation_under_the_exact_posterior():
    chain = Chain(4, 3)
    terms = particle_terms((chain.model, chain.guide), (chain.y,), num_particles=1)
    means = 2.0 * torch.arange(3, dtype=torch.float64)
    paths = torch.cartesian_prod(*[torch.arange(3)] * 4)
    prior = chain.transition[0, paths[:, 0]].log()
    prior = prior + chain.transition[paths[:, :-1], paths[:, 1:]].log().sum(-1)
    likelihood = dist.Normal(means[paths], 1.0).log_prob(chain.y[:, None]).sum(-1)
    expected = ((prior + likelihood).softmax(-1) * likelihood).sum(-1)
    torch.testing.assert_close(terms.reconstruction[0], expected, **EXACT)


def test_long_chains_never_build_their_joint():
    """3^60 states in total: along the chain, no factor has more than two of its sites."""
    chain = Chain(60, 3)
    log_weights = particle_terms((chain.model, chain.guide), (chain.y,), num_particles=10).log_weights
    torch.testing.assert_close(log_weights, chain.log_evidence(chain.y).expand(10, 4), **EXACT)


@pytest.mark.parametrize("where", ["model", "guide"])
def test_masked_discrete_sites_sum_to_one(where):
    """Sequences of unequal lengths: a masked state is not there, and its values are not counted."""
    chain = Chain(5, 3, where=where, lengths=torch.tensor([5, 2, 1, 3]))
    log_weights = particle_terms((chain.model, chain.guide), (chain.y,), num_particles=2).log_weights
    torch.testing.assert_close(log_weights, chain.log_evidence(chain.y).expand(2, 4), **EXACT)


def test_discrete_sites_with_one_value_are_summed():
    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(x.new_ones(1)), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(1.0 * k, 1.0), obs=x)

    x = torch.randn(3)
    log_weights = particle_terms((model, lambda x: None), (x,), num_particles=2).log_weights
    torch.testing.assert_close(log_weights, dist.Normal(0.0, 1.0).log_prob(x).expand(2, 3))


def _forgetful_guide(y):
    """Its states forget each other at once, so they share an axis; the model's remember."""
    with pyro.plate("data", len(y)):
        for t in pyro.markov(range(2), history=0):
            pyro.sample(f"z{t}", dist.Categorical(y.new_ones(2)), infer={"enumerate": "parallel"})


def _beyond_the_chain(y):
    z = 0
    with pyro.plate("data", len(y)):
        for t in pyro.markov(range(2)):
            z = pyro.sample(f"z{t}", dist.Categorical(Chain(2).transition[z]), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(1.0 * z, 1.0), obs=y[:, 0])


def _crossed(y):
    rows, columns = pyro.plate("rows", 2, dim=-2), pyro.plate("columns", 3, dim=-3)
    half = dist.Bernoulli(y.new_tensor(0.5))
    with pyro.plate("data", len(y), dim=-1):
        with rows:
            a = pyro.sample("a", half, infer={"enumerate": "parallel"})
        with columns:
            b = pyro.sample("b", half, infer={"enumerate": "parallel"})
        with rows, columns:
            pyro.sample("y", dist.Normal(a + b, 1.0), obs=y[:, 0])


def _mixture_guide(y):
    with pyro.plate("data", len(y)):
        k = pyro.sample("k", dist.Categorical(y.new_ones(2)), infer={"enumerate": "parallel"})
        pyro.sample("c", dist.Normal(1.0 * k, 1.0))


def _sampled_states(y):
    with pyro.plate("data", len(y)):
        half = dist.Categorical(y.new_ones(5))
        pyro.sample("k", half, infer={"enumerate": "parallel", "num_samples": 3})


@pytest.mark.parametrize(
    ("model", "guide", "message"),
    [
        (_sampled_states, lambda y: None, "'k' is enumerated over num_samples"),
        (Chain(2, continuous=True).model, _mixture_guide, "the guide enumerates 'k', which the model does not"),
        (Chain(2, where="guide").model, _forgetful_guide, "'z0' and 'z1' share an axis.*same history"),
        (_beyond_the_chain, lambda y: None, "site 'y' depends on discrete sites.*pyro.markov"),
        (_crossed, lambda y: None, "'a' and 'b'.*plates that cross"),
    ],
)
def test_discrete_sites_that_cannot_be_told_apart_or_ordered_are_refused(model, guide, message):
    with pytest.raises(ValueError, match=message):
        particle_terms((model, guide), (Chain(2).y,), num_particles=2)


def test_autoguides_with_auxiliary_sites_agree_with_a_plain_guide():
    """AutoNormal on a positive latent draws an unconstrained auxiliary and a Delta that holds the Jacobian."""
    program = GammaPoisson()
    x = program.simulate(4)
    auto = AutoNormal(program.model)
    auto(x)
    loc, scale = auto.locs.rate.detach(), auto.scales.rate.detach()

    def plain(x):
        with pyro.plate("data", 4):
            pyro.sample("rate", dist.LogNormal(loc, scale))

    model_trace, guide_trace = paired_traces((program.model, auto), (x,), num_particles=3)
    terms = log_terms(model_trace, guide_trace)
    value = guide_trace.nodes["rate"]["value"]
    torch.testing.assert_close(terms.log_guide, dist.LogNormal(loc, scale).log_prob(value), **EXACT)
    assert particle_terms((program.model, plain), (x,), num_particles=3).log_weights.shape == (3, 4)


def _no_plate(x):
    pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1))


def _sequential(x):
    for i in pyro.plate("data", len(x)):
        pyro.sample(f"z{i}", dist.Normal(0.0, 1.0))


def _two_latents(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("w", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize(
    ("model", "guide", "message"),
    [
        (_two_latents, GammaPoisson().guide, r"only the model has \['w', 'z'\]"),
        (_no_plate, _no_plate, "no site lies inside a plate named 'data'"),
        (_sequential, _sequential, "sequential plate"),
        (BetaBernoulli().model, AutoDelta(BetaBernoulli().model), "point estimate"),
        (BetaBernoulli().model, AutoMultivariateNormal(BetaBernoulli().model), "jointly over the rows"),
        (BetaBernoulli().model, AutoLaplaceApproximation(BetaBernoulli().model), "point estimate"),
    ],
)
def test_programs_without_evidence_per_datum_are_refused(model, guide, message):
    x = torch.ones(3, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        particle_terms((model, guide), (x,), num_particles=2)


def test_every_form_of_a_program_is_one_program():
    ppca = PPCA.random()
    svi = SVI(ppca.model, ppca.guide, pyro.optim.Adam({}), Trace_ELBO())
    for program in (ppca, (ppca.model, ppca.guide), svi, Program.of(ppca)):
        assert Program.of(program) == Program(ppca.model, ppca.guide, (ppca,))
    with pytest.raises(TypeError, match="expected a program"):
        Program.of(ppca.model)


def test_a_run_finds_the_modules_that_hide_from_the_eye_and_leaves_their_modes():
    hidden = {"net": nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.BatchNorm1d(2))}
    bound, frozen = nn.Linear(2, 1), nn.Linear(1, 1).requires_grad_(False)
    hidden["net"][0].eval()
    seen = []

    def model(x, scale):
        register(frozen=frozen)
        hidden["net"](x)
        seen.append([part.training for part in hidden["net"]])
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + scale(x)[:, 0], 1.0), obs=x[:, 0])

    def guide(x):
        width = pyro.param("width", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0], width))

    state = {name: value.clone() for name, value in hidden["net"].state_dict().items()}
    run = dry_run(Program(functools.partial(model, scale=bound), guide), (torch.ones(4, 2),), {})
    assert seen == [[False, False, False]]
    assert [part.training for part in hidden["net"]] == [False, True, True]
    assert all(torch.equal(value, state[name]) for name, value in hidden["net"].state_dict().items())
    assert list(run.announced.modules.values()) == [frozen, hidden["net"], bound]
    assert {"frozen.weight", "Sequential.2.running_var", "Linear.weight", "width"} <= set(run.announced.tensors)
    assert list(run.announced.trained) == ["width"]


def test_eval_mode_is_left_also_after_an_error():
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    net[0].eval()
    with pytest.raises(KeyError), eval_mode(net):
        _raise_unless(not net[1].training)
    assert (net.training, net[0].training, net[1].training) == (True, False, True)


def _raise_unless(evaluating):
    raise KeyError if evaluating else AssertionError


def test_the_nesting_is_found_without_spending_random_numbers():
    ppca = PPCA.random()
    x = ppca.simulate(3)
    before = torch.get_rng_state()
    assert plate_nesting(Program.of(ppca), (x,), {}) == 1
    assert torch.equal(before, torch.get_rng_state())


def test_arguments_go_to_the_functions_that_take_them():
    program = Program.of((lambda x: ("model", x), lambda x, size=None, index=None: ("guide", index)))
    bound, args, kwargs = program.on(torch.zeros(2), None, 10, torch.arange(2))
    assert (args[0].tolist(), kwargs) == ([0.0, 0.0], {})
    assert bound.model(*args) == ("model", args[0])
    assert bound.guide(*args)[1].tolist() == [0, 1]
    ppca = Program.of(PPCA.random())
    assert ppca.on(torch.zeros(2), None, 10)[2] == {"size": 10}
    with pytest.raises(ValueError, match="takes an argument named covariates"):
        program.on(torch.zeros(2), {"label": torch.zeros(2)})


def test_an_index_that_comes_by_position_is_not_given_twice():
    program = Program.of((lambda y, index: index, lambda y, index: index))
    bound, args, kwargs = program.on((torch.zeros(2), torch.ones(2)), None, None, torch.arange(2))
    assert bound.model(*args, **kwargs).tolist() == [1.0, 1.0]
