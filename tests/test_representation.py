"""Quality of a representation: separated and mixed classes, intervals, a mixture prior's assignment, refusals."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from oracles import PPCA

import pyrovae as pvae
from pyrovae.uses import representation_quality

MODEL = PPCA.random(2, 6, noise=0.01, exact=True)


class Near(torch.nn.Module):
    """The latents are the data, nearly."""

    def forward(self, x, covariates=None):
        return dist.Normal(x, 0.1).to_event(1)


@pytest.fixture
def few(monkeypatch):
    """Few resamples, where no interval is judged closely."""
    monkeypatch.setattr("pyrovae.uses.representation.BOOTSTRAPS", 20)


def rows(shift, count=120, seed=0):
    """Rows of two classes whose latents lie so far apart."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 2
    z = torch.randn(count, 2, generator=generator, dtype=torch.float64) + shift * (y[:, None] - 0.5)
    noise = 0.1 * torch.randn(count, 6, generator=generator, dtype=torch.float64)
    return (z @ MODEL.weight.T + MODEL.mean + noise).detach(), y


def cell(found, metric, variable="value", of="latents"):
    return float(found[variable].sel(representation=of, metric=metric))


@pytest.mark.usefixtures("few")
def test_classes_far_apart_are_found_and_classes_alike_are_not():
    x, y = rows(8.0)
    found = representation_quality(MODEL, x, labels=y, seed=0)
    assert [cell(found, name) for name in ("linear probe", "k-NN", "ARI", "NMI")] == [1.0] * 4
    x, y = rows(0.0)
    found = representation_quality(MODEL, x, labels=y, seed=0)
    for metric in ("linear probe", "k-NN"):
        assert cell(found, metric, "low") < 0.5 < cell(found, metric, "high") + 0.1
    assert abs(cell(found, "ARI")) < 0.05


def test_the_probe_is_as_good_as_the_bayes_rule_and_its_interval_that_of_a_share():
    x, y = rows(2.0, count=600)
    found = representation_quality(MODEL, x, labels=y, seed=0)
    bayes = float(torch.distributions.Normal(0, 1).cdf(torch.tensor(2**0.5)))
    share = cell(found, "linear probe")
    error = (share * (1 - share) / 600) ** 0.5
    assert abs(share - bayes) < 3 * error
    assert cell(found, "linear probe", "high") - share == pytest.approx(1.96 * error, rel=0.25)
    behind = cell(found, "linear probe", "behind", "PCA")
    assert behind == pytest.approx(share - cell(found, "linear probe", of="PCA"))
    assert abs(behind) < 4 * cell(found, "linear probe", "behind_error", "PCA") + 1e-9


@pytest.mark.usefixtures("few")
def test_batches_that_lie_apart_do_not_mix():
    x, y = rows(8.0)
    found = representation_quality(MODEL, x, labels=y, batch=y, seed=0)
    assert cell(found, "batch mixing") == 0.0
    shuffled = y[torch.randperm(120, generator=torch.Generator().manual_seed(1))]
    data = pvae.data.as_data(x, labels={"y": y, "plate": shuffled})
    found = representation_quality(MODEL, data, labels="y", batch="plate", seed=0)
    assert cell(found, "batch mixing", "low") < 1.0 < cell(found, "batch mixing", "high")
    assert cell(found, "linear probe") == 1.0
    assert np.isnan(cell(representation_quality(MODEL, x, labels=y, seed=0), "batch mixing"))


@pytest.mark.usefixtures("few")
def test_a_mixture_prior_assigns_rows_to_its_own_components():
    prior = pvae.GaussianMixture(event_shape=2, num_components=2)
    with torch.no_grad():
        raw = next(prior.parameters())
        raw[..., 1:3] = torch.tensor([[-4.0, -4.0], [4.0, 4.0]])
    vae = pvae.VAE(prior, pvae.Factorized(dist.Normal, pvae.MLP(2, (4,)), 2), Near())
    y = torch.arange(60) % 2
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)) + 8.0 * (y[:, None] - 0.5)
    found = representation_quality(vae, x, labels=y, seed=0)
    assert (cell(found, "prior ARI"), cell(found, "prior NMI")) == (1.0, 1.0)
    assert np.isnan(cell(found, "prior ARI", of="PCA"))


@pytest.mark.usefixtures("few")
def test_the_classical_representations_may_be_fitted_to_other_rows():
    x, y = rows(2.0)
    own = representation_quality(MODEL, x, labels=y, seed=0)
    other = representation_quality(MODEL, x, labels=y, train=torch.randn(80, 6), seed=0)
    assert cell(own, "linear probe") == cell(other, "linear probe")
    assert cell(own, "ARI", of="PCA") != cell(other, "ARI", of="PCA")


@pytest.mark.parametrize(
    ("options", "message", "argument"),
    [
        ({}, "give labels", "labels"),
        ({"labels": torch.zeros(120)}, "two or more classes", "labels"),
        ({"labels": torch.arange(120) // 4 == 0}, "5 or more rows", "labels"),
        ({"labels": torch.zeros(3)}, "120 in all", "labels"),
        ({"labels": "kind"}, "no covariate or label 'kind'", "labels"),
        ({"labels": rows(1.0)[1], "batch": torch.zeros(3)}, "one of batch per row", "batch"),
        ({"labels": rows(1.0)[1], "batch": torch.zeros(len(rows(1.0)[1]))}, "two or more batches", "batch"),
        ({"labels": torch.full((len(rows(1.0)[1]),), torch.nan)}, "hold .* NaN", "labels"),
        ({"labels": rows(1.0)[1], "num_neighbors": 120}, "from 1 to 119", "num_neighbors"),
    ],
)
def test_what_cannot_be_judged_is_refused(options, message, argument):
    with pytest.raises(ValueError, match=message) as caught:
        representation_quality(MODEL, rows(1.0)[0], **options)
    assert caught.value.argument == argument


@pytest.mark.usefixtures("few")
def test_beside_missing_entries_stands_no_classical_representation():
    x, y = rows(1.0)
    vae = pvae.build_vae(6, likelihood="normal", latent_dim=2, hidden=(4,))
    x[0, 0] = torch.nan
    assert representation_quality(vae, x, labels=y, seed=0)["representation"].values.tolist() == ["latents"]
