"""Programs whose weights would be wrong in silence: axes taken for the draws, masks and supports apart, results of others."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pvae
from pyrovae.evaluation import log_marginal, marginal
from pyrovae.programs.outside import constants

N = dist.Normal
X = torch.tensor([-2.0, -0.5, 0.0, 1.0, 3.0])


def program(model_of, guide_of):
    """A model and a guide from what stands in their plates."""

    def model(x):
        with pyro.plate("data", len(x)):
            model_of(x)

    def guide(x):
        with pyro.plate("data", len(x)):
            guide_of(x)

    return model, guide


def shared(right):
    """A global b whose axis is put to the right of the draws', where it is that of the rows."""

    def model(x):
        b = pyro.sample("b", N(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", N((b if right else b[..., None]) * torch.ones(len(x)), 1.0))
            pyro.sample("x", N(z, 1.0), obs=x)

    def guide(x):
        pyro.sample("b", N(0.5, 0.2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", N(x / 2, 1.0))

    return model, guide


def as_wide_as_rows(right):
    """Rows of two entries: under draws ``z[:, None]`` makes the rows to entries, which two rows do not show by a shape."""
    weight = torch.tensor([1.0, 2.0])

    def model_of(x):
        z = pyro.sample("z", N(0.0, 1.0))
        pyro.sample("x", N((z[..., None] if right else z[:, None]) * weight, 1.0).to_event(1), obs=x)

    return program(model_of, lambda x: pyro.sample("z", N(x[..., 0] / 3, 0.8)))


@pytest.mark.parametrize(
    ("make", "x"), [(shared, X), (as_wide_as_rows, torch.randn(2, 2)), (as_wide_as_rows, torch.randn(3, 2))]
)
@pytest.mark.parametrize("function", [log_marginal, pvae.elbo, pvae.log_weights])
def test_an_axis_taken_for_that_of_the_draws_is_refused(make, x, function):
    with pytest.raises(ValueError, match=r"not with an axis of draws to their left .*vectorize=False"):
        function(make(False), x, num_samples=10, seed=0)
    function(make(True), x, num_samples=10, seed=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_rounding_alone_is_no_other_density(dtype):
    vae = pvae.build_vae(200, likelihood="normal", latent_dim=4, hidden=(64,), seed=0).to(dtype)
    assert np.isfinite(pvae.elbo(vae, torch.randn(20, 200, dtype=dtype), num_samples=3, seed=0).elbo).all()


def test_run_once_for_each_draw_it_is_right():
    found = log_marginal(shared(False), X, num_samples=300, seed=0, vectorize=False)
    exact = N(0.5, math.sqrt(2.04)).log_prob(X).numpy()
    assert np.abs(found.log_marginal - exact).max() < 0.1


def test_a_program_that_draws_by_other_means_is_not_judged_by_one_draw():
    model, guide = program(
        lambda x: pyro.sample("x", N(pyro.sample("z", N(0.0, 1.0)), 1.0 + torch.rand(())), obs=x),
        lambda x: pyro.sample("z", N(x / 2, 0.8)),
    )
    assert np.isfinite(log_marginal((model, guide), X, seed=0, method="importance").log_marginal).all()


def masked(by_model, by_guide, late=0):
    """A latent u that counts, and matters, where x is positive; masked elsewhere by the model, the guide, both or neither."""

    def latent(name, fn, x, is_masked):
        return pyro.sample(name, fn.mask(x > 0) if is_masked else fn)

    def model_of(x):
        z = pyro.sample("z", N(torch.zeros_like(x), 1.0))
        u = latent("u", N(torch.zeros_like(x), 2.0), x, by_model)
        pyro.sample("x", N(z + torch.where(x > 0, u, 0.0), 1.0), obs=x)

    def guide_of(x):
        pyro.sample("z", N(x / 3, 1.0))
        latent("u", N(x / 2, 1.5), x, by_guide)

    return program(model_of, guide_of)


def exact_of_masked(x):
    return torch.where(x > 0, N(0.0, math.sqrt(6)).log_prob(x), N(0.0, math.sqrt(2)).log_prob(x)).numpy()


@pytest.mark.parametrize(
    ("masks", "text"), [((0, 1), "the guide masks latent 'u'"), ((1, 0), "the model masks latent 'u'")]
)
def test_masks_that_differ_are_refused_by_the_guide_s_weights_and_noted_by_others(masks, text):
    x = torch.cat([torch.ones(100), -torch.ones(100)])  # in the last block alone
    for function in (pvae.elbo, pvae.log_weights):
        with pytest.raises(ValueError, match=text):
            function(masked(*masks), x, seed=0)
    found = log_marginal(masked(*masks), X, seed=0)
    assert np.abs(found.log_marginal - exact_of_masked(X)).max() < 0.01
    assert "have no ELBO" in found.attrs["notes"]
    assert not found.flagged.any()


@pytest.mark.parametrize("masks", [(0, 0), (1, 1)])
def test_equal_masks_are_not_refused(masks):
    found = log_marginal(masked(*masks), X, seed=0, method="importance", num_samples=20_000)
    assert np.abs(found.log_marginal - exact_of_masked(X)).max() < 0.05


def test_a_flat_prior_by_a_mask_has_weights():
    """The mask of the model alone, on which a factor depends, stands for a flat prior."""

    def model_of(x):
        z = pyro.sample("z", N(torch.zeros_like(x), 5.0).mask(False))
        pyro.factor("prior", N(1.0, 1.0).log_prob(z))
        pyro.sample("x", N(z, 1.0), obs=x)

    flat = program(model_of, lambda x: pyro.sample("z", N((x + 1) / 2, 0.75)))
    found = log_marginal(flat, X, seed=0, method="importance")
    assert np.abs(found.log_marginal - N(1.0, math.sqrt(2)).log_prob(X).numpy()).max() < 0.02


POSITIVE = 2 + 0.1 * torch.randn(200, generator=torch.Generator().manual_seed(0))
TURNS = torch.tensor([[1.0, 0.0], [-1.0, 0.1], [-1.0, -0.1], [0.0, -2.0]])


def gamma_model(x):
    pyro.sample("x", N(pyro.sample("z", dist.Gamma(2 * torch.ones_like(x), 1.0)), 0.5), obs=x)


def angle_model(x, prior=None):
    one = torch.ones(len(x))
    z = pyro.sample("z", dist.VonMises(3 * one, 2 * one) if prior is None else prior)
    pyro.sample("x", N(torch.stack([z.cos(), z.sin()], -1), 0.4).to_event(1), obs=x)


def angle(x):
    return torch.atan2(x[..., 1], x[..., 0])


@pytest.mark.parametrize("method", ["importance", "auto"])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("model_of", "guide_of", "x"),
    [
        (gamma_model, lambda x: N(x, 0.45), POSITIVE),  # no draw of the first tile may lie outside
        (angle_model, lambda x: N(angle(x), 1.0), TURNS),
    ],
)
def test_draws_outside_the_prior_s_support_are_refused_in_any_tile(model_of, guide_of, x, seed, method):
    wide = program(model_of, lambda x: pyro.sample("z", guide_of(x)))
    with pytest.raises(ValueError, match="the guide draws latent 'z' outside the support of its prior, from"):
        log_marginal(wide, x, seed=seed, method=method)


def test_an_error_in_a_later_tile_leaves_the_checks_of_values_on():
    from pyro.distributions.util import is_validation_enabled

    with pytest.raises(ValueError, match="support") as caught:  # its traceback keeps the tiles alive
        log_marginal(
            program(gamma_model, lambda x: pyro.sample("z", N(x, 0.45))), POSITIVE, method="importance", seed=0
        )
    assert is_validation_enabled(), caught


def test_an_angle_for_a_real_latent_is_refused():
    one = torch.ones(len(X))
    narrow = program(
        lambda x: pyro.sample("x", N(pyro.sample("z", N(0.0, 1.0)), 1.0), obs=x),
        lambda x: pyro.sample("z", dist.VonMises(0 * x, 0.01 * one[: len(x)])),
    )
    with pytest.raises(ValueError, match=r"from -3.1416 to 3.1416 alone, a part of the prior's support"):
        log_marginal(narrow, X, seed=0)


@pytest.mark.parametrize("prior", [None, "uniform"])
@pytest.mark.parametrize(
    "guide_of", [lambda x: dist.VonMises(angle(x), 4.0), lambda x: dist.Uniform(-math.pi, math.pi)]
)
def test_angles_on_one_circle_are_right(prior, guide_of):
    uniform = dist.Uniform(-math.pi, math.pi) if prior else None
    found = log_marginal(
        program(lambda x: angle_model(x, uniform), lambda x: pyro.sample("z", guide_of(x).expand([len(x)]))),
        TURNS,
        seed=0,
        method="importance",
        num_samples=20_000,
    )
    grid = torch.linspace(-math.pi, math.pi, 2001, dtype=torch.float64)[:-1, None]
    log_prior = (uniform or dist.VonMises(3.0, 2.0)).log_prob(grid)
    log_p = log_prior + N(torch.stack([grid.cos(), grid.sin()], -1), 0.4).log_prob(TURNS.double()).sum(-1)
    exact = log_p.logsumexp(0) + math.log(grid[1] - grid[0])
    assert np.abs(found.log_marginal - exact.numpy()).max() < 0.05


@pytest.mark.parametrize("change", [torch.full((2,), 3.0), 3.0, None])
def test_results_of_a_program_with_other_constants_are_not_taken_up(tmp_path, change):
    """A constant that matters in late rows alone, and records of runs, which do not matter."""
    x, runs, count = torch.linspace(-2, 2, 30), [], 0

    def later(scale):
        def model_of(x):
            nonlocal count
            runs.append(len(runs))
            count += 1
            scaled = torch.where(x > 1, scale[0] if isinstance(scale, torch.Tensor) else scale, 1.0)
            pyro.sample("x", N(pyro.sample("z", N(0.0, 1.0)), scaled), obs=x)

        return program(model_of, lambda x: pyro.sample("z", N(x / 2, 0.8)))

    same = torch.ones(2) if isinstance(change, torch.Tensor) else 1.0
    plan = {"seed": 0, "num_samples": 20, "method": "importance", "resume": tmp_path}
    found = log_marginal(later(same), x, **plan)
    if change is None:
        assert log_marginal(later(1.0), x, **plan).equals(found)
        return
    with pytest.raises(ValueError, match="results of another program"):
        log_marginal(later(change), x, **plan)


def test_attributes_that_are_no_tensors_are_no_constants():
    class Own:
        def __init__(self, scale, history):
            self.scale, self.history = torch.tensor(scale), history

        def model(self, x):
            return x * self.scale

    assert constants(Own(1.0, [1]).model) == constants(Own(1.0, [2]).model)
    assert constants(Own(1.0, [1]).model) != constants(Own(2.0, [1]).model)


@pytest.mark.parametrize("share", [1.0, 0.2, 0.05, 0.02])
def test_a_guide_that_is_much_too_narrow_leaves_the_evidence_right(share):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(3, 6, generator=generator)
    x = torch.randn(20, 3, generator=generator) @ weight + 0.5 * torch.randn(20, 6, generator=generator)
    covariance = (torch.eye(3) + 4 * weight @ weight.T).inverse()
    to_mean, scale = 4 * covariance @ weight, share * covariance.diagonal().sqrt()

    def model_of(x):
        z = pyro.sample("z", N(torch.zeros(len(x), 3), 1.0).to_event(1))
        pyro.sample("x", N(z @ weight, 0.5).to_event(1), obs=x)

    narrow = program(model_of, lambda x: pyro.sample("z", N(x @ to_mean.T, scale).to_event(1)))
    found = log_marginal(narrow, x, seed=0)
    exact = dist.MultivariateNormal(torch.zeros(6), weight.T @ weight + 0.25 * torch.eye(6)).log_prob(x).numpy()
    assert np.abs(found.log_marginal - exact).max() < 0.05
    assert "notes" not in found.attrs


@pytest.mark.parametrize(("rows", "flagged"), [(30, True), (2000, False)])
def test_a_flag_takes_more_errors_where_more_rows_can_have_one_by_chance(rows, flagged):
    """A bound 3.5 standard errors above the estimate: rare for one of 30 rows, common for one of 2,000."""
    own = torch.tensor([[-1.0], [1.0]]).repeat(50, 1).double()
    error = own.std(0).item() / 10
    columns = {"log_marginal": torch.tensor([-3.5 * error]).double(), "mcse": torch.zeros(1).double()}
    assert bool(marginal._behind(columns, own, marginal.surely(rows))) is flagged
    assert marginal._behind(columns, own).all()


@pytest.mark.parametrize(
    ("method", "text"), [("importance", "importance-sampling estimates with this guide"), ("mixture", "by the mixture")]
)
def test_a_note_on_tails_names_the_method(method, text):
    columns = {"pareto_k": torch.ones(10, dtype=torch.float64)}
    found = marginal._note(columns, 1000, marginal.as_estimator(method))
    assert text in found
    assert "unreliable for 100% of the rows" in found
