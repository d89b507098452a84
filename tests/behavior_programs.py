"""One program of each kind that the library takes, with exact guides and everything about them computed by dense algebra.

All but one are linear and Gaussian: the joint covariance of a row's latents and entries gives its evidence, its posterior and
the divergence from the prior. The guide is the exact posterior, so that every importance weight is the evidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

import pyrovae as pvae

ROWS = 16
DOUBLE = {"dtype": torch.float64}


@dataclass
class Kind:
    """A program, data drawn from it, and what is exactly true of both.

    Attributes:
        log_evidence: log p(x) of each row; with global latents that under the guide's distribution of them.
        kl: of each row's exact posterior to its prior, in nats.
        means, sds: of the posterior, by site (rows, *event_shape); NaN where a latent is masked.
        left_out: log p of each entry of x given the others of its row; None where there is no single data site.
        joint: the log weight of the whole data set.
        elbo: of each row, where it is not the evidence.
        modules: all modules of the program, also those that it hides.
        tolerance: nats that rounding may cost.
        missing: whether the program takes NaN in its data.
    """

    name: str
    program: Any
    data: Any
    log_evidence: Tensor
    kl: Tensor
    means: Mapping[str, Tensor]
    sds: Mapping[str, Tensor]
    covariates: Mapping[str, Tensor] | None = None
    left_out: Tensor | None = None
    joint: Tensor | None = None
    elbo: Tensor | None = None
    modules: tuple[nn.Module, ...] = ()
    tolerance: float = 1e-8
    missing: bool = False
    fit_options: dict[str, Any] = field(default_factory=dict)

    @property
    def has_globals(self) -> bool:
        """Whether some latents belong to all rows."""
        return self.name in ("global", "amortized")

    def __post_init__(self) -> None:
        self.joint = self.log_evidence.sum() if self.joint is None else self.joint
        self.elbo = self.log_evidence if self.elbo is None else self.elbo
        if isinstance(self.program, nn.Module):
            self.modules = self.modules or (self.program,)


@dataclass
class Gaussian:
    """A row's latents u and entries v, jointly normal: u ~ N(0, prior), v given u ~ N(weight u + shift, noise)."""

    prior: Tensor
    weight: Tensor
    noise: Tensor

    def row(self, v: Tensor, shift: Tensor | float = 0.0) -> dict[str, Tensor]:
        """Evidence, posterior, divergence and left-out predictions of one row; NaN is missing."""
        v, seen = v - shift, ~v.isnan()
        weight, noise = self.weight[seen], self.noise[seen][:, seen]
        marginal = weight @ self.prior @ weight.T + noise
        gain = self.prior @ weight.T @ torch.linalg.inv(marginal)
        mean, covariance = gain @ v[seen], self.prior - gain @ weight @ self.prior
        evidence = dist.MultivariateNormal(v[seen].new_zeros(len(marginal)), marginal)
        zero = torch.zeros_like(mean)
        kl = torch.distributions.kl_divergence(
            torch.distributions.MultivariateNormal(mean, covariance),
            torch.distributions.MultivariateNormal(zero, self.prior),
        )
        precision = torch.linalg.inv(marginal)
        residual = (precision @ v[seen]) / precision.diagonal()
        left_out = torch.full_like(v, math.nan)
        left_out[seen] = dist.Normal(0.0, precision.diagonal().rsqrt()).log_prob(residual)
        return {
            "log_evidence": evidence.log_prob(v[seen]),
            "kl": kl,
            "mean": mean,
            "sd": covariance.diagonal().sqrt(),
            "covariance": covariance,
            "left_out": left_out,
        }

    def rows(self, v: Tensor, shift: Tensor | None = None) -> dict[str, Tensor]:
        """The same for every row."""
        shifts = torch.zeros_like(v) if shift is None else shift
        found = [self.row(*row) for row in zip(v, shifts, strict=True)]
        return {name: torch.stack([row[name] for row in found]) for name in found[0]}

    def simulate(self, rows: int, shift: Tensor | float = 0.0) -> Tensor:
        """Rows of entries."""
        generator = torch.Generator().manual_seed(5)
        marginal = self.weight @ self.prior @ self.weight.T + self.noise
        draws = torch.randn(rows, len(marginal), generator=generator, **DOUBLE)
        return draws @ torch.linalg.cholesky(marginal).T + shift


def gaussian(weight: list[list[float]], noise: float, prior: Tensor | None = None) -> Gaussian:
    w = torch.tensor(weight, **DOUBLE)
    prior = torch.eye(w.shape[1], **DOUBLE) if prior is None else prior
    return Gaussian(prior, w, noise * torch.eye(len(w), **DOUBLE))


CORRELATED = [[1.0, 0.8], [0.9, 1.0], [0.3, -0.4]]
STRAIGHT = [[1.0, 0.0], [0.0, 1.5], [1.0, 0.0]]  # orthogonal columns: independent posteriors


def plate(x: Tensor | None, size: int | None, covariates: Mapping[str, Tensor] | None = None) -> Any:
    rows = next((len(v) for v in (x, *(covariates or {}).values()) if v is not None), size or 1)
    if size in (None, rows):
        return pyro.plate("data", rows, dim=-1)
    return pyro.plate("data", size, subsample=torch.arange(rows), dim=-1)


class Linear(nn.Module):
    """z ~ N(0, I), x ~ N(weight z + c, noise); the guide is the exact posterior."""

    def __init__(self, law: Gaussian) -> None:
        super().__init__()
        self.law = law
        self.weight = nn.Parameter(law.weight)
        covariance = law.row(torch.zeros(len(law.weight), **DOUBLE))["covariance"]
        self.gain = nn.Parameter(covariance @ law.weight.T @ torch.linalg.inv(law.noise))
        self.register_buffer("scale_tril", torch.linalg.cholesky(covariance))
        self.noise = math.sqrt(float(law.noise[0, 0]))

    def likelihood(self, z: Tensor, shift: Tensor | float = 0.0) -> Any:
        return dist.Normal(z @ self.weight.T + shift, self.noise).to_event(1)

    def prior(self) -> Any:
        return dist.Normal(self.weight.new_zeros(self.weight.shape[1]), 1.0).to_event(1)

    def posterior(self, x: Tensor) -> Any:
        return dist.MultivariateNormal(x @ self.gain.T, scale_tril=self.scale_tril)


def kind_of(name: str, program: Any, law: Gaussian, x: Tensor, shift: Tensor | None = None, **options: Any) -> Kind:
    found = law.rows(x.double(), shift)
    return Kind(
        name,
        program,
        options.pop("data", x),
        found["log_evidence"],
        found["kl"],
        {"z": found["mean"]},
        {"z": found["sd"]},
        left_out=options.pop("left_out", found["left_out"]),
        **options,
    )


class NeedsData(Linear):
    """Its model cannot be called without data, and returns nothing."""

    def model(self, x):
        pvae.register(program=self)
        with plate(x, None):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z), obs=x)

    def guide(self, x):
        pvae.register(program=self)
        with plate(x, None):
            pyro.sample("z", self.posterior(x))


class Plain(Linear):
    """Nothing but latents and data."""

    def model(self, x=None, size=None):
        pvae.register(program=self)
        with plate(x, size):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.likelihood(z), obs=x)

    def guide(self, x, size=None):
        pvae.register(program=self)
        with plate(x, size):
            pyro.sample("z", self.posterior(x))


class WithCovariates(Linear):
    """The entries are shifted by a covariate of each row."""

    def model(self, x=None, covariates=None, size=None):
        pvae.register(program=self)
        with plate(x, size, covariates):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.likelihood(z, covariates["c"][:, None]), obs=x)

    def guide(self, x, covariates=None, size=None):
        pvae.register(program=self)
        with plate(x, size, covariates):
            pyro.sample("z", self.posterior(x - covariates["c"][:, None]))


class WithFactor(Linear):
    """The prior is N(0, I) times exp(-z'z / 2): half of N(0, I / 2) in two dimensions."""

    def model(self, x=None, size=None):
        pvae.register(program=self)
        with plate(x, size):
            z = pyro.sample("z", self.prior())
            pyro.factor("penalty", -0.5 * z.square().sum(-1))
            return pyro.sample("x", self.likelihood(z), obs=x)

    def guide(self, x, size=None):
        pvae.register(program=self)
        with plate(x, size):
            pyro.sample("z", self.posterior(x))


class TwoSites(Linear):
    """The first two entries are the site x, the last one is the site y."""

    def sites(self, x, y, size):
        pvae.register(program=self)
        with plate(x, size):
            z = pyro.sample("z", self.prior())
            loc = z @ self.weight.T
            x = pyro.sample("x", dist.Normal(loc[..., :2], self.noise).to_event(1), obs=x)
            return x, pyro.sample("y", dist.Normal(loc[..., 2], self.noise), obs=y)

    def latents(self, x, y, size):
        pvae.register(program=self)
        with plate(x, size):
            pyro.sample("z", self.posterior(torch.cat([x, y[:, None]], -1)))


class AsDict(TwoSites):
    def model(self, rows=None, size=None):
        x, y = self.sites(rows and rows["x"], rows and rows["y"], size)
        return {"x": x, "y": y}

    def guide(self, rows, size=None):
        self.latents(rows["x"], rows["y"], size)


class AsTuple(TwoSites):
    def model(self, x=None, y=None, size=None):
        return self.sites(x, y, size)

    def guide(self, x, y, size=None):
        self.latents(x, y, size)


class Walk(nn.Module):
    """A random walk seen with noise, each row for a time of its own: later latents and entries are masked.

    The lengths come as covariates, or are read off the padding of NaN. Given z of the step before, the posterior of a step
    depends on what follows through one message, passed backwards.
    """

    steps = 4

    def __init__(self, padded: bool) -> None:
        super().__init__()
        self.padded = padded
        self.offset = nn.Parameter(torch.zeros((), **DOUBLE))

    def seen(self, x, covariates):
        if self.padded:
            return ~x.isnan()
        return torch.arange(self.steps) < covariates["length"][:, None]

    def walk(self, x, seen, size):
        pvae.register(program=self)
        with plate(x, size, {"seen": seen}):
            previous, states = self.offset, []
            for t in range(self.steps):
                with poutine.mask(mask=seen[:, t]):
                    previous = pyro.sample(f"z{t}", dist.Normal(previous + x_zeros(seen), 1.0))
                states.append(previous)
            loc = torch.stack(torch.broadcast_tensors(*states), -1)
            filled = x if x is None or not self.padded else x.nan_to_num()
            return pyro.sample("x", dist.Normal(loc, 1.0).mask(seen).to_event(1), obs=filled)

    def back(self, x, seen, size):
        pvae.register(program=self)
        filled, seen_ = x.nan_to_num() if self.padded else x, seen.double()
        precision, pull = torch.zeros_like(filled[:, 0]), torch.zeros_like(filled[:, 0])
        messages = []
        for t in reversed(range(self.steps)):
            precision, pull = precision / (1 + precision), pull / (1 + precision)
            precision, pull = precision + seen_[:, t], pull + seen_[:, t] * filled[:, t]
            messages.append((precision, pull))
        with plate(x, size):
            previous = self.offset
            for t, (precision, pull) in enumerate(reversed(messages)):
                with poutine.mask(mask=seen[:, t]):
                    exact = dist.Normal((previous + pull) / (1 + precision), (1 + precision).rsqrt())
                    far = dist.Normal(torch.full_like(pull, 5.0), 0.1)  # what is masked may be drawn anywhere
                    loc, scale = (torch.where(seen[:, t], getattr(exact, n), getattr(far, n)) for n in ("loc", "scale"))
                    previous = pyro.sample(f"z{t}", dist.Normal(loc, scale))

    @classmethod
    def kind(cls, name: str, padded: bool) -> Kind:
        times = torch.arange(1, cls.steps + 1)
        law = Gaussian(torch.minimum(times[:, None], times).double(), *[torch.eye(cls.steps, **DOUBLE)] * 2)
        length = 1 + torch.arange(ROWS) % cls.steps
        seen = torch.arange(cls.steps) < length[:, None]
        x = law.simulate(ROWS).where(seen, math.nan)
        found = [_cut(law, int(n)).row(row[:n]) for row, n in zip(x, length, strict=True)]
        columns = {n: torch.full((ROWS, cls.steps), math.nan, **DOUBLE) for n in ("mean", "sd", "left_out")}
        for i, row in enumerate(found):
            for n in columns:
                columns[n][i, : len(row[n])] = row[n]
        return Kind(
            name,
            (Padded if padded else Ragged)(padded),
            x if padded else x.nan_to_num(),
            torch.stack([row["log_evidence"] for row in found]),
            torch.stack([row["kl"] for row in found]),
            {f"z{t}": columns["mean"][:, t] for t in range(cls.steps)},
            {f"z{t}": columns["sd"][:, t] for t in range(cls.steps)},
            None if padded else {"length": length},
            columns["left_out"],
        )


def _cut(law: Gaussian, length: int) -> Gaussian:
    cut = slice(0, length)
    return Gaussian(law.prior[cut, cut], law.weight[cut, cut], law.noise[cut, cut])


def x_zeros(seen: Tensor) -> Tensor:
    return torch.zeros(len(seen), **DOUBLE)


class Ragged(Walk):
    def model(self, x=None, covariates=None, size=None):
        return self.walk(x, self.seen(x, covariates), size)

    def guide(self, x, covariates=None, size=None):
        self.back(x, self.seen(x, covariates), size)


class Padded(Walk):
    def model(self, x):
        return self.walk(x, self.seen(x, None), None)

    def guide(self, x):
        self.back(x, self.seen(x, None), None)


class GlobalMean(nn.Module):
    """mu ~ N(0, 4) for all rows, z ~ N(mu, 1) and x ~ N(z, 1) for each; the guide is the exact posterior of all rows."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        variance = 1 / (0.25 + len(x) / 2)
        self.loc = nn.Parameter(variance * x.sum() / 2)
        self.scale = math.sqrt(variance)

    def model(self, x=None, size=None):
        pvae.register(program=self)
        mu = pyro.sample("mu", dist.Normal(torch.zeros_like(self.loc), 2.0))
        with plate(x, size):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            return pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x, size=None):
        pvae.register(program=self)
        mu = pyro.sample("mu", dist.Normal(self.loc, self.scale))
        with plate(x, size):
            pyro.sample("z", dist.Normal((mu + x) / 2, math.sqrt(0.5)))

    @classmethod
    def kind(cls, name: str) -> Kind:
        x = 1 + math.sqrt(2) * torch.randn(ROWS, generator=torch.Generator().manual_seed(3), **DOUBLE)
        program = cls(x)
        loc, variance = program.loc.detach(), program.scale**2
        given = dist.Normal(loc, math.sqrt(2.0)).log_prob(x) - variance / 4
        whole = dist.MultivariateNormal(torch.zeros_like(x), 4 + 2 * torch.eye(ROWS, **DOUBLE))
        shifted = ((x - loc) ** 2 + variance) / 4  # of the mean of z given x and mu to mu, squared
        kl = 0.5 * (0.5 + shifted - 1 + math.log(2.0))
        return Kind(
            name,
            program,
            x,
            dist.Normal(loc, math.sqrt(2 + variance)).log_prob(x),
            kl,
            {"z": (loc + x) / 2},
            {"z": torch.full_like(x, math.sqrt(0.5 + variance / 4))},
            joint=whole.log_prob(x),
            elbo=given,
            modules=(program,),
        )


class Mixture(nn.Module):
    """A class y that the model sums out, z ~ N(mean_y, 1), x ~ N(z, noise); the guide is the exact mixture for z."""

    noise = 6.0

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([0.2, 0.5, 0.3], **DOUBLE).log())
        self.means = nn.Parameter(torch.tensor([-2.0, 0.5, 3.0], **DOUBLE))

    def model(self, x=None, size=None):
        pvae.register(program=self)
        with plate(x, size):
            y = pyro.sample("y", dist.Categorical(logits=self.weights), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(self.means[y], 1.0))
            return pyro.sample("x", dist.Normal(z, math.sqrt(self.noise)), obs=x)

    def components(self, x: Tensor) -> tuple[Tensor, Tensor, float]:
        precision = 1 + 1 / self.noise
        logits = self.weights + dist.Normal(self.means, math.sqrt(1 + self.noise)).log_prob(x[:, None])
        return logits, (self.means + x[:, None] / self.noise) / precision, precision**-0.5

    def guide(self, x, size=None):
        pvae.register(program=self)
        logits, loc, scale = self.components(x)
        with plate(x, size):
            pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(logits=logits), dist.Normal(loc, scale)))

    @classmethod
    def kind(cls, name: str) -> Kind:
        program = cls()
        generator = torch.Generator().manual_seed(3)
        y = torch.multinomial(program.weights.exp().detach(), ROWS, replacement=True, generator=generator)
        noise = torch.randn(ROWS, generator=generator, **DOUBLE)
        x = program.means.detach()[y] + math.sqrt(1 + cls.noise) * noise
        with torch.no_grad():
            logits, loc, scale = program.components(x)
            share = logits.softmax(-1)
            mean = (share * loc).sum(-1)
            grid = torch.linspace(-9, 10, 4001, **DOUBLE)[:, None]  # of z
            posterior = (logits.log_softmax(-1) + dist.Normal(loc, scale).log_prob(grid[..., None])).logsumexp(-1)
            prior = (program.weights + dist.Normal(program.means, 1.0).log_prob(grid[..., None])).logsumexp(-1)
            kl = (posterior.exp() * (posterior - prior)).sum(0) * (19 / 4000)
            sd = ((share * (loc**2 + scale**2)).sum(-1) - mean**2).sqrt()
        options = {"objective": pyro.infer.TraceEnum_ELBO()}
        evidence = logits.logsumexp(-1)
        return Kind(name, program, x, evidence, kl, {"z": mean}, {"z": sd}, modules=(program,), fit_options=options)


def hidden_pair(law: Gaussian) -> tuple[Callable, Callable, tuple[nn.Module, ...]]:
    """Two functions whose modules lie in a dict, with dropout and batch norm: wrong unless they are put in eval mode.

    Its moments leave the numbers alone in eval mode; in train mode it counts the batches that it has seen.
    """
    exact = Linear(law)
    norm = nn.BatchNorm1d(2, eps=0.25, momentum=0.0, affine=False, **DOUBLE)
    norm.running_var.fill_(0.75)
    encoder = nn.Sequential(nn.Linear(3, 2, bias=False, **DOUBLE), nn.Dropout(0.5), norm)
    decoder = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 3, bias=False, **DOUBLE))
    with torch.no_grad():
        encoder[0].weight.copy_(exact.gain)
        decoder[1].weight.copy_(law.weight)
    parts = {"encoder": encoder, "decoder": decoder}
    noise, scale_tril = exact.noise, exact.scale_tril

    def model(x):
        pvae.register(decoder=parts["decoder"])
        with plate(x, None):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(parts["decoder"](z), noise).to_event(1), obs=x)

    def guide(x):
        pvae.register(encoder=parts["encoder"])
        with plate(x, None):
            pyro.sample("z", dist.MultivariateNormal(parts["encoder"](x), scale_tril=scale_tril))

    return model, guide, (encoder, decoder)


class Affine:
    """The map u -> scale_tril u, as a flow's transforms have it."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    @property
    def inv(self) -> Affine:
        return Affine(torch.linalg.inv(self.matrix))

    def call_and_ladj(self, value: Tensor) -> tuple[Tensor, Tensor]:
        log_det = torch.linalg.slogdet(self.matrix).logabsdet
        return value @ self.matrix.T, log_det.expand(value.shape[:-1])


class ExactFlow(nn.Module):
    """The exact posterior, as a flow: a normal with another location for each row, turned by a matrix."""

    def __init__(self, exact: Linear) -> None:
        super().__init__()
        self.register_buffer("matrix", exact.scale_tril.float())
        self.gain = nn.Parameter((torch.linalg.inv(exact.scale_tril) @ exact.gain).detach().float())

    def forward(self, x, covariates=None):
        base = dist.Normal(x @ self.gain.T, torch.ones(2)).to_event(1)
        return pvae.distributions.FlowDistribution(base, [Affine(self.matrix)])


def vae_of(law: Gaussian, posterior: nn.Module) -> pvae.VAE:
    decoder = nn.Linear(2, 3, bias=False)
    decoder.weight.data.copy_(law.weight)
    net = pvae.BatchAxes(nn.Sequential(nn.Dropout(0.0), decoder, nn.Unflatten(-1, (1, 3))), 2, (1, 3))
    likelihood = pvae.Factorized(dist.Normal, net, event_shape=3, scale=float(law.noise[0, 0].sqrt()))
    return pvae.VAE(pvae.standard_normal(2), likelihood, posterior)


def plain_vae(law: Gaussian) -> pvae.VAE:
    exact = Linear(law)
    encoder = nn.Linear(3, 2, bias=False)
    encoder.weight.data.copy_(exact.gain)
    net = pvae.BatchAxes(nn.Sequential(encoder, nn.Unflatten(-1, (1, 2))), 3, (1, 2))
    scale = exact.scale_tril.diagonal().float()
    return vae_of(law, pvae.Factorized(dist.Normal, net, event_shape=2, scale=scale))


def many_rows(rows: int) -> tuple[Plain, Tensor]:
    """A program and many rows of data, for what a call holds in memory."""
    law = gaussian(CORRELATED, 1.0)
    return Plain(law), law.simulate(rows)


class LinearPart(nn.Module):
    """A normal around a linear map of the value, with a fixed Cholesky factor."""

    def __init__(self, weight: Tensor, covariance: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        self.register_buffer("scale_tril", torch.linalg.cholesky(covariance))

    def forward(self, value, covariates=None):
        loc = value @ self.weight.T
        if bool((self.scale_tril == self.scale_tril.diagonal().diag()).all()):
            return dist.Normal(loc, self.scale_tril.diagonal()).to_event(1)
        return dist.MultivariateNormal(loc, scale_tril=self.scale_tril)


def make() -> dict[str, Kind]:
    """Every kind by name."""
    straight, correlated = gaussian(STRAIGHT, 2.0), gaussian(CORRELATED, 1.0)
    x = correlated.simulate(ROWS)
    c = torch.linspace(-2, 2, ROWS, **DOUBLE)
    pulled = gaussian(CORRELATED, 1.0, 0.5 * torch.eye(2, **DOUBLE))
    model, guide, hidden = hidden_pair(correlated)
    found = [
        kind_of("vae", plain_vae(straight), straight, straight.simulate(ROWS).float(), tolerance=1e-4, missing=True),
        kind_of(
            "flow",
            vae_of(correlated, ExactFlow(Linear(correlated))),
            correlated,
            x.float(),
            tolerance=1e-4,
            missing=True,
        ),
        kind_of("needs data", NeedsData(correlated), correlated, x),
        kind_of(
            "covariates",
            WithCovariates(correlated),
            correlated,
            x + c[:, None],
            c[:, None].expand(ROWS, 3),
            covariates={"c": c},
        ),
        _with_factor(pulled, pulled.simulate(ROWS)),
        kind_of("dict", AsDict(correlated), correlated, x, data={"x": x[:, :2], "y": x[:, 2]}),
        kind_of("tuple", AsTuple(correlated), correlated, x, data=(x[:, :2], x[:, 2])),
        Walk.kind("masked", padded=False),
        Walk.kind("padded", padded=True),
        GlobalMean.kind("global"),
        Mixture.kind("enumerated"),
        kind_of("hidden", (model, guide), correlated, x, modules=hidden),
    ]
    return {kind.name: kind for kind in found}


def _with_factor(law: Gaussian, x: Tensor) -> Kind:
    """The evidence has the factor's constant, log 1/2; the divergence is to N(0, I), which is not the posterior's prior."""
    kind = kind_of("factor", WithFactor(law), law, x)
    unit = torch.distributions.MultivariateNormal(torch.zeros(2, **DOUBLE), torch.eye(2, **DOUBLE))
    covariance = law.row(x[0])["covariance"]
    posterior = torch.distributions.MultivariateNormal(kind.means["z"], covariance)
    kind.log_evidence = kind.elbo = kind.log_evidence - math.log(2)
    kind.kl, kind.joint = torch.distributions.kl_divergence(posterior, unit), kind.log_evidence.sum()
    return kind


__all__ = ["ROWS", "Kind", "make", "many_rows"]
