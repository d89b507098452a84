"""Every conditional of ``pyrovae.conditionals`` with a grid over its support: what the tests of the catalogue run over."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import pandas as pd
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyrovae as pvae
from pyrovae import conditionals
from pyrovae import distributions as parts

DATA = 3
Grid = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Case:
    """A conditional, built anew at each call, with points and log weights that sum any function over its support."""

    name: str
    build: Callable[[], nn.Module]
    grid: Callable[[], Grid]
    covariates: dict[str, Tensor] = field(default_factory=dict)
    tolerance: float = 1e-6
    reads_value: bool = True

    def __repr__(self) -> str:
        return self.name

    def module(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.build().to(dtype)

    def value(self, *batch: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor | None:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(*batch, DATA, generator=generator, dtype=dtype) if self.reads_value else None

    def distribution(
        self, module: nn.Module, *batch: int, dtype: torch.dtype = torch.float64
    ) -> dist.TorchDistribution:
        names = getattr(module, "covariate_names", ())
        rows = batch[-1:] if batch else ()
        covariates = {n: v.to(dtype).expand(*rows, *v.shape) for n, v in self.covariates.items() if n in names} or None
        args = (self.value(*batch, dtype=dtype),) if self.reads_value else ()
        return module(*args, covariates=covariates)

    def points(self, number: int) -> Tensor:
        """Some points of the support, the first of which is repeated where there are too few."""
        points = self.grid()[0]
        return points[(torch.arange(number) * 7919) % len(points)]


def plane(size: int, reach: float, points: int) -> Callable[[], Grid]:
    """The rectangle rule on a square of the plane (or an interval), exact to rounding for smooth densities."""

    def grid() -> Grid:
        axis = torch.linspace(-reach, reach, points, dtype=torch.float64)
        nodes = torch.stack([g.flatten() for g in torch.meshgrid(*([axis] * size), indexing="ij")], -1)
        step = math.log(2 * reach / (points - 1))
        return nodes, torch.full((len(nodes),), size * step, dtype=torch.float64)

    return grid


def triangle() -> Grid:
    """The simplex of three proportions, through log ratios; the weight is with respect to the first two."""
    ratios, weights = plane(2, 30.0, 500)()
    logs = torch.cat([ratios, torch.zeros_like(ratios[:, :1])], -1).log_softmax(-1)
    return logs.exp(), weights + logs.sum(-1)


def sphere() -> Grid:
    """The unit sphere in three dimensions, by height (Gauss-Legendre) and longitude."""
    heights, weights = (torch.as_tensor(a) for a in np.polynomial.legendre.leggauss(400))
    angles = torch.arange(200, dtype=torch.float64) * (2 * math.pi / 200)
    height, angle = (g.flatten() for g in torch.meshgrid(heights, angles, indexing="ij"))
    radius = (1 - height**2).sqrt()
    points = torch.stack([radius * angle.cos(), radius * angle.sin(), height], -1)
    return points, (weights.log() + math.log(2 * math.pi / 200)).repeat_interleave(200)


def interval() -> Grid:
    """The interval from 0 to 2, by Gauss and Legendre."""
    nodes, weights = (torch.as_tensor(a) for a in np.polynomial.legendre.leggauss(200))
    return nodes[:, None] + 1, weights.log()


def integers(highest: int, *shape: int) -> Callable[[], Grid]:
    """All arrays of integers from 0 to ``highest``."""

    def grid() -> Grid:
        axes = [torch.arange(highest + 1.0, dtype=torch.float64)] * math.prod(shape)
        nodes = torch.stack([g.flatten() for g in torch.meshgrid(*axes, indexing="ij")], -1).reshape(-1, *shape)
        return nodes, torch.zeros(len(nodes), dtype=torch.float64)

    return grid


def one_hots(size: int, vectors: int) -> Callable[[], Grid]:
    """All arrays of one-hot vectors."""

    def grid() -> Grid:
        eye = torch.eye(size, dtype=torch.float64)
        nodes = torch.stack([torch.stack(rows) for rows in product(eye, repeat=vectors)])
        nodes = nodes[:, 0] if vectors == 1 else nodes
        return nodes, torch.zeros(len(nodes), dtype=torch.float64)

    return grid


def rows_of_a_table() -> Grid:
    """A real, a positive and a bounded column, a count and a category."""
    real = torch.linspace(-30, 30, 120, dtype=torch.float64)
    logs = torch.linspace(-8, 12, 120, dtype=torch.float64)
    count, code = torch.arange(120.0, dtype=torch.float64), torch.arange(3.0, dtype=torch.float64)
    a, b, c, d = (g.flatten() for g in torch.meshgrid(real, logs, count, code, indexing="ij"))
    step = math.log(60 / 119) + math.log(20 / 119)
    return torch.stack([a, b.exp(), c, d], -1), b + step


def levels_of_a_table() -> Grid:
    """A bounded, a binary and an ordinal column, and one with heavy tails."""
    nodes, weights = (torch.as_tensor(a) for a in np.polynomial.legendre.leggauss(16))
    angles = torch.linspace(-math.pi / 2, math.pi / 2, 403, dtype=torch.float64)[1:-1]
    bit, code = torch.arange(2.0, dtype=torch.float64), torch.arange(3.0, dtype=torch.float64)
    a, b, c, d = (g.flatten() for g in torch.meshgrid(0.5 * nodes + 0.5, bit, code, angles, indexing="ij"))
    each = (0.5 * weights).log()[:, None, None, None].expand(-1, 2, 3, len(angles)).flatten()
    return torch.stack([a, b, c, d.tan()], -1), each + math.log(math.pi / 402) - 2 * d.cos().log()


TABLES = {
    "numbers": {
        "real": [1.0, -2.0, 3.0, 0.5],
        "positive": [0.5, 1.0, 4.0, 9.0],
        "count": [0, 1, 3, 2],
        "category": ["a", "b", "c", "a"],
    },
    "levels": {
        "bounded": [0.1, 0.9, 0.4, 0.0],
        "binary": [0, 1, 0, 0],
        "ordinal": [1, 2, 3, 1],
        "student_t": [1.0, -2.0, 3.0, 0.5],
    },
}


def schema(name: str = "numbers") -> parts.TableSchema:
    frame = pd.DataFrame(TABLES[name])
    return parts.TableSchema.of(pvae.data.as_data(frame, kinds={kind: kind for kind in frame}))


def net(out: int | tuple[int, ...] | None = None) -> pvae.networks.Network:
    return pvae.MLP(DATA, (8,), out)


def factorized(family: type, event_shape: tuple[int, ...] = (2,), **given: float) -> Callable[[], nn.Module]:
    return lambda: pvae.Factorized(family, net(), event_shape=event_shape, **given)


def exemplar() -> nn.Module:
    posterior = pvae.Factorized(dist.Normal, pvae.MLP(DATA, (4,)), 2)
    return conditionals.ExemplarPrior(posterior, torch.randn(5, DATA))


def vamp() -> nn.Module:
    posterior = pvae.Factorized(dist.Normal, net(), event_shape=2)
    return conditionals.VampPrior(posterior, torch.randn(5, DATA), weighted=True)


def table_posterior() -> nn.Module:
    table = schema()
    network = conditionals.TableNetwork(pvae.Chain(pvae.MLP(table.num_features, (8,), DATA), net()), table)
    return pvae.Factorized(dist.Normal, network, event_shape=2)


SIZE = {"size_factor": torch.tensor([0.7])}
CASES = [
    Case(
        "MeasuredNormal",
        factorized(parts.MeasuredNormal, error=pvae.FromCovariate("error")),
        plane(2, 15, 300),
        {"error": torch.tensor([0.3, 0.9])},
    ),
    Case("MeasuredStudentT", factorized(parts.MeasuredStudentT, (1,), df=6.0, error=0.5), plane(1, 3000, 400_000)),
    Case("DiscretizedLogistic", factorized(parts.DiscretizedLogistic, levels=256), integers(255, 2)),
    Case("SelfMasking", lambda: conditionals.SelfMasking(DATA, sign=-1), integers(1, DATA)),
    Case("DiscretizedNormal", factorized(parts.DiscretizedNormal, levels=7), integers(6, 2)),
    Case(
        "LogisticMixture coupled",
        lambda: conditionals.LogisticMixture(net(), (3, 1), num_components=3, levels=16),
        integers(15, 3, 1),
    ),
    Case(
        "LogisticMixture uncoupled",
        lambda: conditionals.LogisticMixture(net(), (2, 1, 2), num_components=3, levels=8, coupled=False),
        integers(7, 2, 1, 2),
    ),
    Case(
        "SizedPoisson",
        factorized(parts.SizedPoisson, (1,), size_factor=pvae.FromCovariate("size_factor")),
        integers(200, 1),
        SIZE,
    ),
    Case(
        "SizedNegativeBinomial",
        factorized(parts.SizedNegativeBinomial, (1,), size_factor=pvae.FromCovariate("size_factor")),
        integers(2000, 1),
        SIZE,
    ),
    Case(
        "ZeroInflatedSizedPoisson", factorized(parts.ZeroInflatedSizedPoisson, (1,), size_factor=0.7), integers(200, 1)
    ),
    Case(
        "ZeroInflatedSizedNegativeBinomial",
        factorized(parts.ZeroInflatedSizedNegativeBinomial, (1,)),
        integers(2000, 1),
    ),
    Case("MeanBetaBinomial", factorized(parts.MeanBetaBinomial, total_count=16), integers(16, 2)),
    Case(
        "Multinomials",
        lambda: conditionals.Multinomials(net(), 3, total_count=pvae.FromCovariate("total")),
        integers(6, 3),
        {"total": torch.tensor(6.0)},
    ),
    Case("Ordinal", lambda: conditionals.Ordinal(net(), (2, 1), num_categories=5), integers(4, 2, 1)),
    Case("Categories", lambda: conditionals.Categories(net(), (2, 1), num_categories=5), integers(4, 2, 1)),
    Case("OneHot", lambda: conditionals.OneHot(net(), 4), one_hots(4, 1)),
    Case("OneHot vectors", lambda: conditionals.OneHot(net(), (2, 3)), one_hots(3, 2)),
    Case("RelaxedOneHot", lambda: conditionals.RelaxedOneHot(net(), 3, temperature=0.8), triangle),
    Case("SimplexNormal", lambda: conditionals.SimplexNormal(net(), 3), triangle),
    Case("SimplexDirichlet", lambda: conditionals.SimplexDirichlet(net(), 3), triangle),
    Case("Spherical", lambda: conditionals.Spherical(net(), 3), sphere),
    Case("Spherical prior", lambda: conditionals.Spherical(event_shape=3), sphere, reads_value=False),
    Case("UniformDirection", lambda: conditionals.UniformDirection(3), sphere, reads_value=False),
    Case("FullNormal", lambda: conditionals.FullNormal(net(), 2), plane(2, 15, 300)),
    Case("FullNormal prior", lambda: conditionals.FullNormal(event_shape=2), plane(2, 15, 300), reads_value=False),
    Case("LowRank", lambda: conditionals.LowRank(net(), 2, rank=1), plane(2, 15, 300)),
    Case("GaussianMixture", lambda: conditionals.GaussianMixture(net(), 2, num_components=3), plane(2, 15, 300)),
    Case(
        "GaussianMixture prior",
        lambda: conditionals.GaussianMixture(event_shape=2, num_components=3),
        plane(2, 15, 300),
        reads_value=False,
    ),
    Case("VampPrior", vamp, plane(2, 15, 300), reads_value=False),
    Case("ExemplarPrior", exemplar, plane(2, 15, 300), reads_value=False),
    Case("AffineFlow posterior", lambda: conditionals.AffineFlow(net(), 2, hidden=(8,)), plane(2, 20, 300)),
    Case(
        "AffineFlow prior",
        lambda: conditionals.AffineFlow(event_shape=2, hidden=(8,)),
        plane(2, 20, 300),
        reads_value=False,
    ),
    Case(
        "SplineFlow posterior", lambda: conditionals.SplineFlow(net(), 2, hidden=(8,)), plane(2, 9, 240), tolerance=1e-3
    ),
    Case(
        "SplineFlow prior",
        lambda: conditionals.SplineFlow(event_shape=2, hidden=(8,)),
        plane(2, 9, 240),
        tolerance=1e-3,
        reads_value=False,
    ),
    Case("TableLikelihood", lambda: conditionals.TableLikelihood(net(), schema=schema()), rows_of_a_table),
    Case(
        "TableLikelihood of levels",
        lambda: conditionals.TableLikelihood(net(), schema=schema("levels")),
        levels_of_a_table,
    ),
    Case("TruncatedNormal", factorized(parts.TruncatedNormal, (1,), lower=0.0, upper=2.0), interval),
]
