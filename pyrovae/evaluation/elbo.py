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
from pyrovae.programs.rows import MAX_BYTES, Block, RowWork, Tile
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

    def plot(self, ax: Any = None) -> Any:
        """Draw the mean rate against the mean distortion; returns the axes.

        Args:
            ax: where to draw; by default a new figure.
        """
        from pyrovae.plots import plot_rate_distortion

        return plot_rate_distortion([float(self.kl.mean())], [-float(self.reconstruction.mean())], ax=ax)


def bound(
    program: Any,
    data: Any,
    covariates: Mapping[str, Any] | None = None,
    *,
    num_samples: int = 100,
    exact_kl: bool = False,
    max_bytes: int = MAX_BYTES,
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
        max_bytes: refuse what needs more memory.
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
    plan: dict[str, Any] = {"vectorize": vectorize, "seed": seed, "max_bytes": max_bytes, "progress": progress}
    work = RowWork(program, data, covariates, num_samples=num_samples, **plan)

    def task(block: Block) -> dict[str, Tensor]:
        pieces = [_terms(tile, exact_kl) for tile in block.tiles()]
        return _summary(*(torch.cat(values) for values in zip(*pieces, strict=True)))

    return Bound(**work.run(task, "elbo"))


def elbo(
    program: Any,
    data: Any,
    covariates: Mapping[str, Any] | None = None,
    *,
    num_samples: int = 100,
    exact_kl: bool = False,
    max_bytes: int = MAX_BYTES,
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
        max_bytes: refuse what needs more memory.
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
    options: dict[str, Any] = {"exact_kl": exact_kl, "max_bytes": max_bytes, "vectorize": vectorize, "seed": seed}
    return bound(program, data, covariates, num_samples=num_samples, **options).elbo


def kl(
    program: Any,
    data: Any,
    covariates: Mapping[str, Any] | None = None,
    *,
    num_samples: int = 100,
    exact_kl: bool = False,
    max_bytes: int = MAX_BYTES,
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
        max_bytes: refuse what needs more memory.
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
    options: dict[str, Any] = {"exact_kl": exact_kl, "max_bytes": max_bytes, "vectorize": vectorize, "seed": seed}
    return bound(program, data, covariates, num_samples=num_samples, **options).kl


def reconstruction(
    program: Any,
    data: Any,
    covariates: Mapping[str, Any] | None = None,
    *,
    num_samples: int = 100,
    exact_kl: bool = False,
    max_bytes: int = MAX_BYTES,
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
        max_bytes: refuse what needs more memory.
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
    options: dict[str, Any] = {"exact_kl": exact_kl, "max_bytes": max_bytes, "vectorize": vectorize, "seed": seed}
    return bound(program, data, covariates, num_samples=num_samples, **options).reconstruction


def _terms(tile: Tile, exact_kl: bool) -> tuple[Tensor, Tensor]:
    if not exact_kl:
        terms = tile.terms()
        return terms.reconstruction, terms.kl
    runs = [tile.num_samples] if tile.vectorize else [None] * tile.num_samples
    traces = [tile.call.traces(number) for number in runs]
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


def _summary(log_likelihood: Tensor, divergence: Tensor) -> dict[str, Tensor]:
    """The means over draws and their standard errors; NaN from a single draw."""
    draws = {"elbo": log_likelihood - divergence, "kl": divergence, "reconstruction": log_likelihood}
    found = {name: value.mean(0) for name, value in draws.items()}
    found["elbo"] = found["reconstruction"] - found["kl"]
    for name, value in draws.items():
        alone = len(value) == 1
        found[f"{name}_error"] = torch.full_like(found[name], torch.nan) if alone else value.std(0) / len(value) ** 0.5
    return found
