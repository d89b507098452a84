"""`from_pyro_svi`: a Pyro program and its data as ArviZ's container, whole or streamed to disk."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyro.infer import MCMC

from pyrovae.data import batches
from pyrovae.evaluation.draws import Draws
from pyrovae.evidence_io.blocks import Arrays, Writer, bytes_of, gather, in_chains
from pyrovae.evidence_io.chains import from_chains
from pyrovae.evidence_io.labels import Labels
from pyrovae.evidence_io.requests import Request
from pyrovae.evidence_io.running import Runner
from pyrovae.io_arviz import check_bytes, from_zarr, to_arviz, to_datasets, zarr_stream

if TYPE_CHECKING:
    from pyrovae.io_arviz.containers import Container

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

_DRAWS_AT_ONCE = 2**14
_LOG_LIKELIHOOD = (
    "log_likelihood holds log p(x_i | z_i), the density of a row given its own latent. az.loo and az.waic on it estimate "
    "1 / E[1 / p(x_i | z_i)], a harmonic mean whose Pareto k is above 0.7 for most rows: they are off by nats a row and "
    "choose models with too many latents. To compare models use held-out log p(x_i): pyrovae.compare, or log_marginal in "
    "amortized_diagnostics"
)


def from_pyro_svi(
    program: Any,
    data: Any = None,
    context: Mapping[str, Any] | None = None,
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
    progress: bool = True,
) -> Container:
    r"""Draws from an amortized guide, and what ArviZ needs beside them, as ``InferenceData`` or ``DataTree``.

    .. math:: z_{si} \sim q(z \mid x_i), \quad \tilde x_{si} \sim p(x \mid z_{si}), \quad
        \mathtt{lp} = \log p(x_i, z_{si}), \quad \mathtt{log\_weight} = \mathtt{lp} - \mathtt{log\_q}

    Groups: ``posterior``, ``sample_stats`` (lp, log_q and log_weight, nats a row), ``posterior_predictive``, ``prior``,
    ``prior_predictive``, ``observed_data`` (missing entries stay NaN), ``constant_data`` (the context) and
    ``amortized_diagnostics`` (elbo, log_marginal, mcse, pareto_k, ess, kl a row). Dimensions are ``chain`` (one),
    ``draw``, ``data``, then the program's other plates, then ``<site>_dim_0``, ``<site>_dim_1``, and so on.
    ``az.summary`` of every row takes minutes: select rows first, ``idata.sel(data=[0, 1])``.

    Args:
        program: anything with ``model`` and ``guide``, a tuple of both, a ``pyro.infer.SVI``; or a ``pyro.infer.MCMC``
            that has run, whose chains are taken.
        data: rows, of any kind that ``pyrovae.data.as_data`` takes; NaN is missing. The index and the columns of a
            DataFrame become coordinates. For MCMC by default what it ran on.
        context: one row a datum for each name.
        num_samples: draws a row.
        batch_size: rows at a time; by default as many as make 16,384 draws. A guide that holds parameters for each row
            takes all rows at once.
        coords: dimension -> labels.
        dims: variable -> names of its event dimensions, ``{"z": ["latent_dim"]}``, or of all after the draws, as
            ArviZ's converters take them: ``{"z": ["data", "latent_dim"]}``.
        groups: those wanted.
        log_likelihood: add log p(x_i | z_i) by data site, with a warning, since ``az.loo`` on it misleads.
        max_bytes: refuse more than this in memory.
        store: a path where a zarr store is written batch by batch; values are then read when they are looked at.
        seed: of all draws; None takes torch's generator as it stands.
        progress: show a bar, if there is a terminal.

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
    request = Request(_wanted(groups, log_likelihood), coords or {}, dims or {}, max_bytes, store, seed)
    if isinstance(program, MCMC):
        return from_chains(program, data, context, request)
    draws = Draws(program, data, context, num_samples, seed=seed, progress=progress)
    size = min(len(draws), batch_size or max(1, _DRAWS_AT_ONCE // num_samples))
    place = draws.batches.place
    draws.batches = batches(draws.data, size, shuffle=False, device=place.device, dtype=place.dtype)
    return _Export.of(draws, data, request).run(request)


@dataclass(frozen=True)
class _Export:
    """All that is known before the work: how blocks are made and labelled, and how large they will be."""

    draws: Draws
    groups: frozenset[str]
    labels: Labels
    sizes: Mapping[str, int]

    @classmethod
    def of(cls, draws: Draws, data: Any, request: Request) -> _Export:
        """A trial of the first batch with two draws."""
        labels = Labels(data, draws.data, request.coords, request.dims)
        trial = Writer(Runner(2), request.groups)
        with draws.evaluating(draws.seed):
            batch = next(iter(draws.batches))
            first = trial.block(draws.call(batch), draws.data[: len(batch.index)].dense())
        labels.learn(first, trial.sources)
        return cls(draws, request.groups, labels, bytes_of(first, draws.num_samples, len(draws)))

    def blocks(self) -> Iterator[tuple[slice, Arrays]]:
        """The rows of each batch, and its arrays."""
        writer, done = Writer(Runner(self.draws.num_samples), self.groups), 0
        for _, batch in self.draws.each("from_pyro_svi"):
            rows = slice(done, done + len(batch.index))
            yield rows, writer.block(self.draws.call(batch), self.draws.data[rows].dense())
            done = rows.stop

    def run(self, request: Request) -> Container:
        """Every block, put together in memory or written behind the one before."""
        attrs, dims = request.attributes(self.draws.data), self.labels.dims()
        if request.store is None:
            check_bytes(self.sizes, request.max_bytes)
            whole = in_chains(gather(self.blocks(), len(self.draws)))
            return to_arviz(to_datasets(whole, coords=self.labels.coords(), dims=dims, attrs=attrs), attrs)
        with zarr_stream(request.store, attrs=attrs) as stream:
            for rows, block in self.blocks():
                coords = self.labels.coords(rows)
                stream.append(to_datasets(in_chains(block), coords=coords, dims=dims, attrs=attrs))
        return from_zarr(request.store)


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
