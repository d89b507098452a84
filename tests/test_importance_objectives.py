"""Importance-weighted bounds: their values against log_weights and by hand, their gradients against many plain ones."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import PPCA, EnumeratedMixture, GammaPoisson
from programs import particle_terms
from pyro.infer import SVI, RenyiELBO, Trace_ELBO
from torch import nn

import pyrovae as pvae
from pyrovae.objectives.importance import ImportanceWeightedELBO, StickingTheLanding
from pyrovae.programs import beta

EXACT = {"rtol": 0, "atol": 1e-10}


@pytest.fixture(autouse=True)
def _seeded():
    pyro.set_rng_seed(0)
    pyro.clear_param_store()


def seeded(function, *args, seed=3, **kwargs):
    pyro.set_rng_seed(seed)
    return function(*args, **kwargs)


@pytest.mark.parametrize("size", [None, 100])
@pytest.mark.parametrize("gradient", ["reparam", "dreg", "stl"])
def test_the_value_is_the_logsumexp_of_log_weights(gradient, size):
    ppca = PPCA.random()
    x = ppca.simulate(7)
    objective = ImportanceWeightedELBO(5, gradient)
    log_weights = seeded(particle_terms, ppca, (x,), num_particles=5, nesting=1).log_weights
    expected = (100 / 7 if size else 1) * (log_weights.logsumexp(0) - math.log(5)).sum()
    kwargs = {} if size is None else {"size": size}
    value = seeded(objective.differentiable_loss, ppca.model, ppca.guide, x, **kwargs)
    torch.testing.assert_close(-value.detach(), expected.detach(), **EXACT)
    assert seeded(objective.loss, ppca.model, ppca.guide, x, **kwargs) == pytest.approx(-expected.item(), abs=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.3, 4.0, torch.tensor(0.3, dtype=torch.float64)])
@pytest.mark.parametrize("gradient", ["reparam", "dreg", "stl"])
def test_beta_goes_inside_the_logarithm(gradient, value):
    ppca = PPCA.random()
    x = ppca.simulate(7)
    terms = seeded(particle_terms, ppca, (x,), num_particles=5, nesting=1)
    tempered = terms.reconstruction + value * (terms.log_prior - terms.log_guide)
    expected = 4 * (tempered.logsumexp(0) - math.log(5)).sum()
    objective = ImportanceWeightedELBO(5, gradient)
    model, guide = beta(ppca.model, value), beta(ppca.guide, value)
    actual = -seeded(objective.differentiable_loss, model, guide, x, size=28)
    torch.testing.assert_close(actual.detach(), expected.detach(), **EXACT)


@pytest.mark.parametrize("alpha", [-2.0, 0.5, 0.999, 1.0, 3.0])
def test_renyi_bounds_by_hand(alpha):
    ppca = PPCA.random()
    x = ppca.simulate(6)
    log_weights = seeded(particle_terms, ppca, (x,), num_particles=4, nesting=1).log_weights
    moment = log_weights.mean(0) if alpha == 1 else ((1 - alpha) * log_weights).exp().mean(0).log() / (1 - alpha)
    actual = seeded(ImportanceWeightedELBO(4, alpha=alpha).bound, ppca.model, ppca.guide, x)
    torch.testing.assert_close(actual, moment.sum(), **EXACT)


def test_pyros_renyi_bound_agrees_only_without_scales():
    """Pyro's takes the plate's scale inside the logarithm; ours leaves it outside."""
    ppca = PPCA.random()
    x = ppca.simulate(1)
    pyros = RenyiELBO(alpha=0.0, num_particles=6, vectorize_particles=True, max_plate_nesting=1)
    ours = ImportanceWeightedELBO(6, max_plate_nesting=1)
    values = [seeded(objective.loss, ppca.model, ppca.guide, x) for objective in (pyros, ours)]
    assert values[0] == pytest.approx(values[1], abs=1e-9)
    scaled = [seeded(objective.loss, ppca.model, ppca.guide, x, size=10) for objective in (pyros, ours)]
    assert scaled[1] == pytest.approx(10 * values[1], abs=1e-8)
    assert abs(scaled[0] - scaled[1]) > 0.1


def gradients(objective, program, x, **kwargs):
    program.zero_grad()
    objective.loss_and_grads(program.model, program.guide, x, **kwargs)
    return torch.cat([p.grad.flatten() for p in program.parameters() if p.grad is not None])


def test_one_particle_is_the_plain_elbo():
    vamp = Vamp()
    x = torch.randn(6, 2, dtype=torch.float64)
    plain = Trace_ELBO(num_particles=1, vectorize_particles=True, max_plate_nesting=1)
    ours = ImportanceWeightedELBO(1, max_plate_nesting=1)
    torch.testing.assert_close(seeded(gradients, ours, vamp, x), seeded(gradients, plain, vamp, x), **EXACT)


class Vamp(nn.Module):
    """A VampPrior that shares the guide's encoder, and parameters that reach each other in every way."""

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.encoder = nn.Parameter(0.5 * torch.randn(2, 2, generator=generator, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.tensor([-0.3, 0.2], dtype=torch.float64))
        self.pseudo = nn.Parameter(torch.randn(3, 2, generator=generator, dtype=torch.float64))
        self.decoder = nn.Parameter(torch.randn(2, 2, generator=generator, dtype=torch.float64))

    def posterior(self, x):
        return dist.Normal((x @ self.encoder).tanh(), self.log_scale.exp()).to_event(1)

    def register(self):
        from pyrovae.programs import register

        register(vamp=self)

    def model(self, x, size=None):
        self.register()
        with pyro.plate("data", size or len(x), subsample=torch.arange(len(x))):
            mixing = dist.Categorical(torch.ones(3, dtype=torch.float64))
            z = pyro.sample("z", dist.MixtureSameFamily(mixing, self.posterior(self.pseudo)))
            pyro.sample("x", dist.Normal(z @ self.decoder, 0.5).to_event(1), obs=x)

    def guide(self, x, size=None):
        self.register()
        with pyro.plate("data", size or len(x), subsample=torch.arange(len(x))):
            pyro.sample("z", self.posterior(x))


class TwoLayers(Vamp):
    """z1 from the data, z2 from z1, in the guide; z1 from z2 in the model."""

    def model(self, x, size=None):
        self.register()
        with pyro.plate("data", size or len(x), subsample=torch.arange(len(x))):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal((z2 @ self.decoder).tanh(), 0.8).to_event(1))
            pyro.sample("x", dist.Normal(z1 + self.pseudo[0], 0.5).to_event(1), obs=x)

    def guide(self, x, size=None):
        self.register()
        with pyro.plate("data", size or len(x), subsample=torch.arange(len(x))):
            z1 = pyro.sample("z1", self.posterior(x))
            pyro.sample("z2", dist.Normal(z1 @ self.encoder, self.log_scale.exp()).to_event(1))


def mean_gradient(objective, program, x, repeats, seed, power=None):
    """Mean and standard error over repeats: rows of x repeated are independent replicas, so one call gives many."""
    draws = []
    pyro.set_rng_seed(seed)
    wrap = (lambda f: f) if power is None else partial(beta, beta=power)
    for _ in range(repeats):
        program.zero_grad()
        objective.loss_and_grads(wrap(program.model), wrap(program.guide), x)
        draws.append(torch.cat([p.grad.flatten() / len(x) for p in program.parameters() if p.grad is not None]))
    draws = torch.stack(draws)
    return draws.mean(0), draws.std(0) / math.sqrt(repeats)


def largest_z(first, second):
    """Parameters that a program does not use have neither gradient nor error."""
    error = torch.hypot(first[1], second[1])
    return ((first[0] - second[0]).abs() / error.where(error > 0, torch.inf)).max()


def vamp_vae():
    """The library's own VampPrior, whose posterior is the VAE's."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        posterior = pvae.Factorized(dist.Normal, pvae.MLP(2, (4,)), event_shape=2)
        prior = pvae.VampPrior(posterior, torch.randn(3, 2))
        likelihood = pvae.Factorized(dist.Normal, pvae.MLP(2, (4,)), event_shape=2)
        return pvae.VAE(prior=prior, likelihood=likelihood, posterior=posterior).double()


CASES = [(program, alpha, power) for program in ("shared", "layers") for alpha in (0.0, 0.5) for power in (None, 0.4)]
PROGRAMS = {"shared": Vamp, "layers": TwoLayers, "library": vamp_vae}


@pytest.mark.parametrize(("program", "alpha", "power"), [*CASES, ("library", 0.0, None)])
def test_doubly_reparameterized_gradients_are_unbiased(program, alpha, power):
    """20,000 replicas of one datum against as many plain gradients: |z| < 5 for every parameter."""
    program = PROGRAMS[program]()
    x = torch.tensor([[0.8, -1.1]], dtype=torch.float64).expand(1000, 2)
    means = [
        mean_gradient(ImportanceWeightedELBO(4, gradient, alpha, 1), program, x, 20, seed, power)
        for gradient, seed in (("reparam", 1), ("dreg", 2))
    ]
    assert largest_z(*means) < 5
    assert means[0][0].abs().max() > 0.05


def test_sticking_the_landing_is_biased_beyond_one_particle():
    """The reason why it is not the default; the test above would see a bias of this size."""
    program = Vamp()
    x = torch.tensor([[0.8, -1.1]], dtype=torch.float64).expand(1000, 2)
    reparam = mean_gradient(ImportanceWeightedELBO(4, "reparam", 0.0, 1), program, x, 20, 1)
    stl = mean_gradient(ImportanceWeightedELBO(4, "stl", 0.0, 1), program, x, 20, 2)
    assert largest_z(reparam, stl) > 8


@pytest.mark.parametrize("num_particles", [1, 3])
def test_sticking_the_landing_is_unbiased_for_the_plain_elbo(num_particles):
    program = TwoLayers()
    x = torch.tensor([[0.8, -1.1]], dtype=torch.float64).expand(1000, 2)
    plain = mean_gradient(ImportanceWeightedELBO(num_particles, "reparam", 1.0, 1), program, x, 20, 1)
    stl = mean_gradient(StickingTheLanding(num_particles, 1), program, x, 20, 2)
    assert largest_z(plain, stl) < 5


@pytest.mark.parametrize("objective", [StickingTheLanding(1, 1), ImportanceWeightedELBO(4, "dreg", 0.0, 1)])
def test_the_gradient_vanishes_at_an_exact_guide(objective):
    """The guide's, that is: its own parameters at the exact posterior; the plain gradient is noise there."""

    class Exact(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.5, dtype=torch.float64).sqrt())

        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(1, dtype=torch.float64), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

        def guide(self, x):
            from pyrovae.programs import register

            register(guide=self)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x / 2, self.scale).to_event(1))

    exact, x = Exact(), torch.randn(5, 1, dtype=torch.float64)
    assert gradients(objective, exact, x).abs().max() < 1e-12
    assert gradients(ImportanceWeightedELBO(4, "reparam", 0.0, 1), exact, x).abs().max() > 1e-3


def test_dropout_masks_are_the_same_for_drawing_and_for_evaluating():
    class Dropped(Vamp):
        def posterior(self, x):
            return super().posterior(nn.functional.dropout(x, 0.5))

    program, x = Dropped(), torch.randn(4, 2, dtype=torch.float64)
    objective = ImportanceWeightedELBO(1, "dreg", 0.0, 1)
    seen = []

    def guide(x):
        with pyro.plate("data", len(x)):
            posterior = program.posterior(x)
            seen.append(posterior.base_dist.loc.detach())
            pyro.sample("z", posterior)

    objective.differentiable_loss(program.model, guide, x)
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=0)


@pytest.mark.parametrize("gradient", ["reparam", "dreg", "stl"])
def test_svi_trains_with_it(gradient):
    program = Vamp()
    x = torch.randn(50, 2, dtype=torch.float64) * 2
    svi = SVI(program.model, program.guide, pyro.optim.Adam({"lr": 0.02}), ImportanceWeightedELBO(4, gradient))
    first = sum(svi.evaluate_loss(x) for _ in range(20)) / 20
    for _ in range(60):
        svi.step(x)
    assert sum(svi.evaluate_loss(x) for _ in range(20)) / 20 < first - 10


def test_global_latents_with_one_particle_are_the_plain_elbo():
    program, x = WithGlobal(), torch.randn(5, dtype=torch.float64)
    plain = Trace_ELBO(vectorize_particles=True, max_plate_nesting=1)
    for gradient in ("reparam", "dreg"):
        ours = ImportanceWeightedELBO(1, gradient, max_plate_nesting=1)
        expected, actual = (seeded(o.loss, program.model, program.guide, x) for o in (plain, ours))
        assert actual == pytest.approx(expected, abs=1e-9)
        seeded(ours.loss_and_grads, program.model, program.guide, x)
    with pytest.raises(ValueError, match="outside the data plate"):
        ImportanceWeightedELBO(2).loss(program.model, program.guide, x)


class WithGlobal(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def model(self, x):
        mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 2.0))
        with pyro.plate("data", 5):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        mu = pyro.sample("mu", dist.Normal(self.loc, 0.7))
        with pyro.plate("data", 5):
            pyro.sample("z", dist.Normal((mu + x) / 2, 0.8))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ImportanceWeightedELBO(0), "num_particles"),
        (lambda: ImportanceWeightedELBO(gradient="score"), "gradient must be one of"),
        (lambda: ImportanceWeightedELBO(alpha=math.inf), "alpha"),
        (lambda: step(EnumeratedMixture("sampled")), "no reparameterized draws"),
        (lambda: step(TwoLayers(), {"z1": 0.5}), "one beta for all sites"),
    ],
)
def test_what_cannot_be_done_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def step(program, power=1.0):
    x = program.simulate(3) if isinstance(program, EnumeratedMixture) else torch.zeros(3, 2, dtype=torch.float64)
    objective = ImportanceWeightedELBO(2, "dreg")
    return objective.differentiable_loss(beta(program.model, power), beta(program.guide, power), x)


def test_evaluation_needs_no_reparameterization():
    mixture = EnumeratedMixture("sampled")
    x = mixture.simulate(4)
    log_weights = seeded(particle_terms, mixture, (x,), num_particles=3, nesting=1).log_weights
    value = seeded(ImportanceWeightedELBO(3, max_plate_nesting=1).loss, mixture.model, mixture.guide, x)
    assert value == pytest.approx(-(log_weights.logsumexp(0) - math.log(3)).sum().item(), abs=1e-9)


def test_constrained_latents_have_gradients_too():
    program = GammaPoisson()
    x = program.simulate(4)
    loss = seeded(ImportanceWeightedELBO(3, "dreg").differentiable_loss, program.model, program.guide, x)
    plain = seeded(ImportanceWeightedELBO(3).loss, program.model, program.guide, x)
    assert loss.item() == pytest.approx(plain, abs=1e-9)
