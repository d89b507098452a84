"""The ELBO per datum and its two parts, from the same draws, with their Monte-Carlo errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from pyrovae.programs import latent_names, log_terms
from pyrovae.programs.rows import MAX_BYTES, Block, RowWork, Tile
from pyrovae.programs.sites import expanded, frame_of, has_parents_before, sites_of
from pyrovae.programs.terms import Axes

if TYPE_CHECKING:
    import xarray as xr


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
    progress: bool | None = None,
) -> xr.Dataset:
    r"""The ELBO of each datum with its two parts and their errors, all from the same draws.

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

    Returns:
        A Dataset over ``data`` with ``elbo, kl, reconstruction`` in nats, float64, each with its Monte-Carlo standard error
        ``..._error`` (NaN from a single draw). ``elbo = reconstruction - kl`` to the last digit.

    Raises:
        NotImplementedError: ``exact_kl``, and a site has no closed form.

    >>> import torch, pyrovae as pvae
    >>> vae = pvae.build_vae(3, likelihood="poisson", latent_dim=1)
    >>> found = pvae.elbo(vae, torch.ones(4, 3), num_samples=5, seed=0)
    >>> bool((found.elbo == found.reconstruction - found.kl).all()), found.sizes["data"]
    (True, 4)
    """
    import xarray as xr

    plan: dict[str, Any] = {"num_samples": num_samples, "vectorize": vectorize, "seed": seed}
    work = RowWork(program, data, covariates, max_bytes=max_bytes, progress=progress, **plan)

    def task(block: Block) -> dict[str, Tensor]:
        pieces = zip(*(_terms(tile, exact_kl) for tile in block.tiles()), strict=True)
        reconstruction, kl = (torch.cat(values) for values in pieces)
        draws = {"elbo": reconstruction - kl, "kl": kl, "reconstruction": reconstruction}
        means = {name: value.mean(0) for name, value in draws.items()}
        means["elbo"] = means["reconstruction"] - means["kl"]
        for name, value in draws.items():  # 0 / 0 from a single draw
            squares = (value - value.mean(0)).square().sum(0)
            means[f"{name}_error"] = (squares / (num_samples * (num_samples - 1))).sqrt()
        return means

    found = work.run(task, "elbo")
    variables = {name: ("data", value.numpy(), {"units": "nats"}) for name, value in found.items()}
    return xr.Dataset(variables, {"data": range(len(work))}, {"num_samples": num_samples, "seed": str(work.seed)})


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
    order = [[site["name"] for site in sites_of(trace)] for trace in (model_trace, guide_trace)]
    total: Any = 0.0
    for name in latent_names(guide_trace):
        guide, model = guide_trace.nodes[name], model_trace.nodes[name]
        if not frame_of(guide):
            continue
        if not has_parents_before(name, *order):
            raise NotImplementedError(
                f"the guide draws {name!r} before latents on which its prior depends, so that its divergence has no closed form: "
                "leave out exact_kl=True"
            )
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
