"""Evidence from a mixture of proposals: modes are found, weights are bounded, errors and alarms are right."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from oracles import PPCA, GammaPoisson, Turned
from scipy import integrate, stats

from pyrovae.checks import reliability
from pyrovae.evaluation import Importance, Mixture, log_marginal, log_weights, mixture, psis, refine
from pyrovae.evaluation.psis import beyond_the_draws
from pyrovae.evaluation.unconstrained import LatentSpace
from pyrovae.limits import good_k
from pyrovae.programs.rows import RowWork


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def in_a_block(program, x, task, num_samples=32):
    """What a task returns for the one block of all rows."""
    held = []
    work = RowWork(program, x, num_samples=num_samples, seed=0)
    work.run(lambda block: held.append(task(LatentSpace(block.call))) or {"none": torch.zeros(len(x))})
    assert len(held) == 1
    return held[0]


@pytest.mark.parametrize(("modes", "dims", "share"), [(2, 2, 1.0), (2, 10, 1.0), (5, 10, 0.9)])
def test_modes_that_one_gaussian_loses_in_silence_are_found(modes, dims, share):
    program = Turned(modes, dims)
    x = program.simulate(24)
    exact = program.log_evidence(x).numpy()
    found = log_marginal(program, x, method="mixture", seed=0)
    error = found["log_marginal"].values - exact
    assert (np.abs(error) < 5 * found["mcse"].values + 0.01).mean() >= share
    assert (found["optima"] >= 2).mean() >= 0.9
    assert (found["starts"] == 64).all()
    if dims == 10:
        lost = log_marginal(program, x, method="refined", seed=0)
        assert (lost["log_marginal"].values - exact + math.log(modes)).max() < 0.1
        assert (lost["pareto_k"] < 0.7).all()


def test_the_error_by_strata_is_that_over_seeds():
    program = Turned(2, 2)
    x = program.simulate(40)
    runs = [
        log_marginal(program, x, method=Mixture(starts=16, num_steps=40), num_samples=200, seed=seed)
        for seed in range(6)
    ]
    score = np.stack([(run["log_marginal"] - program.log_evidence(x).numpy()) / run["mcse"] for run in runs])
    assert 0.85 < np.sqrt((score**2).mean()) < 1.2
    iid = np.sqrt(1 / runs[0]["ess"] - 1 / 200)
    assert np.median(runs[0]["mcse"] / iid) < 0.95


def test_no_weight_exceeds_five_times_that_under_the_guide():
    program = PPCA.random(guide_shift=0.5)
    x = program.simulate(20)

    def weights(space):
        optima = mixture.search(space, 8, 8, 2)
        options = {"family": "full", "num_steps": 8, "num_particles": 2, "rate": 0.02}
        found = mixture.proposals(space, optima, 100, **options)
        assert ((found.turns == -1).sum(0) == 2).all()
        return found.log_weights(range(100))

    mixed, alone = in_a_block(program, x, weights)
    assert (mixed <= alone + math.log(5) + 1e-9).all()
    assert (mixed > alone).any()


def test_a_normal_posterior_is_reached_in_one_step():
    program = PPCA.random(guide_shift=3.0)
    x = program.simulate(5)
    places = program.posterior(x).loc.detach() + torch.randn(4, 5, 3).double()
    around = in_a_block(program, x, lambda space: mixture.laplace(space, places, torch.full((5, 3), 0.7).double()))
    expected = program.posterior(x)
    torch.testing.assert_close(around.loc, expected.loc.expand(4, 5, 3), rtol=0, atol=1e-9)
    covariance = around.tril @ around.tril.mT
    torch.testing.assert_close(covariance, expected.covariance_matrix.expand(4, 5, 3, 3), rtol=0, atol=1e-9)


class Wells:
    """A space whose density has two peaks on a line with a valley of a chosen depth between them."""

    def __init__(self, depth):
        self.depth = depth

    def log_joint(self, u, masked=False):
        return -self.depth * (u[..., 0].square() - 1).square()


@pytest.mark.parametrize(("depth", "count"), [(0.09, 1), (0.11, 2)])
def test_two_places_are_two_optima_beyond_a_valley_of_a_tenth(depth, count):
    places = torch.tensor([[-1.0], [1.0], [0.99]])[:, None]
    found = mixture.distinct(Wells(depth), places, 2)
    assert found.counts.tolist() == [count]
    assert (found.places[0] != found.places[1]).any() == (count == 2)


def test_right_rows_of_a_positive_latent_raise_no_alarm():
    program = GammaPoisson()
    x = program.simulate(60)
    exact = program.log_evidence(x).numpy()
    for method in ("refined", "mixture"):
        found = log_marginal(program, x, method=method, seed=0)
        assert np.abs(found["log_marginal"] - exact).max() < 0.05
        assert (found["pareto_k"] > good_k(1000)).mean() <= 0.1
    guide = refine(program, x, num_steps=100, seed=0)
    assert (psis.pareto_k(log_weights(guide, x, num_samples=1000, seed=1)) > good_k(1000)).double().mean() > 0.3
    assert reliability(guide, x, num_samples=1000, seed=1).count("fine") >= 54


def test_wrong_rows_of_a_positive_latent_keep_their_alarm():
    program = GammaPoisson(guide_scale=0.3)
    x = program.simulate(60)
    found = log_marginal(program, x, num_samples=1000, seed=0)
    wrong = np.abs(found["log_marginal"].values - program.log_evidence(x).numpy()) > 0.1
    raw = psis.pareto_k(log_weights(program, x, num_samples=1000, seed=0)).numpy() > good_k(1000)
    assert (wrong & raw).sum() > 30
    assert (found["pareto_k"].values > good_k(1000))[wrong & raw].all()


@pytest.mark.parametrize("shape", [0.4, 0.9, 1.5])
def test_what_lies_beyond_the_draws_is_the_integral_of_the_fitted_tail(shape):
    order = (np.arange(1000) + 0.5) / 1000
    weights = stats.genpareto(shape).ppf(order)
    k, gain = beyond_the_draws(torch.tensor(weights).log()[:, None])
    _, tail, _, _ = psis._prepare(torch.tensor(weights).log()[:, None], 1.0)
    sigma, cutoff = psis._fit(tail)[1].item() * weights.max(), np.sort(weights)[-96]
    if shape > 1:  # the mean is finite: the tail goes on with shape 1 from the largest weight
        sigma = (weights.max() - cutoff) / 189
    fitted = stats.genpareto(min(k.item(), 1), cutoff, sigma)
    expected = 95 / 1000 * integrate.quad(fitted.isf, 1 / 1900, 1 / 190)[0] / weights.mean()
    assert gain.item() == pytest.approx(expected, rel=1e-6 if shape < 1 else 1e-3)
    assert beyond_the_draws(torch.tensor(weights).log()[:, None], 1.0001)[1].item() < 1e-4


@pytest.mark.parametrize(("bound", "silent"), [(0.0199, True), (0.0201, False)])
def test_a_tail_is_called_heavy_only_where_it_is_worth_something(bound, silent):
    weights = torch.tensor(stats.genpareto(1.2).ppf((np.arange(1000) + 0.5) / 1000)).log()[:, None]
    mean = weights.logsumexp(0) - math.log(1000)
    alone = torch.full_like(weights, -torch.inf)
    alone[0] = math.log(bound) + mean + math.log(1000 / 5)
    assert mixture.bounded_k(weights, torch.full_like(alone, torch.inf)).item() > 0.7
    assert (mixture.bounded_k(weights, alone).item() == good_k(1000)) == silent


class Short(Importance):
    """Loses so many nats, the first time or every time."""

    name = "short"

    def __init__(self, lost, always):
        object.__setattr__(self, "lost", lost)
        object.__setattr__(self, "always", always)
        object.__setattr__(self, "times", [])

    def log_weights(self, block):
        self.times.append(1)
        weights = super().log_weights(block)
        lose = torch.zeros(weights.shape[1])
        lose[0] = self.lost if self.always or len(self.times) == 1 else 0.0
        return weights - lose


@pytest.mark.parametrize(
    ("lost", "always", "refitted", "flagged"), [(0.0, True, 0, 0), (1.0, False, 1, 0), (1.0, True, 1, 1)]
)
def test_a_row_below_its_own_bound_is_estimated_again_and_flagged(monkeypatch, lost, always, refitted, flagged):
    monkeypatch.setattr("pyrovae.evaluation.marginal.Importance", type(None))
    program = PPCA.random(exact=True)
    x = program.simulate(4)
    found = log_marginal(program, x, method=Short(lost, always), num_samples=50, seed=0)
    assert found["refitted"].values.tolist() == [refitted, 0, 0, 0]
    assert found["flagged"].values.tolist() == [flagged, 0, 0, 0]
    assert ("lies above" in found.attrs.get("notes", "")) == bool(flagged)
    expected = program.log_evidence(x).numpy() - (lost if flagged else 0) * np.eye(4)[0]
    np.testing.assert_allclose(found["log_marginal"], expected, atol=1e-9)


def test_a_guide_with_auxiliary_draws_gives_no_draws():
    import pyro

    ppca = PPCA.random()

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            proposal = ppca.proposal(x)
            e = pyro.sample("e", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1), infer={"is_auxiliary": True})
            z = proposal.base_dist.loc + proposal.base_dist.scale * e
            log_det = proposal.base_dist.scale.log().sum(-1)
            pyro.sample("z", dist.Delta(z, log_density=-log_det, event_dim=1))

    x = ppca.simulate(6)
    found = log_marginal((lambda x: ppca.model(x), guide), x, method=Mixture(num_steps=40), num_samples=200, seed=0)
    np.testing.assert_allclose(found["log_marginal"], ppca.log_evidence(x), atol=0.01)


def test_two_searches_tell_how_far_they_lie_apart():
    program = Turned(2, 2)
    x = program.simulate(8)
    found = log_marginal(program, x, method=Mixture(robust=True), num_samples=400, seed=0)
    assert (found["starts"] == 128).all()
    assert 0 < found["apart"].max() < 0.1
    one_mode = Mixture(robust=True, starts=2, candidates=32, components=1)
    lost = log_marginal(program, x, method=one_mode, num_samples=400, seed=0)
    error = lost["log_marginal"].values - program.log_evidence(x).numpy()
    one_lost = np.abs(error + math.log(4 / 3)) < 0.05
    assert (lost["apart"].values[one_lost] > 0.3).all()
