"""Programs of every kind under every objective, with what becomes of each where it is traced."""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import families
import network_cases
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from catalogue import CASES
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO, config_enumerate
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoStructured,
)
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn

import pyrovae as pvae
from pyrovae import conditionals
from pyrovae.graphs import HierarchicalVAE

ROWS = 12
SIMPLEX = ("SimplexNormal", "SimplexDirichlet", "RelaxedOneHot")
LATENT = ("Spherical", "FullNormal", "LowRank", "GaussianMixture", *SIMPLEX)


class Made(NamedTuple):
    """A program, its rows and its objective."""

    program: Any
    x: Any
    covariates: Any = None
    objective: Any = None


def vae_of(likelihood=None, posterior=None, prior=None, width=4):
    return pvae.VAE(
        prior or pvae.standard_normal(3),
        likelihood or pvae.Factorized(dist.Normal, pvae.MLP(3, (8,)), event_shape=width),
        posterior or pvae.Factorized(dist.Normal, pvae.MLP(width, (8,)), event_shape=3),
    )


def of_family(case, role):
    head = pvae.Factorized(
        case.family,
        pvae.MLP(3 if role == "likelihood" else 4, (8,)),
        event_shape=4 if role == "likelihood" else 3,
        **case.given,
    )
    if role == "posterior":
        return Made(vae_of(posterior=head), torch.randn(ROWS, 4))
    with torch.no_grad(), pyro.validation_enabled(False):
        x = head(torch.randn(ROWS, 3)).sample()
    x = x.clamp(1e-3, 1 - 1e-3) if case.domain == "unit" else x
    if case.family in (dist.Normal, dist.Poisson, dist.Bernoulli):
        x[torch.rand(x.shape) < 0.2] = math.nan
    return Made(vae_of(likelihood=head), x)


def of_catalogue(case):
    dtype = torch.get_default_dtype()
    part = case.module(dtype)
    names = getattr(part, "covariate_names", ())
    covariates = {n: v.to(dtype).expand(ROWS, *v.shape).contiguous() for n, v in case.covariates.items() if n in names}
    if not case.reads_value:
        size = part().event_shape[0]
        posterior = pvae.Factorized(dist.Normal, pvae.MLP(3, (8,)), event_shape=size)
        if hasattr(part, "posterior"):
            posterior = part.posterior
        if case.name == "ExemplarPrior":  # the batch's rows are among the exemplars
            part = conditionals.ExemplarPrior(posterior, torch.randn(ROWS, 3))
        elif case.name in ("Spherical prior", "UniformDirection"):
            posterior = conditionals.Spherical(pvae.MLP(3, (8,)), 3)
        likelihood = pvae.Factorized(dist.Normal, pvae.MLP(size, (8,)), event_shape=3)
        return Made(pvae.VAE(part, likelihood, posterior), torch.randn(ROWS, 3))
    if case.name in LATENT or "posterior" in case.name:
        size = part(torch.randn(1, 3)).event_shape[0]
        prior = pvae.standard_normal(size)
        if case.name == "Spherical":
            prior = conditionals.UniformDirection(3)
        elif case.name in SIMPLEX:
            prior = type(part)(event_shape=3, **({"temperature": 0.8} if case.name == "RelaxedOneHot" else {}))
        likelihood = pvae.Factorized(dist.Normal, pvae.MLP(size, (8,)), event_shape=3)
        return Made(pvae.VAE(prior, likelihood, part), torch.randn(ROWS, 3))
    x = case.points(ROWS).to(dtype)
    x = torch.tensor([2.0, 3.0, 1.0]).expand(ROWS, 3).contiguous() if case.name == "Multinomials" else x
    posterior = pvae.Factorized(dist.Normal, pvae.MLP(tuple(x.shape[1:]), (8,)), event_shape=3)
    return Made(vae_of(part, posterior), x, covariates or None)


class Encoder(nn.Module):
    """A network with a linear head as a posterior."""

    def __init__(self, net):
        super().__init__()
        self.net, self.head = net, nn.Linear(math.prod(net.out_shape), 6)
        self.covariate_names = net.covariate_names

    def forward(self, x, covariates=None):
        features = self.net(x, covariates) if self.covariate_names else self.net(x)
        loc, raw = self.head(features.flatten(1)).chunk(2, -1)
        return dist.Normal(loc, nn.functional.softplus(raw) + 1e-4).to_event(1)


def of_network(name):
    case = network_cases.CASES[name]
    net, (x, covariates) = case.build(), case.inputs(ROWS)
    return Made(vae_of(posterior=Encoder(net), width=tuple(net.in_shape)).train(), x, covariates or None)


def counts_made(objective=None, **wrapped):
    vae = vae_of(pvae.Factorized(dist.Poisson, pvae.MLP(3, (8,)), event_shape=4))
    return Made(vae, torch.poisson(torch.full((ROWS, 4), 3.0)), None, objective)


# Programs of a user's own. Plates hold all rows of the batch.


def spam(x):
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Bernoulli(torch.full((len(x),), 0.3)))
        pyro.sample("x", dist.Normal(k, 1.0), obs=x)


def spam_guide(x):
    p = pyro.param("p", torch.tensor(0.4), constraint=dist.constraints.unit_interval)
    with pyro.plate("data", len(x)):
        pyro.sample("k", dist.Bernoulli(p).expand([len(x)]))


@config_enumerate
def enumerated_guide(x):
    p = pyro.param("p", torch.full((len(x),), 0.4), constraint=dist.constraints.unit_interval)
    with pyro.plate("data", len(x)):
        pyro.sample("k", dist.Bernoulli(p))


@config_enumerate
def mixture(x):
    weights = pyro.param("weights", torch.ones(3) / 3, constraint=dist.constraints.simplex)
    loc = pyro.param("loc", torch.linspace(-1.0, 1.0, 3))
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[k], 1.0), obs=x)


def nothing(x):
    pass


def regression(x):
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    s = pyro.sample("s", dist.HalfNormal(1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x[:, :3] @ w, s), obs=x[:, 3])


def regressed(kind):
    guide, x = kind(regression), torch.randn(ROWS, 4)
    guide(x)
    return Made((regression, guide), x)


class Bayesian(PyroModule):
    """A layer whose weights are sampled, and a positive parameter."""

    def __init__(self):
        super().__init__()
        self.layer = PyroModule[nn.Linear](3, 1)
        self.layer.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 3]).to_event(2))
        self.sigma = PyroParam(torch.tensor(1.0), constraint=dist.constraints.positive)

    def forward(self, x):
        mean = self.layer(x[:, :3]).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, self.sigma), obs=x[:, 3])


def bayesian():
    model, x = Bayesian(), torch.randn(ROWS, 4)
    guide = AutoNormal(model)
    guide(x)
    return Made((model, guide), x)


def example():
    from benchmarks.pyro_example import Example

    return Made(Example(5, 8, 2), torch.bernoulli(torch.full((ROWS, 5), 0.4)))


def level(x):
    a = pyro.param("a", torch.tensor(0.5))
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z + a, 1.0), obs=x)


def level_guide(x):
    pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.0)), 1.0))


def branching(x):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    scale = 2.0 if z > 0 else 1.0
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, scale), obs=x)


def shaken(x):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z + float(np.random.randn()), 1.0), obs=x)  # noqa: NPY002


def of_arrays(x):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    scale = torch.as_tensor(x.numpy().std())
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, scale), obs=x)


def annealed(x, calls=[0]):  # noqa: B006
    calls[0] += 1
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)), poutine.scale(scale=min(1.0, calls[0] / 100)):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


COUNTED = {"calls": 0}


def tempered_at_times(x):
    COUNTED["calls"] += 1
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)), poutine.scale(scale=0.8 ** (COUNTED["calls"] // 50)):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class Counting:
    calls = 0
    turns = itertools.count()

    def of_class(self, x):
        Counting.calls += 1
        return self(x, Counting.calls)

    def of_iterator(self, x):
        return self(x, next(self.turns))

    def __call__(self, x, number):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)), poutine.scale(scale=0.8 ** (number // 50)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def dropped_at_times(x, draw=random.random):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z * (draw() >= 1e-9), 1.0), obs=x)


def branching_on_a_list(x):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 2.0 if max(x.tolist()) > 1e9 else 1.0), obs=x)


def local(family):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", family(torch.ones(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        a = pyro.param("a", torch.ones(len(x)), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", family(a, 2.0))

    return Made((model, guide), torch.randn(ROWS))


def around(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.VonMises(z, 3.0), obs=x)


def around_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(pyro.param("m", torch.zeros(len(x))), 1.0))


def one_by_one(x):
    for i in pyro.plate("data", len(x)):
        z = pyro.sample(f"z{i}", dist.Normal(0.0, 1.0))
        pyro.sample(f"x{i}", dist.Normal(z, 1.0), obs=x[i])


def one_by_one_guide(x):
    m = pyro.param("m", torch.zeros(len(x)))
    for i in pyro.plate("data", len(x)):
        pyro.sample(f"z{i}", dist.Normal(m[i], 1.0))


def dropout_under(gradient):
    vae = pvae.VAE(
        pvae.standard_normal(3),
        pvae.Factorized(dist.Normal, pvae.MLP(3, (8,)), event_shape=4),
        pvae.Factorized(dist.Normal, pvae.MLP(4, (8,), dropout=0.5), event_shape=3),
    )
    return Made(vae.train(), torch.randn(ROWS, 4), None, pvae.ImportanceWeightedELBO(4, gradient))


def layers():
    def conditional(inputs, outputs):
        return pvae.Factorized(dist.Normal, pvae.MLP(inputs, (8,)), event_shape=outputs)

    priors, posteriors = [conditional(2, 3), pvae.standard_normal(2)], [conditional(4, 3), conditional(3, 2)]
    return Made(HierarchicalVAE(priors, conditional(3, 4), posteriors), torch.randn(ROWS, 4))


OBJECTIVES = {
    "four particles at once": lambda: Trace_ELBO(4, vectorize_particles=True, max_plate_nesting=1),
    "three particles in turn": lambda: Trace_ELBO(3),
    "TraceMeanField_ELBO": TraceMeanField_ELBO,
    "TraceGraph_ELBO": TraceGraph_ELBO,
    "TraceEnum_ELBO": lambda: TraceEnum_ELBO(max_plate_nesting=1),
    "RenyiELBO": lambda: RenyiELBO(0.5, num_particles=4, vectorize_particles=True, max_plate_nesting=1),
    "CapacityELBO": lambda: pvae.CapacityELBO(2.0),
    "FreeBitsELBO": lambda: pvae.FreeBitsELBO(0.1),
    "ImportanceWeightedELBO": lambda: pvae.ImportanceWeightedELBO(4),
    "doubly reparameterized": lambda: pvae.ImportanceWeightedELBO(4, "dreg"),
    "StickingTheLanding": pvae.StickingTheLanding,
}
NETWORKS = [
    name
    for name, case in network_cases.CASES.items()
    if case.build().out_shape
    and (x := case.inputs(2)[0]) is not None
    and x.is_floating_point()
    and "mask" not in case.covariates
]

TRACES: dict[str, Callable[[], Made]] = {
    **{f"likelihood {case!r}": functools.partial(of_family, case, "likelihood") for case in families.CASES},
    **{f"posterior {c!r}": functools.partial(of_family, c, "posterior") for c in families.CASES if c.domain == "real"},
    **{case.name: functools.partial(of_catalogue, case) for case in CASES},
    **{f"network {name}": functools.partial(of_network, name) for name in NETWORKS},
    **{name: (lambda make=make: counts_made(make())) for name, make in OBJECTIVES.items()},
    "a hierarchy": layers,
    "a discrete latent by its score": lambda: Made((spam, spam_guide), torch.randn(ROWS)),
    "a discrete latent under TraceGraph_ELBO": lambda: Made(
        (spam, spam_guide), torch.randn(ROWS), None, TraceGraph_ELBO()
    ),
    "enumerated in the guide": lambda: Made(
        (spam, enumerated_guide), torch.randn(ROWS), None, TraceEnum_ELBO(max_plate_nesting=1)
    ),
    "enumerated in the model": lambda: Made(
        (mixture, nothing), torch.randn(ROWS), None, TraceEnum_ELBO(max_plate_nesting=1)
    ),
    **{
        f"global latents, {kind.__name__}": functools.partial(regressed, kind)
        for kind in (
            *(AutoNormal, AutoDiagonalNormal, AutoMultivariateNormal, AutoLowRankMultivariateNormal),
            *(AutoDelta, AutoIAFNormal, AutoStructured),
        )
    },
    "PyroSample and PyroParam": bayesian,
    "modules by pyro.module": example,
    "parameters in the global store": lambda: Made((level, level_guide), torch.randn(ROWS)),
    "implicit reparameterization": lambda: local(dist.Gamma),
    "a von Mises likelihood": lambda: Made((around, around_guide), torch.rand(ROWS)),
    "dropout": lambda: dropout_under("reparam"),
}
BLOCKED: dict[str, tuple[Callable[[], Made], str]] = {
    "a branch on a latent": (
        lambda: Made((branching, level_guide), torch.randn(ROWS)),
        r"traceable\.py:\d+ \(scale = 2\.0 if z > 0",
    ),
    "a rejection sampler": (lambda: local(dist.VonMises), r"reads a number from a tensor at \w+\.py:\d+"),
    "rows one by one": (lambda: Made((one_by_one, one_by_one_guide), torch.randn(6)), r"traceable\.py:\d+ \(for i in"),
    "noise of numpy": (
        lambda: Made((shaken, level_guide), torch.randn(ROWS)),
        r"differ at traceable\.py:\d+ \(pyro\.sample",
    ),
    "arrays of numpy": (
        lambda: Made((of_arrays, level_guide), torch.randn(ROWS)),
        r"traceable\.py:\d+ .*Tensor\.numpy",
    ),
    "a branch on a list that both runs take alike": (
        lambda: Made((branching_on_a_list, level_guide), torch.randn(ROWS)),
        r"traceable\.py:\d+ .*Tensor\.tolist",
    ),
    "a counter that seldom matters": (
        lambda: Made((tempered_at_times, level_guide), torch.randn(ROWS)),
        r"changes COUNTED\['calls'\]",
    ),
    "a counter of a class": (
        lambda: Made((Counting().of_class, level_guide), torch.randn(ROWS)),
        r"changes .*calls",
    ),
    "an iterator": (lambda: Made((Counting().of_iterator, level_guide), torch.randn(ROWS)), r"changes .*turns"),
    "a coin that seldom falls": (
        lambda: Made((dropped_at_times, level_guide), torch.randn(ROWS)),
        r"changes a generator of Python",
    ),
    "a counter": (lambda: Made((annealed, level_guide), torch.randn(ROWS)), r"differ"),
    "dropout, doubly reparameterized": (lambda: dropout_under("dreg"), "noise is drawn again"),
}
