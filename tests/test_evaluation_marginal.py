"""Estimates of log p(x) against closed forms: importance, refined, annealed; the sandwich; the gaps; imputation."""

import math
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import PPCA, BetaBernoulli, EnumeratedMixture, GammaPoisson, bound
from pyro.infer.autoguide import AutoNormal

from pyrovae.evaluation import (
    AIS,
    Importance,
    Mixture,
    Refined,
    bdmc,
    impute,
    inference_gaps,
    log_marginal,
    log_weights,
    refine,
)
from pyrovae.evaluation.ais import from_prior
from pyrovae.evaluation.marginal import summary
from pyrovae.evaluation.psis import psis
from pyrovae.evaluation.unconstrained import LatentSpace
from pyrovae.programs.rows import RowWork

EXACT = {"rtol": 0, "atol": 1e-9}
FEW = {"num_steps": 100}
ORACLES = {
    "ppca": PPCA.random(),
    "coins": BetaBernoulli(guide_power=0.6),
    "counts": GammaPoisson(),
    "mixture": EnumeratedMixture("model"),
    "classes": EnumeratedMixture("sampled"),
}


@pytest.fixture(autouse=True)
def _seeded():
    pyro.set_rng_seed(0)
    pyro.clear_param_store()


def estimate(program, x, method="importance", num_samples=None):
    result = log_marginal(program, x, method=method, num_samples=num_samples, seed=0)
    return result, torch.as_tensor(result["log_marginal"].values)


@pytest.mark.filterwarnings("ignore:importance-sampling")
@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize(
    ("method", "num_samples"),
    [("importance", 2000), (Refined(**FEW), 300), (AIS(20, leapfrog_steps=2), 16)],
    ids=lambda v: getattr(v, "name", ""),
)
def test_estimates_of_known_evidence(name, method, num_samples):
    """Unbiased on the scale of p(x): |z| < 5 for the mean over rows, and ELBO <= log p."""
    program = ORACLES[name]
    x = program.simulate(40)
    result, log_p = estimate(program, x, method, num_samples)
    exact = program.log_evidence(x).detach()
    ratio = (log_p - exact).exp()
    error = torch.as_tensor(result["mcse"].values).square().mean().sqrt() / math.sqrt(40)
    assert abs(ratio.mean() - 1) < 5 * error + 1e-6
    assert (torch.as_tensor(result["elbo"].values) < exact + 0.1).all()
    np.testing.assert_allclose(result["gap"], result["log_marginal"] - result["elbo"])
    assert result.attrs["num_samples"] == num_samples
    assert list(result.data_vars)[:6] == ["log_marginal", "mcse", "ess", "pareto_k", "elbo", "gap"]


def test_the_order_of_bounds_and_errors():
    """A mean-field guide that importance sampling cannot mend, and refinement and annealing can."""
    ppca = PPCA.random(10, 20, seed=3)
    x = ppca.simulate(30)
    exact = ppca.log_evidence(x).mean()
    weak, _ = estimate(ppca, x, "importance", 200)
    assert re.search("unreliable for .* search for modes", weak.attrs["notes"])
    refined, _ = estimate(ppca, x, "refined", 200)
    errors = [
        float(v) - exact for v in (weak["elbo"].mean(), weak["log_marginal"].mean(), refined["log_marginal"].mean())
    ]
    assert errors[0] < -1 < errors[1] < -0.05
    assert abs(errors[2]) < 0.01
    assert float(weak["pareto_k"].median()) > 0.5
    assert float(refined["pareto_k"].max()) < 0.5


@pytest.mark.parametrize(("exact", "noted"), [(True, False), (False, True)])
def test_a_few_chains_of_which_one_counts_are_told(exact, noted):
    """Sixteen chains are too few for a Pareto shape; an error taken from one of them is none."""
    ppca = PPCA.random(10, 20, seed=3, exact=exact, guide_scale=20.0)
    found, _ = estimate(ppca, ppca.simulate(20), AIS(2), 16)
    assert ("effective samples of 16" in found.attrs.get("notes", "")) == noted


@pytest.mark.parametrize("method", ["importance", AIS(3)])
def test_an_exact_guide_has_no_error(method):
    ppca = PPCA.random(exact=True)
    x = ppca.simulate(10)
    result, log_p = estimate(ppca, x, method, 30)
    torch.testing.assert_close(log_p, ppca.log_evidence(x), **EXACT)
    assert float(result["mcse"].max()) < 1e-6
    assert float(result["pareto_k"].max()) == 0.0


def test_the_summary_by_hand():
    lw = torch.randn(400, 3, dtype=torch.float64) * 2
    w = lw.exp()
    columns = summary(lw)
    torch.testing.assert_close(columns["log_marginal"], w.mean(0).log(), **EXACT)
    torch.testing.assert_close(columns["ess"], w.sum(0) ** 2 / w.square().sum(0))
    delta = w.std(0, correction=0) / w.mean(0) / math.sqrt(400)
    torch.testing.assert_close(columns["mcse"], delta)
    torch.testing.assert_close(columns["half"], w[:200].mean(0).log())
    torch.testing.assert_close(columns["pareto_k"], psis(lw).k)


def test_refining_reaches_the_best_of_each_family():
    ppca = PPCA.random(4, 8, guide_scale=2.0, guide_shift=0.5)
    x = ppca.simulate(20)
    exact = ppca.log_evidence(x)
    mean_field = bound(refine(ppca, x, family="normal", seed=0), x, num_samples=200, seed=1).elbo
    full = refine(ppca, x, seed=0)
    assert abs((exact - mean_field).mean() - ppca.approximation_gap()) < 0.02
    torch.testing.assert_close(bound(full, x, num_samples=5, seed=1).elbo, exact, rtol=0, atol=0.01)
    posterior = ppca.posterior(x)
    torch.testing.assert_close(full.gaussian.loc, posterior.loc.detach(), rtol=0, atol=0.02)
    covariance = full.gaussian.tril @ full.gaussian.tril.mT
    torch.testing.assert_close(covariance, posterior.covariance_matrix.detach(), rtol=0, atol=0.02)


def test_a_refined_guide_is_a_program_and_a_pyro_guide(pairs):
    pairs(50)
    program = GammaPoisson()
    x = program.simulate(30)
    guide = refine(program, x, num_steps=60, seed=0)
    assert repr(guide) == "RefinedGuide(rows=30, size=1, family='full')"
    forms = [guide, (program.model, guide)]
    values = [log_weights(form, x, num_samples=5, seed=3) for form in forms]
    assert torch.equal(*values)
    svi = pyro.infer.SVI(program.model, guide, pyro.optim.Adam({}), pyro.infer.Trace_ELBO())
    losses = torch.tensor([svi.evaluate_loss(x) for _ in range(30)])
    expected = -bound(guide, x, num_samples=500, seed=0).elbo.sum()
    assert abs(losses.mean() - expected) < 5 * losses.std() / math.sqrt(30) + 0.2


def test_a_refined_guide_as_a_program_takes_the_covariates_of_its_rows(pairs):
    pairs(80)

    def model(x, covariates=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(covariates["mean"], 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, covariates=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    x, covariates = torch.randn(30), {"mean": torch.randn(30)}
    refined = refine((model, guide), x, covariates, num_steps=400, seed=0)
    exact = dist.Normal(covariates["mean"], 2**0.5).log_prob(x)
    values = log_weights(refined, x, covariates, num_samples=20, seed=1)
    torch.testing.assert_close(values, exact.double().expand(20, -1), rtol=0, atol=0.1)
    with pytest.raises(TypeError):
        log_weights(refined, x, num_samples=5)


@pytest.mark.filterwarnings("ignore:importance-sampling")
def test_a_guide_with_auxiliary_sites_can_be_refined_and_not_annealed():
    program = GammaPoisson()
    x = program.simulate(6)
    auto = AutoNormal(program.model)
    auto(x)
    _, log_p = estimate((program.model, refine((program.model, auto), x, seed=0)), x, "importance", 500)
    torch.testing.assert_close(log_p, program.log_evidence(x), rtol=0, atol=0.05)
    with pytest.raises(ValueError, match="auxiliary"):
        log_marginal((program.model, auto), x, method="ais")


def two_latents(x):
    with pyro.plate("data", len(x), dim=-2):
        scale = pyro.sample("scale", dist.Gamma(torch.tensor(3.0).double(), 2.0))
        p = pyro.sample("p", dist.Dirichlet(torch.ones(3).double()))
        with pyro.plate("entries", 3, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(z * scale + p.squeeze(-2), 0.5), obs=x)


def two_latents_guide(x):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("scale", dist.LogNormal(torch.zeros(()).double(), 0.5))
        pyro.sample("p", dist.Dirichlet(2 * torch.ones(3).double()))
        with pyro.plate("entries", 3, dim=-1):
            pyro.sample("z", dist.Normal(x / 2, 0.7))


def test_latents_of_several_kinds_and_plates_become_one_vector():
    """Positive, simplex and real, one of them in a plate inside the data plate: there and back, with the Jacobian."""
    x = torch.randn(5, 3, dtype=torch.float64)
    work = RowWork((two_latents, two_latents_guide), x, num_samples=4, seed=0)
    space = LatentSpace(work.call(work.first(5)))
    assert space.size == 1 + 2 + 3
    u = space.guide_draws(4)
    values, log_det = space.values(u)
    assert values["z"].shape == (4, 5, 3)
    assert values["p"].shape == (4, 5, 1, 3)
    torch.testing.assert_close(space.flatten(values), u, rtol=0, atol=1e-6)
    stick = torch.distributions.transforms.StickBreakingTransform()
    expected = u[..., 0] + stick.log_abs_det_jacobian(u[..., 1:3], stick(u[..., 1:3]))
    torch.testing.assert_close(log_det, expected)
    by_hand = (
        dist.Gamma(3.0, 2.0).log_prob(values["scale"][..., 0])
        + dist.Dirichlet(torch.ones(3).double()).log_prob(values["p"][..., 0, :])
        + dist.Normal(0.0, 1.0).log_prob(values["z"]).sum(-1)
        + dist.Normal(values["z"] * values["scale"] + values["p"][..., 0, :], 0.5).log_prob(x).sum(-1)
    )
    torch.testing.assert_close(space.log_joint(u), by_hand + log_det, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:importance-sampling")
def test_estimators_agree_on_latents_of_several_kinds():
    x = torch.randn(5, 3, dtype=torch.float64)
    program = (two_latents, two_latents_guide)
    many, direct = estimate(program, x, "importance", 20_000)
    for method, samples in ((Refined(**FEW), 2000), (AIS(40), 16)):
        result, log_p = estimate(program, x, method, samples)
        error = torch.as_tensor(np.hypot(result["mcse"].values, many["mcse"].values))
        assert ((log_p - direct).abs() < 5 * error + 0.02).all()


def _matrix(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Wishart(torch.full((len(x),), 4.0).double(), torch.eye(2).double()))


def _counting(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Poisson(torch.ones(()).double()))
        pyro.sample("w", dist.Normal(torch.zeros(()).double(), 1.0))
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


def _global(x):
    pyro.sample("mu", dist.Normal(torch.zeros(()).double(), 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


def _global_guide(x):
    pyro.sample("mu", dist.Normal(torch.zeros(()).double(), 1.0))


@pytest.mark.filterwarnings("ignore:Singular sample")
@pytest.mark.parametrize(
    ("model", "guide", "message"),
    [
        (_matrix, _matrix, "no unconstrained form"),
        (_counting, _counting, "cannot be enumerated"),
        (_global, _global_guide, "outside the data plate"),
    ],
)
def test_latents_that_cannot_be_refined_are_refused(model, guide, message):
    with pytest.raises(ValueError, match=message):
        refine((model, guide), torch.zeros(4).double())


@pytest.mark.parametrize(
    "start", [AIS(40), AIS(80, start=from_prior), AIS(10, start=Refined(**FEW))], ids=["guide", "prior", "refined"]
)
def test_the_sandwich_closes_around_the_exact_evidence(start):
    """Lower <= exact <= upper on average over simulated rows, within 5 standard errors."""
    ppca = PPCA.random(3, 6)
    sandwich = bdmc(ppca, 40, estimator=start, seed=0, progress=False)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        x = ppca.model(size=40)
    exact = ppca.log_evidence(x)
    below, above = exact - sandwich.lower, sandwich.upper - exact
    assert below.mean() > -5 * below.std() / math.sqrt(40) - 1e-9
    assert above.mean() > -5 * above.std() / math.sqrt(40) - 1e-9
    assert -0.02 < sandwich.gap < 0.15
    assert "gap=" in repr(sandwich)
    (line,) = [line for line in sandwich.plot().lines if line.get_linewidth() > 1]
    assert np.allclose(line.get_ydata(), np.sort((sandwich.upper - sandwich.lower).numpy()))


def test_simulation_needs_a_model_that_can_simulate():
    with pytest.raises(ValueError, match="def model"):
        bdmc(BetaBernoulli(), 5)


def test_the_gaps_of_a_guide_that_is_off_by_a_known_amount():
    ppca = PPCA.random(3, 6, guide_scale=1.5, guide_shift=0.3)
    x = ppca.simulate(30)
    gaps = inference_gaps(ppca, x, num_samples=400, num_steps=150, seed=0)
    total = ppca.log_evidence(x) - ppca.elbo(x)
    assert float(gaps["approximation"].mean()) == pytest.approx(ppca.approximation_gap(), abs=0.03)
    assert float(gaps["amortization"].mean()) == pytest.approx(total.mean().item() - ppca.approximation_gap(), abs=0.05)
    np.testing.assert_allclose(
        gaps["approximation"] + gaps["amortization"], gaps["log_marginal"] - gaps["elbo"], atol=1e-9
    )
    assert float((gaps["amortization_error"]).max()) < 0.3
    parts = {"amortization": ("refined_elbo", "elbo"), "approximation": ("log_marginal", "refined_elbo")}
    for name, (one, other) in parts.items():
        both = np.hypot(gaps[f"{one}_error"], gaps[f"{other}_error"])
        np.testing.assert_allclose(gaps[f"{name}_error"], both, rtol=1e-12)
    assert float(gaps["elbo_error"].min()) > 0


def test_the_evidence_of_a_relaxed_latent_says_so():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.RelaxedOneHotCategorical(torch.tensor(0.5), logits=torch.zeros(3)))
            pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.RelaxedOneHotCategorical(torch.tensor(0.5), logits=torch.zeros(3)))

    x = torch.zeros(2)
    assert "z relaxed" in log_marginal((model, guide), x, method="importance", num_samples=5, seed=0).attrs["relaxed"]
    assert (
        "relaxed"
        not in log_marginal(PPCA.random(), torch.zeros(2, 6).double(), method="importance", num_samples=5, seed=0).attrs
    )


class Stop(Exception):
    """The power is cut."""


@pytest.mark.filterwarnings("ignore:importance-sampling")
def test_a_stopped_computation_goes_on_where_it_was(tmp_path, pairs):
    pairs(50)
    ppca, calls = PPCA.random(), []

    def guide(x, size=None):
        calls.append(1)
        if len(calls) == limit[0]:
            raise Stop
        return ppca.guide(x, size)

    limit = [30]
    program, path = (ppca.model, guide), tmp_path / "kept.npz"
    options = {"method": "importance", "num_samples": 40, "seed": 5, "progress": False}
    x = ppca.simulate(60)
    with pytest.raises(Stop):
        log_marginal(program, x, resume=path, **options)
    limit[0], spent = None, len(calls)
    resumed = log_marginal(program, x, resume=path, **options)
    after = len(calls) - spent
    calls.clear()
    whole = log_marginal(program, x, **options)
    assert resumed.equals(whole)
    assert after < len(calls)
    with pytest.raises(ValueError, match="another program, data or setting"):
        log_marginal(program, x + 1, resume=path, **options)
    with pytest.raises(ValueError, match="needs a seed"):
        log_marginal(program, x, resume=path, method="importance", num_samples=40)
    assert [file.name for file in tmp_path.iterdir()] == ["kept.npz"]


def test_a_changed_program_is_not_resumed_from(tmp_path):
    """The change lies in a plain number that no tensor holds."""

    def program(sd):
        def model(x):
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), sd), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x / 2, 0.8))

        return model, guide

    x, path = torch.randn(20), tmp_path / "kept.npz"
    first = log_marginal(program(1.0), x, method="importance", num_samples=50, seed=0, resume=path)
    assert log_marginal(program(1.0), x, method="importance", num_samples=50, seed=0, resume=path).equals(first)
    with pytest.raises(ValueError, match="another program, data or setting"):
        log_marginal(program(3.0), x, method="importance", num_samples=50, seed=0, resume=path)


@pytest.mark.parametrize("method", ["bootstrap", Refined(family="diagonal")])
def test_unknown_methods_are_refused(method):
    with pytest.raises(ValueError, match="must be"):
        log_marginal(PPCA.random(), torch.zeros(3, 6).double(), method=method)


def conditional(ppca, x):
    """The exact distribution of the missing entries of one row."""
    joint, missing = ppca.marginal(), x.isnan()
    cross = joint.covariance_matrix[missing][:, ~missing] @ torch.linalg.inv(
        joint.covariance_matrix[~missing][:, ~missing]
    )
    mean = joint.loc[missing] + cross @ (x[~missing] - joint.loc[~missing])
    covariance = joint.covariance_matrix[missing][:, missing] - cross @ joint.covariance_matrix[~missing][:, missing]
    return mean.detach(), covariance.detach()


class MissingPPCA(PPCA):
    """Masks missing entries as the VAE does; the guide is the exact posterior of the whole row with zeros filled in."""

    def model(self, x=None, size=None):
        from pyrovae.missing import observed

        rows = size if x is None else len(x)
        with pyro.plate("data", rows):
            z = pyro.sample("z", dist.Normal(self.weight.new_zeros(self.latent_dim), 1.0).to_event(1))
            likelihood = dist.Normal(z @ self.weight.T + self.mean, math.sqrt(self.noise)).to_event(1)
            if x is None:
                return pyro.sample("x", likelihood)
            likelihood, x = observed(likelihood, x)
            return pyro.sample("x", likelihood, obs=x)

    def guide(self, x, size=None):
        with pyro.plate("data", len(x)):
            loc = self.posterior(x.nan_to_num()).loc
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


def test_imputations_follow_the_exact_conditional():
    ppca = MissingPPCA.random(2, 5)
    x = ppca.simulate(3)
    x[0, :2], x[1, 3] = torch.nan, torch.nan
    result = impute(ppca, x, num_samples=4000, num_proposals=4000, seed=0)
    assert result.draws.shape == (4000, 3, 5)
    observed = ~x.isnan()
    assert torch.equal(result.draws[:, observed], x[observed].expand(4000, -1))
    for row in (0, 1):
        mean, covariance = conditional(ppca, x[row])
        drawn = result.draws[:, row, x[row].isnan()]
        size = min(4000, result.ess[row].item())
        error = covariance.diagonal().sqrt() * math.sqrt(1 / 4000 + 1 / size)
        assert ((drawn.mean(0) - mean).abs() < 5 * error).all()
        torch.testing.assert_close(drawn.T.cov().reshape(covariance.shape), covariance, rtol=0.25, atol=0.05)
    assert result.pareto_k.shape == (3,)


def test_an_error_in_the_middle_leaves_no_trace():
    """Gradients, modes and random state are restored even while the traceback is held."""
    program = PPCA.random()
    program.train()
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="size") as held:
        log_marginal(program, torch.zeros(3, 5, dtype=torch.float64), seed=0)
    assert held.traceback
    assert torch.is_grad_enabled()
    assert program.training
    assert torch.equal(torch.get_rng_state(), before)

    class Stop(Exception):
        pass

    class Failing(Importance):
        def log_weights(self, block):
            raise Stop

    with pytest.raises(Stop) as held:
        log_marginal(program, torch.zeros(3, 6, dtype=torch.float64), method=Failing(), seed=0)
    assert held.traceback
    assert torch.is_grad_enabled()
    assert program.training
    assert torch.equal(torch.get_rng_state(), before)


def two_modes(noise, dims=1):
    """z and -z explain x alike: log p(x) is a sum of integrals over single coordinates."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(dims).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.square(), noise).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.clamp_min(0.1).sqrt(), 0.3).to_event(1))

    grid = torch.linspace(-8, 8, 160_001, dtype=torch.float64)

    def exact(x):
        log_p = dist.Normal(0.0, 1.0).log_prob(grid) + dist.Normal(grid.square(), noise).log_prob(x[..., None])
        return (log_p.logsumexp(-1) + math.log(16 / 160_000)).sum(-1)

    return (model, guide), exact


@pytest.mark.parametrize("dims", [1, 2])
def test_a_mixture_finds_the_modes_that_a_single_gaussian_loses_in_silence(dims):
    program, exact = two_modes(0.1, dims)
    x = torch.linspace(0.5, 3.0, 12 * dims, dtype=torch.float64).reshape(12, dims)
    alone = log_marginal(program, x, method="refined", num_samples=500, seed=0)
    found = log_marginal(program, x, method=Mixture(), num_samples=500, seed=0)
    lost = alone["log_marginal"].values - exact(x).numpy()
    error = found["log_marginal"].values - exact(x).numpy()
    assert np.abs(lost + dims * math.log(2)).max() < 0.15  # one mode of 2^dims, and nothing says so
    assert np.median(np.abs(error)) < 0.02
    assert np.abs(error).max() < 0.05
    assert found.attrs["method"] == "mixture"


def test_a_mixture_around_one_mode_is_exact_for_an_exact_guide():
    ppca = PPCA.random(exact=True)
    x = ppca.simulate(10)
    _, log_p = estimate(ppca, x, Mixture(components=3), 200)
    torch.testing.assert_close(log_p, ppca.log_evidence(x), rtol=0, atol=5e-3)
