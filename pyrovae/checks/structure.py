"""What the latents carry: KL and activity of each entry, the ELBO taken apart, collapse told from a prior hole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pyrovae.checks.calls import stream, whole
from pyrovae.checks.entries import array
from pyrovae.checks.simulate import Covariates
from pyrovae.checks.surgery import Surgery, draw, surgery_of
from pyrovae.checks.words import entry_names, listed
from pyrovae.evaluation.elbo import bound

Array = NDArray[np.float64]
COLLAPSED = 0.1
"""Nats of mutual information below which the latents say next to nothing about the data."""
UNUSED = 0.01
"""Nats of KL, and of mutual information, below which an entry is called unused."""


@dataclass(frozen=True, repr=False)
class LatentStructure:
    """What :func:`latent_structure` found.

    Attributes:
        kl: by site, the mean KL of each entry to its prior in nats, shape ``(*event_shape)``.
        mean_variance: by site, the variance over rows of each entry's posterior mean, shape ``(*event_shape)``.
        surgery: the mean ELBO taken apart.
        num_data: the number of rows.
    """

    kl: dict[str, Array]
    mean_variance: dict[str, Array]
    surgery: Surgery
    num_data: int

    def active(self, variance: float = 0.01) -> dict[str, NDArray[np.bool_]]:
        """Active units of Burda et al. 2016 (arXiv:1509.00519): entries whose posterior mean varies over the data."""
        return {name: values > variance for name, values in self.mean_variance.items()}

    def informative(self, nats: float = 0.1) -> dict[str, NDArray[np.bool_]]:
        """Entries whose KL exceeds ``nats``; fewer than are active where means vary by little."""
        return {name: values > nats for name, values in self.kl.items()}

    @property
    def num_active(self) -> int:
        """The number of active units, all sites together."""
        return sum(int(active.sum()) for active in self.active().values())

    @property
    def num_informative(self) -> int:
        """The number of entries with a KL above 0.1 nats."""
        return sum(int(used.sum()) for used in self.informative().values())

    @property
    def hole(self) -> float:
        """Nats of marginal KL from which on it is called a hole: half a nat, or 5 % of the KL if that is more."""
        return max(0.5, 0.05 * self.surgery.kl)

    @property
    def verdict(self) -> str:
        """``"collapsed"``, ``"prior hole"``, ``"in use"``, or ``"undecided"`` where the rows are too few to tell."""
        surgery = self.surgery
        if not surgery.saturated and surgery.mutual_information < COLLAPSED + 3 * surgery.mcse:
            return "collapsed"
        if surgery.marginal_kl_lower > self.hole or (not surgery.saturated and surgery.marginal_kl > self.hole):
            return "prior hole"
        return "undecided" if surgery.saturated and surgery.marginal_kl > self.hole else "in use"

    def summary(self) -> str:
        """The findings in words, with what to do."""
        total = sum(values.size for values in self.kl.values())
        lines = [
            _VERDICTS[self.verdict].format(s=self.surgery),
            f"{self.num_active} of {total} latent entries are active (mean's variance > 0.01), {self.num_informative} "
            "carry more than 0.1 nats.",
            self.surgery.summary(),
        ]
        return "\n".join([*lines, *_unused(self), *_off_prior(self)])

    def __repr__(self) -> str:
        return f"LatentStructure({self.num_data} rows: {self.verdict})\n{self.summary()}"


_VERDICTS = {
    "collapsed": (
        "collapsed: the latents carry {s.mutual_information:.2f} nats about the data (their KL to the prior is {s.kl:.2f}, "
        "the aggregate's {s.marginal_kl:.2f}). Warm beta up, give free bits, or weaken the likelihood's network."
    ),
    "prior hole": (
        "prior hole: the latents are in use, but taken together they miss the prior by {s.marginal_kl_lower:.2f} to "
        "{s.marginal_kl:.2f} nats, so that some draws from the prior may decode badly: look at them. A learned prior "
        "(mixture, VampPrior, flow) can win up to that much."
    ),
    "in use": "in use: the latents carry information, and taken together they follow the prior.",
    "undecided": (
        "undecided: the latents are in use; their distance from the prior lies between {s.marginal_kl_lower:.2f} and "
        "{s.marginal_kl:.2f} nats. Give more rows, or compare the held-out evidence with that of a learned prior."
    ),
}


def _unused(structure: LatentStructure) -> list[str]:
    names = [n for site, kl in structure.kl.items() for n in entry_names(site, kl < UNUSED)]
    if not names or structure.verdict == "collapsed":
        return []
    return [f"unused (KL < {UNUSED} nats): {listed(names)}; harmless, and room for fewer latents."]


def _off_prior(structure: LatentStructure) -> list[str]:
    """Entries whose KL would pass for information, although it is all distance of the aggregate from the prior."""
    found = []
    for site, information in structure.surgery.entry_mutual_information.items():
        found += entry_names(site, (information < UNUSED) & (structure.kl[site] > 0.1))
    if not found:
        return []
    return [f"off the prior, yet saying nothing about the data: {listed(found)}; the KL alone would call them active."]


def latent_structure(
    program: Any, data: Any, covariates: Covariates | None = None, *, num_samples: int = 4, seed: int = 0
) -> LatentStructure:
    r"""Which latents carry information, how much of it, and whether together they follow the prior.

    .. math:: \mathrm{KL}_j = \tfrac1N \sum_i \mathrm{KL}(q(z_j \mid x_i)\,\|\,p(z_j)), \qquad
        A_j = \mathrm{Var}_i\, \mathbb{E}_q[z_j \mid x_i]

    together with :func:`elbo_surgery`. A small KL is collapse; a KL that is all marginal KL is not information; a large
    marginal KL is a hole in the prior.

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``; local latents only.
        data: data of N rows, a few thousand at most: the surgery's work grows with N squared.
        covariates: a tensor of rows for each name.
        num_samples: draws a row.
        seed: of the draws.

    Raises:
        ValueError: fewer than two rows; global latents.

    Reference: Burda et al. 2016, arXiv:1509.00519; Hoffman & Johnson 2016; Dai et al. 2020, arXiv:1912.10702 (collapse).

    >>> import pyrovae as pvae, pyro.distributions as dist, torch
    >>> vae = pvae.VAE(pvae.standard_normal(2), pvae.Factorized(dist.Normal, pvae.MLP(2, (8,)), 5, scale=1.0),
    ...     pvae.Factorized(dist.Normal, pvae.MLP(5, (8,)), 2))
    >>> latent_structure(vae, torch.zeros(20, 5)).verdict
    'collapsed'
    """
    draws, call = whole(program, data, covariates, seed)
    with draws.evaluating(stream(seed)):
        drawn = draw(call, num_samples)
        surgery = surgery_of(call, drawn)
    return LatentStructure(
        {name: array(kl).mean(0) for name, kl in drawn.kl.items()},
        {name: _variance_of_means(means) for name, means in drawn.means.items()},
        surgery,
        len(draws),
    )


def _variance_of_means(means: Tensor) -> Array:
    """The variance over rows of the mean over particles, less the Monte-Carlo noise of that mean."""
    values = array(means)
    noise = values.var(0, ddof=1).mean(0) / len(values) if len(values) > 1 else 0.0
    return np.maximum(values.mean(0).var(0, ddof=1) - noise, 0.0)


@dataclass(frozen=True)
class RateDistortion:
    """Rate and distortion of programs trained at different beta; every field of shape ``(programs,)``, nats per datum.

    Attributes:
        beta: in increasing order.
        rate: the mean KL.
        distortion: minus the mean reconstruction.
        rate_error: its standard error over rows.
        distortion_error: likewise.
    """

    beta: Array
    rate: Array
    distortion: Array
    rate_error: Array
    distortion_error: Array

    @property
    def elbo(self) -> Array:
        """The ELBO at beta 1: minus rate minus distortion."""
        return -self.rate - self.distortion


def rate_distortion(
    programs: Mapping[float, Any],
    data: Any,
    covariates: Covariates | None = None,
    *,
    num_samples: int = 16,
    seed: int = 0,
) -> RateDistortion:
    r"""The rate-distortion curve of programs that were trained at different beta, on the same rows.

    .. math:: R = \mathbb{E}_x \mathrm{KL}(q(z \mid x)\,\|\,p(z)), \qquad D = -\mathbb{E}_x \mathbb{E}_q \log p(x \mid z)

    Along an optimal curve the slope is minus beta: ``dD / dR = -beta``.

    Args:
        programs: from beta to the program trained with it.
        data: data, best held out.
        covariates: a tensor of rows for each name.
        num_samples: draws a row.
        seed: of the draws, the same for every program.

    Raises:
        ValueError: no programs.

    Reference: Alemi et al. 2018, arXiv:1711.00464.

    >>> import pyrovae as pvae, pyro.distributions as dist, torch
    >>> vae = pvae.VAE(pvae.standard_normal(2), pvae.Factorized(dist.Normal, pvae.MLP(2, (8,)), 5, scale=1.0),
    ...     pvae.Factorized(dist.Normal, pvae.MLP(5, (8,)), 2))
    >>> rate_distortion({1.0: vae, 0.5: vae}, torch.zeros(3, 5)).beta
    array([0.5, 1. ])
    """
    if not programs:
        raise ValueError("rate_distortion needs at least one program: {beta: program trained with that beta}")
    betas = sorted(programs)
    bounds = [bound(programs[b], data, covariates, num_samples=num_samples, seed=seed, progress=False) for b in betas]
    rates, distortions = [array(b.kl) for b in bounds], [-array(b.reconstruction) for b in bounds]
    return RateDistortion(np.array(betas, dtype=float), *_means(rates, distortions), *_errors(rates, distortions))


def _means(*columns: list[Array]) -> list[Array]:
    return [np.array([values.mean() for values in column]) for column in columns]


def _errors(*columns: list[Array]) -> list[Array]:
    return [np.array([values.std(ddof=1) / np.sqrt(len(values)) for values in column]) for column in columns]
