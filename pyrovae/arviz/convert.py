"""`from_pyro_svi`: a Pyro program and its data as ArviZ's container, whole or streamed to disk."""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from pyro.infer import MCMC

from pyrovae.arviz import check_bytes, from_zarr, to_arviz, to_datasets, zarr_stream
from pyrovae.arviz.blocks import Arrays, Writer, bytes_of, gather, in_chains, merged
from pyrovae.arviz.chains import from_chains
from pyrovae.arviz.extras import NewRows, ranks
from pyrovae.arviz.labels import Labels
from pyrovae.arviz.requests import Request
from pyrovae.arviz.running import Runner
from pyrovae.checks import SBC
from pyrovae.data import Data, as_data, batches
from pyrovae.programs.draws import CHUNK_SIZE, Call, Draws

if TYPE_CHECKING:
    import xarray as xr

    from pyrovae.arviz.containers import Container

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

WRITE_BYTES = 2**26
"""About how much is written to a store at once."""

_LOG_LIKELIHOOD = (
    "log_likelihood holds log p(x_i | z_i), the density of a row given its own latent. az.loo and az.waic on it estimate "
    "1 / E[1 / p(x_i | z_i)], a harmonic mean whose Pareto k is above 0.7 for most rows: they are off by nats a row and "
    "choose models with too many latents. To compare models use held-out log p(x_i): pyrovae.compare, or log_marginal in "
    "amortized_diagnostics"
)


def from_pyro_svi(
    program: Any,
    data: Any = None,
    covariates: Mapping[str, Any] | None = None,
    *,
    num_samples: int = 200,
    batch_size: int | None = None,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    groups: Sequence[str] = DEFAULT_GROUPS,
    log_likelihood: bool = False,
    max_bytes: int = 2**31,
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

    Groups: ``posterior``, ``sample_stats`` (lp, log_q and log_weight, nats a row), ``posterior_predictive``, ``prior``,
    ``prior_predictive``, ``observed_data`` (missing entries stay NaN), ``constant_data`` (the covariates) and
    ``amortized_diagnostics`` (elbo, log_marginal, mcse, pareto_k, ess, kl a row). Dimensions are ``chain`` (one),
    ``draw``, ``data``, then the program's other plates, then ``<site>_dim_0``, ``<site>_dim_1``, and so on. On request
    ``predictions`` (of rows that have covariates alone, along ``new_data``) and ``prior_sbc`` (normalised ranks).
    ``az.summary`` of every row takes minutes: select rows first, ``idata.sel(data=[0, 1])``.

    Args:
        program: anything with ``model`` and ``guide``, a tuple of both, a ``pyro.infer.SVI``; or a ``pyro.infer.MCMC``
            that has run, whose chains are taken.
        data: rows, of any kind that ``pyrovae.data.as_data`` takes; NaN is missing. The index and the columns of a
            DataFrame become coordinates. For MCMC by default what it ran on.
        covariates: one row a datum for each name.
        num_samples: draws a row.
        batch_size: rows at a time; by default as many as make 4,096 draws. A guide that holds parameters for each row
            takes all rows at once.
        coords: dimension -> labels.
        dims: variable -> names of its event dimensions, ``{"z": ["latent_dim"]}``, or of all after the draws, as
            ArviZ's converters take them: ``{"z": ["data", "latent_dim"]}``.
        groups: those wanted.
        log_likelihood: add log p(x_i | z_i) by data site, with a warning, since ``az.loo`` on it misleads.
        max_bytes: refuse more than this in memory.
        store: a path where a zarr store is written batch by batch; values are then read when they are looked at.
        seed: of all draws; None takes torch's generator as it stands.
        new_covariates: one row a prediction for each name; the model is called without data, at the guide's draws of
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
    wanted = _wanted(groups, log_likelihood)
    request = Request(wanted, coords or {}, dims or {}, max_bytes, store, seed, new_covariates, sbc, vectorize)
    if isinstance(program, MCMC):
        return from_chains(program, data, covariates, request)
    rows = as_data(data, covariates).drawn(seed or 0)
    chunk_size = num_samples * batch_size if batch_size else CHUNK_SIZE
    draws = Draws(program, rows, None, num_samples, chunk_size, vectorize, seed, progress)
    size = min(len(draws), batch_size or max(1, CHUNK_SIZE // num_samples))
    place = draws.batches.place
    draws.batches = batches(draws.data, size, shuffle=False, device=place.device, dtype=place.dtype)
    return _Export(draws, data, request).run()


class _Export:
    """One call's work: a trial of the first batch with two draws, which tells names and sizes, and then all of it."""

    def __init__(self, draws: Draws, data: Any, request: Request) -> None:
        self.draws, self.request = draws, request
        self.labels = Labels(data, draws.data, request.coords, request.dims)
        self.writer = Writer(_runners(draws.num_samples, request.vectorize), request.groups)
        self.new_rows = None if request.new_covariates is None else NewRows(draws, request.new_covariates)
        self.extras = {} if request.sbc is None else ranks(request.sbc)
        trial = Writer(_runners(2, request.vectorize), request.groups)
        with draws.evaluating(draws.seed):
            first = trial.block(*self._first())
            predicted = {} if self.new_rows is None else next(self.new_rows.blocks(trial.runners, trial.sources))[1]
        num_new = 0 if self.new_rows is None else len(self.new_rows)
        self.sites = list(trial.sources)
        self.labels.learn(first | predicted | self.extras, trial.sources, num_new)
        self.sizes = bytes_of(first, draws.num_samples, len(draws)) | bytes_of(predicted, draws.num_samples, num_new)

    def _first(self) -> tuple[Call, Data]:
        batch = next(iter(self.draws.batches))
        return self.draws.call(batch), self.draws.data[: len(batch.index)].dense()

    def _predict(self) -> None:
        if self.new_rows is None:
            return
        with self.draws.evaluating(self.draws.seed):
            if self.draws.global_sites:
                for runner in self.writer.runners:
                    runner.posterior(self._first()[0])
            self.extras |= gather(self.new_rows.blocks(self.writer.runners, self.sites), len(self.new_rows))

    def blocks(self) -> Generator[tuple[slice, Arrays], None, None]:
        """The rows of each batch, and its arrays."""
        done = 0
        with self.draws.each("from_pyro_svi") as batches:
            for _, batch in batches:
                rows = slice(done, done + len(batch.index))
                yield rows, self.writer.block(self.draws.call(batch), self.draws.data[rows].dense())
                done = rows.stop

    def run(self) -> Container:
        """Every block, put together in memory or written behind the one before."""
        attrs = self.request.attributes(self.draws.data)
        if self.request.store is None:
            check_bytes(self.sizes, self.request.max_bytes)
        self._predict()
        with closing(self.blocks()) as blocks:
            if self.request.store is None:
                return to_arviz(self._labelled(gather(blocks, len(self.draws)), attrs), attrs)
            with zarr_stream(self.request.store, attrs=attrs) as stream:
                for rows, block in merged(blocks, self._rows_per_write()):
                    stream.append(self._labelled(block, attrs, rows))
        return from_zarr(self.request.store)

    def _rows_per_write(self) -> int:
        return WRITE_BYTES * len(self.draws) // max(1, sum(self.sizes.values()))

    def _labelled(self, arrays: Arrays, attrs: Mapping[str, Any], rows: slice = slice(None)) -> dict[str, xr.Dataset]:
        whole = in_chains(arrays | self.extras)
        return to_datasets(whole, coords=self.labels.coords(rows), dims=self.labels.dims(), attrs=attrs)


def _runners(num_samples: int, vectorize: bool) -> list[Runner]:
    return [Runner(num_samples)] if vectorize else [Runner(None) for _ in range(num_samples)]


def _wanted(groups: Sequence[str], log_likelihood: bool) -> frozenset[str]:
    known = (*DEFAULT_GROUPS, "log_likelihood")
    unknown = [group for group in groups if group not in known]
    if unknown:
        raise ValueError(f"unknown group {unknown[0]!r}; those made here are: {', '.join(known)}")
    wanted = frozenset(groups) | ({"log_likelihood"} if log_likelihood else set())
    if "log_likelihood" in wanted:
        warnings.warn(_LOG_LIKELIHOOD, UserWarning, stacklevel=3)
    return wanted


__all__ = ["DEFAULT_GROUPS", "from_pyro_svi"]
