"""`Factorized` over the univariate families of Pyro, in its three roles."""

import copy
import pickle

import pyro.distributions as dist
import pytest
import torch
from families import CASES, total_mass
from torch import nn
from torch.distributions import constraints

import pyrovae as pvae
from pyrovae.conditionals.base import tally
from pyrovae.distributions.links import FLOOR, link
from pyrovae.missing import interior_point

ids = [repr(case) for case in CASES]
cases = pytest.mark.parametrize("case", CASES, ids=ids)


def as_likelihood(case, event_shape=3, seed=0):
    torch.manual_seed(seed)
    return pvae.Factorized(case.family, pvae.MLP(2, (8,)), event_shape=event_shape, **case.given).double()


def to_zero(likelihood):
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.zero_()


def as_prior(case):
    learned = {name: nn.Parameter(_start(case.family, name)) for name in pvae.Factorized.parameters_of(case.family)}
    return pvae.Factorized(case.family, event_shape=2, **{**learned, **case.given}).double()


def _start(family, name):
    constraint = family.arg_constraints[name]
    return torch.full((2,), 0.4 if constraint is constraints.unit_interval else 0.8)


@cases
@pytest.mark.parametrize("role", [as_likelihood, as_prior])
def test_it_integrates_to_one(case, role):
    module = role(case)
    value = torch.tensor([0.3, -0.7], dtype=torch.float64) if role is as_likelihood else None
    base = module(value).base_dist
    mass = total_mass(lambda points: base.log_prob(points[:, None]), case.domain)
    torch.testing.assert_close(mass, torch.ones_like(mass), rtol=0, atol=2e-4)


@cases
@pytest.mark.parametrize("role", [as_likelihood, as_prior])
def test_gradients_reach_every_parameter(case, role):
    module = role(case)
    distribution = module(torch.randn(20, 2, dtype=torch.float64) if role is as_likelihood else None)
    with torch.no_grad():
        x = distribution.sample() if role is as_likelihood else distribution.sample((20,))
    loss = -distribution.log_prob(x).sum()
    loss.backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@cases
def test_it_round_trips_and_keeps_its_dtype(case):
    module = as_likelihood(case)
    value = torch.randn(4, 2, dtype=torch.float64)
    x = module(value).sample()
    assert x.dtype == module(value).log_prob(x).dtype == torch.float64
    twin = as_likelihood(case, seed=1)
    twin.load_state_dict(module.state_dict())
    for other in (twin, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(value).log_prob(x), module(value).log_prob(x))
    single = module.float()(value.float())
    assert single.log_prob(x.float()).dtype == torch.float32


@cases
def test_a_wrong_network_size_is_refused_with_the_exact_fix(case):
    count = sum(name not in case.given for name in pvae.Factorized.parameters_of(case.family))
    with pytest.raises(ValueError, match=rf"expected out_shape=\({count}, 3\).*write out_shape=\({count}, 3\)"):
        pvae.Factorized(case.family, pvae.MLP(2, (8,), (count + 1, 3)), event_shape=3, **case.given)


@cases
def test_raw_outputs_of_any_size_give_valid_parameters(case):
    module = as_likelihood(case)
    for raw in (-case.limit, -3.0, 0.0, 3.0, case.limit):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.zero_()
            module.net.head.bias.fill_(raw)
        for dtype in (torch.float64, torch.float32):
            module.to(dtype)(torch.zeros(1, 2, dtype=dtype))  # Pyro's validation checks every parameter's constraint


@cases
def test_any_number_of_leading_axes(case):
    module = as_likelihood(case, event_shape=(2, 3))
    for batch in ((), (4,), (5, 4), (6, 1, 4)):
        distribution = module(torch.zeros(*batch, 2, dtype=torch.float64))
        assert distribution.batch_shape == batch
        assert distribution.event_shape == (2, 3)


@cases
def test_a_missing_entry_is_filled_inside_the_support(case):
    support = as_likelihood(case)(torch.zeros(2, dtype=torch.float64)).base_dist.support
    point = interior_point(support, torch.zeros(3, dtype=torch.float64))
    assert support.check(point).all()


@pytest.mark.parametrize("family", [dist.Categorical, dist.OneHotCategorical, dist.MultivariateNormal, dist.Dirichlet])
def test_families_with_joint_parameters_are_refused(family):
    with pytest.raises(ValueError, match=rf"{family.__name__} is not univariate.*cannot be factorized"):
        pvae.Factorized(family, pvae.MLP(2, (8,)), event_shape=3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "constraint",
    [
        constraints.real,
        constraints.positive,
        constraints.nonnegative,
        constraints.unit_interval,
        constraints.interval(-2.0, 3.0),
        constraints.greater_than(1.5),
        constraints.less_than(-1.0),
    ],
    ids=str,
)
def test_links_stay_inside_their_constraint_and_invert(constraint, dtype):
    raw = torch.tensor([-1e4, -50.0, -3.0, 0.0, 2.0, 50.0, 1e4], dtype=dtype, requires_grad=True)
    value = link(constraint).forward(raw)
    assert value.isfinite().all()
    assert constraint.check(value).all()
    value.sum().backward()
    assert raw.grad.isfinite().all()
    middle = torch.tensor([-3.0, 0.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(link(constraint).inverse(link(constraint).forward(middle)), middle)


def test_the_link_of_a_scale_keeps_its_floor():
    assert link(constraints.positive).forward(torch.tensor(-1e4, dtype=torch.float64)) == FLOOR


def test_given_parameters_are_fixed_learned_or_read_from_the_covariates():
    fixed = pvae.Factorized(dist.Normal, event_shape=3, loc=torch.tensor([0.0, 1.0, 2.0]), scale=2.0)
    assert [name for name, _ in fixed.named_parameters()] == []
    assert fixed().base_dist.mean.tolist() == [0.0, 1.0, 2.0]
    learned = pvae.Factorized(dist.Normal, event_shape=3, loc=0.0, scale=nn.Parameter(torch.tensor(0.5)))
    torch.testing.assert_close(learned().base_dist.scale, torch.full((3,), 0.5))
    assert [tuple(p.shape) for p in learned.parameters()] == [()]
    read = pvae.Factorized(
        dist.Normal, pvae.MLP(2, (4,)), event_shape=3, scale=pvae.FromCovariate("error", transform=torch.exp)
    )
    assert read.covariate_names == ("error",)
    per_entry = read(torch.zeros(5, 2), covariates={"error": torch.zeros(5, 3)})
    per_datum = read(torch.zeros(5, 2), covariates={"error": torch.zeros(5)})
    assert per_entry.base_dist.scale.unique().tolist() == per_datum.base_dist.scale.unique().tolist() == [1.0]
    assert per_datum.batch_shape == (5,)
    particles = read(torch.zeros(7, 5, 2), covariates={"error": torch.zeros(5)})
    assert particles.batch_shape == (7, 5)


def test_the_order_of_parameters_is_documented_and_kept():
    assert pvae.Factorized.parameters_of(dist.StudentT) == ("df", "loc", "scale")
    assert pvae.Factorized.parameters_of(dist.Bernoulli) == ("logits",)
    net = pvae.MLP(1, (), (2, 1))
    with torch.no_grad():
        net.head.weight.zero_()
        net.head.bias.copy_(torch.tensor([3.0, 0.0]))
    normal = pvae.Factorized(dist.Normal, net, event_shape=1)(torch.zeros(1)).base_dist
    assert normal.mean.item() == 3.0
    assert normal.scale.item() == pytest.approx(torch.log(torch.tensor(2.0)).item(), abs=1e-5)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: pvae.Factorized(dist.Normal, event_shape=3), ValueError, "no value for loc, scale"),
        (lambda: pvae.Factorized(dist.Normal, pvae.MLP(2, ())), ValueError, "needs event_shape="),
        (lambda: pvae.Factorized(dist.Normal, nn.Linear(2, 6), event_shape=3), TypeError, r"write BatchAxes\(module"),
        (
            lambda: pvae.Factorized(dist.Normal, event_shape=3, loc=0.0, sigma=1.0),
            TypeError,
            "no parameter 'sigma'; it takes loc, scale",
        ),
        (
            lambda: pvae.Factorized(dist.Normal, event_shape=3, loc=torch.zeros(2), scale=1.0),
            ValueError,
            "does not broadcast",
        ),
        (
            lambda: pvae.Factorized(dist.Normal, event_shape=3, loc="0", scale=1.0),
            TypeError,
            "takes a number, a tensor",
        ),
        (
            lambda: pvae.Factorized(dist.Binomial, pvae.MLP(2, ()), event_shape=3),
            ValueError,
            "'total_count' must be given",
        ),
        (lambda: pvae.Factorized(dist.Uniform, pvae.MLP(2, ()), event_shape=3), ValueError, "lists no parameters"),
        (
            lambda: pvae.Factorized(dist.RelaxedBernoulli, pvae.MLP(2, ()), event_shape=3),
            ValueError,
            "needs temperature=",
        ),
        (
            lambda: pvae.Factorized(dist.Normal, pvae.MLP(2, ()), event_shape=3, loc=0.0, scale=1.0),
            ValueError,
            "unused",
        ),
        (
            lambda: pvae.Factorized(dist.Normal, event_shape=3, loc=0.0, scale=nn.Parameter(torch.tensor(-1.0))),
            ValueError,
            "interior",
        ),
        (lambda: pvae.standard_normal(0), ValueError, "latent_dim must be at least 1"),
        (
            lambda: pvae.Factorized(torch.distributions.Normal, pvae.MLP(2, ()), event_shape=3),
            TypeError,
            "a distribution class of pyro.distributions",
        ),
        (lambda: pvae.Factorized(pvae.MLP(2, ()), event_shape=3), TypeError, "a distribution class of pyro"),
    ],
)
def test_bad_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@cases
def test_initialization_starts_at_the_datas_mean(case):
    likelihood = as_likelihood(case)
    with torch.no_grad():
        for parameter in likelihood.net.parameters():
            parameter.zero_()
    torch.manual_seed(0)
    with torch.no_grad():
        data = likelihood(torch.zeros(2, dtype=torch.float64)).sample((2000,))
        before = likelihood(torch.zeros(2, dtype=torch.float64)).log_prob(data).mean()
    data[:50, 0] = torch.nan
    likelihood.initialize(data)
    after = likelihood(torch.zeros(2, dtype=torch.float64)).log_prob(data[50:]).mean()
    assert after > before - 0.05


@pytest.mark.parametrize(
    ("family", "of"),
    [(dist.Normal, torch.Tensor.double), (dist.Laplace, torch.Tensor.double), (dist.LogNormal, torch.exp)],
)
def test_initialization_finds_columns_of_any_unit(family, of):
    """Metres, grams and a column far from zero: within the steps taken no raw number could walk there from zero."""
    generator = torch.Generator().manual_seed(0)
    unit, center = torch.tensor([0.07, 15.0, 1.0]), torch.tensor([1.7, 70.0, 5000.0])
    if family is dist.LogNormal:
        unit, center = torch.tensor([0.1, 1.0, 2.0]), torch.tensor([-20.0, 0.0, 30.0])
    z = torch.randn(4000, 3, generator=generator, dtype=torch.float64)
    x = of(center + unit * z)
    likelihood = pvae.Factorized(family, pvae.MLP(2, (4,)), event_shape=3).double()
    to_zero(likelihood)
    likelihood.initialize(x)
    started = likelihood(torch.zeros(2, dtype=torch.float64)).base_dist
    assert ((started.loc - center).abs() < 0.1 * unit).all()
    width = started.scale / (unit * (0.5**0.5 if family is dist.Laplace else 1.0))
    assert ((width > 0.8) & (width < 1.25)).all()


def test_initialization_of_counts_of_any_size():
    likelihood = pvae.Factorized(dist.Poisson, pvae.MLP(2, (4,)), event_shape=3)
    to_zero(likelihood)
    x = torch.poisson(torch.tensor([0.2, 9.0, 40000.0]).expand(4000, 3), generator=torch.Generator().manual_seed(0))
    likelihood.initialize(x)
    torch.testing.assert_close(likelihood(torch.zeros(2)).mean.detach(), x.mean(0), atol=0, rtol=0.05)


def test_initialization_of_a_bernoulli_is_the_mean():
    likelihood = pvae.Factorized(dist.Bernoulli, pvae.MLP(2, (4,)), event_shape=3)
    to_zero(likelihood)
    x = torch.bernoulli(torch.tensor([0.1, 0.5, 0.9]).expand(5000, 3), generator=torch.Generator().manual_seed(0))
    likelihood.initialize(x)
    torch.testing.assert_close(likelihood(torch.zeros(2)).mean.detach(), x.mean(0), atol=0.01, rtol=0)


@pytest.mark.parametrize("family", [dist.Binomial, pvae.MeanBetaBinomial])
def test_initialization_counts_values_that_repeat(family, monkeypatch):
    """As if each row were looked at; the entries have other values, and others are missing, one of them in every row."""
    x = torch.binomial(torch.full((400, 4), 16.0), torch.tensor([0.02, 0.3, 0.8, 0.5]).expand(400, 4))
    x[torch.rand(400, 4) < torch.tensor([0.0, 0.5, 0.1, 1.0])] = torch.nan
    values, times = tally(x)
    assert len(values) < 18
    assert times.sum(0).tolist() == [400] * 4  # the missing ones are counted as one value
    assert torch.equal(((values == 0.0) * times).sum(0), (x == 0.0).sum(0).float())
    made = [pvae.Factorized(family, pvae.MLP(2, (4,)), event_shape=4, total_count=16) for _ in range(2)]
    made[0].initialize(x)
    monkeypatch.setattr("pyrovae.conditionals.base.tally", lambda x: (x, None))
    made[1].initialize(x)
    assert made[1].offset[..., :3].abs().min() > 0.1
    torch.testing.assert_close(made[0].offset, made[1].offset, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("rows", "counted"), [(11, False), (12, True)])
def test_rows_are_counted_where_values_repeat_four_times(rows, counted):
    assert (tally(torch.arange(float(rows))[:, None] % 3)[1] is not None) == counted
