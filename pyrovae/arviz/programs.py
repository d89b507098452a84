"""`from_pyro_svi`: a Pyro program and its data as ArviZ's container, whole or streamed to disk."""

from __future__ import annotations

import importlib.metadata
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyro.infer import MCMC

from pyrovae.arviz import check_bytes, from_zarr, to_arviz, to_datasets, zarr_stream
from pyrovae.arviz.export import Chains, Export
from pyrovae.arviz.labels import labels
from pyrovae.arviz.named import Arrays, Named, bytes_of, collect, in_chains, variable
from pyrovae.data import as_data
from pyrovae.errors import refusal
from pyrovae.programs import DATA
from pyrovae.programs.rows import MAX_BYTES, RowWork

if TYPE_CHECKING:
    import xarray as xr

    from pyrovae.arviz.containers import Container
    from pyrovae.checks import SBC

DEFAULT_GROUPS = (
    "posterior",
    "sample_stats",
    "posterior_predictive",
    "prior",
    "prior_predictive",
    "observed_data",
    "constant_data",
    "amortized_diagnostics",
)
"""The groups that :func:`from_pyro_svi` makes unless told otherwise."""
ON_REQUEST = ("log_likelihood", "log_prior")
"""The groups that it makes where they are named."""
WRITE_BYTES = 2**26
"""About how much is written to a store at once."""
_LOG_LIKELIHOOD = (
    "log_likelihood holds log p(x_i | z_i), the density of a row given its own latent. az.loo and az.waic on it estimate "
    "1 / E[1 / p(x_i | z_i)], a harmonic mean whose Pareto k is above 0.7 for most rows: they are off by nats per row and "
    "choose models with too many latents. To compare models use held-out log p(x_i): pyrovae.compare, or log_marginal in "
    "amortized_diagnostics"
)


def from_pyro_svi(
    program: Any,
    data: Any = None,
    covariates: Mapping[str, Any] | None = None,
    *,
    num_samples: int = 200,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    groups: Sequence[str] = DEFAULT_GROUPS,
    log_likelihood: bool = False,
    max_bytes: int = MAX_BYTES,
    store: str | os.PathLike | None = None,
    seed: int | None = None,
    new_covariates: Mapping[str, Any] | None = None,
    sbc: SBC | None = None,
    vectorize: bool = True,
    progress: bool | None = None,
) -> Container:
    r"""Draws from an amortized guide, and what ArviZ needs beside them, as ``InferenceData`` or ``DataTree``.

    .. math:: z_{si} \sim q(z \mid x_i), \quad \tilde x_{si} \sim p(x \mid z_{si}), \quad
        \mathtt{lp} = \log p(x_i, z_{si}), \quad \mathtt{log\_weight} = \mathtt{lp} - \mathtt{log\_q}

    Groups: ``posterior``, ``sample_stats`` (lp, log_q and log_weight, nats per row), ``posterior_predictive``, ``prior``,
    ``prior_predictive``, ``observed_data`` (missing entries stay NaN), ``constant_data`` (the covariates) and
    ``amortized_diagnostics`` (elbo, log_marginal, mcse, pareto_k, ess, kl per row). Dimensions are ``chain`` (one),
    ``draw``, ``data``, then the program's other plates, then ``<site>_dim_0``, ``<site>_dim_1``, and so on. On request
    ``predictions`` (of rows that have covariates alone, along ``new_data``) and ``prior_sbc`` (normalized ranks).
    Where model and guide mask a latent (the end of a shorter sequence, say), its draws are NaN. Data with Pyro's
    ``obs_mask`` go under the site's own name, and the draws of their missing entries are ``<site>_unobserved``.
    ``az.summary`` of every row takes minutes: select rows first, ``idata.sel(data=[0, 1])``.

    Args:
        program: anything with ``model`` and ``guide``, a tuple of both, a ``pyro.infer.SVI``; or a ``pyro.infer.MCMC``
            that has run, whose chains are taken.
        data: rows, of any kind that ``pyrovae.data.as_data`` takes; NaN is missing. The index and the columns of a
            DataFrame become coordinates. By default MCMC's own data.
        covariates: for each name, one row for each datum.
        num_samples: draws per row.
        coords: dimension -> labels.
        dims: variable -> names of its event dimensions, ``{"z": ["latent_dim"]}``, or of all after the draws, as
            ArviZ's converters take them: ``{"z": ["data", "latent_dim"]}``.
        groups: those wanted; ``"log_prior"`` (log p(z_i) by latent site) only if it is named. With it and ``log_likelihood``
            ArviZ's power-scaling (``az.psens``, ``psense``) runs on a chosen row, ``idata.sel(data=[0])``; it takes the guide's
            draws for the posterior, which :func:`pyrovae.checks.power_scaling` does not.
        log_likelihood: add log p(x_i | z_i) by data site, with a warning, since ``az.loo`` on it misleads.
        max_bytes: refuse results, and blocks of rows, that need more memory.
        store: a path where a zarr store is written block by block; values are then read when they are looked at.
        seed: of all draws; None takes torch's generator as it stands.
        new_covariates: for each name, one row for each prediction; the model is called without data, at the guide's draws of
            global latents. Adds ``predictions`` and ``predictions_constant_data``.
        sbc: a result of :func:`pyrovae.sbc`, whose ranks become ``prior_sbc``.
        vectorize: False runs the program once for each draw, for programs that cannot broadcast.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Raises:
        TypeError: the program is none, or the data is not numbers.
        ValueError: too many bytes (the message says what to do), unknown groups, dimensions or coordinates, latents
            that differ between model and guide, or a guide without a density.

    Reference: Kumar et al. 2019, doi:10.21105/joss.01143 (ArviZ); Vehtari et al. 2024, arXiv:1507.02646 (Pareto k).

    >>> import pyro.distributions as dist, pyrovae as pvae, torch
    >>> vae = pvae.VAE(
    ...     prior=pvae.standard_normal(2),
    ...     likelihood=pvae.Factorized(dist.Poisson, pvae.MLP(2, (16,)), event_shape=5),
    ...     posterior=pvae.Factorized(dist.Normal, pvae.MLP(5, (16,)), event_shape=2),
    ... )
    >>> idata = from_pyro_svi(vae, torch.ones(3, 5), num_samples=10, dims={"z": ["latent_dim"]}, seed=0)
    >>> dict(idata["posterior"].sizes)
    {'chain': 1, 'draw': 10, 'data': 3, 'latent_dim': 2}
    """
    wanted = set(groups) | ({"log_likelihood"} if log_likelihood else set())
    if unknown := wanted - {*DEFAULT_GROUPS, *ON_REQUEST}:
        known = ", ".join((*DEFAULT_GROUPS, *ON_REQUEST))
        raise refusal(f"unknown group {min(unknown)!r}; those made here are: {known}", "groups")
    if "log_likelihood" in wanted:
        warnings.warn(_LOG_LIKELIHOOD, UserWarning, stacklevel=2)
    chains = None
    if isinstance(program, MCMC):
        if new_covariates is not None or sbc is not None:
            raise ValueError("new_covariates and sbc belong to programs with a guide: leave them out")
        chains = Chains.of(program)
        args, model = program._args, program.kernel.model
        data = (args[0] if len(args) == 1 else args) if data is None else data
        covariates = program._kwargs.get("covariates") if covariates is None else covariates
        program, num_samples = (model, model), len(chains)
    rows = as_data(data, covariates).drawn(seed or 0)
    plan: dict[str, Any] = {"vectorize": vectorize, "seed": seed, "max_bytes": max_bytes, "progress": progress}
    work = RowWork(program, rows, num_samples=num_samples, **plan)
    export = Export(work, frozenset(wanted), chains, new_covariates)
    first = export.trial()
    extras = {} if sbc is None else _ranks(sbc)
    named, labeled = labels(rows, coords or {}, dims or {}, first | extras, export.sources, export.num_new)
    sizes = {
        group: bytes_of(group, arrays, num_samples, export.num_new if group.startswith("predictions") else len(rows))
        for group, arrays in first.items()
    }
    attrs: dict[str, str | int] = {
        "inference_library": "pyro-ppl",
        "inference_library_version": importlib.metadata.version("pyro-ppl"),
        "data_name": rows.name,
        "data_split": rows.split,
        **({} if rows.variant is None else {"data_variant": rows.variant}),
        **({} if seed is None else {"seed": seed}),
    }

    def datasets(rows_of_block: slice, arrays: Arrays) -> dict[str, xr.Dataset]:
        cut = in_chains(arrays | extras, 1 if chains is None else chains.num_chains)
        own = labeled | {DATA: labeled[DATA][rows_of_block]}
        return to_datasets(cut, coords=own, dims=named, attrs=attrs)

    if store is None:
        check_bytes(sizes, max_bytes)
    extras |= export.predictions()
    if store is None:
        made: list[dict[str, xr.Dataset]] = []
        collect(work, export.block, len(rows), lambda *block: made.append(datasets(*block)))
        return to_arviz(made[0], attrs)
    with zarr_stream(store, attrs=attrs) as stream:
        at_once = WRITE_BYTES * len(rows) // max(1, sum(sizes.values()))
        collect(work, export.block, max(1, at_once), lambda *block: stream.append(datasets(*block)))
    return from_zarr(store)


def _ranks(result: SBC) -> Arrays:
    r"""The ranks of a calibration as numbers in (0, 1), uniform for an exact guide.

    .. math:: u = \frac{r + 1/2}{S + 1}
    """
    every = {**{variable(name): ranks for name, ranks in result.ranks.items()}, "log_joint": result.log_joint_ranks}
    scaled = {name: (ranks + 0.5) / (result.num_samples + 1) for name, ranks in every.items()}
    return {"prior_sbc": {name: Named(array, (None,) * (array.ndim - 1)) for name, array in scaled.items()}}
