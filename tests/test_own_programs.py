"""Programs of a user's own that a check cannot take, and rows that a program cannot: each is told in one sentence."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from torch.utils.data import Dataset

import pyrovae as pvae
from pyrovae.programs.simulate import simulate

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
SMALL = {"num_samples": 50, "num_simulations": 50, "seed": 0}


def plate(x, size):
    rows = size if x is None else len(x)
    return pyro.plate("data", size or rows, subsample=torch.arange(rows))


def guide(x, size=None):
    with plate(x, size):
        pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))


def observed(z, x):
    return pyro.sample("x", dist.Normal(z @ torch.ones(2, 3), 1.0).to_event(1), obs=x)


@config_enumerate
def clusters(x=None, size=None):
    with plate(x, size):
        center = pyro.sample("k", dist.Categorical(torch.ones(3))).float()[..., None]
        return pyro.sample("x", dist.Normal(center, torch.ones(3)).to_event(1), obs=x)


@config_enumerate
def clustered(x=None, size=None):
    with plate(x, size):
        center = pyro.sample("k", dist.Categorical(torch.ones(3))).float()[..., None]
        return observed(pyro.sample("z", dist.Normal(center, torch.ones(2)).to_event(1)), x)


def shifted(x=None, size=None):
    mu = pyro.sample("mu", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with plate(x, size):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(z @ torch.ones(2, 3) + mu, 1.0).to_event(1), obs=x)


def shifted_guide(x, size=None):
    pyro.sample("mu", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    guide(x, size)


def patients(x, size=None):
    with pyro.plate("patients", len(x)), pyro.plate("scales", 1):
        pyro.sample("x", dist.Normal(pyro.sample("theta", dist.Normal(0.0, 1.0)), 1.0), obs=x[None, :, 0])


def patients_guide(x, size=None):
    scale = pyro.param("scale", lambda: torch.tensor(0.5))
    with pyro.plate("patients", len(x)), pyro.plate("scales", 1):
        pyro.sample("theta", dist.Normal(x[None, :, 0], scale))


def test_a_plate_of_another_name_is_named_by_training_evidence_and_checks_in_one_sentence():
    said = set()
    calls = (pvae.fit, pvae.log_marginal, pvae.diagnose, pvae.posterior_draws, pvae.checks.predictive_check)
    for call in calls:
        with pytest.raises(ValueError, match="no site lies inside a plate named 'data'") as error:
            call((patients, patients_guide), X, seed=0)
        said.add(str(error.value))
    (one,) = said
    assert "has the plates 'patients', 'scales'; name the plate over the rows 'data' in model and guide" in one


def steps(x=None, size=None):
    with plate(x, size):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        columns = [
            pyro.sample(f"x{t}", dist.Normal(z[..., 0], 1.0), obs=None if x is None else x[:, t]) for t in range(3)
        ]
        return torch.stack(columns, -1)


def test_a_model_that_returns_a_stack_of_its_sites_is_told_to_return_them():
    report = pvae.diagnose((steps, guide), X, checks=["structure", "calibration"], **SMALL)
    assert "one sample site for each tensor of the data" in report.skipped["calibration"]
    assert "not a stack of several sites" in report.skipped["calibration"]
    assert "1 not done: calibration." in repr(report)


def one_row(x=None, size=None):
    rows = 1 if x is None else len(x)
    with pyro.plate("data", size or rows, subsample=torch.arange(rows)):
        return observed(pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1)), x)


def test_discrete_latents_alone_leave_out_the_checks_of_what_the_guide_draws():
    report = pvae.diagnose((clusters, lambda x, size=None: None), X, **SMALL)
    assert {"structure", "calibration", "typicality"} == set(report.skipped)
    assert all(why.startswith("the guide draws no latent") for why in report.skipped.values())
    exact = torch.logsumexp(dist.Normal(torch.arange(3.0)[:, None], 1.0).log_prob(X[:, None]).sum(-1), 1) - np.log(3)
    log_marginal = pvae.log_marginal((clusters, lambda x, size=None: None), X, seed=0).log_marginal
    np.testing.assert_allclose(log_marginal, exact, atol=1e-5)


def test_posterior_draws_name_the_latents_that_are_summed_out():
    found = pvae.posterior_draws((clustered, guide), X, num_samples=5, num_proposals=50, method="guide", seed=0)
    assert list(found.draws()) == ["z"]
    assert "Without k, summed out here: pyrovae.from_pyro_svi draws it." in repr(found)
    plain = pvae.posterior_draws((one_row, guide), X, num_samples=5, num_proposals=50, method="guide", seed=0)
    assert "summed out" not in repr(plain)


def test_the_kl_of_an_entry_whose_prior_is_a_mixture_is_said_to_be_unknown():
    found = pvae.latent_structure((clustered, guide), X, seed=0)
    assert "what each carries is not known under this prior" in found.summary()
    assert "carry more than" not in found.summary()
    with pytest.raises(ValueError, match="the KL of no latent entry is known"):
        found.plot()
    plain = pvae.latent_structure((one_row, guide), X, seed=0)
    assert (plain.num_informative, "carry more than" in plain.summary()) == (2, True)
    plain.dataset["kl"][0] = torch.nan
    assert [label.get_text() for label in plain.plot().get_xticklabels()] == ["1"]


def test_a_global_latent_that_is_conditioned_on_is_no_data():
    given = {"mu": torch.full((3,), 5.0)}
    model = poutine.condition(shifted, given)
    report = pvae.diagnose((model, poutine.condition(shifted_guide, given)), X + 5, **SMALL)
    assert report.skipped == {}
    for simulated in (simulate(model, 4000), simulate(lambda x, size=None: model(x, size), 4000, X)):  # one needs data
        assert set(simulated.latents) == {"z"}
        np.testing.assert_allclose(simulated.x.mean(0), 5.0, atol=0.15)


def test_a_model_that_simulates_another_number_of_rows_is_refused():
    with pytest.raises(ValueError, match=r"called without data for size=7, draws another number"):
        simulate(one_row, 7)
    report = pvae.diagnose((one_row, guide), X, **SMALL)
    assert set(report.skipped) == {"calibration", "typicality", "predictive", "prior"}
    assert report.reliability is not None


@pytest.mark.parametrize("door", ["encode", "elbo", "fit"])
def test_images_with_their_channels_last_are_refused_by_their_shape(door):
    images = torch.randint(0, 255, (20, 3, 8, 10), dtype=torch.uint8)
    vae = pvae.build_vae(images, latent_dim=2, hidden=(8,), seed=0)
    call = {"encode": vae.encode, "elbo": lambda x: pvae.elbo(vae, x), "fit": lambda x: pvae.fit(vae, x, epochs=1)}
    with pytest.raises(ValueError, match=r"x must have shape \(rows, 3, 8, 10\).* got \(20, 8, 10, 3\)"):
        call[door](images.movedim(1, -1))


class Labeled(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index], "cat"


def test_rows_that_are_no_data_are_refused_by_what_they_are():
    vae = pvae.build_vae(3, likelihood="normal", latent_dim=2, hidden=(8,), seed=0)
    with pytest.raises(TypeError, match=r"a whole number as its label.* got 'cat'"):
        pvae.fit(vae, Labeled(), epochs=1, batch_size=8, progress=False)
    with pytest.raises(TypeError, match="give the data alone"):
        pvae.fit(vae, (X, torch.arange(40)), epochs=1, progress=False)
    with pytest.raises(TypeError, match="expected x to be an array of numbers, got"):
        pvae.data.split(Labeled(), 0.25)
    assert [len(part) for part in pvae.data.split(X, 0.25)] == [30, 10]


def regression(net, spread="spread", module="net"):
    """A program of a factory, under names in Pyro's parameter store."""

    def model(x=None, size=None):
        decoder = pyro.module(module, net)
        scale = pyro.param(spread, lambda: torch.ones(3), constraint=dist.constraints.positive)
        with plate(x, size):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(decoder(z), scale).to_event(1), obs=x)

    return model, guide


def test_programs_that_share_names_in_the_parameter_store_are_told_apart():
    pyro.clear_param_store()
    net, steps = torch.nn.Linear(2, 3), {"steps": 1, "seed": 0, "progress": False}
    one = regression(net)
    pvae.fit(one, X, **steps)
    pvae.fit((poutine.condition(one[0], {}), guide), X, **steps)  # the same program again: no warning
    with pytest.raises(
        ValueError, match="another module under the name 'net', so that the one of this program would not be"
    ):
        pvae.fit(regression(torch.nn.Linear(2, 3)), X, **steps)
    other = regression(torch.nn.Linear(2, 3), module="own")
    with pytest.warns(UserWarning, match="holds 'spread' from another program"):
        pvae.fit(other, X, **steps)
    with pytest.raises(
        ValueError, match="programs of 'a' and 'b' share the name 'spread' in Pyro's global parameter store"
    ):
        pvae.compare({"a": one, "b": other}, X[:20], seed=0, progress=False)
    apart = regression(torch.nn.Linear(2, 3), "width", "apart")
    pvae.fit(apart, X, **steps)
    shares_its_module = regression(net, "scale")
    pvae.fit(shares_its_module, X, **steps)
    pvae.compare({"a": one, "again": one, "b": apart, "c": shares_its_module}, X[:20], method="importance", seed=0)
    other = regression(torch.nn.Linear(2, 3), "breadth")
    with pytest.raises(ValueError, match=r"programs of 'a' and 'b' share the name 'net\.weight'"):
        pvae.compare({"a": one, "b": other}, X[:20], seed=0, progress=False)


def test_an_amortized_guide_is_checked_with_its_global_latents_held():
    def model(x=None, size=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        tau = pyro.sample("tau", dist.HalfNormal(1.0))
        with plate(x, size):
            z = pyro.sample("z", dist.Normal(mu, tau))
            return pyro.sample("x", dist.Normal(z[..., None], torch.ones(3)).to_event(1), obs=x)

    amortized = pvae.AmortizedGuide(model, pvae.MLP(3, (4,)))
    with pytest.raises(ValueError, match="not known before its first run"):
        amortized.hold_globals()
    pvae.fit(amortized, X, steps=2, seed=0, progress=False)
    with pytest.raises(ValueError, match=r"\['mu', 'tau'\] lie outside the plate 'data': .* by guide.hold_globals\(\)"):
        pvae.latent_structure(amortized, X, seed=0)
    held = amortized.hold_globals()
    report = pvae.diagnose(held, X, checks=["reliability", "calibration", "structure"], **SMALL)
    assert (report.skipped, report.structure.verdict) == ({}, "collapsed")  # after two steps
    assert list(pvae.posterior_draws(held, X, num_samples=5, num_proposals=50, seed=0).draws()) == ["z"]
    u = amortized.global_posterior(covariates=None).mean.detach()
    assert float(poutine.trace(held[0]).get_trace(X).nodes["tau"]["value"]) == pytest.approx(float(u[1].exp()))
    values = {"mu": u[0] + 1, "tau": u[1].exp(), "_globals": u}  # a value that the guide's point is not at
    off = (poutine.condition(amortized.model, values), poutine.condition(amortized.guide, values))
    found = pvae.latent_structure(off, X, seed=0)
    assert "nan" not in found.summary() + found.surgery.summary()
