"""Capacity and free bits against Pyro's ELBOs and by hand: in nested plates, with auxiliary draws, under beta."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from torch.distributions import kl_divergence

import pyrovae as pvae

EXACT = {"rel": 1e-10, "abs": 1e-10}


@pytest.fixture(autouse=True)
def _seeded():
    pyro.set_rng_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def seeded_loss(objective, model, guide, *args):
    pyro.set_rng_seed(3)
    return objective.loss(model, guide, *args)


def gradient(objective, model, guide, *args):
    pyro.clear_param_store()
    pyro.set_rng_seed(3)
    objective.differentiable_loss(model, guide, *args).backward()
    return torch.cat([p.grad.flatten() for _, p in sorted(pyro.get_param_store().named_parameters())])


class Nested:
    """One latent for each row and one for each entry, the data plate on either side, each plate perhaps a subsample."""

    def __init__(self, data_dim, row_latent=True, subsampled=False):
        self.data_dim, self.row_latent, self.subsampled = data_dim, row_latent, subsampled
        self.x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def plates(self):
        rows, entries = (30, 20) if self.subsampled else (6, 4)
        data = pyro.plate("data", rows, subsample=torch.arange(6), dim=self.data_dim)
        return data, pyro.plate("entries", entries, subsample=torch.arange(4), dim=-3 - self.data_dim)

    def arranged(self, x):
        return x if self.data_dim == -2 else x.T

    def model(self, x):
        data, entries = self.plates()
        with data:
            w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1)) if self.row_latent else torch.zeros(2)
            with entries:
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(0.3 * z + w[..., 0], 1.0), obs=self.arranged(x))

    def guide(self, x):
        data, entries = self.plates()
        spread = pyro.param("spread", torch.tensor(0.7))
        slope = pyro.param("slope", torch.tensor(0.4))
        with data:
            if self.row_latent:
                means = slope * x[:, :2]
                means = means.unsqueeze(1) if self.data_dim == -2 else means
                pyro.sample("w", dist.Normal(means, spread).to_event(1))
            with entries:
                pyro.sample("z", dist.Normal(slope * self.arranged(x), spread))

    def divergences(self):
        """By hand: for each row, the two dimensions of w, and z over all entries."""
        normal = dist.Normal(0.0, 1.0)
        w = kl_divergence(dist.Normal(0.4 * self.x[:, :2], 0.7), normal)
        z = kl_divergence(dist.Normal(0.4 * self.x, 0.7), normal).sum(-1) * (5.0 if self.subsampled else 1.0)
        return torch.cat([w, z[:, None]], -1) if self.row_latent else z[:, None]


NESTED = [Nested(dim, row, sub) for dim in (-1, -2) for row in (True, False) for sub in (True, False)]


def ids(program):
    return f"{program.data_dim}-{program.row_latent}-{program.subsampled}"


@pytest.mark.parametrize("program", NESTED, ids=ids)
@pytest.mark.parametrize("vectorize", [False, True])
def test_without_a_floor_free_bits_are_the_mean_field_elbo_in_nested_plates(program, vectorize):
    settings = {"num_particles": 3, "vectorize_particles": vectorize, "max_plate_nesting": 2}
    plain, ours = TraceMeanField_ELBO(**settings), pvae.FreeBitsELBO(0.0, **settings)
    arguments = program.model, program.guide, program.x
    assert seeded_loss(ours, *arguments) == pytest.approx(seeded_loss(plain, *arguments), **EXACT)
    torch.testing.assert_close(gradient(ours, *arguments), gradient(plain, *arguments))


@pytest.mark.parametrize("program", NESTED, ids=ids)
@pytest.mark.parametrize("vectorize", [False, True])
def test_the_penalties_by_hand_in_nested_plates(program, vectorize):
    settings = {"num_particles": 3, "vectorize_particles": vectorize, "max_plate_nesting": 2}
    arguments = program.model, program.guide, program.x
    groups = program.divergences()
    size = 30 if program.subsampled else 6
    elbo = seeded_loss(TraceMeanField_ELBO(**settings), *arguments)
    floored = (groups.mean(0).clamp_min(0.6) - groups.mean(0)).sum() * size
    free = seeded_loss(pvae.FreeBitsELBO(0.6, **settings), *arguments)
    assert free - elbo == pytest.approx(floored.item(), **EXACT)
    assert floored > 0 or not program.row_latent
    total = groups.sum(-1).mean()
    held = seeded_loss(pvae.CapacityELBO(total.item(), gamma=5.0, **settings), *arguments)
    assert held == pytest.approx(elbo - total.item() * size, **EXACT)
    tight = seeded_loss(pvae.CapacityELBO(0.1, gamma=5.0, **settings), *arguments)
    assert tight - held == pytest.approx(5.0 * size * (total.item() - 0.1), **EXACT)


def test_capacity_holds_the_divergence_that_kl_reports():
    program = Nested(-2)
    arguments = program.model, program.guide, program.x
    capacity = pvae.elbo(arguments[:2], program.x, exact_kl=True).kl.mean().item()
    loss = seeded_loss(pvae.CapacityELBO(capacity, gamma=1e3), *arguments)
    pyro.set_rng_seed(3)
    trace = poutine.trace(program.guide).get_trace(program.x)
    data = poutine.trace(poutine.replay(program.model, trace=trace)).get_trace(program.x)
    assert loss == pytest.approx(-data.log_prob_sum(lambda name, site: name == "x").item(), rel=1e-6)


def with_auxiliary(y):
    """A positive latent and a real one for each row, a real one for all."""
    size = pyro.sample("size", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", 2 * len(y), subsample=torch.arange(len(y))):
        rate = pyro.sample("rate", dist.Gamma(2.0, size))
        shift = pyro.sample("shift", dist.Normal(0.0, 10.0))
        pyro.sample("y", dist.Normal(shift, rate), obs=y)


def hand_written_guide(y):
    loc = pyro.param("loc", torch.tensor(0.3))
    spread = pyro.param("spread", torch.tensor(0.6))
    pyro.sample("size", dist.LogNormal(loc, spread))
    with pyro.plate("data", 2 * len(y), subsample=torch.arange(len(y))):
        draw = pyro.sample("draw", dist.Normal(loc * y, spread), infer={"is_auxiliary": True})
        pyro.sample("rate", dist.Delta(draw.exp(), log_density=-draw))
        pyro.sample("shift", dist.Normal(y, spread))


OBJECTIVES = [pvae.FreeBitsELBO(0.0, 2), pvae.CapacityELBO(0.0, gamma=1.0, num_particles=2)]


@pytest.mark.filterwarnings("ignore:Failed to verify mean field")
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: type(objective).__name__)
def test_auxiliary_draws_count_in_the_divergence(objective):
    """With a floor or capacity that is out of play both are the ELBO, but for shift and size, which are in closed form."""
    y = torch.linspace(-1.0, 5.0, 5)
    drawn = seeded_loss(Trace_ELBO(2), with_auxiliary, hand_written_guide, y)
    pyro.set_rng_seed(3)
    for _ in range(2):
        trace = poutine.trace(hand_written_guide).get_trace(y)
        value, spread = trace.nodes["shift"]["value"], torch.tensor(0.6)
        q, p = dist.Normal(y, spread), dist.Normal(0.0, 10.0)
        sampled = (q.log_prob(value) - p.log_prob(value)).sum()
        drawn += (kl_divergence(q, p).sum() - sampled).item()
    assert seeded_loss(objective, with_auxiliary, hand_written_guide, y) == pytest.approx(drawn, **EXACT)


def three_rows(y):
    with pyro.plate("data", 3):
        z = pyro.sample("z", dist.Normal(0.0, 10.0))
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        pyro.sample("y", dist.Normal(z, rate), obs=y)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: type(objective).__name__)
def test_autoguides_train_as_with_the_plain_elbo(objective):
    y = torch.tensor([-4.0, 0.5, 3.0])
    guide = AutoNormal(three_rows)
    guide(y)
    losses = [seeded_loss(elbo, three_rows, guide, y) for elbo in (Trace_ELBO(2), objective)]
    assert losses[1] == pytest.approx(losses[0], **EXACT)


def test_a_free_bits_group_is_a_delta_with_the_auxiliary_draws_before_it():
    y = torch.tensor([-4.0, 0.5, 3.0])
    guide = AutoNormal(three_rows)
    guide(y)
    pyro.set_rng_seed(3)
    trace = poutine.trace(guide).get_trace(y)
    model = poutine.trace(poutine.replay(three_rows, trace=trace)).get_trace(y)
    for each in (trace, model):
        each.compute_log_prob()
    floor = 3.0
    means = [
        sum(trace.nodes[n]["log_prob"] for n in (f"{name}_unconstrained", name))
        .sub(model.nodes[name]["log_prob"])
        .mean()
        for name in ("z", "rate")
    ]
    assert min(means) < floor < max(means)
    expected = 3 * sum(mean.clamp_min(floor) for mean in means) - model.nodes["y"]["log_prob_sum"]
    assert seeded_loss(pvae.FreeBitsELBO(floor), three_rows, guide, y) == pytest.approx(expected.item(), **EXACT)


def loose_auxiliary(y):
    with pyro.plate("data", 3):
        noise = pyro.sample("noise", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Normal(noise, 1.0))
        pyro.sample("rate", dist.Gamma(2.0, 1.0))


def discrete_auxiliary(y):
    with pyro.plate("data", 3):
        pick = pyro.sample("pick", dist.Bernoulli(0.5), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Normal(pick, 1.0))
        pyro.sample("rate", dist.Gamma(2.0, 1.0))


@pytest.mark.parametrize(
    ("objective", "guide", "message"),
    [
        (pvae.FreeBitsELBO(0.1), loose_auxiliary, "auxiliary draw 'noise'.*no latent.*CapacityELBO"),
        (pvae.FreeBitsELBO(0.1), discrete_auxiliary, "'pick' has no reparameterized draws"),
        (pvae.CapacityELBO(0.1), discrete_auxiliary, "'pick' has no reparameterized draws"),
        (pvae.FreeBitsELBO(0.1), AutoMultivariateNormal(three_rows), "jointly over the rows"),
        (pvae.CapacityELBO(0.1), AutoMultivariateNormal(three_rows), "jointly over the rows"),
    ],
)
def test_auxiliary_draws_that_belong_to_no_datum_or_group_are_refused(objective, guide, message):
    with pytest.raises(ValueError, match=message):
        objective.loss(three_rows, guide, torch.tensor([-4.0, 0.5, 3.0]))


def test_a_point_estimate_of_a_global_latent_is_as_under_the_plain_elbo():
    def model(y):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 3):
            pyro.sample("y", dist.Normal(pyro.sample("z", dist.Normal(loc, 1.0)), 1.0), obs=y)

    point = AutoDelta(poutine.block(model, hide=["z"]))

    def guide(y):
        point(y)
        with pyro.plate("data", 3):
            pyro.sample("z", dist.Normal(y, 0.5))

    y = torch.tensor([-4.0, 0.5, 3.0])
    guide(y)
    expected = seeded_loss(TraceMeanField_ELBO(), model, guide, y)
    assert seeded_loss(pvae.FreeBitsELBO(0.0), model, guide, y) == pytest.approx(expected, **EXACT)


BETAS = [1.0, 0.5, 0.0, 3.0, torch.tensor(0.5)]


@pytest.mark.parametrize("weight", [*BETAS, {"z": 0.2}, {"w": 0.0, "z": torch.tensor(2.0)}])
@pytest.mark.parametrize("subsampled", [False, True])
def test_without_a_floor_beta_means_what_it_means_to_the_mean_field_elbo(weight, subsampled):
    program = Nested(-2, subsampled=subsampled)
    arguments = pvae.beta(program.model, weight), pvae.beta(program.guide, weight), program.x
    expected = seeded_loss(TraceMeanField_ELBO(), *arguments)
    assert seeded_loss(pvae.FreeBitsELBO(0.0), *arguments) == pytest.approx(expected, **EXACT)


@pytest.mark.parametrize("weight", BETAS)
def test_beta_multiplies_the_floored_divergence(weight):
    program = Nested(-2)
    groups = program.divergences().mean(0)
    losses = [
        seeded_loss(objective, pvae.beta(program.model, weight), pvae.beta(program.guide, weight), program.x)
        for objective in (pvae.FreeBitsELBO(0.6), pvae.FreeBitsELBO(0.0))
    ]
    expected = 6 * float(weight) * (groups.clamp_min(0.6) - groups).sum().item()
    assert losses[0] - losses[1] == pytest.approx(expected, **EXACT)


@pytest.mark.parametrize("weight", [0.5, 0.0, torch.tensor(1.0), {"z": 0.5}])
def test_capacity_refuses_beta_which_it_replaces(weight):
    program = Nested(-2)
    with pytest.raises(ValueError, match="CapacityELBO takes the place of beta"):
        pvae.CapacityELBO(1.0).loss(pvae.beta(program.model, weight), pvae.beta(program.guide, weight), program.x)


@pytest.mark.filterwarnings("ignore:training ended at beta")
def test_fit_passes_the_refusal_on():
    program = Nested(-2)
    program.guide(program.x)
    with pytest.raises(ValueError, match="CapacityELBO takes the place of beta"):
        pvae.fit(
            (program.model, program.guide),
            program.x,
            epochs=1,
            beta=0.5,
            objective=pvae.CapacityELBO(1.0),
            progress=False,
        )


def test_a_weight_for_each_row_is_refused_by_free_bits():
    program = Nested(-2)
    scaled = poutine.scale(program.guide, scale=torch.rand(6, 1) + 0.1)
    with pytest.raises(ValueError, match="one weight"):
        pvae.FreeBitsELBO(0.1).loss(program.model, scaled, program.x)


def test_programs_without_a_latent_in_a_vectorized_data_plate_are_refused():
    def sequential(y):
        for i in pyro.plate("data", 3):
            pyro.sample(f"z{i}", dist.Normal(0.0, 1.0))

    def without(y):
        pyro.sample("z", dist.Normal(0.0, 1.0))

    for program, message in ((sequential, "sequential"), (without, "no latent site of the guide lies inside")):
        with pytest.raises(ValueError, match=message):
            pvae.FreeBitsELBO(0.1).loss(program, program, torch.zeros(3))
