"""One test runs over the whole catalogue: every conditional of ``pyrovae.conditionals``, found by inspection."""

from __future__ import annotations

import copy
import inspect
import math
import pickle

import pytest
import torch
from catalogue import CASES, Case
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import nn

from pyrovae import conditionals
from pyrovae import distributions as parts

every_case = pytest.mark.parametrize("case", CASES, ids=repr)
IN_FACTORIZED_TESTS = {conditionals.Factorized}
IN_GRAPH_TESTS = {conditionals.Dynamics, conditionals.Experts, conditionals.Point, conditionals.Smoother}
IN_GRAPH_TESTS |= {conditionals.Tokens, parts.TokenSequence}
"""Parts of paths, of several views, of sentences and without a density, which no grid covers."""
NOT_CONDITIONAL = {conditionals.ColumnFeatures, conditionals.TableNetwork, conditionals.Conditional}


def public(kind):
    found = [getattr(room, name) for room in (conditionals, parts) for name in room.__all__]
    return {c for c in found if inspect.isclass(c) and issubclass(c, kind)}


def base_of(distribution):
    while isinstance(distribution, torch.distributions.Independent):
        distribution = distribution.base_dist
    return distribution


def test_every_public_conditional_and_family_has_a_case():
    modules = {type(case.module()) for case in CASES}
    families = {type(base_of(case.distribution(case.module(), 2))) for case in CASES}
    assert public(nn.Module) - modules - NOT_CONDITIONAL - IN_GRAPH_TESTS == IN_FACTORIZED_TESTS - modules
    assert public(torch.distributions.Distribution) - IN_GRAPH_TESTS <= families


@every_case
def test_integrates_to_one(case: Case):
    points, log_weights = case.grid()
    module = case.module()
    with torch.no_grad():
        distribution = case.distribution(module, 2)
        distribution = distribution.expand((2,)) if not distribution.batch_shape else distribution
        for row in range(2):
            total = _row_log_prob(distribution, points, row)
            assert (total + log_weights).logsumexp(0).abs() < case.tolerance


def _row_log_prob(distribution, points, row):
    values = points.unsqueeze(1).expand(-1, 2, *points.shape[1:])
    return torch.cat([distribution.log_prob(part)[:, row] for part in values.split(200_000)])


@every_case
def test_draws_follow_the_density(case: Case):
    """Means of bounded functions of draws against sums over the grid; |z| < 5, 2 functions a case: 4e-5 in all."""
    points, log_weights = case.grid()
    with torch.no_grad():
        distribution = case.distribution(case.module(), 1)
        torch.manual_seed(2)
        draws = distribution.sample((40_000,)).reshape(40_000, -1).to(torch.float64)
        distribution = distribution if distribution.batch_shape else distribution.expand((1,))
        probability = (distribution.log_prob(points.unsqueeze(1))[:, 0] + log_weights).exp()
        for function in (_wave, lambda v: _wave(0.37 * v + 1)):
            expected = (probability * function(points.reshape(len(points), -1))).sum()
            z = (function(draws).mean() - expected) / (function(draws).std() / 200)
            assert abs(z) < 5


def _wave(values):
    index = torch.arange(values.shape[-1], dtype=values.dtype)
    return torch.sin((0.7 + 0.4 * index) * values + 0.3 * index).sum(-1)


@every_case
def test_means_are_the_draws_means(case: Case):
    distribution = case.distribution(case.module(), 1)
    try:
        mean = distribution.mean
    except NotImplementedError:
        pytest.skip("no mean in closed form")
    torch.manual_seed(3)
    draws = distribution.sample((40_000,)).to(mean.dtype)
    if case.name.startswith("TableLikelihood"):  # of levels it gives the mode
        numbers = [0, 1, 2] if case.name == "TableLikelihood" else [0, 3]
        mean, draws = mean[..., numbers], draws[..., numbers]
    error = draws.mean(0) - mean
    slack = 0.05 if case.name == "LogisticMixture coupled" else 1e-12  # clipping at the ends, as documented
    assert (error.abs() < 5 * draws.std(0) / 200 + slack).all()


@every_case
def test_leading_axes_and_expansion(case: Case):
    module = case.module()
    plain = case.distribution(module, 2, 4)
    points = case.points(4)
    if not plain.batch_shape:
        expanded = plain.expand((3, 2, 4))
        assert expanded.log_prob(points).shape == (3, 2, 4)
        assert torch.allclose(expanded.log_prob(points), plain.log_prob(points).expand(3, 2, 4))
        return
    assert plain.batch_shape == (2, 4)
    rows = case.value(2, 4)
    for i in range(2):
        names = getattr(module, "covariate_names", ())
        covariates = {n: v.to(rows.dtype).expand(4, *v.shape) for n, v in case.covariates.items() if n in names} or None
        alone = module(rows[i], covariates=covariates)
        assert torch.allclose(alone.log_prob(points), plain.log_prob(points)[i], atol=1e-12)
    wide = plain.expand((3, 2, 4))
    assert wide.sample().shape == (3, 2, 4, *plain.event_shape)
    assert wide.sample((5,)).shape == (5, 3, 2, 4, *plain.event_shape)
    assert torch.allclose(wide.log_prob(points), plain.log_prob(points).expand(3, 2, 4), atol=1e-12)


@every_case
def test_gradients_reach_every_parameter(case: Case):
    module = case.module()
    if not list(module.parameters()):
        pytest.skip("nothing to learn")
    distribution = case.distribution(module, 4)
    distribution.log_prob(case.points(64).unsqueeze(1)).clamp(min=-1e6).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name


@every_case
def test_single_precision_agrees_with_double(case: Case):
    module = case.module()
    some = case.points(64).unsqueeze(1)
    double = case.distribution(module, 4).log_prob(some)
    single = case.distribution(copy.deepcopy(module).float(), 4, dtype=torch.float32)
    found = single.log_prob(some.float())
    assert found.dtype == torch.float32
    assert double.dtype == torch.float64
    assert single.sample().dtype in (torch.float32, torch.int64)
    likely = (double > -50) & double.isfinite()
    assert torch.allclose(found[likely].double(), double[likely], atol=2e-3)


@every_case
def test_state_dict_pickle_and_copy(case: Case):
    module, other = case.module(seed=0), case.module(seed=5)
    points = case.points(4)
    wanted = case.distribution(module, 4).log_prob(points)
    other.load_state_dict(module.state_dict())
    copies = [other, copy.deepcopy(module)]
    if "Factorized" not in type(module).__name__ and not case.name.startswith("TableLikelihood"):
        copies.append(pickle.loads(pickle.dumps(module)))
    for twin in copies:
        assert torch.equal(case.distribution(twin, 4).log_prob(points), wanted)


@every_case
def test_building_and_showing_uses_no_random_numbers_after_construction(case: Case):
    module = case.module()
    state = torch.get_rng_state()
    repr(module)
    case.distribution(module, 2)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("case", [c for c in CASES if c.distribution(c.module(), 1).has_rsample], ids=repr)
def test_reparameterized_gradients_equal_score_gradients(case: Case):
    """Two unbiased estimates of one gradient; their difference has mean zero: |z| < 5 in 6 directions a case."""
    module = case.module()
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        pytest.skip("nothing to learn")
    torch.manual_seed(4)
    directions = [[torch.randn_like(p) for p in parameters] for _ in range(6)]
    differences = []
    for _ in range(30):
        distribution = case.distribution(module, 1)
        pathwise = _wave(distribution.rsample((400,)).flatten(1)).mean()
        fixed = case.distribution(module, 1)
        draws = fixed.sample((400,)).detach()
        log_prob = fixed.log_prob(draws).reshape(400)
        values = _wave(draws.flatten(1))
        score = ((values - values.mean()) * log_prob).sum() / 399
        gradients = torch.autograd.grad(pathwise - score, parameters)
        differences.append(
            torch.stack([sum((g * d).sum() for g, d in zip(gradients, way, strict=True)) for way in directions])
        )
    differences = torch.stack(differences)
    z = differences.mean(0) / (differences.std(0) / math.sqrt(30))
    assert (z.abs() < 5).all(), z


@pytest.mark.parametrize("sign", [1.0, -1.0, 0.0], ids=["high", "low", "mixed"])
@every_case
def test_extreme_network_outputs_stay_finite(case: Case, sign: float):
    module = case.module(torch.float32)
    target = _set_raw(module, sign)
    if target is None:
        pytest.skip("no network and no learned numbers of its own")
    distribution = case.distribution(module, 1, dtype=torch.float32)
    torch.manual_seed(0)
    draw = distribution.rsample() if distribution.has_rsample else distribution.sample()
    if case.name == "TableLikelihood":
        draw[..., 1] = draw[..., 1].clamp(1e-30, 1e30)  # a log-normal at 1e4 has draws beyond single precision
    middle = case.grid()[0]
    middle = middle[len(middle) // 2].float()
    if case.name == "Multinomials":
        middle = torch.tensor([1.0, 2.0, 3.0])
    for value in (middle, draw):
        module.zero_grad()
        log_prob = distribution.log_prob(value)
        assert log_prob.isfinite().all()
        log_prob.sum().backward(retain_graph=True)
        assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


def _set_raw(module, sign):
    """Make the last layer give +-1e4: its bias is the output once its weights are zero."""
    net, value = getattr(module, "net", None), getattr(module, "value", torch.empty(0))
    if net is None and not value.numel():
        return None
    generator = torch.Generator().manual_seed(6)
    bias = value if net is None else [p for n, p in net.named_parameters() if n.endswith("bias")][-1]
    with torch.no_grad():
        if net is not None:
            [p for n, p in net.named_parameters() if n.endswith("weight")][-1].zero_()
        signs = torch.randint(0, 2, bias.shape, generator=generator) * 2.0 - 1
        bias.copy_(1e4 * (signs if sign == 0 else sign))
    return bias


@every_case
def test_families_are_pyro_distributions(case: Case):
    distribution = case.distribution(case.module(), 2)
    assert isinstance(distribution, TorchDistributionMixin)
    assert distribution.event_shape == case.grid()[0].shape[1:]
    inside = distribution.support.check(distribution.sample((3,)))
    assert inside.all()
