"""One program of each graph, with the exact posterior as its guide, for `behavior_programs`."""

from __future__ import annotations

import math
from dataclasses import replace

import pyro.distributions as dist
import torch
from behavior_programs import CORRELATED, DOUBLE, ROWS, STRAIGHT, Gaussian, GlobalMean, Kind, LinearPart, gaussian
from torch import nn

import pyrovae as pvae
from pyrovae.conditionals import Dynamics, Experts, SelfMasking, Smoother
from pyrovae.distributions import DiagonalNormalMixture, TokenSequence
from pyrovae.graphs import (
    AmortizedGuide,
    HierarchicalVAE,
    MissingnessModel,
    MultimodalVAE,
    SemiSupervisedVAE,
    SentenceVAE,
    StateSpaceVAE,
)
from pyrovae.networks import Network


def hierarchy(name: str) -> Kind:
    """z2 ~ N(0, I), z1 ~ N(upper z2, I / 2), x ~ N(lower z1, I). Given z1, z2 says nothing of x: bottom-up is exact."""
    upper = torch.tensor([[0.8, -0.3], [0.2, 0.7]], **DOUBLE)
    lower, unit, noise = torch.tensor(CORRELATED, **DOUBLE), torch.eye(2, **DOUBLE), torch.eye(3, **DOUBLE)
    first = upper @ upper.T + 0.5 * unit
    prior = torch.cat([torch.cat([first, upper], 1), torch.cat([upper.T, unit], 1)])
    law = Gaussian(prior, torch.cat([lower, torch.zeros(3, 2, **DOUBLE)], 1), noise)
    back = upper.T @ torch.linalg.inv(first)
    gain = first @ lower.T @ torch.linalg.inv(lower @ first @ lower.T + noise)
    program = HierarchicalVAE(
        priors=[LinearPart(upper, 0.5 * unit), pvae.standard_normal(2)],
        likelihood=LinearPart(lower, noise),
        posteriors=[LinearPart(gain, first - gain @ lower @ first), LinearPart(back, unit - back @ upper)],
    ).double()
    x = law.simulate(ROWS)
    found = law.rows(x)
    sites = {"z1": slice(0, 2), "z2": slice(2, 4)}
    return Kind(
        name,
        program,
        x,
        found["log_evidence"],
        found["kl"],
        {site: found["mean"][:, cut] for site, cut in sites.items()},
        {site: found["sd"][:, cut] for site, cut in sites.items()},
        left_out=found["left_out"],
        missing=True,
    )


class Labelled(nn.Module):
    """Parts of y ~ Categorical(share), z ~ N(0, I), x ~ N(weight z + shift_y, noise), and of its exact posterior."""

    covariate_names = ("label",)

    def __init__(self, law: Gaussian, shifts: torch.Tensor, role: str) -> None:
        super().__init__()
        self.law, self.role = law, role
        self.shifts = nn.Parameter(shifts.clone())
        exact = law.row(torch.zeros(len(law.weight), **DOUBLE))
        self.register_buffer("covariance", exact["covariance"])
        self.gain = exact["covariance"] @ law.weight.T @ torch.linalg.inv(law.noise)

    def forward(self, value, covariates=None):
        shift = self.shifts[covariates["label"].long()]
        if self.role == "likelihood":
            scale = self.law.noise.diagonal().sqrt()
            return dist.Normal(value @ self.law.weight.T + shift, scale).to_event(1)
        return dist.Normal((value - shift) @ self.gain.T, self.covariance.diagonal().sqrt()).to_event(1)


class Classifier(nn.Module):
    """The exact q(y | x): the softmax of the labelled evidences."""

    def __init__(self, law: Gaussian, shifts: torch.Tensor, share: torch.Tensor) -> None:
        super().__init__()
        self.shifts, self.share = nn.Parameter(shifts.clone()), share
        self.covariance = law.weight @ law.prior @ law.weight.T + law.noise

    def forward(self, x, covariates=None):
        known = dist.MultivariateNormal(self.shifts, self.covariance).log_prob(x.unsqueeze(-2))
        return dist.Categorical(logits=self.share.log() + known)


def semi_supervised(name: str) -> Kind:
    """Three classes that overlap; the label is missing in every second row."""
    law, share = gaussian(STRAIGHT, 2.0), torch.tensor([0.2, 0.5, 0.3], **DOUBLE)
    shifts = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.5, 1.0], [-1.0, 0.0, -1.0]], **DOUBLE)
    program = SemiSupervisedVAE(
        labels=pvae.Categories(event_shape=(), num_categories=3),
        prior=pvae.standard_normal(2),
        likelihood=Labelled(law, shifts, "likelihood"),
        classifier=Classifier(law, shifts, share),
        posterior=Labelled(law, shifts, "posterior"),
    ).double()
    program.labels.value.data.copy_(share.log())
    y = torch.multinomial(share, ROWS, replacement=True, generator=torch.Generator().manual_seed(4))
    x = law.simulate(ROWS) + shifts[y]
    recorded = torch.arange(ROWS) % 2 == 0
    found = [law.rows(x, shift.expand(ROWS, 3)) for shift in shifts]
    given = {n: torch.stack([part[n] for part in found], 1) for n in ("log_evidence", "kl", "mean", "sd")}
    joint = share.log() + given["log_evidence"]
    weight = torch.where(recorded[:, None], torch.eye(3, **DOUBLE)[y], joint.softmax(-1))
    kl = (weight * (weight.clamp_min(1e-300).log() - share.log() + given["kl"])).sum(-1)
    mean = (weight[..., None] * given["mean"]).sum(1)
    sd = ((weight[..., None] * (given["mean"] ** 2 + given["sd"] ** 2)).sum(1) - mean**2).sqrt()
    code = torch.arange(3, **DOUBLE)
    label = torch.where(recorded, math.nan, (weight * code).sum(-1))
    return Kind(
        name,
        program,
        {"x": x, "y": torch.where(recorded, y.double(), math.nan)},
        torch.where(recorded, joint.gather(1, y[:, None])[:, 0], joint.logsumexp(-1)),
        kl,
        {"label": label, "z": mean},
        {"label": ((weight * code**2).sum(-1) - label**2).sqrt(), "z": sd},
    )


class Expert(nn.Module):
    """The mean of the posterior given one view with orthogonal columns, and what it adds to the precision of N(0, I)."""

    def __init__(self, weight: torch.Tensor, noise: float) -> None:
        super().__init__()
        self.precision = (weight.T @ weight).diagonal() / noise
        self.gain = nn.Parameter(weight.T / noise / (1 + self.precision[:, None]))

    def forward(self, x, covariates=None):
        return dist.Normal(x @ self.gain.T, self.precision.rsqrt()).to_event(1)


def multimodal(name: str) -> Kind:
    """Two linear views of one latent, with a private latent beside the second; rows have both views, or one of them."""
    first = torch.tensor([[1.0, 0.5], [-1.0, 0.5], [0.0, 1.0]], **DOUBLE)
    second = torch.tensor([[0.7, 0.0, 0.0], [0.0, -1.2, 0.0], [0.0, 0.0, 1.1]], **DOUBLE)  # the last column is private
    weight = torch.cat([torch.cat([first, torch.zeros(3, 1, **DOUBLE)], 1), second])
    noise = torch.tensor([1.0, 1.0, 1.0, 0.5, 0.5, 0.5], **DOUBLE).diag()
    law = Gaussian(torch.eye(3, **DOUBLE), weight, noise)
    prior, own = pvae.standard_normal(2), pvae.standard_normal(1)
    shared = {"x": Expert(first, 1.0), "w": Expert(second[:, :2], 0.5)}
    program = MultimodalVAE(
        prior,
        likelihoods={"x": LinearPart(first, noise[:3, :3]), "w": LinearPart(second, noise[3:, 3:])},
        posterior=Experts(shared, prior),
        private={"w": (own, Experts({"w": Expert(second[:, 2:], 0.5)}, own))},
    ).double()
    v = law.simulate(ROWS)
    v[torch.arange(ROWS) % 4 == 1, :3] = math.nan
    v[torch.arange(ROWS) % 4 == 2, 3:] = math.nan
    found = law.rows(v)
    sites = {"z": slice(0, 2), "z_w": slice(2, 3)}
    return Kind(
        name,
        program,
        {"x": v[:, :3], "w": v[:, 3:]},
        found["log_evidence"],
        found["kl"],
        {site: found["mean"][:, cut] for site, cut in sites.items()},
        {site: found["sd"][:, cut] for site, cut in sites.items()},
        left_out=found["left_out"],
    )


class GivenMean(nn.Module):
    """The exact posterior of z given x and the mean mu of all rows."""

    covariate_names = ("mu",)

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.5, **DOUBLE))

    def forward(self, x, covariates=None):
        loc = self.slope * (covariates["mu"] + x)
        return dist.Normal(loc.unsqueeze(-1), math.sqrt(0.5)).to_event(1)


def amortized(name: str) -> Kind:
    """The kind "global", with its guide made of parts."""
    kind = GlobalMean.kind(name)
    start = {"loc": nn.Parameter(kind.program.loc[None]), "scale": nn.Parameter(torch.tensor([kind.program.scale]))}

    def exact(net, size):
        return pvae.Factorized(dist.Normal, None, size, **start)

    program = AmortizedGuide(GlobalMean(kind.data).model, GivenMean(), exact)
    return replace(kind, program=program, modules=(program,))


class Messages(Network):
    """What a linear state-space model hears from its future, passed backwards: precision and pull of each state."""

    def __init__(self, steps: int, forth, noise, emission, error: float) -> None:
        super().__init__((steps, 2), (steps, 6))
        self.forth, self.noise, self.emission, self.error = forth, noise, emission, error
        self.like = nn.Parameter(torch.zeros((), **DOUBLE))

    def forward(self, x, covariates=None):
        inverse, found = torch.linalg.inv(self.noise), []
        precision = self.like * torch.ones(len(x), 2, 2, **DOUBLE)
        pull = self.like * torch.ones(len(x), 2, **DOUBLE)
        for t in range(x.shape[1]):
            gain = self.forth.T @ inverse @ torch.linalg.inv(inverse + precision)
            pull = (gain @ pull.unsqueeze(-1)).squeeze(-1)
            precision = self.forth.T @ inverse @ self.forth - gain @ inverse @ self.forth
            value, seen = x[:, t, :1], x[:, t, 1:]
            pull = pull + seen * value * self.emission / self.error
            precision = precision + seen.unsqueeze(-1) * self.emission.outer(self.emission) / self.error
            found.append(torch.cat([precision.flatten(1), pull], -1))
        return torch.stack(found, 1)


class Combine(nn.Module):
    """A state given the one before and the message from its future."""

    def __init__(self, forth, noise) -> None:
        super().__init__()
        self.forth, self.inverse = nn.Parameter(forth.clone()), torch.linalg.inv(noise)

    def forward(self, value, covariates=None):
        state, precision, pull = value[..., :2], value[..., 2:6].unflatten(-1, (2, 2)), value[..., 6:]
        covariance = torch.linalg.inv(self.inverse + precision)
        loc = covariance @ (state @ self.forth.T @ self.inverse + pull).unsqueeze(-1)
        return dist.MultivariateNormal(loc.squeeze(-1), (covariance + covariance.mT) / 2)


def state_space(name: str, steps: int = 4) -> Kind:
    """A linear state-space model, each row for a time of its own; the guide is the exact smoother."""
    emission, error = torch.tensor([1.0, 0.5], **DOUBLE), 3.0
    forth = torch.tensor([[0.9, 0.3], [-0.2, 0.8]], **DOUBLE)
    noise = torch.tensor([[1.0, 0.2], [0.2, 0.5]], **DOUBLE)
    program = StateSpaceVAE(
        Dynamics(LinearPart(forth, noise), 2),
        emission=LinearPart(emission[None], torch.tensor([[error]], **DOUBLE)),
        posterior=Smoother(Messages(steps, forth, noise, emission, error), Combine(forth, noise)),
        num_steps=steps,
    ).double()
    powers = [torch.linalg.matrix_power(forth, k) for k in range(steps)]
    root = torch.cat(
        [torch.cat([powers[t - s] if s <= t else 0 * forth for s in range(steps)], 1) for t in range(steps)]
    )
    prior = root @ torch.block_diag(*[noise] * steps) @ root.T
    law = Gaussian(prior, torch.block_diag(*[emission[None]] * steps), error * torch.eye(steps, **DOUBLE))
    v = law.simulate(ROWS)
    v[torch.arange(steps) >= 1 + torch.arange(ROWS)[:, None] % steps] = math.nan
    v[::5, 0] = math.nan  # and the first step is missing in some
    v[::5, 1:] = law.simulate(ROWS)[::5, 1:]
    found = law.rows(v)
    means, sds = found["mean"].unflatten(-1, (steps, 2)), found["sd"].unflatten(-1, (steps, 2))
    left_out = found["left_out"].unsqueeze(-1)
    return Kind(
        name, program, v.unsqueeze(-1), found["log_evidence"], found["kl"], {"z": means}, {"z": sds}, left_out=left_out
    )


SENTENCES = torch.tensor([[0, 0], [1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [2, 2]], **DOUBLE)
"""All sequences of at most two tokens; 0 ends one."""


class Meaning(nn.Module):
    """Parts of a model in which each sequence has a normal posterior: p(x | z) = p(x) q(z | x) / p(z)."""

    def __init__(self, masses: torch.Tensor, role: str) -> None:
        super().__init__()
        self.log_masses, self.role, self.scale = masses.log(), role, 0.7
        self.centers = nn.Parameter(torch.tensor([[-2.0], [1.0], [0.5], [2.0], [-1.0], [0.0], [1.5]], **DOUBLE))

    def forward(self, value=None, covariates=None):
        if self.role == "prior":
            return DiagonalNormalMixture(self.log_masses, self.centers, torch.full_like(self.centers, self.scale))
        if self.role == "posterior":
            which = (value.unsqueeze(-2) == SENTENCES).all(-1).double()
            return dist.Normal(which @ self.centers, self.scale).to_event(1)
        joint = self.log_masses + dist.Normal(self.centers[:, 0], self.scale).log_prob(value)  # (*batch, sequences)

        def logits(tokens):
            batch = torch.broadcast_shapes(joint.shape[:-1], tokens.shape[:-1])
            first, inside = tokens[..., :1].expand(*batch, 1), []
            for token in range(3):
                starts = joint.masked_fill(SENTENCES[:, 0] != token, -math.inf).expand(*batch, -1)
                goes_on = (SENTENCES[:, 0] == first) & (SENTENCES[:, 1] == token)
                after = joint.expand(*batch, -1).masked_fill(~goes_on, -math.inf)
                inside.append(torch.stack([starts.logsumexp(-1), after.logsumexp(-1)], -1))
            return torch.stack(inside, -1).clamp_min(-1e6)  # (*batch, steps, tokens)

        return TokenSequence(logits, 2, 3, value.shape[:-1])


def sentence(name: str) -> Kind:
    """Sequences of at most two tokens, whose prior is the mixture of their posteriors: then all is known."""
    masses = torch.tensor([0.1, 0.2, 0.15, 0.05, 0.3, 0.12, 0.08], **DOUBLE)
    vocabulary = pvae.data.Vocabulary(("", "a", "b"))
    program = SentenceVAE(*(Meaning(masses, role) for role in ("prior", "likelihood", "posterior")), vocabulary)
    which = torch.arange(ROWS) % 7
    x, z = SENTENCES[which].clone(), torch.linspace(-9, 9, 20_001, **DOUBLE)
    x[x[:, 0] == 0, 1] = math.nan
    q = dist.Normal(program.posterior.centers.detach(), program.posterior.scale)
    log_prior = (masses.log()[:, None] + q.log_prob(z)).logsumexp(0)
    kl = (q.log_prob(z).exp() * (q.log_prob(z) - log_prior)).sum(1) * (z[1] - z[0])
    return Kind(
        name,
        program,
        x,
        masses.log()[which],
        kl[which],
        {"z": q.loc[which]},
        {"z": torch.full((ROWS, 1), 0.7, **DOUBLE)},
    )


class Masked(nn.Module):
    """The exact posterior of z given the entries that are seen, whose noise is one."""

    covariate_names = ("mask",)

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())

    def forward(self, x, covariates=None):
        seen = covariates["mask"].unsqueeze(-1) * self.weight
        covariance = torch.linalg.inv(torch.eye(2, **DOUBLE) + seen.mT @ seen)
        return dist.MultivariateNormal((covariance @ (seen.mT @ x.unsqueeze(-1))).squeeze(-1), covariance)


def missingness(name: str) -> Kind:
    """Entries that are seen with a probability of their own, whatever their value: then all is known."""
    law = gaussian(CORRELATED, 1.0)
    offset = torch.tensor([1.0, 0.5, -0.5], **DOUBLE)
    vae = pvae.VAE(pvae.standard_normal(2), LinearPart(law.weight, law.noise), Masked(law.weight)).double()
    program = MissingnessModel(vae, SelfMasking(3)).double()
    program.mechanism.offset.data.copy_(offset)
    x = law.simulate(ROWS)
    seen = torch.rand(x.shape, generator=torch.Generator().manual_seed(1), **DOUBLE) < offset.sigmoid()
    seen[:, 0] |= ~seen.any(1)
    x = torch.where(seen, x, math.nan)
    found = law.rows(x)
    spread = (law.weight @ found["covariance"] @ law.weight.T).diagonal(dim1=1, dim2=2) + 1
    return Kind(
        name,
        program,
        x,
        found["log_evidence"] + dist.Bernoulli(logits=offset).log_prob(seen.double()).sum(-1),
        found["kl"],
        {"z": found["mean"], "x_missing": torch.where(seen, math.nan, found["mean"] @ law.weight.T)},
        {"z": found["sd"], "x_missing": spread.sqrt()},
        left_out=found["left_out"],
        missing=True,
    )


MAKERS = (hierarchy, semi_supervised, multimodal, amortized, state_space, sentence, missingness)


def make_graphs() -> dict[str, Kind]:
    """One kind of each graph, by the name of the function that makes it."""
    return {maker.__name__: maker(maker.__name__) for maker in MAKERS}
