"""From a program and data to ArviZ: densities and moments against closed forms, names and labels, files, chains."""

import math
from contextlib import contextmanager

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from oracles import PPCA, BetaBernoulli, EnumeratedMixture
from programs import convolutional_vae, counts, counts_vae
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from torch import nn

import pyrovae as pvae
from pyrovae.arviz import datasets_of, from_netcdf, from_pyro_svi, from_zarr, to_netcdf
from pyrovae.distributions.normal import CholeskyNormal
from pyrovae.missing import observed
from pyrovae.programs.call import Call
from pyrovae.programs.rows import RowWork

SETTINGS = {"seed": 0, "progress": False}
DEFAULT = {
    "posterior",
    "sample_stats",
    "posterior_predictive",
    "prior",
    "prior_predictive",
    "observed_data",
    "amortized_diagnostics",
}


@contextmanager
def cut(rows, draws):
    """Work in blocks of so many rows and tiles of so many draws, where the program does not need all rows at once."""
    as_it_is = RowWork.plan

    def plan_small(self, *draws_at_once):
        as_it_is(self, *draws_at_once)
        self.rows = self.rows if self.whole or rows is None else rows
        self.draws = draws or self.draws

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowWork, "plan", plan_small)
        yield


def groups_of(program, *args, rows=None, draws=10**6, **settings):
    with cut(rows, draws):
        return datasets_of(from_pyro_svi(program, *args, **{**SETTINGS, **settings}))


def values(dataset, name):
    """The draws of a variable as a tensor, without the chain."""
    return torch.as_tensor(dataset[name].values[0])


def assert_moments(draws, mean, variance, limit=5.0):
    """Means within ``limit`` standard errors, variances too, by the normal's own error of a variance."""
    n = len(draws)
    assert ((draws.mean(0) - mean).abs() < limit * (variance / n).sqrt()).all()
    assert ((draws.var(0) - variance).abs() < limit * variance * math.sqrt(2 / (n - 1))).all()


# ---------------------------------------------------------------------------------------------- exact oracles


@pytest.fixture(scope="module")
def exact():
    return PPCA.random(exact=True)


@pytest.fixture(scope="module")
def exact_groups(exact):
    return groups_of(exact, exact.simulate(7), num_samples=2000, rows=3)


def test_log_densities_are_those_of_the_exported_draws(exact, exact_groups):
    x, z = exact.simulate(7), values(exact_groups["posterior"], "z")
    stats = exact_groups["sample_stats"]
    likelihood = dist.Normal(z @ exact.weight.T + exact.mean, math.sqrt(exact.noise)).log_prob(x).sum(-1)
    joint = likelihood + dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    log_q = exact.posterior(x).log_prob(z)
    torch.testing.assert_close(values(stats, "lp"), joint.detach(), rtol=0, atol=1e-9)
    torch.testing.assert_close(values(stats, "log_q"), log_q.detach(), rtol=0, atol=1e-9)
    torch.testing.assert_close(values(stats, "log_weight"), (joint - log_q).detach(), rtol=0, atol=1e-9)


def test_an_exact_guide_carries_all_the_evidence(exact, exact_groups):
    found, evidence = exact_groups["amortized_diagnostics"], exact.log_evidence(exact.simulate(7))
    for name in ("elbo", "log_marginal"):
        np.testing.assert_allclose(found[name], evidence, atol=1e-9)
    np.testing.assert_array_equal(found["pareto_k"], 0.0)
    np.testing.assert_allclose(found["ess"], 2000, rtol=1e-9)
    np.testing.assert_allclose(found["mcse"], 0.0, atol=1e-6)
    posterior = exact.posterior(exact.simulate(7))
    prior = dist.MultivariateNormal(torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64))
    divergence = torch.distributions.kl_divergence(posterior, prior)
    np.testing.assert_allclose(found["kl"], divergence.detach(), atol=5 * 3 / math.sqrt(2000))


@pytest.mark.parametrize("group", ["posterior", "prior"])
def test_latent_moments(group, exact, exact_groups):
    posterior = exact.posterior(exact.simulate(7))
    known = {"posterior": (posterior.mean, posterior.variance), "prior": (torch.zeros(7, 3), torch.ones(7, 3))}
    mean, variance = (value.detach() for value in known[group])
    assert_moments(values(exact_groups[group], "z"), mean, variance)


@pytest.mark.parametrize("group", ["posterior_predictive", "prior_predictive"])
def test_predictive_moments(group, exact, exact_groups):
    posterior, marginal = exact.posterior(exact.simulate(7)), exact.marginal()
    spread = exact.weight @ posterior.covariance_matrix @ exact.weight.T
    known = {
        "posterior_predictive": (
            posterior.mean @ exact.weight.T + exact.mean,
            spread.diagonal(0, -2, -1) + exact.noise,
        ),
        "prior_predictive": (marginal.mean, marginal.variance.expand(7, -1)),
    }
    mean, variance = (value.detach() for value in known[group])
    assert_moments(values(exact_groups[group], "x"), mean, variance)


def test_rows_and_batches_keep_their_order(exact, exact_groups):
    np.testing.assert_array_equal(exact_groups["observed_data"]["x"], exact.simulate(7))
    wide = groups_of(exact, exact.simulate(7), num_samples=2000, rows=7)["amortized_diagnostics"]
    np.testing.assert_allclose(wide["elbo"], exact_groups["amortized_diagnostics"]["elbo"], atol=1e-9)


def test_a_guide_that_is_wrong_is_told_by_its_rows():
    program = BetaBernoulli(guide_power=0.5)
    x = program.simulate(5)
    found = groups_of(program, x, num_samples=4000)
    diagnostics, evidence = found["amortized_diagnostics"], program.log_evidence(x).numpy()
    assert (np.abs(diagnostics["log_marginal"] - evidence) < 5 * diagnostics["mcse"]).all()
    assert (diagnostics["elbo"] < diagnostics["log_marginal"]).all()
    weights = found["sample_stats"]["log_weight"].values[0]
    np.testing.assert_allclose(diagnostics["elbo"], weights.mean(0), rtol=1e-12)
    gap = (
        found["sample_stats"]["log_q"].values[0] - dist.Beta(2.0, 3.0).log_prob(values(found["posterior"], "p")).numpy()
    )
    np.testing.assert_allclose(diagnostics["kl"], gap.mean(0), rtol=1e-5)


@pytest.mark.parametrize("where", ["model", "guide", "sampled"])
def test_enumerated_classes_are_drawn(where):
    program = EnumeratedMixture(where)
    x = program.simulate(6)
    found = groups_of(program, x, num_samples=4000, rows=4)
    y, z = values(found["posterior"], "y"), values(found["posterior"], "z")
    if where == "model":
        given = dist.Normal(program.means, 1.0).log_prob(z[..., None]) + program.weights.log()
    else:
        given = (-0.5 * (x[:, None] - program.means) ** 2 / (2.0 + program.noise)).expand(4000, 6, 3)
    chances = given.softmax(-1)
    for k in range(3):
        error = ((y == k).double() - chances[..., k]).mean(0)
        scale = (chances[..., k] * (1 - chances[..., k])).mean(0).sqrt() / math.sqrt(4000)
        assert (error.abs() < 5 * scale + 1e-9).all()
    means = values(found["posterior_predictive"], "x").mean(0) - z.mean(0)
    assert (means.abs() < 5 * math.sqrt(program.noise / 4000)).all()
    diagnostics = found["amortized_diagnostics"]
    assert (np.abs(diagnostics["log_marginal"] - program.log_evidence(x).numpy()) < 5 * diagnostics["mcse"]).all()


# ---------------------------------------------------------------------------------------------- programs of any shape


def hierarchical(x):
    """A global latent, a plate of features, a local latent, a nested plate, two data sites, a deterministic one."""
    mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("kinds", 4, dim=-2):
        pyro.sample("rate", dist.Gamma(torch.tensor(3.0), 1.0))
    with pyro.plate("data", len(x["b"]), dim=-1):
        z = pyro.sample("z", dist.Normal(mean[..., 0], 1e-3))
        pyro.deterministic("twice", 2 * z)
        with pyro.plate("pixels", 3, dim=-2):
            w = pyro.sample("w/inner", dist.Normal(0.0, 1.0))
            pyro.sample("a", dist.Normal(w + z, 1.0), obs=x["a"].T)
        pyro.sample("b", dist.Poisson(z.exp()), obs=x["b"])


def hierarchical_guide(x):
    mean = pyro.sample("mean", dist.Normal(torch.tensor([0.3, -0.3]), 0.5).to_event(1))
    with pyro.plate("kinds", 4, dim=-2):
        pyro.sample("rate", dist.Gamma(torch.tensor(2.0), 1.0))
    with pyro.plate("data", len(x["b"]), dim=-1):
        pyro.sample("z", dist.Normal(mean[..., 0], 1e-3))
        with pyro.plate("pixels", 3, dim=-2):
            pyro.sample("w/inner", dist.Normal(0.0, 1.0))


def two_parts(rows=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "b": torch.poisson(torch.ones(rows), generator=generator),
        "a": torch.randn(rows, 3, generator=generator),
    }


@pytest.fixture(scope="module")
def hierarchical_groups():
    return groups_of((hierarchical, hierarchical_guide), two_parts(), num_samples=300, rows=2)


def test_dimensions_come_from_plates_and_events(hierarchical_groups):
    sample, rows = ("chain", "draw"), ("chain", "draw", "data")
    latents = {
        "mean": (*sample, "mean_dim_0"),
        "rate": (*sample, "kinds"),
        "z": rows,
        "twice": rows,
        "w.inner": (*rows, "pixels"),
    }
    data = {"a": (*rows, "pixels"), "b": rows}
    expected = {
        "posterior": latents,
        "prior": latents,
        "posterior_predictive": data,
        "prior_predictive": data,
        "observed_data": {"a": ("data", "pixels"), "b": ("data",)},
        "sample_stats": {"lp": rows, "log_q": rows, "log_weight": rows, "log_weight_global": sample},
    }
    found = {group: {n: v.dims for n, v in hierarchical_groups[group].items()} for group in expected}
    assert found == expected
    assert hierarchical_groups["posterior"].sizes == {
        "chain": 1,
        "draw": 300,
        "data": 5,
        "mean_dim_0": 2,
        "kinds": 4,
        "pixels": 3,
    }


@pytest.mark.parametrize("group", ["posterior", "prior"])
def test_global_draws_are_shared_by_all_batches(group, hierarchical_groups):
    found = hierarchical_groups[group]
    shared = found["mean"].isel(mean_dim_0=0, drop=True)
    assert float(np.abs(found["z"] - shared).max()) < 0.01
    assert float(found["mean"].isel(mean_dim_0=0).std()) > 0.3
    np.testing.assert_allclose(found["twice"], 2 * found["z"], rtol=1e-6)


def test_each_data_site_gets_its_own_part_of_the_data(hierarchical_groups):
    x = two_parts()
    for name in ("a", "b"):
        np.testing.assert_array_equal(hierarchical_groups["observed_data"][name], x[name])


def crossed(x):
    with pyro.plate("data", len(x[0])):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("second", dist.Normal(z, 1.0), obs=x[1])
        pyro.sample("shifted", dist.Normal(z, 1.0), obs=x[0] - 1.0)
        pyro.sample("first", dist.Normal(z[..., None], 1.0).to_event(1), obs=x[2].reshape(-1, 1))


def test_sites_are_matched_by_what_they_observed():
    def model(*x):
        crossed(x)

    def guide(*x):
        with pyro.plate("data", len(x[0])):
            pyro.sample("z", dist.Normal(torch.zeros(len(x[0])), 1.0))

    x = tuple(torch.arange(3.0) + 10 * i for i in range(3))
    found = groups_of((model, guide), x, num_samples=5)["observed_data"]
    np.testing.assert_array_equal(found["second"], x[1])
    np.testing.assert_array_equal(found["shifted"], x[0] - 1.0)
    np.testing.assert_array_equal(found["first"], x[2][:, None])


def test_the_global_weight_is_counted_once(hierarchical_groups):
    posterior, stats = hierarchical_groups["posterior"], hierarchical_groups["sample_stats"]
    mean, rate = values(posterior, "mean"), values(posterior, "rate")
    prior = dist.Normal(0.0, 1.0).log_prob(mean).sum(-1) + dist.Gamma(3.0, 1.0).log_prob(rate).sum(-1)
    guide = dist.Normal(torch.tensor([0.3, -0.3]), 0.5).log_prob(mean).sum(-1)
    guide = guide + dist.Gamma(2.0, 1.0).log_prob(rate).sum(-1)
    torch.testing.assert_close(values(stats, "log_weight_global"), prior - guide, rtol=1e-4, atol=1e-4)


def regression(x):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(slope, 1.0), obs=x)


def test_latents_that_are_all_global():
    found = groups_of((regression, pyro.infer.autoguide.AutoNormal(regression)), torch.randn(6), num_samples=50)
    assert found["posterior"]["slope"].dims == ("chain", "draw")
    slope = values(found["posterior"], "slope")
    lp = dist.Normal(slope[:, None], 1.0).log_prob(torch.as_tensor(found["observed_data"]["x"].values))
    torch.testing.assert_close(values(found["sample_stats"], "lp"), lp)
    np.testing.assert_array_equal(found["sample_stats"]["log_q"], 0.0)


def program_kinds():
    vae = counts_vae()
    return {
        "vae": vae,
        "pair": (vae.model, vae.guide),
        "svi": SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO()),
    }


@pytest.mark.parametrize("kind", ["vae", "pair", "svi"])
def test_any_kind_of_program(kind):
    torch.manual_seed(0)
    found = groups_of(program_kinds()[kind], counts(9), num_samples=20)
    assert set(found) == DEFAULT
    assert found["posterior"]["z"].shape == (1, 20, 9, 2)
    assert found["posterior"]["z"].dtype == np.float32


def test_modes_are_restored_and_rows_do_not_touch_each_other():
    vae = convolutional_vae()
    vae.train()
    x = torch.bernoulli(torch.full((6, 1, 8, 8), 0.4))
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    found = groups_of(vae, x, num_samples=10, rows=6)
    assert all(module.training for module in vae.modules())
    assert all(torch.equal(before[name], value) for name, value in vae.state_dict().items())
    assert found["posterior_predictive"]["x"].dims[2:] == ("data", "x_dim_0", "x_dim_1", "x_dim_2")
    stats, z = found["sample_stats"], values(found["posterior"], "z")
    vae.eval()
    log_q = vae.posterior(x).log_prob(z)
    torch.testing.assert_close(values(stats, "log_q"), log_q.detach(), rtol=1e-4, atol=1e-4)


class Seasonal(nn.Module):
    """A likelihood that reads a size from the covariates."""

    covariate_names = ("size",)

    def forward(self, z, covariates=None):
        return dist.Poisson((z.sum(-1).exp() * covariates["size"])[..., None].expand(*z.shape[:-1], 3)).to_event(1)


def test_covariates_becomes_constant_data():
    vae = pvae.VAE(
        pvae.standard_normal(1),
        Seasonal(),
        pvae.Factorized(dist.Normal, pvae.MLP(3, (8,)), event_shape=1),
    )
    size = torch.tensor([1.0, 1.0, 1000.0, 1000.0])
    found = groups_of(vae, torch.ones(4, 3), {"size": size}, num_samples=400, rows=3)
    np.testing.assert_array_equal(found["constant_data"]["size"], size)
    for group in ("posterior_predictive", "prior_predictive"):
        level = found[group]["x"].median(["chain", "draw", "x_dim_0"])
        assert float(level[:2].max()) * 50 < float(level[2:].min())


def seasonal_model(x=None, covariates=None, size=None):
    rows = len(covariates["season"])
    level = pyro.sample("level", dist.Normal(0.0, 1.0))
    with pyro.plate("data", rows):
        z = pyro.sample("z", dist.Normal(torch.zeros(rows), 1e-3))
        pyro.sample("x", dist.Normal(level + covariates["season"] + z, 1e-3), obs=x)


def seasonal_guide(x, covariates=None, size=None):
    pyro.sample("level", dist.Normal(torch.tensor(5.0), 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1e-3))


@pytest.mark.parametrize("store", [None, "p.zarr"])
def test_predictions_of_new_rows_use_the_posterior_of_what_is_shared(store, tmp_path):
    found = groups_of(
        (seasonal_model, seasonal_guide),
        torch.zeros(4),
        {"season": torch.zeros(4)},
        new_covariates={"season": torch.tensor([10.0, 20.0, 30.0])},
        coords={"new_data": ["spring", "summer", "autumn"]},
        num_samples=50,
        rows=2,
        store=store and tmp_path / store,
    )
    predicted = found["predictions"]["x"]
    assert predicted.dims == ("chain", "draw", "new_data")
    expected = found["posterior"]["level"] + xr.DataArray([10.0, 20.0, 30.0], dims="new_data")
    assert float(np.abs(predicted - expected).max()) < 0.05
    assert list(predicted["new_data"].values) == ["spring", "summer", "autumn"]
    np.testing.assert_array_equal(found["predictions_constant_data"]["season"], [10.0, 20.0, 30.0])


def test_predictions_need_a_model_that_makes_its_own_data():
    with pytest.raises(ValueError, match=r"def model\(x=None, covariates=None, size=None\)"):
        from_pyro_svi((regression, regression), torch.zeros(3), new_covariates={"a": torch.zeros(2)}, **SETTINGS)


def test_ranks_of_a_calibration(exact):
    result = pvae.sbc(exact, num_simulations=60, num_samples=19)
    found = groups_of(exact, exact.simulate(4), num_samples=10, sbc=result, dims={"z": ["latent_dim"]})
    ranks = found["prior_sbc"]
    assert ranks["z"].dims == ("chain", "draw", "latent_dim")
    np.testing.assert_allclose(ranks["z"].values[0] * 20 - 0.5, result.ranks["z"])
    np.testing.assert_allclose(ranks["log_joint"].values[0] * 20 - 0.5, result.log_joint_ranks)
    assert found["posterior"]["z"].dims == ("chain", "draw", "data", "latent_dim")


class Rigid(nn.Module):
    """A linear likelihood that takes latents of shape (rows, 3) and nothing else."""

    def __init__(self, exact):
        super().__init__()
        self.exact = exact

    def model(self, x=None, size=None):
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1))
            if z.ndim != 2:
                raise RuntimeError("one axis of rows")
            loc = z @ self.exact.weight.T + self.exact.mean
            pyro.sample("x", dist.Normal(loc, math.sqrt(self.exact.noise)).to_event(1), obs=x)

    def guide(self, x, size=None):
        self.exact.guide(x)


def test_programs_that_cannot_broadcast(exact):
    x = exact.simulate(4)
    with pytest.raises(ValueError, match=r"one axis of rows.*vectorize=False"):
        groups_of(Rigid(exact), x, num_samples=5)
    found = groups_of(Rigid(exact), x, num_samples=40, rows=3, vectorize=False)
    fast = groups_of(exact, x, num_samples=40, rows=3)
    for group, data in fast.items():
        assert {name: (v.dims, v.shape) for name, v in data.items()} == {
            n: (v.dims, v.shape) for n, v in found[group].items()
        }
    np.testing.assert_allclose(found["amortized_diagnostics"]["elbo"], exact.log_evidence(x), atol=1e-9)
    draws = values(found["posterior"], "z")
    assert_moments(draws, exact.posterior(x).mean.detach(), exact.posterior(x).variance.detach())


def test_global_draws_one_by_one():
    settings = {"num_samples": 30, "rows": 2, "vectorize": False}
    found = groups_of((hierarchical, hierarchical_guide), two_parts(), **settings)
    for group in ("posterior", "prior"):
        shared = found[group]["mean"].isel(mean_dim_0=0, drop=True)
        assert float(np.abs(found[group]["z"] - shared).max()) < 0.01
        assert found[group]["w.inner"].dims == ("chain", "draw", "data", "pixels")
        assert float(found[group]["rate"].std("draw").min()) > 0.1


def test_what_a_transform_drew_is_what_was_observed():
    data = pvae.data.Data(
        torch.full((6, 4), 0.5), transform=lambda x, generator: torch.bernoulli(x, generator=generator)
    )
    vae = pvae.VAE(
        pvae.standard_normal(1),
        pvae.Factorized(dist.Bernoulli, pvae.MLP(1, (8,)), event_shape=4),
        pvae.Factorized(dist.Normal, pvae.MLP(4, (8,)), event_shape=1),
    )
    found, again = (groups_of(vae, data, num_samples=10, rows=4) for _ in range(2))
    x = torch.as_tensor(found["observed_data"]["x"].values)
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert found["observed_data"].equals(again["observed_data"])
    log_q = vae.posterior(x).log_prob(values(found["posterior"], "z"))
    torch.testing.assert_close(values(found["sample_stats"], "log_q"), log_q.detach(), rtol=1e-4, atol=1e-5)


def test_the_other_line_of_arviz(monkeypatch, tmp_path):
    monkeypatch.setattr("pyrovae.arviz.containers.is_old", lambda: False)
    for store in (None, tmp_path / "p.zarr"):
        tree = from_pyro_svi(counts_vae(), counts(4), num_samples=10, store=store, **SETTINGS)
        assert isinstance(tree, xr.DataTree)
        assert set(tree.children) == DEFAULT


# ---------------------------------------------------------------------------------------------- missing entries


def correlated():
    return CholeskyNormal(torch.zeros(2), torch.tensor([[1.0, 0.0], [0.95, math.sqrt(1 - 0.95**2)]]))


class Correlated(nn.Module):
    """A likelihood whose two entries have a correlation of 0.95, whatever the latent."""

    def __init__(self):
        super().__init__()
        self.unit = nn.Parameter(torch.ones(()))

    def forward(self, z, covariates=None):
        return correlated().expand(z.shape[:-1])


def needs_data(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        likelihood, filled = observed(correlated().expand(z.shape), x)
        pyro.sample("x", likelihood, obs=filled)


def needs_data_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))


def program_with_gaps(kind):
    if kind == "needs data":
        return needs_data, needs_data_guide
    posterior = pvae.Factorized(dist.Normal, pvae.MLP(2, (8,)), event_shape=1)
    return pvae.VAE(pvae.standard_normal(1), Correlated(), posterior)


@pytest.mark.parametrize("kind", ["callable without", "needs data"])
def test_missing_entries_stay_missing_and_are_predicted_like_any_other(kind):
    x = torch.zeros(4, 2)
    x[1, 0] = x[2, :] = float("nan")
    found = groups_of(program_with_gaps(kind), x, num_samples=3000)
    np.testing.assert_array_equal(found["observed_data"]["x"], x)
    for group in ("posterior_predictive", "prior_predictive"):
        draws = found[group]["x"].values[0]
        assert np.isfinite(draws).all()
        for row in range(4):
            assert np.corrcoef(draws[:, row].T)[0, 1] == pytest.approx(0.95, abs=0.02)
    assert np.isfinite(found["amortized_diagnostics"]["elbo"]).all()


def test_a_row_without_anything_observed_has_no_evidence_against_it():
    vae, x = counts_vae(), counts(3)
    x[1] = float("nan")
    found = groups_of(vae, x, num_samples=20, log_likelihood=False)
    stats = found["sample_stats"]
    prior = dist.Normal(0.0, 1.0).log_prob(values(found["posterior"], "z")).sum(-1)[:, 1]
    torch.testing.assert_close(values(stats, "lp")[:, 1], prior, rtol=1e-5, atol=1e-5)


def seen(x):
    return (
        ~x["x"].isnan()
        if isinstance(x, dict) and "mask" not in x
        else x["mask"].bool()
        if isinstance(x, dict)
        else ~x.isnan()
    )


def numbers(x):
    return (x["x"] if isinstance(x, dict) else x).nan_to_num()


def completed(x):
    """Pyro's own way of missing entries: those that the mask leaves out are latents, masked where data are observed."""
    with pyro.plate("data", len(numbers(x))):
        z = pyro.sample("z", dist.Normal(numbers(x).new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=numbers(x), obs_mask=seen(x))


def completed_guide(x):
    """The exact posterior: of the entries that are not observed, too."""
    known = seen(x)
    with pyro.plate("data", len(known)):
        scale = torch.where(known, math.sqrt(0.5), 1.0).to(numbers(x))
        z = pyro.sample("z", dist.Normal(torch.where(known, numbers(x) / 2, 0.0), scale))
        with poutine.mask(mask=~known):
            pyro.sample("x_unobserved", dist.Normal(z, 1.0))


@pytest.mark.parametrize("kind", ["missing", "mask beside complete data"])
def test_entries_that_pyro_completes(kind):
    """They have one name among the data; their draws are NaN where the data are observed, and count nowhere there."""
    x, known = torch.randn(7, dtype=torch.float64), torch.tensor([1, 1, 0, 1, 0, 1, 1]).bool()
    given = x.where(known, torch.nan) if kind == "missing" else {"x": x, "mask": known.double()}
    found = groups_of((completed, completed_guide), given, num_samples=4000, rows=4, draws=1500)
    np.testing.assert_array_equal(found["observed_data"]["x"], x.where(known, torch.nan))
    evidence = dist.Normal(0.0, math.sqrt(2.0)).log_prob(x).where(known, 0.0)
    np.testing.assert_allclose(found["amortized_diagnostics"]["elbo"], evidence, atol=1e-9)
    for group in ("posterior", "prior"):
        assert "x" not in found[group]
        assert "x_observed" not in found[group]
    draws = values(found["posterior"], "x_unobserved")
    assert draws[:, known].isnan().all()
    assert_moments(draws[:, ~known], torch.zeros(2), torch.full((2,), 2.0))
    for group, variance in (
        ("posterior_predictive", torch.where(known, 1.5, 2.0)),
        ("prior_predictive", torch.tensor(2.0)),
    ):
        assert "x_observed" not in found[group]
        mean = torch.where(known, x / 2, 0.0) if group == "posterior_predictive" else torch.zeros(7)
        assert_moments(values(found[group], "x"), mean, variance)


def test_the_conditional_likelihood_of_completed_data_has_the_name_of_the_data():
    with pytest.warns(UserWarning, match="az.loo"):
        found = groups_of((completed, completed_guide), torch.randn(4), num_samples=5, groups=["log_likelihood"])
    assert set(found["log_likelihood"]) == {"x"}


def half(x):
    return torch.arange(len(x)) % 2 == 0


class Halved:
    """z ~ N(0, 1) and x ~ N(z, 1); a count k beside them is there in every other row alone, and decides y there."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            with poutine.mask(mask=half(x)):
                k = pyro.sample("k", dist.Poisson(x.new_full((len(x),), 3.0)))
            pyro.sample("x", dist.Normal(torch.stack([z, k.expand_as(z)], -1), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0] / 2, math.sqrt(0.5)))
            with poutine.mask(mask=half(x)):
                pyro.sample("k", dist.Poisson(torch.where(half(x), 3.0, 50.0)))


def test_masked_latents_are_not_there_and_do_not_reach_the_predictions():
    x = torch.zeros(6, 2)
    found = groups_of(Halved(), x, num_samples=4000)
    for group in ("posterior", "prior"):
        k = values(found[group], "k")
        assert k[:, 1::2].isnan().all()
        assert_moments(k[:, ::2], torch.full((3,), 3.0), torch.full((3,), 3.0))
        assert np.isfinite(found[group]["z"]).all()
    predicted = values(found["posterior_predictive"], "x")[..., 1]
    assert_moments(predicted, torch.full((6,), 3.0), torch.full((6,), 4.0))


# ---------------------------------------------------------------------------------------------- names and labels


def test_a_table_labels_rows_and_columns():
    import pandas as pd

    frame = pd.DataFrame(counts(3).numpy(), index=["ann", "bob", "cy"], columns=list("vwxyz"))
    found = groups_of(counts_vae(), frame, num_samples=10, dims={"x": ["gene"]}, rows=2)
    for group in ("posterior", "posterior_predictive", "observed_data", "amortized_diagnostics"):
        assert list(found[group]["data"].values) == ["ann", "bob", "cy"]
    for group in ("posterior_predictive", "prior_predictive", "observed_data"):
        assert list(found[group]["gene"].values) == list("vwxyz")
    np.testing.assert_array_equal(found["observed_data"]["x"].sel(data="bob", gene="y"), frame.loc["bob", "y"])


def test_data_keeps_the_columns_of_its_table():
    import pandas as pd

    data = pvae.data.as_data(pd.DataFrame(counts(3).numpy(), columns=list("vwxyz")), variant="counts")
    idata = from_pyro_svi(counts_vae(), data[:2], num_samples=10, **SETTINGS)
    found = datasets_of(idata)["observed_data"]
    assert list(found["x_dim_0"].values) == list("vwxyz")
    assert found.attrs["data_variant"] == idata.attrs["data_variant"] == "counts"
    assert found.attrs["inference_library"] == "pyro-ppl"


@pytest.mark.parametrize("dims", [["latent_dim"], ["data", "latent_dim"]])
def test_names_and_labels_of_ones_own(dims):
    coords = {"latent_dim": ["size", "shape"], "data": [10, 20, 30]}
    found = groups_of(counts_vae(), counts(3), num_samples=10, dims={"z": dims}, coords=coords, rows=2)
    for group in ("posterior", "prior"):
        assert found[group]["z"].dims == ("chain", "draw", "data", "latent_dim")
        assert list(found[group]["latent_dim"].values) == ["size", "shape"]
    for group in found.values():
        assert list(group["data"].values) == [10, 20, 30]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dims": {"y": ["k"]}}, r"dims names 'y', which is not there; known are: .*z.*x"),
        ({"dims": {"z": ["data", "k", "l"]}}, r"names 3 dimensions, but 'z' has 1 for its event, after \['data'\]"),
        ({"dims": {"z": ["rows", "k"]}}, r"renames the rows, whose dimension is 'data': write \['data', 'k'\]"),
        ({"coords": {"latent": [1, 2]}}, "coords names 'latent', which is not there; known are: .*z_dim_0"),
        ({"coords": {"z_dim_0": [1, 2, 3]}}, r"coords\['z_dim_0'\] has 3 labels, but there are 2"),
        ({"coords": {"data": [1, 2]}}, r"coords\['data'\] has 2 labels, but there are 3"),
        ({"groups": ["posterior", "predictions"]}, "unknown group 'predictions'; those made here are: posterior"),
        ({"num_samples": 0}, "num_samples"),
        ({"max_bytes": 1000}, r"more than max_bytes=1000"),
    ],
)
def test_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        from_pyro_svi(counts_vae(), counts(3), **{**SETTINGS, "num_samples": 10, **settings})


def test_labels_of_dimensions_in_groups_not_asked_for_are_no_error():
    settings = {"dims": {"x": ["gene"]}, "coords": {"gene": list("abcde")}, "groups": ["posterior"]}
    assert set(groups_of(counts_vae(), counts(3), num_samples=10, **settings)) == {"posterior"}


def test_no_program_no_data():
    with pytest.raises(TypeError, match="expected a program"):
        from_pyro_svi(print, counts(3))
    with pytest.raises(TypeError, match="expected x to be an array of numbers, got None"):
        from_pyro_svi(counts_vae())


# ---------------------------------------------------------------------------------------------- groups, sizes, seeds


@pytest.mark.parametrize("group", sorted(DEFAULT))
def test_one_group_alone(group):
    assert set(groups_of(counts_vae(), counts(4), num_samples=10, groups=[group])) == {group}


def test_the_conditional_likelihood_comes_with_a_warning(exact, exact_groups):
    x = exact.simulate(7)
    with pytest.warns(UserWarning, match=r"az.loo and az.waic .* harmonic mean .* held-out log p\(x_i\)"):
        found = groups_of(exact, x, num_samples=2000, rows=3, log_likelihood=True)
    log_likelihood = found["log_likelihood"]["x"]
    assert log_likelihood.dims == ("chain", "draw", "data")
    z = values(found["posterior"], "z")
    by_hand = dist.Normal(z @ exact.weight.T + exact.mean, math.sqrt(exact.noise)).log_prob(x).sum(-1)
    np.testing.assert_allclose(log_likelihood[0], by_hand.detach(), atol=1e-9)
    assert "log_likelihood" not in exact_groups


def test_sizes_are_known_before_the_work(monkeypatch, tmp_path):
    vae, x, settings = counts_vae(), counts(400), {"num_samples": 600}
    whole = groups_of(vae, x, **settings, draws=None)
    needed = sum(data.nbytes for group in whole.values() for data in group.data_vars.values())
    assert set(groups_of(vae, x, **settings, draws=None, max_bytes=needed)) == DEFAULT
    runs, traces = [], Call.traces
    monkeypatch.setattr(Call, "traces", lambda self, n, **how: runs.append(n or 1) or traces(self, n, **how))
    with pytest.raises(ValueError, match=r"posterior_predictive .* GiB.*above max_bytes.*store="):
        groups_of(vae, x, **settings, draws=None, max_bytes=needed - 1)
    assert max(runs) <= 4
    streamed = groups_of(vae, x, **settings, draws=None, max_bytes=needed - 1, store=tmp_path / "p.zarr")
    xr.testing.assert_equal(streamed["posterior"].load(), whole["posterior"])


@pytest.mark.parametrize("write_bytes", [1, 8000, 2**26])
def test_a_stream_holds_what_memory_would(write_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr("pyrovae.arviz.programs.WRITE_BYTES", write_bytes)
    vae, x = counts_vae(), counts(10)
    x[3, 2] = float("nan")
    settings = {"num_samples": 15, "rows": 4, "coords": {"data": [f"row{i}" for i in range(10)]}}
    memory = groups_of(vae, x, **settings)
    streamed = groups_of(vae, x, **settings, store=tmp_path / "p.zarr")
    for group, data in memory.items():
        xr.testing.assert_equal(streamed[group].load(), data)
    again = datasets_of(from_zarr(tmp_path / "p.zarr"))
    assert set(again) == DEFAULT
    rows = again["posterior"]["z"].encoding["chunks"][2]
    assert rows == {1: 4, 8000: 8, 2**26: 10}[write_bytes]
    assert again["posterior"].attrs["seed"] == 0


def test_an_interrupted_stream_leaves_no_store(tmp_path, monkeypatch):
    monkeypatch.setattr("pyrovae.arviz.programs.WRITE_BYTES", 1)

    class Fails(nn.Module):
        def forward(self, z, covariates=None):
            if z.shape[-2] == 1:
                raise RuntimeError("the last batch")
            return dist.Normal(z, 1.0).to_event(1)

    posterior = pvae.Factorized(dist.Normal, pvae.MLP(2, (8,)), event_shape=2)
    vae = pvae.VAE(pvae.standard_normal(2), Fails(), posterior)
    with pytest.raises(RuntimeError, match="the last batch"):
        groups_of(vae, torch.zeros(7, 2), rows=3, store=tmp_path / "p.zarr")
    assert list(tmp_path.iterdir()) == []


def test_netcdf_round_trip(tmp_path):
    idata = from_pyro_svi(counts_vae(), counts(4), num_samples=10, **SETTINGS)
    back = datasets_of(from_netcdf(to_netcdf(idata, tmp_path / "p.nc")))
    for group, data in datasets_of(idata).items():
        xr.testing.assert_identical(back[group], data)


def test_seeds():
    vae, x = counts_vae(), counts(5)
    state = torch.get_rng_state()
    one, same, other = (groups_of(vae, x, num_samples=10, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    for group, data in one.items():
        xr.testing.assert_equal(same[group], data)
    for group in ("posterior", "prior", "posterior_predictive"):
        assert not one[group].equals(other[group])
    torch.manual_seed(3)
    first = groups_of(vae, x, num_samples=10, seed=None)
    second = groups_of(vae, x, num_samples=10, seed=None)
    torch.manual_seed(3)
    third = groups_of(vae, x, num_samples=10, seed=None)
    assert first["posterior"].equals(third["posterior"])
    assert not first["posterior"].equals(second["posterior"])


def test_arviz_summarizes_the_rows_that_are_looked_at():
    from pyrovae.arviz import import_arviz

    idata = from_pyro_svi(counts_vae(), counts(5), num_samples=50, dims={"z": ["latent_dim"]}, **SETTINGS)
    table = import_arviz().summary(idata.sel(data=[1, 4]), kind="stats")
    assert list(table.index) == ["z[1, 0]", "z[1, 1]", "z[4, 0]", "z[4, 1]"]


# ---------------------------------------------------------------------------------------------- chains


@pytest.fixture(scope="module")
def chains():
    program = PPCA.random(latent=2, data=4)
    for parameter in program.parameters():
        parameter.requires_grad_(False)
    with pyro.util.optional(pyro.validation_enabled(False), True), pytest.warns(UserWarning, match="available_cpu"):
        mcmc = MCMC(NUTS(program.model), num_samples=100, warmup_steps=60, num_chains=2, disable_progbar=True)
    torch.manual_seed(0)
    mcmc.run(program.simulate(3))
    return program, mcmc


def test_chains_of_mcmc(chains):
    program, mcmc = chains
    found = groups_of(mcmc, dims={"z": ["latent_dim"]})
    x, draws = program.simulate(3), mcmc.get_samples(group_by_chain=True)["z"]
    assert set(found) == DEFAULT - {"amortized_diagnostics"}
    assert found["posterior"]["z"].dims == ("chain", "draw", "data", "latent_dim")
    np.testing.assert_array_equal(found["posterior"]["z"], draws)
    joint = dist.Normal(draws @ program.weight.T + program.mean, math.sqrt(program.noise)).log_prob(x).sum(-1)
    joint = joint + dist.Normal(0.0, 1.0).log_prob(draws).sum(-1)
    np.testing.assert_allclose(found["sample_stats"]["lp"], joint, atol=1e-9)
    assert set(found["sample_stats"]) == {"lp", "diverging"}
    np.testing.assert_array_equal(found["observed_data"]["x"], x)
    exact = program.posterior(x)
    error = torch.as_tensor(found["posterior"]["z"].mean(["chain", "draw"]).values) - exact.mean
    assert (error.abs() < 0.4 * exact.stddev).all()


def test_divergences_are_marked_where_they_were(chains, monkeypatch):
    _, mcmc = chains
    monkeypatch.setattr(mcmc, "diagnostics", lambda: {"divergences": {"chain 0": [3, 7], "chain 1": [99]}})
    diverging = groups_of(mcmc, groups=["sample_stats"])["sample_stats"]["diverging"]
    assert diverging.dims == ("chain", "draw")
    assert np.argwhere(diverging.values).tolist() == [[0, 3], [0, 7], [1, 99]]


def test_chains_predict_like_their_draws(chains):
    program, mcmc = chains
    found = groups_of(mcmc, groups=["posterior", "posterior_predictive", "prior"])
    z = torch.as_tensor(found["posterior"]["z"].values)
    residual = torch.as_tensor(found["posterior_predictive"]["x"].values) - z @ program.weight.T - program.mean
    flat = residual.flatten(0, 2)
    assert_moments(flat, torch.zeros(4), torch.full((4,), program.noise))
    assert_moments(torch.as_tensor(found["prior"]["z"].values).flatten(0, 2), torch.zeros(2), torch.ones(2))


def test_chains_of_global_latents_in_pieces():
    mcmc = MCMC(NUTS(regression), num_samples=20, warmup_steps=20, disable_progbar=True)
    torch.manual_seed(0)
    x = torch.randn(6)
    mcmc.run(x)
    found = groups_of(mcmc, rows=4, draws=7)
    slope = mcmc.get_samples(group_by_chain=True)["slope"]
    np.testing.assert_array_equal(found["posterior"]["slope"], slope)
    one_by_one = groups_of(mcmc, vectorize=False)
    for group in ("posterior", "sample_stats"):
        xr.testing.assert_allclose(one_by_one[group], found[group])
    assert one_by_one["prior_predictive"]["x"].shape == (1, 20, 6)
    np.testing.assert_allclose(found["sample_stats"]["lp"], dist.Normal(slope[..., None], 1.0).log_prob(x), rtol=1e-5)
    assert found["posterior_predictive"]["x"].shape == (1, 20, 6)


def test_chains_that_cannot_be_used():
    with pytest.raises(ValueError, match=r"has no draws: call mcmc.run\(x\) first"):
        from_pyro_svi(MCMC(NUTS(regression), num_samples=2, disable_progbar=True))
    mcmc = MCMC(NUTS(needs_two), num_samples=5, warmup_steps=5, disable_progbar=True, save_params=["a"])
    mcmc.run(torch.zeros(3))
    with pytest.raises(ValueError, match=r"no draws of the latent sites \['b'\]"):
        from_pyro_svi(mcmc)


def needs_two(x):
    a, b = (pyro.sample(name, dist.Normal(0.0, 1.0)) for name in "ab")
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(a + b, 1.0), obs=x)
