"""Compression: the bits written against exact code lengths, every byte back, and files that are refused."""

import lzma
import math
import re

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from test_behavior import KINDS
from test_cli import invoke

import pyrovae as pvae
from pyrovae.conditionals import Ordinal
from pyrovae.presets.tables import LIKELIHOODS
from pyrovae.uses import coded_size, compress, decompress
from pyrovae.uses.bits_back import Chain
from pyrovae.uses.coder import Entries, entries_of

pytest.importorskip("constriction")
MASSES = (
    *("bernoulli", "binomial", "beta_binomial", "discretized_logistic", "discretized_normal", "logistic_mixture"),
    *("categories", "poisson", "negative_binomial", "zero_inflated_poisson", "zero_inflated_negative_binomial"),
)


def of(likelihood, posterior="normal", shape=(1, 2, 3)):
    """A VAE of some likelihood, and rows that it draws."""
    levels = {"levels": 6} if LIKELIHOODS[likelihood].leveled else {}
    vae = pvae.build_vae(shape, likelihood=likelihood, posterior=posterior, latent_dim=2, hidden=(8,), seed=0, **levels)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return vae, vae.sample(60)


def returned(program, x, **options):
    blob = compress(program, x, seed=0, **options)
    found = decompress(program, blob, *[options[n] for n in ("covariates",) if n in options])
    assert found.dtype == x.dtype
    assert torch.equal(found, x)
    return blob


class Tiny:
    """One latent and three coins, with masses that are written down below once more."""

    slope, offset = torch.tensor([1.5, -2.0, 0.5]), torch.tensor([0.0, 0.5, -1.0])

    def model(self, x=None, size=None):
        rows = len(x) if x is not None else size
        with pyro.plate("data", rows):
            z = pyro.sample("z", dist.Normal(torch.zeros(rows, 1), 1.0).to_event(1))
            coins = dist.Bernoulli(logits=self.slope * z + self.offset).to_event(1)
            return pyro.sample("x", coins, obs=x)

    def guide(self, x, size=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.sum(-1, keepdim=True) / 2 - 0.6, 0.7).to_event(1))


def code_lengths(x, bits):
    """Mean and variance over the bins, in bits, of each row's exact code length under ``Tiny``, by scipy."""
    bins = 2**bits
    edges, centers = stats.norm.ppf(np.arange(bins + 1) / bins), stats.norm.ppf((np.arange(bins) + 0.5) / bins)
    own = np.diff(stats.norm.cdf((edges[None] - (x.sum(1, keepdims=True) / 2 - 0.6)) / 0.7), axis=1)
    odds = Tiny.slope.numpy() * centers[:, None] + Tiny.offset.numpy()
    one = 1 / (1 + np.exp(-odds))
    data = np.where(x[:, None] == 1, one, 1 - one).prod(-1)
    length = -np.log2(data) + bits + np.log2(own)
    mean = (own * length).sum(1)
    return mean, (own * (length - mean[:, None]) ** 2).sum(1)


@pytest.mark.parametrize("bits", [2, 8])
def test_net_bits_are_the_discretized_negative_elbo(bits):
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((40_000, 3), 0.4))
    size = coded_size(returned(Tiny(), x, latent_bits=bits, batch_size=4000))
    kinds, which = np.unique(x.numpy(), axis=0, return_inverse=True)
    mean, variance = (values[which.ravel()] for values in code_lengths(kinds, bits))
    assert abs(size["net"] - mean.sum()) < 4 * math.sqrt(variance.sum()) + 64
    assert size["net"] == pytest.approx(mean.sum(), rel=0.005)
    without = mean.sum() + (bits + 0.01) * len(x) / 2  # what not taking the bits back would cost at least, at 8 bits
    assert bits == 2 or size["net"] < without


class Tower(Tiny):
    """The coins of ``Tiny`` under a chain of two latents."""

    def model(self, x=None, size=None):
        rows = len(x) if x is not None else size
        with pyro.plate("data", rows):
            above = pyro.sample("above", dist.Normal(torch.zeros(rows, 1), 1.0).to_event(1))
            z = pyro.sample("z", dist.Normal(0.8 * above + 0.2, 0.6).to_event(1))
            coins = dist.Bernoulli(logits=self.slope * z + self.offset).to_event(1)
            return pyro.sample("x", coins, obs=x)

    def guide(self, x, size=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.sum(-1, keepdim=True) / 2 - 0.6, 0.7).to_event(1))
            pyro.sample("above", dist.Normal(0.7 * z, 0.5).to_event(1))


def tower_lengths(x, bits, loc, sd):
    """Mean and variance of each row's code length under ``Tower``, whose lower bins have equal mass under a normal."""
    bins = 2**bits
    quantiles = [np.arange(bins + 1) / bins, (np.arange(bins) + 0.5) / bins]
    (edges, centers), (low_edges, low) = (
        [m + s * stats.norm.ppf(q) for q in quantiles] for m, s in ((0, 1), (loc, sd))
    )
    own = np.diff(stats.norm.cdf((low_edges - (x.sum(1, keepdims=True) / 2 - 0.6)) / 0.7), axis=1)
    upper = np.diff(stats.norm.cdf((edges[None] - 0.7 * low[:, None]) / 0.5), axis=1)  # (lower, upper)
    prior = np.diff(stats.norm.cdf((low_edges[None] - 0.8 * centers[:, None] - 0.2) / 0.6), axis=1).T
    one = 1 / (1 + np.exp(-(Tiny.slope.numpy() * low[:, None] + Tiny.offset.numpy())))
    data = np.where(x[:, None] == 1, one, 1 - one).prod(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        length = bits - np.log2(data)[:, :, None] - np.log2(prior) + np.log2(upper) + np.log2(own)[:, :, None]
    weights = own[:, :, None] * upper
    mean = np.where(weights > 0, weights * length, 0).sum((1, 2))
    return mean, np.where(weights > 0, weights * (length - mean[:, None, None]) ** 2, 0).sum((1, 2))


@pytest.mark.parametrize("bit_swap", [True, False])
def test_net_bits_of_a_chain_are_the_discretized_negative_elbo(bit_swap):
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((40_000, 3), 0.4))
    header = {"latent_bits": 6, "batch_size": 64, "shape": [40_000, 3], "top": 1}
    loc, sd = (float(value) for value in Chain(Tower(), x, None, header).moments["z"])
    assert (loc, sd) == (pytest.approx(0.2, abs=0.15), pytest.approx(1.0, abs=0.1))
    size = coded_size(returned(Tower(), x, latent_bits=6, batch_size=4000, bit_swap=bit_swap))
    kinds, which = np.unique(x.numpy(), axis=0, return_inverse=True)
    mean, variance = (values[which.ravel()] for values in tower_lengths(kinds, 6, loc, sd))
    assert abs(size["net"] - mean.sum()) < 4 * math.sqrt(variance.sum()) + 64
    assert size["net"] == pytest.approx(mean.sum(), rel=0.005)


def levels(count, *, features=None, skip=False):
    """A hierarchical VAE of some levels of eight latents, and rows."""

    def normal(of, above=False):
        net = pvae.MLP(of, (8,))
        if above:
            net = pvae.ConcatCovariates(pvae.MLP(of + 8, (8,)), of, covariates={above: 8})
        return pvae.Factorized(dist.Normal, net, 8)

    torch.manual_seed(0)
    reads = pvae.ConcatCovariates(pvae.MLP(16, (8,)), 8, covariates={"z2": 8}) if skip else pvae.MLP(8, (8,))
    below = [f"z{level + 1}" if features is not None and level < count else False for level in range(1, count + 1)]
    posteriors = [normal(64 if features is not None or not level else 8, above) for level, above in enumerate(below)]
    likelihood = pvae.Factorized(dist.Poisson, reads, 64)
    priors = [*(normal(8) for _ in range(count - 1)), pvae.standard_normal(8)]
    vae = pvae.HierarchicalVAE(priors, likelihood, posteriors, features)
    return vae, torch.poisson(torch.full((80, 64), 2.0))


def test_a_chain_of_levels_takes_the_initial_bits_of_one():
    vae, x = levels(3)
    found = {swap: coded_size(returned(vae, x, bit_swap=swap)) for swap in (True, False, None)}
    assert found[None] == {**found[True], "file": found[None]["file"]}
    row = {swap: coded_size(returned(vae, x[:1], bit_swap=swap))["initial"] for swap in (True, False)}
    assert row[False] - 64 > 3 * 8 * 8  # of three levels, each latent's some ten bits
    assert row[True] - 64 < 8 * 12 + 64  # of one level, and the coder's own state
    assert found[True]["initial"] < 0.6 * found[False]["initial"]
    elbo = float(pvae.elbo(vae, x, num_samples=100, seed=0, progress=False)["elbo"].sum())
    for size in found.values():
        assert size["net"] == pytest.approx(-elbo / math.log(2), rel=0.03)


@pytest.mark.parametrize("options", [{"features": []}, {"skip": True}])
def test_levels_that_are_no_chain_are_coded_all_at_once(options):
    vae, x = levels(2, **options)
    assert coded_size(returned(vae, x)) == coded_size(returned(vae, x, bit_swap=False))
    with pytest.raises(ValueError, match="this program is none") as caught:
        compress(vae, x, bit_swap=True)
    assert caught.value.argument == "bit_swap"


@pytest.mark.parametrize("likelihood", MASSES)
def test_cumulative_masses_add_up_log_masses(likelihood):
    vae, x = of(likelihood)
    with torch.no_grad():
        own = vae.likelihood(torch.zeros(1, 2))
    [entries] = entries_of(own, "x", np.zeros((1, 6)))
    for value in range(int(x.max()) + 1):
        upper = entries.cumulative(np.full(6, value))
        lower = entries.cumulative(np.full(6, value - 1)) if value else 0.0
        mass = math.exp(float(own.log_prob(torch.full((1, 1, 2, 3), float(value))).double()))
        assert np.prod(upper - lower if entries.levels is None or value < entries.levels - 1 else 1 - lower) == (
            pytest.approx(mass, rel=2e-4)
        )


@pytest.mark.parametrize("shape", [(3, 1, 2), (4,)])
@pytest.mark.parametrize("coupled", [True, False])
def test_masses_of_channels_that_share_a_mixture_multiply_to_the_joint_mass(shape, coupled):
    torch.manual_seed(0)
    options = {"num_components": 2, "levels": 6, "coupled": coupled}
    likelihood = pvae.conditionals.LogisticMixture(pvae.MLP(2, (8,)), shape, **options)
    vae = pvae.VAE(pvae.standard_normal(2), likelihood, pvae.Factorized(dist.Normal, pvae.MLP(shape, (8,)), 2))
    x = vae.sample(60)
    own = vae.likelihood(torch.randn(60, 2))
    values, log_mass = np.zeros((60, x[0].numel()), dtype=int), np.zeros(60)
    for entries in entries_of(own, "x", values):
        k = values[:, entries.places] = x.flatten(1).long().numpy()[:, entries.places]
        upper, lower = (entries.cumulative(bound.reshape(-1)).reshape(k.shape) for bound in (k, k - 1))
        log_mass += np.log(np.where(k == 5, 1.0, upper) - np.where(k == 0, 0.0, lower)).sum(1)
    assert log_mass == pytest.approx(own.log_prob(x).double().detach().numpy(), abs=1e-4)
    returned(vae, x)


def test_masses_of_tokens_and_of_shares_of_a_total_multiply_to_the_joint_mass():
    torch.manual_seed(0)
    for likelihood in (
        pvae.conditionals.Tokens(pvae.GRU((5, 6), 8, per_step=True), num_tokens=4, latent_dim=2),
        pvae.conditionals.Multinomials(pvae.MLP(2, (8,)), 4, total_count=9),
    ):
        shape = likelihood(torch.zeros(1, 2)).event_shape
        vae = pvae.VAE(pvae.standard_normal(2), likelihood, pvae.Factorized(dist.Normal, pvae.MLP(shape, (8,)), 2))
        x = vae.sample(60)
        with torch.no_grad():
            own = vae.eval().likelihood(torch.randn(60, 2))
        values, log_mass = np.zeros((60, *shape), dtype=int), np.zeros(60)
        for entries in entries_of(own, "x", values):
            k = values[:, entries.places] = x.long().numpy()[:, entries.places]
            upper, lower = (entries.cumulative(bound.reshape(-1)) for bound in (k, k - 1))
            log_mass += np.log(np.where(k[:, 0] == entries.levels - 1, 1.0, upper) - np.where(k[:, 0] == 0, 0.0, lower))
        assert log_mass == pytest.approx(own.log_prob(x).double().detach().numpy(), abs=1e-4)
        returned(vae, x)


class Doubled(dist.TorchDistribution):
    """One coin and its copy: a distribution that the library does not know."""

    arg_constraints, support = {}, dist.constraints.independent(dist.constraints.boolean, 1)

    def __init__(self, logits):
        self.coin = dist.Bernoulli(logits=logits)
        super().__init__(logits.shape, torch.Size([2]), validate_args=False)

    def log_prob(self, value):
        same = value[..., 0] == value[..., 1]
        return torch.where(same, self.coin.log_prob(value[..., 0]), -torch.inf)

    def sample(self, sample_shape=()):
        return self.coin.sample(sample_shape).unsqueeze(-1).expand(*sample_shape, *self.batch_shape, 2)

    def entries(self, values):
        zero = (1 - self.coin.probs).double().numpy()
        yield Entries(np.array([0]), lambda k: np.where(k < 1, zero, 1.0), 2)
        yield Entries(np.array([1]), lambda k: np.where(k < values[:, 0], 0.0, 1.0), 2)


def test_a_distribution_of_one_s_own_says_its_entries():
    class Copies(Tiny):
        def model(self, x=None, size=None):
            rows = len(x) if x is not None else size
            with pyro.plate("data", rows):
                z = pyro.sample("z", dist.Normal(torch.zeros(rows, 1), 1.0).to_event(1))
                return pyro.sample("x", Doubled(z[..., 0]), obs=x)

    x = torch.bernoulli(torch.full((400, 1), 0.4)).expand(400, 2).contiguous()
    size = coded_size(returned(Copies(), x))
    assert size["net"] < 1.5 * len(x)  # a coin and what the guide misses; the copy is free


def test_every_discrete_likelihood_is_among_these():
    continuous = {"continuous_bernoulli", "beta", "gamma", "log_normal", "normal", "laplace", "student_t", "table"}
    assert set(MASSES) == set(LIKELIHOODS) - continuous


@pytest.mark.parametrize("likelihood", MASSES)
def test_every_byte_comes_back(likelihood):
    vae, x = of(likelihood)
    returned(vae, x)
    if LIKELIHOODS[likelihood].leveled:
        returned(vae, x.to(torch.uint8))


@pytest.mark.parametrize(
    ("likelihood", "posterior"),
    [("poisson", "normal"), ("binomial", "normal"), ("poisson", "full_normal"), ("poisson", "low_rank_normal")],
)
def test_bits_are_the_elbo_and_correlated_latents_are_taken_one_given_the_others(likelihood, posterior):
    vae, x = of(likelihood, posterior)
    x = x.repeat(20, 1, 1, 1)
    elbo = float(pvae.elbo(vae, x, num_samples=50, seed=0, progress=False)["elbo"].sum())
    assert coded_size(returned(vae, x))["net"] == pytest.approx(-elbo / math.log(2), rel=0.01)


class Tilted:
    """Two latents that the guide draws with a correlation of -.95, and three counts that know their sum alone."""

    slope, factor = torch.tensor([1.0, 0.5, -0.7]), torch.tensor([[0.8, 0.0], [-0.76, 0.25]])

    def mean(self, x):
        return 0.2 * (x[:, :2] - 1)

    def rate(self, z):
        return torch.exp(self.slope * z.sum(-1, keepdim=True))

    def model(self, x=None, size=None):
        with pyro.plate("data", len(x) if x is not None else size):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Poisson(self.rate(z)).to_event(1), obs=x)

    def guide(self, x, size=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(self.mean(x), scale_tril=self.factor))


class Straight(Tilted):
    """The same with latents that the guide draws without a correlation, entry by entry."""

    factor = torch.tensor([[0.8, 0.0], [0.0, 0.25]])

    def guide(self, x, size=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.mean(x), self.factor.diagonal()).to_event(1))


@pytest.mark.parametrize("row", [(0.0, 1.0, 2.0), (3.0, 1.0, 0.0)])
@pytest.mark.parametrize("kind", [Tilted, Straight])
def test_wide_bins_cost_their_exact_length(row, kind):
    program, x, bins = kind(), torch.tensor([row]), 16
    edges, centers = (stats.norm.ppf((np.arange(bins + 1 - half) + half / 2) / bins) for half in (0, 1))
    (a, _), (b, c) = program.factor.tolist()
    ((first, second),) = program.mean(x).tolist()
    given = second + b * (centers[:, None] - first) / a
    q = np.diff(stats.norm.cdf(edges, first, a))[:, None] * np.diff(stats.norm.cdf(edges, given, c), axis=1)
    rate = program.rate(torch.tensor(np.stack(np.meshgrid(centers, centers, indexing="ij"), -1))).numpy()
    log_p = stats.poisson.logpmf(row, rate).sum(-1) / math.log(2) - 2 * math.log2(bins)
    length = (q * (np.log2(q + 1e-300) - log_p)).sum()
    blob = compress(program, x.repeat(3000, 1), latent_bits=4, seed=0)
    assert coded_size(blob)["net"] / 3000 == pytest.approx(length, rel=0.01)


def test_one_row_and_double_precision():
    vae, x = of("negative_binomial")
    returned(vae, x[:1])
    returned(vae, torch.where(x == 0, -0.0, x))
    returned(vae, x.clamp(max=200).bfloat16())
    returned(vae.double(), x.double() * 1000)


def test_ordered_levels_and_tables():
    posterior = pvae.Factorized(dist.Normal, pvae.MLP(3, (8,)), 2)
    vae = pvae.VAE(pvae.standard_normal(2), Ordinal(pvae.MLP(2, (8,)), 3, num_categories=5), posterior)
    returned(vae, torch.tensor([[0.0, 4.0, 2.0], [1.0, 3.0, 0.0]]))
    frame = pd.DataFrame({"n": [0, 3, 7, 1], "color": ["a", "b", "c", "a"], "smoker": [1, 0, 0, 1], "g": [0, 1, 2, 2]})
    data = pvae.data.as_data(frame, kinds={"n": "count", "smoker": "binary", "g": "ordinal"})
    table = pvae.build_vae(data, latent_dim=2, hidden=(8,), seed=0)
    assert torch.equal(decompress(table, compress(table, data, seed=0)), data.x)
    mixed = pvae.build_vae(pvae.data.as_data(frame.assign(h=[0.5, 1.5, 2.0, 9.0]), kinds={}), latent_dim=2, seed=0)
    with pytest.raises(ValueError, match=r"real columns\)', Normal, is a density"):
        compress(mixed, pvae.data.as_data(frame.assign(h=[0.5, 1.5, 2.0, 9.0]), kinds={}))


class Reads(Tiny):
    """A likelihood that reads the data, which a decoder does not have."""

    def model(self, x, size=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            return pyro.sample("x", dist.Binomial(x.max(), torch.full((len(x), 3), 0.5)).to_event(1), obs=x)


def test_columns_of_a_frame_come_back():
    vae, _ = of("poisson", shape=8)
    x = torch.poisson(3 * torch.ones(8, 300)).T
    assert not x.is_contiguous()
    returned(vae, x)


def test_rows_that_a_decoder_could_not_read_are_not_written():
    with pytest.raises(ValueError, match="the data hold 5 where the likelihood at 'x' has no mass beyond 0"):
        compress(Reads(), torch.tensor([[0.0, 5.0, 2.0]]), seed=0)
    counts = pvae.conditionals.Multinomials(pvae.MLP(2, (8,)), 3, total_count=pvae.FromCovariate("n"))
    vae = pvae.VAE(pvae.standard_normal(2), counts, pvae.Factorized(dist.Normal, pvae.MLP(3, (8,)), 2))
    rows, totals = torch.tensor([[1.0, 9.0, 2.0]]), {"n": torch.tensor([4.0])}
    with pytest.raises(ValueError, match="hold 9 where the likelihood at 'x' has no mass beyond 3"):
        compress(vae, rows, totals, seed=0)


def test_covariates_are_read_again():
    likelihood = pvae.Factorized(
        pvae.distributions.SizedPoisson, pvae.MLP(2, (8,)), 4, size_factor=pvae.FromCovariate("size")
    )
    vae = pvae.VAE(pvae.standard_normal(2), likelihood, pvae.Factorized(dist.Normal, pvae.MLP(4, (8,)), 2))
    size = {"size": torch.linspace(0.5, 50, 30)}
    x = torch.poisson(size["size"][:, None].expand(30, 4))
    blob = returned(vae, x, covariates=size)
    last = {"size": torch.cat([size["size"][:-1], size["size"][-1:] + 1])}
    with pytest.raises(ValueError, match="the covariates are not those of the rows") as caught:
        decompress(vae, blob, last)
    assert caught.value.argument == "covariates"


def test_rows_take_few_initial_bits():
    vae, x = of("bernoulli")
    size = coded_size(compress(vae, x.repeat(30, 1, 1, 1), seed=0))
    assert size["written"] == size["net"] + size["initial"]
    assert 64 < size["initial"] <= 32 * 8  # two latents of twelve bits of the first row, and the coder's own state


def test_files_that_are_not_whole_are_refused():
    vae, x = of("poisson")
    blob = compress(vae, x, seed=0)
    for position in (10, 45, 300, len(blob) - 1):
        changed = bytearray(blob)
        changed[position] ^= 1
        with pytest.raises(ValueError, match="truncated or was changed"):
            decompress(vae, bytes(changed))
    for cut in (40, len(blob) - 4):
        with pytest.raises(ValueError, match="truncated or was changed"):
            decompress(vae, blob[:cut])
    for foreign in (b"", b"PK\x03\x04" + blob, x.numpy()):
        with pytest.raises(ValueError, match="expected the bytes of a file"):
            coded_size(foreign)
    with pytest.raises(ValueError, match="another program or other weights"):
        decompress(of("poisson")[0].double(), blob)
    other = pvae.build_vae((1, 2, 3), likelihood="poisson", latent_dim=2, hidden=(8,), seed=1)
    with pytest.raises(ValueError, match="another program or other weights"):
        decompress(other, blob)


@pytest.mark.parametrize("part", ["posterior", "likelihood"])
def test_the_same_weights_that_compute_other_numbers_are_refused(part):
    vae, x = of("poisson")
    blob = compress(vae, x, seed=0)
    getattr(vae, part).preprocess = lambda value: 1.001 * value
    with pytest.raises(ValueError, match="computes other floating point numbers here"):
        decompress(vae, blob)


def test_a_value_that_comes_back_as_another_is_not_returned(monkeypatch):
    """Whatever went wrong, the checksum of the rows tells it, though as many bits are left as there should be."""
    vae, x = of("poisson")
    blob, pop = compress(vae, x, seed=0), Chain.pop
    monkeypatch.setattr(Chain, "pop", lambda chain, batch: pop(chain, batch) + 1)
    with pytest.raises(ValueError, match="not those that were written"):
        decompress(vae, blob)


def test_rows_that_come_back_as_others_are_not_returned():
    """The posterior differs at values above 1 alone, which the numbers in the header do not show."""
    vae, x = of("poisson")
    vae.posterior.preprocess = None
    small, large = (compress(vae, rows, seed=0) for rows in (x.clamp(max=1.0), x + 2))
    vae.posterior.preprocess = lambda value: torch.where(value > 1, value + 1, value)
    assert torch.equal(decompress(vae, small), x.clamp(max=1.0))
    with pytest.raises(ValueError, match=r"not those that were written|ran out"):
        decompress(vae, large)


def test_rows_that_cannot_be_coded_are_refused():
    vae, x = of("poisson")
    for wrong, words in (
        (-1.0, r"integers 0, 1, 2, ..., got -1 in 1 of 60"),
        (0.5, "got 0.5"),
        (torch.nan, "missing entries"),
    ):
        bad = x.clone()
        bad[7, 0, 0, 1] = wrong
        with pytest.raises(ValueError, match=words):
            compress(vae, bad)
    levels, rows = of("binomial")
    rows[3, 0, 0, 0] = 6.0
    with pytest.raises(ValueError, match=re.escape("1 of 60 rows (3)")):
        compress(levels, rows)
    for prior, words in (("mixture", "prior"), ("affine_flow", "prior")):
        other = pvae.build_vae(3, likelihood="poisson", prior=prior, latent_dim=2, hidden=(8,), components=3)
        with pytest.raises(ValueError, match=f"the {words} .* cannot be coded"):
            compress(other, torch.ones(4, 3))
    with pytest.raises(ValueError, match="max_bytes"):
        compress(vae, x, max_bytes=1000)


SQUASHED = dist.TransformedDistribution(dist.Normal(0.0, 1.0), [dist.transforms.SigmoidTransform()])


@pytest.mark.parametrize(
    ("prior", "posterior", "words"),
    [
        (dist.Gamma(2.0, 1.0), dist.Gamma(3.0, 1.0), "Gamma cannot be coded: torch has no icdf"),
        (dist.StudentT(5.0), dist.Normal(0.0, 1.0), "StudentT cannot be coded"),
        (SQUASHED, SQUASHED, "TransformedDistribution cannot be coded"),
        (dist.LogNormal(0.0, 1.0), dist.LogNormal(0.0, 0.5), None),
        (dist.Normal(0.0, 1.0).expand([]), dist.Normal(0.0, 1.0), None),
    ],
)
def test_latents_whose_distribution_has_no_quantiles_are_refused_by_name(prior, posterior, words):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Poisson(1.0 + pyro.sample("z", prior).abs()), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", posterior)

    x = torch.arange(8.0) % 3
    if words is None:
        assert torch.equal(decompress((model, guide), compress((model, guide), x, seed=0)), x)
        return
    with pytest.raises(ValueError, match=words):
        compress((model, guide), x, seed=0)


@pytest.mark.parametrize("kind", KINDS)
def test_programs_that_cannot_be_coded_are_refused_by_name(kind):
    program, words = (
        KINDS[kind],
        "is a density|latents for each row|masked latents|is discrete|missing entries|several data sites|posterior",
    )
    with pytest.raises(ValueError, match=words):
        compress(program.program, program.data, program.covariates, seed=0)


def test_a_run_codes_files_and_gives_them_back(tmp_path):
    folder, file = tmp_path / "run", tmp_path / "rows.pvae"
    train = ["train", "--epochs", 1, "--hidden", 8, "--latent-dim", 2, "--no-figures", "--no-report", "--out", folder]
    assert invoke(*train).exit_code == 0
    done = invoke("compress", folder, "--out", file)
    assert done.exit_code == 0, done.output
    assert "bits an entry" in done.output
    raw = pvae.data.load("digits", "counts", seed=0).test.x.to(torch.uint8)
    assert f"lzma {8 * len(lzma.compress(raw.numpy().tobytes())) / raw.numel():.4f}" in done.output
    done = invoke("decompress", folder, file, "--out", tmp_path / "rows.npz")
    assert done.exit_code == 0, done.output
    with np.load(tmp_path / "rows.npz") as found:
        assert np.array_equal(found["x"], pvae.data.load("digits", "counts", seed=0).test.x.numpy())
    assert invoke("decompress", folder, file, "--out", tmp_path / "rows.txt").exit_code == 2
    for again in (("decompress", folder, file, "--out", tmp_path / "rows.npz"), ("compress", folder, "--out", file)):
        assert "--out: " in (refused := invoke(*again).output)
        assert "is there already" in refused
