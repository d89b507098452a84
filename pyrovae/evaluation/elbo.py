"""The ELBO per datum and its two parts, from the same draws, with their Monte-Carlo errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from pyrovae.programs import latent_names, log_terms
from pyrovae.programs.draws import CHUNK_SIZE, Call, Draws, checked
from pyrovae.programs.sites import expanded, frame_of, sites_of
from pyrovae.programs.terms import Axes


@dataclass(frozen=True)
class Bound:
    """The ELBO of each datum, split; every field of shape (data,), float64, in nats; ``elbo = reconstruction - kl``."""

    elbo: Tensor
    kl: Tensor
    reconstruction: Tensor
    elbo_error: Tensor
    """The Monte-Carlo standard error; NaN from a single draw."""
    kl_error: Tensor
    reconstruction_error: Tensor


def bound(
    program: Any,
    data: Any,
    covariates: Mapping[str, Any] | None = None,
    *,
    num_samples: int = 100,
    exact_kl: bool = False,
    chunk_size: int = CHUNK_SIZE,
    vectorize: bool = True,
    seed: int | None = None,
    progress: bool | None = None,
) -> Bound:
    r"""The ELBO of each datum with its parts and their errors, all from the same draws.

    .. math:: \mathrm{ELBO}_i = \mathbb{E}_q[\log p(x_i \mid z)] - \mathrm{KL}(q(z \mid x_i)\,\|\,p(z))

    Args:
        program: as in :func:`pyrovae.evaluation.log_weights`.
        data: the data, N rows.
        covariates: for each name, a tensor of N rows.
        num_samples: draws per datum.
        exact_kl: the divergence in closed form, given the draws that its sites depend on. It spares the divergence's
            noise, and loses the zero variance of an exact guide.
        chunk_size: the most draws evaluated at once.
        vectorize: False runs the program once for each draw.
        seed: makes the draws reproducible.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Raises:
        NotImplementedError: ``exact_kl``, and a site has no closed form.

    >>> import torch, pyrovae as pvae, pyro.distributions as dist
    >>> vae = pvae.VAE(
    ...     pvae.standard_normal(1),
    ...     pvae.Factorized(dist.Poisson, pvae.MLP(1, ()), 3),
    ...     pvae.Factorized(dist.Normal, pvae.MLP(3, ()), 1),
    ... )
    >>> found = pvae.bound(vae, torch.ones(4, 3), num_samples=5, seed=0)
    >>> torch.equal(found.elbo, found.reconstruction - found.kl), found.elbo.shape
    (True, torch.Size([4]))
    """
    draws = Draws(program, data, covariates, num_samples, chunk_size, vectorize, seed, progress)
    parts = []
    with draws.each("elbo") as batches:
        for _, batch in batches:
            call = draws.call(batch)
            chunks = [_terms(draws, call, size, exact_kl, number == 0) for number, size in enumerate(draws.sizes())]
            parts.append(_summary(*(torch.cat(values) for values in zip(*chunks, strict=True))))
    return Bound(*(torch.cat(values).cpu() for values in zip(*parts, strict=True)))


def elbo(
    program: Any,
    data: Any,
    covariates: Mapping[str, Any] | None = None,
    *,
    num_samples: int = 100,
    exact_kl: bool = False,
    chunk_size: int = CHUNK_SIZE,
    vectorize: bool = True,
    seed: int | None = None,
) -> Tensor:
    """The ELBO of each datum: the mean over draws of :func:`pyrovae.evaluation.log_weights`.

    Args:
        program: as there.
        data: the data, N rows.
        covariates: for each name, a tensor of N rows.
        num_samples: draws per datum.
        exact_kl: the divergence in closed form, see :func:`bound`, which also returns the errors.
        chunk_size: the most draws evaluated at once.
        vectorize: False runs the program once for each draw.
        seed: makes the draws reproducible.

    Returns:
        Nats, of shape ``(data,)``, float64.

    >>> import torch, pyrovae as pvae, pyro.distributions as dist
    >>> vae = pvae.VAE(
    ...     pvae.standard_normal(1),
    ...     pvae.Factorized(dist.Poisson, pvae.MLP(1, ()), 3),
    ...     pvae.Factorized(dist.Normal, pvae.MLP(3, ()), 1),
    ... )
    >>> pvae.elbo(vae, torch.ones(4, 3), num_samples=5).shape
    torch.Size([4])
    """
    options: dict[str, Any] = {"exact_kl": exact_kl, "chunk_size": chunk_size, "vectorize": vectorize, "seed": seed}
    return bound(program, data, covariates, num_samples=num_samples, **options).elbo


def kl(
    program: Any,
    data: Any,
    covariates: Mapping[str, Any] | None = None,
    *,
    num_samples: int = 100,
    exact_kl: bool = False,
    chunk_size: int = CHUNK_SIZE,
    vectorize: bool = True,
    seed: int | None = None,
) -> Tensor:
    """The divergence of the guide from the prior, per datum; with the same seed ``reconstruction - kl`` is the ELBO.

    Args:
        program: as in :func:`elbo`.
        data: the data, N rows.
        covariates: for each name, a tensor of N rows.
        num_samples: draws per datum.
        exact_kl: the divergence in closed form, see :func:`bound`, which also returns the errors.
        chunk_size: the most draws evaluated at once.
        vectorize: False runs the program once for each draw.
        seed: makes the draws reproducible.

    Returns:
        Nats, of shape ``(data,)``, float64.

    >>> import torch, pyrovae as pvae, pyro.distributions as dist
    >>> vae = pvae.VAE(
    ...     pvae.standard_normal(1),
    ...     pvae.Factorized(dist.Poisson, pvae.MLP(1, ()), 3),
    ...     pvae.Factorized(dist.Normal, pvae.MLP(3, ()), 1),
    ... )
    >>> pvae.kl(vae, torch.ones(4, 3), num_samples=5).shape
    torch.Size([4])
    """
    options: dict[str, Any] = {"exact_kl": exact_kl, "chunk_size": chunk_size, "vectorize": vectorize, "seed": seed}
    return bound(program, data, covariates, num_samples=num_samples, **options).kl


def reconstruction(
    program: Any,
    data: Any,
    covariates: Mapping[str, Any] | None = None,
    *,
    num_samples: int = 100,
    exact_kl: bool = False,
    chunk_size: int = CHUNK_SIZE,
    vectorize: bool = True,
    seed: int | None = None,
) -> Tensor:
    """The expected log-likelihood under the guide, per datum.

    Args:
        program: as in :func:`elbo`.
        data: the data, N rows.
        covariates: for each name, a tensor of N rows.
        num_samples: draws per datum.
        exact_kl: the divergence in closed form, see :func:`bound`, which also returns the errors.
        chunk_size: the most draws evaluated at once.
        vectorize: False runs the program once for each draw.
        seed: makes the draws reproducible.

    Returns:
        Nats, of shape ``(data,)``, float64.

    >>> import torch, pyrovae as pvae, pyro.distributions as dist
    >>> vae = pvae.VAE(
    ...     pvae.standard_normal(1),
    ...     pvae.Factorized(dist.Poisson, pvae.MLP(1, ()), 3),
    ...     pvae.Factorized(dist.Normal, pvae.MLP(3, ()), 1),
    ... )
    >>> pvae.reconstruction(vae, torch.ones(4, 3), num_samples=5).shape
    torch.Size([4])
    """
    options: dict[str, Any] = {"exact_kl": exact_kl, "chunk_size": chunk_size, "vectorize": vectorize, "seed": seed}
    return bound(program, data, covariates, num_samples=num_samples, **options).reconstruction


def _terms(draws: Draws, call: Call, size: int, exact_kl: bool, is_first: bool) -> tuple[Tensor, Tensor]:
    with checked(is_first):
        if not exact_kl:
            terms = call.terms(size, draws.vectorize)
            return terms.reconstruction, terms.kl
        runs = [size] if draws.vectorize else [None] * size
        traces = [call.traces(number) for number in runs]
        likelihoods = [log_terms(*pair, dtype=torch.float64).reconstruction for pair in traces]
        return torch.cat(likelihoods), torch.cat([closed_kl(*pair) for pair in traces])


def closed_kl(model_trace: Trace, guide_trace: Trace) -> Tensor:
    """The sum over latent sites in the plate of the closed-form divergences, of shape (samples, data), float64.

    Raises:
        NotImplementedError: naming a site whose divergence has no closed form.
    """
    axes = Axes.of(sites_of(guide_trace))
    total: Any = 0.0
    for name in latent_names(guide_trace):
        guide, model = guide_trace.nodes[name], model_trace.nodes[name]
        if not frame_of(guide):
            continue
        divergence = scale_and_mask(_closed(name, guide["fn"], model["fn"]), 1.0, guide["mask"])
        total = total + axes.keep(expanded(divergence.double(), guide), axes.particles, axes.data)
    return total


def _closed(name: str, guide: Any, model: Any) -> Tensor:
    try:
        return kl_divergence(guide, model)
    except NotImplementedError:
        raise NotImplementedError(
            f"the divergence of {type(guide).__name__} from {type(model).__name__} at site {name!r} has no closed form: "
            "leave out exact_kl=True"
        ) from None


def _summary(log_likelihood: Tensor, divergence: Tensor) -> tuple[Tensor, ...]:
    values = (log_likelihood - divergence, divergence, log_likelihood)
    kl_mean, likelihood_mean = divergence.mean(0), log_likelihood.mean(0)
    errors = [
        value.std(0) / len(value) ** 0.5 if len(value) > 1 else torch.full_like(kl_mean, torch.nan) for value in values
    ]
    return (likelihood_mean - kl_mean, kl_mean, likelihood_mean, *errors)
