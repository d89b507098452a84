"""Each feature predicted from the other features of its row: the elpd of leaving one feature out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pyro import poutine
from torch import Tensor

from pyrovae.checks import pit
from pyrovae.checks.calls import Covariates, counted_data, entry_names, sharing_work, side_by_side
from pyrovae.checks.entries import array, entry_log_prob, rows_second, sampled_traces
from pyrovae.checks.findings import CAUTION, GOOD, Finding, Result
from pyrovae.evaluation.psis import psis
from pyrovae.limits import good_k, share_bad_k, too_many_bad_k
from pyrovae.programs import latent_names, log_terms
from pyrovae.programs.rows import MAX_BYTES, Block, Tile
from pyrovae.programs.simulate import Substitute, replicated_data
from pyrovae.programs.sites import data_sites

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float64]


class FeatureLOO(Result):
    """What :func:`leave_one_feature_out` found, made by :func:`leave_one_feature_out`."""

    @property
    def total(self) -> float:
        """The elpd summed over all entries."""
        return float(np.nansum(self.elpd))

    @property
    def se(self) -> float:
        """The standard error of the total over rows, which are independent while a row's entries are not."""
        rows = np.nansum(self.elpd.reshape(len(self.elpd), -1), axis=1)
        return float(np.sqrt(len(rows)) * rows.std(ddof=1)) if len(rows) > 1 else float("nan")

    @property
    def share_bad_k(self) -> float:
        """The share of entries whose weights are unreliable."""
        return share_bad_k(self.pareto_k[np.isfinite(self.elpd)], self.num_samples)


def leave_one_feature_out(
    program: Any,
    data: Any,
    covariates: Covariates | None = None,
    *,
    num_samples: int = 1000,
    corrected: bool = True,
    seed: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> FeatureLOO:
    r"""Predicts each entry from the other entries of its row, by importance sampling from the guide.

    .. math:: p(x_{ij} \mid x_{i,-j}) = \frac{\sum_s \tilde w_s\, p(x_{ij} \mid z_s)}{\sum_s \tilde w_s}, \qquad
        \tilde w_s \leftarrow \frac{w_s}{p(x_{ij} \mid z_s)}, \quad w_s = \frac{p(x_i, z_s)}{q(z_s \mid x_i)}

    with Pareto-smoothed weights. It is a valid cross-validation for local latents: no entry predicts itself. (Leaving
    out whole *rows* through log p(x | z) is not, and ``az.loo`` on that misleads.) Without the factor w it is biased by
    whatever the guide gets wrong.

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``, whose
            entries (columns of a table) are independent given the latents.
        data: data of N rows; NaN is a missing entry.
        covariates: for each name, a tensor of N rows.
        num_samples: draws per row; all rows share each draw of global latents from the guide, which no entry corrects.
        corrected: reweight the guide's draws to the posterior.
        seed: of the draws; None takes one from torch's random state.
        max_bytes: refuse what needs more memory.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Returns:
        A result over ``data`` and the axes of a datum (``entry`` where there are several data sites): ``elpd``,
        log p(x_ij | other entries of row i) in nats, NaN where missing; ``pareto_k`` of the weights behind each; ``pit`` of
        the same predictions, with ``p_values`` and ``p_value`` as in :func:`marginal_pit`.

    Raises:
        ValueError: a joint likelihood.

    Reference: Vehtari, Gelman & Gabry 2017, arXiv:1507.04544; Vehtari et al. 2024, arXiv:1507.02646.

    >>> import pyrovae as pvae
    >>> vae = pvae.build_vae(5, likelihood="normal", latent_dim=2, hidden=(8,))
    >>> leave_one_feature_out(vae, torch.zeros(20, 5), num_samples=100, seed=0).elpd.shape
    (20, 5)
    """
    plan: dict[str, Any] = {"num_samples": num_samples, "seed": seed, "max_bytes": max_bytes, "progress": progress}
    work = sharing_work(program, data, covariates, **plan)
    found = work.run(lambda block: _left_out(block, corrected), "leave_one_feature_out")
    dataset = pit.dataset_of(array(found["pit"]), entry_names(work))
    for name in ("elpd", "pareto_k"):
        dataset[name] = (dataset["pit"].dims, array(found[name]))
    return FeatureLOO(dataset.assign_attrs(num_samples=num_samples, corrected=int(corrected)), judge, pit.draw)


class Pieces(NamedTuple):
    """For some samples: the log weights, each entry's log likelihood, and replicates."""

    log_weights: Tensor
    log_likelihood: Tensor
    replicates: Tensor


def entry_pieces(tile: Tile) -> Pieces:
    """Draws of the guide with the terms that leave-one-out needs; samples first, rows second.

    Raises:
        ValueError: the likelihood is joint over its entries, or depends on a discrete site that is summed out.
    """
    model_trace, guide_trace = sampled_traces(tile)
    log_likelihood = {}
    for site in data_sites(model_trace):
        entries = entry_log_prob(site)
        if entries is None or len(site["fn"].batch_shape) > 1 + tile.call.nesting:
            raise ValueError(
                f"the likelihood of {site['name']!r} is not a product over its entries given the drawn latents, so one entry "
                "cannot be left out: use a factorized likelihood, or sample discrete sites in the guide"
            )
        layout = {**site, "value": site["value"].expand(tile.num_samples, *entries.shape[1:])}
        log_likelihood[site["name"]] = rows_second(entries.expand(layout["value"].shape), layout).double().cpu()
    values = {name: guide_trace.nodes[name]["value"] for name in latent_names(guide_trace)}
    return Pieces(
        log_terms(model_trace, guide_trace, dtype=torch.float64).log_weights.cpu(),
        side_by_side(log_likelihood, 2),
        side_by_side(replicated_data(tile.call, values, tile.num_samples), 2).cpu(),
    )


def _refuse_dependent(block: Block) -> None:
    """Refuse data sites that depend on each other given the latents: under other rows of one the others have another density.

    Raises:
        ValueError: a data site depends on another.
    """
    x = block.batch.x
    model_trace, guide_trace = block.call.traces(None)
    given = Substitute({name: guide_trace.nodes[name]["value"] for name in latent_names(guide_trace)})
    names = [site["name"] for site in data_sites(model_trace)]
    for place, name in enumerate(names):
        if isinstance(x, Mapping):
            other: Any = {**x, name: x[name].flip(0)}
        else:
            other = tuple(leaf.flip(0) if number == place else leaf for number, leaf in enumerate(x))
        call = block.work.call(replace(block.batch, x=other))
        trace = poutine.trace(given(call.program.model)).get_trace(*call.args, **call.kwargs)
        for rest in (rest for rest in names if rest != name):
            one, two = (t.nodes[rest]["fn"].log_prob(model_trace.nodes[rest]["value"]) for t in (model_trace, trace))
            if not torch.allclose(one, two, equal_nan=True):
                raise ValueError(
                    f"{rest!r} depends on {name!r} given the latents, so that one entry cannot be left out: their likelihood "
                    "is not a product over its entries"
                )


def _left_out(block: Block, corrected: bool) -> dict[str, Tensor]:
    if not isinstance(block.batch.x, Tensor):
        _refuse_dependent(block)
    x = side_by_side(counted_data(block)).cpu()
    pieces = [entry_pieces(tile) for tile in block.tiles()]
    log_weights, log_likelihood, replicates = (torch.cat(columns) for columns in zip(*pieces, strict=True))
    del pieces
    step = max(1, min(block.work.max_bytes, 2**29) // (256 * log_likelihood[:, 0].numel()))
    found = [
        _of_rows(x[rows], log_weights[:, rows], log_likelihood[:, rows], replicates[:, rows], corrected)
        for rows in (slice(start, start + step) for start in range(0, len(x), step))
    ]
    return {name: torch.cat([part[name] for part in found]) for name in found[0]}


def _of_rows(
    x: Tensor, log_weights: Tensor, log_likelihood: Tensor, replicates: Tensor, corrected: bool
) -> dict[str, Tensor]:
    log_likelihood, replicates = (values.reshape(-1, *x.shape) for values in (log_likelihood, replicates))
    ratios = -log_likelihood + (log_weights.reshape(*log_weights.shape, *(1,) * (x.ndim - 1)) if corrected else 0.0)
    smoothed = psis(ratios.flatten(1))
    log_weights = smoothed.log_weights.reshape(ratios.shape)
    weights, missing = log_weights.exp(), x.isnan()
    at = (weights * (replicates == x)).sum(0) + (1 - weights.sum(0)).clamp_min(0)
    found = {
        "elpd": (log_weights + log_likelihood).logsumexp(0),
        "pareto_k": smoothed.k.reshape(x.shape),
        "pit": (weights * (replicates < x)).sum(0) + torch.rand_like(at) * at,
    }
    return {name: torch.where(missing, torch.nan, values) for name, values in found.items()}


def judge(found: xr.Dataset) -> list[Finding]:
    """The total, whether it can be trusted, and whether the predictions are calibrated."""
    loo = FeatureLOO(found, judge)
    entries, samples = int(np.isfinite(loo.elpd).sum()), found.attrs["num_samples"]
    error = f" (se {loo.se:.1f})" if np.isfinite(loo.se) else ""
    claim = f"elpd {loo.total:.1f}{error} nats over {entries} entries, {loo.total / entries:.3f} each."
    if not found.attrs["corrected"]:
        claim += " Not corrected for the guide: the numbers are those of a model whose posterior is the guide."
    advice, bad = "", loo.share_bad_k
    if too_many_bad_k(bad):
        claim += f" {100 * bad:.0f} % of the entries have k-hat above {good_k(samples):.2f}."
        advice = "Refine the guide, or take more samples."
    return [Finding(CAUTION if advice else GOOD, "left-out features", claim, advice), *pit.judge(found)]
