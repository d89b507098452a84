"""Missing entries: gradients are finite, and those of the same program on the observed entries alone."""

from concurrent.futures import ThreadPoolExecutor

import pyro
import pyro.distributions as dist
import pytest
import torch
from families import CASES
from pyro.infer import Trace_ELBO

import pyrovae as pvae
from pyrovae.missing import complete_data, fill_zeros, is_complete, observed


def likelihood_of(case):
    torch.manual_seed(0)
    return pvae.Factorized(case.family, pvae.MLP(2, (8,)), event_shape=4, **case.given).double()


def data_of(likelihood):
    with torch.no_grad():
        complete = likelihood(torch.randn(6, 2, dtype=torch.float64)).sample()
    x = complete.clone()
    x[torch.rand_like(x) < 0.4] = torch.nan
    x[3] = torch.nan
    return complete, x


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_gradients_are_those_of_the_observed_entries_alone(case):
    likelihood = likelihood_of(case)
    complete, x = data_of(likelihood)
    posterior = pvae.Factorized(dist.Normal, pvae.MLP(4, (8,)), event_shape=2).double()
    vae = pvae.VAE(pvae.standard_normal(2), likelihood, posterior)
    torch.manual_seed(1)
    loss = Trace_ELBO().loss_and_grads(vae.model, vae.guide, x)
    gradients = [parameter.grad.clone() for parameter in vae.parameters()]
    vae.zero_grad()

    torch.manual_seed(1)
    mask = ~x.isnan()
    q = posterior(torch.where(mask, x, 0.0))
    z = q.rsample()
    entries = [likelihood(z).base_dist.log_prob(complete)[i, j] for i, j in mask.nonzero().tolist()]
    by_hand = -(torch.stack(entries).sum() + vae.prior().log_prob(z).sum() - q.log_prob(z).sum())
    by_hand.backward()
    assert loss == pytest.approx(by_hand.item(), rel=1e-9)
    for (name, parameter), gradient in zip(vae.named_parameters(), gradients, strict=True):
        assert gradient.isfinite().all(), name
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-8, atol=1e-10, msg=name)


def test_a_posterior_that_asks_for_the_mask_gets_it():
    seen = {}

    class Watching(torch.nn.Module):
        covariate_names = ("mask",)

        def forward(self, x, covariates=None):
            seen.update(x=x, mask=covariates["mask"])
            return dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1)

    likelihood = pvae.Factorized(dist.Normal, pvae.MLP(1, (), (2, 2)), event_shape=2)
    vae = pvae.VAE(pvae.standard_normal(1), likelihood, Watching())
    vae.guide(torch.tensor([[1.0, torch.nan], [torch.nan, 2.0]]))
    assert seen["x"].tolist() == [[1.0, 0.0], [0.0, 2.0]]
    assert seen["mask"].tolist() == [[True, False], [False, True]]


def test_missing_entries_are_zero_after_preprocessing():
    posterior = pvae.Factorized(dist.Normal, pvae.MLP(2, ()), event_shape=1, preprocess=lambda x: x + 5.0)
    seen = []
    posterior.net.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    posterior(torch.tensor([[1.0, 0.0]]), covariates={"mask": torch.tensor([[True, False]])})
    assert seen[0].tolist() == [[6.0, 0.0]]


class Joint(dist.MultivariateNormal):
    """A joint normal whose marginal over the observed entries is known."""

    def mask_entries(self, mask):
        scale = torch.where(mask, self.variance.sqrt(), torch.ones_like(self.loc))
        return dist.Normal(self.loc, scale).mask(mask).to_event(1)


def test_joint_likelihoods_marginalize_or_refuse_partly_missing_rows():
    x = torch.tensor([[1.0, torch.nan], [0.0, 0.0]])
    normal = dist.MultivariateNormal(torch.zeros(2, 2), torch.eye(2))
    with pytest.raises(
        ValueError, match=r"rows that are partly missing, and MultivariateNormal is joint.*mask_entries"
    ):
        observed(normal, x)
    whole = torch.tensor([[torch.nan, torch.nan], [0.0, 0.0]])
    distribution, filled = observed(normal, whole)
    assert distribution.log_prob(filled)[0] == 0
    torch.testing.assert_close(distribution.log_prob(filled)[1], normal.log_prob(torch.zeros(2))[1])
    marginal, filled = observed(Joint(torch.zeros(2, 2), torch.eye(2)), x)
    torch.testing.assert_close(marginal.log_prob(filled)[0], dist.Normal(0.0, 1.0).log_prob(torch.tensor(1.0)))


def test_one_hot_entries_are_masked_whole():
    logits = torch.zeros(3, 2, 4)
    x = torch.nn.functional.one_hot(torch.tensor([[0, 1], [2, 3], [1, 1]]), 4).float()
    x[0, 1] = torch.nan
    distribution, filled = observed(dist.OneHotCategorical(logits=logits).to_event(1), x)
    expected = torch.log(torch.tensor(0.25)) * torch.tensor([1.0, 2.0, 2.0])
    torch.testing.assert_close(distribution.log_prob(filled), expected)


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_complete_data_need_no_mask_and_have_the_same_density(case):
    likelihood = likelihood_of(case)
    complete, _ = data_of(likelihood)
    plain = likelihood(torch.zeros(6, 2, dtype=torch.float64))
    masked, filled = observed(plain, complete)
    with complete_data():
        distribution, x = observed(plain, complete)
    assert distribution is plain
    assert x is complete
    torch.testing.assert_close(distribution.log_prob(x), masked.log_prob(filled), rtol=0, atol=1e-12)


def test_complete_data_are_still_checked_and_the_flag_is_left_as_it_was():
    normal, x = dist.Normal(torch.zeros(2, 3), 1.0).to_event(1), torch.zeros(2, 3)
    with complete_data():
        assert fill_zeros(x)[0] is x
        assert fill_zeros(x)[1].all()
        assert fill_zeros(x)[1].shape == x.shape
        with complete_data(False):
            assert is_complete()
        with ThreadPoolExecutor(1) as other:
            assert not other.submit(is_complete).result()
        with pytest.raises(ValueError, match="x holds infinite values in 1 of 2 rows"):
            observed(normal, torch.tensor([[0.0, torch.inf, 0.0], [0.0, 0.0, 0.0]]))
        with pytest.raises(ValueError, match="outside the support of Poisson"):
            observed(dist.Poisson(torch.ones(2, 3)).to_event(1), x - 1)
    assert not is_complete()
    with pytest.raises(RuntimeError), complete_data():
        raise RuntimeError
    assert not is_complete()


def test_a_missing_entry_in_complete_data_is_no_number_of_its_own():
    """A wrong flag shows: the density is NaN, not that of a filled entry."""
    normal = dist.Normal(torch.zeros(1, 2), 1.0, validate_args=False).to_event(1)
    with complete_data(), pyro.validation_enabled(False):
        distribution, x = observed(normal, torch.tensor([[torch.nan, 0.0]]))
        assert distribution.log_prob(x).isnan().all()
